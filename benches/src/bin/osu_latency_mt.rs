//! Latency between two ranks with several threads in each (MPI_THREAD_MULTIPLE).

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    options::{Common, ThreadCounts},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
    report::LATENCY,
    threads,
};
use serde::Serialize;

/// Latency between two ranks with several threads in each (MPI_THREAD_MULTIPLE).
#[derive(Parser, Serialize)]
#[command(name = "osu_latency_mt", version, after_help = EXIT_STATUS_HELP, override_usage = "mpirun -np 2 osu_latency_mt [OPTIONS]")]
struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    threads: ThreadCounts,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }
}

fn main() -> ExitCode {
    let benchmark =
        Benchmark { name: "osu_latency_mt", ranks: Ranks::Two, threaded: true, metrics: &[LATENCY] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        threads::run(session, &options.common, options.threads.threads, report)
    })
}
