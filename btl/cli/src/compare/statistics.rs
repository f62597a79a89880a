//! Medians and ratios.

use serde::Serialize;

/// What one transport reached in all rounds at one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// How many rounds it comes from.
    pub(super) rounds: usize,
}

impl Summary {
    /// None without samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted[sorted.len() / 2];
        let lower = sorted[(sorted.len() - 1) / 2];
        Some(Self { median: f64::midpoint(lower, upper), min, max, rounds: sorted.len() })
    }
}

/// How a transport compares with the first one at one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ratio {
    /// Its median divided by the first one's.
    pub(super) of_medians: f64,
    /// The smallest and the largest quotient within a round: when 1 lies between, the difference is noise.
    pub(super) min_in_a_round: f64,
    pub(super) max_in_a_round: f64,
}

impl Ratio {
    /// The samples are by round, `None` where a round gave none. No ratio when nothing can be divided.
    pub(super) fn of(samples: &[Option<f64>], first: &[Option<f64>]) -> Option<Self> {
        let present =
            |values: &[Option<f64>]| Summary::of(&values.iter().flatten().copied().collect::<Vec<_>>());
        let of_medians = present(samples)?.median / present(first)?.median;
        let in_rounds: Vec<f64> = samples
            .iter()
            .zip(first)
            .filter_map(|(sample, first)| Some((*sample)? / (*first)?))
            .filter(|quotient| quotient.is_finite())
            .collect();
        let spread = Summary::of(&in_rounds)?;
        of_medians.is_finite().then_some(Self {
            of_medians,
            min_in_a_round: spread.min,
            max_in_a_round: spread.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: as many samples below as above, and the middle of all values of which that is true.
    fn naive_median(samples: &[f64]) -> f64 {
        let rank = |x: f64| {
            let below = samples.iter().filter(|y| **y < x).count();
            let equal = samples.iter().filter(|y| **y == x).count();
            (below, below + equal)
        };
        let value_at = |index: usize| {
            *samples
                .iter()
                .find(|x| {
                    let (from, to) = rank(**x);
                    from <= index && index < to
                })
                .unwrap()
        };
        (value_at((samples.len() - 1) / 2) + value_at(samples.len() / 2)) / 2.0
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]), Some(Summary { median: 3.0, min: 3.0, max: 3.0, rounds: 1 }));
        assert_eq!(Summary::of(&[9.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Summary::of(&[9.0, 1.0, 2.0, 4.0]).unwrap().median, 3.0);
    }

    #[test]
    fn ratios_are_of_medians_and_their_spread_is_within_rounds() {
        // The second round ran on a machine half as fast: within every round the quotient is the same.
        let first = [Some(1.0), Some(2.0), Some(1.0)];
        let other = [Some(3.0), Some(6.0), Some(3.0)];
        let want = Ratio { of_medians: 3.0, min_in_a_round: 3.0, max_in_a_round: 3.0 };
        assert_eq!(Ratio::of(&other, &first), Some(want));
    }

    #[test]
    fn what_cannot_be_divided_has_no_ratio() {
        assert_eq!(Ratio::of(&[Some(1.0)], &[Some(0.0)]), None);
        assert_eq!(Ratio::of(&[Some(0.0)], &[Some(0.0)]), None);
        assert_eq!(Ratio::of(&[None, Some(1.0)], &[Some(1.0), None]), None);
        assert_eq!(Ratio::of(&[], &[]), None);
    }

    proptest! {
        #[test]
        fn the_median_is_the_naive_one(samples in prop::collection::vec(0u32..50, 1..40)) {
            let samples: Vec<f64> = samples.into_iter().map(f64::from).collect();
            let summary = Summary::of(&samples).unwrap();
            prop_assert_eq!(summary.median, naive_median(&samples));
            prop_assert_eq!(summary.min, samples.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(summary.max, samples.iter().copied().fold(0.0, f64::max));
        }

        #[test]
        fn the_ratio_is_the_naive_one(pairs in prop::collection::vec((1u32..50, 1u32..50), 1..20)) {
            let other: Vec<f64> = pairs.iter().map(|(other, _)| f64::from(*other)).collect();
            let first: Vec<f64> = pairs.iter().map(|(_, first)| f64::from(*first)).collect();
            let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
            let ratio = Ratio::of(&some(&other), &some(&first)).unwrap();
            prop_assert_eq!(ratio.of_medians, naive_median(&other) / naive_median(&first));
            for (other, first) in other.iter().zip(&first) {
                prop_assert!(ratio.min_in_a_round <= other / first && other / first <= ratio.max_in_a_round);
            }
        }
    }
}
