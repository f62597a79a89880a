//! The `ironband` command: shows what there is and what would be used (`info`), looks at a machine before a job runs on
//! it (`doctor`), measures one transport against others (`compare`), and one of our fabrics alone (`perf`); starts programs that find each other
//! through PMI (`run`); finds out which algorithms of collective operations a machine should take (`tune`).
//!
//! Every subcommand is a room of its own; what they share is what they know about the machine
//! ([`machine`]), about Open MPI ([`open_mpi`]) and about Ironband's own devices ([`trial`]).

mod child;
mod compare;
mod cross_memory;
mod doctor;
mod environment;
mod info;
mod machine;
#[cfg(feature = "verbs")]
mod numa;
mod open_mpi;
mod perf;
mod quantity;
mod rdma;
mod run;
mod trial;
mod tune;
mod unmaps;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A byte transfer layer for MPI: look at a machine, check it, compare transports.
#[derive(Debug, Parser)]
#[command(name = "ironband", version, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show fabrics, devices, limits, what would be chosen and why, and every parameter.
    Info(info::Arguments),
    /// Check that this machine can run MPI programs over Ironband, and say how to fix what cannot.
    Doctor(doctor::Arguments),
    /// Run benchmarks over several transports, interleaved, and print medians and ratios.
    Compare(compare::Arguments),
    /// Measure one fabric between two processes, without MPI, in perftest's terms.
    Perf(perf::Arguments),
    /// Start processes of a program on this machine, which find each other through PMI-1.1, as under mpiexec.
    Run(run::Arguments),
    /// Measure which algorithms of collective operations this machine should take; explain a choice; count what algorithms cost.
    Tune(tune::Arguments),
    /// The process whose memory `doctor` and `info` try to reach (started by them).
    #[command(hide = true)]
    CrossMemoryTarget(cross_memory::TargetArguments),
    /// The process that tries to reach it (started by them).
    #[command(hide = true)]
    CrossMemoryPeer(cross_memory::PeerArguments),
    /// The process that `perf` measures against (started by it).
    #[command(hide = true)]
    PerfServer(perf::ServerArguments),
    /// A process that measures for `tune` (started by it).
    #[command(hide = true)]
    TuneRank(tune::RankArguments),
    /// The process that ends those of a job if `run` is killed (started by it).
    #[command(hide = true)]
    RunWatchdog(run::WatchdogArguments),
}

fn main() -> ExitCode {
    unmaps::tell();
    let words = run::with_np(std::env::args_os().collect());
    let outcome = match CommandLine::parse_from(words).command {
        Command::Info(arguments) => info::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Perf(arguments) => perf::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::TuneRank(arguments) => tune::run_rank(&arguments),
        Command::RunWatchdog(arguments) => run::run_watchdog(&arguments),
        Command::PerfServer(arguments) => perf::run_server(&arguments),
        Command::CrossMemoryTarget(arguments) => cross_memory::run_target(&arguments),
        Command::CrossMemoryPeer(arguments) => cross_memory::run_peer(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("ironband: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::CommandLine::command().debug_assert();
    }
}
