//! One reliable connection, and what this process knows of the peer at its other end.

use std::collections::VecDeque;
use std::time::Duration;

use ironband_core::handshake::Handshake;
use ironband_core::wire::{AtomicReply, Landing, Offer, VerbsCard};

use super::dialogue::Dialogue;
use super::object::{AddressHandle, Identifier, QueuePair};
use super::receives::OwnReceives;
use super::requests::Partial;

/// RDMA and atomics that one queue pair keeps under way.
pub(super) const OUTSTANDING_MAX: u32 = 64;
/// Work without a completion of its own, at most: completions cost time, and until one comes nothing is known to have ended.
const UNSIGNALLED_MAX: u32 = 16;

/// What a posted work is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Underway {
    /// An inline message.
    Inline,
    /// A message in this send buffer.
    Bounce(u32),
    /// A part of this request.
    Request(u32),
    /// The same, and the adapter is done with it; see [`Connection::in_order`].
    Ended(u32),
    /// The last message.
    Bye,
}

/// A reliable queue pair and what is under way on it.
#[derive(Debug)]
pub(super) struct Connection {
    // First: what ends a connection in order goes before the queue pair does.
    /// Where the connection manager has made it.
    pub(super) id: Option<Identifier>,
    pub(super) qp: QueuePair,
    pub(super) qpn: u32,
    /// Number of the next work.
    pub(super) next: u32,
    pub(super) posted: VecDeque<Underway>,
    /// Number of the first of `posted`.
    first: u32,
    /// Works up to this number have ended, except requests where these end apart.
    ended_until: u32,
    /// Works end in the order in which they were posted. On iWARP a read may end behind sends that were posted after it (Soft-iWARP
    /// does that), so there a request has ended when its own completion says so.
    pub(super) in_order: bool,
    unsignalled: u32,
    depth: u32,
    /// Requests' works among `posted`.
    pub(super) request_works: u32,
    /// Messages that the peer has room for.
    pub(super) credits: u16,
    /// What `credits` never exceeds.
    pub(super) credits_max: u16,
    /// Buffers that the peer may use again and has not been told of.
    pub(super) owed: u16,
    /// Of the peer.
    pub(super) credits_granted: u16,
    pub(super) partial: Option<Partial>,
    /// The peer's, on iWARP.
    pub(super) landing: Landing,
    /// Empty where receives are shared.
    pub(super) receives: OwnReceives,
}

impl Connection {
    pub(super) const fn depth(credits: u16) -> u32 {
        2 * credits as u32 + OUTSTANDING_MAX + UNSIGNALLED_MAX
    }

    pub(super) fn new(qp: QueuePair, own: &Offer, depth: u32, receives: OwnReceives) -> Self {
        Self {
            id: None,
            qpn: own.qpn,
            qp,
            next: 0,
            posted: VecDeque::with_capacity(depth as usize),
            first: 0,
            ended_until: u32::MAX,
            in_order: true,
            unsignalled: 0,
            depth,
            request_works: 0,
            credits: 0,
            credits_max: 0,
            owed: 0,
            credits_granted: own.credits,
            partial: None,
            landing: Landing::default(),
            receives,
        }
    }

    /// Room for so many messages, beside what is kept for requests.
    pub(super) fn has_room(&self, works: u32) -> bool {
        let messages = self.posted.len() as u32 - self.request_works;
        messages + works <= self.depth - OUTSTANDING_MAX
    }

    /// Room for one more request's work.
    pub(super) const fn has_request_room(&self) -> bool {
        self.request_works < OUTSTANDING_MAX
    }

    /// Notes what was posted; says whether it has to be signalled. Call it before posting.
    pub(super) fn note(&mut self, what: Underway) -> (u32, bool) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.request_works += u32::from(matches!(what, Underway::Request(_)));
        self.posted.push_back(what);
        self.unsignalled += 1;
        let signalled = what != Underway::Inline || self.unsignalled >= UNSIGNALLED_MAX;
        if signalled {
            self.unsignalled = 0;
        }
        (number, signalled)
    }

    /// Takes back the last note: the post was refused.
    pub(super) fn unnote(&mut self) {
        if let Some(what) = self.posted.pop_back() {
            self.request_works -= u32::from(matches!(what, Underway::Request(_)));
            self.next = self.next.wrapping_sub(1);
        }
    }

    /// A completion has said that a work has ended well; where works end in order, it tells of all before it, too.
    pub(super) fn ended(&mut self, number: u32) {
        // A read's own completion may come behind those of later sends.
        if number.wrapping_sub(self.ended_until).cast_signed() > 0 {
            self.ended_until = number;
        }
        let at = number.wrapping_sub(self.first) as usize;
        if !self.in_order
            && let Some(what) = self.posted.get_mut(at)
            && let Underway::Request(request) = *what
        {
            *what = Underway::Ended(request);
        }
    }

    /// A completion has said that a work has failed: those before it have ended well, unless they end apart.
    pub(super) fn failed(&mut self, number: u32) -> Option<Underway> {
        self.ended_until = number.wrapping_sub(1);
        self.posted.get(number.wrapping_sub(self.first) as usize).copied()
    }

    /// The next work that has ended, oldest first.
    pub(super) fn retire(&mut self) -> Option<Underway> {
        let what = match *self.posted.front()? {
            Underway::Ended(request) => Underway::Request(request),
            Underway::Request(_) if !self.in_order => return None,
            _ if self.ended_until.wrapping_sub(self.first).cast_signed() < 0 => return None,
            what => what,
        };
        self.posted.pop_front();
        self.first = self.first.wrapping_add(1);
        self.request_works -= u32::from(matches!(what, Underway::Request(_)));
        Some(what)
    }

    /// True when something that was posted has been acknowledged by the peer's adapter.
    pub(super) const fn has_worked(&self) -> bool {
        self.first > 0
    }

    /// True when the peer should be told of its credits even if there is nothing else to say.
    pub(super) const fn owes_much(&self) -> bool {
        self.owed * 2 >= self.credits_granted
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
    /// Answers to the peer's atomics that wait for room.
    pub(super) replies: VecDeque<AtomicReply>,
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
