//! Whether to register memory, or to copy it: what was measured decides, and whether the memory is used again.
//!
//! Memory that is sent once is cheaper to copy up to some length; memory that is sent again is cheaper to register, which is then
//! paid once. Nobody knows the future, so the second use of a buffer counts as the sign that it is of the second kind.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::range::PAGE_BYTES;

/// Below, memory is copied anyway; above, registering is cheaper wherever copies are not free.
const CROSSOVER_MIN: usize = 16 << 10;
const CROSSOVER_MAX: usize = 4 << 20;
/// Copies of a message that is not registered: into a send buffer, and out of a receive buffer.
const COPIES: f64 = 2.0;
/// Buffers that are remembered. Two that share a place look like new ones in turn, and are copied.
const TOUCHED: usize = 4096;

/// What registering and copying cost on this device, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Calibration {
    /// To register a page and to end that.
    pub(crate) register_ns: f64,
    /// For each further page.
    pub(crate) page_ns: f64,
    /// To copy one kibibyte.
    pub(crate) copy_ns_per_kib: f64,
}

impl Calibration {
    /// Made of the times of two registrations, of one page and of `pages`, and of one copy.
    pub(crate) fn of(
        one_ns: f64,
        (pages, many_ns): (usize, f64),
        (copied_bytes, copy_ns): (usize, f64),
    ) -> Self {
        Self {
            register_ns: one_ns,
            page_ns: ((many_ns - one_ns) / (pages - 1) as f64).max(0.0),
            copy_ns_per_kib: copy_ns / (copied_bytes as f64 / 1024.0),
        }
    }

    /// From this length on it is cheaper to register memory for one use than to copy it.
    pub(crate) fn crossover_bytes(&self) -> usize {
        let copied = COPIES * self.copy_ns_per_kib / 1024.0;
        let registered = self.page_ns / PAGE_BYTES as f64;
        let bytes = self.register_ns / (copied - registered);
        if copied <= registered || bytes >= CROSSOVER_MAX as f64 {
            return CROSSOVER_MAX;
        }
        (bytes as usize).max(CROSSOVER_MIN)
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "registering costs {:.1} us and {:.1} us per MiB, a copy {:.1} us per MiB: registered at first use from {} KiB on",
            self.register_ns / 1e3,
            self.page_ns * 256.0 / 1e3,
            self.copy_ns_per_kib * 1024.0 / 1e3,
            self.crossover_bytes() >> 10,
        )
    }
}

/// Buffers that were seen lately.
#[derive(Debug)]
pub(crate) struct Touched(Box<[AtomicU64]>);

impl Touched {
    pub(crate) fn new() -> Self {
        Self((0..TOUCHED).map(|_| AtomicU64::new(0)).collect())
    }

    /// True if a buffer that begins there was seen before, of whatever length.
    pub(crate) fn again(&self, start: usize) -> bool {
        let mark = start as u64;
        let place = &self.0[(mark.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % TOUCHED];
        place.swap(mark, Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crossover_is_where_both_cost_the_same() {
        // 20 us and 64 us per MiB to register, 100 us per MiB to copy, twice.
        let calibration = Calibration { register_ns: 20_000.0, page_ns: 250.0, copy_ns_per_kib: 97.66 };
        let bytes = calibration.crossover_bytes() as f64;
        let registered = 20_000.0 + 250.0 * bytes / 4096.0;
        let copied = 2.0 * 97.66 * bytes / 1024.0;
        assert!((registered / copied - 1.0).abs() < 0.01, "{bytes}: {registered} and {copied}");
        let cheap = Calibration { register_ns: 10.0, ..calibration };
        assert_eq!(cheap.crossover_bytes(), CROSSOVER_MIN);
        let dear = Calibration { page_ns: 1e9, ..calibration };
        assert_eq!(dear.crossover_bytes(), CROSSOVER_MAX, "never, below the bound");
        let measured = Calibration::of(1000.0, (65, 7400.0), (262_144, 25_000.0));
        assert_eq!((measured.page_ns, measured.copy_ns_per_kib.round()), (100.0, 98.0));
        assert_eq!(Calibration::of(1000.0, (65, 900.0), (1024, 1.0)).page_ns, 0.0, "noise is no gain");
    }

    #[test]
    fn the_second_time_is_again() {
        let touched = Touched::new();
        assert!(!touched.again(0x1000));
        assert!(touched.again(0x1000) && touched.again(0x1000));
        assert!(!touched.again(0x1001), "another start is another buffer");
        let fresh = (1..2000_usize).filter(|index| !touched.again(0x7000_0000 + index * 65_536));
        assert_eq!(fresh.count(), 1999);
        let known = (1..2000_usize).filter(|index| touched.again(0x7000_0000 + index * 65_536)).count();
        assert!(known > 1000, "{known} of 1999 are known again");
    }
}
