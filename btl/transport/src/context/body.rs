//! The buffers of requests under way. Whoever makes a request promises that its buffer stays; here, and nowhere else in the
//! context, it is touched.

use std::ptr;

use ironband_core::wire::message::EAGER_HEADER_BYTES;
use ironband_fabric::Payload;

use super::devices::Registered;

/// What a send keeps.
pub(super) struct Outgoing {
    start: *const u8,
    len_bytes: usize,
    /// In a box: short messages, of which there are most, have none, and requests are small without it.
    pub(super) registration: Option<Box<Registered>>,
}

impl Outgoing {
    /// # Safety
    /// The memory stays readable, and nobody writes to it, until the send has ended and was taken out.
    pub(super) const unsafe fn new(start: *const u8, len_bytes: usize) -> Self {
        Self { start, len_bytes, registration: None }
    }

    pub(super) const fn start(&self) -> *const u8 {
        self.start
    }

    pub(super) const fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// A part of the message; empty where it has none.
    #[inline]
    pub(super) fn part(&self, offset: u64, len_bytes: usize) -> &[u8] {
        if self.len_bytes == 0 {
            return &[];
        }
        // SAFETY: the whole is readable and constant, as promised to `new`.
        let whole = unsafe { std::slice::from_raw_parts(self.start, self.len_bytes) };
        usize::try_from(offset)
            .ok()
            .and_then(|offset| whole.get(offset..)?.get(..len_bytes))
            .unwrap_or_default()
    }
}

/// Where a receive's message goes. Two words, which are handed on in registers.
#[derive(Clone, Copy)]
pub(super) struct Target {
    start: *mut u8,
    len_bytes: usize,
}

impl Target {
    /// # Safety
    /// The memory stays writable, and nobody else touches it but other receives, until the receive has ended and was taken out. Therefore
    /// there is never a reference to it.
    #[inline]
    pub(super) const unsafe fn new(start: *mut u8, len_bytes: usize) -> Self {
        Self { start, len_bytes }
    }

    #[inline]
    pub(super) const fn start(self) -> *mut u8 {
        self.start
    }

    #[inline]
    pub(super) const fn len_bytes(self) -> usize {
        self.len_bytes
    }

    /// True if so much fits from this offset on.
    #[inline]
    fn fits(self, offset: u64, len_bytes: usize) -> bool {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| offset.checked_add(len_bytes))
            .is_some_and(|end| end <= self.len_bytes)
    }

    /// Copies a part of a payload to the buffer.
    ///
    /// # Panics
    /// When it does not fit: the protocol has checked that it does.
    #[inline]
    pub(super) fn fill(self, offset: u64, payload: Payload, skip: usize, len_bytes: usize) {
        assert!(self.fits(offset, len_bytes), "checked by the protocol");
        // SAFETY: so much is ours to write there, as promised to `new` and checked above. The context looks at a payload only while it
        // is handed out.
        unsafe { payload.copy_to(skip, self.start.add(offset as usize), len_bytes) };
    }

    /// As [`Target::fill`], from the start on, from bytes that were kept.
    pub(super) fn fill_from(self, bytes: &[u8]) {
        assert!(self.fits(0, bytes.len()), "checked by the protocol");
        // SAFETY: as in `fill`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, bytes.len()) };
    }
}

/// What a receive keeps.
pub(super) struct Incoming {
    pub(super) target: Target,
    /// As that of [`Outgoing`].
    pub(super) registration: Option<Box<Registered>>,
}

/// The tag of an eager message: all there is before its data. `None` if the message is shorter.
#[inline]
pub(super) fn eager_tag(payload: Payload) -> Option<u64> {
    const { assert!(EAGER_HEADER_BYTES == 8) };
    // SAFETY: as in `fill`.
    unsafe { payload.first_u64() }
}

/// Copies the beginning of a payload, as much as both have.
pub(super) fn copy_start(payload: Payload, to: &mut [u8]) {
    let len_bytes = payload.len().min(to.len());
    // SAFETY: the payload is mapped until its token is released, after this call, and peers may write it: it is copied raw.
    unsafe { ptr::copy_nonoverlapping(payload.as_ptr(), to.as_mut_ptr(), len_bytes) };
}

/// Replaces `to` by what is behind the first `skip` bytes of a payload.
pub(super) fn copy_rest(payload: Payload, skip: usize, to: &mut Vec<u8>) {
    let len_bytes = payload.len().saturating_sub(skip);
    to.clear();
    to.reserve(len_bytes);
    // SAFETY: as in `copy_start`; there is room for so much, which is initialised by the copy.
    unsafe {
        ptr::copy_nonoverlapping(payload.as_ptr().add(payload.len() - len_bytes), to.as_mut_ptr(), len_bytes);
        to.set_len(len_bytes);
    }
}
