//! The JSON document that Ironband's own benchmarks print with `--json`. Of it only the rows matter here:
//!
//! ```text
//! { ..., "rows": [ { "size_bytes": 8, "latency_us": 0.1123, ... }, ... ] }
//! ```

use super::{Column, Measurement, ParseError};
use crate::compare::metric::Metric;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
struct Document {
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    size_bytes: u64,
    latency_us: Option<f64>,
    bandwidth_mb_per_s: Option<f64>,
    messages_per_s: Option<f64>,
    overall_us: Option<f64>,
    pure_communication_us: Option<f64>,
    overlap_percent: Option<f64>,
    validation: Option<String>,
}

impl Row {
    fn values(&self) -> [(Metric, Option<f64>); 6] {
        [
            (Metric::Latency, self.latency_us),
            (Metric::Bandwidth, self.bandwidth_mb_per_s),
            (Metric::MessageRate, self.messages_per_s),
            (Metric::Overall, self.overall_us),
            (Metric::PureCommunication, self.pure_communication_us),
            (Metric::Overlap, self.overlap_percent),
        ]
    }
}

/// Reads the standard output of one run. What MPI or a batch system wrote before and after the document is passed
/// over.
pub(in crate::compare) fn parse(output: &str) -> Result<Measurement, ParseError> {
    let start = output.lines().find(|line| line.starts_with('{')).ok_or(ParseError::NoRows)?;
    let start = start.as_ptr().addr() - output.as_ptr().addr();
    let document = serde_json::Deserializer::from_str(&output[start..]).into_iter::<Document>().next();
    let document = document
        .ok_or(ParseError::NoRows)?
        .map_err(|error| ParseError::Json { message: error.to_string() })?;
    let mut columns: Vec<Column> = Vec::new();
    for row in &document.rows {
        if row.validation.as_deref().is_some_and(|verdict| verdict != "pass") {
            return Err(ParseError::Validation { row: format!("{} bytes", row.size_bytes) });
        }
        for (metric, value) in row.values() {
            let Some(value) = value else { continue };
            let index = columns.iter().position(|column| column.metric == metric).unwrap_or_else(|| {
                columns.push(Column { metric, values: BTreeMap::new() });
                columns.len() - 1
            });
            if columns[index].values.insert(row.size_bytes, value).is_some() {
                return Err(ParseError::Repeated { size_bytes: row.size_bytes });
            }
        }
    }
    if columns.is_empty() { Err(ParseError::NoRows) } else { Ok(Measurement { columns }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_past_the_noise_around_the_document() {
        let output = r#"[vm:1] a message
{
  "benchmark": "osu_mbw_mr",
  "rows": [
    { "size_bytes": 1, "iterations": 100, "bandwidth_mb_per_s": 21.8125, "messages_per_s": 21812500.0 },
    { "size_bytes": 2, "iterations": 100, "bandwidth_mb_per_s": 43.5, "messages_per_s": 21750000.0 }
  ]
}
bye
"#;
        let measurement = parse(output).unwrap();
        assert_eq!(measurement.columns.len(), 2);
        assert_eq!(measurement.columns[0].metric, Metric::Bandwidth);
        assert_eq!(measurement.columns[0].values, BTreeMap::from([(1, 21.8125), (2, 43.5)]));
        assert_eq!(measurement.columns[1].metric, Metric::MessageRate);
    }

    #[test]
    fn of_a_non_blocking_operation_the_whole_the_communication_and_the_overlap_count() {
        let output = r#"{"rows": [{"size_bytes": 8, "overall_us": 3.0, "compute_us": 2.0, "pure_communication_us": 2.0,
                                   "overlap_percent": 50.0}]}"#;
        let columns = parse(output).unwrap().columns;
        let read: Vec<_> = columns.iter().map(|column| (column.metric, column.values[&8])).collect();
        assert_eq!(read, [(Metric::Overall, 3.0), (Metric::PureCommunication, 2.0), (Metric::Overlap, 50.0)]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(parse(""), Err(ParseError::NoRows));
        assert_eq!(parse("{\"rows\": []}"), Err(ParseError::NoRows));
        assert!(matches!(parse("{\"rows\": [{}]}"), Err(ParseError::Json { .. })));
        assert!(matches!(parse("{\"rows\": ["), Err(ParseError::Json { .. })));
        let twice =
            r#"{"rows": [{"size_bytes": 8, "latency_us": 1.0}, {"size_bytes": 8, "latency_us": 1.0}]}"#;
        assert_eq!(parse(twice), Err(ParseError::Repeated { size_bytes: 8 }));
    }

    #[test]
    fn failed_validation_is_an_error() {
        let output = |verdict| {
            format!(r#"{{"rows": [{{"size_bytes": 8, "latency_us": 1.0, "validation": "{verdict}"}}]}}"#)
        };
        assert!(parse(&output("pass")).is_ok());
        assert_eq!(parse(&output("fail")), Err(ParseError::Validation { row: "8 bytes".into() }));
    }
}
