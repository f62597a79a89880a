//! What is asked for, and the schedule that does it: the choice ([`crate::choose`]), and then the algorithm's
//! function.

use crate::algorithms::{
    allgather, allreduce, alltoall, barrier, bcast, gather, neighbour, reduce, reduce_scatter, scan, scatter,
};
use crate::choose::{Algorithm, Case, Collective};
use crate::schedule::{Blocks, Place, Schedule};
use crate::table::Table;

/// What is asked for, where all ranks know all lengths: all that a schedule depends on besides the place and
/// the length of an element. Lengths are in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `MPI_Barrier`.
    Barrier,
    /// `MPI_Bcast`.
    Bcast {
        /// Whose it is.
        root: u32,
        /// Of the vector.
        len: u64,
    },
    /// `MPI_Reduce`.
    Reduce {
        /// Whose it is.
        root: u32,
        /// Of the vector.
        len: u64,
        /// Whether operands may be exchanged.
        commutes: bool,
    },
    /// `MPI_Allreduce`.
    Allreduce {
        /// Of the vector.
        len: u64,
        /// Whether operands may be exchanged.
        commutes: bool,
    },
    /// `MPI_Reduce_scatter_block`.
    ReduceScatterBlock {
        /// Of one block.
        len: u64,
        /// Whether operands may be exchanged.
        commutes: bool,
    },
    /// `MPI_Gather`.
    Gather {
        /// Whose it is.
        root: u32,
        /// Of one block.
        len: u64,
    },
    /// `MPI_Scatter`.
    Scatter {
        /// Whose it is.
        root: u32,
        /// Of one block.
        len: u64,
    },
    /// `MPI_Allgather`.
    Allgather {
        /// Of one block.
        len: u64,
    },
    /// `MPI_Alltoall`.
    Alltoall {
        /// Of one block.
        len: u64,
    },
    /// `MPI_Alltoall` with `MPI_IN_PLACE`.
    AlltoallInPlace {
        /// Of one block.
        len: u64,
    },
    /// `MPI_Scan` and `MPI_Exscan`.
    Scan {
        /// Of the vector.
        len: u64,
        /// Whether the own elements count: `MPI_Scan`.
        inclusive: bool,
    },
}

impl Operation {
    /// How many kinds there are.
    pub(crate) const KINDS: usize = 11;

    /// The number of its kind, below [`Operation::KINDS`].
    pub(crate) const fn kind(self) -> usize {
        match self {
            Self::Barrier => 0,
            Self::Bcast { .. } => 1,
            Self::Reduce { .. } => 2,
            Self::Allreduce { .. } => 3,
            Self::ReduceScatterBlock { .. } => 4,
            Self::Gather { .. } => 5,
            Self::Scatter { .. } => 6,
            Self::Allgather { .. } => 7,
            Self::Alltoall { .. } => 8,
            Self::AlltoallInPlace { .. } => 9,
            Self::Scan { .. } => 10,
        }
    }

    /// What its choice depends on, with elements of so many bytes; on ranks of different nodes.
    pub const fn case(self, ranks: u32, element_bytes: u64, reproducible: bool) -> Case {
        let all = ranks as u64;
        let (collective, elements, commutes) = match self {
            Self::Barrier => (Collective::Barrier, 0, true),
            Self::Bcast { len, .. } => (Collective::Bcast, len, true),
            Self::Reduce { len, commutes, .. } => (Collective::Reduce, len, commutes),
            Self::Allreduce { len, commutes } => (Collective::Allreduce, len, commutes),
            Self::ReduceScatterBlock { len, commutes } => (Collective::ReduceScatter, len * all, commutes),
            Self::Gather { len, .. } => (Collective::Gather, len, true),
            Self::Scatter { len, .. } => (Collective::Scatter, len, true),
            Self::Allgather { len } => (Collective::Allgather, len * all, true),
            Self::Alltoall { len } | Self::AlltoallInPlace { len } => (Collective::Alltoall, len, true),
            Self::Scan { len, inclusive: true } => (Collective::Scan, len, false),
            Self::Scan { len, inclusive: false } => (Collective::Exscan, len, false),
        };
        let bytes = elements * element_bytes;
        Case { collective, bytes, ranks, commutes, reproducible, is_one_node: false }
    }

