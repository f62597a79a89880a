//! The `verbs` fabric as the environment asks for it, so that one test program covers the ways to use an adapter; and what only
//! verbs promise.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use ironband_core::config::Config;
use ironband_core::wire::VerbsCard;
use ironband_fabric::verbs::{Connect, Options, Verbs, VerbsDevice};
use ironband_fabric::{Device, DeviceError, DeviceReport, Fabric, Job, Posted};

use super::node::{Event, Node, Pair, assert_intact, wait_for};
use super::{Outcome, Setup, need};

/// Where receives are posted: `shared`, `own`, or as the device likes.
const RECEIVES: &str = "IRONBAND_CONFORMANCE_RECEIVES";

/// How connections are made: `datagram`, `manager`, or as the device likes.
const CONNECT: &str = "IRONBAND_CONFORMANCE_CONNECT";

/// [`Verbs`], opened with the options that `IRONBAND_CONFORMANCE_*` names. Agents inherit them.
#[derive(Debug)]
pub struct Chosen;

fn choice<T>(variable: &str, words: &[(&str, T)]) -> Option<T>
where
    T: Copy,
{
    let chosen = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    let found = words.iter().find(|(word, _)| *word == chosen);
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Some(found.unwrap_or_else(|| panic!("{variable}={chosen:?} is none of {}", known.join(", "))).1)
}

fn options() -> Options {
    let ways = [("datagram", Connect::Datagram), ("manager", Connect::Manager)];
    Options {
        shared_receive_queue: choice(RECEIVES, &[("shared", true), ("own", false)]),
        connect: choice(CONNECT, &ways).unwrap_or_default(),
    }
}

impl Fabric for Chosen {
    const NAME: &'static str = Verbs::NAME;
    type Device = VerbsDevice;

    fn probe(config: &Config) -> Vec<DeviceReport> {
        Verbs::probe(config)
    }

    fn open(name: &str, config: &Config, job: &Job) -> Result<VerbsDevice, DeviceError> {
        Verbs::open_with(name, config, job, options())
    }
}

/// The word behind `name` in a line of `rdma resource show`.
fn word<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().skip_while(|word| *word != name).nth(1)
}

/// What the kernel keeps for the objects of this process, a line each, as `rdma resource show` lists it.
fn kernel_lines(kind: &str) -> Vec<String> {
    // The kernel names the thread that made an object.
    let threads = std::fs::read_dir("/proc/self/task").expect("own threads").flatten();
    let threads: Vec<String> =
        threads.map(|thread| thread.file_name().to_string_lossy().into_owned()).collect();
    let output = Command::new("rdma").args(["resource", "show", kind]).output();
    let output = output.unwrap_or_else(|error| panic!("rdma resource show {kind}: {error}"));
    assert!(output.status.success(), "rdma resource show {kind}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_own = |line: &&str| word(line, "pid").is_some_and(|pid| threads.iter().any(|it| it == pid));
    text.lines().filter(is_own).map(str::to_owned).collect()
}

/// How many objects of each kind the kernel keeps for this process.
fn kernel_objects() -> BTreeMap<&'static str, usize> {
    ["qp", "cq", "mr", "pd", "cm_id"].map(|kind| (kind, kernel_lines(kind).len())).into()
}

/// Bytes that this process has registered.
fn registered_bytes() -> u64 {
    let lines = kernel_lines("mr");
    lines.iter().filter_map(|line| word(line, "mrlen")?.parse::<u64>().ok()).sum()
}

/// One end connects, sends, and ends the connection, which the other end follows.
fn connect_once<F: Fabric>(pair: &mut Pair<F>, life: u32) {
    let from_a = life.is_multiple_of(2);
    let (a, b) = (pair.a.address(), pair.b.address());
    (pair.ab, pair.ba) = (pair.a.connect(&b), pair.b.connect(&a));
    if from_a {
        pair.send_ab(life, 100);
        pair.until("the message to b", |pair| pair.b.take_arrival());
    } else {
        pair.send_ba(life, 100);
        pair.until("the message to a", |pair| pair.a.take_arrival());
    }
    let (ab, ba) = (pair.ab, pair.ba);
    pair.a.device().destroy_qp(ab);
    pair.b.device().destroy_qp(ba);
    pair.a.assert_connected();
    pair.b.assert_connected();
}

