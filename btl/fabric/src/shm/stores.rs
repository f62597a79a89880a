//! How a long body is written into a ring: like any memory, or past the caches.
//!
//! Plain stores are two to three times as fast while both processors share a cache that holds the ring. Where they do not (another chiplet, another socket;
//! a guest is not told) each line has to be fetched from the reader's cache before it can be written, one after the other, and the same body takes up to ten times as
//! long. Stores past the caches (non-temporal ones) fetch nothing and always take about the same. Where processes run nobody
//! tells for sure, and they move: so the writer times its copies, and a [`Bandit`] takes the faster ones.

use std::time::Instant;

use ironband_core::bandit::{Bandit, cost_of};

use super::copy::CAN_PASS_CACHES;

/// Shorter bodies are always written with plain stores: the reader would find them in memory, and wait longer for that than for the writer's cache.
const BYTES_MIN: usize = 1024;
/// Length classes: from 1, 2, 4 and 8 KiB on.
const CLASSES: usize = 4;

/// See [`Bandit`].
const TIMED_INTERVAL: u32 = 64;

/// The writer's time is not all: what went past the caches the reader has to get from memory. Measured in minutes in which a line goes
/// from core to core in 40 ns plain stores take the writer 0.4 to 3 times as long as those past the caches, in such with 120 ns 5 to 12 times.
const PAST_CACHES_WEIGHT: u64 = 4;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    /// Like any memory.
    Plain,
    /// Past the caches.
    PastCaches,
}

const WAYS: [Stores; 2] = [Stores::Plain, Stores::PastCaches];

/// The choice for one ring.
#[derive(Debug, Default)]
pub(crate) struct StoresChooser {
    classes: [Bandit<{ WAYS.len() }, TIMED_INTERVAL>; CLASSES],
}

impl StoresChooser {
    /// Has a body of so many bytes written.
    #[inline]
    pub(crate) fn write(&mut self, len_bytes: usize, write: impl FnOnce(Stores)) {
        if len_bytes < BYTES_MIN {
            write(Stores::Plain);
        } else {
            self.write_long(len_bytes, write);
        }
    }

    fn write_long(&mut self, len_bytes: usize, write: impl FnOnce(Stores)) {
        let class = &mut self.classes[class_of(len_bytes)];
        let way = class.choose([true, CAN_PASS_CACHES]);
        let start = class.is_timed(way).then(Instant::now);
        write(WAYS[way]);
        if let Some(start) = start {
            let elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let weight = if WAYS[way] == Stores::Plain { 1 } else { PAST_CACHES_WEIGHT };
            class.observe(way, cost_of(elapsed_ns.saturating_mul(weight), len_bytes));
        }
    }
}

fn class_of(len_bytes: usize) -> usize {
    ((len_bytes / BYTES_MIN).max(1).ilog2() as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn classes_cover_all_lengths() {
        let classes = [1024, 2047, 2048, 4096, 8191, 8192, usize::MAX].map(class_of);
        assert_eq!(classes, [0, 0, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn long_bodies_are_written_in_both_ways_and_short_ones_in_one() {
        let (plain, past) = (Cell::new(0), Cell::new(0));
        let count = |way| {
            let counter = if way == Stores::Plain { &plain } else { &past };
            counter.set(counter.get() + 1);
        };
        let mut chooser = StoresChooser::default();
        (0..100).for_each(|_| chooser.write(BYTES_MIN - 1, count));
        assert_eq!((plain.get(), past.get()), (100, 0));
        (0..100).for_each(|_| chooser.write(BYTES_MIN, count));
        assert_eq!(plain.get() + past.get(), 200, "each once");
        assert_eq!(past.get() > 0, CAN_PASS_CACHES);
    }
}
