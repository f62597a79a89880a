//! Which orders are kept, which are the seed's, and where a queue ends.

use std::collections::BTreeSet;

use ironband_core::config::Config;
use ironband_fabric::sim::{Faults, Options, SimDevice, Span, World};
use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, CompletionStatus, Device, Fabric, Job, Posted, QueuePairNumber,
};

use super::super::node::{Event, Node, Pair, wait_for};
use super::super::{Outcome, Setup};
use super::{AWAY, named, pair_in, seeded, settle};

/// A read and an atomic find what was written before them on their queue pair, and the atomic's result is there for the next.
pub fn reads_find_what_was_written<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for seed in 0..100 {
        let (mut pair, world) = pair_in::<F>(setup, seed, Faults { pieces_max: 1, ..Faults::late() });
        let word = pair.b.buffer(8, 0, Access::ALL);
        pair.b.pages(word).store(0, &[0; 8]);
        let (source, before, after) = (
            pair.a.buffer(8, 0, Access::LOCAL),
            pair.a.buffer(8, 0, Access::LOCAL),
            pair.a.buffer(8, 0, Access::LOCAL),
        );
        pair.a.pages(source).store(0, &41_u64.to_le_bytes());
        let remote = pair.b.remote(word, 0);
        let _ = pair.a.write(pair.ab, 1, (source, 0), remote, 8, None);
        let _ = pair.a.read(pair.ab, 2, (before, 0), remote, 8, AWAY);
        let _ = pair.a.atomic(pair.ab, 3, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight);
        let _ = pair.a.read(pair.ab, 4, (after, 0), remote, 8, AWAY);
        settle(&mut pair, &world);
        let before = pair.a.pages(before).load_word(0);
        assert!((41..=42).contains(&before), "seed {seed}: the read found {before}");
        assert_eq!(pair.a.result(3, AtomicWidth::Eight), 41, "seed {seed}: what the atomic found");
        assert_eq!(pair.a.pages(after).load_word(0), 42, "seed {seed}: behind the atomic");
    }
    Ok(())
}

/// Requests end in any order; the data of two writes is placed in order, except by adapters that say otherwise; messages of
/// different queue pairs arrive in any order.
pub fn some_orders_are_the_seeds<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for (like, in_order) in [("", true), (",like=iwarp", false)] {
        let (mut second_first, mut ends) = (0, BTreeSet::new());
        for seed in 0..100 {
            let mut pair = Pair::<F>::connected(&named(setup, format!("seed={seed}{like}")));
            let world = pair.a.device().world().clone();
            let faults = Faults { pieces_max: 4, rdma_delay_ns: Span::up_to(10_000), ..Faults::NONE };
            world.set_faults(Faults { completion_delay_ns: Span::up_to(10_000), ..faults });
            let (target, source) = (pair.b.buffer(16, 0, Access::ALL), pair.a.buffer(16, 0, Access::LOCAL));
            pair.b.pages(target).store(0, &[0; 16]);
            pair.a.pages(source).store(0, &[9; 16]);
            for id in 0..2 {
                let remote = pair.b.remote(target, 8 * id as usize);
                let posted = pair.a.write(pair.ab, id, (source, 0), remote, 8, None);
                assert_eq!(posted, Posted::Queued);
            }
            let mut overtaken = false;
            while world.step() {
                let bytes = pair.b.pages(target).load(0, 16);
                overtaken |= bytes[8..].contains(&9) && bytes[..8].contains(&0);
            }
            second_first += usize::from(overtaken);
            settle(&mut pair, &world);
            let order: Vec<_> =
                pair.a.inbox.iter().map(|event| matches!(event, Event::Done { id: 0, .. })).collect();
            ends.insert(order);
        }
        assert_eq!(second_first == 0, in_order, "{like}: the second write came first {second_first} times");
        assert_eq!(ends.len(), 2, "{like}: {ends:?}");
    }
    let mut orders = BTreeSet::new();
    for seed in 0..60 {
        let setup = seeded(setup, seed);
        let mut hub = Node::<F>::open(&setup, 0);
        let (address, world) = (hub.address(), hub.device().world().clone());
        let mut senders: Vec<(Node<F>, QueuePairNumber)> = (1..4)
            .map(|rank| {
                let mut node = Node::<F>::open(&setup, rank);
                let qp = node.connect(&address);
                wait_for("a connection", || {
                    let posted = node.send(qp, 9, 8);
                    node.turn();
                    (posted == Posted::Complete).then_some(())
                });
                (node, qp)
            })
            .collect();
        while world.step() {}
        while hub.poll().is_some() {}
        world.set_faults(Faults { message_delay_ns: Span::up_to(10_000), ..Faults::NONE });
        for (imm, (node, qp)) in senders.iter_mut().enumerate() {
            assert_eq!(node.send(*qp, imm as u32, 8), Posted::Complete);
        }
        while world.step() {}
        let order: Vec<_> = std::iter::from_fn(|| hub.poll()).collect();
        let imms = order.iter().map(|event| match event {
            Event::Message { imm, .. } => *imm,
            other => panic!("{other:?}"),
        });
        orders.insert(imms.collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 6, "three messages of three senders: {orders:?}");
    Ok(())
}

