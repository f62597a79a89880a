//! The device: opening, posts and polls. What goes on behind them is in `connect`, `complete` and `requests`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironband_core::config::Config;
use ironband_core::gid;
use ironband_core::wire::{
    CREDITS_MIN, Carrier, MESSAGE_HEADER_BYTES, MessageKind, SLOT_BYTES, VERBS_CARD_BYTES, VerbsCard,
};

use super::complete::UNPAID;
use super::connect::Way;
use super::connection::{Closing, Peer};
use super::datagrams::Datagrams;
use super::eager_ring::{IN_RING, Rings, SLOTS};
use super::landing::Landing;
use super::loopback::{LOOPBACK, Loopback};
use super::manager::Manager;
use super::object::{CompletionQueue, Context, MemoryRegion, ProtectionDomain, SharedReceiveQueue};
use super::options::{Connect, Options};
use super::port::{self, Memlock};
use super::receives::{Bounces, Owner, Receives};
use super::regions::{Regions, key_on_the_wire};
use super::requests::Requests;
use super::short_reads::SOFT_IWARP_VENDOR;
use super::tree::Root;
use super::works::OUTSTANDING_MAX;
use crate::host;
use crate::{
    Access, AtomicOp, AtomicScope, AtomicWidth, Capabilities, Completion, Device, DeviceError, Job, Limits,
    Operation, Posted, QueuePairNumber, Reach, ReadHint, ReceiveToken, RegisterError, RemoteAddress,
    SendFill, Unreachable, WorkId,
};

/// Wanted of the adapter; it says what it gives.
pub(super) const INLINE_BYTES: u32 = 256;
/// Messages that may be under way to a process from one peer, unless peers are many.
const CREDITS: u16 = 32;
const _: () = assert!(CREDITS <= SLOTS);
/// The shortest buffer for messages.
const BUFFER_BYTES_MIN: usize = 8192;
const _: () = assert!(BUFFER_BYTES_MIN >= SLOT_BYTES);
/// 16 KiB and the headers of the layer above. Copying so much at both ends takes less time than the two messages and the
/// registration that a read needs in addition.
const EAGER_BYTES: usize = 16 * 1024 + 64;
const CACHE_LINE_BYTES: usize = 64;
/// Empty polls between looks at datagrams and peers.
const ATTEND_INTERVAL: u32 = 512;
/// The same while a connection is being made or ended.
const RESTLESS_INTERVAL: u32 = 16;
/// Of so many polls one asks the adapter first, and does not look at eager rings before.
const RING_POLLS: u32 = 8;
/// The adapter's completions handled by one poll that hands out none.
const COMPLETIONS_PER_POLL: usize = 32;
/// How long closing a device waits for its last messages to be acknowledged.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// What this process asked of its peers, by who does it there.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// In messages, reads and writes.
    pub(super) bytes: u64,
    /// Reads and writes.
    pub(super) rdma: u64,
    /// Operations of the adapter; one that it lacks takes several.
    pub(super) native_atomics: u64,
    /// Atomics for the peer's processor.
    pub(super) asked_atomics: u64,
    /// Short reads for the peer's processor.
    pub(super) asked_reads: u64,
    /// Messages written to peers' rings.
    pub(super) in_rings: u64,
    /// See `nudges`.
    pub(super) nudges: u64,
}

