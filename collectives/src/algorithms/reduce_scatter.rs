//! Reduce-scatter: the vectors of all ranks are combined, and each rank gets its block of the result.
//!
//! The input is the whole vector, blocks without gaps; the output is the own block, from its first element
//! on. All run in place, too: what of the input is where the output is written has been read by then.

use std::ops::Range;

use super::alltoall::{ahead, behind, windows};
use crate::schedule::{Blocks, Place, Schedule, Side, Space, Span};

/// The ranks as teams, whose number is a power of two: pairs at the beginning, as many as there are ranks
/// beyond that power, then single ranks. The first rank of a team leads it. Teams in their order are ranks in
/// their order.
pub(super) struct Teams {
    /// How many there are.
    pub(super) count: u32,
    pairs: u32,
}

impl Teams {
    pub(super) fn of(size: u32) -> Self {
        let count = 1 << size.ilog2();
        Self { count, pairs: size - count }
    }

    /// How often their number can be halved.
    pub(super) fn halvings(&self) -> u32 {
        self.count.ilog2()
    }

    /// The team of a rank.
    fn team(&self, rank: u32) -> u32 {
        if rank < 2 * self.pairs { rank / 2 } else { rank - self.pairs }
    }

    /// The team that a rank leads. The second of a pair leads none.
    pub(super) fn led_by(&self, rank: u32) -> Option<u32> {
        let team = self.team(rank);
        (self.leader(team) == rank).then_some(team)
    }

    pub(super) fn leader(&self, team: u32) -> u32 {
        if team < self.pairs { 2 * team } else { team + self.pairs }
    }

    fn ranks(&self, team: u32) -> Range<u32> {
        self.leader(team)..self.leader(team + 1)
    }

    /// Of a team of two the one that does not lead.
    pub(super) fn second(&self, team: u32) -> Option<u32> {
        (team < self.pairs).then(|| self.leader(team) + 1)
    }

    /// The second of each pair sends its values to the first, who combines them with its own ones. Says where
    /// the values of a leader's team are.
    pub(super) fn combine_pairs(&self, schedule: &mut Schedule, rank: u32, own: Span) -> Span {
        let Some(team) = self.led_by(rank) else {
            schedule.send(rank - 1, own);
            return own;
        };
        let Some(second) = self.second(team) else { return own };
        let both = schedule.take_scratch(own.len);
        receive_and_combine(schedule, second, own, Side::Left, both)
    }

    /// Which of as many parts as there are teams one is busy with when the number of its parts has been
    /// halved so often. In the end it is the part whose number is the team's with its bits reversed.
    pub(super) fn parts(&self, team: u32, halvings: u32) -> Range<u32> {
        let start = (0..halvings).map(|bit| (team >> bit & 1) * (self.count >> (bit + 1))).sum();
        start..start + (self.count >> halvings)
    }
}

/// Receives the values of a peer and combines `own` with them, `own` being on this side. They end up in
/// `into`, which is the result. It may be output even if `own` is input: then this works in place, too.
pub(super) fn receive_and_combine(
    schedule: &mut Schedule,
    peer: u32,
    own: Span,
    side: Side,
    into: Span,
) -> Span {
    if own.space == Space::Input && into.space == Space::Output {
        let arrived = schedule.take_scratch(own.len);
        schedule.receive(peer, arrived);
        schedule.combine_with(own, arrived, side, into);
    } else {
        schedule.receive(peer, into);
        schedule.combine(own, into, side);
    }
    into
}

/// Among the leaders of teams: in each round two leaders, whose teams have combined the same parts of the
/// vector so far, each give the other the half of them that it goes on with. Their distance is 1, 2, 4 ...:
/// so what is combined is always of consecutive ranks. Says where the one part is that is left; `result` is
/// for it, if it is to be there.
///
/// `parts` are without gaps, and `own` has all of them.
pub(super) fn halve(
    schedule: &mut Schedule,
    teams: &Teams,
    team: u32,
    parts: &Blocks,
    own: Span,
    result: Option<Span>,
) -> Span {
    let mut held = own;
    let mut areas = Vec::new();
    for done in 0..teams.halvings() {
        let peer = team ^ (1 << done);
        let side = if team < peer { Side::Left } else { Side::Right };
        let start = parts.range(teams.parts(team, done), held.space).start;
        let half_of = |team| {
            let half = parts.range(teams.parts(team, done + 1), held.space);
            held.part(half.start - start, half.len)
        };
        let (given, kept) = (half_of(peer), half_of(team));
        schedule.next_round();
        schedule.send(teams.leader(peer), given);
        let is_last = done + 1 == teams.halvings();
        let into = result.filter(|_| is_last).unwrap_or_else(|| {
            // Two are enough: what is kept gets shorter and shorter.
            if done < 2 {
                areas.push(schedule.take_scratch(kept.len));
            }
            areas[done as usize % 2].part(0, kept.len)
        });
        held = receive_and_combine(schedule, teams.leader(peer), kept, side, into);
    }
    held
}

