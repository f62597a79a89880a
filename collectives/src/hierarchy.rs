//! Whether it counts where ranks are, and what is made of it. As in [`crate::choose`], all processes have to come to the same choice: it
//! depends on the operation, its length, the nodes of all ranks, and on caches only if there is one node.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;

use ironband::Context;

use crate::algorithms::hierarchy::{stripes, trees};
use crate::algorithms::{allgather, barrier};
use crate::error::Error;
use crate::operation::{Chooser, Operation};
use crate::schedule::{Blocks, Place, Schedule};
use crate::topology::{Topology, are_consecutive};

/// Where the processes of a job are; asked for once.
pub(crate) fn topology_of_job(context: &Context) -> Result<Rc<Topology>, Error> {
    let known = context.extension::<OnceCell<Rc<Topology>>>();
    if let Some(topology) = known.get() {
        return Ok(Rc::clone(topology));
    }
    let locations = context.locations().map_err(Error::Transport)?;
    let places = locations.into_iter().map(|location| (location.node, location.cache));
    Ok(Rc::clone(known.get_or_init(|| Rc::new(Topology::new(places)))))
}

/// What is made of nodes and caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing: all ranks are as near to each other.
    Flat(Why),
    /// One rank speaks for each node, and in it for each cache.
    Trees,
    /// Several speak for each node, each for a stripe.
    Stripes,
    /// Ranks are taken in the order of their nodes.
    ByNode,
}

/// Why it does not count where ranks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    TurnedOff,
    Reproducible,
    Apart,
    Together,
    Order,
    Long,
    InOrder,
    NoAlgorithm,
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Trees => "trees: one rank speaks for each node, and in it for each cache",
            Self::Stripes => "stripes: several ranks speak for each node, each for a part of the vector",
            Self::ByNode => "by node: ranks are taken in the order of their nodes",
            Self::Flat(Why::TurnedOff) => "flat: the table says that nodes do not count",
            Self::Flat(Why::Reproducible) => "flat: a reproducible result must not depend on the machine",
            Self::Flat(Why::Apart) => "flat: each rank is alone on its node",
            Self::Flat(Why::Together) => "flat: all ranks share a node, and one cache or none",
            Self::Flat(Why::Order) => {
                "flat: the operator does not commute, and ranks of a node or cache are not consecutive"
            }
            Self::Flat(Why::Long) => "flat: the vector is long, and all ranks share a node",
            Self::Flat(Why::InOrder) => "flat: ranks are in the order of their nodes already",
            Self::Flat(Why::NoAlgorithm) => "flat: for this operation there is nothing else",
        })
    }
}

impl Shape {
    /// The one that an operation is to have.
    pub(crate) fn of(chooser: &Chooser<'_>, topology: &Topology, operation: Operation) -> Self {
        let table = chooser.table;
        if table.hierarchy == 0 {
            return Self::Flat(Why::TurnedOff);
        }
        if chooser.reproducible {
            return Self::Flat(Why::Reproducible);
        }
        let (nodes, size) = (topology.node_count(), topology.size());
        let caches = if nodes == 1 { topology.caches_around(0) } else { Vec::new() };
        if nodes > 1 && nodes == size {
            return Self::Flat(Why::Apart);
        }
        if nodes == 1 && (caches.len() == 1 || caches.len() as u32 == size) {
            return Self::Flat(Why::Together);
        }
        let (len, commutes) = match operation {
            Operation::Barrier => return Self::Trees,
            Operation::Allgather { len } if nodes > 1 => {
                let bytes = len * u64::from(size) * chooser.element_bytes;
                return match topology.keeps_order() {
                    _ if bytes <= table.allgather_doubling_max => Self::Trees,
                    true => Self::Flat(Why::InOrder),
                    false => Self::ByNode,
                };
            }
            Operation::Bcast { len, .. } => (len, true),
            Operation::Reduce { len, commutes, .. } | Operation::Allreduce { len, commutes } => {
                (len, commutes)
            }
            _ => return Self::Flat(Why::NoAlgorithm),
        };
        if !(commutes || topology.keeps_order() && are_consecutive(&caches)) {
            Self::Flat(Why::Order)
        } else if len * chooser.element_bytes <= table.leader_max {
            Self::Trees
        } else if nodes > 1 {
            Self::Stripes
        } else {
            Self::Flat(Why::Long)
        }
    }
}