/// The device of the `verbs` fabric: one port of one adapter.
#[derive(Debug)]
pub struct VerbsDevice {
    // Dropped in this order: queue pairs, the queues that they use, buffers, the protection domain.
    pub(super) peers: Vec<Peer>,
    pub(super) closing: Vec<Closing>,
    pub(super) way: Way,
    pub(super) cq: Option<CompletionQueue>,
    pub(super) receives: Receives,
    pub(super) bounces: Bounces,
    pub(super) rings: Rings,
    /// Memory for a ring could not be registered.
    pub(super) rings_refused: bool,
    pub(super) requests: Requests,
    /// On iWARP.
    pub(super) landing: Option<Landing>,
    pub(super) is_soft_iwarp: bool,
    pub(super) domain: Arc<ProtectionDomain>,
    pub(super) done: VecDeque<Completion>,
    pub(super) by_qpn: HashMap<u32, QueuePairNumber>,
    /// The current queue pair of each process, and the last life of it that was heard of.
    pub(super) by_key: HashMap<[u8; 16], (QueuePairNumber, u32)>,
    /// Handshakes that have something to send.
    pub(super) under_way: Vec<QueuePairNumber>,
    /// Send buffers of a queue pair that is being dropped.
    pub(super) ending: Vec<u32>,
    pub(super) regions: Regions,
    pub(super) loopback: Loopback,
    pub(super) notices: VecDeque<String>,
    /// The user has been told that receive buffers are used up.
    pub(super) told_receives_used: bool,
    pub(super) card: VerbsCard,
    address: [u8; VERBS_CARD_BYTES],
    pub(super) name: String,
    pub(super) gid_index: u8,
    /// Length of the prefix of the own network, where it is known.
    pub(super) prefix_bits: Option<u8>,
    pub(super) credits: u16,
    pub(super) lives: u32,
    pub(super) seed: u64,
    pub(super) native_atomics: bool,
    pub(super) tally: Tally,
    pub(super) message_bytes_max: usize,
    pub(super) connect_deadline: Duration,
    pub(super) opened: Instant,
    pub(super) looked_at_lives: Duration,
    /// Since when the port has not been active.
    pub(super) port_down_since: Option<Duration>,
    capabilities: Capabilities,
    empty_polls: u32,
    polls: u32,
}

// SAFETY: the raw pointers in requests are the posters' buffers, which the posters keep valid from any thread; all other
// memory is owned.
unsafe impl Send for VerbsDevice {}

/// Says why an adapter that can be opened cannot be used.
pub(super) fn check(context: &Arc<Context>) -> Result<(), String> {
    ProtectionDomain::allocate(context).map(|_| ()).map_err(|error| error.to_string())
}

