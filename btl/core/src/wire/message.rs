//! What the processes of a Rust program say to each other: the messages of the protocol engine, over any fabric.
//!
//! Each message has 32 bits of immediate data, a header and a payload. The immediate data are the kind and the number of the message
//! in its direction; then come, little-endian:
//!
//! ```text
//!  immediate   bits 0 to 3: kind      bits 4 to 31: number
//!
//!  1 hello     0      4     6     8      12     16          24
//!              +------+-----+-----+------+------+-----------+
//!              | "IBen" ver | 48  | rank |window|  job key  |        then 24 bytes that are 0
//!              +------+-----+-----+------+------+-----------+
//!  2 eager     0     8
//!              +-----+------------------+
//!              | tag | the data         |
//!              +-----+------------------+
//!  3 announce  0     8     16        24    32       40        44      48
//!    (RTS)     +-----+-----+---------+-----+--------+---------+-------+
//!              | tag | len | address | key | sender | counter | flags |
//!              +-----+-----+---------+-----+--------+---------+-------+
//!  4 read      0        8        12        16
//!    (ATS)     +--------+--------+---------+
//!              | sender | status | counter |
//!              +--------+--------+---------+
//!  5 ready     0        8          16        24    32    40        44      48
//!    (CTS)     +--------+----------+---------+-----+-----+---------+-------+
//!              | sender | receiver | address | key | len | counter | flags |
//!              +--------+----------+---------+-----+-----+---------+-------+
//!  6 written   0          8        12        16
//!    (FIN)     +----------+--------+---------+
//!              | receiver | status | counter |
//!              +----------+--------+---------+
//!  7 piece     0          8        16
//!              +----------+--------+------------------+
//!              | receiver | offset | the data         |
//!              +----------+--------+------------------+
//!  8 credit    0         4   8
//!              +---------+---+
//!              | counter | 0 |
//!              +---------+---+
//!  9 active    0    4   8
//!              +----+---+------------------+
//!              | id | 0 | the data         |
//!              +----+---+------------------+
//! 10 farewell  0      1   8
//!              +------+---+-----------------------------------+
//!              | ends | 0 | why, as text, to be shown only    |
//!              +------+---+-----------------------------------+
//! 11 withdraw  0        8         12  16
//!              +--------+---------+---+
//!              | sender | counter | 0 |
//!              +--------+---------+---+
//! ```
//!
//! `sender` and `receiver` are handles of requests, to be given back as they are. `counter` is the receiver's of the peer's window
//! (`protocol::credit`). In `flags`, bit 0 says that `address` and `key` are of registered memory; without, the data go in pieces.

use super::{Reader, Writer};

/// Version of all of these.
pub const MESSAGE_VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"IBen";
/// The longest header.
pub const HEADER_BYTES_MAX: usize = 48;

const FLAG_MEMORY: u32 = 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`Hello`].
    Hello = 1,
    /// A tag and the data.
    Eager = 2,
    /// [`Announce`].
    Announce = 3,
    /// [`Ended`] of a message that was announced: it has been read.
    Read = 4,
    /// [`Ready`].
    Ready = 5,
    /// [`Ended`] of a message that was written.
    Written = 6,
    /// [`Piece`].
    Piece = 7,
    /// A counter alone.
    Credit = 8,
    /// An active message: its number and its data.
    Active = 9,
    /// The sender has given the receiver up, and ends the connection. It is not numbered: it may come at any time.
    Farewell = 10,
    /// [`Withdraw`].
    Withdraw = 11,
}

/// Length of the header of an eager message.
pub const EAGER_HEADER_BYTES: usize = 8;
/// Length of the header of an active message.
pub const ACTIVE_HEADER_BYTES: usize = 8;
/// Length of the header of a farewell: 1 in the first byte says that the sender ends, 0 that it goes on without the receiver.
pub const FAREWELL_HEADER_BYTES: usize = 8;
/// The longest reason in a farewell.
pub const FAREWELL_TEXT_BYTES_MAX: usize = 200;
/// Length of the header of a credit message.
pub const CREDIT_HEADER_BYTES: usize = 8;

