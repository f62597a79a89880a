//! Back-pressure: no room is a value, nothing is lost by it, and nobody starves.

use ironband_fabric::{Access, AtomicOp, AtomicScope, AtomicWidth, CompletionStatus, Device, Fabric, Posted};

use super::memory::patterned;
use super::node::{Event, Node, Pair, assert_intact, wait_for};
use super::{Outcome, Setup, need};

/// Fills the connection from `a` to `b`; returns how many messages went in.
fn fill_up<F: Fabric>(pair: &mut Pair<F>, first_imm: u32, len_bytes: usize) -> u32 {
    let mut count = 0;
    loop {
        match pair.a.send(pair.ab, first_imm + count, len_bytes) {
            Posted::Complete => count += 1,
            Posted::Busy => return count,
            other => panic!("{other:?}: {}", pair.a.failure(pair.ab)),
        }
        assert!(count < 10_000_000, "a peer that does not poll takes everything");
    }
}

/// Takes so many messages at `b` and checks that they are the right ones.
#[track_caller]
fn take_all<F: Fabric>(pair: &mut Pair<F>, first_imm: u32, count: u32) {
    for expected in first_imm..first_imm + count {
        let event = pair.until("what was accepted", |pair| pair.b.take_arrival());
        assert_intact(&event);
        assert!(
            matches!(event, Event::Message { imm, .. } if imm == expected),
            "{event:?} is not {expected}"
        );
    }
}

/// A peer that does not poll: posts become busy, what was accepted arrives, and then there is room again.
pub fn full_says_busy<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let max = pair.a.capabilities().limits.send_copy_bytes_max;
    for len_bytes in [0, 48, 49, 4096, max] {
        for round in 0..5 {
            let count = fill_up(&mut pair, round * 1000, len_bytes);
            assert!(count > 0, "not even one message of {len_bytes} bytes");
            assert_eq!(pair.a.send(pair.ab, 0, len_bytes), Posted::Busy, "and it stays busy");
            take_all(&mut pair, round * 1000, count);
        }
    }
    Ok(())
}

/// A post that was busy has sent nothing, not even a part, of any kind.
pub fn busy_leaves_no_trace<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        let target = pair.b.buffer(4096, 5, Access::ALL);
        let source = pair.a.buffer(4096, 6, Access::LOCAL);
        let remote = pair.b.remote(target, 0);
        let count = fill_up(&mut pair, 0, 8);
        for imm in 0..100 {
            assert_eq!(pair.a.send(pair.ab, 900_000 + imm, imm as usize), Posted::Busy);
        }
        let filled = pair.a.device().post_send_fill(pair.ab, 7, &[], 8, |_, _| panic!("packed without room"));
        assert_eq!(filled, Posted::Busy);
        let writes = pair.a.capabilities().write_with_immediate;
        let posted = writes.then(|| pair.a.write(pair.ab, 77, (source, 0), remote, 4096, Some(77)));
        if posted == Some(Posted::Busy) {
            let untouched = patterned(5, 4096);
            assert_eq!(pair.b.pages(target).load(0, 4096), untouched, "a write that was busy has written");
        }
        take_all(&mut pair, 0, count);
        if matches!(posted, Some(Posted::Complete | Posted::Queued)) {
            let event = pair.until("the notification", |pair| pair.b.take_arrival());
            assert!(matches!(event, Event::Written { imm: 77, len_bytes: 4096, .. }), "{event:?}");
        }
        (0..1000).for_each(|_| pair.turn());
        assert_eq!(pair.b.take_arrival(), None, "something that was refused has arrived");
    }
    Ok(())
}

/// All that a connection takes is held, then given back in a random order.
pub fn release_in_any_order<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    for round in 0..20_u32 {
        let len_bytes = [8, 48, 49, 1000, 5000][round as usize % 5];
        let count = fill_up(&mut pair, 0, len_bytes);
        let mut held = Vec::new();
        wait_for("all of them", || {
            if let Some(Ok(message)) = pair.b.poll_held() {
                held.push(message);
            }
            (held.len() as u32 == count).then_some(())
        });
        let mut random = u64::from(round) + 1;
        while !held.is_empty() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let event = pair.b.release(held.swap_remove((random >> 33) as usize % held.len()));
            assert_intact(&event);
        }
    }
    assert!(fill_up(&mut pair, 0, 8) > 0);
    Ok(())
}

