//! How much of a non-blocking operation goes on while the program computes, by OSU's method: the operation is timed alone, then begun, then
//! computing goes on for as long as it took alone, then it is waited for.

use std::hint::black_box;

use crate::point_to_point::now;

/// Numbers in a vector of the computing: it stays in the first cache.
const NUMBERS: usize = 64;

/// How long a calibration computes at least, in seconds.
const CALIBRATION_SECONDS: f64 = 2e-3;

/// Calibrations, of which the fastest counts: others were disturbed.
const CALIBRATIONS: usize = 5;

/// How much of the communication was hidden behind computing, in per cent: 100 when computing and communicating together took no longer than
/// computing alone, 0 when they took as long as one after the other, or longer. All times are in one unit.
pub fn overlap_percent(overall: f64, compute: f64, pure_communication: f64) -> f64 {
    if pure_communication <= 0.0 {
        // Of nothing nothing can be hidden.
        return 0.0;
    }
    (100.0 - (overall - compute) / pure_communication * 100.0).max(0.0)
}

/// Computing that takes a known time, while nothing else runs.
///
/// OSU computes until the clock says that it is enough; this does a fixed number of steps, so that a processor that was taken away for a
/// while counts as computing that took longer, and not as computing that was done.
#[derive(Debug)]
pub(super) struct Work {
    numbers: [f64; NUMBERS],
    seconds_per_step: f64,
}

impl Work {
    /// Finds out how long a step takes here and now.
    pub(super) fn calibrated() -> Self {
        let mut work = Self { numbers: [1.0; NUMBERS], seconds_per_step: 0.0 };
        let mut steps = 1024;
        while work.seconds_of(steps) < CALIBRATION_SECONDS {
            steps *= 2;
        }
        let fastest = (0..CALIBRATIONS).map(|_| work.seconds_of(steps)).fold(f64::INFINITY, f64::min);
        work.seconds_per_step = fastest / steps as f64;
        work
    }

    fn seconds_of(&mut self, steps: u64) -> f64 {
        let start = now();
        self.compute(steps);
        now() - start
    }

    /// The steps that take so long.
    pub(super) fn steps_for(&self, seconds: f64) -> u64 {
        steps_for(seconds, self.seconds_per_step)
    }

    /// Computes.
    pub(super) fn compute(&mut self, steps: u64) {
        for step in 0..steps {
            let add = black_box(step as f64 * 1e-9);
            self.numbers.iter_mut().for_each(|number| *number = *number * 0.999_999 + add);
        }
        black_box(&mut self.numbers);
    }
}

fn steps_for(seconds: f64, seconds_per_step: f64) -> u64 {
    (seconds / seconds_per_step).round().max(1.0) as u64
}

/// Steps of each stretch of computing when `tests` calls of `MPI_Test` stand between, or rather behind each stretch; one stretch without a
/// call if there are none.
pub(super) fn stretches(steps: u64, tests: u64) -> impl Iterator<Item = u64> {
    let count = tests.max(1);
    (0..count).map(move |at| steps / count + u64::from(at < steps % count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlap_is_osus_formula() {
        // Communication of 10: all of it hidden, none of it, half of it, and more than none.
        assert_eq!(overlap_percent(100.0, 100.0, 10.0), 100.0);
        assert_eq!(overlap_percent(110.0, 100.0, 10.0), 0.0);
        assert_eq!(overlap_percent(105.0, 100.0, 10.0), 50.0);
        assert_eq!(overlap_percent(150.0, 100.0, 10.0), 0.0);
        assert_eq!(overlap_percent(100.0, 100.0, 0.0), 0.0);
    }

    proptest! {
        #[test]
        fn overlap_is_a_share_that_falls_as_the_whole_takes_longer(
            compute in 0.1..1e4_f64, pure in 0.1..1e4_f64, extra in 0.0..1e4_f64, more in 0.0..1e4_f64,
        ) {
            let (less, longer) = (compute + extra, compute + extra + more);
            let (first, second) = (overlap_percent(less, compute, pure), overlap_percent(longer, compute, pure));
            prop_assert!((0.0..=100.0 + 1e-6).contains(&first));
            prop_assert!(second <= first);
        }

        #[test]
        fn no_step_is_lost_between_tests(steps in 0u64..1_000_000, tests in 0u64..2000) {
            let all: Vec<u64> = stretches(steps, tests).collect();
            prop_assert_eq!(all.len() as u64, tests.max(1));
            prop_assert_eq!(all.iter().sum::<u64>(), steps);
            prop_assert!(all.iter().max().unwrap() - all.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn steps_are_as_many_as_fit_and_one_at_least() {
        assert_eq!(steps_for(1e-3, 1e-8), 100_000);
        assert_eq!(steps_for(0.0, 1e-8), 1);
        assert_eq!(Work { numbers: [1.0; NUMBERS], seconds_per_step: 0.5 }.steps_for(2.0), 4);
        let work = Work::calibrated();
        assert!(work.seconds_per_step > 0.0 && work.steps_for(1.0) > work.steps_for(1e-3), "{work:?}");
    }
}
