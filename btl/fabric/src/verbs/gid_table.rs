//! Reads the GID table of a port, and what the network interfaces behind its entries are.

use std::net::{Ipv4Addr, Ipv6Addr};

use ironband_core::gid::{GidEntry, Netdev, Vlan};
use ironband_core::ports::PortName;
use ironband_core::wire::Carrier;

use super::port::{LinkKind, folder};
use super::tree::Root;

const IFF_UP: u64 = 1;

/// All entries that hold something.
pub(super) fn read(root: &Root, name: &PortName, link: LinkKind) -> Vec<GidEntry> {
    let port = folder(name);
    let networks = Networks::read(root);
    let entry = |number: String| {
        let index = number.parse::<u8>().ok()?;
        let bytes = root.read(port.join("gids").join(&number)).as_deref().and_then(parse_gid)?;
        if bytes == [0; 16] {
            return None;
        }
        let carrier = match link {
            // Of these the kernel does not always tell the type.
            LinkKind::InfiniBand => Carrier::InfiniBand,
            LinkKind::Iwarp => Carrier::Iwarp,
            LinkKind::Ethernet => match root.read(port.join("gid_attrs/types").join(&number)).as_deref() {
                Some("RoCE v2") => Carrier::RoceV2,
                Some("IB/RoCE v1") => Carrier::RoceV1,
                _ => return None,
            },
        };
        let netdev = root.read(port.join("gid_attrs/ndevs").join(&number));
        let netdev = netdev.and_then(|netdev| networks.netdev(root, netdev, &bytes));
        Some(GidEntry { index, bytes, carrier, netdev })
    };
    root.names(port.join("gids")).into_iter().filter_map(entry).collect()
}

fn parse_gid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten().map(u128::to_be_bytes)
}

/// The networks that interfaces are in, as the kernel's tables of addresses and routes show them.
struct Networks {
    routes: String,
    ipv6_addresses: String,
}

impl Networks {
    fn read(root: &Root) -> Self {
        let read = |path| root.read(path).unwrap_or_default();
        Self { routes: read("proc/net/route"), ipv6_addresses: read("proc/net/if_inet6") }
    }

    /// An interface of this network namespace.
    fn netdev(&self, root: &Root, name: String, gid: &[u8; 16]) -> Option<Netdev> {
        let folder = format!("sys/class/net/{name}");
        let flags = root.read(format!("{folder}/flags"))?;
        let flags = u64::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        // Loopback and some virtual interfaces do not know their state.
        let state = root.read(format!("{folder}/operstate")).unwrap_or_default();
        let is_up = flags & IFF_UP != 0 && matches!(state.as_str(), "up" | "unknown");
        let address = Ipv6Addr::from(*gid);
        let prefix_bits = match address.to_ipv4_mapped() {
            Some(address) => ipv4_prefix_bits(&self.routes, &name, address),
            None => ipv6_prefix_bits(&self.ipv6_addresses, &name, address),
        };
        Some(Netdev { is_up, vlan: vlan(root, &name), prefix_bits, name })
    }
}

