//! The launchers that `ci/launchers` knows, our own as it is now, and none.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Job, build_ironband};

/// A launcher that is there.
#[derive(Clone, Debug)]
pub struct Launcher {
    name: &'static str,
}

impl Launcher {
    /// The launcher that `ci/launchers` calls so; `ironband`, which is built; or `alone`, which is none. Where it is missing this
    /// prints `skipped: wire_up NAME: why`, for `ci/test` to count.
    pub fn find(name: &'static str) -> Option<Self> {
        match why_missing(name) {
            Ok(None) => Some(Self { name }),
            Ok(Some(why)) => {
                println!("skipped: wire_up {name}: {why}");
                None
            }
            Err(error) => panic!("{error:#}"),
        }
    }

    /// As `ci/launchers` calls it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Starts `ranks` processes of this command.
    pub fn start(&self, ranks: u32, command: &[&str], environment: &[(&str, &str)]) -> Job {
        let words: Vec<String> =
            self.prefix(ranks).into_iter().chain(command.iter().map(|word| (*word).to_owned())).collect();
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Job::start_command(&words, &environment, b"").unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn prefix(&self, ranks: u32) -> Vec<String> {
        let ranks = ranks.to_string();
        match self.name {
            "alone" => vec![],
            "ironband" => vec![own().display().to_string(), "run".to_owned(), "-n".to_owned(), ranks],
            name => vec![script().display().to_string(), "run".to_owned(), name.to_owned(), ranks],
        }
    }
}

/// A port at which nobody listens. Somebody may before we do, which a test would show as "could not listen".
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").and_then(|listener| listener.local_addr()).expect("no port is free").port()
}

/// The variables of a process that is started without a launcher, and meets the others at `root`.
pub fn by_hand(root: &str, rank: u32, size: u32) -> Vec<(&'static str, String)> {
    vec![
        ("IRONBAND_PMI", "tcp".to_owned()),
        ("IRONBAND_PMI_ROOT", root.to_owned()),
        ("IRONBAND_PMI_RANK", rank.to_string()),
        ("IRONBAND_PMI_SIZE", size.to_string()),
    ]
}

/// Starts `ranks` processes of this command without a launcher, by rank. They meet at rank 0.
pub fn start_by_hand(ranks: u32, command: &[&str]) -> Vec<Job> {
    let root = format!("127.0.0.1:{}", free_port());
    let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let start = |rank| {
        let variables = by_hand(&root, rank, ranks).into_iter();
        let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value)).collect();
        Job::start_command(&words, &variables, b"").unwrap_or_else(|error| panic!("{error:#}"))
    };
    (0..ranks).map(start).collect()
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/launchers")
}

/// Our own launcher, built once in each test binary.
fn own() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build_ironband().unwrap_or_else(|error| panic!("{error:#}")).path)
}

/// What `ci/launchers list` says is missing.
fn why_missing(name: &str) -> Result<Option<String>> {
    static LIST: OnceLock<String> = OnceLock::new();
    if matches!(name, "ironband" | "alone") {
        return Ok(None);
    }
    let list = match LIST.get() {
        Some(list) => list,
        None => {
            let output = Command::new(script()).arg("list").output().context("cannot run ci/launchers")?;
            ensure!(
                output.status.success(),
                "ci/launchers list: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            LIST.get_or_init(|| String::from_utf8_lossy(&output.stdout).into_owned())
        }
    };
    let of_name = |line: &str| line.strip_prefix(name)?.strip_prefix('\t').map(str::to_owned);
    match list.lines().find_map(of_name) {
        Some(state) => Ok(state.strip_prefix("missing: ").map(str::to_owned)),
        None => bail!("ci/launchers list does not know {name}:\n{list}"),
    }
}
