//! What libraries above need beside messages, such as collective operations.

use std::any::TypeId;
use std::rc::Rc;

use super::body::Target;
use super::{Context, Error, Pattern, Received};

impl Context {
    /// What a library keeps with this context: one value of each type, made when it is first asked for.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// # let context = ironband::Context::open()?;
    /// #[derive(Default)]
    /// struct Calls(Cell<u32>);
    /// context.extension::<Calls>().0.set(3);
    /// assert_eq!(context.extension::<Calls>().0.get(), 3);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    pub fn extension<T: Default + 'static>(&self) -> Rc<T> {
        let known = self.extensions.borrow().get(&TypeId::of::<T>()).cloned();
        let known = known.and_then(|value| value.downcast::<T>().ok());
        known.unwrap_or_else(|| {
            let new = Rc::new(T::default());
            self.extensions.borrow_mut().insert(TypeId::of::<T>(), Rc::<T>::clone(&new));
            new
        })
    }

    /// Sends a short message at once, if that can be done without waiting: true then, and `data` may be used again. Else nothing was done, and
    /// [`Endpoint::start_send`](crate::Endpoint::start_send) is for it: the message is long, there is no room now, an older one waits to be sent, or the other process
    /// was never spoken to.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let own = context.endpoint(context.rank())?;
    /// own.send(7, b"first")?;
    /// assert!(context.try_send(context.rank(), 7, b"second"));
    /// assert!(!context.try_send(context.rank(), 7, &vec![0; 1 << 30]));
    /// # Ok::<(), ironband::Error>(())
    /// ```
    #[inline]
    pub fn try_send(&self, rank: u32, tag: u64, data: &[u8]) -> bool {
        self.send_now(rank, tag, data)
    }

    /// Receives a message into `buffer` as [`Context::receive`] does, if it comes within a moment, some microseconds. Otherwise nothing was
    /// done, and [`Context::start_receive`] is for it. Always so if another receive is posted, a message kept,
    /// or something else to be done, and with a pattern of any source.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let pattern = Pattern::exact(context.rank(), 7);
    /// let mut buffer = [0; 5];
    /// assert!(context.try_receive(pattern, &mut buffer).is_none());
    /// context.endpoint(context.rank())?.send(7, b"hello")?;
    /// if let Some(received) = context.try_receive(pattern, &mut buffer) {
    ///     assert_eq!((received?.len_bytes, &buffer), (5, b"hello"));
    /// }
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Context::receive`].
    #[inline]
    pub fn try_receive(&self, pattern: Pattern, buffer: &mut [u8]) -> Option<Result<Received, Error>> {
        // SAFETY: `buffer` is borrowed until this function returns, and nothing is posted that would know it longer.
        let target = unsafe { Target::new(buffer.as_mut_ptr(), buffer.len()) };
        self.receive_soon(pattern, target, false)
    }

    /// Throws away all messages that match and that no receive waits for, now and from now on; their senders are told that they were sent.
    /// For a conversation that has been given up: its messages would be kept for ever, and senders of long ones would wait for ever.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let own = context.endpoint(context.rank())?;
    /// let request = own.start_send(7, vec![0_u8; 1_000_000])?;
    /// context.refuse(Pattern::any_source(7));
    /// request.wait()?;
    /// assert!(context.probe(Pattern::anything()).is_none());
    /// # Ok::<(), ironband::Error>(())
    /// ```
    pub fn refuse(&self, pattern: Pattern) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.protocol.refuse(pattern);
        self.say_news(state);
    }

    /// Ends the connection to a process that is of no use any more; it is lost from now on, and so is this process to it, which is told
    /// the reason. Requests to and from it end.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn part_with(&self, rank: u32, reason: &str) -> Result<(), Error> {
        self.check_rank(rank)?;
        self.give_up(&mut self.state.borrow_mut(), rank, reason.to_owned());
        Ok(())
    }

    /// Whether a process has said that it goes on without this one, by [`Context::part_with`] or because it took this one for broken: it is lost, and
    /// yet it lived then.
    pub fn is_given_up_by(&self, rank: u32) -> bool {
        self.state.borrow().given_up_by.contains(&rank)
    }

    /// One step of waiting for something that messages bring: makes progress, and says whether there was nothing to do. Given that this was so the
    /// last time, it first looks where the next message will arrive, which takes less time than a call of [`Context::progress`].
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let request = context.start_receive(Pattern::any_source(7), vec![0_u8; 2])?;
    /// context.endpoint(context.rank())?.send(7, b"ab")?;
    /// let mut is_idle = false;
    /// while !request.has_ended() {
    ///     is_idle = context.wait_step(is_idle);
    /// }
    /// assert_eq!(request.wait()?.0, b"ab");
    /// # Ok::<(), ironband::Error>(())
    /// ```
    #[inline]
    pub fn wait_step(&self, was_idle: bool) -> bool {
        if was_idle && let [only] = &self.devices[..] {
            only.watch();
        }
        self.progress() == 0 && self.state.borrow().is_quiet()
    }
}
