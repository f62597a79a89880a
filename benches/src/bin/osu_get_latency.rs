//! Latency of MPI_Get from another rank, with its synchronization.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    one_sided::{self, Kind, Operation},
    options::{Common, OneSided},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::LATENCY,
};
use serde::Serialize;

/// Latency of MPI_Get from another rank, with its synchronization.
#[derive(Parser, Serialize)]
#[command(name = "osu_get_latency", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 2 osu_get_latency [OPTIONS]")]
struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    one_sided: OneSided,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }
}

fn main() -> ExitCode {
    let benchmark =
        Benchmark { name: "osu_get_latency", ranks: Ranks::Two, threaded: false, metrics: &[LATENCY] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        one_sided::run(session, &options.common, options.one_sided, Operation::Get, Kind::Latency, report)
    })
}
