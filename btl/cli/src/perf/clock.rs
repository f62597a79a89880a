//! Time between two moments of one process.
//!
//! On x86-64 the processor's time stamp counter is read, as perftest does: where the kernel does not trust that counter (in
//! emulated guests, on some large machines) each reading of the system's clock is a system call, which a latency of a
//! microsecond would mostly consist of. The counter is calibrated against the system's clock, and compared with it again
//! over each measurement ([`Clock::drift`]), so that one that is not steady is noticed.

use std::time::{Duration, Instant};

/// How long the calibration takes.
const CALIBRATION: Duration = Duration::from_millis(20);

/// A counter, and what one tick of it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    ns_per_tick: f64,
    counts_cycles: bool,
    origin: Instant,
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    ticks: u64,
    system: Instant,
}

impl Clock {
    /// Calibrates the counter, which takes 20 ms; where there is none, the system's clock counts.
    pub(super) fn start() -> Self {
        let system = Self { ns_per_tick: 1.0, counts_cycles: false, origin: Instant::now() };
        if time_stamp_counter().is_none() {
            return system;
        }
        let counter = Self { counts_cycles: true, ..system };
        let begin = counter.moment();
        while begin.system.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let end = counter.moment();
        let ticks = end.ticks.wrapping_sub(begin.ticks).max(1);
        Self { ns_per_tick: (end.system - begin.system).as_nanos() as f64 / ticks as f64, ..counter }
    }

    /// Now, in ticks since an arbitrary moment.
    #[inline(always)]
    pub(super) fn ticks(&self) -> u64 {
        if self.counts_cycles
            && let Some(ticks) = time_stamp_counter()
        {
            return ticks;
        }
        self.origin.elapsed().as_nanos() as u64
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { ticks: self.ticks(), system: Instant::now() }
    }

    pub(super) const fn ns_per_tick(&self) -> f64 {
        self.ns_per_tick
    }

    /// By how much the counter and the system's clock disagree on the time since a moment, as a fraction of it. Nothing can be
    /// said about times that are not longer than reading the clocks.
    pub(super) fn drift(&self, since: Moment) -> Option<f64> {
        let now = self.moment();
        let system = now.system - since.system;
        let counted = now.ticks.wrapping_sub(since.ticks) as f64 * self.ns_per_tick;
        (system >= CALIBRATION).then(|| (counted / system.as_nanos() as f64 - 1.0).abs())
    }

    /// For the head of a report.
    pub(super) fn name(&self) -> String {
        if self.counts_cycles {
            format!("time stamp counter at {:.3} GHz", 1.0 / self.ns_per_tick)
        } else {
            "the system's".to_owned()
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn time_stamp_counter() -> Option<u64> {
    // SAFETY: an instruction that every x86-64 processor has, and that touches no memory.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
const fn time_stamp_counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_agrees_with_the_system_s() {
        let clock = Clock::start();
        let begin = clock.moment();
        std::thread::sleep(3 * CALIBRATION);
        let drift = clock.drift(begin).expect("long enough");
        assert!(drift < 0.2, "{drift}: {clock:?}");
        assert_eq!(clock.drift(clock.moment()), None);
    }

    #[test]
    fn a_wrong_clock_is_noticed() {
        let right = Clock::start();
        let wrong = Clock { ns_per_tick: right.ns_per_tick * 2.0, ..right };
        let begin = wrong.moment();
        std::thread::sleep(2 * CALIBRATION);
        assert!(wrong.drift(begin).expect("long enough") > 0.5);
    }
}
