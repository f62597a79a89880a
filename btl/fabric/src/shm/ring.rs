//! A single-producer, single-consumer ring of messages in memory that two processes share.
//!
//! ```text
//!  written by the consumer                       written by the producer
//!  +-----------------+  +-----------------+      slots: five cache lines each
//!  | freed           |  | bell            |      +----------+-------------+--------------+- - - - - - - - - -+
//!  | slots:32        |  | 0, or 1 + the   |      | header 8 | imm 4 pad 4 | body, 48 in the first line, or 304 |
//!  | bulk units:32   |  | bit to set      |      +----------+-------------+--------------+- - - - - - - - - -+
//!  +-----------------+  +-----------------+      | header 8 | imm 4 pad 4 |   (unused)   :                    |  longer body:
//!    one line each                               +----------+-------------+--------------+- - - - - - - - - -+  it is in
//!                                                | ...                                                       |  the bulk
//!                                                +-----------------------------------------------------------+  space
//!
//!  header   63      56 55                  32 31                                0
//!          +----------+----------------------+----------------------------------+
//!          |   kind   |    body length       |  position of this slot, plus 1   |
//!          +----------+----------------------+----------------------------------+
//!
//!  bulk space, in units of one cache line:
//!          +---------------------+---------------+-------- - - - ---+-----------+
//!          | body of 3 lines     | body of 2     |  free            | gap       |
//!          +---------------------+---------------+-------- - - - ---+-----------+
//!  A body is never split: one that does not fit before the end starts again at 0 and leaves a gap.
//! ```
//!
//! Every message takes exactly one slot, so a slot's first word is always a header and never user data. The producer writes
//! body and immediate data, then the header with release order; the consumer reads the header with acquire order and
//! knows by the position in it whether it belongs to this lap. A message of up to 48 bytes therefore costs one
//! cache-line transfer, one of up to 304 bytes the lines it fills, and there is no shared index that both sides write. Positions are 32 bits and wrap; a stale
//! header differs by a multiple of the slot count, which is far below 2^32.
//!
//! A slot's line is in the cache of the processor that used it last, the other one. So both ends request slots ahead (`upcoming_slot`): the
//! producer those that it will write, or each store of a window would wait for the one before, and the consumer, once
//! records come in a row, those that it will read.
//!
//! The consumer gives room back by one store to `freed`, after each batch of messages; the producer reads it only when its
//! own copy of the value says that the ring is full. Both sides compute where a body lies from the lengths alone, so
//! nothing that a peer writes is used as an offset. A header with an impossible length or a `freed` that runs ahead is
//! [`Corrupt`], and fails that connection only.
//!
//! The same idea, header line with sequence number, is in D. Vyukov's bounded queue (1024cores.net) and in UCX's shared
//! memory FIFO; separating the slots from the bulk space is what makes the lap check free of clearing.

use super::sync::Ordering;

pub(crate) const SLOT_BYTES: usize = ironband_core::limits::RING_SLOT_BYTES;
/// Bytes of body that fit beside the header, in its cache line.
pub(crate) const LINE_BODY_BYTES: usize = 48;
/// Bytes of body that fit in the slot. Models of the ring are small, and must reach the bulk space too.
pub(crate) const INLINE_BODY_BYTES: usize = if cfg!(loom) { LINE_BODY_BYTES } else { SLOT_BYTES - 16 };
/// Unit of the bulk space.
pub(crate) const UNIT_BYTES: usize = 64;
/// Longest body that a header can express.
const BODY_BYTES_MAX: usize = (1 << 24) - 1;

/// The peer wrote something that no correct peer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt(pub(crate) &'static str);

/// Where a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this slot, after the header.
    Slot(u32),
    /// In the bulk space, from this unit on.
    Bulk(u32),
}

