//! Several processes in one test, with a network of queues between them: everything that may happen between them happens in an
//! order that a seed decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::credit::MESSAGE_OVERHEAD_BYTES;
use super::machine::{Arrival, Protocol, Received, RequestError, Transfer};
use super::matching::Pattern;
use super::peer::{INITIAL_WINDOW_BYTES, PeerLimits};
use super::requests::Handle;
use super::violation::Violation;
use crate::wire::message::{
    Announce, Ended, HEADER_BYTES_MAX, Hello, Kind, Memory, Outcome, Piece, Ready, Withdraw,
};

const JOB: u64 = 0x1234;
const EAGER_BYTES: u32 = 40;
/// The low bits of a tag say what a receive asks for; the others are the number of the message.
const CLASS_BITS: u32 = 8;

/// xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn chance(&mut self, of_hundred: usize) -> bool {
        self.below(100) < of_hundred
    }
}

type Message = (u32, Vec<u8>);

struct Process {
    protocol: Protocol<Vec<u8>, Vec<u8>, Vec<u8>>,
    /// From each peer.
    inbound: Vec<VecDeque<Message>>,
    /// Transfers started and not ended.
    transfers: Vec<Transfer>,
    /// Under way: handle, to, tag, number of the message.
    sends: Vec<(Handle, u32, u64, u64)>,
    /// Under way: handle, pattern, order of posting.
    receives: Vec<(Handle, Pattern, u64)>,
    posted: u64,
    is_dead: bool,
}

/// How things are in a run.
#[derive(Debug, Clone, Copy)]
struct Nature {
    processes: usize,
    writes: bool,
    registers: bool,
    busy: usize,
    /// Receives may be too short.
    truncates: bool,
    /// Messages are wanted back.
    withdraws: bool,
    loses: bool,
}

struct World {
    random: Random,
    nature: Nature,
    processes: Vec<Process>,
    /// Messages sent, by number: from, to, tag, length.
    sent: Vec<(u32, u32, u64, usize)>,
    /// By message: the order in which the receive that got it was posted.
    got: BTreeMap<u64, u64>,
    /// Messages that their senders wanted back.
    withdrawn: BTreeSet<u64>,
    /// Sends and receives that have ended in error.
    failed: usize,
}

