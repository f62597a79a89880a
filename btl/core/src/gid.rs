//! Which global identifier (GID) of a port to use, and why.
//!
//! A port has a table of GIDs: one per address of its network interface, VLAN interfaces included, and on Ethernet each of them
//! twice, for RoCE v1 and v2. The wrong one connects to nobody, or only to neighbours. The order here is, most significant first:
//!
//! 1. the network interface is up;
//! 2. the peer, where one is given, is in the same subnet, or is reached at all;
//! 3. what the identifier is made from: RoCE v2 from a routable address, then from a link-local one, then RoCE v1; on InfiniBand
//!    the port's own at index 0 before aliases;
//! 4. no VLAN before a VLAN, which only its members are in;
//! 5. the lower index, which is the older one and stays.
//!
//! Each of the first four is one decimal digit of the score, so that a person can read it. A GID of zeros is an empty entry and
//! never a candidate.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::{Carrier, VerbsCard};

/// Whether an interface tags its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vlan {
    /// It does not.
    Untagged,
    /// With this number, where it is known.
    Tagged(Option<u16>),
}

/// The network interface that an entry belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Netdev {
    /// `eth0`.
    pub name: String,
    /// It carries packets.
    pub is_up: bool,
    /// Whether it is a VLAN's.
    pub vlan: Vlan,
    /// Length of the prefix of its network, of the identifier's address and in bits of that address, where it is known.
    pub prefix_bits: Option<u8>,
}

/// One entry of a port's table, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GidEntry {
    /// Place in the table; higher ones than verbs can name are not used.
    pub index: u8,
    /// The identifier.
    pub bytes: [u8; 16],
    /// What it is for.
    pub carrier: Carrier,
    /// Its interface. On Ethernet, none means that it is in another network namespace.
    pub netdev: Option<Netdev>,
}

impl GidEntry {
    /// The identifier as what it stands for: an address, or iWARP's MAC address.
    pub fn text(&self) -> String {
        if self.carrier != Carrier::Iwarp {
            return gid_text(&self.bytes);
        }
        let octets: Vec<String> = self.bytes[..6].iter().map(|octet| format!("{octet:02x}")).collect();
        octets.join(":")
    }
}

/// The identifier of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerGid {
    /// The identifier.
    pub bytes: [u8; 16],
    /// What it is for.
    pub carrier: Carrier,
}

/// How well a peer is reached; a later one is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Not at all: another kind, or another family of addresses.
    Never,
    /// Another subnet: a router must be on the way.
    Routed,
    /// Nothing speaks against it.
    Perhaps,
    /// The same subnet.
    Subnet,
}

/// An entry that can be used, with what speaks for and against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The entry.
    pub entry: GidEntry,
    /// The better one of a table has more; see the head of this file.
    pub score: u16,
    /// How well the peer is reached, if one was given.
    pub reach: Option<Reach>,
    /// Why, in words.
    pub reasons: Vec<String>,
}

impl Candidate {
    /// False when its interface is known to carry nothing.
    pub fn is_up(&self) -> bool {
        self.entry.netdev.as_ref().is_none_or(|netdev| netdev.is_up)
    }
}

/// `10.0.0.1 (GID index 1, score 2081: RoCE v2, routable IPv4, eth0 up)`.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, index) = (self.entry.text(), self.entry.index);
        write!(f, "{address} (GID index {index}, score {}: {})", self.score, self.reasons.join(", "))
    }
}

/// No identifier can be used, or the one that was asked for cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GidError {
    /// The table has none.
    Empty {
        /// The port.
        port: String,
    },
    /// All of them are on interfaces that are down.
    Down {
        /// The port.
        port: String,
        /// Those interfaces.
        netdevs: Vec<String>,
    },
    /// The index that was asked for is not in the table, or empty there.
    Index {
        /// The port.
        port: String,
        /// What was asked for.
        asked: u8,
        /// What there is: index, address and kind.
        present: Vec<(u8, String, &'static str)>,
    },
    /// The identifier that was asked for is on an interface that is down.
    IndexDown {
        /// The port.
        port: String,
        /// What was asked for.
        asked: u8,
        /// Its interface.
        netdev: String,
    },
}

