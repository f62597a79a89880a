//! A file of a table: what `ironband tune` writes and a communicator of all processes reads. It is TOML:
//!
//! ```toml
//! [table]                         # rows of a Table; those that are not there have their default
//! allreduce_whole_max = 4096
//!
//! [model]                         # a Model, if the machine was measured
//! machine = "a name"
//! date = "2026-01-31"
//! ranks = 2
//! alpha_ns = 350.0
//! beta_ns_per_byte = 0.1
//! gamma_ns_per_byte = 0.2
//! gap_ns = 90.0
//! ```

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::error::Error;
use crate::table::{Row, Table};

/// The environment variable that names the file of the table.
pub const TABLE_VARIABLE: &str = "IRONBAND_COLLECTIVES_TABLE";

/// What a machine does in which time: the constants of the formulas in [`crate::algorithms`], of bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Which machine.
    pub machine: String,
    /// When it was measured, as in 2026-01-31.
    pub date: String,
    /// With how many processes.
    pub ranks: u32,
    /// From the start of a send to the end of its receive, of a message of no bytes, in ns.
    pub alpha_ns: f64,
    /// What each byte adds, in ns.
    pub beta_ns_per_byte: f64,
    /// How long combining a byte with another takes, in ns.
    pub gamma_ns_per_byte: f64,
    /// From one message to the next one of the same sender, in ns.
    pub gap_ns: f64,
}

impl Default for Model {
    /// Round numbers of a node of today, for those who have measured nothing: a message of 1 us, 10 GB/s,
    /// sums at 5 GB/s, 5 million messages a second.
    fn default() -> Self {
        Self {
            machine: "no machine (nominal figures)".to_owned(),
            date: String::new(),
            ranks: 0,
            alpha_ns: 1000.0,
            beta_ns_per_byte: 0.1,
            gamma_ns_per_byte: 0.2,
            gap_ns: 200.0,
        }
    }
}

/// All of a file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// The table.
    pub table: Table,
    /// What it was made from, if the machine was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
}

impl Table {
    /// Reads the table of a file.
    ///
    /// # Errors
    /// As [`Tuning::load`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Tuning::load(path)?.table)
    }

    /// The table of the file that `IRONBAND_COLLECTIVES_TABLE` names; the default one where it is not set or
    /// empty.
    ///
    /// # Errors
    /// As [`Tuning::load`].
    pub fn from_environment() -> Result<Self, Error> {
        match std::env::var_os(TABLE_VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::load(Path::new(&path)),
            None => Ok(Self::default()),
        }
    }
}