/// Recursive halving with doubled distances: in round i two ranks whose numbers differ by `2^i` each give the
/// other half of what they have combined so far. What they end up with belongs to the rank with the reversed
/// bits, so it is handed over in a last round. Ranks beyond a power of two first give their values to a
/// neighbour, who works for both.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// International Journal of High Performance Computing Applications 19(1), 2005; the order of the distances
/// as in Rabenseifner's allreduce.
///
/// Cost: p a power of two: (q + 1) alpha + n beta + (p - 1) / p n gamma, without the last round for p = 2;
/// else q and p are of the power below, and alpha + n (beta + gamma) more. Chosen for short vectors if the
/// operator does not commute.
///
/// Order: kept.
///
/// Memory: 3/4 n elements of scratch, 2 n if one block is much longer than the others; n more for those who
/// work for two.
pub fn recursive_halving(place: Place, blocks: &Blocks) -> Schedule {
    let Place { rank, size } = place;
    let teams = Teams::of(size);
    let mut schedule = Schedule::new();
    let own = teams.combine_pairs(&mut schedule, rank, blocks.range(0..size, Space::Input));
    let held = teams.led_by(rank).map(|team| {
        let spans = (0..teams.count).map(|team| blocks.range(teams.ranks(team), Space::Input));
        let (starts, counts): (Vec<u64>, Vec<u64>) = spans.map(|span| (span.start, span.len)).unzip();
        halve(&mut schedule, &teams, team, &Blocks::at(&counts, &starts), own, None)
    });
    hand_over(&mut schedule, &teams, rank, blocks, held);
    schedule
}

/// After `halve`: the blocks that leaders have held go to those whom they belong to.
fn hand_over(schedule: &mut Schedule, teams: &Teams, rank: u32, blocks: &Blocks, held: Option<Span>) {
    let output = Span::output(0, blocks.len_of(rank));
    let part = teams.parts(teams.team(rank), teams.halvings()).start;
    // The reversed bits of reversed bits are the bits.
    let holder = teams.leader(part);
    schedule.next_round();
    if holder != rank {
        schedule.receive(holder, output);
    }
    let Some(held) = held else { return };
    let start = blocks.range(teams.ranks(part), Space::Input).start;
    // The own block comes last: after a copy a send would have to wait for the next round.
    for owner in teams.ranks(part).rev() {
        let block = held.part(blocks.of(owner, Space::Input).start - start, blocks.len_of(owner));
        if owner == rank {
            schedule.copy(block, output);
        } else {
            schedule.send(owner, block);
        }
    }
}

/// Circulant graph: the blocks from the own one on, round the ring of ranks, are halved again and again: the
/// half that is further away goes to the rank that is as far away as its first block, and the same half comes
/// from the other side. Any number of ranks takes q rounds, and nobody sends more than the p - 1 blocks of
/// others.
///
/// Source: Träff, "Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms", 2024.
///
/// Cost: q alpha + (p - 1) / p n (beta + gamma); a rank for whom the first half goes past the last rank, or
/// comes so, has two messages in place of the first one. Chosen for short vectors.
///
/// Order: not kept, the operator has to commute.
///
/// Memory: 3/4 n elements of scratch, 2 n if one block is much longer than the others.
pub fn circulant(place: Place, blocks: &Blocks) -> Schedule {
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    let output = Span::output(0, blocks.len_of(rank));
    if size == 1 {
        schedule.copy(blocks.of(rank, Space::Input), output);
        return schedule;
    }
    let counts: Vec<u64> = (0..size).map(|far| blocks.len_of(ahead(place, far))).collect();
    let turned = Blocks::of_counts(&counts);
    let half = size.div_ceil(2);
    let held = schedule.take_scratch(turned.range(0..half, Space::Scratch).len);
    let held_of = |far: Range<u32>| {
        let span = turned.range(far, Space::Scratch);
        held.part(span.start, span.len)
    };
    first_circulant_round(&mut schedule, place, blocks, held);
    let area = schedule.take_scratch(held_of(0..half / 2).len);
    let mut count = half;
    while count > 1 {
        let half = count.div_ceil(2);
        let kept = held_of(0..count - half);
        schedule.next_round();
        schedule.send(ahead(place, half), held_of(half..count));
        let arrived = area.part(0, kept.len);
        schedule.receive(behind(place, half), arrived);
        schedule.combine(arrived, kept, Side::Left);
        count = half;
    }
    schedule.copy(held_of(0..1), output);
    schedule
}

