//! The operations in which one rank is different from the others, each until it has ended.

use bytemuck::Pod;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::operator::Operator;

/// Operations with a root; see [`Communicator::root`].
#[derive(Debug, Clone, Copy)]
pub struct Root<'r, 'c> {
    pub(crate) communicator: &'r Communicator<'c>,
    pub(crate) rank: u32,
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

    /// As [`Root::reduce`], in one vector: that of the root is the result in the end, that of the others is as it was. Others may call
    /// [`Root::reduce`] with an empty output as well.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let mut count = [1];
    /// world.root(0)?.reduce_in_place(&mut count, Sum)?;
    /// assert_eq!(count, if world.rank() == 0 { [world.size()] } else { [1] });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn reduce_in_place<T: Pod>(&self, vector: &mut [T], operator: impl Operator<T>) -> Result<(), Error> {
        self.communicator.plan_reduce(self.rank, vector.len() as u64, operator)?.in_place()?.run(vector)
    }

    /// Gives the root the blocks of all, in the order of ranks; the output of the others is empty. `MPI_Gather`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn gather<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_gather(self.rank, input.len() as u64)?.run(input, output)
    }

    /// As [`Root::gather`], in one vector: at the root it has room for all blocks, and the root's own is in its place already; that of the others is
    /// their block, and stays as it is. Others may call [`Root::gather`] as well.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn gather_in_place<T: Pod>(&self, vector: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_gather(self.rank, self.block_len(vector))?.in_place()?.run(vector)
    }

    /// As [`Root::gather`], with blocks of these lengths, one behind the other, which only the root knows: the others' `counts` are empty. `MPI_Gatherv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn gatherv<T: Pod>(&self, input: &[T], output: &mut [T], counts: &[u64]) -> Result<(), Error> {
        let counts = Some(counts).filter(|counts| !counts.is_empty());
        self.communicator.plan_gatherv(self.rank, input.len() as u64, counts)?.run(input, output)
    }

    /// As [`Root::gatherv`], in one vector, as [`Root::gather_in_place`].
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn gatherv_in_place<T: Pod>(&self, vector: &mut [T], counts: &[u64]) -> Result<(), Error> {
        let (len, counts) = self.own_of(vector, counts);
        self.communicator.plan_gatherv(self.rank, len, counts)?.in_place()?.run(vector)
    }

    /// Gives each rank its block of what the root has; the input of the others is empty. `MPI_Scatter`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scatter<T: Pod>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_scatter(self.rank, output.len() as u64)?.run(input, output)
    }

    /// As [`Root::scatter`], in one vector: that of the root has the blocks of all, and stays as it is, with the root's own in its place; that of the
    /// others gets their block. Others may call [`Root::scatter`] as well.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scatter_in_place<T: Pod>(&self, vector: &mut [T]) -> Result<(), Error> {
        self.communicator.plan_scatter(self.rank, self.block_len(vector))?.in_place()?.run(vector)
    }

    /// As [`Root::scatter`], with blocks of these lengths, one behind the other, which only the root knows: the others' `counts` are empty. `MPI_Scatterv`.
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scatterv<T: Pod>(&self, input: &[T], counts: &[u64], output: &mut [T]) -> Result<(), Error> {
        let counts = Some(counts).filter(|counts| !counts.is_empty());
        self.communicator.plan_scatterv(self.rank, output.len() as u64, counts)?.run(input, output)
    }

    /// As [`Root::scatterv`], in one vector, as [`Root::scatter_in_place`].
    ///
    /// # Errors
    /// As [`Communicator::allreduce`].
    pub fn scatterv_in_place<T: Pod>(&self, vector: &mut [T], counts: &[u64]) -> Result<(), Error> {
        let (len, counts) = self.own_of(vector, counts);
        self.communicator.plan_scatterv(self.rank, len, counts)?.in_place()?.run(vector)
    }

    fn is_here(&self) -> bool {
        self.communicator.group.rank() == self.rank
    }

    /// The length of a block, from the vector that has all at the root and one elsewhere.
    fn block_len<T>(&self, vector: &[T]) -> u64 {
        if self.is_here() { self.communicator.share(vector) } else { vector.len() as u64 }
    }

    /// The length of the own block, and the counts where they are known.
    fn own_of<'v, T>(&self, vector: &[T], counts: &'v [u64]) -> (u64, Option<&'v [u64]>) {
        if self.is_here() {
            (counts.get(self.rank as usize).copied().unwrap_or(0), Some(counts))
        } else {
            (vector.len() as u64, None)
        }
    }
}
