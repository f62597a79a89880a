//! RDMA and atomics: what was asked, how far it is, how it ends.

use ironband_core::wire::{
    AtomicCode, AtomicReply, AtomicRequest, MessageKind, ReadReply, SHORT_READ_BYTES_MAX, WireStatus,
};

use super::device::VerbsDevice;
use super::object::{MemoryRegion, Part, Work};
use super::regions::adapter_key;
use super::short_reads::ShortRead;
use super::works::{OUTSTANDING_MAX, Underway};
use crate::atomics;
use crate::extent::Want;
use crate::{
    Access, AtomicOp, AtomicWidth, Completion, CompletionStatus, Operation, Posted, QueuePairNumber,
    RemoteAddress, WorkId,
};

/// One request of this process.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) qp: QueuePairNumber,
    /// The connection that it is on.
    pub(super) qpn: u32,
    pub(super) id: WorkId,
    pub(super) operation: Operation,
    /// Works that have not ended, and one more while not all are posted.
    pub(super) works: u32,
    /// Its queue pair was destroyed: it ends as flushed, when the adapter is done with its memory.
    pub(super) flushed: bool,
    /// Registered for this request only.
    pub(super) region: Option<MemoryRegion>,
    pub(super) atomic: Option<Atomic>,
    /// A read that the peer's processor does.
    pub(super) short: Option<ShortRead>,
}

impl Request {
    /// A request of which nothing is posted yet.
    pub(super) const fn new(qp: QueuePairNumber, qpn: u32, id: WorkId, operation: Operation) -> Self {
        Self { qp, qpn, id, operation, works: 0, flushed: false, region: None, atomic: None, short: None }
    }
}

/// An answer of this process that waits for room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    kind: MessageKind,
    body: [u8; REPLY_BYTES_MAX],
    len_bytes: usize,
}

const REPLY_BYTES_MAX: usize = ReadReply::BYTES;
const _: () = assert!(AtomicReply::BYTES <= REPLY_BYTES_MAX);

#[derive(Debug, Clone, Copy)]
pub(super) struct Atomic {
    result: *mut u8,
    width: AtomicWidth,
    op: AtomicOp,
    remote: RemoteAddress,
    /// Of the adapter's own atomics: where the old value arrives. `None`: the peer's processor does it.
    bounce: Option<u32>,
    /// For operations that the adapter lacks: what the last compare-and-swap expected.
    expected: Option<u64>,
}

/// An RDMA that is longer than the send queue has room for: nothing else is posted until all of it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial {
    request: u32,
    local: *mut u8,
    local_key: u32,
    address: u64,
    key: u32,
    left_bytes: usize,
    total_bytes: usize,
    imm: Option<u32>,
    /// Short enough to be copied when it is posted.
    inline: bool,
    /// A read is still to be posted behind it, see `landing`.
    flush: bool,
}

impl Partial {
    /// The request that it is of.
    pub(super) const fn request(&self) -> u32 {
        self.request
    }
}

/// All requests of a device.
#[derive(Debug, Default)]
pub(super) struct Requests {
    slots: Vec<Option<Request>>,
    free: Vec<u32>,
    count: usize,
}

impl Requests {
    pub(super) fn insert(&mut self, request: Request) -> u32 {
        self.count += 1;
        if let Some(number) = self.free.pop() {
            self.slots[number as usize] = Some(request);
            return number;
        }
        self.slots.push(Some(request));
        self.slots.len() as u32 - 1
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Request> {
        let request = self.slots.get_mut(number as usize)?.take()?;
        self.free.push(number);
        self.count -= 1;
        Some(request)
    }

    pub(super) fn get(&mut self, number: u32) -> Option<&mut Request> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn of(&self, qpn: u32) -> Vec<u32> {
        let on = |request: &Option<Request>| request.as_ref().is_some_and(|request| request.qpn == qpn);
        (0..self.slots.len()).filter(|&at| on(&self.slots[at])).map(|at| at as u32).collect()
    }
}

impl VerbsDevice {
    /// The device's word on a finished request.
    pub(super) fn finish(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        operation: Operation,
        status: CompletionStatus,
    ) {
        self.done.push_back(Completion::Done { qp, id, operation, status });
    }

