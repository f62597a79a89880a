//! Reductions. Each rank has as many elements of input; the root's output gets what they are combined to.
//! Others have no output.

use super::bcast::{Family, distance, rank_behind, segments};
use crate::schedule::{Place, Schedule, Side, Space, Span};

/// What a rank has combined so far.
struct Partial {
    /// Its own elements, in the input.
    own: Span,
    /// Where they are combined with others: the output at the root, else scratch memory.
    home: Span,
    /// Whether this has begun.
    is_home: bool,
    /// Where what has come waits to be combined.
    spares: Vec<Span>,
}

impl Partial {
    fn new(len: u64, home: Span) -> Self {
        Self { own: Span::input(0, len), home, is_home: false, spares: Vec::new() }
    }

    fn now(&self) -> Span {
        if self.is_home { self.home } else { self.own }
    }

    /// Where to receive the message of this number in a round, for so many elements from `start` on. The
    /// first message of all goes where it is to stay, and the own elements are combined into it. In the
    /// output there may be the own elements themselves.
    fn landing(&mut self, schedule: &mut Schedule, number: usize, start: u64, len: u64) -> Span {
        let at_home = usize::from(!self.is_home && self.home.space == Space::Scratch);
        let Some(spare) = number.checked_sub(at_home) else {
            return self.home.part(start, len);
        };
        while self.spares.len() <= spare {
            self.spares.push(schedule.take_scratch(len));
        }
        self.spares[spare].part(0, len)
    }

    /// Combines what has come to such a place with what is there, or with the own elements.
    fn merge(&mut self, schedule: &mut Schedule, landing: Span, start: u64, side: Side) {
        let home = self.home.part(start, landing.len);
        let own = self.own.part(start, landing.len);
        if landing == home {
            schedule.combine(own, home, side.opposite());
        } else {
            schedule.combine_with(landing, if self.is_home { home } else { own }, side, home);
        }
        self.is_home = true;
    }
}

/// A k-nomial tree: level by level each rank combines what it has with what its children have, and then sends
/// it to its parent. If `ordered`, rank 0 is at the top and sends the result to the root; if not, the root
/// is.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// 2005, for k = 2.
///
/// Cost: ceil(log_k p) (alpha + (k - 1) n (beta + gamma)), and alpha + n beta more if `ordered` and the root
/// is not rank 0. Chosen for short vectors.
///
/// Order: kept if `ordered`, or if the root is rank 0. In place: yes.
///
/// # Panics
/// When there is no such root, or the radix is below 2.
pub fn knomial(place: Place, root: u32, len: u64, radix: u32, ordered: bool) -> Schedule {
    let Place { rank, size } = place;
    assert!(root < size, "{root} of {size} ranks cannot be the root");
    let top = if ordered { 0 } else { root };
    let family = Family::of(distance(place, top), size, radix);
    let mut schedule = Schedule::new();
    let home = if rank == root && rank == top {
        Span::output(0, len)
    } else if family.branch.len() > 1 {
        schedule.take_scratch(len)
    } else {
        Span::scratch(0, 0)
    };
    let mut partial = Partial::new(len, home);
    for level in &family.children {
        let mut landings = Vec::new();
        for (number, branch) in level.iter().enumerate() {
            let landing = partial.landing(&mut schedule, number, 0, len);
            schedule.receive(rank_behind(top, branch.start, size), landing);
            landings.push(landing);
        }
        for landing in landings {
            partial.merge(&mut schedule, landing, 0, Side::Right);
        }
    }
    schedule.next_round();
    let parent = family.parent.map(|parent| rank_behind(top, parent, size));
    if let Some(to) = parent.or((top != root).then_some(root)) {
        schedule.send(to, partial.now());
    } else if !partial.is_home {
        schedule.copy(partial.own, home);
    }
    if rank == root && root != top {
        schedule.next_round();
        schedule.receive(top, Span::output(0, len));
    }
    schedule
}

