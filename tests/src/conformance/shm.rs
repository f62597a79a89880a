//! What is below the trait in the shared-memory fabric: who can see its segments, what is left behind, what happens
//! without memory, and peers that write nonsense everywhere they can.

use std::os::unix::fs::MetadataExt;

use ironband_core::config::Config;
use ironband_core::wire::{AtomicRequest, Card, PullRequest, PushHeader, RecordKind, ShareRequest};
use ironband_fabric::{Access, Device, Fabric, Posted, RemoteAddress};

use super::agent::{Agent, Duo, from_hex, to_hex};
use super::memory::{Foreign, first_difference, limit};
use super::node::{Event, Node, Pair, assert_intact, wait_for};
use super::{Outcome, Setup};

fn card_of(address: &[u8]) -> Card {
    Card::decode(address).expect("the address of a shared-memory device is a card")
}

/// Path of a device's segment.
fn segment_of(address: &[u8]) -> String {
    let card = card_of(address);
    format!("/proc/{}/fd/{}", card.pid, card.memfd)
}

/// Segments have no name in any file system, and only their owner may open them.
pub fn segments_are_private<F: Fabric>(setup: &Setup) -> Outcome {
    let node = Node::<F>::open(setup, 0);
    let path = segment_of(&node.address());
    let metadata = std::fs::metadata(&path).expect("the own segment");
    assert_eq!(metadata.mode() & 0o7777, 0o600, "{path}");
    assert_eq!(metadata.nlink(), 0, "the segment has a name");
    let target = std::fs::read_link(&path).expect("a link");
    assert_eq!(target.to_str(), Some("/memfd:ironband (deleted)"));
    Ok(())
}

/// Neither side of a connection has a file that could stay: all that is shared is anonymous, and it is gone with SIGKILL.
pub fn nothing_is_left<F: Fabric>(setup: &Setup) -> Outcome {
    let mut duo = Duo::<F>::connected(setup)?;
    for pid in [std::process::id(), duo.agent.pid()] {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
        let shared: Vec<&str> = maps.lines().filter(|line| line.contains(" rw-s ")).collect();
        assert!(!shared.is_empty(), "connected, and nothing is shared");
        let anonymous = shared.iter().all(|line| line.contains("/memfd:ironband (deleted)"));
        assert!(anonymous, "{shared:#?}");
    }
    // What the agent inherited from here (the harness may be writing to a file) is not its own.
    let inherited = std::fs::read_link("/proc/self/fd/2").unwrap_or_default();
    let open_files = std::fs::read_dir(format!("/proc/{}/fd", duo.agent.pid())).expect("descriptors");
    for link in open_files.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
        if link == inherited {
            continue;
        }
        assert!(!link.starts_with("/dev/shm") && !link.starts_with("/tmp"), "{}", link.display());
    }
    let address = from_hex(&duo.agent.ask("address"));
    duo.agent.kill();
    assert!(std::fs::metadata(segment_of(&address)).is_err(), "the segment outlived its process");
    Ok(())
}

/// The doorbell of a peer whose ring is asleep is answered by the next polls, not by the slow round that looks at all rings.
pub fn sleepers_wake_at_once<F: Fabric>(setup: &Setup) -> Outcome {
    const PEERS: u32 = 60;
    let mut hub = Node::<F>::open(setup, 0);
    let address = hub.address();
    let mut peers: Vec<_> = (1..=PEERS)
        .map(|rank| {
            let mut peer = Node::<F>::open(setup, rank);
            let qp = peer.connect(&address);
            assert_eq!(peer.send(qp, 0, 8), Posted::Complete);
            (peer, qp)
        })
        .collect();
    for _ in 0..PEERS {
        wait_for("the first messages", || {
            hub.turn();
            hub.take_arrival()
        });
    }
    // More peers than the hub looks at in each poll: by the time of its turn, each has fallen asleep.
    for round in 1..4 {
        for (peer, qp) in &mut peers {
            assert_eq!(peer.send(*qp, round, 8), Posted::Complete);
            let polls = (0..1000).find(|_| matches!(hub.poll(), Some(Event::Message { .. })));
            assert!(polls.is_some_and(|polls| polls < 20), "noticed after {polls:?} polls");
        }
    }
    Ok(())
}

