//! `ironband doctor`: a preflight. Finding facts ([`collect`]) and judging them ([`judge`]) are apart.

mod collect;
mod elf;
mod facts;
mod judge;
mod report;

use clap::Args;
use std::process::ExitCode;

/// Arguments of `ironband doctor`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print the checks and the facts behind them as JSON.
    #[arg(long)]
    json: bool,
    /// How many ranks of a job shall run on this machine.
    #[arg(short = 'n', long, value_name = "RANKS", default_value_t = 2, value_parser = crate::machine::ranks)]
    ranks: usize,
}

/// Looks, judges, prints. Fails when a job over Ironband would not start.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let facts = collect::facts(arguments.ranks);
    let checks = judge::checks(&facts);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report::Document::new(&checks, &facts))?);
    } else {
        print!("{}", report::text(&checks));
    }
    Ok(match report::verdict(&checks) {
        report::Level::Failure => ExitCode::FAILURE,
        report::Level::Ok | report::Level::Warning => ExitCode::SUCCESS,
    })
}
