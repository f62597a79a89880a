//! Shared memory without names: each process has one memfd, which holds its control block and the rings that it sends
//! through. Peers open it as `/proc/PID/fd/N`, so there is no file that could be left behind, and nothing to guess.
//!
//! ```text
//!  memfd of one process:   0           CONTROL_BYTES      offset of a ring (a multiple of the page size)
//!                          +-----------+------------------+-----------------------------+-- - -
//!                          | control   | ring to peer a   | ring to peer b              |
//!                          +-----------+------------------+-----------------------------+-- - -
//! ```
//! Room is reserved (`fallocate`) before it is mapped: a machine without enough memory answers with an error and not with
//! SIGBUS at the first store. The file is sealed against shrinking, and who maps a peer's file checks that seal,
//! so that a peer cannot take pages away under a reader either.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use ironband_core::wire::Card;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::{DeviceError, Unreachable};

/// Pages are at least so large on every system we run on; all offsets and lengths are multiples.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Mapped shared memory, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: a mapping is plain memory; whoever holds it decides how it is accessed.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, offset: u64, len_bytes: usize) -> rustix::io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // The pages are there already. Made visible one by one, on first use, they would make the first lap around a ring ten times slower, which is
        // just when the ways for long messages are compared.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of this process.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len_bytes, protection, flags, fd, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, len_bytes })
    }

    /// The `len_bytes` bytes at `offset`.
    ///
    /// # Panics
    /// When they are not inside the mapping: a contradiction in our own layout, never a peer's doing.
    #[inline]
    pub(crate) fn at(&self, offset: usize, len_bytes: usize) -> NonNull<u8> {
        assert!(
            offset.checked_add(len_bytes).is_some_and(|end| end <= self.len_bytes),
            "{len_bytes} bytes at {offset} are outside a mapping of {}",
            self.len_bytes
        );
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.start.add(offset) }
    }

    /// The object of type `T` at `offset`.
    ///
    /// # Safety
    /// `T` is made of atomics (and padding) only and valid for every bit pattern, and is used in no other way by any process.
    #[inline]
    pub(crate) unsafe fn shared<T>(&self, offset: usize) -> &T {
        assert!(offset.is_multiple_of(align_of::<T>()), "{offset} is not aligned");
        // SAFETY: inside the mapping and aligned; the caller vouches for the type.
        unsafe { self.at(offset, size_of::<T>()).cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `new` and nothing refers to it any more: references borrow from `self`, and
        // the rings that keep pointers own the mapping. A failure would only leak address space.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes) };
    }
}

/// This process's memfd.
#[derive(Debug)]
pub(crate) struct Segment {
    file: OwnedFd,
    inode: u64,
    len_bytes: u64,
    /// Ranges that were given back: (offset, length).
    free: Vec<(u64, usize)>,
}

impl Segment {
    /// An empty segment, readable by its owner only.
    pub(crate) fn create() -> Result<Self, DeviceError> {
        let failed = |call: &str, errno: rustix::io::Errno| {
            DeviceError::System {
            call: format!("{call} for the shared segment (memfd \"ironband\")"),
            reason: errno.to_string(),
            fix: "allow memfd_create in the container's seccomp profile, or raise the limit of open files (ulimit -n)"
                .to_owned(),
        }
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("ironband", flags).map_err(|e| failed("memfd_create", e))?;
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(|e| failed("fchmod", e))?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).map_err(|e| failed("F_ADD_SEALS", e))?;
        let inode = rustix::fs::fstat(&file).map_err(|e| failed("fstat", e))?.st_ino;
        Ok(Self { file, inode, len_bytes: 0, free: Vec::new() })
    }

    pub(crate) fn descriptor(&self) -> u32 {
        self.file.as_raw_fd().cast_unsigned()
    }

    pub(crate) const fn inode(&self) -> u64 {
        self.inode
    }

