//! The memory of an operation that is under way. All that is unsafe is here: whoever begins an operation promises that its buffers stay, and
//! [`Memory`] hands out parts of them by [`Span`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytemuck::Pod;
use ironband::RawBuffer;

use crate::operator::Operator;

use crate::schedule::{Side, Space, Span, Step};

/// A line of scratch memory. No element is aligned to more (`buffers::begin`).
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; 64]);
}

/// Combines elements whose type only it knows.
pub trait Combine {
    /// The error is the message of a panic of the operator.
    ///
    /// # Safety
    /// `from` is `len` elements that can be read, `into` as many that nobody else uses; both are of the operator's type, aligned, and
    /// do not overlap.
    unsafe fn combine(&self, from: *const u8, into: *mut u8, len: usize, side: Side) -> Result<(), String>;
}

/// Input, output and scratch memory.
pub(crate) struct Memory {
    /// Where each space begins, and its length in bytes.
    spaces: [(*mut u8, usize); Space::COUNT],
    element_bytes: usize,
}

impl Memory {
    /// # Safety
    /// Until the value is dropped, the input stays readable and nobody writes to it but through the output, if they are the same memory; the output and the
    /// scratch memory stay writable, and nobody else uses them. All have elements of so many bytes, any bytes are an element, and none has gaps.
    #[inline]
    pub(crate) unsafe fn new(
        (input, input_bytes): (*const u8, usize),
        output: (*mut u8, usize),
        scratch: &mut [Line],
        element_bytes: usize,
    ) -> Self {
        let scratch = (scratch.as_mut_ptr().cast(), size_of_val(scratch));
        Self { spaces: [(input.cast_mut(), input_bytes), output, scratch], element_bytes }
    }

    /// Lines for so many elements.
    ///
    /// # Panics
    /// When they cannot be counted.
    pub(crate) fn scratch_lines(elements: u64, element_bytes: usize) -> usize {
        let bytes = (elements as usize).checked_mul(element_bytes);
        bytes.expect("scratch memory can be counted").div_ceil(size_of::<Line>())
    }

    #[inline]
    fn place(&mut self, span: Span) -> (*mut u8, usize) {
        let (start, limit) = self.spaces[span.space as usize];
        // A schedule may be the program's, with any numbers.
        let bytes = |elements: u64| (elements as usize).checked_mul(self.element_bytes);
        let (Some(offset), Some(len_bytes)) = (bytes(span.start), bytes(span.len)) else {
            Self::is_outside(span, limit)
        };
        if offset.checked_add(len_bytes).is_none_or(|end| end > limit) {
            Self::is_outside(span, limit);
        }
        // SAFETY: within the memory that was promised to `new`, as checked above.
        (unsafe { start.add(offset) }, len_bytes)
    }

    #[cold]
    fn is_outside(span: Span, limit: usize) -> ! {
        panic!("{span:?} is outside its memory of {limit} bytes")
    }

    /// A part to send.
    #[inline]
    pub(crate) fn piece(&mut self, span: Span) -> RawBuffer {
        let (start, len_bytes) = self.place(span);
        // SAFETY: as promised to `new`: an operation ends its requests before its memory goes (`Run`), and within a round nothing is
        // received to what is under way (`Schedule::check`).
        unsafe { RawBuffer::new(start, len_bytes) }
    }

    /// A part to send at once.
    #[inline]
    pub(crate) fn bytes(&mut self, span: Span) -> &[u8] {
        let (start, len_bytes) = self.place(span);
        // SAFETY: as above. Nothing can be received to it while this value is borrowed, because nothing of the round was begun that writes it.
        unsafe { std::slice::from_raw_parts(start, len_bytes) }
    }

    /// A part to receive to.
    #[inline]
    pub(crate) fn piece_mut(&mut self, span: Span) -> RawBuffer {
        assert!(span.space != Space::Input, "the input is never written");
        self.piece(span)
    }

    /// A part to receive to at once.
    #[inline]
    pub(crate) fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        assert!(span.space != Space::Input, "the input is never written");
        let (start, len_bytes) = self.place(span);
        // SAFETY: as in `piece`; what is sent meanwhile lies elsewhere.
        unsafe { std::slice::from_raw_parts_mut(start, len_bytes) }
    }

    /// Does a step.
    ///
    /// # Errors
    /// The message of a panic of the operator.
    #[inline]
    pub(crate) fn do_step(&mut self, step: Step, combine: Option<&dyn Combine>) -> Result<(), String> {
        match step {
            Step::Copy { from, to } => {
                assert!(to.space != Space::Input, "the input is never written");
                let ((from, len_bytes), (to, room_bytes)) = (self.place(from), self.place(to));
                assert_eq!(len_bytes, room_bytes, "both parts of a copy are as long");
                if !std::ptr::eq(from, to) {
                    // SAFETY: both are within what was promised to `new`. They may overlap in an operation in place.
                    unsafe { std::ptr::copy(from, to, len_bytes) };
                }
                Ok(())
            }
            Step::Combine { from, into, side } => {
                assert!(into.space != Space::Input, "the input is never written");
                let len = from.len as usize;
                let ((from, len_bytes), (into, room_bytes)) = (self.place(from), self.place(into));
                assert_eq!(len_bytes, room_bytes, "both operands are as long");
                assert!(
                    from.wrapping_add(len_bytes) <= into || into.wrapping_add(len_bytes) <= from,
                    "operands do not overlap"
                );
                let combine = combine.expect("an operation that combines has an operator");
                // SAFETY: both are within what was promised to `new`, aligned because they begin at elements, and do not overlap.
                unsafe { combine.combine(from, into, len, side) }
            }
        }
    }
}

/// An operator with the type of its elements.
#[derive(Debug)]
pub struct Typed<T, O> {
    operator: O,
    element: std::marker::PhantomData<T>,
}

impl<T, O: Clone> Clone for Typed<T, O> {
    fn clone(&self) -> Self {
        Self::new(self.operator.clone())
    }
}

impl<T, O> Typed<T, O> {
    pub(crate) const fn new(operator: O) -> Self {
        Self { operator, element: std::marker::PhantomData }
    }
}

impl<T: Pod, O: Operator<T>> Combine for Typed<T, O> {
    unsafe fn combine(&self, from: *const u8, into: *mut u8, len: usize, side: Side) -> Result<(), String> {
        // SAFETY: as promised by the caller.
        let (from, into) = unsafe {
            (
                std::slice::from_raw_parts(from.cast::<T>(), len),
                std::slice::from_raw_parts_mut(into.cast::<T>(), len),
            )
        };
        // A panic may leave some elements combined and some not; the communicator ends with it, and all of them are elements.
        let combined = catch_unwind(AssertUnwindSafe(|| {
            let pairs = from.iter().zip(into);
            match side {
                Side::Left => pairs.for_each(|(from, into)| *into = self.operator.apply(from, into)),
                Side::Right => pairs.for_each(|(from, into)| *into = self.operator.apply(into, from)),
            }
        }));
        combined.map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "without a message".to_owned())
        })
    }
}

/// Of operations that only move elements.
pub(crate) struct Nothing;

impl Combine for Nothing {
    unsafe fn combine(&self, _: *const u8, _: *mut u8, _: usize, _: Side) -> Result<(), String> {
        unreachable!("an operation that combines has an operator")
    }
}