impl VerbsDevice {
    pub(super) fn open(
        name: &str,
        config: &Config,
        job: &Job,
        options: Options,
    ) -> Result<Self, DeviceError> {
        let root = Root::machine();
        let port_name = port::find(&root, name)?;
        let gid = port::check(&root, &port_name, config.gid_index)
            .map_err(|reason| reason.of_device(&port_name.to_string()))?;
        let context = Context::open(&port_name.adapter)?;
        check(&context).map_err(|reason| DeviceError::System {
            call: format!("opening {port_name}"),
            reason,
            fix: "ironband doctor shows the state of all ports".to_owned(),
        })?;
        let attributes = context.port(port_name.port)?;
        let domain = ProtectionDomain::allocate(&context)?;
        let limits = *context.limits();

        let eager_bytes = config.eager_bytes.unwrap_or(EAGER_BYTES);
        let longest = eager_bytes.max(BUFFER_BYTES_MIN);
        let buffer_bytes = (longest + MESSAGE_HEADER_BYTES).next_multiple_of(CACHE_LINE_BYTES);
        let budget = config.memory_bytes / 2;
        let affordable = budget / buffer_bytes / job.local_ranks.max(1) as usize;
        let credits = (affordable.clamp(usize::from(2 * CREDITS_MIN), usize::from(CREDITS))) as u16;
        let depth = ((budget / buffer_bytes) as u32).max(32).next_multiple_of(32);
        let mut notices = VecDeque::new();
        let depth = depth.min(limits.shared_receive_depth_max);
        let is_iwarp = gid.entry.carrier == Carrier::Iwarp;
        let landing = if is_iwarp { Some(Landing::make(&domain)?) } else { None };
        let shared =
            shared_receive_queue(&domain, &port_name.adapter, is_iwarp, depth, options, &mut notices)?;
        let receives = Receives::new(shared, buffer_bytes, budget);
        let bounces = Bounces::new(buffer_bytes, budget);

        let key = host::random::<16>()?;
        let identity = host::identity()?;
        let qkey = u32::from_le_bytes(host::random()?) & 0x7fff_ffff;
        let managed = match options.connect {
            Connect::Auto => is_iwarp,
            Connect::Manager => true,
            Connect::Datagram if is_iwarp => {
                return Err(DeviceError::System {
                    call: format!("opening {port_name}"),
                    reason: format!("{} is an iWARP adapter, which has no datagrams", port_name.adapter),
                    fix: "set connect to manager, or to auto, which knows".to_owned(),
                });
            }
            Connect::Datagram => false,
        };
        let mut own_gid = gid.entry.bytes;
        let (way, listen_port, datagram_qpn) = if managed {
            let manager = Manager::open(&port_name, &gid.entry)?;
            own_gid = manager.gid();
            let listen_port = manager.listen_port();
            (Way::Manager(Box::new(manager)), listen_port, 0)
        } else {
            let datagrams = Datagrams::open(&domain, port_name.port, qkey)?;
            let qpn = datagrams.qpn();
            (Way::Datagrams(Box::new(datagrams)), 0, qpn)
        };
        let card = VerbsCard {
            carrier: gid.entry.carrier,
            port: port_name.port,
            mtu: attributes.mtu,
            lid: attributes.lid,
            listen_port,
            gid: own_gid,
            datagram_qpn,
            qkey: if managed { 0 } else { qkey },
            pid: std::process::id(),
            rank: job.rank,
            boot_id: std::array::from_fn(|at| identity.boot_id[at]),
            pid_namespace: identity.pid_namespace,
            key,
            host: host_name(),
        };
        // Without atomics of the adapter all are the target's processor's.
        let scope = match (limits.has_atomics, limits.atomics_are_global) {
            (true, false) => AtomicScope::Device,
            _ => AtomicScope::Global,
        };
        Ok(Self {
            peers: Vec::new(),
            closing: Vec::new(),
            way,
            cq: None,
            receives,
            bounces,
            rings: Rings::default(),
            rings_refused: false,
            requests: Requests::default(),
            landing,
            is_soft_iwarp: is_iwarp && limits.vendor == SOFT_IWARP_VENDOR,
            domain,
            done: VecDeque::new(),
            by_qpn: HashMap::new(),
            by_key: HashMap::new(),
            under_way: Vec::new(),
            ending: Vec::new(),
            regions: Regions::default(),
            loopback: Loopback::default(),
            notices,
            told_receives_used: false,
            address: card.encode(),
            name: port_name.to_string(),
            gid_index: gid.entry.index,
            prefix_bits: gid.entry.netdev.as_ref().and_then(|netdev| netdev.prefix_bits),
            credits,
            lives: 0,
            seed: u64::from_le_bytes(std::array::from_fn(|at| key[at])),
            native_atomics: limits.has_atomics,
            tally: Tally::default(),
            message_bytes_max: (attributes.message_bytes_max as usize).min(1 << 30),
            connect_deadline: Duration::from_secs(config.connect_seconds),
            opened: Instant::now(),
            looked_at_lives: Duration::ZERO,
            port_down_since: None,
            capabilities: Capabilities {
                limits: Limits {
                    inline_bytes_max: INLINE_BYTES as usize - MESSAGE_HEADER_BYTES,
                    send_copy_bytes_max: buffer_bytes - MESSAGE_HEADER_BYTES,
                    eager_bytes,
                    rdma_bytes_max: usize::MAX >> 1,
                    outstanding_max: OUTSTANDING_MAX as usize,
                    // Most memory is registered twice on iWARP (`MemoryRegion`).
                    regions_max: limits.regions_max / if is_iwarp { 2 } else { 1 },
                    registered_bytes_max: Memlock::read()
                        .effective_bytes()
                        .map(|bytes| if is_iwarp { bytes / 2 } else { bytes }),
                },
                atomics: scope,
                write_with_immediate: true,
                between_nodes: true,
                between_processes: true,
                megabits: port::megabits(&root, &port_name),
                registers_local_memory: true,
                prefers_writing: limits.reads_asked <= 1,
                loopback: true,
                one_sided: true,
                checks_remote_keys: true,
                survives_refusal: false,
                names_refusal: !is_iwarp,
                connects_alone: false,
                survives_fork: limits.survives_fork,
                single_copy: format!("RDMA without copies from {}", gid),
            },
            card,
            empty_polls: 0,
            polls: 0,
        })
    }

    /// A message that does not go at once.
    #[cold]
    #[inline(never)]
    fn send_slowly(&mut self, qp: QueuePairNumber, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        self.check_length(header.len() + payload.len());
        if let Err(posted) = self.make_ready(qp) {
            return posted;
        }
        if self.peers[qp.index()].own {
            return self.send_to_self(qp, imm, header, payload);
        }
        let posted = self.transmit(qp, MessageKind::Send, imm, header, payload);
        if posted != Posted::Busy {
            return posted;
        }
        // Credits that have come back lie in the completion queue; a caller that only posts finds them too.
        self.pump();
        self.attend_sometimes();
        match self.make_ready(qp) {
            Ok(()) => self.transmit(qp, MessageKind::Send, imm, header, payload),
            Err(posted) => posted,
        }
    }