    /// A read or a write.
    ///
    /// # Safety
    /// As for `Device::post_read` and `Device::post_write`.
    pub(super) unsafe fn post_rdma(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        (local, region): (*mut u8, Option<&MemoryRegion>),
        remote: RemoteAddress,
        len_bytes: usize,
        (operation, imm): (Operation, Option<u32>),
    ) -> Posted {
        if let Err(posted) = self.make_ready(qp) {
            return posted;
        }
        if self.peers[qp.index()].own {
            // SAFETY: as promised by the caller.
            return unsafe { self.copy_to_self(qp, id, local, remote, len_bytes, (operation, imm)) };
        }
        if len_bytes == 0 {
            return match imm {
                Some(imm) => self.transmit(qp, MessageKind::Written, imm, &0_u64.to_le_bytes(), &[]),
                None => Posted::Complete,
            };
        }
        let key = adapter_key(remote.key).filter(|_| remote.address.checked_add(len_bytes as u64).is_some());
        let Some(key) = key else {
            self.finish(qp, id, operation, CompletionStatus::RemoteAccess);
            return Posted::Queued;
        };
        if operation == Operation::Read && self.asks_for_read(len_bytes) {
            // SAFETY: as promised by the caller.
            return unsafe { self.post_short_read(qp, id, local, remote, len_bytes) };
        }
        if !self.has_request_room(qp, imm.is_some()) {
            return Posted::Busy;
        }
        let inline = operation == Operation::Write
            && self.peers[qp.index()]
                .connection
                .as_ref()
                .is_some_and(|it| len_bytes <= it.qp.inline_bytes_max());
        let mut own_region = None;
        let local_key = match region {
            Some(region) => region.local_key(),
            None if inline => 0,
            // SAFETY: the caller keeps the memory until the completion, and the region ends before that.
            None => match unsafe { MemoryRegion::register(&self.domain, local, len_bytes, Access::LOCAL) } {
                Ok(region) => own_region.insert(region).local_key(),
                Err(error) => {
                    self.notices
                        .push_back(format!("the memory of a request could not be registered: {error}"));
                    self.finish(qp, id, operation, CompletionStatus::Unmapped);
                    return Posted::Queued;
                }
            },
        };
        let Some(connection) = &mut self.peers[qp.index()].connection else { return Posted::Busy };
        let qpn = connection.qpn;
        let request = Request { works: 1, region: own_region, ..Request::new(qp, qpn, id, operation) };
        let request = self.requests.insert(request);
        connection.partial = Some(Partial {
            request,
            local,
            local_key,
            address: remote.address,
            key,
            left_bytes: len_bytes,
            total_bytes: len_bytes,
            imm,
            inline,
            flush: operation == Operation::Write && self.landing.is_some(),
        });
        self.tally.rdma += 1;
        self.advance(qp);
        Posted::Queued
    }

    /// Does not look at the completion queue, unlike sends: requests that end while their poster only posts would pile up.
    pub(super) fn has_request_room(&self, qp: QueuePairNumber, notifies: bool) -> bool {
        self.peers[qp.index()].connection.as_ref().is_some_and(|connection| {
            connection.partial.is_none()
                && connection.works.has_request_room()
                && (!notifies || connection.credits.may_send(false) && connection.works.has_room())
        })
    }

