//! All ranks of a communicator in one thread, over the simulated fabric: every operation against what MPI says that it does, under late and
//! disordered deliveries, and with processes that end.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;

use ironband::{Config, Context, Location, simulated, simulated_at};
use ironband_collectives::operator::{InOrder, Sum};
use ironband_collectives::{Communicator, Error, Shrinking, Table};
use ironband_fabric::sim::{Faults, Options, World};
use ironband_tests::deeds::{Deed, How, Under, What};
use ironband_tests::{Random, number};

/// Steps that nothing takes: far more than any operation needs.
const TURNS_MAX: u64 = 3_000_000;

fn options(seed: u64) -> Options {
    let mut random = Random::new(seed);
    let options = match random.below(4) {
        0 => Options::new(seed),
        1 => Options::infiniband(seed),
        2 => Options::iwarp(seed),
        _ => Options::two_sided(seed),
    };
    let weather = match random.below(3) {
        0 => Faults::NONE,
        1 => Faults::late(),
        _ => Faults { busy: 200_000, register: 300_000, ..Faults::late() },
    };
    // Some adapters move little at once: what is longer goes in parts.
    let rdma_bytes_max = [options.rdma_bytes_max, 5000][random.below(2)];
    Options { prefers_writing: random.below(3) == 0, rdma_bytes_max, ..options }.with_faults(weather)
}

/// A table with low switch points, so that all algorithms are taken.
fn table(random: &mut Random) -> Table {
    let mut any = |limit: u64| [0, 100, limit][random.below(3)];
    Table {
        barrier_radix: 2 + any(2).min(2) as u32,
        bcast_tree_max: any(8 << 10),
        bcast_radix: 2 + any(2).min(2) as u32,
        bcast_node_ranks: any(8) as u32,
        bcast_pipeline_min: any(2 << 10),
        reduce_tree_max: any(8 << 10),
        reduce_radix: 2 + any(3).min(3) as u32,
        allreduce_whole_max: any(4 << 10),
        allreduce_ring_min: any(8 << 10),
        reduce_scatter_halving_max: any(8 << 10),
        allgather_doubling_max: any(8 << 10),
        alltoall_bruck_max: any(128),
        alltoall_bruck_ranks: 2,
        gather_tree_max: any(2 << 10),
        scan_chain_min: any(4 << 10),
        segment: 64 + any(4 << 10),
        window: 1 + any(3).min(3) as u32,
        hierarchy: 1,
        leader_max: any(8 << 10),
        stripes: 1 + any(3).min(3) as u32,
    }
}

/// Each on a node of its own; on nodes of consecutive ranks, or of any; on one, beside one of two caches.
fn locations(random: &mut Random, size: u32) -> Vec<Location> {
    let nodes = 1 + random.below(4);
    let each = 1 + random.below(5) as u32;
    let how = random.below(4);
    let place = |rank: u32| match how {
        0 => Location { node: rank, cache: None },
        1 => Location { node: rank / each, cache: (rank % each > 1).then_some(3) },
        2 => Location { node: random.below(nodes) as u32, cache: Some(random.below(2) as u32) },
        _ => Location { node: 0, cache: Some(random.below(2) as u32) },
    };
    (0..size).map(place).collect()
}