/// A message that is held stays as it is, however many that came after it are given back, and whether or not more get through.
pub fn held_is_not_overwritten<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    for round in 0..4_u32 {
        // Enough for whatever a fabric does for peers that send much.
        for imm in 0..200 {
            pair.send_ab(imm, 40);
            pair.until("a message", |pair| pair.b.take_arrival());
        }
        pair.send_ab(1000 + round, 40);
        let first = wait_for("the first message", || {
            pair.a.turn();
            pair.b.poll_held()
        });
        let first = first.expect("the connection stands");
        for imm in 2000..3000 {
            let _ = pair.a.send(pair.ab, imm, 40);
            if let Some(Ok(message)) = pair.b.poll_held() {
                pair.b.release(message);
            }
            pair.a.turn();
        }
        let event = pair.b.release(first);
        assert!(matches!(event, Event::Message { imm, .. } if imm == 1000 + round), "{event:?}");
        assert_intact(&event);
        // What was posted meanwhile, up to one that is known to be the last.
        let last = 3000 + round;
        pair.send_ab(last, 40);
        let is_last = |event: Event| matches!(event, Event::Message { imm, .. } if imm == last).then_some(());
        pair.until("the last message", |pair| pair.b.take_arrival().and_then(is_last));
    }
    Ok(())
}

/// While a message is held, its receiver polls, receives and answers, as an MPI library's callback does.
pub fn reentrant<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    for round in 0..200_u32 {
        for inner in 0..4 {
            pair.send_ab(round * 4 + inner, 100 * inner as usize);
        }
        let mut held = Vec::new();
        wait_for("four messages", || {
            if let Some(Ok(message)) = pair.b.poll_held() {
                let answer = pair.b.send(pair.ba, round, 60);
                assert_eq!(answer, Posted::Complete, "an answer from inside");
                held.push(message);
            }
            (held.len() == 4).then_some(())
        });
        while let Some(message) = held.pop() {
            pair.b.release(message);
        }
        for _ in 0..4 {
            let event = pair.until("the answers", |pair| pair.a.take_arrival());
            assert_intact(&event);
        }
    }
    Ok(())
}

/// One peer keeps its connection full. The receiver still notices other peers, new peers and the end of own requests.
pub fn flood_is_fair<F: Fabric>(setup: &Setup) -> Outcome {
    const QUIET: u32 = 12;
    let mut hub = Node::<F>::open(setup, 0);
    let address = hub.address();
    let mut open = |rank: u32| {
        let mut node = Node::<F>::open(setup, rank);
        let qp = node.connect(&address);
        (node, qp)
    };
    let mut quiet: Vec<_> = (1..=QUIET).map(&mut open).collect();
    let (mut loud, loud_qp) = open(99);
    // Everyone connects; the loud one last, so that it is the best known.
    for (node, qp) in quiet.iter_mut().map(|(node, qp)| (node, *qp)).chain([(&mut loud, loud_qp)]) {
        wait_for("the first message", || {
            let posted = node.send(qp, 0, 0);
            hub.turn();
            (posted == Posted::Complete).then_some(())
        });
    }
    wait_for("all first messages", || {
        hub.turn();
        (hub.inbox.len() as u32 == QUIET + 1).then_some(())
    });
    hub.inbox.clear();
    let mut newcomer = open(100);
    let mut from_quiet = 0;
    for (node, qp) in &mut quiet {
        assert_eq!(node.send(*qp, 1, 8), Posted::Complete);
    }
    let mut newcomer_sent = false;
    for _ in 0..200_000 {
        // Never lets the receiver's poll come back empty.
        while loud.send(loud_qp, 2, 8) == Posted::Complete {}
        if !newcomer_sent {
            newcomer_sent = newcomer.0.send(newcomer.1, 1, 8) == Posted::Complete;
        }
        for _ in 0..16 {
            from_quiet += u32::from(matches!(hub.poll(), Some(Event::Message { imm: 1, .. })));
        }
        if from_quiet == QUIET + 1 {
            return Ok(());
        }
    }
    panic!("after 3,200,000 polls {from_quiet} of {} messages behind a flood have arrived", QUIET + 1);
}

/// More requests than the device keeps: busy, not lost; all that were accepted end.
pub fn outstanding<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need(pair.a.capabilities().atomics != AtomicScope::None, "the device has no atomics")?;
    let target = pair.b.buffer(64, 0, Access::ALL);
    pair.b.pages(target).store(0, &[0; 64]);
    let remote = pair.b.remote(target, 0);
    let max = pair.a.capabilities().limits.outstanding_max as u64;
    let (mut complete, mut queued) = (0, 0);
    // Only as many ids as Node keeps results for.
    for id in 0..4096 {
        match pair.a.atomic(pair.ab, id, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight) {
            Posted::Complete => complete += 1,
            Posted::Queued => queued += 1,
            Posted::Busy => break,
            Posted::Failed => panic!("{}", pair.a.failure(pair.ab)),
        }
    }
    assert!(queued <= max, "{queued} are under way, the device says at most {max}");
    for id in 0..queued {
        let status = pair.until("accepted atomics", |pair| pair.a.take_done(id + complete));
        assert_eq!(status, CompletionStatus::Success);
    }
    assert_eq!(pair.b.pages(target).load_word(0), complete + queued);
    let last =
        pair.finish(9, |pair| pair.a.atomic(pair.ab, 9, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight));
    assert_eq!((last, pair.b.pages(target).load_word(0)), (CompletionStatus::Success, complete + queued + 1));
    Ok(())
}
