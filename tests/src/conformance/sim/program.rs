//! A well-behaved program over a few simulated devices, made up from a seed: messages, reads, writes and atomics between all of them,
//! connections made again when they fail, one device that dies. Whatever the weather, it checks what every fabric promises.

use std::collections::{HashMap, HashSet};

use ironband_fabric::sim::{Faults, SimDevice, World};
use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, CompletionStatus, Device, Fabric, Posted, QueuePairNumber, ReadHint,
    RemoteAddress,
};

use super::super::Setup;
use super::super::memory::first_difference;
use super::super::node::{Event, Held, Node, assert_intact};

const DEVICES: usize = 4;
const SLOTS: usize = 64;
const SLOT_BYTES: usize = 700;
const SOURCE_BYTES: usize = 5_000;
/// Seed of the pattern in each device's source is this and its number.
const SOURCE_SEED: u32 = 7_000;

/// What a request is for.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Read {
        sink: usize,
        len_bytes: usize,
    },
    /// With the number of its notification, if it has one.
    Write {
        slot: usize,
        from: usize,
        imm: Option<u32>,
    },
    Add,
}

/// What becomes of the last member half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Lives,
    Killed,
    Closed,
}

/// What one member knows of another.
#[derive(Debug, Default, Clone, Copy)]
struct Peer {
    qp: Option<QueuePairNumber>,
    /// Lives of the connection so far, as the sender counts, and messages in this one.
    life: u32,
    sent: u32,
    /// The same of the peer's, as they have arrived.
    their_life: u32,
    received: u32,
    /// How often this one has left a connection that worked: what was on its way to it is lost.
    left: u32,
}

struct Member<F: Fabric> {
    node: Node<F>,
    source: usize,
    window: usize,
    /// The word that everyone adds to.
    counter: usize,
    remote_source: RemoteAddress,
    remote_counter: RemoteAddress,
    remote_window: RemoteAddress,
    peers: [Peer; DEVICES],
    /// Slots of this one's window that nobody uses. One whose write has not succeeded is never used again: it may land late.
    free_slots: Vec<usize>,
    under_way: HashMap<u64, (usize, Deed)>,
    held: Vec<Held>,
}

/// What is left to be compared at the end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) arrived: u64,
    pub(super) succeeded: u64,
    pub(super) flushed: u64,
    pub(super) refused: u64,
    pub(super) failures: u64,
}

pub(super) struct Program<F: Fabric> {
    members: Vec<Option<Member<F>>>,
    world: World,
    faults: Faults,
    random: u64,
    next_id: u64,
    added: [u64; DEVICES],
    perhaps_added: [u64; DEVICES],
    /// Numbers that did not come, and those that need not come because their write was refused: by sender and receiver.
    skipped: HashSet<(usize, usize, u32)>,
    excused: HashSet<(usize, usize, u32)>,
    pub(super) tally: Tally,
}

impl<F: Fabric<Device = SimDevice>> Program<F> {
    pub(super) fn start(setup: &Setup, seed: u64) -> Self {
        let mut members: Vec<_> = (0..DEVICES)
            .map(|rank| {
                let mut node = Node::<F>::open(setup, rank as u32);
                let source = node.buffer(SOURCE_BYTES, SOURCE_SEED + rank as u32, Access::ALL);
                let window = node.buffer(SLOTS * SLOT_BYTES, 0, Access::ALL);
                let counter = node.buffer(8, 0, Access::ALL);
                node.pages(counter).store(0, &[0; 8]);
                Member {
                    remote_source: node.remote(source, 0),
                    remote_counter: node.remote(counter, 0),
                    remote_window: node.remote(window, 0),
                    node,
                    source,
                    window,
                    counter,
                    peers: [Peer::default(); DEVICES],
                    free_slots: (0..SLOTS).collect(),
                    under_way: HashMap::new(),
                    held: Vec::new(),
                }
            })
            .collect();
        let world = members[0].node.device().world().clone();
        Self {
            members: members.into_iter().map(Some).collect(),
            world,
            faults: Faults::NONE,
            random: seed,
            next_id: 0,
            added: [0; DEVICES],
            perhaps_added: [0; DEVICES],
            skipped: HashSet::new(),
            excused: HashSet::new(),
            tally: Tally::default(),
        }
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % bound
    }

