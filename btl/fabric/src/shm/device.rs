//! The device: posts and polls. What goes on behind them is in `accept` (connections) and `serve` (transfers that take
//! several steps).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ironband_core::config::{Config, SingleCopy};
use ironband_core::path::Path;
use ironband_core::wire::{AtomicRequest, CARD_BYTES, Card, RecordKind};

use super::copy::{self, CrossMemoryError};
use super::cross_memory::{self, Probe};
use super::inbound::{Inbound, RingIndex, SCAN_INTERVAL, Taken};
use super::layout::{CONTROL_BYTES, Control, MAGIC};
use super::queue_pair::{CrossMemory, QueuePair, corrupt};
use super::regions::{MemoryRegion, Regions};
use super::ring::LINE_BODY_BYTES;
use super::segment::{Mapping, Segment};
use super::transfer::{AheadState, Job, JobKind, Jobs, Task, Tasks, Timed, WatchedPull};
use super::{DEVICE, OUTSTANDING_MAX};
use crate::extent::Want;
use crate::short_copy::copy_short;
use crate::{
    Access, AtomicOp, AtomicWidth, Capabilities, Completion, CompletionStatus, Device, DeviceError, Message,
    Operation, Payload, Posted, QueuePairNumber, Reach, ReadHint, ReceiveToken, RegisterError, RemoteAddress,
    SendFill, Unreachable, WorkId,
};
use crate::{atomics, host};

/// From this length on, shared transfers are timed like others: from the end of the one before.
const SHARE_QUEUED_BYTES_MIN: usize = 1 << 20;
/// Empty polls between looks at connections and peers.
const HOUSEKEEPING_INTERVAL: u32 = 4096;
/// The same while a connection is being made or ended, or an answer waits for room.
const RESTLESS_INTERVAL: u32 = 8 * SCAN_INTERVAL;
/// How far ahead a sender requests its slots, which the receiver read last: farther than the receiver does, so that they do not take them from
/// each other.
const SLOTS_AHEAD: u32 = 12;
/// Records of the fabric's own protocol handled by one poll.
const RECORDS_PER_POLL: usize = 32;

/// The device of the `shm` fabric.
#[derive(Debug)]
pub struct ShmDevice {
    // The small-message path touches the first four.
    pub(super) qps: Vec<QueuePair>,
    pub(super) inbound: Inbound,
    pub(super) control: Mapping,
    /// Connection requests seen so far.
    pub(super) requests_seen: u64,
    empty_polls: u32,
    /// Something is to be looked at often.
    pub(super) restless: bool,
    pub(super) done: VecDeque<Completion>,
    pub(super) tasks: Tasks,
    pub(super) jobs: Jobs,
    /// Pulls that the reader could finish by itself, oldest first.
    pub(super) pulls: VecDeque<WatchedPull>,
    pub(super) regions: Regions,
    pub(super) by_key: HashMap<[u8; 16], QueuePairNumber>,
    pub(super) segment: Segment,
    pub(super) card: Card,
    address: [u8; CARD_BYTES],
    pub(super) ring_bytes: usize,
    pub(super) connect_deadline: Duration,
    pub(super) single_copy: SingleCopy,
    pub(super) capabilities: Capabilities,
    pub(super) notices: VecDeque<String>,
    pub(super) last_life_check: Instant,
    /// Peers read and write it.
    _probe: Box<Probe>,
}

// SAFETY: the raw pointers in jobs and tasks are the posters' buffers, which the posters keep valid from any thread; all
// other memory is owned.
unsafe impl Send for ShmDevice {}

