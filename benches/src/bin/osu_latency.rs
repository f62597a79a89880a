//! Latency of a message between two ranks: half the time of a ping-pong.

use std::process::ExitCode;

use ironband_benches::{
    latency,
    program::{self, Benchmark, Ranks},
    report::LATENCY,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_latency",
        about: "Latency of a message between two ranks: half the time of a ping-pong",
        usage: "mpirun -np 2 osu_latency [OPTIONS]",
        ranks: Ranks::Two,
        threaded: false,
        metrics: &[LATENCY],
    };
    program::run(&benchmark, |session, arguments: &latency::Arguments, report| {
        latency::run(session, arguments, false, report)
    })
}
