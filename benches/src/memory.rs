//! Page-aligned memory that the program and the MPI library share.
//!
//! ```text
//! PageBuffer  | slot 0     | gap | slot 1     | gap |  ...  | slot n-1   | tail |
//!             ^ page       ^ tail watched by -c             ^ stride * (n-1)
//! ```
//!
//! MPI reads and writes this memory behind the compiler's back (between `MPI_Irecv` and its wait, or at any
//! time inside a one-sided epoch), so it is never lent as a slice: a [`Span`] reads and writes it through raw
//! pointers only.

use std::{ffi::c_void, marker::PhantomData, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::error::BenchError;

/// Bytes between the lines that `--touch` writes.
pub const CACHE_LINE_BYTES: usize = 64;

/// Bytes kept free behind a message, where `-c` looks for writes past its end.
pub const TAIL_BYTES: usize = 64;

/// Slots of this size and more begin on a page of their own.
const PAGE_BYTES: usize = 4096;

/// Anonymous memory on page boundaries, given back when dropped.
#[derive(Debug)]
pub struct PageBuffer {
    base: NonNull<u8>,
    length_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for PageBuffer {}

impl PageBuffer {
    /// Maps `length_bytes` (at least one page); the kernel adds pages as they are first written.
    pub fn new(length_bytes: usize, purpose: &'static str) -> Result<Self, BenchError> {
        let mapped_bytes = length_bytes.max(1).next_multiple_of(PAGE_BYTES);
        // SAFETY: a fresh private mapping at an address of the kernel's choice disturbs no other memory.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let base = address
            .map_err(std::io::Error::from)
            .and_then(|address| {
                NonNull::new(address.cast()).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
            })
            .map_err(|source| BenchError::Memory { bytes: mapped_bytes, purpose, source })?;
        Ok(Self { base, length_bytes: mapped_bytes })
    }

    /// Its first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// All of it.
    pub fn span(&self) -> Span<'_> {
        Span { base: self.base.as_ptr(), length_bytes: self.length_bytes, memory: PhantomData }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and spans cannot outlive the buffer they borrow.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// A range of shared memory that stays mapped for `'a`.
///
/// Copies alias freely, like C pointers. That is sound because no reference into the range ever exists; what
/// a reader sees while MPI writes the range is unspecified bytes, which `-c` then reports.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    base: *mut u8,
    length_bytes: usize,
    memory: PhantomData<&'a PageBuffer>,
}

impl<'a> Span<'a> {
    /// A span over memory that something else owns.
    ///
    /// # Safety
    /// `base` must be valid for reads and writes of `length_bytes` during `'a`, with no reference into it.
    pub unsafe fn from_raw(base: NonNull<u8>, length_bytes: usize) -> Self {
        Self { base: base.as_ptr(), length_bytes, memory: PhantomData }
    }

    /// No bytes.
    pub const EMPTY: Span<'static> =
        Span { base: NonNull::dangling().as_ptr(), length_bytes: 0, memory: PhantomData };

    /// Bytes in the span.
    #[inline]
    pub fn length_bytes(self) -> usize {
        self.length_bytes
    }

    /// Address for a C call that writes.
    #[inline]
    pub fn as_mut_ptr(self) -> *mut c_void {
        self.base.cast()
    }

    /// Address for a C call that reads.
    #[inline]
    pub fn as_ptr(self) -> *const c_void {
        self.base.cast_const().cast()
    }

    /// The part of `length_bytes` at `offset_bytes`.
    ///
    /// # Panics
    /// When it is not inside this span.
    #[inline]
    pub fn part(self, offset_bytes: usize, length_bytes: usize) -> Span<'a> {
        let end = offset_bytes.checked_add(length_bytes).expect("offsets are inside the address space");
        assert!(end <= self.length_bytes, "{offset_bytes}+{length_bytes} is outside {}", self.length_bytes);
        Span { base: self.base.wrapping_add(offset_bytes), length_bytes, memory: PhantomData }
    }

    /// Writes one value to every byte.
    pub fn fill(self, value: u8) {
        // SAFETY: the span is valid for writes of its whole length.
        unsafe { self.base.write_bytes(value, self.length_bytes) };
    }

    /// Adds one to the first byte of every cache line, so that the lines are modified in this core's cache.
    pub fn touch(self) {
        for offset in (0..self.length_bytes).step_by(CACHE_LINE_BYTES) {
            let line = self.base.wrapping_add(offset);
            // SAFETY: `offset` is below the span's length. Volatile, so that the store really happens.
            unsafe { line.write_volatile(line.read_volatile().wrapping_add(1)) };
        }
    }

    /// Writes `word(index)` to the 8 bytes at `8 * index`; the last one is cut at the end of the span.
    #[inline]
    pub fn write_words(self, mut word: impl FnMut(usize) -> [u8; 8]) {
        let words = self.length_bytes / 8;
        for index in 0..words {
            // SAFETY: `8 * index + 8` is at most the span's length; the target need not be aligned.
            unsafe { self.base.add(8 * index).cast::<[u8; 8]>().write(word(index)) };
        }
        let rest = self.length_bytes % 8;
        if rest != 0 {
            // SAFETY: the `rest` bytes behind the last whole word end where the span ends.
            unsafe { self.base.add(8 * words).copy_from_nonoverlapping(word(words).as_ptr(), rest) };
        }
    }

    /// Offset and value of the first byte that differs from `word`, compared as [`Self::write_words`] writes.
    #[inline]
    pub fn first_difference(self, mut word: impl FnMut(usize) -> [u8; 8]) -> Option<(usize, u8)> {
        let words = self.length_bytes / 8;
        for index in 0..words {
            // SAFETY: `8 * index + 8` is at most the span's length; the source need not be aligned.
            let found = unsafe { self.base.add(8 * index).cast::<[u8; 8]>().read() };
            let expected = word(index);
            if found != expected {
                let at = found.iter().zip(&expected).position(|(f, e)| f != e)?;
                return Some((8 * index + at, found[at]));
            }
        }
        let expected = word(words);
        (0..self.length_bytes % 8)
            .map(|at| (8 * words + at, self.byte(8 * words + at), expected[at]))
            .find_map(|(offset, found, expected)| (found != expected).then_some((offset, found)))
    }

    /// One byte.
    ///
    /// # Panics
    /// When `offset_bytes` is outside the span.
    pub fn byte(self, offset_bytes: usize) -> u8 {
        assert!(offset_bytes < self.length_bytes, "{offset_bytes} is outside {}", self.length_bytes);
        // SAFETY: just checked to be inside the span.
        unsafe { self.base.add(offset_bytes).read() }
    }

    /// Changes one byte.
    ///
    /// # Panics
    /// When `offset_bytes` is outside the span.
    pub fn set_byte(self, offset_bytes: usize, value: u8) {
        assert!(offset_bytes < self.length_bytes, "{offset_bytes} is outside {}", self.length_bytes);
        // SAFETY: just checked to be inside the span.
        unsafe { self.base.add(offset_bytes).write(value) };
    }
}

/// Where the messages of a window lie in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Every message uses the same memory, as OSU does by default.
    Shared,
    /// Each has its own, cache-line or page aligned with a gap: for `-c` and `--touch`.
    Separate,
    /// Each has its own, end to end: OSU's one-sided layout.
    Packed,
}

