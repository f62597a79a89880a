//! One operation, done by Ironband and by MPI with the same inputs.

use ironband_collectives::operator::Operator;
use ironband_collectives::schedule::Place;
use ironband_collectives::{Combining, Communicator, Error, Plan};
use ironband_tests::Random;
use ironband_tests::deeds::{What, neighbours, opposite};

use crate::datum::Datum;
use crate::mpi::{Mpi, Op};

/// The same processes, with the same ranks.
pub(crate) struct Both<'b, 'c> {
    pub(crate) ironband: &'b Communicator<'c>,
    pub(crate) mpi: &'b Mpi<'b>,
}

/// One operation of all ranks: all follows from these numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) what: What,
    /// Elements of a vector, or of a block.
    pub(crate) len: u64,
    pub(crate) root: u32,
    pub(crate) size: u32,
    pub(crate) salt: u64,
    /// With what elements are combined, if they are.
    pub(crate) op: Option<Op>,
}

impl Trial {
    /// The block that `from` has for `to`, where blocks differ. Some are empty.
    fn count(&self, from: u32, to: u32) -> u64 {
        (u64::from(from) * 7 + u64::from(to) * 3 + self.salt) % (self.len / 2 + 2)
    }

    /// Blocks that all ranks, or the root, know.
    fn counts(&self) -> Vec<u64> {
        (0..self.size).map(|rank| self.count(0, rank)).collect()
    }

    fn sent(&self, rank: u32) -> Vec<u64> {
        (0..self.size).map(|to| self.count(rank, to)).collect()
    }

    fn got(&self, rank: u32) -> Vec<u64> {
        (0..self.size).map(|from| self.count(from, rank)).collect()
    }

    /// The elements of input and output of a rank.
    fn lens(&self, rank: u32) -> (u64, u64) {
        let place = Place { rank, size: self.size };
        self.what.lens(place, self.root, self.len, |from, to| self.count(from, to))
    }

    fn element<T: Datum>(&self, rank: u32, index: u64) -> T {
        let mut random = Random::new(self.salt ^ u64::from(rank) << 40 ^ index << 20);
        let element = T::of((random.below(1 << 31) as u64) << 33 | (random.below(1 << 31) as u64) << 2);
        self.op.map_or(element, |op| element.within(op, self.size))
    }

    fn input<T: Datum>(&self, rank: u32) -> Vec<T> {
        (0..self.lens(rank).0).map(|index| self.element(rank, index)).collect()
    }

    /// The root's data of a broadcast, and otherwise what must not be left.
    fn output_before<T: Datum>(&self, rank: u32) -> Vec<T> {
        let len = self.lens(rank).1;
        if self.what == What::Bcast && rank == self.root {
            return (0..len).map(|index| self.element(rank, index)).collect();
        }
        vec![T::of(0xdead_beef); len as usize]
    }

    /// Whether this rank does it in one vector. That is each rank's own affair, but for exchanges of all with all.
    fn is_in_place(&self, rank: u32) -> bool {
        match self.what {
            What::Allreduce | What::Scan | What::Exscan => {
                (self.salt >> 4).wrapping_add(u64::from(rank)) % 2 == 0
            }
            // All or none.
            What::Alltoall => (self.salt >> 4).is_multiple_of(2),
            _ => false,
        }
    }

    // ---- operations that combine --------------------------------------------------------------------------------------

    /// Does it on both ways, and compares.
    pub(crate) fn combine<T: Datum, O: Operator<T>>(
        &self,
        both: &Both<'_, '_>,
        operator: O,
        op: Op,
    ) -> Result<(), String> {
        Self { op: Some(op), ..*self }.combine_with(both, operator, op)
    }

