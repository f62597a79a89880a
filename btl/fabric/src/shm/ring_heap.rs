//! Memory of a ring on the heap, for one thread, for tests. Every access is bounds-checked: a place outside the ring is a panic.

use std::cell::Cell;

use super::super::sync::{AtomicU64, Ordering};
use super::*;

#[derive(Debug)]
pub(super) struct HeapRing {
    headers: Vec<AtomicU64>,
    freed: AtomicU64,
    imms: Vec<Cell<u32>>,
    inline: Vec<Cell<u8>>,
    bulk: Vec<Cell<u8>>,
}

impl HeapRing {
    /// As the ring looks after it has been in use up to these positions: each slot holds the header of the lap before.
    pub(super) fn used_up_to(slots: u32, units: u32, slot_position: u32, unit_position: u32) -> Self {
        let ring = Self {
            headers: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            freed: AtomicU64::new(pack(slot_position, unit_position)),
            imms: vec![Cell::new(0); slots as usize],
            inline: vec![Cell::new(0); slots as usize * INLINE_BODY_BYTES],
            bulk: vec![Cell::new(0); units as usize * UNIT_BYTES],
        };
        for lap in 0..slots {
            let next = slot_position.wrapping_add(lap);
            let stale = next.wrapping_add(1).wrapping_sub(slots);
            ring.headers[(next & (slots - 1)) as usize].store(u64::from(stale), Ordering::Relaxed);
        }
        ring
    }

    /// The bytes of a body: where they lie in an address space of their own, and the cells.
    pub(super) fn body(&self, place: Place, len_bytes: usize) -> (std::ops::Range<usize>, &[Cell<u8>]) {
        match place {
            Place::Slot(slot) => {
                assert!(len_bytes <= INLINE_BODY_BYTES, "{len_bytes} bytes beside a header");
                let start = slot as usize * INLINE_BODY_BYTES;
                (start..start + len_bytes, &self.inline[start..start + len_bytes])
            }
            Place::Bulk(unit) => {
                let start = unit as usize * UNIT_BYTES;
                let end = start + len_bytes.next_multiple_of(UNIT_BYTES);
                assert!(end <= self.bulk.len(), "a body of {len_bytes} bytes at unit {unit} leaves the ring");
                (1 << 40 | start..1 << 40 | end, &self.bulk[start..start + len_bytes])
            }
        }
    }
}

// SAFETY: the atomics are fields and the cells are found by checked indexing; no pointer is handed out.
unsafe impl RingMemory for &HeapRing {
    fn slots(&self) -> u32 {
        self.headers.len() as u32
    }

    fn units(&self) -> u32 {
        (self.bulk.len() / UNIT_BYTES) as u32
    }

    fn header(&self, slot: u32) -> &AtomicU64 {
        &self.headers[slot as usize]
    }

    fn freed(&self) -> &AtomicU64 {
        &self.freed
    }

    unsafe fn write_imm(&self, slot: u32, imm: u32) {
        self.imms[slot as usize].set(imm);
    }

    unsafe fn read_imm(&self, slot: u32) -> u32 {
        self.imms[slot as usize].get()
    }
}