/// A process that has the address but not the job key is refused, and the one it asked is not disturbed.
pub fn wrong_key<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    let good = pair.b.address();
    for at in good.len() - 16..good.len() {
        let mut stranger = Node::<F>::open(setup, 7);
        let mut address = good.clone();
        address[at] ^= 1;
        let qp = stranger.connect(&address);
        wait_for("the refusal", || {
            let _ = stranger.send(qp, 1, 8);
            stranger.turn();
            pair.turn();
            stranger.is_disconnected(qp).then_some(())
        });
        assert!(stranger.failure(qp).contains("another job"), "{:?}", stranger.failure(qp));
    }
    (0..10_000).for_each(|_| pair.turn());
    assert_eq!(pair.b.inbox.len(), 0, "{:?}", pair.b.inbox);
    pair.send_ab(1, 1);
    pair.until("a message", |pair| pair.b.take_arrival());
    Ok(())
}

/// A process that cannot have the memory it needs says how much it wanted, for what, and how much there is.
#[expect(
    clippy::extra_unused_type_parameters,
    reason = "the agent opens the device; every case has the same form"
)]
pub fn out_of_memory<F: Fabric>(setup: &Setup) -> Outcome {
    let cases = [
        ("file:4096", "the control block", "wanted 12288 bytes"),
        ("file:100000", "the ring from rank 5", "wanted "),
        ("address-space", "the ring from rank 5", "wanted "),
        ("descriptors", "memfd_create", "ulimit -n"),
    ];
    for (how, what, wanted) in cases {
        let message = Agent::start(setup, 5).ask(&format!("starve {how}"));
        for part in [what, wanted] {
            assert!(message.contains(part), "{how}: {message:?} does not say {part:?}");
        }
        if how != "descriptors" {
            let available = message.split("available ").nth(1).unwrap_or_default();
            assert!(available.starts_with(|c: char| c.is_ascii_digit()), "{how}: {message:?}");
            assert!(message.contains("btl_ironband_ring_bytes"), "{how}: {message:?} offers no way out");
        }
    }
    Ok(())
}

/// In the agent: takes a resource away from this process, opens a device and connects it to itself; returns the error.
pub fn starve<F: Fabric>(setup: &Setup, how: &str) -> String {
    match how.split_once(':') {
        Some((_, bytes)) => limit(libc::RLIMIT_FSIZE, bytes.parse().expect("a number")),
        None if how == "descriptors" => limit(libc::RLIMIT_NOFILE, 3),
        None => {
            let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
            let pages: u64 = pages.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            // Room for the heap to grow, not for a ring.
            limit(libc::RLIMIT_AS, pages * 4096 + (160 << 10));
        }
    }
    let mut node = match Node::<F>::try_open(setup, 5, 2) {
        Ok(node) => node,
        Err(error) => return error.to_string(),
    };
    let address = node.address();
    let qp = node.connect(&address);
    match node.send(qp, 0, 8) {
        Posted::Failed => node.failure(qp),
        other => format!("{other:?}"),
    }
}

