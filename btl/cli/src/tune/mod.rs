//! `ironband tune`: which algorithms this machine should take, and what they cost.
//!
//! Measures with processes that it starts as `ironband run` does ([`rank`]): messages between two of them and
//! sums for the constants of the model ([`constants`]), and then the operations around the lengths where, by
//! the model, another algorithm becomes the faster one ([`switches`]). The table that comes out is a file
//! that `IRONBAND_COLLECTIVES_TABLE` names. `--explain` and `--costs` measure nothing: they count schedules.

mod asked;
mod constants;
mod costs;
mod date;
mod explain;
mod fit;
mod operations;
mod rank;
mod switches;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ironband_collectives::{TABLE_VARIABLE, Tuning};

use crate::machine::Machine;
use crate::{machine, run};

pub(crate) use rank::{RankArguments, run as run_rank};

/// Where the table goes if it is not said.
const OUTPUT: &str = "ironband-collectives.toml";

/// Arguments of `ironband tune`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many processes [default: as many as this machine has cores, and at least 2].
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    ranks: Option<u32>,
    /// How often each thing is measured, in turn with the others; medians count.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the table to this file.
    #[arg(short, long, value_name = "FILE", default_value = OUTPUT)]
    output: PathBuf,
    /// Say which algorithm is taken for an operation of a length, why, what it costs, and what else there is:
    /// --explain allreduce 64KiB -n 8. The length is of the vector, or of each rank's block. Measures
    /// nothing.
    #[arg(long, num_args = 1..=2, value_names = ["OPERATION", "BYTES"], conflicts_with_all = ["costs", "rounds", "output"])]
    explain: Vec<String>,
    /// Print what every algorithm costs, from 2 ranks to --max-ranks. Measures nothing.
    #[arg(long, conflicts_with_all = ["ranks", "rounds", "output"])]
    costs: bool,
    /// The most ranks for --costs.
    #[arg(long, value_name = "N", default_value_t = 65_536, requires = "costs", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    max_ranks: u32,
    /// The table, and the model if it has one, for --explain and --costs [default: that of
    /// IRONBAND_COLLECTIVES_TABLE, or the default one].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rounds", "output"])]
    table: Option<PathBuf>,
}

/// Measures, explains, or prints costs.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if !arguments.explain.is_empty() {
        let (tuning, table) = tuning(arguments.table.as_deref())?;
        let asked = asked::Asked::parse(&arguments.explain)?;
        print!("{}", explain::text(asked, ranks(arguments.ranks), &tuning, &table));
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.costs {
        let (tuning, _) = tuning(arguments.table.as_deref())?;
        return match costs::print(&tuning, arguments.max_ranks, &progress(), &mut std::io::stdout().lock()) {
            // Who has read enough closes the pipe.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            outcome => outcome.map(|()| ExitCode::SUCCESS).context("the table cannot be printed"),
        };
    }
    ensure!(
        arguments.table.is_none(),
        "--table is for --explain and --costs; --output says where the table goes"
    );
    measure(arguments)
}

/// The table that is asked about, and what it is called.
fn tuning(file: Option<&Path>) -> anyhow::Result<(Tuning, String)> {
    let named = std::env::var_os(TABLE_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
    match file.map(Path::to_owned).or(named) {
        Some(file) => Ok((Tuning::load(&file)?, format!("the table of {}", file.display()))),
        None => Ok((Tuning::default(), "the default table".to_owned())),
    }
}

/// How many processes, if it is not said.
fn ranks(said: Option<u32>) -> u32 {
    said.unwrap_or_else(|| {
        u32::try_from(machine::processors_of_cores().len()).unwrap_or(u32::MAX).clamp(2, 64)
    })
}

/// Starts the processes that measure; the first of them prints what it finds, and writes the file.
fn measure(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let ranks = ranks(arguments.ranks);
    ensure!((2..=4096).contains(&ranks), "-n {ranks}: between 2 and 4096 processes can measure");
    // Before anything is measured: it would be lost.
    let output = std::path::absolute(&arguments.output)?;
    let folder = output.parent().unwrap_or(Path::new("/"));
    ensure!(folder.is_dir(), "--output {}: there is no folder {}", output.display(), folder.display());
    let own = std::env::current_exe().context("this program's own file")?;
    let words: [OsString; 5] = [
        own.into(),
        "tune-rank".into(),
        format!("--machine={}", Machine::read().line()).into(),
        format!("--rounds={}", arguments.rounds).into(),
        OsString::from_iter([OsString::from("--output="), output.into_os_string()]),
    ];
    // Processes begin with the default table, whatever this one would take.
    let variables = [(TABLE_VARIABLE.to_owned(), String::new())];
    run::run_own(ranks, &words, &variables)
}

/// A bar on standard error if that is a terminal. It moves between measurements only: a ticking bar would
/// take processor time from them.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
        .expect("the template is constant and valid");
    ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Line::try_parse_from(std::iter::once("tune").chain(line.split_whitespace()))
            .map(|line| line.arguments)
    }

    #[test]
    fn what_is_asked_does_not_mix() {
        assert_eq!(parsed("--explain allreduce 64KiB -n 8").unwrap().explain, ["allreduce", "64KiB"]);
        assert_eq!(parsed("--explain barrier").unwrap().explain, ["barrier"]);
        assert!(parsed("--costs --max-ranks 64 --table a").unwrap().costs);
        for line in
            ["--costs -n 4", "--costs --explain barrier", "--max-ranks 4", "--table a --rounds 3", "-n 0"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_table_that_is_not_there_is_named() {
        let error = tuning(Some(Path::new("/nowhere/table.toml"))).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/table.toml: it cannot be read"), "{error}");
    }
}
