//! The card of a verbs device: the out-of-band address, passed through the launcher's key-value exchange, and again in
//! each datagram of the handshake.
//!
//! ```text
//!  0        4     6     8      9      10    11    12    14    16        32       36
//!  +--------+-----+-----+------+------+-----+-----+-----+-----+---------+--------+
//!  | "IBvb" | ver | len | kind | port | mtu | 0   | lid | tcp |   gid   | ud qpn |
//!  +--------+-----+-----+------+------+-----+-----+-----+-----+---------+--------+
//!  36     40    44     48        56       64        80                104
//!  +------+-----+------+---------+--------+---------+------------------+
//!  | qkey | pid | rank | boot id | pid ns | job key | host name, zeros |
//!  +------+-----+------+---------+--------+---------+------------------+
//! ```

use super::{Reader, Writer};

/// Length of a verbs card in bytes.
pub const VERBS_CARD_BYTES: usize = 104;
/// Version of the card, of the handshake and of the messages behind it: they change together.
pub const VERBS_VERSION: u16 = 2;
const MAGIC: [u8; 4] = *b"IBvb";
const HOST_BYTES: usize = 24;

numbered! {
    /// What carries the queue pairs' packets.
    #[derive(PartialOrd, Ord)]
    Carrier: u8, from_u8 {
        /// InfiniBand: addressed by local identifier (LID) inside a subnet.
        InfiniBand = 1,
        /// RDMA over converged Ethernet, version 1: Ethernet frames, one broadcast domain.
        RoceV1 = 2,
        /// RDMA over converged Ethernet, version 2: UDP, routable.
        RoceV2 = 3,
        /// The internet wide area RDMA protocol: TCP. Connects through the RDMA connection manager only.
        Iwarp = 4,
    }
}

impl Carrier {
    /// How users call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InfiniBand => "InfiniBand",
            Self::RoceV1 => "RoCE v1",
            Self::RoceV2 => "RoCE v2",
            Self::Iwarp => "iWARP",
        }
    }
}

/// Where a verbs device is and who uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerbsCard {
    /// What carries its packets.
    pub carrier: Carrier,
    /// The port's number, for messages.
    pub port: u8,
    /// The port's active MTU as verbs count it: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    /// The port's local identifier; 0 on Ethernet.
    pub lid: u16,
    /// The port (of the RDMA connection manager's TCP space) at the GID's address that listens for connections; 0: the datagram
    /// queue pair does.
    pub listen_port: u16,
    /// The global identifier in use. On iWARP: the IP address, as an IPv6 one.
    pub gid: [u8; 16],
    /// The datagram queue pair that listens for connections; 0 where `listen_port` does.
    pub datagram_qpn: u32,
    /// Its key.
    pub qkey: u32,
    /// The process number.
    pub pid: u32,
    /// How messages to the user call the process.
    pub rank: u32,
    /// First half of the kernel's boot id: process numbers mean the same where this and `pid_namespace` agree.
    pub boot_id: [u8; 8],
    /// Inode of the PID namespace.
    pub pid_namespace: u64,
    /// Random; a connection request that does not carry it is ignored.
    pub key: [u8; 16],
    /// Name of the host, cut to what fits; for messages.
    pub host: String,
}

/// Bytes that are no verbs card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbsCardError {
    /// Wrong length.
    #[error("the peer's address is {0} bytes long, a verbs card has {VERBS_CARD_BYTES}")]
    Length(usize),
    /// Not ours.
    #[error("the peer's address is not a verbs card (it starts with {0:02x?})")]
    Magic([u8; 4]),
    /// Another release.
    #[error(
        "the peer speaks version {0} of the verbs protocol, this process version {VERBS_VERSION}: install the same release everywhere"
    )]
    Version(u16),
    /// A field holds what no release writes.
    #[error("the peer's verbs card is damaged: its {0} makes no sense")]
    Field(&'static str),
}