/// Reduce-scatter and gather. Ranks beyond a power of two first give all to a neighbour. Of those that are
/// left, neighbours give each other half of the vector and combine the other half, then pairs of neighbours
/// do so with half of that half, and so on: each has a part that is wholly combined. The parts go back the
/// same way, but only towards the root.
///
/// Source: Rabenseifner, "Optimization of collective reduction operations", ICCS 2004. Here the nearest ranks
/// begin, which is what keeps the order; and of two neighbours of which one gives all to the other, the root
/// is the other.
///
/// Cost: 2 log2 p alpha + 2f n beta + f n gamma with f = (p-1)/p when p is a power of two; else that of the
/// next lower power of two, and alpha + n (beta + gamma) more. Chosen for long vectors.
///
/// Order: kept. In place: yes.
///
/// # Panics
/// When there is no such root.
pub fn reduce_scatter_gather(place: Place, root: u32, len: u64) -> Schedule {
    let Place { rank, size } = place;
    let pairs = Pairs::new(root, size);
    let mut schedule = Schedule::new();
    if let Some(neighbour) = pairs.gives_to(rank) {
        schedule.send(neighbour, Span::input(0, len));
        return schedule;
    }
    let home = if rank == root { Span::output(0, len) } else { schedule.take_scratch(len) };
    let mut partial = Partial::new(len, home);
    if size == 1 {
        schedule.copy(partial.own, home);
    }
    if let Some(neighbour) = pairs.takes_from(rank) {
        let landing = partial.landing(&mut schedule, 0, 0, len);
        schedule.receive(neighbour, landing);
        partial.merge(&mut schedule, landing, 0, side_of(neighbour, rank));
    }
    let own = pairs.number(rank);
    let mut halves = Vec::new();
    let (mut start, mut len) = (0, len);
    for bit in (0..pairs.left.ilog2()).map(|level| 1 << level) {
        let partner = pairs.rank(own ^ bit);
        let (lower, upper) = ((start, len - len / 2), (start + len - len / 2, len / 2));
        let (kept, given) = if own & bit == 0 { (lower, upper) } else { (upper, lower) };
        schedule.next_round();
        schedule.send(partner, partial.now().part(given.0, given.1));
        let landing = partial.landing(&mut schedule, 0, kept.0, kept.1);
        schedule.receive(partner, landing);
        partial.merge(&mut schedule, landing, kept.0, side_of(partner, rank));
        halves.push((bit, partner, kept, given));
        (start, len) = kept;
    }
    for (bit, partner, kept, given) in halves.into_iter().rev() {
        schedule.next_round();
        if (own ^ pairs.number(root)) & bit != 0 {
            schedule.send(partner, home.part(kept.0, kept.1));
            break;
        }
        schedule.receive(partner, home.part(given.0, given.1));
    }
    schedule
}

/// On which side of what a rank has is what comes from another one.
fn side_of(other: u32, rank: u32) -> Side {
    if other < rank { Side::Left } else { Side::Right }
}

/// The first ranks, two by two, of which one gives all to the other, so that a power of two are left. Those
/// are numbered in the order of their ranks.
struct Pairs {
    root: u32,
    /// How many there are.
    count: u32,
    /// How many ranks are left.
    left: u32,
}

impl Pairs {
    fn new(root: u32, size: u32) -> Self {
        assert!(root < size, "{root} of {size} ranks cannot be the root");
        let left = 1 << size.ilog2();
        Self { root, count: size - left, left }
    }

    fn gives_to(&self, rank: u32) -> Option<u32> {
        let to = self.rank(self.number(rank));
        (to != rank).then_some(to)
    }

    fn takes_from(&self, rank: u32) -> Option<u32> {
        (rank / 2 < self.count).then_some(rank ^ 1)
    }

