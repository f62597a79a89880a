//! Datagrams of the handshake, and the header of each message on a connection.
//!
//! A datagram, which may be lost, come twice, or come late; it says all that its receiver needs:
//!
//! ```text
//!  0        4     6      7     8           24         28           32
//!  +--------+-----+------+-----+-----------+----------+------------+
//!  | "IBhs" | ver | kind | 0   | receiver's| sender's | receiver's |
//!  |        |     |      |     | job key   | life     | life or 0  |
//!  +--------+-----+------+-----+-----------+----------+------------+
//!  32    36    40    41      42      43  44        46  48         152
//!  +-----+-----+-----+-------+-------+---+---------+---+-----------+
//!  | qpn | psn | mtu | reads | rnr   | 0 | credits | 0 | sender's  |
//!  |     |     |     |       | timer |   |         |   | card      |
//!  +-----+-----+-----+-------+-------+---+---------+---+-----------+
//! ```
//!
//! A message on a connection; the length is the completion's:
//!
//! ```text
//!  0      1   2         4     8
//!  +------+---+---------+-----+----------
//!  | kind | 0 | credits | imm | payload
//!  +------+---+---------+-----+----------
//! ```

use super::{Reader, VERBS_CARD_BYTES, VERBS_VERSION, VerbsCard, Writer};

/// Length of a datagram: below the smallest MTU.
pub const DATAGRAM_BYTES: usize = 48 + VERBS_CARD_BYTES;
const MAGIC: [u8; 4] = *b"IBhs";
const _: () = assert!(DATAGRAM_BYTES <= 256);

/// Length of the header in front of a message.
pub const MESSAGE_HEADER_BYTES: usize = 8;

numbered! {
    /// What a datagram says of its sender's queue pair.
    DatagramKind: u8, from_u8 {
        /// It waits for the receiver's numbers.
        Request = 1,
        /// It is ready to receive, and wants to know whether the receiver's is.
        Reply = 2,
        /// It is ready to receive, and the sender knows the same of the receiver's.
        Ready = 3,
        /// It is gone.
        Bye = 4,
    }
}

/// A sender's queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Which attempt of the sender this is: counts up from 1, so that a late datagram of an earlier one is known as such.
    pub life: u32,
    /// The queue pair's number.
    pub qpn: u32,
    /// Its first packet sequence number.
    pub psn: u32,
    /// The longest packet, as verbs count it: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    /// RDMA reads and atomics that it serves at once.
    pub reads: u8,
    /// How long the peer waits when no receive is posted, as verbs count it.
    pub rnr_timer: u8,
    /// Messages that may be under way to it.
    pub credits: u16,
}

impl Offer {
    /// Whether verbs can express it, apart from the numbers.
    pub(super) fn is_sensible(&self) -> bool {
        self.life > 0 && (1..=5).contains(&self.mtu) && self.rnr_timer < 32 && self.credits >= CREDITS_MIN
    }
}

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// What it says.
    pub kind: DatagramKind,
    /// The job key of whom it is meant for.
    pub receiver_key: [u8; 16],
    /// The receiver's life that the sender knows of; 0 for none.
    pub receiver_life: u32,
    /// The sender's queue pair.
    pub offer: Offer,
    /// The sender.
    pub card: VerbsCard,
}

impl Datagram {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; DATAGRAM_BYTES] {
        Writer::new()
            .put(&MAGIC)
            .put(&VERBS_VERSION.to_le_bytes())
            .put(&[self.kind as u8, 0])
            .put(&self.receiver_key)
            .u32(self.offer.life)
            .u32(self.receiver_life)
            .u32(self.offer.qpn)
            .u32(self.offer.psn)
            .put(&[self.offer.mtu, self.offer.reads, self.offer.rnr_timer, 0])
            .put(&self.offer.credits.to_le_bytes())
            .put(&[0; 2])
            .put(&self.card.encode())
            .finish()
    }

    /// Reads a datagram; `None` for anything but one of this version. Strangers send what they like, so nobody is told.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; DATAGRAM_BYTES] = bytes.try_into().ok()?;
        let mut reader = Reader::new(bytes);
        if reader.array() != MAGIC || u16::from_le_bytes(reader.array()) != VERBS_VERSION {
            return None;
        }
        let [kind, _] = reader.array();
        let kind = DatagramKind::from_u8(kind)?;
        let receiver_key = reader.array();
        let (life, receiver_life, qpn, psn) = (reader.u32(), reader.u32(), reader.u32(), reader.u32());
        let [mtu, reads, rnr_timer, _] = reader.array();
        let credits = u16::from_le_bytes(reader.array());
        let _: [u8; 2] = reader.array();
        let card: [u8; VERBS_CARD_BYTES] = reader.array();
        let card = VerbsCard::decode(&card).ok()?;
        let offer = Offer { life, qpn, psn, mtu, reads, rnr_timer, credits };
        let sensible = offer.is_sensible() && qpn < 1 << 24 && psn < 1 << 24;
        sensible.then_some(Self { kind, receiver_key, receiver_life, offer, card })
    }
}

