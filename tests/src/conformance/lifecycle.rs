//! Queue pairs: making them, ending them, making them again.

use ironband_fabric::{
    Access, AtomicOp, AtomicScope, AtomicWidth, CompletionStatus, Device, Fabric, Posted, QueuePairNumber,
    ReadHint, RemoteAddress,
};

use super::agent::Agent;
use super::node::{Event, Node, Pair, assert_intact};
use super::{Outcome, Setup, need_processes};

/// The same address gives the same queue pair, before and after the connection stands, and whoever came first.
pub fn create_is_idempotent<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::open(setup);
    let (a, b) = (pair.a.address(), pair.b.address());
    assert_eq!(pair.a.connect(&b), pair.ab);
    pair.send_ab(1, 1);
    let event = pair.until("a message", |pair| pair.b.take_arrival());
    assert!(matches!(event, Event::Message { qp, .. } if qp == pair.ba), "{event:?}");
    assert_eq!((pair.a.connect(&b), pair.b.connect(&a)), (pair.ab, pair.ba));
    assert_eq!(pair.a.device().peer_address(pair.ab), Some(b.as_slice()));
    assert_eq!(pair.b.device().peer_address(pair.ba), Some(a.as_slice()));

    // The peer connects first: the queue pair that its message comes from is the one that is made later.
    let mut first = Node::<F>::open(setup, 2);
    let qp = first.connect(&b);
    pair.until("a message from a stranger", |_| {
        let posted = first.send(qp, 3, 3);
        first.turn();
        (posted == Posted::Complete).then_some(())
    });
    let event = pair.until("its arrival", |pair| pair.b.take_arrival());
    let Event::Message { qp: theirs, .. } = event else { panic!("{event:?}") };
    assert_eq!(pair.b.connect(&first.address()), theirs);
    assert_eq!(pair.b.device().peer_address(theirs), Some(first.address().as_slice()));
    Ok(())
}

/// A number that was never handed out fails, and breaks nothing.
pub fn unknown_queue_pair<F: Fabric>(setup: &Setup) -> Outcome {
    let mut node = Node::<F>::open(setup, 0);
    let buffer = node.buffer(64, 0, Access::ALL);
    let remote = node.remote(buffer, 0);
    for qp in [QueuePairNumber(7), QueuePairNumber(u32::MAX)] {
        assert_eq!(node.send(qp, 0, 8), Posted::Failed);
        assert_eq!(node.send(qp, 0, 100), Posted::Failed);
        assert_eq!(node.read(qp, 1, (buffer, 0), remote, 8, ReadHint::OwnerMayBeAway), Posted::Failed);
        assert_eq!(node.write(qp, 1, (buffer, 0), remote, 8, None), Posted::Failed);
        assert_eq!(node.atomic(qp, 1, remote, AtomicOp::Swap(1), AtomicWidth::Four), Posted::Failed);
        node.device().destroy_qp(qp);
        assert_eq!(node.device().peer_address(qp), None);
        assert_eq!(node.device().failure(qp), None);
        assert!(node.poll().is_none());
    }
    Ok(())
}

/// What was accepted before the queue pair was destroyed arrives, even if the peer has not polled yet. Destroying twice
/// is as destroying once. Posts on it fail.
pub fn sent_before_destroy<F: Fabric>(setup: &Setup) -> Outcome {
    for connect_first in [true, false] {
        let mut pair = if connect_first { Pair::<F>::connected(setup) } else { Pair::open(setup) };
        let mut count = 0;
        while count < 100 && pair.a.send(pair.ab, count, 100) == Posted::Complete {
            count += 1;
        }
        if connect_first {
            assert!(count > 0);
        }
        let ab = pair.ab;
        pair.a.device().destroy_qp(ab);
        pair.a.device().destroy_qp(ab);
        assert_eq!(pair.a.send(ab, 0, 8), Posted::Failed, "a short post on a destroyed queue pair");
        assert_eq!(pair.a.send(ab, 0, 800), Posted::Failed, "a long post on a destroyed queue pair");
        for expected in 0..count {
            let event = pair.until("what was sent before", |pair| pair.b.take_arrival());
            assert_intact(&event);
            assert!(matches!(event, Event::Message { imm, .. } if imm == expected));
        }
        (0..20_000).for_each(|_| pair.turn());
        assert_eq!((pair.a.inbox.len(), pair.b.inbox.len()), (0, 0), "{:?} {:?}", pair.a.inbox, pair.b.inbox);
    }
    Ok(())
}

/// A queue pair that is made again at once: messages of both lives arrive, in order.
pub fn reconnect_at_once<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let address = pair.b.address();
    for life in 0..20_u32 {
        pair.send_ab(life * 2, 300);
        let ab = pair.ab;
        pair.a.device().destroy_qp(ab);
        pair.ab = pair.a.connect(&address);
        pair.send_ab(life * 2 + 1, 30);
        for expected in [life * 2, life * 2 + 1] {
            let event = pair.until("messages of both lives", |pair| pair.b.take_arrival());
            assert!(matches!(event, Event::Message { imm, .. } if imm == expected), "{event:?}: life {life}");
        }
        pair.a.assert_connected();
        pair.b.assert_connected();
    }
    Ok(())
}