impl ShmDevice {
    pub(super) fn open(config: &Config, job: &crate::Job) -> Result<Self, DeviceError> {
        let ring_bytes = config.ring_bytes_for(job.local_ranks);
        if config.single_copy != SingleCopy::Ring {
            cross_memory::allow_copies_by_peers();
        }
        let mut segment = Segment::create()?;
        let (_, control) = segment.allocate(CONTROL_BYTES, "the control block")?;
        let probe_value = u64::from_ne_bytes(host::random()?);
        let probe = Probe::new(probe_value);
        let card = Card {
            host: host::identity()?,
            pid: std::process::id(),
            rank: job.rank,
            memfd: segment.descriptor(),
            memfd_inode: segment.inode(),
            probe_address: probe.address(),
            probe_value,
            key: host::random()?,
        };
        let device = Self {
            qps: Vec::new(),
            inbound: Inbound::default(),
            control,
            requests_seen: 0,
            empty_polls: 0,
            restless: false,
            done: VecDeque::new(),
            tasks: Tasks::default(),
            jobs: Jobs::default(),
            pulls: VecDeque::new(),
            regions: Regions::default(),
            by_key: HashMap::new(),
            segment,
            address: card.encode(),
            ring_bytes,
            connect_deadline: Duration::from_secs(config.connect_seconds),
            single_copy: config.single_copy,
            capabilities: super::capabilities::of(config, ring_bytes),
            notices: VecDeque::new(),
            last_life_check: Instant::now(),
            card,
            _probe: probe,
        };
        let control = device.control();
        control
            .version
            .store(u64::from(ironband_core::wire::CARD_VERSION), std::sync::atomic::Ordering::Release);
        control.magic.store(MAGIC, std::sync::atomic::Ordering::Release);
        Ok(device)
    }

    /// A request to the own process that its registrations do not allow.
    fn refuse(&mut self, qp: QueuePairNumber, id: WorkId, operation: Operation) -> Posted {
        self.done.push_back(Completion::Done { qp, id, operation, status: CompletionStatus::RemoteAccess });
        Posted::Queued
    }

    #[inline(always)]
    pub(super) fn control(&self) -> &Control {
        // SAFETY: `Control` is made of atomics, and all processes use it so.
        unsafe { self.control.shared(0) }
    }

    pub(super) fn is_self(&self, qp: QueuePairNumber) -> bool {
        self.qps[qp.index()].card.key == self.card.key
    }

    /// Posts again what found no connection: connects, and says what to return if that did not work.
    #[cold]
    #[inline(never)]
    fn connect_first(&mut self, qp: QueuePairNumber) -> Result<(), Posted> {
        let Some(entry) = self.qps.get_mut(qp.index()) else { return Err(Posted::Failed) };
        if entry.failure.is_some() || entry.closed {
            return Err(Posted::Failed);
        }
        if entry.tx.is_some() {
            return Ok(());
        }
        match entry.connect(&self.card, &mut self.segment, self.ring_bytes) {
            Ok(true) => {
                self.restless = true;
                self.probe_peer(qp);
                Ok(())
            }
            Ok(false) => Err(Posted::Busy),
            Err(unreachable) => {
                self.fail(qp, unreachable.reason);
                Err(Posted::Failed)
            }
        }
    }

    /// Tries a real copy through the kernel, once for each peer.
    pub(super) fn probe_peer(&mut self, qp: QueuePairNumber) {
        let entry = &mut self.qps[qp.index()];
        if entry.cross_memory != CrossMemory::Unknown {
            return;
        }
        entry.cross_memory = CrossMemory::Unavailable;
        if self.single_copy == SingleCopy::Ring {
            return;
        }
        match cross_memory::probe_cross_memory(&entry.card) {
            Ok(()) => entry.cross_memory = CrossMemory::Permitted,
            Err(reason) => {
                if self.notices.is_empty() {
                    let peer = entry.peer_name();
                    self.notices
                        .push_back(format!("long messages to {peer} are copied through the ring: {reason}"));
                }
            }
        }
    }