/// With fewer credits the last one, which is kept for giving credits back, could not turn around.
pub const CREDITS_MIN: u16 = 4;

numbered! {
    /// What a message on a connection is.
    MessageKind: u8, from_u8 {
        /// For the layer above.
        Send = 1,
        /// An RDMA write that does not tell of itself is done; the payload is its length (8 bytes).
        Written = 2,
        /// Nothing but credits.
        Credits = 3,
        /// An [`super::AtomicRequest`] for the receiver's processor.
        AtomicRequest = 4,
        /// An [`super::AtomicReply`].
        AtomicReply = 5,
        /// The sender has destroyed its queue pair; nothing follows.
        Bye = 6,
        /// The first message of who connected through the RDMA connection manager; the payload is its card and its
        /// [`super::Landing`].
        Hello = 7,
        /// The sender lends the receiver a ring to write short messages to: a [`super::RingOffer`].
        Ring = 8,
        /// A [`super::ReadRequest`] for the receiver's processor.
        ReadRequest = 9,
        /// A [`super::ReadReply`].
        ReadReply = 10,
    }
}

/// The header in front of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    /// What follows.
    pub kind: MessageKind,
    /// Credits given back.
    pub credits: u16,
    /// Immediate data of the layer above.
    pub imm: u32,
}

impl MessageHeader {
    /// The bytes on the wire.
    #[inline]
    pub const fn encode(self) -> [u8; MESSAGE_HEADER_BYTES] {
        let word = self.kind as u64 | (self.credits as u64) << 16 | (self.imm as u64) << 32;
        word.to_le_bytes()
    }

    /// Reads a header; `None` for a kind that is not assigned.
    #[inline]
    pub const fn decode(bytes: [u8; MESSAGE_HEADER_BYTES]) -> Option<Self> {
        let word = u64::from_le_bytes(bytes);
        let Some(kind) = MessageKind::from_u8(word as u8) else { return None };
        Some(Self { kind, credits: (word >> 16) as u16, imm: (word >> 32) as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::verbs_card::tests::sample as card;
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Datagram {
        Datagram {
            kind: DatagramKind::Reply,
            receiver_key: [0x55; 16],
            receiver_life: 9,
            offer: Offer {
                life: 2,
                qpn: 0x0a_0b0c,
                psn: 0x01_0203,
                mtu: 5,
                reads: 16,
                rnr_timer: 12,
                credits: 32,
            },
            card: card(),
        }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = b"IBhs\x02\x00\x02\x00".to_vec();
        golden.extend([0x55; 16]);
        golden.extend([2, 0, 0, 0, 9, 0, 0, 0, 0x0c, 0x0b, 0x0a, 0, 3, 2, 1, 0, 5, 16, 12, 0, 32, 0, 0, 0]);
        golden.extend(card().encode());
        assert_eq!(sample().encode().as_slice(), golden);
        assert_eq!(Datagram::decode(&golden), Some(sample()));

        let header = MessageHeader { kind: MessageKind::Written, credits: 0x0304, imm: 0x0506_0708 };
        assert_eq!(header.encode(), [2, 0, 4, 3, 8, 7, 6, 5]);
        assert_eq!(MessageHeader::decode(header.encode()), Some(header));
        assert_eq!(MessageHeader::decode([11, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn offers_that_verbs_cannot_express_are_refused() {
        let refused = |change: fn(&mut Offer)| {
            let mut datagram = sample();
            change(&mut datagram.offer);
            assert_eq!(Datagram::decode(&datagram.encode()), None, "{:?}", datagram.offer);
        };
        refused(|offer| offer.life = 0);
        refused(|offer| offer.qpn = 1 << 24);
        refused(|offer| offer.psn = 1 << 24);
        refused(|offer| offer.mtu = 0);
        refused(|offer| offer.rnr_timer = 32);
        refused(|offer| offer.credits = 3);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(at in 0..DATAGRAM_BYTES, byte in any::<u8>(), cut in 0..DATAGRAM_BYTES) {
            let mut bytes = sample().encode();
            bytes[at] = byte;
            let _ = Datagram::decode(&bytes);
            prop_assert_eq!(Datagram::decode(&bytes[..cut]), None);
        }
    }
}
