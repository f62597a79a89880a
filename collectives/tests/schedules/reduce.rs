use ironband_collectives::algorithms::reduce;
use ironband_collectives::schedule::{Place, Schedule};

use super::bcast::{all, depth, roots};
use super::gather::in_place;
use super::world::{Start, Term, combined, counts, run, sizes, sorted, term};

/// For all sizes, roots and numbers of elements, in place and not.
fn check_all(is_ordered: bool, schedule: impl Fn(Place, u32, u64) -> Schedule) {
    for size in sizes() {
        for root in roots(size) {
            for len in counts(size) {
                let schedules = all(size, |place| schedule(place, root, len));
                check(size, root, len, is_ordered, &schedules);
            }
        }
    }
}

fn check(size: u32, root: u32, len: u64, is_ordered: bool, schedules: &[Schedule]) {
    let expected: Vec<Term> = (0..len).map(|index| combined(0..size, index)).collect();
    let start = |(schedule, rank): (&Schedule, u32), is_in_place: bool| {
        if rank != root || !is_in_place {
            return Start::new(rank, schedule.clone(), len, if rank == root { len } else { 0 });
        }
        let output = (0..len).map(|index| Some(term(rank, index))).collect();
        Start { schedule: in_place(schedule, 0, 0), input: Vec::new(), output }
    };
    for is_in_place in [false, true] {
        let starts = schedules.iter().zip(0..).map(|of_rank| start(of_rank, is_in_place)).collect();
        let output = run(starts, len).swap_remove(root as usize);
        let mut output: Vec<Term> = output.into_iter().map(|term| term.expect("written")).collect();
        if !is_ordered {
            output = output.iter().map(sorted).collect();
        }
        assert_eq!(output, expected, "{size} ranks, root {root}, in place: {is_in_place}");
    }
}

#[test]
fn ordered_knomial_combines_in_order() {
    for radix in [2, 3, 4, u32::MAX] {
        check_all(true, |place, root, len| reduce::knomial(place, root, len, radix, true));
    }
}

#[test]
fn knomial_combines_all() {
    for radix in [2, 3, 4, u32::MAX] {
        check_all(false, |place, root, len| reduce::knomial(place, root, len, radix, false));
    }
}

#[test]
fn knomial_keeps_the_order_for_rank_0() {
    for size in sizes() {
        let schedules = all(size, |place| reduce::knomial(place, 0, 3, 4, false));
        check(size, 0, 3, true, &schedules);
    }
}

#[test]
fn knomial_costs_what_it_says() {
    for radix in [2u32, 3, 4] {
        for levels in 1..4 {
            let size = radix.pow(levels);
            for (root, is_ordered, more) in [(0, true, 0), (1, false, 0), (1, true, 1)] {
                let schedules = all(size, |place| reduce::knomial(place, root, 10, radix, is_ordered));
                assert_eq!(depth(&schedules), u64::from(levels) + more, "{size} ranks, radix {radix}");
                let most = schedules.iter().map(|schedule| schedule.cost().elements_combined).max();
                assert_eq!(most, Some(u64::from((radix - 1) * levels) * 10));
                assert!(schedules.iter().all(|schedule| schedule.cost().elements_sent <= 10));
                assert!(schedules.iter().all(|schedule| schedule.cost().elements_copied == 0));
            }
            let odd = all(size - 1, |place| reduce::knomial(place, 0, 10, radix, true));
            assert!(depth(&odd) <= u64::from(levels));
        }
    }
}

#[test]
fn reduce_scatter_gather_combines_in_order() {
    check_all(true, reduce::reduce_scatter_gather);
}

#[test]
fn reduce_scatter_gather_costs_what_it_says() {
    for size in sizes() {
        let left = 1 << size.ilog2();
        let len = 3 * left;
        let more = u64::from(u64::from(size) > left);
        for root in [0, size / 2, size - 1] {
            let schedules = all(size, |place| reduce::reduce_scatter_gather(place, root, len));
            assert_eq!(depth(&schedules), 2 * u64::from(size.ilog2()) + more, "{size} ranks, root {root}");
            let cost = schedules[root as usize].cost();
            let each = len - 3;
            let is_folded = cost.elements_received > 2 * each;
            assert_eq!(cost.elements_received, 2 * each + if is_folded { len } else { 0 });
            for schedule in &schedules {
                let cost = schedule.cost();
                assert!(cost.elements_combined <= each + more * len);
                assert!(cost.elements_sent <= (2 * each).max(len));
            }
        }
    }
}

#[test]
fn chain_combines_in_order() {
    for segment in [1, 3, 64, u64::MAX] {
        check_all(true, |place, root, len| reduce::chain(place, root, len, segment));
    }
}

#[test]
fn chain_costs_what_it_says() {
    for size in sizes().filter(|size| *size > 1) {
        for root in roots(size) {
            let longer = u64::from(root.max(size - 1 - root));
            for segments in 1..5 {
                let schedules = all(size, |place| reduce::chain(place, root, 10 * segments - 1, 10));
                assert_eq!(depth(&schedules), longer - 1 + segments, "{size} ranks, root {root}");
                let sides = u64::from(root > 0) + u64::from(root + 1 < size);
                let cost = schedules[root as usize].cost();
                assert_eq!(cost.elements_combined, sides * (10 * segments - 1));
                assert!(schedules.iter().all(|schedule| schedule.scratch <= 20));
            }
        }
    }
}
