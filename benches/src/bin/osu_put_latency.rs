//! Latency of MPI_Put to another rank, with its synchronization.

use std::process::ExitCode;

use ironband_benches::{
    one_sided::{self, LatencyArguments, Operation},
    program::{self, Benchmark, Ranks},
    report::LATENCY,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_put_latency",
        about: "Latency of MPI_Put to another rank, with its synchronization",
        usage: "mpirun -np 2 osu_put_latency [OPTIONS]",
        ranks: Ranks::Two,
        threaded: false,
        metrics: &[LATENCY],
    };
    program::run(&benchmark, |session, arguments: &LatencyArguments, report| {
        one_sided::run_latency(session, arguments, Operation::Put, report)
    })
}