/// A member of the job goes mad and writes random words over everything that it can map, or over the right places in it.
/// The process it attacks neither crashes nor hangs, keeps its private memory, and goes on talking to others.
pub fn hostile_peer<F: Fabric>(setup: &Setup) -> Outcome {
    const ROUNDS: u64 = 240;
    let config = Config { ring_bytes: Some(at::BULK_BYTES), ..setup.config.clone() };
    let setup = &Setup { config, ..setup.clone() };
    let mut pair = Pair::<F>::connected(setup);
    let secret = pair.a.buffer(8192, 1, Access::LOCAL);
    let offered = pair.a.buffer(8192, 1, Access::ALL);
    let remote = pair.a.remote(offered, 0);
    let mut agent = Agent::start(setup, 1);
    agent.tell(&format!("scribble {} {} {} {ROUNDS}", to_hex(&pair.a.address()), remote.address, remote.key));
    let (mut next, mut arrived, mut lost) = (0_u32, 0_u32, 0);
    let answer = wait_for("the attacker to tire", || {
        // The one attacked answers everybody, so that there is a ring in its own segment to be spoilt.
        match pair.a.poll() {
            Some(Event::Message { qp, .. }) => drop(pair.a.send(qp, 1, 100)),
            Some(Event::Disconnected { qp }) => {
                assert_ne!(qp, pair.ab, "the honest connection: {}", pair.a.failure(qp));
                lost += 1;
            }
            _ => {}
        }
        if next - arrived < 10 {
            next += u32::from(pair.a.send(pair.ab, next, next as usize % 1000) == Posted::Complete);
        }
        if let Some(event) = pair.b.poll() {
            assert_intact(&event);
            assert!(
                matches!(event, Event::Message { imm, .. } if imm == arrived),
                "{event:?} is not {arrived}"
            );
            arrived += 1;
        }
        agent.answer()
    });
    assert_eq!(answer, "scribbled");
    assert!(lost > ROUNDS / 10, "only {lost} of {ROUNDS} attacks were noticed: do they reach their target?");
    assert_eq!(first_difference(&pair.a.pages(secret).load(0, 8192), 1), None, "private memory was changed");
    pair.b.assert_connected();
    Ok(())
}

/// Offsets in a segment; see `shm/layout.rs` in the fabric.
mod at {
    pub(super) const CONTROL: usize = 0;
    pub(super) const CONNECT_SLOTS: usize = 640;
    pub(super) const CONTROL_END: usize = 12_288;
    pub(super) const TICKETS: usize = CONTROL_END + 128;
    pub(super) const SLOTS: usize = CONTROL_END + 1152;
    pub(super) const SLOT_BYTES: usize = 320;
    pub(super) const SLOT_COUNT: usize = 256;
    /// A ring with so much bulk space has so many slots.
    pub(super) const BULK_BYTES: usize = SLOT_COUNT << 10;
}

/// A small generator (Marsaglia's xorshift); the seed makes an attack repeatable.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 8) as usize % bound
    }

    /// Often a number at an edge.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => [0, 1, 7, 8, 4096, u64::MAX, 1 << 63, u64::from(u32::MAX)][self.below(8)],
            1 => self.next() >> self.below(63),
            _ => self.next() % 10_000,
        }
    }
}

/// In the agent: the attack.
pub fn scribble<F: Fabric>(setup: &Setup, victim: &[u8], offered: RemoteAddress, rounds: u64) -> String {
    for round in 0..rounds {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (round + 1));
        let mut node = Node::<F>::open(setup, 50);
        let qp = node.connect(victim);
        // Two messages, so that the victim has accepted; positions in the ring go on from here.
        let (mut sent, mut answered) = (0, false);
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 200 && !answered {
            if sent < 2 {
                sent += u32::from(node.send(qp, sent, 8) == Posted::Complete);
            }
            answered = matches!(node.poll(), Some(Event::Message { .. }));
            std::thread::yield_now();
        }
        let theirs = Foreign::map(&segment_of(victim));
        let own = Foreign::map(&segment_of(&node.address()));
        match round % 6 {
            0 => anywhere(&mut random, &own, at::CONTROL_END..own.len_bytes()),
            1 | 2 => records(&mut random, &own, sent, offered),
            3 => anywhere(&mut random, &theirs, ring_to(&own)),
            4 => anywhere(&mut random, &theirs, at::CONTROL + 64..at::CONTROL_END),
            _ => {
                anywhere(&mut random, &theirs, at::CONNECT_SLOTS..at::CONTROL_END);
                anywhere(&mut random, &own, at::TICKETS..at::SLOTS + at::SLOT_BYTES * at::SLOT_COUNT);
            }
        }
        for _ in 0..2000 {
            let _ = node.poll();
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
        let _ = node.device().failure(qp);
    }
    "scribbled".to_owned()
}

