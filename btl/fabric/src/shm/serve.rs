//! The fabric's own protocol: requests of peers, answers to own requests, and transfers done bit by bit.

use std::sync::atomic::Ordering;
use std::time::Instant;

use ironband_core::path::Path;
use ironband_core::wire::{
    AtomicCode, AtomicReply, AtomicRequest, PushAck, PushHeader, RecordKind, ShareRequest, WireStatus,
};

use super::copy::{self, CrossMemoryError};
use super::device::ShmDevice;
use super::inbound::Taken;
use super::layout::Ticket;
use super::pull::FEED_BYTES_PER_POLL;
use super::queue_pair::{CrossMemory, corrupt};
use super::ring::INLINE_BODY_BYTES;
use super::transfer::{
    JobKind, ReadShare, Task, Timed, claim_back, claim_front, piece, pieces, share_chunk_bytes,
    split_ticket_word, ticket_word,
};
use crate::atomics;
use crate::extent::Want;
use crate::{Completion, CompletionStatus, Operation, Posted, QueuePairNumber, RemoteAddress, WorkId};

/// Transfers that a peer may have this process work on at once.
const PEER_TASKS_MAX: usize = 4 * super::OUTSTANDING_MAX;

pub(super) const BAD_LENGTH: &str = "it broke the protocol: a record has the wrong length";
pub(super) const BAD_JOB: &str = "it broke the protocol: its answer is to another kind of request";

/// A record's body, for the duration of its handling. In shared memory: copied before it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Body {
    pub(super) start: *const u8,
    pub(super) len_bytes: usize,
}

impl Body {
    /// Copies out a fixed-size body.
    pub(super) fn fixed<const N: usize>(self) -> Result<[u8; N], String> {
        if self.len_bytes < N {
            return Err(BAD_LENGTH.to_owned());
        }
        let mut bytes = [0; N];
        // SAFETY: the ring checked that `len_bytes` bytes are mapped at `start`; a peer that writes them meanwhile changes
        // only what is found in the copy.
        unsafe { std::ptr::copy_nonoverlapping(self.start, bytes.as_mut_ptr(), N) };
        Ok(bytes)
    }
}

impl ShmDevice {
    /// Handles one record that is not a user message.
    #[cold]
    #[inline(never)]
    pub(super) fn handle(&mut self, taken: Taken) -> Option<Completion> {
        let Taken { ring, qp, record, body } = taken;
        let body = Body { start: body.as_ptr(), len_bytes: record.len_bytes };
        let kind = RecordKind::from_u8(record.kind);
        let result = self.act(qp, kind, record.imm, body);
        if let Some(entry) = self.inbound.get_mut(ring) {
            entry.consumer.release();
        }
        match result {
            Ok(completion) => {
                if kind == Some(RecordKind::Goodbye) {
                    self.inbound.close(ring);
                }
                completion
            }
            Err(reason) => {
                self.fail(qp, reason);
                None
            }
        }
    }

    fn act(
        &mut self,
        qp: QueuePairNumber,
        kind: Option<RecordKind>,
        imm: u32,
        body: Body,
    ) -> Result<Option<Completion>, String> {
        match kind {
            Some(RecordKind::PullData) => self.take_pull_data(qp, imm, body)?,
            Some(RecordKind::AheadOffer) => self.take_offer(qp, body)?,
            Some(RecordKind::AheadData) => self.take_ahead_data(qp, body)?,
            Some(RecordKind::PullRequest) => self.serve_pull(qp, body)?,
            Some(RecordKind::PullRefused) => self.take_ack(qp, body, Operation::Read)?,
            Some(RecordKind::ShareRequest) => self.serve_share(qp, body)?,
            Some(RecordKind::Push) => return self.serve_push(qp, imm, body),
            Some(RecordKind::PushAck) => self.take_ack(qp, body, Operation::Write)?,
            Some(RecordKind::AtomicRequest) => self.serve_atomic(qp, body)?,
            Some(RecordKind::AtomicReply) => self.take_atomic_reply(qp, body)?,
            Some(RecordKind::Written) => {
                let len_bytes = u64::from_le_bytes(body.fixed()?) as usize;
                return Ok(Some(Completion::WrittenWithImmediate { qp, imm, len_bytes }));
            }
            Some(RecordKind::Goodbye) => {}
            Some(RecordKind::Send | RecordKind::SendAhead) | None => {
                return Err("it broke the protocol: a record is of an unknown kind".to_owned());
            }
        }
        Ok(None)
    }

