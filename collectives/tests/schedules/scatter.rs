use ironband_collectives::algorithms::scatter;
use ironband_collectives::schedule::{Blocks, Place, Schedule, Space};

use super::bcast::{all, depth, log2_up, roots};
use super::gather::{gathered, in_place, ragged};
use super::world::{Start, Term, counts, run, sizes, term};

fn check(root: u32, blocks: &Blocks, seed: u64, schedule: impl Fn(Place) -> Schedule) {
    let size = blocks.len() as u32;
    let schedules = all(size, schedule);
    let block = |rank: u32| -> Vec<Option<Term>> {
        (0..blocks.len_of(rank)).map(|index| Some(term(rank, index))).collect()
    };
    let start = |(schedule, rank): (Schedule, u32), is_in_place: bool| {
        let input = if rank == root { gathered(blocks, size) } else { Vec::new() };
        if is_in_place && rank == root {
            let own = blocks.of(rank, Space::Input).start;
            return Start { schedule: in_place(&schedule, 0, own), input: Vec::new(), output: input };
        }
        Start { schedule, input, output: vec![None; blocks.len_of(rank) as usize] }
    };
    for is_in_place in [false, true] {
        let starts = schedules.clone().into_iter().zip(0..).map(|of_rank| start(of_rank, is_in_place));
        let outputs = run(starts.collect(), seed);
        for (output, rank) in outputs.into_iter().zip(0..) {
            if is_in_place && rank == root {
                assert_eq!(output, gathered(blocks, size), "the root's input has changed");
            } else {
                assert_eq!(output, block(rank), "rank {rank} of {size}, root {root}, {blocks:?}");
            }
        }
    }
}

#[test]
fn binomial_scatters() {
    for size in sizes() {
        for root in roots(size) {
            for len in counts(size) {
                check(root, &Blocks::even(size, len), len, |place| scatter::binomial(place, root, len));
            }
        }
    }
}

#[test]
fn binomial_costs_what_it_says() {
    for size in sizes() {
        for root in [0, size / 2] {
            let schedules = all(size, |place| scatter::binomial(place, root, 7));
            assert_eq!(depth(&schedules), log2_up(size));
            let cost = schedules[root as usize].cost();
            assert_eq!(cost.elements_sent, 7 * u64::from(size - 1));
            // One more for what goes around the end.
            assert!(cost.messages_sent <= log2_up(size) + u64::from(root != 0));
            let limit = u64::from(size.next_power_of_two() / 2) * 7;
            assert!(schedules.iter().all(|schedule| schedule.cost().elements_received <= limit));
        }
    }
}

#[test]
fn direct_scatters() {
    for size in sizes() {
        for root in roots(size) {
            for (most, window) in [(0, 1), (1, 2), (5, 1), (5, 3), (20, 100)] {
                let blocks = ragged(size, most, u64::from(window));
                check(root, &blocks, most, |place| {
                    let at_root = (place.rank == root).then_some(&blocks);
                    scatter::direct(place, root, blocks.len_of(place.rank), at_root, window)
                });
            }
        }
    }
}

#[test]
fn direct_costs_what_it_says() {
    for size in sizes().filter(|size| *size > 1) {
        for window in [1, 2, 3, 8, 40] {
            let blocks = Blocks::even(size, 3);
            let schedules =
                all(size, |place| scatter::direct(place, 1, 3, (place.rank == 1).then_some(&blocks), window));
            assert_eq!(depth(&schedules), u64::from((size - 1).div_ceil(window)));
            let rounds = schedules[1].rounds();
            assert!(rounds.iter().all(|round| round.transfers.len() <= window as usize));
            assert_eq!(schedules[1].cost().elements_sent, 3 * u64::from(size - 1));
        }
    }
}
