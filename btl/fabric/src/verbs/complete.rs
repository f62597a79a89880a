//! Messages and completions: what is posted, what arrives, what ends.

use ironband_core::diagnosis::FailedOperation;
use ironband_core::wire::{
    AtomicReply, AtomicRequest, MESSAGE_HEADER_BYTES, MessageHeader, MessageKind, RING_OFFER_BYTES,
    ReadReply, ReadRequest,
};
use rdma_sys::ibv_wc_status as status;

use super::connection::{Closing, Connection};
use super::device::VerbsDevice;
use super::eager_messages::ring_write_bytes;
use super::manager::HELLO_BYTES;
use super::object::{Part, Work, WorkCompletion};
use super::receives::{Owner, RECEIVE};
use super::requests::work_id;
use super::works::Underway;
use crate::{
    Completion, CompletionStatus, Message, Operation, Payload, Posted, QueuePairNumber, ReceiveToken,
    SendFill,
};

pub(super) const UNPAID: &str = "it broke the protocol: it sent more than it had credits for";
const BAD_LENGTH: &str = "it broke the protocol: a message has the wrong length";

/// Sends the last message of a connection. False if it cannot be.
pub(super) fn send_bye(closing: &mut Closing) -> bool {
    let header = MessageHeader { kind: MessageKind::Bye, credits: 0, imm: 0 }.encode();
    let connection = &mut closing.connection;
    connection.credits.spend();
    let (number, _) = connection.works.note(Underway::Bye, true);
    let work = Work::send(work_id(closing.qp, number), &[part(&header)]).inline().signalled();
    // SAFETY: sent inline: the header is copied before the call returns.
    unsafe { connection.qp.post(&mut [work]) }.is_ok()
}

