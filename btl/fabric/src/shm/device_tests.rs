//! Several devices of one process, for what is hard to reach from outside: moments between two steps of a protocol.

use std::time::{Duration, Instant};

use ironband_core::config::{Config, SingleCopy};
use ironband_core::limits::CONNECT_SLOTS;
use ironband_core::wire::RecordKind;

use super::device::ShmDevice;
use super::queue_pair::CrossMemory;
use super::transfer::AheadState;
use crate::{
    Access, AtomicOp, AtomicWidth, Completion, CompletionStatus, Device, Job, Message, Posted,
    QueuePairNumber, ReadHint, RemoteAddress, WorkId,
};

fn open(rank: u32) -> ShmDevice {
    let config = Config { ring_bytes: Some(32 << 10), ..Config::default() };
    ShmDevice::open(&config, &Job { local_ranks: 2, rank }).expect("memfd and /proc")
}

fn connect(from: &mut ShmDevice, to: &ShmDevice) -> QueuePairNumber {
    from.create_qp((), (), to.address()).expect("same machine")
}

/// Takes a message and gives it back; its immediate data.
fn receive(device: &mut ShmDevice) -> Option<u32> {
    match device.poll_cq(()) {
        Some(Completion::Received(Message { imm, token, .. })) => {
            device.release(token);
            Some(imm)
        }
        None => None,
        Some(other) => panic!("{other:?}"),
    }
}

/// Polls until something other than a message comes.
fn until<T>(mut step: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = step() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never happened");
    }
}

fn remote(device: &mut ShmDevice, memory: &mut [u8]) -> RemoteAddress {
    // SAFETY: the tests keep the memory as long as the device.
    let region = unsafe { device.register((), memory.as_mut_ptr(), memory.len(), Access::ALL) };
    RemoteAddress { address: memory.as_ptr() as u64, key: region.expect("room").key }
}

#[test]
fn first_messages_of_many_peers_need_no_scan() {
    let mut target = open(0);
    let mut senders: Vec<ShmDevice> = (1..=60).map(open).collect();
    for (rank, sender) in senders.iter_mut().enumerate() {
        let qp = connect(sender, &target);
        assert_eq!(sender.post_send(qp, rank as u32, b"first", b""), Posted::Complete);
    }
    // More rings than can be hot: most fall asleep with a message inside that was sent when there was no bell yet.
    let mut seen = [false; 60];
    for _ in 0..200 {
        if let Some(imm) = receive(&mut target) {
            seen[imm as usize] = true;
        }
    }
    assert!(seen.iter().all(|seen| *seen), "{} of 60 have come", seen.iter().filter(|seen| **seen).count());
}

#[test]
fn no_peer_starves_when_more_than_the_hot_ones_flood() {
    let mut target = open(0);
    let mut senders: Vec<(ShmDevice, QueuePairNumber)> = (1..=20)
        .map(|rank| {
            let mut sender = open(rank);
            let qp = connect(&mut sender, &target);
            (sender, qp)
        })
        .collect();
    let mut counts = [0_u32; 20];
    for _ in 0..20_000 {
        for (rank, (sender, qp)) in senders.iter_mut().enumerate() {
            while sender.post_send(*qp, rank as u32, b"flood", b"") == Posted::Complete {}
        }
        if let Some(imm) = receive(&mut target) {
            counts[imm as usize] += 1;
        }
    }
    let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
    assert!(least >= most.map(|most| most / 4), "{counts:?}");
}

#[test]
fn a_peer_that_does_not_accept_is_reported_once_and_waited_for() {
    let (mut asker, mut target) = (open(0), open(1));
    let qp = connect(&mut asker, &target);
    assert_eq!(asker.post_send(qp, 7, b"early", b""), Posted::Complete);
    asker.connect_deadline = Duration::ZERO;
    for told in [true, false] {
        asker.last_life_check = Instant::now().checked_sub(Duration::from_secs(5)).expect("up for long");
        asker.keep_house();
        let notice = asker.take_notice();
        assert_eq!(
            notice.is_some_and(|text| text.contains("connect_seconds") && text.contains("rank 1")),
            told
        );
    }
    assert_eq!(asker.failure(qp), None);
    assert_eq!(until(|| receive(&mut target)), 7);
    assert!(!asker.is_idle(), "the answer has not been read");
    until(|| {
        assert_eq!(asker.poll_cq(()), None);
        asker.is_idle().then_some(())
    });
}

