//! `process_vm_readv` and `process_vm_writev`, the only unsafe calls of this program.

use std::io;

/// Copies `local.len()` bytes from `remote_address` in the process `pid`; answers with how many arrived.
pub(super) fn read(pid: libc::pid_t, remote_address: usize, local: &mut [u8]) -> io::Result<usize> {
    let local_vector = libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: local.len() };
    let remote_vector = remote_vector(remote_address, local.len());
    // SAFETY: the kernel writes at most `iov_len` bytes at `iov_base`, which this function borrows exclusively for
    // the length of the call; the remote address is checked by the kernel against the other process' mappings.
    let copied =
        unsafe { libc::process_vm_readv(pid, &raw const local_vector, 1, &raw const remote_vector, 1, 0) };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

/// Copies `local` to `remote_address` in the process `pid`; answers with how many bytes left.
///
/// The other process must hold a buffer of that length there that it reads as shared memory.
pub(super) fn write(pid: libc::pid_t, remote_address: usize, local: &[u8]) -> io::Result<usize> {
    let local_vector = libc::iovec { iov_base: local.as_ptr().cast_mut().cast(), iov_len: local.len() };
    let remote_vector = remote_vector(remote_address, local.len());
    // SAFETY: the kernel only reads `iov_len` bytes at `iov_base`, which this function borrows; the bytes it
    // changes belong to the target that this program started, whose buffer consists of atomics made to be written.
    let copied =
        unsafe { libc::process_vm_writev(pid, &raw const local_vector, 1, &raw const remote_vector, 1, 0) };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

fn remote_vector(address: usize, length_bytes: usize) -> libc::iovec {
    libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: length_bytes }
}