    /// Some steps in this weather; in the middle one member may die.
    pub(super) fn run(&mut self, faults: Faults, steps: u32, ending: Ending) {
        self.world.set_faults(faults);
        self.faults = faults;
        for step in 0..steps {
            if step == steps / 2 {
                self.end(DEVICES - 1, ending);
            }
            let who = self.below(DEVICES);
            if self.members[who].is_none() {
                continue;
            }
            match self.below(200) {
                0..100 => self.poll(who),
                100..120 => self.release(who),
                199 => self.leave(who),
                deed => {
                    let to = self.below(DEVICES);
                    self.post(who, to, 6 + deed % 4);
                }
            }
        }
    }

    fn release(&mut self, who: usize) {
        let count = self.members[who].as_ref().map_or(0, |member| member.held.len());
        if count == 0 {
            return;
        }
        let which = self.below(count);
        let Some(member) = &mut self.members[who] else { return };
        let held = member.held.swap_remove(which);
        member.node.release(held);
    }

    /// Ends a queue pair that works.
    fn leave(&mut self, who: usize) {
        let to = self.below(DEVICES);
        let Some(member) = &mut self.members[who] else { return };
        let peer = &mut member.peers[to];
        if let Some(qp) = peer.qp.take() {
            peer.left += 1;
            member.node.device().destroy_qp(qp);
        }
    }

    /// Calm weather, and everything ends.
    pub(super) fn finish(&mut self) {
        self.world.set_faults(Faults::NONE);
        let mut quiet = 0;
        for turn in 0.. {
            assert!(turn < 1_000_000, "it does not come to an end");
            let Some(member) = &mut self.members[turn % DEVICES] else {
                quiet += 1;
                continue;
            };
            while let Some(held) = member.held.pop() {
                member.node.release(held);
            }
            let idle = member.node.device().is_idle();
            self.poll(turn % DEVICES);
            quiet = if idle && !self.world.step() { quiet + 1 } else { 0 };
            if quiet > DEVICES {
                break;
            }
        }
        for who in 0..DEVICES {
            let Some(member) = &mut self.members[who] else { continue };
            assert!(member.under_way.is_empty(), "requests without an end: {:?}", member.under_way);
            let found = member.node.pages(member.counter).load_word(0);
            let range = self.added[who]..=self.added[who] + self.perhaps_added[who];
            assert!(range.contains(&found), "the word of {who} is {found}, not in {range:?}");
            let source = member.node.pages(member.source).load(0, SOURCE_BYTES);
            assert_eq!(first_difference(&source, SOURCE_SEED + who as u32), None, "nobody writes there");
        }
        let missing: Vec<_> = self.skipped.difference(&self.excused).collect();
        assert!(missing.is_empty(), "gaps, by sender, receiver and number: {missing:x?}");
        assert_eq!(self.world.violations(), [], "a program that does nothing wrong");
    }

    /// Closes everything; nothing may be left in the world.
    pub(super) fn close(self) -> World {
        drop(self.members);
        while self.world.step() {}
        let left = self.world.statistics();
        assert_eq!((left.connections_now, left.requests_now), (0, 0), "something is left");
        self.world
    }

    /// The end of one, and its memory goes at once.
    fn end(&mut self, who: usize, ending: Ending) {
        let Some(member) = &mut self.members[who] else { return };
        match ending {
            Ending::Lives => return,
            Ending::Killed => {
                self.world.kill(member.node.device().number());
                assert!(member.node.poll().is_none(), "the dead say nothing");
            }
            // As `Node` is dropped: first the device, then its memory.
            Ending::Closed => {}
        }
        for (_, (peer, deed)) in member.under_way.drain() {
            match deed {
                Deed::Add => self.perhaps_added[peer] += 1,
                Deed::Write { imm: Some(imm), .. } if self.faults.refusal > 0 => {
                    self.excused.insert((who, peer, imm));
                }
                _ => {}
            }
        }
        if ending == Ending::Killed {
            for buffer in [member.source, member.window, member.counter] {
                member.node.unmap(buffer);
            }
        }
        for held in member.held.drain(..) {
            member.node.release(held);
        }
        self.members[who] = None;
    }

