//! The protocol of rank 0 under two hostile peers, 1 and 2, beside an honest one, 3, and the process itself as a peer. A
//! program sends and receives in between. Who does not keep to the protocol is given up. At the end the hostile are, and then
//! every message between the honest has arrived, once and whole, and nothing is left of anything. What the hostile say and is taken
//! must be an answer to what they were told ([`Told`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ironband_core::protocol::matching::Pattern;
use ironband_core::protocol::{
    Arrival, Counts, Handle, INITIAL_WINDOW_BYTES, PeerLimits, Protocol, Received, RequestError, Transfer,
    Violation,
};
use ironband_core::wire::message::{
    Announce, Ended, HEADER_BYTES_MAX, Hello, Kind, Memory, Outcome, Piece, Ready, Withdraw,
};

use crate::input::Input;

const VICTIM: usize = 0;
const HONEST: usize = 3;
const JOB: u64 = 5;
/// Keys of memory of the honest; its address is a message's number to be read, and a receive to be written to.
const READ_KEY: u64 = 77;
const WRITE_KEY: u64 = 78;
/// The low bits of a tag are what a receive may ask for; the others are the number of the message.
const CLASS_BITS: u32 = 4;
const CLASS_MASK: u64 = (1 << CLASS_BITS) - 1;
const SEND_BYTES_MAX: usize = 300;
/// The program of a process has no more under way.
const REQUESTS_MAX: usize = 200;

type Process = Protocol<Vec<u8>, Vec<u8>, Vec<u8>>;
/// Immediate data, and the header with the data.
type Message = (u32, Vec<u8>);

struct Sent {
    from: usize,
    to: usize,
    tag: u64,
    len_bytes: usize,
    is_received: bool,
}

/// What a hostile peer has been told and may answer: all else must be refused.
#[derive(Default)]
struct Told {
    /// Sends that were announced to it: their lengths.
    announced: BTreeMap<u64, u64>,
    /// Receives that it may write to.
    written: BTreeSet<u64>,
    /// Receives that it may send pieces to: how much has come, and of how much.
    pieces: BTreeMap<u64, (u64, u64)>,
}

impl Told {
    fn note(&mut self, kind: Kind, header: &[u8]) {
        match kind {
            Kind::Announce => {
                let announce = Announce::decode(header.first_chunk().expect("whole"));
                self.announced.insert(announce.sender, announce.len_bytes);
            }
            Kind::Ready => {
                let ready = Ready::decode(header.first_chunk().expect("whole"));
                if ready.memory.is_some() {
                    self.written.insert(ready.receiver);
                } else {
                    self.pieces.insert(ready.receiver, (0, ready.len_bytes));
                }
            }
            _ => {}
        }
    }

    /// It has said this, and it was taken.
    fn check(&mut self, kind: Kind, bytes: &[u8], len_bytes: usize) {
        match kind {
            Kind::Read => {
                let ended = Ended::decode(bytes.first_chunk().expect("whole")).expect("it was taken");
                assert!(self.announced.remove(&ended.request).is_some(), "read, but not announced");
            }
            Kind::Ready => {
                let ready = Ready::decode(bytes.first_chunk().expect("whole"));
                assert_eq!(self.announced.remove(&ready.sender), Some(ready.len_bytes));
            }
            Kind::Written => {
                let ended = Ended::decode(bytes.first_chunk().expect("whole")).expect("it was taken");
                assert!(self.written.remove(&ended.request), "written, but not asked for");
            }
            Kind::Piece => {
                let piece = Piece::decode(bytes.first_chunk().expect("whole"));
                let (come, total) = self.pieces.remove(&piece.receiver).expect("it was asked for");
                let now = come + (len_bytes - kind.header_bytes()) as u64;
                assert!(piece.offset == come && now > come && now <= total, "{now} of {total}: {piece:?}");
                if now < total {
                    self.pieces.insert(piece.receiver, (now, total));
                }
            }
            _ => {}
        }
    }

