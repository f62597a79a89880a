//! The own process as a peer: no queue pair, plain copies.

use std::ptr::NonNull;

use super::device::VerbsDevice;
use crate::extent::Want;
use crate::{
    Completion, CompletionStatus, Message, Operation, Payload, Posted, QueuePairNumber, ReceiveToken,
    RemoteAddress, SendFill, WorkId,
};

/// Marks tokens of messages to the own process.
pub(super) const LOOPBACK: u64 = 1 << 62;
/// Messages to the own process that are not given back yet.
const MESSAGES_MAX: usize = 64;

/// Messages of this process to itself.
#[derive(Debug, Default)]
pub(super) struct Loopback {
    messages: Vec<Option<Box<[u8]>>>,
    held: usize,
}

impl Loopback {
    pub(super) fn give_back(&mut self, token: u64) {
        let index = (token & !LOOPBACK) as usize;
        if self.messages.get_mut(index).and_then(Option::take).is_some() {
            self.held -= 1;
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.held == MESSAGES_MAX
    }

    fn keep(&mut self, message: Vec<u8>) -> (Payload, ReceiveToken) {
        let mut message = message.into_boxed_slice();
        let start = NonNull::new(message.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let payload = Payload::new(start, message.len());
        let index = self.messages.iter().position(Option::is_none).unwrap_or_else(|| {
            self.messages.push(None);
            self.messages.len() - 1
        });
        self.messages[index] = Some(message);
        self.held += 1;
        (payload, ReceiveToken(LOOPBACK | index as u64))
    }
}

impl VerbsDevice {
    pub(super) fn send_to_self(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload: &[u8],
    ) -> Posted {
        if self.loopback.is_full() {
            return Posted::Busy;
        }
        let (payload, token) = self.loopback.keep([header, payload].concat());
        self.done.push_back(Completion::Received(Message { qp, imm, payload, token }));
        Posted::Complete
    }

    pub(super) fn fill_to_self(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl SendFill,
    ) -> Posted {
        if self.loopback.is_full() {
            return Posted::Busy;
        }
        let mut message = header.to_vec();
        message.resize(header.len() + payload_bytes_max, 0);
        let room = NonNull::from(&mut message[header.len()..]).cast();
        let filled = fill(room, payload_bytes_max);
        assert!(filled <= payload_bytes_max, "{filled} bytes were packed into room for {payload_bytes_max}");
        message.truncate(header.len() + filled);
        let (payload, token) = self.loopback.keep(message);
        self.done.push_back(Completion::Received(Message { qp, imm, payload, token }));
        Posted::Complete
    }

    /// A read or write inside the process.
    ///
    /// # Safety
    /// `local` is readable, and writable for a read, for `len_bytes`.
    pub(super) unsafe fn copy_to_self(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        remote: RemoteAddress,
        len_bytes: usize,
        (operation, imm): (Operation, Option<u32>),
    ) -> Posted {
        let want = if operation == Operation::Read { Want::Read } else { Want::Write };
        if len_bytes > 0 {
            let Some(other) = self.regions.check(remote.key, remote.address, len_bytes as u64, want) else {
                self.finish(qp, id, operation, CompletionStatus::RemoteAccess);
                return Posted::Queued;
            };
            // SAFETY: the caller vouches for `local`, the registration for the other; they may overlap.
            unsafe {
                match operation {
                    Operation::Read => std::ptr::copy(other, local, len_bytes),
                    _ => std::ptr::copy(local.cast_const(), other, len_bytes),
                }
            }
        }
        if let Some(imm) = imm {
            self.done.push_back(Completion::WrittenWithImmediate { qp, imm, len_bytes });
        }
        Posted::Complete
    }
}