    fn address(&mut self, who: usize) -> Option<Vec<u8>> {
        Some(self.members[who].as_mut()?.node.address())
    }

    /// The queue pair to a peer, made again when the one before has failed.
    fn qp(&mut self, who: usize, to: usize) -> Option<QueuePairNumber> {
        let address = self.address(to)?;
        let member = self.members[who].as_mut()?;
        let qp = member.node.connect(&address);
        if member.peers[to].qp.replace(qp) != Some(qp) {
            let peer = &mut member.peers[to];
            (peer.life, peer.sent) = (peer.life + 1, 0);
        }
        Some(qp)
    }

    fn post(&mut self, who: usize, to: usize, deed: usize) {
        let Some(qp) = self.qp(who, to) else { return };
        let (len_bytes, imm_too) = (self.below(SLOT_BYTES - 1) + 1, self.below(2) == 0);
        let id = self.next_id;
        let Some(target) = &mut self.members[to] else { return };
        let (source, counter, window) = (target.remote_source, target.remote_counter, target.remote_window);
        let slot = if deed == 8 { target.free_slots.pop() } else { None };
        let Some(member) = &mut self.members[who] else { return };
        let peer = member.peers[to];
        let imm = peer.life << 20 | peer.sent;
        let counts;
        let (posted, deed) = match (deed, slot) {
            (6, _) => {
                counts = true;
                (member.node.send(qp, imm, len_bytes), None)
            }
            (7, _) => {
                counts = false;
                let hint = ReadHint::OwnerMayBeAway;
                // Into a place of its own, so that nothing else is read there.
                let Ok(sink) = member.node.try_buffer(len_bytes, 0, Access::LOCAL) else { return };
                let posted = member.node.read(qp, id, (sink, 0), source, len_bytes, hint);
                (posted, Some(Deed::Read { sink, len_bytes }))
            }
            (8, Some(slot)) => {
                counts = imm_too;
                let Ok(from) = member.node.try_buffer(SLOT_BYTES, slot as u32, Access::LOCAL) else { return };
                let remote = RemoteAddress { address: window.address + (slot * SLOT_BYTES) as u64, ..window };
                let posted = member.node.write(qp, id, (from, 0), remote, SLOT_BYTES, imm_too.then_some(imm));
                (posted, Some(Deed::Write { slot, from, imm: imm_too.then_some(imm) }))
            }
            _ => {
                counts = false;
                let posted = member.node.atomic(qp, id, counter, AtomicOp::FetchAdd(1), AtomicWidth::Eight);
                (posted, Some(Deed::Add))
            }
        };
        self.next_id += 1;
        let accepted = matches!(posted, Posted::Complete | Posted::Queued);
        if accepted && counts {
            member.peers[to].sent += 1;
        }
        if posted == Posted::Failed {
            let (node, failed) = (&mut member.node, member.peers[to].qp.take());
            let reason = failed.map(|qp| node.failure(qp)).unwrap_or_default();
            assert!(reason.contains(&format!("rank {to}")), "{reason:?} does not name the peer");
            node.device().destroy_qp(qp);
        }
        let Some(deed) = deed else { return };
        match posted {
            Posted::Complete => self.ended(who, to, id, deed, CompletionStatus::Success),
            Posted::Queued => {
                member.under_way.insert(id, (to, deed));
            }
            Posted::Busy | Posted::Failed => {
                if let (Deed::Write { slot, .. }, Some(target)) = (deed, &mut self.members[to]) {
                    target.free_slots.push(slot);
                }
                self.unmap(who, deed);
            }
        }
    }

