//! An operation that is ready to be run, as often as one likes: `MPI_Allreduce_init` and the like. The schedule is made, and the
//! lengths are known; buffers are given when it is run.

use std::marker::PhantomData;
use std::rc::Rc;

use bytemuck::Pod;

use crate::algorithms::{allgather, alltoall, gather, neighbour, scatter};
use crate::buffers;
use crate::choose::Operation;
use crate::communicator::Communicator;
use crate::error::Error;
use crate::memory::{Combine, Nothing, Typed};
use crate::operator::Operator;
use crate::request::{Persistent, Request};
use crate::schedule::{Blocks, Schedule};

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
    /// Its input and output may be the same memory.
    in_place: bool,
    element: PhantomData<T>,
}

impl<T, C> std::fmt::Debug for Plan<'_, '_, T, C> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { communicator, input_len, output_len, .. } = self;
        write!(out, "Plan({communicator:?}, {input_len} elements to {output_len})")
    }
}

/// More elements fit no memory.
const LEN_MAX: u64 = 1 << 48;

/// So many elements have to fit memory; `None` could not be counted.
fn check_sum(elements: Option<u64>) -> Result<u64, Error> {
    let elements = elements.unwrap_or(u64::MAX);
    if elements <= LEN_MAX { Ok(elements) } else { Err(Error::TooLong { elements }) }
}

/// Blocks of these lengths, one behind the other.
fn blocks_of(counts: &[u64]) -> Result<Blocks, Error> {
    check_sum(counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count)))?;
    Ok(Blocks::of_counts(counts))
}

/// `buffer` has to have so many elements.
fn check_len(buffer: &'static str, got: u64, expected: u64, rule: &'static str) -> Result<(), Error> {
    if got == expected { Ok(()) } else { Err(Error::Length { buffer, got, expected, rule }) }
}

impl<'c, T: Pod, C: Combining> Plan<'_, 'c, T, C> {
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

    /// Runs it until it has ended.
    ///
    /// # Errors
    /// [`Error::Length`]; those that end the communicator.
    pub fn run(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.check(input.len(), output.len())?;
        buffers::run(self.communicator, &self.schedule, self.combining.operator(), input, output)
    }

    /// Runs it in one vector, which is the input and then the output. An operation that sends what it receives to, as
    /// [`Communicator::alltoall`] does, makes a copy before.
    ///
    /// # Errors
    /// As [`Plan::run`].
    ///
    /// # Panics
    /// When input and output are not equally long.
    pub fn run_in_place(&self, vector: &mut [T]) -> Result<(), Error> {
        assert_eq!(self.input_len, self.output_len, "only what is as long can be the same");
        self.check(vector.len(), vector.len())?;
        if !self.in_place {
            let input = vector.to_vec();
            return self.run(&input, vector);
        }
        buffers::run_in_place(self.communicator, &self.schedule, self.combining.operator(), vector)
    }

    /// Begins it. The request owns the buffers, and gives them back with [`Request::wait`]; dropped or forgotten, the operation goes on all the
    /// same.
    ///
    /// # Errors
    /// As [`Plan::run`]; the buffers are dropped then.
    pub fn start(&self, input: Vec<T>, output: Vec<T>) -> Result<Request<'c, T>, Error> {
        self.check(input.len(), output.len())?;
        Request::start(self.communicator, &self.schedule, self.combining.kept(), input, output)
    }

    /// With buffers, to be started again and again.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn with(&self, input: Vec<T>, output: Vec<T>) -> Result<Persistent<'c, T>, Error> {
        self.check(input.len(), output.len())?;
        Ok(Persistent::new(self.communicator, &self.schedule, self.combining.kept(), input, output))
    }

    pub(crate) fn check(&self, input: usize, output: usize) -> Result<(), Error> {
        const RULE: &str = "the operation was planned for so many";
        check_len("input", input as u64, self.input_len, RULE)?;
        check_len("output", output as u64, self.output_len, RULE)
    }
}

// ---- what can be planned ----------------------------------------------------------------------------------------------

impl<'c> Communicator<'c> {
    fn plan<T: Pod, C: Combining>(
        &self,
        schedule: Rc<Schedule>,
        combining: C,
        input_len: u64,
        output_len: u64,
    ) -> Plan<'_, 'c, T, C> {
        let element = PhantomData;
        Plan { communicator: self, schedule, combining, input_len, output_len, in_place: true, element }
    }