    /// Sends through the bulk space, or connects first: everything that is not the one-line case.
    #[inline(never)]
    fn send_long(&mut self, qp: QueuePairNumber, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        let len = header.len() + payload.len();
        let longest = self.capabilities.limits.send_copy_bytes_max;
        assert!(
            len <= longest,
            "a message of {len} bytes was posted; this device sends at most {longest} at once"
        );
        if let Some(entry) = self.qps.get_mut(qp.index())
            && entry.tx.is_some()
        {
            let data = (payload.as_ptr(), payload.len());
            return match entry.send_record(RecordKind::Send, imm, header, data) {
                Ok(posted) => posted,
                Err(error) => self.fail_corrupt(qp, error),
            };
        }
        match self.connect_first(qp) {
            Ok(()) => self.send_long(qp, imm, header, payload),
            Err(posted) => posted,
        }
    }

    pub(super) fn fail_corrupt(&mut self, qp: QueuePairNumber, error: super::ring::Corrupt) -> Posted {
        self.fail(qp, corrupt(error));
        Posted::Failed
    }

    /// Puts a queue pair into the error state: everything on it completes as flushed.
    pub(super) fn fail(&mut self, qp: QueuePairNumber, reason: String) {
        let entry = &mut self.qps[qp.index()];
        if entry.failure.is_some() {
            return;
        }
        entry.failure = Some(format!("the connection to {} failed: {reason}", entry.peer_name()));
        self.flush(qp);
        let entry = &mut self.qps[qp.index()];
        entry.replies.clear();
        entry.drop_ring(&mut self.segment);
        self.close_inbound(qp);
        self.done.push_back(Completion::Disconnected { qp });
    }

    /// Completes everything of a queue pair as flushed.
    fn flush(&mut self, qp: QueuePairNumber) {
        for number in self.jobs.of(qp) {
            if let Some(job) = self.jobs.remove(number, qp) {
                let operation = match job.kind {
                    JobKind::Pull { .. } => Operation::Read,
                    JobKind::Push => Operation::Write,
                    JobKind::Atomic { .. } => Operation::Atomic,
                };
                self.finish(qp, job.id, operation, CompletionStatus::Flushed);
            }
        }
        for task in self.tasks.remove(qp) {
            if let Task::ReadShare(read) = task {
                self.qps[qp.index()].revoke(read.ticket);
                self.finish(qp, read.id, Operation::Read, CompletionStatus::Flushed);
            }
        }
        let entry = &mut self.qps[qp.index()];
        entry.outstanding = 0;
        entry.ahead.state = AheadState::Idle;
    }

    pub(super) fn finish(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        operation: Operation,
        status: CompletionStatus,
    ) {
        self.done.push_back(Completion::Done { qp, id, operation, status });
    }

    /// Tells the chooser how long a transfer took. Transfers that wait for one another are timed from the end of the
    /// one before.
    pub(super) fn observe(&mut self, qp: QueuePairNumber, timed: Timed) {
        let now = Instant::now();
        let entry = &mut self.qps[qp.index()];
        // A shared transfer goes on while others are done in between, and delays them: all of its time counts.
        let waits = timed.path != Path::Share || timed.len_bytes >= SHARE_QUEUED_BYTES_MIN;
        let start = entry.last_end.filter(|_| waits).map_or(timed.start, |end| end.max(timed.start));
        entry.last_end = Some(now);
        let elapsed = u64::try_from(now.duration_since(start).as_nanos()).unwrap_or(u64::MAX);
        entry.chooser.observe(timed.path, timed.len_bytes, elapsed.min(u64::MAX >> 16));
    }

    /// Reads by the kernel, in this call. `None`: it was refused, use the ring from now on.
    ///
    /// # Safety
    /// As [`Device::post_read`].
    unsafe fn read_now(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        remote: u64,
        len_bytes: usize,
    ) -> Option<Posted> {
        let entry = &mut self.qps[qp.index()];
        let start = entry.chooser.is_timed(Path::Read, len_bytes).then(Instant::now);
        // SAFETY: as promised by the caller.
        let result = unsafe { copy::read_process(entry.card.pid, local, remote, len_bytes) };
        let posted = self.after_cross_memory(qp, id, Operation::Read, result);
        if posted == Some(Posted::Complete)
            && let Some(start) = start
        {
            self.observe(qp, Timed { path: Path::Read, len_bytes, start });
        }
        posted
    }

