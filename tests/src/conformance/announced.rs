//! Messages that announce a region: the device may send its memory along, and nobody must be able to tell, whatever the
//! reader does with the announcement.

use ironband_core::config::SingleCopy;
use ironband_fabric::{Access, CompletionStatus, Device, Fabric, Posted, ReadHint};

use super::node::{Event, Pair, assert_intact, wait_for};
use super::{Outcome, Setup, need};

/// Around the lengths from which and up to which sending along can pay, and beyond.
const LENGTHS: [usize; 9] = [1, 4096, 10_001, 16_384, 20_000, 65_536, 131_072, 131_073, 1 << 20];
/// Enough for a device that chooses by measuring to try everything it has.
const ROUNDS: u32 = 40;
/// Length of the message that announces.
const MESSAGE_BYTES: usize = 96;

/// `b` announces a region; `a` takes the message, does `before`, and reads `range` of the region.
fn announce_and_read<F: Fabric>(
    pair: &mut Pair<F>,
    (source, sink): (usize, usize),
    round: u32,
    range: std::ops::Range<usize>,
    before: impl FnOnce(&mut Pair<F>),
) -> CompletionStatus {
    let key = pair.b.remote(source, 0).key;
    let posted = pair.post(|pair| pair.b.announce(pair.ba, round, MESSAGE_BYTES, key));
    assert_eq!(posted, Posted::Complete);
    // Polled by hand: a read that is posted before the next poll finds what was sent along.
    let message = wait_for("the announcement", || pair.a.poll());
    assert_intact(&message);
    before(pair);
    let remote = pair.b.remote(source, range.start);
    pair.finish(u64::from(round), |pair| {
        pair.a.read(pair.ab, u64::from(round), (sink, 0), remote, range.len(), ReadHint::OwnerIsWaiting)
    })
}

#[track_caller]
fn assert_read<F: Fabric>(pair: &Pair<F>, (source, sink): (usize, usize), range: std::ops::Range<usize>) {
    let expected = pair.b.pages(source).load(range.start, range.len());
    let found = pair.a.pages(sink).load(0, range.len());
    if let Some(at) = (0..range.len()).find(|&at| expected[at] != found[at]) {
        panic!("byte {at} of {range:?} is {:#04x}, expected {:#04x}", found[at], expected[at]);
    }
}

fn rounds<F: Fabric>(
    setup: &Setup,
    range_of: fn(usize) -> std::ops::Range<usize>,
    before: impl Fn(&mut Pair<F>),
) {
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        for len_bytes in LENGTHS {
            let both = (pair.b.buffer(len_bytes, 0, Access::ALL), pair.a.buffer(len_bytes, 1, Access::LOCAL));
            for round in 0..ROUNDS {
                // Other bytes each time: what came with an earlier round would be noticed.
                pair.b.pages(both.0).fill(1000 + round);
                let range = range_of(len_bytes);
                let status = announce_and_read(&mut pair, both, round, range.clone(), &before);
                assert_eq!(
                    status,
                    CompletionStatus::Success,
                    "{len_bytes} bytes, {:?}",
                    setup.config.single_copy
                );
                assert_read(&pair, both, range);
            }
            pair.until("both to be idle", |pair| {
                (pair.a.device().is_idle() && pair.b.device().is_idle()).then_some(())
            });
            pair.b.unmap(both.0);
            pair.a.unmap(both.1);
        }
        pair.a.assert_connected();
        pair.b.assert_connected();
    }
}

/// The reader waits: it reads as soon as it has the message.
pub fn read_at_once<F: Fabric>(setup: &Setup) -> Outcome {
    rounds::<F>(setup, |len_bytes| 0..len_bytes, |_| ());
    Ok(())
}

/// The reader does something else first, so that what was sent along finds nobody.
pub fn read_late<F: Fabric>(setup: &Setup) -> Outcome {
    rounds::<F>(setup, |len_bytes| 0..len_bytes, |pair| (0..50).for_each(|_| pair.turn()));
    Ok(())
}

/// The reader wants a part only.
pub fn read_in_part<F: Fabric>(setup: &Setup) -> Outcome {
    rounds::<F>(setup, |len_bytes| len_bytes / 16..len_bytes - len_bytes / 32, |_| ());
    Ok(())
}

