//! A peer that says anything at any time. Rank 0 is under attack by rank 1, which no program runs: a test speaks for it. Ranks 2
//! and 3 are honest, and have messages of every kind half way to and from rank 0; whatever rank 1 does, these must come to their end.

use super::credit::{CreditError, MESSAGE_OVERHEAD_BYTES};
use super::machine::{Arrival, Counts, Protocol, ReceiveStage, Received, RequestError, SendStage, Transfer};
use super::matching::{Envelope, Pattern};
use super::peer::{ANNOUNCED_MAX, INITIAL_WINDOW_BYTES, PeerLimits};
use super::requests::Handle;
use super::violation::Violation;
use crate::wire::message::{Announce, Ended, HEADER_BYTES_MAX, Hello, Kind, Memory, Outcome, Piece, Ready};

const JOB: u64 = 5;
const VICTIM: usize = 0;
const HOSTILE: usize = 1;
/// This one's long messages are read, and the other one's written.
const READS: usize = 2;
const WRITES: usize = 3;
/// All messages under way are so long.
const LEN_BYTES: usize = 100;
const PIECE_BYTES: usize = 16;
const MEMORY: Memory = Memory { address: 1 << 40, key: 3 };

type Process = Protocol<Vec<u8>, Vec<u8>, Vec<u8>>;

fn hello(rank: usize) -> Hello {
    Hello { rank: rank as u32, window_bytes: INITIAL_WINDOW_BYTES, job: JOB }
}

fn limits(prefers_writing: bool) -> PeerLimits {
    PeerLimits { eager_bytes_max: 40, piece_bytes_max: PIECE_BYTES as u32, prefers_writing }
}

fn data(tag: u64) -> Vec<u8> {
    (0..LEN_BYTES).map(|at| (at as u8) ^ (tag as u8).wrapping_mul(37)).collect()
}

/// A message between honest processes.
struct Message {
    from: usize,
    to: usize,
    tag: u64,
    send: Handle,
    receive: Option<Handle>,
}

struct Scene {
    processes: Vec<Process>,
    messages: Vec<Message>,
    /// The next of rank 1.
    number: u32,
}

impl Scene {
    /// All have greeted; honest messages are at every point they can be at.
    fn new(hostile_is_written_to: bool) -> Self {
        let processes = (0..4).map(|rank| Protocol::new(hello(rank), 4)).collect();
        let mut scene = Self { processes, messages: Vec::new(), number: 0 };
        scene.processes[VICTIM].connected(HOSTILE as u32, limits(hostile_is_written_to));
        scene.say(Kind::Hello, &hello(HOSTILE).encode(), 48).unwrap();
        scene.hear();
        for friend in [READS, WRITES] {
            scene.processes[VICTIM].connected(friend as u32, limits(friend == WRITES));
            scene.processes[friend].connected(VICTIM as u32, limits(friend == WRITES));
            scene.carry_all(friend);
            for (from, to) in [(VICTIM, friend), (friend, VICTIM)] {
                // In pieces, the first of which has come.
                scene.send(from, to, false);
                scene.receive_last();
                // To be read, or written: the transfer waits.
                scene.send(from, to, true);
                scene.receive_last();
            }
            scene.carry_all(friend);
            scene.start_exposures();
            scene.carry_all(friend);
            // Announced, and not received yet; not announced yet.
            scene.send(VICTIM, friend, true);
            scene.carry_all(friend);
            scene.send(VICTIM, friend, false);
        }
        scene
    }

    fn send(&mut self, from: usize, to: usize, is_registered: bool) {
        let tag = 1000 + self.messages.len() as u64;
        let memory = is_registered.then_some(Memory { address: tag, key: 9 });
        let send = self.processes[from].send(to as u32, tag, LEN_BYTES as u64, memory, data(tag));
        self.messages.push(Message { from, to, tag, send, receive: None });
    }

    fn receive_last(&mut self) {
        self.receive(self.messages.len() - 1);
    }

    fn receive(&mut self, which: usize) {
        let Message { from, to, tag, .. } = self.messages[which];
        // By name, or of any source.
        let pattern =
            if which.is_multiple_of(2) { Pattern::exact(from as u32, tag) } else { Pattern::any_source(tag) };
        let (receive, found) = self.processes[to].receive(pattern, LEN_BYTES as u64, vec![0; LEN_BYTES]);
        assert_eq!(found, None);
        self.messages[which].receive = Some(receive);
    }