impl Kind {
    const ALL: [Self; 11] = [
        Self::Hello,
        Self::Eager,
        Self::Announce,
        Self::Read,
        Self::Ready,
        Self::Written,
        Self::Piece,
        Self::Credit,
        Self::Active,
        Self::Farewell,
        Self::Withdraw,
    ];

    /// The immediate data of a message of this kind with this number, of which 28 bits count.
    #[inline]
    pub const fn immediate(self, number: u32) -> u32 {
        self as u32 | number << 4
    }

    /// Kind and number of a message; `None` for a kind that there is not.
    #[inline]
    pub fn of_immediate(immediate: u32) -> Option<(Self, u32)> {
        let kind = (immediate & 15).wrapping_sub(1);
        Self::ALL.get(kind as usize).map(|kind| (*kind, immediate >> 4))
    }

    /// How long the header is.
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::Hello | Self::Announce | Self::Ready => 48,
            Self::Read | Self::Written | Self::Piece | Self::Withdraw => 16,
            Self::Eager | Self::Credit | Self::Active | Self::Farewell => 8,
        }
    }
}

/// The first message of each direction: who speaks, and how much may be sent unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's rank.
    pub rank: u32,
    /// What the receiver may send it unasked, in bytes.
    pub window_bytes: u32,
    /// The same in all processes of a job.
    pub job: u64,
}

/// A first message that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Something else.
    #[error("the first message is no greeting (it starts with {0:02x?})")]
    Magic([u8; 4]),
    /// Another release.
    #[error(
        "the peer speaks version {0} of the protocol, this process version {MESSAGE_VERSION}: build all programs of a job with one release"
    )]
    Version(u16),
}

/// Memory of a peer, by address and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Virtual address in the peer.
    pub address: u64,
    /// The key of the registration.
    pub key: u64,
}

/// A message that is too long to be sent at once, or for which the receiver has no room (RTS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The sender's tag.
    pub tag: u64,
    /// How long the message is.
    pub len_bytes: u64,
    /// Where it can be read; if nowhere, it goes in pieces.
    pub memory: Option<Memory>,
    /// The sender's request.
    pub sender: u64,
    /// See the head of this file.
    pub counter: u32,
}

/// Where an announced message is to be written (CTS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The sender's request, from [`Announce`].
    pub sender: u64,
    /// The receiver's request.
    pub receiver: u64,
    /// Where the message can be written; if nowhere, it is to be sent in pieces.
    pub memory: Option<Memory>,
    /// How long the message is, as it was announced.
    pub len_bytes: u64,
    /// See the head of this file.
    pub counter: u32,
}

/// The end of a message that was announced: to its sender that it was read (ATS), or to its receiver that it was written (FIN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The request of whom it is sent to.
    pub request: u64,
    /// Whether the data have arrived, or the message was received in vain: 0, or one of [`Outcome`].
    pub outcome: Outcome,
    /// See the head of this file.
    pub counter: u32,
}

/// How a message that was announced has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// The data are there.
    Done = 0,
    /// The receiver's buffer was too short; nothing was moved.
    Truncated = 1,
    /// The data could not be moved.
    Failed = 2,
}

/// A piece of an announced message, whose data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The receiver's request, from [`Ready`].
    pub receiver: u64,
    /// Where in the message it belongs.
    pub offset: u64,
}

/// The sender of a message that was announced wants its buffer back. A receiver that has not begun with the message forgets it and answers with
/// [`Outcome::Truncated`]; one that has goes on, and its answer is the one that the sender waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdraw {
    /// The sender's request, from [`Announce`].
    pub sender: u64,
    /// See the head of this file.
    pub counter: u32,
}

