//! The bytes that `-c` sends, and how a wrong one is found.
//!
//! Byte `k` of message `n` from rank `s` with `z` bytes is `hash(k / 8, s, z)[k % 8] + 167 n` (mod 256). The
//! hash tells positions, senders and sizes apart, so a fragment at a wrong offset is seen; the term in `n`
//! differs in every single byte between neighbouring messages, so data left over from the message before, or
//! from the slot beside, never passes by chance.

use std::fmt;

use crate::memory::{Slots, Span};

/// Odd, so that the term repeats only after 256 messages.
const MESSAGE_STEP: u64 = 167;

/// What the bytes behind a message hold before it arrives.
const TAIL_VALUE: u8 = 0xA5;

/// Spreads one byte over the eight of a word.
const EVERY_BYTE: u64 = 0x0101_0101_0101_0101;

const LOW_BITS: u64 = 0x7f * EVERY_BYTE;

/// The first wrong byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Who sent it.
    pub source: i32,
    /// Bytes in the message.
    pub size_bytes: usize,
    /// Which message of this size, warm-up included.
    pub message: u64,
    /// Where; at or above `size_bytes` something was written behind the message.
    pub offset_bytes: usize,
    /// What belongs there.
    pub expected: u8,
    /// What is there.
    pub found: u8,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, size_bytes, message, offset_bytes, expected, found } = self;
        let place = if offset_bytes < size_bytes { "byte" } else { "behind the message, byte" };
        write!(
            f,
            "message {message} of {size_bytes} bytes from rank {source}: {place} {offset_bytes} \
             is {found:#04x} and should be {expected:#04x}"
        )
    }
}

/// The pattern of all messages of one size from one rank.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    source: i32,
    size_bytes: usize,
    seed: u64,
}

impl Pattern {
    /// Pattern of `size_bytes` messages that `source` sends.
    pub fn new(source: i32, size_bytes: usize) -> Self {
        let seed = scramble((size_bytes as u64) << 32 | u64::from(source.cast_unsigned()));
        Self { source, size_bytes, seed }
    }

    #[inline]
    fn word(self, index: usize, step: u64) -> [u8; 8] {
        let base = scramble(self.seed ^ index as u64);
        // Eight additions modulo 256 in one word: carries stop at each byte's top bit.
        let sum = ((base & LOW_BITS) + (step & LOW_BITS)) ^ ((base ^ step) & !LOW_BITS);
        sum.to_le_bytes()
    }

    /// Writes message number `message`.
    pub fn write(self, target: Span<'_>, message: u64) {
        let step = step_of(message);
        target.write_words(|index| self.word(index, step));
    }

    /// Checks every byte of message number `message`.
    pub fn verify(self, received: Span<'_>, message: u64) -> Result<(), Mismatch> {
        let step = step_of(message);
        let Some((offset_bytes, found)) = received.first_difference(|index| self.word(index, step)) else {
            return Ok(());
        };
        let expected = self.word(offset_bytes / 8, step)[offset_bytes % 8];
        Err(Mismatch {
            source: self.source,
            size_bytes: self.size_bytes,
            message,
            offset_bytes,
            expected,
            found,
        })
    }

    /// Writes a whole window, whose first message has number `first`.
    pub fn write_window(self, slots: Slots<'_>, first: u64) {
        for index in 0..slots.count() {
            self.write(slots.at(index), first + index as u64);
        }
    }

    /// Checks a whole window and what lies behind each of its messages.
    pub fn verify_window(self, slots: Slots<'_>, first: u64) -> Result<(), Mismatch> {
        for index in 0..slots.count() {
            let message = first + index as u64;
            self.verify(slots.at(index), message)?;
            let tail = slots.tail(index);
            if let Some((offset, found)) = tail.first_difference(|_| [TAIL_VALUE; 8]) {
                let offset_bytes = self.size_bytes + offset;
                let (source, size_bytes, expected) = (self.source, self.size_bytes, TAIL_VALUE);
                return Err(Mismatch { source, size_bytes, message, offset_bytes, expected, found });
            }
        }
        Ok(())
    }
}

/// Marks what lies behind each slot, so that a write past the end of a message shows.
pub fn arm_tails(slots: Slots<'_>) {
    for index in 0..slots.count() {
        slots.tail(index).fill(TAIL_VALUE);
    }
}

