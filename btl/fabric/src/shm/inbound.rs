//! The rings that peers send to this process through, and which of them to look at.
//!
//! A few rings are *hot*: each poll looks at them. All others are *asleep*: their producers are told (by `bell` in the ring
//! head) to set a bit in this process's doorbell, and a poll looks at one word that sums the doorbell up. So a poll costs the
//! same with 4 peers and with 400. A ring that falls asleep with messages inside rings its own bell. A producer reads `bell`
//! without a fence, so one message sent at the very moment when its ring falls asleep may ring nothing; that is why rings
//! that have just fallen asleep are looked at once more, and all sleeping rings one by one, at each [`SCAN_INTERVAL`]th
//! empty poll. The doorbell makes it fast, the scan makes it certain.

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use super::copy;
use super::layout::{BELL_WORDS, Control, MappedRing};
use super::ring::{Consumer, Corrupt, LINE_BODY_BYTES, Record};
use crate::QueuePairNumber;

/// Rings looked at by each poll. Their next headers stay in the first-level cache.
const HOT_MAX: usize = 8;
/// Records taken from one ring before the others get their turn.
const BURST_MAX: u32 = 16;
/// From so many records of one ring in a row on its next slots are requested ahead: its producer is writing many, and is past them.
const STREAM_MIN: u32 = 2;
/// How far ahead. A slot comes from the other processor's cache, which takes as long as some records.
const SLOTS_AHEAD: u32 = 4;
/// Records after which everything else is looked at too, so that doorbells, requests and tasks are not forgotten in a flood.
/// Each hot ring has had its burst by then, so whoever is sent to sleep has been served.
const RECORDS_BETWEEN_PAUSES: u64 = HOT_MAX as u64 * BURST_MAX as u64;
/// Empty polls between looks at one sleeping ring.
pub(crate) const SCAN_INTERVAL: u32 = 16;

/// One inbound ring.
#[derive(Debug)]
pub(crate) struct InboundRing {
    pub(crate) consumer: Consumer<MappedRing>,
    pub(crate) qp: QueuePairNumber,
    /// Poll number of its last message, for choosing who falls asleep.
    last_used: u64,
    hot: bool,
    /// Nothing more comes: to be removed when the last record is released.
    pub(crate) closing: bool,
}

/// Number of an inbound ring; also its bit in the doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingIndex(pub(crate) u32);

/// A record, with what is needed to hand it out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) ring: RingIndex,
    pub(crate) qp: QueuePairNumber,
    pub(crate) record: Record,
    /// Valid until the record is released.
    pub(crate) body: NonNull<u8>,
}

/// All inbound rings.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    rings: Vec<Option<InboundRing>>,
    hot: [u32; HOT_MAX],
    hot_len: usize,
    /// See [`RECORDS_BETWEEN_PAUSES`].
    pause: bool,
    cursor: usize,
    burst: u32,
    scan: usize,
    /// Rings that have fallen asleep since the last scan.
    dozing: Vec<u32>,
    /// Where the next look at the doorbell begins: after the last ring that it woke, or the first ones would always win.
    next_bell: usize,
    /// Counts polls that found something.
    clock: u64,
}