impl GidError {
    /// What was found, with the value.
    pub fn found(&self) -> String {
        match self {
            Self::Empty { port } => format!("port {port} has no global identifier (GID)"),
            Self::Down { port, netdevs } => {
                format!("port {port} has global identifiers (GIDs) only of {}, down", netdevs.join(", "))
            }
            Self::Index { port, asked, present } if present.is_empty() => {
                format!("gid_index = {asked}: port {port} has no GID at all")
            }
            Self::Index { port, asked, present } => {
                let entry =
                    |(index, address, kind): &(u8, String, &str)| format!("{index} ({address}, {kind})");
                let present: Vec<String> = present.iter().map(entry).collect();
                format!("gid_index = {asked}: port {port} has no GID there; it has {}", present.join(", "))
            }
            Self::IndexDown { port, asked, netdev } => {
                format!("gid_index = {asked}: that GID of port {port} belongs to {netdev}, which is down")
            }
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        match self {
            Self::Empty { .. } => "give its network interface an IP address and set it up".to_owned(),
            Self::Down { netdevs, .. } => match netdevs.first() {
                Some(netdev) => format!("set one up: ip link set {netdev} up"),
                None => "set its network interface up".to_owned(),
            },
            Self::Index { present, .. } => match present.first() {
                Some((index, ..)) => format!("use {index}, or leave gid_index = auto"),
                None => "give its network interface an IP address, and leave gid_index = auto".to_owned(),
            },
            Self::IndexDown { netdev, .. } => {
                format!("ip link set {netdev} up, or leave gid_index = auto")
            }
        }
    }
}

impl fmt::Display for GidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found(), self.fix())
    }
}

impl std::error::Error for GidError {}

/// What an identifier is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    Ipv4,
    Ipv4LinkLocal,
    Ipv6,
    Ipv6LinkLocal,
    Loopback,
}

impl Address {
    fn of(bytes: &[u8; 16]) -> Self {
        let address = Ipv6Addr::from(*bytes);
        match address.to_ipv4_mapped() {
            Some(address) if address.is_loopback() => Self::Loopback,
            Some(address) if address.is_link_local() => Self::Ipv4LinkLocal,
            Some(_) => Self::Ipv4,
            None if address.is_loopback() => Self::Loopback,
            None if address.is_unicast_link_local() => Self::Ipv6LinkLocal,
            None => Self::Ipv6,
        }
    }

    const fn is_ipv4(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Ipv4LinkLocal)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Ipv4 => "routable IPv4",
            Self::Ipv4LinkLocal => "link-local IPv4",
            Self::Ipv6 => "routable IPv6",
            Self::Ipv6LinkLocal => "link-local IPv6",
            Self::Loopback => "loopback, which reaches this host only",
        }
    }
}

/// An identifier as the address that it stands for.
pub fn gid_text(bytes: &[u8; 16]) -> String {
    let address = Ipv6Addr::from(*bytes);
    match address.to_ipv4_mapped() {
        Some(address) => Ipv4Addr::to_string(&address),
        None => address.to_string(),
    }
}

/// All usable entries of a table, the best first. The order is total and does not depend on that of `entries`.
pub fn rank(entries: &[GidEntry], peer: Option<&PeerGid>) -> Vec<Candidate> {
    let usable = entries.iter().filter(|entry| entry.bytes != [0; 16]);
    let mut candidates: Vec<Candidate> = usable.map(|entry| judge(entry, peer)).collect();
    candidates.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.entry.cmp(&b.entry)));
    candidates
}

