//! What this process is, to others on the same machine.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;

use ironband_core::wire::{Card, HostIdentity};

use super::copy::{self, CrossMemoryError};
use crate::DeviceError;

/// Two words that peers may read and write to find out whether the kernel lets them.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Probe {
    value: AtomicU64,
    scratch: AtomicU64,
}

impl Probe {
    pub(crate) fn new(value: u64) -> Box<Self> {
        Box::new(Self { value: AtomicU64::new(value), scratch: AtomicU64::new(0) })
    }

    pub(crate) fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }
}

/// The kernel, namespace and user of this process.
pub(crate) fn identity() -> Result<HostIdentity, DeviceError> {
    let system = |path: &str, error: &dyn std::fmt::Display| DeviceError::System {
        call: format!("reading {path}"),
        reason: error.to_string(),
        fix: "mount /proc".to_owned(),
    };
    let boot_path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(boot_path).map_err(|e| system(boot_path, &e))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let boot_id = u128::from_str_radix(&digits, 16).map_err(|e| system(boot_path, &e))?.to_be_bytes();
    let namespace_path = "/proc/self/ns/pid";
    let namespace = std::fs::metadata(namespace_path).map_err(|e| system(namespace_path, &e))?;
    Ok(HostIdentity { boot_id, pid_namespace: namespace.ino(), uid: rustix::process::geteuid().as_raw() })
}

/// `N` random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], DeviceError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| DeviceError::System {
                call: "getrandom for the job key".to_owned(),
                reason: errno.to_string(),
                fix: "allow getrandom in the container's seccomp profile".to_owned(),
            })?;
    }
    Ok(bytes)
}

/// Tries a real copy from and to a peer; the error is the reason for a person.
pub(crate) fn probe_cross_memory(card: &Card) -> Result<(), String> {
    let mut value = 0_u64;
    let local = std::ptr::from_mut(&mut value).cast::<u8>();
    // SAFETY: 8 writable bytes of this frame.
    let read = unsafe { copy::read_process(card.pid, local, card.probe_address, 8) };
    read.map_err(|error| refusal("process_vm_readv", error))?;
    if value != card.probe_value {
        return Err("process_vm_readv reached another process than the peer".to_owned());
    }
    // SAFETY: 8 readable bytes of this frame; the peer offers its scratch word for this.
    let written = unsafe { copy::write_process(card.pid, local, card.probe_address + 8, 8) };
    written.map_err(|error| refusal("process_vm_writev", error))
}

fn refusal(call: &str, error: CrossMemoryError) -> String {
    match error {
        CrossMemoryError::Refused(number) => {
            let reason = std::io::Error::from_raw_os_error(number);
            let hint = match yama_scope() {
                Some(scope) if scope > 0 => format!("kernel.yama.ptrace_scope is {scope}; 0 or 1 allows it"),
                _ => {
                    "a seccomp profile or a user namespace forbids it; a container needs --cap-add=SYS_PTRACE"
                        .to_owned()
                }
            };
            format!("{call} is refused: {reason} ({hint})")
        }
        CrossMemoryError::Gone => format!("{call} found no such process"),
        CrossMemoryError::Unmapped => format!("{call} found no memory at the peer's probe address"),
    }
}

/// Where Yama allows copies only to processes that were declared as tracers, declares every process of this user. MPI
/// libraries do so for the same purpose; it is undone when the process ends.
pub(crate) fn allow_copies_by_peers() {
    if yama_scope() == Some(1) {
        // SAFETY: this prctl takes two numbers and touches no memory. If it fails, the probe will tell.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
    }
}

/// Yama's setting, if the kernel has it: 1 asks for [`allow_copies_by_peers`], 2 and 3 forbid copies.
pub(crate) fn yama_scope() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

/// True while a process with this number exists and has not ended: one that its parent has not waited for still exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    let exists = rustix::process::Pid::from_raw(pid.cast_signed())
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
    // The state follows the name, which is in brackets and may have brackets inside.
    let ended = |stat: String| {
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('Z' | 'X'))
    };
    exists && !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_not_alive_before_its_parent_waits() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("every system has cat");
        assert!(is_alive(child.id()));
        drop(child.stdin.take());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_alive(child.id()) {
            assert!(std::time::Instant::now() < deadline, "an ended process is taken for a living one");
            std::thread::yield_now();
        }
        child.wait().expect("a child");
        assert!(!is_alive(child.id()));
    }
}
