//! OSU's benchmarks of collective operations, all in one program: `osu_collective allreduce` is `osu_allreduce`, and so is a link of that name.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Parser;
use ironband_benches::{
    collective::{self, Asked, Form, Measured, Operation},
    error::BenchError,
    options::{By, Collective, Common, Implementation},
    program::{self, Benchmark, Options, Ranks},
    report::{Column, Full, Style},
};
use serde::Serialize;

/// The name of this program, unless it is called by that of a benchmark.
const NAME: &str = "osu_collective";

#[derive(Parser, Serialize)]
struct Arguments {
    /// What is measured, as OSU's benchmark is called, with or without osu_: allreduce, iallreduce (non-blocking), allreduce_persistent.
    #[serde(rename = "operation")]
    operation: Measured,
    /// Print the names of all operations, one on a line.
    #[arg(long, exclusive = true)]
    #[serde(skip)]
    list: bool,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    collective: Collective,
}

/// The command line, with the operation that the program's own name says.
fn with_operation(mut words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    let operation = called.filter(|name| *name != NAME).and_then(|name| name.strip_prefix("osu_"));
    if let Some(operation) = operation.map(OsString::from) {
        words.insert(1, operation);
    }
    words
}

impl Options for Arguments {
    fn words() -> Vec<OsString> {
        with_operation(std::env::args_os().collect())
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn implementation(&self) -> Implementation {
        let is_mpi = self.collective.by().contains(&By::Mpi);
        if is_mpi { Implementation::Mpi } else { Implementation::Ironband }
    }

    fn name(&self) -> Option<String> {
        Some(format!("osu_{}", self.operation))
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(collective::columns(self.operation.form, self.common.full, &self.collective.by()))
    }

    fn style(&self) -> Style {
        let Common { json, full, validate, .. } = self.common;
        // As in OSU, whose table of parts has no rounds.
        let counted = full && self.operation.form != Form::Nonblocking;
        let full = if counted { Full::Iterations } else { Full::No };
        Style { json, full, sized: self.operation.operation != Operation::Barrier, validate }
    }

    fn check(&self) -> Result<(), BenchError> {
        if self.collective.tests == 0 || self.operation.form == Form::Nonblocking {
            return Ok(());
        }
        Err(BenchError::Option {
            option: "-t",
            value: self.collective.tests.to_string(),
            reason: format!(
                "{} does not compute meanwhile; i{} does",
                self.operation,
                self.operation.operation.name()
            ),
        })
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--list") {
        Measured::all().for_each(|measured| println!("{measured}"));
        return ExitCode::SUCCESS;
    }
    let benchmark = Benchmark {
        name: NAME,
        about: "Latency of a collective operation: the average over all ranks, which meet in a barrier before each round. \
                Of a non-blocking operation also how much of it goes on while the program computes",
        usage: "mpirun -np RANKS osu_collective OPERATION [OPTIONS]",
        ranks: Ranks::AtLeastTwo,
        threaded: false,
        metrics: &[],
    };
    program::run(&benchmark, |session, options: &Arguments, report| {
        let Arguments { operation: measured, ref common, ref collective, .. } = *options;
        collective::run(session, &Asked { measured, common, collective }, report)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        with_operation(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn a_link_is_the_benchmark_that_it_is_called() {
        let parsed =
            |line| Arguments::try_parse_from(words(line)).map(|arguments| arguments.operation.to_string());
        assert_eq!(parsed("/usr/bin/osu_iallreduce -i 3").expect("a benchmark"), "iallreduce");
        assert_eq!(parsed("/usr/bin/osu_collective scan -i 3").expect("a benchmark"), "scan");
        assert_eq!(parsed("collective osu_scan").expect("a benchmark"), "scan");
        let message = parsed("osu_alreduce").expect_err("no benchmark").to_string();
        assert!(message.contains("alreduce") && message.contains("reduce_scatter_block"), "{message}");
    }

    #[test]
    fn implementations_are_taken_once_each_and_mpi_first() {
        let by = |list: &str| {
            let line = format!("osu_collective scan --impl {list}");
            Arguments::try_parse_from(words(&line)).expect(list).collective.by()
        };
        assert_eq!(by("ironband,mpi,ironband"), [By::Mpi, By::Ironband]);
        assert_eq!(by("ironband"), [By::Ironband]);
    }
}
