//! One run of one benchmark under `mpirun`.

use super::measurement::{self, Measurement, ParseError};
use super::transport::Transport;
use crate::open_mpi::consent_if_root;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long an `mpirun` that was asked to end may take to end its ranks, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How long a benchmark may take to print its help.
const HELP_TIMEOUT: Duration = Duration::from_secs(20);

/// Everything about a job that a run does not change.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) mpirun: PathBuf,
    /// Options of `mpirun` that are the same for every transport.
    pub(super) options: Vec<String>,
    pub(super) benchmark: Program,
    pub(super) benchmark_arguments: Vec<String>,
    pub(super) output: OutputForm,
    pub(super) timeout: Duration,
}

/// A benchmark: a program, or one of those that a program contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Which one, as `osu_collective` is told.
    pub(super) operation: Option<String>,
}

impl Program {
    /// OSU's name, or the file's.
    pub(super) fn name(&self) -> String {
        let file = || self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        self.operation.as_ref().map_or_else(file, |operation| format!("osu_{operation}"))
    }
}

/// The form in which a benchmark says what it measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputForm {
    /// The table of every OSU-style benchmark.
    Table,
    /// The JSON document of Ironband's own, which they print with `--json`.
    Json,
}

impl OutputForm {
    /// The better of the forms that a benchmark knows, by its own help text. Benchmarks start MPI before they print
    /// it, so `mpirun` starts this one rank too.
    pub(super) fn of(benchmark: &Path, mpirun: &Path) -> Self {
        let mut command = Command::new(mpirun);
        command.args(["-n", "1", "--mca", "pml", "ob1", "--mca", "btl", "self"]).arg(benchmark).arg("--help");
        command.envs(consent_if_root());
        match run_to_end(&mut command, HELP_TIMEOUT) {
            Ok((_, ended)) if ended.stdout.contains("--json") => Self::Json,
            // Whatever else it does with --help, its table is what an OSU-style benchmark is known by.
            _ => Self::Table,
        }
    }
}

/// A run that gave no measurement.
#[derive(Debug, Error)]
#[error("{reason}\n  command: {command}{}", indented(output))]
pub(super) struct JobError {
    pub(super) reason: Reason,
    /// The command as a shell would take it.
    pub(super) command: String,
    /// What the run wrote to standard error, or to standard output if that was all.
    pub(super) output: String,
}

/// What went wrong.
#[derive(Debug, Error)]
pub(super) enum Reason {
    #[error("mpirun could not be started: {0}")]
    Start(std::io::Error),
    #[error("the run ended with {0}")]
    Status(ExitStatus),
    #[error("the run was ended after {} s (--timeout)", .0.as_secs())]
    Timeout(Duration),
    #[error("the run's output is no measurement: {0}")]
    Output(#[from] ParseError),
}

fn indented(output: &str) -> String {
    output.lines().map(|line| format!("\n  | {line}")).collect()
}

impl Job {
    /// The arguments of `mpirun` for one transport.
    fn arguments(&self, transport: &Transport) -> Vec<String> {
        let mut arguments = self.options.clone();
        for (key, value) in &transport.settings {
            arguments.extend(["--mca".to_owned(), (*key).to_owned(), value.clone()]);
        }
        arguments.push(self.benchmark.path.display().to_string());
        arguments.extend(self.benchmark.operation.clone());
        arguments.extend(transport.arguments.iter().map(|word| (*word).to_owned()));
        arguments.extend(self.benchmark_arguments.iter().cloned());
        if self.output == OutputForm::Json {
            arguments.push("--json".to_owned());
        }
        arguments
    }

    /// The whole command for one transport, ready to be pasted into a shell.
    pub(super) fn command_line(&self, transport: &Transport) -> String {
        let consent = consent_if_root().into_iter().map(|(name, value)| format!("{name}={value}"));
        let program = self.mpirun.display().to_string();
        let words = consent.chain([program]).chain(self.arguments(transport));
        words.map(|word| shell_quoted(&word)).collect::<Vec<_>>().join(" ")
    }

    /// Runs the benchmark over one transport and reads what it measured.
    pub(super) fn run(&self, transport: &Transport) -> Result<Measurement, JobError> {
        let mut command = Command::new(&self.mpirun);
        command.args(self.arguments(transport)).envs(consent_if_root());
        let (reason, output) = match run_to_end(&mut command, self.timeout) {
            Err(reason) => (reason, String::new()),
            Ok((Err(reason), ended)) => (reason, ended.complaint()),
            Ok((Ok(()), ended)) => match self.parse(&ended.stdout) {
                Ok(measurement) => return Ok(measurement),
                Err(error) => (error.into(), ended.complaint()),
            },
        };
        Err(JobError { reason, command: self.command_line(transport), output })
    }