impl Hello {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; 48] {
        Writer::new()
            .put(&MAGIC)
            .put(&MESSAGE_VERSION.to_le_bytes())
            .put(&48_u16.to_le_bytes())
            .u32(self.rank)
            .u32(self.window_bytes)
            .u64(self.job)
            .put(&[0; 24])
            .finish()
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// For anything but a greeting of this version.
    pub fn decode(bytes: &[u8; 48]) -> Result<Self, HelloError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.array();
        if magic != MAGIC {
            return Err(HelloError::Magic(magic));
        }
        let version = u16::from_le_bytes(reader.array());
        if version != MESSAGE_VERSION {
            return Err(HelloError::Version(version));
        }
        let _length: [u8; 2] = reader.array();
        Ok(Self { rank: reader.u32(), window_bytes: reader.u32(), job: reader.u64() })
    }
}

fn flagged(address: u64, key: u64, flags: u32) -> Option<Memory> {
    (flags & FLAG_MEMORY != 0).then_some(Memory { address, key })
}

impl Announce {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; 48] {
        let Memory { address, key } = self.memory.unwrap_or(Memory { address: 0, key: 0 });
        Writer::new()
            .u64(self.tag)
            .u64(self.len_bytes)
            .u64(address)
            .u64(key)
            .u64(self.sender)
            .u32(self.counter)
            .u32(if self.memory.is_some() { FLAG_MEMORY } else { 0 })
            .finish()
    }

    /// Reads what is not checked here: all of it is the peer's word.
    pub fn decode(bytes: &[u8; 48]) -> Self {
        let mut reader = Reader::new(bytes);
        let (tag, len_bytes, address, key) = (reader.u64(), reader.u64(), reader.u64(), reader.u64());
        let (sender, counter, flags) = (reader.u64(), reader.u32(), reader.u32());
        Self { tag, len_bytes, memory: flagged(address, key, flags), sender, counter }
    }
}

impl Ready {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; 48] {
        let Memory { address, key } = self.memory.unwrap_or(Memory { address: 0, key: 0 });
        Writer::new()
            .u64(self.sender)
            .u64(self.receiver)
            .u64(address)
            .u64(key)
            .u64(self.len_bytes)
            .u32(self.counter)
            .u32(if self.memory.is_some() { FLAG_MEMORY } else { 0 })
            .finish()
    }

    /// As [`Announce::decode`].
    pub fn decode(bytes: &[u8; 48]) -> Self {
        let mut reader = Reader::new(bytes);
        let (sender, receiver, address, key) = (reader.u64(), reader.u64(), reader.u64(), reader.u64());
        let (len_bytes, counter, flags) = (reader.u64(), reader.u32(), reader.u32());
        Self { sender, receiver, memory: flagged(address, key, flags), len_bytes, counter }
    }
}

impl Ended {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; 16] {
        Writer::new().u64(self.request).u32(self.outcome as u32).u32(self.counter).finish()
    }

    /// Reads it; `None` for an outcome that there is not.
    pub fn decode(bytes: &[u8; 16]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (request, outcome, counter) = (reader.u64(), reader.u32(), reader.u32());
        let outcome = match outcome {
            0 => Outcome::Done,
            1 => Outcome::Truncated,
            2 => Outcome::Failed,
            _ => return None,
        };
        Some(Self { request, outcome, counter })
    }
}

impl Withdraw {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; 16] {
        Writer::new().u64(self.sender).u32(self.counter).u32(0).finish()
    }

    /// As [`Announce::decode`].
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let mut reader = Reader::new(bytes);
        Self { sender: reader.u64(), counter: reader.u32() }
    }
}

impl Piece {
    /// The bytes on the wire.
    pub fn encode(self) -> [u8; 16] {
        Writer::new().u64(self.receiver).u64(self.offset).finish()
    }