/// The memory of a ring: mapped shared memory, or a model of it under loom.
///
/// # Safety
/// `header` and `freed` return the same object for the same argument each time, initially 0. Implementations that hand out
/// pointers (`body`) uphold that slots `0..slots()` with [`INLINE_BODY_BYTES`] each and units `0..units()` with
/// [`UNIT_BYTES`] each are valid for reads and writes as long as the ring lives.
pub(crate) unsafe trait RingMemory {
    /// Number of slots: a power of two.
    fn slots(&self) -> u32;
    /// Number of units of the bulk space: a power of two.
    fn units(&self) -> u32;
    /// First word of a slot.
    fn header(&self, slot: u32) -> &super::sync::AtomicU64;
    /// What the consumer has given back.
    fn freed(&self) -> &super::sync::AtomicU64;
    /// Writes the immediate word of a slot.
    ///
    /// # Safety
    /// The slot belongs to the producer, who calls this.
    unsafe fn write_imm(&self, slot: u32, imm: u32);
    /// Reads the immediate word of a slot.
    ///
    /// # Safety
    /// The slot belongs to the consumer, who calls this.
    unsafe fn read_imm(&self, slot: u32) -> u32;
}

/// Splits `freed` into slots and units.
const fn unpack(freed: u64) -> (u32, u32) {
    (freed as u32, (freed >> 32) as u32)
}

const fn pack(slots: u32, units: u32) -> u64 {
    slots as u64 | (units as u64) << 32
}

const fn units_of(len_bytes: usize) -> u32 {
    len_bytes.div_ceil(UNIT_BYTES) as u32
}

/// The bulk position at which a body of `need` units starts when the space is used up to `position`: there, or at the
/// next start of the space if it would run over the end. Both sides call this.
#[inline]
const fn place_bulk(position: u32, need: u32, units: u32) -> u32 {
    let at = position & (units - 1);
    if at + need > units { position.wrapping_add(units - at) } else { position }
}

/// The longest body for a ring with this much bulk space: with it, a gap and what the consumer holds always fit.
pub(crate) const fn body_bytes_max(units: u32) -> usize {
    let quarter = units as usize * UNIT_BYTES / 4;
    if quarter < BODY_BYTES_MAX { quarter } else { BODY_BYTES_MAX }
}

/// A place that the producer may write, and must then publish.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claim {
    pub(crate) place: Place,
    bulk_end: u32,
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    pub(crate) memory: M,
    tail: u32,
    bulk_tail: u32,
    freed_slots: u32,
    freed_units: u32,
    /// See [`Producer::reserve`].
    reserved: bool,
}

impl<M: RingMemory> Producer<M> {
    /// The sending end of a fresh ring (all zero).
    pub(crate) const fn new(memory: M) -> Self {
        Self { memory, tail: 0, bulk_tail: 0, freed_slots: 0, freed_units: 0, reserved: false }
    }

