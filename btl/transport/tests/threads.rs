//! `MPI_THREAD_MULTIPLE`: several threads send, get, put, run atomics and make progress on the same two devices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ironband::{
    Access, AtomicOp, AtomicWidth, CompletionStatus, Config, Device, Handler, Job, Payload, Posted,
    QueuePair, ReadHint, RemoteAddress, Threads, WorkId,
};
use ironband_fabric::shm::Shm;

const THREADS: usize = 4;
const EACH: u64 = 20_000;
const LONG: usize = 40_000;

/// What one device has seen.
#[derive(Default)]
struct Seen {
    /// The next message expected of each sending thread.
    next: [AtomicU64; THREADS],
    /// Requests that have ended, by the thread that posted them.
    ended: [AtomicU64; THREADS],
    busy: AtomicBool,
}

impl Handler for Seen {
    fn received(&self, _from: QueuePair, imm: u32, payload: Payload) {
        assert!(!self.busy.swap(true, Ordering::Acquire), "two handlers of one device at the same time");
        let mut number = [0; 8];
        assert!(payload.len() >= 8);
        // SAFETY: the payload is mapped during this call and at least 8 bytes long.
        unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), number.as_mut_ptr(), 8) };
        let number = u64::from_le_bytes(number);
        let expected = self.next[imm as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(number, expected, "thread {imm}'s messages out of order");
        assert_eq!(payload.len(), length(number));
        self.busy.store(false, Ordering::Release);
    }

    fn completed(&self, _endpoint: QueuePair, id: WorkId, status: CompletionStatus) {
        assert_eq!(status, CompletionStatus::Success);
        self.ended[id.0 as usize].fetch_add(1, Ordering::Release);
    }

    fn disconnected(&self, _endpoint: QueuePair, reason: &str) {
        panic!("{reason}");
    }
}

fn length(number: u64) -> usize {
    8 + (number as usize * 31) % if number.is_multiple_of(50) { 6000 } else { 60 }
}

/// One device and the way from it to the other.
struct Side<'a> {
    device: &'a Device<Shm>,
    peer: QueuePair,
    seen: &'a Seen,
    /// Patterned memory of the peer, and a counter in it.
    remote: RemoteAddress,
    counter: RemoteAddress,
}

impl Side<'_> {
    /// Posts until it is accepted and has ended.
    fn finish(&self, thread: usize, mut post: impl FnMut() -> Posted) {
        let before = self.seen.ended[thread].load(Ordering::Acquire);
        loop {
            match post() {
                Posted::Complete => return,
                Posted::Queued => break,
                Posted::Busy => {
                    self.device.progress(self.seen);
                }
                Posted::Failed => panic!("{:?}", self.device.failure(self.peer)),
            }
        }
        while self.seen.ended[thread].load(Ordering::Acquire) == before {
            self.device.progress(self.seen);
        }
    }

    fn run(&self, thread: usize) {
        let id = WorkId(thread as u64);
        let mut local = vec![0_u8; LONG];
        let mut old = 0_u64;
        for number in 0..EACH {
            let bytes = vec![thread as u8; length(number) - 8];
            while self.device.send_short(self.peer, thread as u32, &number.to_le_bytes(), &bytes)
                == Posted::Busy
            {
                self.device.progress(self.seen);
            }
            if number.is_multiple_of(100) {
                local.fill(0);
                // SAFETY: `local` and `old` live until `finish` returns.
                self.finish(thread, || unsafe {
                    let hint = ReadHint::OwnerIsWaiting;
                    self.device.get(self.peer, id, local.as_mut_ptr(), None, self.remote, LONG, hint)
                });
                assert!(local.iter().all(|byte| *byte == 0x77));
                // SAFETY: as above.
                self.finish(thread, || unsafe {
                    let result = std::ptr::from_mut(&mut old).cast();
                    let (op, width) = (AtomicOp::FetchAdd(1), AtomicWidth::Eight);
                    self.device.atomic(self.peer, id, result, self.counter, op, width)
                });
            }
        }
    }
}

#[test]
fn four_threads_on_each_of_two_devices() {
    let open = |rank| {
        let job = Job { local_ranks: 2, rank };
        let device = Device::<Shm>::open("memfd", &Config::default(), &job, Threads::Multiple);
        device.unwrap_or_else(|error| panic!("{error}"))
    };
    let devices = [open(0), open(1)];
    let seen = [Seen::default(), Seen::default()];
    let counters = [AtomicU64::new(0), AtomicU64::new(0)];
    let mut memory = [vec![0x77_u8; LONG], vec![0x77_u8; LONG]];
    let mut offers = Vec::new();
    let mut registrations = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let mut offer = |start: *mut u8, len_bytes: usize| {
            // SAFETY: memory and counters live until the devices have been used for the last time.
            let region = unsafe { device.register(start, len_bytes, Access::ALL) }.expect("room");
            let remote = RemoteAddress { address: start as u64, key: region.key() };
            registrations.push((index, region));
            remote
        };
        let remote = offer(memory[index].as_mut_ptr(), LONG);
        offers.push((remote, offer(counters[index].as_ptr().cast(), 8)));
    }
    let sides: Vec<Side<'_>> = [0, 1]
        .into_iter()
        .map(|index: usize| {
            let (remote, counter) = offers[1 - index];
            let peer = devices[index].connect(devices[1 - index].address()).expect("reachable");
            Side { device: &devices[index], peer, seen: &seen[index], remote, counter }
        })
        .collect();
    let done = || seen.iter().flat_map(|seen| &seen.next).all(|next| next.load(Ordering::Relaxed) == EACH);
    let running = AtomicU64::new(2 * THREADS as u64);
    std::thread::scope(|scope| {
        for side in &sides {
            for thread in 0..THREADS {
                let running = &running;
                scope.spawn(move || {
                    side.run(thread);
                    running.fetch_sub(1, Ordering::Release);
                });
            }
        }
        while !done() || running.load(Ordering::Acquire) > 0 {
            assert!(!std::thread::panicking());
            for side in &sides {
                side.device.progress(side.seen);
            }
            std::thread::yield_now();
        }
    });
    for counter in &counters {
        assert_eq!(counter.load(Ordering::Acquire), THREADS as u64 * EACH / 100);
    }
    for (index, region) in registrations {
        devices[index].deregister(region);
    }
}
