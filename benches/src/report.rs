//! What rank 0 prints: OSU's table, or one JSON document.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    error::BenchError, pattern::Mismatch, plan::Rounds, progress::Progress, session::Session,
    statistics::Summary,
};

/// OSU's column widths: a script that cuts at columns finds ours where OSU's are.
const SIZE_WIDTH: usize = 10;
const FIELD_WIDTH: usize = 18;
const STATISTIC_WIDTH: usize = 14;
const ITERATIONS_WIDTH: usize = 12;

/// One measured quantity.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Heading of its column, OSU's.
    pub heading: &'static str,
    /// Name in the JSON document.
    pub key: &'static str,
    /// Unit, for the columns of `-f`.
    pub unit: &'static str,
    /// `lower` or `higher`.
    pub better: &'static str,
}

/// Time of one message.
pub const LATENCY: Metric =
    Metric { heading: "Latency (us)", key: "latency_us", unit: "us", better: "lower" };
/// Bytes per time, under OSU's usual heading.
pub const BANDWIDTH: Metric =
    Metric { heading: "Bandwidth (MB/s)", key: "bandwidth_mb_per_s", unit: "MB/s", better: "higher" };
/// Bytes per time, under the heading of osu_mbw_mr.
pub const AGGREGATE_BANDWIDTH: Metric = Metric { heading: "MB/s", ..BANDWIDTH };
/// Messages per time.
pub const MESSAGE_RATE: Metric =
    Metric { heading: "Messages/s", key: "messages_per_s", unit: "1/s", better: "higher" };

/// A column of a table: a quantity, and whose it is where there are several.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    of: Option<&'static str>,
    metric: Metric,
}

impl From<Metric> for Column {
    fn from(metric: Metric) -> Self {
        Self { of: None, metric }
    }
}

impl Column {
    /// The column of one of several that are measured.
    pub const fn of(name: &'static str, metric: Metric) -> Self {
        Self { of: Some(name), metric }
    }

    /// Its heading.
    pub fn heading(&self) -> String {
        self.of
            .map_or_else(|| self.metric.heading.to_owned(), |name| format!("{name} {}", self.metric.heading))
    }

    /// Its name in the JSON document.
    pub fn key(&self) -> String {
        self.of.map_or_else(
            || self.metric.key.to_owned(),
            |name| format!("{}_{}", name.to_lowercase(), self.metric.key),
        )
    }

    /// OSU's width, or more if the heading needs it.
    fn width(&self) -> usize {
        FIELD_WIDTH.max(self.heading().len() + 2)
    }
}

/// Results of one size. Numbers count on rank 0, the mismatch on any rank.
#[derive(Debug)]
pub struct Row {
    /// Bytes of one message.
    pub size_bytes: usize,
    /// How often it was done.
    pub rounds: Rounds,
    /// One per metric.
    pub values: Vec<f64>,
    /// The first metric in every measured round, for `-f`.
    pub samples: Vec<f64>,
    /// The first wrong byte that this rank saw.
    pub mismatch: Option<Mismatch>,
}

/// What `-f` adds to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Nothing: it is not given.
    No,
    /// Average, extremes and percentiles of the samples.
    Statistics,
    /// How many rounds there were. OSU prints it behind columns of its collective benchmarks, which are metrics here.
    Iterations,
}

/// How the results are shown.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// A JSON document instead of a table.
    pub json: bool,
    /// What `-f` adds.
    pub full: Full,
    /// Whether messages have a size; a barrier has none, and no column for it.
    pub sized: bool,
    /// With the column of `-c`.
    pub validate: bool,
}

/// Collects and prints the rows of a run.
#[derive(Debug)]
pub struct Report<'session> {
    session: &'session Session,
    benchmark: String,
    columns: Vec<Column>,
    style: Style,
    options: Value,
    rows: Vec<Value>,
    progress: Progress,
    failed: bool,
}

impl<'session> Report<'session> {
    /// A report without rows.
    pub fn new(
        session: &'session Session,
        benchmark: String,
        columns: Vec<Column>,
        style: Style,
        options: Value,
    ) -> Self {
        let progress = Progress::new(0, false);
        Self { session, benchmark, columns, style, options, rows: Vec::new(), progress, failed: false }
    }

    fn is_printing(&self) -> bool {
        self.session.rank() == 0
    }

    /// Prints the lines above the table; `notes` are the benchmark's own. All ranks call it.
    pub fn open(&mut self, notes: &[String], steps: usize) -> Result<(), BenchError> {
        self.progress = Progress::new(steps, self.is_printing());
        let text = if self.style.json { String::new() } else { self.header(notes) };
        self.session.agree(self.print(&text))
    }

