//! Finds the processes of a job, wherever they have gone.
//!
//! Ranks are put into process groups of their own, spawned children have other parents, and a rank whose `mpirun` was
//! killed belongs to init. What they all keep is their environment, so each job carries a marker in it.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The variable that holds a job's marker.
pub(crate) const MARKER: &str = "IRONBAND_TEST_JOB";

/// A living process of a job.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

/// All living processes with this marker.
pub(crate) fn of_job(marker: &str) -> Vec<Process> {
    let wanted = format!("{MARKER}={marker}");
    all_pids()
        .filter(|&pid| {
            let environment = fs::read(proc(pid, "environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
                && is_alive(pid)
        })
        .map(|pid| Process { pid, command: command_of(pid) })
        .collect()
}

/// The processes of the job that are still there after `patience`.
pub(crate) fn left_of_job(marker: &str, patience: Duration) -> Vec<Process> {
    let deadline = Instant::now() + patience;
    loop {
        let left = of_job(marker);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends every process of the job, and of no other.
pub(crate) fn kill_job(marker: &str) {
    for process in of_job(marker) {
        kill(process.pid);
    }
}

/// Sends SIGKILL; a process that has ended already is as good.
pub(crate) fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal; a process that has ended already cannot mind.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _already_ended = kill_process(pid, signal);
    }
}

/// Every file under `/dev/shm` or `/tmp` that a process has open or mapped.
pub(crate) fn files_of(pid: i32) -> Vec<PathBuf> {
    let open = fs::read_dir(proc(pid, "fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let maps = fs::read_to_string(proc(pid, "maps")).unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    open.chain(mapped).filter(|path| path.starts_with("/dev/shm") || path.starts_with("/tmp")).collect()
}

/// The process ids of everything that runs.
pub(crate) fn all_pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
}

fn proc(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// False for one that has ended and only waits for its parent to notice.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(proc(pid, "stat")).unwrap_or_default();
    // The state follows the command's name, which is in parentheses and may itself hold some.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn command_of(pid: i32) -> String {
    let line = fs::read(proc(pid, "cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned()
}
