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

    /// Sends a message of bytes, and waits until `data` may be used again: a short message may be under way then, a long one has been
    /// received, and so has a short one that was too much: a process keeps about 4,000 short messages, or a megabyte, of each other one
    /// that it has not received. Messages of one tag, or that one receive matches, arrive in the order in which they were sent. How long a short message
    /// may be depends on the device (`eager_bytes`, some KiB); a program that is right for any length begins its receives first.
    ///
    /// The highest bit of a tag is for libraries ([`LIBRARY_TAG_BIT`](crate::LIBRARY_TAG_BIT)): a receive of any tag does not match it.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let own = context.endpoint(context.rank())?;
    /// own.send(7, &2.5_f64.to_le_bytes())?;
    /// let mut bytes = [0; 8];
    /// own.receive(7, &mut bytes)?;
    /// assert_eq!(f64::from_le_bytes(bytes), 2.5);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no device leads there; [`Error::PeerLost`] when the process has ended or the connection has broken;
    /// [`Error::NotMoved`].
    #[inline]
    pub fn send(&self, tag: u64, data: &[u8]) -> Result<(), Error> {
        self.context.send_blocking(self.rank, tag, data)
    }

    /// Begins to send a message. The request owns the buffer, and gives it back with [`SendRequest::wait`]; dropped, the message is
    /// sent all the same.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let own = context.endpoint(context.rank())?;
    /// let request = own.start_send(7, vec![0_u8; 1_000_000])?;
    /// own.receive(7, &mut vec![1; 1_000_000])?;
    /// let buffer = request.wait()?;
    /// assert_eq!(buffer.len(), 1_000_000);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// A borrowed buffer might be gone before the message was sent; [`Context::scope`] is for those:
    ///
    /// ```compile_fail,E0597
    /// # let context = ironband::Context::open().unwrap();
    /// # let own = context.endpoint(context.rank()).unwrap();
    /// let data = [1, 2, 3];
    /// let request = own.start_send(7, &data[..]).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    #[inline]
    pub fn start_send<B: Buffer>(&self, tag: u64, data: B) -> Result<SendRequest<'c, B>, Error> {
        SendRequest::start(self.context, self.rank, tag, data)
    }

    /// Waits for a message of this process with this tag, and receives it into `buffer`, which may be longer than the message.
    ///
    /// # Errors
    /// As [`Context::receive`].
    pub fn receive(&self, tag: u64, buffer: &mut [u8]) -> Result<Received, Error> {
        self.context.receive(Pattern::exact(self.rank, tag), buffer)
    }

    /// Sends an active message: the handler that the other process has set for `id` ([`Context::on_active`]) is called there, when it
    /// makes progress. `data` may be used again at once. Waits only for room on the way. There is no order with other messages.
    ///
    /// ```
    /// # use ironband::{Context, Error};
    /// # let context = Context::open()?;
    /// context.on_active(1, |_context, source, data| println!("rank {source} says {data:?}"));
    /// let own = context.endpoint(context.rank())?;
    /// own.send_active(1, b"hello")?;
    /// let too_long = own.send_active(1, &vec![0; 1 << 30]);
    /// assert!(matches!(too_long, Err(Error::TooLong { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLong`] for more than the device carries in one message, some KiB; [`Error::ActiveId`]; as [`Endpoint::send`].
    pub fn send_active(&self, id: u32, data: &[u8]) -> Result<(), Error> {
        self.context.send_active(self.rank, id, data)
    }

    /// As [`Endpoint::send_active`], without waiting: if there is no room now it is sent later, while this process makes progress, unless the other
    /// process is lost before.
    ///
    /// # Errors
    /// As [`Endpoint::send_active`].
    pub fn post_active(&self, id: u32, data: &[u8]) -> Result<(), Error> {
        self.context.check_active_id(id)?;
        self.context.post_active(self.rank, id, data)
    }

    /// Memory that this process has exposed ([`Context::expose`]), by the key that it has sent.
    ///
    /// ```
    /// # use ironband::{Context, MemoryKey};
    /// # let context = Context::open()?;
    /// let own = context.endpoint(context.rank())?;
    /// let exposed = context.expose(vec![0_u64; 4])?;
    /// // Usually to another process.
    /// own.send(7, exposed.key().as_bytes())?;
    /// let mut bytes = [0; MemoryKey::BYTES_MAX];
    /// let received = own.receive(7, &mut bytes)?;
    /// let key = MemoryKey::from_bytes(&bytes[..received.len_bytes as usize])?;
    /// assert_eq!(own.memory(&key)?.len(), 32);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Key`] when that is no key; as [`Endpoint::send`].
    pub fn memory(&self, key: &MemoryKey) -> Result<RemoteMemory<'c>, Error> {
        RemoteMemory::new(self.context, self.rank, key)
    }
}