    /// Posts as much of a long RDMA as there is room for.
    pub(super) fn advance(&mut self, qp: QueuePairNumber) {
        let partial_of = |device: &Self| device.peers[qp.index()].connection.as_ref()?.partial;
        while let Some(mut partial) = partial_of(self) {
            if partial.left_bytes > 0 {
                if !self.post_piece(qp, &mut partial) {
                    return;
                }
            } else if partial.flush {
                if !self.post_flush(qp, &partial) {
                    return;
                }
                partial.flush = false;
            } else {
                return self.end_partial(qp, partial);
            }
            if let Some(connection) = &mut self.peers[qp.index()].connection {
                connection.partial = Some(partial);
            }
        }
    }

    /// Length of the next work of an RDMA.
    fn piece_bytes(&self, partial: &Partial, operation: Operation) -> usize {
        let longest = partial.left_bytes.min(self.message_bytes_max);
        let rest_bytes = partial.left_bytes - longest;
        let short = (1..=SHORT_READ_BYTES_MAX).contains(&rest_bytes);
        // No short piece at the end, see `short_reads`.
        if operation == Operation::Read && self.is_soft_iwarp && short { longest - 64 } else { longest }
    }

    /// Posts the next work of an RDMA; false if there is no room yet, or the connection has failed.
    fn post_piece(&mut self, qp: QueuePairNumber, partial: &mut Partial) -> bool {
        let Some(operation) = self.requests.get(partial.request).map(|it| it.operation) else { return false };
        let len_bytes = self.piece_bytes(partial, operation);
        let Some(connection) = &mut self.peers[qp.index()].connection else { return false };
        let Some(request) =
            self.requests.get(partial.request).filter(|_| connection.works.has_request_room())
        else {
            return false;
        };
        // A write that is one work tells of itself, on adapters that can; else a message behind it does.
        let tells = partial.imm.filter(|_| len_bytes == partial.total_bytes && self.landing.is_none());
        let (number, _) = connection.works.note(Underway::Request(partial.request), true);
        let id = work_id(qp, number);
        let part = Part { start: partial.local, len_bytes, local_key: partial.local_key };
        let work = match (operation, tells) {
            (Operation::Read, _) => Work::read(id, part, partial.address, partial.key),
            (_, Some(imm)) => {
                // Kept for it by `has_request_room`.
                connection.credits.spend();
                connection.sends = connection.sends.wrapping_add(1);
                partial.imm = None;
                Work::write_with_immediate(id, part, partial.address, partial.key, imm)
            }
            _ => Work::write(id, &[part], partial.address, partial.key),
        };
        let work = if partial.inline { work.inline() } else { work };
        request.works += 1;
        // SAFETY: the poster keeps the memory, and its registration, until the request has ended; or it is sent inline.
        if let Err(error) = unsafe { connection.qp.post(&mut [work.signalled()]) } {
            connection.works.unnote();
            self.fail(qp, error.to_string());
            return false;
        }
        partial.local = partial.local.wrapping_add(len_bytes);
        partial.address += len_bytes as u64;
        partial.left_bytes -= len_bytes;
        self.tally.bytes += len_bytes as u64;
        true
    }

    /// All of an RDMA is posted: tells the peer, if it is to be told and was not.
    fn end_partial(&mut self, qp: QueuePairNumber, partial: Partial) {
        let Some(connection) = &mut self.peers[qp.index()].connection else { return };
        connection.partial = None;
        if let Some(imm) = partial.imm {
            // Behind the write on the same queue pair, so it arrives when the data is there. A credit was kept.
            let length = (partial.total_bytes as u64).to_le_bytes();
            let posted = self.transmit(qp, MessageKind::Written, imm, &length, &[]);
            if posted == Posted::Busy {
                if let Some(connection) = &mut self.peers[qp.index()].connection {
                    connection.partial = Some(partial);
                }
                return;
            }
        }
        self.end_work(partial.request);
    }