    /// Ends a job and counts it off. `None`: it was flushed when its queue pair was destroyed, and this answer is too late.
    pub(super) fn end_job(&mut self, qp: QueuePairNumber, number: u32) -> Option<(WorkId, JobKind)> {
        let job = self.jobs.remove(number, qp)?;
        let entry = &mut self.qps[qp.index()];
        entry.outstanding -= 1;
        if let JobKind::Pull { ticket: Some((number, _)), .. } = job.kind {
            entry.tickets |= 1 << number;
        }
        Some((job.id, job.kind))
    }

    fn take_ack(&mut self, qp: QueuePairNumber, body: Body, operation: Operation) -> Result<(), String> {
        let ack = PushAck::decode(&body.fixed::<{ PushAck::BYTES }>()?).ok_or(BAD_LENGTH)?;
        let status = match WireStatus::from_u32(ack.status) {
            Some(WireStatus::Success) => CompletionStatus::Success,
            _ => CompletionStatus::RemoteAccess,
        };
        let Some((id, kind)) = self.end_job(qp, ack.job) else { return Ok(()) };
        let fits = match kind {
            JobKind::Push => operation == Operation::Write,
            JobKind::Pull { .. } => operation == Operation::Read && status != CompletionStatus::Success,
            JobKind::Atomic { .. } => false,
        };
        // A refused push may still have pieces to send.
        self.tasks.remove_push(qp, ack.job);
        if let Some(tx) = &mut self.qps[qp.index()].tx {
            tx.unreserve();
        }
        self.keep_order();
        self.finish(qp, id, operation, if fits { status } else { CompletionStatus::Flushed });
        if fits { Ok(()) } else { Err(BAD_JOB.to_owned()) }
    }

    fn take_atomic_reply(&mut self, qp: QueuePairNumber, body: Body) -> Result<(), String> {
        let reply = AtomicReply::decode(&body.fixed::<{ AtomicReply::BYTES }>()?).ok_or(BAD_LENGTH)?;
        let Some((id, kind)) = self.end_job(qp, reply.job) else { return Ok(()) };
        let JobKind::Atomic { result, width } = kind else {
            self.finish(qp, id, Operation::Read, CompletionStatus::Flushed);
            return Err(BAD_JOB.to_owned());
        };
        let status = if WireStatus::from_u32(reply.status) == Some(WireStatus::Success) {
            // SAFETY: the poster keeps `result` writable and aligned until this completion.
            unsafe { atomics::store_result(result, width, reply.old) };
            CompletionStatus::Success
        } else {
            CompletionStatus::RemoteAccess
        };
        self.finish(qp, id, Operation::Atomic, status);
        Ok(())
    }

    /// Takes on work for a peer.
    pub(super) fn take_on(&mut self, task: Task) -> Result<(), String> {
        if self.tasks.count(task.qp()) >= PEER_TASKS_MAX {
            return Err(format!("it asked for more than {PEER_TASKS_MAX} transfers at once"));
        }
        self.tasks.push(task);
        Ok(())
    }

    fn serve_share(&mut self, qp: QueuePairNumber, body: Body) -> Result<(), String> {
        let request = ShareRequest::decode(&body.fixed::<{ ShareRequest::BYTES }>()?).ok_or(BAD_LENGTH)?;
        let (ticket, use_number) =
            split_ticket_word(request.ticket).ok_or("it named a ticket that no ring has")?;
        let source = self.regions.check(request.key, request.source, request.len_bytes, Want::Read);
        let permitted = self.qps[qp.index()].cross_memory == CrossMemory::Permitted;
        let (Some(source), true, true) = (source, permitted, request.chunk_bytes > 0) else {
            // The asker reads everything by itself.
            if let Some(ticket) = self.inbound_ticket(qp, ticket) {
                ticket.failed.store(u32::from(use_number) + 1, Ordering::Release);
            }
            return Ok(());
        };
        self.take_on(Task::WriteShare {
            qp,
            ticket: request.ticket,
            key: request.key,
            source,
            target: request.target,
            len_bytes: request.len_bytes as usize,
            chunk_bytes: request.chunk_bytes as usize,
        })
    }

