//! All-to-all: every rank has a block for each rank, itself among them, and gets one of each.

use std::ops::Range;

use crate::schedule::{Blocks, Place, Schedule, Space, Span};

/// The rank that is so far ahead in the ring of ranks.
pub(super) fn ahead(place: Place, distance: u32) -> u32 {
    ((u64::from(place.rank) + u64::from(distance)) % u64::from(place.size)) as u32
}

/// The rank that is so far behind, below `size`.
pub(super) fn behind(place: Place, distance: u32) -> u32 {
    ahead(place, place.size - distance)
}

/// The distances of all other ranks, `window` of them at a time.
///
/// # Panics
/// When the window is 0.
pub(super) fn windows(size: u32, window: u32) -> impl Iterator<Item = Range<u32>> {
    assert!(window > 0, "with a window of 0 nothing is ever sent");
    (1..size).step_by(window as usize).map(move |first| first..first.saturating_add(window).min(size))
}

/// Bruck: a block that has to go `far` ranks ahead does so in hops of the powers of two that `far` is made
/// of: in round i all those with bit i of `far` go `2^i` ranks ahead, in one message.
///
/// Source: Bruck, Ho, Kipnis, Upfal and Weathersby, "Efficient algorithms for all-to-all communications in
/// multiport message-passing systems", IEEE Transactions on Parallel and Distributed Systems 8(11), 1997.
/// Blocks are taken from where they are, so neither the first nor the last step of that turns them all.
///
/// Cost: q (alpha + m p / 2 beta), and as much copying. Chosen for short blocks.
///
/// Memory: input and output are `size` blocks of `len`, by destination and by source. Works in place, too.
/// About (q + 1) m p / 2 elements of scratch: what has arrived stays where it is until it goes on.
pub fn bruck(place: Place, len: u64) -> Schedule {
    let size = place.size;
    let blocks = Blocks::even(size, len);
    let mut schedule = Schedule::new();
    // Where blocks are, by how far they go in all: first those for ranks so far ahead, in the end those of
    // ranks so far behind.
    let mut held: Vec<Span> = (0..size).map(|far| blocks.of(ahead(place, far), Space::Input)).collect();
    let packed = schedule.take_scratch(u64::from(size / 2) * len);
    for bit in 0..size.next_power_of_two().ilog2() {
        let distance = 1 << bit;
        let moving: Vec<u32> = (1..size).filter(|far| far & distance != 0).collect();
        let mut message = held[moving[0] as usize];
        if moving.len() > 1 {
            message = packed.part(0, moving.len() as u64 * len);
            for (slot, far) in (0..).zip(&moving) {
                schedule.copy(held[*far as usize], packed.part(slot * len, len));
            }
        }
        schedule.next_round();
        let arrived = schedule.take_scratch(message.len);
        schedule.send(ahead(place, distance), message);
        schedule.receive(behind(place, distance), arrived);
        for (slot, far) in (0..).zip(&moving) {
            held[*far as usize] = arrived.part(slot * len, len);
        }
    }
    for (far, block) in (0..).zip(held) {
        schedule.copy(block, blocks.of(behind(place, far), Space::Output));
    }
    schedule
}

/// Direct: every rank sends each other one its block, to those ahead one after the other, `window` of them in
/// a round, while as many come from those behind: so no rank is the target of all at once.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// International Journal of High Performance Computing Applications 19(1), 2005, there with one at a time or
/// all at once.
///
/// Cost: ceil((p - 1) / window) alpha + (p - 1) (g + m beta). Chosen for long blocks, and whenever they
/// differ.
///
/// Memory: blocks of any length anywhere, by destination and by source. Not in place: [`exchange`] is.
///
/// # Panics
/// When the window is 0.
pub fn direct(place: Place, input: &Blocks, output: &Blocks, window: u32) -> Schedule {
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    for distances in windows(size, window) {
        schedule.next_round();
        for distance in distances {
            let (to, from) = (ahead(place, distance), behind(place, distance));
            schedule.send(to, input.of(to, Space::Input));
            schedule.receive(from, output.of(from, Space::Output));
        }
    }
    // Last: others may wait for what is sent.
    schedule.copy(input.of(rank, Space::Input), output.of(rank, Space::Output));
    schedule
}

/// Exchange: every rank gives and takes with one other at a time, `window` of them in a round. In step i those are together whose ranks add
/// up to i, modulo the number of ranks; so what a rank gets can take the place of what it gives as soon as that has gone.
///
/// Source: the 1-factor algorithm of Sanders and Träff, "The hierarchical factor algorithm for all-to-all
/// communication", Euro-Par 2002.
///
/// Cost: ceil(p / window) alpha + (p - 1) (g + m beta), and a copy of all blocks. Chosen in place.
///
/// Memory: blocks of any length anywhere; two ranks have blocks of one length for each other. Works in place. `window` blocks of scratch.
///
/// # Panics
/// When the window is 0.
pub fn exchange(place: Place, blocks: &Blocks, window: u32) -> Schedule {
    assert!(window > 0, "with a window of 0 nothing is ever sent");
    let Place { rank, size } = place;
    let rounds =
        || (0..size).step_by(window as usize).map(|first| first..first.saturating_add(window).min(size));
    let partners = |steps: Range<u32>| {
        let together =
            steps.map(|step| ((u64::from(step) + u64::from(size - rank)) % u64::from(size)) as u32);
        together.filter(|partner| *partner != rank)
    };
    let mut schedule = Schedule::new();
    let needed = |steps| partners(steps).map(|partner| blocks.len_of(partner)).sum();
    let arrived = schedule.take_scratch(rounds().map(needed).max().unwrap_or(0));
    for steps in rounds() {
        schedule.next_round();
        let mut copies = Vec::new();
        let mut taken = 0;
        for partner in partners(steps) {
            let area = arrived.part(taken, blocks.len_of(partner));
            taken += area.len;
            schedule.send(partner, blocks.of(partner, Space::Input));
            schedule.receive(partner, area);
            copies.push((area, blocks.of(partner, Space::Output)));
        }
        for (area, block) in copies {
            schedule.copy(area, block);
        }
    }
    schedule.copy(blocks.of(rank, Space::Input), blocks.of(rank, Space::Output));
    schedule
}