/// The send queue and the list of requests are bounded by what the world says, and there is room again when something has ended.
#[expect(
    clippy::extra_unused_type_parameters,
    reason = "the world is made here; every case has the same form"
)]
pub fn queues_are_bounded<F: Fabric<Device = SimDevice>>(_setup: &Setup) -> Outcome {
    let world =
        World::new(Options { send_queue_max: 3, receives_max: 9, outstanding_max: 2, ..Options::new(1) });
    let mut devices: Vec<SimDevice> =
        (0..2).map(|rank| world.open(&Config::default(), &Job { local_ranks: 2, rank })).collect();
    let mut peer = devices.pop().expect("two");
    let mut device = devices.pop().expect("two");
    let qp = device.create_qp((), (), peer.address()).expect("reachable");
    assert_eq!(device.post_send(qp, 0, &[], &[]), Posted::Busy, "not connected");
    while world.step() {}
    let fill = |device: &mut SimDevice| {
        (0..20).filter(|_| device.post_send(qp, 0, &[], &[1]) == Posted::Complete).count()
    };
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(fill(&mut device));
        while world.step() {}
    }
    assert_eq!(counts, [3, 3, 3, 0], "three under way, nine unreleased");
    let mut arrived = 0;
    while let Some(completion) = peer.poll_cq(()) {
        let ironband_fabric::Completion::Received(ironband_fabric::Message { token, .. }) = completion else {
            panic!("{completion:?}")
        };
        peer.release(token);
        arrived += 1;
    }
    assert_eq!(arrived, 9);
    let mut words = [0_u64; 2];
    // SAFETY: `words` lives until the end, and nobody else uses it.
    let region = unsafe { peer.register((), words.as_mut_ptr().cast(), 16, Access::ALL) }.expect("room");
    let remote =
        ironband_fabric::RemoteAddress { address: words.as_ptr() as u64, key: peer.remote_key(&region) };
    let mut results = [0_u64; 3];
    let mut posted = Vec::new();
    for (id, result) in results.iter_mut().enumerate() {
        let (id, op) = (ironband_fabric::WorkId(id as u64), AtomicOp::FetchAdd(1));
        // SAFETY: aligned, and it lives until the end.
        posted.push(unsafe {
            device.post_atomic(qp, id, std::ptr::from_mut(result).cast(), remote, op, AtomicWidth::Eight)
        });
    }
    assert_eq!(posted, [Posted::Queued, Posted::Queued, Posted::Busy]);
    while world.step() {}
    let ended = std::iter::from_fn(|| device.poll_cq(()));
    let success = |it: &ironband_fabric::Completion| {
        matches!(it, ironband_fabric::Completion::Done { status: CompletionStatus::Success, .. })
    };
    assert_eq!((ended.filter(success).count(), words[0]), (2, 2));
    peer.deregister(region);
    assert_eq!(world.violations(), []);
    Ok(())
}

/// A request with nothing before it may be done in its post, as over shared memory: then there is no completion.
pub fn done_in_the_post<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    let (mut pair, world) = pair_in::<F>(setup, 1, Faults { at_once: 1_000_000, ..Faults::NONE });
    let (target, own) = (pair.b.buffer(64, 1, Access::ALL), pair.a.buffer(64, 2, Access::LOCAL));
    let remote = pair.b.remote(target, 0);
    assert_eq!(pair.a.write(pair.ab, 1, (own, 0), remote, 64, Some(7)), Posted::Complete);
    assert_eq!(pair.b.pages(target).load(0, 64), pair.a.pages(own).load(0, 64));
    pair.a.pages(own).fill(3);
    assert_eq!(pair.a.read(pair.ab, 2, (own, 0), remote, 64, AWAY), Posted::Complete);
    assert_eq!(pair.b.pages(target).load(0, 64), pair.a.pages(own).load(0, 64));
    pair.b.pages(target).store(0, &[0; 8]);
    let posted = pair.a.atomic(pair.ab, 3, remote, AtomicOp::FetchAdd(5), AtomicWidth::Eight);
    assert_eq!((posted, pair.b.pages(target).load_word(0)), (Posted::Complete, 5));
    pair.send_ab(1, 8);
    assert_eq!(pair.a.read(pair.ab, 4, (own, 0), remote, 64, AWAY), Posted::Queued, "behind a message");
    settle(&mut pair, &world);
    assert_eq!(pair.a.take_done(4), Some(CompletionStatus::Success));
    assert_eq!(pair.a.inbox.len(), 0, "{:?}", pair.a.inbox);
    assert_eq!(pair.b.take_arrival(), Some(Event::Written { qp: pair.ba, imm: 7, len_bytes: 64 }));
    Ok(())
}

/// Who asks a process that dies before it has answered is told so.
pub fn died_before_the_answer<F: Fabric<Device = SimDevice>>(setup: &Setup) -> Outcome {
    for closed in [false, true] {
        let setup = named(setup, "seed=2,like=infiniband".to_owned());
        let (mut asker, mut peer) = (Node::<F>::open(&setup, 0), Node::<F>::open(&setup, 1));
        let world = asker.device().world().clone();
        let qp = asker.connect(&peer.address());
        assert_eq!(asker.send(qp, 1, 8), Posted::Busy);
        while world.step() {}
        assert_eq!(asker.send(qp, 1, 8), Posted::Busy, "an answer needs a poll of the peer");
        if closed {
            drop(peer);
        } else {
            world.kill(peer.device().number());
        }
        wait_for("the end of it", || {
            asker.turn();
            asker.is_disconnected(qp).then_some(())
        });
        assert!(asker.failure(qp).contains("rank 1"), "{}", asker.failure(qp));
        assert_eq!(asker.send(qp, 1, 8), Posted::Failed);
    }
    Ok(())
}
