//! A queue pair is ordered: what is posted first arrives first, whatever kind it is.

use ironband_fabric::{Access, Device, Fabric, Posted};

use super::node::{Event, Node, Pair, assert_intact, wait_for};
use super::{Outcome, Setup, need};

/// Messages of all lengths arrive in the order of their posts, while their buffers are given back in another.
pub fn sends<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let max = pair.a.capabilities().limits.send_copy_bytes_max.min(9000);
    let (mut posted, mut arrived, mut random) = (0_u32, 0_u32, 1_u64);
    let mut held = Vec::new();
    while arrived < 20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let roll = (random >> 33) as usize;
        if posted < 20_000 && !roll.is_multiple_of(3) {
            let len_bytes = if roll.is_multiple_of(7) { roll / 7 % max } else { roll / 7 % 80 };
            posted += u32::from(pair.a.send(pair.ab, posted, len_bytes) == Posted::Complete);
        } else if let Some(Ok(message)) = pair.b.poll_held() {
            let Event::Message { imm, .. } = message.event else { panic!("a message is no message") };
            assert_eq!(imm, arrived, "overtaken");
            assert_intact(&message.event);
            arrived += 1;
            held.push(message);
        }
        pair.a.turn();
        if held.len() > 20 || roll.is_multiple_of(5) {
            let keep = roll % 3;
            while held.len() > keep {
                let any = roll % held.len();
                pair.b.release(held.swap_remove(any));
            }
        }
    }
    held.into_iter().for_each(|message| drop(pair.b.release(message)));
    pair.a.assert_connected();
    Ok(())
}

/// Sends and writes with immediate data, short and long, with reads in between, arrive in the order of their posts.
pub fn kinds_of_one_queue_pair<F: Fabric>(setup: &Setup) -> Outcome {
    const LONG: usize = 600_000;
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        need(pair.a.capabilities().write_with_immediate, "the device cannot notify of a write")?;
        let target = pair.b.buffer(LONG, 0, Access::ALL);
        let source = pair.a.buffer(LONG, 3, Access::LOCAL);
        let sink = pair.a.buffer(LONG, 4, Access::LOCAL);
        let remote = pair.b.remote(target, 0);
        for imm in 0..400_u32 {
            match imm % 5 {
                0 | 3 => pair.send_ab(imm, imm as usize * 7 % 3000),
                1 | 2 => {
                    let len_bytes = if imm % 5 == 1 { 100 } else { imm as usize * 1999 % LONG };
                    let _ = pair.post(|pair| {
                        pair.a.write(pair.ab, imm.into(), (source, 0), remote, len_bytes, Some(imm))
                    });
                }
                _ => {
                    let hint = ironband_fabric::ReadHint::OwnerIsWaiting;
                    let _ = pair.post(|pair| {
                        pair.a.read(pair.ab, imm.into(), (sink, 0), remote, imm as usize * 1499 % LONG, hint)
                    });
                    continue;
                }
            }
        }
        for expected in (0..400).filter(|imm| imm % 5 != 4) {
            let event = pair.until("everything to arrive", |pair| pair.b.take_arrival());
            let imm = match event {
                Event::Message { imm, .. } | Event::Written { imm, .. } => imm,
                other => panic!("{other:?}"),
            };
            assert_eq!(imm, expected, "{:?}: overtaken", setup.config.single_copy);
        }
        pair.until("all requests to end", |pair| {
            (pair.a.device().is_idle() && pair.b.device().is_idle()).then_some(())
        });
        pair.a.assert_connected();
    }
    Ok(())
}

/// A message that is posted when a write has completed finds the data at the target.
pub fn writes_before_sends<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        let target = pair.b.buffer(100_000, 0, Access::ALL);
        let remote = pair.b.remote(target, 0);
        for seed in 0..20_u32 {
            let source = pair.a.buffer(100_000, seed, Access::LOCAL);
            pair.finish(seed.into(), |pair| {
                pair.a.write(pair.ab, seed.into(), (source, 0), remote, 100_000, None)
            });
            pair.send_ab(seed, 0);
            pair.until("the message", |pair| pair.b.take_arrival());
            let seen = pair.b.pages(target).load(0, 100_000);
            assert_eq!(super::memory::first_difference(&seen, seed), None, "{:?}", setup.config.single_copy);
        }
    }
    Ok(())
}

/// A read has completed when its data is there, whatever was sent behind it.
pub fn reads_before_sends<F: Fabric>(setup: &Setup) -> Outcome {
    const LONG: usize = 200_000;
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        let sink = pair.a.buffer(LONG, 0, Access::LOCAL);
        for seed in 1..=20_u32 {
            let source = pair.b.buffer(LONG, seed, Access::ALL);
            let remote = pair.b.remote(source, 0);
            let id = seed.into();
            pair.a.pages(sink).store(0, &[0; LONG]);
            let hint = ironband_fabric::ReadHint::OwnerIsWaiting;
            let mut done =
                pair.post(|pair| pair.a.read(pair.ab, id, (sink, 0), remote, LONG, hint)) == Posted::Complete;
            for imm in 0..20 {
                pair.send_ab(imm, 1000);
            }
            pair.until("the read", |pair| {
                done = done || pair.a.take_done(id).is_some();
                done.then_some(())
            });
            let seen = pair.a.pages(sink).load(0, LONG);
            assert_eq!(super::memory::first_difference(&seen, seed), None, "{:?}", setup.config.single_copy);
            for _ in 0..20 {
                pair.until("the messages", |pair| pair.b.take_arrival());
            }
        }
    }
    Ok(())
}

/// Each of several senders is ordered, whatever the others do.
pub fn many_senders<F: Fabric>(setup: &Setup) -> Outcome {
    const SENDERS: u32 = 20;
    const EACH: u32 = 500;
    let mut hub = Node::<F>::open(setup, 0);
    let address = hub.address();
    let mut senders: Vec<_> = (1..=SENDERS)
        .map(|rank| {
            let mut node = Node::<F>::open(setup, rank);
            let qp = node.connect(&address);
            (node, qp, 0_u32)
        })
        .collect();
    let mut next = std::collections::HashMap::new();
    let mut arrived = 0;
    wait_for("all messages", || {
        for (node, qp, sent) in &mut senders {
            if *sent < EACH && node.send(*qp, *sent, *sent as usize * 3 % 500) == Posted::Complete {
                *sent += 1;
            }
            node.turn();
        }
        for _ in 0..SENDERS {
            let Some(event) = hub.poll() else { continue };
            assert_intact(&event);
            let Event::Message { qp, imm, .. } = event else { panic!("{event:?}") };
            let expected = next.entry(qp).or_insert(0);
            assert_eq!(imm, *expected, "from queue pair {}", qp.0);
            *expected += 1;
            arrived += 1;
        }
        (arrived == SENDERS * EACH).then_some(())
    });
    assert_eq!(next.len() as u32, SENDERS, "one queue pair for each sender");
    Ok(())
}
