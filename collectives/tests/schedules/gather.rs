use ironband_collectives::algorithms::gather;
use ironband_collectives::schedule::{Blocks, Cost, Place, Schedule, Side, Space, Span, Step, Transfer};

use super::bcast::{all, depth, log2_up, roots};
use super::world::{Start, Term, counts, run, sizes, term};

/// The same schedule with input and output in one memory, the output, each from another element of it on.
pub(crate) fn in_place(schedule: &Schedule, input_at: u64, output_at: u64) -> Schedule {
    let moved = |span: Span| match span.space {
        Space::Input => Span::output(span.start + input_at, span.len),
        Space::Output => Span::output(span.start + output_at, span.len),
        Space::Scratch => span,
    };
    let mut in_place = Schedule::new();
    in_place.scratch = schedule.scratch;
    for round in schedule.rounds() {
        for transfer in &round.transfers {
            match *transfer {
                Transfer::Send { to, data } => in_place.send(to, moved(data)),
                Transfer::Receive { from, data } => in_place.receive(from, moved(data)),
            }
        }
        for step in &round.steps {
            match *step {
                Step::Copy { from, to } => in_place.copy(moved(from), moved(to)),
                Step::Combine { left, right, into } => {
                    in_place.combine_with(moved(left), moved(right), Side::Left, moved(into));
                }
            }
        }
        in_place.next_round();
    }
    in_place
}

/// Blocks of different lengths up to this one, some of none, in any order and with gaps.
pub(crate) fn ragged(size: u32, most: u64, seed: u64) -> Blocks {
    let chance = |rank: u32, salt: u64| {
        let mixed = (u64::from(rank) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed * 77 + salt);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
    };
    let lens: Vec<u64> = (0..size).map(|rank| chance(rank, 1) % (most + 1)).collect();
    let mut order: Vec<u32> = (0..size).collect();
    order.sort_unstable_by_key(|rank| chance(*rank, 2));
    let mut starts = vec![0; size as usize];
    let mut end = 0;
    for rank in order {
        end += chance(rank, 3) % 3;
        starts[rank as usize] = end;
        end += lens[rank as usize];
    }
    Blocks::at(&lens, &starts)
}

/// A memory with the blocks of all ranks, and nothing in the gaps.
pub(crate) fn gathered(blocks: &Blocks, size: u32) -> Vec<Option<Term>> {
    let mut memory = vec![None; blocks.end() as usize];
    for rank in 0..size {
        let block = blocks.of(rank, Space::Output);
        for index in 0..block.len {
            memory[(block.start + index) as usize] = Some(term(rank, index));
        }
    }
    memory
}

/// As `gathered`, but only with the own block of a rank.
pub(crate) fn own_only(blocks: &Blocks, rank: u32) -> Vec<Option<Term>> {
    let mut memory = vec![None; blocks.end() as usize];
    for index in 0..blocks.len_of(rank) {
        memory[(blocks.of(rank, Space::Output).start + index) as usize] = Some(term(rank, index));
    }
    memory
}

fn check(root: u32, blocks: &Blocks, seed: u64, schedule: &dyn Fn(Place) -> Schedule) {
    let size = blocks.len() as u32;
    let schedules = all(size, schedule);
    let starts = |is_in_place: bool| {
        let start = |(schedule, rank): (Schedule, u32)| {
            if rank != root {
                return Start::new(rank, schedule, blocks.len_of(rank), 0);
            }
            if !is_in_place {
                return Start::new(rank, schedule, blocks.len_of(rank), blocks.end());
            }
            let schedule = in_place(&schedule, blocks.of(rank, Space::Output).start, 0);
            Start { schedule, input: Vec::new(), output: own_only(blocks, rank) }
        };
        schedules.clone().into_iter().zip(0..).map(start).collect()
    };
    for is_in_place in [false, true] {
        let outputs = run(starts(is_in_place), seed);
        assert_eq!(outputs[root as usize], gathered(blocks, size), "{size} ranks, root {root}, {blocks:?}");
    }
}

/// A tree, of a gather or a scatter.
type Binomial = fn(Place, u32, u64) -> Schedule;

/// Straight from or to the root.
type Direct = fn(Place, u32, u64, Option<&Blocks>, u32) -> Schedule;

/// Tries a tree from or to each root, with blocks of each length.
pub(crate) fn each_tree(binomial: Binomial, check: impl Fn(u32, &Blocks, u64, &dyn Fn(Place) -> Schedule)) {
    for size in sizes() {
        for root in roots(size) {
            for len in counts(size) {
                check(root, &Blocks::even(size, len), len, &|place| binomial(place, root, len));
            }
        }
    }
}

/// Tries it with each root, with blocks of many lengths and windows.
pub(crate) fn each_direct(direct: Direct, check: impl Fn(u32, &Blocks, u64, &dyn Fn(Place) -> Schedule)) {
    for size in sizes() {
        for root in roots(size) {
            for (most, window) in [(0, 1), (1, 2), (5, 1), (5, 3), (20, 100)] {
                let blocks = ragged(size, most, u64::from(window));
                check(root, &blocks, most, &|place| {
                    let at_root = (place.rank == root).then_some(&blocks);
                    direct(place, root, blocks.len_of(place.rank), at_root, window)
                });
            }
        }
    }
}

/// Of a root that moves so many elements.
pub(crate) fn direct_costs_what_it_says(direct: Direct, moved: fn(&Cost) -> u64) {
    for size in sizes().filter(|size| *size > 1) {
        for window in [1, 2, 3, 8, 40] {
            let blocks = Blocks::even(size, 3);
            let schedules =
                all(size, |place| direct(place, 1, 3, (place.rank == 1).then_some(&blocks), window));
            assert_eq!(depth(&schedules), u64::from((size - 1).div_ceil(window)));
            let rounds = schedules[1].rounds();
            assert!(rounds.iter().all(|round| round.transfers.len() <= window as usize));
            assert_eq!(moved(&schedules[1].cost()), 3 * u64::from(size - 1));
        }
    }
}

#[test]
fn binomial_gathers() {
    each_tree(gather::binomial, check);
}

#[test]
fn binomial_costs_what_it_says() {
    for size in sizes() {
        for root in [0, size / 2] {
            let schedules = all(size, |place| gather::binomial(place, root, 7));
            // Messages that the root receives in one round need no rounds of their own.
            let depth = depth(&schedules);
            assert!(
                depth == log2_up(size) || depth < log2_up(size) && !size.is_power_of_two(),
                "{size} ranks: {depth}"
            );
            let cost = schedules[root as usize].cost();
            assert_eq!(cost.elements_received, 7 * u64::from(size - 1));
            // One more for what goes around the end.
            assert!(cost.messages_received <= log2_up(size) + u64::from(root != 0));
            let limit = u64::from(size.next_power_of_two() / 2) * 7;
            assert!(schedules.iter().all(|schedule| schedule.cost().elements_sent <= limit));
        }
    }
}

#[test]
fn direct_gathers() {
    each_direct(gather::direct, check);
}

#[test]
fn direct_costs() {
    direct_costs_what_it_says(gather::direct, |cost| cost.elements_received);
}
