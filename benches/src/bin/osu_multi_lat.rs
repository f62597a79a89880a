//! Mean latency over pairs of ranks that play ping-pong at the same time.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    latency,
    options::{Common, Implementation, Which},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::LATENCY,
};
use serde::Serialize;

/// Mean latency over pairs of ranks that play ping-pong at the same time.
#[derive(Parser, Serialize)]
#[command(name = "osu_multi_lat", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 4 osu_multi_lat [OPTIONS]")]
struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    which: Which,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }

    fn implementation(&self) -> Implementation {
        self.which.implementation
    }
}

fn main() -> ExitCode {
    let benchmark =
        Benchmark { name: "osu_multi_lat", ranks: Ranks::Pairs, threaded: false, metrics: &[LATENCY] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        latency::run(session, &options.common, options.which, true, report)
    })
}
