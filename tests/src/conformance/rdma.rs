//! RDMA reads and writes: lengths, alignments, many at once, refusals, another process that does not poll.

use std::time::Duration;

use ironband_core::config::SingleCopy;
use ironband_fabric::{Access, CompletionStatus, Device, Fabric, Posted, ReadHint, RemoteAddress};

use super::agent::Duo;
use super::memory::{first_difference, patterned};
use super::node::{Event, Node, Pair, wait_for};
use super::{Outcome, Setup, Skip, need};

const HINTS: [ReadHint; 2] = [ReadHint::OwnerMayBeAway, ReadHint::OwnerIsWaiting];
/// Nothing, odd, around words, lines, pages and rings, several MiB.
const LENGTHS: [usize; 20] = [
    0,
    1,
    3,
    7,
    8,
    9,
    63,
    64,
    65,
    4093,
    4096,
    4097,
    8191,
    65_535,
    65_537,
    131_072,
    300_001,
    1 << 20,
    (1 << 20) + 1,
    (5 << 20) + 3,
];
/// Why a case is not run on a device that [`refused_and_reconnected`] is for.
const REFUSAL: &str = "a refused request ends the connection (see rdma::refused_and_reconnected)";
/// Bytes around each transfer that must not change.
const GUARD: usize = 64;

/// Reads of every length, with both hints, from an odd address to an odd address.
pub fn read_lengths<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        for len_bytes in LENGTHS {
            for (round, hint) in HINTS.into_iter().cycle().take(6).enumerate() {
                // Long ones are slow and the ways are chosen anew for each class of length.
                if round >= 2 && len_bytes > 400_000 && len_bytes != 1 << 20 {
                    continue;
                }
                let (source_offset, sink_offset) = (round % 3 * 5, GUARD + round);
                let source = pair.b.buffer(len_bytes + 16, 1, Access::ALL);
                let sink = pair.a.buffer(len_bytes + 2 * GUARD + 8, 2, Access::LOCAL);
                let remote = pair.b.remote(source, source_offset);
                let status = pair.finish(round as u64, |pair| {
                    pair.a.read(pair.ab, round as u64, (sink, sink_offset), remote, len_bytes, hint)
                });
                let what = format!("{len_bytes} bytes, {hint:?}, {:?}", setup.config.single_copy);
                assert_eq!(status, CompletionStatus::Success, "{what}");
                let expected = &patterned(1, len_bytes + 16)[source_offset..source_offset + len_bytes];
                assert_surrounded(
                    pair.a.pages(sink).load(0, len_bytes + 2 * GUARD + 8),
                    sink_offset,
                    expected,
                    &what,
                );
                pair.until("both to be idle", |pair| {
                    (pair.a.device().is_idle() && pair.b.device().is_idle()).then_some(())
                });
                pair.b.unmap(source);
                pair.a.unmap(sink);
            }
        }
    }
    Ok(())
}

/// Fails unless `bytes` is the pattern of seed 2 with `expected` at `offset`.
#[track_caller]
fn assert_surrounded(bytes: Vec<u8>, offset: usize, expected: &[u8], what: &str) {
    let mut wanted = patterned(2, bytes.len());
    wanted[offset..offset + expected.len()].copy_from_slice(expected);
    if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != wanted[at]) {
        panic!("{what}: byte {at} is wrong; the transfer is {offset}..{}", offset + expected.len());
    }
}

/// Writes of every length, from an odd address to an odd address.
pub fn write_lengths<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        for len_bytes in LENGTHS {
            let source = pair.a.buffer(len_bytes + 16, 1, Access::LOCAL);
            let target = pair.b.buffer(len_bytes + 2 * GUARD, 2, Access::ALL);
            let remote = pair.b.remote(target, GUARD - 3);
            let status =
                pair.finish(5, |pair| pair.a.write(pair.ab, 5, (source, 5), remote, len_bytes, None));
            let what = format!("{len_bytes} bytes, {:?}", setup.config.single_copy);
            assert_eq!(status, CompletionStatus::Success, "{what}");
            // Complete means visible: no poll of the target in between.
            let expected = &patterned(1, len_bytes + 16)[5..5 + len_bytes];
            assert_surrounded(
                pair.b.pages(target).load(0, len_bytes + 2 * GUARD),
                GUARD - 3,
                expected,
                &what,
            );
            assert!(pair.b.take_arrival().is_none(), "nobody asked for a notification");
        }
    }
    Ok(())
}