    fn plan_known<T: Pod, C: Combining>(
        &self,
        operation: Operation,
        combining: C,
        input_len: u64,
        output_len: u64,
    ) -> Plan<'_, 'c, T, C> {
        self.plan(self.schedule(operation, size_of::<T>()), combining, input_len, output_len)
    }

    /// [`Communicator::barrier`]; the buffers are empty.
    pub fn plan_barrier(&self) -> Plan<'_, 'c, u8, ()> {
        self.plan_known(Operation::Barrier, (), 0, 0)
    }

    /// [`Root::bcast`](crate::Root::bcast) of so many elements: the input is empty, and the output is what the root gives and the others get.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn plan_bcast<T: Pod>(&self, root: u32, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        self.check_rank(root)?;
        Ok(self.plan_known(Operation::Bcast { root, len }, (), 0, len))
    }

    /// [`Root::reduce`](crate::Root::reduce) of so many elements.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn plan_reduce<T: Pod, O: Operator<T>>(
        &self,
        root: u32,
        len: u64,
        operator: O,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        self.check_rank(root)?;
        let operation = Operation::Reduce { root, len, commutes: O::COMMUTATIVE };
        let output_len = if self.rank() == root { len } else { 0 };
        Ok(self.plan_known(operation, Typed::new(operator), len, output_len))
    }

    /// [`Communicator::allreduce`] of so many elements.
    ///
    /// # Errors
    /// None today.
    pub fn plan_allreduce<T: Pod, O: Operator<T>>(
        &self,
        len: u64,
        operator: O,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        let operation = Operation::Allreduce { len, commutes: O::COMMUTATIVE };
        Ok(self.plan_known(operation, Typed::new(operator), len, len))
    }

    /// [`Communicator::reduce_scatter_block`] of so many elements for each rank.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_reduce_scatter_block<T: Pod, O: Operator<T>>(
        &self,
        len: u64,
        operator: O,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        let operation = Operation::ReduceScatterBlock { len, commutes: O::COMMUTATIVE };
        Ok(self.plan_known(operation, Typed::new(operator), self.for_each(len)?, len))
    }

    /// [`Communicator::reduce_scatter`] with blocks of these lengths.
    ///
    /// # Errors
    /// [`Error::Length`] when there is not one for each rank.
    pub fn plan_reduce_scatter<T: Pod, O: Operator<T>>(
        &self,
        counts: &[u64],
        operator: O,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        let blocks = self.blocks(counts)?;
        let schedule = self.chooser(size_of::<T>()).reduce_scatter(&blocks, O::COMMUTATIVE);
        Ok(self.plan(schedule.into(), Typed::new(operator), blocks.end(), blocks.len_of(self.rank())))
    }

    /// A block for each rank, one behind the other.
    fn blocks(&self, counts: &[u64]) -> Result<Blocks, Error> {
        check_len("counts", counts.len() as u64, self.size().into(), "there is a count for each rank")?;
        blocks_of(counts)
    }

    /// So many elements for each rank.
    fn for_each(&self, len: u64) -> Result<u64, Error> {
        check_sum(len.checked_mul(self.size().into()))
    }

    /// [`Root::gather`](crate::Root::gather) of so many elements from each rank.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn plan_gather<T: Pod>(&self, root: u32, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        self.check_rank(root)?;
        let all = self.for_each(len)?;
        let output_len = if self.rank() == root { all } else { 0 };
        Ok(self.plan_known(Operation::Gather { root, len }, (), len, output_len))
    }

    /// [`Root::gatherv`](crate::Root::gatherv) of so many elements from this rank; only the root gives the counts of all.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::Length`].
    pub fn plan_gatherv<T: Pod>(
        &self,
        root: u32,
        len: u64,
        counts: Option<&[u64]>,
    ) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let blocks = self.blocks_of_root(root, len, counts)?;
        let schedule = gather::direct(self.place(), root, len, blocks.as_ref(), self.table.window);
        Ok(self.plan(schedule.into(), (), len, blocks.map_or(0, |blocks| blocks.end())))
    }

    fn blocks_of_root(&self, root: u32, len: u64, counts: Option<&[u64]>) -> Result<Option<Blocks>, Error> {
        self.check_rank(root)?;
        if self.rank() != root {
            return Ok(None);
        }
        let blocks = self.blocks(counts.unwrap_or_default())?;
        check_len("own", len, blocks.len_of(root), "it is as long as the own count says")?;
        Ok(Some(blocks))
    }

    /// [`Root::scatter`](crate::Root::scatter) of so many elements to each rank.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn plan_scatter<T: Pod>(&self, root: u32, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        self.check_rank(root)?;
        let all = self.for_each(len)?;
        let input_len = if self.rank() == root { all } else { 0 };
        Ok(self.plan_known(Operation::Scatter { root, len }, (), input_len, len))
    }

    /// [`Root::scatterv`](crate::Root::scatterv) of so many elements to this rank; only the root gives the counts of all.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::Length`].
    pub fn plan_scatterv<T: Pod>(
        &self,
        root: u32,
        len: u64,
        counts: Option<&[u64]>,
    ) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let blocks = self.blocks_of_root(root, len, counts)?;
        let schedule = scatter::direct(self.place(), root, len, blocks.as_ref(), self.table.window);
        Ok(self.plan(schedule.into(), (), blocks.map_or(0, |blocks| blocks.end()), len))
    }

    /// [`Communicator::allgather`] of so many elements from each rank.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_allgather<T: Pod>(&self, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        Ok(self.plan_known(Operation::Allgather { len }, (), len, self.for_each(len)?))
    }

    /// [`Communicator::allgatherv`] with blocks of these lengths.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn plan_allgatherv<T: Pod>(&self, counts: &[u64]) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let blocks = self.blocks(counts)?;
        let bytes = blocks.end() * size_of::<T>() as u64;
        let schedule = if bytes > self.table.allgather_doubling_max {
            allgather::ring(self.place(), &blocks)
        } else {
            allgather::bruck(self.place(), &blocks)
        };
        Ok(self.plan(schedule.into(), (), blocks.len_of(self.rank()), blocks.end()))
    }

    /// [`Communicator::alltoall`] of so many elements for each rank.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_alltoall<T: Pod>(&self, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let all = self.for_each(len)?;
        Ok(Plan { in_place: false, ..self.plan_known(Operation::Alltoall { len }, (), all, all) })
    }

    /// [`Communicator::alltoallv`] with blocks of these lengths.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn plan_alltoallv<T: Pod>(
        &self,
        send_counts: &[u64],
        receive_counts: &[u64],
    ) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let (from, to) = (self.blocks(send_counts)?, self.blocks(receive_counts)?);
        let own = self.rank();
        check_len("own", to.len_of(own), from.len_of(own), "what a rank sends itself it gets")?;
        let schedule = alltoall::direct(self.place(), &from, &to, self.table.window);
        Ok(Plan { in_place: false, ..self.plan(schedule.into(), (), from.end(), to.end()) })
    }

    /// [`Communicator::scan`] of so many elements; [`Communicator::exscan`] if it is not `inclusive`.
    ///
    /// # Errors
    /// None today.
    pub fn plan_scan<T: Pod, O: Operator<T>>(
        &self,
        len: u64,
        operator: O,
        inclusive: bool,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        Ok(self.plan_known(Operation::Scan { len, inclusive }, Typed::new(operator), len, len))
    }

    /// [`Communicator::neighbour_exchange`] with these neighbours and blocks.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NoSuchRank`].
    pub fn plan_neighbour_exchange<T: Pod>(
        &self,
        (destinations, send_counts): (&[u32], &[u64]),
        (sources, receive_counts): (&[u32], &[u64]),
    ) -> Result<Plan<'_, 'c, T, ()>, Error> {
        const FOR_EACH: &str = "there is a count for each neighbour";
        check_len("send counts", send_counts.len() as u64, destinations.len() as u64, FOR_EACH)?;
        check_len("receive counts", receive_counts.len() as u64, sources.len() as u64, FOR_EACH)?;
        for rank in sources.iter().chain(destinations) {
            self.check_rank(*rank)?;
        }
        let own = |ranks: &[u32], counts: &[u64]| -> Vec<u64> {
            let pairs = ranks.iter().zip(counts).filter(|(rank, _)| **rank == self.rank());
            pairs.map(|(_, count)| *count).collect()
        };
        let (to_self, from_self) = (own(destinations, send_counts), own(sources, receive_counts));
        const OWN: &str = "what a rank sends itself it gets";
        check_len("own", from_self.len() as u64, to_self.len() as u64, OWN)?;
        for (got, sent) in from_self.into_iter().zip(to_self) {
            check_len("own", got, sent, OWN)?;
        }
        let (from, to) = (blocks_of(send_counts)?, blocks_of(receive_counts)?);
        let schedule = neighbour::exchange(self.place(), sources, destinations, &from, &to);
        Ok(Plan { in_place: false, ..self.plan(schedule.into(), (), from.end(), to.end()) })
    }
}
