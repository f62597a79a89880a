//! What has been unmapped, from those who unmap to those who register.
//!
//! Unmapping happens anywhere: inside `free`, in a signal handler, in a thread that has no storage of its own yet, while locks of
//! this library or of libc are held. So who unmaps takes no lock here, allocates nothing and waits for nobody:
//!
//! ```text
//!  who unmaps                                   who registers
//!  started += 1                                 filter[granules] += 1
//!  filter[granules] all 0?  ->  nothing to do   started == finished?  else it is not cached
//!  claim a cell, write the range, ready         (the adapter pins the pages)
//!  epoch += 1                                   takes all ready cells: one of these pages? then it is not cached
//!  (the system call)                            keeps it
//!  finished += 1
//! ```
//!
//! The cells are no queue: ranges may be applied in any order, so nobody has to wait for a cell before its own, and a signal handler
//! may unmap in the middle of it all. If no cell is free everything counts as unmapped. A source that cannot tell when the system call
//! has returned leaves out both counters; what that costs is written where it is chosen.

use crossbeam_utils::CachePadded;

use super::range::Range;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, total_order};

/// Words of 64 cells: more than a program frees between two messages, as a rule.
const WORDS: usize = 16;
/// Counters of the filter: addresses that are 128 GiB apart share one.
const GRANULES: usize = 1 << 16;

#[derive(Debug)]
struct Cell {
    start: AtomicUsize,
    end: AtomicUsize,
}

/// The letter box of one cache.
#[derive(Debug)]
pub(super) struct Unmaps {
    started: CachePadded<AtomicU64>,
    finished: CachePadded<AtomicU64>,
    /// Grows with each range that is put in.
    epoch: CachePadded<AtomicU64>,
    overflowed: AtomicBool,
    /// A bit for each cell that is written, ready or being read.
    claimed: Box<[AtomicU64]>,
    /// A bit for each cell that can be read.
    ready: Box<[AtomicU64]>,
    cells: Box<[Cell]>,
    /// How many cached registrations have a byte in each granule.
    filter: Box<[AtomicU32]>,
}

fn zeros<T>(count: usize, zero: impl Fn() -> T) -> Box<[T]> {
    (0..count).map(|_| zero()).collect()
}

impl Unmaps {
    pub(super) fn new() -> Self {
        Self::with_size(WORDS, GRANULES)
    }

    /// For models.
    #[cfg(all(test, loom))]
    pub(super) fn small() -> Self {
        Self::with_size(1, 1)
    }