    /// One message from one honest process to another.
    fn carry(&mut self, from: usize, to: usize) -> bool {
        let Some(post) = self.processes[from].next_post(to as u32) else { return false };
        let mut bytes = post.header().to_vec();
        if let Some((send, offset, len_bytes)) = post.payload {
            let body = self.processes[from].send_body(send).unwrap();
            bytes.extend_from_slice(&body[offset as usize..][..len_bytes]);
        }
        self.processes[from].posted(to as u32);
        let target = &mut self.processes[to];
        let start = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let payload = &bytes[post.header().len()..];
        match target.arrived(from as u32, post.immediate, start, bytes.len()).unwrap() {
            Arrival::Nothing => {}
            Arrival::Deliver { receive, offset, len_bytes } => {
                target.receive_body(receive).unwrap()[offset as usize..][..len_bytes]
                    .copy_from_slice(&payload[..len_bytes]);
            }
            Arrival::Keep(envelope) => target.keep(envelope, payload.len(), payload.to_vec()),
            Arrival::Active { .. } | Arrival::Farewell => panic!("nobody sends these"),
        }
        true
    }

    /// Everything but pieces behind the first of a message.
    fn carry_all(&mut self, friend: usize) {
        for (from, to) in [(VICTIM, friend), (friend, VICTIM)].repeat(3) {
            let count = self.processes[from].peer(to as u32).unwrap().outbox.len();
            for _ in 0..count {
                let post = self.processes[from].next_post(to as u32).unwrap();
                if post.payload.is_some_and(|(_, offset, _)| offset > 0) {
                    self.processes[from].peer(to as u32).unwrap().outbox.rotate_left(1);
                } else {
                    self.carry(from, to);
                }
            }
        }
    }

    /// Buffers that honest peers write to are registered; reads and writes are left to wait.
    fn start_exposures(&mut self) {
        for process in &mut self.processes {
            let mut waiting: Vec<Transfer> = std::iter::from_fn(|| process.next_transfer()).collect();
            waiting.retain(|transfer| match transfer {
                Transfer::Expose { receive, .. } => {
                    let memory = Memory { address: receive.to_wire(), key: 8 };
                    process.exposed(*receive, Some(memory));
                    false
                }
                _ => true,
            });
            process.transfers.extend(waiting);
        }
    }

    /// Whatever is under way at one process. What concerns rank 1 is in vain.
    fn transfer(&mut self, at: usize) -> bool {
        let Some(transfer) = self.processes[at].next_transfer() else { return false };
        match transfer {
            Transfer::Read { receive, peer, memory, .. } => {
                let is_done = peer as usize != HOSTILE;
                if is_done {
                    let body = data(memory.address);
                    self.processes[at].receive_body(receive).unwrap().copy_from_slice(&body);
                }
                self.processes[at].read_ended(receive, is_done);
            }
            Transfer::Expose { receive, .. } => {
                self.processes[at].exposed(receive, Some(Memory { address: receive.to_wire(), key: 8 }));
            }
            Transfer::Write { send, peer, memory, .. } => {
                let is_done = peer as usize != HOSTILE;
                if is_done {
                    let body = self.processes[at].send_body(send).unwrap().clone();
                    let receive = Handle::from_wire(memory.address);
                    self.processes[peer as usize].receive_body(receive).unwrap().copy_from_slice(&body);
                }
                self.processes[at].write_ended(send, is_done);
            }
        }
        true
    }

    /// What rank 1 says; `len_bytes` is what the fabric says of its length.
    fn say(&mut self, kind: Kind, start: &[u8], len_bytes: usize) -> Result<Arrival, Violation> {
        let immediate = kind.immediate(self.number);
        self.number += 1;
        self.processes[VICTIM].arrived(HOSTILE as u32, immediate, start, len_bytes)
    }

    fn say_word(&mut self, word: Word) -> Result<Arrival, Violation> {
        let (kind, bytes) = word.encode();
        let len_bytes = bytes.len();
        self.say(kind, &bytes[..len_bytes.min(HEADER_BYTES_MAX)], len_bytes)
    }

    /// All that rank 1 is sent.
    fn hear(&mut self) {
        while self.hear_one() {}
    }

    fn hear_one(&mut self) -> bool {
        let is_there = self.processes[VICTIM].next_post(HOSTILE as u32).is_some();
        self.processes[VICTIM].posted(HOSTILE as u32);
        is_there
    }

