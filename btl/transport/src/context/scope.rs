//! Requests with borrowed buffers, which none outlives: as `std::thread::scope` for threads.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ptr::NonNull;

use ironband_core::protocol::{Handle, Received};

use super::body::{Outgoing, Target};
use super::request::EndBeforeReturn;
use super::{Context, Error, Pattern};

/// Where requests with borrowed buffers are begun; see [`Context::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    context: &'env Context,
    /// All that were begun. Each waits for its request when it is dropped, if nobody has done so before.
    begun: RefCell<Vec<EndBeforeReturn<'env>>>,
    /// Neither lifetime may be taken for a shorter one: a buffer has to outlive the whole scope.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl Context {
    /// Calls `work`, in which sends and receives with borrowed buffers may be begun. All of them have ended when this returns, also
    /// those that were dropped or forgotten; a receive that no message comes for is waited for, as a thread would be. If `work`
    /// panics, receives without a message are taken back, and sends are waited for.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let (edge, mut halo) = ([1, 2, 3], [0; 3]);
    /// let own = context.rank();
    /// context.scope(|scope| {
    ///     let coming = scope.start_receive(Pattern::exact(own, 7), &mut halo)?;
    ///     let going = scope.start_send(own, 7, &edge)?;
    ///     coming.wait()?;
    ///     going.wait()
    /// })??;
    /// assert_eq!(halo, edge);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// A buffer of the closure itself would be gone before the request:
    ///
    /// ```compile_fail,E0597
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open().unwrap();
    /// context.scope(|scope| {
    ///     let mut halo = [0; 3];
    ///     let _coming = scope.start_receive(Pattern::anything(), &mut halo);
    /// });
    /// ```
    ///
    /// And what a request may write cannot be read, even if the request was dropped:
    ///
    /// ```compile_fail,E0502
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open().unwrap();
    /// let mut halo = [0; 3];
    /// context.scope(|scope| {
    ///     drop(scope.start_receive(Pattern::anything(), &mut halo));
    ///     println!("{halo:?}");
    /// });
    /// ```
    ///
    /// # Errors
    /// The first failure of a request that was not waited for.
    pub fn scope<'env, T>(
        &'env self,
        work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
    ) -> Result<T, Error> {
        let scope = Scope { context: self, begun: RefCell::default(), scope: PhantomData, env: PhantomData };
        let result = work(&scope);
        let mut outcome = Ok(());
        // One by one, so that a panic of a handler leaves the others to the scope.
        loop {
            let Some(guard) = scope.begun.borrow_mut().pop() else { break };
            outcome = guard.end().and(outcome);
        }
        outcome.map(|()| result)
    }
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Begins to send a message to this rank.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`]; as [`Endpoint::send`](super::Endpoint::send).
    pub fn start_send(
        &'scope self,
        rank: u32,
        tag: u64,
        data: &'scope [u8],
    ) -> Result<ScopedSend<'scope>, Error> {
        let context: &'scope Context = self.context;
        context.check_rank(rank)?;
        if context.send_now(rank, tag, data) {
            return Ok(ScopedSend { context, handle: None });
        }
        // SAFETY: `data` is borrowed for the scope, which waits for the end of the send.
        let body = unsafe { Outgoing::new(data.as_ptr(), data.len()) };
        let send = context.begin_send(rank, tag, body)?;
        self.begun.borrow_mut().push(EndBeforeReturn::of_send(self.context, send));
        Ok(ScopedSend { context, handle: Some(send) })
    }

    /// Begins to receive the first message that matches.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`] when the pattern names a source that there is not.
    pub fn start_receive(
        &'scope self,
        pattern: Pattern,
        buffer: &'scope mut [u8],
    ) -> Result<ScopedReceive<'scope>, Error> {
        let context: &'scope Context = self.context;
        let buffer = NonNull::from(buffer);
        // SAFETY: the buffer is borrowed for the scope, which waits for the end of the receive, and is given back after that.
        let target = unsafe { Target::new(buffer.as_ptr().cast(), buffer.len()) };
        let receive = context.begin_receive(pattern, target)?;
        self.begun.borrow_mut().push(EndBeforeReturn::of_receive(self.context, receive));
        Ok(ScopedReceive { context, handle: receive, buffer, borrow: PhantomData })
    }
}

/// A message that is being sent from a borrowed buffer.
#[must_use = "wait for it to know whether the message was sent"]
pub struct ScopedSend<'scope> {
    context: &'scope Context,
    /// None for one that has ended at once.
    handle: Option<Handle>,
}

impl ScopedSend<'_> {
    /// Waits until the message was sent: a short one may be under way then, a long one has been received.
    ///
    /// # Errors
    /// [`Error::PeerLost`], [`Error::NotMoved`].
    pub fn wait(self) -> Result<(), Error> {
        self.handle.map_or(Ok(()), |send| self.context.finish_send(send))
    }
}

/// A message that is awaited in a borrowed buffer.
#[must_use = "wait for it to know what was received"]
pub struct ScopedReceive<'scope> {
    context: &'scope Context,
    handle: Handle,
    buffer: NonNull<[u8]>,
    borrow: PhantomData<&'scope mut [u8]>,
}

impl<'scope> ScopedReceive<'scope> {
    /// Waits for the message, and gives what the buffer was borrowed as back, with what was received.
    ///
    /// # Errors
    /// As [`Context::receive`].
    pub fn wait(self) -> Result<(&'scope mut [u8], Received), Error> {
        let received = self.context.finish_receive(self.handle)?;
        // SAFETY: it was borrowed for as long, and the receive, which has ended and was taken out, was its only user.
        Ok((unsafe { &mut *self.buffer.as_ptr() }, received))
    }
}