    fn with_size(words: usize, granules: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            started: CachePadded::new(zero()),
            finished: CachePadded::new(zero()),
            epoch: CachePadded::new(zero()),
            overflowed: AtomicBool::new(false),
            claimed: zeros(words, zero),
            ready: zeros(words, zero),
            cells: zeros(words * 64, || Cell { start: AtomicUsize::new(0), end: AtomicUsize::new(0) }),
            filter: zeros(granules, || AtomicU32::new(0)),
        }
    }

    // ---- for those who unmap ---------------------------------------------------------------------------------------------

    /// Before a system call that unmaps, moves or empties these pages. [`Unmaps::end`] follows.
    #[inline]
    pub(super) fn begin(&self, range: Range) {
        self.started.fetch_add(1, Ordering::SeqCst);
        total_order();
        self.tell(range);
    }

    /// The system call has returned.
    #[inline]
    pub(super) fn end(&self) {
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// These pages are unmapped, or will be in a moment.
    #[inline]
    pub(super) fn tell(&self, range: Range) {
        if self.is_watched(range) {
            self.put(range);
        }
    }

    #[inline]
    fn is_watched(&self, range: Range) -> bool {
        let (first, last) = range.granules();
        if last - first >= self.filter.len() {
            return true;
        }
        (first..=last).any(|granule| self.counter(granule).load(Ordering::SeqCst) != 0)
    }

    /// Everything is unmapped: this is a child of a fork, and the registrations are its parent's.
    pub(super) fn tell_all(&self) {
        self.overflowed.store(true, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    fn put(&self, range: Range) {
        match self.claim() {
            Some(index) => {
                self.cells[index].start.store(range.start, Ordering::Relaxed);
                self.cells[index].end.store(range.end, Ordering::Relaxed);
                self.ready[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
            }
            None => self.overflowed.store(true, Ordering::Release),
        }
        self.epoch.fetch_add(1, Ordering::Release);
    }

    fn claim(&self) -> Option<usize> {
        for (word, claimed) in self.claimed.iter().enumerate() {
            let mut taken = claimed.load(Ordering::Relaxed);
            while taken != u64::MAX {
                let bit = taken.trailing_ones() as usize;
                // Acquire: who read the cell last has done so.
                taken = claimed.fetch_or(1 << bit, Ordering::Acquire);
                if taken & (1 << bit) == 0 {
                    return Some(word * 64 + bit);
                }
            }
        }
        None
    }

    // ---- for those who register ------------------------------------------------------------------------------------------

    /// Changes when there is something to take.
    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// From now on unmapping these pages is told.
    pub(super) fn watch(&self, range: Range) {
        self.count_granules(range, |counter| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        total_order();
    }

    /// Takes one [`Unmaps::watch`] back.
    pub(super) fn unwatch(&self, range: Range) {
        self.count_granules(range, |counter| {
            // Release: who finds nothing watched sees what was done before.
            counter.fetch_sub(1, Ordering::Release);
        });
    }

    /// True if nobody is between [`Unmaps::begin`] and [`Unmaps::end`]. Whoever begins after this sees what was watched before.
    pub(super) fn is_quiet(&self) -> bool {
        // In this order: equal numbers mean that nobody was inside when the first was read.
        let finished = self.finished.load(Ordering::SeqCst);
        self.started.load(Ordering::SeqCst) == finished
    }

    /// Hands out what was unmapped, in no order; [`Range::ALL`] if it was too much. Gives the epoch that has then been applied.
    pub(super) fn take(&self, mut each: impl FnMut(Range)) -> u64 {
        // Before the cells: all that was put in up to here is found.
        let epoch = self.epoch();
        if self.overflowed.load(Ordering::Relaxed) && self.overflowed.swap(false, Ordering::Acquire) {
            each(Range::ALL);
        }
        for (word, ready) in self.ready.iter().enumerate() {
            let found = if ready.load(Ordering::Relaxed) == 0 { 0 } else { ready.swap(0, Ordering::Acquire) };
            let mut left = found;
            while left != 0 {
                let cell = &self.cells[word * 64 + left.trailing_zeros() as usize];
                left &= left - 1;
                each(Range {
                    start: cell.start.load(Ordering::Relaxed),
                    end: cell.end.load(Ordering::Relaxed),
                });
            }
            if found != 0 {
                self.claimed[word].fetch_and(!found, Ordering::Release);
            }
        }
        epoch
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn is_unwatched(&self) -> bool {
        self.filter.iter().all(|counter| counter.load(Ordering::Relaxed) == 0)
    }

    fn count_granules(&self, range: Range, count: impl Fn(&AtomicU32)) {
        let (first, last) = range.granules();
        // Once round the filter is enough.
        (first..=last).take(self.filter.len()).for_each(|granule| count(self.counter(granule)));
    }

    #[inline]
    fn counter(&self, granule: usize) -> &AtomicU32 {
        &self.filter[granule % self.filter.len()]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn range(start: usize, len_bytes: usize) -> Range {
        Range::new(start, len_bytes).expect("a range")
    }

    fn taken(unmaps: &Unmaps) -> Vec<Range> {
        let mut all = Vec::new();
        unmaps.take(|range| all.push(range));
        all
    }

    const GRANULE: usize = 1 << super::super::range::GRANULE_BYTES_LOG2;

    #[test]
    fn only_what_is_watched_is_told() {
        let unmaps = Unmaps::new();
        unmaps.tell(range(0x1000, 4096));
        assert_eq!(unmaps.epoch(), 0);
        unmaps.watch(range(10 * GRANULE - 1, 2));
        for (start, is_told) in [
            (9 * GRANULE - 4096, false),
            (9 * GRANULE, true),
            (11 * GRANULE - 4096, true),
            (11 * GRANULE, false),
        ] {
            unmaps.tell(range(start, 4096));
            assert_eq!(!taken(&unmaps).is_empty(), is_told, "{start:#x}");
        }
        unmaps.unwatch(range(10 * GRANULE - 1, 2));
        unmaps.tell(range(9 * GRANULE, 2 * GRANULE));
        assert_eq!(taken(&unmaps), []);
        // More than the filter has counters.
        unmaps.tell(range(0, usize::MAX));
        assert_eq!(taken(&unmaps), [range(0, usize::MAX)]);
    }

    #[test]
    fn too_much_is_everything() {
        let unmaps = Unmaps::new();
        unmaps.watch(range(0, 1));
        let cells = WORDS * 64;
        let all: Vec<Range> = (0..cells).map(|page| range(page * 64, 64)).collect();
        all.iter().for_each(|&range| unmaps.tell(range));
        assert_eq!(taken(&unmaps), all, "all cells serve");
        all.iter().for_each(|&range| unmaps.tell(range));
        unmaps.tell(range(7, 1));
        let found = taken(&unmaps);
        assert!(found.contains(&Range::ALL) && found.len() == cells + 1, "{}", found.len());
        assert_eq!(taken(&unmaps), []);
        unmaps.tell(range(7, 1));
        assert_eq!(taken(&unmaps), [range(7, 1)], "cells come back");
    }

    #[test]
    fn quiet_is_when_all_have_returned() {
        let unmaps = Unmaps::new();
        assert!(unmaps.is_quiet());
        unmaps.begin(range(0, 1));
        unmaps.begin(range(5, 1));
        unmaps.end();
        assert!(!unmaps.is_quiet());
        unmaps.end();
        assert!(unmaps.is_quiet());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn page(number: usize) -> Range {
        Range { start: number, end: number + 1 }
    }

    /// Two who unmap and one who takes: nothing is lost, nothing comes twice, and the epoch that `take` gives covers what it gave.
    #[test]
    fn nothing_is_lost() {
        loom::model(|| {
            let unmaps = Arc::new(Unmaps::with_size(1, 1));
            unmaps.watch(page(0));
            let threads: Vec<_> = (1..=2)
                .map(|number| {
                    let unmaps = Arc::clone(&unmaps);
                    thread::spawn(move || unmaps.tell(page(number)))
                })
                .collect();
            let mut found = Vec::new();
            let applied = unmaps.take(|range| found.push(range.start));
            assert!(applied as usize <= found.len(), "an epoch was applied, and its range was not");
            threads.into_iter().for_each(|thread| thread.join().expect("who unmaps"));
            assert_eq!(unmaps.take(|range| found.push(range.start)), 2);
            found.sort_unstable();
            assert_eq!(found, [1, 2]);
        });
    }

    /// The pages under a registration change while it is made: it is then not cached, or is told of. `memory` is which pages are
    /// mapped, `pinned` which of them the adapter has.
    #[test]
    fn a_registration_that_races_with_an_unmap_is_not_kept() {
        loom::model(|| {
            let unmaps = Arc::new(Unmaps::with_size(1, 1));
            let memory = Arc::new(AtomicU32::new(0));
            let unmapper = {
                let (unmaps, memory) = (Arc::clone(&unmaps), Arc::clone(&memory));
                thread::spawn(move || {
                    unmaps.begin(page(0));
                    memory.store(1, Ordering::Relaxed);
                    unmaps.end();
                })
            };
            unmaps.watch(page(0));
            let quiet = unmaps.is_quiet();
            let pinned = memory.load(Ordering::Relaxed);
            let mut told = false;
            unmaps.take(|_| told = true);
            let kept = quiet && !told;
            unmapper.join().expect("the unmapper");
            unmaps.take(|_| told = true);
            let is_stale = pinned != memory.load(Ordering::Relaxed);
            assert!(!(kept && is_stale && !told), "a stale registration was kept");
        });
    }
}