    /// Rank 1 is given up; all others' messages arrive.
    fn finish(mut self, case: &str) {
        self.processes[VICTIM].peer_lost(HOSTILE as u32);
        for which in 0..self.messages.len() {
            if self.messages[which].receive.is_none() {
                self.receive(which);
            }
        }
        let pairs = [(VICTIM, READS), (READS, VICTIM), (VICTIM, WRITES), (WRITES, VICTIM)];
        let mut moves = true;
        while moves {
            moves = false;
            for (from, to) in pairs {
                moves |= self.transfer(from) | self.carry(from, to);
            }
        }
        for Message { from, to, tag, send, receive } in self.messages {
            let sent = self.processes[from].take_send(send);
            assert_eq!(sent, Some((data(tag), Ok(()))), "{case}: {from} -> {to}, sending");
            let received = Received { source: from as u32, tag, len_bytes: LEN_BYTES as u64 };
            let got = self.processes[to].take_receive(receive.unwrap());
            assert_eq!(got, Some((data(tag), Ok(received))), "{case}: {from} -> {to}, receiving");
        }
        // What there was with rank 1 has ended, too.
        let victim = &mut self.processes[VICTIM];
        let with_hostile: Vec<Handle> = victim.sends.iter_mut().map(|(handle, _)| handle).collect();
        for handle in with_hostile {
            assert!(victim.take_send(handle).is_some(), "{case}: a send waits for a peer that is lost");
        }
        let with_hostile: Vec<Handle> = victim.receives.iter_mut().map(|(handle, _)| handle).collect();
        for handle in with_hostile {
            assert!(victim.take_receive(handle).is_some(), "{case}: a receive waits for a peer that is lost");
        }
        assert_eq!(victim.counts(), Counts { sends: 0, receives: 0, kept: 0 }, "{case}");
    }
}

/// What a peer can say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Read(Handle, Outcome),
    Written(Handle, Outcome),
    Ready { sender: Handle, has_memory: bool, len_bytes: u64 },
    Piece { receiver: Handle, offset: u64, len_bytes: usize },
}

impl Word {
    fn encode(self) -> (Kind, Vec<u8>) {
        match self {
            Self::Read(handle, outcome) => {
                (Kind::Read, Ended { request: handle.to_wire(), outcome, counter: 0 }.encode().to_vec())
            }
            Self::Written(handle, outcome) => {
                (Kind::Written, Ended { request: handle.to_wire(), outcome, counter: 0 }.encode().to_vec())
            }
            Self::Ready { sender, has_memory, len_bytes } => {
                let memory = has_memory.then_some(MEMORY);
                let ready = Ready { sender: sender.to_wire(), receiver: 7, memory, len_bytes, counter: 0 };
                (Kind::Ready, ready.encode().to_vec())
            }
            Self::Piece { receiver, offset, len_bytes } => {
                let mut bytes = Piece { receiver: receiver.to_wire(), offset }.encode().to_vec();
                bytes.resize(bytes.len() + len_bytes, 0xee);
                (Kind::Piece, bytes)
            }
        }
    }

    /// All of them, of one request, with what is right at some point and what is nearly so.
    fn all(handle: Handle) -> Vec<Self> {
        let mut all = Vec::new();
        for outcome in [Outcome::Done, Outcome::Truncated, Outcome::Failed] {
            all.push(Self::Read(handle, outcome));
            all.push(Self::Written(handle, outcome));
        }
        for len_bytes in [0, 99, 100, 101, u64::MAX - 1, u64::MAX] {
            for has_memory in [false, true] {
                all.push(Self::Ready { sender: handle, has_memory, len_bytes });
            }
        }
        for offset in [0, 15, 16, 17, 84, 100, u64::MAX - 15, u64::MAX] {
            for len_bytes in [0, 1, 16, 84, 85, 100] {
                all.push(Self::Piece { receiver: handle, offset, len_bytes });
            }
        }
        all
    }
}

/// How far a message to or from rank 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    SendWaits,
    SendAnnounced,
    SendAnnouncedUnregistered,
    SendWriting,
    SendInPieces,
    SendDone,
    /// Another send has its place, and is announced.
    SendTaken,
    ReceivePosted,
    ReceiveReading,
    ReceiveExposing,
    /// Rank 1 has not been told yet where to write.
    ReceiveBeforeWrite,
    ReceiveAwaitsWrite,
    ReceiveBeforePieces,
    /// The first has come.
    ReceiveAwaitsPieces,
    ReceiveDone,
    /// Another receive has its place, and waits for pieces.
    ReceiveCancelled,
}

