//! What is made of the samples of one measurement, in perftest's terms.

use serde::Serialize;

/// Samples that are kept for the percentiles. Longer measurements keep every second, fourth, ... sample.
const KEPT_MAX: usize = 1 << 17;

/// The times of single operations. Recording one costs some instructions and never memory.
#[derive(Debug)]
pub(super) struct Samples {
    kept: Vec<u64>,
    kept_max: usize,
    /// Every how many-th sample is kept.
    stride: u64,
    count: u64,
    min: u64,
    max: u64,
    sum: u64,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self::keeping(KEPT_MAX)
    }

    fn keeping(kept_max: usize) -> Self {
        // Touched now and not in the measurement.
        let mut kept = vec![1; kept_max];
        kept.clear();
        Self { kept, kept_max, stride: 1, count: 0, min: u64::MAX, max: 0, sum: 0 }
    }

    /// Records one, in ticks.
    #[inline]
    pub(super) fn push(&mut self, ticks: u64) {
        if self.count & (self.stride - 1) == 0 {
            self.keep(ticks);
        }
        self.count += 1;
        self.sum += ticks;
        self.min = self.min.min(ticks);
        self.max = self.max.max(ticks);
    }

    #[inline]
    fn keep(&mut self, ticks: u64) {
        if self.kept.len() == self.kept_max {
            // The stride stays a power of two; this sample is one of the new, wider stride, because the count of kept ones is even.
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
        self.kept.push(ticks);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The summary, with `us_per_tick` microseconds to the tick: half a tick's worth where half of each time counts. `None`
    /// without samples.
    pub(super) fn summary(mut self, us_per_tick: f64) -> Option<Latency> {
        if self.count == 0 {
            return None;
        }
        let mean = self.kept.iter().map(|&ticks| ticks as f64).sum::<f64>() / self.kept.len() as f64;
        let variance = self.kept.iter().map(|&ticks| (ticks as f64 - mean).powi(2)).sum::<f64>();
        self.kept.sort_unstable();
        let in_us = |ticks: u64| ticks as f64 * us_per_tick;
        Some(Latency {
            t_min_us: in_us(self.min),
            t_max_us: in_us(self.max),
            t_typical_us: in_us(percentile(&self.kept, 500)),
            t_avg_us: self.sum as f64 / self.count as f64 * us_per_tick,
            t_stdev_us: (variance / self.kept.len() as f64).sqrt() * us_per_tick,
            p99_us: in_us(percentile(&self.kept, 990)),
            p999_us: in_us(percentile(&self.kept, 999)),
        })
    }
}

/// Nearest-rank percentile of sorted, non-empty samples: the smallest that at least so many of thousand do not exceed.
fn percentile(sorted: &[u64], of_thousand: usize) -> u64 {
    let rank = (sorted.len() * of_thousand).div_ceil(1000).max(1);
    sorted[rank - 1]
}

/// One row of a table of latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) t_min_us: f64,
    pub(super) t_max_us: f64,
    /// The median.
    pub(super) t_typical_us: f64,
    pub(super) t_avg_us: f64,
    pub(super) t_stdev_us: f64,
    /// The 99th percentile.
    pub(super) p99_us: f64,
    /// The 99.9th percentile.
    pub(super) p999_us: f64,
}

/// Moments that are kept of a stream.
const MARKS_MAX: usize = 1 << 10;
/// The fastest tenth of a stream is its peak.
const PEAK_PART: usize = 10;

/// When the messages of a stream were through: every so many-th of them, so that marking costs next to nothing.
#[derive(Debug)]
pub(super) struct Marks {
    marks: Vec<u64>,
    stride: u64,
    next: u64,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self { marks: Vec::with_capacity(MARKS_MAX), stride: 1, next: 1 }
    }

    /// Marks the message that was to be marked next, which is number 1 at first; gives the number of the one to mark then.
    pub(super) fn mark(&mut self, ticks: u64) -> u64 {
        if self.marks.len() == MARKS_MAX {
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
        self.marks.push(ticks);
        self.next += self.stride;
        self.next
    }

    /// Messages per tick in the fastest tenth of the stream, of which `under_way` can be on their way at once: a shorter stretch
    /// may have come at one moment, because nobody looked before. `None` when there were not enough messages to tell.
    pub(super) fn peak_per_tick(&self, under_way: u64) -> Option<f64> {
        let span = (self.marks.len() / PEAK_PART).max(under_way.div_ceil(self.stride) as usize);
        if span == 0 || self.marks.len() < PEAK_PART {
            return None;
        }
        let stretches = self.marks.windows(span + 1);
        let fastest = stretches.map(|part| part[span].saturating_sub(part[0])).min()?;
        (fastest > 0).then(|| (span as u64 * self.stride) as f64 / fastest as f64)
    }
}

/// One row of a table of bandwidths.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Bandwidth {
    /// In the fastest tenth of the messages; MiB are 2 to the 20th bytes, as for perftest. Nothing of streams so short that all
    /// messages can be under way at once.
    pub(super) peak_mib_s: Option<f64>,
    pub(super) average_mib_s: f64,
    /// Millions of messages per second.
    pub(super) message_rate_peak_mpps: Option<f64>,
    pub(super) message_rate_mpps: f64,
}