impl VerbsDevice {
    /// Sends a message if there is room for it.
    #[inline]
    pub(super) fn transmit(
        &mut self,
        qp: QueuePairNumber,
        kind: MessageKind,
        imm: u32,
        header: &[u8],
        payload: &[u8],
    ) -> Posted {
        let Some(connection) = &self.peers[qp.index()].connection else { return Posted::Busy };
        let len_bytes = header.len() + payload.len();
        let to_ring = kind == MessageKind::Send && connection.writes_to_ring(len_bytes);
        let whole_bytes =
            if to_ring { ring_write_bytes(len_bytes) } else { MESSAGE_HEADER_BYTES + len_bytes };
        if whole_bytes > connection.qp.inline_bytes_max() {
            return self.transmit_filled(qp, kind, imm, header, payload.len(), |room, len_bytes| {
                // SAFETY: room for as much as there is, in a buffer of this device.
                unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), room.as_ptr(), len_bytes) };
                len_bytes
            });
        }
        if to_ring {
            return self.transmit_to_ring(qp, imm, header, payload);
        }
        let credits = match self.take_credit(qp, kind) {
            Ok(credits) => credits,
            Err(posted) => return posted,
        };
        let front = MessageHeader { kind, credits, imm }.encode();
        let parts = [part(&front), part(header), part(payload)];
        self.tally.bytes += len_bytes as u64;
        self.count_send(qp);
        // SAFETY: sent inline: all three are copied before the call returns.
        unsafe { self.post_message(qp, Underway::Inline, |id| Work::send(id, &parts).inline()) }
    }

    /// Sends a message whose payload is packed by `fill`, directly into the send buffer.
    #[inline]
    pub(super) fn transmit_filled(
        &mut self,
        qp: QueuePairNumber,
        kind: MessageKind,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl SendFill,
    ) -> Posted {
        let Some(bounce) = self.bounces.take(&self.domain) else { return Posted::Busy };
        let credits = match self.take_credit(qp, kind) {
            Ok(credits) => credits,
            Err(posted) => {
                self.bounces.give_back(bounce);
                return posted;
            }
        };
        let to_ring = kind == MessageKind::Send
            && self.peers[qp.index()]
                .connection
                .as_ref()
                .is_some_and(|it| it.writes_to_ring(header.len() + payload_bytes_max));
        let front = MessageHeader { kind, credits, imm }.encode();
        let front: &[u8] = if to_ring { &[] } else { &front };
        let start = self.bounces.at(bounce);
        // SAFETY: a free buffer; callers keep messages below its length.
        let room = unsafe {
            std::ptr::copy_nonoverlapping(front.as_ptr(), start.as_ptr(), front.len());
            let behind = start.add(front.len());
            std::ptr::copy_nonoverlapping(header.as_ptr(), behind.as_ptr(), header.len());
            behind.add(header.len())
        };
        let filled = fill(room, payload_bytes_max);
        assert!(filled <= payload_bytes_max, "{filled} bytes were packed into room for {payload_bytes_max}");
        self.tally.bytes += (header.len() + filled) as u64;
        if to_ring {
            return self.transmit_buffer_to_ring(qp, imm, credits, (bounce, header.len() + filled));
        }
        let local_key = self.bounces.local_key(bounce);
        let len_bytes = front.len() + header.len() + filled;
        let whole = Part { start: start.as_ptr(), len_bytes, local_key };
        self.count_send(qp);
        // SAFETY: the buffer is this message's until the completion.
        unsafe { self.post_message(qp, Underway::Bounce(bounce), |id| Work::send(id, &[whole])) }
    }

    #[inline]
    fn count_send(&mut self, qp: QueuePairNumber) {
        if let Some(connection) = &mut self.peers[qp.index()].connection {
            connection.sends = connection.sends.wrapping_add(1);
        }
    }

    /// Room for one more message? The last credit is kept for giving credits back.
    #[inline]
    pub(super) fn may_send(&self, qp: QueuePairNumber, kind: MessageKind) -> bool {
        let gives_back = kind == MessageKind::Credits;
        self.peers[qp.index()].connection.as_ref().is_some_and(|it| {
            it.credits.may_send(gives_back) && it.works.has_room() && (gives_back || it.partial.is_none())
        })
    }

    /// Takes the credit of one message, if there is room for it; gives those that it brings the peer.
    #[inline]
    pub(super) fn take_credit(&mut self, qp: QueuePairNumber, kind: MessageKind) -> Result<u16, Posted> {
        if !self.may_send(qp, kind) {
            return Err(Posted::Busy);
        }
        let Some(connection) = &mut self.peers[qp.index()].connection else { return Err(Posted::Busy) };
        connection.credits.spend();
        if !connection.credits.owes_some() {
            return Ok(0);
        }
        if self.receives.has_idle() || connection.receives.has_idle() {
            // Credits stand for buffers that are posted.
            if let Err(error) = self.receives.post(&connection.qp, &mut connection.receives) {
                self.fail(qp, error.to_string());
                return Err(Posted::Failed);
            }
        }
        Ok(connection.credits.pay())
    }

    /// Posts a message, which `work` makes given its number.
    ///
    /// # Safety
    /// Parts that are not sent inline are kept until the completion.
    #[inline]
    pub(super) unsafe fn post_message(
        &mut self,
        qp: QueuePairNumber,
        what: Underway,
        work: impl FnOnce(u64) -> Work,
    ) -> Posted {
        let Some(connection) = &mut self.peers[qp.index()].connection else { return Posted::Busy };
        // Soft-iWARP lends the pages of a long message that is not signalled to TCP, and calls it ended before they are sent.
        let awaited =
            matches!(what, Underway::Bounce(_)) && (self.landing.is_some() || self.bounces.is_short());
        let (number, signalled) = connection.works.note(what, awaited);
        let mut work = work(work_id(qp, number));
        if signalled {
            work = work.signalled();
        }
        // SAFETY: as promised by the caller.
        match unsafe { connection.qp.post(&mut [work]) } {
            Ok(()) => Posted::Complete,
            Err(error) => {
                self.fail(qp, error.to_string());
                Posted::Failed
            }
        }
    }

    /// Looks at what the adapter has done, for a post that found no room. What the layer above must see is kept.
    pub(super) fn pump(&mut self) {
        while let Some(completion) = self.cq.as_mut().and_then(super::object::CompletionQueue::poll) {
            if let Some(found) = self.handle(completion) {
                self.done.push_back(found);
            }
        }
    }

    /// Takes one of the adapter's completions.
    #[inline]
    pub(super) fn handle(&mut self, completion: WorkCompletion) -> Option<Completion> {
        if completion.id & RECEIVE == 0 {
            self.take_sent(completion);
            return None;
        }
        if self.rings.is_empty() {
            return self.take_receive(completion);
        }
        // What is in the peer's ring by now may come before it.
        let found = self.take_receive(completion)?;
        if self.done.is_empty() {
            return Some(found);
        }
        self.done.push_back(found);
        None
    }

    fn take_sent(&mut self, completion: WorkCompletion) {
        let (qp, number) = (QueuePairNumber((completion.id >> 32) as u32), completion.id as u32);
        let current = |device: &Self| {
            let peer = device.peers.get(qp.index())?;
            peer.connection.as_ref().filter(|connection| connection.qpn == completion.qpn).map(|_| ())
        };
        if current(self).is_none() {
            self.take_sent_closing(completion, number);
            return;
        }
        let Some(connection) = &mut self.peers[qp.index()].connection else { return };
        let failed = if completion.is_success() {
            connection.works.ended(number);
            None
        } else {
            connection.works.failed(number)
        };
        while let Some(what) = self.peers[qp.index()].connection.as_mut().and_then(|it| it.works.retire()) {
            match what {
                Underway::Bounce(index) => self.bounces.give_back(index),
                Underway::Request(number) => self.end_work(number),
                Underway::Nudge => self.note_nudge(qp),
                Underway::Inline | Underway::Bye => {}
            }
        }
        if !completion.is_success() {
            self.take_failed(qp, completion, failed);
            return;
        }
        self.use_room(qp);
    }

    /// Posts what has waited for room.
    #[inline]
    fn use_room(&mut self, qp: QueuePairNumber) {
        if self.peers[qp.index()].connection.as_ref().is_some_and(|it| it.partial.is_some()) {
            self.advance(qp);
        }
        self.send_replies(qp);
        self.return_credits(qp);
    }

    #[cold]
    fn take_failed(&mut self, qp: QueuePairNumber, completion: WorkCompletion, failed: Option<Underway>) {
        let mut operation =
            if failed == Some(Underway::Nudge) { FailedOperation::Read } else { FailedOperation::Send };
        if let Some(Underway::Request(number)) = failed {
            operation = match self.requests.get(number).map(|request| request.operation) {
                Some(Operation::Read) => FailedOperation::Read,
                Some(Operation::Write) => FailedOperation::Write,
                Some(Operation::Atomic) => FailedOperation::Atomic,
                None => FailedOperation::Request,
            };
            let end = match completion.status {
                status::IBV_WC_REM_ACCESS_ERR => Some(CompletionStatus::RemoteAccess),
                status::IBV_WC_REM_INV_REQ_ERR => Some(CompletionStatus::RemoteAccess),
                status::IBV_WC_LOC_PROT_ERR => Some(CompletionStatus::Unmapped),
                _ => None,
            };
            if let Some(end) = end {
                self.end_request(number, end);
            }
        }
        self.fail_completion(qp, &completion, operation);
    }

    /// A work has failed, and its connection with it.
    fn fail_completion(
        &mut self,
        qp: QueuePairNumber,
        completion: &WorkCompletion,
        operation: FailedOperation,
    ) {
        let peer = &self.peers[qp.index()];
        let is_flush = completion.status == status::IBV_WC_WR_FLUSH_ERR;
        if is_flush && peer.dialogue.as_ref().is_some_and(|dialogue| dialogue.is_asking()) {
            // The peer has refused: the connection manager says why.
            return;
        }
        let managed = peer.connection.as_ref().is_some_and(|connection| connection.id.is_some());
        // On iWARP the stream has broken under what was being sent.
        let broke = self.landing.is_some() && completion.status == status::IBV_WC_LOC_QP_OP_ERR;
        if managed && (is_flush || broke) {
            return self.fail_disconnected(qp);
        }
        self.fail_by(qp, completion, operation);
    }

    #[cold]
    fn take_sent_closing(&mut self, completion: WorkCompletion, number: u32) {
        let Some(at) = self.closing.iter().position(|closing| closing.connection.qpn == completion.qpn)
        else {
            return; // Of a queue pair that is gone.
        };
        let mut over = !completion.is_success();
        if over {
            self.closing[at].connection.works.failed(number);
        } else {
            self.closing[at].connection.works.ended(number);
        }
        while let Some(what) = self.closing[at].connection.works.retire() {
            match what {
                Underway::Bounce(index) => self.bounces.give_back(index),
                Underway::Request(number) => self.end_work(number),
                Underway::Inline | Underway::Nudge => {}
                Underway::Bye => over = true,
            }
        }
        if over && !self.closing[at].delivers {
            let closing = self.closing.swap_remove(at);
            self.bury(closing.connection);
        }
    }

    /// Whose receive has ended; `None` if its connection is gone.
    #[inline]
    fn receiver(&self, completion: &WorkCompletion) -> Option<QueuePairNumber> {
        let qp = *self.by_qpn.get(&completion.qpn)?;
        if self.receives.is_shared() {
            return Some(qp);
        }
        let posted = |connection: &Connection| {
            connection.qpn == completion.qpn && connection.receives.posted(completion.id)
        };
        let current = self.peers[qp.index()].connection.as_ref().is_some_and(posted);
        (current || self.closing.iter().any(|closing| posted(&closing.connection))).then_some(qp)
    }

    /// A receive of this connection, which exists, is free again.
    #[inline]
    fn put_back(&mut self, qp: QueuePairNumber, qpn: u32, index: u32) {
        if self.receives.is_shared() {
            self.receives.put_back(index);
        } else if let Some(connection) = self.connection_of(qp, qpn) {
            connection.receives.put_back(index);
        }
    }

    /// The connection of a peer with this number, be it the current one or one that ends.
    pub(super) fn connection_of(&mut self, qp: QueuePairNumber, qpn: u32) -> Option<&mut Connection> {
        let current = self.peers[qp.index()].connection.as_mut().filter(|it| it.qpn == qpn);
        current.or_else(|| {
            self.closing.iter_mut().map(|closing| &mut closing.connection).find(|it| it.qpn == qpn)
        })
    }

    fn take_receive(&mut self, completion: WorkCompletion) -> Option<Completion> {
        let index = completion.id as u32;
        let Some(qp) = self.receiver(&completion) else {
            // Of a queue pair that is gone; so are receives that were its own.
            if self.receives.is_shared() {
                self.receives.put_back(index);
            }
            return None;
        };
        if !completion.is_success() {
            self.put_back(qp, completion.qpn, index);
            self.take_failed_receive(qp, completion);
            return None;
        }
        let Some(header) = self.header_of(&completion) else {
            self.put_back(qp, completion.qpn, index);
            self.fail(qp, BAD_LENGTH.to_owned());
            return None;
        };
        let connection = self.peers[qp.index()].connection.as_ref();
        match connection.filter(|it| it.qpn == completion.qpn).map(|it| it.has_ring) {
            Some(true) => self.drain_ring(completion.qpn),
            Some(false) => {}
            None => return self.take_late(qp, completion, header),
        }
        let peer = &mut self.peers[qp.index()];
        let Some(connection) = peer.connection.as_mut().filter(|it| it.qpn == completion.qpn) else {
            // What was in its ring has ended it.
            self.put_back(qp, completion.qpn, index);
            return None;
        };
        connection.received = connection.received.wrapping_add(1);
        if !connection.credits.take_back(header.credits) {
            self.put_back(qp, completion.qpn, index);
            self.fail(qp, "it broke the protocol: it gave back more credits than it had taken".to_owned());
            return None;
        }
        if !peer.open {
            if peer.dialogue.is_some() && header.kind != MessageKind::Hello {
                self.put_back(qp, completion.qpn, index);
                self.fail(qp, "it broke the protocol: it has sent before it said who it is".to_owned());
                return None;
            }
            // It may send, so it is ready to receive.
            let peer = &mut self.peers[qp.index()];
            peer.open = peer.handshake.as_mut().is_some_and(|it| it.hear_message() || it.is_ready());
        }
        if let Some(imm) = completion.written {
            self.put_back(qp, completion.qpn, index);
            self.served(qp);
            return Some(Completion::WrittenWithImmediate {
                qp,
                imm,
                len_bytes: completion.len_bytes as usize,
            });
        }
        self.take_message(qp, completion.qpn, index, header, self.body_bytes(&completion))
    }

    /// What stands in front of the message that has come; `None` if it is too short. A write brings nothing but that it is one.
    #[inline]
    fn header_of(&self, completion: &WorkCompletion) -> Option<MessageHeader> {
        if let Some(imm) = completion.written {
            return Some(MessageHeader { kind: MessageKind::Written, credits: 0, imm });
        }
        if (completion.len_bytes as usize) < MESSAGE_HEADER_BYTES {
            return None;
        }
        // SAFETY: a filled buffer, which is longer than a header.
        MessageHeader::decode(unsafe { self.receives.at(completion.id as u32).cast().read() })
    }

    /// Length of the message that has come, without its header.
    #[inline]
    fn body_bytes(&self, completion: &WorkCompletion) -> usize {
        (completion.len_bytes as usize).min(self.receives.buffer_bytes()) - MESSAGE_HEADER_BYTES
    }

    #[inline]
    fn take_message(
        &mut self,
        qp: QueuePairNumber,
        qpn: u32,
        index: u32,
        header: MessageHeader,
        len_bytes: usize,
    ) -> Option<Completion> {
        // SAFETY: inside the buffer, behind the header.
        let body = unsafe { self.receives.at(index).add(MESSAGE_HEADER_BYTES) };
        if header.kind == MessageKind::Send {
            self.receives.lend(index, Owner { qp, qpn });
            self.warm(qp, len_bytes);
            let payload = Payload::new(body, len_bytes);
            return Some(Completion::Received(Message {
                qp,
                imm: header.imm,
                payload,
                token: ReceiveToken(index.into()),
            }));
        }
        let mut bytes = [0_u8; AtomicRequest::BYTES];
        let taken = len_bytes.min(bytes.len());
        // SAFETY: `taken` bytes are inside the buffer, and fit.
        unsafe { std::ptr::copy_nonoverlapping(body.as_ptr(), bytes.as_mut_ptr(), taken) };
        let mut hello = [0_u8; HELLO_BYTES];
        if header.kind == MessageKind::Hello && len_bytes == hello.len() {
            // SAFETY: the message is as long as this, behind the header.
            unsafe { std::ptr::copy_nonoverlapping(body.as_ptr(), hello.as_mut_ptr(), hello.len()) };
        }
        self.put_back(qp, qpn, index);
        let mut found = None;
        let result = match header.kind {
            MessageKind::Written if len_bytes == 8 => {
                let length = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
                found = Some(Completion::WrittenWithImmediate {
                    qp,
                    imm: header.imm,
                    len_bytes: length as usize,
                });
                Ok(())
            }
            MessageKind::AtomicRequest if len_bytes == AtomicRequest::BYTES => self.serve_atomic(qp, &bytes),
            MessageKind::AtomicReply if len_bytes == AtomicReply::BYTES => {
                let reply: [u8; AtomicReply::BYTES] = std::array::from_fn(|at| bytes[at]);
                self.take_atomic_reply(qp, &reply)
            }
            MessageKind::ReadRequest if len_bytes == ReadRequest::BYTES => {
                let request: [u8; ReadRequest::BYTES] = std::array::from_fn(|at| bytes[at]);
                self.serve_read(qp, &request)
            }
            MessageKind::ReadReply if len_bytes == ReadReply::BYTES => self.take_read_reply(qp, &bytes),
            MessageKind::Hello if len_bytes == hello.len() => self.take_hello(qp, &hello),
            MessageKind::Credits if len_bytes == 0 => Ok(()),
            MessageKind::Ring if len_bytes == RING_OFFER_BYTES => {
                let offer: [u8; RING_OFFER_BYTES] = std::array::from_fn(|at| bytes[at]);
                self.take_ring_offer(qp, &offer)
            }
            MessageKind::Bye if len_bytes == 0 => {
                self.peer_ended(qp);
                return None;
            }
            _ => Err(BAD_LENGTH),
        };
        if let Err(reason) = result {
            self.fail(qp, reason.to_owned());
            return found;
        }
        self.served(qp);
        found
    }

    /// A message has been taken whose buffer is free again: a credit is owed for it, and there may be room for what waits.
    #[inline]
    fn served(&mut self, qp: QueuePairNumber) {
        if self.peers[qp.index()].connection.as_mut().is_some_and(|it| !it.credits.owe(1)) {
            self.fail(qp, UNPAID.to_owned());
        }
        self.use_room(qp);
    }

    /// A message on a connection that is not its peer's current one any more.
    #[cold]
    fn take_late(
        &mut self,
        qp: QueuePairNumber,
        completion: WorkCompletion,
        header: MessageHeader,
    ) -> Option<Completion> {
        let index = completion.id as u32;
        let at = self.closing.iter().position(|closing| closing.connection.qpn == completion.qpn);
        let Some(at) = at else {
            self.put_back(qp, completion.qpn, index);
            return None;
        };
        if self.closing[at].delivers {
            self.drain_ring(completion.qpn);
        }
        let closing = &mut self.closing[at];
        closing.connection.received = closing.connection.received.wrapping_add(1);
        // Only the last message needs one still; more than there can be do no harm.
        let _ = closing.connection.credits.take_back(header.credits);
        if header.kind == MessageKind::Bye {
            self.put_back(qp, completion.qpn, index);
            let closing = self.closing.swap_remove(at);
            self.bury(closing.connection);
            return None;
        }
        if closing.delivers && header.kind == MessageKind::Send {
            return self.take_message(qp, completion.qpn, index, header, self.body_bytes(&completion));
        }
        let delivers = closing.delivers;
        self.put_back(qp, completion.qpn, index);
        if let Some(imm) = completion.written.filter(|_| delivers) {
            let len_bytes = completion.len_bytes as usize;
            return Some(Completion::WrittenWithImmediate { qp, imm, len_bytes });
        }
        let now = self.now();
        self.end_closing(now);
        None
    }

    #[cold]
    fn take_failed_receive(&mut self, qp: QueuePairNumber, completion: WorkCompletion) {
        let peer = &self.peers[qp.index()];
        if peer.connection.as_ref().is_some_and(|connection| connection.qpn == completion.qpn) {
            self.fail_completion(qp, &completion, FailedOperation::Receive);
        } else if let Some(at) = self.closing.iter().position(|it| it.connection.qpn == completion.qpn) {
            // Nothing more comes.
            let closing = self.closing.swap_remove(at);
            self.bury(closing.connection);
        }
    }
}

#[inline]
pub(super) const fn part(bytes: &[u8]) -> Part {
    Part { start: bytes.as_ptr(), len_bytes: bytes.len(), local_key: 0 }
}
