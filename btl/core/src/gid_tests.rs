//! Tables that ports have, and all others.

use super::*;
use proptest::prelude::*;

fn ipv4(octets: [u8; 4]) -> [u8; 16] {
    Ipv4Addr::from(octets).to_ipv6_mapped().octets()
}

fn ipv6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().expect("an address").octets()
}

fn netdev(name: &str, is_up: bool) -> Netdev {
    Netdev { name: name.to_owned(), is_up, vlan: Vlan::Untagged, prefix_bits: Some(24) }
}

fn entry(index: u8, bytes: [u8; 16], carrier: Carrier) -> GidEntry {
    GidEntry { index, bytes, carrier, netdev: Some(netdev("eth0", true)) }
}

/// As an Ethernet port with an IPv4 and an IPv6 address shows it.
fn table() -> Vec<GidEntry> {
    let addresses = [ipv6("fe80::5054:ff:fe12:3456"), ipv4([10, 0, 0, 1]), ipv6("2001:db8::1")];
    let kinds = [Carrier::RoceV1, Carrier::RoceV2];
    let both = addresses.iter().flat_map(|bytes| kinds.map(|kind| (*bytes, kind)));
    both.enumerate().map(|(index, (bytes, carrier))| entry(index as u8, bytes, carrier)).collect()
}

fn order(entries: &[GidEntry], peer: Option<&PeerGid>) -> Vec<u8> {
    rank(entries, peer).iter().map(|candidate| candidate.entry.index).collect()
}

#[test]
fn routable_and_version_2_come_first() {
    assert_eq!(order(&table(), None), [3, 5, 1, 2, 0, 4]);
    let best = &rank(&table(), None)[0];
    assert_eq!(
        best.to_string(),
        "10.0.0.1 (GID index 3, score 2081: RoCE v2, routable IPv4, eth0 up)",
        "this is what a report line shows"
    );
}

#[test]
fn an_interface_that_is_down_comes_last_whatever_it_offers() {
    let mut table = table();
    table[3].netdev = Some(netdev("eth1", false));
    assert_eq!(order(&table, None), [5, 1, 2, 0, 4, 3]);
    table[5].netdev = None;
    assert_eq!(order(&table, None), [1, 2, 0, 4, 5, 3], "another namespace's is between");
}

#[test]
fn no_vlan_comes_before_a_vlan_of_the_same_quality() {
    let mut first = entry(1, ipv4([10, 0, 1, 1]), Carrier::RoceV2);
    first.netdev = Some(Netdev { vlan: Vlan::Tagged(Some(100)), ..netdev("eth0.100", true) });
    let entries = [first, entry(3, ipv4([10, 0, 0, 1]), Carrier::RoceV2)];
    assert_eq!(order(&entries, None), [3, 1]);
    let peer = PeerGid { bytes: ipv4([10, 0, 1, 9]), carrier: Carrier::RoceV2 };
    let ranked = rank(&entries, Some(&peer));
    assert_eq!(
        (ranked[0].entry.index, ranked[0].reach),
        (1, Some(Reach::Subnet)),
        "the peer is in that VLAN"
    );
    assert_eq!(ranked[0].reasons[3..], ["VLAN 100", "same subnet as 10.0.1.9"]);
    assert_eq!(ranked[1].reach, Some(Reach::Routed));
}

#[test]
fn a_peer_decides_the_family() {
    let peer = |bytes, carrier| PeerGid { bytes, carrier };
    let best = |peer| rank(&table(), Some(&peer))[0].entry.index;
    assert_eq!(best(peer(ipv4([10, 0, 0, 2]), Carrier::RoceV2)), 3);
    assert_eq!(best(peer(ipv6("2001:db8::2"), Carrier::RoceV2)), 5);
    assert_eq!(best(peer(ipv6("fe80::1"), Carrier::RoceV2)), 1);
    assert_eq!(best(peer(ipv6("fe80::1"), Carrier::RoceV1)), 2);
    let infiniband = rank(&table(), Some(&peer(ipv6("fe80::1"), Carrier::InfiniBand)));
    assert!(infiniband.iter().all(|candidate| candidate.reach == Some(Reach::Never)), "{infiniband:?}");
}

#[test]
fn another_identifier_is_advised_where_it_reaches_the_peer_better() {
    let mut entries =
        vec![entry(1, ipv4([10, 0, 0, 1]), Carrier::RoceV2), entry(2, ipv4([10, 9, 0, 1]), Carrier::RoceV2)];
    let peer = |bytes, carrier| PeerGid { bytes, carrier };
    let advice = |entries: &[GidEntry], in_use, peer| {
        better_for(entries, in_use, &peer).map(|candidate| candidate.entry.index)
    };
    let neighbour = peer(ipv4([10, 9, 0, 2]), Carrier::RoceV2);
    assert_eq!(advice(&entries, 1, neighbour), Some(2), "that subnet is the peer's");
    assert_eq!(advice(&entries, 2, neighbour), None, "it is in use already");
    assert_eq!(advice(&entries, 1, peer(ipv4([10, 8, 0, 2]), Carrier::RoceV2)), None, "neither is nearer");
    assert_eq!(advice(&entries, 1, peer(ipv4([10, 8, 0, 2]), Carrier::RoceV1)), None, "neither reaches it");
    assert_eq!(advice(&entries, 7, neighbour), None, "the table has changed");
    entries[1].netdev = Some(netdev("eth1", false));
    assert_eq!(advice(&entries, 1, neighbour), None, "what is down is no advice");
}

