//! Allreduce: the vectors of all ranks are combined, and each rank gets the result.
//!
//! Input and output are the whole vector. All run in place, too: the input is read until something is written
//! to the same elements of the output, and no longer.

use super::alltoall::{ahead, behind};
use super::reduce_scatter::{Teams, halve, receive_and_combine};
use crate::schedule::{Blocks, Place, Schedule, Side, Space, Span};

/// Recursive doubling: in round i two ranks whose numbers differ by `2^i` exchange all that they have
/// combined so far. Ranks beyond a power of two first give their values to a neighbour, who works for both,
/// and in the end get the result.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// International Journal of High Performance Computing Applications 19(1), 2005.
///
/// Cost: p a power of two: q (alpha + n (beta + gamma)); else q is of the power below, and 2 alpha + n (2
/// beta + gamma) more. Chosen for short vectors.
///
/// Order: kept. All elements are combined in the same tree as by [`rabenseifner`].
///
/// Memory: up to 3 n elements of scratch.
pub fn recursive_doubling(place: Place, len: u64) -> Schedule {
    let teams = Teams::of(place.size);
    let output = Span::output(0, len);
    let mut schedule = Schedule::new();
    let mut held = teams.combine_pairs(&mut schedule, place.rank, Span::input(0, len));
    if let Some(team) = teams.led_by(place.rank) {
        let area_len = if teams.halvings() > 1 { len } else { 0 };
        let mut areas = [schedule.take_scratch(area_len), schedule.take_scratch(area_len)];
        for bit in 0..teams.halvings() {
            let peer = team ^ (1 << bit);
            let side = if team < peer { Side::Left } else { Side::Right };
            let is_last = bit + 1 == teams.halvings();
            schedule.next_round();
            schedule.send(teams.leader(peer), held);
            let into = if is_last { output } else { areas[0] };
            held = receive_and_combine(&mut schedule, teams.leader(peer), held, side, into);
            areas.swap(0, 1);
        }
        schedule.copy(held, output);
    }
    give_to_second(&mut schedule, &teams, place.rank, output);
    schedule
}

/// The leader of a pair gives the second what both have waited for.
fn give_to_second(schedule: &mut Schedule, teams: &Teams, rank: u32, output: Span) {
    schedule.next_round();
    match teams.led_by(rank).map(|team| teams.second(team)) {
        Some(Some(second)) => schedule.send(second, output),
        Some(None) => {}
        None => schedule.receive(rank - 1, output),
    }
}

/// Rabenseifner: a reduce-scatter by recursive halving with distances of 1, 2, 4 ..., then an allgather with
/// the same partners in the opposite order, by recursive doubling. Ranks beyond a power of two as in
/// [`recursive_doubling`].
///
/// Source: Rabenseifner, "Optimization of collective reduction operations", ICCS 2004.
///
/// Cost: p a power of two: 2 q alpha + (p - 1) / p n (2 beta + gamma); else q and p are of the power below,
/// and 2 alpha + n (2 beta + gamma) more. Chosen for vectors of middle length, and for long ones if the
/// operator does not commute.
///
/// Order: kept. All elements are combined in the same tree as by [`recursive_doubling`].
///
/// Memory: 3/4 n elements of scratch, n more for those who work for two.
pub fn rabenseifner(place: Place, len: u64) -> Schedule {
    let teams = Teams::of(place.size);
    let output = Span::output(0, len);
    let mut schedule = Schedule::new();
    let own = teams.combine_pairs(&mut schedule, place.rank, Span::input(0, len));
    if let Some(team) = teams.led_by(place.rank) {
        let parts = Blocks::split(len, teams.count);
        let result_of = |team, halvings| parts.range(teams.parts(team, halvings), Space::Output);
        let result = result_of(team, teams.halvings());
        let held = halve(&mut schedule, &teams, team, &parts, own, Some(result));
        schedule.copy(held, result);
        for done in (0..teams.halvings()).rev() {
            let peer = team ^ (1 << done);
            schedule.next_round();
            schedule.send(teams.leader(peer), result_of(team, done + 1));
            schedule.receive(teams.leader(peer), result_of(peer, done + 1));
        }
    }
    give_to_second(&mut schedule, &teams, place.rank, output);
    schedule
}

/// Ring: the vector is in as many blocks as there are ranks. Each goes round once and collects what ranks
/// have, and then goes round again as the result; in every round each rank sends one to the next.
///
/// Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
/// Journal of Parallel and Distributed Computing 69(2), 2009.
///
/// Cost: 2 (p - 1) alpha + (p - 1) / p n (2 beta + gamma). Chosen for long vectors.
///
/// Order: not kept, the operator has to commute.
///
/// Memory: two blocks of scratch.
pub fn ring(place: Place, len: u64) -> Schedule {
    let Place { rank, size } = place;
    let blocks = Blocks::split(len, size);
    let mut schedule = Schedule::new();
    let (next, previous) = (ahead(place, 1), behind(place, 1));
    let area_len = if size > 2 { blocks.len_of(0) } else { 0 };
    let mut areas = [schedule.take_scratch(area_len), schedule.take_scratch(area_len)];
    let mut held = blocks.of(rank, Space::Input);
    for distance in 1..size {
        let block = behind(place, distance);
        let own = blocks.of(block, Space::Input);
        let is_last = distance + 1 == size;
        let into = if is_last { blocks.of(block, Space::Output) } else { areas[0].part(0, own.len) };
        schedule.next_round();
        schedule.send(next, held);
        held = receive_and_combine(&mut schedule, previous, own, Side::Right, into);
        areas.swap(0, 1);
    }
    // Now each rank has the result of the block of the next one.
    let mut block = next;
    schedule.copy(held, blocks.of(block, Space::Output));
    for distance in 0..size - 1 {
        schedule.next_round();
        schedule.send(next, blocks.of(block, Space::Output));
        block = behind(place, distance);
        schedule.receive(previous, blocks.of(block, Space::Output));
    }
    schedule
}

/// Reproducible: a result that depends on the number of ranks and their values alone, in every bit, even
/// where the operator is not quite associative, like the addition of floating point numbers. Every element is
/// combined in one tree: the first ranks in pairs, as many as there are beyond a power of two, then teams 0
/// and 1, 2 and 3 ..., then those two and two, and so on. Vectors of at least `long` elements are combined in
/// parts.
///
/// Source: [`recursive_doubling`] and [`rabenseifner`], which have that tree; cost and memory are theirs.
/// Chosen when the caller asks for it.
///
/// Order: kept.
pub fn reproducible(place: Place, len: u64, long: u64) -> Schedule {
    if len < long { recursive_doubling(place, len) } else { rabenseifner(place, len) }
}
