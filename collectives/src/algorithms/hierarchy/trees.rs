//! One rank speaks for each node, and in a node one for each cache: for short vectors, where each message between nodes counts. `lower` algorithms
//! are for the teams inside a node, `highest` ones for those who speak for nodes, or if there is one node, for its caches.
//!
//! All run in place, if the algorithms that they are made of do.

use super::{Climb, Composition, NOTHING, Rooted, Rootless, Team, climb};
use crate::algorithms::barrier;
use crate::schedule::{Blocks, Place, Schedule, Span};
use crate::topology::Topology;

/// All of a team tell the one above them that they are there, down from it comes the word that all are; between, those who speak for nodes
/// have a barrier of their own. Signals inside go over a tree of this radix.
///
/// Cost: that of `highest` for N, and 2 ceil(log_radix p_v) (alpha + (radix - 2) g) inside.
///
/// # Panics
/// When the topology is of another number of ranks, or the radix is below 2.
pub fn barrier(
    place: Place,
    topology: &Topology,
    radix: u32,
    highest: &dyn Fn(Place) -> Schedule,
) -> Schedule {
    let Climb { lower, summit } = climb(place, topology, None, false);
    let mut whole = Composition::default();
    for team in &lower {
        whole.add(barrier::report(team.place, radix), team, NOTHING, NOTHING);
    }
    if let Some(summit) = &summit {
        whole.add(highest(summit.place), summit, NOTHING, NOTHING);
    }
    for team in lower.iter().rev() {
        whole.add(barrier::release(team.place, radix), team, NOTHING, NOTHING);
    }
    whole.finish()
}

/// The root speaks for its node; then the vector goes from those who speak for nodes to theirs.
///
/// Cost: that of `highest` for N and of `lower` for p_v; N - 1 times the vector between nodes, if `highest` sends it whole.
///
/// # Panics
/// When the topology is of another number of ranks.
pub fn bcast(
    place: Place,
    topology: &Topology,
    root: u32,
    len: u64,
    lower: Rooted<'_>,
    highest: Rooted<'_>,
) -> Schedule {
    let climb = climb(place, topology, Some(root), false);
    let vector = Span::output(0, len);
    let mut whole = Composition::default();
    if let Some(summit) = &climb.summit {
        whole.add(highest(summit.place, summit.top, len), summit, NOTHING, vector);
    }
    for team in climb.lower.iter().rev() {
        whole.add(lower(team.place, team.top, len), team, NOTHING, vector);
    }
    whole.finish()
}

/// Each team reduces to the one that speaks for it; the root speaks for its own ones.
///
/// Cost: that of `lower` for p_v and of `highest` for N; N - 1 times the vector between nodes, if `highest` sends it whole.
///
/// Order: kept if `ordered`, if the algorithms keep it.
///
/// Memory: one vector of scratch for those who speak for others, and that of the algorithms.
///
/// # Panics
/// When the topology is of another number of ranks, or the order is to be kept and the ranks of a node are not consecutive.
pub fn reduce(
    place: Place,
    topology: &Topology,
    root: u32,
    len: u64,
    ordered: bool,
    lower: Rooted<'_>,
    highest: Rooted<'_>,
) -> Schedule {
    check_order(topology, ordered);
    let climb = climb(place, topology, Some(root), ordered);
    let mut whole = Composition::default();
    let mut held = Span::input(0, len);
    let speaks = climb.lower.iter().any(Team::is_top);
    let home = match place.rank == root {
        true => Span::output(0, len),
        false if speaks => whole.take_scratch(len),
        false => NOTHING,
    };
    let mut add = |team: &Team, algorithm: Rooted<'_>| {
        let into = if team.is_top() { home } else { NOTHING };
        whole.add(algorithm(team.place, team.top, len), team, held, into);
        held = home;
    };
    for team in &climb.lower {
        add(team, lower);
    }
    if let Some(summit) = &climb.summit {
        add(summit, highest);
    }
    whole.finish()
}