/// The notification comes after the data, with its length.
pub fn write_with_immediate<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        need(pair.a.capabilities().write_with_immediate, "the device cannot notify of a write")?;
        for (id, len_bytes) in LENGTHS.into_iter().enumerate() {
            let source = pair.a.buffer(len_bytes, 1, Access::LOCAL);
            let target = pair.b.buffer(len_bytes, 2, Access::ALL);
            let (remote, imm) = (pair.b.remote(target, 0), 0xfff0_0000 + id as u32);
            let posted =
                pair.post(|pair| pair.a.write(pair.ab, id as u64, (source, 0), remote, len_bytes, Some(imm)));
            let event = pair.until("the notification", |pair| pair.b.take_arrival());
            assert_eq!(event, Event::Written { qp: pair.ba, imm, len_bytes });
            assert_eq!(
                first_difference(&pair.b.pages(target).load(0, len_bytes), 1),
                None,
                "{len_bytes} bytes"
            );
            if posted == Posted::Queued {
                let status = pair.until("the completion", |pair| pair.a.take_done(id as u64));
                assert_eq!(status, CompletionStatus::Success);
            }
        }
    }
    Ok(())
}

/// Reads in both directions and writes at the same time; each ends once, with its own data.
pub fn many_at_once<F: Fabric>(setup: &Setup) -> Outcome {
    const EACH: u64 = 30;
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        let length = |id: u64| 20_000 + id as usize * 9_973;
        let (mut sources, mut sinks) = (Vec::new(), Vec::new());
        for id in 0..EACH {
            let side = if id % 2 == 0 { (&mut pair.a, &mut pair.b) } else { (&mut pair.b, &mut pair.a) };
            sources.push(side.1.buffer(length(id), id as u32, Access::ALL));
            sinks.push(side.0.buffer(length(id), 1000, Access::LOCAL));
        }
        let mut waiting = 0;
        for id in 0..EACH {
            let (source, sink) = (sources[id as usize], sinks[id as usize]);
            let hint = HINTS[(id / 2 % 2) as usize];
            let posted = pair.post(|pair| {
                let local = (sink, 0);
                if id % 2 == 0 {
                    let remote = pair.b.remote(source, 0);
                    pair.a.read(pair.ab, id, local, remote, length(id), hint)
                } else {
                    let remote = pair.a.remote(source, 0);
                    pair.b.read(pair.ba, id, local, remote, length(id), hint)
                }
            });
            waiting += u64::from(posted == Posted::Queued);
        }
        pair.until("all reads", |pair| {
            let done = |node: &Node<F>| node.inbox.iter().filter(|e| matches!(e, Event::Done { .. })).count();
            ((done(&pair.a) + done(&pair.b)) as u64 == waiting).then_some(())
        });
        for id in 0..EACH {
            let node = if id % 2 == 0 { &mut pair.a } else { &mut pair.b };
            if let Some(status) = node.take_done(id) {
                assert_eq!(status, CompletionStatus::Success);
            }
            assert_eq!(node.take_done(id), None, "request {id} ended twice");
            let bytes = node.pages(sinks[id as usize]).load(0, length(id));
            assert_eq!(
                first_difference(&bytes, id as u32),
                None,
                "read {id}, {:?}",
                setup.config.single_copy
            );
        }
        assert_eq!((pair.a.inbox.len(), pair.b.inbox.len()), (0, 0), "nothing else happened");
    }
    Ok(())
}

