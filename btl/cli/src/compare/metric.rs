//! What a column of a benchmark measures, known by its title.

use serde::Serialize;

/// Which way a measured value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Better {
    Lower,
    Higher,
}

/// A quantity that transports are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    Latency,
    Bandwidth,
    MessageRate,
}

impl Metric {
    /// The quantity in a column of this title. Columns that detail another one (minimum, percentiles, iterations) are
    /// none.
    pub(super) fn of_title(title: &str) -> Option<Self> {
        let title: String = title.to_ascii_lowercase().split_whitespace().collect();
        let percentile =
            title.strip_prefix('p').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if percentile || title.starts_with("min") || title.starts_with("max") {
            return None;
        }
        if title.contains("messages/s") {
            Some(Self::MessageRate)
        } else if title.contains("mb/s") {
            Some(Self::Bandwidth)
        } else if title.contains("(us)") {
            Some(Self::Latency)
        } else {
            None
        }
    }

    /// Its name, to begin a sentence or stand at an axis.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Latency => "Latency",
            Self::Bandwidth => "Bandwidth",
            Self::MessageRate => "Message rate",
        }
    }

    /// Its unit.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Latency => "us",
            Self::Bandwidth => "MB/s",
            Self::MessageRate => "messages/s",
        }
    }

    /// Which way it is better.
    pub(super) fn better(self) -> Better {
        match self {
            Self::Latency => Better::Lower,
            Self::Bandwidth | Self::MessageRate => Better::Higher,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_all_versions_are_known() {
        for title in ["Latency (us)", "Avg Latency(us)", "Avg Lat(us)", "Latency(us)"] {
            assert_eq!(Metric::of_title(title), Some(Metric::Latency), "{title}");
        }
        for title in ["Bandwidth (MB/s)", "MB/s"] {
            assert_eq!(Metric::of_title(title), Some(Metric::Bandwidth), "{title}");
        }
        assert_eq!(Metric::of_title("Messages/s"), Some(Metric::MessageRate));
    }

    #[test]
    fn details_are_not_compared() {
        for title in ["Min Latency(us)", "Max Latency(us)", "P99 Tail Lat(us)", "Iterations", "Validation"] {
            assert_eq!(Metric::of_title(title), None, "{title}");
        }
    }
}