#[test]
fn no_free_request_slot_is_back_pressure_for_posts_and_for_answers() {
    let (mut target, mut answerer) = (open(0), open(1));
    let mut others: Vec<(ShmDevice, QueuePairNumber)> = (2..2 + CONNECT_SLOTS as u32 + 5)
        .map(|rank| {
            let mut other = open(rank);
            let qp = connect(&mut other, &target);
            (other, qp)
        })
        .collect();
    let posted: Vec<Posted> =
        others.iter_mut().map(|(other, qp)| other.post_send(*qp, 1, b"hello", b"")).collect();
    assert_eq!(posted.iter().filter(|posted| **posted == Posted::Complete).count(), CONNECT_SLOTS);
    assert!(posted[CONNECT_SLOTS..].iter().all(|posted| *posted == Posted::Busy), "{posted:?}");
    // The target asks a process that has no way back, because the slots are taken.
    let mut cell = [0_u64; 1];
    // SAFETY: 8 bytes of this frame.
    let bytes = unsafe { std::slice::from_raw_parts_mut(cell.as_mut_ptr().cast::<u8>(), 8) };
    let remote = remote(&mut answerer, bytes);
    let qp = connect(&mut target, &answerer);
    let mut old = 1_u64;
    let result = std::ptr::from_mut(&mut old).cast();
    // SAFETY: `old` lives until the completion.
    let asked = unsafe {
        target.post_atomic(qp, WorkId(3), result, remote, AtomicOp::FetchAdd(5), AtomicWidth::Eight)
    };
    assert_eq!(asked, Posted::Queued);
    (0..1000).for_each(|_| assert_eq!(answerer.poll_cq(()), None));
    let (mut messages, mut answers) = (0, 0);
    until(|| {
        match target.poll_cq(()) {
            Some(Completion::Received(Message { token, .. })) => {
                target.release(token);
                messages += 1;
            }
            Some(Completion::Done { id, status, .. }) => {
                assert_eq!((id, status), (WorkId(3), CompletionStatus::Success));
                answers += 1;
            }
            None => {}
            Some(other) => panic!("{other:?}"),
        }
        assert_eq!(answerer.poll_cq(()), None);
        for (index, (other, qp)) in others.iter_mut().enumerate() {
            assert_eq!(other.poll_cq(()), None);
            if index >= CONNECT_SLOTS && other.qps[qp.index()].tx.is_none() {
                assert_ne!(other.post_send(*qp, 1, b"hello", b""), Posted::Failed);
            }
        }
        (messages == CONNECT_SLOTS + 5 && answers == 1).then_some(())
    });
    assert_eq!(old, 0);
}

#[test]
fn a_pull_from_a_peer_that_computes_is_read_through_the_kernel() {
    let (mut reader, mut owner) = (open(0), open(1));
    let mut source: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    let mut target = vec![0_u8; source.len()];
    let remote = remote(&mut owner, &mut source);
    let qp = connect(&mut reader, &owner);
    let (local, len) = (target.as_mut_ptr(), target.len());
    // SAFETY: `target` lives until the completion.
    let posted =
        unsafe { reader.post_read(qp, WorkId(9), local, None, remote, len, ReadHint::OwnerIsWaiting) };
    if reader.qps[qp.index()].cross_memory != CrossMemory::Permitted {
        println!("skipped: the kernel does not permit copies between processes here");
        return;
    }
    assert_eq!(posted, Posted::Queued, "the first transfers are measured through the ring");
    let done = until(|| reader.poll_cq(()));
    assert!(matches!(done, Completion::Done { id: WorkId(9), status: CompletionStatus::Success, .. }));
    assert_eq!(target, source);
    // The owner comes back and sends what nobody waits for any more.
    target.fill(0);
    for _ in 0..10_000 {
        assert_eq!((owner.poll_cq(()), reader.poll_cq(())), (None, None));
    }
    assert!(reader.failure(qp).is_none() && owner.is_idle());
    assert!(
        target.iter().all(|byte| *byte == 0),
        "a late answer was written to memory that serves something else"
    );
}