impl Point {
    const ALL: [Self; 16] = [
        Self::SendWaits,
        Self::SendAnnounced,
        Self::SendAnnouncedUnregistered,
        Self::SendWriting,
        Self::SendInPieces,
        Self::SendDone,
        Self::SendTaken,
        Self::ReceivePosted,
        Self::ReceiveReading,
        Self::ReceiveExposing,
        Self::ReceiveBeforeWrite,
        Self::ReceiveAwaitsWrite,
        Self::ReceiveBeforePieces,
        Self::ReceiveAwaitsPieces,
        Self::ReceiveDone,
        Self::ReceiveCancelled,
    ];

    /// A scene in which a message is so far, and its request.
    fn scene(self) -> (Scene, Handle) {
        let is_written =
            matches!(self, Self::ReceiveExposing | Self::ReceiveBeforeWrite | Self::ReceiveAwaitsWrite);
        let mut scene = Scene::new(is_written);
        let handle = if (self as u32) < Self::ReceivePosted as u32 {
            self.send(&mut scene)
        } else {
            self.receive(&mut scene)
        };
        (scene, handle)
    }

    fn send(self, scene: &mut Scene) -> Handle {
        let memory =
            (!matches!(self, Self::SendAnnouncedUnregistered | Self::SendInPieces)).then_some(MEMORY);
        let send = |scene: &mut Scene| {
            scene.processes[VICTIM].send(HOSTILE as u32, 1, LEN_BYTES as u64, memory, data(1))
        };
        let handle = send(scene);
        if self != Self::SendWaits {
            scene.hear();
        }
        let len_bytes = LEN_BYTES as u64;
        match self {
            Self::SendWriting | Self::SendInPieces => {
                let ready = Word::Ready { sender: handle, has_memory: memory.is_some(), len_bytes };
                assert_eq!(scene.say_word(ready), Ok(Arrival::Nothing));
                assert_eq!(scene.hear_one(), self == Self::SendInPieces);
            }
            Self::SendDone | Self::SendTaken => {
                assert_eq!(scene.say_word(Word::Read(handle, Outcome::Done)), Ok(Arrival::Nothing));
            }
            _ => {}
        }
        if self == Self::SendTaken {
            assert_eq!(scene.processes[VICTIM].take_send(handle), Some((data(1), Ok(()))));
            let next = send(scene);
            scene.hear();
            assert_eq!((next.index(), next == handle), (handle.index(), false));
        }
        handle
    }

    fn receive(self, scene: &mut Scene) -> Handle {
        let post = |scene: &mut Scene| {
            let pattern = Pattern::exact(HOSTILE as u32, 1);
            let body = vec![0; LEN_BYTES];
            scene.processes[VICTIM].receive(pattern, LEN_BYTES as u64, body).0
        };
        let mut handle = post(scene);
        if self == Self::ReceiveCancelled {
            assert!(scene.processes[VICTIM].cancel(handle).is_some());
            let next = post(scene);
            assert_eq!((next.index(), next == handle), (handle.index(), false));
        }
        if self == Self::ReceivePosted {
            return handle;
        }
        let in_pieces = matches!(
            self,
            Self::ReceiveBeforePieces
                | Self::ReceiveAwaitsPieces
                | Self::ReceiveDone
                | Self::ReceiveCancelled
        );
        let memory = (!in_pieces).then_some(MEMORY);
        let announce = Announce { tag: 1, len_bytes: LEN_BYTES as u64, memory, sender: 5, counter: 0 };
        assert_eq!(scene.say(Kind::Announce, &announce.encode(), 48), Ok(Arrival::Nothing));
        if matches!(self, Self::ReceiveBeforeWrite | Self::ReceiveAwaitsWrite) {
            // Others' transfers come before; they stay.
            handle = match scene.processes[VICTIM].transfers.pop_back() {
                Some(Transfer::Expose { receive, .. }) => receive,
                other => panic!("{other:?}"),
            };
            scene.processes[VICTIM].exposed(handle, Some(MEMORY));
        }
        if !matches!(self, Self::ReceiveBeforeWrite | Self::ReceiveBeforePieces) {
            scene.hear();
        }
        if matches!(self, Self::ReceiveAwaitsPieces | Self::ReceiveDone) {
            let len_bytes = if self == Self::ReceiveDone { LEN_BYTES } else { PIECE_BYTES };
            let piece = Word::Piece { receiver: handle, offset: 0, len_bytes };
            assert_eq!(scene.say_word(piece), Ok(Arrival::Deliver { receive: handle, offset: 0, len_bytes }));
        }
        handle
    }

