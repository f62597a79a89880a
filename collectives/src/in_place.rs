//! Operations in place: one vector at each process, which is its input and its output. `MPI_IN_PLACE`.

use std::cell::{Ref, RefMut};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytemuck::Pod;

use crate::buffers::{self, Owned, Parts};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::operation::Operation;
use crate::plan::{Combining, check_len};
use crate::request::{Persistent, Request};
use crate::schedule::{Blocks, Schedule};

/// How an operation that was planned for two vectors is done in one.
#[derive(Debug)]
pub(crate) enum OneVector {
    /// By the same schedule, in these parts of it.
    Parts(Parts),
    /// As this operation, in the whole vector.
    By(Operation),
    /// By an exchange of these blocks, in the whole vector.
    Exchange(Blocks),
    /// Not at all.
    Not(Error),
}

/// An operation that is ready to be run in one vector, which has at the start what MPI wants there, and the result in the end. From
/// [`Plan::in_place`](crate::Plan::in_place).
///
/// | operation | the vector before | the vector behind |
/// |---|---|---|
/// | `allreduce`, `scan` | the input | the output |
/// | `exscan` | the input | the output; that of rank 0 stays |
/// | `reduce` | the input | the output at the root; that of others stays |
/// | `reduce_scatter`, `reduce_scatter_block` | the input | the output at its beginning; the rest stays |
/// | `allgather`, `allgatherv` | room for all blocks, with the own one in its place | all blocks |
/// | `gather`, `gatherv` | at the root the same; at others the own block | at the root all blocks |
/// | `scatter`, `scatterv` | at the root all blocks; at others room for the own one | at the root the same; at others the own block |
/// | `alltoall`, `alltoallv` | the blocks for all | the blocks of all |
/// | `bcast` | what the root gives | the same at all |
///
/// Nothing is copied for that, but in an `alltoall` what comes: it waits beside, as many blocks at a time as
/// [`Table::window`](crate::Table::window) says, until what is in its place has gone.
///
/// ```
/// # use ironband::Context;
/// # use ironband_collectives::Communicator;
/// # let context = Context::open()?;
/// let world = Communicator::world(&context)?;
/// let plan = world.plan_allgather(1)?.in_place()?;
/// let mut ranks = vec![0; world.size() as usize];
/// ranks[world.rank() as usize] = world.rank();
/// plan.run(&mut ranks)?;
/// // Or while something else is done:
/// let again = plan.start(ranks.clone())?.wait()?;
/// assert_eq!(again, ranks);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct InPlacePlan<'p, 'c, T, C> {
    pub(crate) communicator: &'p Communicator<'c>,
    pub(crate) schedule: Rc<Schedule>,
    pub(crate) combining: C,
    pub(crate) parts: Parts,
    pub(crate) element: PhantomData<T>,
}

impl<T, C> std::fmt::Debug for InPlacePlan<'_, '_, T, C> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { communicator, parts, .. } = self;
        write!(out, "InPlacePlan({communicator:?}, {parts:?})")
    }
}

impl<'c, T: Pod, C: Combining> InPlacePlan<'_, 'c, T, C> {
    /// Whose operation it is.
    pub const fn communicator(&self) -> &Communicator<'c> {
        self.communicator
    }

    /// How many elements the vector of this process has.
    pub fn len(&self) -> u64 {
        self.parts.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The schedule that was chosen. Its input and its output are parts of the vector.
    pub const fn schedule(&self) -> &Rc<Schedule> {
        &self.schedule
    }

    /// Runs it until it has ended.
    ///
    /// # Errors
    /// [`Error::Length`]; those that end the communicator.
    pub fn run(&self, vector: &mut [T]) -> Result<(), Error> {
        self.check(vector.len())?;
        buffers::run_in_place(
            self.communicator,
            &self.schedule,
            self.combining.operator(),
            self.parts,
            vector,
        )
    }

    /// Begins it. The request owns the vector, and gives it back with [`InPlaceRequest::wait`]; dropped or forgotten, the operation goes on all
    /// the same.
    ///
    /// ```compile_fail,E0382
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open().unwrap();
    /// # let world = Communicator::world(&context).unwrap();
    /// # let plan = world.plan_allreduce(1, Sum).unwrap().in_place().unwrap();
    /// let sums = vec![1];
    /// let request = plan.start(sums).unwrap();
    /// println!("{}", sums[0]);
    /// ```
    ///
    /// # Errors
    /// As [`InPlacePlan::run`]; the vector is dropped then.
    pub fn start(&self, vector: Vec<T>) -> Result<InPlaceRequest<'c, T>, Error> {
        self.check(vector.len())?;
        let owned = Owned::in_place(vector, self.parts);
        let request = Request::start(self.communicator, &self.schedule, self.combining.kept(), owned);
        Ok(InPlaceRequest { request: request? })
    }

    /// With a vector, to be started again and again.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn with(&self, vector: Vec<T>) -> Result<InPlacePersistent<'c, T>, Error> {
        self.check(vector.len())?;
        let owned = Owned::in_place(vector, self.parts);
        let persistent = Persistent::new(self.communicator, &self.schedule, self.combining.kept(), owned);
        Ok(InPlacePersistent { persistent })
    }

    pub(crate) fn check(&self, len: usize) -> Result<(), Error> {
        check_len("in-place", len as u64, self.parts.len, "the operation was planned for so many")
    }
}