/// Reads and writes between two processes, both reading from each other at the same time.
pub fn across_processes<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut duo = Duo::<F>::connected(&setup)?;
        let own = duo.node.buffer(4 << 20, 9, Access::ALL);
        let own_remote = duo.node.remote(own, 0);
        // The longest is divided between both processes: the end of it comes from the other one.
        for len_bytes in [1, 4097, 100_000, 400_000, 4 << 20] {
            let (theirs, remote) = duo.remote_buffer(len_bytes, 7);
            let order = format!("read {} {} {} {len_bytes} 10", duo.back, own_remote.address, own_remote.key);
            duo.agent.tell(&order);
            for id in 0..10 {
                let sink = duo.node.buffer(len_bytes, 0, Access::LOCAL);
                let hint = HINTS[id as usize % 2];
                let posted = duo.post(|node, qp| node.read(qp, id, (sink, 0), remote, len_bytes, hint));
                if posted == Posted::Queued {
                    let status = wait_for("a read", || {
                        duo.node.turn();
                        duo.node.take_done(id)
                    });
                    assert_eq!(status, CompletionStatus::Success);
                }
                let bytes = duo.node.pages(sink).load(0, len_bytes);
                assert_eq!(
                    first_difference(&bytes, 7),
                    None,
                    "{len_bytes} bytes, {:?}",
                    setup.config.single_copy
                );
            }
            let answer = wait_for("the agent's reads", || {
                duo.node.turn();
                duo.agent.answer()
            });
            assert_eq!(answer, "read");
            let source = duo.node.buffer(len_bytes, 8, Access::LOCAL);
            let posted = duo.post(|node, qp| node.write(qp, 99, (source, 0), remote, len_bytes, None));
            if posted == Posted::Queued {
                wait_for("a write", || {
                    duo.node.turn();
                    duo.node.take_done(99)
                });
            }
            assert_eq!(duo.ask(&format!("verify {theirs} 8")), "same");
        }
    }
    Ok(())
}

/// A long read that both processes wait for may be copied by both, a part each. It ends when both parts are there.
pub fn shared_between_both<F: Fabric>(setup: &Setup) -> Outcome {
    const LEN: usize = 4 << 20;
    let mut duo = Duo::<F>::connected(&setup.with_single_copy(SingleCopy::Cma))?;
    let (_, remote) = duo.remote_buffer(LEN, 7);
    let sink = duo.node.buffer(LEN, 0, Access::LOCAL);
    let (nothing, expected) = (vec![0; LEN], patterned(7, LEN));
    for id in 0..100 {
        duo.node.pages(sink).store(0, &nothing);
        let posted = duo.post(|node, qp| node.read(qp, id, (sink, 0), remote, LEN, ReadHint::OwnerIsWaiting));
        if posted == Posted::Queued {
            wait_for("a read", || {
                duo.node.turn();
                duo.node.take_done(id)
            });
        }
        // First the ends of the eighths, without any delay: the other process may be in the middle of its last piece.
        let ends = std::array::from_fn::<u8, 8, _>(|eighth| {
            duo.node.pages(sink).load((eighth + 1) * LEN / 8 - 1, 1)[0]
        });
        for (eighth, byte) in ends.into_iter().enumerate() {
            assert_eq!(byte, expected[(eighth + 1) * LEN / 8 - 1], "read {id}, the end of eighth {eighth}");
        }
        assert!(duo.node.pages(sink).load(0, LEN) == expected, "read {id} ended before all of it was there");
    }
    Ok(())
}

