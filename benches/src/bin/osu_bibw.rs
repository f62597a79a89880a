//! Bandwidth of two ranks that both send and receive windows of messages.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    bandwidth::{self, Kind},
    error::BenchError,
    options::{Common, Implementation, Which, WindowSize},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::BANDWIDTH,
};
use serde::Serialize;

/// Bandwidth of two ranks that both send and receive windows of messages.
#[derive(Parser, Serialize)]
#[command(name = "osu_bibw", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 2 osu_bibw [OPTIONS]")]
struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    which: Which,
    #[command(flatten)]
    #[serde(flatten)]
    window: WindowSize,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }

    fn implementation(&self) -> Implementation {
        self.which.implementation
    }

    fn check(&self) -> Result<(), BenchError> {
        self.which.check_windows()
    }
}

fn main() -> ExitCode {
    let benchmark = Benchmark { name: "osu_bibw", ranks: Ranks::Two, threaded: false, metrics: &[BANDWIDTH] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        bandwidth::run(session, &options.common, options.window, Kind::BothWays, report)
    })
}
