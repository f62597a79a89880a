//! Which algorithm is taken, and why. The choice depends on what a [`Case`] has, which all processes know
//! alike, and on the table, which they have alike; never on what has arrived, or on what one process has.
//! Where ranks are is looked at before ([`crate::topology`]); schedules are made of it elsewhere
//! ([`crate::operation`]).

use std::fmt;

use crate::reason::{Condition, Reason};
use crate::table::Table;

/// MPI's collective operations, as far as they are chosen apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collective {
    /// `MPI_Barrier`.
    Barrier,
    /// `MPI_Bcast`.
    Bcast,
    /// `MPI_Reduce`.
    Reduce,
    /// `MPI_Allreduce`.
    Allreduce,
    /// `MPI_Reduce_scatter_block` and `MPI_Reduce_scatter`.
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
    /// `MPI_Neighbor_alltoallv`.
    NeighbourExchange,
}

impl Collective {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Barrier,
        Self::Bcast,
        Self::Reduce,
        Self::Allreduce,
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
        Self::NeighbourExchange,
    ];

    /// As MPI calls it, in small letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier",
            Self::Bcast => "bcast",
            Self::Reduce => "reduce",
            Self::Allreduce => "allreduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::Gather => "gather",
            Self::Gatherv => "gatherv",
            Self::Scatter => "scatter",
            Self::Scatterv => "scatterv",
            Self::Allgather => "allgather",
            Self::Allgatherv => "allgatherv",
            Self::Alltoall => "alltoall",
            Self::Alltoallv => "alltoallv",
            Self::Scan => "scan",
            Self::Exscan => "exscan",
            Self::NeighbourExchange => "neighbour_exchange",
        }
    }

    /// The file of [`crate::algorithms`] that has its algorithms.
    const fn file(self) -> &'static str {
        match self {
            Self::Gatherv => "gather",
            Self::Scatterv => "scatter",
            Self::Allgatherv => "allgather",
            Self::Alltoallv => "alltoall",
            Self::Exscan => "scan",
            Self::NeighbourExchange => "neighbour",
            other => other.name(),
        }
    }

    /// What [`Case::bytes`] are.
    pub const fn bytes_are(self) -> &'static str {
        match self {
            Self::Barrier => "nothing",
            Self::Bcast | Self::Reduce | Self::Allreduce | Self::Scan | Self::Exscan => "the vector",
            Self::ReduceScatter | Self::Allgather | Self::Allgatherv => "all blocks together",
            Self::Gather | Self::Scatter | Self::Alltoall => "a block",
            Self::Gatherv | Self::Scatterv | Self::Alltoallv | Self::NeighbourExchange => "the own blocks",
        }
    }
}

/// All that a choice may depend on beside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Case {
    /// What is asked for.
    pub collective: Collective,
    /// How long it is: the vector of a broadcast, a reduction or a scan, all blocks of a reduce-scatter or an
    /// allgather together, one block of the others ([`Collective::bytes_are`]). No choice depends on it where
    /// ranks do not know it alike.
    pub bytes: u64,
    /// How many take part, at least 1.
    pub ranks: u32,
    /// Whether the operator's operands may be exchanged. True where there is no operator.
    pub commutes: bool,
    /// Whether the result may depend on the values and the number of ranks alone.
    pub reproducible: bool,
    /// Whether all ranks share a node.
    pub is_one_node: bool,
}

/// An algorithm with its numbers, named as its function in [`crate::algorithms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// A barrier's.
    Dissemination {
        /// One more than a rank tells in a round.
        radix: u32,
    },
    /// A tree whose order does not matter, from or to the root.
    Knomial {
        /// Of the tree.
        radix: u32,
    },
    /// A tree to rank 0, which keeps the order of ranks, and from there to the root.
    OrderedKnomial {
        /// Of the tree.
        radix: u32,
    },
    /// Of a broadcast.
    ScatterAllgather,
    /// Over a circulant graph in blocks, of a broadcast.
    Circulant {
        /// How many.
        blocks: u32,
    },
    /// Over a circulant graph by halves, of a reduce-scatter.
    CirculantHalving,
    /// From rank to rank in pieces.
    Chain {
        /// Their length in bytes; a piece is of whole elements, and at least one.
        segment_bytes: u64,
    },
    /// Of a reduction.
    ReduceScatterGather,
    /// Of an allreduce, an allgather or a scan.
    RecursiveDoubling,
    /// Of an allreduce.
    Rabenseifner,
    /// Of an allreduce or an allgather.
    Ring,
    /// Of a reduce-scatter.
    RecursiveHalving,
    /// Of a reduce-scatter.
    Pairwise {
        /// With how many ranks at a time.
        window: u32,
    },
    /// Of an allgather or an exchange of all with all.
    Bruck,
    /// A tree, of a gather or a scatter.
    Binomial,
    /// From each rank straight to each one that it has something for.
    Direct {
        /// With how many ranks at a time.
        window: u32,
    },
    /// Of neighbours.
    Exchange,
}

