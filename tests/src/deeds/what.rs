//! The operations, and how long their inputs and outputs are.

use ironband_collectives::schedule::Place;

/// An operation, by MPI's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// `MPI_Barrier`.
    Barrier,
    /// `MPI_Bcast`.
    Bcast,
    /// `MPI_Reduce`.
    Reduce,
    /// `MPI_Allreduce`.
    Allreduce,
    /// `MPI_Reduce_scatter_block`.
    ReduceScatterBlock,
    /// `MPI_Reduce_scatter`.
    ReduceScatter,
    /// `MPI_Gather`.
    Gather,
    /// `MPI_Gatherv`.
    Gatherv,
    /// `MPI_Scatter`.
    Scatter,
    /// `MPI_Scatterv`.
    Scatterv,
    /// `MPI_Allgather`.
    Allgather,
    /// `MPI_Allgatherv`.
    Allgatherv,
    /// `MPI_Alltoall`.
    Alltoall,
    /// `MPI_Alltoallv`.
    Alltoallv,
    /// `MPI_Scan`.
    Scan,
    /// `MPI_Exscan`.
    Exscan,
    /// `MPI_Neighbor_alltoallv`, with [`neighbours`].
    NeighbourAlltoallv,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Barrier,
        Self::Bcast,
        Self::Reduce,
        Self::Allreduce,
        Self::ReduceScatterBlock,
        Self::ReduceScatter,
        Self::Gather,
        Self::Gatherv,
        Self::Scatter,
        Self::Scatterv,
        Self::Allgather,
        Self::Allgatherv,
        Self::Alltoall,
        Self::Alltoallv,
        Self::Scan,
        Self::Exscan,
        Self::NeighbourAlltoallv,
    ];

    /// Whether one rank is different from the others.
    pub const fn has_root(self) -> bool {
        matches!(
            self,
            Self::Bcast | Self::Reduce | Self::Gather | Self::Gatherv | Self::Scatter | Self::Scatterv
        )
    }

    /// Whether elements are combined.
    pub const fn combines(self) -> bool {
        let scatters = matches!(self, Self::ReduceScatterBlock | Self::ReduceScatter);
        scatters || matches!(self, Self::Reduce | Self::Allreduce | Self::Scan | Self::Exscan)
    }

    /// The elements of input and output of a rank. `len` are of a vector, or of a block where blocks are alike; where they differ `count` says how many
    /// are from one rank for another, and where all ranks or the root know them, from rank 0.
    pub fn lens(self, place: Place, root: u32, len: u64, count: impl Fn(u32, u32) -> u64) -> (u64, u64) {
        let Place { rank, size } = place;
        let all = len * u64::from(size);
        let if_root = |len: u64| if rank == root { len } else { 0 };
        let to = |ranks: &[u32]| ranks.iter().map(|to| count(rank, *to)).sum();
        let from = |ranks: &[u32]| ranks.iter().map(|from| count(*from, rank)).sum();
        let own = count(0, rank);
        let everyone: Vec<u32> = (0..size).collect();
        let known = everyone.iter().map(|rank| count(0, *rank)).sum();
        match self {
            Self::Barrier => (0, 0),
            Self::Bcast => (0, len),
            Self::Reduce => (len, if_root(len)),
            Self::Allreduce | Self::Scan | Self::Exscan => (len, len),
            Self::ReduceScatterBlock => (all, len),
            Self::ReduceScatter => (known, own),
            Self::Gather => (len, if_root(all)),
            Self::Gatherv => (own, if_root(known)),
            Self::Scatter => (if_root(all), len),
            Self::Scatterv => (if_root(known), own),
            Self::Allgather => (len, all),
            Self::Allgatherv => (own, known),
            Self::Alltoall => (all, all),
            Self::Alltoallv => (to(&everyone), from(&everyone)),
            Self::NeighbourAlltoallv => (to(&neighbours(rank, size)), from(&opposite(rank, size))),
        }
    }
}

/// To whom a rank sends as a neighbour: two ranks, the second one twice.
pub fn neighbours(rank: u32, size: u32) -> [u32; 3] {
    [(rank + 1) % size, (rank + 2) % size, (rank + 2) % size]
}

/// From whom.
pub fn opposite(rank: u32, size: u32) -> [u32; 3] {
    let before = |distance: u32| (rank + 2 * size - distance) % size;
    [before(1), before(2), before(2)]
}
