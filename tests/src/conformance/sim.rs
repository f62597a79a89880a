//! What only the simulation promises: each fault is what it says, nothing of a run depends on anything but the seed, what a program
//! does wrong is written down, and thousands of devices are no trouble.

mod order;
mod program;

pub use order::{
    died_before_the_answer, done_in_the_post, queues_are_bounded, reads_find_what_was_written,
    some_orders_are_the_seeds,
};

use std::collections::BTreeSet;

use ironband_core::config::Config;
use ironband_fabric::sim::{Faults, SimDevice, Span, Statistics, World};
use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, Completion, CompletionStatus, Device, DeviceError, Fabric, Job, Message,
    Posted, ReadHint, RegisterError,
};

use self::program::{Ending, Program};
use super::node::{Event, Node, Pair, wait_for};
use super::{Outcome, Setup};

const LIKE: [&str; 4] = ["", ",like=infiniband", ",like=iwarp", ",like=two-sided"];
const AWAY: ReadHint = ReadHint::OwnerMayBeAway;

/// The same case in a world of this name.
fn named(setup: &Setup, name: String) -> Setup {
    Setup { device: String::leak(name), ..setup.clone() }
}

fn seeded(setup: &Setup, seed: u64) -> Setup {
    named(setup, format!("seed={seed},trace=60"))
}

/// Two connected devices in this weather.
fn pair_in<F: Fabric<Device = SimDevice>>(setup: &Setup, seed: u64, faults: Faults) -> (Pair<F>, World) {
    let mut pair = Pair::<F>::connected(&seeded(setup, seed));
    let world = pair.a.device().world().clone();
    world.set_faults(faults);
    (pair, world)
}

/// Lets everything happen that will, and both find all of it.
fn settle<F: Fabric<Device = SimDevice>>(pair: &mut Pair<F>, world: &World) {
    while world.step() {}
    while !pair.a.device().is_idle() || !pair.b.device().is_idle() {
        pair.turn();
    }
}

/// Prints what a case was doing when it failed.
struct Confession(World, String);

impl Drop for Confession {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}; the last events:\n{}", self.1, self.0.trace().join("\n"));
        }
    }
}

/// Names that are none are refused with the form of those that are.
pub fn names<F: Fabric<Device = SimDevice>>(_setup: &Setup) -> Outcome {
    let (config, job) = (Config::default(), Job { local_ranks: 1, rank: 0 });
    for name in ["", "mlx5_0", "seed=", "seed=1,like=tcp"] {
        let error = F::open(name, &config, &job).expect_err("no name");
        assert!(
            matches!(&error, DeviceError::Unknown { known, .. } if known.contains("seed=NUMBER")),
            "{error}"
        );
    }
    let name = F::probe(&config)[0].device.clone();
    let (first, second) =
        (F::open(&name, &config, &job).expect("listed"), F::open(&name, &config, &job).expect("listed"));
    assert_eq!((first.number(), second.number()), (0, 1), "one world");
    assert!(first.reach(second.address()).is_ok());
    let other = F::open("seed=77", &config, &job).expect("a name");
    assert_eq!(other.number(), 0, "another world");
    let reason = first.reach(other.address()).expect_err("another world").reason;
    assert!(reason.contains("another simulated world"), "{reason}");
    drop((first, second));
    assert_eq!(F::open(&name, &config, &job).expect("listed").number(), 0, "a world ends with its devices");
    Ok(())
}

fn run_program<F: Fabric<Device = SimDevice>>(
    setup: &Setup,
    seed: u64,
    faults: Faults,
    kind: usize,
) -> (Vec<String>, Statistics, program::Tally) {
    let setup = named(setup, format!("seed={seed}{},trace=400", LIKE[kind % LIKE.len()]));
    let mut program = Program::<F>::start(&setup, seed);
    let _confession =
        Confession(program.world().clone(), format!("seed {seed} {:?}", LIKE[kind % LIKE.len()]));
    let endings = [Ending::Lives, Ending::Killed, Ending::Closed];
    program.run(faults, 3_000, endings[seed as usize / 3 % 3]);
    program.finish();
    let tally = program.tally.clone();
    let world = program.close();
    (world.trace(), world.statistics(), tally)
}

