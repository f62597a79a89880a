//! Barriers.

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