    /// What a copy through the kernel means for the post. `None`: the kernel refused, use the ring from now on.
    fn after_cross_memory(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        operation: Operation,
        result: Result<(), CrossMemoryError>,
    ) -> Option<Posted> {
        match result {
            Ok(()) => Some(Posted::Complete),
            Err(CrossMemoryError::Unmapped) => {
                self.finish(qp, id, operation, CompletionStatus::Unmapped);
                Some(Posted::Queued)
            }
            Err(CrossMemoryError::Gone) => {
                self.fail(qp, "the process has ended".to_owned());
                Some(Posted::Failed)
            }
            Err(CrossMemoryError::Refused(_)) => {
                self.qps[qp.index()].cross_memory = CrossMemory::Unavailable;
                None
            }
        }
    }

    /// Tells the peer of a finished write. There is room: the caller has looked.
    fn written(&mut self, qp: QueuePairNumber, imm: u32, len_bytes: usize) -> Posted {
        let length = (len_bytes as u64).to_le_bytes();
        match self.qps[qp.index()].send_record(RecordKind::Written, imm, &length, (std::ptr::null(), 0)) {
            Ok(posted) => posted,
            Err(error) => self.fail_corrupt(qp, error),
        }
    }

    /// Room for one more request on this queue pair, and a job number for it.
    pub(super) fn admit(&mut self, qp: QueuePairNumber, id: WorkId, kind: JobKind) -> Result<u32, Posted> {
        if self.qps[qp.index()].outstanding >= OUTSTANDING_MAX {
            return Err(Posted::Busy);
        }
        let number = self.jobs.add(Job { qp, id, kind }).ok_or(Posted::Busy)?;
        self.qps[qp.index()].outstanding += 1;
        Ok(number)
    }

    /// Sends the request of a job that was just admitted, or takes the job back.
    pub(super) fn ask(&mut self, qp: QueuePairNumber, number: u32, kind: RecordKind, body: &[u8]) -> Posted {
        match self.qps[qp.index()].send_record(kind, 0, body, (std::ptr::null(), 0)) {
            Ok(Posted::Complete) => Posted::Queued,
            Ok(posted) => {
                self.jobs.remove(number, qp);
                self.qps[qp.index()].outstanding -= 1;
                posted
            }
            Err(error) => {
                // Taken back first: a post that failed has no completion.
                self.jobs.remove(number, qp);
                self.fail_corrupt(qp, error)
            }
        }
    }

    /// A completion for a user message, or what a record of the fabric's own protocol led to.
    #[inline(always)]
    fn deliver(&mut self, taken: Taken) -> Option<Completion> {
        if taken.record.kind != RecordKind::Send as u8 {
            if taken.record.kind != RecordKind::SendAhead as u8 {
                return self.handle(taken);
            }
            self.expect_offer(taken.qp);
        }
        Some(Completion::Received(Self::message(taken)))
    }

    #[inline(always)]
    const fn message(taken: Taken) -> Message {
        Message {
            qp: taken.qp,
            imm: taken.record.imm,
            payload: Payload::new(taken.body, taken.record.len_bytes),
            token: ReceiveToken(taken.ring.0 as u64),
        }
    }

    /// Everything but the hot rings: finished requests, tasks, doorbell, connections.
    #[inline(always)]
    fn poll_rest(&mut self) -> Option<Completion> {
        if !self.done.is_empty() {
            return self.done.pop_front();
        }
        let (rang, asked) = self.calls();
        self.empty_polls = self.empty_polls.wrapping_add(1);
        if rang | asked | !self.tasks.is_empty() | self.empty_polls.is_multiple_of(SCAN_INTERVAL) {
            return self.poll_cold(rang, asked);
        }
        None
    }

    /// Whether a sleeping ring's bell rang, and whether somebody asks for a connection.
    #[inline(always)]
    fn calls(&self) -> (bool, bool) {
        let control = self.control();
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        (control.summary.load(relaxed) != 0, control.requests.load(relaxed) != self.requests_seen)
    }