impl Bandwidth {
    /// Of so many messages in so many seconds.
    pub(super) fn of(size_bytes: usize, messages: u64, seconds: f64, peak_per_second: Option<f64>) -> Self {
        let rate = messages as f64 / seconds;
        let mib = size_bytes as f64 / f64::from(1 << 20);
        // The fastest part of a stream is not slower than the whole, which only ends when the last message is acknowledged.
        let peak = peak_per_second.map(|peak| peak.max(rate));
        Self {
            peak_mib_s: peak.map(|peak| peak * mib),
            average_mib_s: rate * mib,
            message_rate_peak_mpps: peak.map(|peak| peak / 1e6),
            message_rate_mpps: rate / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples(values: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::keeping(1 << 10);
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }

    #[test]
    fn a_known_distribution() {
        let row = samples((1..=1000).rev()).summary(1.0).unwrap();
        assert_eq!((row.t_min_us, row.t_max_us, row.t_typical_us), (1.0, 1000.0, 500.0));
        assert_eq!((row.t_avg_us, row.p99_us, row.p999_us), (500.5, 990.0, 999.0));
        // Of the numbers 1 to n it is the root of (n^2 - 1) / 12.
        assert!((row.t_stdev_us - (999_999.0_f64 / 12.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn one_sample_is_everything_and_none_is_nothing() {
        let row = samples([8]).summary(0.5).unwrap();
        assert_eq!((row.t_min_us, row.t_typical_us, row.p999_us, row.t_max_us), (4.0, 4.0, 4.0, 4.0));
        assert_eq!(row.t_stdev_us, 0.0);
        assert!(samples([]).summary(1.0).is_none());
    }

    #[test]
    fn a_long_measurement_thins_its_samples_evenly() {
        let mut samples = Samples::keeping(8);
        (0..64).for_each(|value| samples.push(value));
        assert_eq!(samples.stride, 8);
        assert_eq!(samples.kept, [0, 8, 16, 24, 32, 40, 48, 56]);
        let row = samples.summary(1.0).unwrap();
        assert_eq!((row.t_min_us, row.t_max_us, row.t_avg_us), (0.0, 63.0, 31.5), "those count all samples");
    }

    #[test]
    fn marks_thin_themselves_and_find_the_fastest_tenth() {
        let mut marks = Marks::new();
        let (mut now, mut next) = (0, 1);
        for count in 1..=100_000_u64 {
            // A tenth of the stream is three times as fast as the rest.
            now += if (40_000..50_000).contains(&count) { 10 } else { 30 };
            if count == next {
                next = marks.mark(now);
            }
        }
        assert!(marks.marks.len() > MARKS_MAX / 3 && marks.marks.len() <= MARKS_MAX);
        let peak = marks.peak_per_tick(128).unwrap();
        assert!((peak - 0.1).abs() < 0.002, "{peak}");
    }

    #[test]
    fn marks_of_a_short_stream() {
        let mut marks = Marks::new();
        (1..10).for_each(|tick| assert_eq!(marks.mark(tick * 4), tick + 1));
        assert_eq!(marks.peak_per_tick(1), None, "no tenth of nine");
        marks.mark(40);
        assert_eq!(marks.peak_per_tick(1), Some(0.25));
        assert_eq!(marks.peak_per_tick(10), None, "all of them could have come at once");
    }

    #[test]
    fn messages_that_come_in_heaps_are_no_peak() {
        let mut marks = Marks::new();
        // Looked at every 8th tick only, and then 8 are there.
        (0..400_u64).for_each(|count| {
            marks.mark(100 + count / 8 * 8 + count % 8 / 7);
        });
        let peak = marks.peak_per_tick(64).unwrap();
        assert!((0.9..1.2).contains(&peak), "{peak}");
    }

    #[test]
    fn bandwidth_in_perftest_s_units() {
        let row = Bandwidth::of(1 << 20, 200, 2.0, Some(125.0));
        assert_eq!((row.average_mib_s, row.peak_mib_s), (100.0, Some(125.0)));
        assert_eq!((row.message_rate_mpps, row.message_rate_peak_mpps), (100e-6, Some(125e-6)));
        assert_eq!(Bandwidth::of(8, 10, 1.0, Some(1.0)).message_rate_peak_mpps, Some(10e-6));
        assert_eq!(Bandwidth::of(8, 10, 1.0, None).peak_mib_s, None);
    }

    proptest! {
        #[test]
        fn percentiles_agree_with_the_definition(values in prop::collection::vec(0_u64..50, 1..400), of_thousand in 1_usize..=1000) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let not_above = |limit: u64| values.iter().filter(|&&value| value <= limit).count() * 1000;
            let wanted = sorted.iter().copied().find(|&value| not_above(value) >= of_thousand * values.len());
            prop_assert_eq!(Some(percentile(&sorted, of_thousand)), wanted);
        }
    }
}
