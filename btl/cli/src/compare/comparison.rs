//! The result of a comparison: what ran, what each run measured, and the medians and ratios of it. This is also the
//! form of the JSON file.

use super::measurement::Measurement;
use super::metric::{Better, Metric};
use super::statistics::{Ratio, Summary};
use super::transport::Transport;
use crate::machine::Machine;
use serde::Serialize;
use std::collections::BTreeSet;

/// The whole comparison.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Comparison {
    /// The name and version of this form.
    pub(super) format: &'static str,
    pub(super) ironband_version: &'static str,
    /// When it began, in seconds since 1970 in UTC.
    pub(super) began_unix_seconds: u64,
    pub(super) machine: Machine,
    pub(super) open_mpi_version: String,
    pub(super) ranks: usize,
    /// What each rank was bound to, if to anything.
    pub(super) bound_to: Option<&'static str>,
    pub(super) rounds: usize,
    /// The first one is what the others are divided by.
    pub(super) transports: Vec<Transport>,
    pub(super) benchmarks: Vec<Benchmark>,
}

/// All about one benchmark.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Benchmark {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    /// Medians and ratios, a table for every metric.
    pub(super) tables: Vec<Table>,
    /// Every run, in the order in which they ran.
    pub(super) runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) round: usize,
    /// The place within the round.
    pub(super) position: usize,
    pub(super) transport: String,
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Measurement(Measurement),
    Failure(String),
}

/// One metric of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Table {
    pub(super) metric: Metric,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) rows: Vec<Row>,
}

/// One message size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) size_bytes: u64,
    /// In the order of the transports.
    pub(super) cells: Vec<Cell>,
}

/// One transport at one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cell {
    pub(super) transport: String,
    /// None when no round measured it.
    pub(super) summary: Option<Summary>,
    /// To the first transport; none for that one itself.
    pub(super) ratio_to_first: Option<Ratio>,
}

impl Comparison {
    /// How many ranks, and where.
    pub(super) fn ranks_text(&self) -> String {
        self.bound_to.map_or_else(
            || format!("{} ranks, not bound", self.ranks),
            |place| format!("{} ranks, each bound to a {place}", self.ranks),
        )
    }
}

impl Benchmark {
    /// Works the runs into tables.
    pub(super) fn new(
        name: String,
        arguments: Vec<String>,
        transports: &[Transport],
        rounds: usize,
        runs: Vec<Run>,
    ) -> Self {
        let mut metrics: Vec<Metric> = Vec::new();
        for column in runs.iter().filter_map(Run::measurement).flat_map(|measurement| &measurement.columns) {
            if !metrics.contains(&column.metric) {
                metrics.push(column.metric);
            }
        }
        let tables = metrics.into_iter().map(|metric| table(metric, transports, rounds, &runs)).collect();
        Self { name, arguments, tables, runs }
    }

    /// Whether any run failed.
    pub(super) fn failed(&self) -> bool {
        self.runs.iter().any(|run| matches!(run.outcome, Outcome::Failure(_)))
    }
}

impl Run {
    fn measurement(&self) -> Option<&Measurement> {
        match &self.outcome {
            Outcome::Measurement(measurement) => Some(measurement),
            Outcome::Failure(_) => None,
        }
    }

    fn value(&self, metric: Metric, size_bytes: u64) -> Option<f64> {
        let column = self.measurement()?.columns.iter().find(|column| column.metric == metric)?;
        column.values.get(&size_bytes).copied()
    }
}

fn table(metric: Metric, transports: &[Transport], rounds: usize, runs: &[Run]) -> Table {
    let sizes: BTreeSet<u64> = runs
        .iter()
        .filter_map(Run::measurement)
        .flat_map(|measurement| measurement.columns.iter().filter(|column| column.metric == metric))
        .flat_map(|column| column.values.keys().copied())
        .collect();
    let row = |size_bytes| {
        let by_round = |transport: &Transport| -> Vec<Option<f64>> {
            let of = |round| runs.iter().find(|run| run.round == round && run.transport == transport.name);
            (0..rounds).map(|round| of(round)?.value(metric, size_bytes)).collect()
        };
        let first = transports.first().map(by_round).unwrap_or_default();
        let cells = transports.iter().enumerate().map(|(index, transport)| {
            let samples = by_round(transport);
            Cell {
                transport: transport.name.clone(),
                summary: Summary::of(&samples.iter().flatten().copied().collect::<Vec<_>>()),
                ratio_to_first: if index == 0 { None } else { Ratio::of(&samples, &first) },
            }
        });
        Row { size_bytes, cells: cells.collect() }
    };
    Table { metric, unit: metric.unit(), better: metric.better(), rows: sizes.into_iter().map(row).collect() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compare::measurement::text::parse;

    fn transport(name: &str) -> Transport {
        Transport { name: name.into(), settings: Default::default(), arguments: &[] }
    }

    fn run(round: usize, position: usize, transport: &str, rows: &str) -> Run {
        let output = format!("# Size   Latency (us)\n{rows}");
        let outcome = match parse(&output) {
            Ok(measurement) => Outcome::Measurement(measurement),
            Err(error) => Outcome::Failure(error.to_string()),
        };
        Run { round, position, transport: transport.into(), seconds: 1.0, outcome }
    }

    /// Two transports in two rounds, the second of which failed for `tcp`; 16 bytes only for `ours`.
    pub(in crate::compare) fn benchmark() -> Benchmark {
        let runs = vec![
            run(0, 0, "ours", "8 1.0\n16 2.0\n"),
            run(0, 1, "tcp", "8 4.0\n"),
            run(1, 0, "tcp", ""),
            run(1, 1, "ours", "8 3.0\n16 2.0\n"),
        ];
        let transports = [transport("ours"), transport("tcp")];
        Benchmark::new("osu_latency".into(), vec!["-m".into(), "8:16".into()], &transports, 2, runs)
    }

    #[test]
    fn runs_are_grouped_by_size_and_transport() {
        let benchmark = benchmark();
        assert_eq!(benchmark.tables.len(), 1);
        let rows = &benchmark.tables[0].rows;
        assert_eq!(rows.iter().map(|row| row.size_bytes).collect::<Vec<_>>(), [8, 16]);
        assert_eq!(rows[0].cells[0].summary, Some(Summary { median: 2.0, min: 1.0, max: 3.0, rounds: 2 }));
        assert_eq!(rows[0].cells[0].ratio_to_first, None);
        assert_eq!(rows[0].cells[1].summary, Some(Summary { median: 4.0, min: 4.0, max: 4.0, rounds: 1 }));
        // The medians are of different rounds, the quotient within a round is of the only round both ran in.
        let want = Ratio { of_medians: 2.0, min_in_a_round: 4.0, max_in_a_round: 4.0 };
        assert_eq!(rows[0].cells[1].ratio_to_first, Some(want));
        assert_eq!(rows[1].cells[1].summary, None);
        assert_eq!(rows[1].cells[1].ratio_to_first, None);
        assert!(benchmark.failed());
    }

    #[test]
    fn the_json_keeps_every_sample() {
        let json = serde_json::to_value(benchmark()).unwrap();
        assert_eq!(json["runs"][3]["measurement"]["columns"][0]["values"]["8"], 3.0);
        assert_eq!(json["runs"][2]["failure"], "the benchmark printed no row of numbers");
        assert_eq!(json["tables"][0]["better"], "lower");
    }
}