#[test]
fn a_shared_read_that_was_flushed_is_not_written_to() {
    let (mut reader, mut owner) = (open(0), open(1));
    let mut source = vec![7_u8; 1 << 20];
    let mut target = vec![0_u8; source.len()];
    let remote = remote(&mut owner, &mut source);
    let qp = connect(&mut reader, &owner);
    assert_eq!(reader.post_send(qp, 0, b"connect", b""), Posted::Complete);
    let back = connect(&mut owner, &reader);
    assert_eq!(owner.post_send(back, 0, b"connect", b""), Posted::Complete);
    let posted = reader.share(qp, WorkId(1), target.as_mut_ptr(), remote, target.len());
    assert_eq!(posted, Some(Posted::Queued));
    // So that there is no room for the goodbye, which would stop the owner too.
    let mut filling = 0;
    while reader.post_send(qp, 0, b"fill", b"") == Posted::Complete {
        filling += 1;
    }
    reader.destroy_qp(qp);
    assert!(matches!(
        reader.poll_cq(()),
        Some(Completion::Done { id: WorkId(1), status: CompletionStatus::Flushed, .. })
    ));
    let messages = (0..1000).filter_map(|_| receive(&mut owner)).count();
    assert_eq!(messages, 1 + filling);
    assert!(target.iter().all(|byte| *byte == 0), "written after the completion");
}

#[test]
fn a_post_that_fails_has_no_completion() {
    let (mut asker, target) = (open(0), open(1));
    let qp = connect(&mut asker, &target);
    assert_eq!(asker.post_send(qp, 0, b"connect", b""), Posted::Complete);
    // A peer that gives back what was never sent.
    let tx = asker.qps[qp.index()].tx.as_mut().expect("connected");
    tx.memory.head().freed.store(1 << 20, std::sync::atomic::Ordering::Release);
    tx.reserve();
    tx.unreserve();
    let mut old = 0_u64;
    let (result, remote) = (std::ptr::from_mut(&mut old).cast(), RemoteAddress { address: 0, key: 0 });
    // SAFETY: `old` lives until the end of the test.
    let posted =
        unsafe { asker.post_atomic(qp, WorkId(3), result, remote, AtomicOp::Swap(1), AtomicWidth::Eight) };
    assert_eq!(posted, Posted::Failed);
    assert_eq!(asker.poll_cq(()), Some(Completion::Disconnected { qp }));
    assert_eq!(asker.poll_cq(()), None);
}

#[test]
fn what_was_sent_before_a_failure_arrives_intact_or_not_at_all() {
    let (mut sender, mut receiver) = (open(0), open(1));
    let qp = connect(&mut sender, &receiver);
    assert_eq!(sender.post_send(qp, 0, b"connect", b""), Posted::Complete);
    assert_eq!(until(|| receive(&mut receiver)), 0);
    assert_eq!(sender.post_send(qp, 1, &[0x5a; 3000], b""), Posted::Complete);
    let Some(Completion::Received(Message { payload, token, .. })) = receiver.poll_cq(()) else {
        panic!("the message has been published")
    };
    sender.fail(qp, "a test".to_owned());
    // SAFETY: the payload is valid until it is released.
    let bytes = unsafe { std::slice::from_raw_parts(payload.as_ptr(), payload.len()) };
    assert!(bytes.iter().all(|byte| *byte == 0x5a), "the memory of a held message was taken away");
    receiver.release(token);
}

