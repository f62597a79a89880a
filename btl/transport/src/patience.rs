//! Spin, then yield: a process that waits must not keep the processor from the one it waits for.

use std::sync::atomic::{AtomicU32, Ordering};

/// Empty polls before a process offers its processor to others.
pub(crate) const SPIN_POLLS: u32 = 2000;

/// As many where nobody above yields, as Open MPI does with each of its own empty polls: who is waited for is not running, more often than not.
const SPIN_POLLS_ALONE: u32 = 2;

/// Counts empty polls.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Empty polls before each yield; `u32::MAX` when every process has a processor of its own.
    limit: u32,
    /// Relaxed and unlocked: a lost count is one poll more before a yield.
    empty: AtomicU32,
}

impl Patience {
    /// For `local_ranks` processes on `processors` processors. With `many_threads` nobody knows how many threads wait in one
    /// process, so they always yield.
    pub(crate) const fn new(local_ranks: u32, processors: u32, many_threads: bool, spin_polls: u32) -> Self {
        let limit = if many_threads || local_ranks > processors { spin_polls } else { u32::MAX };
        Self { limit, empty: AtomicU32::new(0) }
    }

    /// Nobody above yields.
    pub(crate) const fn shorten(&mut self) {
        if !self.is_endless() {
            self.limit = SPIN_POLLS_ALONE;
        }
    }

    /// Nobody else needs the processor.
    #[inline(always)]
    pub(crate) const fn is_endless(&self) -> bool {
        self.limit == u32::MAX
    }

    /// Something was found.
    #[inline(always)]
    pub(crate) fn reset(&self) {
        self.empty.store(0, Ordering::Relaxed);
    }

    /// Nothing was found: true when it is time to yield.
    #[inline(always)]
    pub(crate) fn exhausted(&self) -> bool {
        if self.is_endless() {
            return false;
        }
        let empty = self.empty.load(Ordering::Relaxed);
        self.empty.store(empty.saturating_add(1), Ordering::Relaxed);
        empty >= self.limit
    }
}

/// Processors that are online; a container's quota does not lower it, the processors are still shared with nobody we know of.
pub(crate) fn online_processors() -> u32 {
    // SAFETY: sysconf reads a number and has no preconditions.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(count).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_outnumber_processors_yield_after_a_while() {
        let patience = Patience::new(3, 2, false, 2);
        assert_eq!([patience.exhausted(), patience.exhausted(), patience.exhausted()], [false, false, true]);
        assert!(patience.exhausted(), "and go on yielding");
        patience.reset();
        assert!(!patience.exhausted());
    }

    #[test]
    fn who_waits_with_nobody_above_yields_sooner() {
        let polls = |mut patience: Patience| {
            patience.shorten();
            (0..10_000).position(|_| patience.exhausted())
        };
        assert_eq!(polls(Patience::new(3, 2, false, SPIN_POLLS)), Some(SPIN_POLLS_ALONE as usize));
        assert_eq!(polls(Patience::new(2, 2, false, SPIN_POLLS)), None);
    }

    #[test]
    fn threads_that_wait_for_one_another_yield() {
        assert!(Patience::new(1, 64, true, 0).exhausted());
    }

    #[test]
    fn a_processor_for_each_never_yields() {
        let patience = Patience::new(2, 2, false, 0);
        assert!((0..100).all(|_| !patience.exhausted()));
    }
}