    fn serve_push(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        body: Body,
    ) -> Result<Option<Completion>, String> {
        let header = PushHeader::decode(&body.fixed::<{ PushHeader::BYTES }>()?).ok_or(BAD_LENGTH)?;
        self.answering(qp)?;
        let len_bytes = body.len_bytes - PushHeader::BYTES;
        let target = self.regions.check(header.key, header.address, len_bytes as u64, Want::Write);
        let last = header.flags & PushHeader::LAST != 0;
        // With the last piece the whole is judged: an earlier piece may have been refused.
        let whole = || {
            let before = header.total_bytes.checked_sub(len_bytes as u64)?;
            let start = header.address.checked_sub(before)?;
            self.regions.check(header.key, start, header.total_bytes, Want::Write)
        };
        let Some(target) = target.filter(|_| !last || whole().is_some()) else {
            // Refused once: with the last piece, or the writer would find its job gone while it still sends.
            let refusal = PushAck { job: header.job, status: WireStatus::RemoteAccess as u32 };
            return if last {
                self.qps[qp.index()].reply(RecordKind::PushAck, &refusal.encode()).map(|()| None)
            } else {
                Ok(None)
            };
        };
        // SAFETY: the range lies in a region that this process registered for remote writing; the source is mapped.
        unsafe { std::ptr::copy_nonoverlapping(body.start.add(PushHeader::BYTES), target, len_bytes) };
        if !last {
            return Ok(None);
        }
        let done = PushAck { job: header.job, status: WireStatus::Success as u32 };
        self.qps[qp.index()].reply(RecordKind::PushAck, &done.encode())?;
        let notify = header.flags & PushHeader::NOTIFY != 0;
        Ok(notify.then_some(Completion::WrittenWithImmediate {
            qp,
            imm,
            len_bytes: header.total_bytes as usize,
        }))
    }

    fn serve_atomic(&mut self, qp: QueuePairNumber, body: Body) -> Result<(), String> {
        let request = AtomicRequest::decode(&body.fixed::<{ AtomicRequest::BYTES }>()?).ok_or(BAD_LENGTH)?;
        self.answering(qp)?;
        let width = atomics::width(request.width)
            .ok_or("it broke the protocol: an atomic is neither 4 nor 8 bytes wide")?;
        let code = AtomicCode::from_u16(request.code).ok_or("it broke the protocol: an unknown atomic")?;
        let target = self
            .regions
            .check(request.key, request.address, u64::from(request.width), Want::Atomic)
            .filter(|target| (*target as usize).is_multiple_of(width.bytes()));
        let reply = match target {
            Some(target) => {
                // SAFETY: in a region registered for remote atomics, aligned as just checked.
                let old =
                    unsafe { atomics::run_atomic(code, width, target, request.operand, request.compare) };
                AtomicReply { job: request.job, status: WireStatus::Success as u32, old }
            }
            None => AtomicReply { job: request.job, status: WireStatus::RemoteAccess as u32, old: 0 },
        };
        self.qps[qp.index()].reply(RecordKind::AtomicReply, &reply.encode())
    }

    /// Makes sure that there is a ring to answer through: the peer may have connected first.
    pub(super) fn answering(&mut self, qp: QueuePairNumber) -> Result<(), String> {
        let entry = &mut self.qps[qp.index()];
        if entry.tx.is_some() {
            return Ok(());
        }
        entry.closed = false;
        match entry.connect(&self.card, &mut self.segment, self.ring_bytes) {
            // If it was not possible now, the answer is kept until it is.
            Ok(_) => {
                self.restless = true;
                Ok(())
            }
            Err(unreachable) => Err(unreachable.reason),
        }
    }

    /// The asker's ticket, in the ring that it sends through.
    pub(super) fn inbound_ticket(&mut self, qp: QueuePairNumber, ticket: usize) -> Option<&Ticket> {
        let ring = self.inbound.of(qp)?;
        self.inbound.get_mut(ring)?.consumer.memory.head().tickets.get(ticket)
    }

    /// Starts a read that both ends work on. `None`: no ticket is free, or the ring is full.
    pub(super) fn share(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        remote: RemoteAddress,
        len_bytes: usize,
    ) -> Option<Posted> {
        let start = Instant::now();
        let chunk_bytes = share_chunk_bytes(len_bytes);
        let entry = &mut self.qps[qp.index()];
        let (number, use_number) = entry.take_ticket(pieces(len_bytes, chunk_bytes))?;
        let request = ShareRequest {
            ticket: ticket_word(number, use_number),
            chunk_bytes: chunk_bytes as u32,
            source: remote.address,
            key: remote.key,
            target: local as u64,
            len_bytes: len_bytes as u64,
        };
        match entry.send_record(RecordKind::ShareRequest, 0, &request.encode(), (std::ptr::null(), 0)) {
            Ok(Posted::Complete) => {}
            Ok(_) => {
                entry.tickets |= 1 << number;
                return None;
            }
            Err(error) => return Some(self.fail_corrupt(qp, error)),
        }
        self.tasks.push(Task::ReadShare(ReadShare {
            qp,
            id,
            ticket: number,
            local,
            remote: remote.address,
            len_bytes,
            chunk_bytes,
            start,
            front: 0,
            met_at: None,
        }));
        Some(Posted::Queued)
    }