/// One-sided means that the owner of the memory need not poll.
pub fn owner_away<F: Fabric>(setup: &Setup) -> Outcome {
    let mut duo = Duo::<F>::connected(setup)?;
    need(duo.node.capabilities().one_sided, "the device's RDMA needs the target to poll")?;
    if let Some(notice) = duo.node.device().take_notice() {
        return Err(Skip(format!("not to this peer: {notice}")));
    }
    let (theirs, remote) = duo.remote_buffer(200_000, 7);
    assert_eq!(duo.ask("stall"), "stalled");
    let buffer = duo.node.buffer(200_000, 0, Access::LOCAL);
    for hint in HINTS {
        // With the other hint the owner may be asked for help, so its being away is not allowed to the caller.
        if hint == ReadHint::OwnerMayBeAway {
            let posted = duo.post(|node, qp| node.read(qp, 1, (buffer, 0), remote, 200_000, hint));
            if posted == Posted::Queued {
                wait_for("a read from a process that does not poll", || {
                    duo.node.turn();
                    duo.node.take_done(1)
                });
            }
            assert_eq!(first_difference(&duo.node.pages(buffer).load(0, 200_000), 7), None);
        }
    }
    duo.node.pages(buffer).fill(6);
    let posted = duo.post(|node, qp| node.write(qp, 2, (buffer, 0), remote, 200_000, None));
    if posted == Posted::Queued {
        wait_for("a write to a process that does not poll", || {
            duo.node.turn();
            duo.node.take_done(2)
        });
    }
    assert_eq!(duo.agent.ask(&format!("verify {theirs} 6")), "same");
    Ok(())
}

/// What a peer may not do: a wrong key, a range that leaves the region, an access that was not granted, an ended
/// registration. The request ends with an error, the memory is as before, and the connection goes on.
pub fn refused<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need(pair.a.capabilities().checks_remote_keys, "the device does not check remote keys")?;
    need(pair.a.capabilities().survives_refusal, REFUSAL)?;
    const LEN: usize = 100_000;
    let all = pair.b.buffer(LEN, 1, Access::ALL);
    let readable = pair.b.buffer(LEN, 1, Access { remote_read: true, ..Access::LOCAL });
    let writable = pair.b.buffer(LEN, 1, Access { remote_write: true, ..Access::LOCAL });
    let local = pair.b.buffer(LEN, 1, Access::LOCAL);
    let ended = pair.b.buffer(LEN, 1, Access::ALL);
    let own = pair.a.buffer(LEN + 8, 2, Access::LOCAL);
    let gone = pair.b.remote(ended, 0);
    pair.b.deregister(ended);
    let at = |pair: &Pair<F>, buffer, offset: i64| {
        let remote = pair.b.remote(buffer, 0);
        RemoteAddress { address: remote.address.wrapping_add_signed(offset), ..remote }
    };
    let good = pair.b.remote(all, 0);
    let wrong_key = RemoteAddress { key: good.key ^ 0x0100_0000_0000, ..good };
    let no_such_key = RemoteAddress { key: u64::MAX, ..good };
    let wrapping = RemoteAddress { address: u64::MAX - 10, ..good };
    let reads = [
        (wrong_key, "another key"),
        (no_such_key, "no such key"),
        (at(&pair, all, -1), "before the region"),
        (at(&pair, all, 1), "behind the region"),
        (wrapping, "around the end of the address space"),
        (at(&pair, writable, 0), "not readable"),
        (at(&pair, local, 0), "local only"),
        (gone, "deregistered"),
    ];
    let mut id = 0;
    for (remote, what) in reads {
        for hint in HINTS {
            id += 1;
            let status = pair.finish(id, |pair| pair.a.read(pair.ab, id, (own, 0), remote, LEN, hint));
            assert_eq!(status, CompletionStatus::RemoteAccess, "read, {what}");
            assert_eq!(first_difference(&pair.a.pages(own).load(0, LEN), 2), None, "read, {what}");
        }
    }
    let writes = reads.map(|(remote, what)| {
        if what == "not readable" { (at(&pair, readable, 0), "not writable") } else { (remote, what) }
    });
    for (remote, what) in writes {
        for imm in [None, Some(9)] {
            id += 1;
            let status = pair.finish(id, |pair| pair.a.write(pair.ab, id, (own, 0), remote, LEN, imm));
            assert_eq!(status, CompletionStatus::RemoteAccess, "write, {what}");
        }
    }
    for buffer in [readable, local] {
        assert_eq!(first_difference(&pair.b.pages(buffer).load(0, LEN), 1), None, "written in spite of all");
    }
    assert!(pair.b.take_arrival().is_none(), "a refused write is not notified");
    let status = pair.finish(0, |pair| pair.a.read(pair.ab, 0, (own, 0), good, LEN, HINTS[1]));
    assert_eq!(status, CompletionStatus::Success, "the connection goes on");
    Ok(())
}

