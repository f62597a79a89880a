//! Bandwidth and message rate of many pairs of ranks at the same time.

use std::process::ExitCode;

use ironband_benches::{
    bandwidth::{self, Kind},
    program::{self, Benchmark, Ranks},
    report::{AGGREGATE_BANDWIDTH, MESSAGE_RATE},
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_mbw_mr",
        about: "Bandwidth and message rate of many pairs of ranks at the same time",
        usage: "mpirun -np 4 osu_mbw_mr [OPTIONS]",
        ranks: Ranks::Pairs,
        threaded: false,
        metrics: &[AGGREGATE_BANDWIDTH, MESSAGE_RATE],
    };
    program::run(&benchmark, |session, arguments: &bandwidth::Arguments, report| {
        bandwidth::run(session, arguments, Kind::Pairs, report)
    })
}