    /// What the process at this place does by this algorithm, which is one of [`Table::algorithms`] for this
    /// operation.
    ///
    /// # Panics
    /// When the algorithm is of another operation, or there is no such root.
    pub fn schedule(self, algorithm: Algorithm, place: Place, element_bytes: u64) -> Schedule {
        use Algorithm as By;
        let piece = |segment_bytes: u64| (segment_bytes / element_bytes).max(1);
        let even = |len| Blocks::even(place.size, len);
        match (self, algorithm) {
            (Self::Barrier, By::Dissemination { radix }) => barrier::dissemination(place, radix),
            (Self::Bcast { root, len }, By::Knomial { radix }) => bcast::knomial(place, root, len, radix),
            (Self::Bcast { root, len }, By::ScatterAllgather) => bcast::scatter_allgather(place, root, len),
            (Self::Bcast { root, len }, By::Circulant { blocks }) => {
                bcast::circulant(place, root, len, blocks)
            }
            (Self::Bcast { root, len }, By::Chain { segment_bytes }) => {
                bcast::chain(place, root, len, piece(segment_bytes))
            }
            (Self::Reduce { root, len, .. }, By::Knomial { radix }) => {
                reduce::knomial(place, root, len, radix, false)
            }
            (Self::Reduce { root, len, .. }, By::OrderedKnomial { radix }) => {
                reduce::knomial(place, root, len, radix, true)
            }
            (Self::Reduce { root, len, .. }, By::ReduceScatterGather) => {
                reduce::reduce_scatter_gather(place, root, len)
            }
            (Self::Reduce { root, len, .. }, By::Chain { segment_bytes }) => {
                reduce::chain(place, root, len, piece(segment_bytes))
            }
            (Self::Allreduce { len, .. }, By::RecursiveDoubling) => allreduce::recursive_doubling(place, len),
            (Self::Allreduce { len, .. }, By::Rabenseifner) => allreduce::rabenseifner(place, len),
            (Self::Allreduce { len, .. }, By::Ring) => allreduce::ring(place, len),
            (Self::ReduceScatterBlock { len, .. }, _) => scattered(algorithm, place, &even(len)),
            (Self::Gather { root, len }, By::Binomial) => gather::binomial(place, root, len),
            (Self::Gather { root, len }, By::Direct { window }) => {
                gather::direct(place, root, len, at_root(place, root, len).as_ref(), window)
            }
            (Self::Scatter { root, len }, By::Binomial) => scatter::binomial(place, root, len),
            (Self::Scatter { root, len }, By::Direct { window }) => {
                scatter::direct(place, root, len, at_root(place, root, len).as_ref(), window)
            }
            (Self::Allgather { len }, By::RecursiveDoubling) => allgather::recursive_doubling(place, len),
            (Self::Allgather { len }, _) => gathered(algorithm, place, &even(len)),
            (Self::Alltoall { len } | Self::AlltoallInPlace { len }, By::Bruck) => {
                alltoall::bruck(place, len)
            }
            (Self::AlltoallInPlace { len }, By::Direct { window }) => {
                alltoall::exchange(place, &even(len), window)
            }
            (Self::Alltoall { len }, By::Direct { window }) => {
                alltoall::direct(place, &even(len), &even(len), window)
            }
            (Self::Scan { len, inclusive }, By::RecursiveDoubling) => {
                scan::recursive_doubling(place, len, inclusive)
            }
            (Self::Scan { len, inclusive }, By::Chain { segment_bytes }) => {
                scan::chain(place, len, piece(segment_bytes), inclusive)
            }
            (operation, algorithm) => panic!("{algorithm} does not do {operation:?}"),
        }
    }
}

/// The blocks of a gather or scatter, which only the root needs.
fn at_root(place: Place, root: u32, len: u64) -> Option<Blocks> {
    (place.rank == root).then(|| Blocks::even(place.size, len))
}

