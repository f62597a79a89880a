//! Every status in one text file, for the eye; what the surroundings change, here.

use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn gid(octets: [u8; 4]) -> [u8; 16] {
    Ipv4Addr::from(octets).to_ipv6_mapped().octets()
}

fn facts(status: u32) -> FailureFacts {
    FailureFacts {
        peer_rank: 3,
        peer_host: "node7".to_owned(),
        peer_pid: 4711,
        operation: FailedOperation::Send,
        status,
        vendor_error: 0x81,
        carrier: Carrier::RoceV2,
        own: End { port: "mlx5_0:1".to_owned(), gid: gid([10, 0, 0, 1]), mtu_bytes: 1024 },
        peer: End { port: "port 1".to_owned(), gid: gid([10, 0, 0, 2]), mtu_bytes: 4096 },
        prefix_bits: Some(24),
        retries: RetrySettings { timeout: 17, retry_cnt: 7, rnr_retry: 7 },
        own_port_active: Some(true),
        peer_alive: None,
        worked_before: false,
    }
}

#[test]
fn every_status_has_the_text_of_the_golden_file() {
    let texts: Vec<String> = (0..=24).map(|status| explain(&facts(status))).collect();
    let (found, golden) = (texts.join("\n\n"), include_str!("diagnosis_golden.txt").trim_end());
    for (found, golden) in found.split("\n\n").zip(golden.split("\n\n")) {
        assert_eq!(found, golden);
    }
    assert_eq!(found.len(), golden.len(), "the file has as many texts");
}

#[track_caller]
fn assert_says(facts: &FailureFacts, likely: &str, attempt: &str) {
    let text = explain(facts);
    let line = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
    assert!(line("likely:").contains(likely), "{text}");
    assert!(line("try:").contains(attempt), "{text}");
}

#[test]
fn what_is_certain_comes_before_what_is_likely() {
    let silent = facts(12);
    let port_down = FailureFacts { own_port_active: Some(false), ..silent.clone() };
    assert_says(&port_down, "the own port mlx5_0:1 is down", "ip link");
    let both = FailureFacts { peer_alive: Some(false), ..port_down };
    assert_says(&both, "the own port", "cable");
    let dead = FailureFacts { peer_alive: Some(false), ..silent.clone() };
    assert_says(&dead, "process 4711 has ended", "last words");
    let worked = FailureFacts { worked_before: true, ..silent.clone() };
    assert_says(&worked, "it worked before, so process 4711 or node7 has ended", "ping 10.0.0.2");
    assert_says(&worked, "the MTUs of the interfaces differ", "node7");
    let mut alike = worked;
    alike.peer.mtu_bytes = 1024;
    assert!(!explain(&alike).contains("MTUs"), "{}", explain(&alike));
    assert_says(
        &FailureFacts { status: 5, own_port_active: Some(false), ..silent.clone() },
        "is down",
        "cable",
    );
    assert_says(&FailureFacts { status: 13, peer_alive: Some(false), ..silent }, "has ended", "last words");
}

#[test]
fn a_first_contact_that_fails_looks_at_the_addresses() {
    let silent = facts(12);
    assert_says(
        &silent,
        "firewall drops UDP port 4791",
        "ping -I 10.0.0.1 10.0.0.2; for the MTU, ping -M do -s 1056",
    );
    let mut routed = silent.clone();
    routed.peer.gid = gid([10, 9, 0, 2]);
    assert_says(&routed, "10.9.0.2 is in another subnet than 10.0.0.1", "gid_index");
    let mut family = silent.clone();
    family.peer.gid = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_says(&family, "10.0.0.1 and fe80::1 are addresses of different kinds", "gid_index");
    assert_says(
        &FailureFacts { carrier: Carrier::RoceV1, ..silent.clone() },
        "one broadcast domain",
        "RoCE v2",
    );
    assert_says(&FailureFacts { carrier: Carrier::InfiniBand, ..silent }, "partition", "ibstat on node7");
}

#[test]
fn the_retry_settings_are_told_in_milliseconds() {
    let mut facts = facts(12);
    assert!(explain(&facts).contains(
        "7 repetitions after 536 ms each (timeout 17, retry_cnt 7); waits for ever for a receive (rnr_retry 7)"
    ));
    facts.retries = RetrySettings { timeout: 14, retry_cnt: 3, rnr_retry: 2 };
    assert!(explain(&facts).contains("3 repetitions after 67 ms each"), "{}", explain(&facts));
    assert!(explain(&facts).contains("waits 2 times for a receive"), "{}", explain(&facts));
}

proptest! {
    #[test]
    fn a_text_is_short_and_names_peer_status_and_both_ends(
        status in 0..40_u32, vendor_error in any::<u32>(), timeout in any::<u8>(), ipv6 in any::<[u8; 16]>(),
        own_port_active in any::<Option<bool>>(), peer_alive in any::<Option<bool>>(), worked_before in any::<bool>(),
    ) {
        let mut facts = FailureFacts { vendor_error, own_port_active, peer_alive, worked_before, ..facts(status) };
        facts.retries.timeout = timeout;
        facts.peer.gid = ipv6;
        let text = explain(&facts);
        prop_assert!((4..=5).contains(&text.lines().count()), "{text}");
        for wanted in ["rank 3 on node7 (process 4711)", &format!(", {status};"), "10.0.0.1", &gid_text(&ipv6), "1024", "4096"] {
            prop_assert!(text.contains(wanted), "no {wanted} in {text}");
        }
    }
}