impl VerbsCard {
    /// The card's bytes.
    pub fn encode(&self) -> [u8; VERBS_CARD_BYTES] {
        let mut host = [0; HOST_BYTES];
        let mut cut = self.host.len().min(HOST_BYTES);
        while !self.host.is_char_boundary(cut) {
            cut -= 1;
        }
        host[..cut].copy_from_slice(&self.host.as_bytes()[..cut]);
        Writer::new()
            .put(&MAGIC)
            .put(&VERBS_VERSION.to_le_bytes())
            .put(&(VERBS_CARD_BYTES as u16).to_le_bytes())
            .put(&[self.carrier as u8, self.port, self.mtu, 0])
            .put(&self.lid.to_le_bytes())
            .put(&self.listen_port.to_le_bytes())
            .put(&self.gid)
            .u32(self.datagram_qpn)
            .u32(self.qkey)
            .u32(self.pid)
            .u32(self.rank)
            .put(&self.boot_id)
            .u64(self.pid_namespace)
            .put(&self.key)
            .put(&host)
            .finish()
    }

    /// Reads a card.
    ///
    /// # Errors
    /// [`VerbsCardError`] for anything but exactly one card of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, VerbsCardError> {
        let bytes: &[u8; VERBS_CARD_BYTES] =
            bytes.try_into().map_err(|_| VerbsCardError::Length(bytes.len()))?;
        let mut reader = Reader::new(bytes);
        let magic = reader.array();
        if magic != MAGIC {
            return Err(VerbsCardError::Magic(magic));
        }
        let version = u16::from_le_bytes(reader.array());
        if version != VERBS_VERSION {
            return Err(VerbsCardError::Version(version));
        }
        let length = u16::from_le_bytes(reader.array());
        if usize::from(length) != VERBS_CARD_BYTES {
            return Err(VerbsCardError::Length(length.into()));
        }
        let [carrier, port, mtu, _] = reader.array();
        let carrier = Carrier::from_u8(carrier).ok_or(VerbsCardError::Field("carrier"))?;
        if !(1..=5).contains(&mtu) {
            return Err(VerbsCardError::Field("MTU"));
        }
        let lid = u16::from_le_bytes(reader.array());
        let listen_port = u16::from_le_bytes(reader.array());
        let gid = reader.array();
        let (datagram_qpn, qkey, pid, rank) = (reader.u32(), reader.u32(), reader.u32(), reader.u32());
        let (boot_id, pid_namespace, key) = (reader.array(), reader.u64(), reader.array());
        let host: [u8; HOST_BYTES] = reader.array();
        let end = host.iter().position(|byte| *byte == 0).unwrap_or(HOST_BYTES);
        let host = std::str::from_utf8(&host[..end]).map_err(|_| VerbsCardError::Field("host name"))?;
        Ok(Self {
            carrier,
            port,
            mtu,
            lid,
            listen_port,
            gid,
            datagram_qpn,
            qkey,
            pid,
            rank,
            boot_id,
            pid_namespace,
            key,
            host: host.to_owned(),
        })
    }

    /// True if the process numbers of both mean the same.
    pub fn shares_process_numbers(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id && self.pid_namespace == other.pid_namespace
    }

    /// Says why a device with this card cannot reach `other`, if it cannot.
    pub fn mismatch(&self, other: &Self) -> Option<String> {
        if self.carrier != other.carrier {
            return Some(format!(
                "its port speaks {}, ours {}: choose ports of one kind",
                other.carrier.name(),
                self.carrier.name()
            ));
        }
        if (self.listen_port == 0) != (other.listen_port == 0) {
            let how = |card: &Self| match card.listen_port {
                0 => "datagrams",
                _ => "the RDMA connection manager",
            };
            return Some(format!(
                "its process connects by {}, ours by {}: set connect to one way for all processes",
                how(other),
                how(self)
            ));
        }
        match self.carrier {
            Carrier::InfiniBand => (self.gid[..8] != other.gid[..8]).then(|| {
                format!(
                    "it is in the InfiniBand subnet {}, we are in {}: choose a port on the same subnet",
                    Hex(&other.gid[..8]),
                    Hex(&self.gid[..8])
                )
            }),
            Carrier::RoceV1 => None,
            Carrier::RoceV2 | Carrier::Iwarp => (Scope::of(&self.gid) != Scope::of(&other.gid)).then(|| {
                format!(
                    "its GID is {}, ours {}: give both interfaces addresses of one family",
                    Scope::of(&other.gid).name(),
                    Scope::of(&self.gid).name()
                )
            }),
        }
    }
}

/// What kind of IP address a GID of RoCE v2 is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Ipv4,
    Ipv6,
    LinkLocal,
}

