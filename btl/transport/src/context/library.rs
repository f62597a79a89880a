//! What libraries above need beside messages, such as collective operations.

use std::any::TypeId;
use std::rc::Rc;

use super::{Context, Error, Pattern};

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
