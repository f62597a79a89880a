//! The way from `main` to an exit status that every benchmark takes.

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::Parser;
use mpi::Threading;
use serde::Serialize;

use crate::{
    error::BenchError,
    options::{Common, Implementation},
    point_to_point::abort,
    report::{Column, Full, Metric, Report, Style},
    session::Session,
};

/// The end of every benchmark's help.
const EXIT_STATUS_HELP: &str = "The table goes to standard output, errors and progress to standard error. \
Exit status: 0; 1 if the run or the validation failed; 2 if the command line or the number of ranks is wrong.";

/// The command line was wrong, as clap itself says it.
const USAGE_STATUS: u8 = 2;

/// How many ranks a benchmark runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranks {
    /// Exactly two.
    Two,
    /// The first half talks to the second half.
    Pairs,
    /// All do the same together.
    AtLeastTwo,
}

impl Ranks {
    fn check(self, program: &'static str, started: i32) -> Result<(), BenchError> {
        let (suits, needed, example) = match self {
            Ranks::Two => (started == 2, "exactly 2", 2),
            Ranks::Pairs => (started >= 2 && started % 2 == 0, "an even number of at least 2", 4),
            Ranks::AtLeastTwo => (started >= 2, "at least 2", 2),
        };
        if suits { Ok(()) } else { Err(BenchError::Ranks { program, needed, example, started }) }
    }
}

/// What sets one benchmark apart from the others before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Name of the binary.
    pub name: &'static str,
    /// The beginning of its help.
    pub about: &'static str,
    /// How it is started.
    pub usage: &'static str,
    /// How many ranks it needs.
    pub ranks: Ranks,
    /// Whether several threads call MPI.
    pub threaded: bool,
    /// What it measures; statistics are of the first.
    pub metrics: &'static [Metric],
}

/// Options of a benchmark, which contain those of all.
pub trait Options: Parser + Serialize {
    /// The options that all benchmarks have.
    fn common(&self) -> &Common;

    /// What carries the messages; most benchmarks measure MPI's calls.
    fn implementation(&self) -> Implementation {
        Implementation::Mpi
    }

    /// The command line.
    fn words() -> Vec<OsString> {
        std::env::args_os().collect()
    }

    /// The name in the report, where it depends on options.
    fn name(&self) -> Option<String> {
        None
    }

    /// The columns, where they depend on options.
    fn columns(&self) -> Option<Vec<Column>> {
        None
    }

    /// How the results are shown.
    fn style(&self) -> Style {
        let Common { json, full, validate, .. } = *self.common();
        let full = if full { Full::Statistics } else { Full::No };
        Style { json, full, sized: true, validate }
    }

    /// What the benchmark cannot do, before anything begins.
    ///
    /// # Errors
    /// With the option.
    fn check(&self) -> Result<(), BenchError> {
        Ok(())
    }
}

/// Reads the command line.
fn parse<O: Options>(benchmark: &Benchmark) -> Result<O, clap::Error> {
    let mut command = O::command()
        .name(benchmark.name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(benchmark.about)
        .override_usage(benchmark.usage)
        .after_help(EXIT_STATUS_HELP);
    let matches = command.try_get_matches_from_mut(O::words())?;
    O::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The rank that the launcher has told this process, so that an error in the command line is said once, before anything is started.
fn launched_rank(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    let names = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "IRONBAND_PMI_RANK"];
    names.into_iter().find_map(|name| variable(name)?.parse().ok())
}

/// Runs a benchmark: the whole of its `main`.
///
/// Only rank 0 prints errors, but for those of joining the job, and every rank exits with the same status: 0, 1 when the run
/// or the validation failed, 2 when the command line is wrong.
pub fn run<O: Options>(
    benchmark: &Benchmark,
    body: impl FnOnce(&Session, &O, &mut Report<'_>) -> Result<(), BenchError>,
) -> ExitCode {
    let threading = if benchmark.threaded { Threading::Multiple } else { Threading::Single };
    let options = match parse::<O>(benchmark) {
        Ok(options) => options,
        Err(error) => {
            if launched_rank(|name| std::env::var(name).ok()).is_none_or(|rank| rank == 0) {
                // Nothing can be told to anybody when even this cannot be printed.
                let _ = error.print();
            }
            return if error.use_stderr() { ExitCode::from(USAGE_STATUS) } else { ExitCode::SUCCESS };
        }
    };
    let mut session = match Session::start(options.implementation(), threading) {
        Ok(session) => session,
        Err(error) => {
            // Each process for itself: they do not know of each other.
            eprintln!("{}: {error}", benchmark.name);
            return ExitCode::FAILURE;
        }
    };
    let speaks = session.rank() == 0;
    // Finalising MPI while unwinding would wait for ranks that have not panicked.
    match catch_unwind(AssertUnwindSafe(|| run_parsed(benchmark, &mut session, &options, body))) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            if speaks {
                eprintln!("{}: {error}", benchmark.name);
            }
            let is_usage = matches!(error, BenchError::Ranks { .. } | BenchError::Option { .. });
            if is_usage { ExitCode::from(USAGE_STATUS) } else { ExitCode::FAILURE }
        }
        Err(_) => abort(),
    }
}

fn run_parsed<O: Options>(
    benchmark: &Benchmark,
    session: &mut Session,
    options: &O,
    body: impl FnOnce(&Session, &O, &mut Report<'_>) -> Result<(), BenchError>,
) -> Result<bool, BenchError> {
    benchmark.ranks.check(benchmark.name, session.ranks())?;
    options.check()?;
    if options.implementation() == Implementation::Line {
        session.share_lines()?;
    }
    let session = &*session;
    let name = options.name().unwrap_or_else(|| benchmark.name.to_owned());
    let columns =
        options.columns().unwrap_or_else(|| benchmark.metrics.iter().copied().map(Column::from).collect());
    let described = serde_json::to_value(options).map_err(std::io::Error::from)?;
    let mut report = Report::new(session, name, columns, options.style(), described);
    body(session, options, &mut report)?;
    report.close()
}

/// The line about `-c` and `--touch` above a table.
pub fn staging_note(common: &Common) -> Option<String> {
    let what = match (common.validate, common.touch) {
        (false, false) => return None,
        (true, _) => "every message is written anew before its round and checked after it",
        (false, true) => "every cache line of a message is written before its round",
    };
    Some(format!("Each round is timed by itself; {what}, outside the measured time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_tell_the_rank() {
        assert_eq!(launched_rank(|_| None), None);
        assert_eq!(launched_rank(|name| (name == "SLURM_PROCID").then(|| "3".to_owned())), Some(3));
        assert_eq!(launched_rank(|name| (name == "PMI_RANK").then(|| "no number".to_owned())), None);
    }

    #[test]
    fn numbers_of_ranks_are_judged() {
        let fits = |ranks: Ranks| -> Vec<i32> { (1..=6).filter(|n| ranks.check("x", *n).is_ok()).collect() };
        assert_eq!(fits(Ranks::Two), [2]);
        assert_eq!(fits(Ranks::Pairs), [2, 4, 6]);
        assert_eq!(fits(Ranks::AtLeastTwo), [2, 3, 4, 5, 6]);
        let message = Ranks::Two.check("osu_bw", 3).expect_err("three").to_string();
        assert!(message.contains("exactly 2") && message.contains("started with 3"), "{message}");
        assert!(message.contains("mpirun -np 2 osu_bw"), "{message}");
    }
}
