//! Whose request has ended hears of it, though the other process calls nothing any more: it may compute, or wait in MPI.

use ironband::{Config, Error, Pattern, simulated};
use ironband_fabric::sim::{Faults, Options, World};

const TAG: u64 = 7;
/// Longer than any eager message: it is announced, and read by its receiver.
const LONG: usize = 1_000_000;

/// What a receive of so many bytes gets that finds a message announced and ends as it begins. The sender has heard of it without another call of its receiver.
fn receive_announced(faults: Faults, capacity: usize) -> Result<Vec<u8>, Error> {
    let world = World::new(Options::new(1).with_faults(faults));
    let contexts = simulated(&world, 2, &Config::default()).unwrap();
    let (sender, receiver) = (&contexts[0], &contexts[1]);
    let sent = sender.endpoint(1).unwrap().start_send(TAG, vec![7_u8; LONG]).unwrap();
    // Until it is there, and the connection has nothing else under way, which the read would wait for.
    for _ in 0..1000 {
        sender.progress();
        receiver.progress();
    }
    assert!(receiver.probe(Pattern::exact(0, TAG)).is_some() && !sent.has_ended());
    let received = receiver.start_receive(Pattern::exact(0, TAG), vec![0_u8; capacity]).unwrap();
    assert!(received.has_ended(), "it has not ended as it began");
    assert!((0..1000).any(|_| sent.is_done()), "the sender has not heard of it");
    let _ = sent.wait();
    received.wait().map(|(buffer, _)| buffer)
}

/// The read ends in its post, as over shared memory: there is nothing left that the receiver would wait for.
#[test]
fn a_receive_that_has_ended_when_it_begins() {
    let at_once = Faults { at_once: 1_000_000, ..Faults::NONE };
    assert_eq!(receive_announced(at_once, LONG), Ok(vec![7; LONG]));
}

/// Nothing is read.
#[test]
fn a_receive_that_is_too_short() {
    let outcome = receive_announced(Faults::NONE, 10);
    assert!(matches!(outcome, Err(Error::Truncated { capacity_bytes: 10, .. })), "{outcome:?}");
}

/// As [`receive_announced`], of a message that comes while it is awaited by a receive that is not posted yet.
fn receive_awaited(faults: Faults, capacity: usize) -> Result<Vec<u8>, Error> {
    let world = World::new(Options::new(1).with_faults(faults));
    let contexts = simulated(&world, 2, &Config::default()).unwrap();
    let (sender, receiver) = (&contexts[0], &contexts[1]);
    let first = sender.endpoint(1).unwrap().start_send(TAG, vec![7_u8; 8]).unwrap();
    for _ in 0..1000 {
        sender.progress();
        receiver.progress();
    }
    first.wait().unwrap();
    receiver.receive(Pattern::exact(0, TAG), &mut [0; 8]).unwrap();
    let sent = sender.endpoint(1).unwrap().start_send(TAG, vec![7_u8; LONG]).unwrap();
    // On its way, and nobody has looked.
    for _ in 0..1000 {
        sender.progress();
    }
    let mut buffer = vec![0; capacity];
    let outcome = receiver.receive(Pattern::exact(0, TAG), &mut buffer);
    assert!((0..1000).any(|_| sent.is_done()), "the sender has not heard of it");
    let _ = sent.wait();
    outcome.map(|_| buffer)
}

#[test]
fn an_awaited_receive_that_has_ended_when_it_is_posted() {
    let at_once = Faults { at_once: 1_000_000, ..Faults::NONE };
    assert_eq!(receive_awaited(at_once, LONG), Ok(vec![7; LONG]));
}

#[test]
fn an_awaited_receive_that_is_too_short() {
    let outcome = receive_awaited(Faults::NONE, 10);
    assert!(matches!(outcome, Err(Error::Truncated { capacity_bytes: 10, .. })), "{outcome:?}");
}
