//! Whose request has ended hears of it, though the other process calls nothing any more: it may compute, or wait in MPI.

use ironband::{Config, Pattern, simulated};
use ironband_fabric::sim::{Faults, Options, World};

const TAG: u64 = 7;
/// Longer than any eager message: it is announced, and read by its receiver.
const LONG: usize = 1_000_000;

/// The message was announced before, and the read ends in its post, as over shared memory: there is nothing left that the receiver would wait for.
#[test]
fn a_receive_that_has_ended_when_it_begins() {
    let faults = Faults { at_once: 1_000_000, ..Faults::NONE };
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
    let received = receiver.start_receive(Pattern::exact(0, TAG), vec![0_u8; LONG]).unwrap();
    assert!(received.has_ended(), "the read has not ended in its post");
    assert!((0..1000).any(|_| sent.is_done()), "the sender has not heard of it");
    assert_eq!(received.wait().unwrap().0, vec![7; LONG]);
    sent.wait().unwrap();
}

/// As above, of a receive that is too short: nothing is read, and the sender is told all the same.
#[test]
fn a_receive_that_is_too_short() {
    let world = World::new(Options::new(1));
    let contexts = simulated(&world, 2, &Config::default()).unwrap();
    let (sender, receiver) = (&contexts[0], &contexts[1]);
    let sent = sender.endpoint(1).unwrap().start_send(TAG, vec![7_u8; LONG]).unwrap();
    for _ in 0..1000 {
        sender.progress();
        receiver.progress();
    }
    assert!(receiver.probe(Pattern::exact(0, TAG)).is_some() && !sent.has_ended());
    let received = receiver.start_receive(Pattern::exact(0, TAG), vec![0_u8; 10]).unwrap();
    assert!(received.has_ended(), "it is too short at once");
    assert!((0..1000).any(|_| sent.is_done()), "the sender has not heard of it");
    assert!(received.wait().is_err());
}