/// A program that does nothing wrong, as all kinds of adapters, in all kinds of weather: what is promised holds, nothing is
/// recorded against it, and nothing is left behind.
pub fn promises_hold_in_all_weathers<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    let weathers = [Faults::NONE, Faults::late(), Faults::wild()];
    let (mut sum, mut faults) = (program::Tally::default(), 0);
    for seed in 0..150 {
        for (weather, chances) in weathers.into_iter().enumerate() {
            let (_, statistics, tally) =
                run_program::<F>(setup, seed * 3 + weather as u64, chances, seed as usize);
            faults += statistics.faults;
            sum.arrived += tally.arrived;
            sum.succeeded += tally.succeeded;
            sum.flushed += tally.flushed;
            sum.refused += tally.refused;
            sum.failures += tally.failures;
        }
    }
    // Otherwise the weather was not what it was to be.
    assert!(sum.arrived > 50_000 && sum.succeeded > 50_000, "{sum:?}");
    assert!(
        sum.flushed > 500 && sum.refused > 50 && sum.failures > 300 && faults > 5_000,
        "{sum:?}, {faults} faults"
    );
    Ok(())
}

/// Two runs with one seed are the same to the last event; with another seed they are not.
pub fn same_seed_same_run<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for kind in 0..LIKE.len() {
        let run = |seed| run_program::<F>(setup, seed, Faults::wild(), kind);
        let (first, again, other) = (run(5), run(5), run(6));
        assert_eq!(first.0.len(), 400, "a full trace");
        assert_eq!(first, again);
        assert_ne!(first.0, other.0);
    }
    Ok(())
}

/// Busy though there is room: nothing is lost, and it comes about as often as it should.
pub fn busy_at_random<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    let (mut pair, world) = pair_in::<F>(setup, 1, Faults { busy: 300_000, ..Faults::NONE });
    let before = world.statistics();
    let mut refused = 0;
    for imm in 0..2000 {
        while pair.a.send(pair.ab, imm, 20) == Posted::Busy {
            refused += 1;
        }
        let event = pair.until("the message", |pair| pair.b.take_arrival());
        assert!(matches!(event, Event::Message { imm: got, .. } if got == imm));
    }
    assert!((600..1200).contains(&refused), "{refused} times busy, 857 were to be expected");
    let after = world.statistics();
    assert_eq!((after.busy - before.busy, after.faults - before.faults), (refused, refused));
    Ok(())
}

/// A window that is full is full without any fault, until the receiver's user releases.
pub fn held_messages_fill_the_window<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    let (mut pair, world) = pair_in::<F>(setup, 1, Faults::NONE);
    let mut held = Vec::new();
    let mut sent = 0;
    loop {
        let posted = pair.a.send(pair.ab, sent, 8);
        sent += u32::from(posted == Posted::Complete);
        while world.step() {}
        let before = held.len();
        held.extend(pair.b.poll_held());
        if posted == Posted::Busy && held.len() == before {
            break;
        }
    }
    assert_eq!((held.len() as u32, sent), (64, 64), "the window");
    pair.b.release(held.swap_remove(20).expect("a message"));
    assert_eq!(pair.a.send(pair.ab, 99, 8), Posted::Busy, "word of it has not travelled");
    while world.step() {}
    assert_eq!(pair.a.send(pair.ab, 99, 8), Posted::Complete);
    assert_eq!(pair.a.send(pair.ab, 100, 8), Posted::Busy);
    held.into_iter().flatten().for_each(|held| drop(pair.b.release(held)));
    Ok(())
}

/// A read samples memory at any time between post and completion, and not all of it at once.
pub fn reads_are_torn<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    const LEN: usize = 64;
    let (mut torn, mut seen) = (0, BTreeSet::new());
    let faults = Faults { pieces_max: 8, rdma_delay_ns: Span::up_to(10_000), ..Faults::NONE };
    for seed in 0..100 {
        let (mut pair, world) = pair_in::<F>(setup, seed, faults);
        let (source, sink) = (pair.b.buffer(LEN, 0, Access::ALL), pair.a.buffer(LEN, 0, Access::LOCAL));
        let remote = pair.b.remote(source, 0);
        pair.b.pages(source).store(0, &[1; LEN]);
        assert_eq!(pair.a.read(pair.ab, 1, (sink, 0), remote, LEN, AWAY), Posted::Queued);
        let mut version = 1;
        while pair.a.take_done(1).is_none() {
            version += 1;
            pair.b.pages(source).store(0, &[version; LEN]);
            world.step();
            pair.a.turn();
        }
        pair.b.pages(source).store(0, &[0xff; LEN]);
        while world.step() {}
        let bytes = pair.a.pages(sink).load(0, LEN);
        assert!(
            bytes.iter().all(|byte| (1..=version).contains(byte)),
            "from before the post or after the end: {bytes:?}"
        );
        torn += usize::from(bytes.iter().any(|byte| *byte != bytes[0]));
        seen.extend(bytes);
    }
    assert!(torn > 40 && seen.len() > 3, "{torn} of 100 reads are torn, versions {seen:?} were seen");
    Ok(())
}

