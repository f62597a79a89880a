//! What one run of a benchmark measured, and the two forms in which benchmarks say it: the table of every OSU-style
//! benchmark ([`text`]), and the JSON document of Ironband's own ([`json`]), which keeps the digits that the table's
//! two decimals drop.

pub(super) mod json;
pub(super) mod text;

use super::metric::Metric;
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// What one run measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::compare) struct Measurement {
    /// By metric, in the order of the columns, the value at each size.
    pub(in crate::compare) columns: Vec<Column>,
}

/// One measured quantity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::compare) struct Column {
    pub(in crate::compare) metric: Metric,
    /// The value at each message size in bytes.
    pub(in crate::compare) values: BTreeMap<u64, f64>,
}

/// Why an output is no measurement.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::compare) enum ParseError {
    #[error("the benchmark printed no row of numbers")]
    NoRows,
    #[error("no column title comes before the first row \"{row}\"")]
    NoTitles { row: String },
    #[error(
        "none of the columns \"{titles}\" is a latency (us), a bandwidth (MB/s), a message rate (Messages/s) or an overlap (%)"
    )]
    NothingComparable { titles: String },
    #[error("the row \"{row}\" does not have the {columns} columns of its titles \"{titles}\"")]
    Columns { row: String, columns: usize, titles: String },
    #[error("the row \"{row}\" holds \"{field}\", which is no number")]
    NotANumber { row: String, field: String },
    #[error("the benchmark found wrong data: \"{row}\"")]
    Validation { row: String },
    #[error("the benchmark's JSON is not understood: {message}")]
    Json { message: String },
    #[error("the size {size_bytes} is printed twice")]
    Repeated { size_bytes: u64 },
}
