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
    hash::{BuildHasher as _, RandomState},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    process::{Pid, test_kill_process},
};

use super::{Tag, abort};
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
    /// The other process.
    peer: Cell<Option<Pid>>,
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Keeps the memory's name alive, for the other process to open.
    _file: OwnedFd,
}

impl Lines {
    /// New lines, and what another process of this user has to know to open them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create() -> io::Result<(Self, String)> {
        let file = memfd_create("ironband-line", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, MAPPED_BYTES as u64)?;
        let (process, descriptor) = (std::process::id(), file.as_raw_fd());
        let lines = Self::map(file, 0)?;
        // The standard library's keys are random.
        let key = RandomState::new().hash_one(process);
        lines.key().store(key, Ordering::Release);
        Ok((lines, format!("{process} {descriptor} {key}")))
    }

    /// The lines of another process, by what [`Lines::create`] has said there.
    ///
    /// # Errors
    /// The kernel's; when something else is there, because that process is on another node.
    pub fn open(place: &str) -> io::Result<Self> {
        let mut numbers = place.split(' ').map(str::parse::<u64>);
        let (Some(Ok(process)), Some(Ok(descriptor)), Some(Ok(key))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(io::Error::other("it has none"));
        };
        let file = File::options().read(true).write(true).open(format!("/proc/{process}/fd/{descriptor}"))?;
        let other = || io::Error::other("this process is not on its node");
        if file.metadata()?.len() != MAPPED_BYTES as u64 {
            return Err(other());
        }
        let lines = Self::map(file.into(), 1)?;
        lines.set_peer(process);
        if lines.key().load(Ordering::Acquire) == key { Ok(lines) } else { Err(other()) }
    }

    /// The other process, for whom this one waits as long as it lives.
    pub fn set_peer(&self, process: u64) {
        self.peer.set(i32::try_from(process).ok().and_then(Pid::from_raw));
    }

    fn map(file: OwnedFd, own: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs no other memory.
        let start = unsafe { mmap(std::ptr::null_mut(), MAPPED_BYTES, access, MapFlags::SHARED, &file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let nothing = || Cell::new(0);
        Ok(Self { start, own, peer: Cell::new(None), sent: nothing(), received: nothing(), _file: file })
    }

    fn line(&self, index: usize) -> (&AtomicU64, *mut u8) {
        let line = self.start.as_ptr().wrapping_add(index * LINE_STRIDE);
        // SAFETY: three lines are mapped as long as this value lives, at addresses that are multiples of their size; their first words
        // are used as atomics by both processes.
        (unsafe { AtomicU64::from_ptr(line.cast()) }, line.wrapping_add(8))
    }

    /// Tells these lines from whatever else may be mapped.
    fn key(&self) -> &AtomicU64 {
        self.line(2).0
    }

    /// For each so many polls: nothing comes of a process that has ended.
    #[cold]
    fn rest(&self) {
        std::thread::yield_now();
        if let Some(peer) = self.peer.get()
            && test_kill_process(peer).is_err()
        {
            eprintln!("process {} at the other end of the line has ended", peer.as_raw_nonzero());
            abort();
        }
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
                self.rest();
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
