//! Gathers. Each rank has its block in the input; the root's output gets the blocks of all. Others have no
//! output.
//!
//! In place the root's own block is already where it belongs in its output, and its input is that part of it.

use super::bcast::{Family, distance, rank_behind, ranks_behind};
use crate::schedule::{Blocks, Place, Schedule, Space, Span};

/// A binomial tree: each rank collects the blocks of its branch and sends all of them to its parent. Blocks
/// that go around the end of the ranks reach the root in two messages, so that each of them comes to its
/// place.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// 2005.
///
/// Cost: q alpha + (p-1) m beta. Chosen for short blocks.
///
/// In place: yes.
///
/// # Panics
/// When there is no such root.
pub fn binomial(place: Place, root: u32, len: u64) -> Schedule {
    let size = place.size;
    let family = Family::of(distance(place, root), size, 2);
    let first = family.branch.start;
    let input = Span::input(0, len);
    let mut schedule = Schedule::new();
    let Some(parent) = family.parent else {
        let blocks = Blocks::even(size, len);
        for branch in family.children.into_iter().flatten() {
            let from = rank_behind(root, branch.start, size);
            for range in ranks_behind(root, branch, size) {
                schedule.receive(from, blocks.range(range, Space::Output));
            }
        }
        schedule.copy(input, blocks.of(root, Space::Output));
        return schedule;
    };
    // All blocks of the branch, in order; a leaf has only its own.
    let mut branch = input;
    if family.branch.len() > 1 {
        branch = schedule.take_scratch(family.branch.len() as u64 * len);
        for child in family.children.into_iter().flatten() {
            let part = branch.part(u64::from(child.start - first) * len, child.len() as u64 * len);
            schedule.receive(rank_behind(root, child.start, size), part);
        }
        schedule.copy(input, branch.part(0, len));
        schedule.next_round();
    }
    let mut start = 0;
    let to_root = ranks_behind(root, family.branch.clone(), size).map(|range| range.len() as u64);
    let lens = if parent == 0 { to_root } else { [family.branch.len() as u64, 0] };
    for len in lens.map(|blocks| blocks * len) {
        schedule.send(rank_behind(root, parent, size), branch.part(start, len));
        start += len;
    }
    schedule
}

/// All send their block straight to the root, which receives from at most `window` of them in a round,
/// beginning with the one behind it. `blocks` are where the root wants them, and are given only there; the
/// others know how long their own is.
///
/// Source: well known.
///
/// Cost: (p-1)/window alpha + (p-1) m beta. Chosen for long blocks, and always when they are not equally
/// long.
///
/// In place: yes.
///
/// # Panics
/// When there is no such root, the window is 0, or the root has no `blocks` or others than of `len` for
/// itself.
pub fn direct(place: Place, root: u32, len: u64, blocks: Option<&Blocks>, window: u32) -> Schedule {
    assert!(window > 0, "a root that receives from nobody never ends");
    let input = Span::input(0, len);
    let mut schedule = Schedule::new();
    if distance(place, root) > 0 {
        schedule.send(root, input);
        return schedule;
    }
    let blocks = blocks.expect("the root knows where the blocks go");
    with_each(&mut schedule, place, blocks, window, |schedule, from| {
        schedule.receive(from, blocks.of(from, Space::Output));
    });
    schedule.copy(input, blocks.of(root, Space::Output));
    schedule
}

/// Adds a transfer with each other rank, from the one behind this on, with at most `window` of them in a round.
pub(super) fn with_each(
    schedule: &mut Schedule,
    Place { rank, size }: Place,
    blocks: &Blocks,
    window: u32,
    transfer: impl Fn(&mut Schedule, u32),
) {
    let mut peers = 0;
    for peer in (1..size).map(|distance| rank_behind(rank, distance, size)) {
        // Nothing moves to or from those without elements: they are not of those that are waited for.
        let counts = blocks.len_of(peer) > 0;
        if peers == window && counts {
            schedule.next_round();
            peers = 0;
        }
        transfer(schedule, peer);
        peers += u32::from(counts);
    }
}