    fn combine_with<T: Datum, O: Operator<T>>(
        &self,
        both: &Both<'_, '_>,
        operator: O,
        op: Op,
    ) -> Result<(), String> {
        let rank = both.ironband.rank();
        let input = self.input::<T>(rank);
        let mut by_mpi = self.output_before::<T>(rank);
        self.combine_by_mpi(both.mpi, &input, &mut by_mpi, op);
        let by_ironband = self.combine_by_ironband(both.ironband, &input, operator.clone());
        let mut by_ironband = by_ironband.map_err(|error| format!("{error} in {self:?}"))?;
        if self.what == What::Exscan && rank == 0 {
            // MPI leaves open what is there; ours is what was there before.
            by_mpi = if self.is_in_place(0) { input } else { self.output_before(0) };
        }
        let first = match self.what {
            What::ReduceScatterBlock => self.len * u64::from(rank),
            What::ReduceScatter => self.counts()[..rank as usize].iter().sum(),
            _ => 0,
        };
        let slack = |at: usize| self.slack(first + at as u64, &by_mpi[at], op);
        let wrong = differs(&by_ironband, &by_mpi, slack);
        wrong.map_or(Ok(()), |at| {
            let (ours, mpis) = (by_ironband.swap_remove(at), by_mpi[at]);
            let folded = (1..self.size).fold(self.element(0, first + at as u64), |sum, rank| {
                operator.apply(&sum, &self.element(rank, first + at as u64))
            });
            Err(format!(
                "rank {rank}: element {at} is {ours:?}, by MPI {mpis:?}, of all ranks serially {folded:?}, of {} in {self:?}",
                std::any::type_name::<T>()
            ))
        })
    }

    fn combine_by_mpi<T: Datum>(&self, mpi: &Mpi<'_>, input: &[T], output: &mut [T], op: Op) {
        match self.what {
            What::Reduce => mpi.reduce(self.root, input, output, op),
            What::Allreduce => mpi.allreduce(input, output, op),
            What::ReduceScatterBlock => mpi.reduce_scatter_block(input, output, op),
            What::ReduceScatter => mpi.reduce_scatter(input, output, &self.counts(), op),
            What::Scan => mpi.scan(input, output, op),
            What::Exscan => mpi.exscan(input, output, op),
            _ => unreachable!("{:?} combines nothing", self.what),
        }
    }

    fn combine_by_ironband<T: Datum, O: Operator<T>>(
        &self,
        communicator: &Communicator<'_>,
        input: &[T],
        operator: O,
    ) -> Result<Vec<T>, Error> {
        let len = self.len;
        let plan = match self.what {
            What::Reduce => communicator.plan_reduce(self.root, len, operator),
            What::Allreduce => communicator.plan_allreduce(len, operator),
            What::ReduceScatterBlock => communicator.plan_reduce_scatter_block(len, operator),
            What::ReduceScatter => communicator.plan_reduce_scatter(&self.counts(), operator),
            What::Scan => communicator.plan_scan(len, operator, true),
            What::Exscan => communicator.plan_scan(len, operator, false),
            _ => unreachable!("{:?} combines nothing", self.what),
        };
        self.run(plan?, input)
    }

    /// By how much two results may differ. In both of them each of at most p - 1 roundings moves a sum by half an epsilon of what has been added up at
    /// most, and a product by that part of itself (Higham, "Accuracy and Stability of Numerical Algorithms", chapters 3 and 4); a hundredth more for
    /// what is of second order.
    fn slack<T: Datum>(&self, index: u64, result: &T, op: Op) -> f64 {
        let size_of_result = match op {
            Op::Sum => (0..self.size).map(|rank| self.element::<T>(rank, index).magnitude()).sum(),
            Op::Product => result.magnitude(),
            _ => 0.0,
        };
        f64::from(self.size - 1) * T::EPSILON * size_of_result * 1.01
    }

    // ---- operations that only move ------------------------------------------------------------------------------------

    /// Does it on both ways, and compares: what is moved has to be the same.
    pub(crate) fn transfer<T: Datum>(&self, both: &Both<'_, '_>) -> Result<(), String> {
        let rank = both.ironband.rank();
        let input = self.input::<T>(rank);
        let mut by_mpi = self.output_before::<T>(rank);
        self.transfer_by_mpi(both.mpi, rank, &input, &mut by_mpi);
        let by_ironband = self.transfer_by_ironband(both.ironband, &input);
        let by_ironband = by_ironband.map_err(|error| format!("{error} in {self:?}"))?;
        differs(&by_ironband, &by_mpi, |_| 0.0).map_or(Ok(()), |at| {
            let (ours, mpis) = (by_ironband[at], by_mpi[at]);
            Err(format!("rank {rank}: element {at} is {ours:?}, by MPI {mpis:?}, in {self:?}"))
        })
    }