    /// Reserves and maps `len_bytes` zeroed bytes; returns their offset too. `what` names them in the error.
    pub(crate) fn allocate(&mut self, len_bytes: usize, what: &str) -> Result<(u64, Mapping), DeviceError> {
        assert!(len_bytes.is_multiple_of(PAGE_BYTES), "{len_bytes} is no whole number of pages");
        let reused =
            self.free.iter().position(|(_, len)| *len == len_bytes).map(|i| self.free.swap_remove(i).0);
        let offset = reused.unwrap_or(self.len_bytes);
        let exhausted = |reason: rustix::io::Errno| {
            DeviceError::Exhausted {
            what: format!("shared memory for {what} (memfd \"ironband\": {reason})"),
            wanted: format!("{len_bytes} bytes"),
            available: available_memory(),
            fix: "free memory, raise the container's memory limit, or set btl_ironband_ring_bytes to less than it is (32768 at least)"
                .to_owned(),
        }
        };
        // With no flags this also makes the file longer, and zeroes what was punched out.
        rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len_bytes as u64)
            .map_err(exhausted)?;
        let mapping = Mapping::new(&self.file, offset, len_bytes).map_err(exhausted)?;
        if reused.is_none() {
            self.len_bytes += len_bytes as u64;
        }
        Ok((offset, mapping))
    }

    /// Gives a range back to the system, for others. No peer maps it or will: what is in it turns to zeroes.
    pub(crate) fn free(&mut self, offset: u64, len_bytes: usize) {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, punch, offset, len_bytes as u64).is_ok() {
            self.free.push((offset, len_bytes));
        }
    }
}

/// What the system could give, for messages.
fn available_memory() -> String {
    std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
            Some(line.trim_start_matches("MemAvailable:").trim().to_owned())
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

/// A peer's memfd, opened by this process.
#[derive(Debug)]
pub(crate) struct PeerSegment {
    file: OwnedFd,
}

impl PeerSegment {
    /// Opens the segment that a card names, and makes sure that it is that one.
    pub(crate) fn open(card: &Card) -> Result<Self, Unreachable> {
        let path = format!("/proc/{}/fd/{}", card.pid, card.memfd);
        let file =
            rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                let hint = match errno {
                    rustix::io::Errno::NOENT => "the process has ended",
                    rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => {
                        "the kernel hides it: same user, user namespace and container are needed"
                    }
                    rustix::io::Errno::MFILE => "raise the limit of open files (ulimit -n)",
                    _ => "is /proc mounted?",
                };
                Unreachable::because(format!("its segment {path} cannot be opened: {errno} ({hint})"))
            })?;
        let stat = rustix::fs::fstat(&file)
            .map_err(|errno| Unreachable::because(format!("fstat of {path} failed: {errno}")))?;
        if stat.st_ino != card.memfd_inode {
            return Err(Unreachable::because(format!(
                "{path} is not its segment any more (inode {}, expected {}): the process has ended",
                stat.st_ino, card.memfd_inode
            )));
        }
        let sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            return Err(Unreachable::because(format!(
                "{path} is not sealed against shrinking: it is not ours"
            )));
        }
        Ok(Self { file })
    }

    /// Maps a range. Its length cannot shrink any more, so what is inside the file now stays inside.
    pub(crate) fn map(&self, offset: u64, len_bytes: usize) -> Result<Mapping, Unreachable> {
        let size = rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_size.cast_unsigned());
        let inside = offset.checked_add(len_bytes as u64).is_some_and(|end| end <= size);
        if !inside || !offset.is_multiple_of(PAGE_BYTES as u64) || !len_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(Unreachable::because(format!(
                "it offers {len_bytes} bytes at {offset} of a segment of {size} bytes"
            )));
        }
        Mapping::new(&self.file, offset, len_bytes)
            .map_err(|errno| Unreachable::because(format!("its segment cannot be mapped: {errno}")))
    }
}
