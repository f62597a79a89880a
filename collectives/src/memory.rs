//! The memory of an operation that is under way. All that is unsafe is here: whoever begins an operation promises that its buffers stay, and
//! [`Memory`] hands out parts of them by [`Span`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytemuck::Pod;
use ironband::RawBuffer;

use crate::operator::Operator;

use crate::schedule::{Space, Span, Step};

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
    /// `left` and `right` are `len` elements each that can be read, `into` as many that nobody else uses; all are of the operator's type and
    /// aligned. They do not overlap, but `into` may be one of the others.
    unsafe fn combine(
        &self,
        left: *const u8,
        right: *const u8,
        into: *mut u8,
        len: usize,
    ) -> Result<(), String>;
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
            Step::Combine { left, right, into } => {
                assert!(into.space != Space::Input, "the input is never written");
                let len = into.len as usize;
                let ((left, left_bytes), (right, right_bytes)) = (self.place(left), self.place(right));
                let (into, room_bytes) = self.place(into);
                assert!(
                    left_bytes == room_bytes && right_bytes == room_bytes,
                    "operands and result are as long"
                );
                let are_apart = |one: *mut u8, other: *mut u8| {
                    one.wrapping_add(room_bytes) <= other || other.wrapping_add(room_bytes) <= one
                };
                // In an operation in place what is input and what is output may be the same memory.
                let fits = |operand: *mut u8| std::ptr::eq(operand, into) || are_apart(operand, into);
                assert!(are_apart(left, right) && fits(left) && fits(right), "operands do not overlap");
                let combine = combine.expect("an operation that combines has an operator");
                // SAFETY: all are within what was promised to `new`, aligned because they begin at elements, and overlap no more than they may.
                unsafe { combine.combine(left, right, into, len) }
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
    unsafe fn combine(
        &self,
        left: *const u8,
        right: *const u8,
        into: *mut u8,
        len: usize,
    ) -> Result<(), String> {
        // SAFETY: as promised by the caller; not both of the same memory, see below.
        let read = |operand: *const u8| unsafe { std::slice::from_raw_parts(operand.cast::<T>(), len) };
        // SAFETY: as above; nobody else uses it.
        let result = unsafe { std::slice::from_raw_parts_mut(into.cast::<T>(), len) };
        let apply = |left: &T, right: &T| self.operator.apply(left, right);
        // A panic may leave some elements combined and some not; the communicator ends with it, and all of them are elements.
        let combined = catch_unwind(AssertUnwindSafe(|| {
            if std::ptr::eq(left, into) {
                result.iter_mut().zip(read(right)).for_each(|(into, right)| *into = apply(into, right));
            } else if std::ptr::eq(right, into) {
                result.iter_mut().zip(read(left)).for_each(|(into, left)| *into = apply(left, into));
            } else {
                let operands = read(left).iter().zip(read(right));
                result.iter_mut().zip(operands).for_each(|(into, (left, right))| *into = apply(left, right));
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
    unsafe fn combine(&self, _: *const u8, _: *const u8, _: *mut u8, _: usize) -> Result<(), String> {
        unreachable!("an operation that combines has an operator")
    }
}
