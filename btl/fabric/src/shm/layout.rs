//! What lies where in shared memory.
//!
//! ```text
//!  control block                                  ring region
//!  0     +--------------------------------+      0     +-------------------------------+
//!        | magic, version        (1 line) |            | freed                (1 line) |
//!  64    | summary, requests     (1 line) |      64    | bell, ahead_wanted   (1 line) |
//!  128   | bells: 64 words       (8 lines)|      128   | tickets      (16 x 1 line)    |
//!  640   | connection requests   (64 x 2) |      1152  | slots        (n x 5 lines)     |
//!  8832  +--------------------------------+            | bulk space, page aligned      |
//!                                                      +-------------------------------+
//! ```

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ironband_core::limits::{CACHE_LINE_BYTES, CONNECT_SLOTS, RING_BYTES_PER_SLOT, SHARED_COPIES_MAX};
use ironband_core::wire::{CARD_BYTES, CARD_VERSION};

use super::ring::{INLINE_BODY_BYTES, RingMemory, SLOT_BYTES, UNIT_BYTES};
use super::segment::{Mapping, PAGE_BYTES};
use super::sync;

/// `IBsegmnt`, little-endian.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"IBsegmnt");

/// Words of the doorbell; a bit of the summary for each.
pub(crate) const BELL_WORDS: usize = 64;

/// First part of a process's segment. Everything in it is atomic: peers write it.
#[repr(C, align(64))]
pub(crate) struct Control {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    _pad: [u64; 6],
    /// Bit w: look at `bells[w]`. Written by peers, cleared by the owner.
    pub(crate) summary: AtomicU64,
    /// Counts connection requests that are ready to be looked at.
    pub(crate) requests: AtomicU64,
    _pad2: [u64; 6],
    /// Bit b of word w: inbound ring 64 w + b has something.
    pub(crate) bells: [AtomicU64; BELL_WORDS],
    pub(crate) connect: [ConnectSlot; CONNECT_SLOTS],
}

impl Control {
    /// Sets a bell and its bit in the summary.
    pub(crate) fn ring_bell(&self, bit: u32) {
        let (word, mask) = ((bit / 64) as usize % BELL_WORDS, 1 << (bit % 64));
        if self.bells[word].load(Ordering::Acquire) & mask == 0 {
            self.bells[word].fetch_or(mask, Ordering::AcqRel);
        }
        if self.summary.load(Ordering::Acquire) & (1 << word) == 0 {
            self.summary.fetch_or(1 << word, Ordering::AcqRel);
        }
    }
}

/// States of a connection request.
pub(crate) mod connect_state {
    /// Nobody uses the slot.
    pub(crate) const FREE: u32 = 0;
    /// A peer is filling it in.
    pub(crate) const CLAIMED: u32 = 1;
    /// The owner of the control block is to look at it.
    pub(crate) const READY: u32 = 2;
    /// Accepted: the peer frees the slot.
    pub(crate) const ACCEPTED: u32 = 3;
    /// Refused: the peer frees the slot.
    pub(crate) const REFUSED: u32 = 4;
    /// The owner is looking at it: from here on it cannot be withdrawn.
    pub(crate) const ACCEPTING: u32 = 5;
}

/// Words of a card; cards travel through atomics.
pub(crate) const CARD_WORDS: usize = CARD_BYTES / 8;

/// One connection request.
#[repr(C, align(64))]
pub(crate) struct ConnectSlot {
    pub(crate) state: AtomicU32,
    /// Process number of the claimer, 0 when there is none. Who changes it has the slot: one whose claimer died is taken
    /// over.
    pub(crate) claimer: AtomicU32,
    /// The job key of the process that is asked, from its card.
    pub(crate) key: [AtomicU64; 2],
    /// Of the ring, in the asker's segment.
    pub(crate) ring_offset: AtomicU64,
    /// Of the bulk space.
    pub(crate) ring_bytes: AtomicU64,
    pub(crate) card: [AtomicU64; CARD_WORDS],
}

/// Length of the control block in the file.
pub(crate) const CONTROL_BYTES: usize = size_of::<Control>().next_multiple_of(PAGE_BYTES);

/// A transfer that both ends of a ring work on. The asker's end takes pieces from the front, the owner's from the back.
#[repr(C, align(64))]
pub(crate) struct Ticket {
    /// Which use of the ticket this is, and the pieces that are still free: [`super::transfer::Claims`].
    pub(crate) claims: AtomicU64,
    /// Pieces that the owner of the memory has written.
    pub(crate) written: AtomicU32,
    /// 1 + the number of the use in which the owner could not write a piece; the asker then reads all that the owner took.
    pub(crate) failed: AtomicU32,
}