/// What is done in a run.
#[derive(Debug, Clone, Copy)]
enum Script<'d> {
    /// So many operations, any of them, by a table of chance.
    Anything(u32),
    /// These, by a table of chance.
    These(&'d [Deed]),
    /// One algorithm, so many times.
    By(&'static Algorithm, u32),
}

/// An algorithm, and what has to be so for it to be taken.
#[derive(Debug)]
struct Algorithm {
    name: &'static str,
    /// The operations that are done by it.
    operations: &'static [What],
    commutes: bool,
    reproducible: bool,
    by_chain: bool,
    is_size: fn(u32) -> bool,
    table: fn(&mut Table),
}

impl Algorithm {
    const fn new(name: &'static str, operations: &'static [What], table: fn(&mut Table)) -> Self {
        let is_size = |size| size > 2;
        Self { name, operations, commutes: true, reproducible: false, by_chain: false, is_size, table }
    }

    const fn in_order(self) -> Self {
        Self { commutes: false, ..self }
    }

    const fn reproducible(self) -> Self {
        Self { reproducible: true, ..self }
    }

    const fn by_chain(self) -> Self {
        Self { by_chain: true, ..self }
    }

    const fn of_size(self, is_size: fn(u32) -> bool) -> Self {
        Self { is_size, ..self }
    }

    fn deed(&self, random: &mut Random, size: u32, number: u32) -> Deed {
        let what = self.operations[random.below(self.operations.len())];
        let deed = Deed::of_order(what, self.commutes, random, size, number);
        if self.by_chain { deed.by_chain(1 + random.below(100) as u64) } else { deed }
    }
}

/// No length is above it.
const ANY: u64 = u64::MAX;

/// These have the same algorithms.
const REDUCE_SCATTERS: &[What] = &[What::ReduceScatter, What::ReduceScatterBlock];

/// All of `ironband_collectives::algorithms`.
static ALGORITHMS: [Algorithm; 28] = [
    Algorithm::new("barrier::dissemination", &[What::Barrier], |table| table.barrier_radix = 3),
    Algorithm::new("bcast::knomial", &[What::Bcast], |table| table.bcast_tree_max = ANY),
    Algorithm::new("bcast::scatter_allgather", &[What::Bcast], |table| {
        (table.bcast_tree_max, table.bcast_pipeline_min) = (0, ANY);
    }),
    Algorithm::new("bcast::circulant", &[What::Bcast], |table| {
        (table.bcast_tree_max, table.bcast_pipeline_min, table.segment) = (0, 0, 64);
    }),
    Algorithm::new("bcast::chain", &[What::Bcast], |_| {}).by_chain(),
    Algorithm::new("reduce::knomial", &[What::Reduce], |table| table.reduce_tree_max = ANY),
    Algorithm::new("reduce::knomial in order", &[What::Reduce], |table| table.reduce_tree_max = ANY)
        .in_order(),
    Algorithm::new("reduce::reduce_scatter_gather", &[What::Reduce], |table| table.reduce_tree_max = 0)
        .in_order(),
    Algorithm::new("reduce::chain", &[What::Reduce], |_| {}).in_order().by_chain(),
    Algorithm::new("allreduce::recursive_doubling", &[What::Allreduce], |table| {
        table.allreduce_whole_max = ANY
    })
    .in_order(),
    Algorithm::new("allreduce::rabenseifner", &[What::Allreduce], |table| {
        (table.allreduce_whole_max, table.allreduce_ring_min) = (0, ANY);
    })
    .in_order(),
    Algorithm::new("allreduce::ring", &[What::Allreduce], |table| {
        (table.allreduce_whole_max, table.allreduce_ring_min) = (0, 0);
    }),
    Algorithm::new("allreduce::reproducible", &[What::Allreduce], |table| table.allreduce_whole_max = 100)
        .reproducible(),
    Algorithm::new("reduce_scatter::pairwise", REDUCE_SCATTERS, |table| {
        (table.reduce_scatter_halving_max, table.window) = (0, 2);
    })
    .in_order(),
    Algorithm::new("reduce_scatter::circulant", REDUCE_SCATTERS, |table| {
        table.reduce_scatter_halving_max = ANY;
    }),
    Algorithm::new("reduce_scatter::recursive_halving", REDUCE_SCATTERS, |table| {
        table.reduce_scatter_halving_max = ANY;
    })
    .in_order(),
    Algorithm::new("gather::binomial", &[What::Gather], |table| table.gather_tree_max = ANY),
    Algorithm::new("gather::direct", &[What::Gather, What::Gatherv], |table| {
        (table.gather_tree_max, table.window) = (0, 2);
    }),
    Algorithm::new("scatter::binomial", &[What::Scatter], |table| table.gather_tree_max = ANY),
    Algorithm::new("scatter::direct", &[What::Scatter, What::Scatterv], |table| {
        (table.gather_tree_max, table.window) = (0, 2);
    }),
    Algorithm::new("allgather::recursive_doubling", &[What::Allgather], |table| {
        table.allgather_doubling_max = ANY
    })
    .of_size(|size| size.is_power_of_two()),
    Algorithm::new("allgather::bruck", &[What::Allgather, What::Allgatherv], |table| {
        table.allgather_doubling_max = ANY;
    })
    .of_size(|size| !size.is_power_of_two()),
    Algorithm::new("allgather::ring", &[What::Allgather, What::Allgatherv], |table| {
        table.allgather_doubling_max = 0
    }),
    Algorithm::new("alltoall::bruck", &[What::Alltoall], |table| {
        (table.alltoall_bruck_max, table.alltoall_bruck_ranks) = (ANY, 2);
    }),
    Algorithm::new("alltoall::direct", &[What::Alltoall, What::Alltoallv], |table| {
        (table.alltoall_bruck_max, table.window) = (0, 2);
    }),
    Algorithm::new("scan::recursive_doubling", &[What::Scan, What::Exscan], |table| {
        table.scan_chain_min = ANY
    })
    .in_order(),
    Algorithm::new("scan::chain", &[What::Scan, What::Exscan], |table| {
        (table.scan_chain_min, table.segment) = (0, 64);
    })
    .in_order(),
    Algorithm::new("neighbour::exchange", &[What::NeighbourAlltoallv], |_| {}),
];

/// Not dropped when a process has died: each would wait for the ends of what it has begun, and one that is dead would wait for ever.
type Member<'c> = ManuallyDrop<Communicator<'c>>;

fn communicator<'c>(context: &'c Context, table: &Table, is_reproducible: bool) -> Communicator<'c> {
    let mut communicator = Communicator::world(context).expect("a world needs nothing");
    communicator.set_table(table.clone()).expect("a table that makes schedules");
    communicator.set_reproducible(is_reproducible);
    communicator
}