/// The entry to use: the best, or the one that the user asked for.
///
/// # Errors
/// [`GidError`], with what there is and what to do.
pub fn choose(port: &str, entries: &[GidEntry], asked: Option<u8>) -> Result<Candidate, GidError> {
    let candidates = rank(entries, None);
    let Some(asked) = asked else {
        let netdevs = || {
            let mut names: Vec<String> = Vec::new();
            for netdev in candidates.iter().filter_map(|candidate| candidate.entry.netdev.as_ref()) {
                if !names.contains(&netdev.name) {
                    names.push(netdev.name.clone());
                }
            }
            names
        };
        return match candidates.first() {
            Some(best) if best.is_up() => Ok(best.clone()),
            Some(_) => Err(GidError::Down { port: port.to_owned(), netdevs: netdevs() }),
            None => Err(GidError::Empty { port: port.to_owned() }),
        };
    };
    let Some(found) = candidates.iter().find(|candidate| candidate.entry.index == asked) else {
        let present =
            candidates.iter().map(|it| (it.entry.index, it.entry.text(), it.entry.carrier.name())).collect();
        return Err(GidError::Index { port: port.to_owned(), asked, present });
    };
    match &found.entry.netdev {
        Some(netdev) if !netdev.is_up => {
            Err(GidError::IndexDown { port: port.to_owned(), asked, netdev: netdev.name.clone() })
        }
        _ => Ok(found.clone()),
    }
}

/// The entry that reaches a peer better than the one in use, if there is one.
pub fn better_for(entries: &[GidEntry], in_use: u8, peer: &PeerGid) -> Option<Candidate> {
    let ranked = rank(entries, Some(peer));
    let own = ranked.iter().find(|candidate| candidate.entry.index == in_use)?;
    // Most score may go with less reach, if an interface is down: that one is no advice.
    let best = ranked.iter().filter(|candidate| candidate.is_up()).max_by_key(|candidate| {
        (candidate.reach, candidate.score, std::cmp::Reverse(candidate.entry.index))
    })?;
    (best.reach > own.reach).then(|| best.clone())
}

fn judge(entry: &GidEntry, peer: Option<&PeerGid>) -> Candidate {
    let mut reasons = vec![entry.carrier.name().to_owned()];
    let quality = quality(entry, &mut reasons);
    let up = liveness(entry, &mut reasons);
    let untagged = match entry.netdev.as_ref().map(|netdev| netdev.vlan) {
        Some(Vlan::Tagged(Some(number))) => {
            reasons.push(format!("VLAN {number}"));
            0
        }
        Some(Vlan::Tagged(None)) => {
            reasons.push("a VLAN".to_owned());
            0
        }
        _ => 1,
    };
    let reach = peer.map(|peer| reach(entry, peer, &mut reasons));
    let reach_digit = reach.map_or(0, |reach| reach as u16);
    Candidate {
        entry: entry.clone(),
        score: up * 1000 + reach_digit * 100 + quality * 10 + untagged,
        reach,
        reasons,
    }
}

/// 0 to 9, by what the identifier is made from.
fn quality(entry: &GidEntry, reasons: &mut Vec<String>) -> u16 {
    match entry.carrier {
        Carrier::InfiniBand => {
            let prefix = u64::from_be_bytes(std::array::from_fn(|at| entry.bytes[at]));
            reasons.push(format!("subnet {prefix:016x}"));
            if prefix == 0xfe80_0000_0000_0000 {
                reasons.push("the prefix of every subnet that was given none".to_owned());
            }
            reasons.push(if entry.index == 0 { "the port's own" } else { "an alias" }.to_owned());
            if entry.index == 0 { 9 } else { 8 }
        }
        Carrier::Iwarp => {
            reasons.push("only a MAC address: peers are reached by the interface's IP address".to_owned());
            9
        }
        Carrier::RoceV1 => {
            reasons.push("one broadcast domain".to_owned());
            let address = Address::of(&entry.bytes);
            reasons.push(address.words().replace("routable ", ""));
            if address == Address::Loopback { 0 } else { 3 + u16::from(address.is_ipv4()) }
        }
        Carrier::RoceV2 => {
            let address = Address::of(&entry.bytes);
            reasons.push(address.words().to_owned());
            match address {
                Address::Ipv4 => 8,
                Address::Ipv6 => 7,
                Address::Ipv4LinkLocal => 6,
                Address::Ipv6LinkLocal => 5,
                Address::Loopback => 1,
            }
        }
    }
}