impl Inbound {
    /// Adds a ring; `None` when [`BELL_WORDS`] x 64 peers are connected.
    pub(crate) fn add(
        &mut self,
        control: &Control,
        memory: MappedRing,
        qp: QueuePairNumber,
    ) -> Option<RingIndex> {
        let ring = InboundRing {
            consumer: Consumer::new(memory),
            qp,
            last_used: self.clock,
            hot: false,
            closing: false,
        };
        let index = match self.rings.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.rings.len() < BELL_WORDS * 64 => {
                self.rings.push(None);
                self.rings.len() - 1
            }
            None => return None,
        };
        self.rings[index] = Some(ring);
        let index = RingIndex(index as u32);
        self.wake(control, index);
        Some(index)
    }

    /// Takes a ring away as soon as none of its records is held.
    pub(crate) fn close(&mut self, index: RingIndex) {
        let Some(ring) = self.get_mut(index) else { return };
        ring.closing = true;
        let held = ring.consumer.is_held();
        self.cool(index);
        if !held {
            self.rings[index.0 as usize] = None;
        }
    }

    /// Takes a ring from the hot ones.
    fn cool(&mut self, index: RingIndex) {
        if let Some(at) = self.hot[..self.hot_len].iter().position(|hot| *hot == index.0) {
            self.hot_len -= 1;
            self.hot[at] = self.hot[self.hot_len];
            self.cursor = 0;
        }
    }

    /// Takes a ring away. Must not be called while one of its records is held.
    pub(crate) fn remove(&mut self, index: RingIndex) {
        self.cool(index);
        self.rings[index.0 as usize] = None;
    }

    pub(crate) fn get_mut(&mut self, index: RingIndex) -> Option<&mut InboundRing> {
        self.rings.get_mut(index.0 as usize)?.as_mut()
    }

    /// The ring of a queue pair.
    pub(crate) fn of(&self, qp: QueuePairNumber) -> Option<RingIndex> {
        let is =
            |ring: &Option<InboundRing>| ring.as_ref().is_some_and(|ring| ring.qp == qp && !ring.closing);
        self.rings.iter().position(is).map(|index| RingIndex(index as u32))
    }

    /// Makes a ring hot; the one that was silent for longest falls asleep if there are too many.
    #[cold]
    pub(crate) fn wake(&mut self, control: &Control, index: RingIndex) {
        let clock = self.clock;
        let Some(ring) = self.get_mut(index) else { return };
        if ring.hot || ring.closing {
            return;
        }
        ring.hot = true;
        ring.last_used = clock;
        ring.consumer.memory.head().bell.store(0, Ordering::Release);
        if self.hot_len == HOT_MAX {
            self.put_to_sleep(control);
        }
        self.hot[self.hot_len] = index.0;
        self.hot_len += 1;
    }

    fn put_to_sleep(&mut self, control: &Control) {
        let silent_since =
            |at: &usize| self.rings[self.hot[*at] as usize].as_ref().map_or(0, |ring| ring.last_used);
        let Some(at) = (0..self.hot_len).min_by_key(silent_since) else { return };
        let index = self.hot[at];
        self.hot_len -= 1;
        self.hot[at] = self.hot[self.hot_len];
        if let Some(ring) = self.get_mut(RingIndex(index)) {
            ring.hot = false;
            ring.consumer.memory.head().bell.store(index + 1, Ordering::Release);
            // Its producer may be waiting for an answer to what it has sent already, and ring nothing ever again.
            fence(Ordering::SeqCst);
            if ring.consumer.has_record() {
                control.ring_bell(index);
            }
            self.dozing.push(index);
        }
    }

    /// True once after so many records that it is time to look at everything else.
    #[inline(always)]
    pub(crate) const fn is_pause(&mut self) -> bool {
        std::mem::replace(&mut self.pause, false)
    }

    /// Goes on to the next hot ring.
    #[inline(always)]
    const fn turn(&mut self) {
        self.burst = 0;
        self.cursor = if self.cursor + 1 < self.hot_len { self.cursor + 1 } else { 0 };
    }

    /// Takes the next record of a hot ring. An error names the ring that is corrupt.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Result<Option<Taken>, (RingIndex, Corrupt)> {
        for _ in 0..self.hot_len {
            if let Some(taken) = self.take_at_hand()? {
                return Ok(Some(taken));
            }
            self.turn();
        }
        Ok(None)
    }

    /// As [`Inbound::take`], if the ring whose turn it is has a record of this kind next and nothing else is to be looked at.
    #[inline(always)]
    pub(crate) fn take_if(&mut self, kind: u8) -> Option<Taken> {
        let index = self.hot[self.cursor % HOT_MAX];
        let ring = self.rings.get(index as usize)?.as_ref()?;
        if self.pause || !ring.consumer.is_next(kind) {
            return None;
        }
        // What is wrong with a record is for `take` to say. A peer that changes it between these two looks has sent another message.
        self.take_at_hand().ok()?
    }

    /// As [`Inbound::take`], of the ring whose turn it is.
    #[inline(always)]
    fn take_at_hand(&mut self) -> Result<Option<Taken>, (RingIndex, Corrupt)> {
        // A ring that is not hot any more may stand there still.
        if self.cursor >= self.hot_len {
            return Ok(None);
        }
        let index = self.hot[self.cursor % HOT_MAX];
        let Some(Some(ring)) = self.rings.get_mut(index as usize) else { return Ok(None) };
        let record = match ring.consumer.take() {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(corrupt) => return Err((RingIndex(index), corrupt)),
        };
        self.clock += 1;
        // Kept if it is set: one poll may take several records of the fabric's own protocol.
        self.pause |= self.clock.is_multiple_of(RECORDS_BETWEEN_PAUSES);
        ring.last_used = self.clock;
        let body = ring.consumer.memory.body(record.place);
        if record.len_bytes > LINE_BODY_BYTES {
            // The first line of a short one is here already, with the header.
            copy::prefetch_for_read(body.as_ptr().wrapping_add(LINE_BODY_BYTES), record.len_bytes);
        }
        if self.burst >= STREAM_MIN {
            let slot = ring.consumer.upcoming_slot(SLOTS_AHEAD);
            copy::prefetch_line_for_read(ring.consumer.memory.slot(slot));
        }
        let taken = Taken { ring: RingIndex(index), qp: ring.qp, record, body };
        self.burst += 1;
        if self.burst == BURST_MAX {
            self.turn();
        }
        Ok(Some(taken))
    }

    /// False when there is one hot ring and it is empty. With several a poll does not take much longer than to look at all.
    #[inline(always)]
    pub(crate) fn may_have_record(&self) -> bool {
        self.hot_len != 1 || self.has_record_at_hand()
    }

    /// True when the ring whose turn it is has a record.
    #[inline(always)]
    pub(crate) fn has_record_at_hand(&self) -> bool {
        let index = self.hot[self.cursor % HOT_MAX];
        let ring = self.rings.get(index as usize).and_then(Option::as_ref);
        ring.is_some_and(|ring| ring.hot && ring.consumer.has_record())
    }

    /// Wakes the rings whose bells rang, as many as can be hot at once. The others stay rung, for the next time.
    #[cold]
    pub(crate) fn answer(&mut self, control: &Control) {
        let mut room = HOT_MAX;
        let (first_word, first_bit) = (self.next_bell / 64 % BELL_WORDS, (self.next_bell % 64) as u32);
        let words = control.summary.swap(0, Ordering::Acquire);
        // The first word is visited twice: its bits from `first_bit` on at the beginning, the lower ones at the end.
        for step in 0..=BELL_WORDS {
            let word = (first_word + step) % BELL_WORDS;
            if words & (1 << word) == 0 {
                continue;
            }
            let turn = match step {
                0 => u64::MAX << first_bit,
                BELL_WORDS => !(u64::MAX << first_bit),
                _ => u64::MAX,
            };
            let mut bits = control.bells[word].fetch_and(!turn, Ordering::Acquire) & turn;
            while bits != 0 && room > 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                room -= 1;
                self.next_bell = word * 64 + bit as usize + 1;
                self.wake(control, RingIndex((word * 64) as u32 + bit));
            }
            if bits != 0 {
                control.bells[word].fetch_or(bits, Ordering::AcqRel);
                control.summary.fetch_or(1 << word, Ordering::AcqRel);
            }
        }
    }

    /// Looks at the rings that fell asleep last, and at the next sleeping ring.
    pub(crate) fn scan_one(&mut self, control: &Control) {
        for index in std::mem::take(&mut self.dozing) {
            self.look_at(control, index as usize);
        }
        if self.rings.len() <= self.hot_len {
            return;
        }
        self.scan = (self.scan + 1) % self.rings.len();
        self.look_at(control, self.scan);
    }

    /// Has a sleeping ring woken up if there is something in it.
    fn look_at(&self, control: &Control, at: usize) {
        let missed = |ring: &InboundRing| !ring.hot && !ring.closing && ring.consumer.has_record();
        if self.rings[at].as_ref().is_some_and(missed) {
            control.ring_bell(at as u32);
        }
    }
}
