//! The operations, each until it has ended. They plan and run: [`crate::Plan`].

use bytemuck::Pod;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::operator::Operator;
use crate::root::Root;

impl<'c> Communicator<'c> {
    /// Waits until all processes have called it. `MPI_Barrier`.
    ///
    /// # Errors
    /// [`Error::PeerFailed`] and the others that end the communicator.
    pub fn barrier(&self) -> Result<(), Error> {
        self.plan_barrier().run(&[], &mut [])
    }

    /// The operations in which one rank is different from the others.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn root(&self, rank: u32) -> Result<Root<'_, 'c>, Error> {
        self.check_rank(rank)?;
        Ok(Root { communicator: self, rank })
    }

    /// Combines the vectors of all ranks, element by element, and gives all the result. `MPI_Allreduce`.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Max};
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let mut highest = [0];
    /// world.allreduce(&[world.rank()], &mut highest, Max)?;
    /// assert_eq!(highest[0] + 1, world.size());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`]; as [`Communicator::barrier`].
    pub fn allreduce<T: Pod>(
        &self,
        input: &[T],
        output: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_allreduce(input.len() as u64, operator)?.run(input, output)
    }

    /// As [`Communicator::allreduce`], from and to one vector.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allreduce_in_place<T: Pod>(
        &self,
        vector: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_allreduce(vector.len() as u64, operator)?.in_place()?.run(vector)
    }

    /// Combines the vectors of all ranks, each of a block for each rank, and gives each rank its block. `MPI_Reduce_scatter_block`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn reduce_scatter_block<T: Pod>(
        &self,
        input: &[T],
        output: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_reduce_scatter_block(output.len() as u64, operator)?.run(input, output)
    }

    /// As [`Communicator::reduce_scatter_block`], in one vector: in the end the own block is at its beginning, and the rest is as it was.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn reduce_scatter_block_in_place<T: Pod>(
        &self,
        vector: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_reduce_scatter_block(self.share(vector), operator)?.in_place()?.run(vector)
    }

    /// As [`Communicator::reduce_scatter_block`], with blocks of these lengths, which are the same at all ranks. `MPI_Reduce_scatter`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn reduce_scatter<T: Pod>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[u64],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_reduce_scatter(counts, operator)?.run(input, output)
    }

    /// As [`Communicator::reduce_scatter`], in one vector, as [`Communicator::reduce_scatter_block_in_place`].
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn reduce_scatter_in_place<T: Pod>(
        &self,
        vector: &mut [T],
        counts: &[u64],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_reduce_scatter(counts, operator)?.in_place()?.run(vector)
    }

    /// Gives all ranks the blocks of all, in the order of ranks. `MPI_Allgather`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allgather<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.plan_allgather(input.len() as u64)?.run(input, output)
    }

    /// As [`Communicator::allgather`], in one vector, in which the own block is in its place already.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::Communicator;
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let mut squares = vec![0; world.size() as usize];
    /// squares[world.rank() as usize] = world.rank().pow(2);
    /// world.allgather_in_place(&mut squares)?;
    /// assert!(squares.into_iter().eq((0..world.size()).map(|rank| rank.pow(2))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allgather_in_place<T: Pod>(&self, vector: &mut [T]) -> Result<(), Error> {
        self.plan_allgather(self.share(vector))?.in_place()?.run(vector)
    }

    /// As [`Communicator::allgather`], with blocks of these lengths, which all ranks know, one behind the other. `MPI_Allgatherv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allgatherv<T: Pod>(&self, input: &[T], output: &mut [T], counts: &[u64]) -> Result<(), Error> {
        self.plan_allgatherv(counts)?.run(input, output)
    }

    /// As [`Communicator::allgatherv`], in one vector, in which the own block is in its place already.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allgatherv_in_place<T: Pod>(&self, vector: &mut [T], counts: &[u64]) -> Result<(), Error> {
        self.plan_allgatherv(counts)?.in_place()?.run(vector)
    }

    /// Each rank has a block for each rank, and gets one of each. `MPI_Alltoall`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn alltoall<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.plan_alltoall(self.share(input))?.run(input, output)
    }

    /// As [`Communicator::alltoall`], in one vector; all processes have to call it. What comes is copied once, because it waits until what is in its
    /// place has gone: [`InPlacePlan`](crate::InPlacePlan).
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn alltoall_in_place<T: Pod>(&self, vector: &mut [T]) -> Result<(), Error> {
        self.plan_alltoall(self.share(vector))?.in_place()?.run(vector)
    }

    /// As [`Communicator::alltoall`], with a block of `send_counts[i]` elements for rank i, and of `receive_counts[i]` from it, one behind the
    /// other. `MPI_Alltoallv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn alltoallv<T: Pod>(
        &self,
        input: &[T],
        send_counts: &[u64],
        output: &mut [T],
        receive_counts: &[u64],
    ) -> Result<(), Error> {
        self.plan_alltoallv(send_counts, receive_counts)?.run(input, output)
    }

    /// As [`Communicator::alltoallv`], in one vector, as [`Communicator::alltoall_in_place`]: of `counts[i]` elements is the block for rank i, and
    /// the one from it. So of two ranks each has the same count for the other.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn alltoallv_in_place<T: Pod>(&self, vector: &mut [T], counts: &[u64]) -> Result<(), Error> {
        self.plan_alltoallv(counts, counts)?.in_place()?.run(vector)
    }

    /// Gives each rank what the vectors of all ranks up to its own combine to. `MPI_Scan`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scan<T: Pod>(
        &self,
        input: &[T],
        output: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_scan(input.len() as u64, operator, true)?.run(input, output)
    }

    /// As [`Communicator::scan`], without the own vector; the output of rank 0 stays as it is. `MPI_Exscan`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn exscan<T: Pod>(
        &self,
        input: &[T],
        output: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.plan_scan(input.len() as u64, operator, false)?.run(input, output)
    }

    /// As [`Communicator::scan`], from and to one vector.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scan_in_place<T: Pod>(&self, vector: &mut [T], operator: impl Operator<T>) -> Result<(), Error> {
        self.plan_scan(vector.len() as u64, operator, true)?.in_place()?.run(vector)
    }

    /// As [`Communicator::exscan`], from and to one vector.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn exscan_in_place<T: Pod>(&self, vector: &mut [T], operator: impl Operator<T>) -> Result<(), Error> {
        self.plan_scan(vector.len() as u64, operator, false)?.in_place()?.run(vector)
    }

    /// Sends a block to each of `destinations` and gets one from each of `sources`: the neighbours of this rank in a graph that all ranks
    /// agree on. Block i is of `send_counts[i]` elements, and of `receive_counts[i]`. `MPI_Neighbor_alltoallv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`], and [`Error::NoSuchRank`].
    pub fn neighbour_exchange<T: Pod>(
        &self,
        (input, send_counts, destinations): (&[T], &[u64], &[u32]),
        (output, receive_counts, sources): (&mut [T], &[u64], &[u32]),
    ) -> Result<(), Error> {
        let plan = self.plan_neighbour_exchange((destinations, send_counts), (sources, receive_counts))?;
        plan.run(input, output)
    }

    /// How many elements of a vector are each rank's. If they cannot be shared out, the plan is for fewer, and refuses the vector.
    pub(crate) fn share<T>(&self, vector: &[T]) -> u64 {
        vector.len() as u64 / u64::from(self.size())
    }
}
