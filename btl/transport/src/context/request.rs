//! Requests under way. They may be dropped or forgotten at any time: a buffer that a device may still use is never freed before.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use ironband_core::protocol::{Handle, Received};

use super::body::{Outgoing, Target};
use super::buffer::Owned;
use super::state::Orphan;
use super::{Buffer, BufferMut, Context, Error, Pattern};

/// What a request is of.
enum Kind {
    Send,
    Receive,
}

/// Does not let a function return, or unwind, before a request has ended whose buffer it has borrowed.
pub(super) struct EndBeforeReturn<'c> {
    context: &'c Context,
    handle: Handle,
    kind: Kind,
}

impl<'c> EndBeforeReturn<'c> {
    pub(super) const fn of_send(context: &'c Context, handle: Handle) -> Self {
        Self { context, handle, kind: Kind::Send }
    }

    pub(super) const fn of_receive(context: &'c Context, handle: Handle) -> Self {
        Self { context, handle, kind: Kind::Receive }
    }

    pub(super) const fn handle(&self) -> Handle {
        self.handle
    }

    /// The request has ended and was taken out: nothing is left to wait for.
    pub(super) const fn disarm(self) {
        std::mem::forget(self);
    }

    /// Waits for the end, if nobody has done so before.
    pub(super) fn end(self) -> Result<(), Error> {
        let is_there = {
            let mut state = self.context.state.borrow_mut();
            match self.kind {
                Kind::Send => state.protocol.send_body(self.handle).is_some(),
                Kind::Receive => state.protocol.receive_body(self.handle).is_some(),
            }
        };
        match self.kind {
            _ if !is_there => Ok(()),
            Kind::Send => self.context.finish_send(self.handle),
            Kind::Receive => self.context.finish_receive(self.handle).map(|_| ()),
        }
    }
}

impl Drop for EndBeforeReturn<'_> {
    fn drop(&mut self) {
        // It is there still only if the program has panicked.
        let mut guard = self.context.state.borrow_mut();
        let state = &mut *guard;
        let ended = match self.kind {
            Kind::Send => state.protocol.take_send(self.handle).map(|(body, _)| body.registration),
            Kind::Receive => state.protocol.take_receive(self.handle).map(|(body, _)| body.registration),
        };
        if let Some(registration) = ended {
            registration.into_iter().for_each(|own| self.context.deregister(*own));
            return;
        }
        // The peer may wait for what this process will not send any more, so it is given up: then the request ends.
        let peer = match self.kind {
            Kind::Send => state.protocol.peer_of_send(self.handle),
            Kind::Receive if state.protocol.cancel(self.handle).is_some() => None,
            Kind::Receive => state.protocol.peer_of_receive(self.handle),
        };
        let Some(peer) = peer else { return };
        self.context.give_up(state, peer, "a handler of this process has panicked".to_owned());
        drop(guard);
        let _ = match self.kind {
            Kind::Send => self.context.finish_send(self.handle),
            Kind::Receive => self.context.finish_receive(self.handle).map(|_| ()),
        };
    }
}

/// A message that is being sent, with its buffer. Dropped or forgotten, it is sent all the same.
///
/// As a `Future` it makes progress whenever it is polled, so any executor of one thread will do, for example:
///
/// ```
/// # use ironband::Context;
/// # use std::{future::Future, pin::pin, task::{Poll, Waker}};
/// fn block_on<F: Future>(future: F) -> F::Output {
///     let mut future = pin!(future);
///     let mut task = std::task::Context::from_waker(Waker::noop());
///     loop {
///         if let Poll::Ready(output) = future.as_mut().poll(&mut task) {
///             return output;
///         }
///     }
/// }
///
/// # let context = Context::open()?;
/// let own = context.endpoint(context.rank())?;
/// let pattern = ironband::Pattern::any_source(7);
/// let (bytes, _) = block_on(async {
///     let coming = context.start_receive(pattern, vec![0_u8; 5])?;
///     own.start_send(7, b"hello")?.await?;
///     coming.await
/// })?;
/// assert_eq!(bytes, b"hello");
/// # Ok::<(), ironband::Error>(())
/// ```
#[must_use = "wait for it to know whether the message was sent, and to get the buffer back"]
pub struct SendRequest<'c, B: Buffer> {
    context: &'c Context,
    /// None for one that has ended at once.
    handle: Option<Handle>,
    buffer: Owned<B>,
}

