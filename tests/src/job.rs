//! Runs one `mpirun`, or another launcher, in bounded time, and keeps everything needed to explain and repeat it.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{leftovers, processes};

/// How long a launcher may take to end its ranks once asked, before it is killed.
const TERMINATION_PATIENCE: Duration = Duration::from_secs(5);

/// How long the last process of a job may outlive its launcher.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);

/// A bound on what is printed of each stream of a failed job; a rank in a loop can write a lot.
const PRINTED_BYTES_MAX: usize = 20_000;

/// A running launcher.
#[derive(Debug)]
pub struct Job {
    child: Child,
    marker: String,
    /// The job's own temporary folder: its output, and Open MPI's session files.
    dir: TempDir,
    reproduce: String,
    started: Instant,
}

/// How a job came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    By(ExitStatus),
    /// Not within its time; it was killed.
    TimedOut(Duration),
}

/// What a job did and said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// What all ranks and the launcher printed on standard output.
    pub stdout: String,
    /// What they printed on standard error.
    pub stderr: String,
    /// Wall-clock time from start to end.
    pub took: Duration,
    /// A command line that does the same again.
    pub reproduce: String,
    /// Processes of the job that were alive when it should have been over (and have been killed).
    pub processes_left: Vec<String>,
    /// Files in the job's temporary folder that are not of Open MPI's session.
    pub temporaries_left: Vec<PathBuf>,
    /// Open MPI's own session folder, if it was left: a fact worth reporting, no fault of the transport.
    pub session_left: Vec<PathBuf>,
}

impl Job {
    /// Starts `mpirun` with these arguments and additional environment.
    pub fn start(args: &[String], environment: &[(String, String)]) -> Result<Self> {
        let words: Vec<String> = ["mpirun".to_owned()].into_iter().chain(args.iter().cloned()).collect();
        Self::start_command(&words, environment, b"")
            .context("mpirun cannot be started: install Open MPI (Debian: openmpi-bin)")
    }

    /// Starts any command, with this on its standard input.
    pub fn start_command(words: &[String], environment: &[(String, String)], stdin: &[u8]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir =
            tempfile::Builder::new().prefix("ironband-test-").tempdir().context("no temporary folder")?;
        let marker = format!("{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(&words[0]);
        // What the caller's shell sets for launchers must not change what is tested.
        for (name, _) in env::vars_os().filter(|(name, _)| is_a_launchers(name)) {
            command.env_remove(name);
        }
        fs::write(dir.path().join("stdin"), stdin).context("cannot write what is read")?;
        command
            .args(&words[1..])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .envs(ROOT_ENVIRONMENT)
            .env(processes::MARKER, &marker)
            .env("TMPDIR", dir.path())
            .stdin(File::open(dir.path().join("stdin")).context("cannot open what is read")?)
            .stdout(create(dir.path(), "stdout")?)
            .stderr(create(dir.path(), "stderr")?)
            .process_group(0);
        let reproduce = command_line(words, environment);
        let child = command.spawn().with_context(|| format!("{} cannot be started", words[0]))?;
        Ok(Self { child, marker, dir, reproduce, started: Instant::now() })
    }

    /// The process id of the launcher.
    pub fn launcher_pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The living processes of this job, the launcher among them: ids and command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let living = processes::of_job(&self.marker);
        living.into_iter().map(|process| (process.pid, process.command)).collect()
    }

    /// What has been printed on standard output so far.
    pub fn stdout(&self) -> String {
        read(self.dir.path(), "stdout")
    }

    /// Waits until `done` holds for the standard output so far; false if the job ends or `patience` does before.
    pub fn wait_for_output(&mut self, patience: Duration, done: impl Fn(&str) -> bool) -> Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            if done(&self.stdout()) {
                return Ok(true);
            }
            if self.child.try_wait()?.is_some() || Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What has been printed on standard error so far.
    pub fn stderr(&self) -> String {
        read(self.dir.path(), "stderr")
    }

    /// Sends a signal to one process of this job.
    pub fn signal(&self, pid: i32, signal: Signal) {
        processes::signal(pid, signal);
    }

    /// Sends SIGKILL to one process of this job.
    pub fn kill(&self, pid: i32) {
        processes::kill(pid);
    }

    /// Files under `/dev/shm` and `/tmp` that these processes use, apart from the job's own temporary folder.
    pub fn files_used(&self, pids: &[i32]) -> BTreeSet<PathBuf> {
        pids.iter()
            .flat_map(|&pid| processes::files_of(pid))
            .filter(|path| !path.starts_with(self.dir.path()))
            .collect()
    }

    /// As [`Job::wait`], for a job that has to end by itself, however that is, and to leave no process behind.
    ///
    /// # Panics
    /// When it does not.
    pub fn finish(self, time: Duration) -> Outcome {
        let outcome = self.wait(time).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(!matches!(outcome.ended, Ended::TimedOut(_)), "{}", outcome.explain());
        assert!(outcome.processes_left.is_empty(), "{}", outcome.explain());
        outcome
    }

