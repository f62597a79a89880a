//! Whether the kernel lets processes copy each other's memory: the probe, and what stands in the way.

use std::sync::atomic::AtomicU64;

use ironband_core::wire::Card;

use super::copy::{self, CrossMemoryError};

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
