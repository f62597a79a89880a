//! Short reads that a peer's processor does, where its adapter cannot be trusted with them:
//!
//! ```text
//!  request  0     4     6   8         16    24
//!           +-----+-----+---+---------+-----+
//!           | job | len | 0 | address | key |
//!           +-----+-----+---+---------+-----+
//!  answer   0     4        8                40
//!           +-----+--------+----------------+
//!           | job | status | data, then 0   |
//!           +-----+--------+----------------+
//! ```

use super::{Reader, Writer};

/// The longest read of this kind.
pub const SHORT_READ_BYTES_MAX: usize = 32;

/// A read for the receiver's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// The asker's number for it.
    pub job: u32,
    /// From 1 to [`SHORT_READ_BYTES_MAX`].
    pub len_bytes: u16,
    /// Where, in the receiver's memory.
    pub address: u64,
    /// The key of the region.
    pub key: u64,
}

impl ReadRequest {
    /// Length on the wire.
    pub const BYTES: usize = 24;

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        Writer::new()
            .u32(self.job)
            .put(&self.len_bytes.to_le_bytes())
            .put(&[0; 2])
            .u64(self.address)
            .u64(self.key)
            .finish()
    }

    /// Reads a request; `None` for a length that none has.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let job = reader.u32();
        let len_bytes = u16::from_le_bytes(reader.array());
        let _: [u8; 2] = reader.array();
        let fits = (1..=SHORT_READ_BYTES_MAX).contains(&usize::from(len_bytes));
        fits.then(|| Self { job, len_bytes, address: reader.u64(), key: reader.u64() })
    }
}

/// The answer to a [`ReadRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadReply {
    /// Of the request.
    pub job: u32,
    /// A [`super::WireStatus`].
    pub status: u32,
    /// As much as was asked for, then zeros.
    pub data: [u8; SHORT_READ_BYTES_MAX],
}

impl ReadReply {
    /// Length on the wire.
    pub const BYTES: usize = 8 + SHORT_READ_BYTES_MAX;

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        Writer::new().u32(self.job).u32(self.status).put(&self.data).finish()
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let mut reader = Reader::new(bytes);
        Self { job: reader.u32(), status: reader.u32(), data: reader.array() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let request = ReadRequest {
            job: 0x0102_0304,
            len_bytes: 9,
            address: 0x0506_0708_090a_0b0c,
            key: 0x0d0e_0f10_1112_1314,
        };
        let golden = [
            4, 3, 2, 1, 9, 0, 0, 0, 0x0c, 0x0b, 0x0a, 9, 8, 7, 6, 5, 0x14, 0x13, 0x12, 0x11, 0x10, 0x0f,
            0x0e, 0x0d,
        ];
        assert_eq!(request.encode(), golden);
        assert_eq!(ReadRequest::decode(&golden), Some(request));

        let reply = ReadReply { job: 0x0102_0304, status: 5, data: std::array::from_fn(|at| at as u8) };
        let mut golden = vec![4, 3, 2, 1, 5, 0, 0, 0];
        golden.extend(0..32);
        assert_eq!(reply.encode().as_slice(), golden);
        assert_eq!(ReadReply::decode(&reply.encode()), reply);
    }

    #[test]
    fn lengths_that_no_short_read_has_are_refused() {
        let decoded = |len_bytes| {
            ReadRequest::decode(&ReadRequest { job: 1, len_bytes, address: 2, key: 3 }.encode()).is_some()
        };
        assert_eq!([0, 1, 32, 33, u16::MAX].map(decoded), [false, true, true, false, false]);
    }
}
