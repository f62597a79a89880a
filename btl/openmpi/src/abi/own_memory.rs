//! Transfers on memory of this very process, without the transport.
//!
//! `osc/rdma` 4.1 asks for them in one case: `MPI_Compare_and_swap` goes to the transport even where `osc/rdma` reaches
//! the target by load and store, that is on this process's own part of a window, and on every part of a window from
//! `MPI_Win_allocate`, whose memory all processes of the node map. The address is then one of *this* process, and there
//! is no handle, by which the case is known. (`vader` takes the address for one of the peer's, and crashes.)
//!
//! The operations are atomic against all that processors do, which is what peers' atomics are where the device says that its
//! atomics are global. Where an adapter does them, `osc/rdma` takes its own lock around each, except in windows whose info
//! says `accumulate_ops=same_op`, in a job of one node over verbs alone: there a swap by the owner may miss a peer's.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ironband::{AtomicOp, AtomicWidth};

/// Runs an atomic and stores the old value at `result`.
///
/// # Safety
/// `address` is aligned to the width and mapped for writing; `result` is writable for the width, at any alignment.
pub(super) unsafe fn atomic(address: u64, op: AtomicOp, width: AtomicWidth, result: *mut u8) {
    // SAFETY: as promised by the caller; all access to this memory while others may change it is atomic.
    unsafe {
        match width {
            AtomicWidth::Four => {
                // The operand is in the low bytes.
                let old = four(AtomicU32::from_ptr(address as *mut u32), op);
                result.cast::<u32>().write_unaligned(old);
            }
            AtomicWidth::Eight => {
                let old = eight(AtomicU64::from_ptr(address as *mut u64), op);
                result.cast::<u64>().write_unaligned(old);
            }
        }
    }
}

fn eight(word: &AtomicU64, op: AtomicOp) -> u64 {
    let order = Ordering::SeqCst;
    match op {
        AtomicOp::FetchAdd(operand) => word.fetch_add(operand, order),
        AtomicOp::FetchAnd(operand) => word.fetch_and(operand, order),
        AtomicOp::FetchOr(operand) => word.fetch_or(operand, order),
        AtomicOp::FetchXor(operand) => word.fetch_xor(operand, order),
        AtomicOp::FetchMin(operand) => update(word, |old| (old as i64).min(operand as i64) as u64),
        AtomicOp::FetchMax(operand) => update(word, |old| (old as i64).max(operand as i64) as u64),
        AtomicOp::Swap(operand) => word.swap(operand, order),
        AtomicOp::CompareSwap { compare, swap } => {
            word.compare_exchange(compare, swap, order, order).unwrap_or_else(|old| old)
        }
    }
}

fn update(word: &AtomicU64, change: impl Fn(u64) -> u64) -> u64 {
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old))).unwrap_or_else(|old| old)
}

fn four(word: &AtomicU32, op: AtomicOp) -> u32 {
    let order = Ordering::SeqCst;
    match op {
        AtomicOp::FetchAdd(operand) => word.fetch_add(operand as u32, order),
        AtomicOp::FetchAnd(operand) => word.fetch_and(operand as u32, order),
        AtomicOp::FetchOr(operand) => word.fetch_or(operand as u32, order),
        AtomicOp::FetchXor(operand) => word.fetch_xor(operand as u32, order),
        AtomicOp::FetchMin(operand) => update_four(word, |old| (old as i32).min(operand as i32) as u32),
        AtomicOp::FetchMax(operand) => update_four(word, |old| (old as i32).max(operand as i32) as u32),
        AtomicOp::Swap(operand) => word.swap(operand as u32, order),
        AtomicOp::CompareSwap { compare, swap } => {
            word.compare_exchange(compare as u32, swap as u32, order, order).unwrap_or_else(|old| old)
        }
    }
}

fn update_four(word: &AtomicU32, change: impl Fn(u32) -> u32) -> u32 {
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old))).unwrap_or_else(|old| old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_and_swap_gives_the_old_value_either_way() {
        let mut word = 5_u64;
        let mut result = [0_u8; 8];
        let address = (&raw mut word) as u64;
        for (compare, found, left) in [(4, 5, 5), (5, 5, 9)] {
            // SAFETY: own variables, of the right length.
            unsafe {
                let op = AtomicOp::CompareSwap { compare, swap: 9 };
                atomic(address, op, AtomicWidth::Eight, result.as_mut_ptr());
            }
            assert_eq!((u64::from_ne_bytes(result), word), (found, left));
        }
    }

    #[test]
    fn four_bytes_leave_their_neighbours_alone() {
        let mut words = [1_u32, u32::MAX, 2];
        let mut result = [0_u8; 4];
        // SAFETY: own variables, of the right length.
        unsafe {
            let address = (&raw mut words[1]) as u64;
            atomic(address, AtomicOp::FetchAdd(2), AtomicWidth::Four, result.as_mut_ptr());
        }
        assert_eq!((u32::from_ne_bytes(result), words), (u32::MAX, [1, 1, 2]));
    }

    #[test]
    fn minimum_and_maximum_are_signed() {
        let mut word = 1_u64;
        let mut result = [0_u8; 8];
        let address = (&raw mut word) as u64;
        let minus_one = -1_i64 as u64;
        // SAFETY: own variables, of the right length.
        unsafe {
            atomic(address, AtomicOp::FetchMax(minus_one), AtomicWidth::Eight, result.as_mut_ptr());
            assert_eq!(word, 1);
            atomic(address, AtomicOp::FetchMin(minus_one), AtomicWidth::Eight, result.as_mut_ptr());
        }
        assert_eq!(word, minus_one);
    }
}