    fn parse(&self, output: &str) -> Result<Measurement, ParseError> {
        match self.output {
            OutputForm::Table => measurement::text::parse(output),
            OutputForm::Json => measurement::json::parse(output),
        }
    }
}

/// Runs a command to its end or the timeout's. An outer error is a command that never ran.
fn run_to_end(command: &mut Command, timeout: Duration) -> Result<(Result<(), Reason>, Ended), Reason> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Reason::Start)?;
    let stdout = read_aside(child.stdout.take().expect("standard output is piped"));
    let stderr = read_aside(child.stderr.take().expect("standard error is piped"));
    let deadline = Instant::now() + timeout;
    // Waiting for the end of the output costs no processor time, which belongs to the benchmark.
    let outcome = match stdout.recv_timeout(timeout) {
        Ok(stdout) => wait_until(&mut child, deadline).map(|status| (status, stdout)),
        Err(_) => None,
    };
    let Some((status, stdout)) = outcome else {
        end(&mut child);
        let ended = Ended { stdout: String::new(), stderr: stderr.recv_timeout(GRACE).unwrap_or_default() };
        return Ok((Err(Reason::Timeout(timeout)), ended));
    };
    let ended = Ended { stdout, stderr: stderr.recv_timeout(GRACE).unwrap_or_default() };
    let outcome = if status.success() { Ok(()) } else { Err(Reason::Status(status)) };
    Ok((outcome, ended))
}

/// What a run wrote.
struct Ended {
    stdout: String,
    stderr: String,
}

impl Ended {
    fn complaint(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        text.trim().to_owned()
    }
}

/// Reads a pipe to its end in a thread, so that neither pipe can fill while the other is read.
fn read_aside(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error ends the text early, and the parser then says what is missing.
        let _ = pipe.read_to_end(&mut bytes);
        // Nobody listens any more after a timeout.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Asks `mpirun` to end, which ends its ranks too, and kills it if it does not.
fn end(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if wait_until(child, Instant::now() + GRACE).is_none() {
        // As above; and then there is nothing left to wait for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-=+,./:@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in ["plain,self", "two words", "", "it's", "$HOME `ls` \"x\"", "a*b?", "a\\b"] {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", shell_quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(shell_quoted("ironband,self"), "ironband,self");
    }

    fn nowhere() -> Transport {
        Transport { name: "none".into(), settings: Default::default(), arguments: &[] }
    }

    fn job(script: &str, timeout: Duration) -> Job {
        Job {
            mpirun: "/bin/sh".into(),
            options: vec!["-c".into(), script.into()],
            benchmark: Program { path: "osu_latency".into(), operation: None },
            benchmark_arguments: vec![],
            output: OutputForm::Table,
            timeout,
        }
    }

    #[test]
    fn more_output_than_a_pipe_holds_on_both_sides_is_read() {
        let script = "head -c 300000 /dev/zero | tr '\\0' e >&2; echo '# Size  Latency (us)'; \
                      i=0; while [ $i -lt 20000 ]; do echo \"# $i\"; i=$((i+1)); done; echo '# Size  Latency (us)'; echo 8 1.5";
        let measurement = job(script, Duration::from_secs(60)).run(&nowhere()).unwrap();
        assert_eq!(measurement.columns[0].values.get(&8), Some(&1.5));
    }

    #[test]
    fn a_run_that_hangs_is_ended_and_says_what_it_had_to_say() {
        let started = Instant::now();
        let error =
            job("echo stuck >&2; exec sleep 60", Duration::from_millis(300)).run(&nowhere()).unwrap_err();
        assert!(matches!(error.reason, Reason::Timeout(_)));
        assert_eq!(error.output, "stuck");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_run_that_closes_its_output_and_hangs_is_ended() {
        let error = job("exec sleep 60 >&- 2>&-", Duration::from_millis(300)).run(&nowhere()).unwrap_err();
        assert!(matches!(error.reason, Reason::Timeout(_)));
    }

    #[test]
    fn a_run_that_fails_shows_its_command_and_its_words() {
        let text =
            job("echo because >&2; exit 3", Duration::from_secs(60)).run(&nowhere()).unwrap_err().to_string();
        assert!(
            text.contains("exit status: 3") && text.contains("| because") && text.contains("osu_latency"),
            "{text}"
        );
    }
}
