//! The least that a message between two processes can cost: one cache line in shared memory for each direction, written by one core and
//! polled by the other, without an envelope, a queue or a second message under way. What a transport takes beyond this is its own.
//!
//! ```text
//!   line 0, written by the pair's first rank       line 1, written by its second rank
//!  +----------+---------------------+             +----------+---------------------+
//!  | number 8 | message, up to 56   |             | number 8 | message, up to 56   |
//!  +----------+---------------------+             +----------+---------------------+
//! ```
//! The messages of a ping-pong alternate, so a line is free again when the answer to it has come.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use super::Tag;
use crate::memory::Span;

/// The longest message.
pub const LINE_BYTES_MAX: usize = 56;

/// A line, and those that prefetching brings along, for each direction.
const LINE_STRIDE: usize = 256;
const MAPPED_BYTES: usize = 4096;
/// Polls before the processor is offered to others: with one core for both, nothing would ever come otherwise.
const POLLS: u32 = 100_000;

/// Two lines that a pair of processes shares.
#[derive(Debug)]
pub struct Lines {
    start: NonNull<u8>,
    /// Which line this process writes.
    own: usize,
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Keeps the memory's name alive, for the other process to open.
    _file: OwnedFd,
}

impl Lines {
    /// New lines, and where another process of this user can open them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create() -> io::Result<(Self, PathBuf)> {
        let file = memfd_create("ironband-line", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, MAPPED_BYTES as u64)?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        Ok((Self::map(file, 0)?, path))
    }

    /// The lines of another process.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Self::map(file.into(), 1)
    }

    fn map(file: OwnedFd, own: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs no other memory.
        let start = unsafe { mmap(std::ptr::null_mut(), MAPPED_BYTES, access, MapFlags::SHARED, &file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, own, sent: Cell::new(0), received: Cell::new(0), _file: file })
    }

    fn line(&self, index: usize) -> (&AtomicU64, *mut u8) {
        let line = self.start.as_ptr().wrapping_add(index * LINE_STRIDE);
        // SAFETY: both lines are mapped as long as this value lives, at addresses that are multiples of their size; their first words
        // are used as atomics by both processes.
        (unsafe { AtomicU64::from_ptr(line.cast()) }, line.wrapping_add(8))
    }

    #[inline]
    pub(super) fn send(&self, message: Span<'_>, _: Tag) {
        let (number, body) = self.line(self.own);
        debug_assert!(message.length_bytes() <= LINE_BYTES_MAX);
        // SAFETY: the span is valid; the line is ours to write, because the other process has read what was there before.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr().cast(), body, message.length_bytes()) };
        self.sent.set(self.sent.get() + 1);
        number.store(self.sent.get(), Ordering::Release);
    }

    #[inline]
    pub(super) fn receive(&self, message: Span<'_>, _: Tag) {
        let (number, body) = self.line(1 - self.own);
        let wanted = self.received.get() + 1;
        self.received.set(wanted);
        let mut polls = 0;
        while number.load(Ordering::Acquire) != wanted {
            polls += 1;
            if polls == POLLS {
                polls = 0;
                std::thread::yield_now();
            }
        }
        // SAFETY: the span is valid; the other process writes again only after the answer.
        unsafe {
            std::ptr::copy_nonoverlapping(body, message.as_mut_ptr().cast(), message.length_bytes());
        }
    }

    #[inline]
    pub(super) fn signal(&self, tag: Tag) {
        self.send(Span::EMPTY, tag);
    }

    #[inline]
    pub(super) fn await_signal(&self, tag: Tag) {
        self.receive(Span::EMPTY, tag);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made; nothing borrows it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), MAPPED_BYTES) };
    }
}