    /// What an honest peer may say at this point.
    fn allows(self, word: Word) -> bool {
        match (self, word) {
            (Self::SendAnnounced, Word::Read(..)) => true,
            (Self::SendAnnounced, Word::Ready { len_bytes, .. }) => len_bytes == LEN_BYTES as u64,
            (Self::SendAnnouncedUnregistered, Word::Read(_, outcome)) => outcome == Outcome::Truncated,
            (Self::SendAnnouncedUnregistered, Word::Ready { has_memory, len_bytes, .. }) => {
                len_bytes == LEN_BYTES as u64 && !has_memory
            }
            (Self::ReceiveAwaitsWrite, Word::Written(..)) => true,
            (Self::ReceiveAwaitsPieces, Word::Piece { offset, len_bytes, .. }) => {
                offset == PIECE_BYTES as u64 && (1..=LEN_BYTES - PIECE_BYTES).contains(&len_bytes)
            }
            _ => false,
        }
    }
}

/// What the other tests rely on.
#[test]
fn honest_messages_are_at_every_point() {
    let victim = &mut Scene::new(false).processes[VICTIM];
    let sends: Vec<SendStage> = victim.sends.iter_mut().map(|(_, send)| send.stage).collect();
    let count = |wanted: fn(&SendStage) -> bool| sends.iter().filter(|stage| wanted(stage)).count();
    assert_eq!(count(|stage| *stage == SendStage::Waits), 2);
    assert_eq!(count(|stage| *stage == SendStage::Announced), 3);
    assert_eq!(count(|stage| matches!(stage, SendStage::Writing { .. })), 1);
    assert_eq!(count(|stage| matches!(stage, SendStage::InPieces { gone_bytes: 16, .. })), 2);
    let receives: Vec<ReceiveStage> = victim.receives.iter_mut().map(|(_, receive)| receive.stage).collect();
    let count = |wanted: fn(&ReceiveStage) -> bool| receives.iter().filter(|stage| wanted(stage)).count();
    assert_eq!(count(|stage| matches!(stage, ReceiveStage::Reading { .. })), 1);
    assert_eq!(count(|stage| *stage == ReceiveStage::AwaitsWrite), 1);
    assert_eq!(count(|stage| *stage == ReceiveStage::AwaitsPieces { come_bytes: 16 }), 2);
}

#[test]
fn each_word_at_each_point() {
    for point in Point::ALL {
        let (_, handle) = point.scene();
        for word in Word::all(handle) {
            let (mut scene, same) = point.scene();
            assert_eq!(same, handle);
            let said = scene.say_word(word);
            assert_eq!(said.is_ok(), point.allows(word), "{point:?}, {word:?}: {said:?}");
            scene.finish(&format!("{point:?}, {word:?}"));
        }
    }
}

#[test]
fn others_requests_and_those_that_there_are_not() {
    let scene = Scene::new(false);
    let mut handles: Vec<Handle> =
        [0, 1, u64::MAX, 1 << 32, 99 << 32, 1 << 32 | 0xffff_ffff].map(Handle::from_wire).to_vec();
    for Message { from, to, send, receive, .. } in &scene.messages {
        handles.extend((*from == VICTIM).then_some(*send));
        handles.extend(receive.filter(|_| *to == VICTIM));
    }
    assert!(handles.len() > 15, "{handles:?}");
    for handle in handles {
        for word in Word::all(handle) {
            let mut scene = Scene::new(false);
            let said = scene.say_word(word);
            assert!(matches!(said, Err(Violation::Unexpected { .. })), "{word:?}: {said:?}");
            scene.finish(&format!("{word:?}"));
        }
    }
}

/// Messages of any kind and any length around the right one; nothing but an active message is any good.
#[test]
fn lengths_that_no_message_has() {
    for kind in (0..16).filter_map(|kind| Kind::of_immediate(kind).map(|(kind, _)| kind)) {
        for len_bytes in 0..60 {
            let may_be_longer = matches!(kind, Kind::Eager | Kind::Piece | Kind::Active | Kind::Farewell);
            let header_bytes = kind.header_bytes();
            if len_bytes == header_bytes || (may_be_longer && len_bytes > header_bytes) {
                continue;
            }
            let mut scene = Scene::new(false);
            let said = scene.say(kind, &[0; HEADER_BYTES_MAX][..len_bytes.min(HEADER_BYTES_MAX)], len_bytes);
            assert_eq!(said, Err(Violation::Length { kind, len_bytes }));
            scene.finish(&format!("{kind:?} of {len_bytes} bytes"));
        }
    }
}