/// A reduce-scatter of blocks of any lengths.
fn scattered(algorithm: Algorithm, place: Place, blocks: &Blocks) -> Schedule {
    match algorithm {
        Algorithm::Pairwise { window } => reduce_scatter::pairwise(place, blocks, window),
        Algorithm::CirculantHalving => reduce_scatter::circulant(place, blocks),
        Algorithm::RecursiveHalving => reduce_scatter::recursive_halving(place, blocks),
        other => panic!("{other} does no reduce-scatter"),
    }
}

/// An allgather of blocks of any lengths.
fn gathered(algorithm: Algorithm, place: Place, blocks: &Blocks) -> Schedule {
    match algorithm {
        Algorithm::Ring => allgather::ring(place, blocks),
        Algorithm::Bruck => allgather::bruck(place, blocks),
        other => panic!("{other} does no allgather of any blocks"),
    }
}

/// How the choice is to be made, and for whom: makes schedules for one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chooser<'t> {
    pub(crate) table: &'t Table,
    pub(crate) place: Place,
    pub(crate) element_bytes: u64,
    /// Results depend on the values and the number of ranks alone, in every bit.
    pub(crate) reproducible: bool,
    /// All ranks share a node, and that counts.
    pub(crate) is_one_node: bool,
}

impl Chooser<'_> {
    pub(crate) fn schedule(&self, operation: Operation) -> Schedule {
        let case = operation.case(self.place.size, self.element_bytes, self.reproducible);
        let case = Case { is_one_node: self.is_one_node, ..case };
        operation.schedule(self.table.choose(&case).algorithm, self.place, self.element_bytes)
    }

    /// The choice for blocks of any lengths, of so many elements together.
    fn choose(&self, collective: Collective, elements: u64, commutes: bool) -> Algorithm {
        let bytes = elements * self.element_bytes;
        let Self { place: Place { size: ranks, .. }, reproducible, is_one_node, .. } = *self;
        let case = Case { collective, bytes, ranks, commutes, reproducible, is_one_node };
        self.table.choose(&case).algorithm
    }

    /// How many ranks have transfers at a time.
    fn window(&self, collective: Collective, elements: u64) -> u32 {
        match self.choose(collective, elements, true) {
            Algorithm::Direct { window } => window,
            other => panic!("{other} does not do a {}", collective.name()),
        }
    }

    /// `blocks` are given at the root only.
    pub(crate) fn gatherv(&self, root: u32, len: u64, blocks: Option<&Blocks>) -> Schedule {
        gather::direct(self.place, root, len, blocks, self.window(Collective::Gatherv, len))
    }

    /// `blocks` are given at the root only.
    pub(crate) fn scatterv(&self, root: u32, len: u64, blocks: Option<&Blocks>) -> Schedule {
        scatter::direct(self.place, root, len, blocks, self.window(Collective::Scatterv, len))
    }

    pub(crate) fn allgatherv(&self, blocks: &Blocks) -> Schedule {
        gathered(self.choose(Collective::Allgatherv, blocks.end(), true), self.place, blocks)
    }

    pub(crate) fn alltoallv(&self, from: &Blocks, to: &Blocks) -> Schedule {
        alltoall::direct(self.place, from, to, self.window(Collective::Alltoallv, from.end()))
    }

    pub(crate) fn reduce_scatter(&self, blocks: &Blocks, commutes: bool) -> Schedule {
        let algorithm = self.choose(Collective::ReduceScatter, blocks.end(), commutes);
        scattered(algorithm, self.place, blocks)
    }

    pub(crate) fn neighbour_exchange(
        &self,
        (sources, destinations): (&[u32], &[u32]),
        (from, to): (&Blocks, &Blocks),
    ) -> Schedule {
        match self.choose(Collective::NeighbourExchange, from.end(), true) {
            Algorithm::Exchange => neighbour::exchange(self.place, sources, destinations, from, to),
            other => panic!("{other} is not for neighbours"),
        }
    }
}
