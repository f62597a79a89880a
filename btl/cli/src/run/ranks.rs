//! The processes of a job: started, ended.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use ironband_pmi::launcher::Connections;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::output::Outputs;
use super::watchdog::Watchdog;

/// What other launchers have left in the environment, which our processes would believe. Prefixes.
const FOREIGN: [&str; 10] = [
    "PMI_",
    "PMIX_",
    "OMPI_COMM_WORLD_",
    "PRTE_LAUNCHED",
    "MPI_LOCAL",
    "HYDI_CONTROL_FD",
    "I_MPI_HYDRA_UUID",
    "HYDRA_BSTRAP_",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
];

/// What is to be started.
pub(super) struct Job<'a> {
    pub(super) count: u32,
    /// Who is on which node, as the processes are told it.
    pub(super) process_mapping: String,
    pub(super) command: &'a [OsString],
    pub(super) variables: &'a [(String, String)],
    pub(super) tag_output: bool,
    /// Processors, one after another.
    pub(super) bound_to: Option<Vec<usize>>,
}

/// A program that could not be started, with the exit status that a shell would have.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be started: {error}{}", .program.display(), hint(.program, .error))]
pub(super) struct NotStarted {
    program: OsString,
    error: std::io::Error,
}

impl NotStarted {
    pub(super) fn status(&self) -> u8 {
        if self.error.kind() == ErrorKind::NotFound { 127 } else { 126 }
    }
}

/// What the system does not say.
fn hint(program: &OsString, error: &std::io::Error) -> String {
    let (name, path) = (program.to_string_lossy(), Path::new(program));
    match error.kind() {
        ErrorKind::NotFound if !name.contains('/') && path.exists() => {
            format!("; it is looked for in PATH, and ./{name} is here")
        }
        ErrorKind::NotFound if !name.contains('/') => "; it is looked for in PATH".to_owned(),
        ErrorKind::NotFound if path.exists() => {
            "; the file is there, so its interpreter (its first line) or its loader is missing".to_owned()
        }
        ErrorKind::PermissionDenied if path.is_dir() => "; it is a folder".to_owned(),
        ErrorKind::PermissionDenied if path.exists() => format!("; chmod +x {name}, if it is a program"),
        _ => String::new(),
    }
}

/// One process, leader of a process group.
struct Rank {
    child: Child,
    group: Pid,
    ended: Option<ExitStatus>,
}

impl Rank {
    /// How it has ended, if it has and that was not told before. It is left for [`Ranks::drop`] to be waited for: until then its number,
    /// which is its group's, does not become another's, and the group can be ended.
    fn reap(&mut self) -> Option<ExitStatus> {
        if self.ended.is_some() {
            return None;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // An error means that somebody else has waited for it, which nobody here does.
        let status = waitid(WaitId::Pid(self.group), options).ok().flatten()?;
        let code = status.exit_status().map(|code| code << 8);
        self.ended = Some(ExitStatus::from_raw(code.or_else(|| status.terminating_signal())?));
        self.ended
    }
}

/// All processes of a job. Dropping it ends them.
pub(super) struct Ranks {
    ranks: Vec<Rank>,
    watchdog: Watchdog,
    pub(super) outputs: Outputs,
}

impl Ranks {
    /// Starts all processes, or none.
    pub(super) fn start(job: &Job<'_>, connections: &mut Connections) -> anyhow::Result<Self> {
        let mut all = Self {
            ranks: Vec::new(),
            watchdog: Watchdog::start()?,
            outputs: Outputs::new(job.tag_output, job.count),
        };
        for rank in 0..job.count {
            all.start_one(job, rank, connections)?;
        }
        Ok(all)
    }