    fn header(&self, notes: &[String]) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("# Ironband {} (OSU-compatible) {version}\n", self.benchmark);
        let _ = writeln!(text, "# {}, {}", self.session.library(), self.session.transport());
        for note in notes {
            let _ = writeln!(text, "# {note}");
        }
        let mut columns = self.columns.iter();
        if self.style.sized {
            let _ = write!(text, "{:<SIZE_WIDTH$}", "# Size");
        } else if let Some(first) = columns.next() {
            let _ = write!(text, "# {}", first.heading());
        }
        for column in columns {
            let _ = write!(text, "{:>width$}", column.heading(), width = column.width());
        }
        if self.style.full == Full::Iterations {
            let _ = write!(text, "{:>ITERATIONS_WIDTH$}", "Iterations");
        }
        if self.style.validate {
            let _ = write!(text, "{:>FIELD_WIDTH$}", "Validation");
        }
        if self.style.full == Full::Statistics {
            let unit = self.columns[0].metric.unit;
            for name in ["Avg", "Min", "Max", "P50", "P90", "P99"] {
                let _ = write!(text, "{:>STATISTIC_WIDTH$}", format!("{name} ({unit})"));
            }
        }
        text.push('\n');
        text
    }

    /// Measuring a size begins.
    pub fn begin(&self, size_bytes: usize) {
        self.progress.begin(size_bytes);
    }

    /// Adds a row. All ranks call it, and all learn whether any of them saw a wrong byte.
    pub fn add(&mut self, mut row: Row) -> Result<(), BenchError> {
        let complaint = row.mismatch.map(|mismatch| mismatch.to_string());
        let complaint = self.session.first_word(complaint.as_deref());
        self.failed |= complaint.is_some();
        let summary = if self.style.full == Full::Statistics { Summary::of(&mut row.samples) } else { None };
        if self.style.json {
            self.rows.push(self.json_row(&row, summary, complaint.is_some()));
        }
        let text =
            if self.style.json { String::new() } else { self.text_row(&row, summary, complaint.is_some()) };
        let printed = self.progress.step(|| {
            if let Some((rank, complaint)) = &complaint
                && self.is_printing()
            {
                eprintln!("{}: validation failed on rank {rank}: {complaint}", self.benchmark);
            }
            self.print(&text)
        });
        self.session.agree(printed)
    }

    fn text_row(&self, row: &Row, summary: Option<Summary>, failed: bool) -> String {
        let mut text = String::new();
        if self.style.sized {
            let _ = write!(text, "{:<SIZE_WIDTH$}", row.size_bytes);
        }
        for (at, (column, value)) in self.columns.iter().zip(&row.values).enumerate() {
            // Without a size the first value stands below its heading, which begins the line.
            let width =
                if at == 0 && !self.style.sized { column.heading().len() + 2 } else { column.width() };
            let _ = write!(text, "{value:>width$.2}");
        }
        if self.style.full == Full::Iterations {
            let _ = write!(text, "{:>ITERATIONS_WIDTH$}", row.rounds.iterations);
        }
        if self.style.validate {
            let _ = write!(text, "{:>FIELD_WIDTH$}", verdict(failed));
        }
        if let Some(Summary { average, min, max, p50, p90, p99 }) = summary {
            for value in [average, min, max, p50, p90, p99] {
                let _ = write!(text, "{value:>STATISTIC_WIDTH$.2}");
            }
        }
        text.push('\n');
        text
    }

    fn json_row(&self, row: &Row, summary: Option<Summary>, failed: bool) -> Value {
        let mut object = Map::new();
        object.insert("size_bytes".into(), json!(row.size_bytes));
        object.insert("iterations".into(), json!(row.rounds.iterations));
        object.insert("warmup".into(), json!(row.rounds.warmup));
        for (column, value) in self.columns.iter().zip(&row.values) {
            object.insert(column.key(), json!(value));
        }
        if self.style.validate {
            object.insert("validation".into(), json!(verdict(failed).to_lowercase()));
        }
        if let Some(summary) = summary {
            object.insert("statistics".into(), json!(summary));
        }
        Value::Object(object)
    }

    /// Prints what comes last. Returns whether every byte checked was right. All ranks call it.
    pub fn close(self) -> Result<bool, BenchError> {
        self.progress.finish();
        let document = Document {
            benchmark: &self.benchmark,
            version: env!("CARGO_PKG_VERSION"),
            library: self.session.library(),
            ranks: self.session.ranks(),
            transport: self.session.transport(),
            environment: self.session.environment(),
            options: &self.options,
            metric: self.columns[0].key(),
            unit: self.columns[0].metric.unit,
            better: self.columns[0].metric.better,
            rows: &self.rows,
        };
        let text = if self.style.json {
            serde_json::to_string_pretty(&document).map(|text| text + "\n").map_err(io::Error::from)
        } else {
            Ok(String::new())
        };
        let printed = text.map_err(BenchError::from).and_then(|text| self.print(&text));
        self.session.agree(printed).map(|()| !self.failed)
    }

    fn print(&self, text: &str) -> Result<(), BenchError> {
        if self.is_printing() && !text.is_empty() {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    benchmark: &'a str,
    version: &'a str,
    library: &'a str,
    ranks: i32,
    transport: String,
    environment: BTreeMap<String, String>,
    options: &'a Value,
    /// The row key that a comparison should use, its unit, and which direction is good.
    metric: String,
    unit: &'a str,
    better: &'a str,
    rows: &'a [Value],
}

fn verdict(failed: bool) -> &'static str {
    if failed { "Fail" } else { "Pass" }
}
