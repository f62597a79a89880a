use ironband_collectives::algorithms::scan;
use ironband_collectives::schedule::{Place, Schedule};

use super::allreduce::{busiest, duration, run_both, schedules};
use super::world::{combined, counts, sizes, term};

/// Each rank has what those up to it combine to, in order.
fn check(name: &str, inclusive: bool, algorithm: impl Fn(Place, u64) -> Schedule) {
    for size in sizes() {
        for len in counts(size) {
            let schedules = schedules(size, |place| algorithm(place, len));
            for seed in 0..2 {
                let outputs = run_both(&schedules, len, |_| len, u64::from(size) * 1000 + len * 2 + seed);
                for (is_in_place, outputs) in [false, true].into_iter().zip(outputs) {
                    for (rank, output) in (0..).zip(outputs) {
                        for (index, found) in (0..len).zip(output) {
                            let expected = match (inclusive, rank) {
                                (true, _) => Some(combined(0..=rank, index)),
                                (false, 0) => is_in_place.then(|| term(0, index)),
                                (false, _) => Some(combined(0..rank, index)),
                            };
                            assert_eq!(found, expected, "{name}: rank {rank} of {size}, {index} of {len}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn recursive_doubling_scans() {
    check("recursive doubling", true, |place, len| scan::recursive_doubling(place, len, true));
}

#[test]
fn recursive_doubling_scans_exclusively() {
    check("recursive doubling", false, |place, len| scan::recursive_doubling(place, len, false));
}

#[test]
fn chain_scans() {
    for segment in [1, 5, 16, 1000] {
        check("chain", true, |place, len| scan::chain(place, len, segment, true));
    }
}

#[test]
fn chain_scans_exclusively() {
    for segment in [1, 5, 16, 1000] {
        check("chain", false, |place, len| scan::chain(place, len, segment, false));
    }
}

#[test]
fn costs_are_as_the_formulas_say() {
    let n = 20;
    for (size, log) in [(2, 1), (4, 2), (8, 3), (16, 4), (32, 5), (3, 2), (13, 4), (17, 5), (33, 6)] {
        for (inclusive, combines) in [(true, log), (false, 2 * (log - 1))] {
            let ranks = schedules(size, |place| scan::recursive_doubling(place, n, inclusive));
            let cost = busiest(&ranks);
            assert_eq!((cost.messages_sent, cost.elements_sent), (log, log * n), "{size}: {cost:?}");
            assert_eq!((cost.messages_received, duration(&ranks)), (log, log), "{size}: {cost:?}");
            assert!(cost.rounds <= log && cost.elements_combined <= combines * n, "{size}: {cost:?}");
            assert!(ranks[0].rounds().len() == 1 && ranks.iter().all(|schedule| schedule.scratch <= 3 * n));
            let segments = n.div_ceil(6);
            let ranks = schedules(size, |place| scan::chain(place, n, 6, inclusive));
            let cost = busiest(&ranks);
            assert_eq!(duration(&ranks), u64::from(size) - 2 + segments, "{size}");
            assert_eq!((cost.messages_sent, cost.elements_sent), (segments, n), "{size}: {cost:?}");
            assert!(cost.rounds <= segments + 1 && cost.elements_combined <= n, "{size}: {cost:?}");
            assert!(ranks.iter().all(|schedule| schedule.scratch <= 12));
            // Nobody runs ahead of the next one.
            assert_eq!(ranks[0].rounds().len() as u64, segments, "{size}");
        }
    }
}
