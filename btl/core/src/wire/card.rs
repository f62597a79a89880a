//! The card: the out-of-band address of a shared-memory device, passed through the launcher's key-value exchange.
//!
//! ```text
//!  0        4     6     8                24         32     36     40     44      48
//!  +--------+-----+-----+----------------+----------+------+------+------+-------+
//!  | "IBsm" | ver | len |    boot id     |  pid ns  | pid  | uid  | rank | memfd |
//!  +--------+-----+-----+----------------+----------+------+------+------+-------+
//!  48            56             64            72                88
//!  +-------------+--------------+-------------+-----------------+
//!  | memfd inode | probe address| probe value |     job key     |
//!  +-------------+--------------+-------------+-----------------+
//! ```

use super::{Reader, Writer};

/// Length of a card in bytes.
pub const CARD_BYTES: usize = 88;
/// Version of the card and of everything in the shared segment: both change together.
pub const CARD_VERSION: u16 = 2;
const MAGIC: [u8; 4] = *b"IBsm";

/// What two processes must have in common to share memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostIdentity {
    /// The kernel's boot id: the same kernel, since the same boot.
    pub boot_id: [u8; 16],
    /// Inode of the PID namespace: process numbers mean the same.
    pub pid_namespace: u64,
    /// Effective user: segments are readable by their owner only.
    pub uid: u32,
}

/// Where a process's segment is, and what proves that a connection was meant for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Where the process runs.
    pub host: HostIdentity,
    /// Its process number.
    pub pid: u32,
    /// How messages to the user call it.
    pub rank: u32,
    /// The descriptor of its segment, in its own table.
    pub memfd: u32,
    /// The segment's inode: tells another process that got the same number from the right one.
    pub memfd_inode: u64,
    /// Address, in the process, of an 8-byte word that holds `probe_value`: for the cross-memory-attach probe.
    pub probe_address: u64,
    /// See `probe_address`.
    pub probe_value: u64,
    /// Random; a connection request that does not carry it is ignored.
    pub key: [u8; 16],
}

/// Bytes that are no card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Wrong length.
    #[error("the peer's address is {0} bytes long, a card has {CARD_BYTES}")]
    Length(usize),
    /// Not ours.
    #[error("the peer's address is not a shared-memory card (it starts with {0:02x?})")]
    Magic([u8; 4]),
    /// Another release.
    #[error(
        "the peer speaks version {0} of the shared-memory protocol, this process version {CARD_VERSION}: install the same release everywhere"
    )]
    Version(u16),
}

impl Card {
    /// The card's bytes.
    pub fn encode(&self) -> [u8; CARD_BYTES] {
        Writer::new()
            .put(&MAGIC)
            .put(&CARD_VERSION.to_le_bytes())
            .put(&(CARD_BYTES as u16).to_le_bytes())
            .put(&self.host.boot_id)
            .u64(self.host.pid_namespace)
            .u32(self.pid)
            .u32(self.host.uid)
            .u32(self.rank)
            .u32(self.memfd)
            .u64(self.memfd_inode)
            .u64(self.probe_address)
            .u64(self.probe_value)
            .put(&self.key)
            .finish()
    }

    /// Reads a card.
    ///
    /// # Errors
    /// [`CardError`] for anything but exactly one card of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CardError> {
        let bytes: &[u8; CARD_BYTES] = bytes.try_into().map_err(|_| CardError::Length(bytes.len()))?;
        let mut reader = Reader::new(bytes);
        let magic = reader.array();
        if magic != MAGIC {
            return Err(CardError::Magic(magic));
        }
        let version = u16::from_le_bytes(reader.array());
        if version != CARD_VERSION {
            return Err(CardError::Version(version));
        }
        let length = u16::from_le_bytes(reader.array());
        if usize::from(length) != CARD_BYTES {
            return Err(CardError::Length(length.into()));
        }
        let (boot_id, pid_namespace) = (reader.array(), reader.u64());
        let (pid, uid, rank, memfd) = (reader.u32(), reader.u32(), reader.u32(), reader.u32());
        Ok(Self {
            host: HostIdentity { boot_id, pid_namespace, uid },
            pid,
            rank,
            memfd,
            memfd_inode: reader.u64(),
            probe_address: reader.u64(),
            probe_value: reader.u64(),
            key: reader.array(),
        })
    }
}

impl HostIdentity {
    /// Says why `other` cannot share memory with this process, if it cannot.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        if self.boot_id != other.boot_id {
            return Some("it runs on another node".to_owned());
        }
        if self.pid_namespace != other.pid_namespace {
            return Some(format!(
                "it runs in another PID namespace ({} here, {} there): start the containers with a shared one (--pid=host)",
                self.pid_namespace, other.pid_namespace
            ));
        }
        (self.uid != other.uid)
            .then(|| format!("it runs as another user (uid {} here, {} there)", self.uid, other.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Card {
        Card {
            host: HostIdentity { boot_id: [0xb0; 16], pid_namespace: 0x0102_0304_0506_0708, uid: 1000 },
            pid: 0x1122,
            rank: 3,
            memfd: 9,
            memfd_inode: 77,
            probe_address: 0x7fff_0000_1000,
            probe_value: u64::MAX,
            key: [0xaa; 16],
        }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = Vec::new();
        golden.extend_from_slice(b"IBsm\x02\x00\x58\x00");
        golden.extend_from_slice(&[0xb0; 16]);
        golden.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        golden.extend_from_slice(&[0x22, 0x11, 0, 0, 0xe8, 3, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0]);
        golden.extend_from_slice(&[77, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[0, 0x10, 0, 0, 0xff, 0x7f, 0, 0]);
        golden.extend_from_slice(&[0xff; 8]);
        golden.extend_from_slice(&[0xaa; 16]);
        assert_eq!(sample().encode().as_slice(), golden);
    }

    #[test]
    fn what_is_no_card_is_refused_with_the_reason() {
        let good = sample().encode();
        assert_eq!(Card::decode(&good), Ok(sample()));
        assert_eq!(Card::decode(&good[1..]), Err(CardError::Length(CARD_BYTES - 1)));
        let mut bad = good;
        bad[4] = 9;
        assert_eq!(Card::decode(&bad), Err(CardError::Version(9)));
        bad = good;
        bad[0] = b'X';
        assert!(matches!(Card::decode(&bad), Err(CardError::Magic(_))));
        bad = good;
        bad[6] = 89;
        assert_eq!(Card::decode(&bad), Err(CardError::Length(89)));
    }

    #[test]
    fn a_mismatch_names_what_differs() {
        let here = sample().host;
        assert_eq!(here.mismatch(&here), None);
        assert!(
            here.mismatch(&HostIdentity { uid: 5, ..here })
                .is_some_and(|m| m.contains("uid 1000 here, 5 there"))
        );
        assert!(
            here.mismatch(&HostIdentity { pid_namespace: 5, ..here })
                .is_some_and(|m| m.contains("--pid=host"))
        );
        assert!(
            here.mismatch(&HostIdentity { boot_id: [0; 16], ..here })
                .is_some_and(|m| m.contains("another node"))
        );
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Card::decode(&bytes);
        }
    }
}
