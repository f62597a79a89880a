//! Chooses the cheapest of a few ways to do the same thing, by measuring them as they are used.
//!
//! The cheapest by recent median is taken, and the others are tried again now and then; trials become rarer while nothing changes.
//!
//! The source is the multi-armed bandit with forced exploration (Robbins, "Some aspects of the sequential design of
//! experiments", 1952), with a median of the last few samples in place of a mean, because one sample in a hundred on a busy
//! machine is a scheduling accident.

const SAMPLES: usize = 5;
const TRIAL_INTERVAL_MIN: u32 = 32;
const TRIAL_INTERVAL_MAX: u32 = 1024;

/// The last few costs of one way.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    costs: [u64; SAMPLES],
    seen: usize,
}

impl Record {
    fn add(&mut self, cost: u64) {
        self.costs[self.seen % SAMPLES] = cost;
        self.seen += 1;
    }

    /// `None` until all samples have been taken.
    fn median(&self) -> Option<u64> {
        (self.seen >= SAMPLES).then(|| {
            let mut sorted = self.costs;
            sorted.sort_unstable();
            sorted[SAMPLES / 2]
        })
    }
}

/// The choice between so many ways, which are numbered from 0. Of the uses of the preferred way one in `TIMED_INTERVAL` is timed: reading the clock
/// can be a good part of a short one.
#[derive(Debug, Clone, Copy)]
pub struct Bandit<const WAYS: usize, const TIMED_INTERVAL: u32> {
    records: [Record; WAYS],
    best: usize,
    /// Uses until the next trial of another way.
    countdown: u32,
    interval: u32,
    /// Which way is tried next.
    trial: usize,
    /// Samples still wanted of the way under trial.
    trial_left: usize,
    /// Uses of all ways, for timing some of them.
    taken: u32,
}

impl<const WAYS: usize, const TIMED_INTERVAL: u32> Default for Bandit<WAYS, TIMED_INTERVAL> {
    fn default() -> Self {
        Self {
            records: [Record::default(); WAYS],
            best: 0,
            countdown: TRIAL_INTERVAL_MIN,
            interval: TRIAL_INTERVAL_MIN,
            trial: 0,
            trial_left: 0,
            taken: 0,
        }
    }
}

impl<const WAYS: usize, const TIMED_INTERVAL: u32> Bandit<WAYS, TIMED_INTERVAL> {
    /// Says which way to take now. `allowed` must have at least one.
    pub fn choose(&mut self, allowed: [bool; WAYS]) -> usize {
        // Every way is measured before one is preferred.
        let is_unknown = |way: &usize| allowed[*way] && self.records[*way].seen < SAMPLES;
        if let Some(unknown) = (0..WAYS).find(is_unknown) {
            return unknown;
        }
        if self.trial_left > 0 && allowed[self.trial] {
            self.trial_left -= 1;
            return self.trial;
        }
        self.countdown = self.countdown.saturating_sub(1);
        if self.countdown == 0 {
            self.countdown = self.interval;
            self.interval = (self.interval * 2).min(TRIAL_INTERVAL_MAX);
            self.next_trial(allowed);
        }
        self.best_allowed(allowed)
    }

    /// Says whether the use of the way that was just chosen is worth timing.
    pub fn is_timed(&mut self, way: usize) -> bool {
        self.taken = self.taken.wrapping_add(1);
        way != self.best || self.records[way].seen < SAMPLES || self.taken.is_multiple_of(TIMED_INTERVAL)
    }

    /// Tells what a use cost, in any unit.
    pub fn observe(&mut self, way: usize, cost: u64) {
        let before = self.records[way].median();
        self.records[way].add(cost);
        let after = self.records[way].median();
        // The world has changed, and the others are not far behind any more: look at them again soon.
        if let (Some(before), Some(after)) = (before, after)
            && way == self.best
            && after > before.saturating_add(before / 2)
            && self.others(way).any(|median| !is_far(median, after))
        {
            self.interval = TRIAL_INTERVAL_MIN;
            self.countdown = self.countdown.min(TRIAL_INTERVAL_MIN);
        }
        // A way under trial that has become the cheaper one: see whether that holds, before its next turn.
        if way == self.trial && way != self.best && self.trial_left == 0 {
            let best = self.records[self.best].median();
            if best.is_some_and(|best| cost < best) {
                self.trial_left = SAMPLES / 2;
            }
        }
        self.rank();
    }

