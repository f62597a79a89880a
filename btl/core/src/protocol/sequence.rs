//! Numbers of the messages between two processes, in one direction. A fabric delivers in order and once, or fails; the number
//! is the check that it has, and that two processes count alike.
//!
//! 28 bits, so that a header's word has 4 left for the message's kind. They wrap: a message would have to be 2^28 late to be taken for
//! the next one.

/// How many bits a number has.
pub const SEQUENCE_BITS: u32 = 28;
const MASK: u32 = (1 << SEQUENCE_BITS) - 1;

/// One direction, at either end of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sequence {
    upcoming: u32,
}

/// A message was lost, came twice or overtook another, or the peer counts wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "message {got} arrived, and {expected} is the next one: the connection has lost the order of its messages"
)]
pub struct OutOfSequence {
    /// The number of the next message.
    pub expected: u32,
    /// The number that arrived.
    pub got: u32,
}

impl Sequence {
    /// Before the first message.
    pub const fn new() -> Self {
        Self { upcoming: 0 }
    }

    /// The number that [`Sequence::number`] would give.
    pub const fn upcoming(&self) -> u32 {
        self.upcoming
    }

    /// The sender's: the number of the message that is sent now.
    pub const fn number(&mut self) -> u32 {
        let number = self.upcoming;
        self.upcoming = (number + 1) & MASK;
        number
    }

    /// The receiver's: whether the message that has arrived is the next one. One that is not is not counted.
    pub const fn check(&mut self, got: u32) -> Result<(), OutOfSequence> {
        if got != self.upcoming {
            return Err(OutOfSequence { expected: self.upcoming, got });
        }
        self.upcoming = (got + 1) & MASK;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_count_alike_past_the_end_of_the_numbers() {
        let start = Sequence { upcoming: MASK - 2 };
        let (mut sender, mut receiver) = (start, start);
        let numbers: Vec<_> = (0..6).map(|_| sender.number()).collect();
        assert_eq!(numbers, [MASK - 2, MASK - 1, MASK, 0, 1, 2]);
        for number in numbers {
            assert_eq!(receiver.check(number), Ok(()));
        }
        assert_eq!(sender, receiver);
        let (mut sender, mut receiver) = (Sequence::new(), Sequence::default());
        assert_eq!((sender.number(), receiver.check(0)), (0, Ok(())), "the first");
    }

    #[test]
    fn what_is_not_the_next_is_named_and_not_counted() {
        let mut receiver = Sequence::new();
        assert_eq!(receiver.check(0), Ok(()));
        // Lost, twice, late by almost all, more bits than a number has.
        for got in [2, 0, MASK, 1 | 1 << SEQUENCE_BITS, u32::MAX] {
            assert_eq!(receiver.check(got), Err(OutOfSequence { expected: 1, got }));
        }
        assert_eq!(receiver.check(1), Ok(()));
    }
}
