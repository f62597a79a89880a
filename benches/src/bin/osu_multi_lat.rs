//! Mean latency over pairs of ranks that play ping-pong at the same time.

use std::process::ExitCode;

use ironband_benches::{
    latency,
    program::{self, Benchmark, Ranks},
    report::LATENCY,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_multi_lat",
        about: "Mean latency over pairs of ranks that play ping-pong at the same time",
        usage: "mpirun -np 4 osu_multi_lat [OPTIONS]",
        ranks: Ranks::Pairs,
        threaded: false,
        metrics: &[LATENCY],
    };
    program::run(&benchmark, |session, arguments: &latency::Arguments, report| {
        latency::run(session, arguments, true, report)
    })
}