/// Each team reduces to the one that speaks for it, those who speak for nodes have an allreduce, and the result goes down again.
///
/// Cost: that of `highest` for N, and of `up` and `down` for p_v.
///
/// Order: kept if `ordered`, if the algorithms keep it.
///
/// # Panics
/// As [`reduce`].
pub fn allreduce(
    place: Place,
    topology: &Topology,
    len: u64,
    ordered: bool,
    [up, down]: [Rooted<'_>; 2],
    highest: Rootless<'_>,
) -> Schedule {
    check_order(topology, ordered);
    let climb = climb(place, topology, None, ordered);
    let result = Span::output(0, len);
    let mut whole = Composition::default();
    let mut held = Span::input(0, len);
    for team in &climb.lower {
        let into = if team.is_top() { result } else { NOTHING };
        whole.add(up(team.place, team.top, len), team, held, into);
        held = result;
    }
    if let Some(summit) = &climb.summit {
        whole.add(highest(summit.place, len), summit, held, result);
    }
    for team in climb.lower.iter().rev() {
        whole.add(down(team.place, team.top, len), team, NOTHING, result);
    }
    whole.finish()
}

fn check_order(topology: &Topology, ordered: bool) {
    assert!(!ordered || topology.keeps_order(), "nodes of ranks that are not consecutive keep no order");
}

/// The blocks of a node are gathered by its first rank, those ranks have an allgather of the nodes' blocks, and all blocks go to all of
/// the node. Blocks of a node lie together on their way: where nodes have ranks that are not consecutive they are
/// collected in scratch memory, and copied in the end.
///
/// `len` is that of a block; `up` is a gather, `down` a broadcast. Caches are not looked at: other nodes would have to know of them.
///
/// Cost: that of `up` and `down` for p_v, and of `highest` for N.
///
/// Memory: p blocks of scratch if nodes have ranks that are not consecutive, else only that of the algorithms.
///
/// # Panics
/// When the topology is of another number of ranks.
pub fn allgather(
    place: Place,
    topology: &Topology,
    len: u64,
    [up, down]: [Rooted<'_>; 2],
    highest: &dyn Fn(Place, &Blocks) -> Schedule,
) -> Schedule {
    assert_eq!(place.size, topology.size(), "a topology is that of the communicator");
    let nodes = topology.members();
    let number = topology.node_of(place.rank);
    let output = Span::output(0, u64::from(place.size) * len);
    let mut whole = Composition::default();
    let collected = if topology.keeps_order() { output } else { whole.take_scratch(output.len) };
    let counts: Vec<u64> = nodes.iter().map(|node| node.len() as u64 * len).collect();
    let sections = Blocks::of_counts(&counts);
    let section = sections.of(number, collected.space);
    let section = collected.part(section.start, section.len);

    let members = nodes[number as usize].clone();
    let first = members[0];
    let leaders = nodes.iter().map(|node| node[0]).collect();
    let node = Team::of(members, place.rank, first).expect("a rank is of its node");
    let into = if node.is_top() { section } else { NOTHING };
    whole.add(up(node.place, node.top, len), &node, Span::input(0, len), into);
    if let Some(summit) = Team::of(leaders, place.rank, nodes[0][0]) {
        whole.add(highest(summit.place, &sections), &summit, section, collected);
    }
    whole.add(down(node.place, node.top, output.len), &node, NOTHING, collected);
    if collected != output {
        whole.add_copies(to_places(&nodes, len), collected, output);
    }
    whole.finish()
}

/// Blocks that are collected by node, to their places by rank; as many at a time as lie together in both.
fn to_places(nodes: &[Vec<u32>], len: u64) -> Vec<(Span, Span)> {
    let ranks: Vec<u32> = nodes.concat();
    let mut copies = Vec::new();
    let mut start = 0;
    for run in ranks.chunk_by(|one, next| one + 1 == *next) {
        let run_len = run.len() as u64 * len;
        copies.push((Span::input(start, run_len), Span::output(u64::from(run[0]) * len, run_len)));
        start += run_len;
    }
    copies
}

/// An allgather among the ranks in the order of their nodes: over a ring, then, each block comes to each node once.
///
/// `len` is that of a block. Cost: that of `algorithm`.
///
/// # Panics
/// When the topology is of another number of ranks.
pub fn allgather_by_node(
    place: Place,
    topology: &Topology,
    len: u64,
    algorithm: &dyn Fn(Place, &Blocks) -> Schedule,
) -> Schedule {
    assert_eq!(place.size, topology.size(), "a topology is that of the communicator");
    let order = topology.members().concat();
    let starts: Vec<u64> = order.iter().map(|rank| u64::from(*rank) * len).collect();
    let blocks = Blocks::at(&vec![len; order.len()], &starts);
    let first = order[0];
    let all = Team::of(order, place.rank, first).expect("a rank is one of all");
    let mut whole = Composition::default();
    let output = Span::output(0, u64::from(place.size) * len);
    whole.add(algorithm(all.place, &blocks), &all, Span::input(0, len), output);
    whole.finish()
}
