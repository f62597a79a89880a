//! `ironband info`: fabrics and devices, what a job here would use and why, and every parameter. Finding out
//! ([`collect`]), what is known ([`document`]) and how it is shown ([`text`]) are apart.

mod choice;
mod collect;
mod document;
mod parameters;
mod text;
mod topology;

use anyhow::Context;
use clap::Args;
use std::process::ExitCode;

/// Arguments of `ironband info`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// How many ranks of a job shall run on this machine [default: as many as processors].
    #[arg(short = 'n', long, value_name = "RANKS", value_parser = crate::machine::ranks)]
    ranks: Option<usize>,
}

/// Finds out and prints. Fails when the environment sets a parameter to something that every rank would refuse.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = crate::environment::config().context("the environment (IRONBAND_*) cannot be used")?;
    let document = collect::document(&config, arguments.ranks);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print!("{}", text::text(&document));
    }
    Ok(ExitCode::SUCCESS)
}
