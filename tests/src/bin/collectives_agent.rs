//! One process of a job that does collective operations: what `tests/collectives.rs` starts under launchers.
//!
//! `do SEED COUNT`: so many operations that follow from the seed, called in all ways, on communicators of all and of some; every result is
//! compared. `nodes NODES RANKS SEED COUNT`: as `do`, by processes that were told that they are on so many nodes with so many consecutive ranks each.
//! `die SEED RANK`: the same without end, until one process kills itself; the others have to be told which, and go on without it.
//! `die SEED RANK`: the same without end, until one process kills itself; the others have to be told which, and go on without it.
//! `die-in OPERATION LENGTH WHERE SEED RANK`: one operation again and again, short or long, until one process kills itself in the middle of it: after some steps,
//! or in an operator; the others shrink, and do all operations without it. `drop`: the last communicator goes while an operation is under way that never ends.
//! `panic SEED RANK`: in one process an operator panics. `late RANK`: one process does not come, and a limit passes.
//! `handler`: in one process a handler of active messages panics while a scope waits for its operations, and again in a blocking call.
//! `worlds`: a scope of one communicator has operations of another one that knows nothing of it.
//! `behind`: three processes, of which the root waits for a slow one and a wrong one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ironband::{Context, LIBRARY_TAG_BIT, Pattern};
use ironband_collectives::operator::{Commutative, LocatedF64, MaxLoc, Sum};
use ironband_collectives::schedule::Transfer;
use ironband_collectives::{Communicator, Error};
use ironband_tests::Random;
use ironband_tests::deeds::{Deed, How, What, die_in_product};
use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{word:?} is no number"));
    let context = Context::open().unwrap_or_else(|error| panic!("{error}"));
    if context.rank() == 0 {
        context.report().iter().for_each(|line| println!("{line}"));
    }
    let outcome = match words[..] {
        ["do", seed, count] => all_ways(&context, number(seed), number(count) as u32),
        ["nodes", nodes, ranks, seed, count] => {
            let (nodes, ranks) = (number(nodes) as u32, number(ranks) as u32);
            over_nodes(&context, |rank| rank / ranks % nodes)
                .and_then(|()| all_ways(&context, number(seed), number(count) as u32))
        }
        ["die", seed, rank] => one_dies(&context, number(seed), number(rank) as u32),
        ["die-in", operation, length, place, seed, rank] => {
            let what = What::ALL[number(operation) as usize];
            let random = Random::new(number(seed));
            let how = (what, length == "long", place == "operator");
            dies_in(&context, how, &random, number(rank) as u32)
        }
        ["drop"] => drops(&context),
        ["panic", seed, rank] => one_panics(&context, number(seed), number(rank) as u32),
        ["handler"] => a_handler_panics(&context),
        ["behind"] => one_is_wrong_behind_a_slow_one(&context),
        ["worlds"] => a_scope_of_another_world(&context),
        ["late", rank] => one_is_late(&context, number(rank) as u32),
        _ => panic!("{words:?}: see the head of this file"),
    };
    match outcome {
        Ok(()) => {
            println!("{} of {}: ok", context.rank(), context.size());
            context.close().map_or_else(
                |error| {
                    println!("{error}");
                    ExitCode::FAILURE
                },
                |()| ExitCode::SUCCESS,
            )
        }
        Err(wrong) => {
            println!("{} of {}: {wrong}", context.rank(), context.size());
            // The others may wait for this one.
            context.abort(1, &wrong)
        }
    }
}

const WAYS: [How; 4] = [How::Blocking, How::Owned, How::Borrowed, How::Persistent];

/// Deeds one after the other; each has to come out right.
fn do_all(communicator: &Communicator<'_>, seed: u64, count: u32) -> Result<(), String> {
    let mut random = Random::new(seed);
    for number in 0..count {
        let deed = Deed::of(&mut random, communicator.size(), number);
        // The way is each process's own affair.
        let how = WAYS[(number + communicator.rank()) as usize % WAYS.len()];
        if let Some(error) = deed.run(communicator, how)? {
            return Err(format!("{error} in {deed:?}"));
        }
    }
    Ok(())
}