/// The schedule of an operation over ranks that are not all alike, for the chooser's place; `None` if that makes no difference. For the teams that
/// it is made of the chooser chooses, as for communicators of so many ranks.
pub(crate) fn schedule(chooser: &Chooser<'_>, topology: &Topology, operation: Operation) -> Option<Schedule> {
    let shape = Shape::of(chooser, topology, operation);
    tracing::debug!(?operation, %shape, "a schedule is made");
    match shape {
        Shape::Flat(_) => None,
        Shape::Trees => Some(over_trees(chooser, topology, operation)),
        Shape::Stripes => Some(in_stripes(chooser, topology, operation)),
        Shape::ByNode => match operation {
            Operation::Allgather { len } => {
                Some(trees::allgather_by_node(chooser.place, topology, len, &allgather::ring))
            }
            _ => unreachable!("only allgathers are by node, not {operation:?}"),
        },
    }
}

/// What the chooser takes for teams.
struct Teams<'t>(Chooser<'t>);

impl Teams<'_> {
    fn take(&self, place: Place, operation: Operation) -> Schedule {
        Chooser { place, ..self.0 }.schedule(operation)
    }

    fn bcast(&self, place: Place, root: u32, len: u64) -> Schedule {
        self.take(place, Operation::Bcast { root, len })
    }

    fn reduce(&self, place: Place, root: u32, len: u64, commutes: bool) -> Schedule {
        self.take(place, Operation::Reduce { root, len, commutes })
    }

    fn allreduce(&self, place: Place, len: u64, commutes: bool) -> Schedule {
        self.take(place, Operation::Allreduce { len, commutes })
    }
}

fn over_trees(chooser: &Chooser<'_>, topology: &Topology, operation: Operation) -> Schedule {
    let (table, place) = (chooser.table, chooser.place);
    let teams = Teams(*chooser);
    let bcast = |place: Place, root: u32, len: u64| teams.bcast(place, root, len);
    match operation {
        Operation::Barrier => {
            let highest = |place: Place| barrier::dissemination(place, table.barrier_radix);
            trees::barrier(place, topology, table.bcast_radix, &highest)
        }
        Operation::Bcast { root, len } => trees::bcast(place, topology, root, len, &bcast, &bcast),
        Operation::Reduce { root, len, commutes } => {
            let reduce = |place: Place, root: u32, len: u64| teams.reduce(place, root, len, commutes);
            trees::reduce(place, topology, root, len, !commutes, &reduce, &reduce)
        }
        Operation::Allreduce { len, commutes } => {
            let reduce = |place: Place, root: u32, len: u64| teams.reduce(place, root, len, commutes);
            let highest = |place: Place, len: u64| teams.allreduce(place, len, commutes);
            trees::allreduce(place, topology, len, !commutes, [&reduce, &bcast], &highest)
        }
        Operation::Allgather { len } => {
            let gather =
                |place: Place, root: u32, len: u64| teams.take(place, Operation::Gather { root, len });
            let highest = |place: Place, blocks: &Blocks| allgather::bruck(place, blocks);
            trees::allgather(place, topology, len, [&gather, &bcast], &highest)
        }
        _ => unreachable!("there are no trees for {operation:?}"),
    }
}

