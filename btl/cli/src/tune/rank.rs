//! A process that measures. The first one says what was found, and writes the file.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use ironband::Context;
use ironband_collectives::reason::Bytes;
use ironband_collectives::{Communicator, Model, TABLE_VARIABLE, Table, Tuning};

use super::switches::Found;
use super::{constants, explain, progress, switches};
use crate::quantity::quotient_text;

/// Arguments of the processes that `tune` starts.
#[derive(Debug, Args)]
pub(crate) struct RankArguments {
    /// Told by the parent, because this process may be bound to one core.
    #[arg(long)]
    machine: String,
    #[arg(long)]
    rounds: u32,
    #[arg(long)]
    output: PathBuf,
}

/// Measures with the other processes.
pub(crate) fn run(arguments: &RankArguments) -> anyhow::Result<ExitCode> {
    let context = Context::open()?;
    let world = Communicator::world(&context)?;
    measure(&context, &world, arguments)?;
    drop(world);
    context.close()?;
    Ok(ExitCode::SUCCESS)
}

fn measure(context: &Context, world: &Communicator<'_>, arguments: &RankArguments) -> anyhow::Result<()> {
    let is_first = world.rank() == 0;
    let bar = if is_first { progress() } else { ProgressBar::hidden() };
    let rounds = arguments.rounds;
    bar.set_length(constants::STEPS as u64 * (1 + u64::from(rounds)));
    let mut model = constants::measure(context, world, &arguments.machine, rounds, &bar)?;
    agree(world, &mut model)?;
    let mut table = Table::default();
    let (found, skipped) = switches::measure(world, &table, &model, rounds, &bar)?;
    bar.finish_and_clear();
    if !is_first {
        return Ok(());
    }
    for one in &found {
        *(one.switch.value)(&mut table) = one.value;
    }
    print!("{}", report(&model, &found, &skipped));
    let output = &arguments.output;
    let text = Tuning { table, model: Some(model) }.to_toml();
    std::fs::write(output, text).with_context(|| format!("{} could not be written", output.display()))?;
    println!("\n{0} is written; programs take it with {TABLE_VARIABLE}={0}", output.display());
    Ok(())
}

/// All go on with what rank 0 has found.
fn agree(world: &Communicator<'_>, model: &mut Model) -> anyhow::Result<()> {
    let Model { alpha_ns, beta_ns_per_byte, gamma_ns_per_byte, gap_ns, .. } = model;
    let mut all = [*alpha_ns, *beta_ns_per_byte, *gamma_ns_per_byte, *gap_ns];
    world.root(0)?.bcast(&mut all)?;
    [*alpha_ns, *beta_ns_per_byte, *gamma_ns_per_byte, *gap_ns] = all;
    Ok(())
}

/// What was found, for a reader.
fn report(model: &Model, found: &[Found], skipped: &[String]) -> String {
    let mut text = format!("{}\n{} ranks: {}\n\n", model.machine, model.ranks, explain::constants(model));
    let default = Table::default();
    let _ = writeln!(
        text,
        "{:<28} {:>10} {:>10} {:>10}  {:<46} time / bound",
        "row", "default", "predicted", "measured", "from -> to"
    );
    for one in found {
        let [first, second] = one.algorithms;
        let value = *(one.switch.value)(&mut default.clone());
        let edge = if one.is_at_edge { ", at the edge of what was measured" } else { "" };
        let _ = writeln!(
            text,
            "{:<28} {:>10} {:>10} {:>10}  {:<46} {} to {}{edge}",
            one.switch.row,
            Bytes(value).to_string(),
            one.predicted.map_or_else(|| "never".to_owned(), |bytes| Bytes(bytes).to_string()),
            Bytes(one.value).to_string(),
            format!("{} -> {}", first.name(), second.name()),
            quotient_text(one.by_bound.0),
            quotient_text(one.by_bound.1),
        );
    }
    skipped.iter().for_each(|why| {
        let _ = writeln!(text, "{why}");
    });
    text
}