    /// One work of a request has ended well.
    pub(super) fn end_work(&mut self, number: u32) {
        let Some(request) = self.requests.get(number) else { return };
        request.works -= 1;
        if request.works > 0 {
            return;
        }
        if request.flushed {
            self.end_request(number, CompletionStatus::Flushed);
        } else if let Some(atomic) = request.atomic {
            self.end_native_atomic(number, atomic);
        } else {
            self.end_request(number, CompletionStatus::Success);
        }
    }

    /// Posts a read behind a write; false if there is no room yet, or the connection has failed.
    fn post_flush(&mut self, qp: QueuePairNumber, partial: &Partial) -> bool {
        match self.read_landing(qp, Underway::Request(partial.request)) {
            Some(Ok(())) => {
                if let Some(request) = self.requests.get(partial.request) {
                    request.works += 1;
                }
                true
            }
            Some(Err(error)) => {
                self.fail(qp, error.to_string());
                false
            }
            None => false,
        }
    }

    /// Ends a request, whatever is left of it.
    pub(super) fn end_request(&mut self, number: u32, status: CompletionStatus) {
        let Some(request) = self.requests.remove(number) else { return };
        drop(request.region);
        if let Some(bounce) = request.atomic.and_then(|atomic| atomic.bounce) {
            self.bounces.give_back(bounce);
        }
        self.finish(request.qp, request.id, request.operation, status);
    }

    /// The queue pair of these requests was destroyed: no answer of the peer ends them any more, and what the adapter does for
    /// them does not count.
    pub(super) fn abandon_requests(&mut self, qpn: u32) {
        for number in self.requests.of(qpn) {
            match self.requests.get(number) {
                Some(request) if request.works > 0 => request.flushed = true,
                _ => self.end_request(number, CompletionStatus::Flushed),
            }
        }
    }

    /// Ends all requests of a connection, whose queue pair is gone.
    pub(super) fn flush_requests(&mut self, qpn: u32) {
        for number in self.requests.of(qpn) {
            self.end_request(number, CompletionStatus::Flushed);
        }
    }

    /// An atomic.
    ///
    /// # Safety
    /// As for `Device::post_atomic`.
    pub(super) unsafe fn post_atomic_op(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        (op, width): (AtomicOp, AtomicWidth),
    ) -> Posted {
        if let Err(posted) = self.make_ready(qp) {
            return posted;
        }
        let aligned = remote.address.is_multiple_of(width.bytes() as u64);
        let native = self.native_atomics && width == AtomicWidth::Eight;
        if self.peers[qp.index()].own {
            if !native {
                return self.atomic_to_self(qp, id, result, remote, (op, width));
            }
            // Peers' atomics are the adapter's, which need not be atomic against the processor's.
            if let Err(error) = self.connect_to_self(qp) {
                self.fail(qp, error.to_string());
                return Posted::Failed;
            }
        }
        if !aligned || adapter_key(remote.key).is_none() {
            self.finish(qp, id, Operation::Atomic, CompletionStatus::RemoteAccess);
            return Posted::Queued;
        }
        if !self.has_request_room(qp, !native) {
            return Posted::Busy;
        }
        let bounce = if native {
            let Some(bounce) = self.bounces.take(&self.domain) else { return Posted::Busy };
            Some(bounce)
        } else {
            None
        };
        let Some(connection) = &self.peers[qp.index()].connection else { return Posted::Busy };
        let atomic = Atomic { result, width, op, remote, bounce, expected: None };
        let request =
            Request { atomic: Some(atomic), ..Request::new(qp, connection.qpn, id, Operation::Atomic) };
        if !native && self.requests.asked_of(connection.qpn) >= OUTSTANDING_MAX as usize {
            return Posted::Busy;
        }
        let number = self.requests.insert(request);
        if native {
            self.post_native(number, atomic);
            return Posted::Queued;
        }
        let (code, operand, compare) = atomics::wire_form(op);
        let (code, width) = (code as u16, width.bytes() as u16);
        let RemoteAddress { address, key } = remote;
        let body = AtomicRequest { job: number, code, width, address, key, operand, compare }.encode();
        let posted = self.transmit(qp, MessageKind::AtomicRequest, 0, &body, &[]);
        if posted == Posted::Complete {
            self.tally.asked_atomics += 1;
            return Posted::Queued;
        }
        // A connection that has failed meanwhile has ended the request.
        if self.requests.remove(number).is_none() { Posted::Queued } else { posted }
    }