/// Waits until both ends have put away what they had of each other.
fn settle<F: Fabric>(pair: &mut Pair<F>) {
    pair.until("both ends to be idle", |pair| {
        (pair.a.device().is_idle() && pair.b.device().is_idle()).then_some(())
    });
    (0..20_000).for_each(|_| pair.turn());
}

/// 1,000 connections that are made and ended leave as many queue pairs, registrations and identifiers of the connection manager
/// as there were before, by the kernel's own count.
pub fn thousand_connections<F: Fabric>(setup: &Setup) -> Outcome {
    const CONNECTIONS: u32 = 1000;
    let mut pair = Pair::<F>::connected(setup);
    let connected = kernel_objects();
    need(connected["qp"] > 0, "the kernel does not count the queue pairs of this device")?;
    // What is made on first use, and kept, is made now.
    (0..20).for_each(|life| connect_once(&mut pair, life));
    settle(&mut pair);
    let before = kernel_objects();
    assert!(
        before["qp"] < connected["qp"],
        "queue pairs are not counted: {before:?}, connected {connected:?}"
    );
    let start = Instant::now();
    (0..CONNECTIONS).for_each(|life| connect_once(&mut pair, life));
    println!(
        "{CONNECTIONS} connections in {:.1} s; objects before: {before:?}",
        start.elapsed().as_secs_f64()
    );
    settle(&mut pair);
    assert_eq!(kernel_objects(), before, "{CONNECTIONS} connections have left objects behind");
    Ok(())
}

/// A Soft-iWARP peer that says nothing is made to look at what it was sent; and not again once its kernel has.
pub fn silent_peer_is_nudged<F: Fabric>(setup: &Setup) -> Outcome {
    need(setup.device.starts_with("siw"), "only Soft-iWARP overlooks messages")?;
    let mut pair = Pair::<F>::open(setup);
    pair.send_ab(1, 8);
    pair.until("a message of who then waits", |pair| pair.b.take_arrival());
    let nudges = |pair: &mut Pair<F>| -> u64 {
        let tally = pair.a.device().tally().unwrap_or_default();
        let words: Vec<&str> = tally.split_whitespace().collect();
        let found = words.windows(2).find(|pair| pair[1] == "nudges");
        found.map_or(0, |pair| pair[0].parse().expect("a number"))
    };
    pair.until("a nudge", |pair| (nudges(pair) > 0).then_some(()));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        pair.turn();
    }
    // At most a few before the first is answered; ten without an answer.
    let count = nudges(&mut pair);
    assert!(count <= 6, "{count} nudges, though the first was answered");
    Ok(())
}

/// What each connected peer costs of registered memory is what ARCHITECTURE.md says ("Memory per peer"), and is printed.
pub fn memory_per_peer<F: Fabric>(setup: &Setup) -> Outcome {
    const PEERS: u32 = 8;
    /// As ARCHITECTURE.md has it.
    const KIB: u64 = 516;
    let setup = Setup { config: Config::default(), ..setup.clone() };
    let mut hub = Node::<F>::open(&setup, 0);
    let address = hub.address();
    let mut others: Vec<_> = (1..=PEERS).map(|rank| Node::<F>::open(&setup, rank)).collect();
    // Send buffers are a device's, not a peer's: each makes its first ones now, for a message that does not fit inline.
    let mut warm = Node::<F>::open(&setup, PEERS + 1);
    let warm_address = warm.address();
    for node in others.iter_mut().chain([&mut hub]) {
        let qp = node.connect(&warm_address);
        wait_for("a message to nobody in particular", || {
            node.turn();
            warm.turn();
            (node.send(qp, 0, 5000) == Posted::Complete).then_some(())
        });
        wait_for("its arrival", || {
            node.turn();
            warm.turn();
            warm.take_arrival()
        });
    }
    let before = registered_bytes();
    for (node, rank) in others.iter_mut().zip(1..) {
        let qp = node.connect(&address);
        wait_for("the first message of a peer", || {
            node.turn();
            hub.turn();
            (node.send(qp, rank, 8) == Posted::Complete).then_some(())
        });
        wait_for("its arrival", || {
            node.turn();
            hub.turn();
            hub.take_arrival()
        });
    }
    let after = registered_bytes();
    need(after > before, "the kernel does not say how long registrations of this device are")?;
    // Both ends are in this process.
    let each = (after - before) / u64::from(2 * PEERS);
    println!("memory per connected peer: {each} bytes registered ({} KiB)", each / 1024);
    assert_eq!(each.div_ceil(1024), KIB, "ARCHITECTURE.md says otherwise");
    Ok(())
}

