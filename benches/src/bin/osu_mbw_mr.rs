//! Bandwidth and message rate of many pairs of ranks at the same time.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    bandwidth::{self, Kind},
    error::BenchError,
    options::{Common, Implementation, Which, WindowSize},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::{AGGREGATE_BANDWIDTH, MESSAGE_RATE},
};
use serde::Serialize;

/// Bandwidth and message rate of many pairs of ranks at the same time.
#[derive(Parser, Serialize)]
#[command(name = "osu_mbw_mr", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 4 osu_mbw_mr [OPTIONS]")]
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
    let benchmark = Benchmark {
        name: "osu_mbw_mr",
        ranks: Ranks::Pairs,
        threaded: false,
        metrics: &[AGGREGATE_BANDWIDTH, MESSAGE_RATE],
    };
    program::run(&benchmark, |session, options: &Arguments, report| {
        bandwidth::run(session, &options.common, options.window, Kind::Pairs, report)
    })
}