    /// Notes that a peer may send so many more messages, and tells it if there are many.
    #[inline]
    pub(super) fn owe(&mut self, owner: Owner, credits: u16) {
        let Some(connection) = &mut self.peers[owner.qp.index()].connection else { return };
        if connection.qpn == owner.qpn {
            if !connection.credits.owe(credits) {
                self.fail(owner.qp, UNPAID.to_owned());
            } else if connection.credits.owes_much() {
                self.return_credits(owner.qp);
            }
        }
    }

    fn check_length(&self, len_bytes: usize) {
        let longest = self.capabilities.limits.send_copy_bytes_max;
        assert!(
            len_bytes <= longest,
            "a message of {len_bytes} bytes was posted; this device sends at most {longest} at once"
        );
    }

    fn attend_sometimes(&mut self) {
        self.empty_polls = self.empty_polls.wrapping_add(1);
        let restless = !self.under_way.is_empty()
            || !self.closing.is_empty()
            || matches!(&self.way, Way::Manager(manager) if manager.is_restless());
        let interval = if restless { RESTLESS_INTERVAL } else { ATTEND_INTERVAL };
        if self.empty_polls.is_multiple_of(interval) {
            self.attend();
            self.watch();
        }
    }

    /// Looks at peers' lives when nothing else makes it.
    fn watch(&mut self) {
        let used = |peer: &Peer| peer.connection.is_some() && !peer.wanted;
        if self.peers.iter().any(used) {
            self.attend_lives();
        }
    }

    #[inline(never)]
    fn poll_empty(&mut self) -> Option<Completion> {
        if self.receives.has_idle() && self.receives.idle_count() >= 16 {
            // Should the adapter refuse, the next post of receives tells.
            let _ = self.receives.post_idle();
        }
        self.attend_sometimes();
        self.done.pop_front()
    }
}

/// The queue of receives that all peers share, if there is one.
fn shared_receive_queue(
    domain: &Arc<ProtectionDomain>,
    adapter: &str,
    is_iwarp: bool,
    depth: u32,
    options: Options,
    notices: &mut VecDeque<String>,
) -> Result<Option<SharedReceiveQueue>, DeviceError> {
    if options.shared_receive_queue == Some(false) {
        return Ok(None);
    }
    if is_iwarp {
        // More credits than receives are possible there, and a message that finds none ends an iWARP connection.
        if options.shared_receive_queue == Some(true) {
            return Err(DeviceError::System {
                call: format!("sharing receives on {adapter}"),
                reason: "iWARP ends a connection whose message finds no receive".to_owned(),
                fix: "leave shared_receive_queue to the device".to_owned(),
            });
        }
        return Ok(None);
    }
    if !domain.context().limits().shared_receive_queues {
        if options.shared_receive_queue == Some(true) {
            return Err(DeviceError::Exhausted {
                what: format!("shared receive queue of {adapter}"),
                wanted: "1 (shared_receive_queue is set)".to_owned(),
                available: "0: the adapter has none".to_owned(),
                fix: "leave shared_receive_queue to the device".to_owned(),
            });
        }
        return Ok(None);
    }
    match SharedReceiveQueue::create(domain, depth) {
        Ok(queue) => Ok(Some(queue)),
        Err(error) if options.shared_receive_queue == Some(true) => Err(error.into()),
        Err(error) => {
            notices.push_back(format!(
                "{adapter} shares no receives between peers: {error}; each peer gets its own"
            ));
            Ok(None)
        }
    }
}

/// The host's name, without the domain.
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

impl Device for VerbsDevice {
    type ProtectionDomain = ();
    type CompletionQueue = ();
    type MemoryRegion = MemoryRegion;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> &[u8] {
        &self.address
    }

    fn reach(&self, address: &[u8]) -> Result<Reach, Unreachable> {
        let card = VerbsCard::decode(address).map_err(|error| Unreachable::because(error.to_string()))?;
        match self.card.mismatch(&card) {
            Some(reason) => Err(Unreachable::because(reason)),
            None => Ok(gid::reach_of_cards(&self.card, &card, self.prefix_bits)),
        }
    }

