//! Algorithms for ranks that do not all have the same way to each other: those of a node share memory, and those of some of them a cache. Each
//! is made of schedules for some of the ranks, by algorithms that the caller gives: [`trees`] have one rank of each node speak to other
//! nodes, [`stripes`] several.
//!
//! Source: Karonis, de Supinski, Foster, Gropp, Lusk and Bresnahan, "Exploiting hierarchy in parallel computer networks to optimize
//! collective operation performance", IPDPS 2000; with several leaders, Bayatpour, Chakraborty, Subramoni, Lu and Panda, "Scalable
//! reduction collectives with data partitioning-based multi-leader design", SC 2017.
//!
//! In the formulas N is the number of nodes, and p_v how many ranks a node has.

pub mod stripes;
pub mod trees;

use crate::schedule::{Frame, Place, Schedule, Span};
use crate::topology::{Topology, are_consecutive};

/// Makes the schedule of an operation with a root, for a place among some of the ranks; a length in elements.
pub type Rooted<'a> = &'a dyn Fn(Place, u32, u64) -> Schedule;

/// Makes the schedule of an operation without a root, as [`Rooted`].
pub type Rootless<'a> = &'a dyn Fn(Place, u64) -> Schedule;

/// Of those whose output nothing comes to.
const NOTHING: Span = Span::scratch(0, 0);

/// Some of the ranks, seen by one of them.
struct Team {
    /// In their order within the team.
    members: Vec<u32>,
    /// The place of the one that sees it.
    place: Place,
    /// The place of the one that speaks for it.
    top: u32,
}

impl Team {
    /// `None` if `rank` is not of it.
    fn of(members: Vec<u32>, rank: u32, leader: u32) -> Option<Self> {
        let at = |rank: u32| members.iter().position(|member| *member == rank).map(|at| at as u32);
        let place = Place { rank: at(rank)?, size: members.len() as u32 };
        let top = at(leader)?;
        Some(Self { members, place, top })
    }

    const fn is_top(&self) -> bool {
        self.place.rank == self.top
    }
}

/// A schedule that is made of schedules for teams, one after the other.
#[derive(Default)]
struct Composition {
    /// Scratch memory that lasts from one part to another.
    lasting: u64,
    parts: Vec<Part>,
}

struct Part {
    schedule: Schedule,
    members: Vec<u32>,
    input: Span,
    output: Span,
}

impl Composition {
    /// Memory that parts after this one find as it was left.
    fn take_scratch(&mut self, len: u64) -> Span {
        let span = Span::scratch(self.lasting, len);
        self.lasting += len;
        span
    }

    /// What a team does next, with this memory for input and output.
    fn add(&mut self, schedule: Schedule, team: &Team, input: Span, output: Span) {
        self.parts.push(Part { schedule, members: team.members.clone(), input, output });
    }

    /// What a rank does next by itself.
    fn add_copies(&mut self, copies: impl IntoIterator<Item = (Span, Span)>, from: Span, to: Span) {
        let mut schedule = Schedule::new();
        for (from, to) in copies {
            schedule.copy(from, to);
        }
        self.parts.push(Part { schedule, members: Vec::new(), input: from, output: to });
    }

    /// All of it. The scratch memory of the parts is the same.
    fn finish(self) -> Schedule {
        let mut whole = Schedule::new();
        whole.take_scratch(self.lasting);
        let most = self.parts.iter().map(|part| part.schedule.scratch).max();
        let scratch = whole.take_scratch(most.unwrap_or(0));
        for Part { schedule, members, input, output } in &self.parts {
            whole.append(schedule, &Frame { members, input: *input, output: *output, scratch });
        }
        whole
    }
}

/// The teams that a rank is of. Each has a rank that speaks for it in the next one: the root, or the first rank.
struct Climb {
    /// Those below the highest: of ranks that share a cache, of those who speak for a cache of the node. None of one rank only.
    lower: Vec<Team>,
    /// The highest: of those who speak for nodes, or if there is only one node, for caches.
    summit: Option<Team>,
}

/// Climbs as far as a rank speaks for others. If order is to be kept, caches of a node whose ranks are not consecutive do not count.
fn climb(place: Place, topology: &Topology, root: Option<u32>, keeps_order: bool) -> Climb {
    assert_eq!(place.size, topology.size(), "a topology is that of the communicator");
    let leader = |ranks: &[u32]| root.filter(|root| ranks.contains(root)).unwrap_or(ranks[0]);
    let mut caches = topology.caches_around(place.rank);
    if keeps_order && !are_consecutive(&caches) {
        let mut all = caches.concat();
        all.sort_unstable();
        caches = vec![all];
    }
    let cache = caches.iter().find(|cache| cache.contains(&place.rank)).cloned().unwrap_or_default();
    let mut levels = vec![cache];
    if caches.len() > 1 {
        levels.push(caches.iter().map(|cache| leader(cache)).collect());
    }
    if topology.node_count() > 1 {
        levels.push(topology.members().iter().map(|node| leader(node)).collect());
    }
    let highest = levels.len() - 1;
    let mut climb = Climb { lower: Vec::new(), summit: None };
    for (level, members) in levels.into_iter().enumerate() {
        let top = leader(&members);
        let Some(team) = Team::of(members, place.rank, top) else { break };
        if level == highest {
            climb.summit = Some(team);
        } else if team.place.size > 1 {
            climb.lower.push(team);
        }
    }
    climb
}