impl Layout {
    fn stride_bytes(self, size_bytes: usize) -> usize {
        match self {
            Layout::Shared => 0,
            Layout::Packed => size_bytes,
            // Page-sized strides for small messages would put every slot into the same few cache sets.
            Layout::Separate if size_bytes < PAGE_BYTES => {
                (size_bytes + TAIL_BYTES).next_multiple_of(CACHE_LINE_BYTES)
            }
            Layout::Separate => (size_bytes + TAIL_BYTES).next_multiple_of(PAGE_BYTES),
        }
    }

    /// Memory that `slots` messages need, with the tail.
    pub fn length_bytes(self, size_bytes: usize, slots: usize) -> Result<usize, BenchError> {
        let last = slots.checked_sub(1).and_then(|gaps| self.stride_bytes(size_bytes).checked_mul(gaps));
        last.and_then(|last| last.checked_add(size_bytes + TAIL_BYTES))
            .filter(|&total| total <= isize::MAX as usize / 2)
            .ok_or(BenchError::Overflow { size_bytes, slots })
    }
}

/// The ring of equal slots that one window of messages uses.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    span: Span<'a>,
    stride_bytes: usize,
    size_bytes: usize,
    count: usize,
}

impl<'a> Slots<'a> {
    /// Lays `count` slots over `span`.
    ///
    /// # Panics
    /// When they do not fit; size `span` with [`Layout::length_bytes`].
    pub fn new(span: Span<'a>, layout: Layout, size_bytes: usize, count: usize) -> Self {
        let needed = layout.length_bytes(size_bytes, count).expect("the span exists, so its layout fits");
        assert!(needed <= span.length_bytes, "{count} slots of {size_bytes} need {needed} bytes");
        Self { span, stride_bytes: layout.stride_bytes(size_bytes), size_bytes, count }
    }

