//! The operations, each until it has ended. They plan and run: [`crate::Plan`].

use bytemuck::Pod;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::operator::Operator;

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
        self.plan_allreduce(vector.len() as u64, operator)?.run_in_place(vector)
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

    /// Gives all ranks the blocks of all, in the order of ranks. `MPI_Allgather`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allgather<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.plan_allgather(input.len() as u64)?.run(input, output)
    }

    /// As [`Communicator::allgather`], with blocks of these lengths, which all ranks know, one behind the other. `MPI_Allgatherv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn allgatherv<T: Pod>(&self, input: &[T], output: &mut [T], counts: &[u64]) -> Result<(), Error> {
        self.plan_allgatherv(counts)?.run(input, output)
    }

    /// Each rank has a block for each rank, and gets one of each. `MPI_Alltoall`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn alltoall<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.plan_alltoall(input.len() as u64 / u64::from(self.size()))?.run(input, output)
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
        self.plan_scan(vector.len() as u64, operator, true)?.run_in_place(vector)
    }

    /// As [`Communicator::exscan`], from and to one vector.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn exscan_in_place<T: Pod>(&self, vector: &mut [T], operator: impl Operator<T>) -> Result<(), Error> {
        self.plan_scan(vector.len() as u64, operator, false)?.run_in_place(vector)
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
}

/// Operations with a root; see [`Communicator::root`].
#[derive(Debug, Clone, Copy)]
pub struct Root<'r, 'c> {
    communicator: &'r Communicator<'c>,
    rank: u32,
}

impl Root<'_, '_> {
    /// Gives all what the root has. `MPI_Bcast`.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::Communicator;
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let mut data = if world.rank() == 0 { [1, 2, 3] } else { [0; 3] };
    /// world.root(0)?.bcast(&mut data)?;
    /// assert_eq!(data, [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::barrier`].
    pub fn bcast<T: Pod>(&self, data: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_bcast(self.rank, data.len() as u64)?.run(&[], data)
    }

    /// Combines the vectors of all ranks and gives the root the result; the output of the others is empty. `MPI_Reduce`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn reduce<T: Pod>(
        &self,
        input: &[T],
        output: &mut [T],
        operator: impl Operator<T>,
    ) -> Result<(), Error> {
        self.communicator.plan_reduce(self.rank, input.len() as u64, operator)?.run(input, output)
    }

    /// Gives the root the blocks of all, in the order of ranks; the output of the others is empty. `MPI_Gather`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn gather<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_gather(self.rank, input.len() as u64)?.run(input, output)
    }

    /// As [`Root::gather`], with blocks of these lengths, one behind the other, which only the root knows: the others' `counts` are empty. `MPI_Gatherv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn gatherv<T: Pod>(&self, input: &[T], output: &mut [T], counts: &[u64]) -> Result<(), Error> {
        let counts = Some(counts).filter(|counts| !counts.is_empty());
        self.communicator.plan_gatherv(self.rank, input.len() as u64, counts)?.run(input, output)
    }

    /// Gives each rank its block of what the root has; the input of the others is empty. `MPI_Scatter`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scatter<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_scatter(self.rank, output.len() as u64)?.run(input, output)
    }

    /// As [`Root::scatter`], with blocks of these lengths, one behind the other, which only the root knows: the others' `counts` are empty. `MPI_Scatterv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scatterv<T: Pod>(&self, input: &[T], counts: &[u64], output: &mut [T]) -> Result<(), Error> {
        let counts = Some(counts).filter(|counts| !counts.is_empty());
        self.communicator.plan_scatterv(self.rank, output.len() as u64, counts)?.run(input, output)
    }
}