    /// Posts the adapter's atomic that an operation begins or goes on with.
    fn post_native(&mut self, number: u32, atomic: Atomic) {
        let Some(request) = self.requests.get(number) else { return };
        let (qp, qpn) = (request.qp, request.qpn);
        request.works = 1;
        let (Some(bounce), Some(key)) = (atomic.bounce, adapter_key(atomic.remote.key)) else { return };
        let start = self.bounces.at(bounce).as_ptr();
        let part = Part { start, len_bytes: 8, local_key: self.bounces.local_key(bounce) };
        let connection = self.peers[qp.index()].connection.as_mut();
        let Some(connection) = connection.filter(|connection| connection.qpn == qpn) else {
            // Between two steps of an operation the connection was ended: nothing has changed at the target yet.
            self.end_request(number, CompletionStatus::Flushed);
            return;
        };
        let (work, _) = connection.works.note(Underway::Request(number), true);
        let (id, address) = (work_id(qp, work), atomic.remote.address);
        let work = match (atomic.op, atomic.expected) {
            (AtomicOp::FetchAdd(add), _) => Work::fetch_add(id, part, address, key, add),
            (AtomicOp::CompareSwap { compare, swap }, _) => {
                Work::compare_swap(id, part, address, key, (compare, swap))
            }
            (_, None) => Work::fetch_add(id, part, address, key, 0),
            (op, Some(expected)) => {
                Work::compare_swap(id, part, address, key, (expected, atomics::apply(op, expected)))
            }
        };
        self.tally.native_atomics += 1;
        // SAFETY: the buffer is this request's until it ends.
        if let Err(error) = unsafe { connection.qp.post(&mut [work.signalled()]) } {
            connection.works.unnote();
            self.fail(qp, error.to_string());
        }
    }

    fn end_native_atomic(&mut self, number: u32, mut atomic: Atomic) {
        let Some(bounce) = atomic.bounce else { return };
        // SAFETY: 8 aligned bytes of a buffer that the adapter has written and is done with.
        let old = unsafe { self.bounces.at(bounce).cast::<u64>().read() };
        let direct = matches!(atomic.op, AtomicOp::FetchAdd(_) | AtomicOp::CompareSwap { .. });
        if !direct && atomic.expected != Some(old) {
            atomic.expected = Some(old);
            if let Some(request) = self.requests.get(number) {
                request.atomic = Some(atomic);
            }
            self.post_native(number, atomic);
            return;
        }
        // SAFETY: the poster keeps it writable and aligned until the completion.
        unsafe { atomics::store_result(atomic.result, atomic.width, old) };
        self.end_request(number, CompletionStatus::Success);
    }

    /// A peer wants this process to do an atomic.
    pub(super) fn serve_atomic(
        &mut self,
        qp: QueuePairNumber,
        body: &[u8; AtomicRequest::BYTES],
    ) -> Result<(), &'static str> {
        const BROKEN: &str = "it broke the protocol: an atomic makes no sense";
        let request = AtomicRequest::decode(body).ok_or(BROKEN)?;
        let width = atomics::width(request.width).ok_or(BROKEN)?;
        let code = AtomicCode::from_u16(request.code).ok_or(BROKEN)?;
        // The adapter's atomics and the processor's must not meet on one word.
        let served = !(self.native_atomics && width == AtomicWidth::Eight);
        let target = self
            .regions
            .check(request.key, request.address, width.bytes() as u64, Want::Atomic)
            .filter(|target| served && (*target as usize).is_multiple_of(width.bytes()));
        let (status, old) = match target {
            Some(target) => {
                // SAFETY: in a region registered for remote atomics, aligned as just checked.
                let old =
                    unsafe { atomics::run_atomic(code, width, target, request.operand, request.compare) };
                (WireStatus::Success, old)
            }
            None => (WireStatus::RemoteAccess, 0),
        };
        let reply = AtomicReply { job: request.job, status: status as u32, old };
        self.reply(qp, MessageKind::AtomicReply, reply.encode())
    }