#[test]
fn an_outcome_that_there_is_not() {
    let (mut scene, handle) = Point::SendAnnounced.scene();
    let (kind, mut bytes) = Word::Read(handle, Outcome::Done).encode();
    bytes[8] = 3;
    assert!(matches!(scene.say(kind, &bytes, 16), Err(Violation::Unexpected { .. })));
    scene.finish("an outcome that there is not");
}

/// Announced lengths are the peer's word: nothing is added to them, and nothing of that size is asked for.
#[test]
fn lengths_that_no_memory_has() {
    for len_bytes in [LEN_BYTES as u64 + 1, 1 << 32, 1 << 63, u64::MAX - 255, u64::MAX] {
        for memory in [None, Some(MEMORY)] {
            let (mut scene, receive) = Point::ReceivePosted.scene();
            let announce = Announce { tag: 1, len_bytes, memory, sender: 5, counter: 0 };
            assert_eq!(scene.say(Kind::Announce, &announce.encode(), 48), Ok(Arrival::Nothing));
            let capacity_bytes = LEN_BYTES as u64;
            let truncated = RequestError::Truncated { source_rank: 1, tag: 1, len_bytes, capacity_bytes };
            assert_eq!(scene.processes[VICTIM].receive_outcome(receive), Some(Err(truncated)));
            scene.finish("too long");
        }
    }
}

/// A message that the window has room for and 32 bits have not.
#[test]
fn a_message_of_more_than_32_bits() {
    let mut victim: Process = Protocol::new(Hello { window_bytes: u32::MAX, ..hello(0) }, 2);
    victim.connected(1, limits(false));
    victim.arrived(1, Kind::Hello.immediate(0), &hello(1).encode(), 48).unwrap();
    let len_bytes = (1_usize << 32) + 8;
    let said = victim.arrived(1, Kind::Eager.immediate(1), &[0; 48], len_bytes);
    assert_eq!(said, Err(Violation::Length { kind: Kind::Eager, len_bytes: len_bytes - 8 }));
}

#[test]
fn what_was_lost_does_not_come_back() {
    for point in Point::ALL {
        let (mut scene, handle) = point.scene();
        scene.processes[VICTIM].peer_lost(HOSTILE as u32);
        scene.processes[VICTIM].connected(HOSTILE as u32, limits(false));
        assert_eq!(scene.processes[VICTIM].next_post(HOSTILE as u32), None, "{point:?}");
        scene.number = 0;
        assert_eq!(scene.say(Kind::Hello, &hello(HOSTILE).encode(), 48), Ok(Arrival::Nothing));
        for word in Word::all(handle) {
            assert_eq!(scene.say_word(word), Ok(Arrival::Nothing), "{point:?}");
        }
        assert!(scene.processes[VICTIM].try_eager(HOSTILE as u32, 1).is_none());
        scene.finish(&format!("{point:?}"));
    }
}

/// What an adapter may still read or write stays a request's until the transfer has ended, however that ends.
#[test]
fn a_lost_peer_takes_no_buffer_away() {
    for point in [Point::SendWriting, Point::ReceiveReading, Point::ReceiveExposing] {
        let (mut scene, handle) = point.scene();
        let victim = &mut scene.processes[VICTIM];
        victim.peer_lost(HOSTILE as u32);
        let lost = RequestError::PeerLost { rank: HOSTILE as u32 };
        if point == Point::SendWriting {
            assert_eq!(victim.take_send(handle), None);
            victim.write_ended(handle, true);
            assert_eq!(victim.take_send(handle), Some((data(1), Err(lost))));
        } else {
            assert_eq!(victim.take_receive(handle), None, "{point:?}");
            if point == Point::ReceiveReading {
                victim.read_ended(handle, true);
            } else {
                victim.exposed(handle, Some(MEMORY));
            }
            assert_eq!(victim.receive_outcome(handle), Some(Err(lost)), "{point:?}");
        }
        scene.finish(&format!("{point:?}"));
    }
}

