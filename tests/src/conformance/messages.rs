//! Messages: every length, immediate data, packing in place, loopback, another process.

use ironband_fabric::{Device, Fabric, Posted};

use super::agent::Duo;
use super::memory::{fill_room, patterned};
use super::node::{Event, Node, Pair, assert_intact, wait_for};
use super::{Outcome, Setup, need};

/// Every length from 0 to 200, with every way to divide it between header and payload at the short ones.
pub fn every_short_length<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    for len_bytes in 0..=200_usize {
        let bytes = patterned(len_bytes as u32, len_bytes);
        for header_bytes in (0..=len_bytes.min(64)).chain([len_bytes]) {
            let (header, payload) = bytes.split_at(header_bytes);
            let _ = pair.post(|pair| pair.a.device().post_send(pair.ab, len_bytes as u32, header, payload));
            let event = pair.until("the message", |pair| pair.b.take_arrival());
            assert_eq!(event, Event::Message { qp: pair.ba, imm: len_bytes as u32, bytes: bytes.clone() });
        }
    }
    Ok(())
}

/// Lengths around everything that the device says of itself, and around pages.
pub fn lengths_around_the_limits<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let limits = pair.a.capabilities().limits.clone();
    let max = limits.send_copy_bytes_max;
    assert!(limits.inline_bytes_max <= max && max >= limits.eager_bytes.min(4096));
    let edges = [limits.inline_bytes_max, 64, 128, 1024, 4096, 8192, limits.eager_bytes, max / 2, max];
    for edge in edges {
        for len_bytes in edge.saturating_sub(2)..=(edge + 2).min(max) {
            pair.send_ab(len_bytes as u32, len_bytes);
            pair.send_ba(len_bytes as u32, len_bytes);
            let (at_b, at_a) = (
                pair.until("the message to b", |pair| pair.b.take_arrival()),
                pair.until("the message to a", |pair| pair.a.take_arrival()),
            );
            for event in [at_b, at_a] {
                assert_intact(&event);
                assert!(matches!(event, Event::Message { bytes, .. } if bytes.len() == len_bytes));
            }
        }
    }
    Ok(())
}

/// All 32 bits of the immediate data arrive.
pub fn immediate_data<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    for imm in (0..32).map(|bit| 1 << bit).chain([0, u32::MAX, 0x0102_0304]) {
        for len_bytes in [0, 48, 300] {
            pair.send_ab(imm, len_bytes);
            let event = pair.until("the message", |pair| pair.b.take_arrival());
            assert!(
                matches!(&event, Event::Message { imm: got, bytes, .. } if *got == imm && bytes.len() == len_bytes)
            );
            assert_intact(&event);
        }
    }
    Ok(())
}

/// A payload packed into the send buffer: as much as was announced, less, much less, nothing.
pub fn packed_in_place<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let max = pair.a.capabilities().limits.send_copy_bytes_max;
    let mut imm = 0;
    for room in [0, 1, 40, 41, 47, 48, 49, 63, 64, 65, 200, 4096, max - 8] {
        for packed in [0, 1, 40, 41, 48, 49, 64, 65, room / 2, room.saturating_sub(1), room] {
            if packed > room {
                continue;
            }
            for header_bytes in [0, 8] {
                imm += 1;
                let bytes = patterned(imm, header_bytes + packed);
                let (header, payload) = bytes.split_at(header_bytes);
                let posted = pair.post(|pair| {
                    pair.a.device().post_send_fill(pair.ab, imm, header, room, |start, room_bytes| {
                        assert_eq!(room_bytes, room);
                        fill_room(start, payload);
                        packed
                    })
                });
                assert_eq!(posted, Posted::Complete);
                let event = pair.until("the message", |pair| pair.b.take_arrival());
                assert_eq!(
                    event,
                    Event::Message { qp: pair.ba, imm, bytes },
                    "{packed} bytes in room for {room}"
                );
            }
        }
    }
    Ok(())
}

/// A process sends to itself.
pub fn loopback<F: Fabric>(setup: &Setup) -> Outcome {
    let mut node = Node::<F>::open(setup, 0);
    need(node.capabilities().loopback, "the device has no loopback")?;
    let address = node.address();
    let qp = node.connect(&address);
    for imm in 0..500 {
        let len_bytes = imm as usize * 13 % 9000;
        wait_for("room", || {
            let posted = node.send(qp, imm, len_bytes);
            node.turn();
            assert_ne!(posted, Posted::Failed, "{}", node.failure(qp));
            (posted == Posted::Complete).then_some(())
        });
    }
    for expected in 0..500 {
        let event = wait_for("own messages", || {
            node.turn();
            node.take_arrival()
        });
        assert_intact(&event);
        assert!(matches!(event, Event::Message { imm, qp: from, .. } if imm == expected && from == qp));
    }
    Ok(())
}

/// Thousands of messages of mixed lengths in both directions between two processes.
pub fn two_processes<F: Fabric>(setup: &Setup) -> Outcome {
    let mut duo = Duo::<F>::connected(setup)?;
    const COUNT: u32 = 5000;
    let order = format!("send {} {COUNT} 9000", duo.back);
    duo.agent.tell(&order);
    for imm in 0..COUNT {
        duo.send(imm, imm as usize * 41 % 9000);
    }
    let answer = wait_for("the agent to send", || {
        duo.node.turn();
        duo.agent.answer()
    });
    assert_eq!(answer, "sent");
    for expected in 0..COUNT {
        let event = wait_for("the agent's messages", || {
            duo.node.turn();
            duo.node.take_arrival()
        });
        assert_intact(&event);
        assert!(
            matches!(event, Event::Message { imm, .. } if imm == expected),
            "{event:?} is not number {expected}"
        );
    }
    assert_eq!(duo.ask(&format!("expect {}", COUNT + 1)), "received");
    assert_eq!(duo.ask("count"), (COUNT + 1).to_string());
    Ok(())
}
