//! One life of a connection: two ends, and a lane from each to the other.

use std::collections::VecDeque;

use super::arena::Handle;
use super::window::Window;

/// A queue pair as its device sees it: from its creation until it fails or is destroyed. A peer that leaves without a failure and
/// comes back finds the same one, over a new connection.
#[derive(Debug)]
pub(super) struct QueuePair {
    pub(super) peer: u32,
    pub(super) link: Option<Handle>,
    /// Which end of the connection is this one.
    pub(super) end: u8,
    pub(super) destroyed: bool,
    /// A new connection does not overtake what the one before has sent.
    pub(super) not_before_ns: u64,
    pub(super) failure: Option<Box<str>>,
}

impl QueuePair {
    pub(super) const fn new(peer: u32, not_before_ns: u64) -> Self {
        Self { peer, link: None, end: 0, destroyed: false, not_before_ns, failure: None }
    }
}

/// Why a connection fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Broken,
    /// The peer has refused a request of this end.
    WasRefused,
    /// This end has refused a request of the peer.
    HasRefused,
    Ended,
    NotMade,
}

impl Reason {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Broken => "the connection broke; a fault that the simulation was asked for",
            Self::WasRefused => {
                "it refused a request: the key, the range or the access was wrong, or the region was deregistered"
            }
            Self::HasRefused => {
                "its request was refused: the key, the range or the access was wrong, or the region was deregistered"
            }
            Self::Ended => "the device was closed or killed",
            Self::NotMade => "it could not be made; a fault that the simulation was asked for",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) device: u32,
    pub(super) qp: u32,
    /// It takes part: it has been answered, and has not left, failed or died.
    pub(super) attached: bool,
    /// It may post.
    pub(super) up: bool,
    pub(super) reason: Reason,
}

#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) imm: u32,
    pub(super) bytes: Box<[u8]>,
}

/// What one end sends to the other.
#[derive(Debug)]
pub(super) struct Lane {
    /// Messages under way, oldest first; for each there is an event.
    pub(super) parcels: VecDeque<Parcel>,
    /// The sender does not count them as its own any more.
    pub(super) forgotten: bool,
    /// Requests that have not ended.
    pub(super) requests: Vec<Handle>,
    /// When the last thing arrives that keeps its order.
    pub(super) last_ns: u64,
    /// When the last atomic is done.
    pub(super) last_atomic_ns: u64,
    /// What would arrive later is lost.
    pub(super) cut_ns: u64,
    pub(super) window: Window,
}

#[derive(Debug)]
pub(super) struct Link {
    /// The asker is the first.
    pub(super) ends: [End; 2],
    /// The first is from the asker.
    pub(super) lanes: [Lane; 2],
    /// It will fail, and the ends learn of it when they do.
    pub(super) broken: bool,
}

impl Link {
    /// A connection that `device` asks `peer` for, at most once by each pair of queue pairs.
    pub(super) fn asked_by(device: u32, qp: u32, peer: u32, receives: u32) -> Self {
        let end = |device, qp, attached| End { device, qp, attached, up: false, reason: Reason::Broken };
        let lane = || Lane {
            parcels: VecDeque::new(),
            forgotten: false,
            requests: Vec::new(),
            last_ns: 0,
            last_atomic_ns: 0,
            cut_ns: u64::MAX,
            window: Window::new(receives),
        };
        Self { ends: [end(device, qp, true), end(peer, 0, false)], lanes: [lane(), lane()], broken: false }
    }

    /// A process that is its own peer: both ends are one queue pair.
    pub(super) const fn is_loopback(&self) -> bool {
        self.ends[0].device == self.ends[1].device
    }
}