/// The longest of the interface's networks that are reached without a router.
fn ipv4_prefix_bits(routes: &str, netdev: &str, address: Ipv4Addr) -> Option<u8> {
    let address = u32::from(address);
    let prefix_bits = |line: &str| {
        // Iface Destination Gateway Flags RefCnt Use Metric Mask: numbers as this processor reads the bytes on the wire.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok().map(u32::from_be);
        let (destination, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        let connected = gateway == 0 && mask != 0 && address & mask == destination;
        (fields[0] == netdev && connected).then_some(mask.leading_ones() as u8)
    };
    routes.lines().filter_map(prefix_bits).max()
}

fn ipv6_prefix_bits(addresses: &str, netdev: &str, address: Ipv6Addr) -> Option<u8> {
    let wanted = format!("{:032x}", u128::from(address));
    let prefix_bits = |line: &str| {
        // Address, interface number, prefix length, scope and flags in hexadecimal digits, name.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here = *fields.first()? == wanted && *fields.get(5)? == netdev;
        here.then(|| u8::from_str_radix(fields[2], 16).ok()).flatten()
    };
    addresses.lines().find_map(prefix_bits)
}

/// The kernel tells everybody whether an interface is a VLAN's and root alone its number, which is by custom in its name too.
fn vlan(root: &Root, netdev: &str) -> Vlan {
    let is_vlan = root
        .read(format!("sys/class/net/{netdev}/uevent"))
        .is_some_and(|text| text.lines().any(|line| line == "DEVTYPE=vlan"));
    if !is_vlan {
        return Vlan::Untagged;
    }
    let told = root.read(format!("proc/net/vlan/{netdev}")).and_then(|text| {
        let mut words = text.split_whitespace().skip_while(|word| *word != "VID:");
        words.nth(1).and_then(|number| number.parse().ok())
    });
    let digits = netdev.trim_start_matches(|c: char| c != '.').trim_start_matches('.');
    let digits = if digits.is_empty() { netdev.trim_start_matches("vlan") } else { digits };
    Vlan::Tagged(told.or_else(|| digits.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::made_up::MadeUp;

    #[test]
    fn identifiers_are_read() {
        let bytes = parse_gid("0000:0000:0000:0000:0000:ffff:0a4d:0001").expect("a GID");
        assert_eq!(bytes[10..], [0xff, 0xff, 10, 0x4d, 0, 1]);
        assert_eq!(parse_gid("0000:0000"), None);
    }

    #[test]
    fn entries_come_with_interface_vlan_and_network() {
        let made_up = MadeUp::roce("mlx5_0", 1, "eth0");
        made_up.netdev("eth0.100", true, "DEVTYPE=vlan\nINTERFACE=eth0.100");
        made_up.gid("mlx5_0", 1, 7, "0000:0000:0000:0000:0000:ffff:0a00:0105", "RoCE v2", "eth0.100");
        made_up.gid("mlx5_0", 1, 8, "0000:0000:0000:0000:0000:0000:0000:0000", "", "");
        made_up.write(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
             eth0.100\t0001000A\t00000000\t0001\t0\t0\t0\t80FFFFFF\t0\t0\t0\n",
        );
        made_up.write("proc/net/if_inet6", "fe80000000000000505400fffe123456 02 40 20 80     eth0\n");
        let name = PortName { adapter: "mlx5_0".to_owned(), port: 1 };
        let entries = read(&made_up.root(), &name, LinkKind::Ethernet);
        let indices: Vec<u8> = entries.iter().map(|entry| entry.index).collect();
        assert_eq!(indices, [0, 1, 2, 3, 7], "empty ones are left out");
        let kinds: Vec<Carrier> = entries.iter().map(|entry| entry.carrier).collect();
        use Carrier::{RoceV1, RoceV2};
        assert_eq!(kinds, [RoceV1, RoceV2, RoceV1, RoceV2, RoceV2]);
        let netdev = |at: usize| entries[at].netdev.clone().expect("an interface");
        let eth0 =
            Netdev { name: "eth0".to_owned(), is_up: true, vlan: Vlan::Untagged, prefix_bits: Some(64) };
        assert_eq!(netdev(0), eth0, "a link-local address");
        assert_eq!(netdev(3), Netdev { prefix_bits: Some(24), ..eth0 }, "10.0.0.1");
        let vlan100 = netdev(4);
        assert_eq!((vlan100.vlan, vlan100.prefix_bits), (Vlan::Tagged(Some(100)), Some(25)));
    }

    #[test]
    fn the_number_of_a_vlan_is_the_kernel_s_before_the_name_s() {
        let made_up = MadeUp::new();
        for name in ["eth0.100", "vlan7", "storage", "eth1"] {
            made_up.netdev(name, true, if name == "eth1" { "INTERFACE=eth1" } else { "DEVTYPE=vlan" });
        }
        let vlan = |name| vlan(&made_up.root(), name);
        assert_eq!(vlan("eth0.100"), Vlan::Tagged(Some(100)));
        assert_eq!(vlan("vlan7"), Vlan::Tagged(Some(7)));
        assert_eq!(vlan("storage"), Vlan::Tagged(None));
        assert_eq!(vlan("eth1"), Vlan::Untagged);
        made_up.write("proc/net/vlan/storage", "storage  VID: 42\t REORDER_HDR: 1  dev->priv_flags: 1021\n");
        assert_eq!(vlan("storage"), Vlan::Tagged(Some(42)));
    }

    #[test]
    fn an_interface_without_its_flags_or_carrier_is_down_and_one_elsewhere_is_none() {
        let made_up = MadeUp::roce("rxe0", 1, "eth0");
        let name = PortName { adapter: "rxe0".to_owned(), port: 1 };
        let first = || read(&made_up.root(), &name, LinkKind::Ethernet)[0].netdev.clone();
        assert!(first().is_some_and(|netdev| netdev.is_up));
        made_up.write("sys/class/net/eth0/operstate", "lowerlayerdown");
        assert!(first().is_some_and(|netdev| !netdev.is_up));
        made_up.write("sys/class/net/eth0/operstate", "unknown");
        assert!(first().is_some_and(|netdev| netdev.is_up));
        made_up.write("sys/class/net/eth0/flags", "0x1002");
        assert!(first().is_some_and(|netdev| !netdev.is_up));
        made_up.remove("sys/class/net/eth0");
        assert_eq!(first(), None);
    }
}