impl<'c, B: Buffer> SendRequest<'c, B> {
    // The request is put together at the end, from what is in registers: one that is built in memory and then moved would wait for all
    // stores before it, and so for the peer's cache.
    #[inline]
    pub(super) fn start(context: &'c Context, rank: u32, tag: u64, buffer: B) -> Result<Self, Error> {
        // SAFETY: the buffer is ours and stays where it is, as its type promises, until the send has ended; a forgotten request
        // leaks it, and a dropped one leaves it to the context.
        let body = unsafe { Outgoing::new(buffer.as_ptr(), buffer.len_bytes()) };
        if context.send_now(rank, tag, body.part(0, body.len_bytes())) {
            return Ok(Self { context, handle: None, buffer: Owned::new(buffer) });
        }
        let mut buffer = Owned::new(buffer);
        match context.begin_send(rank, tag, body) {
            Ok(handle) => Ok(Self { context, handle: Some(handle), buffer }),
            Err(error) => {
                drop(buffer.take());
                Err(error)
            }
        }
    }

    /// Whether the buffer may be used again. Makes progress.
    pub fn is_done(&self) -> bool {
        self.has_ended() || {
            self.context.progress();
            self.has_ended()
        }
    }

    /// As [`SendRequest::is_done`], without progress: what the last call of something that makes progress has left.
    #[inline]
    pub fn has_ended(&self) -> bool {
        let has_ended = |send| self.context.state.borrow().protocol.send_outcome(send).is_some();
        self.handle.is_none_or(has_ended)
    }

    /// The message is not wanted any more: unless its receiver has begun with it, it is never received. The request ends soon, as if it had been
    /// sent: at once if the receiver does not know of it, otherwise when that process has made progress, because until then it may read the buffer.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let own = context.endpoint(context.rank())?;
    /// let request = own.start_send(7, vec![0_u8; 1_000_000])?;
    /// request.withdraw();
    /// request.wait()?;
    /// assert!(context.probe(Pattern::anything()).is_none());
    /// # Ok::<(), ironband::Error>(())
    /// ```
    pub fn withdraw(&self) {
        let Some(send) = self.handle else { return };
        let mut guard = self.context.state.borrow_mut();
        let state = &mut *guard;
        state.protocol.withdraw(send);
        self.context.say_news(state);
    }

    /// Waits until the buffer may be used again, and gives it back.
    ///
    /// # Errors
    /// [`Error::PeerLost`], [`Error::NotMoved`]. The buffer is dropped then.
    #[inline]
    pub fn wait(mut self) -> Result<B, Error> {
        self.take()
    }

    #[inline]
    fn take(&mut self) -> Result<B, Error> {
        // The handle stays until the send has ended: a handler of the program may panic before.
        let outcome = self.handle.map_or(Ok(()), |send| self.context.finish_send(send));
        self.handle = None;
        let buffer = self.buffer.take();
        outcome.map(|()| buffer)
    }
}

impl<B: Buffer> Drop for SendRequest<'_, B> {
    // As in `start`: nothing but the values of the fields leaves this function.
    #[inline(always)]
    fn drop(&mut self) {
        if !self.buffer.is_taken() {
            abandon_send(self.context, self.handle, self.buffer.take());
        }
    }
}

/// The message is sent all the same.
#[cold]
fn abandon_send<B: Buffer>(context: &Context, send: Option<Handle>, buffer: B) {
    // A buffer that nobody needs is dropped last: the program's type may call the context.
    let mut state = context.state.borrow_mut();
    if let Some(send) = send
        && state.protocol.send_body(send).is_some()
    {
        state.orphan_sends.push(Orphan { request: send, owner: Box::new(buffer) });
    }
}

