//! Nothing on the eager path allocates: sends of every short length, receives, answers from inside the handler, and empty
//! polls for long enough that everything the device does from time to time is done.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ironband::{Config, Device, Handler, Job, Payload, Posted, QueuePair, Threads};
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

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    drop(std::hint::black_box(vec![1_u8]));
    assert_eq!(CALLS.get() - before, 2);
}
