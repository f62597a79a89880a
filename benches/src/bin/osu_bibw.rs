//! Bandwidth of two ranks that both send and receive windows of messages.

use std::process::ExitCode;

use ironband_benches::{
    bandwidth::{self, Kind},
    program::{self, Benchmark, Ranks},
    report::BANDWIDTH,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_bibw",
        about: "Bandwidth of two ranks that both send and receive windows of messages",
        usage: "mpirun -np 2 osu_bibw [OPTIONS]",
        ranks: Ranks::Two,
        threaded: false,
        metrics: &[BANDWIDTH],
    };
    program::run(&benchmark, |session, arguments: &bandwidth::Arguments, report| {
        bandwidth::run(session, arguments, Kind::BothWays, report)
    })
}