/// 2 up, 1 not known, 0 down.
fn liveness(entry: &GidEntry, reasons: &mut Vec<String>) -> u16 {
    match &entry.netdev {
        Some(netdev) if netdev.is_up => {
            reasons.push(format!("{} up", netdev.name));
            2
        }
        Some(netdev) => {
            reasons.push(format!("{} down", netdev.name));
            0
        }
        // An InfiniBand port needs no network interface, and of an iWARP port's entry the kernel tells none.
        None if matches!(entry.carrier, Carrier::InfiniBand | Carrier::Iwarp) => 2,
        None => {
            reasons.push("its interface is in another network namespace".to_owned());
            1
        }
    }
}

fn reach(entry: &GidEntry, peer: &PeerGid, reasons: &mut Vec<String>) -> Reach {
    let other = gid_text(&peer.bytes);
    let (reach, reason) = match (entry.carrier, peer.carrier) {
        (own, theirs) if own != theirs => (Reach::Never, format!("does not reach {}", theirs.name())),
        (Carrier::InfiniBand, _) if entry.bytes[..8] == peer.bytes[..8] => {
            (Reach::Subnet, format!("same subnet as {other}"))
        }
        (Carrier::InfiniBand, _) => (Reach::Routed, format!("other subnet than {other}")),
        (Carrier::RoceV1 | Carrier::Iwarp, _) => (Reach::Perhaps, format!("may reach {other}")),
        (Carrier::RoceV2, _) => {
            let prefix_bits = entry.netdev.as_ref().and_then(|netdev| netdev.prefix_bits);
            match reach_by_ip(&entry.bytes, &peer.bytes, prefix_bits) {
                Reach::Never => (Reach::Never, format!("does not reach {other}, another kind of address")),
                Reach::Routed => (Reach::Routed, format!("other subnet than {other}")),
                Reach::Perhaps => (Reach::Perhaps, format!("may reach {other}")),
                Reach::Subnet => (Reach::Subnet, format!("same subnet as {other}")),
            }
        }
    };
    reasons.push(reason);
    reach
}

/// How well a device reaches another, neither of which says that it does not; `prefix_bits` is the length of the prefix of the own
/// network, where it is known.
pub fn reach_of_cards(own: &VerbsCard, peer: &VerbsCard, prefix_bits: Option<u8>) -> Reach {
    match own.carrier {
        // The cards have compared subnets.
        Carrier::InfiniBand => Reach::Subnet,
        Carrier::RoceV1 => Reach::Perhaps,
        Carrier::RoceV2 | Carrier::Iwarp => reach_by_ip(&own.gid, &peer.gid, prefix_bits),
    }
}

/// What orders networks in the same way on all machines: the address without its host's part.
pub fn network(entry: &GidEntry) -> u128 {
    let address = u128::from_be_bytes(entry.bytes);
    let prefix_bits = entry.netdev.as_ref().and_then(|netdev| netdev.prefix_bits);
    let bits = match (entry.carrier, prefix_bits) {
        (Carrier::InfiniBand, _) => 64,
        (Carrier::RoceV2, Some(bits)) if Address::of(&entry.bytes).is_ipv4() => 96 + u32::from(bits),
        (Carrier::RoceV2, Some(bits)) => bits.into(),
        _ => 0,
    };
    address & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)
}

/// How an address reaches another; `prefix_bits` is that of the own network.
pub(crate) fn reach_by_ip(own: &[u8; 16], peer: &[u8; 16], prefix_bits: Option<u8>) -> Reach {
    let (from, to) = (Address::of(own), Address::of(peer));
    if from == Address::Loopback || to == Address::Loopback {
        return if own == peer { Reach::Subnet } else { Reach::Never };
    }
    if from != to {
        return Reach::Never;
    }
    let skipped = if from.is_ipv4() { 96 } else { 0 };
    match (from, prefix_bits) {
        // Every link has the same prefix: it says nothing.
        (Address::Ipv6LinkLocal | Address::Ipv4LinkLocal, _) | (_, None) => Reach::Perhaps,
        (_, Some(bits)) => {
            let bits = (skipped + u32::from(bits)).min(128);
            let differ = u128::from_be_bytes(*own) ^ u128::from_be_bytes(*peer);
            if differ.leading_zeros() >= bits { Reach::Subnet } else { Reach::Routed }
        }
    }
}

#[cfg(test)]
#[path = "gid_tests.rs"]
mod tests;
