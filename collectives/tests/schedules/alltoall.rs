use ironband_collectives::algorithms::alltoall;
use ironband_collectives::schedule::{Blocks, Place, Schedule, Space, Transfer};

use super::allreduce::{busiest, duration, run_both, schedules};
use super::gather::in_place;
use super::world::{Start, Term, run, sizes, term};

/// A number that looks as if it came by chance, always the same for the same ones.
pub(crate) fn chance(from: &[u64]) -> u64 {
    let mix = |sum: u64, number: &u64| {
        (sum ^ number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    };
    let mixed = from.iter().fold(0, mix);
    (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// Blocks of these lengths in any order, with gaps.
pub(crate) fn scattered(counts: &[u64], seed: u64) -> Blocks {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|at| chance(&[seed, *at as u64]));
    let mut starts = vec![0; counts.len()];
    let mut end = 0;
    for at in order {
        starts[at] = end + chance(&[seed, at as u64, 1]) % 3;
        end = starts[at] + counts[at];
    }
    Blocks::at(counts, &starts)
}

/// An output of these blocks that came from elements (rank, index) on, and of nothing else.
pub(crate) fn expected(blocks: &Blocks, from: impl Fn(u32) -> (u32, u64)) -> Vec<Option<Term>> {
    let mut expected = vec![None; blocks.end() as usize];
    for at in 0..blocks.len() as u32 {
        let ((rank, first), block) = (from(at), blocks.of(at, Space::Output));
        for further in 0..block.len {
            expected[(block.start + further) as usize] = Some(term(rank, first + further));
        }
    }
    expected
}

#[test]
fn bruck_exchanges() {
    for size in sizes() {
        for len in [0, 1, 3] {
            let schedules = schedules(size, |place| alltoall::bruck(place, len));
            let all = u64::from(size) * len;
            for outputs in run_both(&schedules, all, |_| all, u64::from(size) + len) {
                for (rank, output) in (0..).zip(outputs) {
                    let blocks = Blocks::even(size, len);
                    let expected = expected(&blocks, |from| (from, rank * len));
                    assert_eq!(output, expected, "rank {rank} of {size}, blocks of {len}");
                }
            }
        }
    }
}

#[test]
fn direct_exchanges() {
    for size in sizes() {
        for (window, seed) in [(1, 0), (2, 1), (7, 2), (1000, 3)] {
            // A seed has short blocks, many of them empty, or longer ones.
            let len = |from: u32, to: u32| chance(&[seed, from.into(), to.into()]) % (2 + seed);
            let inputs: Vec<Blocks> = (0..size)
                .map(|from| {
                    scattered(&(0..size).map(|to| len(from, to)).collect::<Vec<_>>(), u64::from(from) + seed)
                })
                .collect();
            let outputs: Vec<Blocks> = (0..size)
                .map(|to| {
                    scattered(
                        &(0..size).map(|from| len(from, to)).collect::<Vec<_>>(),
                        u64::from(to) + 9 + seed,
                    )
                })
                .collect();
            let start = |rank: u32| {
                let (input, output) = (&inputs[rank as usize], &outputs[rank as usize]);
                let schedule = alltoall::direct(Place { rank, size }, input, output, window);
                Start::new(rank, schedule, input.end(), output.end())
            };
            for (rank, found) in (0..).zip(run((0..size).map(start).collect(), seed)) {
                let first = |from: u32| (from, inputs[from as usize].of(rank, Space::Input).start);
                let expected = expected(&outputs[rank as usize], first);
                assert_eq!(found, expected, "rank {rank} of {size}, {window} at a time");
            }
        }
    }
}

#[test]
fn costs_are_as_the_formulas_say() {
    let m = 3;
    for (size, log, blocks) in [(2, 1, 1), (4, 2, 4), (16, 4, 32), (32, 5, 80), (3, 2, 2), (13, 4, 22)] {
        let schedules = schedules(size, |place| alltoall::bruck(place, m));
        let cost = busiest(&schedules);
        assert!(cost.rounds <= log + 1 && duration(&schedules) == log, "{size}: {cost:?}");
        assert_eq!((cost.messages_sent, cost.elements_sent), (log, blocks * m), "{size}");
        assert!(
            blocks <= u64::from(size) * log / 2 && cost.elements_copied <= (blocks + u64::from(size)) * m
        );
        assert!(
            schedules[0].scratch <= (log + 1) * u64::from(size) * m / 2,
            "{size}: {}",
            schedules[0].scratch
        );
    }
    for size in [2, 13, 16] {
        for window in [1, 4, 5, 32] {
            let blocks = Blocks::even(size, m);
            let schedules = schedules(size, |place| alltoall::direct(place, &blocks, &blocks, window));
            let (rounds, others) = (u64::from((size - 1).div_ceil(window)), u64::from(size - 1));
            let cost = busiest(&schedules);
            assert_eq!((cost.rounds, cost.messages_sent, cost.elements_sent), (rounds, others, others * m));
            assert_eq!((duration(&schedules), cost.elements_copied), (rounds, m));
            for round in schedules.iter().flat_map(|schedule| schedule.rounds()) {
                let is_send = |transfer: &&Transfer| matches!(transfer, Transfer::Send { .. });
                let sends = round.transfers.iter().filter(is_send).count();
                assert!(sends <= window as usize && round.transfers.len() - sends <= window as usize);
            }
        }
    }
}

/// In a round nobody is the target of more than one, with a window of 1.
#[test]
fn direct_has_a_target_of_its_own_for_each() {
    let blocks = Blocks::even(13, 1);
    let schedules = schedules(13, |place| alltoall::direct(place, &blocks, &blocks, 1));
    for round in 0..12 {
        let target = |schedule: &Schedule| {
            let sends = schedule.rounds()[round].transfers.iter();
            sends
                .filter_map(
                    |transfer| if let Transfer::Send { to, .. } = transfer { Some(*to) } else { None },
                )
                .collect()
        };
        let mut targets: Vec<u32> =
            schedules.iter().flat_map(|schedule| -> Vec<u32> { target(schedule) }).collect();
        targets.sort_unstable();
        assert!(targets.into_iter().eq(0..13), "round {round}");
    }
}

/// The length of the block that two ranks have for each other.
fn of_both(seed: u64, one: u32, other: u32) -> u64 {
    chance(&[seed, one.min(other).into(), one.max(other).into()]) % (2 + seed)
}

#[test]
fn exchange_exchanges_in_place() {
    for size in sizes() {
        for (window, seed) in [(1, 0), (2, 1), (7, 2), (1000, 3)] {
            let blocks_of = |rank: u32| {
                let counts: Vec<u64> = (0..size).map(|other| of_both(seed, rank, other)).collect();
                scattered(&counts, u64::from(rank) + seed)
            };
            let blocks: Vec<Blocks> = (0..size).map(blocks_of).collect();
            let schedules =
                schedules(size, |place| alltoall::exchange(place, &blocks[place.rank as usize], window));
            let apart = |(rank, schedule): (u32, &Schedule)| {
                let end = blocks[rank as usize].end();
                Start::new(rank, schedule.clone(), end, end)
            };
            // What nobody writes stays what it was.
            let together = |(rank, schedule): (u32, &Schedule)| Start {
                schedule: in_place(schedule, 0, 0),
                input: Vec::new(),
                output: (0..blocks[rank as usize].end()).map(|index| Some(term(rank, index))).collect(),
            };
            let apart: Vec<Start> = (0..).zip(&schedules).map(apart).collect();
            let together: Vec<Start> = (0..).zip(&schedules).map(together).collect();
            for (is_in_place, starts) in [(false, apart), (true, together)] {
                for (rank, found) in (0..).zip(run(starts, seed)) {
                    let own = &blocks[rank as usize];
                    let first = |from: u32| (from, blocks[from as usize].of(rank, Space::Input).start);
                    let mut expected = expected(own, first);
                    for (index, place) in (0..).zip(&mut expected).filter(|_| is_in_place) {
                        if place.is_none() {
                            *place = Some(term(rank, index));
                        }
                    }
                    assert_eq!(found, expected, "rank {rank} of {size}, {window} at a time, {is_in_place}");
                }
            }
        }
    }
}

#[test]
fn exchange_costs_what_it_says() {
    let m = 3;
    for size in [1, 2, 13, 16] {
        for window in [1, 4, 5, 32] {
            let blocks = Blocks::even(size, m);
            let schedules = schedules(size, |place| alltoall::exchange(place, &blocks, window));
            let (rounds, others) = (u64::from(size.div_ceil(window)), u64::from(size - 1));
            let cost = busiest(&schedules);
            assert!(
                cost.rounds <= rounds + 1 && duration(&schedules) <= rounds,
                "{size}, {window}: {cost:?}"
            );
            assert_eq!((cost.messages_sent, cost.elements_sent), (others, others * m));
            for schedule in &schedules {
                assert!(schedule.scratch <= u64::from(window) * m, "{size}, {window}");
                for round in schedule.rounds() {
                    assert!(round.transfers.len() <= 2 * window as usize);
                }
            }
        }
    }
}
