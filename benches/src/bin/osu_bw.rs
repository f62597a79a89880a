//! Bandwidth from one rank to another, in windows of non-blocking sends.

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

/// Bandwidth from one rank to another, in windows of non-blocking sends.
#[derive(Parser, Serialize)]
#[command(name = "osu_bw", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 2 osu_bw [OPTIONS]")]
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
    let benchmark = Benchmark { name: "osu_bw", ranks: Ranks::Two, threaded: false, metrics: &[BANDWIDTH] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        bandwidth::run(session, &options.common, options.window, Kind::OneWay, report)
    })
}
