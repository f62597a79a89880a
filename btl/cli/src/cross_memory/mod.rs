//! Whether one process of this user may reach another's memory (cross-memory attach).
//!
//! Kernel settings, containers and security filters each can forbid it, so nothing is deduced: two processes are
//! started, as siblings because that is what the ranks of a node are to each other, and one really reads and
//! writes a buffer of the other. A parent and its child would prove nothing: Yama allows that pair by default and
//! refuses siblings.
//!
//! ```text
//! doctor -+- cross-memory-target   prints pid, address, length; waits; reports whether its buffer was rewritten
//!         +- cross-memory-peer     reads that buffer, writes it, prints what happened
//! ```

mod syscall;

use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// Large enough to span pages, so that a short copy would show.
const BUFFER_BYTES: usize = 64 << 10;
const ORIGINAL_SALT: u8 = 0x5a;
const REWRITTEN_SALT: u8 = 0xc3;

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
pub(crate) fn attempt(allow_any: bool) -> Attempt {
    try_attempt(allow_any).unwrap_or_else(|error| Attempt::NotTried { message: format!("{error:#}") })
}

fn try_attempt(allow_any: bool) -> anyhow::Result<Attempt> {
    let own = std::env::current_exe()?;
    let mut target = Command::new(&own);
    target.arg("cross-memory-target").stdin(Stdio::piped()).stdout(Stdio::piped());
    if allow_any {
        target.arg("--allow-any");
    }
    let mut target = EndedOnDrop(target.spawn()?);
    let mut answers = BufReader::new(target.0.stdout.take().expect("the target's output is piped"));
    let mut place = String::new();
    answers.read_line(&mut place)?;
    anyhow::ensure!(!place.is_empty(), "the target process ended before it named its buffer");

    let peer = Command::new(&own)
        .arg("cross-memory-peer")
        .args(place.split_whitespace())
        .stdin(Stdio::null())
        .output()?;
    anyhow::ensure!(
        peer.status.success(),
        "the peer process ended with {}: {}",
        peer.status,
        String::from_utf8_lossy(&peer.stderr).trim()
    );
    let attempt: Attempt = serde_json::from_slice(&peer.stdout)?;
    if attempt != Attempt::Worked {
        return Ok(attempt);
    }
    drop(target.0.stdin.take());
    let mut verdict = String::new();
    answers.read_to_string(&mut verdict)?;
    Ok(match verdict.trim() {
        "rewritten" => Attempt::Worked,
        _ => Attempt::Wrong {
            message: "process_vm_writev reported success and the bytes did not arrive".into(),
        },
    })
}

/// Never leaves the target process behind, whichever way `doctor` goes on.
struct EndedOnDrop(Child);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        // Either call can fail only because the process has ended, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
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
