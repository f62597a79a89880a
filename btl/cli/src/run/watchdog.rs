//! Ends the processes of a job when their launcher is killed: a process that is killed can do nothing any more, so another
//! one waits for that.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};

/// Arguments of the hidden subcommand.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

/// Started before the first process of a job.
pub(super) struct Watchdog {
    child: Child,
    /// Closed by the system when this process ends, however it does.
    stdin: Option<ChildStdin>,
}

impl Watchdog {
    pub(super) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut child = Command::new(program)
            .arg("run-watchdog")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal for the whole group of this process must not end it.
            .process_group(0)
            .spawn()
            .context("the process that ends the others if this one is killed")?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// This process group is to be ended.
    pub(super) fn begin(&mut self, group: Pid) {
        self.say("begin", group);
    }

    /// It has ended; its number may soon be another's.
    pub(super) fn end(&mut self, group: Pid) {
        self.say("end", group);
    }

    fn say(&mut self, what: &str, group: Pid) {
        if let Some(stdin) = &mut self.stdin {
            // Without a watchdog the job runs on, less safe.
            let _ = writeln!(stdin, "{what} {}", group.as_raw_nonzero());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// Until the launcher ends.
pub(crate) fn run(_arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut groups = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some((what, group)) = line.split_once(' ') else { continue };
        let Some(group) = group.parse().ok().and_then(Pid::from_raw) else { continue };
        match what {
            "begin" => groups.push(group),
            _ => groups.retain(|other| *other != group),
        }
    }
    for group in groups {
        let _ = kill_process_group(group, Signal::KILL);
    }
    Ok(ExitCode::SUCCESS)
}
