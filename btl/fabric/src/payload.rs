//! What was received, before it was copied.

use std::ptr::NonNull;

use crate::short_copy::{SHORT_BYTES_MAX, copy_short};

/// Received bytes, still in the fabric's buffer.
///
/// The peer may be able to write this memory at any time, so it is never offered as `&[u8]`: copy a header out first, then
/// check it, then use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl Payload {
    /// A payload at `start`. The fabric upholds that `len_bytes` bytes are mapped there until the token is released.
    pub(crate) const fn new(start: NonNull<u8>, len_bytes: usize) -> Self {
        Self { start, len_bytes }
    }

    /// First byte. Valid until the receive token of the same completion is released.
    pub const fn as_ptr(self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Length in bytes, already checked against the ring or buffer it lies in.
    pub const fn len(self) -> usize {
        self.len_bytes
    }

    /// True for an empty message.
    pub const fn is_empty(self) -> bool {
        self.len_bytes == 0
    }

    /// Its first eight bytes as a little-endian number; `None` if it is shorter.
    ///
    /// # Safety
    /// The receive token of the same completion has not been released.
    #[inline(always)]
    pub unsafe fn first_u64(self) -> Option<u64> {
        // SAFETY: so many bytes are mapped, as promised to `new`. A peer may write them meanwhile: any bytes are a number.
        (self.len_bytes >= 8)
            .then(|| u64::from_le(unsafe { self.start.as_ptr().cast::<u64>().read_unaligned() }))
    }

    /// Copies `len_bytes` bytes, from byte `skip` on, to `target`.
    ///
    /// # Safety
    /// The receive token of the same completion has not been released; `target` is writable for `len_bytes`.
    ///
    /// # Panics
    /// When the payload is not that long.
    #[inline(always)]
    pub unsafe fn copy_to(self, skip: usize, target: *mut u8, len_bytes: usize) {
        assert!(
            skip <= self.len_bytes && len_bytes <= self.len_bytes - skip,
            "{len_bytes} bytes behind the first {skip} of a message of {}",
            self.len_bytes
        );
        // SAFETY: the range was checked above and is mapped, as promised to `new`; the target is the caller's. They do not overlap: a
        // payload lies in the fabric's own memory.
        unsafe {
            let source = self.start.as_ptr().add(skip);
            if len_bytes <= SHORT_BYTES_MAX {
                copy_short(target, source, len_bytes);
            } else {
                std::ptr::copy_nonoverlapping(source, target, len_bytes);
            }
        }
    }
}
