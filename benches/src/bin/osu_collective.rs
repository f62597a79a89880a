//! OSU's benchmarks of blocking collective operations, all in one program: `osu_collective allreduce` is `osu_allreduce`.

use std::process::ExitCode;

use clap::Parser;
use ironband_benches::{
    collective::{self, AVERAGE, Operation},
    error::BenchError,
    options::{Common, Implementation, Which},
    program::{self, Benchmark, EXIT_STATUS_HELP, Options, Ranks},
};
use serde::Serialize;

/// Latency of a collective operation: the average over all ranks, with a barrier between any two.
#[derive(Parser, Serialize)]
#[command(
    name = "osu_collective",
    version,
    after_help = EXIT_STATUS_HELP,
    override_usage = "mpirun -np RANKS osu_collective OPERATION [OPTIONS]"
)]
struct Arguments {
    /// What is measured; the name is that of OSU's benchmark without osu_.
    #[arg(value_enum)]
    operation: Operation,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    which: Which,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }

    fn implementation(&self) -> Implementation {
        self.which.implementation
    }

    fn name(&self) -> Option<&'static str> {
        Some(self.operation.benchmark())
    }

    fn check(&self) -> Result<(), BenchError> {
        self.which.check_windows()?;
        if self.common.touch {
            return Err(BenchError::Option {
                option: "--touch",
                value: "true".to_owned(),
                reason: "buffers of collective operations stay as they are".to_owned(),
            });
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let benchmark =
        Benchmark { name: "osu_collective", ranks: Ranks::AtLeastTwo, threaded: false, metrics: &[AVERAGE] };
    program::run(&benchmark, |session, options: &Arguments, report| {
        collective::run(session, &options.common, options.which.implementation, options.operation, report)
    })
}