impl Tuning {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::TableFile`], with the file, the line, what it says and what to write instead.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error::TableFile {
            file: file.clone(),
            line: None,
            reason: format!("it cannot be read: {error}; `ironband tune --output {file}` writes one"),
        })?;
        Self::parse(&text, &file)
    }

    /// Reads the text of a file, whose name is for errors only.
    ///
    /// # Errors
    /// As [`Tuning::load`].
    pub fn parse(text: &str, file: &str) -> Result<Self, Error> {
        let tuning: Self =
            toml::from_str(text).map_err(|error| refused(text, file, error.span(), error.message()))?;
        if let Err(Error::Table { name, least, .. }) = tuning.table.check() {
            let why = format!("it must be {least} at least");
            return Err(refused(text, file, span_of(text, "table", name), &why));
        }
        if let Some((name, value)) = tuning.model.as_ref().and_then(Model::wrong) {
            let why = format!("{value} is no time; write a number of nanoseconds that is not below 0");
            return Err(refused(text, file, span_of(text, "model", name), &why));
        }
        Ok(tuning)
    }

    /// The text of a file, with a line about each row.
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(self).expect("numbers and texts by name are TOML");
        let mut commented = String::from(
            "# Which algorithm of a collective operation is taken from which length on, in bytes.\n\
             # A program takes this file if IRONBAND_COLLECTIVES_TABLE names it, in all of its processes.\n\n",
        );
        for line in text.lines() {
            let key = line.split(" = ").next().unwrap_or_default();
            if let Some(row) = Table::ROWS.iter().find(|row| row.name == key) {
                commented += &format!("# {}\n", row.help.trim());
            }
            commented += line;
            commented.push('\n');
        }
        commented
    }
}

impl Model {
    /// The first constant that is no time.
    fn wrong(&self) -> Option<(&'static str, f64)> {
        let all = [
            ("alpha_ns", self.alpha_ns),
            ("beta_ns_per_byte", self.beta_ns_per_byte),
            ("gamma_ns_per_byte", self.gamma_ns_per_byte),
            ("gap_ns", self.gap_ns),
        ];
        all.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0)
    }
}

/// The error about the line where this is: what it says, what is wrong, and what there could be.
fn refused(text: &str, file: &str, span: Option<Range<usize>>, why: &str) -> Error {
    let start = span.map(|span| span.start.min(text.len()));
    let line = start.map(|start| text[..start].matches('\n').count() + 1);
    let said = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
    let said = said.split('#').next().unwrap_or_default().trim();
    let key = said.split('=').next().unwrap_or_default().trim();
    let row = Table::ROWS.iter().find(|row| row.name == key);
    let fix = row.map_or_else(String::new, |Row { least, help, .. }| {
        format!("; write a whole number from {least} on, without a unit. {key}: {}", help.trim())
    });
    let file = file.to_owned();
    Error::TableFile { file, line, reason: format!("\"{said}\" is refused: {}{fix}", why.trim()) }
}

/// Where a key of a section is.
fn span_of(text: &str, section: &str, name: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let section = document.get_ref().iter().find(|(key, _)| key.get_ref() == section)?.1;
    let DeValue::Table(rows) = section.get_ref() else { return None };
    rows.iter().find(|(key, _)| key.get_ref() == name).map(|(key, _)| key.span())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        Tuning::parse(text, "t.toml").unwrap_err().to_string()
    }

    #[test]
    fn what_a_file_leaves_out_has_its_default() {
        assert_eq!(Tuning::parse("", "t.toml"), Ok(Tuning::default()));
        let tuning = Tuning::parse("[table]\nwindow = 3\n", "t.toml").unwrap();
        assert_eq!(tuning.table, Table { window: 3, ..Table::default() });
        assert_eq!(tuning.model, None);
    }

    #[test]
    fn errors_name_the_line_what_it_says_and_the_fix() {
        let text = error("[table]\nwindow = 4\nallreduce_whole_max = \"4K\"  # short\n");
        assert!(
            text.starts_with("t.toml:3: \"allreduce_whole_max = \"4K\"\" is refused: invalid type"),
            "{text}"
        );
        assert!(text.contains("write a whole number from 0 on, without a unit"), "{text}");
        let text = error("[table]\nallreduce_hole_max = 4096\n");
        assert!(
            text.starts_with("t.toml:2: \"allreduce_hole_max = 4096\" is refused: unknown field"),
            "{text}"
        );
        assert!(text.contains("`allreduce_whole_max`"), "the rows that there are: {text}");
        let text = error("\n\n[table]\n\nbcast_radix = 1\n");
        assert_eq!(
            text,
            "t.toml:5: \"bcast_radix = 1\" is refused: it must be 2 at least; write a whole number from 2 on, without \
             a unit. bcast_radix: The radix of that tree."
        );
        for (wrong, line) in [
            ("[table]\nwindow = -1", 2),
            ("[table]\nwindow = 5000000000", 2),
            ("[table]\nwindow = 1.5", 2),
            ("[table]\nwindow = 2\nwindow = 3", 3),
            ("[table]\n\nwindow =", 3),
            ("[tables]\n", 1),
            ("window = 3\n", 1),
            ("[model]\nalpha_ns = 1.0\n", 1),
        ] {
            let text = error(wrong);
            assert!(text.starts_with(&format!("t.toml:{line}: ")), "{wrong:?}: {text}");
        }
        let model = toml::to_string(&Tuning { model: Some(Model::default()), ..Tuning::default() }).unwrap();
        let text = error(&model.replace("gap_ns = 200.0", "gap_ns = -1.0"));
        assert!(text.contains("\"gap_ns = -1.0\" is refused: -1 is no time"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_what_writes_one() {
        let text = Tuning::load("/nowhere/t.toml").unwrap_err().to_string();
        assert!(text.starts_with("/nowhere/t.toml: it cannot be read: "), "{text}");
        assert!(text.ends_with("`ironband tune --output /nowhere/t.toml` writes one"), "{text}");
    }

    #[test]
    fn each_row_is_written_with_what_it_means() {
        let text = Tuning::default().to_toml();
        let lines: Vec<&str> = text.lines().collect();
        for row in Table::ROWS {
            let at = lines.iter().position(|line| line.starts_with(&format!("{} = ", row.name))).unwrap();
            assert_eq!(lines[at - 1], format!("# {}", row.help.trim()));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            numbers in prop::collection::vec(1_u64..1 << 40, 20),
            radix in 2_u32..100,
            times in prop::collection::vec(0.0_f64..1e9, 4),
            machine in ".*",
        ) {
            let mut rows = toml::Table::try_from(Table::default()).unwrap();
            for (row, number) in Table::ROWS.iter().zip(numbers) {
                let is_short = row.least == 2 || ["bcast_node_ranks", "alltoall_bruck_ranks", "window", "hierarchy", "stripes"].contains(&row.name);
                let number = if is_short { radix.into() } else { number };
                rows.insert(row.name.to_owned(), toml::Value::Integer(number as i64));
            }
            let model = Model {
                machine,
                alpha_ns: times[0],
                beta_ns_per_byte: times[1],
                gamma_ns_per_byte: times[2],
                gap_ns: times[3],
                ..Model::default()
            };
            let tuning = Tuning { table: rows.try_into().unwrap(), model: Some(model) };
            prop_assert_eq!(Tuning::parse(&tuning.to_toml(), "t.toml"), Ok(tuning));
        }
    }
}
