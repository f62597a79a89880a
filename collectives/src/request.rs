//! Operations that go on while the program does something else, with the buffers that they own.

use std::cell::{Ref, RefMut};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytemuck::Pod;

use crate::buffers::Owned;
use crate::communicator::Communicator;
use crate::engine::Engine;
use crate::error::Error;
use crate::memory::Combine;
use crate::schedule::Schedule;

/// An operation under way, with its buffers. Whoever waits for anything of the same communicator, or of those made of it, drives it on. Dropped or
/// forgotten, it goes on all the same: the other processes take part in it.
///
/// As a `Future` it makes progress whenever it is polled, as [`ironband::SendRequest`] does.
#[must_use = "wait for it to get the result"]
pub struct Request<'c, T: Pod> {
    engine: Rc<Engine<'c>>,
    owned: Owned<'c, T>,
    /// A future that was ready.
    is_taken: bool,
}

impl<T: Pod> std::fmt::Debug for Request<'_, T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.outcome() {
            Some(outcome) => write!(out, "Request({outcome:?})"),
            None => write!(out, "Request(waits for {:?})", self.owned.task().map(|task| task.waits_for())),
        }
    }
}

impl<'c, T: Pod> Request<'c, T> {
    pub(crate) fn start(
        communicator: &Communicator<'c>,
        schedule: &Rc<Schedule>,
        combine: Rc<dyn Combine>,
        mut owned: Owned<'c, T>,
    ) -> Result<Self, Error> {
        owned.start(communicator, schedule, combine)?;
        Ok(Self { engine: Rc::clone(communicator.group.engine()), owned, is_taken: false })
    }

    fn outcome(&self) -> Option<Result<(), Error>> {
        self.owned.task()?.outcome()
    }

    /// Whether it has ended. Makes progress.
    pub fn is_done(&self) -> bool {
        self.outcome().is_some() || {
            self.engine.context().progress();
            self.engine.tend();
            self.outcome().is_some()
        }
    }

    /// Waits for the end, and gives the buffers back: input and output.
    ///
    /// # Errors
    /// Those that end the communicator. The buffers are dropped then.
    ///
    /// # Panics
    /// When it was polled as a future until it was ready.
    pub fn wait(mut self) -> Result<(Vec<T>, Vec<T>), Error> {
        assert!(!self.is_taken, "waited for after it was ready as a future");
        if let Some(task) = self.owned.task() {
            self.engine.wait_for(task)?;
        }
        Ok(self.owned.take())
    }
}

impl<T: Pod> Future for Request<'_, T> {
    type Output = Result<(Vec<T>, Vec<T>), Error>;

    /// Makes progress, and asks to be polled again soon.
    fn poll(self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        if !self.is_done() {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let request = self.get_mut();
        assert!(!std::mem::replace(&mut request.is_taken, true), "polled again after it was ready");
        Poll::Ready(request.outcome().unwrap_or(Ok(())).map(|()| request.owned.take()))
    }
}

/// An operation with its buffers, to be started again and again: `MPI_Allreduce_init` and `MPI_Start`. As with all operations of a communicator, all
/// processes have to start those under way in the same order.
///
/// ```
/// # use ironband::Context;
/// # use ironband_collectives::{Communicator, operator::Sum};
/// # let context = Context::open()?;
/// let world = Communicator::world(&context)?;
/// let mut persistent = world.plan_allreduce(1, Sum)?.with(vec![1.0], vec![0.0])?;
/// for _ in 0..10 {
///     persistent.start()?;
///     persistent.wait()?;
///     let sum = persistent.output()?[0];
///     persistent.input_mut()?[0] = 1.0 / sum;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Persistent<'c, T: Pod> {
    communicator: Communicator<'c>,
    schedule: Rc<Schedule>,
    combine: Rc<dyn Combine>,
    owned: Owned<'c, T>,
}

impl<'c, T: Pod> Persistent<'c, T> {
    pub(crate) fn new(
        communicator: &Communicator<'c>,
        schedule: &Rc<Schedule>,
        combine: Rc<dyn Combine>,
        owned: Owned<'c, T>,
    ) -> Self {
        Self { communicator: communicator.same(), schedule: Rc::clone(schedule), combine, owned }
    }

    /// Begins it. One that is under way is waited for before.
    ///
    /// # Errors
    /// Those that end the communicator.
    pub fn start(&mut self) -> Result<(), Error> {
        self.wait()?;
        self.owned.start(&self.communicator, &self.schedule, Rc::clone(&self.combine))
    }

    /// Waits for its end, if it is under way.
    ///
    /// # Errors
    /// Those that end the communicator.
    pub fn wait(&self) -> Result<(), Error> {
        self.owned.task().map_or(Ok(()), |task| self.communicator.group.engine().wait_for(task))
    }

    /// The input, for the next start. Waits for the end, if it is under way.
    ///
    /// # Errors
    /// As [`Persistent::wait`].
    pub fn input_mut(&mut self) -> Result<RefMut<'_, [T]>, Error> {
        self.wait()?;
        Ok(self.owned.input_mut())
    }

    /// The output. Waits for the end, if it is under way.
    ///
    /// # Errors
    /// As [`Persistent::wait`].
    pub fn output(&self) -> Result<Ref<'_, [T]>, Error> {
        self.wait()?;
        Ok(self.owned.output())
    }

    /// The buffers: input and output. Waits for the end, if it is under way.
    ///
    /// # Errors
    /// As [`Persistent::wait`]. The buffers are dropped then.
    pub fn into_buffers(mut self) -> Result<(Vec<T>, Vec<T>), Error> {
        self.wait()?;
        Ok(self.owned.take())
    }

    /// As [`Persistent::output`], to be changed: what the root of a broadcast gives is in there.
    ///
    /// # Errors
    /// As [`Persistent::wait`].
    pub fn output_mut(&mut self) -> Result<RefMut<'_, [T]>, Error> {
        self.wait()?;
        Ok(self.owned.output_mut())
    }
}
