//! The memory of those who post and of those who register: the only place that touches it.
//!
//! Everything is in one process, so a peer's address is an address here. Each function takes raw pointers that come from the
//! same two sources, and whoever gave them upholds what is needed:
//! - a buffer of a post, from [`crate::Device::post_read`], `post_write` or `post_atomic`: valid until the request has ended.
//!   `requests.rs` forgets it in the moment in which it puts the completion into the queue, and when the device is dropped.
//! - registered memory, from [`crate::Device::register`]: mapped until it is deregistered. `Regions::check` gives the pointer anew for
//!   each piece, and only while key, range and access are right.
//!
//! The functions are not `unsafe fn`, because the promise is made in the post and used in a later step, by code that
//! only passes addresses on.

use crate::{AtomicOp, AtomicWidth, atomics};

/// Copies a piece of an RDMA operation. The two may overlap: a process may be its own peer.
pub(super) fn copy(from: *const u8, to: *mut u8, len_bytes: usize) {
    // SAFETY: the poster and the registration vouch for both, see the head of this file.
    unsafe { std::ptr::copy(from, to, len_bytes) };
}

/// A copy of a poster's memory, for what goes on after its request has ended.
pub(super) fn snapshot(from: *const u8, len_bytes: usize) -> Box<[u8]> {
    let mut bytes = vec![0; len_bytes];
    copy(from, bytes.as_mut_ptr(), len_bytes);
    bytes.into_boxed_slice()
}

/// Runs an atomic on registered memory, which `requests.rs` has found to be aligned; returns the old value.
pub(super) fn run_atomic(target: *mut u8, op: AtomicOp, width: AtomicWidth) -> u64 {
    let (code, operand, compare) = atomics::wire_form(op);
    // SAFETY: registered, see the head of this file; aligned as the caller has checked.
    unsafe { atomics::run_atomic(code, width, target, operand, compare) }
}

/// The first half of an atomic that does not exclude the processor.
pub(super) fn load(target: *const u8, width: AtomicWidth) -> u64 {
    // SAFETY: registered and aligned, as in `run_atomic`.
    unsafe {
        match width {
            AtomicWidth::Four => u64::from(target.cast::<u32>().read_volatile()),
            AtomicWidth::Eight => target.cast::<u64>().read_volatile(),
        }
    }
}

/// Stores the old value of an atomic where its poster wants it, or the new one where it belongs.
pub(super) fn store(result: *mut u8, width: AtomicWidth, value: u64) {
    // SAFETY: the poster vouches for the place and its alignment; or it is registered and aligned, as in `run_atomic`.
    unsafe { atomics::store_result(result, width, value) };
}

/// What an operation makes of a value of this width.
pub(super) fn apply(op: AtomicOp, width: AtomicWidth, old: u64) -> u64 {
    let mut cell = old;
    run_atomic(std::ptr::from_mut(&mut cell).cast(), op, width);
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_overlap() {
        let mut bytes: Vec<u8> = (0..10).collect();
        let start = bytes.as_mut_ptr();
        copy(start, start.wrapping_add(2), 8);
        assert_eq!(bytes, [0, 1, 0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn halves_make_a_whole() {
        for width in [AtomicWidth::Four, AtomicWidth::Eight] {
            let (mut whole, mut halves) = (0x0102_0304_ffff_fffe_u64, 0x0102_0304_ffff_fffe_u64);
            let at = std::ptr::from_mut(&mut whole).cast();
            let old = run_atomic(at, AtomicOp::FetchAdd(3), width);
            let at = std::ptr::from_mut(&mut halves).cast();
            assert_eq!(load(at, width), old);
            store(at, width, apply(AtomicOp::FetchAdd(3), width, old));
            assert_eq!(halves, whole);
        }
    }
}