/// The same on devices whose connection a refused request ends: the request says why it ended, the memory is as before, the
/// connection fails with a reason, and a new one works.
pub fn refused_and_reconnected<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need(pair.a.capabilities().checks_remote_keys, "the device does not check remote keys")?;
    need(!pair.a.capabilities().survives_refusal, "a refused request does not end the connection")?;
    const LEN: usize = 100_000;
    let all = pair.b.buffer(LEN, 1, Access::ALL);
    let readable = pair.b.buffer(LEN, 1, Access { remote_read: true, ..Access::LOCAL });
    let local = pair.b.buffer(LEN, 1, Access::LOCAL);
    let ended = pair.b.buffer(LEN, 1, Access::ALL);
    let own = pair.a.buffer(LEN + 8, 2, Access::LOCAL);
    let gone = pair.b.remote(ended, 0);
    pair.b.deregister(ended);
    let named = pair.a.capabilities().names_refusal;
    let wanted = if named { CompletionStatus::RemoteAccess } else { CompletionStatus::Flushed };
    let good = pair.b.remote(all, 0);
    let behind = RemoteAddress { address: good.address + 1, ..good };
    let cases = [
        (behind, "behind the region"),
        (pair.b.remote(local, 0), "local only"),
        (gone, "deregistered"),
        (pair.b.remote(readable, 0), "not writable"),
    ];
    for (id, (remote, what)) in cases.into_iter().enumerate() {
        let id = id as u64;
        let status = pair.finish(id, |pair| {
            if what == "not writable" || id % 2 == 1 {
                pair.a.write(pair.ab, id, (own, 0), remote, LEN, Some(9))
            } else {
                pair.a.read(pair.ab, id, (own, 0), remote, LEN, HINTS[0])
            }
        });
        assert_eq!(status, wanted, "{what}");
        assert_eq!(first_difference(&pair.a.pages(own).load(0, LEN), 2), None, "{what}");
        pair.until("the failure", |pair| pair.a.is_disconnected(pair.ab).then_some(()));
        let reason = pair.a.failure(pair.ab);
        assert!(reason.contains("rank 1") && reason.contains("refused"), "{what}: {reason}");
        (0..20_000).for_each(|_| pair.turn());
        assert!(pair.b.take_arrival().is_none(), "a refused write is not notified");
        pair.a.inbox.clear();
        pair.b.inbox.clear();
        let (ab, ba) = (pair.ab, pair.ba);
        pair.a.device().destroy_qp(ab);
        pair.b.device().destroy_qp(ba);
        let (a, b) = (pair.a.address(), pair.b.address());
        (pair.ab, pair.ba) = (pair.a.connect(&b), pair.b.connect(&a));
        pair.send_ab(1, 8);
        pair.until("a message of the new life", |pair| pair.b.take_arrival());
        let status = pair.finish(77, |pair| pair.a.read(pair.ab, 77, (own, 0), good, LEN, HINTS[0]));
        assert_eq!(status, CompletionStatus::Success, "the new connection works");
        pair.a.pages(own).fill(2);
    }
    for buffer in [readable, local] {
        assert_eq!(first_difference(&pair.b.pages(buffer).load(0, LEN), 1), None, "written in spite of all");
    }
    Ok(())
}