fn all_ways(context: &Context, seed: u64, count: u32) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let world = Communicator::world(context).map_err(text)?;
    do_all(&world, seed, count)?;
    // Those of even and of odd ranks, in the opposite order.
    let half = world.split(Some(world.rank() % 2), -(world.rank() as i32)).map_err(text)?;
    let half = half.ok_or("there is no half")?;
    let expected = (world.size() + 1 - world.rank() % 2) / 2;
    if half.size() != expected || half.rank_in_job(half.size() - 1) != Ok(world.rank() % 2) {
        return Err(format!("{half:?} of {world:?} is not as it should be"));
    }
    do_all(&half, seed + 1 + u64::from(world.rank() % 2), count / 4)?;
    let again = half.duplicate().map_err(text)?;
    // Two communicators of the same processes at the same time.
    let plan = half.plan_allreduce(2, Sum).map_err(text)?;
    let first = plan.start(vec![1_u64, 2], vec![0, 0]).map_err(text)?;
    do_all(&again, seed + 5, 3)?;
    let (_, sums) = first.wait().map_err(text)?;
    if sums != [u64::from(half.size()), 2 * u64::from(half.size())] {
        return Err(format!("{sums:?} from {half:?}"));
    }
    // Again and again, each time with what came out of the last time.
    let mut persistent =
        half.plan_allreduce(1, Sum).and_then(|plan| plan.with(vec![1_u64], vec![0])).map_err(text)?;
    for time in 1..=5 {
        persistent.start().map_err(text)?;
        let sum = persistent.output().map_err(text)?[0];
        persistent.input_mut().map_err(text)?[0] = sum;
        if sum != u64::from(half.size()).pow(time) {
            return Err(format!("{sum} at the start {time} in {half:?}"));
        }
    }
    let node = world.split_node(0).map_err(text)?;
    do_all(&node, seed + 7, 3)?;
    if world.split(None, 0).map_err(text)?.is_some() {
        return Err("who wants no communicator gets one".to_owned());
    }
    let mut where_most = [LocatedF64::default()];
    let own = LocatedF64 { value: f64::from(world.rank() % 3), location: world.rank().into() };
    world.allreduce(&[own], &mut where_most, MaxLoc).map_err(text)?;
    if where_most[0].location != u64::from((world.size() - 1).min(2)) {
        return Err(format!("{where_most:?}"));
    }
    in_place(&world).map_err(text)?;
    all_with_all(&world).map_err(text)?;
    world.barrier().map_err(text)
}

/// The nodes are known, of a part of the processes, too, and each is sent a short vector once.
fn over_nodes(context: &Context, node_of: impl Fn(u32) -> u32) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let world = Communicator::world(context).map_err(text)?;
    // All but rank 0, backwards.
    let color = (world.size() == 1 || world.rank() > 0).then_some(0);
    let most = world.split(color, -(world.rank() as i32)).map_err(text)?;
    for communicator in [Some(world), most].into_iter().flatten() {
        let (size, topology) = (communicator.size(), communicator.topology());
        let nodes: Vec<u32> = (0..size)
            .map(|rank| communicator.rank_in_job(rank).map(&node_of))
            .collect::<Result<_, _>>()
            .map_err(text)?;
        for (one, other) in (0..size).flat_map(|one| (0..size).map(move |other| (one, other))) {
            let is_shared = topology.node_of(one) == topology.node_of(other);
            if is_shared != (nodes[one as usize] == nodes[other as usize]) {
                return Err(format!("{one} and {other} of {communicator:?} share a node: {is_shared}"));
            }
        }
        let plan = communicator.plan_bcast::<u32>(size / 2, 10).map_err(text)?;
        let transfers = plan.schedule().rounds().iter().flat_map(|round| &round.transfers);
        let own = topology.node_of(communicator.rank());
        let crosses = |transfer: &&Transfer| matches!(**transfer, Transfer::Send { to, .. } if topology.node_of(to) != own);
        let mut crossings = [0];
        communicator
            .allreduce(&[transfers.filter(crosses).count() as u32], &mut crossings, Sum)
            .map_err(text)?;
        if crossings != [topology.node_count() - 1] {
            return Err(format!("{crossings:?} messages between {} nodes", topology.node_count()));
        }
    }
    Ok(())
}

/// What is sent is where something else arrives.
fn in_place(world: &Communicator<'_>) -> Result<(), Error> {
    let (rank, size) = (world.rank(), world.size());
    for len in [1_usize, 1000] {
        let block = |from: u32, to: u32| vec![from * 1000 + to; len];
        let mut vector: Vec<u32> = (0..size).flat_map(|to| block(rank, to)).collect();
        world.plan_alltoall(len as u64)?.in_place()?.run(&mut vector)?;
        let expected: Vec<u32> = (0..size).flat_map(|from| block(from, rank)).collect();
        assert_eq!(vector, expected, "blocks of {len}");
    }
    let mut sums = vec![rank; 300];
    world.allreduce_in_place(&mut sums, Sum)?;
    assert_eq!(sums, vec![size * (size - 1) / 2; 300]);
    // Refused before anything is sent: the others do not do it either.
    let counts = vec![u64::MAX / 2; size as usize];
    if size > 2 {
        assert!(matches!(world.plan_allgatherv::<u8>(&counts), Err(Error::TooLong { .. })));
    }
    Ok(())
}