/// The short way to messages leaves what is wrong with a ring to be found by a poll.
#[test]
fn a_corrupt_record_behind_messages_ends_the_peer() {
    let (mut sender, mut receiver) = (open(0), open(1));
    let qp = connect(&mut sender, &receiver);
    assert_eq!(sender.post_send(qp, 0, b"connect", b""), Posted::Complete);
    assert_eq!(until(|| receive(&mut receiver)), 0);
    for imm in [1, 2] {
        assert_eq!(sender.post_send(qp, imm, b"a message", b""), Posted::Complete);
    }
    let tx = sender.qps[qp.index()].tx.as_mut().expect("connected");
    let claim = tx.claim(8).expect("an honest receiver").expect("room");
    tx.publish(claim, RecordKind::Send as u8, 10_000_000, 3);
    for imm in [1, 2] {
        let message = receiver.poll_message(()).expect("it is there");
        assert_eq!(message.imm, imm);
        receiver.release(message.token);
    }
    assert_eq!(receiver.poll_message(()), None);
    let ended = receiver.poll_cq(());
    assert!(matches!(ended, Some(Completion::Disconnected { .. })), "{ended:?}");
    assert_eq!((receiver.poll_message(()), receiver.poll_cq(())), (None, None));
}

/// One announcement from `owner`, taken by `reader` and read, at once or after a while. Says whether the bytes were on their
/// way with it.
fn announce(
    (owner, to_reader): (&mut ShmDevice, QueuePairNumber),
    (reader, to_owner): (&mut ShmDevice, QueuePairNumber),
    (remote, sink): (RemoteAddress, &mut [u8]),
    at_once: bool,
) -> bool {
    assert_eq!(owner.post_send_announcing(to_reader, 0, b"announced", b"", remote.key), Posted::Complete);
    until(|| receive(reader));
    let came = reader.qps[to_owner.index()].ahead.state == AheadState::Due(None);
    if !at_once {
        (0..50).for_each(|_| assert_eq!(reader.poll_cq(()), None));
    }
    let (target, id) = (sink.as_mut_ptr(), WorkId(1));
    // SAFETY: the sink is as long as the region.
    let posted =
        unsafe { reader.post_read(to_owner, id, target, None, remote, sink.len(), ReadHint::OwnerIsWaiting) };
    assert_eq!(posted, Posted::Queued, "through the ring");
    let completion = until(|| {
        assert_eq!(owner.poll_cq(()), None);
        reader.poll_cq(())
    });
    assert!(
        matches!(completion, Completion::Done { status: CompletionStatus::Success, .. }),
        "{completion:?}"
    );
    came
}

#[test]
fn memory_comes_unasked_when_that_was_asked_for_and_stops_when_nobody_waits() {
    let config = Config { single_copy: SingleCopy::Ring, ..Config::default() };
    let open = |rank| ShmDevice::open(&config, &Job { local_ranks: 2, rank }).expect("memfd and /proc");
    let (mut owner, mut reader) = (open(0), open(1));
    let (to_reader, to_owner) = (connect(&mut owner, &reader), connect(&mut reader, &owner));
    let mut memory: Vec<u8> = (0..20_000_u32).map(|index| index as u8).collect();
    let region = remote(&mut owner, &mut memory);
    let mut sink = vec![0_u8; memory.len()];
    let mut round = |at_once| {
        sink.fill(0xee);
        let came = announce((&mut owner, to_reader), (&mut reader, to_owner), (region, &mut sink), at_once);
        assert!(sink == memory);
        (came, reader.qps[to_owner.index()].ahead.hold)
    };
    let came: Vec<bool> = (0..40).map(|_| round(true).0).collect();
    assert!(!came[0], "nobody has asked yet");
    assert!(came.iter().filter(|came| **came).count() >= 5, "asked for five times to measure it: {came:?}");
    // Now the reader is late: it says so, and for a good while nothing is sent in vain.
    let late: Vec<(bool, u32)> = (0..200).map(|_| round(false)).collect();
    let in_vain = late.iter().filter(|(came, _)| *came).count();
    assert!(in_vain <= 3, "{in_vain} of 200 were sent in vain");
}