/// A write moves in pieces, in any order, and some of them long before its end.
pub fn writes_land_in_pieces<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    const LEN: usize = 64;
    let (mut last_first, mut partly) = (0, 0);
    let faults = Faults { pieces_max: 8, rdma_delay_ns: Span::up_to(10_000), ..Faults::NONE };
    for seed in 0..100 {
        let (mut pair, world) = pair_in::<F>(setup, seed, faults);
        let (target, source) = (pair.b.buffer(LEN, 0, Access::ALL), pair.a.buffer(LEN, 0, Access::LOCAL));
        pair.b.pages(target).store(0, &[0; LEN]);
        pair.a.pages(source).store(0, &[9; LEN]);
        let remote = pair.b.remote(target, 0);
        assert_eq!(pair.a.write(pair.ab, 1, (source, 0), remote, LEN, None), Posted::Queued);
        while world.step() {
            let bytes = pair.b.pages(target).load(0, LEN);
            let there = bytes.iter().filter(|byte| **byte == 9).count();
            if there > 0 && there < LEN {
                partly += 1;
                last_first += usize::from(bytes[LEN - 1] == 9 && bytes[0] == 0);
            }
        }
        assert_eq!(pair.b.pages(target).load(0, LEN), [9; LEN]);
    }
    assert!(
        partly > 100 && last_first > 20,
        "{partly} times in part, {last_first} times the end before the start"
    );
    Ok(())
}