    fn alloc_pd(&mut self) -> Result<Self::ProtectionDomain, DeviceError> {
        // One serves all: its purpose, to keep users of one adapter apart, is served by one per process.
        Ok(())
    }

    fn create_cq(&mut self, depth: usize) -> Result<Self::CompletionQueue, DeviceError> {
        let max = self.domain.context().limits().completion_queue_depth_max;
        let Some(depth) = u32::try_from(depth).ok().filter(|depth| *depth <= max) else {
            return Err(DeviceError::Exhausted {
                what: format!("completion queue of {}", self.name),
                wanted: format!("{depth} completions"),
                available: format!("{max} completions"),
                fix: "ask for fewer".to_owned(),
            });
        };
        match &mut self.cq {
            Some(cq) => cq.grow(depth)?,
            None => self.cq = Some(CompletionQueue::create(self.domain.context(), depth)?),
        }
        Ok(())
    }

    fn create_qp(&mut self, (): (), (): (), address: &[u8]) -> Result<QueuePairNumber, Unreachable> {
        self.reach(address)?;
        let card = VerbsCard::decode(address).map_err(|error| Unreachable::because(error.to_string()))?;
        let known = self.by_key.get(&card.key).map(|(qp, _)| *qp);
        if let Some(qp) = known.filter(|qp| !self.peers[qp.index()].destroyed) {
            let peer = &mut self.peers[qp.index()];
            if peer.address.is_empty() {
                // It has asked, and its own card has not come yet.
                (peer.card, peer.address) = (card, address.to_vec());
            }
            return Ok(qp);
        }
        let qp = QueuePairNumber(self.peers.len() as u32);
        let own = card.key == self.card.key;
        self.by_key.entry(card.key).and_modify(|entry| entry.0 = qp).or_insert((qp, 0));
        self.peers.push(Peer::new(card, address.to_vec(), own));
        Ok(qp)
    }

    fn destroy_qp(&mut self, qp: QueuePairNumber) {
        self.close(qp);
    }

    fn peer_address(&self, qp: QueuePairNumber) -> Option<&[u8]> {
        self.peers.get(qp.index()).map(|peer| peer.address.as_slice())
    }

    fn failure(&self, qp: QueuePairNumber) -> Option<&str> {
        self.peers.get(qp.index())?.failure.as_deref()
    }

    fn take_notice(&mut self) -> Option<String> {
        self.notices.pop_front()
    }

    fn tally(&self) -> Option<String> {
        let Tally { bytes, rdma, native_atomics, asked_atomics, asked_reads, in_rings, nudges } = self.tally;
        Some(format!(
            "{bytes} bytes carried, {rdma} RDMA reads and writes, {native_atomics} atomics by the adapter, {asked_atomics} by peers' processors, {asked_reads} short reads by them, {in_rings} messages written to eager rings, {nudges} nudges"
        ))
    }

