//! What has come in, as the device's handler counts it.

use ironband::{CompletionStatus, QueuePair, WorkId};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::clock::Clock;
use super::memory::{Incoming, Message};
use super::pattern;
use super::statistics::Marks;

/// What a message is: the upper four bits of its immediate data. Below them is the seed of its pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The first message of either side, which makes the connection.
    Hello = 1 << 28,
    /// Bytes to measure with.
    Data = 2 << 28,
    /// A long message lies in the sender's source.
    Announce = 3 << 28,
    /// That message has been read.
    Acknowledge = 4 << 28,
    /// The measurement is over; its answer is the same.
    End = 5 << 28,
}

const KIND_BITS: u32 = 15 << 28;

/// Seeds have 28 bits, less than an immediate.
pub(super) const SEED_BITS: u32 = !KIND_BITS;

impl Kind {
    /// The immediate data of a message of this kind.
    #[inline]
    pub(super) const fn with(self, seed: u32) -> u32 {
        self as u32 | seed & SEED_BITS
    }

    #[inline]
    const fn of(imm: u32) -> Option<Self> {
        match imm & KIND_BITS {
            bits if bits == Self::Hello as u32 => Some(Self::Hello),
            bits if bits == Self::Data as u32 => Some(Self::Data),
            bits if bits == Self::Announce as u32 => Some(Self::Announce),
            bits if bits == Self::Acknowledge as u32 => Some(Self::Acknowledge),
            bits if bits == Self::End as u32 => Some(Self::End),
            _ => None,
        }
    }
}

/// Marks the requests that read an announced message; the others' number is 0.
const LANDING: u64 = 1 << 32;

/// The number of the request that reads an announced message with this seed.
pub(super) const fn landing(seed: u32) -> WorkId {
    WorkId(LANDING | seed as u64)
}

/// Counters of this measurement, and what has to be done about what came in.
pub(super) struct Inbox {
    /// Messages, writes and announced messages that are here as a whole.
    pub(super) arrived: Cell<u64>,
    /// Requests of this side that have ended well.
    pub(super) done: Cell<u64>,
    /// Announced messages of this side that the peer has read.
    pub(super) acknowledged: Cell<u64>,
    pub(super) greeted: Cell<bool>,
    pub(super) ended: Cell<bool>,
    /// Announced messages to read, by their seeds.
    pub(super) announced: RefCell<VecDeque<u32>>,
    /// Of those, how many are being read.
    pub(super) landing: Cell<u64>,
    /// Read, and the sender not told yet.
    pub(super) unacknowledged: Cell<u64>,
    /// Seeds whose messages have landed in the target and are to be looked at.
    pub(super) landed: Cell<Option<u32>>,
    failed: Cell<bool>,
    failure: RefCell<Option<String>>,
    /// Nothing of the next four is touched unless data is checked or marked.
    check: Cell<bool>,
    size_bytes: Cell<usize>,
    scratch: RefCell<Vec<u8>>,
    wrong: RefCell<Option<String>>,
    marks: RefCell<Option<Marks>>,
    mark_next: Cell<u64>,
    clock: Clock,
    depth: u64,
}

impl Inbox {
    pub(super) fn new(clock: Clock, depth: u64) -> Self {
        Self {
            arrived: Cell::new(0),
            done: Cell::new(0),
            acknowledged: Cell::new(0),
            greeted: Cell::new(false),
            ended: Cell::new(false),
            announced: RefCell::new(VecDeque::with_capacity(depth as usize + 1)),
            landing: Cell::new(0),
            unacknowledged: Cell::new(0),
            landed: Cell::new(None),
            failed: Cell::new(false),
            failure: RefCell::new(None),
            check: Cell::new(false),
            size_bytes: Cell::new(0),
            scratch: RefCell::new(Vec::new()),
            wrong: RefCell::new(None),
            marks: RefCell::new(None),
            mark_next: Cell::new(u64::MAX),
            clock,
            depth,
        }
    }

    /// Begins a measurement. With `marks`, what arrives or is done is marked.
    pub(super) fn begin(&self, size_bytes: usize, check: bool, marks: bool) {
        for counter in [&self.arrived, &self.done, &self.acknowledged] {
            counter.set(0);
        }
        self.ended.set(false);
        self.landed.set(None);
        self.check.set(check);
        self.size_bytes.set(size_bytes);
        *self.wrong.borrow_mut() = None;
        if check {
            self.scratch.borrow_mut().resize(size_bytes, 0);
        }
        *self.marks.borrow_mut() = marks.then(Marks::new);
        self.mark_next.set(if marks { 1 } else { u64::MAX });
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) const fn size_bytes(&self) -> usize {
        self.size_bytes.get()
    }

    /// Changes whenever something comes in or ends.
    pub(super) fn activity(&self) -> u64 {
        let counters = [&self.arrived, &self.done, &self.acknowledged];
        counters.iter().map(|counter| counter.get()).sum::<u64>() + u64::from(self.ended.get())
    }