/// First part of a ring region.
#[repr(C, align(64))]
pub(crate) struct RingHead {
    pub(crate) freed: sync::AtomicU64,
    _pad: [u64; 7],
    /// 0: the consumer looks at the ring by itself. Otherwise 1 + the bell bit to set after a message.
    pub(crate) bell: AtomicU32,
    /// Bit c: the consumer wants memory of length class c ([`ironband_core::path::class_of`]) to be sent ahead.
    pub(crate) ahead_wanted: AtomicU32,
    _pad2: [u32; 14],
    pub(crate) tickets: [Ticket; SHARED_COPIES_MAX],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Control>() == 640 + CONNECT_SLOTS * 128);
    assert!(size_of::<ConnectSlot>() == 128 && size_of::<Ticket>() == CACHE_LINE_BYTES);
    assert!(size_of::<RingHead>() == 1152);
    assert!(CARD_BYTES.is_multiple_of(8) && CARD_VERSION == 2);
};

/// Slots of a ring with so much bulk space.
pub(crate) const fn slots_of(ring_bytes: usize) -> usize {
    ring_bytes / RING_BYTES_PER_SLOT
}

const fn bulk_offset(ring_bytes: usize) -> usize {
    (size_of::<RingHead>() + slots_of(ring_bytes) * SLOT_BYTES).next_multiple_of(PAGE_BYTES)
}

/// Length of a ring region.
pub(crate) const fn ring_region_bytes(ring_bytes: usize) -> usize {
    bulk_offset(ring_bytes) + ring_bytes
}

/// A ring in mapped shared memory.
#[derive(Debug)]
pub(crate) struct MappedRing {
    head: NonNull<RingHead>,
    slots: NonNull<u8>,
    bulk: NonNull<u8>,
    slot_count: u32,
    unit_count: u32,
    /// Keeps the three pointers valid.
    _mapping: Mapping,
}

// SAFETY: the pointers are into the mapping that moves along; all access is atomic or by raw copy.
unsafe impl Send for MappedRing {}

impl MappedRing {
    /// The ring with `ring_bytes` of bulk space (a power of two) that fills `mapping`.
    pub(crate) fn new(mapping: Mapping, ring_bytes: usize) -> Self {
        assert!(
            ring_bytes.is_power_of_two() && ring_bytes >= RING_BYTES_PER_SLOT,
            "checked by both ends before mapping"
        );
        Self {
            head: mapping.at(0, size_of::<RingHead>()).cast(),
            slots: mapping.at(size_of::<RingHead>(), slots_of(ring_bytes) * SLOT_BYTES),
            bulk: mapping.at(bulk_offset(ring_bytes), ring_bytes),
            slot_count: slots_of(ring_bytes) as u32,
            unit_count: (ring_bytes / UNIT_BYTES) as u32,
            _mapping: mapping,
        }
    }

    /// The part of the region that both ends update.
    #[inline(always)]
    pub(crate) fn head(&self) -> &RingHead {
        // SAFETY: mapped as long as `self` lives, aligned to a page, and made of atomics.
        unsafe { self.head.as_ref() }
    }

    /// First byte of a slot.
    #[inline(always)]
    pub(crate) fn slot(&self, slot: u32) -> *mut u8 {
        debug_assert!(slot < self.slot_count);
        // SAFETY: slot numbers are masked by the ring.
        unsafe { self.slots.add(slot as usize * SLOT_BYTES).as_ptr() }
    }

    /// First byte of a body.
    #[inline(always)]
    pub(crate) fn body(&self, place: super::ring::Place) -> NonNull<u8> {
        match place {
            super::ring::Place::Slot(slot) => {
                debug_assert!(slot < self.slot_count);
                // SAFETY: slot numbers are masked by the ring; the body follows 16 bytes of header.
                unsafe { self.slots.add(slot as usize * SLOT_BYTES + SLOT_BYTES - INLINE_BODY_BYTES) }
            }
            super::ring::Place::Bulk(unit) => {
                debug_assert!(unit < self.unit_count);
                // SAFETY: unit numbers are masked by the ring.
                unsafe { self.bulk.add(unit as usize * UNIT_BYTES) }
            }
        }
    }
}

// SAFETY: the pointers were taken from a mapping of the full length, which lives as long as `self`.
unsafe impl RingMemory for MappedRing {
    #[inline(always)]
    fn slots(&self) -> u32 {
        self.slot_count
    }

    #[inline(always)]
    fn units(&self) -> u32 {
        self.unit_count
    }

    #[inline(always)]
    fn header(&self, slot: u32) -> &sync::AtomicU64 {
        // SAFETY: slot numbers are masked by the ring, and a slot's first word is only ever used as an atomic.
        unsafe { self.slots.add(slot as usize * SLOT_BYTES).cast().as_ref() }
    }

    #[inline(always)]
    fn freed(&self) -> &sync::AtomicU64 {
        &self.head().freed
    }

    #[inline(always)]
    unsafe fn write_imm(&self, slot: u32, imm: u32) {
        // SAFETY: the word after the header of a slot that the caller owns.
        unsafe { self.slots.add(slot as usize * SLOT_BYTES + 8).cast::<u32>().write(imm) };
    }

    #[inline(always)]
    unsafe fn read_imm(&self, slot: u32) -> u32 {
        // SAFETY: the word after the header of a slot that the caller owns; a peer that breaks the protocol can make it
        // any number, which is all a u32 can be.
        unsafe { self.slots.add(slot as usize * SLOT_BYTES + 8).cast::<u32>().read_volatile() }
    }
}
