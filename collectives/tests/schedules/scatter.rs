use ironband_collectives::algorithms::scatter;
use ironband_collectives::schedule::{Blocks, Place, Schedule, Space};

use super::bcast::{all, depth, log2_up};
use super::gather::{direct_costs_what_it_says, each_direct, each_tree, gathered, in_place};
use super::world::{Start, Term, run, sizes, term};

fn check(root: u32, blocks: &Blocks, seed: u64, schedule: &dyn Fn(Place) -> Schedule) {
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
    each_tree(scatter::binomial, check);
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
    each_direct(scatter::direct, check);
}

#[test]
fn direct_costs() {
    direct_costs_what_it_says(scatter::direct, |cost| cost.elements_sent);
}
