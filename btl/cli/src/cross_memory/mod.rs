//! Whether one process of this user may reach another's memory (cross-memory attach).
//!
//! Kernel settings, containers and security filters each can forbid it, so nothing is deduced: two processes are
//! started, as siblings because that is what the ranks of a node are to each other, and one really reads and
//! writes a buffer of the other. A parent and its child would prove nothing: Yama allows that pair by default and
//! refuses siblings.
//!
//! ```text
//! parent -+- cross-memory-target   prints pid, address, length; waits; reports whether its buffer was rewritten
//!         +- cross-memory-peer     reads that buffer, writes it, prints what happened
//! ```

mod syscall;

use crate::child::EndedOnDrop;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Large enough to span pages, so that a short copy would show.
const BUFFER_BYTES: usize = 64 << 10;
const ORIGINAL_SALT: u8 = 0x5a;
const REWRITTEN_SALT: u8 = 0xc3;

/// How long both processes of one attempt may take together: they need milliseconds, on a crowded machine seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether processes of this node may copy from each other.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CrossMemory {
    /// Between two processes that asked for nothing.
    pub(crate) plain: Attempt,
    /// When Yama refused that: with a target that lets any process attach.
    pub(crate) with_consent: Option<Attempt>,
    /// `/proc/sys/kernel/yama/ptrace_scope`, where the kernel has Yama.
    pub(crate) ptrace_scope: Option<u8>,
}

impl CrossMemory {
    /// Tries it as ranks do, who give their consent where Yama asks for it.
    pub(crate) fn find() -> Self {
        let ptrace_scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
        let ptrace_scope = ptrace_scope.and_then(|text| text.trim().parse().ok());
        let plain = attempt(false);
        // Consent changes only what Yama's scope 1 decides.
        let consent_may_help = ptrace_scope == Some(1) && matches!(plain, Attempt::Refused { .. });
        Self { with_consent: consent_may_help.then(|| attempt(true)), plain, ptrace_scope }
    }

    /// What ranks will meet: with their consent where it was needed.
    pub(crate) fn between_ranks(&self) -> &Attempt {
        self.with_consent.as_ref().unwrap_or(&self.plain)
    }
}

/// What came of one attempt to read and write a sibling's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Attempt {
    /// Every byte was read and written.
    Worked,
    /// The kernel said no.
    Refused {
        /// The system call that failed.
        call: String,
        /// Its error number.
        errno: i32,
        /// The error in words.
        message: String,
    },
    /// The calls succeeded and the bytes were wrong.
    Wrong {
        /// What was wrong.
        message: String,
    },
    /// The attempt could not be made.
    NotTried {
        /// Why not.
        message: String,
    },
}

/// Arguments of the target process.
#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// Ask Yama to let any process attach.
    #[arg(long)]
    allow_any: bool,
}

/// Arguments of the peer process.
#[derive(Debug, Args)]
pub(crate) struct PeerArguments {
    pid: libc::pid_t,
    address: usize,
    length_bytes: usize,
}

/// Starts a target and a peer and answers with what the peer found. With `allow_any` the target first asks Yama to
/// let any process attach to it, as MPI libraries do.
fn attempt(allow_any: bool) -> Attempt {
    try_attempt(allow_any).unwrap_or_else(|error| Attempt::NotTried { message: format!("{error:#}") })
}

fn try_attempt(allow_any: bool) -> anyhow::Result<Attempt> {
    let own = std::env::current_exe()?;
    let (mut target, mut peer) = (Command::new(&own), Command::new(&own));
    target.arg("cross-memory-target");
    if allow_any {
        target.arg("--allow-any");
    }
    peer.arg("cross-memory-peer");
    attempt_between(target, peer, PATIENCE)
}

/// The peer gets the place that the target prints as further arguments.
fn attempt_between(mut target: Command, mut peer: Command, patience: Duration) -> anyhow::Result<Attempt> {
    let deadline = Instant::now() + patience;
    let mut target = EndedOnDrop(target.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let target_answers = Answers::of("target", &mut target, deadline);
    let place = target_answers.next()?;

    peer.args(place.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut peer = EndedOnDrop(peer.spawn()?);
    let attempt: Attempt = serde_json::from_str(&Answers::of("peer", &mut peer, deadline).next()?)?;
    if attempt != Attempt::Worked {
        return Ok(attempt);
    }
    drop(target.0.stdin.take());
    Ok(match target_answers.next()?.trim() {
        "rewritten" => Attempt::Worked,
        _ => Attempt::Wrong {
            message: "process_vm_writev reported success and the bytes did not arrive".into(),
        },
    })
}

/// The lines that a process prints, each awaited until the deadline at most: a process that a security filter stops
/// for good must not stop its parent too.
struct Answers {
    who: &'static str,
    lines: mpsc::Receiver<io::Result<String>>,
    deadline: Instant,
}

impl Answers {
    fn of(who: &'static str, process: &mut EndedOnDrop, deadline: Instant) -> Self {
        let output = process.0.stdout.take().expect("the output of both processes is piped");
        let (sender, lines) = mpsc::channel();
        // Ends with the process, because its output ends then.
        std::thread::spawn(move || {
            BufReader::new(output).lines().try_for_each(|line| sender.send(line)).ok();
        });
        Self { who, lines, deadline }
    }

    fn next(&self) -> anyhow::Result<String> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line?),
            Err(RecvTimeoutError::Timeout) => {
                anyhow::bail!("the {} process gave no answer in time and was ended", self.who)
            }
            Err(RecvTimeoutError::Disconnected) => {
                anyhow::bail!("the {} process ended before it answered", self.who)
            }
        }
    }
}