    fn start_one(&mut self, job: &Job<'_>, rank: u32, connections: &mut Connections) -> anyhow::Result<()> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
            .context("a socket for a process; see ulimit -n")?;
        fcntl_setfd(&ours, FdFlags::CLOEXEC).context("a socket for a process")?;
        let mut command = self.command(job, rank, &theirs);
        let bound = job.bound_to.as_ref().map(|processors| processors[rank as usize % processors.len()]);
        let started = bind_around(bound, || command.spawn())?;
        let mut child = started.map_err(|error| NotStarted { program: job.command[0].clone(), error })?;
        // Before the next one is started, or it would inherit this end, too, and the end of this process would not be noticed.
        drop(theirs);
        let group = Pid::from_child(&child);
        self.watchdog.begin(group);
        if let Some(stdin) = child.stdin.take() {
            feed(stdin);
        }
        self.outputs.take(rank, child.stdout.take(), child.stderr.take());
        self.ranks.push(Rank { child, group, ended: None });
        connections.join(rank, ours);
        Ok(())
    }

    fn command(&self, job: &Job<'_>, rank: u32, socket: &OwnedFd) -> Command {
        let mut command = Command::new(&job.command[0]);
        command.args(&job.command[1..]);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| FOREIGN.iter().any(|foreign| name.starts_with(foreign))) {
                command.env_remove(name);
            }
        }
        command
            .env("PMI_FD", socket.as_raw_fd().to_string())
            .env("PMI_RANK", rank.to_string())
            .env("PMI_SIZE", job.count.to_string())
            .env("IRONBAND_RUN", "1")
            .envs(job.variables.iter().map(|(name, value)| (name, value)))
            // A group of its own, so that what it starts can be ended with it.
            .process_group(0)
            .stdin(if rank == 0 && may_read_stdin() { Stdio::piped() } else { Stdio::null() });
        if job.tag_output {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        command
    }

    /// Those that have ended since the last call.
    pub(super) fn reap(&mut self) -> Vec<(u32, ExitStatus)> {
        let ended = self.ranks.iter_mut().enumerate();
        ended.filter_map(|(number, rank)| rank.reap().map(|status| (number as u32, status))).collect()
    }

    /// Waits a little for the end of one process.
    pub(super) fn wait_for(&mut self, rank: u32, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            let status = self.ranks[rank as usize].reap();
            if status.is_some() || start.elapsed() > limit {
                return status;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many still run.
    pub(super) fn running(&self) -> usize {
        self.ranks.iter().filter(|rank| rank.ended.is_none()).count()
    }

    /// How many of the others still run.
    pub(super) fn running_beside(&self, rank: u32) -> usize {
        self.running() - usize::from(self.ranks[rank as usize].ended.is_none())
    }

    /// Sends a signal to all processes that still run, and to what they have started.
    pub(super) fn signal(&self, signal: Signal) {
        for rank in self.ranks.iter().filter(|rank| rank.ended.is_none()) {
            let _ = kill_process_group(rank.group, signal);
        }
    }

    pub(super) fn id(&self, rank: u32) -> u32 {
        self.ranks[rank as usize].child.id()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            // Also what an ended process has left behind in its group.
            let _ = kill_process_group(rank.group, Signal::KILL);
            let _ = rank.child.wait();
            self.watchdog.end(rank.group);
        }
        self.outputs.finish();
    }
}

/// Runs `work` bound to a processor: what it starts inherits that.
fn bind_around<T>(processor: Option<usize>, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let Some(processor) = processor else { return Ok(work()) };
    let before = sched_getaffinity(None).context("the processors of this process; try --bind-to none")?;
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set)
        .with_context(|| format!("binding to processor {processor}; try --bind-to none"))?;
    let result = work();
    sched_setaffinity(None, &before).context("the processors of this process; try --bind-to none")?;
    Ok(result)
}

/// False in the background of a terminal, where reading would stop this process.
fn may_read_stdin() -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return true;
    }
    rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Copies standard input to the first process, until either ends.
fn feed(mut to: impl Write + Send + 'static) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
}

/// The exit status that a shell would show.
pub(super) fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        (None, None) => 1,
    }
}

/// How a process has ended, in words.
pub(super) fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("unknown");
            format!("was ended by signal {signal} ({name})")
        }
        None => format!("ended with status {}", code(status)),
    }
}
