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
    /// Of a non-blocking operation with computing meanwhile.
    Overall,
    /// Of a non-blocking operation by itself.
    PureCommunication,
    /// How much of it is hidden behind computing.
    Overlap,
}

impl Metric {
    /// The quantity in a column of this title. Columns that detail another one (minimum, percentiles, iterations, the
    /// parts of a non-blocking operation) are none.
    pub(super) fn of_title(title: &str) -> Option<Self> {
        let title: String = title.to_ascii_lowercase().split_whitespace().collect();
        let percentile =
            title.strip_prefix('p').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let details = ["min", "max", "compute(", "coll.init(", "mpi_test(", "mpi_wait("];
        if percentile || details.iter().any(|detail| title.starts_with(detail)) {
            return None;
        }
        if title.starts_with("overall(") {
            Some(Self::Overall)
        } else if title.starts_with("purecomm.(") {
            Some(Self::PureCommunication)
        } else if title.starts_with("overlap(") {
            Some(Self::Overlap)
        } else if title.contains("messages/s") {
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
            Self::Overall => "Overall time",
            Self::PureCommunication => "Pure communication",
            Self::Overlap => "Overlap",
        }
    }

    /// Its unit.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Latency | Self::Overall | Self::PureCommunication => "us",
            Self::Bandwidth => "MB/s",
            Self::MessageRate => "messages/s",
            Self::Overlap => "%",
        }
    }

    /// Which way it is better.
    pub(super) fn better(self) -> Better {
        match self {
            Self::Latency | Self::Overall | Self::PureCommunication => Better::Lower,
            Self::Bandwidth | Self::MessageRate | Self::Overlap => Better::Higher,
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
        assert_eq!(Metric::of_title("Overall(us)"), Some(Metric::Overall));
        assert_eq!(Metric::of_title("Pure Comm.(us)"), Some(Metric::PureCommunication));
        assert_eq!(Metric::of_title("Overlap(%)"), Some(Metric::Overlap));
    }

    #[test]
    fn details_are_not_compared() {
        for title in ["Min Latency(us)", "Max Latency(us)", "P99 Tail Lat(us)", "Iterations", "Validation"] {
            assert_eq!(Metric::of_title(title), None, "{title}");
        }
        for title in ["Compute(us)", "Coll. Init(us)", "MPI_Test(us)", "MPI_Wait(us)", "Min Comm.(us)"] {
            assert_eq!(Metric::of_title(title), None, "{title}");
        }
    }
}