/// A connection that breaks: some first part of the messages arrives, both ends learn of it once and with a reason, each at
/// its own time, and a new connection works.
pub fn breaks_leave_no_gap<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    const COUNT: u32 = 40;
    let faults = Faults { notice_delay_ns: Span::up_to(30_000), ..Faults::late() };
    let (mut parts, mut first_a, mut accepted_in_vain) = (BTreeSet::new(), 0, 0);
    for seed in 0..200 {
        let (mut pair, world) = pair_in::<F>(setup, seed, faults);
        let _confession = Confession(world.clone(), format!("seed {seed}"));
        let ab = pair.ab;
        for imm in 0..COUNT {
            if imm == COUNT / 2 {
                world.fail(pair.a.device().number(), ab);
                (0..seed % 20).for_each(|_| _ = world.step());
            }
            match pair.a.send(ab, imm, 30) {
                Posted::Complete => accepted_in_vain += u32::from(imm > COUNT / 2),
                posted => assert_eq!(posted, Posted::Failed),
            }
        }
        let mut arrived = 0;
        let mut notices = [0, 0];
        while world.step() || !pair.a.device().is_idle() || !pair.b.device().is_idle() {
            pair.turn();
            first_a += usize::from(notices == [0, 0] && pair.a.is_disconnected(pair.ab));
            for (node, count) in [(&mut pair.a, 0), (&mut pair.b, 1)] {
                while let Some(event) = node.inbox.pop_front() {
                    match event {
                        Event::Message { imm, .. } => {
                            assert_eq!((imm, notices[1]), (arrived, 0), "a gap, or behind the notice");
                            arrived += 1;
                        }
                        Event::Disconnected { qp } => {
                            notices[count] += 1;
                            let text = node.failure(qp);
                            assert!(text.contains("rank") && text.contains("broke"), "{text:?}");
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        assert_eq!(notices, [1, 1], "told once each");
        assert_eq!(pair.a.send(pair.ab, 0, 8), Posted::Failed);
        parts.insert(arrived);
        world.set_faults(Faults::NONE);
        let (b, ab) = (pair.b.address(), pair.ab);
        pair.a.device().destroy_qp(ab);
        pair.ab = pair.a.connect(&b);
        assert_ne!(pair.ab, ab, "a new life, a new number");
        pair.send_ab(1, 8);
        pair.until("a message of the new life", |pair| pair.b.take_arrival());
    }
    assert!(parts.len() > 10, "only these many arrived: {parts:?}");
    assert!((20..180).contains(&first_a), "{first_a} of 200 times one end learnt first");
    assert!(accepted_in_vain > 100, "{accepted_in_vain} messages were accepted and lost");
    Ok(())
}

/// Requests that are under way when a connection breaks end as flushed, or were told of before. One that was done may end as
/// flushed, and the data of a write may arrive after its end.
pub fn flushed_may_be_done<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    let (mut done, mut undone, mut afterwards) = (0, 0, 0);
    for seed in 0..600 {
        let faults = Faults { rdma_delay_ns: Span::up_to(150_000), ..Faults::late() };
        let (mut pair, world) = pair_in::<F>(setup, seed, faults);
        let (target, source) = (pair.b.buffer(64, 0, Access::ALL), pair.a.buffer(64, 1, Access::LOCAL));
        let remote = pair.b.remote(target, 0);
        assert_ne!(pair.a.write(pair.ab, 1, (source, 0), remote, 64, None), Posted::Busy);
        world.fail(pair.a.device().number(), pair.ab);
        let same =
            |pair: &Pair<F>| super::memory::first_difference(&pair.b.pages(target).load(0, 64), 1).is_none();
        let mut at_end = None;
        while world.step() {
            pair.a.turn();
            if let Some(status) = pair.a.take_done(1) {
                let same = same(&pair);
                assert!(status == CompletionStatus::Flushed || same, "{status:?}, and not done");
                at_end = Some(same).filter(|_| status == CompletionStatus::Flushed);
                // Nobody may look here any more.
                pair.a.unmap(source);
            }
        }
        settle(&mut pair, &world);
        match at_end {
            Some(true) => done += 1,
            Some(false) if same(&pair) => afterwards += 1,
            Some(false) => undone += 1,
            None => {}
        }
    }
    assert!(done > 10 && undone > 10 && afterwards > 4, "{done} done, {undone} not, {afterwards} afterwards");
    Ok(())
}

/// The peer refuses what is right: as with what is wrong, on devices that survive it and on those that do not.
pub fn refusals<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for (like, survives, status) in [
        ("", true, CompletionStatus::RemoteAccess),
        (",like=infiniband", false, CompletionStatus::RemoteAccess),
        (",like=iwarp", false, CompletionStatus::Flushed),
    ] {
        let mut pair = Pair::<F>::connected(&named(setup, format!("seed=3{like}")));
        let world = pair.a.device().world().clone();
        let (target, sink) = (pair.b.buffer(64, 1, Access::ALL), pair.a.buffer(64, 2, Access::LOCAL));
        let remote = pair.b.remote(target, 0);
        world.set_faults(Faults { refusal: 1_000_000, ..Faults::NONE });
        let found = pair.finish(1, |pair| pair.a.read(pair.ab, 1, (sink, 0), remote, 64, AWAY));
        assert_eq!(found, status, "{like}");
        settle(&mut pair, &world);
        assert_eq!(
            (pair.a.is_disconnected(pair.ab), pair.b.is_disconnected(pair.ba)),
            (!survives, !survives)
        );
        assert_eq!(world.statistics().refusals, 1);
        assert!(survives || pair.a.failure(pair.ab).contains("refused"));
    }
    Ok(())
}

/// Registrations and connections that are refused; afterwards all is well.
pub fn refused_for_a_while<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    let setup = seeded(setup, 4);
    let mut pair = Pair::<F>::open(&setup);
    let world = pair.a.device().world().clone();
    world.set_faults(Faults { register: 1_000_000, connect: 1_000_000, ..Faults::NONE });
    let error = pair.a.try_buffer(64, 0, Access::ALL).expect_err("refused");
    assert!(matches!(&error, RegisterError::Refused { len_bytes: 64, .. }), "{error}");
    wait_for("the connection to fail", || {
        let posted = pair.a.send(pair.ab, 1, 8);
        pair.turn();
        (posted == Posted::Failed && pair.a.is_disconnected(pair.ab)).then_some(())
    });
    assert!(pair.a.failure(pair.ab).contains("rank 1") && pair.a.failure(pair.ab).contains("not be made"));
    assert!(pair.b.inbox.is_empty(), "the peer never heard of it");
    world.set_faults(Faults::NONE);
    pair.a.inbox.clear();
    pair.a.buffer(64, 0, Access::ALL);
    let (ab, b) = (pair.ab, pair.b.address());
    pair.a.device().destroy_qp(ab);
    pair.ab = pair.a.connect(&b);
    pair.send_ab(2, 8);
    pair.until("a message", |pair| pair.b.take_arrival());
    Ok(())
}

/// A device that is killed does nothing more, its memory is not touched, and its peers learn of it, each at its own time.
pub fn killed<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    const PEERS: u32 = 8;
    let mut orders = BTreeSet::new();
    for seed in 0..20 {
        let setup = seeded(setup, seed);
        let mut victim = Node::<F>::open(&setup, 0);
        let world = victim.device().world().clone();
        let (address, buffer) = (victim.address(), victim.buffer(4096, 1, Access::ALL));
        let remote = victim.remote(buffer, 0);
        let mut peers: Vec<_> = (1..=PEERS)
            .map(|rank| {
                let mut node = Node::<F>::open(&setup, rank);
                let (qp, sink) = (node.connect(&address), node.buffer(4096, 0, Access::ALL));
                wait_for("a connection", || {
                    let posted = node.send(qp, 1, 8);
                    node.turn();
                    (posted == Posted::Complete).then_some(())
                });
                (node, qp, sink)
            })
            .collect();
        world.set_faults(Faults::late());
        let own = victim.connect(&peers[0].0.address());
        for (node, qp, sink) in &mut peers {
            assert_ne!(node.read(*qp, 1, (*sink, 0), remote, 4096, AWAY), Posted::Busy);
            assert_ne!(node.write(*qp, 2, (*sink, 0), remote, 4096, Some(1)), Posted::Busy);
        }
        // On its way from the dead one's memory.
        let target = peers[0].0.remote(peers[0].2, 0);
        let _ = victim.write(own, 3, (buffer, 0), target, 4096, None);
        world.kill(victim.device().number());
        victim.unmap(buffer);
        assert!(victim.poll().is_none() && victim.device().is_idle());
        assert_eq!(victim.send(own, 1, 8), Posted::Failed);
        assert!(victim.try_connect(&address).is_err() && victim.try_buffer(8, 0, Access::ALL).is_err());
        let mut order = Vec::new();
        wait_for("all peers to learn of it", || {
            for (index, (node, qp, _)) in peers.iter_mut().enumerate() {
                node.turn();
                if node.is_disconnected(*qp) && !order.contains(&index) {
                    order.push(index);
                    assert!(node.failure(*qp).contains("rank 0") && node.failure(*qp).contains("killed"));
                }
            }
            (order.len() == peers.len()).then_some(())
        });
        orders.insert(order);
        while world.step() {}
        for (node, qp, _) in &mut peers {
            (0..10).for_each(|_| node.turn());
            for id in [1, 2] {
                if let Some(status) = node.take_done(id) {
                    assert!(matches!(status, CompletionStatus::Flushed | CompletionStatus::Success));
                }
            }
            assert!(node.device().is_idle());
            node.device().destroy_qp(*qp);
            let again = node.connect(&address);
            wait_for("the dead not to answer", || {
                let posted = node.send(again, 1, 8);
                node.turn();
                (posted == Posted::Failed).then_some(())
            });
        }
    }
    assert!(orders.len() > 10, "the peers learn of it in {} orders", orders.len());
    Ok(())
}