    #[cold]
    #[inline(never)]
    fn poll_cold(&mut self, rang: bool, asked: bool) -> Option<Completion> {
        if rang {
            // SAFETY: as in `control`; borrowed apart from `inbound`.
            self.inbound.answer(unsafe { self.control.shared::<Control>(0) });
        }
        if asked {
            self.accept_requests();
        }
        self.run_tasks();
        self.take_over_pulls();
        // SAFETY: as above.
        self.inbound.scan_one(unsafe { self.control.shared::<Control>(0) });
        let interval = if self.restless { RESTLESS_INTERVAL } else { HOUSEKEEPING_INTERVAL };
        if self.empty_polls.is_multiple_of(interval) {
            self.keep_house();
        }
        self.done.pop_front()
    }
}

impl Device for ShmDevice {
    type ProtectionDomain = ();
    type CompletionQueue = ();
    type MemoryRegion = MemoryRegion;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn name(&self) -> &str {
        DEVICE
    }

    fn address(&self) -> &[u8] {
        &self.address
    }

    fn reach(&self, address: &[u8]) -> Result<Reach, Unreachable> {
        let card = Card::decode(address).map_err(|error| Unreachable::because(error.to_string()))?;
        self.card
            .host
            .mismatch(&card.host)
            .map_or(Ok(Reach::Subnet), |reason| Err(Unreachable::because(reason)))
    }

