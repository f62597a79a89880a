//! What travels as private data when the RDMA connection manager makes a connection. InfiniBand leaves 56 bytes to who asks by
//! an IP address, so only what decides is in here; the card follows as the first message ([`super::MessageKind::Hello`]).
//!
//! The connector's, in its request:
//!
//! ```text
//!  0       4      8          24        40        42    43      44    45  48    52     56
//!  +-------+------+----------+---------+---------+-----+-------+-----+---+-----+------+
//!  | "IBcm"| life | receiver's job key | credits | mtu | reads | rnr | 0 | pid | rank |
//!  |       |      | sender's job key   |         |     |       |     |   |     |      |
//!  +-------+------+----------+---------+---------+-----+-------+-----+---+-----+------+
//! ```
//!
//! The answer of who accepts, and of who refuses:
//!
//! ```text
//!  0       4      8         10    11      12    13  16        28  32         0       4        5   8
//!  +-------+------+---------+-----+-------+-----+---+---------+---+          +-------+--------+---+
//!  | "IBca"| life | credits | mtu | reads | rnr | 0 | landing | 0 |          | "IBcr"| reason | 0 |
//!  +-------+------+---------+-----+-------+-----+---+---------+---+          +-------+--------+---+
//! ```
//!
//! The magic words carry the version: another one is another word. The transport pads with zeros, so readers look at the front.

use super::{Offer, Reader, Writer};

/// Length of a [`Greeting`]: all that InfiniBand leaves.
pub const GREETING_BYTES: usize = 56;
/// Length of an [`Answer`].
pub const ANSWER_BYTES: usize = 32;
/// Length of a [`Landing`].
pub const LANDING_BYTES: usize = 12;
/// Length of a [`Refusal`].
pub const REFUSAL_BYTES: usize = 8;

const GREETING: [u8; 4] = *b"IBcm";
const ANSWER: [u8; 4] = *b"IBca";
const REFUSAL: [u8; 4] = *b"IBcr";

/// What who connects says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The job key of whom it is meant for.
    pub receiver_key: [u8; 16],
    /// The sender's own.
    pub sender_key: [u8; 16],
    /// The sender's queue pair; the connection manager itself carries its number, so here both numbers are 0.
    pub offer: Offer,
    /// The sender's process number.
    pub pid: u32,
    /// How messages to the user call the sender.
    pub rank: u32,
}

impl Greeting {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        Writer::new()
            .put(&GREETING)
            .u32(self.offer.life)
            .put(&self.receiver_key)
            .put(&self.sender_key)
            .put(&self.offer.credits.to_le_bytes())
            .put(&[self.offer.mtu, self.offer.reads, self.offer.rnr_timer, 0, 0, 0])
            .u32(self.pid)
            .u32(self.rank)
            .finish()
    }

    /// Reads a greeting from the front of private data; `None` for anything else. Strangers send what they like.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; GREETING_BYTES] = bytes.first_chunk()?;
        let mut reader = Reader::new(bytes);
        if reader.array() != GREETING {
            return None;
        }
        let life = reader.u32();
        let (receiver_key, sender_key) = (reader.array(), reader.array());
        let credits = u16::from_le_bytes(reader.array());
        let [mtu, reads, rnr_timer, ..] = reader.array::<6>();
        let (pid, rank) = (reader.u32(), reader.u32());
        let offer = sensible(Offer { life, qpn: 0, psn: 0, mtu, reads, rnr_timer, credits })?;
        Some(Self { receiver_key, sender_key, offer, pid, rank })
    }
}

/// 64 bytes that peers may read behind their writes, to learn that those have arrived; all zeros where that is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Landing {
    /// Where it is.
    pub address: u64,
    /// The adapter's key for it.
    pub key: u32,
}

impl Landing {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; LANDING_BYTES] {
        Writer::new().u64(self.address).u32(self.key).finish()
    }

    /// Reads them.
    pub fn decode(bytes: &[u8; LANDING_BYTES]) -> Self {
        let mut reader = Reader::new(bytes);
        Self { address: reader.u64(), key: reader.u32() }
    }
}

/// What who accepts says of its queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// As in [`Greeting::offer`].
    pub offer: Offer,
    /// Of who accepts; the connector's follows its card in the first message.
    pub landing: Landing,
}

