//! Memory of one thread, and what a program does to it between two messages.

use std::ptr::null_mut;

use crate::random::Random;

const PAGE: usize = 4096;
/// Longest block, in pages.
const PAGES_MAX: usize = 16;
const BLOCKS: usize = 48;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// Linux 6.13.
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Memory that can be registered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) start: *mut u8,
    pub(crate) len_bytes: usize,
}

/// New pages where the kernel likes, or at `start` if that is free.
fn map(start: *mut u8, len_bytes: usize) -> Block {
    // SAFETY: new pages where there are none.
    let pages = unsafe {
        let there =
            libc::mmap(start.cast(), len_bytes, READ_WRITE, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1, 0);
        // Another thread may have been faster.
        match there {
            libc::MAP_FAILED => libc::mmap(null_mut(), len_bytes, READ_WRITE, ANONYMOUS, -1, 0),
            there => there,
        }
    };
    assert_ne!(pages, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    Block { start: pages.cast(), len_bytes }
}

fn map_anywhere(len_bytes: usize) -> Block {
    // SAFETY: as in `map`.
    let pages = unsafe { libc::mmap(null_mut(), len_bytes, READ_WRITE, ANONYMOUS, -1, 0) };
    assert_ne!(pages, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    Block { start: pages.cast(), len_bytes }
}

/// What was done, by name, and how often.
pub(crate) const DEEDS: [&str; 10] = [
    "munmap and mmap",
    "mmap over it",
    "madvise(DONTNEED)",
    "madvise(FREE)",
    "mremap away",
    "mremap onto another",
    "guard pages",
    "malloc",
    "free",
    "fork",
];

/// Blocks that this thread maps itself, and blocks from `malloc`.
pub(crate) struct Memory {
    blocks: Vec<Block>,
    heap: Vec<Block>,
    pub(crate) deeds: [u64; DEEDS.len()],
    may_fork: bool,
}

impl Memory {
    pub(crate) fn new(may_fork: bool) -> Self {
        let blocks = (0..BLOCKS).map(|index| map_anywhere((1 + index % PAGES_MAX) * PAGE)).collect();
        Self { blocks, heap: Vec::new(), deeds: [0; DEEDS.len()], may_fork }
    }

    /// One of the blocks, and now and then a part of one.
    pub(crate) fn choose(&self, random: &mut Random) -> Block {
        let from = if self.heap.is_empty() || random.below(4) > 0 { &self.blocks } else { &self.heap };
        let whole = from[random.below(from.len())];
        if random.below(8) > 0 {
            return whole;
        }
        let skipped = random.below(whole.len_bytes / 2) & !7;
        Block { start: whole.start.wrapping_add(skipped), len_bytes: whole.len_bytes - skipped }
    }

    /// Does something to the memory that a registration must not survive, or that it must.
    pub(crate) fn disturb(&mut self, random: &mut Random) {
        match random.below(100) {
            0..25 => self.replace(random),
            25..45 => self.discard(random),
            45..60 => self.move_away(random),
            _ => self.allocate(random),
        }
        if self.may_fork && random.below(5000) == 0 {
            self.fork();
        }
    }

    fn replace(&mut self, random: &mut Random) {
        let block = &mut self.blocks[random.below(BLOCKS)];
        let Block { start, len_bytes } = *block;
        // SAFETY: this thread's memory, which nobody uses meanwhile.
        unsafe {
            if random.below(2) == 0 {
                self.deeds[0] += 1;
                libc::munmap(start.cast(), len_bytes);
                *block = map(start, len_bytes);
            } else {
                self.deeds[1] += 1;
                let skipped = random.below(len_bytes / PAGE) * PAGE;
                let over = start.add(skipped).cast();
                let flags = ANONYMOUS | libc::MAP_FIXED;
                let pages = libc::mmap(over, len_bytes - skipped, READ_WRITE, flags, -1, 0);
                assert_eq!(pages, over, "{}", std::io::Error::last_os_error());
            }
        }
    }

    fn discard(&mut self, random: &mut Random) {
        let Block { start, len_bytes } = self.blocks[random.below(BLOCKS)];
        let start = start.cast();
        // SAFETY: this thread's memory, which nobody uses meanwhile; for all.
        unsafe {
            match random.below(3) {
                0 => {
                    self.deeds[2] += 1;
                    libc::madvise(start, len_bytes, libc::MADV_DONTNEED);
                }
                1 => {
                    self.deeds[3] += 1;
                    libc::madvise(start, len_bytes, libc::MADV_FREE);
                }
                _ => {
                    if libc::madvise(start, len_bytes, MADV_GUARD_INSTALL) == 0 {
                        self.deeds[6] += 1;
                        libc::madvise(start, len_bytes, MADV_GUARD_REMOVE);
                    }
                }
            }
        }
    }

    fn move_away(&mut self, random: &mut Random) {
        let (from, to) = (random.below(BLOCKS), random.below(BLOCKS));
        let (Block { start, len_bytes }, target) = (self.blocks[from], self.blocks[to]);
        // SAFETY: this thread's memory, which nobody uses meanwhile.
        unsafe {
            if from == to || target.len_bytes < len_bytes {
                self.deeds[4] += 1;
                let moved = libc::mremap(start.cast(), len_bytes, 2 * len_bytes, libc::MREMAP_MAYMOVE);
                // Pieces that were mapped one by one do not move together.
                if moved == libc::MAP_FAILED {
                    libc::munmap(start.cast(), len_bytes);
                } else {
                    libc::munmap(moved, 2 * len_bytes);
                }
            } else {
                self.deeds[5] += 1;
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                let moved = libc::mremap(start.cast(), len_bytes, len_bytes, flags, target.start);
                if moved == libc::MAP_FAILED {
                    // What was there may be gone by then.
                    libc::munmap(start.cast(), len_bytes);
                    libc::munmap(target.start.cast(), target.len_bytes);
                    self.blocks[to] = map(target.start, target.len_bytes);
                }
            }
            self.blocks[from] = map(start, len_bytes);
        }
    }

    /// `malloc` and `free`, around the lengths from which `malloc` maps.
    fn allocate(&mut self, random: &mut Random) {
        if self.heap.len() < 40 && random.below(2) == 0 {
            self.deeds[7] += 1;
            let range = if random.below(4) == 0 { 400_000 } else { 60_000 };
            let len_bytes = 64 + random.below(range);
            // SAFETY: asks for memory.
            let start = unsafe { libc::malloc(len_bytes) }.cast::<u8>();
            assert!(!start.is_null(), "no memory");
            self.heap.push(Block { start, len_bytes });
        } else if !self.heap.is_empty() {
            self.deeds[8] += 1;
            let block = self.heap.swap_remove(random.below(self.heap.len()));
            // SAFETY: from `malloc`, and not used again.
            unsafe { libc::free(block.start.cast()) };
        }
    }

    fn fork(&mut self) {
        self.deeds[9] += 1;
        // SAFETY: the child does nothing but end.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                -1 => panic!("fork: {}", std::io::Error::last_os_error()),
                child => libc::waitpid(child, null_mut(), 0),
            };
        }
    }
}
