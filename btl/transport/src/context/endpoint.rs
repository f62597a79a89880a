//! A process of the job, as this one reaches it.

use super::{Buffer, Context, Error, MemoryKey, Pattern, RemoteMemory, SendRequest};
use ironband_core::protocol::Received;

/// A process of the job, this one included.
#[derive(Clone, Copy)]
pub struct Endpoint<'c> {
    context: &'c Context,
    rank: u32,
}

impl std::fmt::Debug for Endpoint<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Endpoint(rank {})", self.rank)
    }
}

impl<'c> Endpoint<'c> {
    pub(super) const fn new(context: &'c Context, rank: u32) -> Self {
        Self { context, rank }
    }

    /// Its rank.
    pub const fn rank(&self) -> u32 {
        self.rank
    }

    /// Sends a message, and waits until `data` may be used again: a short message may be under way then, a long one has been
    /// received, and so has a short one that was too much: a process keeps about 4,000 short messages, or a megabyte, of each other one
    /// that it has not received. Messages of one tag, or that one receive matches, arrive in the order in which they were sent.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::PeerLost`].
    #[inline]
    pub fn send(&self, tag: u64, data: &[u8]) -> Result<(), Error> {
        self.context.send_blocking(self.rank, tag, data)
    }

    /// Begins to send a message. The request gives the buffer back.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn start_send<B: Buffer>(&self, tag: u64, data: B) -> Result<SendRequest<'c, B>, Error> {
        SendRequest::start(self.context, self.rank, tag, data)
    }

    /// Receives a message of this process with this tag.
    ///
    /// # Errors
    /// As [`Context::receive`].
    pub fn receive(&self, tag: u64, buffer: &mut [u8]) -> Result<Received, Error> {
        self.context.receive(Pattern::exact(self.rank, tag), buffer)
    }

    /// Sends an active message: the handler that the other process has set for `id` ([`Context::on_active`]) is called there, when it
    /// makes progress. `data` may be used again at once.
    ///
    /// # Errors
    /// [`Error::TooLong`] for more than the device carries in one message; [`Error::ActiveId`]; as [`Endpoint::send`].
    pub fn send_active(&self, id: u32, data: &[u8]) -> Result<(), Error> {
        self.context.send_active(self.rank, id, data)
    }

    /// Memory that this process has exposed, by the key that it has sent.
    ///
    /// # Errors
    /// [`Error::Key`] when that is no key; as [`Endpoint::send`].
    pub fn memory(&self, key: &MemoryKey) -> Result<RemoteMemory<'c>, Error> {
        RemoteMemory::new(self.context, self.rank, key)
    }
}
