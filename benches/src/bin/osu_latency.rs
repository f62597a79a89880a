//! Latency of a message between two ranks: half the time of a ping-pong.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    latency,
    options::{Common, Implementation, Which},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::LATENCY,
};
use serde::Serialize;

/// Latency of a message between two ranks: half the time of a ping-pong.
#[derive(Parser, Serialize)]
#[command(name = "osu_latency", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 2 osu_latency [OPTIONS]")]
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
        Benchmark { name: "osu_latency", ranks: Ranks::Two, threaded: false, metrics: &[LATENCY] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        latency::run(session, &options.common, options.which, false, report)
    })
}
