//! Nothing on the eager path allocates, neither in a device nor in the protocol of messages: sends of every short length, receives, answers from inside the handler, and empty
//! polls for long enough that everything the device does from time to time is done.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ironband::{Config, Device, Handler, Job, Payload, Posted, QueuePair, Threads};
use ironband_core::protocol::matching::Pattern;
use ironband_core::protocol::{Arrival, INITIAL_WINDOW_BYTES, PeerLimits, Protocol};
use ironband_core::wire::message::{HEADER_BYTES_MAX, Hello};
use ironband_fabric::shm::Shm;

/// Counts what this thread asks of the allocator; the test harness has threads of its own.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // At the very end of a thread there is nothing left to count with.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is handed on unchanged to the system's allocator, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(start, layout, new_bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts what arrives, and answers if it is asked to.
struct Receiver<'a> {
    device: &'a Device<Shm>,
    peer: QueuePair,
    answers: bool,
    messages: Cell<u64>,
    bytes: Cell<usize>,
}

impl Handler for Receiver<'_> {
    fn received(&self, _from: QueuePair, imm: u32, payload: Payload) {
        self.messages.set(self.messages.get() + 1);
        self.bytes.set(self.bytes.get() + payload.len());
        if self.answers && imm == 0 {
            assert_eq!(self.device.send_short(self.peer, 1, b"answer", &[]), Posted::Complete);
        }
    }
}

fn open(threads: Threads) -> (Device<Shm>, Device<Shm>) {
    let open = |rank| {
        let job = Job { local_ranks: 2, rank };
        Device::open("memfd", &Config::default(), &job, threads).unwrap_or_else(|error| panic!("{error}"))
    };
    (open(0), open(1))
}

fn measure(threads: Threads) -> u64 {
    let (a, b) = open(threads);
    let to_b = a.connect(b.address()).expect("reachable");
    let to_a = b.connect(a.address()).expect("reachable");
    let at = |device, peer, answers| Receiver {
        device,
        peer,
        answers,
        messages: Cell::new(0),
        bytes: Cell::new(0),
    };
    let (at_a, at_b) = (at(&a, to_b, false), at(&b, to_a, true));
    let bytes = vec![0x5a_u8; 8192];
    let exchange = |header: usize, payload: usize| {
        let before = (at_a.messages.get(), at_b.messages.get());
        while a.send_short(to_b, 0, &bytes[..header], &bytes[..payload]) != Posted::Complete {
            a.progress(&at_a);
            b.progress(&at_b);
        }
        while (at_a.messages.get(), at_b.messages.get()) != (before.0 + 1, before.1 + 1) {
            b.progress(&at_b);
            a.progress(&at_a);
        }
    };
    let idle = |polls: u32| {
        for _ in 0..polls {
            a.progress(&at_a);
            b.progress(&at_b);
        }
    };
    // The connections are made on first use, and put in order in the polls after that.
    exchange(0, 8);
    idle(20_000);

    let before = CALLS.get();
    for len in (0..=512).chain((513..=8192).step_by(61)) {
        exchange(0, len);
        exchange(len.min(40), len - len.min(40));
    }
    let fill = |start: std::ptr::NonNull<u8>, room: usize| {
        // SAFETY: `room` bytes are writable there.
        unsafe { start.write_bytes(7, room) };
        room / 2
    };
    for room in (0..8192).step_by(97) {
        assert_eq!(a.send_bcopy(to_b, 2, b"head", room, fill), Posted::Complete);
        b.progress(&at_b);
    }
    // Back-pressure too.
    while a.send_short(to_b, 2, b"", b"12345678") == Posted::Complete {}
    while b.progress(&at_b) > 0 {}
    idle(100_000);
    CALLS.get() - before
}

#[test]
fn the_eager_path_allocates_nothing() {
    assert_eq!(measure(Threads::Single), 0);
}

