//! An operation that is ready to be run, as often as one likes: `MPI_Allreduce_init` and the like. The schedule is made, and the
//! lengths are known; buffers are given when it is run.

use std::marker::PhantomData;
use std::rc::Rc;

use bytemuck::Pod;

use crate::algorithms::alltoall;
use crate::buffers::{self, Owned, Parts};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::in_place::{InPlacePlan, OneVector};
use crate::memory::{Combine, Nothing, Typed};
use crate::operator::Operator;
use crate::planning::check_sum;
use crate::request::{Persistent, Request};
use crate::schedule::{Schedule, Step};

/// With what an operation combines.
pub trait Combining: Clone + 'static {
    /// The operator, if there is one.
    #[doc(hidden)]
    fn operator(&self) -> Option<&dyn Combine>;

    /// As long as an operation is under way.
    #[doc(hidden)]
    fn kept(&self) -> Rc<dyn Combine>;
}

/// With nothing: the operation only moves elements.
impl Combining for () {
    fn operator(&self) -> Option<&dyn Combine> {
        None
    }

    fn kept(&self) -> Rc<dyn Combine> {
        Rc::new(Nothing)
    }
}

impl<T: Pod, O: Operator<T>> Combining for Typed<T, O> {
    fn operator(&self) -> Option<&dyn Combine> {
        Some(self)
    }

    fn kept(&self) -> Rc<dyn Combine> {
        Rc::new(self.clone())
    }
}

/// An operation of a communicator on elements of a type, ready to be run.
///
/// ```
/// # use ironband::Context;
/// # use ironband_collectives::{Communicator, operator::Sum};
/// # let context = Context::open()?;
/// let world = Communicator::world(&context)?;
/// let plan = world.plan_allreduce(3, Sum)?;
/// let mut sums = [0; 3];
/// plan.run(&[1, 2, 3], &mut sums)?;
/// // Or while something else is done:
/// let request = plan.start(vec![1, 2, 3], vec![0; 3])?;
/// let (_input, again) = request.wait()?;
/// assert_eq!(again, sums);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Plan<'p, 'c, T, C> {
    pub(crate) communicator: &'p Communicator<'c>,
    pub(crate) schedule: Rc<Schedule>,
    pub(crate) combining: C,
    input_len: u64,
    output_len: u64,
    one_vector: OneVector,
    element: PhantomData<T>,
}

impl<T, C> std::fmt::Debug for Plan<'_, '_, T, C> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { communicator, input_len, output_len, .. } = self;
        write!(out, "Plan({communicator:?}, {input_len} elements to {output_len})")
    }
}

/// `buffer` has to have so many elements.
pub(crate) fn check_len(
    buffer: &'static str,
    got: u64,
    expected: u64,
    rule: &'static str,
) -> Result<(), Error> {
    if got == expected { Ok(()) } else { Err(Error::Length { buffer, got, expected, rule }) }
}

impl<'p, 'c, T: Pod, C: Combining> Plan<'p, 'c, T, C> {
    /// In place input and output both are from the first element on.
    pub(crate) fn new(
        communicator: &'p Communicator<'c>,
        schedule: Rc<Schedule>,
        combining: C,
        input_len: u64,
        output_len: u64,
    ) -> Self {
        let parts = Parts { len: input_len.max(output_len), input: (0, input_len), output: (0, output_len) };
        let one_vector = OneVector::Parts(parts);
        Self { communicator, schedule, combining, input_len, output_len, one_vector, element: PhantomData }
    }