    /// A request that it may speak of, and how much of it has come.
    fn request(&self, kind: Kind, which: usize) -> Option<(u64, u64)> {
        fn nth<T>(mut all: impl ExactSizeIterator<Item = T>, which: usize) -> Option<T> {
            all.nth(which % all.len().max(1))
        }
        match kind {
            Kind::Read | Kind::Ready => nth(self.announced.keys(), which).map(|request| (*request, 0)),
            Kind::Written => nth(self.written.iter(), which).map(|request| (*request, 0)),
            _ => nth(self.pieces.iter(), which).map(|(request, (come, _))| (*request, *come)),
        }
    }
}

struct World {
    /// Rank 0, and rank 3.
    processes: BTreeMap<usize, Process>,
    sends: BTreeMap<usize, Vec<Handle>>,
    receives: BTreeMap<usize, Vec<Handle>>,
    /// From rank 0 to itself, from 0 to 3, from 3 to 0.
    network: BTreeMap<(usize, usize), VecDeque<Message>>,
    sent: Vec<Sent>,
    /// The numbers of the hostile, and what they may say.
    numbers: [u32; 2],
    told: [Told; 2],
    /// Handles that the hostile have seen or guess.
    known: Vec<u64>,
    prefers_writing: [bool; 4],
}

/// The target.
pub fn protocol(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.byte());
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.finish();
}

fn hello(rank: usize) -> Hello {
    Hello { rank: rank as u32, window_bytes: INITIAL_WINDOW_BYTES, job: JOB }
}