    /// Answers a request of the peer's, now or when there is room.
    pub(super) fn reply<const N: usize>(
        &mut self,
        qp: QueuePairNumber,
        kind: MessageKind,
        answer: [u8; N],
    ) -> Result<(), &'static str> {
        let replies = &mut self.peers[qp.index()].replies;
        if replies.len() >= OUTSTANDING_MAX as usize {
            return Err("it asked for more at once than it may");
        }
        let mut body = [0; REPLY_BYTES_MAX];
        body[..N].copy_from_slice(&answer);
        replies.push_back(Reply { kind, body, len_bytes: N });
        self.send_replies(qp);
        Ok(())
    }

    /// Sends what answers there is room for.
    pub(super) fn send_replies(&mut self, qp: QueuePairNumber) {
        while let Some(reply) = self.peers[qp.index()].replies.front().copied() {
            let body = &reply.body[..reply.len_bytes];
            if self.transmit(qp, reply.kind, 0, body, &[]) != Posted::Complete {
                return;
            }
            self.peers[qp.index()].replies.pop_front();
        }
    }

    /// The peer's answer to an atomic.
    pub(super) fn take_atomic_reply(
        &mut self,
        qp: QueuePairNumber,
        body: &[u8; AtomicReply::BYTES],
    ) -> Result<(), &'static str> {
        let reply =
            AtomicReply::decode(body).ok_or("it broke the protocol: an answer has the wrong length")?;
        let fits = |request: &&mut Request| request.qp == qp && request.works == 0;
        let atomic = self.requests.get(reply.job).filter(fits).and_then(|request| request.atomic);
        let atomic = atomic.ok_or("it broke the protocol: it answered what was not asked")?;
        if WireStatus::from_u32(reply.status) == Some(WireStatus::Success) {
            // SAFETY: the poster keeps it writable and aligned until the completion.
            unsafe { atomics::store_result(atomic.result, atomic.width, reply.old) };
            self.end_request(reply.job, CompletionStatus::Success);
        } else {
            self.end_request(reply.job, CompletionStatus::RemoteAccess);
        }
        Ok(())
    }

    fn atomic_to_self(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        (op, width): (AtomicOp, AtomicWidth),
    ) -> Posted {
        let target = self.regions.check(remote.key, remote.address, width.bytes() as u64, Want::Atomic);
        let Some(target) = target.filter(|target| (*target as usize).is_multiple_of(width.bytes())) else {
            self.finish(qp, id, Operation::Atomic, CompletionStatus::RemoteAccess);
            return Posted::Queued;
        };
        let (code, operand, compare) = atomics::wire_form(op);
        // SAFETY: in a registered region, aligned as just checked; the poster keeps the result's place.
        unsafe {
            let old = atomics::run_atomic(code, width, target, operand, compare);
            atomics::store_result(result, width, old);
        }
        Posted::Complete
    }
}

impl Requests {
    /// How many requests wait for the peer's processor.
    pub(super) fn asked_of(&self, qpn: u32) -> usize {
        let waits = |request: &&Request| request.qpn == qpn && request.works == 0;
        self.slots.iter().flatten().filter(waits).count()
    }
}

/// The number that a work's completion carries.
#[inline]
pub(super) const fn work_id(qp: QueuePairNumber, number: u32) -> u64 {
    (qp.0 as u64) << 32 | number as u64
}
