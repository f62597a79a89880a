//! A vector is cut into stripes, and in each node another rank speaks for each of them: for long vectors, which one rank alone could not bring to
//! the adapter as fast as it sends. Inside a node all ranks have to do with each of those directly.
//!
//! Those who speak for stripes are spread over the ranks of their node; where it has fewer ranks than there are stripes, some speak for
//! several, one after the other. `across` algorithms are for the ranks that speak for a stripe, of all nodes.
//!
//! All run in place, if the algorithms that they are made of do.

use super::{Composition, NOTHING, Rooted, Rootless, Team};
use crate::algorithms::{alltoall, gather, reduce_scatter, scatter};
use crate::schedule::{Blocks, Place, Schedule, Space, Span};
use crate::topology::Topology;

/// How a vector is cut, seen by one rank.
struct Stripes {
    /// All ranks of the node.
    node: Team,
    /// By place in the node, for what it speaks; for nothing, most of them.
    shares: Blocks,
    /// The stripes that this rank speaks for, in order, with those who do so in all nodes; in the order of nodes.
    own: Vec<(Span, Team)>,
}

impl Stripes {
    /// `space` is that of the vector.
    fn new(place: Place, topology: &Topology, len: u64, stripes: u32, space: Space) -> Self {
        assert_eq!(place.size, topology.size(), "a topology is that of the communicator");
        assert!(stripes > 0, "a vector in no stripes");
        let nodes = topology.members();
        let stripes = stripes.min(topology.most_members());
        let parts = Blocks::split(len, stripes);
        let speaker = |node: &[u32], stripe: u32| {
            // Below the number of ranks, which fits.
            (u64::from(stripe) * node.len() as u64 / u64::from(stripes)) as usize
        };
        let members = &nodes[topology.node_of(place.rank) as usize];
        let mut counts = vec![0; members.len()];
        for stripe in 0..stripes {
            counts[speaker(members, stripe)] += parts.len_of(stripe);
        }
        let own = (0..stripes).filter(|stripe| members[speaker(members, *stripe)] == place.rank);
        let own = own.filter_map(|stripe| {
            let team: Vec<u32> = nodes.iter().map(|node| node[speaker(node, stripe)]).collect();
            let first = team[0];
            Some((parts.of(stripe, space), Team::of(team, place.rank, first)?))
        });
        let own = own.collect();
        let node = Team::of(members.clone(), place.rank, members[0]).expect("a rank is of its node");
        Self { node, shares: Blocks::of_counts(&counts), own }
    }

    /// What of a vector this rank speaks for.
    fn share(&self, vector: Span) -> Span {
        let share = self.shares.of(self.node.place.rank, vector.space);
        vector.part(share.start, share.len)
    }

    /// Those who speak for stripes give them to all of the node, but to one that has them.
    fn spread(&self, whole: &mut Composition, vector: Span, has_all: Option<u32>, window: u32) {
        let Place { rank, size } = self.node.place;
        let lens = |moves: &dyn Fn(u32) -> bool, share: &dyn Fn(u32) -> u32| {
            let (mut counts, mut starts) = (Vec::new(), Vec::new());
            for peer in 0..size {
                let span = self.shares.of(share(peer), vector.space);
                counts.push(if peer != rank && moves(peer) { span.len } else { 0 });
                starts.push(span.start);
            }
            Blocks::at(&counts, &starts)
        };
        let given = lens(&|to| Some(to) != has_all, &|_| rank);
        let got = lens(&|_| Some(rank) != has_all, &|from| from);
        whole.add(alltoall::direct(self.node.place, &given, &got, window), &self.node, vector, vector);
    }

    /// The place of a rank in the node; `None` if it is not there.
    fn place_of(&self, rank: u32) -> Option<u32> {
        self.node.members.iter().position(|member| *member == rank).map(|at| at as u32)
    }
}

