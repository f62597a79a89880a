//! Allgathers. Each rank has its block in the input; the output of each gets the blocks of all.
//!
//! In place a rank's own block is already where it belongs in its output, and its input is that part of it.

use super::bcast::rank_behind;
use crate::schedule::{Blocks, Place, Schedule, Space, Span};

/// Recursive doubling: neighbours give each other their blocks, then pairs of neighbours all that they have,
/// and so on. For numbers of ranks that are no power of two, [`bruck`] is taken.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// 2005.
///
/// Cost: q alpha + (p-1) m beta. Chosen when there are few elements in all, and p is a power of two.
///
/// In place: yes.
pub fn recursive_doubling(place: Place, len: u64) -> Schedule {
    let Place { rank, size } = place;
    let blocks = Blocks::even(size, len);
    if !size.is_power_of_two() {
        return bruck(place, &blocks);
    }
    let (input, own) = (Span::input(0, len), blocks.of(rank, Space::Output));
    let mut schedule = Schedule::new();
    let mut known = 1;
    while known < size {
        let partner = rank ^ known;
        let group = |rank: u32| {
            let first = rank - rank % known;
            blocks.range(first..first + known, Space::Output)
        };
        schedule.send(partner, if known == 1 { input } else { group(rank) });
        schedule.receive(partner, group(partner));
        if known == 1 {
            schedule.copy(input, own);
        }
        schedule.next_round();
        known *= 2;
    }
    if size == 1 {
        schedule.copy(input, own);
    }
    schedule
}

/// Bruck's: each rank collects the blocks from its own on, around the end. In each round it receives as many
/// as it has from the rank as many behind it, and sends all that it has to the one as many before it; in the
/// last round only what is lacking. At the end all blocks are copied to their places, which may be anywhere,
/// and of any length.
///
/// Source: Bruck, Ho, Kipnis, Upfal and Weathersby, "Efficient algorithms for all-to-all communications in
/// multiport message-passing systems", 1997.
///
/// Cost: q alpha + (p-1) m beta, and a copy of all blocks. Chosen when there are few elements in all.
///
/// In place: yes.
pub fn bruck(place: Place, blocks: &Blocks) -> Schedule {
    let Place { rank, size } = place;
    let input = Span::input(0, blocks.len_of(rank));
    let mut schedule = Schedule::new();
    if size == 1 {
        schedule.copy(input, blocks.of(rank, Space::Output));
        return schedule;
    }
    // Where in the collected blocks each of them begins, and where the last one ends.
    let mut starts = vec![0];
    for distance in 0..size {
        starts.push(starts[distance as usize] + blocks.len_of(rank_behind(rank, distance, size)));
    }
    let collected = schedule.take_scratch(starts[size as usize]);
    let range = |from: u32, to: u32| {
        let (start, end) = (starts[from as usize], starts[to as usize]);
        collected.part(start, end - start)
    };
    let mut known = 1;
    while known < size {
        let more = known.min(size - known);
        schedule.next_round();
        let sent = if known == 1 { input } else { range(0, more) };
        schedule.send(rank_behind(rank, size - known, size), sent);
        schedule.receive(rank_behind(rank, known, size), range(known, known + more));
        if known == 1 {
            schedule.copy(input, range(0, 1));
        }
        known += more;
    }
    copy_to_places(&mut schedule, rank, collected, blocks);
    schedule
}

/// Copies blocks that were collected from this rank's on to their places, as many at a time as lie one behind
/// the other there.
fn copy_to_places(schedule: &mut Schedule, rank: u32, collected: Span, blocks: &Blocks) {
    let size = blocks.len() as u32;
    let mut run = Span::output(0, 0);
    let mut copied = 0;
    for distance in 0..size {
        let block = blocks.of(rank_behind(rank, distance, size), Space::Output);
        if block.len == 0 {
            continue;
        }
        if block.start == run.start + run.len {
            run.len += block.len;
        } else {
            schedule.copy(collected.part(copied, run.len), run);
            copied += run.len;
            run = block;
        }
    }
    schedule.copy(collected.part(copied, run.len), run);
}

/// A ring: each rank sends the rank behind it first its own block, and then always the one that has just come
/// from the rank before it. Blocks may be anywhere, and of any length.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// 2005.
///
/// Cost: (p-1)(alpha + m beta), with the longest block for m. Chosen when there are many elements in all.
///
/// In place: yes.
pub fn ring(place: Place, blocks: &Blocks) -> Schedule {
    let Place { rank, size } = place;
    let input = Span::input(0, blocks.len_of(rank));
    let (before, behind) = (rank_behind(rank, size - 1, size), rank_behind(rank, 1, size));
    let mut schedule = Schedule::new();
    for round in 0..size - 1 {
        let own = rank_behind(rank, size - round, size);
        let next = rank_behind(rank, size - round - 1, size);
        schedule.send(behind, if round == 0 { input } else { blocks.of(own, Space::Output) });
        schedule.receive(before, blocks.of(next, Space::Output));
        if round == 0 {
            schedule.copy(input, blocks.of(rank, Space::Output));
        }
        schedule.next_round();
    }
    if size == 1 {
        schedule.copy(input, blocks.of(rank, Space::Output));
    }
    schedule
}