impl Scope {
    fn of(gid: &[u8; 16]) -> Self {
        if gid[..10] == [0; 10] && gid[10..12] == [0xff; 2] {
            Self::Ipv4
        } else if gid[0] == 0xfe && gid[1] & 0xc0 == 0x80 {
            Self::LinkLocal
        } else {
            Self::Ipv6
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "a global IPv6 address",
            Self::LinkLocal => "a link-local IPv6 address",
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> VerbsCard {
        VerbsCard {
            carrier: Carrier::RoceV2,
            port: 1,
            mtu: 3,
            lid: 0x0102,
            listen_port: 0,
            gid: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
            datagram_qpn: 0x11,
            qkey: 0x1234_5678,
            pid: 77,
            rank: 3,
            boot_id: [0xb0; 8],
            pid_namespace: 0x0102_0304_0506_0708,
            key: [0xaa; 16],
            host: "node1".to_owned(),
        }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = Vec::new();
        golden.extend_from_slice(b"IBvb\x02\x00\x68\x00\x03\x01\x03\x00\x02\x01\x00\x00");
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        golden.extend_from_slice(&[0x11, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 77, 0, 0, 0, 3, 0, 0, 0]);
        golden.extend_from_slice(&[0xb0; 8]);
        golden.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        golden.extend_from_slice(&[0xaa; 16]);
        golden.extend_from_slice(b"node1");
        golden.resize(VERBS_CARD_BYTES, 0);
        assert_eq!(sample().encode().as_slice(), golden);
        assert_eq!(VerbsCard::decode(&golden), Ok(sample()));
    }

    #[test]
    fn what_is_no_card_is_refused_with_the_reason() {
        let good = sample().encode();
        let with = |at: usize, byte: u8| {
            let mut bad = good;
            bad[at] = byte;
            VerbsCard::decode(&bad)
        };
        assert_eq!(VerbsCard::decode(&good[1..]), Err(VerbsCardError::Length(VERBS_CARD_BYTES - 1)));
        assert!(matches!(with(0, b'X'), Err(VerbsCardError::Magic(_))));
        assert_eq!(with(4, 9), Err(VerbsCardError::Version(9)));
        assert_eq!(with(6, 9), Err(VerbsCardError::Length(9)));
        assert_eq!(with(8, 0), Err(VerbsCardError::Field("carrier")));
        assert_eq!(with(10, 6), Err(VerbsCardError::Field("MTU")));
        assert_eq!(with(80, 0xff), Err(VerbsCardError::Field("host name")));
    }

    #[test]
    fn a_long_host_name_is_cut_between_characters() {
        let card = VerbsCard { host: format!("{}é", "x".repeat(23)), ..sample() };
        assert_eq!(VerbsCard::decode(&card.encode()).expect("a card").host, "x".repeat(23));
    }

    #[test]
    fn a_mismatch_names_what_differs() {
        let here = sample();
        assert_eq!(here.mismatch(&here), None);
        let infiniband = VerbsCard { carrier: Carrier::InfiniBand, ..sample() };
        assert!(here.mismatch(&infiniband).is_some_and(|why| why.contains("InfiniBand, ours RoCE v2")));
        let other_subnet = VerbsCard { gid: [1; 16], ..infiniband.clone() };
        assert!(infiniband.mismatch(&other_subnet).is_some_and(|why| why.contains("0101010101010101")));
        let manager = VerbsCard { listen_port: 0x1234, ..sample() };
        assert!(
            here.mismatch(&manager).is_some_and(|why| why.contains("connection manager, ours by datagrams"))
        );
        assert_eq!(manager.mismatch(&manager), None);
        assert_eq!(manager.encode()[14..16], [0x34, 0x12]);
        assert_eq!(VerbsCard::decode(&manager.encode()), Ok(manager));
        let mut gid = [0; 16];
        gid[..2].copy_from_slice(&[0xfe, 0x80]);
        let link_local = VerbsCard { gid, ..sample() };
        assert!(here.mismatch(&link_local).is_some_and(|why| why.contains("link-local")));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = VerbsCard::decode(&bytes);
        }

        #[test]
        fn damaged_cards_never_panic(at in 0..VERBS_CARD_BYTES, byte in any::<u8>()) {
            let mut bytes = sample().encode();
            bytes[at] = byte;
            if let Ok(card) = VerbsCard::decode(&bytes) {
                let _ = VerbsCard::decode(&card.encode()).expect("what was read can be written");
            }
        }
    }
}
