//! Summary of a set of samples.

use serde::Serialize;

/// What `-f` prints.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean of the samples.
    pub average: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Summary {
    /// Summary of `samples`, which it sorts; `None` when there are none.
    pub fn of(samples: &mut [f64]) -> Option<Self> {
        samples.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (samples.first()?, samples.last()?);
        Some(Self {
            average: samples.iter().sum::<f64>() / samples.len() as f64,
            min,
            max,
            p50: percentile(samples, 50),
            p90: percentile(samples, 90),
            p99: percentile(samples, 99),
        })
    }
}

/// Nearest-rank percentile of sorted, non-empty samples: the smallest value that at least `percent` per cent
/// of the samples do not exceed. It is always a value that was measured.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word and slowly.
    fn naive_percentile(samples: &[f64], percent: usize) -> f64 {
        let mut candidates: Vec<f64> = samples
            .iter()
            .copied()
            .filter(|candidate| {
                let not_above = samples.iter().filter(|sample| *sample <= candidate).count();
                not_above * 100 >= percent * samples.len()
            })
            .collect();
        candidates.sort_unstable_by(f64::total_cmp);
        candidates[0]
    }

    proptest! {
        #[test]
        fn percentiles_agree_with_the_definition(samples in prop::collection::vec(0u32..50, 1..400)) {
            let mut samples: Vec<f64> = samples.into_iter().map(f64::from).collect();
            let original = samples.clone();
            let summary = Summary::of(&mut samples).expect("not empty");
            prop_assert_eq!(summary.p50, naive_percentile(&original, 50));
            prop_assert_eq!(summary.p90, naive_percentile(&original, 90));
            prop_assert_eq!(summary.p99, naive_percentile(&original, 99));
            prop_assert_eq!(summary.min, original.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(summary.max, original.iter().copied().fold(0.0, f64::max));
            let mean = original.iter().sum::<f64>() / original.len() as f64;
            prop_assert!((summary.average - mean).abs() < 1e-9);
        }
    }

    #[test]
    fn known_percentiles() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&mut samples).expect("not empty");
        assert_eq!((summary.p50, summary.p90, summary.p99), (50.0, 90.0, 99.0));
        assert_eq!((summary.min, summary.max, summary.average), (1.0, 100.0, 50.5));
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_is_no_summary() {
        let summary = Summary::of(&mut [3.5]).expect("not empty");
        assert_eq!((summary.min, summary.p50, summary.p99, summary.max), (3.5, 3.5, 3.5, 3.5));
        assert_eq!(Summary::of(&mut []), None);
    }
}