/// Both ends end and begin again, many times, with time in between for everything to be put away.
pub fn reconnect_often<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let (a, b) = (pair.a.address(), pair.b.address());
    let source = pair.b.buffer(300_000, 1, Access::ALL);
    let sink = pair.a.buffer(300_000, 2, Access::LOCAL);
    for life in 0..30_u32 {
        pair.send_ab(life, 1000);
        pair.send_ba(life, 1000);
        let remote = pair.b.remote(source, 0);
        let status = pair
            .finish(1, |pair| pair.a.read(pair.ab, 1, (sink, 0), remote, 300_000, ReadHint::OwnerIsWaiting));
        assert_eq!(status, CompletionStatus::Success);
        for _ in 0..2 {
            pair.until("a message", |pair| pair.a.take_arrival().or_else(|| pair.b.take_arrival()));
        }
        let (ab, ba) = (pair.ab, pair.ba);
        pair.a.device().destroy_qp(ab);
        if life % 2 == 0 {
            (0..10_000).for_each(|_| pair.turn());
        }
        pair.b.device().destroy_qp(ba);
        if life % 3 == 0 {
            (0..10_000).for_each(|_| pair.turn());
        }
        pair.ab = pair.a.connect(&b);
        pair.ba = pair.b.connect(&a);
        pair.a.assert_connected();
        pair.b.assert_connected();
    }
    Ok(())
}

/// Requests that are under way end as flushed, once; late answers to them do no harm, and the peer can be connected to
/// again.
pub fn destroy_with_requests<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        let atomics = pair.a.capabilities().atomics != AtomicScope::None;
        let target = pair.b.buffer(500_000, 1, Access::ALL);
        let sink = pair.a.buffer(500_000, 2, Access::LOCAL);
        let remote = pair.b.remote(target, 0);
        for turns in [0, 1, 3, 50] {
            let mut queued = Vec::new();
            let word = RemoteAddress { address: remote.address + 8, ..remote };
            let posts = [
                pair.post(|p| p.a.read(p.ab, 0, (sink, 0), remote, 500_000, ReadHint::OwnerIsWaiting)),
                pair.post(|p| p.a.write(p.ab, 1, (sink, 0), remote, 500_000, None)),
                if atomics {
                    pair.post(|p| p.a.atomic(p.ab, 2, word, AtomicOp::FetchAdd(0), AtomicWidth::Eight))
                } else {
                    Posted::Complete
                },
            ];
            for (id, posted) in posts.into_iter().enumerate() {
                if posted == Posted::Queued {
                    queued.push(id as u64);
                }
            }
            (0..turns).for_each(|_| pair.turn());
            let ab = pair.ab;
            pair.a.device().destroy_qp(ab);
            for id in queued {
                let status = pair.until("the request to end", |pair| pair.a.take_done(id));
                let ended = matches!(status, CompletionStatus::Success | CompletionStatus::Flushed);
                assert!(ended, "request {id}: {status:?}");
                assert_eq!(pair.a.take_done(id), None, "request {id} ended twice");
            }
            (0..20_000).for_each(|_| pair.turn());
            pair.a.assert_connected();
            pair.b.assert_connected();
            let address = pair.b.address();
            pair.ab = pair.a.connect(&address);
            pair.send_ab(turns, 9);
            pair.until("a message of the new life", |pair| pair.b.take_arrival());
        }
    }
    Ok(())
}

/// Both ends connect at the same moment.
pub fn simultaneous<F: Fabric>(setup: &Setup) -> Outcome {
    for _ in 0..50 {
        let mut pair = Pair::<F>::open(setup);
        let (mut from_a, mut from_b) = (false, false);
        pair.until("both first posts", |pair| {
            from_a = from_a || pair.a.send(pair.ab, 1, 10) == Posted::Complete;
            from_b = from_b || pair.b.send(pair.ba, 2, 10) == Posted::Complete;
            (from_a && from_b).then_some(())
        });
        let at_a = pair.until("the message to a", |pair| pair.a.take_arrival());
        let at_b = pair.until("the message to b", |pair| pair.b.take_arrival());
        assert!(matches!(at_a, Event::Message { qp, imm: 2, .. } if qp == pair.ab));
        assert!(matches!(at_b, Event::Message { qp, imm: 1, .. } if qp == pair.ba));
    }
    Ok(())
}

/// Bytes that are no address are refused with a reason.
pub fn garbage_address<F: Fabric>(setup: &Setup) -> Outcome {
    let mut node = Node::<F>::open(setup, 0);
    let good = Node::<F>::open(setup, 1).address();
    let mut longer = good.clone();
    longer.push(0);
    let mut other_kind = good.clone();
    other_kind[0] ^= 0xff;
    for address in
        [&[][..], &[0; 10], &[0xff; 300], &good[1..], &good[..good.len() - 1], &longer, &other_kind]
    {
        let reason = node.try_connect(address).expect_err("no address");
        assert!(reason.len() > 10, "{reason:?} says too little");
        assert!(node.device().reach(address).is_err());
    }
    Ok(())
}

/// Devices that are opened, used and closed again leave no descriptor and no mapping behind.
pub fn descriptors<F: Fabric>(setup: &Setup) -> Outcome {
    need_processes(Node::<F>::open(setup, 0).capabilities())?;
    let mut agent = Agent::start(setup, 1);
    let left = agent.ask("churn 20");
    let numbers: Vec<u64> = left.split(' ').map(|n| n.parse().expect("two numbers")).collect();
    assert_eq!(numbers[0], 0, "descriptors");
    // The allocator may map a heap of its own meanwhile.
    assert!(numbers[1] < 10, "{} mappings are left by 20 pairs", numbers[1]);
    Ok(())
}
