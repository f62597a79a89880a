//! What this process is, to others on the same machine; and whether they live.

use std::os::unix::fs::MetadataExt;

use ironband_core::wire::HostIdentity;

use crate::DeviceError;

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
