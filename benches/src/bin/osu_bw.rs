//! Bandwidth from one rank to another, in windows of non-blocking sends.

use std::process::ExitCode;

use ironband_benches::{
    bandwidth::{self, Kind},
    program::{self, Benchmark, Ranks},
    report::BANDWIDTH,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_bw",
        about: "Bandwidth from one rank to another, in windows of non-blocking sends",
        usage: "mpirun -np 2 osu_bw [OPTIONS]",
        ranks: Ranks::Two,
        threaded: false,
        metrics: &[BANDWIDTH],
    };
    program::run(&benchmark, |session, arguments: &bandwidth::Arguments, report| {
        bandwidth::run(session, arguments, Kind::OneWay, report)
    })
}