/// The root gives each stripe to the one of its node who speaks for it, stripes go to all nodes by broadcasts of their own, and then to all ranks of the
/// nodes.
///
/// Cost: that of `across` for n / stripes, and p_v n beta for each who speaks for a stripe; N - 1 times the vector between nodes, if `across` sends
/// each stripe once to each node.
///
/// # Panics
/// When the topology is of another number of ranks, there are no stripes, or the window is 0.
pub fn bcast(
    place: Place,
    topology: &Topology,
    root: u32,
    len: u64,
    (stripes, window): (u32, u32),
    across: Rooted<'_>,
) -> Schedule {
    let vector = Span::output(0, len);
    let stripes = Stripes::new(place, topology, len, stripes, Space::Output);
    let root_in_node = stripes.place_of(root);
    let mut whole = Composition::default();
    if let Some(from) = root_in_node {
        let share = stripes.share(vector);
        let shares = Some(&stripes.shares).filter(|_| place.rank == root);
        let scatter = scatter::direct(stripes.node.place, from, share.len, shares, window);
        whole.add(scatter, &stripes.node, if place.rank == root { vector } else { NOTHING }, share);
    }
    for (stripe, team) in &stripes.own {
        let from = topology.node_of(root);
        whole.add(across(team.place, from, stripe.len), team, NOTHING, *stripe);
    }
    stripes.spread(&mut whole, vector, root_in_node, window);
    whole.finish()
}

/// Each rank of a node gives each stripe to the one who speaks for it, who combines them; stripes are reduced to the root's node by reductions of
/// their own, and gathered by the root.
///
/// Cost: that of `across` for n / stripes, n (beta + gamma) before and n beta after.
///
/// Order: kept if `across` keeps it, and nodes have consecutive ranks.
///
/// Memory: n / stripes elements of scratch, and window + 2 times that for combining.
///
/// # Panics
/// As [`bcast`].
pub fn reduce(
    place: Place,
    topology: &Topology,
    root: u32,
    len: u64,
    (stripes, window): (u32, u32),
    across: Rooted<'_>,
) -> Schedule {
    let is_root = place.rank == root;
    let output = Span::output(0, len);
    // Stripes are parts of the output at the root, and else of memory that has the own share only.
    let stripes = Stripes::new(place, topology, len, stripes, Space::Output);
    let share = stripes.share(output);
    let mut whole = Composition::default();
    let held = if is_root { share } else { whole.take_scratch(share.len) };
    let scatter = reduce_scatter::pairwise(stripes.node.place, &stripes.shares, window);
    whole.add(scatter, &stripes.node, Span::input(0, len), held);
    for (stripe, team) in &stripes.own {
        let stripe = held.part(stripe.start - share.start, stripe.len);
        let to = topology.node_of(root);
        whole.add(across(team.place, to, stripe.len), team, stripe, stripe);
    }
    if let Some(to) = stripes.place_of(root) {
        let shares = Some(&stripes.shares).filter(|_| is_root);
        let gather = gather::direct(stripes.node.place, to, share.len, shares, window);
        whole.add(gather, &stripes.node, held, if is_root { output } else { NOTHING });
    }
    whole.finish()
}

/// Each rank of a node gives each stripe to the one who speaks for it, who combines them; stripes have allreduces of their own, and go to all ranks of
/// the nodes.
///
/// Cost: that of `across` for n / stripes, n (beta + gamma) before, and p_v n beta for each who speaks for a stripe.
///
/// Order: kept if `across` keeps it, and nodes have consecutive ranks.
///
/// Memory: window + 2 times n / stripes elements of scratch.
///
/// # Panics
/// As [`bcast`].
pub fn allreduce(
    place: Place,
    topology: &Topology,
    len: u64,
    (stripes, window): (u32, u32),
    across: Rootless<'_>,
) -> Schedule {
    let vector = Span::output(0, len);
    let stripes = Stripes::new(place, topology, len, stripes, Space::Output);
    let mut whole = Composition::default();
    let scatter = reduce_scatter::pairwise(stripes.node.place, &stripes.shares, window);
    whole.add(scatter, &stripes.node, Span::input(0, len), stripes.share(vector));
    for (stripe, team) in &stripes.own {
        whole.add(across(team.place, stripe.len), team, *stripe, *stripe);
    }
    stripes.spread(&mut whole, vector, None, window);
    whole.finish()
}