#[test]
fn the_eager_path_allocates_nothing_with_threads() {
    assert_eq!(measure(Threads::Multiple), 0);
}

/// Short messages of the Rust API's protocol from one process to another: at once and by the outbox, to receives that wait and to
/// receives that find them kept; with the credit that comes back. The program keeps nothing of its own.
struct Protocols {
    sender: Protocol<(), (), [u8; 8]>,
    receiver: Protocol<(), (), [u8; 8]>,
}

impl Protocols {
    fn new() -> Self {
        let limits = PeerLimits { eager_bytes_max: 64, piece_bytes_max: 64, prefers_writing: false };
        let protocol = |rank| {
            let mut protocol = Protocol::new(Hello { rank, window_bytes: INITIAL_WINDOW_BYTES, job: 1 }, 2);
            protocol.connected(1 - rank, limits);
            protocol
        };
        let mut both = Self { sender: protocol(0), receiver: protocol(1) };
        both.carry();
        both
    }

    fn carry_from(from: &mut Protocol<(), (), [u8; 8]>, to: &mut Protocol<(), (), [u8; 8]>, ranks: [u32; 2]) {
        while let Some(post) = from.next_post(ranks[1]) {
            let mut bytes = [0; 64];
            bytes[..post.header().len()].copy_from_slice(post.header());
            let len_bytes = post.header().len() + post.payload.map_or(0, |(_, _, len_bytes)| len_bytes);
            from.posted(ranks[1]);
            Self::arrive(to, ranks[0], post.immediate, &bytes[..len_bytes]);
        }
    }

    fn arrive(to: &mut Protocol<(), (), [u8; 8]>, from: u32, immediate: u32, bytes: &[u8]) {
        let start = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        match to.arrived(from, immediate, start, bytes.len()).expect("honest") {
            Arrival::Keep(envelope) => to.keep(envelope, 8, [0; 8]),
            Arrival::Nothing | Arrival::Deliver { .. } => {}
            Arrival::Active { .. } | Arrival::Farewell => panic!("nobody sends these"),
        }
    }

    fn carry(&mut self) {
        Self::carry_from(&mut self.sender, &mut self.receiver, [0, 1]);
        Self::carry_from(&mut self.receiver, &mut self.sender, [1, 0]);
    }

    fn round(&mut self, tag: u64) {
        let pattern = match tag % 3 {
            0 => Pattern::exact(0, tag),
            1 => Pattern::any_source(tag),
            _ => Pattern::anything(),
        };
        for is_posted_before in [true, false] {
            for is_by_outbox in [true, false] {
                let posted = is_posted_before.then(|| self.receiver.receive(pattern, 8, ()).0);
                if is_by_outbox {
                    let send = self.sender.send(1, tag, 8, None, ());
                    self.carry();
                    assert_eq!(self.sender.take_send(send), Some(((), Ok(()))));
                } else {
                    let message = self.sender.try_eager(1, 8).expect("credit comes back");
                    let immediate = message.immediate();
                    message.posted();
                    let mut bytes = [0; 16];
                    bytes[..8].copy_from_slice(&tag.to_le_bytes());
                    Self::arrive(&mut self.receiver, 0, immediate, &bytes);
                }
                let receive = posted.unwrap_or_else(|| {
                    let (receive, found) = self.receiver.receive(pattern, 8, ());
                    assert!(found.is_some());
                    receive
                });
                assert!(self.receiver.take_receive(receive).is_some());
                self.carry();
            }
        }
    }
}

#[test]
fn the_protocol_allocates_nothing_for_short_messages() {
    let mut both = Protocols::new();
    // All kinds of patterns, and credit, twice over.
    (0..1000).for_each(|tag| both.round(tag));
    let before = CALLS.get();
    (1000..10_000).for_each(|tag| both.round(tag));
    assert_eq!(CALLS.get() - before, 0);
}

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    drop(std::hint::black_box(vec![1_u8]));
    assert_eq!(CALLS.get() - before, 2);
}