impl Algorithm {
    /// The function's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dissemination { .. } => "dissemination",
            Self::Knomial { .. } | Self::OrderedKnomial { .. } => "knomial",
            Self::ScatterAllgather => "scatter_allgather",
            Self::Circulant { .. } | Self::CirculantHalving => "circulant",
            Self::Chain { .. } => "chain",
            Self::ReduceScatterGather => "reduce_scatter_gather",
            Self::RecursiveDoubling => "recursive_doubling",
            Self::Rabenseifner => "rabenseifner",
            Self::Ring => "ring",
            Self::RecursiveHalving => "recursive_halving",
            Self::Pairwise { .. } => "pairwise",
            Self::Bruck => "bruck",
            Self::Binomial => "binomial",
            Self::Direct { .. } => "direct",
            Self::Exchange => "exchange",
        }
    }
}

impl fmt::Display for Algorithm {
    /// The name and the numbers.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.name())?;
        match self {
            Self::Dissemination { radix } | Self::Knomial { radix } => write!(out, " (radix {radix})"),
            Self::OrderedKnomial { radix } => write!(out, " (radix {radix}, in order)"),
            Self::Circulant { blocks } => write!(out, " ({blocks} blocks)"),
            Self::Chain { segment_bytes } => write!(out, " (pieces of {segment_bytes} B)"),
            Self::Pairwise { window } | Self::Direct { window } => write!(out, " (window {window})"),
            _ => Ok(()),
        }
    }
}

/// What is taken, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What.
    pub algorithm: Algorithm,
    /// Why.
    pub reason: Reason,
}

impl Choice {
    fn new<const N: usize>(algorithm: Algorithm, conditions: [Condition; N]) -> Self {
        Self { algorithm, reason: Reason::of(conditions) }
    }
}

impl Case {
    /// The path of an algorithm's function: `allreduce::ring`.
    pub fn path(&self, algorithm: Algorithm) -> String {
        format!("{}::{}", self.collective.file(), algorithm.name())
    }
}

/// The radix of trees whose results are to be reproducible: a table is a machine's.
const REPRODUCIBLE_RADIX: u32 = 2;

impl Table {
    /// Which algorithm is taken in this case. Allocates nothing.
    pub fn choose(&self, case: &Case) -> Choice {
        let direct = Algorithm::Direct { window: self.window };
        match case.collective {
            Collective::Barrier => {
                Choice::new(Algorithm::Dissemination { radix: self.barrier_radix }, [Condition::NoOther])
            }
            Collective::Bcast => self.choose_bcast(case),
            Collective::Reduce => self.choose_reduce(case),
            Collective::Allreduce => self.choose_allreduce(case),
            Collective::ReduceScatter => self.choose_reduce_scatter(case),
            Collective::Gather | Collective::Scatter if case.bytes <= self.gather_tree_max => {
                Choice::new(Algorithm::Binomial, [Condition::UpTo("gather_tree_max")])
            }
            Collective::Gather | Collective::Scatter => {
                Choice::new(direct, [Condition::Above("gather_tree_max")])
            }
            Collective::Gatherv | Collective::Scatterv => Choice::new(direct, [Condition::RootAlone]),
            Collective::Allgather | Collective::Allgatherv => self.choose_allgather(case),
            Collective::Alltoall => self.choose_alltoall(case),
            Collective::Alltoallv => Choice::new(direct, [Condition::Nobody]),
            Collective::Scan | Collective::Exscan => self.choose_scan(case),
            Collective::NeighbourExchange => Choice::new(Algorithm::Exchange, [Condition::NoOther]),
        }
    }

