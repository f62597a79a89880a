//! A vector is cut into stripes, and in each node another rank speaks for each of them: for long vectors, which one rank alone could not bring to
//! the adapter as fast as it sends.
//!
//! ```text
//!   ranks of a node     0   1   2 │ 3   4 │ 5   6   7        three stripes
//!   who speak           *         │ *     │ *
//!   crews               └───────┘ │ └───┘ │ └───────┘
//! ```
//!
//! Those who speak for stripes are spread over the ranks of their node, and the ranks up to the next of them are their crew: they share the
//! work inside the node evenly, combining and copying, each for a block of the stripe. Inside a node all ranks have to do with all others
//! directly. Where a node has fewer ranks than there are stripes, some speak for several, one after the other. `across` algorithms are for
//! the ranks that speak for a stripe, of all nodes.
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
    /// By place in the node, its block of what its crew speaks for.
    blocks: Blocks,
    /// The own crew. Its first rank speaks for it.
    crew: Team,
    /// The stripes that this rank speaks for, in order, with those who do so in all nodes, in the order of nodes. They are of the output.
    own: Vec<(Span, Team)>,
    /// With how many ranks one has transfers at a time.
    window: u32,
}

/// In a node with so many ranks, who speaks for one of so many stripes.
fn speaker(ranks: usize, stripe: u32, stripes: u32) -> usize {
    (u64::from(stripe) * ranks as u64 / u64::from(stripes)) as usize
}

impl Stripes {
    fn new(place: Place, topology: &Topology, len: u64, (stripes, window): (u32, u32)) -> Self {
        assert_eq!(place.size, topology.size(), "a topology is that of the communicator");
        assert!(stripes > 0, "a vector in no stripes");
        let nodes = topology.members();
        let stripes = stripes.min(topology.most_members());
        let parts = Blocks::split(len, stripes);
        let members = &nodes[topology.node_of(place.rank) as usize];
        let mut shares = vec![0; members.len()];
        let mut speakers = Vec::new();
        for stripe in 0..stripes {
            let at = speaker(members.len(), stripe, stripes);
            shares[at] += parts.len_of(stripe);
            speakers.push(at);
        }
        speakers.dedup();
        let ends = speakers.iter().skip(1).copied().chain([members.len()]);
        let crews: Vec<_> = speakers.iter().zip(ends).map(|(first, end)| *first..end).collect();
        let blocks = crews.iter().flat_map(|crew| {
            let blocks = Blocks::split(shares[crew.start], crew.len() as u32);
            (0..crew.len() as u32).map(move |at| blocks.len_of(at))
        });
        let blocks = Blocks::of_counts(&blocks.collect::<Vec<u64>>());
        let crews = crews.into_iter().map(|crew| &members[crew]);
        let crew = crews.filter_map(|crew| Team::of(crew.to_vec(), place.rank, crew[0])).next();
        let own = (0..stripes).filter_map(|stripe| {
            let team: Vec<u32> =
                nodes.iter().map(|node| node[speaker(node.len(), stripe, stripes)]).collect();
            let first = team[0];
            Some((parts.of(stripe, Space::Output), Team::of(team, place.rank, first)?))
        });
        Self {
            own: own.collect(),
            node: Team::of(members.clone(), place.rank, members[0]).expect("a rank is of its node"),
            shares: Blocks::of_counts(&shares),
            blocks,
            crew: crew.expect("a rank is of a crew"),
            window,
        }
    }

    /// What of a vector this rank speaks for.
    fn share(&self, vector: Span) -> Span {
        let share = self.shares.of(self.node.place.rank, vector.space);
        vector.part(share.start, share.len)
    }

    /// This rank's block of a vector. If it speaks for others, its block is the first of its share.
    fn block(&self, vector: Span) -> Span {
        let block = self.blocks.of(self.node.place.rank, vector.space);
        vector.part(block.start, block.len)
    }

    /// The blocks of the own crew in its share, for the one who speaks for it.
    fn blocks_of_crew(&self) -> Option<Blocks> {
        let first = self.node.place.rank;
        let lens = (first..first + self.crew.place.size).map(|rank| self.blocks.len_of(rank));
        self.crew.is_top().then(|| Blocks::of_counts(&lens.collect::<Vec<u64>>()))
    }

    /// The vectors of all ranks of the node are combined, each block by its rank, and those who speak for a crew collect its blocks in their share.
    /// `share` is of no elements for others.
    fn combine(&self, whole: &mut Composition, vector: Span, block: Span, share: Span) {
        let scatter = reduce_scatter::pairwise(self.node.place, &self.blocks, self.window);
        whole.add(scatter, &self.node, vector, block);
        let blocks = self.blocks_of_crew();
        let gather = gather::direct(self.crew.place, 0, block.len, blocks.as_ref(), self.window);
        whole.add(gather, &self.crew, block, share);
    }