fn pattern(salt: u8) -> impl Iterator<Item = u8> {
    (0..BUFFER_BYTES).map(move |index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ salt)
}

/// Holds a buffer until standard input ends, then says whether a peer rewrote it.
pub(crate) fn run_target(arguments: &TargetArguments) -> anyhow::Result<ExitCode> {
    if arguments.allow_any {
        rustix::process::set_ptracer(rustix::process::PTracer::Any)?;
    }
    // Another process writes here, so the bytes are atomics and never a plain slice.
    let buffer: Vec<AtomicU8> = pattern(ORIGINAL_SALT).map(AtomicU8::new).collect();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{} {} {BUFFER_BYTES}", std::process::id(), buffer.as_ptr().expose_provenance())?;
    stdout.flush()?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    let rewritten =
        buffer.iter().zip(pattern(REWRITTEN_SALT)).all(|(byte, want)| byte.load(Ordering::Relaxed) == want);
    writeln!(stdout, "{}", if rewritten { "rewritten" } else { "unchanged" })?;
    Ok(ExitCode::SUCCESS)
}

/// Reads and rewrites the buffer of a target, and prints what came of it as JSON.
pub(crate) fn run_peer(arguments: &PeerArguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(arguments.length_bytes == BUFFER_BYTES, "the buffer must have {BUFFER_BYTES} bytes");
    println!("{}", serde_json::to_string(&reach(arguments))?);
    Ok(ExitCode::SUCCESS)
}

fn reach(target: &PeerArguments) -> Attempt {
    let mut bytes = vec![0; target.length_bytes];
    match syscall::read(target.pid, target.address, &mut bytes) {
        Err(error) => return refused("process_vm_readv", &error),
        Ok(copied) if copied != bytes.len() => return short("process_vm_readv", copied),
        Ok(_) if !bytes.iter().copied().eq(pattern(ORIGINAL_SALT)) => {
            return Attempt::Wrong {
                message: "process_vm_readv reported success and the bytes differ".into(),
            };
        }
        Ok(_) => {}
    }
    bytes = pattern(REWRITTEN_SALT).collect();
    match syscall::write(target.pid, target.address, &bytes) {
        Err(error) => refused("process_vm_writev", &error),
        Ok(copied) if copied != bytes.len() => short("process_vm_writev", copied),
        Ok(_) => Attempt::Worked,
    }
}

fn refused(call: &str, error: &std::io::Error) -> Attempt {
    Attempt::Refused {
        call: call.into(),
        errno: error.raw_os_error().unwrap_or(0),
        message: error.to_string(),
    }
}

fn short(call: &str, copied: usize) -> Attempt {
    Attempt::Wrong { message: format!("{call} copied {copied} of {BUFFER_BYTES} bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_patterns_differ_everywhere() {
        assert!(
            pattern(ORIGINAL_SALT)
                .zip(pattern(REWRITTEN_SALT))
                .all(|(original, rewritten)| original != rewritten)
        );
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn message(target: &str, peer: &str, patience: Duration) -> String {
        attempt_between(shell(target), shell(peer), patience).unwrap_err().to_string()
    }

    #[test]
    fn processes_that_never_answer_are_ended() {
        let (start, patience) = (Instant::now(), Duration::from_millis(300));
        assert!(
            message("exec sleep 60", "exit 0", patience).starts_with("the target process gave no answer")
        );
        let said = message("echo 1 2 3; exec sleep 60", "exec sleep 60", patience);
        assert!(said.starts_with("the peer process gave no answer"), "{said}");
        assert!(start.elapsed() < Duration::from_secs(30), "sleeping processes were awaited");
    }

    #[test]
    fn processes_that_end_without_an_answer_are_named() {
        let said = message("exit 3", "exit 0", PATIENCE);
        assert_eq!(said, "the target process ended before it answered");
        let said = message("echo 1 2 3; exec sleep 60", "exit 3", PATIENCE);
        assert_eq!(said, "the peer process ended before it answered");
    }

    #[test]
    fn ranks_meet_what_was_found_with_their_consent() {
        let refused = Attempt::Refused { call: "c".into(), errno: 1, message: "m".into() };
        let mut found = CrossMemory { plain: refused.clone(), with_consent: None, ptrace_scope: Some(1) };
        assert_eq!(found.between_ranks(), &refused);
        found.with_consent = Some(Attempt::Worked);
        assert_eq!(found.between_ranks(), &Attempt::Worked);
    }

    #[test]
    fn a_process_reaches_its_own_memory() {
        let buffer: Vec<AtomicU8> = pattern(ORIGINAL_SALT).map(AtomicU8::new).collect();
        let own = PeerArguments {
            pid: std::process::id() as libc::pid_t,
            address: buffer.as_ptr().expose_provenance(),
            length_bytes: BUFFER_BYTES,
        };
        match reach(&own) {
            Attempt::Worked => {
                let bytes = buffer.iter().map(|byte| byte.load(Ordering::Relaxed));
                assert!(bytes.eq(pattern(REWRITTEN_SALT)));
            }
            other => {
                eprintln!("SKIPPED a_process_reaches_its_own_memory: this machine forbids it: {other:?}")
            }
        }
    }

    #[test]
    fn an_address_that_is_not_mapped_is_refused() {
        let nowhere =
            PeerArguments { pid: std::process::id() as libc::pid_t, address: 0, length_bytes: BUFFER_BYTES };
        assert!(matches!(reach(&nowhere), Attempt::Refused { .. }));
    }
}