    /// The way now preferred, if all allowed ones have been measured.
    pub fn preferred(&self, allowed: [bool; WAYS]) -> Option<usize> {
        let is_known = |way: usize| !allowed[way] || self.records[way].median().is_some();
        (0..WAYS).all(is_known).then(|| self.best_allowed(allowed))
    }

    fn rank(&mut self) {
        let cost = |way: usize| self.records[way].median().unwrap_or(u64::MAX);
        self.best = (0..WAYS).min_by_key(|&way| cost(way)).unwrap_or(0);
    }

    fn best_allowed(&self, allowed: [bool; WAYS]) -> usize {
        if allowed[self.best] {
            return self.best;
        }
        (0..WAYS)
            .filter(|&way| allowed[way])
            .min_by_key(|&way| self.records[way].median().unwrap_or(u64::MAX))
            .unwrap_or(0)
    }

    /// Starts a trial of the next allowed way that is not the best one. A way that was far behind gets one sample only.
    fn next_trial(&mut self, allowed: [bool; WAYS]) {
        for _ in 0..WAYS {
            self.trial = (self.trial + 1) % WAYS;
            if self.trial != self.best && allowed[self.trial] {
                let best = self.records[self.best].median().unwrap_or(0);
                let far = self.records[self.trial].median().is_some_and(|cost| is_far(cost, best));
                self.trial_left = if far { 1 } else { SAMPLES / 2 + 1 };
                return;
            }
        }
    }

    fn others(&self, way: usize) -> impl Iterator<Item = u64> {
        let others = self.records.iter().enumerate().filter(move |(other, _)| *other != way);
        others.filter_map(|(_, record)| record.median())
    }
}

/// What moving so many bytes costs, comparable between lengths: in units of 2^-16 ns per byte.
pub fn cost_of(elapsed_ns: u64, len_bytes: usize) -> u64 {
    elapsed_ns.saturating_mul(1 << 16) / (len_bytes.max(1) as u64)
}

/// Whether a way at this cost would have to change much to be the best one.
const fn is_far(cost: u64, best: u64) -> bool {
    cost > best.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes ways at these costs so often, and says how often each.
    fn run(bandit: &mut Bandit<2, 8>, costs: impl Fn(u32) -> [u64; 2], uses: u32) -> [u32; 2] {
        let mut taken = [0; 2];
        for number in 0..uses {
            let way = bandit.choose([true; 2]);
            taken[way] += 1;
            if bandit.is_timed(way) {
                bandit.observe(way, costs(number)[way]);
            }
        }
        taken
    }

    #[test]
    fn what_is_not_allowed_is_never_taken() {
        let mut bandit = Bandit::<2, 8>::default();
        let ways = (0..3000).map(|_| {
            let way = bandit.choose([true, false]);
            bandit.observe(way, 100);
            way
        });
        assert_eq!(ways.max(), Some(0));
    }

    #[test]
    fn noise_of_the_best_starts_no_trials_of_one_far_behind() {
        // For some hundred uses the best one takes twice as long, then again not.
        let taken =
            run(&mut Bandit::default(), |number| [if number / 400 % 2 == 0 { 30 } else { 60 }, 1000], 20_000);
        assert!(taken[1] < 40, "{taken:?}");
    }

    #[test]
    fn one_that_has_become_cheaper_is_found_both_ways() {
        let mut bandit = Bandit::default();
        run(&mut bandit, |_| [40, 600], 10_000);
        assert_eq!(bandit.preferred([true; 2]), Some(0));
        let taken = run(&mut bandit, |_| [4000, 600], 500);
        assert!(taken[1] > 300, "{taken:?}");
        run(&mut bandit, |_| [40, 600], 10_000);
        assert_eq!(bandit.preferred([true; 2]), Some(0));
    }
}