/// An atomic that does not exclude the processor loses what the processor does at the same time; one that does, does not.
pub fn atomics_beside_the_processor<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for (like, global) in [("", true), (",like=infiniband", false)] {
        let mut pair = Pair::<F>::connected(&named(setup, format!("seed=5{like}")));
        let world = pair.a.device().world().clone();
        world.set_faults(Faults { rdma_delay_ns: Span::up_to(1_000), ..Faults::NONE });
        let word = pair.b.buffer(8, 0, Access::ALL);
        pair.b.pages(word).store(0, &[0; 8]);
        let (remote, mut sum) = (pair.b.remote(word, 0), 0);
        for id in 0..100 {
            let posted = pair.a.atomic(pair.ab, id, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight);
            assert_eq!(posted, Posted::Queued);
            sum += 1;
            while world.step() {
                pair.b.pages(word).word(0).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                sum += 1;
            }
        }
        let found = pair.b.pages(word).load_word(0);
        assert_eq!(found == sum, global, "{like}: {found} of {sum}");
        settle(&mut pair, &world);
        // Among themselves they are atomic everywhere.
        pair.b.pages(word).store(0, &[0; 8]);
        for id in 100..200 {
            let _ = pair
                .post(|pair| pair.a.atomic(pair.ab, id, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight));
        }
        settle(&mut pair, &world);
        assert_eq!(pair.b.pages(word).load_word(0), 100, "{like}");
        let found: Vec<u64> = (100..200).map(|id| pair.a.result(id, AtomicWidth::Eight)).collect();
        assert_eq!(found, (0..100).collect::<Vec<_>>(), "{like}: in the order of their posts");
    }
    Ok(())
}