/// So much that a device's counters show it.
fn all_with_all(world: &Communicator<'_>) -> Result<(), Error> {
    const LEN: usize = 100_000;
    let size = world.size() as usize;
    let input = vec![world.rank() as u8; LEN * size];
    let mut output = vec![0; LEN * size];
    world.alltoall(&input, &mut output)?;
    for (block, rank) in output.chunks(LEN).zip(0..) {
        assert_eq!(block, vec![rank; LEN], "from rank {rank}");
    }
    if world.rank() == 0 {
        println!("carried {} bytes", LEN * size * (size - 1));
    }
    Ok(())
}

/// How long it may take until all know.
const LIMIT: Duration = Duration::from_secs(10);

fn one_dies(context: &Context, seed: u64, victim: u32) -> Result<(), String> {
    let world = Communicator::world(context).map_err(|error| error.to_string())?;
    let mut random = Random::new(seed);
    let last = 5 + random.below(30) as u32;
    for number in 0.. {
        let deed = Deed::of(&mut random, world.size(), number);
        if number == last && world.rank() == victim {
            // In the middle of it: it was begun, and goes no further.
            let _under_way = deed.start(&world, How::Owned);
            let _ = kill_process(getpid(), Signal::KILL);
        }
        let start = Instant::now();
        match deed.run(&world, WAYS[number as usize % WAYS.len()])? {
            None => {}
            Some(Error::PeerFailed { rank, reason }) if rank == victim => {
                println!("{}: after {} ms: {reason}", world.rank(), start.elapsed().as_millis());
                if start.elapsed() > LIMIT {
                    return Err(format!("that took {:?}", start.elapsed()));
                }
                break;
            }
            Some(other) => return Err(format!("{other} in {deed:?}, and rank {victim} is dead")),
        }
        if number > last + 200 {
            return Err("nobody has noticed".to_owned());
        }
    }
    let rest = what_is_left(&world)?;
    do_all(&rest, seed, 20)?;
    leave(context)
}

fn what_is_left<'c>(world: &Communicator<'c>) -> Result<Communicator<'c>, String> {
    let rest = world.shrink().map_err(|error| error.to_string())?;
    if rest.size() + 1 == world.size() { Ok(rest) } else { Err(format!("{rest:?} is left of {world:?}")) }
}

/// Without its partner nobody can leave as usual.
fn leave(context: &Context) -> ! {
    println!("{} of {}: ok", context.rank(), context.size());
    std::process::exit(0)
}

/// How often an operation is done before one is killed in it.
const BEFORE: u32 = 3;

fn dies_in(
    context: &Context,
    (what, is_long, in_operator): (What, bool, bool),
    seed: &Random,
    victim: u32,
) -> Result<(), String> {
    let mut random = seed.clone();
    let world = Communicator::world(context).map_err(|error| error.to_string())?;
    // All have opened their contexts, and know each other: one that ends before keeps others from that, above all rank 0, through which cards are exchanged
    // where there is no launcher.
    let to_all = vec![0_u8; world.size() as usize];
    world.alltoall(&to_all, &mut to_all.clone()).map_err(|error| error.to_string())?;
    let (steps, product) = (random.below(100), 1 + random.below(60) as u32);
    let mut start = Instant::now();
    let mut number = 0;
    loop {
        let mut deed = Deed::of_operation(what, is_long, &mut random, world.size(), number);
        if in_operator {
            deed = deed.on_matrices().ok_or("this operation has no operator")?;
        }
        if number <= BEFORE {
            start = Instant::now();
        }
        if number == BEFORE && world.rank() == victim {
            if in_operator {
                die_in_product(product);
            } else {
                die_after(&deed, &world, steps);
            }
        }
        match deed.run(&world, WAYS[number as usize % WAYS.len()])? {
            // There was nothing to combine for it.
            None if number == BEFORE && world.rank() == victim => die(),
            None => {}
            Some(Error::PeerFailed { rank, reason }) if rank == victim => {
                println!("{}: after {} ms: {reason}", world.rank(), start.elapsed().as_millis());
                break;
            }
            Some(other) => return Err(format!("{other} in {deed:?}, and rank {victim} is dead")),
        }
        if start.elapsed() > LIMIT {
            return Err(format!("nobody has noticed in {deed:?}"));
        }
        number += 1;
    }
    if start.elapsed() > LIMIT {
        return Err(format!("that took {:?}", start.elapsed()));
    }
    let rest = what_is_left(&world)?;
    // Some have noticed earlier than others.
    random = seed.clone();
    for number in 0..2 * What::ALL.len() as u32 {
        let (what, is_long) = (What::ALL[number as usize / 2], number % 2 == 1);
        let deed = Deed::of_operation(what, is_long, &mut random, rest.size(), number);
        if let Some(error) = deed.run(&rest, WAYS[(number + rest.rank()) as usize % WAYS.len()])? {
            return Err(format!("{error} in {deed:?}, after the shrink"));
        }
    }
    leave(context)
}