    /// Whose operation it is.
    pub const fn communicator(&self) -> &Communicator<'c> {
        self.communicator
    }

    /// How many elements the input of this process has.
    pub fn input_len(&self) -> u64 {
        self.input_len
    }

    /// How many elements the output of this process has.
    pub fn output_len(&self) -> u64 {
        self.output_len
    }

    /// The schedule that was chosen.
    pub const fn schedule(&self) -> &Rc<Schedule> {
        &self.schedule
    }

    /// The same operation by another schedule, such as one of [`crate::algorithms`] that no table chooses. All processes have to take that of the same
    /// algorithm.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, algorithms::bcast, schedule::Place};
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let place = Place { rank: world.rank(), size: world.size() };
    /// let plan = world.plan_bcast(0, 1000)?.by(bcast::chain(place, 0, 1000, 100))?;
    /// plan.run(&[], &mut [7; 1000])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Schedule`] when it is none for this process and these lengths, or combines in an operation that has no operator.
    pub fn by(self, schedule: Schedule) -> Result<Self, Error> {
        let sound = schedule.check(self.communicator.place(), self.input_len, self.output_len);
        sound.map_err(|wrong| Error::Schedule { wrong })?;
        if check_sum::<T>(Some(schedule.scratch)).is_err() {
            return Err(Error::Schedule {
                wrong: format!("no memory has {} elements of scratch", schedule.scratch),
            });
        }
        let mut steps = schedule.rounds().iter().flat_map(|round| &round.steps);
        if self.combining.operator().is_none() && steps.any(|step| matches!(step, Step::Combine { .. })) {
            return Err(Error::Schedule {
                wrong: "it combines, and the operation has no operator".to_owned(),
            });
        }
        let one_vector = OneVector::Not(Error::NotInPlace {
            operation: "an operation by a schedule of the program's",
            rule: "it may need its input when it has begun with the output; give it two",
        });
        Ok(Self { schedule: Rc::new(schedule), one_vector, ..self })
    }

    /// Runs it until it has ended.
    ///
    /// # Errors
    /// [`Error::Length`]; those that end the communicator.
    pub fn run(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.check(input.len(), output.len())?;
        buffers::run(self.communicator, &self.schedule, self.combining.operator(), input, output)
    }

    /// The same in one vector, which is input and output: `MPI_IN_PLACE`. All processes have to do so, or none, in a
    /// [`Communicator::alltoall`] and a [`Communicator::alltoallv`]; in all others it is each one's own affair.
    ///
    /// # Errors
    /// [`Error::NotInPlace`] for [`Communicator::neighbour_exchange`]; [`Error::Length`] for [`Communicator::alltoallv`] if this process does not
    /// get as many elements from each as it gives.
    pub fn in_place(self) -> Result<InPlacePlan<'p, 'c, T, C>, Error> {
        let Self { communicator, schedule, combining, input_len, output_len, one_vector, .. } = self;
        let whole = Parts { len: output_len, input: (0, input_len), output: (0, output_len) };
        let (schedule, parts) = match one_vector {
            OneVector::Parts(parts) => (schedule, parts),
            OneVector::By(operation) => (communicator.schedule(operation, size_of::<T>()), whole),
            OneVector::Exchange(blocks) => {
                (alltoall::exchange(communicator.place(), &blocks, communicator.table.window).into(), whole)
            }
            OneVector::Not(error) => return Err(error),
        };
        Ok(InPlacePlan { communicator, schedule, combining, parts, element: PhantomData })
    }

    /// Begins it. The request owns the buffers, and gives them back with [`Request::wait`]; dropped or forgotten, the operation goes on all the
    /// same.
    ///
    /// # Errors
    /// As [`Plan::run`]; the buffers are dropped then.
    pub fn start(&self, input: Vec<T>, output: Vec<T>) -> Result<Request<'c, T>, Error> {
        self.check(input.len(), output.len())?;
        let owned = Owned::new(input, output);
        Request::start(self.communicator, &self.schedule, self.combining.kept(), owned)
    }

    /// With buffers, to be started again and again.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn with(&self, input: Vec<T>, output: Vec<T>) -> Result<Persistent<'c, T>, Error> {
        self.check(input.len(), output.len())?;
        let owned = Owned::new(input, output);
        Ok(Persistent::new(self.communicator, &self.schedule, self.combining.kept(), owned))
    }

    /// In place it is done like this.
    pub(crate) fn with_one_vector(self, one_vector: OneVector) -> Self {
        Self { one_vector, ..self }
    }

    /// In place the input is from this element of the output on.
    pub(crate) fn with_input_at(self, start: u64) -> Self {
        let (input, output) = ((start, self.input_len), (0, self.output_len));
        let parts = Parts { len: self.output_len, input, output };
        self.with_one_vector(OneVector::Parts(parts))
    }

    /// In place the output is from this element of the input on.
    pub(crate) fn with_output_at(self, start: u64) -> Self {
        let (input, output) = ((0, self.input_len), (start, self.output_len));
        let parts = Parts { len: self.input_len, input, output };
        self.with_one_vector(OneVector::Parts(parts))
    }

    pub(crate) fn check(&self, input: usize, output: usize) -> Result<(), Error> {
        const RULE: &str = "the operation was planned for so many";
        check_len("input", input as u64, self.input_len, RULE)?;
        check_len("output", output as u64, self.output_len, RULE)
    }
}