#[test]
fn subnets_are_compared_by_the_prefix() {
    let (a, b) = (ipv4([10, 0, 0, 1]), ipv4([10, 0, 1, 1]));
    assert_eq!(reach_by_ip(&a, &b, Some(24)), Reach::Routed);
    assert_eq!(reach_by_ip(&a, &b, Some(23)), Reach::Subnet);
    assert_eq!(reach_by_ip(&a, &b, Some(0)), Reach::Subnet);
    assert_eq!(reach_by_ip(&a, &b, Some(255)), Reach::Routed, "nonsense is no reason to panic");
    assert_eq!(reach_by_ip(&a, &b, None), Reach::Perhaps);
    assert_eq!(reach_by_ip(&ipv6("2001:db8::1"), &ipv6("2001:db8::2"), Some(64)), Reach::Subnet);
    assert_eq!(reach_by_ip(&ipv6("fe80::1"), &ipv6("fe80::2"), Some(64)), Reach::Perhaps);
    assert_eq!(reach_by_ip(&ipv4([127, 0, 0, 1]), &a, Some(8)), Reach::Never);
}

#[test]
fn infiniband_takes_the_port_s_own_and_tells_the_subnet() {
    let prefixed = |index, prefix: u64| {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&prefix.to_be_bytes());
        GidEntry { index, bytes, carrier: Carrier::InfiniBand, netdev: None }
    };
    let entries = [prefixed(1, 0xfec0_0000_0000_0001), prefixed(0, 0xfec0_0000_0000_0001)];
    let ranked = rank(&entries, None);
    assert_eq!(ranked[0].entry.index, 0);
    assert_eq!(ranked[0].reasons, ["InfiniBand", "subnet fec0000000000001", "the port's own"]);
    assert_eq!(ranked[1].reasons[2], "an alias");
    let peer = PeerGid { bytes: prefixed(0, 0xfe80_0000_0000_0000).bytes, carrier: Carrier::InfiniBand };
    assert_eq!(rank(&entries, Some(&peer))[0].reach, Some(Reach::Routed));
    let unnamed = rank(&[prefixed(0, 0xfe80_0000_0000_0000)], Some(&peer));
    assert_eq!(unnamed[0].reach, Some(Reach::Subnet));
    assert!(unnamed[0].reasons.iter().any(|reason| reason.contains("given none")), "{unnamed:?}");
}

#[test]
fn iwarp_s_identifier_is_only_a_mac_address() {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let ranked = rank(&[entry(0, bytes, Carrier::Iwarp)], None);
    assert!(ranked[0].reasons[1].contains("MAC"), "{ranked:?}");
    assert_eq!(ranked[0].entry.text(), "52:54:00:12:34:56");
    let untold = GidEntry { netdev: None, ..ranked[0].entry.clone() };
    let untold = &rank(&[untold], None)[0];
    assert!(!untold.to_string().contains("namespace"), "the kernel tells no interface of iWARP: {untold}");
}

#[test]
fn an_index_that_is_wrong_is_refused_with_what_exists() {
    let entries =
        [entry(0, ipv6("fe80::1"), Carrier::RoceV2), entry(1, ipv4([10, 77, 0, 1]), Carrier::RoceV2)];
    let refused = choose("rxe0:1", &entries, Some(99)).expect_err("no such entry").to_string();
    assert_eq!(
        refused,
        "gid_index = 99: port rxe0:1 has no GID there; it has 1 (10.77.0.1, RoCE v2), 0 (fe80::1, RoCE v2); \
         use 1, or leave gid_index = auto"
    );
    assert_eq!(choose("rxe0:1", &entries, Some(0)).expect("there").entry.index, 0, "asked for, so taken");
    assert_eq!(choose("rxe0:1", &entries, None).expect("there").entry.index, 1);
}

#[test]
fn tables_without_a_usable_entry_say_what_to_do() {
    let text =
        |entries: &[GidEntry], asked| choose("rxe0:1", entries, asked).expect_err("nothing").to_string();
    let empty = [entry(0, [0; 16], Carrier::RoceV2)];
    assert!(text(&empty, None).contains("rxe0:1 has no global identifier (GID); give its network interface"));
    assert!(text(&empty, Some(0)).contains("gid_index = 0: port rxe0:1 has no GID at all"));
    let down = [GidEntry { netdev: Some(netdev("eth1", false)), ..entry(1, [1; 16], Carrier::RoceV2) }];
    assert!(
        text(&down, None).contains("eth1, down; set one up: ip link set eth1 up"),
        "{}",
        text(&down, None)
    );
    assert!(text(&down, Some(1)).contains("belongs to eth1, which is down; ip link set eth1 up"));
}