/// In the middle of it: it was begun, and goes no further.
fn die_after(deed: &Deed, world: &Communicator<'_>, steps: usize) {
    let mut under_way = deed.start(world, How::Owned);
    for _ in 0..steps {
        if matches!(under_way.look(deed, world.rank()), Err(_) | Ok(Some(_))) || under_way.is_over() {
            break;
        }
    }
    die();
}

fn die() {
    let _ = kill_process(getpid(), Signal::KILL);
}

/// Nobody else does its operation, so it cannot end: it has failed, and the last communicator goes with it, and what a living process may still use is leaked.
fn drops(context: &Context) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let world = Communicator::world(context).map_err(text)?;
    world.barrier().map_err(text)?;
    if world.rank() == 0 {
        // It is announced, and nobody answers before that process does something.
        let plan = world.root(0).and_then(|_| world.plan_scatter::<u8>(0, 100_000)).map_err(text)?;
        let scattered =
            plan.start(vec![1; 100_000 * world.size() as usize], vec![0; 100_000]).map_err(text)?;
        drop((scattered, plan));
        world.revoke();
        let start = Instant::now();
        drop(world);
        let took = start.elapsed();
        println!("the last communicator went within {} ms", took.as_millis());
        return if took < LIMIT { Ok(()) } else { Err("that took long".to_owned()) };
    }
    std::thread::sleep(Duration::from_secs(6));
    match world.barrier() {
        Err(Error::Revoked { rank: 0 }) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn one_panics(context: &Context, seed: u64, victim: u32) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let world = Communicator::world(context).map_err(text)?;
    // Who is behind may hear of it before it has done these.
    do_all(&world, seed, 5)
        .or_else(|wrong| if wrong.contains("does not want") { Ok(()) } else { Err(wrong) })?;
    let is_victim = world.rank() == victim;
    let operator = Commutative(move |left: &u32, right: &u32| {
        assert!(!is_victim, "it does not want to");
        left + right
    });
    std::panic::set_hook(Box::new(|_| {}));
    let mut sums = vec![0_u32; 3000];
    let outcome = world.allreduce(&vec![1; 3000], &mut sums, operator);
    let _ = std::panic::take_hook();
    let again = world.barrier();
    for outcome in [outcome, again] {
        match outcome {
            Err(Error::OperatorPanicked { rank, message }) if rank == victim && message.contains("want") => {}
            // Who had all that it needed did not notice before the barrier.
            Ok(()) => {}
            other => return Err(format!("{other:?}")),
        }
    }
    let rest = world.shrink().map_err(text)?;
    if rest.size() != world.size() {
        return Err(format!("{rest:?} is left of {world:?}"));
    }
    do_all(&rest, seed, 10)
}