/// Does deeds, up to three at a time, and checks what comes out.
fn play(seed: u64, size: u32, script: Script<'_>, victim: Option<u32>) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x5eed);
    let world = World::new(options(seed));
    let locations = locations(&mut random, size);
    let contexts = simulated_at(&world, &locations, &Config::default()).map_err(|error| error.to_string())?;
    let mut table = table(&mut random);
    if let Script::By(algorithm, _) = script {
        table.hierarchy = 0;
        (algorithm.table)(&mut table);
    }
    let is_reproducible = matches!(script, Script::By(algorithm, _) if algorithm.reproducible);
    let communicators: Vec<Member<'_>> = contexts
        .iter()
        .map(|context| ManuallyDrop::new(communicator(context, &table, is_reproducible)))
        .collect();
    let deeds: Vec<Deed> = match script {
        Script::Anything(count) => (0..count).map(|number| Deed::of(&mut random, size, number)).collect(),
        Script::These(deeds) => deeds.to_vec(),
        Script::By(algorithm, count) => {
            (0..count).map(|number| algorithm.deed(&mut random, size, number)).collect()
        }
    };
    let mut under_way: BTreeMap<usize, (Deed, Vec<Under<'_>>)> = BTreeMap::new();
    let mut failures: Vec<Option<Error>> = vec![None; size as usize];
    let kill_at = victim.map(|_| random.below(200) as u64);
    let mut is_dead = false;
    let (mut begun, mut turns) = (0, 0);
    while begun < deeds.len() || !under_way.is_empty() {
        if begun < deeds.len() && under_way.len() < 3 && random.below(20) == 0 {
            let deed = deeds[begun];
            let start = |rank: u32| deed.start(&communicators[rank as usize], How::Owned);
            under_way.insert(begun, (deed, (0..size).map(start).collect()));
            begun += 1;
        }
        let rank = random.below(size as usize) as u32;
        turns += 1;
        if turns > TURNS_MAX * (1 + deeds.len() as u64 / 10) {
            return Err(format!(
                "{under_way:?} does not end, rank {victim:?} is dead: {is_dead}, failures {failures:?}"
            ));
        }
        if kill_at.is_some_and(|at| at == turns / u64::from(size)) && !is_dead {
            world.kill(victim.unwrap_or(0));
            is_dead = true;
        }
        let lives = |rank: u32| !(is_dead && Some(rank) == victim);
        if !lives(rank) {
            continue;
        }
        contexts[rank as usize].progress();
        let mut over = Vec::new();
        for (number, (deed, all)) in &mut under_way {
            if let Some(error) = all[rank as usize].look(deed, rank)? {
                failures[rank as usize] = Some(error);
            }
            if all.iter().zip(0..).all(|(one, rank)| one.is_over() || !lives(rank)) {
                over.push(*number);
            }
        }
        for number in over {
            under_way.remove(&number);
        }
    }
    let outcome = match victim {
        None if failures.iter().any(Option::is_some) => Err(format!("failed without a reason: {failures:?}")),
        Some(victim) if is_dead => after_a_death(&contexts, &communicators, victim)
            .and_then(|()| all_shrink(&world, &contexts, &communicators, victim, &mut random)),
        _ => Ok(()),
    };
    if let Some(violation) = world.violations().first() {
        return Err(format!("device {}: {}", violation.device, violation.what));
    }
    if victim.is_none() && outcome.is_ok() {
        communicators.into_iter().for_each(|one| drop(ManuallyDrop::into_inner(one)));
    }
    outcome
}

/// All who live learn of it, by what they do next at the latest.
fn after_a_death(contexts: &[Context], communicators: &[Member<'_>], victim: u32) -> Result<(), String> {
    let living = || (0..contexts.len()).filter(|rank| *rank != victim as usize);
    let mut barriers: BTreeMap<usize, _> = living()
        .filter_map(|rank| {
            let begun = communicators[rank].plan_barrier().start(Vec::new(), Vec::new());
            begun.ok().map(|barrier| (rank, barrier))
        })
        .collect();
    for _ in 0..TURNS_MAX / contexts.len() as u64 {
        for rank in living() {
            contexts[rank].progress();
            if barriers.get(&rank).is_some_and(|barrier| barrier.is_done())
                && let Some(barrier) = barriers.remove(&rank)
            {
                match barrier.wait() {
                    Err(Error::PeerFailed { rank, .. }) if rank == victim => {}
                    other => {
                        return Err(format!("rank {rank} gets {other:?} from a barrier without {victim}"));
                    }
                }
            }
        }
        if barriers.is_empty() {
            return Ok(());
        }
    }
    Err(format!("{:?} do not learn that {victim} is dead", barriers.keys()))
}

/// Those who live agree on who does, and go on, though sometimes another one ends meanwhile.
fn all_shrink<'c>(
    world: &World,
    contexts: &'c [Context],
    communicators: &[Member<'c>],
    victim: u32,
    random: &mut Random,
) -> Result<(), String> {
    let size = contexts.len();
    let second = (size > 2 && random.below(2) == 0)
        .then(|| random.below(size))
        .filter(|rank| *rank != victim as usize);
    let kill_at = random.below(20 * size);
    let mut living: Vec<usize> = (0..size).filter(|rank| *rank != victim as usize).collect();
    let mut shrinking: BTreeMap<usize, ManuallyDrop<Shrinking<'c>>> = BTreeMap::new();
    let mut rest: BTreeMap<usize, Member<'c>> = BTreeMap::new();
    let mut turns = 0;
    while rest.len() < living.len() {
        turns += 1;
        if turns > TURNS_MAX as usize {
            return Err(format!("{shrinking:?} does not end, {victim} and {second:?} are dead"));
        }
        if second.is_some() && turns == kill_at + 1 {
            let dead = second.unwrap_or(0);
            world.kill(dead as u32);
            living.retain(|rank| *rank != dead);
            shrinking.remove(&dead);
            rest.remove(&dead);
            continue;
        }
        let rank = living[random.below(living.len())];
        contexts[rank].progress();
        if rest.contains_key(&rank) {
            continue;
        }
        let one =
            shrinking.entry(rank).or_insert_with(|| ManuallyDrop::new(communicators[rank].start_shrink()));
        if one.is_done()
            && let Some(one) = shrinking.remove(&rank)
        {
            let left =
                ManuallyDrop::into_inner(one).wait().map_err(|error| format!("rank {rank}: {error}"))?;
            rest.insert(rank, ManuallyDrop::new(left));
        }
    }
    let members = |left: &Communicator<'_>| -> Vec<_> {
        (0..left.size()).map(|rank| left.rank_in_job(rank).expect("it has this rank")).collect()
    };
    let all = rest.values().map(|left| members(left)).collect::<Vec<_>>();
    let expected: Vec<u32> = living.iter().map(|rank| *rank as u32).collect();
    let killed = second.filter(|rank| !living.contains(rank));
    let is_right = |ranks: &Vec<u32>| {
        // One that has ended meanwhile may have been heard before.
        let without: Vec<u32> = ranks.iter().copied().filter(|rank| killed != Some(*rank as usize)).collect();
        without == expected && *ranks == all[0]
    };
    if !all.iter().all(is_right) {
        return Err(format!("{all:?} are left without {victim} and {killed:?}"));
    }
    if all[0].len() != living.len() {
        return Ok(());
    }
    go_on(contexts, &living, &rest, random)
}

/// What is left works.
fn go_on(
    contexts: &[Context],
    living: &[usize],
    rest: &BTreeMap<usize, Member<'_>>,
    random: &mut Random,
) -> Result<(), String> {
    for number in 0..2 {
        let deed = Deed::of(random, living.len() as u32, number);
        let mut under_way: Vec<_> = living.iter().map(|rank| deed.start(&rest[rank], How::Owned)).collect();
        let mut turns = 0;
        while !under_way.iter().all(Under::is_over) {
            turns += 1;
            if turns > TURNS_MAX {
                return Err(format!("{deed:?} does not end after the shrink: {under_way:?}"));
            }
            let at = random.below(living.len());
            contexts[living[at]].progress();
            if let Some(error) = under_way[at].look(&deed, at as u32)? {
                return Err(format!("{error} in {deed:?}, after the shrink"));
            }
        }
    }
    Ok(())
}

fn sizes() -> impl Iterator<Item = u32> {
    (1..=17).chain(31..=33)
}

/// `IRONBAND_SEEDS` says how many seeds are tried with each number of processes.
fn seeds() -> u64 {
    number("IRONBAND_SEEDS").unwrap_or(6)
}

#[test]
fn operations_do_what_mpi_says() {
    for size in sizes() {
        for seed in 0..seeds() {
            let seed = seed * 1000 + u64::from(size);
            if let Err(wrong) = play(seed, size, Script::Anything(14), None) {
                panic!("seed {seed} with {size} processes: {wrong}");
            }
        }
    }
}

/// Each number of processes does a part of the pairs; with `IRONBAND_SEEDS` above 10 all of them.
#[test]
fn every_operation_works_on_every_type() {
    let parts = if seeds() > 10 { 1 } else { 5 };
    for (part, size) in sizes().enumerate() {
        let mut random = Random::new(size.into());
        let deeds = Deed::each(&mut random, size).into_iter().skip(part % parts).step_by(parts);
        if let Err(wrong) = play(size.into(), size, Script::These(&deeds.collect::<Vec<_>>()), None) {
            panic!("{size} processes: {wrong}");
        }
    }
}

#[test]
fn the_death_of_a_process_ends_what_it_takes_part_in() {
    for size in sizes().filter(|size| *size > 1) {
        for seed in 0..seeds() {
            let seed = seed * 1000 + u64::from(size);
            let victim = (seed % u64::from(size)) as u32;
            if let Err(wrong) = play(seed, size, Script::Anything(10), Some(victim)) {
                panic!("seed {seed} with {size} processes: {wrong}");
            }
        }
    }
}

/// Each algorithm, of as many seeds as `IRONBAND_SEEDS` says; in every second run one process ends, and the others go on.
#[test]
fn every_algorithm() {
    for algorithm in &ALGORITHMS {
        let mut deaths = 0;
        let sizes: Vec<u32> =
            (2..=17).chain([31, 32, 33]).filter(|size| (algorithm.is_size)(*size)).collect();
        for seed in 0..seeds() {
            let mut random = Random::new(seed);
            // Many of few, as a larger one costs more than it shows.
            let size = sizes[random.below(sizes.len()).min(random.below(sizes.len()))];
            let victim = (seed % 2 == 0).then(|| random.below(size as usize) as u32);
            deaths += u64::from(victim.is_some());
            if let Err(wrong) = play(seed, size, Script::By(algorithm, 5), victim) {
                panic!(
                    "seed {seed} of {} with {size} processes, {victim:?} is to end: {wrong}",
                    algorithm.name
                );
            }
        }
        println!("{}: {} runs, {deaths} of them with a death", algorithm.name, seeds());
    }
}

/// A process ends before it has done its part of a reduction, and all that need nothing from it have done with the communicator: the root, which waits for one that
/// waits for it, is no neighbour of that one, and learns of it all the same.
#[test]
fn who_waits_for_one_that_waits_learns_of_a_death() {
    const SIZE: u32 = 16;
    const ROOT: usize = 3;
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let world = World::new(options(seed));
        let contexts = simulated(&world, SIZE, &Config::default()).expect("a simulated job");
        let mut members: Vec<Option<Member<'_>>> = contexts
            .iter()
            .map(|context| Some(ManuallyDrop::new(Communicator::world(context).expect("no table is named"))))
            .collect();
        // The comparison of tables is behind them.
        let mut under_way: Vec<_> = members
            .iter()
            .map(|one| one.as_ref().and_then(|one| one.plan_barrier().start(Vec::new(), Vec::new()).ok()))
            .collect();
        drive(&contexts, &mut random, |rank| under_way[rank].take_if(|request| request.is_done()).is_some());
        world.kill(1);
        let mut under_way: Vec<_> = (0..SIZE)
            .map(|rank| {
                let one = members[rank as usize].as_ref()?;
                let plan = one.plan_reduce(ROOT as u32, 1, InOrder(|left: &u64, right: &u64| left + right));
                let output = vec![0; if rank as usize == ROOT { 1 } else { 0 }];
                if rank == 1 { None } else { plan.and_then(|plan| plan.start(vec![1], output)).ok() }
            })
            .collect();
        let mut failures = Vec::new();
        drive(&contexts, &mut random, |rank| {
            if rank == 1 {
                return true;
            }
            let Some(request) = under_way[rank].take_if(|request| request.is_done()) else {
                return under_way[rank].is_none();
            };
            match request.wait() {
                // It has done with the communicator.
                Ok(_) => drop(members[rank].take().map(ManuallyDrop::into_inner)),
                Err(error) => failures.push((rank, error)),
            }
            true
        });
        let root = failures.iter().find(|(rank, _)| *rank == ROOT);
        assert!(matches!(root, Some((_, Error::PeerFailed { rank: 1, .. }))), "seed {seed}: {failures:?}");
    }
}

