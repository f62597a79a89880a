//! Scans: each rank gets what the ranks up to it combine to, itself among them (inclusive, MPI's scan) or not
//! (exclusive, MPI's exscan, where the output of rank 0 is not written).
//!
//! Input and output are a vector. All run in place, too.

use super::reduce_scatter::receive_and_combine;
use crate::schedule::{Place, Schedule, Side, Span};

/// Recursive doubling: in round i each rank sends all that it has combined so far, of `2^i` ranks up to
/// itself, to the one that is `2^i` further. Those who have the result wait for nobody: what they send, they
/// send in one round.
///
/// Source: Hillis and Steele, "Data parallel algorithms", Communications of the ACM 29(12), 1986.
///
/// Cost: q (alpha + n (beta + gamma)), exclusive q (alpha + n (beta + 2 gamma)). Chosen for short vectors.
///
/// Order: kept.
///
/// Memory: up to 3 n elements of scratch.
pub fn recursive_doubling(place: Place, len: u64, inclusive: bool) -> Schedule {
    if inclusive { doubling_inclusive(place, len) } else { doubling_exclusive(place, len) }
}

/// How far apart ranks are in each round.
fn distances(size: u32) -> impl Iterator<Item = u32> {
    (0..size.next_power_of_two().ilog2()).map(|bit| 1 << bit)
}

fn doubling_inclusive(place: Place, len: u64) -> Schedule {
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    let output = Span::output(0, len);
    let mut areas = [schedule.take_scratch(len), schedule.take_scratch(len)];
    let mut held = Span::input(0, len);
    // A round ends where something is combined, so after the last of these all sends are in one.
    for distance in distances(size) {
        if distance < size - rank {
            schedule.send(rank + distance, held);
        }
        if distance <= rank {
            let is_last = distance > rank / 2;
            let into = if is_last { output } else { areas[0] };
            held = receive_and_combine(&mut schedule, rank - distance, held, Side::Right, into);
            areas.swap(0, 1);
        }
    }
    schedule.copy(held, output);
    schedule
}

fn doubling_exclusive(place: Place, len: u64) -> Schedule {
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    let (output, with_own) = (Span::output(0, len), schedule.take_scratch(len));
    let mut areas = [schedule.take_scratch(len), schedule.take_scratch(len)];
    let mut held = Span::input(0, len);
    let mut below = None;
    for distance in distances(size) {
        if distance <= rank {
            // The one before has no steps, which would end it, if nothing is sent any more.
            schedule.next_round();
        }
        if distance < size - rank {
            schedule.send(rank + distance, held);
        }
        if distance > rank {
            continue;
        }
        let is_last = distance > rank / 2;
        // In place the output is free when the input has been combined with what came first.
        let arrived = if is_last && below.is_some() { output } else { areas[0] };
        schedule.receive(rank - distance, arrived);
        let sends_more = distance < (size - rank).div_ceil(2);
        if sends_more {
            schedule.combine_with(arrived, held, Side::Left, with_own);
            held = with_own;
        }
        if let Some(below) = below {
            schedule.combine(below, arrived, Side::Right);
        }
        below = Some(arrived);
        areas.swap(0, 1);
    }
    if let Some(below) = below {
        schedule.copy(below, output);
    }
    schedule
}

/// Chain: each rank combines what comes from the previous one with its own values and passes it on to the
/// next one, in segments of so many elements, so that all are busy with different segments at once.
///
/// Source: well known; for many ranks there is a pipelined tree, too, by Sanders and Träff, "Parallel prefix
/// (scan) algorithms for MPI", EuroPVM/MPI 2006.
///
/// Cost: (p - 2 + ceil(n / s)) (alpha + s (beta + gamma)) for segments of s elements. Chosen for long
/// vectors.
///
/// Order: kept.
///
/// Memory: two segments of scratch.
///
/// # Panics
/// When the segment is 0.
pub fn chain(place: Place, len: u64, segment: u64, inclusive: bool) -> Schedule {
    assert!(segment > 0, "with segments of 0 elements a chain never ends");
    let Place { rank, size } = place;
    let mut schedule = Schedule::new();
    let next = (rank + 1 < size).then_some(rank + 1);
    let areas = [(); 2].map(|()| schedule.take_scratch(segment.min(len)));
    let mut ready = None;
    for at in 0..len.div_ceil(segment) {
        let (start, piece) = (at * segment, segment.min(len - at * segment));
        let (own, result) = (Span::input(start, piece), Span::output(start, piece));
        schedule.next_round();
        // What is combined in one round is sent in the next one, while more arrives.
        let to_send = if rank == 0 { Some(own) } else { ready };
        if let (Some(next), Some(to_send)) = (next, to_send) {
            schedule.send(next, to_send);
        }
        if rank == 0 {
            if inclusive {
                schedule.copy(own, result);
            }
            continue;
        }
        let [area, with_own] = areas.map(|area| area.part(0, piece));
        let with_own = if inclusive { result } else { with_own };
        let needs_own = inclusive || next.is_some();
        let arrived = if needs_own { area } else { result };
        schedule.receive(rank - 1, arrived);
        if needs_own {
            schedule.combine_with(arrived, own, Side::Left, with_own);
            ready = Some(with_own);
        }
        if !inclusive {
            schedule.copy(arrived, result);
        }
    }
    if let (Some(next), Some(ready)) = (next, ready) {
        schedule.next_round();
        schedule.send(next, ready);
    }
    schedule
}
