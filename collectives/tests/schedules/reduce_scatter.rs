use ironband_collectives::algorithms::reduce_scatter;
use ironband_collectives::schedule::{Blocks, Place, Schedule};

use super::allreduce::{busiest, duration, run_both, schedules};
use super::alltoall::chance;
use super::world::{combined, counts, sizes, sorted};

/// The blocks of so many ranks: equal ones, such with and without elements, and one that has all.
fn blockings(size: u32) -> Vec<Blocks> {
    let mut blockings: Vec<Blocks> = counts(size).map(|len| Blocks::split(len, size)).collect();
    blockings.push(Blocks::even(size, 3));
    for seed in 0..3 {
        let count = |rank| chance(&[seed, u64::from(size), u64::from(rank)]) % 4;
        blockings.push(Blocks::of_counts(&(0..size).map(count).collect::<Vec<_>>()));
        let of_one =
            |rank| if chance(&[seed, u64::from(size)]) % u64::from(size) == u64::from(rank) { 5 } else { 0 };
        blockings.push(Blocks::of_counts(&(0..size).map(of_one).collect::<Vec<_>>()));
    }
    blockings
}

/// Each rank has its block of all combined, `keeps_order` in their order.
fn check(name: &str, keeps_order: bool, algorithm: impl Fn(Place, &Blocks) -> Schedule) {
    for size in sizes() {
        for (number, blocks) in (0..).zip(blockings(size)) {
            let schedules = schedules(size, |place| algorithm(place, &blocks));
            let all =
                run_both(&schedules, blocks.end(), |rank| blocks.len_of(rank), u64::from(size) * 64 + number);
            for (rank, output) in all.iter().flat_map(|outputs| (0..).zip(outputs)) {
                let start = (0..rank).map(|before| blocks.len_of(before)).sum();
                for (index, found) in (start..start + blocks.len_of(rank)).zip(output) {
                    let found =
                        found.as_ref().map(|found| if keeps_order { found.clone() } else { sorted(found) });
                    let expected = Some(combined(0..size, index));
                    assert_eq!(found, expected, "{name}: rank {rank} of {size}, {index} of {blocks:?}");
                }
            }
        }
    }
}

#[test]
fn recursive_halving_combines_in_order() {
    check("recursive halving", true, reduce_scatter::recursive_halving);
}

#[test]
fn circulant_combines() {
    check("circulant", false, reduce_scatter::circulant);
}

#[test]
fn pairwise_combines_in_order() {
    for window in [1, 2, 5, 100] {
        check("pairwise", true, |place, blocks| reduce_scatter::pairwise(place, blocks, window));
    }
}

#[test]
fn costs_are_as_the_formulas_say() {
    let m = 3;
    for (size, log) in [(2, 1), (4, 2), (8, 3), (16, 4), (32, 5)] {
        let (n, blocks) = (u64::from(size) * m, Blocks::even(size, m));
        let ranks = schedules(size, |place| reduce_scatter::recursive_halving(place, &blocks));
        let cost = busiest(&ranks);
        let (time, elements) = if size == 2 { (log, n - m) } else { (log + 1, n) };
        assert_eq!((duration(&ranks), cost.elements_sent), (time, elements), "{size}");
        assert_eq!((cost.rounds, cost.elements_combined), (log + 1, n - m), "{size}");
        let scratch = ranks.iter().map(|schedule| schedule.scratch).max().unwrap();
        assert!(scratch * 4 <= n * 3, "{size}: {scratch} of scratch for {n}");
    }
    let ranks = schedules(13, |place| reduce_scatter::recursive_halving(place, &Blocks::even(13, 4)));
    let cost = busiest(&ranks);
    assert_eq!((cost.rounds, duration(&ranks), cost.elements_sent), (5, 5, 52));
    for (size, log) in [(2, 1), (3, 2), (4, 2), (5, 3), (13, 4), (16, 4), (31, 5), (32, 5), (33, 6)] {
        let (n, blocks) = (u64::from(size) * m, Blocks::even(size, m));
        let ranks = schedules(size, |place| reduce_scatter::circulant(place, &blocks));
        let cost = busiest(&ranks);
        assert_eq!((cost.rounds, duration(&ranks)), (log, log), "{size}");
        assert_eq!((cost.elements_sent, cost.elements_combined), (n - m, n - m), "{size}");
        assert!(cost.messages_sent <= log + 1 && cost.elements_copied <= 2 * m, "{size}: {cost:?}");
        let scratch = ranks.iter().map(|schedule| schedule.scratch).max().unwrap();
        assert!(scratch <= n * 3 / 4 + m, "{size}: {scratch} of scratch for {n}");
        for window in [1, 3, 8] {
            let ranks = schedules(size, |place| reduce_scatter::pairwise(place, &blocks, window));
            let cost = busiest(&ranks);
            let rounds = u64::from((size - 1).div_ceil(window));
            assert_eq!(
                (cost.rounds, duration(&ranks), cost.elements_sent),
                (rounds, rounds, n - m),
                "{size}, {window}"
            );
            assert_eq!((cost.elements_combined, cost.elements_copied), (n - m, m), "{size}, {window}");
            assert!(ranks[0].scratch <= u64::from(window + 2) * m, "{size}, {window}");
        }
    }
}
