//! Buffers that requests may own.

/// Bytes whose address does not change when the value is moved: a request that is under way knows it.
///
/// # Safety
/// [`Buffer::as_ptr`] and [`Buffer::len`] give the same on every call, wherever the value was moved meanwhile; the memory is
/// initialised and lives until the value is dropped; it may be read from, and nobody writes to it as long as the value is not borrowed.
pub unsafe trait Buffer: 'static {
    /// The first byte.
    fn as_ptr(&self) -> *const u8;

    /// Length in bytes.
    fn len(&self) -> usize;

    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// As [`Buffer`], to be written.
///
/// # Safety
/// As for [`Buffer`]; the memory may be written, with any bytes, and nobody reads it as long as the value is not borrowed.
pub unsafe trait BufferMut: Buffer {
    /// The first byte.
    fn as_mut_ptr(&mut self) -> *mut u8;
}

// SAFETY: a vector's elements stay where they are when it is moved, and only a borrow can change or read them. (A box says when it is
// moved that nobody else has its address.)
unsafe impl Buffer for Vec<u8> {
    fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }
}

// SAFETY: as above.
unsafe impl BufferMut for Vec<u8> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }
}

// SAFETY: constant for ever.
unsafe impl Buffer for &'static [u8] {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

// SAFETY: shared and constant as long as one of those who share it lives; `get_mut` needs the last one, borrowed.
unsafe impl Buffer for std::sync::Arc<[u8]> {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}
