//! A verb that failed.

use crate::DeviceError;

/// Which verb, why, and what the likely cause is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{verb} failed: {reason}; {fix}")]
pub(in crate::verbs) struct VerbError {
    /// The verb and what it was for.
    pub(in crate::verbs) verb: String,
    /// The system's error number.
    pub(in crate::verbs) number: i32,
    reason: String,
    fix: &'static str,
}

impl VerbError {
    /// From the verb's return value.
    pub(super) fn from_number(verb: impl Into<String>, number: i32) -> Self {
        let fix = match number {
            libc::ENOMEM | libc::EAGAIN => {
                "the adapter or the limit on locked memory (ulimit -l) is used up: raise the limit, or set memory_bytes lower"
            }
            libc::EPERM | libc::EACCES => {
                "this process lacks the permission: look at /dev/infiniband/uverbs*"
            }
            libc::EINVAL => {
                "the adapter does not support what was asked of it: report it with the output of ibv_devinfo -v"
            }
            libc::ENOTCONN => {
                "the connection has ended meanwhile: the peer's process has ended, or its adapter has refused a remote access"
            }
            libc::ENODEV | libc::EIO => "the adapter is gone or has failed: look at the kernel's log",
            libc::EFAULT => "the memory is not mapped, or is mapped for reading only",
            libc::EADDRINUSE => {
                "other sockets have the ports: widen /proc/sys/net/ipv4/ip_local_port_range, or end what holds so many (ss -tan)"
            }
            libc::ENOSPC => "the adapter has no more of these objects",
            libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH => {
                "the peer's address cannot be resolved: look at the route and at the neighbour table (ip neigh)"
            }
            _ => "look at the kernel's log",
        };
        let reason = std::io::Error::from_raw_os_error(number).to_string();
        Self { verb: verb.into(), number, reason, fix }
    }

    /// From `errno`, for verbs that return a pointer.
    pub(super) fn from_errno(verb: impl Into<String>) -> Self {
        Self::from_number(verb, std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

/// For verbs that return 0 or an error number, or -1 and `errno`.
pub(super) fn check(verb: &str, returned: i32) -> Result<(), VerbError> {
    match returned {
        0 => Ok(()),
        number if number > 0 => Err(VerbError::from_number(verb, number)),
        _ => Err(VerbError::from_errno(verb)),
    }
}

impl From<VerbError> for DeviceError {
    fn from(error: VerbError) -> Self {
        Self::System { call: error.verb, reason: error.reason, fix: error.fix.to_owned() }
    }
}