/// Announcements that nobody receives are all that a peer can make this process keep beyond the window.
#[test]
fn announcements_have_an_end() {
    let mut scene = Scene::new(false);
    let announce = Announce { tag: 1, len_bytes: 1, memory: None, sender: 5, counter: 0 }.encode();
    scene.say(Kind::Announce, &announce, 48).unwrap();
    // Not a million of them.
    let peer = scene.processes[VICTIM].peer(HOSTILE as u32).unwrap();
    assert_eq!(peer.announced, 1);
    peer.announced = ANNOUNCED_MAX - 1;
    scene.say(Kind::Announce, &announce, 48).unwrap();
    // One is received, and one more has room; those that are asked for take none.
    let receive =
        |scene: &mut Scene| scene.processes[VICTIM].receive(Pattern::exact(HOSTILE as u32, 1), 1, vec![0]).0;
    receive(&mut scene);
    scene.say(Kind::Announce, &announce, 48).unwrap();
    receive(&mut scene);
    receive(&mut scene);
    receive(&mut scene);
    let peer = scene.processes[VICTIM].peer(HOSTILE as u32).unwrap();
    assert_eq!(peer.announced, ANNOUNCED_MAX - 2);
    peer.announced = ANNOUNCED_MAX;
    scene.say(Kind::Announce, &announce, 48).unwrap();
    assert_eq!(scene.say(Kind::Announce, &announce, 48), Err(Violation::TooManyAnnounced));
    scene.finish("too many announcements");
}

