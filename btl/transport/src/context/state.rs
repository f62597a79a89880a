//! What a context knows: the protocol, which queue pair leads to which rank, and what waits.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ironband_core::protocol::{Handle, PeerLimits, Protocol, Requests, Transfer};
use ironband_core::rank_table::RankTable;
use ironband_core::wire::message::{ACTIVE_HEADER_BYTES, EAGER_HEADER_BYTES, Hello, Kind};
use ironband_fabric::CompletionStatus;

use super::body::{Incoming, Outgoing};
use super::devices::{AnyDevice, Registered};
use crate::device::QueuePair;

/// What a peer may send unasked, in bytes; each message counts 256 more.
pub(super) const WINDOW_BYTES: u32 = 1 << 20;
/// Buffers for messages that nobody has asked for, kept for the next ones.
const POOL_MAX: usize = 64;
/// Longer ones are given back to the allocator.
const POOLED_BYTES_MAX: usize = 64 * 1024;

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) device: usize,
    pub(super) qp: QueuePair,
}

/// A transfer of the protocol, and how much of it has been moved: a device may take less at a time than a message has
/// ([`Limits::rdma_bytes_max`](ironband_fabric::Limits::rdma_bytes_max)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    pub(super) transfer: Transfer,
    pub(super) moved_bytes: u64,
}

/// A request of a device that has not ended.
pub(super) enum InFlight {
    /// Moves a part of a message: what has been moved when it has ended.
    Part(Moving),
    /// Of the program: on memory of another process.
    Access { access: Handle },
}

/// An access of the program to memory of another process.
pub(super) struct AccessState {
    pub(super) rank: u32,
    /// A device has it, or it has ended.
    pub(super) is_posted: bool,
    pub(super) status: Option<CompletionStatus>,
    /// Of the local buffer.
    pub(super) registration: Option<Registered>,
    /// The local buffer itself, when nobody else keeps it any more.
    pub(super) owner: Option<Box<dyn Any>>,
}

/// A request that nobody waits for, with its buffer, which nobody else keeps any more.
pub(super) struct Orphan {
    pub(super) request: Handle,
    pub(super) owner: Box<dyn Any>,
}

pub(super) struct State {
    pub(super) protocol: Protocol<Outgoing, Incoming, Vec<u8>>,
    links: RankTable<Link>,
    /// By device and queue pair.
    ranks: Vec<Vec<Option<u32>>>,
    /// Transfers that a device had no room for, or of which only a part has been moved.
    pub(super) stalled: VecDeque<Moving>,
    pub(super) in_flight: Requests<InFlight>,
    pub(super) accesses: Requests<AccessState>,
    /// Posted and not ended.
    accesses_under_way: RankTable<u32>,
    /// Empty buffers.
    pub(super) pool: Vec<Vec<u8>>,
    pub(super) orphan_sends: Vec<Orphan>,
    pub(super) orphan_receives: Vec<Orphan>,
    pub(super) orphan_turn: u32,
    /// Buffers of those that have ended.
    pub(super) to_drop: Vec<Box<dyn Any>>,
    /// Connections to end, once it could be said why.
    pub(super) farewells: Vec<(Link, String)>,
    /// Active messages that have come and were not handled: from, number, data.
    pub(super) actives: VecDeque<(u32, u32, Vec<u8>)>,
    /// Active messages that there was no room for: to, number, data.
    pub(super) postponed: Vec<(u32, u32, Vec<u8>)>,
    /// Those whose handler was not set yet.
    pub(super) unclaimed: Vec<(u32, u32, Vec<u8>)>,
    /// Which of its devices a peer is reached at, where that was found out.
    pub(super) ports: BTreeMap<u32, usize>,
    pub(super) orphan_accesses: Vec<Handle>,
    /// Why peers are lost.
    pub(super) losses: BTreeMap<u32, String>,
    /// Those of them that live: they have said that they go on without this process.
    pub(super) given_up_by: BTreeSet<u32>,
    /// This process ends: it gives nobody up.
    pub(super) is_ending: bool,
}

impl State {
    pub(super) fn new(hello: Hello, size: u32, devices: usize) -> Self {
        Self {
            protocol: Protocol::new(hello, size),
            links: RankTable::new(),
            ranks: vec![Vec::new(); devices],
            stalled: VecDeque::new(),
            in_flight: Requests::new(),
            accesses: Requests::new(),
            accesses_under_way: RankTable::new(),
            pool: Vec::new(),
            orphan_sends: Vec::new(),
            orphan_receives: Vec::new(),
            orphan_turn: 0,
            to_drop: Vec::new(),
            farewells: Vec::new(),
            actives: VecDeque::new(),
            postponed: Vec::new(),
            unclaimed: Vec::new(),
            ports: BTreeMap::new(),
            orphan_accesses: Vec::new(),
            losses: BTreeMap::new(),
            given_up_by: BTreeSet::new(),
            is_ending: false,
        }
    }

    #[inline]
    pub(super) fn link(&self, rank: u32) -> Option<Link> {
        self.links.get(rank).copied()
    }

