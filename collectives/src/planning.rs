//! What can be planned: a method of the communicator for each operation, which checks the lengths and chooses the schedule.

use std::rc::Rc;

use bytemuck::Pod;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::in_place::OneVector;
use crate::memory::Typed;
use crate::operation::Operation;
use crate::operator::Operator;
use crate::plan::{Combining, Plan, check_len};
use crate::schedule::{Blocks, Schedule, Space};

/// More bytes fit no memory. What schedules count, some times as many, is far from what a `u64` holds.
const BYTES_MAX: u64 = 1 << 48;

/// So many elements have to fit memory; `None` could not be counted.
pub(crate) fn check_sum<T>(elements: Option<u64>) -> Result<u64, Error> {
    let elements = elements.unwrap_or(u64::MAX);
    let fits = elements.checked_mul(size_of::<T>().max(1) as u64).is_some_and(|bytes| bytes <= BYTES_MAX);
    if fits { Ok(elements) } else { Err(Error::TooLong { elements }) }
}

/// Blocks of these lengths, one behind the other.
fn blocks_of<T>(counts: &[u64]) -> Result<Blocks, Error> {
    check_sum::<T>(counts.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count)))?;
    Ok(Blocks::of_counts(counts))
}

impl<'c> Communicator<'c> {
    fn plan<T: Pod, C: Combining>(
        &self,
        schedule: Rc<Schedule>,
        combining: C,
        input_len: u64,
        output_len: u64,
    ) -> Plan<'_, 'c, T, C> {
        Plan::new(self, schedule, combining, input_len, output_len)
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
    /// [`Error::NoSuchRank`], [`Error::TooLong`].
    pub fn plan_bcast<T: Pod>(&self, root: u32, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        self.check_rank(root)?;
        check_sum::<T>(Some(len))?;
        Ok(self.plan_known(Operation::Bcast { root, len }, (), 0, len))
    }

    /// [`Root::reduce`](crate::Root::reduce) of so many elements.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::TooLong`].
    pub fn plan_reduce<T: Pod, O: Operator<T>>(
        &self,
        root: u32,
        len: u64,
        operator: O,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        self.check_rank(root)?;
        check_sum::<T>(Some(len))?;
        let operation = Operation::Reduce { root, len, commutes: O::COMMUTATIVE };
        let output_len = if self.rank() == root { len } else { 0 };
        Ok(self.plan_known(operation, Typed::new(operator), len, output_len))
    }

    /// [`Communicator::allreduce`] of so many elements.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_allreduce<T: Pod, O: Operator<T>>(
        &self,
        len: u64,
        operator: O,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        check_sum::<T>(Some(len))?;
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
        Ok(self.plan_known(operation, Typed::new(operator), self.for_each::<T>(len)?, len))
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
        let blocks = self.blocks::<T>(counts)?;
        let schedule = self.chooser(size_of::<T>()).reduce_scatter(&blocks, O::COMMUTATIVE);
        Ok(self.plan(schedule.into(), Typed::new(operator), blocks.end(), blocks.len_of(self.rank())))
    }

    /// A block for each rank, one behind the other.
    fn blocks<T>(&self, counts: &[u64]) -> Result<Blocks, Error> {
        check_len("counts", counts.len() as u64, self.size().into(), "there is a count for each rank")?;
        blocks_of::<T>(counts)
    }

    /// So many elements for each rank.
    fn for_each<T>(&self, len: u64) -> Result<u64, Error> {
        check_sum::<T>(len.checked_mul(self.size().into()))
    }

    /// [`Root::gather`](crate::Root::gather) of so many elements from each rank.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::TooLong`].
    pub fn plan_gather<T: Pod>(&self, root: u32, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        self.check_rank(root)?;
        let all = self.for_each::<T>(len)?;
        let output_len = if self.rank() == root { all } else { 0 };
        let plan = self.plan_known(Operation::Gather { root, len }, (), len, output_len);
        Ok(if self.rank() == root { plan.with_input_at(u64::from(root) * len) } else { plan })
    }