fn data(number: u64, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (number as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

impl World {
    fn new(seed: u64, nature: Nature) -> Self {
        let count = nature.processes;
        let process = |rank: usize| Process {
            protocol: Protocol::new(
                Hello { rank: rank as u32, window_bytes: INITIAL_WINDOW_BYTES, job: JOB },
                count as u32,
            ),
            inbound: vec![VecDeque::new(); count],
            transfers: Vec::new(),
            sends: Vec::new(),
            receives: Vec::new(),
            posted: 0,
            is_dead: false,
        };
        Self {
            random: Random::new(seed),
            nature,
            processes: (0..count).map(process).collect(),
            sent: Vec::new(),
            got: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            failed: 0,
        }
    }

    fn limits(&self) -> PeerLimits {
        PeerLimits { eager_bytes_max: EAGER_BYTES, piece_bytes_max: 16, prefers_writing: self.nature.writes }
    }

    fn some_process(&mut self) -> usize {
        self.random.below(self.processes.len())
    }

    // ---- the programs -------------------------------------------------------------------------------------------------

    fn send(&mut self, from: usize) {
        let to = self.some_process();
        let number = self.sent.len() as u64;
        let tag = self.random.below(3) as u64 | number << CLASS_BITS;
        let len_bytes = match self.random.below(4) {
            0 => 0,
            1 => self.random.below(EAGER_BYTES as usize + 2),
            _ => self.random.below(200),
        };
        self.sent.push((from as u32, to as u32, tag, len_bytes));
        let limits = self.limits();
        let process = &mut self.processes[from];
        process.protocol.connected(to as u32, limits);
        // Sometimes by the short way.
        if let Some(message) = process.protocol.try_eager(to as u32, len_bytes)
            && !self.random.chance(self.nature.busy)
        {
            let mut bytes = tag.to_le_bytes().to_vec();
            bytes.extend_from_slice(&data(number, len_bytes));
            let immediate = message.immediate();
            message.posted();
            self.carry(from, to, (immediate, bytes));
            return;
        }
        // The address is the number of the message, so that whoever reads there gets its data.
        let registers = self.nature.registers && len_bytes > EAGER_BYTES as usize;
        let memory = registers.then_some(Memory { address: number, key: 77 });
        let body = data(number, len_bytes);
        let process = &mut self.processes[from];
        let handle = process.protocol.send(to as u32, tag, len_bytes as u64, memory, body);
        process.sends.push((handle, to as u32, tag, number));
    }

    fn withdraw(&mut self, at: usize) {
        let which = self.random.below(self.processes[at].sends.len().max(1));
        let process = &mut self.processes[at];
        if let Some((handle, _, _, number)) = process.sends.get(which) {
            process.protocol.withdraw(*handle);
            self.withdrawn.insert(*number);
        }
    }

    fn receive(&mut self, at: usize, pattern: Pattern) {
        let capacity =
            if self.nature.truncates && self.random.chance(20) { self.random.below(100) } else { 300 };
        let process = &mut self.processes[at];
        process.posted += 1;
        let posted = process.posted;
        let (handle, found) = process.protocol.receive(pattern, capacity as u64, vec![0; capacity]);
        if let Some(found) = found {
            let buffer = process.protocol.receive_body(handle).unwrap();
            buffer[..found.len_bytes].copy_from_slice(&found.data[..found.len_bytes]);
        }
        process.receives.push((handle, pattern, posted));
    }

    fn some_pattern(&mut self) -> Pattern {
        let (source, tag) = (self.some_process() as u32, self.random.below(3) as u64);
        let mask = (1 << CLASS_BITS) - 1;
        match self.random.below(5) {
            0 => Pattern::anything(),
            1 => Pattern { source: None, tag, mask },
            2 => Pattern::any_tag(source),
            _ => Pattern { source: Some(source), tag, mask },
        }
    }

    /// Looks at all requests of a process; those that have ended are checked and forgotten.
    fn harvest(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let mut sends = std::mem::take(&mut process.sends);
        sends.retain(|(handle, ..)| match process.protocol.take_send(*handle) {
            Some((_, outcome)) => {
                self.failed += usize::from(outcome.is_err());
                false
            }
            None => true,
        });
        process.sends = sends;
        let mut receives = std::mem::take(&mut process.receives);
        receives.retain(|(handle, pattern, posted)| {
            let Some((buffer, outcome)) = process.protocol.take_receive(*handle) else { return true };
            match outcome {
                Ok(Received { source, tag, len_bytes }) => {
                    assert!(pattern.matches(super::matching::Envelope { source, tag }));
                    let (from, to, sent_tag, sent_bytes) = self.sent[(tag >> CLASS_BITS) as usize];
                    assert_eq!((from, to, sent_tag, sent_bytes as u64), (source, at as u32, tag, len_bytes));
                    assert_eq!(buffer[..sent_bytes], data(tag >> CLASS_BITS, sent_bytes));
                    assert!(self.got.insert(tag >> CLASS_BITS, *posted).is_none(), "received twice");
                }
                Err(RequestError::Truncated { source_rank, tag, len_bytes, capacity_bytes }) => {
                    assert!(len_bytes > capacity_bytes && buffer.len() as u64 == capacity_bytes);
                    let (from, to, sent_tag, sent_bytes) = self.sent[(tag >> CLASS_BITS) as usize];
                    assert_eq!(
                        (from, to, sent_tag, sent_bytes as u64),
                        (source_rank, at as u32, tag, len_bytes)
                    );
                    assert!(self.got.insert(tag >> CLASS_BITS, *posted).is_none(), "received twice");
                }
                Err(_) => self.failed += 1,
            }
            false
        });
        self.processes[at].receives = receives;
    }

    // ---- the network --------------------------------------------------------------------------------------------------

    fn carry(&mut self, from: usize, to: usize, message: Message) {
        if !self.processes[to].is_dead {
            self.processes[to].inbound[from].push_back(message);
        }
    }

    fn post(&mut self, from: usize, to: usize) -> bool {
        if self.random.chance(self.nature.busy) {
            return false;
        }
        let process = &mut self.processes[from];
        let Some(post) = process.protocol.next_post(to as u32) else { return false };
        let mut bytes = post.header().to_vec();
        if let Some((send, offset, len_bytes)) = post.payload {
            let body = process.protocol.send_body(send).unwrap();
            bytes.extend_from_slice(&body[offset as usize..][..len_bytes]);
        }
        process.protocol.posted(to as u32);
        self.carry(from, to, (post.immediate, bytes));
        true
    }

    fn deliver(&mut self, to: usize, from: usize) -> bool {
        let limits = self.limits();
        let process = &mut self.processes[to];
        let Some((immediate, bytes)) = process.inbound[from].pop_front() else { return false };
        if process.protocol.is_lost(from as u32) {
            return true;
        }
        process.protocol.connected(from as u32, limits);
        let start = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let (kind, _) = Kind::of_immediate(immediate).unwrap();
        let payload = &bytes[kind.header_bytes()..];
        match process.protocol.arrived(from as u32, immediate, start, bytes.len()).unwrap() {
            Arrival::Nothing => {}
            Arrival::Deliver { receive, offset, len_bytes } => {
                let buffer = process.protocol.receive_body(receive).unwrap();
                buffer[offset as usize..][..len_bytes].copy_from_slice(&payload[..len_bytes]);
            }
            Arrival::Keep(envelope) => process.protocol.keep(envelope, payload.len(), payload.to_vec()),
            Arrival::Active { .. } | Arrival::Farewell => panic!("nobody sends these"),
        }
        true
    }

    /// Starts or ends a transfer.
    fn transfer(&mut self, at: usize) -> bool {
        let process = &mut self.processes[at];
        if let Some(transfer) = process.protocol.next_transfer() {
            process.transfers.push(transfer);
            return true;
        }
        if process.transfers.is_empty() {
            return false;
        }
        let which = self.random.below(self.processes[at].transfers.len());
        let transfer = self.processes[at].transfers.swap_remove(which);
        match transfer {
            Transfer::Read { receive, peer, memory, len_bytes } => {
                if self.random.chance(10) && !self.processes[at].protocol.is_lost(peer) {
                    self.processes[at].protocol.read_impossible(receive);
                    return true;
                }
                let alive = !self.processes[peer as usize].is_dead;
                let is_there = |(.., number): &(Handle, u32, u64, u64)| *number == memory.address;
                let is_lost = self.processes[peer as usize].protocol.is_lost(at as u32);
                let may_be_read =
                    !alive || is_lost || self.processes[peer as usize].sends.iter().any(is_there);
                assert!(may_be_read, "its sender has the buffer back");
                let bytes = data(memory.address, len_bytes as usize);
                let protocol = &mut self.processes[at].protocol;
                assert_eq!(memory.key, 77);
                protocol.receive_body(receive).expect("kept until the read has ended")[..bytes.len()]
                    .copy_from_slice(&bytes);
                protocol.read_ended(receive, alive);
            }
            Transfer::Expose { receive, .. } => {
                let memory = Memory { address: receive.to_wire(), key: 78 };
                let memory = (!self.random.chance(10)).then_some(memory);
                self.processes[at].protocol.exposed(receive, memory);
            }
            Transfer::Write { send, peer, memory, len_bytes } => {
                let body = self.processes[at]
                    .protocol
                    .send_body(send)
                    .expect("kept until the write has ended")
                    .clone();
                assert_eq!((body.len() as u64, memory.key), (len_bytes, 78));
                let target = &mut self.processes[peer as usize];
                let alive = !target.is_dead;
                if alive && !target.protocol.is_lost(at as u32) {
                    let receive = Handle::from_wire(memory.address);
                    let buffer =
                        target.protocol.receive_body(receive).expect("it is written to until it was written");
                    buffer[..body.len()].copy_from_slice(&body);
                }
                self.processes[at].protocol.write_ended(send, alive);
            }
        }
        true
    }

    fn step(&mut self) -> bool {
        let (at, other) = (self.some_process(), self.some_process());
        if self.processes[at].is_dead {
            return false;
        }
        let moved = match self.random.below(3) {
            0 => self.post(at, other),
            1 => self.deliver(at, other),
            _ => self.transfer(at),
        };
        self.harvest(at);
        moved
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        let mut idle = 0;
        // Long enough that each pair had its turn, Busy or not.
        while idle < 400 * self.processes.len() {
            idle = if self.step() { 0 } else { idle + 1 };
        }
    }

    fn lose(&mut self, victim: usize) {
        self.processes[victim].is_dead = true;
        self.processes[victim].inbound.iter_mut().for_each(VecDeque::clear);
        for at in 0..self.processes.len() {
            if at != victim {
                // What it has sent before may arrive, or not.
                if self.random.chance(50) {
                    while self.deliver(at, victim) {}
                }
                self.processes[at].inbound[victim].clear();
                self.processes[at].protocol.peer_lost(victim as u32);
            }
        }
    }

    /// Messages of one source that the same receives ask for go to them in the order in which these were posted.
    fn check_order(&self) {
        let mut latest: BTreeMap<(u32, u32, u64), u64> = BTreeMap::new();
        for (number, (from, to, tag, _)) in self.sent.iter().enumerate() {
            let Some(&posted) = self.got.get(&(number as u64)) else { continue };
            let class = tag & ((1 << CLASS_BITS) - 1);
            let before = latest.insert((*from, *to, class), posted);
            assert!(before.is_none_or(|before| before < posted), "{from} -> {to}, class {class}: overtaken");
        }
    }
}

fn run(seed: u64, nature: Nature, turns: usize) {
    let mut world = World::new(seed, nature);
    let victim_at = if nature.loses { turns / 2 } else { usize::MAX };
    let mut victim = None;
    for turn in 0..turns {
        if turn == victim_at {
            let who = world.some_process();
            world.lose(who);
            victim = Some(who);
        }
        let at = world.some_process();
        if Some(at) == victim {
            continue;
        }
        match world.random.below(7) {
            0 => world.send(at),
            6 if nature.withdraws => world.withdraw(at),
            1 => {
                let pattern = world.some_pattern();
                world.receive(at, pattern);
            }
            _ => {
                world.step();
            }
        }
    }
    world.settle();
    // Whatever was sent is received now, and what waits in vain is taken back.
    for at in (0..nature.processes).filter(|at| Some(*at) != victim) {
        let waiting = std::mem::take(&mut world.processes[at].receives);
        for (handle, pattern, posted) in waiting {
            if world.processes[at].protocol.cancel(handle).is_none() {
                world.processes[at].receives.push((handle, pattern, posted));
            }
        }
        while world.processes[at].protocol.counts().kept > 0 {
            world.receive(at, Pattern::anything());
        }
    }
    world.settle();
    for at in (0..nature.processes).filter(|at| Some(*at) != victim) {
        let process = &world.processes[at];
        assert_eq!((process.sends.len(), process.receives.len()), (0, 0), "process {at} waits for ever");
        let counts = process.protocol.counts();
        assert_eq!((counts.sends, counts.receives, counts.kept), (0, 0, 0), "process {at}");
    }
    if victim.is_none() {
        let is_gone = |number: u64| world.got.contains_key(&number) || world.withdrawn.contains(&number);
        assert!((0..world.sent.len() as u64).all(is_gone), "each message is received once");
        assert_eq!(world.failed, 0);
    }
    world.check_order();
}

proptest! {
    #[test]
    fn everything_arrives_once_and_in_order(
        seed: u64, processes in 1_usize..5, writes: bool, registers: bool, busy in 0_usize..60, truncates: bool,
        withdraws: bool, loses: bool,
    ) {
        let nature = Nature { processes, writes, registers, busy, truncates, withdraws, loses };
        run(seed, nature, 400);
    }
}

// ---- one thing at a time ----------------------------------------------------------------------------------------------

/// Rank 0 of two, to which rank 1 has greeted.
fn greeted() -> Protocol<Vec<u8>, (), Vec<u8>> {
    let mut protocol = Protocol::new(Hello { rank: 0, window_bytes: INITIAL_WINDOW_BYTES, job: JOB }, 2);
    protocol.connected(1, PeerLimits { eager_bytes_max: 100, piece_bytes_max: 16, prefers_writing: false });
    let hello = Hello { rank: 1, window_bytes: INITIAL_WINDOW_BYTES, job: JOB }.encode();
    assert_eq!(protocol.arrived(1, Kind::Hello.immediate(0), &hello, 48), Ok(Arrival::Nothing));
    protocol
}

#[test]
fn the_first_word_is_a_greeting_and_short_messages_wait_for_it() {
    let mut protocol = greeted();
    assert!(protocol.try_eager(1, 8).is_none(), "the greeting goes first");
    let post = protocol.next_post(1).unwrap();
    assert_eq!((post.immediate, post.header().len()), (Kind::Hello.immediate(0), 48));
    assert_eq!(protocol.next_post(1), Some(post), "nothing has happened before it is posted");
    protocol.posted(1);
    assert_eq!(protocol.next_post(1), None);
    let immediate = protocol.try_eager(1, 8).map(|message| message.immediate());
    assert_eq!(immediate, Some(Kind::Eager.immediate(1)));
    assert!(protocol.try_eager(1, 101).is_none(), "too long");
}

#[test]
fn what_makes_no_sense_is_a_violation() {
    let ended = |request: u64| Ended { request, outcome: Outcome::Done, counter: 0 }.encode().to_vec();
    let ready = Ready { sender: 5, receiver: 5, memory: None, len_bytes: 3, counter: 0 }.encode().to_vec();
    let piece = Piece { receiver: 5, offset: 0 }.encode().to_vec();
    let hello = Hello { rank: 1, window_bytes: INITIAL_WINDOW_BYTES, job: JOB }.encode().to_vec();
    let mut too_much = vec![0; 8];
    too_much[0] = 1;
    for (kind, bytes, wanted) in [
        (Kind::Hello, hello, "twice"),
        (Kind::Read, ended(5), "not announced"),
        (Kind::Written, ended(5), "not this peer's"),
        (Kind::Ready, ready, "not announced"),
        (Kind::Piece, piece, "not this peer's"),
        (Kind::Credit, too_much, "received 1 bytes more"),
        (Kind::Credit, vec![0; 9], "too short or too long"),
        (Kind::Announce, vec![0; 47], "too short or too long"),
        (Kind::Eager, vec![0; 7], "too short or too long"),
        (Kind::Eager, vec![0; 40_000 + 8], ""),
    ] {
        let mut protocol = greeted();
        let start = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let outcome = protocol.arrived(1, kind.immediate(1), start, bytes.len());
        if wanted.is_empty() {
            assert!(outcome.is_ok(), "{kind:?}: {outcome:?}");
            // What the window had room for is used up.
            let outcome = protocol.arrived(1, kind.immediate(2), start, bytes.len());
            assert!(matches!(outcome, Err(Violation::Credit(_))), "{outcome:?}");
        } else {
            let violation = outcome.unwrap_err().to_string();
            assert!(violation.contains(wanted), "{kind:?}: {violation}");
        }
    }
    let mut protocol = greeted();
    assert_eq!(protocol.arrived(1, 0, &[0; 8], 8), Err(Violation::Kind(0)));
    let number = protocol.arrived(1, Kind::Credit.immediate(7), &[0; 8], 8);
    assert!(matches!(number, Err(Violation::Sequence(_))), "{number:?}");
    let mut protocol: Protocol<(), (), ()> =
        Protocol::new(Hello { rank: 0, window_bytes: INITIAL_WINDOW_BYTES, job: JOB }, 2);
    protocol.connected(1, PeerLimits { eager_bytes_max: 8, piece_bytes_max: 8, prefers_writing: false });
    let early = protocol.arrived(1, Kind::Credit.immediate(0), &[0; 8], 8);
    assert!(early.unwrap_err().to_string().contains("before its greeting"));
    let other = Hello { rank: 1, window_bytes: INITIAL_WINDOW_BYTES, job: JOB + 1 }.encode();
    let other = protocol.arrived(1, Kind::Hello.immediate(1), &other, 48);
    assert!(matches!(other, Err(Violation::OtherJob { .. })), "{other:?}");
}

/// Without room in the window a short message is announced, and comes when it is received.
#[test]
fn no_room_is_no_reason_to_wait() {
    let mut protocol = greeted();
    protocol.posted(1);
    let mut sent = 0;
    while let Some(message) = protocol.try_eager(1, 0) {
        message.posted();
        sent += 1;
    }
    assert_eq!(sent, INITIAL_WINDOW_BYTES / MESSAGE_OVERHEAD_BYTES);
    let send = protocol.send(1, 3, 2, None, b"ab".to_vec());
    let post = protocol.next_post(1).unwrap();
    assert_eq!(Kind::of_immediate(post.immediate), Some((Kind::Announce, sent + 1)));
    protocol.posted(1);
    assert_eq!(protocol.send_outcome(send), None);
    let ready = Ready { sender: send.to_wire(), receiver: 9, memory: None, len_bytes: 2, counter: 0 };
    assert_eq!(protocol.arrived(1, Kind::Ready.immediate(1), &ready.encode(), 48), Ok(Arrival::Nothing));
    let post = protocol.next_post(1).unwrap();
    assert_eq!(
        (Kind::of_immediate(post.immediate).unwrap().0, post.payload),
        (Kind::Piece, Some((send, 0, 2)))
    );
    protocol.posted(1);
    assert_eq!(protocol.send_outcome(send), Some(Ok(())));
    assert_eq!(protocol.take_send(send), Some((b"ab".to_vec(), Ok(()))));
    assert_eq!(protocol.take_send(send), None);
}

/// What nobody will receive is thrown away, whether it came before or comes after, and its sender does not wait.
#[test]
fn refused_messages_are_not_kept_and_end_at_their_senders() {
    let mut protocol = greeted();
    while protocol.next_post(1).is_some() {
        protocol.posted(1);
    }
    let mut number = 0;
    let mut come = |protocol: &mut Protocol<Vec<u8>, (), Vec<u8>>, tag: u64, sender: Option<u64>| {
        number += 1;
        match sender {
            None => protocol.arrived(1, Kind::Eager.immediate(number), &tag.to_le_bytes(), 8 + 2),
            Some(sender) => {
                let announce = Announce { tag, len_bytes: 1000, memory: None, sender, counter: 0 }.encode();
                protocol.arrived(1, Kind::Announce.immediate(number), &announce, 48)
            }
        }
        .unwrap()
    };
    let answers = |protocol: &mut Protocol<Vec<u8>, (), Vec<u8>>| {
        let mut answers = Vec::new();
        while let Some(post) = protocol.next_post(1) {
            assert_eq!(Kind::of_immediate(post.immediate).unwrap().0, Kind::Read);
            let ended = Ended::decode(post.header().first_chunk().unwrap()).unwrap();
            assert_eq!(ended.outcome, Outcome::Truncated);
            answers.push((ended.request, ended.counter));
            protocol.posted(1);
        }
        answers
    };
    let Arrival::Keep(envelope) = come(&mut protocol, 5, None) else { panic!("it is to be kept") };
    protocol.keep(envelope, 2, b"ab".to_vec());
    assert_eq!(come(&mut protocol, 5, Some(77)), Arrival::Nothing);
    assert_eq!(come(&mut protocol, 6, Some(78)), Arrival::Nothing);
    assert_eq!((protocol.counts().kept, answers(&mut protocol)), (3, vec![]));

    protocol.refuse(Pattern::any_source(5));
    assert_eq!(protocol.counts().kept, 1, "the one with another tag");
    assert_eq!(answers(&mut protocol), [(77, 2 + MESSAGE_OVERHEAD_BYTES)], "and its room is free again");
    assert_eq!(come(&mut protocol, 5, None), Arrival::Nothing);
    assert_eq!(come(&mut protocol, 5, Some(79)), Arrival::Nothing);
    assert_eq!(answers(&mut protocol), [(79, 2 * (2 + MESSAGE_OVERHEAD_BYTES))]);
    assert_eq!(protocol.counts().kept, 1);
    assert_eq!(protocol.probe(Pattern::anything()).map(|found| found.tag), Some(6));
    // One for which a receive waits arrives all the same.
    protocol.receive(Pattern::exact(1, 5), 10, ());
    assert!(matches!(come(&mut protocol, 5, None), Arrival::Deliver { .. }));
}

/// Whoever does not wait for anything more may be looked after by nobody.
#[test]
fn all_without_whom_something_does_not_end_are_awaited() {
    let mut protocol = greeted();
    let awaited = |protocol: &Protocol<Vec<u8>, (), Vec<u8>>| protocol.awaited_peers().collect::<Vec<_>>();
    while protocol.next_post(1).is_some() {
        protocol.posted(1);
    }
    assert_eq!(awaited(&protocol), []);
    let (posted, _) = protocol.receive(Pattern::exact(1, 7), 10, ());
    protocol.receive(Pattern::any_source(8), 1000, ());
    assert_eq!(awaited(&protocol), [1], "the source that a receive names");
    protocol.cancel(posted);
    assert_eq!(awaited(&protocol), []);
    let memory = Some(Memory { address: 1, key: 2 });
    let announce = Announce { tag: 8, len_bytes: 1000, memory, sender: 3, counter: 0 }.encode();
    protocol.arrived(1, Kind::Announce.immediate(1), &announce, 48).unwrap();
    let Some(Transfer::Read { receive, .. }) = protocol.next_transfer() else { panic!("it is read") };
    assert_eq!(awaited(&protocol), [1], "a receive that has found its message, of any source");
    protocol.read_ended(receive, true);
    assert_eq!(awaited(&protocol), []);
    let send = protocol.send(1, 3, 1000, None, vec![0; 1000]);
    assert_eq!(awaited(&protocol), [1], "a send that waits");
    while protocol.next_post(1).is_some() {
        protocol.posted(1);
    }
    assert_eq!(awaited(&protocol), [1], "a send that was announced");
    protocol.peer_lost(1);
    assert_eq!((awaited(&protocol), protocol.send_outcome(send).is_some()), (vec![], true));
}

/// What its sender wants back is forgotten if nobody has asked for it, and only then.
#[test]
fn a_message_is_taken_back() {
    let withdraw = |sender: u64| Withdraw { sender, counter: 0 }.encode();
    let mut protocol = greeted();
    while protocol.next_post(1).is_some() {
        protocol.posted(1);
    }
    let mut number = 0;
    let mut come = |protocol: &mut Protocol<Vec<u8>, (), Vec<u8>>, kind: Kind, bytes: &[u8]| {
        number += 1;
        assert_eq!(protocol.arrived(1, kind.immediate(number), bytes, bytes.len()), Ok(Arrival::Nothing));
    };
    let said = |protocol: &mut Protocol<Vec<u8>, (), Vec<u8>>| {
        let post = protocol.next_post(1)?;
        protocol.posted(1);
        let (kind, _) = Kind::of_immediate(post.immediate)?;
        Some((kind, u64::from_le_bytes(*post.header().first_chunk().unwrap())))
    };
    let memory = Some(Memory { address: 1, key: 2 });
    for sender in [5, 6] {
        let announce = Announce { tag: sender, len_bytes: 1000, memory, sender, counter: 0 }.encode();
        come(&mut protocol, Kind::Announce, &announce);
    }
    let (receive, _) = protocol.receive(Pattern::exact(1, 6), 1000, ());
    come(&mut protocol, Kind::Withdraw, &withdraw(5));
    assert_eq!((protocol.counts().kept, said(&mut protocol)), (0, Some((Kind::Read, 5))));
    // It is being read, and the answer says so when it has been.
    come(&mut protocol, Kind::Withdraw, &withdraw(6));
    assert_eq!((protocol.receive_outcome(receive), said(&mut protocol)), (None, None));
    protocol.read_ended(receive, true);
    assert_eq!(said(&mut protocol), Some((Kind::Read, 6)));
    // Such a message has not been there, or has gone.
    come(&mut protocol, Kind::Withdraw, &withdraw(5));
    assert_eq!(said(&mut protocol), None);

    // The sender's side: one of which nobody knows ends at once, one that was announced when the peer answers, and it is asked once.
    let hidden = protocol.send(1, 3, 1000, None, vec![0; 1000]);
    protocol.withdraw(hidden);
    assert_eq!((protocol.send_outcome(hidden), said(&mut protocol)), (Some(Ok(())), None));
    let announced = protocol.send(1, 3, 1000, None, vec![0; 1000]);
    assert_eq!(said(&mut protocol).map(|(kind, _)| kind), Some(Kind::Announce));
    protocol.withdraw(announced);
    protocol.withdraw(announced);
    assert_eq!(protocol.send_outcome(announced), None, "it may be read still");
    assert_eq!(said(&mut protocol), Some((Kind::Withdraw, announced.to_wire())));
    assert_eq!(said(&mut protocol), None);
    let ended = Ended { request: announced.to_wire(), outcome: Outcome::Truncated, counter: 0 }.encode();
    come(&mut protocol, Kind::Read, &ended);
    assert_eq!(protocol.send_outcome(announced), Some(Ok(())));
}

#[test]
fn a_lost_peer_ends_what_concerns_it() {
    let mut protocol = greeted();
    let send = protocol.send(1, 3, 2, None, b"ab".to_vec());
    let (exact, _) = protocol.receive(Pattern::exact(1, 0), 10, ());
    let (any, _) = protocol.receive(Pattern::anything(), 10, ());
    protocol.peer_lost(1);
    let lost = RequestError::PeerLost { rank: 1 };
    assert_eq!(protocol.send_outcome(send), Some(Err(lost)));
    assert_eq!(protocol.receive_outcome(exact), Some(Err(lost)));
    assert_eq!(protocol.receive_outcome(any), None, "others may send");
    let late = protocol.send(1, 3, 2, None, b"ab".to_vec());
    assert_eq!(protocol.send_outcome(late), Some(Err(lost)));
    let (late, _) = protocol.receive(Pattern::exact(1, 0), 10, ());
    assert_eq!(protocol.receive_outcome(late), Some(Err(lost)));
    assert_eq!(protocol.arrived(1, Kind::Credit.immediate(1), &[0; 8], 8), Ok(Arrival::Nothing));
    assert_eq!(protocol.cancel(any), Some(()));
    assert_eq!(protocol.receive_outcome(any), None);
}
