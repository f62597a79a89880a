//! Buffers that requests may own.

use std::mem::ManuallyDrop;

/// The buffer of a request: given back, or away, once. Dropped or forgotten before, it is leaked, because a device may still use it: what
/// becomes of it then is the request's to say.
pub(super) struct Owned<B>(Option<ManuallyDrop<B>>);

impl<B> Owned<B> {
    pub(super) const fn new(buffer: B) -> Self {
        Self(Some(ManuallyDrop::new(buffer)))
    }

    pub(super) const fn is_taken(&self) -> bool {
        self.0.is_none()
    }

    /// # Panics
    /// When it was taken before: a future was polled again after it was ready.
    pub(super) fn get_mut(&mut self) -> &mut B {
        self.0.as_mut().expect("polled again after it was ready")
    }

    /// # Panics
    /// As [`Owned::get_mut`].
    pub(super) fn take(&mut self) -> B {
        ManuallyDrop::into_inner(self.0.take().expect("polled again after it was ready"))
    }
}

/// Bytes whose address does not change when the value is moved: a request that is under way knows it.
///
/// Vectors of numbers are buffers, and so are `Arc<[u8]>` and bytes that are constant for ever (`b"hello"`), which can only be sent.
/// A number travels as it lies in memory: all processes of a job have the same byte order. Say the type of numbers, as in
/// `vec![0_u8; 8]`; vectors of `i32`, which Rust takes `vec![0; 8]` for, are no buffers:
///
/// ```compile_fail,E0277
/// # let context = ironband::Context::open().unwrap();
/// context.start_receive(ironband::Pattern::anything(), vec![0; 8]).unwrap();
/// ```
///
/// ```
/// use ironband::Buffer;
///
/// assert_eq!(vec![1.5_f64; 3].len_bytes(), 24);
/// assert_eq!(b"hello".len_bytes(), 5);
/// ```
///
/// # Safety
/// [`Buffer::as_ptr`] and [`Buffer::len_bytes`] give the same on every call, wherever the value was moved meanwhile; the memory is
/// initialised and lives until the value is dropped; it may be read from, and nobody writes to it as long as the value is not borrowed.
pub unsafe trait Buffer: 'static {
    /// The first byte.
    fn as_ptr(&self) -> *const u8;

    /// Length in bytes.
    fn len_bytes(&self) -> usize;
}

/// As [`Buffer`], to be written.
///
/// # Safety
/// As for [`Buffer`]; the memory may be written, with any bytes, and nobody reads it as long as the value is not borrowed. It is written
/// through pointers only, so buffers of several receives may share it.
pub unsafe trait BufferMut: Buffer {
    /// The first byte.
    fn as_mut_ptr(&mut self) -> *mut u8;
}

/// Numbers of which every pattern of bits is one, and that have no gaps.
macro_rules! vectors_of {
    ($($number:ty)*) => { $(
        // SAFETY: a vector's elements stay where they are when it is moved, and only a borrow can change or read them. (A box says
        // when it is moved that nobody else has its address.)
        unsafe impl Buffer for Vec<$number> {
            fn as_ptr(&self) -> *const u8 {
                self.as_slice().as_ptr().cast()
            }

            fn len_bytes(&self) -> usize {
                size_of_val(self.as_slice())
            }
        }

        // SAFETY: as above; any bytes are numbers.
        unsafe impl BufferMut for Vec<$number> {
            fn as_mut_ptr(&mut self) -> *mut u8 {
                self.as_mut_slice().as_mut_ptr().cast()
            }
        }
    )* };
}

// Without `i32`: `vec![0; 8]` would be taken for that, 32 bytes, where 8 bytes are meant; so it is an error.
vectors_of! { u8 u16 u32 u64 u128 usize i8 i16 i64 i128 isize f32 f64 }

// SAFETY: constant for ever.
unsafe impl Buffer for &'static [u8] {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: constant for ever.
unsafe impl<const N: usize> Buffer for &'static [u8; N] {
    fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn len_bytes(&self) -> usize {
        N
    }
}

/// Memory that somebody else keeps: for libraries that have their own ways to keep a program's buffers until a request has ended.
#[derive(Debug)]
pub struct RawBuffer {
    start: *mut u8,
    len_bytes: usize,
}

impl RawBuffer {
    /// # Safety
    /// Until the request that gets it has ended: the memory is there; nobody writes to it if it is sent, and nobody but other receives touches it
    /// if it is received to, for which it must be writable.
    #[inline]
    pub const unsafe fn new(start: *mut u8, len_bytes: usize) -> Self {
        Self { start, len_bytes }
    }
}

// SAFETY: the address is fixed, and the rest is as promised to `new`.
unsafe impl Buffer for RawBuffer {
    #[inline]
    fn as_ptr(&self) -> *const u8 {
        self.start
    }

    #[inline]
    fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

// SAFETY: as above.
unsafe impl BufferMut for RawBuffer {
    #[inline]
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start
    }
}

// SAFETY: shared and constant as long as one of those who share it lives; `get_mut` needs the last one, borrowed.
unsafe impl Buffer for std::sync::Arc<[u8]> {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }
}
