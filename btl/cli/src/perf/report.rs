//! The table, with perftest's columns, and the same as JSON.

use serde::Serialize;

use super::client::{Figures, Measured};
use super::plan::{Metric, Plan};
use super::statistics::{Bandwidth, Latency};
use crate::machine::Machine;

/// Everything about a run but its rows.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    pub(super) format: &'static str,
    pub(super) ironband_version: &'static str,
    pub(super) title: String,
    pub(super) plan: Plan,
    pub(super) fabric: String,
    pub(super) client: Side,
    pub(super) server: Side,
    pub(super) mechanism: String,
    pub(super) clock: String,
    pub(super) machine: Machine,
}

/// One end.
#[derive(Debug, Serialize)]
pub(super) struct Side {
    pub(super) host: String,
    pub(super) device: String,
    /// That it is bound to.
    pub(super) core: Option<usize>,
}

impl Side {
    fn text(&self) -> String {
        let core = self.core.map_or_else(|| "not bound".to_owned(), |core| format!("core {core}"));
        format!("{} on {}, {core}", self.device, self.host)
    }
}

impl Head {
    /// Lines above the table, and the table's own head.
    pub(super) fn text(&self) -> String {
        let columns = match self.plan.metric {
            Metric::Lat => {
                " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec]"
            }
            Metric::Bw => {
                " #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]"
            }
            Metric::Rate => " #bytes     #iterations   MsgRate peak[Mpps]   MsgRate average[Mpps]",
        };
        format!(
            "# ironband {}, {}\n# fabric {}: {}; peer {}\n# {}\n# {}; clock {}\n{columns}\n",
            self.ironband_version,
            self.title,
            self.fabric,
            self.client.text(),
            self.server.text(),
            self.mechanism,
            self.machine.line(),
            self.clock,
        )
    }
}

/// One size.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    bytes: usize,
    iterations: u64,
    #[serde(flatten)]
    figures: RowFigures,
    /// What a check of the data found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wrong: Option<String>,
    /// By what fraction the clock was off, if that is a lot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clock_drift: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum RowFigures {
    Latency(Latency),
    Bandwidth(Bandwidth),
}

impl Row {
    pub(super) fn new(bytes: usize, measured: Measured) -> Self {
        let figures = match measured.figures {
            Figures::Latency(row) => RowFigures::Latency(row),
            Figures::Bandwidth(row) => RowFigures::Bandwidth(row),
        };
        let Measured { operations, wrong, drift, .. } = measured;
        Self { bytes, iterations: operations, figures, wrong, clock_drift: drift }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A line below [`Head::text`].
    pub(super) fn text(&self, metric: Metric) -> String {
        let Self { bytes, iterations, .. } = self;
        match &self.figures {
            RowFigures::Latency(row) => format!(
                " {bytes:<6} {iterations:<11} {:>14.3} {:>14.3} {:>16.3} {:>14.3} {:>16.3} {:>22.3} {:>24.3}",
                row.t_min_us,
                row.t_max_us,
                row.t_typical_us,
                row.t_avg_us,
                row.t_stdev_us,
                row.p99_us,
                row.p999_us
            ),
            RowFigures::Bandwidth(row) if metric == Metric::Rate => {
                let peak = optional(row.message_rate_peak_mpps, 6);
                format!(" {bytes:<10} {iterations:<13} {peak:>19} {:>23.6}", row.message_rate_mpps)
            }
            RowFigures::Bandwidth(row) => {
                let peak = optional(row.peak_mib_s, 2);
                format!(
                    " {bytes:<10} {iterations:<13} {peak:>17} {:>22.2} {:>15.6}",
                    row.average_mib_s, row.message_rate_mpps
                )
            }
        }
    }
}

/// A dash for what could not be measured.
fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    #[serde(flatten)]
    pub(super) head: Head,
    pub(super) rows: Vec<Row>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_as_many_fields_as_columns() {
        let latency = Latency {
            t_min_us: 0.1,
            t_max_us: 123_456.0,
            t_typical_us: 0.2,
            t_avg_us: 0.25,
            t_stdev_us: 1.5,
            p99_us: 0.3,
            p999_us: 9.0,
        };
        let measured = |figures| Measured { operations: 1000, figures, wrong: None, drift: None };
        let text = Row::new(8, measured(Figures::Latency(latency))).text(Metric::Lat);
        let fields: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(fields, ["8", "1000", "0.100", "123456.000", "0.200", "0.250", "1.500", "0.300", "9.000"]);
        let bandwidth = |peak| measured(Figures::Bandwidth(Bandwidth::of(1 << 20, 1000, 0.5, peak)));
        let text = Row::new(1 << 20, bandwidth(Some(2100.0))).text(Metric::Bw);
        let fields: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(fields, ["1048576", "1000", "2100.00", "2000.00", "0.002000"]);
        let text = Row::new(1 << 20, bandwidth(None)).text(Metric::Rate);
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["1048576", "1000", "-", "0.002000"]);
    }
}
