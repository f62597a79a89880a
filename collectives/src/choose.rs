//! Which algorithm is taken. The choice depends on the operation, the lengths and the number of ranks alone, which all processes know
//! alike; never on what has arrived, or on what one process has.

use crate::algorithms::{
    allgather, allreduce, alltoall, barrier, bcast, gather, reduce, reduce_scatter, scan, scatter,
};
use crate::error::Error;
use crate::schedule::{Blocks, Place, Schedule};

/// From how many bytes on which algorithm is taken. All processes of a communicator must have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// How many a rank tells in a round of a barrier, and one more.
    pub barrier_radix: u32,
    /// Up to so many bytes a broadcast goes down a tree.
    pub bcast_tree_max: u64,
    /// The radix of that tree.
    pub bcast_radix: u32,
    /// From so many bytes on it goes in blocks over a circulant graph; between, it is scattered and gathered.
    pub bcast_pipeline_min: u64,
    /// Up to so many bytes a reduction goes up a tree.
    pub reduce_tree_max: u64,
    /// The radix of that tree.
    pub reduce_radix: u32,
    /// Up to so many bytes vectors are combined whole by all.
    pub allreduce_whole_max: u64,
    /// From so many bytes on they go round a ring, if the operator commutes; between, they are scattered and gathered.
    pub allreduce_ring_min: u64,
    /// Up to so many bytes in all a reduce-scatter halves.
    pub reduce_scatter_halving_max: u64,
    /// Up to so many bytes in all an allgather doubles.
    pub allgather_doubling_max: u64,
    /// Up to so many bytes in a block an exchange of all with all is done in log p rounds ...
    pub alltoall_bruck_max: u64,
    /// ... if there are so many ranks.
    pub alltoall_bruck_ranks: u32,
    /// Up to so many bytes in a block a gather or scatter goes over a tree.
    pub gather_tree_max: u64,
    /// From so many bytes on a scan goes along a chain.
    pub scan_chain_min: u64,
    /// The pieces of a chain, in bytes.
    pub segment: u64,
    /// With how many ranks one has transfers at a time.
    pub window: u32,
}

impl Default for Table {
    /// The switch points that others have found, where they agree: a start before a machine is measured.
    fn default() -> Self {
        Self {
            barrier_radix: 2,
            bcast_tree_max: 8 << 10,
            bcast_radix: 4,
            bcast_pipeline_min: 512 << 10,
            reduce_tree_max: 8 << 10,
            reduce_radix: 2,
            allreduce_whole_max: 4 << 10,
            allreduce_ring_min: 1 << 20,
            reduce_scatter_halving_max: 512 << 10,
            allgather_doubling_max: 80 << 10,
            alltoall_bruck_max: 128,
            alltoall_bruck_ranks: 8,
            gather_tree_max: 2 << 10,
            scan_chain_min: 64 << 10,
            segment: 64 << 10,
            window: 16,
        }
    }
}

impl Table {
    /// Whether schedules can be made by it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let at_least = |name, value: u64, least: u64, rule| {
            if value >= least { Ok(()) } else { Err(Error::Table { name, value, rule }) }
        };
        const BRANCHES: &str = "a tree has two branches at least";
        const ONE: &str = "it is 1 at least";
        at_least("barrier_radix", self.barrier_radix.into(), 2, BRANCHES)?;
        at_least("bcast_radix", self.bcast_radix.into(), 2, BRANCHES)?;
        at_least("reduce_radix", self.reduce_radix.into(), 2, BRANCHES)?;
        at_least("segment", self.segment, 1, ONE)?;
        at_least("window", self.window.into(), 1, ONE)
    }
}

/// What is asked for: all that a schedule depends on besides the place. Lengths are in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Barrier,
    Bcast { root: u32, len: u64 },
    Reduce { root: u32, len: u64, commutes: bool },
    Allreduce { len: u64, commutes: bool },
    ReduceScatterBlock { len: u64, commutes: bool },
    Gather { root: u32, len: u64 },
    Scatter { root: u32, len: u64 },
    Allgather { len: u64 },
    Alltoall { len: u64 },
    AlltoallInPlace { len: u64 },
    Scan { len: u64, inclusive: bool },
}

impl Operation {
    /// How many kinds there are.
    pub(crate) const KINDS: usize = 11;

    /// The number of its kind, below [`Operation::KINDS`].
    pub(crate) const fn kind(&self) -> usize {
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
            Self::Scan { .. } => 9,
            Self::AlltoallInPlace { .. } => 10,
        }
    }
}

/// How the choice is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chooser<'t> {
    pub(crate) table: &'t Table,
    pub(crate) place: Place,
    pub(crate) element_bytes: u64,
    /// Results depend on the values and the number of ranks alone, in every bit.
    pub(crate) reproducible: bool,
}

