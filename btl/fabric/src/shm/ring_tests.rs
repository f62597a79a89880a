//! The ring against a model: a `VecDeque` with exact accounting (proptest), words that no correct peer writes, and, under
//! `cfg(loom)`, all interleavings of two threads.
//!
//! Nothing here calls the system, so that Miri can run it.

use super::*;

/// Random runs of both ends against a model that counts in 64 bits and never wraps.
#[cfg(not(loom))]
mod oracle {
    use std::collections::VecDeque;
    use std::ops::Range;

    use proptest::prelude::*;

    use super::super::heap::HeapRing;
    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Send(Length),
        /// Claim room for one length, then send a part of it.
        SendShortened(Length, Length),
        /// All of them, one after the other, if the ring says that all have room.
        SendAll(Vec<Length>),
        Take,
        /// Release one of the held records, chosen by this number.
        Release(usize),
    }

    #[derive(Debug, Clone, Copy)]
    enum Length {
        Exactly(usize),
        /// So many bytes less than the longest.
        BelowMax(usize),
        PerMille(usize),
    }

    impl Length {
        fn of(self, max: usize) -> usize {
            match self {
                Self::Exactly(len) => len.min(max),
                Self::BelowMax(less) => max.saturating_sub(less),
                Self::PerMille(share) => max * share / 1000,
            }
        }
    }

    fn length() -> impl Strategy<Value = Length> {
        prop_oneof![
            3 => (0..=80_usize).prop_map(Length::Exactly),
            2 => prop_oneof![Just(0), Just(48), Just(49), Just(303), Just(304), Just(305), Just(320), Just(321)].prop_map(Length::Exactly),
            2 => (0..=65_usize).prop_map(Length::BelowMax),
            3 => (0..=1000_usize).prop_map(Length::PerMille),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            5 => length().prop_map(Op::Send),
            2 => (length(), length()).prop_map(|(claimed, sent)| Op::SendShortened(claimed, sent)),
            1 => proptest::collection::vec(length(), 1..6).prop_map(Op::SendAll),
            4 => Just(Op::Take),
            4 => any::<usize>().prop_map(Op::Release),
        ]
    }

    /// A message between its publication and its release.
    #[derive(Debug)]
    struct Live {
        record: Record,
        bytes: Range<usize>,
        seed: u8,
    }

    fn pattern(seed: u8, index: usize) -> u8 {
        seed.wrapping_mul(31).wrapping_add(index as u8).wrapping_add((index >> 8) as u8)
    }

    struct Run<'a> {
        memory: &'a HeapRing,
        producer: Producer<&'a HeapRing>,
        consumer: Consumer<&'a HeapRing>,
        sent: VecDeque<Live>,
        held: Vec<Live>,
        next_seed: u8,
        // The model's positions: tail and bulk tail, as claimed; what was taken; what was given back.
        tail: (u64, u64),
        taken: (u64, u64),
        freed: (u64, u64),
        /// End position in the bulk space of each message in `sent`.
        ends: VecDeque<u64>,
    }

    impl<'a> Run<'a> {
        fn new(memory: &'a HeapRing, slot_position: u32, unit_position: u32) -> Self {
            let start = (u64::from(slot_position), u64::from(unit_position));
            Self {
                memory,
                producer: Producer::starting_at(memory, slot_position, unit_position),
                consumer: Consumer::starting_at(memory, slot_position, unit_position),
                sent: VecDeque::new(),
                held: Vec::new(),
                next_seed: 1,
                tail: start,
                taken: start,
                freed: start,
                ends: VecDeque::new(),
            }
        }

        fn max(&self) -> usize {
            body_bytes_max(self.memory.units())
        }

        /// Where the bulk space ends after a body of this length, by the rule in the ring's documentation.
        fn model_end(&self, len_bytes: usize) -> u64 {
            if len_bytes <= INLINE_BODY_BYTES {
                return self.tail.1;
            }
            let units = u64::from(self.memory.units());
            let (need, at) = ((len_bytes as u64).div_ceil(64), self.tail.1 % units);
            let gap = if at + need > units { units - at } else { 0 };
            self.tail.1 + gap + need
        }

        fn model_has_room(&self, len_bytes: usize) -> bool {
            self.tail.0 - self.freed.0 < u64::from(self.memory.slots())
                && self.model_end(len_bytes) - self.freed.1 <= u64::from(self.memory.units())
        }

        fn assert_apart(&self, bytes: &Range<usize>) {
            for live in self.sent.iter().chain(&self.held) {
                let apart = bytes.end <= live.bytes.start || live.bytes.end <= bytes.start;
                assert!(apart || bytes.is_empty() || live.bytes.is_empty(), "{bytes:?} overlaps {live:?}");
            }
        }

        /// Returns whether there was room.
        fn send(&mut self, claimed: usize, len_bytes: usize) -> bool {
            let room = self.model_has_room(claimed);
            let claim = self.producer.claim(claimed).expect("nobody broke the protocol");
            assert_eq!(
                claim.is_some(),
                room,
                "{claimed} bytes, {:?} used, {:?} freed",
                self.tail,
                self.freed
            );
            let Some(claim) = claim else { return false };
            let (seed, imm) = (self.next_seed, u32::from(self.next_seed) << 20 | 0x5a);
            self.next_seed = self.next_seed.wrapping_add(1);
            let (first_bytes, first) = self.memory.body(claim.place, claimed);
            self.assert_apart(&first_bytes);
            (0..len_bytes).for_each(|index| first[index].set(pattern(seed, index)));
            let first_place = claim.place;
            let claim = self.producer.shorten(claim, claimed, len_bytes);
            let (bytes, cells) = self.memory.body(claim.place, len_bytes);
            self.assert_apart(&bytes);
            if claim.place != first_place {
                let copy: Vec<u8> = first[..len_bytes].iter().map(std::cell::Cell::get).collect();
                cells.iter().zip(copy).for_each(|(cell, byte)| cell.set(byte));
            }
            let record = Record { kind: seed | 1, imm, place: claim.place, len_bytes };
            self.producer.publish(claim, record.kind, len_bytes, imm);
            self.tail = (self.tail.0 + 1, self.model_end(len_bytes));
            self.ends.push_back(self.tail.1);
            self.sent.push_back(Live { record, bytes, seed });
            true
        }

        fn send_all(&mut self, lengths: &[usize]) {
            let longest = lengths.iter().copied().max().unwrap_or(0);
            let free = self.tail == self.freed;
            if self.producer.has_room(lengths.len(), longest, lengths.iter().sum()) {
                for len_bytes in lengths {
                    assert!(self.send(*len_bytes, *len_bytes), "room was promised for {lengths:?}");
                }
            } else {
                let few = lengths.len() == 1 && longest <= self.max() / 2;
                assert!(!(free && few), "an empty ring has room for one of {longest} bytes");
            }
        }

        fn take(&mut self) {
            assert_eq!(self.consumer.has_record(), !self.sent.is_empty());
            let taken = self.consumer.take().expect("nobody broke the protocol");
            let Some(live) = self.sent.pop_front() else {
                assert_eq!(taken, None, "a record that nobody sent");
                return;
            };
            assert_eq!(taken, Some(live.record), "order, kind, immediate data, length and place");
            self.taken = (self.taken.0 + 1, self.ends.pop_front().expect("one for each message"));
            self.held.push(live);
        }

        fn verify(&self, live: &Live) {
            let (_, cells) = self.memory.body(live.record.place, live.record.len_bytes);
            for (index, cell) in cells.iter().enumerate() {
                assert_eq!(cell.get(), pattern(live.seed, index), "byte {index} of {live:?}");
            }
        }

        fn release(&mut self, choice: usize) {
            if self.held.is_empty() {
                return;
            }
            let live = self.held.swap_remove(choice % self.held.len());
            self.verify(&live);
            self.consumer.release();
            if self.held.is_empty() {
                self.freed = self.taken;
            }
            assert_eq!(self.consumer.is_held(), !self.held.is_empty());
            assert_eq!(self.producer.is_drained(), self.freed.0 == self.tail.0);
        }

        fn drain(&mut self) {
            while !self.sent.is_empty() {
                self.take();
            }
            while !self.held.is_empty() {
                self.release(0);
            }
            assert!(self.producer.is_drained());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 8 } else { 1500 }, failure_persistence: None, ..ProptestConfig::default()
        })]
        #[test]
        fn the_ring_is_a_bounded_queue(
            slot_bits in 1..6_u32,
            unit_bits in 4..10_u32,
            before_slot_wrap in 0..40_u32,
            before_unit_wrap in 0..600_u32,
            near_wrap: bool,
            ops in proptest::collection::vec(op(), 1..250),
        ) {
            let start = |before: u32| if near_wrap { 0_u32.wrapping_sub(before) } else { before };
            let (slot_start, unit_start) = (start(before_slot_wrap), start(before_unit_wrap));
            let memory = HeapRing::used_up_to(1 << slot_bits, 1 << unit_bits, slot_start, unit_start);
            let mut run = Run::new(&memory, slot_start, unit_start);
            for op in ops {
                match op {
                    Op::Send(length) => {
                        let len = length.of(run.max());
                        run.send(len, len);
                    }
                    Op::SendShortened(claimed, sent) => {
                        let claimed = claimed.of(run.max());
                        run.send(claimed, sent.of(claimed));
                    }
                    Op::SendAll(lengths) => {
                        let max = run.max();
                        run.send_all(&lengths.iter().map(|length| length.of(max)).collect::<Vec<_>>());
                    }
                    Op::Take => run.take(),
                    Op::Release(choice) => run.release(choice),
                }
            }
            run.drain();
            let max = run.max();
            prop_assert!(run.send(max, max), "an empty ring must take the longest message");
            run.drain();
        }
    }

    #[test]
    fn a_fresh_ring_is_all_zero_and_empty() {
        let memory = HeapRing::used_up_to(4, 32, 4, 0);
        assert!((0..4).all(|slot| (&memory).header(slot).load(Ordering::Relaxed) == u64::from(slot) + 1));
        // The real start: everything zero, positions zero.
        let memory = HeapRing::used_up_to(4, 32, 0, 0);
        (0..4).for_each(|slot| (&memory).header(slot).store(0, Ordering::Relaxed));
        let mut run = Run {
            producer: Producer::new(&memory),
            consumer: Consumer::new(&memory),
            ..Run::new(&memory, 0, 0)
        };
        run.take();
        for len in [0, 1, 48, 49, 303, 304, 305, 512] {
            assert!(run.send(len, len), "{len}");
            run.take();
            run.release(0);
        }
    }

    #[test]
    fn a_full_ring_takes_nothing_and_loses_nothing() {
        for (slots, units) in [(2, 512), (32, 32)] {
            let memory = HeapRing::used_up_to(slots, units, 7, 3);
            let mut run = Run::new(&memory, 7, 3);
            for round in 0..100 {
                let len = [200, 304, 305, 512][round % 4];
                let before = run.sent.len();
                while run.send(len, len) {}
                assert!(run.sent.len() > before || before > 0);
                assert!(!run.send(len, len), "still full");
                run.take();
                run.release(0);
            }
            run.drain();
        }
    }

    /// While an operation of several records is under way, nothing else gets in; then all is as before.
    #[test]
    fn a_reserved_ring_takes_nothing() {
        let memory = HeapRing::used_up_to(8, 64, u32::MAX - 3, u32::MAX - 30);
        let mut run = Run::new(&memory, u32::MAX - 3, u32::MAX - 30);
        for _ in 0..40 {
            assert!(run.send(8, 8) && run.send(500, 500));
            run.producer.reserve();
            for len in [0, 48, INLINE_BODY_BYTES + 1, 1000] {
                assert!(run.producer.claim(len).expect("nobody broke the protocol").is_none());
            }
            run.producer.unreserve();
            run.drain();
        }
    }

    /// A record that is kept stops room from being given back, but the records behind it can still be taken.
    #[test]
    fn a_held_record_keeps_its_room() {
        let memory = HeapRing::used_up_to(8, 64, 0, 0);
        let mut run = Run::new(&memory, 0, 0);
        assert!(run.send(500, 500));
        run.take();
        while run.send(48, 48) {}
        while !run.sent.is_empty() {
            run.take();
        }
        while run.held.len() > 1 {
            run.release(1);
        }
        assert!(!run.send(0, 0), "the first record is still held");
        run.release(0);
        assert!(run.send(0, 0));
        run.drain();
    }
}