fn data(number: u64, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (number as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

impl World {
    fn new(nature: u8) -> Self {
        let both = |rank| (rank, Protocol::new(hello(rank), 4));
        let mut world = Self {
            processes: [VICTIM, HONEST].map(both).into(),
            sends: [VICTIM, HONEST].map(|rank| (rank, Vec::new())).into(),
            receives: [VICTIM, HONEST].map(|rank| (rank, Vec::new())).into(),
            network: [(VICTIM, VICTIM), (VICTIM, HONEST), (HONEST, VICTIM)]
                .map(|pair| (pair, VecDeque::new()))
                .into(),
            sent: Vec::new(),
            numbers: [0; 2],
            told: Default::default(),
            known: vec![1 << 32, 1 << 32 | 1, u64::MAX],
            prefers_writing: [0, 1, 2, 3].map(|bit| nature >> bit & 1 == 1),
        };
        for peer in 0..4 {
            let limits = world.limits(peer);
            world.at(VICTIM).connected(peer as u32, limits);
        }
        let limits = world.limits(HONEST);
        world.at(HONEST).connected(VICTIM as u32, limits);
        for hostile in [1, 2] {
            // One may have to greet by itself.
            if nature >> 4 & hostile as u8 == 0 {
                world.say(hostile, Kind::Hello, &hello(hostile).encode(), 48);
            }
        }
        // Some under way, long and short, before anything happens.
        for (from, to, len_bytes) in [(VICTIM, HONEST, 200), (HONEST, VICTIM, 200), (HONEST, VICTIM, 9)] {
            world.send(from, to, len_bytes, 1, nature & 32 == 0);
        }
        world
    }

    fn limits(&self, peer: usize) -> PeerLimits {
        let prefers_writing = self.prefers_writing[peer];
        PeerLimits { eager_bytes_max: 40, piece_bytes_max: 16, prefers_writing }
    }

    fn at(&mut self, rank: usize) -> &mut Process {
        self.processes.get_mut(&rank).expect("one of the honest")
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let at = if input.byte() & 0x80 == 0 { VICTIM } else { HONEST };
        match input.below(12) {
            0 => self.say_anything(input),
            1..=3 => self.say_word(input),
            4 => {
                let to = if at == VICTIM { input.below(4) } else { VICTIM };
                let (len_bytes, flags) = (usize::from(input.byte()), input.byte());
                self.send(at, to, len_bytes.min(SEND_BYTES_MAX), u64::from(flags >> 4), flags & 1 == 1);
            }
            5 => {
                let pattern = some_pattern(input);
                self.receive(at, pattern, usize::from(input.byte()) * 2);
            }
            6 => self.cancel(at, input.below(REQUESTS_MAX)),
            7 => drop(self.post(at, input.below(4), true)),
            8 => {
                let from = if input.byte() & 1 == 0 { VICTIM } else { HONEST };
                self.deliver(from, at);
            }
            9 => drop(self.transfer(at, input.byte())),
            10 => self.probe(at, some_pattern(input)),
            _ => self.harvest(at),
        }
    }

    // ---- the programs -------------------------------------------------------------------------------------------------

    fn send(&mut self, from: usize, to: usize, len_bytes: usize, class: u64, is_registered: bool) {
        if self.sends[&from].len() >= REQUESTS_MAX {
            return;
        }
        let number = self.sent.len() as u64;
        let tag = class & CLASS_MASK | number << CLASS_BITS;
        let body = data(number, len_bytes);
        self.sent.push(Sent { from, to, tag, len_bytes, is_received: false });
        if is_registered && let Some(message) = self.at(from).try_eager(to as u32, len_bytes) {
            let immediate = message.immediate();
            message.posted();
            self.carry(from, to, immediate, [tag.to_le_bytes().to_vec(), body].concat());
            return;
        }
        let memory = is_registered.then_some(Memory { address: number, key: READ_KEY });
        let handle = self.at(from).send(to as u32, tag, len_bytes as u64, memory, body);
        self.sends.get_mut(&from).expect("honest").push(handle);
        self.know(handle);
    }

    fn receive(&mut self, at: usize, pattern: Pattern, capacity: usize) {
        if self.receives[&at].len() >= REQUESTS_MAX {
            return;
        }
        let (handle, found) = self.at(at).receive(pattern, capacity as u64, vec![0; capacity]);
        if let Some(found) = found {
            let body = self.at(at).receive_body(handle).expect("just posted");
            body[..found.len_bytes].copy_from_slice(&found.data[..found.len_bytes]);
        }
        self.receives.get_mut(&at).expect("honest").push(handle);
        self.know(handle);
    }

    fn cancel(&mut self, at: usize, which: usize) {
        let Some(&handle) = self.receives[&at].get(which) else { return };
        if self.at(at).cancel(handle).is_some() {
            self.receives.get_mut(&at).expect("honest").remove(which);
        }
    }

    fn probe(&mut self, at: usize, pattern: Pattern) {
        if let Some(found) = self.at(at).probe(pattern) {
            assert!(pattern.source.is_none_or(|source| source == found.source));
            assert_eq!((found.tag ^ pattern.tag) & pattern.mask, 0);
        }
    }

    /// Looks at all requests; those that have ended are checked and forgotten.
    fn harvest(&mut self, at: usize) {
        let process = self.processes.get_mut(&at).expect("honest");
        let is_lost = |process: &Process, rank: u32| process.is_lost(rank);
        self.sends.get_mut(&at).expect("honest").retain(|handle| match process.take_send(*handle) {
            None => true,
            Some((_, Ok(()))) => false,
            Some((_, Err(RequestError::PeerLost { rank }))) => {
                assert!(is_lost(process, rank));
                false
            }
            // Only of those whose transfers fail.
            Some((_, Err(RequestError::NotMoved { rank }))) => {
                assert!(rank == 1 || rank == 2);
                false
            }
            Some((_, Err(error))) => panic!("a send: {error}"),
        });
        let mut ended = Vec::new();
        self.receives.get_mut(&at).expect("honest").retain(|handle| match process.take_receive(*handle) {
            None => true,
            Some(end) => {
                ended.push(end);
                false
            }
        });
        for (buffer, outcome) in ended {
            let capacity_bytes = buffer.len() as u64;
            let (source, tag, len_bytes) = match outcome {
                Ok(Received { source, tag, len_bytes }) => {
                    assert!(len_bytes <= capacity_bytes);
                    (source as usize, tag, len_bytes)
                }
                Err(RequestError::Truncated { source_rank, tag, len_bytes, capacity_bytes: capacity }) => {
                    assert!(len_bytes > capacity && capacity == capacity_bytes);
                    (source_rank as usize, tag, len_bytes)
                }
                Err(RequestError::PeerLost { rank }) => {
                    assert!(self.at(at).is_lost(rank));
                    continue;
                }
                Err(RequestError::NotMoved { rank }) => {
                    assert!(rank == 1 || rank == 2);
                    continue;
                }
            };
            if source == 1 || source == 2 {
                continue;
            }
            let number = tag >> CLASS_BITS;
            let sent = &mut self.sent[number as usize];
            assert_eq!((sent.from, sent.to, sent.tag, sent.len_bytes as u64), (source, at, tag, len_bytes));
            assert!(!std::mem::replace(&mut sent.is_received, true), "received twice");
            if outcome.is_ok() {
                assert_eq!(buffer[..sent.len_bytes], data(number, sent.len_bytes));
            }
        }
    }

    // ---- the network --------------------------------------------------------------------------------------------------

    fn carry(&mut self, from: usize, to: usize, immediate: u32, bytes: Vec<u8>) {
        if let Some(messages) = self.network.get_mut(&(from, to)) {
            messages.push_back((immediate, bytes));
        }
    }

    /// One message to a peer, unless the fabric takes none.
    fn post(&mut self, from: usize, to: usize, is_taken: bool) -> bool {
        if from == HONEST && to != VICTIM {
            return false;
        }
        let Some(post) = self.at(from).next_post(to as u32) else { return false };
        let mut bytes = post.header().to_vec();
        if let Some((send, offset, len_bytes)) = post.payload {
            let body = self.at(from).send_body(send).expect("a send that is posted is not forgotten");
            bytes.extend_from_slice(&body[offset as usize..][..len_bytes]);
        }
        if is_taken {
            self.at(from).posted(to as u32);
            if to == 1 || to == 2 {
                let (kind, _) = Kind::of_immediate(post.immediate).expect("our own");
                self.told[to - 1].note(kind, post.header());
            }
            self.carry(from, to, post.immediate, bytes);
        }
        true
    }

    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(messages) = self.network.get_mut(&(from, to)) else { return false };
        let Some((immediate, bytes)) = messages.pop_front() else { return false };
        let start = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let (kind, _) = Kind::of_immediate(immediate).expect("an honest peer");
        let process = self.at(to);
        let arrival = process.arrived(from as u32, immediate, start, bytes.len()).expect("an honest peer");
        handle(process, arrival, &bytes[kind.header_bytes()..]);
        true
    }

    fn transfer(&mut self, at: usize, how: u8) -> bool {
        let Some(transfer) = self.at(at).next_transfer() else { return false };
        let is_hostile = |peer: u32| peer == 1 || peer == 2;
        let fails = how & 3 == 0;
        match transfer {
            Transfer::Read { receive, peer, memory, len_bytes } => {
                let body = self.at(at).receive_body(receive).expect("kept until the read has ended");
                assert!(len_bytes <= body.len() as u64);
                if how & 4 == 4 {
                    self.at(at).read_impossible(receive);
                } else if is_hostile(peer) {
                    self.at(at).read_ended(receive, !fails);
                } else {
                    let read = data(memory.address, len_bytes as usize);
                    body[..read.len()].copy_from_slice(&read);
                    assert_eq!(memory.key, READ_KEY);
                    self.at(at).read_ended(receive, true);
                }
            }
            Transfer::Expose { receive, len_bytes, .. } => {
                let body = self.at(at).receive_body(receive).expect("kept until it is written to");
                assert!(len_bytes <= body.len() as u64);
                let memory = Memory { address: receive.to_wire(), key: WRITE_KEY };
                self.at(at).exposed(receive, (how & 4 == 0).then_some(memory));
            }
            Transfer::Write { send, peer, memory, len_bytes } => {
                let body = self.at(at).send_body(send).expect("kept until the write has ended").clone();
                assert_eq!(body.len() as u64, len_bytes);
                if is_hostile(peer) {
                    self.at(at).write_ended(send, !fails);
                } else {
                    assert_eq!(memory.key, WRITE_KEY);
                    let target = self.at(peer as usize);
                    let buffer = target
                        .receive_body(Handle::from_wire(memory.address))
                        .expect("it is written to until it was written");
                    buffer[..body.len()].copy_from_slice(&body);
                    self.at(at).write_ended(send, true);
                }
            }
        }
        true
    }

    // ---- the hostile --------------------------------------------------------------------------------------------------

    fn know(&mut self, handle: Handle) {
        self.known.push(handle.to_wire());
    }

    /// One of them says something with the right number; it is given up when that makes no sense.
    fn say(&mut self, hostile: usize, kind: Kind, bytes: &[u8], len_bytes: usize) {
        let number = &mut self.numbers[hostile - 1];
        let immediate = kind.immediate(*number);
        *number = (*number + 1) & 0x0fff_ffff;
        self.say_raw(hostile, immediate, bytes, len_bytes);
    }

    fn say_raw(&mut self, hostile: usize, immediate: u32, bytes: &[u8], len_bytes: usize) {
        let start = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let limits = self.limits(hostile);
        let process = self.processes.get_mut(&VICTIM).expect("one of the honest");
        let was_lost = process.is_lost(hostile as u32);
        // As for every message of somebody who may be new.
        process.connected(hostile as u32, limits);
        match process.arrived(hostile as u32, immediate, start, len_bytes) {
            Ok(arrival) => {
                let (kind, _) = Kind::of_immediate(immediate).expect("it was taken");
                if was_lost {
                    assert_eq!(arrival, Arrival::Nothing, "it does not come back");
                } else {
                    self.told[hostile - 1].check(kind, bytes, len_bytes);
                }
                let mut payload = bytes[kind.header_bytes().min(bytes.len())..].to_vec();
                payload.resize(len_bytes.saturating_sub(kind.header_bytes()), 0xee);
                handle(process, arrival, &payload);
            }
            Err(violation) => {
                // Of a lost peer nothing is looked at but the kind.
                assert!(!was_lost || matches!(violation, Violation::Kind(_)), "{violation}");
                process.peer_lost(hostile as u32);
                self.harvest(VICTIM);
            }
        }
    }

    fn say_anything(&mut self, input: &mut Input<'_>) {
        let hostile = 1 + input.below(2);
        let (immediate, length) = (input.u64(), usize::from(input.byte()));
        let bytes = input.take(length);
        if immediate >> 63 == 0
            && let Some((kind, _)) = Kind::of_immediate(immediate as u32)
        {
            self.say(hostile, kind, bytes, bytes.len());
        } else {
            self.say_raw(hostile, immediate as u32, bytes, bytes.len());
        }
    }

    /// Something that is nearly right.
    fn say_word(&mut self, input: &mut Input<'_>) {
        let hostile = 1 + input.below(2);
        let (which, choice, number) = (input.byte(), input.byte(), input.byte());
        let (request, come) = self.some_request(hostile, choice >> 3 & 7, which);
        let memory = (choice & 1 == 1).then_some(Memory { address: u64::from(number), key: READ_KEY });
        let len_bytes = match choice >> 1 & 3 {
            0 => input.u64(),
            _ => number.into(),
        };
        let counter = if choice & 0x80 == 0 { 0 } else { u32::from(input.byte()) * 256 };
        let outcome = [Outcome::Done, Outcome::Truncated, Outcome::Failed][usize::from(number) % 3];
        match choice >> 3 & 7 {
            0 if choice & 0x40 != 0 => {
                self.say(hostile, Kind::Withdraw, &Withdraw { sender: request, counter }.encode(), 16);
            }
            0 => {
                let tag = u64::from(number);
                let announce = Announce { tag, len_bytes, memory, sender: request, counter };
                self.say(hostile, Kind::Announce, &announce.encode(), 48);
            }
            1 => {
                self.say(hostile, Kind::Read, &Ended { request, outcome, counter }.encode(), 16);
            }
            2 => {
                self.say(hostile, Kind::Written, &Ended { request, outcome, counter }.encode(), 16);
            }
            3 => {
                // Of the right length, if there is one.
                let send = Handle::from_wire(request);
                let right = self.at(VICTIM).send_body(send).map_or(len_bytes, |body| body.len() as u64);
                let len_bytes = if choice & 0x40 == 0 { right } else { len_bytes };
                let ready = Ready { sender: request, receiver: 7, memory, len_bytes, counter };
                self.say(hostile, Kind::Ready, &ready.encode(), 48);
            }
            4 | 5 => {
                let offset = if choice & 2 == 0 { come } else { len_bytes };
                let piece = Piece { receiver: request, offset }.encode();
                let data_bytes = input.take(usize::from(number));
                self.say(hostile, Kind::Piece, &[&piece, data_bytes].concat(), 16 + data_bytes.len());
            }
            6 => {
                let mut bytes = u64::from(number & 3).to_le_bytes().to_vec();
                bytes.extend_from_slice(input.take(usize::from(number)));
                // Some are longer than what is shown of them.
                let claimed = bytes.len() + if choice & 0x40 == 0 { 0 } else { 40_000 };
                bytes.resize(claimed, 0xdd);
                self.say(hostile, Kind::Eager, &bytes, claimed);
            }
            _ => {
                let kind = if choice & 0x40 == 0 { Kind::Credit } else { Kind::Active };
                self.say(hostile, kind, &u64::from(counter).to_le_bytes(), 8);
            }
        }
    }

    /// A request that the word may be of, or, as the newest handles are the likeliest to be of use, one of these.
    fn some_request(&self, hostile: usize, word: u8, which: u8) -> (u64, u64) {
        let kind = match word {
            1 => Kind::Read,
            2 => Kind::Written,
            3 => Kind::Ready,
            _ => Kind::Piece,
        };
        let right = self.told[hostile - 1].request(kind, usize::from(which >> 1));
        let back = usize::from(which >> 1 & 15).min(self.known.len() - 1);
        right.filter(|_| which & 1 == 0).unwrap_or((self.known[self.known.len() - 1 - back], 0))
    }

    // ---- the end ------------------------------------------------------------------------------------------------------

    /// Until nothing moves any more.
    fn settle(&mut self) {
        let mut moves = true;
        while moves {
            moves = false;
            for (from, to) in [(VICTIM, VICTIM), (VICTIM, HONEST), (HONEST, VICTIM)] {
                moves |= self.post(from, to, true) | self.deliver(from, to) | self.transfer(from, 1);
            }
            self.harvest(VICTIM);
            self.harvest(HONEST);
        }
    }

    fn finish(mut self) {
        for hostile in [1, 2] {
            self.at(VICTIM).peer_lost(hostile);
        }
        // Before any transfer has ended.
        self.harvest(VICTIM);
        self.settle();
        for at in [VICTIM, HONEST] {
            for which in (0..self.receives[&at].len()).rev() {
                self.cancel(at, which);
            }
        }
        // What is kept is received; that makes room for more, which had been held up by nothing but the network.
        loop {
            self.settle();
            let kept = [VICTIM, HONEST].map(|at| self.at(at).counts().kept);
            if kept == [0, 0] {
                break;
            }
            for (at, count) in [VICTIM, HONEST].into_iter().zip(kept) {
                for _ in 0..count.min(REQUESTS_MAX) {
                    let everything = Pattern { source: None, tag: 0, mask: 0 };
                    self.receive(at, everything, SEND_BYTES_MAX);
                }
            }
        }
        for at in [VICTIM, HONEST] {
            assert!(self.sends[&at].is_empty() && self.receives[&at].is_empty(), "rank {at} waits for ever");
            assert_eq!(self.at(at).counts(), Counts { sends: 0, receives: 0, kept: 0 }, "rank {at}");
        }
        for (number, sent) in self.sent.iter().enumerate() {
            let is_honest = sent.to == VICTIM || sent.to == HONEST;
            assert_eq!(sent.is_received, is_honest, "message {number}");
        }
    }
}

/// Does what a message that has arrived asks for.
fn handle(process: &mut Process, arrival: Arrival, payload: &[u8]) {
    match arrival {
        Arrival::Nothing | Arrival::Active { .. } | Arrival::Farewell => {}
        Arrival::Deliver { receive, offset, len_bytes } => {
            let body = process.receive_body(receive).expect("it is delivered to");
            body[offset as usize..][..len_bytes].copy_from_slice(&payload[..len_bytes]);
        }
        Arrival::Keep(envelope) => process.keep(envelope, payload.len(), payload.to_vec()),
    }
}

fn some_pattern(input: &mut Input<'_>) -> Pattern {
    let choice = input.byte();
    let (source, tag) = (u32::from(choice & 3), u64::from(choice >> 2 & 3));
    match choice >> 4 & 3 {
        0 => Pattern::anything(),
        1 => Pattern { source: None, tag, mask: CLASS_MASK },
        2 => Pattern::any_tag(source),
        _ => Pattern { source: Some(source), tag, mask: CLASS_MASK },
    }
}
