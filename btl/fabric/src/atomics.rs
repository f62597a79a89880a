//! Atomics by this processor: on its own memory, for peers and for itself; and how an atomic travels.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ironband_core::wire::AtomicCode;

use crate::{AtomicOp, AtomicWidth};

/// Code, operand and what is compared with, as they travel.
pub(crate) const fn wire_form(op: AtomicOp) -> (AtomicCode, u64, u64) {
    match op {
        AtomicOp::FetchAdd(operand) => (AtomicCode::FetchAdd, operand, 0),
        AtomicOp::FetchAnd(operand) => (AtomicCode::FetchAnd, operand, 0),
        AtomicOp::FetchOr(operand) => (AtomicCode::FetchOr, operand, 0),
        AtomicOp::FetchXor(operand) => (AtomicCode::FetchXor, operand, 0),
        AtomicOp::FetchMin(operand) => (AtomicCode::FetchMin, operand, 0),
        AtomicOp::FetchMax(operand) => (AtomicCode::FetchMax, operand, 0),
        AtomicOp::Swap(operand) => (AtomicCode::Swap, operand, 0),
        AtomicOp::CompareSwap { compare, swap } => (AtomicCode::CompareSwap, swap, compare),
    }
}

/// The width with this number of bytes.
pub(crate) const fn width(bytes: u16) -> Option<AtomicWidth> {
    match bytes {
        4 => Some(AtomicWidth::Four),
        8 => Some(AtomicWidth::Eight),
        _ => None,
    }
}

/// What an operation makes of a value of 8 bytes.
#[cfg(feature = "verbs")]
pub(crate) fn apply(op: AtomicOp, old: u64) -> u64 {
    match op {
        AtomicOp::FetchAdd(value) => old.wrapping_add(value),
        AtomicOp::FetchAnd(value) => old & value,
        AtomicOp::FetchOr(value) => old | value,
        AtomicOp::FetchXor(value) => old ^ value,
        AtomicOp::FetchMin(value) => old.cast_signed().min(value.cast_signed()).cast_unsigned(),
        AtomicOp::FetchMax(value) => old.cast_signed().max(value.cast_signed()).cast_unsigned(),
        AtomicOp::Swap(value) => value,
        AtomicOp::CompareSwap { compare, swap } if old == compare => swap,
        AtomicOp::CompareSwap { .. } => old,
    }
}

/// Runs one atomic on memory of this process and returns the old value.
///
/// # Safety
/// `target` is mapped, writable, aligned to `width`, and other threads access it only atomically while this runs.
pub(crate) unsafe fn run_atomic(
    code: AtomicCode,
    width: AtomicWidth,
    target: *mut u8,
    operand: u64,
    compare: u64,
) -> u64 {
    macro_rules! run {
        ($atomic:ty, $unsigned:ty, $signed:ty) => {{
            // SAFETY: aligned and mapped, as promised by the caller.
            let cell = unsafe { <$atomic>::from_ptr(target.cast()) };
            let operand = operand as $unsigned;
            let order = Ordering::AcqRel;
            let choose = |keep: fn($signed, $signed) -> $signed| {
                cell.fetch_update(order, Ordering::Acquire, |old| {
                    Some(keep(old.cast_signed(), operand.cast_signed()).cast_unsigned())
                })
                .unwrap_or_else(|old| old)
            };
            u64::from(match code {
                AtomicCode::FetchAdd => cell.fetch_add(operand, order),
                AtomicCode::FetchAnd => cell.fetch_and(operand, order),
                AtomicCode::FetchOr => cell.fetch_or(operand, order),
                AtomicCode::FetchXor => cell.fetch_xor(operand, order),
                AtomicCode::FetchMin => choose(std::cmp::min),
                AtomicCode::FetchMax => choose(std::cmp::max),
                AtomicCode::Swap => cell.swap(operand, order),
                AtomicCode::CompareSwap => cell
                    .compare_exchange(compare as $unsigned, operand, order, Ordering::Acquire)
                    .unwrap_or_else(|old| old),
            })
        }};
    }
    match width {
        AtomicWidth::Four => run!(AtomicU32, u32, i32),
        AtomicWidth::Eight => run!(AtomicU64, u64, i64),
    }
}

/// Stores the old value of an atomic.
///
/// # Safety
/// `result` is writable and aligned for the width.
pub(crate) unsafe fn store_result(result: *mut u8, width: AtomicWidth, old: u64) {
    // SAFETY: as promised by the caller.
    unsafe {
        match width {
            AtomicWidth::Four => result.cast::<u32>().write(old as u32),
            AtomicWidth::Eight => result.cast::<u64>().write(old),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomics_return_the_old_value() {
        let mut cell = [5_u64, 0xffff_ffff_ffff_fff0];
        let mut run = |index: usize, code, width, operand, compare| {
            let target = std::ptr::from_mut(&mut cell[index]).cast();
            // SAFETY: an aligned u64 of this thread.
            unsafe { run_atomic(code, width, target, operand, compare) }
        };
        use AtomicCode as C;
        use AtomicWidth::{Eight, Four};
        assert_eq!(run(0, C::FetchAdd, Eight, 3, 0), 5);
        assert_eq!(run(0, C::FetchXor, Eight, 1, 0), 8);
        assert_eq!(run(0, C::FetchOr, Eight, 6, 0), 9);
        assert_eq!(run(0, C::FetchAnd, Eight, 0xc, 0), 15);
        assert_eq!(run(0, C::FetchMin, Eight, (-4_i64).cast_unsigned(), 0), 12);
        assert_eq!(run(0, C::FetchMax, Eight, 7, 0), (-4_i64).cast_unsigned());
        assert_eq!(run(0, C::CompareSwap, Eight, 9, 1), 7);
        assert_eq!(run(0, C::CompareSwap, Eight, 9, 7), 7);
        assert_eq!(run(0, C::Swap, Eight, 1, 0), 9);
        assert_eq!(run(1, C::FetchAdd, Four, 0x20, 0), 0xffff_fff0);
        assert_eq!(cell, [1, 0xffff_ffff_0000_0010], "the upper half is untouched");
    }

    /// What adapters are asked to swap in must be what a processor would have made of the value.
    #[cfg(feature = "verbs")]
    #[test]
    fn what_is_worked_out_is_what_a_processor_does() {
        let values = [0, 1, 7, u64::MAX, 1 << 63, (1 << 63) - 1, 0x00ff_00ff_00ff_00ff];
        for old in values {
            for operand in values {
                for op in [
                    AtomicOp::FetchAdd(operand),
                    AtomicOp::FetchAnd(operand),
                    AtomicOp::FetchOr(operand),
                    AtomicOp::FetchXor(operand),
                    AtomicOp::FetchMin(operand),
                    AtomicOp::FetchMax(operand),
                    AtomicOp::Swap(operand),
                    AtomicOp::CompareSwap { compare: 7, swap: operand },
                ] {
                    let (code, operand, compare) = wire_form(op);
                    let mut cell = old;
                    let target = std::ptr::from_mut(&mut cell).cast();
                    // SAFETY: an aligned u64 of this thread.
                    let before = unsafe { run_atomic(code, AtomicWidth::Eight, target, operand, compare) };
                    assert_eq!((before, cell), (old, apply(op, old)), "{op:?} on {old:#x}");
                }
            }
        }
    }
}
