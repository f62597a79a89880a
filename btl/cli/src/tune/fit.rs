//! The constants of a model from measured times: lines by Theil and Sen, whose slope is the median of the
//! slopes between all pairs of points. A third of the points may be anything, and the line is still near the
//! others.

/// A line: the value at 0, and what each unit adds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) start: f64,
    pub(super) slope: f64,
}

/// The middle one, or the middle between the two middle ones; `None` of nothing.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(f64::midpoint(sorted[(sorted.len() - 1) / 2], upper))
}

/// The line through points; `None` if there are not two with different places. Times are never negative, and
/// so are not these.
pub(super) fn line(points: &[(f64, f64)]) -> Option<Line> {
    let pairs =
        points.iter().enumerate().flat_map(|(at, one)| points[..at].iter().map(move |other| (one, other)));
    let slopes = pairs.filter(|(one, other)| one.0 != other.0);
    let slope = median(slopes.map(|(one, other)| (one.1 - other.1) / (one.0 - other.0)))?.max(0.0);
    let start = median(points.iter().map(|(place, value)| value - slope * place))?.max(0.0);
    Some(Line { start, slope })
}

/// The start and the slope of times that are known better the shorter they are: the slope is that of the
/// longer half of the places, where it is most of the time, and the start what then is left of the shortest
/// quarter, where it is next to nothing.
pub(super) fn latency(points: &[(f64, f64)]) -> Option<Line> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
    let slope = line(&sorted[sorted.len() / 2..])?.slope;
    let short = &sorted[..sorted.len().div_ceil(4)];
    let start = median(short.iter().map(|(place, value)| value - slope * place))?.max(0.0);
    Some(Line { start, slope })
}

/// By so much at least, in the geometric mean over all lengths, has another switch to be faster than the
/// default one: less is noise.
const GAIN_MIN: f64 = 0.03;

/// From which of these on the second is to be taken: so that the product of the times that are taken is the
/// least. 0 is always, as many as there are is never. `default` is kept if nothing is much better.
pub(super) fn switch(first: &[f64], second: &[f64], default: usize) -> usize {
    let gain = |(first, second): (&f64, &f64)| (first / second).ln();
    let gains: Vec<f64> = first.iter().zip(second).map(gain).collect();
    let of = |from: usize| gains[from..].iter().sum::<f64>();
    let best = (0..=gains.len()).max_by(|one, other| of(*one).total_cmp(&of(*other))).unwrap_or(default);
    if of(best) - of(default) > GAIN_MIN * gains.len() as f64 { best } else { default }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of the first so many places are late.
    fn late_of(late: &[usize], first: usize) -> usize {
        (0..first).filter(|place| late.contains(place)).count()
    }

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn no_line_through_one_place() {
        assert_eq!(line(&[]), None);
        assert_eq!(line(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(latency(&[(1.0, 2.0)]), None);
    }

    #[test]
    fn a_switch_is_where_it_wins_most() {
        assert_eq!(switch(&[1.0, 2.0, 8.0], &[2.0, 2.5, 4.0], 0), 2);
        assert_eq!(switch(&[1.0, 2.0], &[2.0, 3.0], 0), 2, "never");
        assert_eq!(switch(&[3.0, 3.0], &[2.0, 1.0], 2), 0, "always");
        assert_eq!(switch(&[1.0, 1.0], &[1.0, 1.0], 1), 1, "no reason");
        assert_eq!(switch(&[1.0, 1.0, 1.02], &[1.0, 1.01, 1.0], 0), 0, "noise");
        // One that is out of place counts for less than the others.
        assert_eq!(switch(&[1.0, 3.0, 1.0, 4.0, 8.0], &[2.0, 2.9, 2.0, 2.0, 2.0], 0), 3);
    }

    proptest! {
        /// Planted constants come back, though a quarter of the times are far too long.
        #[test]
        fn planted_constants_are_found(
            alpha in 50.0_f64..5000.0,
            beta in 0.01_f64..2.0,
            noise in prop::collection::vec(0.99_f64..1.01, 16),
            late in prop::collection::vec(0_usize..16, 0..3),
        ) {
            let place = |at: usize| if at == 0 { 0.0 } else { f64::from(1 << (at + 5)) };
            let mut points: Vec<(f64, f64)> =
                noise.iter().enumerate().map(|(at, noise)| (place(at), (alpha + beta * place(at)) * noise)).collect();
            for at in &late {
                points[*at].1 *= 30.0;
            }
            let found = latency(&points).unwrap();
            prop_assert!((found.slope / beta - 1.0).abs() < 0.2, "beta {beta}: {found:?}");
            // Late ones may be most of the four shortest, and their neighbours are then what is known.
            prop_assume!(late_of(&late, 4) < 2);
            prop_assert!((found.start - alpha).abs() < 0.03 * alpha + 0.3 * beta * place(3), "alpha {alpha}: {found:?}");
        }

        #[test]
        fn lines_without_noise_are_exact(start in 0.0_f64..1e4, slope in 0.0_f64..10.0) {
            let points: Vec<(f64, f64)> = [0.0, 1.0, 4.0, 64.0].map(|place| (place, start + slope * place)).to_vec();
            let found = line(&points).unwrap();
            prop_assert!((found.start - start).abs() < 1e-6 && (found.slope - slope).abs() < 1e-6, "{found:?}");
        }

        /// No other place is much better.
        #[test]
        fn switches_are_the_best(pairs in prop::collection::vec((1_u32..50, 1_u32..50), 0..12)) {
            let (first, second): (Vec<f64>, Vec<f64>) =
                pairs.iter().map(|(first, second)| (f64::from(*first), f64::from(*second))).unzip();
            let total = |from: usize| {
                first[..from].iter().chain(&second[from..]).map(|time| time.ln()).sum::<f64>()
            };
            for default in 0..=pairs.len() {
                let found = switch(&first, &second, default);
                for from in 0..=pairs.len() {
                    let margin = if found == default { GAIN_MIN * pairs.len() as f64 } else { 0.0 };
                    prop_assert!(total(found) <= total(from) + margin + 1e-9, "{from}");
                }
            }
        }
    }
}