    fn choose_bcast(&self, case: &Case) -> Choice {
        const TREE: &str = "bcast_tree_max";
        const PIPELINE: &str = "bcast_pipeline_min";
        let tree = Algorithm::Knomial { radix: self.bcast_radix };
        if case.bytes <= self.bcast_tree_max {
            Choice::new(tree, [Condition::UpTo(TREE)])
        } else if case.ranks <= 2 {
            Choice::new(tree, [Condition::AtMostTwo])
        } else if case.is_one_node && case.ranks <= self.bcast_node_ranks {
            let why =
                [Condition::Above(TREE), Condition::NotMoreRanks("bcast_node_ranks"), Condition::OneNode];
            Choice::new(Algorithm::Knomial { radix: case.ranks }, why)
        } else if case.bytes < self.bcast_pipeline_min {
            Choice::new(Algorithm::ScatterAllgather, [Condition::Above(TREE), Condition::Below(PIPELINE)])
        } else {
            Choice::new(self.bcast_circulant(case), [Condition::Above(TREE), Condition::From(PIPELINE)])
        }
    }

    fn bcast_circulant(&self, case: &Case) -> Algorithm {
        Algorithm::Circulant { blocks: (case.bytes / self.segment).clamp(1, 64) as u32 }
    }

    fn choose_reduce(&self, case: &Case) -> Choice {
        const TREE: &str = "reduce_tree_max";
        if case.reproducible {
            let tree = Algorithm::OrderedKnomial { radix: REPRODUCIBLE_RADIX };
            Choice::new(tree, [Condition::Reproducible])
        } else if case.bytes > self.reduce_tree_max {
            Choice::new(Algorithm::ReduceScatterGather, [Condition::Above(TREE)])
        } else if case.commutes {
            Choice::new(Algorithm::Knomial { radix: self.reduce_radix }, [Condition::UpTo(TREE)])
        } else {
            let tree = Algorithm::OrderedKnomial { radix: self.reduce_radix };
            Choice::new(tree, [Condition::UpTo(TREE), Condition::KeepsOrder])
        }
    }

    fn choose_allreduce(&self, case: &Case) -> Choice {
        const WHOLE: &str = "allreduce_whole_max";
        const RING: &str = "allreduce_ring_min";
        // These two combine all elements in the same tree, so either is reproducible.
        if case.bytes <= self.allreduce_whole_max {
            return Choice::new(Algorithm::RecursiveDoubling, [Condition::UpTo(WHOLE)]);
        }
        let halves = Algorithm::Rabenseifner;
        if case.reproducible {
            Choice::new(halves, [Condition::Above(WHOLE), Condition::Reproducible])
        } else if case.bytes < self.allreduce_ring_min {
            Choice::new(halves, [Condition::Above(WHOLE), Condition::Below(RING)])
        } else if !case.commutes {
            Choice::new(halves, [Condition::Above(WHOLE), Condition::KeepsOrder])
        } else if case.ranks <= 2 {
            Choice::new(halves, [Condition::Above(WHOLE), Condition::AtMostTwo])
        } else {
            let why = [Condition::Above(WHOLE), Condition::From(RING), Condition::Commutes];
            Choice::new(Algorithm::Ring, why)
        }
    }

    fn choose_reduce_scatter(&self, case: &Case) -> Choice {
        const HALVING: &str = "reduce_scatter_halving_max";
        if case.reproducible {
            Choice::new(Algorithm::RecursiveHalving, [Condition::Reproducible])
        } else if case.bytes > self.reduce_scatter_halving_max {
            Choice::new(Algorithm::Pairwise { window: self.window }, [Condition::Above(HALVING)])
        } else if case.commutes {
            Choice::new(Algorithm::CirculantHalving, [Condition::UpTo(HALVING), Condition::Commutes])
        } else {
            Choice::new(Algorithm::RecursiveHalving, [Condition::UpTo(HALVING), Condition::KeepsOrder])
        }
    }

    fn choose_allgather(&self, case: &Case) -> Choice {
        const DOUBLING: &str = "allgather_doubling_max";
        if case.bytes > self.allgather_doubling_max {
            Choice::new(Algorithm::Ring, [Condition::Above(DOUBLING)])
        } else if case.collective == Collective::Allgatherv {
            // Blocks that are not equally long have no recursive doubling.
            Choice::new(Algorithm::Bruck, [Condition::UpTo(DOUBLING)])
        } else if case.ranks.is_power_of_two() {
            Choice::new(Algorithm::RecursiveDoubling, [Condition::UpTo(DOUBLING), Condition::PowerOfTwo])
        } else {
            Choice::new(Algorithm::Bruck, [Condition::UpTo(DOUBLING), Condition::NoPowerOfTwo])
        }
    }