/// The scope must not give buffers back that an operation still has: it goes on to its end first.
fn a_handler_panics(context: &Context) -> Result<(), String> {
    const ID: u32 = 5;
    let text = |error: Error| error.to_string();
    let world = Communicator::world(context).map_err(text)?;
    context.on_active(ID, |_context, source, _data| panic!("a word from rank {source}"));
    world.barrier().map_err(text)?;
    let plan = world.plan_allreduce(3000, Sum).map_err(text)?;
    let (ones, mut sums) = (vec![1_u32; 3000], vec![0_u32; 3000]);
    if world.rank() > 0 {
        // Something of the operation has come: rank 0 is in its scope, and waits.
        let of_library = Pattern { source: Some(0), tag: LIBRARY_TAG_BIT, mask: LIBRARY_TAG_BIT };
        while context.probe(of_library).is_none() {}
        context.endpoint(0).and_then(|to| to.send_active(ID, b"")).map_err(|error| error.to_string())?;
        std::thread::sleep(Duration::from_millis(50));
        plan.run(&ones, &mut sums).map_err(text)?;
    } else {
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.scope(|scope| drop(plan.start_in(scope, &ones, &mut sums)));
        }));
        let _ = std::panic::take_hook();
        if outcome.is_ok() && world.size() > 1 {
            return Err("the panic was lost".to_owned());
        }
    }
    if sums != vec![world.size(); 3000] {
        return Err(format!("{:?} when the scope has ended", &sums[..3]));
    }
    do_all(&world, 9, 10)?;
    // In the middle of a blocking call nothing can be saved: all learn that.
    if world.rank() > 0 {
        context.endpoint(0).and_then(|to| to.send_active(ID, b"")).map_err(|error| error.to_string())?;
        std::thread::sleep(Duration::from_millis(100));
    }
    std::panic::set_hook(Box::new(|_| {}));
    let call = || plan.run(&ones, &mut sums);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    let _ = std::panic::take_hook();
    match (world.rank(), outcome) {
        _ if world.size() == 1 => return Ok(()),
        (0, Err(_)) => {}
        (1, Ok(Err(Error::HandlerPanicked { rank: 0 }))) => {}
        other => return Err(format!("{other:?}")),
    }
    match world.barrier() {
        Err(Error::HandlerPanicked { rank: 0 }) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// The last one that the root waits for takes long; that another one is wrong is found out before.
fn one_is_wrong_behind_a_slow_one(context: &Context) -> Result<(), String> {
    let world = Communicator::world(context).map_err(|error| error.to_string())?;
    world.barrier().map_err(|error| error.to_string())?;
    let start = Instant::now();
    if world.rank() == 2 {
        std::thread::sleep(Duration::from_secs(2));
    }
    let root = world.root(0).map_err(|error| error.to_string())?;
    let outcome = match world.rank() {
        0 => root.gatherv(&[0_u8; 3], &mut [0; 9], &[3, 3, 3]),
        1 => root.gatherv(&[0_u8; 2], &mut [], &[]),
        _ => root.gatherv(&[0_u8; 3], &mut [], &[]),
    };
    match (world.rank(), outcome) {
        (0, Err(Error::Mismatch { rank: 0, from: 1, got_bytes: 2, expected_bytes: 3 })) => {
            if start.elapsed() < Duration::from_secs(1) { Ok(()) } else { Err("that took long".to_owned()) }
        }
        // They have only sent.
        (1 | 2, Ok(()) | Err(Error::Mismatch { .. })) => Ok(()),
        (_, other) => Err(format!("{other:?}")),
    }
}

fn one_is_late(context: &Context, victim: u32) -> Result<(), String> {
    let world = Communicator::world(context).map_err(|error| error.to_string())?;
    world.barrier().map_err(|error| error.to_string())?;
    world.set_limit(Some(Duration::from_millis(500)));
    if world.rank() == victim {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            context.progress();
        }
    }
    // Long messages, which somebody would have to take.
    let mut all = vec![0_u8; 100_000 * world.size() as usize];
    let outcome = world.allgather(&vec![1; 100_000], &mut all);
    match outcome {
        Err(Error::LimitPassed { rank, limit, .. })
            if rank != victim && limit == Duration::from_millis(500) => {}
        other => return Err(format!("{other:?}")),
    }
    // The limit counts here, too, and the one that is late makes others wait; what they have agreed on so far is not lost.
    let rest = loop {
        match world.shrink() {
            Err(Error::LimitPassed { rank, .. }) if rank == world.rank() => {}
            other => break other.map_err(|error| error.to_string())?,
        }
    };
    if rest.size() != world.size() {
        return Err(format!("{rest:?} is left of {world:?}"));
    }
    rest.set_limit(None);
    do_all(&rest, 3, 10)
}

/// Whoever waits drives the operation, whosever scope it was begun in.
fn a_scope_of_another_world(context: &Context) -> Result<(), String> {
    let error = |error: Error| error.to_string();
    let (first, other) =
        (Communicator::world(context).map_err(error)?, Communicator::world(context).map_err(error)?);
    let plan = other.plan_allreduce(1000, Sum).map_err(error)?;
    let (ones, mut sums) = (vec![1_u32; 1000], vec![0; 1000]);
    first.scope(|scope| plan.start_in(scope, &ones, &mut sums)?.wait().map(|_| ())).map_err(error)?;
    if sums == vec![other.size(); 1000] { Ok(()) } else { Err(format!("the sums are {:?}", &sums[..10])) }
}
