//! Bandwidth of MPI_Get from another rank, in windows of operations.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    one_sided::{self, Kind, Operation},
    options::{Common, OneSided, WindowSize},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::BANDWIDTH,
};
use serde::Serialize;

/// Bandwidth of MPI_Get from another rank, in windows of operations.
#[derive(Parser, Serialize)]
#[command(name = "osu_get_bw", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 2 osu_get_bw [OPTIONS]")]
struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    window: WindowSize,
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
        Benchmark { name: "osu_get_bw", ranks: Ranks::Two, threaded: false, metrics: &[BANDWIDTH] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        let kind = Kind::Bandwidth { window: options.window.window_size as usize };
        one_sided::run(session, &options.common, options.one_sided, Operation::Get, kind, report)
    })
}
