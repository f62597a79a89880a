//! Processes with different tables, over the simulated fabric: whatever they do, it ends, with an error, in
//! all of them; and with the same table, however often it is set, it does not.

use std::mem::ManuallyDrop;

use ironband::{Config, Context, simulated};
use ironband_collectives::operator::Sum;
use ironband_collectives::{Communicator, Error, Request, Table};
use ironband_fabric::sim::{Faults, Options, World};
use ironband_tests::Random;

/// Far more steps than anything takes.
const TURNS_MAX: u32 = 400_000;

/// Begins an operation, of those whose algorithm depends on the table.
fn begin<'c>(communicator: &Communicator<'c>, which: usize, len: u64) -> Result<Request<'c, u64>, Error> {
    let (rank, all) = (communicator.rank(), len * u64::from(communicator.size()));
    let numbers = |len: u64| vec![1; len as usize];
    match which {
        0 => communicator.plan_bcast(0, len)?.start(Vec::new(), numbers(len)),
        1 => communicator.plan_allreduce(len, Sum)?.start(numbers(len), numbers(len)),
        2 => communicator.plan_allgather(len)?.start(numbers(len), numbers(all)),
        3 => communicator
            .plan_reduce(0, len, Sum)?
            .start(numbers(len), numbers(if rank == 0 { len } else { 0 })),
        4 => communicator.plan_reduce_scatter_block(len, Sum)?.start(numbers(all), numbers(len)),
        _ => communicator.plan_alltoall(len)?.start(numbers(all), numbers(all)),
    }
}

/// What all ranks get from an operation, by rank; an error where they do not end.
fn outcomes(
    contexts: &[Context],
    communicators: &[ManuallyDrop<Communicator<'_>>],
    (which, len): (usize, u64),
    random: &mut Random,
) -> Result<Vec<Result<(), Error>>, String> {
    let mut under_way: Vec<_> =
        communicators.iter().map(|communicator| Some(begin(communicator, which, len))).collect();
    let mut ended: Vec<Option<Result<(), Error>>> = vec![None; contexts.len()];
    for _ in 0..TURNS_MAX {
        let rank = random.below(contexts.len());
        contexts[rank].progress();
        let is_done =
            under_way[rank].as_ref().is_some_and(|begun| begun.as_ref().map_or(true, Request::is_done));
        if is_done && let Some(begun) = under_way[rank].take() {
            ended[rank] = Some(begun.and_then(|request| request.wait().map(drop)));
        }
        if ended.iter().all(Option::is_some) {
            return Ok(ended.into_iter().flatten().collect());
        }
    }
    Err(format!("does not end: {ended:?}"))
}

fn with_world(seed: u64, size: u32, play: impl FnOnce(&[Context], &mut [ManuallyDrop<Communicator<'_>>])) {
    let world = World::new(Options::new(seed).with_faults(Faults::late()));
    let contexts = simulated(&world, size, &Config::default()).expect("a simulated job");
    // Never dropped: each would wait for the others, which do nothing meanwhile.
    let mut communicators: Vec<_> = contexts
        .iter()
        .map(|context| ManuallyDrop::new(Communicator::world(context).expect("no table is named")))
        .collect();
    play(&contexts, &mut communicators);
    assert_eq!(world.violations().len(), 0);
}

/// Another table, of which each row can be the one that differs.
fn other(random: &mut Random) -> Table {
    let mut table = Table::default();
    match random.below(4) {
        0 => table.bcast_radix = 2,
        1 => (table.allreduce_whole_max, table.allgather_doubling_max) = (0, 0),
        2 => (table.reduce_tree_max, table.bcast_tree_max, table.bcast_pipeline_min) = (0, 0, 0),
        _ => (table.alltoall_bruck_ranks, table.reduce_scatter_halving_max) = (2, 0),
    }
    table
}

#[test]
fn different_tables_are_an_error_of_all_ranks_and_never_a_result() {
    let mut by_comparison = 0;
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let size = 2 + random.below(8) as u32;
        with_world(seed, size, |contexts, communicators| {
            let odd = random.below(communicators.len());
            if seed % 3 == 0 {
                communicators[odd].set_reproducible(true);
            } else {
                communicators[odd].set_table(other(&mut random)).expect("a table");
            }
            let what = (random.below(6), 1 + random.below(3) as u64 * 50);
            let all = outcomes(contexts, communicators, what, &mut random)
                .unwrap_or_else(|wrong| panic!("seed {seed}, {size} ranks, operation {what:?}: {wrong}"));
            for (rank, outcome) in all.into_iter().enumerate() {
                match outcome {
                    Err(Error::TablesDiffer { rank: one, other }) => {
                        by_comparison += 1;
                        assert!(one < other && other < size, "seed {seed}");
                        assert!(
                            [one, other].contains(&(odd as u32)),
                            "seed {seed}: {one}, {other}, not {odd}"
                        );
                    }
                    // Lengths differ where tables do, and that may be noticed first.
                    Err(Error::Mismatch { .. }) => {}
                    other => panic!("seed {seed}: rank {rank} of {size} gets {other:?} from {what:?}"),
                }
            }
        });
    }
    assert!(by_comparison > 1000, "only {by_comparison} ranks were told so");
}

#[test]
fn the_same_table_may_be_set_again_and_again() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        with_world(seed, 1 + random.below(8) as u32, |contexts, communicators| {
            for turn in 0..4 {
                let table = other(&mut random);
                for communicator in communicators.iter_mut() {
                    communicator.set_table(table.clone()).expect("a table");
                    communicator.set_reproducible(turn % 2 == 1);
                }
                let what = (random.below(6), 1 + random.below(3) as u64 * 50);
                let all = outcomes(contexts, communicators, what, &mut random)
                    .unwrap_or_else(|wrong| panic!("seed {seed}, operation {what:?}: {wrong}"));
                assert!(all.iter().all(Result::is_ok), "seed {seed}: {all:?}");
            }
        });
    }
}

