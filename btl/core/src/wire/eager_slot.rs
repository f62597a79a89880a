//! Slots of an eager ring: memory of one process that one peer writes short messages to by RDMA, so that the receiver finds them
//! by a look at its own memory instead of asking the adapter.
//!
//! ```text
//!  0      2288 - padded     2288  2290      2292    2294 2296  2300     2304
//!  +------+-------------------+-----+---------+-------+----+-----+--------+
//!  | old  | message, padded   | len | credits | sends | 0  | imm | number |
//!  |      | to 8 bytes        |     |         |       |    |     |        |
//!  +------+-------------------+-----+---------+-------+----+-----+--------+
//! ```
//!
//! A message ends where the trailer begins, so that one write puts both, and only as many bytes as there are. `number` is what
//! is written last and what the receiver waits for: the first message has 1, and a slot whose last word is not the next number
//! holds an older message. The last word of a slot is never a message's own data, so nothing is mistaken for it. That a
//! write arrives in the order of its bytes is no promise of the InfiniBand specification (volume 1, section 9.5), but every InfiniBand
//! and RoCE adapter keeps it for the bytes of one packet unless relaxed ordering is asked for, and MPI libraries have relied on it since
//! 2003 (Liu, Wu, Kini, Wyckoff, Panda: "High Performance RDMA-Based MPI Implementation over InfiniBand", ICS 2003). Packets of one write
//! may be placed in any order where routes differ, so a message and its trailer are one packet, see [`slot_message_bytes_max`].
//! iWARP adapters keep no order, and get no rings.
//!
//! `sends` counts, modulo 2^16, what used up receives on this connection before this message: messages that went the other way, and
//! writes with immediate. Both kinds are handed out in the order in which they were posted.
//!
//! A receiver offers a ring by a message of kind [`super::MessageKind::Ring`]:
//!
//! ```text
//!  0         8     12      14   16
//!  +---------+-----+-------+----+
//!  | address | key | slots | 0  |
//!  +---------+-----+-------+----+
//! ```

use super::{Reader, Writer};

/// Length of a slot: 2 KiB, the headers of the layers above, and the trailer, in whole cache lines.
pub const SLOT_BYTES: usize = 2304;
/// Length of the trailer.
pub const SLOT_TRAILER_BYTES: usize = 16;
/// The longest message in a slot.
pub const SLOT_MESSAGE_BYTES_MAX: usize = SLOT_BYTES - SLOT_TRAILER_BYTES;
/// Length of a [`RingOffer`].
pub const RING_OFFER_BYTES: usize = 16;

/// What stands behind a message in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotTrailer {
    /// Length of the message, without padding.
    pub len_bytes: u16,
    /// Credits given back.
    pub credits: u16,
    /// Messages through receives before this one, modulo 2^16.
    pub sends: u16,
    /// Immediate data of the layer above.
    pub imm: u32,
    /// Which message of the ring this is, from 1.
    pub number: u32,
}

impl SlotTrailer {
    /// The bytes on the wire.
    #[inline]
    pub const fn encode(self) -> [u8; SLOT_TRAILER_BYTES] {
        let word = self.len_bytes as u128
            | (self.credits as u128) << 16
            | (self.sends as u128) << 32
            | (self.imm as u128) << 64
            | (self.number as u128) << 96;
        word.to_le_bytes()
    }

    /// Reads a trailer; `None` for a length that no slot has.
    #[inline]
    pub const fn decode(bytes: [u8; SLOT_TRAILER_BYTES]) -> Option<Self> {
        let word = u128::from_le_bytes(bytes);
        let len_bytes = word as u16;
        if len_bytes as usize > SLOT_MESSAGE_BYTES_MAX {
            return None;
        }
        Some(Self {
            len_bytes,
            credits: (word >> 16) as u16,
            sends: (word >> 32) as u16,
            imm: (word >> 64) as u32,
            number: (word >> 96) as u32,
        })
    }
}

