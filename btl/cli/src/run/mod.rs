//! `ironband run`: starts N processes of a program on this machine, and serves PMI-1.1 to them, so that they find each other.
//!
//! [`ranks`] starts and ends the processes, [`watch`] is the loop that looks after them, [`output`] puts their rank before each line,
//! [`watchdog`] ends them when this process is killed.

mod output;
mod ranks;
mod watch;
mod watchdog;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::machine;

pub(crate) use watchdog::{Arguments as WatchdogArguments, run as run_watchdog};

/// What a process may be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BindTo {
    /// To cores of their own, where there are enough of them.
    Auto,
    /// To the processors of this machine, one after another.
    Core,
    /// Nowhere.
    None,
}

/// Arguments of `ironband run`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many processes; as many as this machine has cores if it is not said.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    n: Option<u32>,
    /// Set a variable in all processes. What this process has they have anyway.
    #[arg(short = 'x', long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// Put the rank before each line of output.
    #[arg(short, long)]
    tag_output: bool,
    /// Bind each process to a core.
    #[arg(long, value_enum, default_value_t = BindTo::Auto)]
    bind_to: BindTo,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// Runs the job; the status is that of the first process that failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let processors = machine::processors_of_cores();
    let count = match arguments.n {
        Some(count) => count,
        None => u32::try_from(processors.len().max(1)).context("too many cores to count")?,
    };
    let bound_to = match arguments.bind_to {
        BindTo::None => None,
        BindTo::Auto if processors.len() < count as usize => None,
        BindTo::Auto | BindTo::Core => Some(processors),
    };
    if bound_to.as_ref().is_some_and(Vec::is_empty) {
        bail!("no core is known to bind processes to; say --bind-to none");
    }
    let job = ranks::Job {
        count,
        command: &arguments.command,
        variables: &arguments.variables,
        tag_output: arguments.tag_output,
        bound_to,
    };
    watch::run(&job)
}