/// While one operation is under way another table is set: its comparison is the next operation's.
#[test]
fn a_table_may_be_set_while_an_operation_is_under_way() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        with_world(seed, 2 + random.below(6) as u32, |contexts, communicators| {
            let first: Vec<_> = communicators.iter().map(|one| begin(one, 1, 20).expect("begun")).collect();
            let table = other(&mut random);
            for communicator in communicators.iter_mut() {
                communicator.set_table(table.clone()).expect("a table");
            }
            let all = outcomes(contexts, communicators, (0, 60), &mut random)
                .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            assert!(all.iter().all(Result::is_ok), "seed {seed}: {all:?}");
            for request in first {
                assert!(request.is_done() && request.wait().is_ok(), "seed {seed}");
            }
        });
    }
}

/// A persistent operation has the table that there was when it was made. Being the first one behind other tables, it notices that these differ.
#[test]
fn a_persistent_operation_before_tables_that_differ() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        with_world(seed, 2 + random.below(6) as u32, |contexts, communicators| {
            let all = outcomes(contexts, communicators, (1, 20), &mut random).expect("it ends");
            assert!(all.iter().all(Result::is_ok), "seed {seed}: {all:?}");
            let mut persistent: Vec<_> = communicators
                .iter()
                .map(|one| {
                    one.plan_allreduce(20, Sum).and_then(|plan| plan.with(vec![1_u64; 20], vec![0; 20]))
                })
                .map(|made| ManuallyDrop::new(made.expect("made")))
                .collect();
            let odd = random.below(contexts.len());
            for (rank, communicator) in communicators.iter_mut().enumerate() {
                let table = if rank == odd { other(&mut random) } else { Table::default() };
                communicator.set_table(table).expect("a table");
            }
            for one in &mut persistent {
                one.start().expect("begun");
            }
            let all = outcomes(contexts, communicators, (0, 60), &mut random)
                .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            assert!(all.iter().all(Result::is_err), "seed {seed}: {all:?}");
        });
    }
}