/// The longest message that goes to a slot where the longest packet has so many bytes: the order of the bytes of a packet is
/// relied on, that of packets is not.
pub const fn slot_message_bytes_max(packet_bytes: usize) -> usize {
    let write_bytes = if packet_bytes < SLOT_BYTES { packet_bytes } else { SLOT_BYTES };
    (write_bytes & !7) - SLOT_TRAILER_BYTES
}

/// Room that a message takes in front of the trailer.
#[inline]
pub const fn padded_bytes(len_bytes: usize) -> usize {
    len_bytes.next_multiple_of(8)
}

/// A ring that a peer may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOffer {
    /// Of the first slot.
    pub address: u64,
    /// The adapter's key for it.
    pub key: u32,
    /// How many slots it has; at least as many as the peer has credits.
    pub slots: u16,
}

impl RingOffer {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; RING_OFFER_BYTES] {
        Writer::new().u64(self.address).u32(self.key).put(&self.slots.to_le_bytes()).put(&[0; 2]).finish()
    }

    /// Reads an offer; `None` for a ring that cannot be.
    pub fn decode(bytes: &[u8; RING_OFFER_BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (address, key) = (reader.u64(), reader.u32());
        let slots = u16::from_le_bytes(reader.array());
        let end = address.checked_add(u64::from(slots) * SLOT_BYTES as u64);
        (slots > 0 && end.is_some()).then_some(Self { address, key, slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let trailer =
            SlotTrailer { len_bytes: 2288, credits: 0x0304, sends: 0x0506, imm: 0x0708_090a, number: 11 };
        let golden = [0xf0, 8, 4, 3, 6, 5, 0, 0, 10, 9, 8, 7, 11, 0, 0, 0];
        assert_eq!(trailer.encode(), golden);
        assert_eq!(SlotTrailer::decode(golden), Some(trailer));
        let offer = RingOffer { address: 0x0102_0304_0506_0708, key: 0x090a_0b0c, slots: 32 };
        let golden = [8, 7, 6, 5, 4, 3, 2, 1, 12, 11, 10, 9, 32, 0, 0, 0];
        assert_eq!(offer.encode(), golden);
        assert_eq!(RingOffer::decode(&golden), Some(offer));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut bytes = [0; SLOT_TRAILER_BYTES];
        bytes[..2].copy_from_slice(&(SLOT_MESSAGE_BYTES_MAX as u16 + 1).to_le_bytes());
        assert_eq!(SlotTrailer::decode(bytes), None);
        assert_eq!(RingOffer::decode(&[0; RING_OFFER_BYTES]), None, "no slots");
        let mut offer = RingOffer { address: u64::MAX - SLOT_BYTES as u64, key: 1, slots: 1 };
        assert!(RingOffer::decode(&offer.encode()).is_some());
        offer.slots = 2;
        assert_eq!(RingOffer::decode(&offer.encode()), None, "beyond the end of the address space");
    }

    #[test]
    fn a_write_is_one_packet() {
        let longest = [256, 512, 1024, 2048, 4096].map(slot_message_bytes_max);
        assert_eq!(longest, [240, 496, 1008, 2032, SLOT_MESSAGE_BYTES_MAX]);
    }

    proptest! {
        #[test]
        fn a_message_and_its_trailer_fit_a_slot(len_bytes in 0..=SLOT_MESSAGE_BYTES_MAX) {
            prop_assert!(padded_bytes(len_bytes) >= len_bytes);
            prop_assert!(padded_bytes(len_bytes) + SLOT_TRAILER_BYTES <= SLOT_BYTES);
        }

        #[test]
        fn trailers_come_back(len_bytes in 0..=SLOT_MESSAGE_BYTES_MAX as u16, credits: u16, sends: u16, imm: u32, number: u32) {
            let trailer = SlotTrailer { len_bytes, credits, sends, imm, number };
            prop_assert_eq!(SlotTrailer::decode(trailer.encode()), Some(trailer));
        }
    }
}
