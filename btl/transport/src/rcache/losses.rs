//! Which addresses a system call takes away from under a registration. Pure; the numbers are Linux's for x86-64
//! (`asm/unistd_64.h`, `asm-generic/mman-common.h`, `linux/mman.h`, `linux/shm.h`).

use super::range::Range;

/// Number and arguments, in the order of the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) arguments: [u64; 6],
}

/// System calls that may take pages away, by number.
pub(super) mod number {
    pub(in super::super) const MMAP: u32 = 9;
    pub(in super::super) const MUNMAP: u32 = 11;
    pub(in super::super) const BRK: u32 = 12;
    pub(in super::super) const MREMAP: u32 = 25;
    pub(in super::super) const MADVISE: u32 = 28;
    pub(in super::super) const SHMAT: u32 = 30;
    pub(in super::super) const SHMDT: u32 = 67;
    pub(in super::super) const REMAP_FILE_PAGES: u32 = 216;
    pub(in super::super) const PROCESS_MADVISE: u32 = 440;

    pub(in super::super) const ALL: [u32; 9] =
        [MMAP, MUNMAP, BRK, MREMAP, MADVISE, SHMAT, SHMDT, REMAP_FILE_PAGES, PROCESS_MADVISE];
}

const MAP_FIXED: u64 = 0x10;
const MAP_HUGETLB: u64 = 0x4_0000;
const HUGE_BYTES_MAX: u64 = 1 << 30;
const MREMAP_FIXED: u64 = 2;
const SHM_REMAP: u64 = 0o40_000;
/// `MADV_DONTNEED`, `_FREE`, `_REMOVE`, `_DONTNEED_LOCKED`, `_HWPOISON`, `_SOFT_OFFLINE`, `_GUARD_INSTALL`.
const DISCARDS: [u64; 7] = [4, 8, 9, 24, 100, 101, 102];

/// The ranges that the call takes away, if it succeeds: at most two. `break_now` is where the heap ends.
pub(super) fn losses(call: &Call, break_now: usize) -> [Option<Range>; 2] {
    let [a, b, c, d, e, _] = call.arguments;
    let range = |start: u64, len_bytes: u64| Range::new(start as usize, len_bytes as usize);
    let Ok(number) = u32::try_from(call.number) else { return [None; 2] };
    match number {
        number::MUNMAP | number::REMAP_FILE_PAGES => [range(a, b), None],
        // Of huge pages the kernel maps whole ones, up to this length.
        number::MMAP if d & MAP_FIXED != 0 && d & MAP_HUGETLB != 0 => {
            [range(a, b.saturating_add(HUGE_BYTES_MAX)), None]
        }
        number::MMAP if d & MAP_FIXED != 0 => [range(a, b), None],
        number::MREMAP if d & MREMAP_FIXED != 0 => [range(a, b), range(e, c)],
        number::MREMAP => [range(a, b), None],
        number::MADVISE if DISCARDS.contains(&c) => [range(a, b), None],
        // 0 asks where the end is.
        number::BRK if a != 0 && (a as usize) < break_now => {
            [Some(Range { start: a as usize, end: break_now }), None]
        }
        // How long the segment is, the kernel knows: these are rare enough to call it everything.
        number::SHMDT | number::PROCESS_MADVISE => [Some(Range::ALL), None],
        number::SHMAT if c & SHM_REMAP != 0 => [Some(Range::ALL), None],
        _ => [None; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(number: u32, arguments: [u64; 6]) -> Vec<(usize, usize)> {
        let found = losses(&Call { number: number.into(), arguments }, 0x9000);
        found.into_iter().flatten().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn each_call_takes_what_it_says() {
        assert_eq!(lost(number::MUNMAP, [0x1000, 0x2000, 0, 0, 0, 0]), [(0x1000, 0x3000)]);
        assert_eq!(lost(number::MUNMAP, [0x1000, 0, 0, 0, 0, 0]), [], "an error of the kernel's");
        assert_eq!(lost(number::MUNMAP, [u64::MAX, 0x2000, 0, 0, 0, 0]), []);
        assert_eq!(lost(number::MMAP, [0x1000, 0x2000, 3, 0x22, 0, 0]), [], "where there is room");
        assert_eq!(lost(number::MMAP, [0x1000, 0x2000, 3, 0x32, 0, 0]), [(0x1000, 0x3000)]);
        assert_eq!(lost(number::MMAP, [0x1000, 0x2000, 3, 0x10_0022, 0, 0]), [], "MAP_FIXED_NOREPLACE");
        let both = [(0x1000, 0x2000), (0x8000, 0xb000)];
        assert_eq!(lost(number::MREMAP, [0x1000, 0x1000, 0x3000, 3, 0x8000, 0]), both, "the target, too");
        assert_eq!(lost(number::MREMAP, [0x1000, 0x1000, 0x3000, 1, 0x8000, 0]), both[..1]);
        for advice in [4, 8, 9, 24, 102] {
            assert_eq!(lost(number::MADVISE, [0x1000, 0x1000, advice, 0, 0, 0]), [(0x1000, 0x2000)]);
        }
        for advice in [0, 3, 10, 11, 14, 18, 103] {
            assert_eq!(lost(number::MADVISE, [0x1000, 0x1000, advice, 0, 0, 0]), [], "{advice}");
        }
        assert_eq!(lost(number::BRK, [0x8000, 0, 0, 0, 0, 0]), [(0x8000, 0x9000)]);
        assert_eq!(lost(number::BRK, [0xa000, 0, 0, 0, 0, 0]), []);
        assert_eq!(lost(number::BRK, [0, 0, 0, 0, 0, 0]), []);
        let all = [(0, usize::MAX)];
        assert_eq!(lost(number::SHMDT, [0x1000, 0, 0, 0, 0, 0]), all);
        assert_eq!(lost(number::SHMAT, [1, 0x1000, 0o40_000, 0, 0, 0]), all);
        assert_eq!(lost(number::SHMAT, [1, 0x1000, 0, 0, 0, 0]), []);
        assert_eq!(lost(0, [0x1000, 0x1000, 4, 0, 0, 0]), [], "read");
    }
}
