//! One reliable connection, and what this process knows of the peer at its other end.

use std::collections::VecDeque;
use std::time::Duration;

use ironband_core::handshake::Handshake;
use ironband_core::wire::{Landing, Offer, VerbsCard, slot_message_bytes_max};

use super::credits::Credits;
use super::dialogue::Dialogue;
use super::eager_ring::Outbound;
use super::object::{AddressHandle, Identifier, QueuePair};
use super::receives::OwnReceives;
use super::requests::{Partial, Reply};
use super::works::Works;

/// A reliable queue pair and what is under way on it.
#[derive(Debug)]
pub(super) struct Connection {
    // First: what ends a connection in order goes before the queue pair does.
    /// Where the connection manager has made it.
    pub(super) id: Option<Identifier>,
    pub(super) qp: QueuePair,
    pub(super) qpn: u32,
    pub(super) works: Works,
    pub(super) credits: Credits,
    pub(super) partial: Option<Partial>,
    /// What was sent and has arrived through receives, modulo 2^16: messages and writes with immediate.
    pub(super) sends: u16,
    pub(super) received: u16,
    /// As verbs count it.
    mtu: u8,
    /// What goes to the peer's ring, if it offers one.
    pub(super) ring_message_bytes_max: usize,
    /// The peer's ring, once it has offered one.
    pub(super) outbound: Option<Outbound>,
    /// Short messages that have come through receives since a ring was last thought of.
    pub(super) heat: u32,
    /// The peer has been offered a ring.
    pub(super) has_ring: bool,
    /// See `nudges`.
    pub(super) nudge_answered: bool,
    /// The peer's, on iWARP.
    pub(super) landing: Landing,
    /// Empty where receives are shared.
    pub(super) receives: OwnReceives,
}

impl Connection {
    pub(super) fn new(qp: QueuePair, own: &Offer, works: Works, receives: OwnReceives) -> Self {
        Self {
            id: None,
            qpn: own.qpn,
            qp,
            works,
            credits: Credits::new(own.credits),
            partial: None,
            sends: 0,
            received: 0,
            mtu: own.mtu,
            ring_message_bytes_max: 0,
            outbound: None,
            heat: 0,
            has_ring: false,
            nudge_answered: false,
            landing: Landing::default(),
            receives,
        }
    }

    /// What the peer has room for.
    pub(super) fn accept(&mut self, offer: &Offer) {
        self.credits.accept(offer.credits);
        self.ring_message_bytes_max = slot_message_bytes_max(128 << self.mtu.min(offer.mtu));
    }
}

/// A peer, as one queue pair number of the device stands for it.
#[derive(Debug)]
pub(super) struct Peer {
    // The small-message path touches the first two.
    pub(super) connection: Option<Connection>,
    /// Messages may be sent.
    pub(super) open: bool,
    pub(super) card: VerbsCard,
    pub(super) address: Vec<u8>,
    /// By datagrams.
    pub(super) handshake: Option<Handshake>,
    /// By the connection manager, until the connection stands.
    pub(super) dialogue: Option<Dialogue>,
    pub(super) to: Option<AddressHandle>,
    /// Answers to the peer's requests that wait for room.
    pub(super) replies: VecDeque<Reply>,
    /// The own process.
    pub(super) own: bool,
    pub(super) wanted: bool,
    pub(super) destroyed: bool,
    pub(super) failure: Option<String>,
    /// The user has been told that connecting takes long.
    pub(super) told_slow: bool,
}

impl Peer {
    pub(super) fn new(card: VerbsCard, address: Vec<u8>, own: bool) -> Self {
        Self {
            connection: None,
            open: own,
            card,
            address,
            handshake: None,
            dialogue: None,
            to: None,
            replies: VecDeque::new(),
            own,
            wanted: false,
            destroyed: false,
            failure: None,
            told_slow: false,
        }
    }

    /// As messages to the user call it.
    pub(super) fn name(&self) -> String {
        format!("rank {} on {} (process {})", self.card.rank, self.card.host, self.card.pid)
    }

    pub(super) const fn is_usable(&self) -> bool {
        self.failure.is_none() && !self.destroyed
    }
}

/// A connection that is not its peer's current one any more.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) connection: Connection,
    pub(super) qp: crate::QueuePairNumber,
    pub(super) key: [u8; 16],
    /// What arrives is still handed out: the peer has ended this connection, and begun another.
    pub(super) delivers: bool,
    pub(super) bye_sent: bool,
    pub(super) deadline: Duration,
}