/// The input is sent and combined from where it is; afterwards `held` has half of the blocks.
fn first_circulant_round(schedule: &mut Schedule, place: Place, blocks: &Blocks, held: Span) {
    let half = place.size.div_ceil(2);
    for ranks in around(place, half..place.size) {
        schedule.send(ahead(place, half), blocks.range(ranks, Space::Input));
    }
    let arriving = around(place, 0..place.size - half).map(|ranks| blocks.range(ranks, Space::Input));
    let mut start = 0;
    for own in arriving {
        let into = held.part(start, own.len);
        schedule.receive(behind(place, half), into);
        start += own.len;
    }
    start = 0;
    for own in arriving {
        schedule.combine(own, held.part(start, own.len), Side::Left);
        start += own.len;
    }
    // Of an odd number of blocks nothing has come for the one in the middle.
    let middle = ahead(place, place.size - half);
    if half != place.size - half {
        schedule.copy(blocks.of(middle, Space::Input), held.part(start, blocks.len_of(middle)));
    }
}

/// The ranks that are so far ahead: those up to the last rank, and those from rank 0 on.
fn around(place: Place, far: Range<u32>) -> [Range<u32>; 2] {
    let Place { rank, size } = place;
    let to_zero = size - rank;
    let cut = to_zero.clamp(far.start, far.end);
    let from_zero = if far.end > to_zero { cut - to_zero..far.end - to_zero } else { 0..0 };
    [rank + far.start..rank + cut, from_zero]
}

/// Pairwise exchange: every rank sends each other one its block of the input directly, to those ahead one
/// after the other, `window` of them in a round, and combines what comes from those behind. That comes in
/// descending order, first of the ranks below and then of those above the own one, so with a sum of each the
/// order is kept.
///
/// Source: Iannello, "Efficient algorithms for the reduce-scatter operation in LogGP", IEEE Transactions on
/// Parallel and Distributed Systems 8(9), 1997; Thakur, Rabenseifner and Gropp as above.
///
/// Cost: ceil((p - 1) / window) alpha + (p - 1) / p n (beta + gamma). Chosen for long vectors.
///
/// Order: kept.
///
/// Memory: (window + 2) m elements of scratch.
///
/// # Panics
/// When the window is 0.
pub fn pairwise(place: Place, blocks: &Blocks, window: u32) -> Schedule {
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    let own = blocks.of(rank, Space::Input);
    // As many as may come in a round, and the two sums.
    let areas = (u64::from(window) + 2).min(u64::from(size) - 1);
    let mut free: Vec<Span> = (0..areas).map(|_| schedule.take_scratch(own.len)).collect();
    let (mut lower, mut higher) = (None, None);
    for distances in windows(size, window) {
        schedule.next_round();
        for to in distances.clone().map(|distance| ahead(place, distance)) {
            schedule.send(to, blocks.of(to, Space::Input));
        }
        let areas = free.split_off(free.len() - distances.len());
        let arriving =
            || distances.clone().map(|distance| behind(place, distance)).zip(areas.iter().copied());
        for (from, area) in arriving() {
            schedule.receive(from, area);
        }
        for (from, area) in arriving() {
            match if from < rank { &mut lower } else { &mut higher } {
                Some(sum) => {
                    schedule.combine(area, *sum, Side::Left);
                    free.push(area);
                }
                none => *none = Some(area),
            }
        }
    }
    let sum = combine_around(&mut schedule, lower, own, higher);
    schedule.copy(sum, Span::output(0, own.len));
    schedule
}

/// Combines what is of lower ranks, the own and what is of higher ones, and says where that is.
fn combine_around(schedule: &mut Schedule, lower: Option<Span>, own: Span, higher: Option<Span>) -> Span {
    match (lower, higher) {
        (None, None) => own,
        (None, Some(higher)) => {
            schedule.combine(own, higher, Side::Left);
            higher
        }
        (Some(lower), higher) => {
            schedule.combine(own, lower, Side::Right);
            if let Some(higher) = higher {
                schedule.combine(higher, lower, Side::Right);
            }
            lower
        }
    }
}