/// What a program does wrong is recorded, with who did it: at the own side, at the peer's, and in what a post names.
pub fn violations<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for wrong in ["nothing", "target", "source", "elsewhere", "after a failure"] {
        let (mut pair, world) = pair_in::<F>(setup, 6, Faults::NONE);
        let (a, b) = (pair.a.device().number(), pair.b.device().number());
        let (target, source) = (pair.b.buffer(64, 0, Access::ALL), pair.a.buffer(64, 1, Access::LOCAL));
        let remote = pair.b.remote(target, 0);
        if wrong == "elsewhere" {
            let mut other = vec![0_u8; 64];
            let region = pair.a.buffer(64, 0, Access::LOCAL);
            let posted = pair.a.read_to_elsewhere(pair.ab, 1, region, &mut other, remote);
            assert_eq!(posted, Posted::Queued);
            pair.until("the end", |pair| pair.a.take_done(1));
        } else {
            assert_eq!(pair.a.write(pair.ab, 1, (source, 0), remote, 64, None), Posted::Queued);
            if wrong == "after a failure" {
                world.fail(a, pair.ab);
                while !pair.b.is_disconnected(pair.ba) {
                    pair.b.turn();
                }
            }
            match wrong {
                "source" => pair.a.deregister(source),
                "target" | "after a failure" => pair.b.deregister(target),
                _ => {}
            }
            pair.until("the end", |pair| pair.a.take_done(1));
            pair.a.deregister(source);
            pair.b.deregister(target);
        }
        let found = world.violations();
        match wrong {
            "nothing" | "after a failure" => assert_eq!(found, [], "{wrong}"),
            _ => {
                assert_eq!(found.len(), 1, "{wrong}: {found:?}");
                assert_eq!(found[0].device, if wrong == "target" { b } else { a }, "{wrong}");
                let word = match wrong {
                    "target" => "of peers",
                    "source" => "of its own",
                    _ => "not in the region",
                };
                assert!(found[0].what.contains(word), "{wrong}: {found:?}");
            }
        }
    }
    Ok(())
}

/// 4,096 devices and more in one process: each sends to twelve others, driven by who has something to poll.
pub fn thousands_of_devices<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    const DEVICES: usize = 5_000;
    let config = Config::default();
    let name = named(setup, "seed=7,faults=late".to_owned()).device;
    let mut devices: Vec<SimDevice> = (0..DEVICES as u32)
        .map(|rank| F::open(name, &config, &Job { local_ranks: DEVICES as u32, rank }).expect("a name"))
        .collect();
    let addresses: Vec<Vec<u8>> = devices.iter().map(|device| device.address().to_vec()).collect();
    let world = devices[0].world().clone();
    let mut unsent = std::collections::VecDeque::new();
    for (rank, device) in devices.iter_mut().enumerate() {
        for power in 0..12 {
            let qp =
                device.create_qp((), (), &addresses[(rank + (1 << power)) % DEVICES]).expect("reachable");
            unsent.push_back((rank, qp, power as u32));
        }
    }
    let mut arrived = vec![0_u16; DEVICES];
    let mut count = 0;
    while count < DEVICES * 12 {
        for _ in 0..unsent.len().min(16) {
            let Some((rank, qp, imm)) = unsent.pop_front() else { break };
            match devices[rank].post_send(qp, imm, &[], &rank.to_le_bytes()) {
                Posted::Busy => unsent.push_back((rank, qp, imm)),
                posted => assert_eq!(posted, Posted::Complete),
            }
        }
        (0..16).for_each(|_| _ = world.step());
        while let Some(number) = world.next_to_poll() {
            let device = &mut devices[number as usize];
            while let Some(completion) = device.poll_cq(()) {
                let Completion::Received(Message { imm, token, .. }) = completion else {
                    panic!("{completion:?}")
                };
                assert_eq!(arrived[number as usize] & 1 << imm, 0, "twice");
                arrived[number as usize] |= 1 << imm;
                device.release(token);
                count += 1;
            }
        }
    }
    assert!(arrived.iter().all(|arrived| *arrived == 0xfff));
    assert_eq!(world.statistics().connections, 12 * DEVICES as u64);
    Ok(())
}
