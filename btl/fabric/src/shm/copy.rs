//! Raw copies: into and out of memory that a peer can write, and between processes through the kernel.

use ironband_core::limits::CACHE_LINE_BYTES;

use super::stores::Stores;

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

/// Copies into a ring.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
#[inline]
pub(crate) unsafe fn store(stores: Stores, source: *const u8, target: *mut u8, len_bytes: usize) {
    match stores {
        Stores::Plain => {
            prefetch_for_write(target, len_bytes);
            // SAFETY: as promised by the caller.
            unsafe { std::ptr::copy_nonoverlapping(source, target, len_bytes) };
        }
        // SAFETY: as promised by the caller.
        Stores::PastCaches => unsafe { copy_past_caches(source, target, len_bytes) },
    }
}

/// Whether [`Stores::PastCaches`] is anything but a plain copy.
pub(crate) const CAN_PASS_CACHES: bool = cfg!(all(target_arch = "x86_64", not(miri)));

/// Copies with stores that go past the caches, and waits for them: what is stored afterwards is seen after them.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
unsafe fn copy_past_caches(source: *const u8, target: *mut u8, len_bytes: usize) {
    // Such a store is only good for whole lines.
    let start_bytes = target.align_offset(CACHE_LINE_BYTES).min(len_bytes);
    let lines = (len_bytes - start_bytes) / CACHE_LINE_BYTES;
    let end = start_bytes + lines * CACHE_LINE_BYTES;
    // SAFETY: all three parts are inside what the caller promised.
    unsafe {
        std::ptr::copy_nonoverlapping(source, target, start_bytes);
        copy_lines_past_caches(source.add(start_bytes), target.add(start_bytes), lines);
        std::ptr::copy_nonoverlapping(source.add(end), target.add(end), len_bytes - end);
    }
}

/// # Safety
/// `source` is so many lines that can be read, `target` as many that can be written, aligned to a line.
unsafe fn copy_lines_past_caches(source: *const u8, target: *mut u8, lines: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        // SAFETY: inside the lines that the caller promised; `target` is aligned to 64 bytes, and so to 16. SSE2 is in every x86-64.
        unsafe {
            for quarter in 0..lines * 4 {
                let from = source.cast::<__m128i>().add(quarter);
                _mm_stream_si128(target.cast::<__m128i>().add(quarter), _mm_loadu_si128(from));
            }
            _mm_sfence();
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: as promised by the caller.
    unsafe {
        std::ptr::copy_nonoverlapping(source, target, lines * CACHE_LINE_BYTES);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_arrives_by_both_ways() {
        let source: Vec<u8> = (0..40_000u32).map(|at| (at % 251) as u8).collect();
        for stores in [Stores::Plain, Stores::PastCaches] {
            for len in [0, 1, 63, 64, 65, 1023, 4096, 8191, 16_384, 30_001] {
                for (from, to) in [(0, 0), (1, 0), (0, 16), (3, 61), (7, 64)] {
                    let mut target = vec![0xff; 40_000];
                    // SAFETY: both ranges are inside their vectors.
                    unsafe { store(stores, source.as_ptr().add(from), target.as_mut_ptr().add(to), len) };
                    assert_eq!(
                        target[to..to + len],
                        source[from..from + len],
                        "{stores:?} {len} {from} {to}"
                    );
                    let outside = target[..to].iter().chain(&target[to + len..]);
                    assert!(outside.copied().all(|byte| byte == 0xff), "{stores:?} {len} {from} {to}");
                }
            }
        }
    }
}