/// How many messages a device has written to eager rings, by its own count.
fn in_rings<F: Fabric>(node: &mut Node<F>) -> u64 {
    let tally = node.device().tally().expect("a count");
    let clause = tally.split(", ").find_map(|clause| clause.strip_suffix(" messages written to eager rings"));
    clause.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count of rings in {tally:?}"))
}

/// A peer that sends many short messages gets a ring for them, on each new connection again: rings come back when connections
/// end, though messages in them are still held.
pub fn hot_peers_write_to_rings<F: Fabric>(setup: &Setup) -> Outcome {
    /// More than there are rings.
    const CONNECTIONS: u32 = 40;
    const MESSAGES: u32 = 200;
    let mut pair = Pair::<F>::connected(setup);
    need(
        pair.a.capabilities().names_refusal,
        "an iWARP adapter may write in any order, so there are no rings",
    )?;
    // The send buffers are made now.
    pair.send_ab(0, 5000);
    pair.until("a long message", |pair| pair.b.take_arrival());
    let before = kernel_objects();
    let mut last = in_rings(&mut pair.a);
    for life in 0..CONNECTIONS {
        for imm in 0..MESSAGES {
            // Inline, from a buffer, and around the length of a slot (2288 bytes): what does not fit must not overtake, nor be
            // overtaken.
            let len_bytes = match imm % 10 {
                0 => 2280 + imm as usize / 10,
                1..=3 => 200 + imm as usize * 10,
                _ => imm as usize % 60,
            };
            pair.send_ab(imm, len_bytes);
            let held = wait_for("the message", || {
                pair.a.turn();
                pair.b.poll_held()
            });
            let held = held.expect("the connection stands");
            if imm == MESSAGES - 1 {
                let (ab, ba) = (pair.ab, pair.ba);
                pair.a.device().destroy_qp(ab);
                pair.b.device().destroy_qp(ba);
            }
            let event = pair.b.release(held);
            assert!(
                matches!(event, Event::Message { imm: found, .. } if found == imm),
                "{event:?} is not {imm}"
            );
            assert_intact(&event);
        }
        let count = in_rings(&mut pair.a);
        assert!(count - last > 50, "connection {life}: {} of {MESSAGES} went to a ring", count - last);
        last = count;
        settle(&mut pair);
        let (a, b) = (pair.a.address(), pair.b.address());
        (pair.ab, pair.ba) = (pair.a.connect(&b), pair.b.connect(&a));
    }
    pair.send_ab(0, 8);
    pair.until("the last message", |pair| pair.b.take_arrival());
    assert_eq!(kernel_objects()["mr"], before["mr"], "rings were left behind");
    Ok(())
}