/// An operation under way in place, with its vector; else as [`Request`].
#[must_use = "wait for it to get the result"]
pub struct InPlaceRequest<'c, T: Pod> {
    request: Request<'c, T>,
}

impl<T: Pod> std::fmt::Debug for InPlaceRequest<'_, T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request.fmt(out)
    }
}

impl<T: Pod> InPlaceRequest<'_, T> {
    /// Whether it has ended. Makes progress.
    pub fn is_done(&self) -> bool {
        self.request.is_done()
    }

    /// Waits for the end, and gives the vector back.
    ///
    /// # Errors
    /// Those that end the communicator. The vector is dropped then.
    pub fn wait(self) -> Result<Vec<T>, Error> {
        self.request.wait().map(|(_, vector)| vector)
    }
}

impl<T: Pod> Future for InPlaceRequest<'_, T> {
    type Output = Result<Vec<T>, Error>;

    /// Makes progress, and asks to be polled again soon.
    fn poll(self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let request = Pin::new(&mut self.get_mut().request);
        request.poll(task).map(|outcome| outcome.map(|(_, vector)| vector))
    }
}

/// An operation in place with its vector, to be started again and again; else as [`Persistent`].
///
/// ```
/// # use ironband::Context;
/// # use ironband_collectives::{Communicator, operator::Sum};
/// # let context = Context::open()?;
/// let world = Communicator::world(&context)?;
/// let mut persistent = world.plan_allreduce(1, Sum)?.in_place()?.with(vec![1.0])?;
/// for _ in 0..10 {
///     persistent.start()?;
///     let sum = persistent.vector()?[0];
///     persistent.vector_mut()?[0] = 1.0 / sum;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Nobody looks at the vector while it is under way:
///
/// ```compile_fail,E0502
/// # use ironband::Context;
/// # use ironband_collectives::{Communicator, operator::Sum};
/// # let context = Context::open().unwrap();
/// # let world = Communicator::world(&context).unwrap();
/// # let mut persistent = world.plan_allreduce(1, Sum).unwrap().in_place().unwrap().with(vec![1.0]).unwrap();
/// let sums = persistent.vector().unwrap();
/// persistent.start().unwrap();
/// println!("{}", sums[0]);
/// ```
pub struct InPlacePersistent<'c, T: Pod> {
    persistent: Persistent<'c, T>,
}

impl<T: Pod> InPlacePersistent<'_, T> {
    /// Begins it. One that is under way is waited for before.
    ///
    /// # Errors
    /// Those that end the communicator.
    pub fn start(&mut self) -> Result<(), Error> {
        self.persistent.start()
    }

    /// Waits for its end, if it is under way.
    ///
    /// # Errors
    /// Those that end the communicator.
    pub fn wait(&self) -> Result<(), Error> {
        self.persistent.wait()
    }

    /// The vector. Waits for the end, if it is under way.
    ///
    /// # Errors
    /// As [`InPlacePersistent::wait`].
    pub fn vector(&self) -> Result<Ref<'_, [T]>, Error> {
        self.persistent.output()
    }

    /// The vector, for the next start. Waits for the end, if it is under way.
    ///
    /// # Errors
    /// As [`InPlacePersistent::wait`].
    pub fn vector_mut(&mut self) -> Result<RefMut<'_, [T]>, Error> {
        self.persistent.output_mut()
    }

    /// The vector. Waits for the end, if it is under way.
    ///
    /// # Errors
    /// As [`InPlacePersistent::wait`]. The vector is dropped then.
    pub fn into_vector(self) -> Result<Vec<T>, Error> {
        self.persistent.into_buffers().map(|(_, vector)| vector)
    }
}
