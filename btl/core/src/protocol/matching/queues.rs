//! A table of queues by key: open addressing with linear probing, and deletion that moves later entries back (Knuth, "The Art
//! of Computer Programming", volume 3, section 6.4, algorithm R), so that no tombstones gather while keys come and go.
//! It is at most half full, doubles when it would be fuller, and never shrinks. A key is there while its queue has members.

use super::slab::{Link, Queue, Slab};

const ENTRIES_MIN: usize = 16;

/// What is the same for all members of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) tag: u64,
    pub(super) source: u32,
    /// Keeps queues of different purposes apart.
    pub(super) kind: u32,
}

impl Key {
    /// One multiplication of 64 by 64 bits, whose halves are folded: each bit of the key reaches the low bits of the hash.
    const fn hash(self) -> u64 {
        // Digits of pi.
        let tag = self.tag ^ 0x243f_6a88_85a3_08d3;
        let other = ((self.kind as u64) << 32 | self.source as u64) ^ 0x4528_21e6_38d0_1377;
        let product = tag as u128 * other as u128;
        (product >> 64) as u64 ^ product as u64
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Key,
    queue: Queue,
}

impl Entry {
    /// Whether there is a queue with this key here.
    #[inline]
    fn is_of(&self, key: Key) -> bool {
        self.key == key && !self.queue.is_empty()
    }
}

const EMPTY: Entry = Entry { key: Key { tag: 0, source: 0, kind: 0 }, queue: Queue::EMPTY };

/// Queues by key.
#[derive(Debug, Clone)]
pub(super) struct Queues {
    /// A power of two of them.
    entries: Vec<Entry>,
    used: usize,
    /// Where something was appended last. Windows of messages have one key.
    recent: usize,
    /// Which bits of the hash count: tests make keys collide.
    #[cfg(test)]
    pub(super) hash_mask: u64,
}

impl Queues {
    pub(super) fn new() -> Self {
        Self {
            entries: vec![EMPTY; ENTRIES_MIN],
            used: 0,
            recent: 0,
            #[cfg(test)]
            hash_mask: u64::MAX,
        }
    }

    pub(super) const fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The entry with this key; good until the table changes.
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        if self.used == 0 {
            return None;
        }
        let at = self.position(key);
        (!self.entries[at].queue.is_empty()).then_some(at)
    }

    /// The oldest member of an entry's queue.
    pub(super) fn head(&self, at: usize) -> u32 {
        self.entries[at].queue.head()
    }

    /// Takes out the oldest member of an entry's queue.
    pub(super) fn pop<T, const LISTS: usize>(
        &mut self,
        slab: &mut Slab<T, LISTS>,
        list: usize,
        at: usize,
    ) -> u32 {
        let index = self.head(at);
        let link = slab.unlink(list, index);
        self.close_up(at, link);
        index
    }

    /// Puts a place at the end of the queue with this key.
    pub(super) fn append<T, const LISTS: usize>(
        &mut self,
        slab: &mut Slab<T, LISTS>,
        list: usize,
        key: Key,
        index: u32,
    ) {
        let mut at = self.position(key);
        if self.entries[at].queue.is_empty() {
            self.used += 1;
            if self.used > self.entries.len() / 2 {
                self.grow();
                at = self.position(key);
            }
            self.entries[at].key = key;
        }
        self.recent = at;
        slab.append(&mut self.entries[at].queue, list, index);
    }

    /// As [`Queues::append`], if it is the queue that was appended to last; otherwise false, and nothing is done.
    #[inline]
    pub(super) fn append_to_recent<T, const LISTS: usize>(
        &mut self,
        slab: &mut Slab<T, LISTS>,
        list: usize,
        key: Key,
        index: u32,
    ) -> bool {
        super::step();
        let recent = &mut self.entries[self.recent];
        let is_it = recent.is_of(key);
        if is_it {
            slab.append(&mut recent.queue, list, index);
        }
        is_it
    }

    /// Takes out the oldest member of the queue with this key, if that was appended to last and has other members.
    #[inline]
    pub(super) fn pop_recent<T, const LISTS: usize>(
        &mut self,
        slab: &mut Slab<T, LISTS>,
        list: usize,
        key: Key,
    ) -> Option<u32> {
        super::step();
        let recent = &mut self.entries[self.recent];
        if recent.is_of(key) { slab.pop_but_last(&mut recent.queue, list) } else { None }
    }

    /// Takes a place out of the queue with this key.
    pub(super) fn unlink<T, const LISTS: usize>(
        &mut self,
        slab: &mut Slab<T, LISTS>,
        list: usize,
        key: Key,
        index: u32,
    ) {
        let link = slab.unlink(list, index);
        if link.is_inside() {
            return;
        }
        self.close_up(self.position(key), link);
    }

    fn close_up(&mut self, at: usize, left: Link) {
        let queue = &mut self.entries[at].queue;
        queue.close_up(left);
        if queue.is_empty() {
            self.erase(at);
        }
    }

    fn home(&self, key: Key) -> usize {
        let hash = key.hash();
        #[cfg(test)]
        let hash = hash & self.hash_mask;
        hash as usize & (self.entries.len() - 1)
    }

    /// Where a key is or, if it is not there, would be put: the table always has empty entries.
    fn position(&self, key: Key) -> usize {
        let mut at = self.home(key);
        loop {
            super::step();
            let entry = &self.entries[at];
            if entry.key == key || entry.queue.is_empty() {
                return at;
            }
            at = (at + 1) & (self.entries.len() - 1);
        }
    }

    /// Empties an entry, and moves those behind it that were pushed past it.
    fn erase(&mut self, mut hole: usize) {
        self.used -= 1;
        let mask = self.entries.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry.queue.is_empty() {
                break;
            }
            let from_home = at.wrapping_sub(self.home(entry.key)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole] = EMPTY;
    }

    fn grow(&mut self) {
        let doubled = vec![EMPTY; self.entries.len() * 2];
        let before = std::mem::replace(&mut self.entries, doubled);
        for entry in before {
            if !entry.queue.is_empty() {
                let at = self.position(entry.key);
                self.entries[at] = entry;
            }
        }
    }

    /// The longest way from an entry to where its key belongs, and how many keys there are.
    #[cfg(test)]
    pub(super) fn crowding(&self) -> (usize, usize) {
        let mask = self.entries.len() - 1;
        let used = self.entries.iter().enumerate().filter(|(_, entry)| !entry.queue.is_empty());
        let longest = used.map(|(at, entry)| at.wrapping_sub(self.home(entry.key)) & mask).max();
        (longest.unwrap_or(0), self.used)
    }
}