    /// Number of slots.
    #[inline]
    pub fn count(self) -> usize {
        self.count
    }

    /// Bytes of one message.
    #[inline]
    pub fn size_bytes(self) -> usize {
        self.size_bytes
    }

    /// Offset of slot `index` from the start of the span.
    #[inline]
    pub fn offset_bytes(self, index: usize) -> usize {
        self.stride_bytes * index
    }

    /// Slot `index`.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub fn at(self, index: usize) -> Span<'a> {
        assert!(index < self.count, "slot {index} of {}", self.count);
        let base = self.span.base.wrapping_add(self.stride_bytes * index);
        Span { base, length_bytes: self.size_bytes, memory: PhantomData }
    }

    /// All slots in order. In the timed loops, so a step is one addition: `new` checked that all of them fit.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Span<'a>> {
        let Self { span, stride_bytes, size_bytes, count } = self;
        let mut base = span.base;
        (0..count).map(move |_| {
            let slot = Span { base, length_bytes: size_bytes, memory: PhantomData };
            base = base.wrapping_add(stride_bytes);
            slot
        })
    }

    /// The bytes behind slot `index` that belong to no message: up to [`TAIL_BYTES`], none when packed.
    pub fn tail(self, index: usize) -> Span<'a> {
        let last = index + 1 == self.count || self.stride_bytes == 0;
        let gap_bytes = if last { TAIL_BYTES } else { (self.stride_bytes - self.size_bytes).min(TAIL_BYTES) };
        self.span.part(self.offset_bytes(index) + self.size_bytes, gap_bytes)
    }

    /// Writes `value` to every slot and tail.
    pub fn fill(self, value: u8) {
        let distinct = if self.stride_bytes == 0 { 1 } else { self.count };
        for index in 0..distinct {
            self.at(index).fill(value);
            self.tail(index).fill(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUTS: [Layout; 3] = [Layout::Shared, Layout::Separate, Layout::Packed];

    #[test]
    fn buffers_are_page_aligned_zeroed_and_writable_to_the_end() {
        for length in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let buffer = PageBuffer::new(length, "a test").expect("small");
            let span = buffer.span();
            assert_eq!(span.as_ptr() as usize % 4096, 0);
            assert!(span.length_bytes() >= length.max(1));
            assert_eq!(span.byte(span.length_bytes() - 1), 0);
            span.set_byte(span.length_bytes() - 1, 7);
            assert_eq!(span.byte(span.length_bytes() - 1), 7);
        }
    }

    #[test]
    fn a_buffer_too_large_says_how_large() {
        let error = PageBuffer::new(1 << 62, "the window ring").expect_err("no such memory");
        assert!(error.to_string().contains("4611686018427387904 bytes for the window ring"), "{error}");
    }

    #[test]
    fn slots_stay_apart_and_inside() {
        for layout in LAYOUTS {
            for size in [0, 1, 63, 64, 65, 4096, 5000] {
                for count in [1, 2, 7] {
                    let buffer = PageBuffer::new(layout.length_bytes(size, count).expect("small"), "a test");
                    let buffer = buffer.expect("small");
                    let slots = Slots::new(buffer.span(), layout, size, count);
                    slots.fill(0);
                    for index in 0..count {
                        slots.at(index).fill(index as u8 + 1);
                    }
                    assert!(
                        slots.iter().map(Span::as_ptr).eq((0..count).map(|index| slots.at(index).as_ptr()))
                    );
                    for index in 0..count {
                        let owner = if layout == Layout::Shared { count } else { index + 1 };
                        assert!((0..size).all(|at| usize::from(slots.at(index).byte(at)) == owner));
                        let tail = slots.tail(index);
                        assert!((0..tail.length_bytes()).all(|at| tail.byte(at) == 0), "{layout:?} {size}");
                    }
                    assert_eq!(slots.tail(count - 1).length_bytes(), TAIL_BYTES);
                }
            }
        }
    }

    #[test]
    fn layouts_beyond_the_address_space_are_refused() {
        for layout in [Layout::Separate, Layout::Packed] {
            assert!(layout.length_bytes(1 << 40, 1 << 30).is_err());
        }
    }

    #[test]
    fn touch_changes_every_line_once_and_nothing_else() {
        let buffer = PageBuffer::new(1000, "a test").expect("small");
        let span = buffer.span().part(0, 1000);
        span.touch();
        for offset in 0..1000 {
            assert_eq!(span.byte(offset), u8::from(offset % CACHE_LINE_BYTES == 0), "{offset}");
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn parts_are_checked() {
        let buffer = PageBuffer::new(4096, "a test").expect("small");
        buffer.span().part(4090, 7);
    }
}