/// A request for the peer's processor is answered though the peer's queue is full when it looks, and the peer says nothing more.
pub fn answered_behind_many_requests<F: Fabric>(setup: &Setup) -> Outcome {
    const LEN: usize = 16;
    const LONG: usize = 128;
    let mut pair = Pair::<F>::connected(setup);
    let (theirs, mine) = (pair.b.buffer(LEN, 1, Access::ALL), pair.a.buffer(LONG, 2, Access::ALL));
    let (from, to) = (pair.b.remote(theirs, 0), pair.a.remote(mine, 0));
    let own = pair.b.buffer(LONG, 3, Access::LOCAL);
    let sink = pair.a.buffer(LEN, 4, Access::LOCAL);
    let mut id = 0;
    // A write may be two works, so whether the last one finds room for both depends on what is before it.
    for works_before in 0..4 {
        let asked = pair.a.read(pair.ab, u64::MAX, (sink, 0), from, LEN, HINTS[0]);
        assert_ne!(asked, Posted::Busy, "{works_before} works before");
        // The question is to be there before anything of the peer's own has ended.
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..works_before {
            let posted = pair.b.read(pair.ba, id, (own, 0), to, LONG, HINTS[0]);
            assert_ne!(posted, Posted::Busy, "{works_before} works before");
            id += 1;
        }
        while pair.b.write(pair.ba, id, (own, 0), to, LEN, None) != Posted::Busy && id % 300 < 250 {
            id += 1;
        }
        if asked == Posted::Queued {
            let status = pair.until("the answer", |pair| pair.a.take_done(u64::MAX));
            assert_eq!(status, CompletionStatus::Success, "{works_before} works before");
        }
        pair.until("an idle peer", |pair| pair.b.device().is_idle().then_some(()));
        id = id.next_multiple_of(300);
    }
    Ok(())
}

/// A short read goes another way on some devices: it is refused there as well, and leaves its place as it was.
pub fn refused_when_short<F: Fabric>(setup: &Setup) -> Outcome {
    const LEN: usize = 64;
    for len_bytes in [1, 8, 32] {
        for what in ["not readable", "behind the region"] {
            let mut pair = Pair::<F>::connected(setup);
            need(pair.a.capabilities().checks_remote_keys, "the device does not check remote keys")?;
            let remote_read = what != "not readable";
            let target =
                pair.b.buffer(LEN, 1, Access { remote_read, remote_write: !remote_read, ..Access::LOCAL });
            let own = pair.a.buffer(LEN, 2, Access::LOCAL);
            let start = if remote_read { LEN - len_bytes + 1 } else { 0 };
            let start_of = pair.b.remote(target, 0);
            let remote = RemoteAddress { address: start_of.address + start as u64, ..start_of };
            let status =
                pair.finish(3, |pair| pair.a.read(pair.ab, 3, (own, 0), remote, len_bytes, HINTS[0]));
            let refused = matches!(status, CompletionStatus::RemoteAccess | CompletionStatus::Flushed);
            assert!(refused, "{len_bytes} bytes, {what}: {status:?}");
            assert_eq!(
                first_difference(&pair.a.pages(own).load(0, LEN), 2),
                None,
                "{len_bytes} bytes, {what}"
            );
        }
    }
    Ok(())
}

/// The same through the ring, where even a device that leaves the rest to the kernel checks.
pub fn refused_through_the_ring<F: Fabric>(setup: &Setup) -> Outcome {
    refused::<F>(&setup.with_single_copy(SingleCopy::Ring))
}

/// A long write that begins outside the region and ends inside is refused as a whole; so is the reverse.
pub fn refused_in_part<F: Fabric>(setup: &Setup) -> Outcome {
    let setup = setup.with_single_copy(SingleCopy::Ring);
    let mut pair = Pair::<F>::connected(&setup);
    need(pair.a.capabilities().checks_remote_keys, "the device does not check remote keys")?;
    need(pair.a.capabilities().survives_refusal, REFUSAL)?;
    const LEN: usize = 300_000;
    let target = pair.b.buffer(LEN, 1, Access::ALL);
    let own = pair.a.buffer(LEN, 2, Access::LOCAL);
    for shift in [-200_000_i64, 200_000] {
        let remote = pair.b.remote(target, 0);
        let remote = RemoteAddress { address: remote.address.wrapping_add_signed(shift), ..remote };
        let status = pair.finish(1, |pair| pair.a.write(pair.ab, 1, (own, 0), remote, LEN, Some(1)));
        assert_eq!(status, CompletionStatus::RemoteAccess, "moved by {shift}");
        assert!(pair.b.take_arrival().is_none(), "notified of a write that was refused");
    }
    pair.a.assert_connected();
    pair.b.assert_connected();
    Ok(())
}

