//! Neighbourhood collectives: a rank sends to its destinations and receives from its sources. What ranks say
//! fits together: if one names another so often as a destination, that one names it as often as a source.
//!
//! Of edges from one rank to another the first among the destinations of the one is the first among the
//! sources of the other, and so on. A periodic dimension of a Cartesian topology with an extent of 1 or 2 has
//! two edges to the same neighbour. With destinations in the order of MPI (down, up) the sources have to be
//! up, down: what went down comes from above. The blocks of the output then are in the same order as the
//! sources.

use crate::schedule::{Blocks, Place, Schedule, Space, Span};

/// All sends and receives directly in one round: block i of the input goes to destination i, block i of the
/// output comes from source i. Copies are for those who are their own neighbours.
///
/// Source: Hoefler and Träff, "Sparse collective operations for MPI", HIPS workshop at IPDPS 2009.
///
/// Cost: alpha + degree g + m beta summed over all edges of a rank. Chosen always.
///
/// Memory: blocks of any length anywhere, by destination and by source. Not in place.
///
/// # Panics
/// When a rank is not among its own sources as often as it is among its own destinations.
pub fn exchange(
    place: Place,
    sources: &[u32],
    destinations: &[u32],
    input: &Blocks,
    output: &Blocks,
) -> Schedule {
    let sent = (0..).zip(destinations).map(|(at, to)| (*to, input.of(at, Space::Input)));
    let received = (0..).zip(sources).map(|(at, from)| (*from, output.of(at, Space::Output)));
    along_edges(place, sent, received)
}

/// The same input of `len` elements goes to all destinations, otherwise as [`exchange`].
///
/// Source, cost, panics: as there.
///
/// Memory: the output has blocks of any length anywhere, by source. Not in place.
pub fn gather(place: Place, sources: &[u32], destinations: &[u32], len: u64, output: &Blocks) -> Schedule {
    let sent = destinations.iter().map(|to| (*to, Span::input(0, len)));
    let received = (0..).zip(sources).map(|(at, from)| (*from, output.of(at, Space::Output)));
    along_edges(place, sent, received)
}

fn along_edges(
    place: Place,
    sent: impl Iterator<Item = (u32, Span)>,
    received: impl Iterator<Item = (u32, Span)>,
) -> Schedule {
    let mut schedule = Schedule::new();
    let (to_own, to_others): (Vec<_>, Vec<_>) = sent.partition(|(to, _)| *to == place.rank);
    let (from_own, from_others): (Vec<_>, Vec<_>) = received.partition(|(from, _)| *from == place.rank);
    assert_eq!(to_own.len(), from_own.len(), "rank {} does not agree with itself", place.rank);
    for (to, data) in to_others {
        schedule.send(to, data);
    }
    for (from, data) in from_others {
        schedule.receive(from, data);
    }
    for ((_, from), (_, to)) in to_own.into_iter().zip(from_own) {
        schedule.copy(from, to);
    }
    schedule
}