impl<B: Buffer + Unpin> Future for SendRequest<'_, B> {
    type Output = Result<B, Error>;

    /// Makes progress, and asks to be polled again soon: without that nothing would move.
    fn poll(self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let request = self.get_mut();
        assert!(!request.buffer.is_taken(), "polled again after it was ready");
        if request.is_done() {
            return Poll::Ready(request.take());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A message that is awaited, with its buffer. Dropped before a message has come, it receives none. It is a `Future` as
/// [`SendRequest`] is.
///
/// ```
/// # use ironband::{Context, Pattern};
/// # let context = Context::open()?;
/// let request = context.start_receive(Pattern::any_source(7), vec![0_u8; 5])?;
/// assert!(!request.is_done());
/// // Nothing has come: it can be taken back.
/// let Ok(buffer) = request.cancel() else { unreachable!() };
/// assert_eq!(buffer.len(), 5);
/// # Ok::<(), ironband::Error>(())
/// ```
#[must_use = "wait for it to know what was received, and to get the buffer back"]
pub struct ReceiveRequest<'c, B: BufferMut> {
    context: &'c Context,
    handle: Handle,
    buffer: Owned<B>,
}

impl<'c, B: BufferMut> ReceiveRequest<'c, B> {
    #[inline]
    pub(super) fn start(context: &'c Context, pattern: Pattern, buffer: B) -> Result<Self, Error> {
        let mut buffer = Owned::new(buffer);
        let start = buffer.get_mut();
        // SAFETY: as for a send.
        let target = unsafe { Target::new(start.as_mut_ptr(), start.len_bytes()) };
        match context.begin_receive(pattern, target) {
            Ok(handle) => Ok(Self { context, handle, buffer }),
            Err(error) => {
                drop(buffer.take());
                Err(error)
            }
        }
    }

    /// Whether a message is in the buffer. Makes progress.
    pub fn is_done(&self) -> bool {
        self.has_ended() || {
            self.context.progress();
            self.has_ended()
        }
    }

    /// As [`ReceiveRequest::is_done`], without progress: what the last call of something that makes progress has left.
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.buffer.is_taken() || self.context.state.borrow().protocol.receive_outcome(self.handle).is_some()
    }

    /// What was received, if the request has ended, without progress. After that it has no buffer any more, counts as ended, and
    /// [`ReceiveRequest::wait`] panics. For libraries that keep the buffer elsewhere ([`RawBuffer`](crate::RawBuffer)); the buffer of another type is dropped.
    ///
    /// # Errors
    /// As [`Context::receive`].
    #[inline]
    pub fn take_outcome(&mut self) -> Option<Result<Received, Error>> {
        let (body, outcome) = self.context.state.borrow_mut().protocol.take_receive(self.handle)?;
        // Its registration ends before the buffer does.
        let outcome = self.context.end_receive(body, outcome);
        drop(self.buffer.take());
        Some(outcome)
    }

    /// Waits for the message, and gives the buffer back with what was received.
    ///
    /// # Errors
    /// As [`Context::receive`]. The buffer is dropped then.
    #[inline]
    pub fn wait(mut self) -> Result<(B, Received), Error> {
        self.take()
    }

    #[inline]
    fn take(&mut self) -> Result<(B, Received), Error> {
        assert!(!self.buffer.is_taken(), "the outcome of this receive was taken before");
        let outcome = self.context.finish_receive(self.handle);
        let buffer = self.buffer.take();
        outcome.map(|received| (buffer, received))
    }

    /// Takes the receive back, with its buffer. If a message is on its way into it already, the request is returned.
    ///
    /// # Errors
    /// The request, which will end.
    pub fn cancel(mut self) -> Result<B, Self> {
        if self.context.state.borrow_mut().protocol.cancel(self.handle).is_some() {
            Ok(self.buffer.take())
        } else {
            Err(self)
        }
    }
}

impl<B: BufferMut> Drop for ReceiveRequest<'_, B> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.buffer.is_taken() {
            abandon_receive(self.context, self.handle, self.buffer.take());
        }
    }
}

/// A message that is on its way into the buffer comes all the same.
#[cold]
fn abandon_receive<B: BufferMut>(context: &Context, receive: Handle, buffer: B) {
    // As in `abandon_send`.
    let mut state = context.state.borrow_mut();
    if state.protocol.cancel(receive).is_none() && state.protocol.receive_body(receive).is_some() {
        state.orphan_receives.push(Orphan { request: receive, owner: Box::new(buffer) });
    }
}

impl<B: BufferMut + Unpin> Future for ReceiveRequest<'_, B> {
    type Output = Result<(B, Received), Error>;

    /// As that of [`SendRequest`].
    fn poll(self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let request = self.get_mut();
        assert!(!request.buffer.is_taken(), "polled again after it was ready");
        if request.is_done() {
            return Poll::Ready(request.take());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