    /// Starts at other positions than 0, to test the wrap. The memory's `freed` must say the same.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn starting_at(memory: M, slots: u32, units: u32) -> Self {
        Self {
            memory,
            tail: slots,
            bulk_tail: units,
            freed_slots: slots,
            freed_units: units,
            reserved: false,
        }
    }

    /// Makes the ring say that it is full until [`Producer::unreserve`]: an operation of several records is under way, and
    /// none may overtake it. It costs a claim nothing, because a full ring is looked at again anyway.
    pub(crate) fn reserve(&mut self) {
        self.reserved = true;
        self.freed_slots = self.tail.wrapping_sub(self.memory.slots());
    }

    /// Ends [`Producer::reserve`].
    pub(crate) const fn unreserve(&mut self) {
        self.reserved = false;
    }

    /// True when everything that was published has been given back by the consumer.
    pub(crate) fn is_drained(&self) -> bool {
        unpack(self.memory.freed().load(Ordering::Acquire)).0 == self.tail
    }

    /// True when so many records, with bodies of up to `longest_bytes` each and `total_bytes` in all, have room one after
    /// another: each of their claims will succeed.
    pub(crate) fn has_room(&mut self, records: usize, longest_bytes: usize, total_bytes: usize) -> bool {
        // Each body is rounded up to units, and one of them may find itself before the end of the space.
        let units = total_bytes.div_ceil(UNIT_BYTES) + records + longest_bytes.div_ceil(UNIT_BYTES);
        let has = |ring: &Self| {
            let used = |tail: u32, freed: u32| tail.wrapping_sub(freed) as usize;
            used(ring.tail, ring.freed_slots) + records <= ring.memory.slots() as usize
                && used(ring.bulk_tail, ring.freed_units) + units <= ring.memory.units() as usize
        };
        has(self) || (self.refresh().is_ok() && has(self))
    }

    /// Claims room for a body of `len_bytes`. `None`: the ring is full.
    #[inline(always)]
    pub(crate) fn claim(&mut self, len_bytes: usize) -> Result<Option<Claim>, Corrupt> {
        if len_bytes <= INLINE_BODY_BYTES {
            if self.tail.wrapping_sub(self.freed_slots) >= self.memory.slots() {
                self.refresh()?;
                if self.tail.wrapping_sub(self.freed_slots) >= self.memory.slots() {
                    return Ok(None);
                }
            }
            let place = Place::Slot(self.tail & (self.memory.slots() - 1));
            return Ok(Some(Claim { place, bulk_end: self.bulk_tail }));
        }
        self.claim_bulk(units_of(len_bytes))
    }

    fn claim_bulk(&mut self, need: u32) -> Result<Option<Claim>, Corrupt> {
        let units = self.memory.units();
        let start = place_bulk(self.bulk_tail, need, units);
        let end = start.wrapping_add(need);
        let full = |ring: &Self| {
            ring.tail.wrapping_sub(ring.freed_slots) >= ring.memory.slots()
                || end.wrapping_sub(ring.freed_units) > units
        };
        if full(self) {
            self.refresh()?;
            if full(self) {
                return Ok(None);
            }
        }
        Ok(Some(Claim { place: Place::Bulk(start & (units - 1)), bulk_end: end }))
    }

    /// Changes a claim of `claimed_bytes` into one of `len_bytes`, no more than that. The consumer derives a body's place from its
    /// length, so the place may change: the caller then moves the body there.
    pub(crate) fn shorten(&self, claim: Claim, claimed_bytes: usize, len_bytes: usize) -> Claim {
        debug_assert!(len_bytes <= claimed_bytes);
        if claimed_bytes <= INLINE_BODY_BYTES {
            return claim;
        }
        if len_bytes <= INLINE_BODY_BYTES {
            let place = Place::Slot(self.tail & (self.memory.slots() - 1));
            return Claim { place, bulk_end: self.bulk_tail };
        }
        let (need, units) = (units_of(len_bytes), self.memory.units());
        let start = place_bulk(self.bulk_tail, need, units);
        Claim { place: Place::Bulk(start & (units - 1)), bulk_end: start.wrapping_add(need) }
    }

    /// Makes a claimed and written body visible, as the next message.
    #[inline(always)]
    pub(crate) fn publish(&mut self, claim: Claim, kind: u8, len_bytes: usize, imm: u32) {
        debug_assert!(len_bytes <= BODY_BYTES_MAX);
        let slot = self.tail & (self.memory.slots() - 1);
        // SAFETY: `claim` found this slot free: the consumer gave it back, or it was never used, and only this producer
        // takes slots.
        unsafe { self.memory.write_imm(slot, imm) };
        self.tail = self.tail.wrapping_add(1);
        self.bulk_tail = claim.bulk_end;
        let header = u64::from(self.tail) | (len_bytes as u64) << 32 | u64::from(kind) << 56;
        self.memory.header(slot).store(header, Ordering::Release);
    }

    /// The slot that will be written so many messages from now, if it is free already.
    #[inline(always)]
    pub(crate) fn upcoming_slot(&self, ahead: u32) -> Option<u32> {
        let position = self.tail.wrapping_add(ahead);
        let is_free = position.wrapping_sub(self.freed_slots) < self.memory.slots();
        is_free.then(|| position & (self.memory.slots() - 1))
    }

    #[cold]
    fn refresh(&mut self) -> Result<(), Corrupt> {
        if self.reserved {
            return Ok(());
        }
        let (slots, units) = unpack(self.memory.freed().load(Ordering::Acquire));
        if self.tail.wrapping_sub(slots) > self.memory.slots()
            || self.bulk_tail.wrapping_sub(units) > self.memory.units()
        {
            return Err(Corrupt("it gave back ring space that was never sent"));
        }
        (self.freed_slots, self.freed_units) = (slots, units);
        Ok(())
    }
}