    /// Those who speak for a crew give it the blocks of their share, and all ranks of the node give their block to all others, but to one that has
    /// the vector.
    fn spread(&self, whole: &mut Composition, vector: Span, has_all: Option<u32>) {
        let Place { rank, size } = self.node.place;
        let block = self.block(vector);
        let blocks = self.blocks_of_crew();
        let scatter = scatter::direct(self.crew.place, 0, block.len, blocks.as_ref(), self.window);
        whole.add(scatter, &self.crew, self.share(vector), block);

        let cut = |block_of: &dyn Fn(u32) -> u32, moves: &dyn Fn(u32) -> bool| {
            let spans = (0..size).map(|peer| self.blocks.of(block_of(peer), vector.space));
            let (starts, mut lens): (Vec<u64>, Vec<u64>) = spans.map(|span| (span.start, span.len)).unzip();
            for (peer, len) in (0..).zip(&mut lens) {
                if peer == rank || !moves(peer) {
                    *len = 0;
                }
            }
            Blocks::at(&lens, &starts)
        };
        let given = cut(&|_| rank, &|to| Some(to) != has_all);
        let got = cut(&|from| from, &|_| Some(rank) != has_all);
        whole.add(alltoall::direct(self.node.place, &given, &got, self.window), &self.node, vector, vector);
    }

    /// The place of a rank in the node; `None` if it is not there.
    fn place_of(&self, rank: u32) -> Option<u32> {
        self.node.members.iter().position(|member| *member == rank).map(|at| at as u32)
    }
}

/// The root gives each stripe to the one of its node who speaks for it, stripes go to all nodes by broadcasts of their own, and then to all ranks of the
/// nodes.
///
/// `how` is the number of stripes, and with how many ranks of its node one has transfers at a time.
///
/// Cost: that of `across` for n / stripes, and at most n beta before and 2 n beta after it, for each rank; N - 1 times the vector between nodes, if
/// `across` sends each stripe once to each node.
///
/// # Panics
/// When the topology is of another number of ranks, there are no stripes, or the window is 0.
pub fn bcast(
    place: Place,
    topology: &Topology,
    root: u32,
    len: u64,
    how: (u32, u32),
    across: Rooted<'_>,
) -> Schedule {
    let vector = Span::output(0, len);
    let stripes = Stripes::new(place, topology, len, how);
    let root_in_node = stripes.place_of(root);
    let mut whole = Composition::default();
    if let Some(from) = root_in_node {
        let share = stripes.share(vector);
        let shares = Some(&stripes.shares).filter(|_| place.rank == root);
        let scatter = scatter::direct(stripes.node.place, from, share.len, shares, how.1);
        whole.add(scatter, &stripes.node, if place.rank == root { vector } else { NOTHING }, share);
    }
    for (stripe, team) in &stripes.own {
        let from = topology.node_of(root);
        whole.add(across(team.place, from, stripe.len), team, NOTHING, *stripe);
    }
    stripes.spread(&mut whole, vector, root_in_node);
    whole.finish()
}

/// Each rank of a node combines a block of all vectors of the node, those who speak for stripes collect them, stripes are reduced to the root's
/// node by reductions of their own, and gathered by the root.
///
/// `how` as for [`bcast`].
///
/// Cost: that of `across` for n / stripes, n (2 beta + gamma) before and n beta after.
///
/// Order: kept if `across` keeps it, and nodes have consecutive ranks.
///
/// Memory: n / stripes elements of scratch, and what the algorithms need.
///
/// # Panics
/// As [`bcast`].
pub fn reduce(
    place: Place,
    topology: &Topology,
    root: u32,
    len: u64,
    how: (u32, u32),
    across: Rooted<'_>,
) -> Schedule {
    let is_root = place.rank == root;
    let output = Span::output(0, len);
    let stripes = Stripes::new(place, topology, len, how);
    let mut whole = Composition::default();
    // Of the output at the root, and else of memory that has the own part of it only.
    let (mut block, mut share) = (stripes.block(output), stripes.share(output));
    let share_start = share.start;
    if !is_root {
        let held = whole.take_scratch(share.len.max(block.len));
        (block, share) = (held.part(0, block.len), held.part(0, share.len));
    }
    stripes.combine(&mut whole, Span::input(0, len), block, share);
    for (stripe, team) in &stripes.own {
        let stripe = share.part(stripe.start - share_start, stripe.len);
        let to = topology.node_of(root);
        whole.add(across(team.place, to, stripe.len), team, stripe, stripe);
    }
    if let Some(to) = stripes.place_of(root) {
        let shares = Some(&stripes.shares).filter(|_| is_root);
        let gather = gather::direct(stripes.node.place, to, share.len, shares, how.1);
        whole.add(gather, &stripes.node, share, if is_root { output } else { NOTHING });
    }
    whole.finish()
}

/// Each rank of a node combines a block of all vectors of the node, those who speak for stripes collect them, stripes have allreduces of their own,
/// and go to all ranks of the nodes.
///
/// `how` as for [`bcast`].
///
/// Cost: that of `across` for n / stripes, n (2 beta + gamma) before and 2 n beta after.
///
/// Order: kept if `across` keeps it, and nodes have consecutive ranks.
///
/// # Panics
/// As [`bcast`].
pub fn allreduce(
    place: Place,
    topology: &Topology,
    len: u64,
    how: (u32, u32),
    across: Rootless<'_>,
) -> Schedule {
    let vector = Span::output(0, len);
    let stripes = Stripes::new(place, topology, len, how);
    let mut whole = Composition::default();
    stripes.combine(&mut whole, Span::input(0, len), stripes.block(vector), stripes.share(vector));
    for (stripe, team) in &stripes.own {
        whole.add(across(team.place, stripe.len), team, *stripe, *stripe);
    }
    stripes.spread(&mut whole, vector, None);
    whole.finish()
}
