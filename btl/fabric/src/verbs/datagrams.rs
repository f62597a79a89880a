//! The datagram queue pair of a device: where its handshakes go through.

use std::ptr::NonNull;
use std::sync::Arc;

use ironband_core::wire::{DATAGRAM_BYTES, Datagram};

use super::object::{
    AddressHandle, Buffers, CompletionQueue, Part, ProtectionDomain, QueuePair, Receive, Sizes, VerbError,
    Work,
};
use super::receives::RECEIVE;
use crate::Access;

/// Verbs put the global route header, or room for one, in front of each datagram that is received.
const ROUTE_HEADER_BYTES: usize = 40;
const BUFFER_BYTES: usize = (ROUTE_HEADER_BYTES + DATAGRAM_BYTES).next_multiple_of(64);
const RECEIVES: u32 = 128;
const SENDS: u32 = 32;

/// The datagram queue pair with its buffers.
#[derive(Debug)]
pub(super) struct Datagrams {
    // In this order: the queue pair goes first, its buffers last.
    qp: QueuePair,
    cq: CompletionQueue,
    received: Buffers,
    sent: Buffers,
    free: Vec<u32>,
}

impl Datagrams {
    pub(super) fn open(domain: &Arc<ProtectionDomain>, port: u8, qkey: u32) -> Result<Self, VerbError> {
        let cq = CompletionQueue::create(domain.context(), RECEIVES + SENDS)?;
        let sizes = Sizes { sends: SENDS, receives: RECEIVES, inline_bytes: 0 };
        let qp = QueuePair::datagrams(domain, &cq, port, qkey, sizes)?;
        let received = Buffers::allocate(domain, BUFFER_BYTES, RECEIVES, Access::LOCAL)?;
        let sent = Buffers::allocate(domain, BUFFER_BYTES, SENDS, Access::LOCAL)?;
        let datagrams = Self { qp, cq, received, sent, free: (0..SENDS).collect() };
        for index in 0..RECEIVES {
            datagrams.post_receive(index)?;
        }
        Ok(datagrams)
    }

    pub(super) fn qpn(&self) -> u32 {
        self.qp.number()
    }

    fn post_receive(&self, index: u32) -> Result<(), VerbError> {
        let receive = Receive {
            id: RECEIVE | u64::from(index),
            start: self.received.at(index),
            len_bytes: BUFFER_BYTES as u32,
            local_key: self.received.local_key(),
        };
        // SAFETY: the buffer lives as long as the queue pair, and is not posted now.
        unsafe { self.qp.post_receives(&[receive]) }
    }

    /// The next datagram that makes sense.
    pub(super) fn receive(&mut self) -> Option<Datagram> {
        while let Some(completion) = self.cq.poll() {
            let index = completion.id as u32;
            if completion.id & RECEIVE == 0 {
                self.free.push(index);
                continue;
            }
            let datagram = completion.is_success().then(|| {
                let len_bytes = (completion.len_bytes as usize).checked_sub(ROUTE_HEADER_BYTES)?;
                (len_bytes == DATAGRAM_BYTES).then(|| read(self.received.at(index)))
            });
            // A receive that cannot be posted again is one less; datagrams may be lost anyway.
            let _ = self.post_receive(index);
            if let Some(datagram) = datagram.flatten().and_then(|bytes| Datagram::decode(&bytes)) {
                return Some(datagram);
            }
        }
        None
    }

    /// Sends a datagram, or loses it when too many are under way.
    pub(super) fn send(
        &mut self,
        datagram: &Datagram,
        to: &AddressHandle,
        qpn: u32,
        qkey: u32,
    ) -> Result<(), VerbError> {
        let Some(index) = self.free.pop() else { return Ok(()) };
        let bytes = datagram.encode();
        let start = self.sent.at(index);
        // SAFETY: a free buffer of at least this length.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), DATAGRAM_BYTES) };
        let part =
            Part { start: start.as_ptr(), len_bytes: DATAGRAM_BYTES, local_key: self.sent.local_key() };
        let work = Work::datagram(u64::from(index), part, to, qpn, qkey).signalled();
        // SAFETY: the buffer is taken until the completion, and lives as long as the queue pair.
        unsafe { self.qp.post(&mut [work]) }.inspect_err(|_| self.free.push(index))
    }
}

/// Copies a datagram out of its buffer.
fn read(start: NonNull<u8>) -> [u8; DATAGRAM_BYTES] {
    let mut bytes = [0; DATAGRAM_BYTES];
    // SAFETY: a filled buffer of at least this length, not posted now.
    unsafe {
        let from = start.as_ptr().add(ROUTE_HEADER_BYTES);
        std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), DATAGRAM_BYTES);
    }
    bytes
}