/// A message found in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    pub(crate) imm: u32,
    pub(crate) place: Place,
    pub(crate) len_bytes: usize,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    pub(crate) memory: M,
    head: u32,
    bulk_head: u32,
    /// Records taken and not released. Room is given back when there is none, so records may be released in any order.
    held: u32,
}

impl<M: RingMemory> Consumer<M> {
    /// The receiving end of a fresh ring.
    pub(crate) const fn new(memory: M) -> Self {
        Self { memory, head: 0, bulk_head: 0, held: 0 }
    }

    /// See [`Producer::starting_at`].
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn starting_at(memory: M, slots: u32, units: u32) -> Self {
        Self { memory, head: slots, bulk_head: units, held: 0 }
    }

    /// Takes the next record, if there is one; its body stays in place until [`Consumer::release`].
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Result<Option<Record>, Corrupt> {
        let slot = self.head & (self.memory.slots() - 1);
        let header = self.memory.header(slot).load(Ordering::Acquire);
        let next = self.head.wrapping_add(1);
        if header as u32 != next {
            return Ok(None);
        }
        let len_bytes = (header >> 32) as usize & BODY_BYTES_MAX;
        let kind = (header >> 56) as u8;
        let place =
            if len_bytes <= INLINE_BODY_BYTES { Place::Slot(slot) } else { self.take_bulk(len_bytes)? };
        // SAFETY: the header says that the producer has handed this slot over.
        let imm = unsafe { self.memory.read_imm(slot) };
        self.head = next;
        self.held += 1;
        Ok(Some(Record { kind, imm, place, len_bytes }))
    }

    fn take_bulk(&mut self, len_bytes: usize) -> Result<Place, Corrupt> {
        let units = self.memory.units();
        if len_bytes > body_bytes_max(units) {
            return Err(Corrupt("it sent a record that is longer than the ring allows"));
        }
        let need = units_of(len_bytes);
        let start = place_bulk(self.bulk_head, need, units);
        self.bulk_head = start.wrapping_add(need);
        Ok(Place::Bulk(start & (units - 1)))
    }

    /// Says whether a record is there, without taking it.
    #[inline(always)]
    pub(crate) fn has_record(&self) -> bool {
        let slot = self.head & (self.memory.slots() - 1);
        self.memory.header(slot).load(Ordering::Acquire) as u32 == self.head.wrapping_add(1)
    }

    /// Says whether a record of this kind is next.
    #[inline(always)]
    pub(crate) fn is_next(&self, kind: u8) -> bool {
        let slot = self.head & (self.memory.slots() - 1);
        let header = self.memory.header(slot).load(Ordering::Acquire);
        header as u32 == self.head.wrapping_add(1) && (header >> 56) as u8 == kind
    }

    /// The slot of the record that will be taken so many from now.
    #[inline(always)]
    pub(crate) fn upcoming_slot(&self, ahead: u32) -> u32 {
        self.head.wrapping_add(ahead) & (self.memory.slots() - 1)
    }

    /// True while a taken record has not been released.
    pub(crate) const fn is_held(&self) -> bool {
        self.held > 0
    }

    /// Gives one taken record back.
    #[inline(always)]
    pub(crate) fn release(&mut self) {
        debug_assert!(self.held > 0, "release without take");
        self.held -= 1;
        if self.held == 0 {
            self.memory.freed().store(pack(self.head, self.bulk_head), Ordering::Release);
        }
    }
}

#[cfg(all(feature = "fuzzing", not(loom)))]
#[path = "ring_fuzzing.rs"]
pub mod fuzzing;
#[cfg(all(any(test, feature = "fuzzing"), not(loom)))]
#[path = "ring_heap.rs"]
mod heap;
#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