    /// [`Root::gatherv`](crate::Root::gatherv) of so many elements from this rank; only the root gives the counts of all.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::Length`], [`Error::TooLong`].
    pub fn plan_gatherv<T: Pod>(
        &self,
        root: u32,
        len: u64,
        counts: Option<&[u64]>,
    ) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let blocks = self.blocks_of_root::<T>(root, len, counts)?;
        let schedule = self.chooser(size_of::<T>()).gatherv(root, len, blocks.as_ref());
        Ok(match blocks {
            None => self.plan(schedule.into(), (), len, 0),
            Some(blocks) => {
                let start = blocks.of(root, Space::Output).start;
                self.plan(schedule.into(), (), len, blocks.end()).with_input_at(start)
            }
        })
    }

    fn blocks_of_root<T>(
        &self,
        root: u32,
        len: u64,
        counts: Option<&[u64]>,
    ) -> Result<Option<Blocks>, Error> {
        self.check_rank(root)?;
        check_sum::<T>(Some(len))?;
        if self.rank() != root {
            return Ok(None);
        }
        let blocks = self.blocks::<T>(counts.unwrap_or_default())?;
        check_len("own", len, blocks.len_of(root), "it is as long as the own count says")?;
        Ok(Some(blocks))
    }

    /// [`Root::scatter`](crate::Root::scatter) of so many elements to each rank.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::TooLong`].
    pub fn plan_scatter<T: Pod>(&self, root: u32, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        self.check_rank(root)?;
        let all = self.for_each::<T>(len)?;
        let input_len = if self.rank() == root { all } else { 0 };
        let plan = self.plan_known(Operation::Scatter { root, len }, (), input_len, len);
        Ok(if self.rank() == root { plan.with_output_at(u64::from(root) * len) } else { plan })
    }

    /// [`Root::scatterv`](crate::Root::scatterv) of so many elements to this rank; only the root gives the counts of all.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], [`Error::Length`], [`Error::TooLong`].
    pub fn plan_scatterv<T: Pod>(
        &self,
        root: u32,
        len: u64,
        counts: Option<&[u64]>,
    ) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let blocks = self.blocks_of_root::<T>(root, len, counts)?;
        let schedule = self.chooser(size_of::<T>()).scatterv(root, len, blocks.as_ref());
        Ok(match blocks {
            None => self.plan(schedule.into(), (), 0, len),
            Some(blocks) => {
                let start = blocks.of(root, Space::Input).start;
                self.plan(schedule.into(), (), blocks.end(), len).with_output_at(start)
            }
        })
    }

    /// [`Communicator::allgather`] of so many elements from each rank.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_allgather<T: Pod>(&self, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let plan = self.plan_known(Operation::Allgather { len }, (), len, self.for_each::<T>(len)?);
        Ok(plan.with_input_at(u64::from(self.rank()) * len))
    }

    /// [`Communicator::allgatherv`] with blocks of these lengths.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn plan_allgatherv<T: Pod>(&self, counts: &[u64]) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let blocks = self.blocks::<T>(counts)?;
        let schedule = self.chooser(size_of::<T>()).allgatherv(&blocks);
        let own = blocks.of(self.rank(), Space::Output);
        Ok(self.plan(schedule.into(), (), own.len, blocks.end()).with_input_at(own.start))
    }

    /// [`Communicator::alltoall`] of so many elements for each rank.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_alltoall<T: Pod>(&self, len: u64) -> Result<Plan<'_, 'c, T, ()>, Error> {
        let all = self.for_each::<T>(len)?;
        let one_vector = OneVector::By(Operation::AlltoallInPlace { len });
        Ok(self.plan_known(Operation::Alltoall { len }, (), all, all).with_one_vector(one_vector))
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
        let (from, to) = (self.blocks::<T>(send_counts)?, self.blocks::<T>(receive_counts)?);
        let own = self.rank();
        check_len("own", to.len_of(own), from.len_of(own), "what a rank sends itself it gets")?;
        let schedule = self.chooser(size_of::<T>()).alltoallv(&from, &to);
        let plan = self.plan(schedule.into(), (), from.end(), to.end());
        const SAME: &str = "in place a rank gets as many elements from each as it gives";
        let different = send_counts.iter().zip(receive_counts).find(|(sent, got)| sent != got);
        let one_vector = match different {
            None => OneVector::Exchange(from),
            Some((sent, got)) => {
                OneVector::Not(Error::Length { buffer: "receive", got: *got, expected: *sent, rule: SAME })
            }
        };
        Ok(plan.with_one_vector(one_vector))
    }

    /// [`Communicator::scan`] of so many elements; [`Communicator::exscan`] if it is not `inclusive`.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn plan_scan<T: Pod, O: Operator<T>>(
        &self,
        len: u64,
        operator: O,
        inclusive: bool,
    ) -> Result<Plan<'_, 'c, T, Typed<T, O>>, Error> {
        check_sum::<T>(Some(len))?;
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
        let (from, to) = (blocks_of::<T>(send_counts)?, blocks_of::<T>(receive_counts)?);
        let schedule = self.chooser(size_of::<T>()).neighbour_exchange((sources, destinations), (&from, &to));
        let one_vector = OneVector::Not(Error::NotInPlace {
            operation: "a neighbour exchange",
            rule: "what a rank sends and what it gets have nothing in common; give it two",
        });
        Ok(self.plan(schedule.into(), (), from.end(), to.end()).with_one_vector(one_vector))
    }
}