/// Words that no correct peer writes.
#[cfg(not(loom))]
mod hostile {
    use proptest::prelude::*;

    use super::super::heap::HeapRing;
    use super::*;

    #[derive(Debug, Clone)]
    enum Write {
        Header {
            slot: u32,
            word: u64,
        },
        /// A header that the consumer takes for the next one, with this length and kind.
        NextHeader {
            len_bytes: u32,
            kind: u8,
        },
        Freed(u64),
        /// `freed` near what was sent.
        FreedNear(i8, i8),
        Claim(usize),
        Take,
        Release,
    }

    fn write() -> impl Strategy<Value = Write> {
        prop_oneof![
            (any::<u32>(), any::<u64>()).prop_map(|(slot, word)| Write::Header { slot, word }),
            (0..1_u32 << 24, any::<u8>()).prop_map(|(len_bytes, kind)| Write::NextHeader { len_bytes, kind }),
            (0..2048_u32, any::<u8>()).prop_map(|(len_bytes, kind)| Write::NextHeader { len_bytes, kind }),
            any::<u64>().prop_map(Write::Freed),
            any::<(i8, i8)>().prop_map(|(slots, units)| Write::FreedNear(slots, units)),
            (0..2000_usize).prop_map(Write::Claim),
            Just(Write::Take),
            Just(Write::Take),
            Just(Write::Release),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 8 } else { 2000 }, failure_persistence: None, ..ProptestConfig::default()
        })]
        #[test]
        fn nothing_a_peer_writes_leads_outside_the_ring(
            slot_bits in 1..6_u32,
            unit_bits in 4..8_u32,
            slot_start: u32,
            unit_start: u32,
            writes in proptest::collection::vec(write(), 1..200),
        ) {
            let memory = HeapRing::used_up_to(1 << slot_bits, 1 << unit_bits, slot_start, unit_start);
            let ring = &memory;
            let mut producer = Producer::starting_at(ring, slot_start, unit_start);
            let mut consumer = Consumer::starting_at(ring, slot_start, unit_start);
            let max = body_bytes_max(ring.units());
            for write in writes {
                match write {
                    Write::Header { slot, word } => {
                        ring.header(slot & (ring.slots() - 1)).store(word, Ordering::Relaxed);
                    }
                    Write::NextHeader { len_bytes, kind } => {
                        let next = consumer.head.wrapping_add(1);
                        let word = u64::from(next) | u64::from(len_bytes) << 32 | u64::from(kind) << 56;
                        ring.header(consumer.head & (ring.slots() - 1)).store(word, Ordering::Relaxed);
                    }
                    Write::Freed(word) => ring.freed().store(word, Ordering::Relaxed),
                    Write::FreedNear(slots, units) => {
                        let near = |position: u32, by: i8| position.wrapping_add_signed(by.into());
                        let word = pack(near(producer.tail, slots), near(producer.bulk_tail, units));
                        ring.freed().store(word, Ordering::Relaxed);
                    }
                    Write::Claim(len_bytes) => {
                        let len_bytes = len_bytes.min(max);
                        if let Ok(Some(claim)) = producer.claim(len_bytes) {
                            memory.body(claim.place, len_bytes);
                            producer.publish(claim, 1, len_bytes, 0);
                        }
                    }
                    Write::Take => {
                        if let Ok(Some(record)) = consumer.take() {
                            prop_assert!(record.len_bytes <= max.max(INLINE_BODY_BYTES));
                            memory.body(record.place, record.len_bytes);
                        }
                    }
                    Write::Release => {
                        if consumer.is_held() {
                            consumer.release();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_length_beyond_the_ring_is_corrupt() {
        let memory = HeapRing::used_up_to(4, 64, 0, 0);
        let mut consumer = Consumer::starting_at(&memory, 0, 0);
        let header = |len: u64| 1 | len << 32 | 1 << 56;
        let max = body_bytes_max(64) as u64;
        (&memory).header(0).store(header(max + 1), Ordering::Relaxed);
        assert!(consumer.take().is_err());
        assert!(!consumer.is_held(), "nothing was taken");
        (&memory).header(0).store(header(max), Ordering::Relaxed);
        assert!(matches!(consumer.take(), Ok(Some(record)) if record.len_bytes == max as usize));
    }

    #[test]
    fn room_that_was_never_sent_cannot_be_given_back() {
        let memory = HeapRing::used_up_to(2, 64, 0, 0);
        let mut producer = Producer::starting_at(&memory, 0, 0);
        for _ in 0..2 {
            let claim = producer.claim(8).expect("in order").expect("room");
            producer.publish(claim, 1, 8, 0);
        }
        for (slots, units) in [(3, 0), (0, 1), (u32::MAX, 0), (1, 64)] {
            (&memory).freed().store(pack(slots, units), Ordering::Relaxed);
            assert!(producer.claim(8).is_err(), "{slots} slots, {units} units");
        }
        (&memory).freed().store(pack(1, 0), Ordering::Relaxed);
        assert!(producer.claim(8).expect("in order").is_some());
    }
}

/// All interleavings of a producer and a consumer. Bodies are loom cells: an access that no ordering protects is a panic.
#[cfg(loom)]
mod model {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::super::super::sync::AtomicU64;
    use super::*;

    struct LoomRing {
        headers: Vec<AtomicU64>,
        freed: AtomicU64,
        imms: Vec<UnsafeCell<u32>>,
        /// One value stands for all bytes of a slot's body or of a unit.
        slots: Vec<UnsafeCell<u64>>,
        units: Vec<UnsafeCell<u64>>,
    }

    // SAFETY: that no cell is used by two threads at once is what the model checks: loom panics otherwise.
    unsafe impl Sync for LoomRing {}
    // SAFETY: only plain numbers inside.
    unsafe impl Send for LoomRing {}

    impl LoomRing {
        /// As after use up to these positions.
        fn used_up_to(slots: u32, units: u32, slot_position: u32, unit_position: u32) -> Self {
            let header = |slot: u32| {
                let at = slot_position & (slots - 1);
                let next = slot_position.wrapping_add(slot.wrapping_sub(at) & (slots - 1));
                AtomicU64::new(u64::from(next.wrapping_add(1).wrapping_sub(slots)))
            };
            Self {
                headers: (0..slots).map(header).collect(),
                freed: AtomicU64::new(pack(slot_position, unit_position)),
                imms: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
                slots: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
                units: (0..units).map(|_| UnsafeCell::new(0)).collect(),
            }
        }

        fn cells(&self, place: Place, len_bytes: usize) -> &[UnsafeCell<u64>] {
            match place {
                Place::Slot(slot) => &self.slots[slot as usize..=slot as usize],
                Place::Bulk(unit) => &self.units[unit as usize..(unit + units_of(len_bytes)) as usize],
            }
        }
    }

    // SAFETY: the atomics are fields; no pointer is handed out.
    unsafe impl RingMemory for Arc<LoomRing> {
        fn slots(&self) -> u32 {
            self.headers.len() as u32
        }

        fn units(&self) -> u32 {
            self.units.len() as u32
        }

        fn header(&self, slot: u32) -> &AtomicU64 {
            &self.headers[slot as usize]
        }

        fn freed(&self) -> &AtomicU64 {
            &self.freed
        }

        unsafe fn write_imm(&self, slot: u32, imm: u32) {
            // SAFETY: loom panics if another thread uses the cell meanwhile.
            self.imms[slot as usize].with_mut(|cell| unsafe { *cell = imm });
        }

        unsafe fn read_imm(&self, slot: u32) -> u32 {
            // SAFETY: as in `write_imm`.
            self.imms[slot as usize].with(|cell| unsafe { *cell })
        }
    }

    fn value(index: usize) -> u64 {
        0xb0d7_0000 + index as u64
    }

    /// One thread sends these lengths through two slots and 8 units, another receives and verifies them. With `batch`, the
    /// receiver gives room back after every so many messages.
    fn cross(lengths: &'static [usize], unit_position: u32, batch: usize) {
        loom::model(move || {
            let slot_position = u32::MAX;
            let memory = Arc::new(LoomRing::used_up_to(2, 8, slot_position, unit_position));
            let sender = {
                let memory = memory.clone();
                thread::spawn(move || {
                    let mut producer = Producer::starting_at(memory, slot_position, unit_position);
                    for (index, &len_bytes) in lengths.iter().enumerate() {
                        let claim = loop {
                            match producer.claim(len_bytes).expect("nobody broke the protocol") {
                                Some(claim) => break claim,
                                None => thread::yield_now(),
                            }
                        };
                        for cell in producer.memory.cells(claim.place, len_bytes) {
                            // SAFETY: loom panics if another thread uses the cell meanwhile.
                            cell.with_mut(|cell| unsafe { *cell = value(index) });
                        }
                        producer.publish(claim, 1, len_bytes, index as u32);
                    }
                })
            };
            let mut consumer = Consumer::starting_at(memory, slot_position, unit_position);
            for (index, &len_bytes) in lengths.iter().enumerate() {
                let record = loop {
                    match consumer.take().expect("nobody broke the protocol") {
                        Some(record) => break record,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!((record.imm, record.len_bytes, record.kind), (index as u32, len_bytes, 1));
                for cell in consumer.memory.cells(record.place, len_bytes) {
                    // SAFETY: as above.
                    assert_eq!(cell.with(|cell| unsafe { *cell }), value(index));
                }
                if (index + 1) % batch == 0 || index + 1 == lengths.len() {
                    (0..=index % batch).for_each(|_| consumer.release());
                }
            }
            sender.join().expect("the sender does not panic");
        });
    }

    /// More messages than slots: the second lap needs room that the consumer gave back.
    #[test]
    fn loom_short_messages_cross() {
        cross(&[8, 0, 48, 8], 0, 1);
    }

    /// Two units each; the second starts at 6, and the third leaves no room until the first has been given back.
    #[test]
    fn loom_long_messages_cross() {
        cross(&[128, 65, 128], 4, 1);
    }

    /// The first body does not fit before the end of the bulk space and leaves a gap.
    #[test]
    fn loom_a_gap_is_crossed() {
        cross(&[128, 8, 128, 49], 7, 1);
    }

    /// Room is given back for two messages at once.
    #[test]
    fn loom_batches_are_given_back() {
        cross(&[128, 48, 65, 8], u32::MAX, 2);
    }
}