impl Chooser<'_> {
    const fn bytes(&self, elements: u64) -> u64 {
        elements * self.element_bytes
    }

    /// The pieces of a chain in elements.
    fn segment(&self) -> u64 {
        (self.table.segment / self.element_bytes).max(1)
    }

    pub(crate) fn schedule(&self, operation: Operation) -> Schedule {
        let Self { table, place, .. } = *self;
        match operation {
            Operation::Barrier => barrier::dissemination(place, table.barrier_radix),
            Operation::Bcast { root, len } => self.bcast(root, len),
            Operation::Reduce { root, len, commutes } => self.reduce(root, len, commutes),
            Operation::Allreduce { len, commutes } => self.allreduce(len, commutes),
            Operation::ReduceScatterBlock { len, commutes } => {
                self.reduce_scatter(&Blocks::even(place.size, len), commutes)
            }
            Operation::Gather { root, len } => {
                if self.bytes(len) <= table.gather_tree_max {
                    gather::binomial(place, root, len)
                } else {
                    let blocks = Blocks::even(place.size, len);
                    gather::direct(
                        place,
                        root,
                        len,
                        Some(&blocks).filter(|_| place.rank == root),
                        table.window,
                    )
                }
            }
            Operation::Scatter { root, len } => {
                if self.bytes(len) <= table.gather_tree_max {
                    scatter::binomial(place, root, len)
                } else {
                    let blocks = Blocks::even(place.size, len);
                    scatter::direct(
                        place,
                        root,
                        len,
                        Some(&blocks).filter(|_| place.rank == root),
                        table.window,
                    )
                }
            }
            Operation::Allgather { len } => {
                let blocks = Blocks::even(place.size, len);
                if self.bytes(blocks.end()) > table.allgather_doubling_max {
                    allgather::ring(place, &blocks)
                } else if place.size.is_power_of_two() {
                    allgather::recursive_doubling(place, len)
                } else {
                    allgather::bruck(place, &blocks)
                }
            }
            Operation::Alltoall { len } | Operation::AlltoallInPlace { len } => {
                if self.bytes(len) <= table.alltoall_bruck_max && place.size >= table.alltoall_bruck_ranks {
                    alltoall::bruck(place, len)
                } else if matches!(operation, Operation::AlltoallInPlace { .. }) {
                    alltoall::exchange(place, &Blocks::even(place.size, len), table.window)
                } else {
                    let blocks = Blocks::even(place.size, len);
                    alltoall::direct(place, &blocks, &blocks, table.window)
                }
            }
            Operation::Scan { len, inclusive } => {
                if self.bytes(len) < table.scan_chain_min || self.reproducible {
                    scan::recursive_doubling(place, len, inclusive)
                } else {
                    scan::chain(place, len, self.segment(), inclusive)
                }
            }
        }
    }

    fn bcast(&self, root: u32, len: u64) -> Schedule {
        let (table, place, bytes) = (self.table, self.place, self.bytes(len));
        if bytes <= table.bcast_tree_max || place.size == 2 {
            bcast::knomial(place, root, len, table.bcast_radix)
        } else if bytes < table.bcast_pipeline_min {
            bcast::scatter_allgather(place, root, len)
        } else {
            let blocks = (bytes / table.segment).clamp(1, 64) as u32;
            bcast::circulant(place, root, len, blocks)
        }
    }

    fn reduce(&self, root: u32, len: u64, commutes: bool) -> Schedule {
        let (table, place) = (self.table, self.place);
        if self.bytes(len) <= table.reduce_tree_max || self.reproducible {
            // A table is a machine's: results that are to be reproducible have a tree of their own.
            let radix = if self.reproducible { 2 } else { table.reduce_radix };
            reduce::knomial(place, root, len, radix, !commutes || self.reproducible)
        } else {
            reduce::reduce_scatter_gather(place, root, len)
        }
    }

    fn allreduce(&self, len: u64, commutes: bool) -> Schedule {
        let (table, place, bytes) = (self.table, self.place, self.bytes(len));
        if self.reproducible {
            allreduce::reproducible(place, len, table.allreduce_whole_max / self.element_bytes + 1)
        } else if bytes <= table.allreduce_whole_max {
            allreduce::recursive_doubling(place, len)
        } else if bytes >= table.allreduce_ring_min && commutes && place.size > 2 {
            allreduce::ring(place, len)
        } else {
            allreduce::rabenseifner(place, len)
        }
    }

    /// A reduce-scatter of blocks of any lengths.
    pub(crate) fn reduce_scatter(&self, blocks: &Blocks, commutes: bool) -> Schedule {
        let is_short = self.bytes(blocks.end()) <= self.table.reduce_scatter_halving_max;
        if !is_short && !self.reproducible {
            reduce_scatter::pairwise(self.place, blocks, self.table.window)
        } else if commutes && !self.reproducible {
            reduce_scatter::circulant(self.place, blocks)
        } else {
            reduce_scatter::recursive_halving(self.place, blocks)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_make_no_schedules_are_refused() {
        assert_eq!(Table::default().check(), Ok(()));
        for (table, name) in [
            (Table { barrier_radix: 1, ..Table::default() }, "barrier_radix"),
            (Table { bcast_radix: 0, ..Table::default() }, "bcast_radix"),
            (Table { reduce_radix: 1, ..Table::default() }, "reduce_radix"),
            (Table { segment: 0, ..Table::default() }, "segment"),
            (Table { window: 0, ..Table::default() }, "window"),
        ] {
            let error = table.check().unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }
}
