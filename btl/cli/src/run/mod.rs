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
    /// To cores of their own, where there are enough of them; nowhere otherwise.
    Auto,
    /// To the cores of this machine, one after another, and again from the first.
    Core,
    /// Nowhere.
    None,
}

/// What `--help` says below the options.
const MORE: &str = "\
Standard input goes to rank 0. Each process finds its number in PMI_RANK and how many there are in PMI_SIZE.

Exit status: 0 if all processes end with 0, otherwise that of the first that fails (128 and the signal's number if a signal has ended \
it); the others are then asked to end, and after 5 seconds killed. 127: there is no such program; 126: it cannot be started.

Signals: SIGINT, SIGTERM, SIGHUP and SIGQUIT are handed on, and what has not ended 5 seconds later is killed; a second one kills at \
once. SIGUSR1 and SIGUSR2 are only handed on. Processes, and what they start and leave in their process groups, do not outlive \
`ironband run`, even if it is killed.

Example: ironband run -n 4 --tag-output ./program --its-own-option";

/// Arguments of `ironband run`.
#[derive(Debug, Args)]
#[command(override_usage = "ironband run [OPTIONS] PROGRAM [ARGUMENTS]...", after_help = MORE)]
pub(crate) struct Arguments {
    /// How many processes (also -np); as many as this machine has cores if it is not said.
    #[arg(short, long, alias = "np", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    n: Option<u32>,
    /// Set a variable in all processes. They have those of this process anyway, so NAME alone only makes sure that it is set.
    #[arg(short = 'x', long = "env", value_name = "NAME[=VALUE]", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// Put the rank before each line of output.
    #[arg(short, long)]
    tag_output: bool,
    /// Bind each process to a core.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = BindTo::Auto)]
    bind_to: BindTo,
    /// Tell the processes that they are on so many nodes, and not on one: to try out what they make of that. With xRANKS, each node has so many
    /// consecutive ranks, and they begin again with the first; without, as many as come out even.
    #[arg(long, value_name = "NODES[xRANKS]", value_parser = pretended)]
    pretend_nodes: Option<Pretended>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

/// Nodes that there are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pretended {
    nodes: u32,
    ranks_per_node: Option<u32>,
}

impl Pretended {
    /// All on one, as they are.
    const ONE: Self = Self { nodes: 1, ranks_per_node: None };

    /// As launchers tell processes, of this number of ranks.
    fn process_mapping(self, count: u32) -> String {
        let Self { nodes, ranks_per_node } = self;
        let ranks_per_node = ranks_per_node.unwrap_or_else(|| count.div_ceil(nodes));
        format!("(vector,(0,{nodes},{ranks_per_node}))")
    }
}

fn pretended(text: &str) -> Result<Pretended, String> {
    let number = |text: &str| match text.parse() {
        Ok(number @ 1..=4096) => Ok(number),
        _ => Err(format!("{text:?} is not a number from 1 to 4096")),
    };
    match text.split_once('x') {
        None => Ok(Pretended { nodes: number(text)?, ranks_per_node: None }),
        Some((nodes, ranks)) => Ok(Pretended { nodes: number(nodes)?, ranks_per_node: Some(number(ranks)?) }),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        None if !text.is_empty() => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => Err(format!("{text} is not set here; {text}=VALUE sets it")),
        },
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// `-np N`, as fingers that know mpirun type it, is `-n N`: looked for before the program only, whose arguments are its own.
pub(crate) fn with_np(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_none_or(|word| word != "run") {
        return words;
    }
    let mut at = 2;
    while at < words.len() && words[at].as_encoded_bytes().starts_with(b"-") && words[at] != "--" {
        if words[at] == "-np" {
            words[at] = "-n".into();
        }
        let takes_a_value = ["-n", "--n", "--np", "-x", "--env", "--bind-to", "--pretend-nodes"]
            .iter()
            .any(|name| words[at] == *name);
        at += if takes_a_value { 2 } else { 1 };
    }
    words
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
    let nodes = arguments.pretend_nodes.unwrap_or(Pretended::ONE);
    let job = ranks::Job {
        count,
        process_mapping: nodes.process_mapping(count),
        command: &arguments.command,
        variables: &arguments.variables,
        tag_output: arguments.tag_output,
        bound_to,
    };
    watch::run(&job)
}

/// Runs a program as so many processes, bound to cores if there are enough, with these variables. The status is that of the first process that failed.
pub(crate) fn run_own(
    count: u32,
    command: &[OsString],
    variables: &[(String, String)],
) -> anyhow::Result<ExitCode> {
    let processors = machine::processors_of_cores();
    let bound_to = (processors.len() >= count as usize).then_some(processors);
    let process_mapping = Pretended::ONE.process_mapping(count);
    watch::run(&ranks::Job { count, process_mapping, command, variables, tag_output: false, bound_to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(line: &str) -> String {
        let words = with_np(line.split(' ').map(OsString::from).collect());
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn np_is_n_before_the_program_and_nowhere_else() {
        assert_eq!(spelt("ironband run -np 2 ./a -np 3"), "ironband run -n 2 ./a -np 3");
        assert_eq!(spelt("ironband run -t -x A=-np -np 2 a"), "ironband run -t -x A=-np -n 2 a");
        assert_eq!(spelt("ironband run -x -np a -np"), "ironband run -x -np a -np", "a value is no option");
        for line in ["ironband run -- -np", "ironband info -np", "ironband", "ironband run"] {
            assert_eq!(spelt(line), line);
        }
    }

    #[test]
    fn pretended_nodes_are_told_as_real_ones() {
        for (text, count, mapping) in [
            ("1", 5, "(vector,(0,1,5))"),
            ("2", 5, "(vector,(0,2,3))"),
            ("3x1", 5, "(vector,(0,3,1))"),
            ("8", 5, "(vector,(0,8,1))"),
        ] {
            assert_eq!(pretended(text).unwrap().process_mapping(count), mapping, "{text} for {count}");
        }
        for refused in ["", "0", "x2", "2x", "2x0", "two", "4097"] {
            assert!(pretended(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn variables_are_set_or_taken_over() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        let (name, value) = variable("PATH").unwrap();
        assert!(name == "PATH" && !value.is_empty());
        for refused in ["", "=b", "NOBODY_SETS_THIS"] {
            assert!(variable(refused).is_err(), "{refused:?}");
        }
    }
}