    /// Whose queue pair this is.
    #[inline]
    pub(super) fn rank_of(&self, device: usize, qp: QueuePair) -> Option<u32> {
        self.ranks[device].get(qp.index()).copied().flatten()
    }

    /// From now on this is the way to a rank.
    pub(super) fn bind(&mut self, rank: u32, link: Link, limits: PeerLimits) {
        self.links.insert(rank, link);
        let ranks = &mut self.ranks[link.device];
        if ranks.len() <= link.qp.index() {
            ranks.resize(link.qp.index() + 1, None);
        }
        ranks[link.qp.index()] = Some(rank);
        self.protocol.connected(rank, limits);
    }

    /// A part of a message has been moved, or has failed; the rest is to be started.
    pub(super) fn part_ended(&mut self, moving: Moving, is_done: bool) {
        match moving.transfer {
            Transfer::Read { len_bytes, .. } | Transfer::Write { len_bytes, .. }
                if is_done && moving.moved_bytes < len_bytes =>
            {
                self.stalled.push_back(moving);
            }
            Transfer::Read { receive, .. } => self.protocol.read_ended(receive, is_done),
            Transfer::Write { send, .. } => self.protocol.write_ended(send, is_done),
            Transfer::Expose { .. } => unreachable!("no device moves anything to expose memory"),
        }
    }

    /// A rank is lost, if it was not before.
    pub(super) fn lose(&mut self, rank: u32, reason: String) {
        if !self.protocol.is_lost(rank) {
            self.protocol.peer_lost(rank);
            self.losses.insert(rank, reason);
        }
    }

    pub(super) fn loss(&self, rank: u32) -> String {
        self.losses.get(&rank).cloned().unwrap_or_else(|| "the connection has ended".to_owned())
    }

    /// Nothing to say, nothing to start, nothing to handle, nothing to put away.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.protocol.talker(0).is_none()
            && self.stalled.is_empty()
            && !self.protocol.has_transfer()
            && self.actives.is_empty()
            && self.postponed.is_empty()
            && self.farewells.is_empty()
            && !self.has_orphans()
    }

    /// Requests that nobody waits for have not been put away.
    #[inline]
    pub(super) fn has_orphans(&self) -> bool {
        !(self.orphan_sends.is_empty() && self.orphan_receives.is_empty() && self.orphan_accesses.is_empty())
    }

    /// A device has an access, or has refused it.
    pub(super) fn access_posted(&mut self, access: Handle) {
        if let Some(access) = self.accesses.get_mut(access) {
            access.is_posted = true;
            match self.accesses_under_way.get_mut(access.rank) {
                Some(count) => *count += 1,
                None => {
                    self.accesses_under_way.insert(access.rank, 1);
                }
            }
        }
    }

    /// An access that was posted has ended.
    pub(super) fn access_ended(&mut self, access: Handle, status: Option<CompletionStatus>) {
        if let Some(access) = self.accesses.get_mut(access) {
            access.status = status;
            if let Some(count) = self.accesses_under_way.get_mut(access.rank) {
                *count -= 1;
            }
        }
    }

    pub(super) fn accesses_under_way(&self, rank: u32) -> u32 {
        self.accesses_under_way.get(rank).copied().unwrap_or(0)
    }

    /// Leaks the buffers of requests that nobody waits for.
    pub(super) fn forget_orphans(&mut self) {
        std::mem::forget(std::mem::take(&mut self.orphan_sends));
        std::mem::forget(std::mem::take(&mut self.orphan_receives));
        for access in std::mem::take(&mut self.orphan_accesses) {
            std::mem::forget(self.accesses.get_mut(access).and_then(|access| access.owner.take()));
        }
    }

    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.pool.pop().unwrap_or_default()
    }

    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        if self.pool.len() < POOL_MAX && buffer.capacity() <= POOLED_BYTES_MAX {
            self.pool.push(buffer);
        }
    }
}

/// What the connection to a peer carries.
pub(super) fn limits_of(device: &AnyDevice) -> PeerLimits {
    let limits = &device.capabilities().limits;
    let bytes = |all: usize, header: usize| u32::try_from(all.saturating_sub(header)).unwrap_or(u32::MAX);
    PeerLimits {
        eager_bytes_max: bytes(limits.eager_bytes, EAGER_HEADER_BYTES),
        piece_bytes_max: bytes(limits.send_copy_bytes_max, Kind::Piece.header_bytes()),
        prefers_writing: device.capabilities().prefers_writing,
    }
}

/// The longest active message.
pub(super) fn active_bytes_max(device: &AnyDevice) -> usize {
    device.capabilities().limits.send_copy_bytes_max.saturating_sub(ACTIVE_HEADER_BYTES)
}

/// A context that is dropped has waited for what devices do with buffers that nobody else keeps, or a handler's panic has ended the waiting: then they are
/// leaked.
impl Drop for State {
    fn drop(&mut self) {
        self.forget_orphans();
    }
}
