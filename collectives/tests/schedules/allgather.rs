use ironband_collectives::algorithms::allgather;
use ironband_collectives::schedule::{Blocks, Place, Schedule, Space};

use super::bcast::{all, depth, log2_up};
use super::gather::{gathered, in_place, own_only, ragged};
use super::world::{Start, counts, run, sizes};

fn check(blocks: &Blocks, seed: u64, schedule: impl Fn(Place) -> Schedule) {
    let size = blocks.len() as u32;
    let schedules = all(size, schedule);
    let expected = gathered(blocks, size);
    let start = |(schedule, rank): (Schedule, u32), is_in_place: bool| {
        if !is_in_place {
            return Start::new(rank, schedule, blocks.len_of(rank), blocks.end());
        }
        let schedule = in_place(&schedule, blocks.of(rank, Space::Output).start, 0);
        Start { schedule, input: Vec::new(), output: own_only(blocks, rank) }
    };
    for is_in_place in [false, true] {
        let starts = schedules.clone().into_iter().zip(0..).map(|of_rank| start(of_rank, is_in_place));
        for (output, rank) in run(starts.collect(), seed).into_iter().zip(0..) {
            assert_eq!(output, expected, "rank {rank} of {size}, in place: {is_in_place}, {blocks:?}");
        }
    }
}

fn check_even(schedule: impl Fn(Place, u64) -> Schedule) {
    for size in sizes() {
        for len in counts(size) {
            check(&Blocks::even(size, len), len, |place| schedule(place, len));
        }
    }
}

fn check_ragged(schedule: impl Fn(Place, &Blocks) -> Schedule) {
    for size in sizes() {
        for most in [0, 1, 5, 20] {
            for seed in 0..3 {
                let blocks = ragged(size, most, seed);
                check(&blocks, seed, |place| schedule(place, &blocks));
            }
            let lens: Vec<u64> = (0..u64::from(size)).map(|rank| rank * 7 % (most + 1)).collect();
            let blocks = Blocks::of_counts(&lens);
            check(&blocks, most, |place| schedule(place, &blocks));
        }
    }
}

#[test]
fn recursive_doubling_gathers() {
    check_even(allgather::recursive_doubling);
}

#[test]
fn bruck_gathers() {
    check_even(|place, len| allgather::bruck(place, &Blocks::even(place.size, len)));
    check_ragged(allgather::bruck);
}

#[test]
fn ring_gathers() {
    check_even(|place, len| allgather::ring(place, &Blocks::even(place.size, len)));
    check_ragged(allgather::ring);
}

/// All take and give `size - 1` blocks, in so many rounds and with one message to one rank in each.
fn check_cost(schedules: &[Schedule], rounds: u64) {
    let size = schedules.len() as u64;
    assert_eq!(depth(schedules), rounds, "{size} ranks");
    for schedule in schedules {
        let cost = schedule.cost();
        assert_eq!((cost.elements_sent, cost.elements_received), (7 * (size - 1), 7 * (size - 1)));
        assert_eq!((cost.messages_sent, cost.messages_received), (rounds, rounds));
        assert!(size == 1 || cost.rounds == rounds, "{cost:?}");
    }
}

#[test]
fn all_cost_what_they_say() {
    for size in sizes() {
        let blocks = Blocks::even(size, 7);
        check_cost(&all(size, |place| allgather::recursive_doubling(place, 7)), log2_up(size));
        check_cost(&all(size, |place| allgather::bruck(place, &blocks)), log2_up(size));
        check_cost(&all(size, |place| allgather::ring(place, &blocks)), u64::from(size - 1));
    }
    // What is there is not moved about.
    let copied = allgather::bruck(Place { rank: 3, size: 13 }, &Blocks::even(13, 7)).rounds()[3].steps.len();
    assert_eq!(copied, 2);
}