    /// Starts a write through the ring.
    pub(super) fn push(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *const u8,
        remote: RemoteAddress,
        len_bytes: usize,
        notify: Option<u32>,
    ) -> Posted {
        let job = match self.admit(qp, id, JobKind::Push) {
            Ok(job) => job,
            Err(posted) => return posted,
        };
        self.tasks.push(Task::Push {
            qp,
            job,
            next: local,
            left_bytes: len_bytes,
            address: remote.address,
            key: remote.key,
            total_bytes: len_bytes as u64,
            notify,
        });
        self.run_tasks();
        Posted::Queued
    }

    /// Gives the first task of each lane a turn.
    pub(super) fn run_tasks(&mut self) {
        for lane in 0..self.tasks.lanes() {
            let Some(task) = self.tasks.next_of(lane) else { continue };
            let qp = task.qp();
            // A job's request is flushed from the table of jobs; a shared read has only its task.
            let reading = if let Task::ReadShare(read) = &task { Some(read.id) } else { None };
            let next = match task {
                Task::Feed { .. } => self.feed(task),
                Task::Push { .. } => self.push_on(task),
                Task::ReadShare(read) => self.read_share(read),
                Task::WriteShare { .. } => self.write_share(task),
            };
            match next {
                Ok(Some(task)) => self.tasks.resume(task),
                Ok(None) => {}
                Err(reason) => {
                    if let Some(id) = reading {
                        self.finish(qp, id, Operation::Read, CompletionStatus::Flushed);
                    }
                    self.fail(qp, reason);
                }
            }
        }
        self.tasks.sweep();
        self.keep_order();
    }

    /// Lets nothing overtake the pieces of a write that are still to be sent.
    fn keep_order(&mut self) {
        for qp in self.tasks.pushing() {
            if let Some(tx) = &mut self.qps[qp.index()].tx {
                tx.reserve();
            }
        }
    }

    fn push_on(&mut self, task: Task) -> Result<Option<Task>, String> {
        let Task::Push { qp, job, mut next, mut left_bytes, mut address, key, total_bytes, notify } = task
        else {
            return Ok(None);
        };
        let longest = self.capabilities.limits.send_copy_bytes_max - PushHeader::BYTES;
        if let Some(tx) = &mut self.qps[qp.index()].tx {
            tx.unreserve();
        }
        let mut sent = 0;
        while sent < FEED_BYTES_PER_POLL {
            let len = left_bytes.min(longest).min(16 << 10);
            let last = len == left_bytes;
            let flags = match (last, notify) {
                (true, Some(_)) => PushHeader::LAST | PushHeader::NOTIFY,
                (true, None) => PushHeader::LAST,
                (false, _) => 0,
            };
            let header = PushHeader { job, flags, address, key, total_bytes };
            let entry = &mut self.qps[qp.index()];
            let imm = notify.unwrap_or(0);
            match entry.send_record(RecordKind::Push, imm, &header.encode(), (next, len)).map_err(corrupt)? {
                Posted::Complete if last => return Ok(None),
                Posted::Complete => {}
                Posted::Busy => break,
                _ => return Ok(None),
            }
            next = next.wrapping_add(len);
            address = address.wrapping_add(len as u64);
            left_bytes -= len;
            sent += len;
        }
        Ok(Some(Task::Push { qp, job, next, left_bytes, address, key, total_bytes, notify }))
    }