/// Where in the victim's segment the ring to this process is: the victim's connection request says so. Its other rings are
/// those of other peers, and who is the same user could spoil them, as it could the victim itself.
fn ring_to(own: &Foreign) -> std::ops::Range<usize> {
    let slots = (at::CONNECT_SLOTS..at::CONNECT_SLOTS + 64 * 128).step_by(128);
    let offset = slots.map(|slot| own.read(slot + 24)).find(|offset| *offset != 0).unwrap_or(0) as usize;
    // A victim that has not answered has made no ring.
    if offset == 0 { at::CONTROL + 64..at::CONTROL_END } else { offset..offset + at::BULK_BYTES }
}

/// Random words at random places.
fn anywhere(random: &mut Random, memory: &Foreign, range: std::ops::Range<usize>) {
    for _ in 0..range.len() / 8 {
        let offset = range.start + random.below(range.len());
        let word = if random.below(2) == 0 { random.number() } else { random.next() };
        // The doorbells too: all bits, and bits of peers that do not exist.
        memory.write(offset, word);
    }
}

/// Records in the right places, of every kind, with bodies that are nearly right.
fn records(random: &mut Random, own: &Foreign, sent: u32, offered: RemoteAddress) {
    for position in sent..sent + 30 {
        let slot = at::SLOTS + position as usize % at::SLOT_COUNT * at::SLOT_BYTES;
        let kind = random.below(17) as u64;
        let body = body(random, kind as u8, offered);
        for (index, word) in body.as_chunks::<8>().0.iter().enumerate() {
            own.write(slot + 16 + index * 8, u64::from_le_bytes(*word));
        }
        own.write(slot + 8, random.number());
        let len_bytes = match random.below(8) {
            0 => random.next() & 0xff_ffff,
            1 => random.next() & 0x3f,
            _ => 48,
        };
        own.write(slot, u64::from(position + 1) | len_bytes << 32 | kind << 56);
        if random.below(4) == 0 {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

fn body(random: &mut Random, kind: u8, offered: RemoteAddress) -> Vec<u8> {
    let address = match random.below(4) {
        0 => random.number(),
        1 => offered.address.wrapping_add(random.number()),
        _ => offered.address + random.below(8192) as u64,
    };
    let key = if random.below(4) == 0 { random.number() } else { offered.key };
    let len_bytes = if random.below(2) == 0 { random.number() } else { random.below(8192) as u64 };
    let (job, chunk_bytes) = (random.number() as u32, random.number() as u32);
    let mut bytes = match RecordKind::from_u8(kind) {
        Some(RecordKind::PullRequest) => {
            let ticket = if random.below(2) == 0 { PullRequest::NO_TICKET } else { random.below(20) as u32 };
            PullRequest { job, chunk_bytes, address, key, len_bytes, ticket, reserved: 0 }.encode().to_vec()
        }
        Some(RecordKind::ShareRequest) => {
            let ticket = random.below(20) as u32 | (random.below(3) as u32) << 16;
            let request = ShareRequest {
                ticket,
                chunk_bytes,
                source: address,
                key,
                target: random.number(),
                len_bytes,
            };
            request.encode().to_vec()
        }
        Some(RecordKind::Push) => {
            let flags = random.below(4) as u32;
            PushHeader { job, flags, address, key, total_bytes: len_bytes }.encode().to_vec()
        }
        Some(RecordKind::AtomicRequest) => {
            let (code, width) = (random.below(10) as u16, [4, 8, 3, 0][random.below(4)]);
            let (operand, compare) = (random.next(), random.next());
            AtomicRequest { job, code, width, address, key, operand, compare }.encode().to_vec()
        }
        _ => Vec::new(),
    };
    bytes.resize_with(48, || random.next() as u8);
    bytes
}
