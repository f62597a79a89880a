//! Copies of a few bytes, for which a call would cost more than the copy.

/// The longest copy, in bytes: what a ring's slot holds in its first line.
pub(crate) const SHORT_BYTES_MAX: usize = 48;

/// Copies up to 48 bytes without a call: two overlapping moves of a fixed length cover every length of a size class.
///
/// # Safety
/// `source` is readable and `target` writable for `len_bytes`, they do not overlap, and `len_bytes` is at most 48.
#[inline(always)]
pub(crate) unsafe fn copy_short(target: *mut u8, source: *const u8, len_bytes: usize) {
    type Quad = [u64; 2];
    debug_assert!(len_bytes <= SHORT_BYTES_MAX);
    // SAFETY: each move below stays inside the first or the last `n` bytes of both ranges, where `n` is a length that the
    // branch knows to be at most `len_bytes`.
    unsafe {
        macro_rules! ends {
            ($type:ty) => {{
                let n = size_of::<$type>();
                let first = source.cast::<$type>().read_unaligned();
                let last = source.add(len_bytes - n).cast::<$type>().read_unaligned();
                target.cast::<$type>().write_unaligned(first);
                target.add(len_bytes - n).cast::<$type>().write_unaligned(last);
            }};
        }
        if len_bytes >= 16 {
            if len_bytes > 32 {
                let middle = source.add(16).cast::<Quad>().read_unaligned();
                target.add(16).cast::<Quad>().write_unaligned(middle);
            }
            ends!(Quad);
        } else if len_bytes >= 8 {
            ends!(u64);
        } else if len_bytes >= 4 {
            ends!(u32);
        } else if len_bytes > 0 {
            *target = *source;
            *target.add(len_bytes - 1) = *source.add(len_bytes - 1);
            *target.add(len_bytes / 2) = *source.add(len_bytes / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_copies_move_every_length_and_nothing_else() {
        let source: Vec<u8> = (1..=48).collect();
        for len in 0..=48 {
            let mut target = [0xee_u8; 50];
            // SAFETY: 48 bytes on both sides.
            unsafe { copy_short(target.as_mut_ptr().wrapping_add(1), source.as_ptr(), len) };
            assert_eq!(target[0], 0xee);
            assert_eq!(target[1..=len], source[..len]);
            assert!(target[len + 1..].iter().all(|b| *b == 0xee), "length {len} wrote too far");
        }
    }
}