    fn choose_alltoall(&self, case: &Case) -> Choice {
        const BYTES: &str = "alltoall_bruck_max";
        const RANKS: &str = "alltoall_bruck_ranks";
        let direct = Algorithm::Direct { window: self.window };
        if case.bytes > self.alltoall_bruck_max {
            Choice::new(direct, [Condition::Above(BYTES)])
        } else if case.ranks < self.alltoall_bruck_ranks {
            Choice::new(direct, [Condition::FewRanks(RANKS)])
        } else {
            Choice::new(Algorithm::Bruck, [Condition::UpTo(BYTES), Condition::Ranks(RANKS)])
        }
    }

    fn choose_scan(&self, case: &Case) -> Choice {
        const CHAIN: &str = "scan_chain_min";
        if case.bytes < self.scan_chain_min {
            Choice::new(Algorithm::RecursiveDoubling, [Condition::Below(CHAIN)])
        } else if case.reproducible {
            Choice::new(Algorithm::RecursiveDoubling, [Condition::Reproducible])
        } else {
            Choice::new(Algorithm::Chain { segment_bytes: self.segment }, [Condition::From(CHAIN)])
        }
    }

    /// All algorithms that give a right result in this case, with the numbers that this table gives them:
    /// what is taken, and what else could be.
    pub fn algorithms(&self, case: &Case) -> Vec<Algorithm> {
        let chain = Algorithm::Chain { segment_bytes: self.segment };
        let direct = Algorithm::Direct { window: self.window };
        let (keeps_order, is_free) = (!case.commutes, !case.reproducible);
        let is_flat = case.is_one_node && case.ranks > 2 && case.ranks != self.bcast_radix;
        let any = |all: &[(Algorithm, bool)]| -> Vec<Algorithm> {
            all.iter().filter(|(_, is_right)| *is_right).map(|(algorithm, _)| *algorithm).collect()
        };
        match case.collective {
            Collective::Barrier => vec![Algorithm::Dissemination { radix: self.barrier_radix }],
            Collective::Bcast => any(&[
                (Algorithm::Knomial { radix: self.bcast_radix }, true),
                (Algorithm::Knomial { radix: case.ranks }, is_flat),
                (Algorithm::ScatterAllgather, true),
                (self.bcast_circulant(case), true),
                (chain, true),
            ]),
            Collective::Reduce if case.reproducible => {
                vec![Algorithm::OrderedKnomial { radix: REPRODUCIBLE_RADIX }]
            }
            Collective::Reduce => any(&[
                (Algorithm::Knomial { radix: self.reduce_radix }, case.commutes),
                (Algorithm::OrderedKnomial { radix: self.reduce_radix }, keeps_order),
                (Algorithm::ReduceScatterGather, true),
                (chain, true),
            ]),
            Collective::Allreduce => any(&[
                (Algorithm::RecursiveDoubling, true),
                (Algorithm::Rabenseifner, true),
                (Algorithm::Ring, case.commutes && is_free),
            ]),
            Collective::ReduceScatter => any(&[
                (Algorithm::CirculantHalving, case.commutes && is_free),
                (Algorithm::RecursiveHalving, true),
                (Algorithm::Pairwise { window: self.window }, is_free),
            ]),
            Collective::Gather | Collective::Scatter => vec![Algorithm::Binomial, direct],
            Collective::Allgather => any(&[
                (Algorithm::RecursiveDoubling, case.ranks.is_power_of_two()),
                (Algorithm::Bruck, true),
                (Algorithm::Ring, true),
            ]),
            Collective::Allgatherv => vec![Algorithm::Bruck, Algorithm::Ring],
            Collective::Alltoall => vec![Algorithm::Bruck, direct],
            Collective::Gatherv | Collective::Scatterv | Collective::Alltoallv => vec![direct],
            Collective::Scan | Collective::Exscan => {
                any(&[(Algorithm::RecursiveDoubling, true), (chain, is_free)])
            }
            Collective::NeighbourExchange => vec![Algorithm::Exchange],
        }
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