    unsafe fn register(
        &mut self,
        (): (),
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<MemoryRegion, RegisterError> {
        // SAFETY: as promised by the caller.
        let region = unsafe { MemoryRegion::register(&self.domain, start, len_bytes, access) };
        let region = region.map_err(|error| {
            let limit = self.domain.context().limits().regions_max;
            if self.regions.len() >= limit {
                return RegisterError::TooMany { in_use: self.regions.len(), limit };
            }
            let reason = error.to_string();
            match error.number {
                libc::ENOMEM | libc::EAGAIN => RegisterError::NoRoom { len_bytes, reason },
                _ => RegisterError::Refused { len_bytes, reason },
            }
        })?;
        if len_bytes > 0 {
            self.regions.insert(region.remote_key(), start as usize, len_bytes, access);
        }
        Ok(region)
    }

    fn deregister(&mut self, region: MemoryRegion) {
        self.regions.remove(region.remote_key());
    }

    fn may_be_written(&self, region: &MemoryRegion) -> bool {
        region.may_be_written()
    }

    fn remote_key(&self, region: &MemoryRegion) -> u64 {
        key_on_the_wire(region.remote_key())
    }

    #[inline]
    fn post_send(&mut self, qp: QueuePairNumber, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        if let Some(peer) = self.peers.get(qp.index())
            && peer.open
            && !peer.own
            && header.len() + payload.len() <= self.capabilities.limits.send_copy_bytes_max
        {
            let posted = self.transmit(qp, MessageKind::Send, imm, header, payload);
            if posted != Posted::Busy {
                return posted;
            }
        }
        self.send_slowly(qp, imm, header, payload)
    }

    fn post_send_fill(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl SendFill,
    ) -> Posted {
        self.check_length(header.len() + payload_bytes_max);
        if let Err(posted) = self.make_ready(qp) {
            return posted;
        }
        if self.peers[qp.index()].own {
            return self.fill_to_self(qp, imm, header, payload_bytes_max, fill);
        }
        self.transmit_filled(qp, MessageKind::Send, imm, header, payload_bytes_max, fill)
    }

    unsafe fn post_read(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        local_region: Option<&MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        _hint: ReadHint,
    ) -> Posted {
        // SAFETY: as promised by the caller.
        unsafe { self.post_rdma(qp, id, (local, local_region), remote, len_bytes, (Operation::Read, None)) }
    }

    unsafe fn post_write(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *const u8,
        local_region: Option<&MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        imm: Option<u32>,
    ) -> Posted {
        let local = (local.cast_mut(), local_region);
        // SAFETY: as promised by the caller; a write only reads from `local`.
        unsafe { self.post_rdma(qp, id, local, remote, len_bytes, (Operation::Write, imm)) }
    }

    unsafe fn post_atomic(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    ) -> Posted {
        // SAFETY: as promised by the caller.
        unsafe { self.post_atomic_op(qp, id, result, remote, (op, width)) }
    }

    #[inline]
    fn poll_cq(&mut self, (): ()) -> Option<Completion> {
        // A flood from one peer never lets a poll come back empty; strangers are let in all the same.
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(ATTEND_INTERVAL) {
            self.attend();
        }
        if let Some(found) = self.done.pop_front() {
            return Some(found);
        }
        if self.by_qpn.is_empty() {
            // Nothing is connected: a process whose peers are all on its node must not pay for a look at the adapter.
            return self.poll_empty();
        }
        // Rings first, but a peer that fills its own does not hide the others.
        if !self.rings.is_empty()
            && !self.polls.is_multiple_of(RING_POLLS)
            && let Some(found) = self.poll_rings()
        {
            return Some(found);
        }
        for _ in 0..COMPLETIONS_PER_POLL {
            let Some(completion) = self.cq.as_mut().and_then(CompletionQueue::poll) else { break };
            let found = self.handle(completion);
            if found.is_some() {
                return found;
            }
            if let Some(found) = self.done.pop_front() {
                return Some(found);
            }
        }
        self.poll_empty()
    }

    #[inline]
    fn is_more_likely(&self, (): ()) -> bool {
        !self.done.is_empty()
            || self.rings.has_more()
            || self.cq.as_ref().is_some_and(CompletionQueue::has_more)
    }

    #[inline]
    fn release(&mut self, token: ReceiveToken) {
        if token.0 & LOOPBACK != 0 {
            self.loopback.give_back(token.0);
            return;
        }
        if token.0 & IN_RING != 0 {
            return self.release_slot(token);
        }
        let index = token.0 as u32;
        let Some(owner) = self.receives.end_loan(index) else { return };
        if self.receives.is_shared() {
            self.receives.put_back(index);
        } else {
            let lender = self.connection_of(owner.qp, owner.qpn).filter(|it| it.receives.holds(index));
            match lender {
                Some(connection) => connection.receives.put_back(index),
                None => self.receives.put_back(index),
            }
        }
        self.owe(owner, 1);
    }

    fn is_idle(&self) -> bool {
        self.requests.is_empty()
            && self.closing.is_empty()
            && self.peers.iter().all(|peer| peer.replies.is_empty())
    }
}

impl Drop for VerbsDevice {
    /// Tells the peers, and waits a little for what was sent to be acknowledged: a queue pair that is destroyed sends nothing
    /// again.
    fn drop(&mut self) {
        for index in 0..self.peers.len() {
            self.close(QueuePairNumber(index as u32));
        }
        let start = Instant::now();
        while !self.closing.is_empty() && start.elapsed() < FAREWELL_MAX {
            self.pump();
            self.end_closing(self.opened.elapsed());
            std::thread::yield_now();
        }
    }
}