    fn transfer_by_mpi<T: Datum>(&self, mpi: &Mpi<'_>, rank: u32, input: &[T], output: &mut [T]) {
        let root = self.root;
        let counts_of_root = if rank == root { self.counts() } else { Vec::new() };
        match self.what {
            What::Barrier => mpi.barrier(),
            What::Bcast => mpi.bcast(root, output),
            What::Gather => mpi.gather(root, input, output),
            What::Gatherv => mpi.gatherv(root, input, output, &counts_of_root),
            What::Scatter => mpi.scatter(root, input, output),
            What::Scatterv => mpi.scatterv(root, input, &counts_of_root, output),
            What::Allgather => mpi.allgather(input, output),
            What::Allgatherv => mpi.allgatherv(input, output, &self.counts()),
            What::Alltoall => mpi.alltoall(input, output),
            What::Alltoallv => mpi.alltoallv((input, &self.sent(rank)), (output, &self.got(rank))),
            What::NeighbourAlltoallv => {
                let sent = neighbours(rank, self.size).map(|to| self.count(rank, to));
                let got = opposite(rank, self.size).map(|from| self.count(from, rank));
                mpi.neighbour_alltoallv((input, &sent), (output, &got));
            }
            _ => unreachable!("{:?} combines", self.what),
        }
    }

    fn transfer_by_ironband<T: Datum>(
        &self,
        communicator: &Communicator<'_>,
        input: &[T],
    ) -> Result<Vec<T>, Error> {
        let (rank, root, len) = (communicator.rank(), self.root, self.len);
        let counts = self.counts();
        let counts_of_root = Some(&counts[..]).filter(|_| rank == root);
        let own = self.count(0, rank);
        let plan = match self.what {
            What::Barrier => return communicator.barrier().map(|()| Vec::new()),
            What::Bcast => communicator.plan_bcast(root, len),
            What::Gather => communicator.plan_gather(root, len),
            What::Gatherv => communicator.plan_gatherv(root, own, counts_of_root),
            What::Scatter => communicator.plan_scatter(root, len),
            What::Scatterv => communicator.plan_scatterv(root, own, counts_of_root),
            What::Allgather => communicator.plan_allgather(len),
            What::Allgatherv => communicator.plan_allgatherv(&counts),
            What::Alltoall => communicator.plan_alltoall(len),
            What::Alltoallv => communicator.plan_alltoallv(&self.sent(rank), &self.got(rank)),
            What::NeighbourAlltoallv => {
                let (to, from) = (neighbours(rank, self.size), opposite(rank, self.size));
                let sent = to.map(|to| self.count(rank, to));
                let got = from.map(|from| self.count(from, rank));
                communicator.plan_neighbour_exchange((&to, &sent), (&from, &got))
            }
            _ => unreachable!("{:?} combines", self.what),
        };
        self.run(plan?, input)
    }

    fn run<T: Datum, C: Combining>(&self, plan: Plan<'_, '_, T, C>, input: &[T]) -> Result<Vec<T>, Error> {
        let rank = plan.communicator().rank();
        let mut output = if self.is_in_place(rank) { input.to_vec() } else { self.output_before(rank) };
        if self.is_in_place(rank) {
            plan.in_place()?.run(&mut output)?;
        } else {
            plan.run(input, &mut output)?;
        }
        Ok(output)
    }
}

/// The first element that is not as it should be. The lengths are the same.
fn differs<T: Datum>(ours: &[T], mpis: &[T], slack: impl Fn(usize) -> f64) -> Option<usize> {
    let is_as =
        |at: usize| ours[at] == mpis[at] || (T::EPSILON > 0.0 && ours[at].distance(&mpis[at]) <= slack(at));
    (0..ours.len().max(mpis.len())).find(|at| !is_as(*at))
}