    fn alloc_pd(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn create_cq(&mut self, _depth: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn create_qp(&mut self, (): (), (): (), address: &[u8]) -> Result<QueuePairNumber, Unreachable> {
        self.reach(address)?;
        let card = Card::decode(address).map_err(|error| Unreachable::because(error.to_string()))?;
        let qp = self.qp_of(card, address);
        self.qps[qp.index()].closed = false;
        Ok(qp)
    }

    fn destroy_qp(&mut self, qp: QueuePairNumber) {
        let Some(entry) = self.qps.get_mut(qp.index()) else { return };
        if std::mem::replace(&mut entry.closed, true) {
            return;
        }
        entry.leave();
        if entry.leave_on(&mut self.segment).is_err() {
            entry.drop_ring(&mut self.segment);
        }
        self.restless = true;
        self.flush(qp);
    }

    fn peer_address(&self, qp: QueuePairNumber) -> Option<&[u8]> {
        self.qps.get(qp.index()).map(|entry| entry.address.as_slice())
    }

    fn failure(&self, qp: QueuePairNumber) -> Option<&str> {
        self.qps.get(qp.index())?.failure.as_deref()
    }

    fn take_notice(&mut self) -> Option<String> {
        self.notices.pop_front()
    }

    unsafe fn register(
        &mut self,
        (): (),
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<MemoryRegion, RegisterError> {
        self.regions.register(start as usize, len_bytes, access)
    }

    fn deregister(&mut self, region: MemoryRegion) {
        self.regions.deregister(&region);
    }

    fn remote_key(&self, region: &MemoryRegion) -> u64 {
        region.key
    }

    #[inline(always)]
    fn post_send(&mut self, qp: QueuePairNumber, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        let len = header.len() + payload.len();
        if len <= LINE_BODY_BYTES
            && let Some(entry) = self.qps.get_mut(qp.index())
            && let Some(tx) = &mut entry.tx
        {
            let claim = match tx.claim(len) {
                Ok(Some(claim)) => claim,
                Ok(None) => return Posted::Busy,
                Err(error) => return self.fail_corrupt(qp, error),
            };
            let body = tx.memory.body(claim.place).as_ptr();
            // SAFETY: the claim gives more than 48 bytes at `body`, and `len` is at most that.
            unsafe {
                copy_short(body, header.as_ptr(), header.len());
                copy_short(body.add(header.len()), payload.as_ptr(), payload.len());
            }
            tx.publish(claim, RecordKind::Send as u8, len, imm);
            if let Some(slot) = tx.upcoming_slot(SLOTS_AHEAD) {
                copy::prefetch_line_for_write(tx.memory.slot(slot));
            }
            entry.notify();
            return Posted::Complete;
        }
        self.send_long(qp, imm, header, payload)
    }

    fn post_send_announcing(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload: &[u8],
        key: u64,
    ) -> Posted {
        self.send_ahead(qp, imm, header, payload, key)
            .unwrap_or_else(|| self.post_send(qp, imm, header, payload))
    }

    #[inline(never)]
    fn post_send_fill(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl SendFill,
    ) -> Posted {
        let room = header.len() + payload_bytes_max;
        let longest = self.capabilities.limits.send_copy_bytes_max;
        assert!(
            room <= longest,
            "room for {room} bytes was asked for; this device sends at most {longest} at once"
        );
        if let Err(posted) = self.connect_first(qp) {
            return posted;
        }
        let entry = &mut self.qps[qp.index()];
        let Some(tx) = &mut entry.tx else { return Posted::Failed };
        let claim = match tx.claim(room) {
            Ok(Some(claim)) => claim,
            Ok(None) => return Posted::Busy,
            Err(error) => return self.fail_corrupt(qp, error),
        };
        let body = tx.memory.body(claim.place);
        copy::prefetch_for_write(body.as_ptr(), room);
        // SAFETY: the claim gives `room` bytes at `body`.
        let filled = unsafe {
            std::ptr::copy_nonoverlapping(header.as_ptr(), body.as_ptr(), header.len());
            fill(body.add(header.len()), payload_bytes_max)
        };
        assert!(filled <= payload_bytes_max, "{filled} bytes were packed into room for {payload_bytes_max}");
        let len = header.len() + filled;
        let claim = tx.shorten(claim, room, len);
        let place = tx.memory.body(claim.place);
        if place != body {
            // SAFETY: both places are in claimed memory; they may overlap.
            unsafe { std::ptr::copy(body.as_ptr(), place.as_ptr(), len) };
        }
        tx.publish(claim, RecordKind::Send as u8, len, imm);
        entry.notify();
        Posted::Complete
    }

    unsafe fn post_read(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        _local_region: Option<&MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    ) -> Posted {
        if let Err(posted) = self.connect_first(qp) {
            return posted;
        }
        if len_bytes == 0 {
            return Posted::Complete;
        }
        if self.is_self(qp) {
            let Some(other) = self.regions.check(remote.key, remote.address, len_bytes as u64, Want::Read)
            else {
                return self.refuse(qp, id, Operation::Read);
            };
            // SAFETY: the caller vouches for `local`, the registration for the other; they may overlap.
            unsafe { std::ptr::copy(other, local, len_bytes) };
            return Posted::Complete;
        }
        let allowed = self.allowed(qp, len_bytes, hint);
        let path = match hint {
            ReadHint::OwnerMayBeAway if allowed.read => Path::Read,
            _ => self.qps[qp.index()].chooser.choose(len_bytes, allowed),
        };
        if hint == ReadHint::OwnerIsWaiting
            && let Some(posted) = self.await_offer(qp, id, local, remote, len_bytes, path)
        {
            return posted;
        }
        let shared = if path == Path::Share { self.share(qp, id, local, remote, len_bytes) } else { None };
        // Both processors are busy with earlier transfers.
        let posted = match shared {
            None if allowed.read && !matches!(path, Path::Pull | Path::Ahead) => {
                // SAFETY: as promised by the caller.
                unsafe { self.read_now(qp, id, local, remote.address, len_bytes) }
            }
            posted => posted,
        };
        posted.unwrap_or_else(|| self.pull(qp, id, local, remote, len_bytes))
    }

    unsafe fn post_write(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *const u8,
        _local_region: Option<&MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        imm: Option<u32>,
    ) -> Posted {
        if let Err(posted) = self.connect_first(qp) {
            return posted;
        }
        let own = self.is_self(qp);
        if imm.is_none() && len_bytes == 0 {
            return Posted::Complete;
        }
        if imm.is_none() && own {
            let Some(other) = self.regions.check(remote.key, remote.address, len_bytes as u64, Want::Write)
            else {
                return self.refuse(qp, id, Operation::Write);
            };
            // SAFETY: as for a read.
            unsafe { std::ptr::copy(local, other, len_bytes) };
            return Posted::Complete;
        }
        let entry = &mut self.qps[qp.index()];
        if entry.cross_memory == CrossMemory::Permitted && !own {
            // The notification must have room before the first byte is written.
            if imm.is_some() && entry.tx.as_mut().is_some_and(|tx| matches!(tx.claim(8), Ok(None))) {
                return Posted::Busy;
            }
            // SAFETY: as promised by the caller; the peer gave the address out for writing.
            let result = unsafe { copy::write_process(entry.card.pid, local, remote.address, len_bytes) };
            match (self.after_cross_memory(qp, id, Operation::Write, result), imm) {
                (Some(Posted::Complete), Some(imm)) => return self.written(qp, imm, len_bytes),
                (Some(posted), _) => return posted,
                (None, _) => {}
            }
        }
        self.push(qp, id, local, remote, len_bytes, imm)
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
        if let Err(posted) = self.connect_first(qp) {
            return posted;
        }
        let (code, operand, compare) = atomics::wire_form(op);
        if self.is_self(qp) && remote.address.is_multiple_of(width.bytes() as u64) {
            let checked = self.regions.check(remote.key, remote.address, width.bytes() as u64, Want::Atomic);
            let Some(word) = checked else { return self.refuse(qp, id, Operation::Atomic) };
            // SAFETY: own registered memory, aligned as just checked; `result` as promised by the caller.
            unsafe {
                let old = atomics::run_atomic(code, width, word, operand, compare);
                atomics::store_result(result, width, old);
            }
            return Posted::Complete;
        }
        let number = match self.admit(qp, id, JobKind::Atomic { result, width }) {
            Ok(number) => number,
            Err(posted) => return posted,
        };
        let request = AtomicRequest {
            job: number,
            code: code as u16,
            width: width.bytes() as u16,
            address: remote.address,
            key: remote.key,
            operand,
            compare,
        };
        self.ask(qp, number, RecordKind::AtomicRequest, &request.encode())
    }

    #[inline(always)]
    fn poll_cq(&mut self, (): ()) -> Option<Completion> {
        if self.inbound.is_pause()
            && let Some(completion) = self.poll_rest()
        {
            return Some(completion);
        }
        for _ in 0..RECORDS_PER_POLL {
            match self.inbound.take() {
                Ok(Some(taken)) => {
                    if let Some(completion) = self.deliver(taken) {
                        return Some(completion);
                    }
                }
                Ok(None) => break,
                Err((ring, error)) => {
                    if let Some(qp) = self.inbound.get_mut(ring).map(|entry| entry.qp) {
                        self.fail(qp, corrupt(error));
                    }
                }
            }
        }
        self.poll_rest()
    }

    #[inline(always)]
    fn poll_message(&mut self, (): ()) -> Option<Message> {
        self.inbound.take_if(RecordKind::Send as u8).map(Self::message)
    }

    #[inline(always)]
    fn is_more_likely(&self, (): ()) -> bool {
        self.inbound.has_record_at_hand() || !self.done.is_empty()
    }

    #[inline(always)]
    fn has_message(&self, (): ()) -> bool {
        let (rang, asked) = self.calls();
        self.inbound.may_have_record() | rang | asked | !self.done.is_empty() | !self.tasks.is_empty()
    }

    #[inline(always)]
    fn release(&mut self, token: ReceiveToken) {
        let ring = RingIndex(token.0 as u32);
        if let Some(entry) = self.inbound.get_mut(ring) {
            entry.consumer.release();
            if entry.closing && !entry.consumer.is_held() {
                self.inbound.remove(ring);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.jobs.is_empty()
            && self.tasks.is_empty()
            && self.done.is_empty()
            && self.qps.iter().all(QueuePair::is_quiet)
    }
}
