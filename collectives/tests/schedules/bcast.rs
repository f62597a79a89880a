use std::collections::BTreeMap;

use ironband_collectives::algorithms::bcast;
use ironband_collectives::schedule::{Place, Schedule, Transfer};

use super::world::{Start, Term, counts, run, sizes, term};

/// The roots that operations are tried with: all, or some of many.
pub(crate) fn roots(size: u32) -> Vec<u32> {
    if size <= 17 { (0..size).collect() } else { vec![0, 1, size / 2, size - 1] }
}

/// The schedules of all ranks.
pub(crate) fn all(size: u32, schedule: impl Fn(Place) -> Schedule) -> Vec<Schedule> {
    (0..size).map(|rank| schedule(Place { rank, size })).collect()
}

/// ceil(log2 p).
pub(crate) fn log2_up(size: u32) -> u64 {
    u64::from(size.next_power_of_two().ilog2())
}

/// How long all of them take together, in rounds: a round with transfers takes one unit of time, from when it
/// has begun at all ranks that it has transfers with.
pub(crate) fn depth(schedules: &[Schedule]) -> u64 {
    // In which rounds of theirs one rank sends to another, and that one receives.
    let mut sends: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
    let mut receives: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
    for (schedule, rank) in schedules.iter().zip(0..) {
        for (number, round) in schedule.rounds().iter().enumerate() {
            for transfer in &round.transfers {
                match *transfer {
                    Transfer::Send { to, .. } => sends.entry((rank, to)).or_default().push(number),
                    Transfer::Receive { from, .. } => receives.entry((from, rank)).or_default().push(number),
                }
            }
        }
    }
    let mut met: Vec<Vec<Vec<(u32, usize)>>> =
        schedules.iter().map(|schedule| vec![Vec::new(); schedule.rounds().len()]).collect();
    for ((from, to), sent) in sends {
        for (sent, received) in sent.into_iter().zip(&receives[&(from, to)]) {
            met[from as usize][sent].push((to, *received));
            met[to as usize][*received].push((from, sent));
        }
    }
    // When each of the rounds that a rank has reached begins.
    let mut begins: Vec<Vec<u64>> = vec![vec![0]; schedules.len()];
    loop {
        let mut has_moved = false;
        for rank in 0..schedules.len() {
            let round = begins[rank].len() - 1;
            let Some(met) = met[rank].get(round) else { continue };
            let others: Option<Vec<u64>> =
                met.iter().map(|(other, round)| begins[*other as usize].get(*round).copied()).collect();
            let Some(others) = others else { continue };
            let latest = others.into_iter().fold(begins[rank][round], u64::max);
            begins[rank].push(latest + u64::from(!met.is_empty()));
            has_moved = true;
        }
        if !has_moved {
            break;
        }
    }
    for (begins, schedule) in begins.iter().zip(schedules) {
        assert_eq!(begins.len(), schedule.rounds().len() + 1, "a rank waits forever");
    }
    begins.iter().map(|begins| begins[begins.len() - 1]).max().unwrap_or(0)
}

fn check(size: u32, root: u32, len: u64, seed: u64, schedule: impl Fn(Place) -> Schedule) {
    let whole: Vec<Option<Term>> = (0..len).map(|index| Some(term(root, index))).collect();
    let start = |(schedule, rank)| Start {
        schedule,
        input: Vec::new(),
        output: if rank == root { whole.clone() } else { vec![None; len as usize] },
    };
    let outputs = run(all(size, schedule).into_iter().zip(0..).map(start).collect(), seed);
    for (output, rank) in outputs.iter().zip(0..) {
        assert_eq!(*output, whole, "rank {rank} of {size}, root {root}, {len} elements");
    }
}

/// For all sizes, roots and numbers of elements.
fn check_all(schedule: impl Fn(Place, u32, u64) -> Schedule) {
    for size in sizes() {
        for root in roots(size) {
            for len in counts(size) {
                for seed in 0..2 {
                    check(size, root, len, seed, |place| schedule(place, root, len));
                }
            }
        }
    }
}

#[test]
fn knomial_gives_all_elements_to_all() {
    for radix in [2, 3, 4, 8, u32::MAX] {
        check_all(|place, root, len| bcast::knomial(place, root, len, radix));
    }
}