fn step_of(message: u64) -> u64 {
    (message.wrapping_mul(MESSAGE_STEP) & 0xff) * EVERY_BYTE
}

/// The finaliser of Steele, Lea and Flood's SplitMix64 ("Fast splittable pseudorandom number generators", 2014).
#[inline]
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Layout, PageBuffer};

    fn bytes(pattern: Pattern, size: usize, message: u64) -> Vec<u8> {
        let buffer = PageBuffer::new(size, "a test").expect("small");
        let span = buffer.span().part(0, size);
        pattern.write(span, message);
        (0..size).map(|offset| span.byte(offset)).collect()
    }

    #[test]
    fn what_was_written_verifies_and_the_definition_holds() {
        for size in (0..70).chain([255, 1000, 4097]) {
            let pattern = Pattern::new(3, size);
            for message in [0, 1, 255, 256, 1 << 40] {
                let buffer = PageBuffer::new(size, "a test").expect("small");
                let span = buffer.span().part(0, size);
                pattern.write(span, message);
                assert_eq!(pattern.verify(span, message), Ok(()));
                for offset in 0..size {
                    let base = scramble(pattern.seed ^ (offset as u64 / 8)).to_le_bytes()[offset % 8];
                    let expected = base.wrapping_add((message as u8).wrapping_mul(167));
                    assert_eq!(span.byte(offset), expected);
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found_where_it_is() {
        for size in [1, 2, 7, 8, 9, 64, 300] {
            let pattern = Pattern::new(0, size);
            let buffer = PageBuffer::new(size, "a test").expect("small");
            let span = buffer.span().part(0, size);
            pattern.write(span, 9);
            for offset in 0..size {
                for bit in 0..8 {
                    let right = span.byte(offset);
                    span.set_byte(offset, right ^ (1 << bit));
                    let mismatch = pattern.verify(span, 9).expect_err("a flipped bit");
                    assert_eq!((mismatch.offset_bytes, mismatch.expected), (offset, right));
                    assert_eq!(mismatch.found, right ^ (1 << bit));
                    span.set_byte(offset, right);
                }
            }
            assert_eq!(pattern.verify(span, 9), Ok(()));
        }
    }

    #[test]
    fn a_neighbouring_message_differs_in_every_byte() {
        let pattern = Pattern::new(1, 500);
        for message in 0..300 {
            let (this, next) = (bytes(pattern, 500, message), bytes(pattern, 500, message + 1));
            assert!(this.iter().zip(&next).all(|(a, b)| a != b), "message {message}");
        }
    }

    #[test]
    fn senders_sizes_and_positions_differ() {
        let base = bytes(Pattern::new(0, 64), 64, 0);
        assert_ne!(base, bytes(Pattern::new(1, 64), 64, 0));
        assert_ne!(base, bytes(Pattern::new(0, 128), 64, 0));
        assert!(base.chunks(8).enumerate().all(|(i, a)| base.chunks(8).skip(i + 1).all(|b| a != b)));
    }

    #[test]
    fn windows_catch_swapped_slots_and_writes_behind_any_message() {
        for layout in [Layout::Separate, Layout::Packed] {
            let (size, count) = (100, 5);
            let pattern = Pattern::new(0, size);
            let buffer = PageBuffer::new(layout.length_bytes(size, count).expect("small"), "a test");
            let buffer = buffer.expect("small");
            let slots = Slots::new(buffer.span(), layout, size, count);
            arm_tails(slots);
            pattern.write_window(slots, 40);
            assert_eq!(pattern.verify_window(slots, 40), Ok(()));
            assert_eq!(pattern.verify_window(slots, 41).expect_err("shifted").message, 41);

            pattern.write(slots.at(2), 43);
            pattern.write(slots.at(3), 42);
            assert_eq!(pattern.verify_window(slots, 40).expect_err("swapped").message, 42);

            pattern.write_window(slots, 40);
            for index in 0..count {
                let tail = slots.tail(index);
                for offset in 0..tail.length_bytes() {
                    tail.set_byte(offset, 0);
                    let mismatch = pattern.verify_window(slots, 40).expect_err("overrun");
                    assert_eq!(mismatch.offset_bytes, size + offset);
                    assert!(mismatch.to_string().contains("behind the message"), "{mismatch}");
                    tail.set_byte(offset, TAIL_VALUE);
                }
            }
        }
    }
}