/// Data that nobody receives are bounded by the window, whatever the messages' lengths.
#[test]
fn the_window_is_all_that_is_kept() {
    for len_bytes in [0, 1, 1000, INITIAL_WINDOW_BYTES as usize - 256] {
        let mut scene = Scene::new(false);
        let mut kept = 0;
        let refusal = loop {
            match scene.say(Kind::Eager, &[0; HEADER_BYTES_MAX][..(8 + len_bytes).min(48)], 8 + len_bytes) {
                Ok(Arrival::Keep(envelope)) => {
                    assert_eq!(envelope, Envelope { source: HOSTILE as u32, tag: 0 });
                    scene.processes[VICTIM].keep(envelope, len_bytes, Vec::new());
                    kept += len_bytes as u32 + MESSAGE_OVERHEAD_BYTES;
                }
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(refusal, Violation::Credit(CreditError::WindowExceeded { .. })), "{refusal}");
        assert!(kept <= INITIAL_WINDOW_BYTES && kept + len_bytes as u32 + 256 > INITIAL_WINDOW_BYTES);
        // The program receives what a lost peer has sent.
        scene.processes[VICTIM].peer_lost(HOSTILE as u32);
        let anything = Pattern::any_tag(HOSTILE as u32);
        while let (receive, Some(_)) = scene.processes[VICTIM].receive(anything, 9, Vec::new()) {
            assert!(scene.processes[VICTIM].take_receive(receive).is_some());
        }
        scene.finish("too much");
    }
}

/// A message that is awaited by nothing that is posted is checked as all are.
#[test]
fn an_awaited_message_is_checked() {
    let envelope = Envelope { source: HOSTILE as u32, tag: 0 };
    let awaited = |scene: &mut Scene, number: u32, len_bytes: usize| {
        scene.processes[VICTIM].awaited_arrived(envelope, number, len_bytes, 8)
    };
    let mut scene = Scene::new(false);
    let number = scene.number;
    let received = Received { source: HOSTILE as u32, tag: 0, len_bytes: 8 };
    assert_eq!(awaited(&mut scene, number, 8), Ok(Some(Ok(received))));
    let too_long =
        RequestError::Truncated { source_rank: HOSTILE as u32, tag: 0, len_bytes: 9, capacity_bytes: 8 };
    assert_eq!(awaited(&mut scene, number + 1, 9), Ok(Some(Err(too_long))));
    let twice = awaited(&mut scene, number + 1, 8);
    assert!(matches!(twice, Err(Violation::Sequence { .. })), "{twice:?}");
    let huge = awaited(&mut scene, number + 2, INITIAL_WINDOW_BYTES as usize);
    assert!(matches!(huge, Err(Violation::Credit(CreditError::WindowExceeded { .. }))), "{huge:?}");
    scene.processes[VICTIM].peer_lost(HOSTILE as u32);
    scene.finish("awaited");

    let mut stranger = Protocol::<Vec<u8>, Vec<u8>, Vec<u8>>::new(hello(VICTIM), 4);
    assert_eq!(stranger.awaited_arrived(envelope, 0, 8, 8), Ok(None));
    stranger.connected(HOSTILE as u32, limits(false));
    let rude = stranger.awaited_arrived(envelope, 0, 8, 8);
    assert!(matches!(rude, Err(Violation::Unexpected { what: "before its greeting", .. })), "{rude:?}");
}

// ---- honest, but wrong or slow if the bookkeeping is --------------------------------------------------------------------

/// Two processes that have greeted.
fn pair() -> Scene {
    let processes = (0..4).map(|rank| Protocol::new(hello(rank), 4)).collect();
    let mut scene = Scene { processes, messages: Vec::new(), number: 0 };
    scene.processes[VICTIM].connected(READS as u32, limits(false));
    scene.processes[READS].connected(VICTIM as u32, limits(false));
    assert!(scene.carry(VICTIM, READS) && scene.carry(READS, VICTIM));
    scene
}

/// One short message from rank 0 to rank 2, at once.
fn send_eager(scene: &mut Scene, tag: u64) -> Arrival {
    let message = scene.processes[VICTIM].try_eager(READS as u32, 8).expect("the window has room");
    let immediate = message.immediate();
    message.posted();
    let bytes = [tag.to_le_bytes(), [7; 8]].concat();
    scene.processes[READS].arrived(VICTIM as u32, immediate, &bytes, 16).unwrap()
}

/// Many windows of messages in one direction, each received: none has to be announced. Room comes back whether the receive
/// waits for the message or the message for the receive.
#[test]
fn room_comes_back() {
    for is_posted_before in [true, false] {
        let mut scene = pair();
        let receive = |scene: &mut Scene| {
            scene.processes[READS].receive(Pattern::exact(VICTIM as u32, 4), 8, vec![0; 8])
        };
        let mut credits = 0;
        for _ in 0..5 * INITIAL_WINDOW_BYTES / MESSAGE_OVERHEAD_BYTES {
            let posted = is_posted_before.then(|| receive(&mut scene));
            match (send_eager(&mut scene, 4), posted) {
                (Arrival::Deliver { receive, .. }, Some((posted, None))) => assert_eq!(receive, posted),
                (Arrival::Keep(envelope), None) => {
                    scene.processes[READS].keep(envelope, 8, vec![7; 8]);
                    assert!(receive(&mut scene).1.is_some());
                }
                other => panic!("{other:?}"),
            }
            while scene.carry(READS, VICTIM) {
                credits += 1;
            }
        }
        // One for each half of the window, and not one for each message.
        assert!((5..=10).contains(&credits), "{credits}");
    }
}

/// While the fabric takes nothing, room is owed again and again, and said once.
#[test]
fn one_credit_message_waits() {
    let mut scene = pair();
    for _ in 0..INITIAL_WINDOW_BYTES / (MESSAGE_OVERHEAD_BYTES + 8) {
        scene.processes[READS].receive(Pattern::any_tag(VICTIM as u32), 8, vec![0; 8]);
        assert!(matches!(send_eager(&mut scene, 4), Arrival::Deliver { .. }));
    }
    let post = scene.processes[READS].next_post(VICTIM as u32).unwrap();
    assert_eq!(Kind::of_immediate(post.immediate).unwrap().0, Kind::Credit);
    assert!(scene.carry(READS, VICTIM) && !scene.carry(READS, VICTIM));
    // It brings the newest counter: all is paid.
    let peer = scene.processes[VICTIM].peer(READS as u32).unwrap();
    assert_eq!(peer.sends.available_bytes(), INITIAL_WINDOW_BYTES);
}

/// A long message that goes in pieces leaves room between them for others.
#[test]
fn pieces_keep_nobody() {
    let mut scene = pair();
    scene.send(VICTIM, READS, false);
    scene.receive_last();
    assert!(scene.carry(VICTIM, READS) && scene.carry(READS, VICTIM));
    scene.processes[VICTIM].send(READS as u32, 1, 2, None, b"ab".to_vec());
    scene.send(VICTIM, READS, false);
    let mut kinds = Vec::new();
    while let Some(post) = scene.processes[VICTIM].next_post(READS as u32) {
        kinds.push(Kind::of_immediate(post.immediate).unwrap().0);
        scene.carry(VICTIM, READS);
    }
    let mut expected = vec![Kind::Piece, Kind::Eager, Kind::Announce];
    expected.extend([Kind::Piece; LEN_BYTES.div_ceil(PIECE_BYTES) - 1]);
    assert_eq!(kinds, expected);
}

/// An empty message that was announced, because the window was full, ends without data; it cannot be asked for.
#[test]
fn empty_messages_are_not_written() {
    for has_memory in [false, true] {
        let mut scene = Scene::new(false);
        while let Some(message) = scene.processes[VICTIM].try_eager(HOSTILE as u32, 0) {
            message.posted();
        }
        let sender =
            scene.processes[VICTIM].send(HOSTILE as u32, 1, 0, has_memory.then_some(MEMORY), Vec::new());
        scene.hear();
        let said = scene.say_word(Word::Ready { sender, has_memory, len_bytes: 0 });
        assert!(matches!(said, Err(Violation::Unexpected { .. })), "{said:?}");
        scene.finish("an empty message");
    }
}
