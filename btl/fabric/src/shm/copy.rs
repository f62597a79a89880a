//! Raw copies: into and out of memory that a peer can write, and between processes through the kernel.

/// How far ahead of the copy lines are requested; more than the processor can have in flight is wasted.
const PREFETCH_BYTES_MAX: usize = 8192;

/// Requests the ownership of cache lines that the peer read last, all at once, so that the transfers overlap instead of
/// each store waiting for its own. Only a hint: it cannot fault.
#[inline]
pub(crate) fn prefetch_for_write(target: *mut u8, len_bytes: usize) {
    let end = target.wrapping_add(len_bytes.min(PREFETCH_BYTES_MAX));
    let mut line = target.map_addr(|address| address & !63);
    while line < end {
        prefetch_line_for_write(line);
        line = line.wrapping_add(64);
    }
}

/// As [`prefetch_for_write`], for the line that this byte is in.
#[inline(always)]
pub(crate) fn prefetch_line_for_write(byte: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: PREFETCHW is a hint that never faults, whatever the address (Intel SDM volume 2B); processors without it treat the opcode as
    // a no-op.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) byte, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = byte;
}

/// How much of a message is requested before the layer above has looked at its header.
const EARLY_BYTES_MAX: usize = 1024;

/// Requests the cache lines of a message that has just been found, all at once and before the layer above has decided where
/// they go. Only a hint: it cannot fault.
#[inline(always)]
pub(crate) fn prefetch_for_read(start: *const u8, len_bytes: usize) {
    let end = start.wrapping_add(len_bytes.min(EARLY_BYTES_MAX));
    let mut line = start;
    while line < end {
        prefetch_line_for_read(line);
        line = line.wrapping_add(64);
    }
}

/// As [`prefetch_for_read`], of the line that this byte is in.
#[inline(always)]
pub(crate) fn prefetch_line_for_read(byte: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint that never faults, whatever the address (Intel SDM volume 2B).
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(byte.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = byte;
}

/// Why a copy through the kernel failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrossMemoryError {
    /// One of the ranges is not mapped.
    Unmapped,
    /// The process has ended.
    Gone,
    /// The kernel does not allow it, or another error: the raw number.
    Refused(i32),
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// Copies from another process (`process_vm_readv`).
///
/// # Safety
/// `local` is writable for `len_bytes`. The remote range may be anything: the kernel checks it.
pub(crate) unsafe fn read_process(
    pid: u32,
    local: *mut u8,
    remote: u64,
    len_bytes: usize,
) -> Result<(), CrossMemoryError> {
    // SAFETY: as promised by the caller.
    unsafe { cross_memory(Direction::Read, pid, local, remote, len_bytes) }
}

/// Copies to another process (`process_vm_writev`).
///
/// # Safety
/// `local` is readable for `len_bytes`. The peer asked for the remote range to be written.
pub(crate) unsafe fn write_process(
    pid: u32,
    local: *const u8,
    remote: u64,
    len_bytes: usize,
) -> Result<(), CrossMemoryError> {
    // SAFETY: as promised by the caller; the pointer is not written through in this direction.
    unsafe { cross_memory(Direction::Write, pid, local.cast_mut(), remote, len_bytes) }
}

/// One call moves at most this much (`MAX_RW_COUNT` is 2 GiB less a page).
const CALL_BYTES_MAX: usize = 1 << 30;

/// # Safety
/// As [`read_process`] or [`write_process`].
unsafe fn cross_memory(
    direction: Direction,
    pid: u32,
    local: *mut u8,
    remote: u64,
    len_bytes: usize,
) -> Result<(), CrossMemoryError> {
    let mut done = 0;
    while done < len_bytes {
        let want = (len_bytes - done).min(CALL_BYTES_MAX);
        let local = libc::iovec { iov_base: local.wrapping_add(done).cast(), iov_len: want };
        let remote = libc::iovec { iov_base: (remote.wrapping_add(done as u64)) as *mut _, iov_len: want };
        // SAFETY: one local vector inside the caller's range; the kernel checks the remote one.
        let moved = unsafe {
            match direction {
                Direction::Read => libc::process_vm_readv(pid.cast_signed(), &local, 1, &remote, 1, 0),
                Direction::Write => libc::process_vm_writev(pid.cast_signed(), &local, 1, &remote, 1, 0),
            }
        };
        match usize::try_from(moved) {
            Ok(0) => return Err(CrossMemoryError::Unmapped),
            Ok(moved) => done += moved,
            Err(_) => match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
                libc::EFAULT => return Err(CrossMemoryError::Unmapped),
                libc::ESRCH => return Err(CrossMemoryError::Gone),
                libc::EINTR | libc::EAGAIN => {}
                other => return Err(CrossMemoryError::Refused(other)),
            },
        }
    }
    Ok(())
}