fn any_kind() -> impl Strategy<Value = Carrier> {
    prop_oneof![Just(Carrier::InfiniBand), Just(Carrier::RoceV1), Just(Carrier::RoceV2), Just(Carrier::Iwarp)]
}

fn any_bytes() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![
        Just([0; 16]),
        any::<[u8; 4]>().prop_map(ipv4),
        any::<[u8; 16]>(),
        any::<u8>().prop_map(|last| ipv6(&format!("fe80::{last:x}"))),
    ]
}

fn any_netdev() -> impl Strategy<Value = Option<Netdev>> {
    let vlan = prop_oneof![Just(Vlan::Untagged), proptest::option::of(any::<u16>()).prop_map(Vlan::Tagged)];
    let netdev = ("[a-c]", any::<bool>(), vlan, proptest::option::of(any::<u8>()));
    proptest::option::of(netdev.prop_map(|(name, is_up, vlan, prefix_bits)| Netdev {
        name,
        is_up,
        vlan,
        prefix_bits,
    }))
}

fn any_table() -> impl Strategy<Value = Vec<GidEntry>> {
    let entry = (any::<u8>(), any_bytes(), any_kind(), any_netdev());
    proptest::collection::vec(
        entry.prop_map(|(index, bytes, carrier, netdev)| GidEntry { index, bytes, carrier, netdev }),
        0..12,
    )
}

fn any_peer() -> impl Strategy<Value = Option<PeerGid>> {
    proptest::option::of((any_bytes(), any_kind()).prop_map(|(bytes, carrier)| PeerGid { bytes, carrier }))
}

proptest! {
    #[test]
    fn the_order_is_total_and_does_not_depend_on_that_of_the_table(
        table in any_table(), peer in any_peer(), seed in any::<u64>(),
    ) {
        let mut shuffled = table.clone();
        let mut random = seed | 1;
        for at in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (random >> 33) as usize % (at + 1));
        }
        prop_assert_eq!(rank(&table, peer.as_ref()), rank(&shuffled, peer.as_ref()));
    }

    #[test]
    fn zeros_are_never_a_candidate_and_all_others_are(table in any_table(), peer in any_peer()) {
        let ranked = rank(&table, peer.as_ref());
        prop_assert!(ranked.iter().all(|candidate| candidate.entry.bytes != [0; 16]));
        prop_assert_eq!(ranked.len(), table.iter().filter(|entry| entry.bytes != [0; 16]).count());
        for asked in 0..=255 {
            if let Ok(found) = choose("p", &table, Some(asked)) {
                prop_assert!(found.entry.bytes != [0; 16] && found.entry.index == asked);
            }
        }
    }

    #[test]
    fn an_interface_that_is_down_never_wins_over_one_that_is_up(table in any_table(), peer in any_peer()) {
        let ranked = rank(&table, peer.as_ref());
        let state = |candidate: &Candidate| candidate.entry.netdev.as_ref().map(|netdev| netdev.is_up);
        let first_down = ranked.iter().position(|candidate| state(candidate) == Some(false));
        let last_up = ranked.iter().rposition(|candidate| state(candidate) == Some(true));
        if let (Some(down), Some(up)) = (first_down, last_up) {
            prop_assert!(up < down, "{ranked:?}");
        }
        if let Ok(chosen) = choose("p", &table, None) {
            prop_assert!(chosen.is_up());
        }
    }

    #[test]
    fn scores_and_order_agree_and_every_candidate_has_reasons(table in any_table(), peer in any_peer()) {
        let ranked = rank(&table, peer.as_ref());
        prop_assert!(ranked.is_sorted_by(|a, b| a.score >= b.score));
        prop_assert!(ranked.iter().all(|candidate| candidate.score < 3000 && candidate.reasons.len() >= 2));
        prop_assert!(ranked.iter().all(|candidate| candidate.reach.is_some() == peer.is_some()));
    }
}

#[test]
fn networks_have_one_order_on_all_hosts_whatever_the_host_s_part() {
    let of = |bytes| network(&entry(0, bytes, Carrier::RoceV2));
    assert_eq!(of(ipv4([10, 0, 0, 1])), of(ipv4([10, 0, 0, 254])));
    assert!(of(ipv4([10, 0, 0, 254])) < of(ipv4([10, 0, 1, 1])));
    let infiniband = |last| {
        let mut bytes = ipv6("fe80::1");
        bytes[15] = last;
        network(&entry(0, bytes, Carrier::InfiniBand))
    };
    assert_eq!(infiniband(1), infiniband(9), "an InfiniBand subnet is the first half");
    // Of an iWARP port the kernel tells no address, and a RoCE v1 port has none.
    assert_eq!(network(&entry(0, ipv4([10, 0, 0, 1]), Carrier::Iwarp)), 0);
    let unknown = GidEntry { netdev: None, ..entry(0, ipv4([10, 0, 0, 1]), Carrier::RoceV2) };
    assert_eq!(network(&unknown), 0);
}
