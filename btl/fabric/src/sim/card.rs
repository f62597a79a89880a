//! The card: the out-of-band address of a simulated device. It follows from the seed and the number of the device alone, so
//! that what a program makes of addresses is the same in every run.
//!
//! ```text
//!  0        4     6     8          16       20     24
//!  +--------+-----+-----+----------+--------+------+
//!  | "IBsi" | ver | len |  world   | device | rank |
//!  +--------+-----+-----+----------+--------+------+
//! ```

use crate::Unreachable;

pub(super) const CARD_BYTES: usize = 24;
const MAGIC: [u8; 4] = *b"IBsi";
const VERSION: u16 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Card {
    /// Follows from the seed.
    pub(super) world: u64,
    /// Number of the device in its world.
    pub(super) device: u32,
    pub(super) rank: u32,
}

impl Card {
    pub(super) fn encode(self) -> [u8; CARD_BYTES] {
        let mut bytes = [0; CARD_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(CARD_BYTES as u16).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.world.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.device.to_le_bytes());
        bytes[20..].copy_from_slice(&self.rank.to_le_bytes());
        bytes
    }

    pub(super) fn decode(address: &[u8]) -> Result<Self, Unreachable> {
        let Ok(bytes) = <&[u8; CARD_BYTES]>::try_from(address) else {
            return Err(Unreachable::because(format!(
                "the peer's address is {} bytes long, that of a simulated device has {CARD_BYTES}",
                address.len()
            )));
        };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let card =
            Self { world: u64::from(word(8)) | u64::from(word(12)) << 32, device: word(16), rank: word(20) };
        if bytes[..8] != card.encode()[..8] {
            return Err(Unreachable::because(format!(
                "the peer's address is not of a simulated device (it starts with {:02x?})",
                &bytes[..8]
            )));
        }
        Ok(card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let card = Card { world: 0x1122_3344_5566_7788, device: 0x0a0b_0c0d, rank: 7 };
        let bytes = card.encode();
        let wanted = b"IBsi\x01\0\x18\0\x88\x77\x66\x55\x44\x33\x22\x11\x0d\x0c\x0b\x0a\x07\0\0\0";
        assert_eq!(&bytes, wanted);
        assert_eq!(Card::decode(&bytes), Ok(card));
        for at in 0..8 {
            let mut other = bytes;
            other[at] ^= 1;
            assert!(Card::decode(&other).is_err(), "byte {at} is another");
        }
        assert!(Card::decode(&bytes[1..]).is_err() && Card::decode(&[]).is_err());
    }
}