    /// The number of a rank, or of the one that it gives all to.
    fn number(&self, rank: u32) -> u32 {
        if rank / 2 < self.count { rank / 2 } else { rank - self.count }
    }

    /// The rank that is left of this number.
    fn rank(&self, number: u32) -> u32 {
        if number >= self.count {
            number + self.count
        } else if self.root / 2 == number {
            self.root
        } else {
            2 * number
        }
    }
}

/// Two pipelined chains, one of all ranks below the root and one of all above: each rank combines its own
/// elements with those that come from farther away from the root, a segment at a time, and sends a segment on
/// while the next one comes. The root combines what comes from both sides.
///
/// Source: well known; see Pješivac-Grbović, Angskun, Bosilca, Fagg, Gabriel and Dongarra, "Performance
/// analysis of MPI collective operations", 2007, for one chain.
///
/// Cost: (l - 1 + s)(alpha + n/s (beta + gamma)) with s segments and l ranks in the longer chain, all but the
/// root if it is the first or the last rank. With any other root, twice the beta and gamma, because it takes
/// from both sides. Chosen for few ranks and long vectors.
///
/// Order: kept. In place: yes.
///
/// # Panics
/// When there is no such root, or segments of no elements are asked for.
pub fn chain(place: Place, root: u32, len: u64, segment: u64) -> Schedule {
    let Place { rank, size } = place;
    assert!(root < size, "{root} of {size} ranks cannot be the root");
    let inputs = segments(Span::input(0, len), segment);
    let below = rank.checked_sub(1);
    let above = (rank + 1 < size).then_some(rank + 1);
    match rank.cmp(&root) {
        std::cmp::Ordering::Equal => end_of_chains(below, above, &inputs),
        std::cmp::Ordering::Less => link_of_chain(below, rank + 1, Side::Left, &inputs),
        std::cmp::Ordering::Greater => link_of_chain(above, rank - 1, Side::Right, &inputs),
    }
}

/// The root's part.
fn end_of_chains(below: Option<u32>, above: Option<u32>, inputs: &[Span]) -> Schedule {
    let mut schedule = Schedule::new();
    let longest = inputs.first().map_or(0, |input| input.len);
    let sides = [(below, Side::Left), (above, Side::Right)];
    let sides: Vec<_> = sides.into_iter().filter_map(|(from, side)| Some((from?, side))).collect();
    let landings: Vec<_> = sides.iter().map(|_| schedule.take_scratch(longest)).collect();
    for input in inputs {
        let output = Span::output(input.start, input.len);
        for ((from, _), landing) in sides.iter().zip(&landings) {
            schedule.receive(*from, landing.part(0, input.len));
        }
        let mut held = *input;
        for ((_, side), landing) in sides.iter().zip(&landings) {
            schedule.combine_with(landing.part(0, input.len), held, *side, output);
            held = output;
        }
        schedule.copy(held, output);
        schedule.next_round();
    }
    schedule
}

/// Another rank's part. What comes is of ranks on this side of it.
fn link_of_chain(from: Option<u32>, to: u32, side: Side, inputs: &[Span]) -> Schedule {
    let mut schedule = Schedule::new();
    let Some(from) = from else {
        for input in inputs {
            schedule.send(to, *input);
            schedule.next_round();
        }
        return schedule;
    };
    // One is sent while the other is received to.
    let longest = inputs.first().map_or(0, |input| input.len);
    let landings = [schedule.take_scratch(longest), schedule.take_scratch(longest)];
    let mut sent: Option<Span> = None;
    for (round, input) in inputs.iter().enumerate() {
        let landing = landings[round % 2].part(0, input.len);
        schedule.receive(from, landing);
        if let Some(sent) = sent {
            schedule.send(to, sent);
        }
        schedule.combine(*input, landing, side.opposite());
        schedule.next_round();
        sent = Some(landing);
    }
    if let Some(sent) = sent {
        schedule.send(to, sent);
    }
    schedule
}