    /// Copies one piece from the front; once the ends have met, waits for the other end's pieces.
    fn read_share(&mut self, mut read: ReadShare) -> Result<Option<Task>, String> {
        let total = pieces(read.len_bytes, read.chunk_bytes);
        let entry = &self.qps[read.qp.index()];
        let Some(tx) = &entry.tx else { return Ok(None) };
        let ticket = &tx.memory.head().tickets[read.ticket];
        let pid = entry.card.pid;
        let copy_piece = |index: u32| {
            let (offset, len) = piece(index, read.len_bytes, read.chunk_bytes);
            // SAFETY: the poster keeps `local` writable for `len_bytes`, and the piece is inside.
            unsafe {
                copy::read_process(pid, read.local.add(offset), read.remote.wrapping_add(offset as u64), len)
            }
        };
        if read.met_at.is_none() {
            match claim_front(ticket) {
                Ok(index) if index == read.front && index < total => {
                    read.front += 1;
                    let result = copy_piece(index);
                    return self.after_piece(read, result).map(|read| read.map(Task::ReadShare));
                }
                Err(claims) if claims.front == read.front && claims.back == read.front => {
                    read.met_at = Some(claims.back);
                }
                // The peer wrote something into the claims that it must not: trust none of its pieces.
                _ => {
                    return Err(
                        "it broke the protocol: the claims of a shared transfer make no sense".to_owned()
                    );
                }
            }
        }
        let met_at = read.met_at.unwrap_or(total);
        // A refusal of an earlier use may come late.
        let use_number = entry.ticket_uses[read.ticket];
        if ticket.failed.load(Ordering::Acquire) == u32::from(use_number) + 1 {
            let result = (met_at..total).try_for_each(copy_piece);
            let Some(read) = self.after_piece(read, result)? else { return Ok(None) };
            self.end_share(&read);
            return Ok(None);
        }
        if ticket.written.load(Ordering::Acquire) < total - met_at {
            return Ok(Some(Task::ReadShare(read)));
        }
        self.end_share(&read);
        Ok(None)
    }

    fn end_share(&mut self, read: &ReadShare) {
        self.qps[read.qp.index()].tickets |= 1 << read.ticket;
        self.observe(read.qp, Timed { path: Path::Share, len_bytes: read.len_bytes, start: read.start });
        self.finish(read.qp, read.id, Operation::Read, CompletionStatus::Success);
    }

    /// `None`: the transfer has ended with an error. The ticket is not used again: the other end may still hold a piece.
    fn after_piece(
        &mut self,
        read: ReadShare,
        result: Result<(), CrossMemoryError>,
    ) -> Result<Option<ReadShare>, String> {
        match result {
            Ok(()) => Ok(Some(read)),
            Err(CrossMemoryError::Unmapped) => {
                let entry = &mut self.qps[read.qp.index()];
                entry.tickets_lost |= 1 << read.ticket;
                entry.revoke(read.ticket);
                self.finish(read.qp, read.id, Operation::Read, CompletionStatus::Unmapped);
                Ok(None)
            }
            Err(CrossMemoryError::Gone) => Err("the process has ended".to_owned()),
            Err(CrossMemoryError::Refused(number)) => Err(format!(
                "the kernel stopped allowing copies: {}",
                std::io::Error::from_raw_os_error(number)
            )),
        }
    }

    /// Writes one piece from the back.
    fn write_share(&mut self, task: Task) -> Result<Option<Task>, String> {
        let Task::WriteShare { qp, ticket, key, source, target, len_bytes, chunk_bytes } = task else {
            return Ok(None);
        };
        let pid = self.qps[qp.index()].card.pid;
        let Some((number, use_number)) = split_ticket_word(ticket) else { return Ok(None) };
        // The registration may have ended since the last turn, and the memory with it.
        let registered = self.regions.check(key, source as u64, len_bytes as u64, Want::Read).is_some();
        let Some(shared) = self.inbound_ticket(qp, number) else { return Ok(None) };
        if !registered {
            shared.failed.store(u32::from(use_number) + 1, Ordering::Release);
            return Ok(None);
        }
        let Some(index) =
            claim_back(shared, use_number).filter(|index| *index < pieces(len_bytes, chunk_bytes))
        else {
            return Ok(None);
        };
        let (offset, len) = piece(index, len_bytes, chunk_bytes);
        // SAFETY: the source range was checked against the registered region; the peer asked for the target range.
        match unsafe { copy::write_process(pid, source.add(offset), target.wrapping_add(offset as u64), len) }
        {
            Ok(()) => {
                shared.written.fetch_add(1, Ordering::Release);
                Ok(Some(task))
            }
            Err(_) => {
                shared.failed.store(u32::from(use_number) + 1, Ordering::Release);
                Ok(None)
            }
        }
    }
}

const _: () = assert!(INLINE_BODY_BYTES >= ironband_core::wire::INLINE_RECORD_BYTES);