/// Announcements one behind the other, read in another order, with other messages in between: everything arrives once and
/// in order.
pub fn many_at_once<F: Fabric>(setup: &Setup) -> Outcome {
    const REGIONS: usize = 12;
    for setup in setup.all_single_copies() {
        let mut pair = Pair::<F>::connected(&setup);
        let regions: Vec<(usize, usize)> = (0..REGIONS)
            .map(|index| {
                let len_bytes = 3000 + index * 2777;
                (
                    pair.b.buffer(len_bytes, index as u32, Access::ALL),
                    pair.a.buffer(len_bytes, 99, Access::LOCAL),
                )
            })
            .collect();
        for round in 0..ROUNDS {
            for (index, (source, _)) in regions.iter().enumerate() {
                pair.b.pages(*source).fill(round * 100 + index as u32);
                let key = pair.b.remote(*source, 0).key;
                let _ = pair.post(|pair| pair.b.announce(pair.ba, 2 * index as u32, MESSAGE_BYTES, key));
                pair.send_ba(2 * index as u32 + 1, 40);
            }
            for expected in 0..2 * REGIONS as u32 {
                let message = pair.until("a message", |pair| pair.a.take_arrival());
                assert!(matches!(message, Event::Message { imm, .. } if imm == expected), "{message:?}");
                assert_intact(&message);
            }
            for (index, (source, sink)) in regions.iter().enumerate().rev() {
                let (remote, len_bytes) = (pair.b.remote(*source, 0), pair.b.pages(*source).len_bytes());
                let id = index as u64;
                let status = pair.finish(id, |pair| {
                    pair.a.read(pair.ab, id, (*sink, 0), remote, len_bytes, ReadHint::OwnerIsWaiting)
                });
                assert_eq!(status, CompletionStatus::Success);
                assert_read(&pair, (*source, *sink), 0..len_bytes);
            }
        }
        pair.a.assert_connected();
    }
    Ok(())
}

/// The region is deregistered, and its memory unmapped, right behind the announcement: the read ends, and what comes after
/// is whole.
pub fn gone<F: Fabric>(setup: &Setup) -> Outcome {
    for how in [SingleCopy::Ring, SingleCopy::Auto] {
        let mut pair = Pair::<F>::connected(&setup.with_single_copy(how));
        need(pair.a.capabilities().survives_refusal, "a refused request ends the connection")?;
        let sink = pair.a.buffer(16_384, 1, Access::LOCAL);
        for round in 0..ROUNDS {
            let source = pair.b.buffer(16_384, round, Access::ALL);
            let gone = round % 4 == 3;
            let status = announce_and_read(&mut pair, (source, sink), round, 0..16_384, |pair| {
                if gone {
                    pair.b.deregister(source);
                }
            });
            match status {
                CompletionStatus::Success => assert_read(&pair, (source, sink), 0..16_384),
                status => assert!(gone && status == CompletionStatus::RemoteAccess, "{status:?}"),
            }
            pair.b.unmap(source);
        }
    }
    Ok(())
}

/// A key that is of no region, or of one that is not for reading, means nothing: the message arrives.
pub fn any_key<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let hidden = pair.b.buffer(16_384, 1, Access { remote_write: true, ..Access::LOCAL });
    let hidden = pair.b.remote(hidden, 0).key;
    for (imm, key) in (0..).zip([0, 1, u64::MAX, 1 << 40, 0xffff_ffff, hidden].repeat(10)) {
        let posted = pair.post(|pair| pair.b.announce(pair.ba, imm, 40, key));
        assert_eq!(posted, Posted::Complete);
        let message = pair.until("the message", |pair| pair.a.take_arrival());
        assert_intact(&message);
    }
    Ok(())
}

/// The reader destroys its queue pair when the bytes are on their way, and comes back.
pub fn destroyed<F: Fabric>(setup: &Setup) -> Outcome {
    let setup = setup.with_single_copy(SingleCopy::Ring);
    let mut pair = Pair::<F>::connected(&setup);
    let both = (pair.b.buffer(65_536, 0, Access::ALL), pair.a.buffer(65_536, 1, Access::LOCAL));
    for round in 0..ROUNDS {
        pair.b.pages(both.0).fill(round);
        let status = announce_and_read(&mut pair, both, round, 0..65_536, |_| ());
        assert_eq!(status, CompletionStatus::Success);
    }
    let key = pair.b.remote(both.0, 0).key;
    let _ = pair.post(|pair| pair.b.announce(pair.ba, 77, MESSAGE_BYTES, key));
    assert_intact(&wait_for("the announcement", || pair.a.poll()));
    let remote = pair.b.remote(both.0, 0);
    let (ab, sink) = (pair.ab, both.1);
    let posted = pair.a.read(ab, 500, (sink, 0), remote, 65_536, ReadHint::OwnerIsWaiting);
    pair.a.device().destroy_qp(ab);
    if posted == Posted::Queued {
        assert_eq!(
            pair.until("the end of the read", |pair| pair.a.take_done(500)),
            CompletionStatus::Flushed
        );
    }
    let address = pair.b.address();
    pair.ab = pair.a.connect(&address);
    let status = pair
        .finish(501, |pair| pair.a.read(pair.ab, 501, (sink, 0), remote, 65_536, ReadHint::OwnerIsWaiting));
    assert_eq!(status, CompletionStatus::Success);
    assert_read(&pair, both, 0..65_536);
    Ok(())
}