/// A peer that cannot be connected to is named with its address and the reason, whatever is wrong with it.
pub fn unreachable_is_named<F: Fabric>(setup: &Setup) -> Outcome {
    let setup = Setup { config: Config { connect_seconds: 1, ..setup.config.clone() }, ..setup.clone() };
    let mut node = Node::<F>::open(&setup, 0);
    let card_of = |node: &Node<F>| VerbsCard::decode(&node.address()).expect("a verbs card");
    let gone = card_of(&Node::<F>::open(&setup, 1));
    need(gone.listen_port != 0, "connections are made by datagrams")?;
    let mut other = Node::<F>::open(&setup, 2);
    let there = card_of(&other);
    // An address that is kept for documentation, so no host has it.
    let nowhere = VerbsCard { gid: Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets(), ..gone.clone() };
    let stranger = VerbsCard { key: [7; 16], ..there };
    let cases = [
        (VerbsCard { key: [5; 16], ..gone.clone() }, format!(":{}", gone.listen_port), "nobody listens"),
        (VerbsCard { key: [6; 16], ..nowhere }, "192.0.2.1".to_owned(), "cannot be reached"),
        (stranger.clone(), format!(":{}", stranger.listen_port), "another process has taken that port"),
    ];
    for (card, address, reason) in cases {
        let qp = node.connect(&card.encode());
        wait_for(reason, || {
            let posted = node.send(qp, 1, 8);
            node.turn();
            other.turn();
            (posted == Posted::Failed).then_some(())
        });
        let failure = node.failure(qp);
        println!("{failure}");
        assert!(failure.contains(&address) && failure.contains(reason), "{reason}, {address}: {failure}");
    }
    Ok(())
}

/// The system's range of ports for who names none, as long as it lives another one.
struct PortRange(String);

impl PortRange {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

    fn set(ports: std::ops::RangeInclusive<u16>) -> std::io::Result<Self> {
        let before = std::fs::read_to_string(Self::FILE)?;
        std::fs::write(Self::FILE, format!("{} {}", ports.start(), ports.end()))?;
        Ok(Self(before))
    }
}

impl Drop for PortRange {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(Self::FILE, &self.0) {
            eprintln!("{} is not as it was, {:?}: {error}", Self::FILE, self.0.trim());
        }
    }
}

/// Ports that TCP sockets have are passed over. The connection manager of the kernel offers them all the same.
pub fn taken_ports_are_passed_over<F: Fabric>(setup: &Setup) -> Outcome {
    const PORTS: std::ops::RangeInclusive<u16> = 41_000..=41_039;
    /// Each finds one of three that are taken at its first try with near certainty.
    const DEVICES: u32 = 6;
    let card = VerbsCard::decode(&Node::<F>::open(setup, 0).address()).expect("a verbs card");
    need(card.listen_port != 0, "connections are made by datagrams")?;
    let range = PortRange::set(PORTS);
    need(range.is_ok(), "the system's range of ports may not be changed")?;
    let listeners: Vec<_> = PORTS
        .filter(|port| !port.is_multiple_of(4))
        .map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port"))
        .collect();
    let nodes: Vec<_> = (1..=DEVICES).map(|rank| Node::<F>::open(setup, rank)).collect();
    for node in nodes {
        let port = VerbsCard::decode(&node.address()).expect("a verbs card").listen_port;
        assert!(PORTS.contains(&port), "port {port} is not of the range");
        assert!(
            !setup.device.starts_with("siw") || port.is_multiple_of(4),
            "port {port} is taken ({} are)",
            listeners.len()
        );
    }
    Ok(())
}

/// A process that sends a few long messages to each of many peers, and never again, gets the buffers of those messages back: not
/// each message has a completion of its own.
pub fn send_buffers_come_back<F: Fabric>(setup: &Setup) -> Outcome {
    const PEERS: u32 = 12;
    /// In all more than the 32 send buffers that so little memory allows; to each fewer than bring a completion by themselves.
    const MESSAGES_EACH: u32 = 7;
    let little = Setup { config: Config { memory_bytes: 1 << 20, ..setup.config.clone() }, ..setup.clone() };
    let mut hub = Node::<F>::open(&little, 0);
    let mut others: Vec<_> = (1..=PEERS).map(|rank| Node::<F>::open(setup, rank)).collect();
    for node in &mut others {
        let qp = hub.connect(&node.address());
        for imm in 0..MESSAGES_EACH {
            wait_for("room for a message", || {
                hub.turn();
                node.turn();
                (hub.send(qp, imm, 5000) == Posted::Complete).then_some(())
            });
        }
        for _ in 0..MESSAGES_EACH {
            wait_for("its arrival", || {
                hub.turn();
                node.turn();
                node.take_arrival()
            });
        }
    }
    Ok(())
}