impl Answer {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; ANSWER_BYTES] {
        Writer::new()
            .put(&ANSWER)
            .u32(self.offer.life)
            .put(&self.offer.credits.to_le_bytes())
            .put(&[self.offer.mtu, self.offer.reads, self.offer.rnr_timer, 0, 0, 0])
            .put(&self.landing.encode())
            .u32(0)
            .finish()
    }

    /// Reads an answer from the front of private data; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ANSWER_BYTES] = bytes.first_chunk()?;
        let mut reader = Reader::new(bytes);
        if reader.array() != ANSWER {
            return None;
        }
        let life = reader.u32();
        let credits = u16::from_le_bytes(reader.array());
        let [mtu, reads, rnr_timer, ..] = reader.array::<6>();
        let landing = Landing::decode(&reader.array());
        let offer = sensible(Offer { life, qpn: 0, psn: 0, mtu, reads, rnr_timer, credits })?;
        Some(Self { offer, landing })
    }
}

numbered! {
    /// Why a connection is refused.
    Refusal: u8, from_u8 {
        /// Both ends ask at once, and the other end's request is the one that counts.
        OursCounts = 1,
        /// This end has given the peer up after an error.
        Failed = 2,
        /// The request is older than one that was heard before.
        Stale = 3,
        /// It is meant for another process.
        Stranger = 4,
    }
}

impl Refusal {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; REFUSAL_BYTES] {
        Writer::new().put(&REFUSAL).put(&[self as u8, 0, 0, 0]).finish()
    }

    /// Reads a refusal from the front of private data; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REFUSAL_BYTES] = bytes.first_chunk()?;
        let mut reader = Reader::new(bytes);
        if reader.array() != REFUSAL {
            return None;
        }
        Self::from_u8(reader.array::<4>()[0])
    }
}

fn sensible(offer: Offer) -> Option<Offer> {
    (offer.is_sensible() && offer.reads > 0).then_some(offer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        Offer { life: 2, qpn: 0, psn: 0, mtu: 5, reads: 16, rnr_timer: 12, credits: 32 }
    }

    fn greeting() -> Greeting {
        Greeting { receiver_key: [0x55; 16], sender_key: [0xaa; 16], offer: offer(), pid: 77, rank: 3 }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = b"IBcm\x02\x00\x00\x00".to_vec();
        golden.extend([0x55; 16]);
        golden.extend([0xaa; 16]);
        golden.extend([32, 0, 5, 16, 12, 0, 0, 0, 77, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(greeting().encode().as_slice(), golden);
        golden.extend([0; 9]);
        assert_eq!(Greeting::decode(&golden), Some(greeting()), "padding does no harm");

        let answer = Answer { offer: offer(), landing: Landing { address: 0x0102, key: 0x0304 } };
        let mut golden = b"IBca\x02\x00\x00\x00\x20\x00\x05\x10\x0c\x00\x00\x00".to_vec();
        golden.extend([2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer.encode().as_slice(), golden);
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));

        for (refusal, byte) in
            [(Refusal::OursCounts, 1), (Refusal::Failed, 2), (Refusal::Stale, 3), (Refusal::Stranger, 4)]
        {
            assert_eq!(refusal.encode(), [b'I', b'B', b'c', b'r', byte, 0, 0, 0]);
            assert_eq!(Refusal::decode(&refusal.encode()), Some(refusal));
        }
        assert_eq!(Refusal::decode(b"IBcr\x09\x00\x00\x00"), None);
    }

    #[test]
    fn offers_that_make_no_sense_are_refused() {
        let refused = |change: fn(&mut Offer)| {
            let mut greeting = greeting();
            change(&mut greeting.offer);
            assert_eq!(Greeting::decode(&greeting.encode()), None, "{:?}", greeting.offer);
            assert_eq!(
                Answer::decode(&Answer { offer: greeting.offer, landing: Landing::default() }.encode()),
                None
            );
        };
        refused(|offer| offer.life = 0);
        refused(|offer| offer.mtu = 6);
        refused(|offer| offer.reads = 0);
        refused(|offer| offer.rnr_timer = 32);
        refused(|offer| offer.credits = 3);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Greeting::decode(&bytes), Answer::decode(&bytes), Refusal::decode(&bytes));
        }
    }
}