/// Drives all until each has come to its end.
fn drive(contexts: &[Context], random: &mut Random, mut has_ended: impl FnMut(usize) -> bool) {
    let mut ended = vec![false; contexts.len()];
    for _ in 0..TURNS_MAX {
        let rank = random.below(contexts.len());
        contexts[rank].progress();
        ended[rank] = ended[rank] || has_ended(rank);
        if ended.iter().all(|ended| *ended) {
            return;
        }
    }
    panic!("it does not end: {ended:?}");
}

// ---- every bit ----------------------------------------------------------------------------------------------------------

/// A number that is added with rounding, and not small beside others.
fn rough(rank: u32, index: u64) -> f64 {
    let mut random = Random::new(u64::from(rank) << 32 ^ index);
    let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
    sign * random.below(1_000_000) as f64 / 3.0 * 10_f64.powi(random.below(9) as i32 - 4)
}

/// The operations that combine: a name, and the outputs by rank.
type Sums = Vec<(&'static str, Vec<Vec<f64>>)>;

/// Sums of so many elements of each rank, made at the same time, in weather that follows from the seed.
fn sums(seed: u64, table: &Table, reproducible: bool, size: u32, len: u64) -> Sums {
    const NAMES: [&str; 6] =
        ["allreduce", "reduce", "reduce_scatter_block", "reduce_scatter", "scan", "exscan"];
    let mut random = Random::new(seed ^ 0xb175);
    let contexts = simulated(&World::new(options(seed)), size, &Config::default()).unwrap();
    let all: Vec<Communicator<'_>> =
        contexts.iter().map(|context| communicator(context, table, reproducible)).collect();
    // The last rank has no block in one of them.
    let counts: Vec<u64> =
        (0..size).map(|rank| if rank + 1 == size { 0 } else { len + u64::from(rank) % 3 }).collect();
    let mut requests = Vec::new();
    for (communicator, rank) in all.iter().zip(0..) {
        let plans = [
            communicator.plan_allreduce(len, Sum),
            communicator.plan_reduce(size / 2, len, Sum),
            communicator.plan_reduce_scatter_block(len, Sum),
            communicator.plan_reduce_scatter(&counts, Sum),
            communicator.plan_scan(len, Sum, true),
            communicator.plan_scan(len, Sum, false),
        ];
        let begun = plans.map(|plan| {
            let plan = plan.unwrap();
            let input = (0..plan.input_len()).map(|index| rough(rank, index)).collect();
            plan.start(input, vec![0.0; plan.output_len() as usize]).unwrap()
        });
        requests.push(begun);
    }
    let mut unfinished: Vec<usize> = (0..size as usize).collect();
    for _ in 0..TURNS_MAX {
        let Some(at) = (!unfinished.is_empty()).then(|| random.below(unfinished.len())) else { break };
        let rank = unfinished[at];
        contexts[rank].progress();
        if requests[rank].iter().filter(|request| request.is_done()).count() == NAMES.len() {
            unfinished.swap_remove(at);
        }
        // Who has ended is still needed by others.
        contexts[random.below(size as usize)].progress();
    }
    assert!(unfinished.is_empty(), "seed {seed}: {unfinished:?} of {size} processes do not end");
    let mut sums: Sums = NAMES.map(|name| (name, Vec::new())).into();
    for begun in requests {
        for (request, (_, outputs)) in begun.into_iter().zip(&mut sums) {
            outputs.push(request.wait().unwrap().1);
        }
    }
    sums
}

fn bits_of(sums: &Sums) -> Vec<Vec<u64>> {
    sums.iter()
        .flat_map(|(_, outputs)| outputs)
        .map(|output| output.iter().map(|sum| sum.to_bits()).collect())
        .collect()
}

/// The same calls give the same bits, in whatever order messages arrive; and the sums are as near to the true ones as adding them one
/// after the other could be.
#[test]
fn sums_are_the_same_in_every_bit() {
    for size in sizes() {
        for (table_seed, len) in (0..).zip([1, 37, 300]) {
            let table = table(&mut Random::new(table_seed + 100 * u64::from(size)));
            let first = sums(0, &table, false, size, len);
            for seed in 1..4 {
                let again = sums(seed, &table, false, size, len);
                assert!(bits_of(&first) == bits_of(&again), "seed {seed}, {size} processes, {len} elements");
            }
            let (name, outputs) = &first[0];
            for output in outputs {
                assert!(output == &outputs[0], "ranks have different sums from {name} of {len} elements");
            }
            for (index, sum) in (0..).zip(&outputs[0]) {
                let values = (0..size).map(|rank| rough(rank, index));
                let limit = f64::from(size) * f64::EPSILON * values.clone().map(f64::abs).sum::<f64>();
                let expected: f64 = values.sum();
                assert!((sum - expected).abs() <= limit, "{sum} and not {expected}, of {size} processes");
            }
        }
    }
}

/// What comes out depends on the values and the number of ranks alone: not on switch points, and not on how many others there are.
#[test]
fn reproducible_sums_do_not_depend_on_lengths_and_tables() {
    for size in sizes() {
        let shortest = sums(0, &Table::default(), true, size, 5);
        for (seed, len) in (1..).zip([5, 40, 700]) {
            let table = table(&mut Random::new(seed + 100 * u64::from(size)));
            let longer = sums(seed, &table, true, size, len);
            for ((name, outputs), (_, others)) in shortest.iter().zip(&longer) {
                // The blocks of others begin elsewhere.
                let ranks = if name.starts_with("reduce_scatter") { 1 } else { size as usize };
                for (rank, (output, other)) in outputs.iter().zip(others).take(ranks).enumerate() {
                    let bits = |sums: &[f64]| {
                        sums.iter().take(output.len()).map(|sum| sum.to_bits()).collect::<Vec<_>>()
                    };
                    assert_eq!(
                        bits(output),
                        bits(other),
                        "{name} of {len} elements at rank {rank} of {size}"
                    );
                }
            }
        }
    }
}