#[test]
fn knomial_costs_what_it_says() {
    for radix in [2u32, 3, 4] {
        for levels in 1..4 {
            for size in [radix.pow(levels) - 1, radix.pow(levels)] {
                let schedules = all(size, |place| bcast::knomial(place, 1 % size, 10, radix));
                assert!(depth(&schedules) <= u64::from(levels), "{size} ranks, radix {radix}");
                let most = schedules.iter().map(|schedule| schedule.cost().elements_sent).max().unwrap();
                assert!(most <= u64::from((radix - 1) * levels) * 10);
                if size == radix.pow(levels) {
                    assert_eq!(schedules[1].cost().elements_sent, u64::from((radix - 1) * levels) * 10);
                }
                assert!(schedules.iter().all(|schedule| schedule.cost().rounds <= 2));
            }
        }
    }
}

#[test]
fn knomial_begins_with_the_longest_branch() {
    let schedule = bcast::knomial(Place { rank: 0, size: 13 }, 0, 1, 3);
    let sent = schedule.rounds()[0].transfers.iter().map(|transfer| match transfer {
        Transfer::Send { to, .. } => *to,
        Transfer::Receive { .. } => panic!("the root receives nothing"),
    });
    assert_eq!(sent.collect::<Vec<_>>(), [9, 3, 6, 1, 2]);
}

#[test]
fn scatter_allgather_gives_all_elements_to_all() {
    check_all(bcast::scatter_allgather);
}

#[test]
fn scatter_allgather_costs_what_it_says() {
    for size in sizes() {
        for root in [0, size - 1] {
            let len = 5 * u64::from(size);
            let schedules = all(size, |place| bcast::scatter_allgather(place, root, len));
            assert!(depth(&schedules) <= 2 * log2_up(size), "{size} ranks");
            let most = 2 * (len - 5);
            for (schedule, rank) in schedules.iter().zip(0..) {
                let cost = schedule.cost();
                assert!(cost.elements_sent <= most, "rank {rank} of {size}: {cost:?}");
                // Nothing comes twice.
                assert_eq!(
                    cost.elements_received,
                    if rank == root { 0 } else { len },
                    "rank {rank} of {size}"
                );
            }
        }
    }
    let schedules = all(16, |place| bcast::scatter_allgather(place, 3, 160));
    assert_eq!(depth(&schedules), 8);
    assert_eq!(schedules[3].cost().elements_sent, 2 * 150);
}

#[test]
fn chain_gives_all_elements_to_all() {
    for segment in [1, 3, 64, u64::MAX] {
        check_all(|place, root, len| bcast::chain(place, root, len, segment));
    }
}

#[test]
fn chain_costs_what_it_says() {
    for size in sizes().filter(|size| *size > 1) {
        for segments in 1..5 {
            let schedules = all(size, |place| bcast::chain(place, size / 2, 10 * segments - 1, 10));
            assert_eq!(depth(&schedules), u64::from(size) - 2 + segments);
            assert!(schedules.iter().all(|schedule| schedule.cost().elements_sent < 10 * segments));
        }
    }
}

#[test]
fn circulant_gives_all_elements_to_all() {
    for blocks in [1, 2, 3, 7, 40, u32::MAX] {
        check_all(|place, root, len| bcast::circulant(place, root, len, blocks));
    }
}

/// Sizes at which a choice among blocks matters that does not with fewer ranks.
#[test]
fn circulant_gives_all_elements_to_many() {
    for size in (18..31).chain([64, 65, 81, 100, 127, 161, 162, 177, 321, 643]) {
        for len in [3, 17] {
            check(size, 2, len, 1, |place| bcast::circulant(place, 2, len, 100));
        }
    }
}

#[test]
fn circulant_costs_what_it_says() {
    for size in sizes().chain([81, 100, 161, 321, 643, 1000, 1025, 1281]).filter(|size| *size > 1) {
        for blocks in [1, 2, 5, 16] {
            let len = 3 * u64::from(blocks) - u64::from(blocks > 1);
            let schedules = all(size, |place| bcast::circulant(place, size - 1, len, blocks));
            let rounds = log2_up(size) - 1 + u64::from(blocks);
            assert_eq!(depth(&schedules), rounds, "{size} ranks, {blocks} blocks");
            for (schedule, rank) in schedules.iter().zip(0..) {
                let cost = schedule.cost();
                assert!(cost.elements_sent <= 3 * rounds && cost.rounds <= rounds, "{cost:?}");
                assert!(cost.messages_sent <= rounds);
                let received = if rank + 1 == size { 0 } else { len };
                assert_eq!(cost.elements_received, received, "rank {rank} of {size}");
            }
        }
    }
}