    /// As [`Announce::decode`].
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let mut reader = Reader::new(bytes);
        Self { receiver: reader.u64(), offset: reader.u64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY: Memory = Memory { address: 0x7fff_0000_1000, key: 0x0102_0304 };

    #[test]
    fn immediate_data() {
        assert_eq!(Kind::Eager.immediate(0), 2);
        assert_eq!(Kind::Active.immediate(0x0abc_def1), 0xabcd_ef19);
        for kind in Kind::ALL {
            assert_eq!(Kind::of_immediate(kind.immediate(7)), Some((kind, 7)));
            assert!(kind.header_bytes() <= HEADER_BYTES_MAX);
        }
        for none in [0, 12, 15, 0xffff_fff0, 0xffff_ffff] {
            assert_eq!(Kind::of_immediate(none), None, "{none:x}");
        }
    }

    #[test]
    fn golden_bytes() {
        let hello = Hello { rank: 3, window_bytes: 0x10_0000, job: u64::MAX }.encode();
        let mut golden = b"IBen\x01\x00\x30\x00\x03\x00\x00\x00\x00\x00\x10\x00".to_vec();
        golden.extend_from_slice(&[0xff; 8]);
        golden.extend_from_slice(&[0; 24]);
        assert_eq!(hello.as_slice(), golden);

        let announce =
            Announce { tag: 5, len_bytes: 1 << 32, memory: Some(MEMORY), sender: 9, counter: 7 }.encode();
        let mut golden = vec![5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        golden.extend_from_slice(&[0, 0x10, 0, 0, 0xff, 0x7f, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
        golden.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(announce.as_slice(), golden);

        let ready = Ready { sender: 9, receiver: 8, memory: Some(MEMORY), len_bytes: 6, counter: 7 }.encode();
        let mut golden = vec![9, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&[0, 0x10, 0, 0, 0xff, 0x7f, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
        golden.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(ready.as_slice(), golden);

        let ended = Ended { request: 9, outcome: Outcome::Truncated, counter: 7 }.encode();
        assert_eq!(ended, [9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        let withdraw = Withdraw { sender: 9, counter: 7 }.encode();
        assert_eq!(withdraw, [9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        let piece = Piece { receiver: 8, offset: 256 }.encode();
        assert_eq!(piece, [8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_greeting_is_refused() {
        let good = Hello { rank: 3, window_bytes: 4096, job: 1 }.encode();
        let mut bad = good;
        bad[0] = b'X';
        assert!(matches!(Hello::decode(&bad), Err(HelloError::Magic(_))));
        bad = good;
        bad[4] = 9;
        assert_eq!(Hello::decode(&bad), Err(HelloError::Version(9)));
        let mut ended = Ended { request: 9, outcome: Outcome::Failed, counter: 7 }.encode();
        ended[8] = 3;
        assert_eq!(Ended::decode(&ended), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(a: u64, b: u64, c: u64, d: u64, e: u32, has_memory: bool) {
            let memory = has_memory.then_some(Memory { address: c, key: d });
            let hello = Hello { rank: e, window_bytes: !e, job: a };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            let announce = Announce { tag: a, len_bytes: b, memory, sender: d, counter: e };
            prop_assert_eq!(Announce::decode(&announce.encode()), announce);
            let ready = Ready { sender: a, receiver: b, memory, len_bytes: d, counter: e };
            prop_assert_eq!(Ready::decode(&ready.encode()), ready);
            let piece = Piece { receiver: a, offset: b };
            prop_assert_eq!(Piece::decode(&piece.encode()), piece);
            let withdraw = Withdraw { sender: a, counter: e };
            prop_assert_eq!(Withdraw::decode(&withdraw.encode()), withdraw);
            for outcome in [Outcome::Done, Outcome::Truncated, Outcome::Failed] {
                let ended = Ended { request: a, outcome, counter: e };
                prop_assert_eq!(Ended::decode(&ended.encode()), Some(ended));
            }
        }
    }
}
