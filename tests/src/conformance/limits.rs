//! Limits: addresses, and many peers at one device.

use std::time::Instant;

use ironband_core::limits::ADDRESS_BYTES_MAX;
use ironband_fabric::{Device, Fabric, Posted, QueuePairNumber};

use super::node::{Event, Node, assert_intact, wait_for};
use super::{Outcome, Setup};

/// The address fits what launchers pass on, and never changes.
pub fn address_is_short<F: Fabric>(setup: &Setup) -> Outcome {
    let mut node = Node::<F>::open(setup, 0);
    let address = node.address();
    assert!(!address.is_empty() && address.len() <= ADDRESS_BYTES_MAX, "{} bytes", address.len());
    node.device().reach(&address).unwrap_or_else(|why| panic!("the own address: {why}"));
    let other = Node::<F>::open(setup, 1);
    assert_ne!(other.address(), address, "two devices, two addresses");
    (0..100).for_each(|_| node.turn());
    assert_eq!(node.address(), address);
    Ok(())
}

/// A hub and its peers, all in this process.
struct Star<F: Fabric> {
    hub: Node<F>,
    peers: Vec<(Node<F>, QueuePairNumber)>,
    /// The hub's queue pair to each peer.
    back: Vec<QueuePairNumber>,
}

impl<F: Fabric> Star<F> {
    fn open(setup: &Setup, count: u32) -> Self {
        let open = |rank| Node::try_open(setup, rank, count + 1).unwrap_or_else(|error| panic!("{error}"));
        let mut hub = open(0);
        let address = hub.address();
        let (mut peers, mut back) = (Vec::new(), Vec::new());
        for rank in 1..=count {
            let mut peer: Node<F> = open(rank);
            let qp = peer.connect(&address);
            back.push(hub.connect(&peer.address()));
            peers.push((peer, qp));
        }
        Self { hub, peers, back }
    }

    /// Each of these peers sends one message, and the hub answers each.
    #[track_caller]
    fn round(&mut self, senders: &[usize], imm: u32) {
        let (mut unsent, mut unanswered) = (senders.to_vec(), Vec::new());
        let (mut at_hub, mut at_peers) = (0, 0);
        wait_for("a round of messages", || {
            unsent.retain(|&index| {
                let (peer, qp) = &mut self.peers[index];
                peer.send(*qp, imm, index % 300) != Posted::Complete
            });
            if let Some(event) = self.hub.poll() {
                assert_intact(&event);
                let Event::Message { qp, bytes, .. } = event else { panic!("{event:?}") };
                let index = self.back.iter().position(|back| *back == qp).expect("a known queue pair");
                assert_eq!(bytes.len(), index % 300, "messages of different peers were mixed up");
                unanswered.push(index);
                at_hub += 1;
            }
            unanswered.retain(|&index| self.hub.send(self.back[index], imm, 20) != Posted::Complete);
            // All of them, not only the senders: connections are looked after in polls.
            for (index, (peer, _)) in self.peers.iter_mut().enumerate() {
                if let Some(event) = peer.poll() {
                    assert_intact(&event);
                    assert!(senders.contains(&index), "an answer to nobody's question");
                    at_peers += 1;
                }
            }
            (at_hub == senders.len() && at_peers == senders.len()).then_some(())
        });
        self.hub.assert_connected();
    }
}

fn star<F: Fabric>(setup: &Setup, count: u32) -> Outcome {
    let mut star = Star::<F>::open(setup, count);
    let everyone: Vec<usize> = (0..count as usize).collect();
    star.round(&everyone, 1);
    // A few talk while the others are idle; who they are changes, so sleepers wake and wakers fall asleep.
    for round in 0..40 {
        let some: Vec<usize> = (0..5).map(|i| (round * 7 + i * 13) % count as usize).collect();
        let mut some: Vec<usize> =
            some.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        if round % 2 == 0 {
            some.reverse();
        }
        star.round(&some, 2 + round as u32);
    }
    star.round(&everyone, 1000);
    Ok(())
}

/// 64 peers of one device.
pub fn sixty_four_peers<F: Fabric>(setup: &Setup) -> Outcome {
    star::<F>(setup, 64)
}

/// 300 peers of one device: more than it can look at one by one, and more than connect at once.
pub fn three_hundred_peers<F: Fabric>(setup: &Setup) -> Outcome {
    star::<F>(setup, 300)
}

/// An empty poll with 100 idle peers costs about what it costs with one.
pub fn idle_peers_cost_nothing<F: Fabric>(setup: &Setup) -> Outcome {
    const POLLS: u32 = 20_000;
    let cost = |count: u32| {
        let mut star = Star::<F>::open(setup, count);
        let everyone: Vec<usize> = (0..count as usize).collect();
        star.round(&everyone, 1);
        (0..30_000).for_each(|_| star.hub.turn());
        let sample = |hub: &mut Node<F>| {
            let start = Instant::now();
            (0..POLLS).for_each(|_| assert!(hub.poll().is_none()));
            start.elapsed()
        };
        // The least of many: what the machine's other work adds is not the device's.
        (0..40).map(|_| sample(&mut star.hub)).min().expect("samples")
    };
    let (few, many) = (cost(1), cost(100));
    assert!(many < few * 8, "{POLLS} empty polls take {few:?} with 1 peer and {many:?} with 100");
    Ok(())
}

/// A silent peer's message is noticed soon, whoever talked before: one peer after another, through all of them, twice.
pub fn one_after_another<F: Fabric>(setup: &Setup) -> Outcome {
    let mut star = Star::<F>::open(setup, 40);
    for imm in 0..2 {
        for index in 0..40 {
            star.round(&[index], imm);
        }
    }
    Ok(())
}