    /// The seed of the announced message that is to be read next.
    pub(super) fn next_announced(&self) -> Option<u32> {
        self.announced.borrow().front().copied()
    }

    /// That message is being read.
    pub(super) fn take_announced(&self) {
        self.announced.borrow_mut().pop_front();
        self.landing.set(self.landing.get() + 1);
    }

    /// True when no announced message waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.announced.borrow().is_empty() && self.landing.get() == 0 && self.unacknowledged.get() == 0
    }

    /// Messages per second in the fastest part of the measurement.
    pub(super) fn peak_per_second(&self) -> Option<f64> {
        let peak = self.marks.borrow().as_ref()?.peak_per_tick(self.depth)?;
        Some(peak * 1e9 / self.clock.ns_per_tick())
    }

    /// True when something failed: then [`Inbox::failure`] says what.
    #[inline]
    pub(super) const fn has_failed(&self) -> bool {
        self.failed.get()
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// The first wrong byte of this measurement.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.borrow().clone()
    }

    #[cold]
    fn fail(&self, reason: String) {
        self.failed.set(true);
        self.failure.borrow_mut().get_or_insert(reason);
    }

    /// Counts one that is here.
    #[inline]
    pub(super) fn count(&self, counter: &Cell<u64>) {
        let count = counter.get() + 1;
        counter.set(count);
        if count >= self.mark_next.get() {
            self.mark();
        }
    }

    /// Counts one request of this side that has ended well.
    #[inline]
    pub(super) fn count_done(&self) {
        self.count(&self.done);
    }

    #[inline(never)]
    fn mark(&self) {
        if let Some(marks) = &mut *self.marks.borrow_mut() {
            self.mark_next.set(marks.mark(self.clock.ticks()));
        }
    }

    /// An announced message has been read.
    pub(super) fn land(&self, seed: u32) {
        self.landing.set(self.landing.get() - 1);
        self.unacknowledged.set(self.unacknowledged.get() + 1);
        if self.check.get() {
            self.landed.set(Some(seed));
        }
        self.count(&self.arrived);
    }

    /// Compares bytes with the pattern that they should have.
    pub(super) fn verify(&self, bytes: &[u8], seed: u32) {
        if let Some(difference) = pattern::first_difference(bytes, seed) {
            let what = format!("{} bytes, number {}: {difference}", bytes.len(), self.arrived.get() + 1);
            self.wrong.borrow_mut().get_or_insert(what);
        }
    }

    #[cold]
    fn check_message(&self, message: &Message, seed: u32) {
        let scratch = &mut *self.scratch.borrow_mut();
        message.copy_to(scratch);
        self.verify(scratch, seed);
    }

    #[inline(never)]
    fn other(&self, kind: Option<Kind>, imm: u32) {
        match kind {
            Some(Kind::Announce) => self.announced.borrow_mut().push_back(imm & SEED_BITS),
            Some(Kind::Acknowledge) => self.acknowledged.set(self.acknowledged.get() + 1),
            Some(Kind::Hello) => self.greeted.set(true),
            Some(Kind::End) => self.ended.set(true),
            Some(Kind::Data) | None => self.fail(format!("a message of unknown kind arrived ({imm:#x})")),
        }
    }
}

impl Incoming for Inbox {
    #[inline(always)]
    fn message(&self, _from: QueuePair, imm: u32, message: &Message) {
        let kind = Kind::of(imm);
        if kind != Some(Kind::Data) {
            return self.other(kind, imm);
        }
        if message.len_bytes() != self.size_bytes.get() {
            let wanted = self.size_bytes.get();
            return self
                .fail(format!("a message of {} bytes arrived instead of {wanted}", message.len_bytes()));
        }
        if self.check.get() {
            self.check_message(message, imm & SEED_BITS);
        }
        self.count(&self.arrived);
    }

    #[inline]
    fn written(&self, _from: QueuePair, imm: u32, len_bytes: usize) {
        if Kind::of(imm) != Some(Kind::Data) || len_bytes != self.size_bytes.get() {
            let wanted = self.size_bytes.get();
            return self.fail(format!("a write of {len_bytes} bytes arrived instead of {wanted} ({imm:#x})"));
        }
        if self.check.get() {
            self.landed.set(Some(imm & SEED_BITS));
        }
        self.count(&self.arrived);
    }

    #[inline]
    fn completed(&self, id: WorkId, status: CompletionStatus) {
        if status != CompletionStatus::Success {
            return self.fail(format!("a request failed: {status:?}"));
        }
        if id.0 & LANDING != 0 {
            self.land(id.0 as u32);
        } else {
            self.count_done();
        }
    }

    fn disconnected(&self, _from: QueuePair, reason: &str) {
        self.fail(reason.to_owned());
    }
}