    /// Waits for the end, kills what is not over in time, and gathers what was said.
    pub fn wait(mut self, time: Duration) -> Result<Outcome> {
        let deadline = self.started + time;
        let ended = match self.wait_until(deadline)? {
            Some(status) => Ended::By(status),
            None => {
                self.terminate()?;
                Ended::TimedOut(time)
            }
        };
        let took = self.started.elapsed();
        let left = processes::left_of_job(&self.marker, EXIT_PATIENCE);
        processes::kill_job(&self.marker);
        let (stdout, stderr) = (self.stdout(), self.stderr());
        for stream in ["stdin", "stdout", "stderr"] {
            fs::remove_file(self.dir.path().join(stream))
                .with_context(|| format!("cannot remove {stream}"))?;
        }
        let (temporaries_left, session_left) = leftovers::foreign_entries(self.dir.path());
        Ok(Outcome {
            ended,
            stdout,
            stderr,
            took,
            reproduce: self.reproduce.clone(),
            processes_left: left
                .into_iter()
                .map(|process| format!("{} {}", process.pid, process.command))
                .collect(),
            temporaries_left,
            session_left,
        })
    }

    fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the launcher")? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the launcher to end its ranks, as it knows them all; then kills whatever is left.
    fn terminate(&mut self) -> Result<()> {
        processes::signal(self.launcher_pid(), Signal::TERM);
        if self.wait_until(Instant::now() + TERMINATION_PATIENCE)?.is_none() {
            processes::kill_job(&self.marker);
            self.child.wait().context("cannot wait for the launcher")?;
        }
        Ok(())
    }
}

impl Drop for Job {
    /// A test that fails half-way leaves no process behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            processes::kill_job(&self.marker);
            let _reaped = self.child.wait();
        }
    }
}

impl Outcome {
    /// True if the launcher ended in time, with a status of 0.
    pub fn is_well_ended(&self) -> bool {
        matches!(self.ended, Ended::By(status) if status.success())
    }

    /// True if all ranks ended well, in time, and nothing of the job was left.
    pub fn is_success(&self) -> bool {
        self.is_well_ended() && self.processes_left.is_empty() && self.temporaries_left.is_empty()
    }

    /// Of agents, of which each prints `RANK of RANKS: ok` in the end.
    ///
    /// # Panics
    /// When it has not ended well, or one of so many ranks has not said so.
    #[track_caller]
    pub fn expect_ok(&self, ranks: u32) {
        assert!(self.is_well_ended(), "{}", self.explain());
        for rank in 0..ranks {
            assert!(self.stdout.contains(&format!("{rank} of {ranks}: ok")), "{}", self.explain());
        }
        println!("{ranks} ranks: ok after {:.2} s", self.took.as_secs_f64());
    }

    /// Everything there is to say about it, the command to repeat it first.
    pub fn explain(&self) -> String {
        let mut text = format!("to repeat: {}\n", self.reproduce);
        let how = match self.ended {
            Ended::By(status) => format!("ended with {status} after {:.1} s", self.took.as_secs_f64()),
            Ended::TimedOut(time) => format!("was not over after {} s and has been killed", time.as_secs()),
        };
        let _infallible = writeln!(text, "the launcher {how}");
        for process in &self.processes_left {
            let _infallible = writeln!(text, "process left over (killed now): {process}");
        }
        for path in &self.temporaries_left {
            let _infallible = writeln!(text, "temporary file left over: {}", path.display());
        }
        for (name, stream) in [("standard output", &self.stdout), ("standard error", &self.stderr)] {
            let _infallible = writeln!(text, "---- {name} ----\n{}", shortened(stream));
        }
        text
    }
}

/// As root, for containers; the two variables mean nothing to an ordinary user.
const ROOT_ENVIRONMENT: [(&str, &str); 2] =
    [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];

fn is_a_launchers(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["OMPI_", "PMIX_", "ORTE_", "PRTE_", "PMI_", "IRONBAND_PMI", "IRONBAND_RUN"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn create(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    File::create(&path).with_context(|| format!("cannot create {}", path.display()))
}

fn read(dir: &Path, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap_or_default()).into_owned()
}

/// The beginning and the end: the first failure is at the one, what `mpirun` made of it at the other.
fn shortened(text: &str) -> String {
    let text = text.trim_end();
    if text.len() <= PRINTED_BYTES_MAX {
        return text.to_owned();
    }
    let boundary =
        |from: usize| (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    let (head, tail) = (boundary(PRINTED_BYTES_MAX / 2), boundary(text.len() - PRINTED_BYTES_MAX / 2));
    format!("{}\n[... {} bytes left out ...]\n{}", &text[..head], tail - head, &text[tail..])
}

fn command_line(command: &[String], environment: &[(String, String)]) -> String {
    let mut words = vec!["env".to_owned()];
    words.extend(ROOT_ENVIRONMENT.iter().map(|(name, value)| format!("{name}={value}")));
    words.extend(environment.iter().map(|(name, value)| quoted(&format!("{name}={value}"))));
    words.extend(command.iter().map(|word| quoted(word)));
    words.join(" ")
}

/// Quoted for a shell, if it needs it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("seed=5"), "seed=5");
        assert_eq!(quoted("^ucx"), "'^ucx'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn long_output_keeps_both_ends() {
        let text = format!("first {} last", "é".repeat(PRINTED_BYTES_MAX));
        let short = shortened(&text);
        assert!(short.starts_with("first ") && short.ends_with(" last"));
        assert!(short.len() < PRINTED_BYTES_MAX + 100);
    }
}