fn in_stripes(chooser: &Chooser<'_>, topology: &Topology, operation: Operation) -> Schedule {
    let (table, place) = (chooser.table, chooser.place);
    let teams = Teams(*chooser);
    let how = (table.stripes, table.window);
    match operation {
        Operation::Bcast { root, len } => {
            let across = |place: Place, root: u32, len: u64| teams.bcast(place, root, len);
            stripes::bcast(place, topology, root, len, how, &across)
        }
        Operation::Reduce { root, len, commutes } => {
            let across = |place: Place, root: u32, len: u64| teams.reduce(place, root, len, commutes);
            stripes::reduce(place, topology, root, len, how, &across)
        }
        Operation::Allreduce { len, commutes } => {
            let across = |place: Place, len: u64| teams.allreduce(place, len, commutes);
            stripes::allreduce(place, topology, len, how, &across)
        }
        _ => unreachable!("there are no stripes for {operation:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn chooser(table: &Table, size: u32) -> Chooser<'_> {
        Chooser {
            table,
            place: Place { rank: 0, size },
            element_bytes: 4,
            reproducible: false,
            is_one_node: false,
        }
    }

    fn shape(nodes: &[(u32, Option<u32>)], operation: Operation) -> Shape {
        let topology = Topology::new(nodes.iter().copied());
        Shape::of(&chooser(&Table::default(), topology.size()), &topology, operation)
    }

    const APART: [(u32, Option<u32>); 3] = [(0, None), (1, None), (2, None)];
    const TOGETHER: [(u32, Option<u32>); 4] = [(0, None), (0, None), (0, None), (0, None)];
    const IN_ORDER: [(u32, Option<u32>); 4] = [(0, Some(0)), (0, Some(2)), (5, None), (5, None)];
    const ROUND: [(u32, Option<u32>); 4] = [(0, None), (1, None), (0, None), (1, None)];
    const CACHES: [(u32, Option<u32>); 4] = [(0, Some(0)), (0, Some(0)), (0, Some(8)), (0, Some(8))];
    const CACHES_ROUND: [(u32, Option<u32>); 4] = [(0, Some(0)), (0, Some(8)), (0, Some(0)), (0, Some(8))];

    #[test]
    fn it_counts_where_ranks_are_if_they_are_not_all_alike() {
        let bcast = |bytes: u64| Operation::Bcast { root: 1, len: bytes / 4 };
        let sum = |bytes: u64, commutes| Operation::Allreduce { len: bytes / 4, commutes };
        let allgather = |bytes: u64| Operation::Allgather { len: bytes / 16 };
        const SHORT: u64 = 8 << 10;
        const LONG: u64 = SHORT + 4;
        for (nodes, operation, expected) in [
            (&APART[..], Operation::Barrier, Shape::Flat(Why::Apart)),
            (&APART[..1], Operation::Barrier, Shape::Flat(Why::Together)),
            (&TOGETHER, Operation::Barrier, Shape::Flat(Why::Together)),
            (&CACHES, Operation::Barrier, Shape::Trees),
            (&IN_ORDER, Operation::Barrier, Shape::Trees),
            (&CACHES, bcast(SHORT), Shape::Trees),
            (&CACHES, bcast(LONG), Shape::Flat(Why::Long)),
            (&ROUND, bcast(SHORT), Shape::Trees),
            (&ROUND, bcast(LONG), Shape::Stripes),
            (&ROUND, sum(SHORT, true), Shape::Trees),
            (&ROUND, sum(LONG, true), Shape::Stripes),
            (&ROUND, sum(SHORT, false), Shape::Flat(Why::Order)),
            (&CACHES_ROUND, sum(SHORT, false), Shape::Flat(Why::Order)),
            (&CACHES_ROUND, sum(SHORT, true), Shape::Trees),
            (&CACHES, sum(SHORT, false), Shape::Trees),
            (&IN_ORDER, sum(LONG, false), Shape::Stripes),
            (&IN_ORDER, allgather(80 << 10), Shape::Trees),
            (&IN_ORDER, allgather(81 << 10), Shape::Flat(Why::InOrder)),
            (&ROUND, allgather(81 << 10), Shape::ByNode),
            (&CACHES, allgather(SHORT), Shape::Flat(Why::NoAlgorithm)),
            (&ROUND, Operation::Alltoall { len: 1 }, Shape::Flat(Why::NoAlgorithm)),
        ] {
            assert_eq!(shape(nodes, operation), expected, "{operation:?} over {nodes:?}");
        }
    }

    #[test]
    fn it_can_be_turned_off_and_reproducible_results_do_not_ask() {
        let topology = Topology::new(IN_ORDER);
        let sum = Operation::Allreduce { len: 3, commutes: true };
        let off = Table { hierarchy: 0, ..Table::default() };
        assert_eq!(Shape::of(&chooser(&off, 4), &topology, sum), Shape::Flat(Why::TurnedOff));
        let table = Table::default();
        let reproducible = Chooser { reproducible: true, ..chooser(&table, 4) };
        assert_eq!(Shape::of(&reproducible, &topology, sum), Shape::Flat(Why::Reproducible));
        assert_eq!(schedule(&reproducible, &topology, sum), None);
        assert!(schedule(&chooser(&table, 4), &topology, sum).is_some());
    }

    /// Ranks of one node know of its caches, and others do not: they must come to the same shape.
    #[test]
    fn caches_do_not_count_in_the_choice_if_there_are_several_nodes() {
        let nodes = [0, 0, 0, 7, 7];
        let known = [Some(1), Some(2), Some(1), None, None];
        let with = |caches: &[Option<u32>]| nodes.into_iter().zip(caches.iter().copied()).collect::<Vec<_>>();
        for len in [1, 100, 10_000, 1_000_000] {
            for operation in [
                Operation::Barrier,
                Operation::Bcast { root: 0, len },
                Operation::Reduce { root: 0, len, commutes: false },
                Operation::Allreduce { len, commutes: false },
                Operation::Allgather { len },
            ] {
                let (inside, outside) =
                    (shape(&with(&known), operation), shape(&with(&[None; 5]), operation));
                assert_eq!(inside, outside, "{operation:?}");
            }
        }
    }
}