/// Memory that is gone is an error of that request, not a fault of the process.
pub fn unmapped<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut duo = Duo::<F>::connected(&setup)?;
        need(duo.node.capabilities().survives_refusal, REFUSAL)?;
        let own = duo.node.buffer(300_000, 2, Access::LOCAL);
        let mut id = 0;
        for _ in 0..4 {
            let (theirs, remote) = duo.remote_buffer(300_000, 1);
            assert_eq!(duo.ask(&format!("unmap {theirs}")), "unmapped");
            for hint in HINTS {
                id += 2;
                let read = duo.post(|node, qp| node.read(qp, id, (own, 0), remote, 300_000, hint));
                let write = duo.post(|node, qp| node.write(qp, id + 1, (own, 0), remote, 300_000, None));
                assert_eq!((read, write), (Posted::Queued, Posted::Queued), "an error is a completion");
                for id in [id, id + 1] {
                    let status = wait_for("the error", || {
                        duo.node.turn();
                        duo.node.take_done(id)
                    });
                    let refused =
                        matches!(status, CompletionStatus::Unmapped | CompletionStatus::RemoteAccess);
                    assert!(refused, "{status:?}, {hint:?}, {:?}", setup.config.single_copy);
                }
            }
        }
        duo.node.assert_connected();
        duo.send(5, 5);
        assert_eq!(duo.ask("failures"), "0");
    }
    Ok(())
}

/// Reads, writes and notifications within one process.
pub fn loopback_rdma<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut node = Node::<F>::open(&setup, 0);
        need(node.capabilities().loopback, "the device has no loopback")?;
        let address = node.address();
        let qp = node.connect(&address);
        for (round, len_bytes) in LENGTHS.into_iter().enumerate() {
            let (source, target) =
                (node.buffer(len_bytes, 1, Access::ALL), node.buffer(len_bytes, 2, Access::ALL));
            let remote = node.remote(target, 0);
            let imm = (round % 2 == 1).then_some(round as u32);
            let posted = wait_for("the write", || {
                let posted = node.write(qp, 1, (source, 0), remote, len_bytes, imm);
                node.turn();
                (posted != Posted::Busy).then_some(posted)
            });
            if posted == Posted::Queued {
                let status = wait_for("the write to end", || {
                    node.turn();
                    node.take_done(1)
                });
                assert_eq!(status, CompletionStatus::Success);
            }
            if let Some(imm) = imm {
                let event = wait_for("the notification", || {
                    node.turn();
                    node.take_arrival()
                });
                assert_eq!(event, Event::Written { qp, imm, len_bytes });
            }
            assert_eq!(first_difference(&node.pages(target).load(0, len_bytes), 1), None);
            let sink = node.buffer(len_bytes, 3, Access::LOCAL);
            if node.read(qp, 2, (sink, 0), remote, len_bytes, HINTS[0]) == Posted::Queued {
                wait_for("the read to end", || {
                    node.turn();
                    node.take_done(2)
                });
            }
            assert_eq!(first_difference(&node.pages(sink).load(0, len_bytes), 1), None);
        }
    }
    Ok(())
}

/// A registration ends and its memory goes while a peer's long read of it is under way: the read ends with an error or
/// with the data, and the owner's process survives.
pub fn deregistered_under_way<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        need(pair.a.capabilities().survives_refusal, REFUSAL)?;
        const LEN: usize = 4 << 20;
        let sink = pair.a.buffer(LEN, 0, Access::LOCAL);
        for turns in 0..12_u64 {
            let source = pair.b.buffer(LEN, 1, Access::ALL);
            let remote = pair.b.remote(source, 0);
            let posted = pair.post(|pair| pair.a.read(pair.ab, turns, (sink, 0), remote, LEN, HINTS[1]));
            (0..turns).for_each(|_| pair.turn());
            pair.b.unmap(source);
            if posted == Posted::Queued {
                pair.until("the read to end", |pair| pair.a.take_done(turns));
            }
        }
        pair.a.assert_connected();
        pair.b.assert_connected();
    }
    Ok(())
}
