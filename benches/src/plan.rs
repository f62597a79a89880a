//! How many rounds of each size, and which of the three timed loops runs them.

/// Messages above this count as large and get fewer rounds.
pub const LARGE_BYTES_MIN: usize = 8192;

/// Rounds of one class of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// Measured.
    pub iterations: u64,
    /// Run first and not measured.
    pub warmup: u64,
}

/// Rounds when neither `-i` nor `-x` is given: OSU's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    small: Rounds,
    large: Rounds,
}

/// One message, or one ping-pong, a round.
pub const LATENCY: Schedule = Schedule {
    small: Rounds { iterations: 10_000, warmup: 100 },
    large: Rounds { iterations: 1_000, warmup: 10 },
};

/// One window of messages a round.
pub const BANDWIDTH: Schedule =
    Schedule { small: Rounds { iterations: 100, warmup: 10 }, large: Rounds { iterations: 20, warmup: 2 } };

/// One collective operation a round.
pub const COLLECTIVE: Schedule = Schedule {
    small: Rounds { iterations: 1_000, warmup: 200 },
    large: Rounds { iterations: 100, warmup: 10 },
};

impl Schedule {
    /// Rounds for a size; as in OSU, `-i` and `-x` hold for small and large alike.
    pub fn rounds(self, size_bytes: usize, iterations: Option<u64>, warmup: Option<u64>) -> Rounds {
        let class = if size_bytes > LARGE_BYTES_MIN { self.large } else { self.small };
        Rounds { iterations: iterations.unwrap_or(class.iterations), warmup: warmup.unwrap_or(class.warmup) }
    }
}

/// What one call of [`crate::measure::measure`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How often.
    pub rounds: Rounds,
    /// Read the clock after every round (`-f`).
    pub sampled: bool,
    /// Prepare and check buffers between rounds (`-c`, `--touch`); the clock then covers the rounds alone.
    pub staged: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_osu_around_the_threshold() {
        assert_eq!(LATENCY.rounds(8192, None, None), Rounds { iterations: 10_000, warmup: 100 });
        assert_eq!(LATENCY.rounds(8193, None, None), Rounds { iterations: 1_000, warmup: 10 });
        assert_eq!(BANDWIDTH.rounds(1, None, None), Rounds { iterations: 100, warmup: 10 });
        assert_eq!(BANDWIDTH.rounds(1 << 22, None, None), Rounds { iterations: 20, warmup: 2 });
    }

    #[test]
    fn options_override_both_classes_each_on_its_own() {
        assert_eq!(LATENCY.rounds(1, Some(7), None), Rounds { iterations: 7, warmup: 100 });
        assert_eq!(LATENCY.rounds(1 << 20, None, Some(0)), Rounds { iterations: 1_000, warmup: 0 });
    }
}
