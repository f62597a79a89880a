//! What a thread remembers of the registrations that it used last: a table of its own, so that the common hit takes no lock.
//!
//! An entry is a hint. Whether the registration still lives is asked of its slot.

use std::cell::Cell;

use super::range::Range;
use super::slot::Generation;

/// Entries of one thread, for all caches of the process.
const ENTRIES: usize = 256;

/// A registration, as a thread remembers it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remembered {
    /// [`super::RegistrationCache`]'s number; 0 stands for none.
    pub(super) cache: u32,
    pub(super) class: u8,
    pub(super) slot: u32,
    pub(super) generation: Generation,
    pub(super) range: Range,
}

impl Remembered {
    const NOTHING: Self = Self {
        cache: 0,
        class: 0,
        slot: 0,
        generation: Generation::FIRST,
        range: Range { start: 0, end: 0 },
    };
}

thread_local! {
    // Made at compile time and without a destructor: the first use in a thread neither allocates nor registers anything.
    static ENTRIES_OF_THREAD: [Cell<Remembered>; ENTRIES] = const { [const { Cell::new(Remembered::NOTHING) }; ENTRIES] };
}

/// Buffers lie some pages apart, or some megabytes.
#[inline]
const fn place(start: usize, class: u8) -> usize {
    ((start >> 12) ^ (start >> 20) ^ ((class as usize) << 5)) % ENTRIES
}

/// The registration that the range lay in when this thread used it last.
#[inline]
pub(super) fn recall(cache: u32, class: u8, wanted: Range) -> Option<Remembered> {
    let entry = ENTRIES_OF_THREAD.with(|entries| entries[place(wanted.start, class)].get());
    (entry.cache == cache && entry.class == class && entry.range.contains(wanted)).then_some(entry)
}

/// Remembers where `wanted` lies.
pub(super) fn remember(wanted: Range, entry: Remembered) {
    ENTRIES_OF_THREAD.with(|entries| entries[place(wanted.start, entry.class)].set(entry));
}
