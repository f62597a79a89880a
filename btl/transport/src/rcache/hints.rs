//! Where a registration probably is, by the first byte of a request: a table that is read and written without a lock.
//!
//! A hint may be old, or mixed of two that were written at once. It does no harm: whoever follows it takes a reference to the slot that
//! it names, looks there what the registration is of, and goes the long way if it is something else.

use std::sync::atomic::{AtomicU64, Ordering};

use super::slot::Generation;

/// A cache line each, so that one line is all that a look costs.
const SETS: usize = 8192;
const WAYS: usize = 4;

#[derive(Debug, Default)]
struct Hint {
    key: AtomicU64,
    /// Generation and slot.
    place: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([Hint; WAYS]);

/// The table of one cache.
#[derive(Debug)]
pub(super) struct Hints(Box<[Set]>);

/// Addresses of programs are shorter than that; no key is 0.
#[inline]
const fn key_of(start: usize, class: u8) -> u64 {
    start as u64 ^ (class as u64 | 8) << 56
}

/// Buffers lie pages or megabytes apart: all of the address counts (Knuth's multiplicative hash).
#[inline]
const fn set_of(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SETS
}

impl Hints {
    pub(super) fn new() -> Self {
        Self((0..SETS).map(|_| Set::default()).collect())
    }

    /// Slots that requests beginning there were served from.
    #[inline]
    pub(super) fn look_up(&self, start: usize, class: u8) -> impl Iterator<Item = (u32, Generation)> {
        let key = key_of(start, class);
        let ways = self.0[set_of(key)].0.iter();
        ways.filter(move |hint| hint.key.load(Ordering::Relaxed) == key).map(|hint| {
            // Acquire: the slot exists.
            let place = hint.place.load(Ordering::Acquire);
            (place as u32, Generation::from_number((place >> 32) as u32))
        })
    }

    pub(super) fn note(&self, start: usize, class: u8, slot: u32, generation: Generation) {
        let key = key_of(start, class);
        let ways = &self.0[set_of(key)].0;
        let is = |wanted: u64| ways.iter().find(|hint| hint.key.load(Ordering::Relaxed) == wanted);
        // The oldest is not known; any will do.
        let hint = is(key).or_else(|| is(0)).unwrap_or(&ways[slot as usize % WAYS]);
        hint.place.store(u64::from(generation.number()) << 32 | u64::from(slot), Ordering::Release);
        hint.key.store(key, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_start_is_found() {
        let (hints, generation) = (Hints::new(), Generation::from_number(7));
        let find = |start, class| hints.look_up(start, class).collect::<Vec<_>>();
        hints.note(0x1000, 1, 3, generation);
        hints.note(0x1000, 2, 4, generation);
        hints.note(0x1000, 1, 5, generation);
        assert_eq!(find(0x1000, 1), [(5, generation)]);
        assert_eq!(find(0x1000, 2), [(4, generation)]);
        assert_eq!(find(0x1001, 1), []);
    }

    /// As many buffers as a large program has, side by side or far apart: hardly any hint pushes another out.
    #[test]
    fn ten_thousand_find_room() {
        for stride in [4096, 8192, 65_536 + 64, 1 << 21] {
            let hints = Hints::new();
            let starts = || (1..=10_000_u32).map(|index| (index, index as usize * stride));
            starts().for_each(|(index, start)| hints.note(start, 0, index, Generation::from_number(0)));
            let found =
                starts().filter(|(index, start)| hints.look_up(*start, 0).any(|(slot, _)| slot == *index));
            let count = found.count();
            assert!(count > 9_500, "{count} with {stride} bytes between");
        }
    }
}
