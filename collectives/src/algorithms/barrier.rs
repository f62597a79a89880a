//! Barriers.

use super::bcast::Family;
use crate::schedule::{Place, Schedule};

/// Dissemination: in round i each rank tells the ones that are `j * radix^i` further, for j below the radix, that all from which it has heard
/// are there.
///
/// Source: Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization", 1988; with a radix above 2, Hoefler, Mehlan,
/// Mietke and Rehm, "Fast barrier synchronization for InfiniBand", IPDPS 2006.
///
/// Cost: ceil(log_radix p) (alpha + (radix - 2) g). Chosen always; a radix above 2 where g is far below alpha.
///
/// # Panics
/// When the radix is below 2.
pub fn dissemination(place: Place, radix: u32) -> Schedule {
    assert!(radix >= 2, "with a radix of {radix} a barrier never ends");
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    let (rank, size, radix) = (u64::from(rank), u64::from(size), u64::from(radix));
    let mut distance = 1;
    while distance < size {
        // Beyond the end of the ranks there is nobody who has not been told.
        let targets = (1..radix).map(|factor| factor * distance).take_while(|further| *further < size);
        for further in targets.clone() {
            schedule.signal(((rank + further) % size) as u32);
        }
        for further in targets {
            schedule.await_signal(((rank + size - further) % size) as u32);
        }
        schedule.next_round();
        distance *= radix;
    }
    schedule
}

/// Half a barrier: all tell rank 0, over a k-nomial tree, that they are there.
///
/// Source: Yew, Tzeng and Lawrie, "Distributing hot-spot addressing in large-scale multiprocessors", IEEE Transactions on Computers 36(4),
/// 1987, where such a tree combines the arrivals.
///
/// Cost: ceil(log_radix p) (alpha + (radix - 2) g). Chosen inside nodes, when others are to wait for all of the node.
///
/// # Panics
/// When the radix is below 2.
pub fn report(place: Place, radix: u32) -> Schedule {
    let family = Family::of(place.rank, place.size, radix);
    let mut schedule = Schedule::new();
    for branch in family.children.iter().flatten() {
        schedule.await_signal(branch.start);
    }
    schedule.next_round();
    if let Some(parent) = family.parent {
        schedule.signal(parent);
    }
    schedule
}

/// The other half of [`report`]: rank 0 tells all that they may go on. At the same cost.
///
/// # Panics
/// When the radix is below 2.
pub fn release(place: Place, radix: u32) -> Schedule {
    let family = Family::of(place.rank, place.size, radix);
    let mut schedule = Schedule::new();
    if let Some(parent) = family.parent {
        schedule.await_signal(parent);
        schedule.next_round();
    }
    // Those who have most to tell come first.
    for branch in family.children.iter().rev().flatten() {
        schedule.signal(branch.start);
    }
    schedule
}