    /// The memory of a request that has ended goes at once: whoever still uses it finds nothing there.
    fn unmap(&mut self, who: usize, deed: Deed) {
        if let (Deed::Read { sink: local, .. } | Deed::Write { from: local, .. }, Some(member)) =
            (deed, &mut self.members[who])
        {
            member.node.unmap(local);
        }
    }

    fn poll(&mut self, who: usize) {
        let Some(member) = &mut self.members[who] else { return };
        match member.node.poll_held() {
            None => {}
            Some(Ok(held)) => {
                assert_intact(&held.event);
                let Event::Message { qp, imm, .. } = held.event else { panic!("{held:?} is no message") };
                member.held.push(held);
                self.arrived(who, qp, imm);
            }
            Some(Err(Event::Written { qp, imm, .. })) => self.arrived(who, qp, imm),
            Some(Err(Event::Done { id, status, .. })) => {
                let Some((to, deed)) = member.under_way.remove(&id) else {
                    panic!("request {id} ended twice, or was never posted")
                };
                self.ended(who, to, id, deed, status);
            }
            Some(Err(Event::Disconnected { qp })) => {
                assert!(member.node.failure(qp).contains("failed: "), "{:?}", member.node.failure(qp));
                member.node.device().destroy_qp(qp);
                self.tally.failures += 1;
            }
            Some(Err(event)) => panic!("{event:?}"),
        }
    }

    /// Messages and notifications of one life come in their order, from the first on, without a gap but for writes that were refused.
    fn arrived(&mut self, who: usize, qp: QueuePairNumber, imm: u32) {
        let Some(member) = &mut self.members[who] else { return };
        let address = member.node.device().peer_address(qp).expect("a known queue pair");
        let from = address[20] as usize;
        let (life, number, peer) = (imm >> 20, imm & 0xf_ffff, &mut member.peers[from]);
        if life != peer.their_life {
            assert!(life > peer.their_life, "from {from}: life {life} after {}", peer.their_life);
            (peer.their_life, peer.received) = (life, 0);
        }
        assert!(number >= peer.received, "from {from} to {who}, life {life}: {number} was overtaken");
        if number > peer.received && peer.left > 0 {
            (peer.left, peer.received) = (peer.left - 1, number);
        }
        self.skipped.extend((peer.received..number).map(|number| (from, who, life << 20 | number)));
        peer.received = number + 1;
        self.tally.arrived += 1;
    }

    fn ended(&mut self, who: usize, to: usize, id: u64, deed: Deed, status: CompletionStatus) {
        let success = status == CompletionStatus::Success;
        match status {
            CompletionStatus::Success => self.tally.succeeded += 1,
            CompletionStatus::Flushed => self.tally.flushed += 1,
            _ => self.tally.refused += 1,
        }
        if let (Deed::Write { imm: Some(imm), .. }, false) = (deed, success) {
            // One that ended as flushed may have gone on, and have been refused behind its end.
            if status != CompletionStatus::Flushed || self.faults.refusal > 0 {
                self.excused.insert((who, to, imm));
            }
        }
        match deed {
            Deed::Read { sink, len_bytes } if success => {
                let Some(member) = &self.members[who] else { return };
                let bytes = member.node.pages(sink).load(0, len_bytes);
                let wrong = first_difference(&bytes, SOURCE_SEED + to as u32);
                assert_eq!(wrong, None, "read {id} of {len_bytes} bytes");
            }
            Deed::Write { slot, .. } if success => {
                let Some(target) = &mut self.members[to] else { return };
                let bytes = target.node.pages(target.window).load(slot * SLOT_BYTES, SLOT_BYTES);
                assert_eq!(first_difference(&bytes, slot as u32), None, "write {id}");
                target.free_slots.push(slot);
            }
            Deed::Add if success => self.added[to] += 1,
            // Flushed may mean that it was done; refused never does.
            Deed::Add if status == CompletionStatus::Flushed => self.perhaps_added[to] += 1,
            _ => {}
        }
        self.unmap(who, deed);
    }
}
