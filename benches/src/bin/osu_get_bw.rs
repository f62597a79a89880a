//! Bandwidth of MPI_Get from another rank, in windows of operations.

use std::process::ExitCode;

use ironband_benches::{
    one_sided::{self, BandwidthArguments, Operation},
    program::{self, Benchmark, Ranks},
    report::BANDWIDTH,
};

fn main() -> ExitCode {
    let benchmark = Benchmark {
        name: "osu_get_bw",
        about: "Bandwidth of MPI_Get from another rank, in windows of operations",
        usage: "mpirun -np 2 osu_get_bw [OPTIONS]",
        ranks: Ranks::Two,
        threaded: false,
        metrics: &[BANDWIDTH],
    };
    program::run(&benchmark, |session, arguments: &BandwidthArguments, report| {
        one_sided::run_bandwidth(session, arguments, Operation::Get, report)
    })
}
