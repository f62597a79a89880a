//! Latency between two ranks with several threads in each (MPI_THREAD_MULTIPLE).

use std::process::ExitCode;

use ironband_benches::{
    program::{self, Benchmark, Ranks},
    report::LATENCY,
    threads,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_latency_mt",
        about: "Latency between two ranks with several threads in each (MPI_THREAD_MULTIPLE)",
        usage: "mpirun -np 2 osu_latency_mt [OPTIONS]",
        ranks: Ranks::Two,
        threaded: true,
        metrics: &[LATENCY],
    };
    program::run(&benchmark, |session, arguments: &threads::Arguments, report| {
        threads::run(session, arguments, report)
    })
}
