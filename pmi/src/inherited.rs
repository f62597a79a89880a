//! The descriptor that a launcher leaves to its processes. The one place where a number becomes a descriptor.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::error::Reason;

/// The socket with this number, to be closed by those that this process starts: a child of a child must not talk to the
/// launcher in our name. The number itself stays open, so that another library of this process that asks for `PMI_FD` finds it.
///
/// # Errors
/// When the number is no open socket: it is another program's, inherited with its variables.
pub(crate) fn socket(fd: i32) -> Result<OwnedFd, Reason> {
    let stale = |why: &str| {
        Reason::Environment(format!(
            "PMI_FD={fd} {why}: the variables may be another program's, which started this one"
        ))
    };
    let file = std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|_| stale("is not open"))?;
    if !file.to_string_lossy().starts_with("socket:") {
        return Err(stale("is no socket"));
    }
    // SAFETY: it was open a moment ago, and it is borrowed for this function only. Nothing in this process owns what a launcher left
    // behind, so nothing closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|error| Reason::system("PMI_FD", error))?;
    fcntl_dupfd_cloexec(borrowed, 3).map_err(|error| Reason::system("PMI_FD", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;

    use rustix::io::fcntl_getfd;

    #[test]
    fn a_socket_is_taken_and_nothing_else() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        fcntl_setfd(&ours, FdFlags::empty()).unwrap();
        let taken = socket(ours.as_raw_fd()).unwrap();
        for fd in [ours.as_fd(), taken.as_fd()] {
            assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC), "children must not have it");
        }
        UnixStream::from(taken).write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        theirs.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        for (fd, wanted) in [(-1, "not open"), (987_654, "not open")] {
            let reason = socket(fd).unwrap_err().to_string();
            assert!(reason.contains(wanted), "{reason}");
        }
        let file = tempfile::tempfile().unwrap();
        assert!(socket(file.as_raw_fd()).unwrap_err().to_string().contains("no socket"));
    }
}
