//! Memory that peers may read and write at any time: whole pages, accessed by raw copies only.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// The byte at one index of the pattern with one seed.
pub fn pattern(seed: u32, index: usize) -> u8 {
    let mixed = (index as u32).wrapping_add(seed.wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b);
    (mixed >> 24) as u8
}

/// `len_bytes` bytes of a pattern.
pub fn patterned(seed: u32, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|index| pattern(seed, index)).collect()
}

/// The first byte that differs from the pattern.
pub fn first_difference(bytes: &[u8], seed: u32) -> Option<usize> {
    (0..bytes.len()).find(|&index| bytes[index] != pattern(seed, index))
}

/// Writes a payload into the room that a packer was given.
pub fn fill_room(start: NonNull<u8>, payload: &[u8]) {
    // SAFETY: a fabric gives room for at least what the caller announced, and no payload of the suite is longer.
    unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), start.as_ptr(), payload.len()) };
}

/// Anonymous pages of this process.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: plain memory; all access is by raw copy or atomic.
unsafe impl Send for Pages {}

impl Pages {
    /// Zeroed pages for `len_bytes` bytes, at least one.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(len_bytes: usize) -> Self {
        let mapped = len_bytes.max(1).next_multiple_of(4096);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapped, protection, MapFlags::PRIVATE)
        };
        let start = NonNull::new(start.expect("memory for a test").cast()).expect("mmap gives no null");
        Self { start, len_bytes }
    }

    /// Length in bytes, as it was asked for.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The byte at an offset.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len_bytes, "{offset} is outside {} bytes", self.len_bytes);
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Stores bytes.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len_bytes);
        // SAFETY: inside the mapping, as just checked; a peer that writes it at the same time changes bytes, nothing else.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }

    /// Copies bytes out.
    pub fn load(&self, offset: usize, len_bytes: usize) -> Vec<u8> {
        assert!(offset + len_bytes <= self.len_bytes);
        let mut bytes = vec![0; len_bytes];
        // SAFETY: as in `store`.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset), bytes.as_mut_ptr(), len_bytes) };
        bytes
    }

    /// Stores the pattern with this seed everywhere.
    pub fn fill(&self, seed: u32) {
        self.store(0, &patterned(seed, self.len_bytes));
    }

    /// The 8-byte word at an aligned offset.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len_bytes);
        // SAFETY: mapped as long as `self`, aligned, and used atomically by everyone who uses words.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// Reads that word.
    pub fn load_word(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::SeqCst)
    }

    /// Unmaps the pages now and returns where they were.
    pub fn unmap(self) -> u64 {
        self.start.as_ptr() as u64
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let mapped = self.len_bytes.max(1).next_multiple_of(4096);
        // SAFETY: mapped by `new`; `Node` drops the device, which may still use the pages, first.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), mapped) }.expect("these pages are ours");
    }
}

/// A whole file of another process (or this one) mapped for writing: what a hostile peer does.
#[derive(Debug)]
pub struct Foreign {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl Foreign {
    /// Maps the file behind a path such as `/proc/PID/fd/N`.
    ///
    /// # Panics
    /// When it cannot be opened or mapped.
    pub fn map(path: &str) -> Self {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.unwrap_or_else(|error| panic!("{path}: {error}"));
        let len_bytes = file.metadata().expect("its length").len() as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the file is sealed against shrinking.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len_bytes, protection, MapFlags::SHARED, &file, 0)
        };
        Self { start: NonNull::new(start.expect("mapped").cast()).expect("not null"), len_bytes }
    }

    /// Length of the mapping.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        let offset = offset % self.len_bytes / 8 * 8;
        // SAFETY: inside the mapping, aligned, and atomic: the other processes see whole words.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().wrapping_add(offset).cast()) }
    }

    /// Reads the word at an offset, which is rounded down to a word.
    pub fn read(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Overwrites the word at an offset, which is rounded down to a word.
    pub fn write(&self, offset: usize, word: u64) {
        self.word(offset).store(word, Ordering::Release);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing refers to it any more.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes) }
            .expect("this mapping is ours");
    }
}

/// Limits a resource of this process; with `RLIMIT_FSIZE` the signal that goes with it is ignored, so that the system
/// call fails instead.
pub fn limit(resource: libc::__rlimit_resource_t, to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: `limit` lives during the call, and ignoring a signal runs no code of ours.
    let result = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(resource, &raw const limit)
    };
    assert_eq!(result, 0, "lowering a limit is always allowed");
}
