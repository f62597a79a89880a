//! Scatters. The root's input has the blocks of all ranks; each rank's output gets its block. Others have no
//! input.
//!
//! In place the root's own block stays where it is in its input, and its output is that part of it.

use super::bcast::{Family, distance, rank_behind, ranks_behind};
use super::gather::with_each;
use crate::schedule::{Blocks, Place, Schedule, Space, Span};

/// A binomial tree: each rank receives the blocks of its branch from its parent, and sends each child the
/// blocks of its branch. Blocks that go around the end of the ranks leave the root in two messages.
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
    let own = Span::output(0, len);
    let mut schedule = Schedule::new();
    let Some(parent) = family.parent else {
        let blocks = Blocks::even(size, len);
        for branch in family.children.into_iter().rev().flatten() {
            schedule.next_round();
            let to = rank_behind(root, branch.start, size);
            for range in ranks_behind(root, branch, size) {
                schedule.send(to, blocks.range(range, Space::Input));
            }
        }
        schedule.copy(blocks.of(root, Space::Input), own);
        return schedule;
    };
    // All blocks of the branch, in order; a leaf has only its own.
    let is_leaf = family.branch.len() == 1;
    let branch = if is_leaf { own } else { schedule.take_scratch(family.branch.len() as u64 * len) };
    let mut start = 0;
    let from_root = ranks_behind(root, family.branch.clone(), size).map(|range| range.len() as u64);
    let lens = if parent == 0 { from_root } else { [family.branch.len() as u64, 0] };
    for len in lens.map(|blocks| blocks * len) {
        schedule.receive(rank_behind(root, parent, size), branch.part(start, len));
        start += len;
    }
    // One child in a round: no shorter branch takes bandwidth from the longest one, which has the most to do.
    for child in family.children.into_iter().rev().flatten() {
        schedule.next_round();
        let part = branch.part(u64::from(child.start - first) * len, child.len() as u64 * len);
        schedule.send(rank_behind(root, child.start, size), part);
    }
    schedule.copy(branch.part(0, len), own);
    schedule
}

/// The root sends each rank its block, at most `window` of them in a round, beginning with the rank behind
/// it. `blocks` are where the root has them, and are given only there; the others know how long their own is.
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
    assert!(window > 0, "a root that sends to nobody never ends");
    let own = Span::output(0, len);
    let mut schedule = Schedule::new();
    if distance(place, root) > 0 {
        schedule.receive(root, own);
        return schedule;
    }
    let blocks = blocks.expect("the root knows where the blocks are");
    with_each(&mut schedule, place, blocks, window, |schedule, to| {
        schedule.send(to, blocks.of(to, Space::Input));
    });
    schedule.copy(blocks.of(root, Space::Input), own);
    schedule
}
