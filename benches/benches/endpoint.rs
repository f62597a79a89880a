//! The transport device between two processes: eager messages there and back, and long messages by each way that they can
//! take. The second process is this program started again.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use ironband::config::SingleCopy;
use ironband::{
    Access, CompletionStatus, Config, Device, Handler, Job, Payload, Posted, QueuePair, ReadHint,
    RemoteAddress, Threads, WorkId,
};
use ironband_fabric::shm::Shm;

const OTHER: &str = "IRONBAND_BENCH_OTHER";
const LONGEST: usize = 1 << 20;

/// The ways of a long message, and what makes the device take them.
const WAYS: [(&str, SingleCopy, ReadHint); 3] = [
    ("pull", SingleCopy::Ring, ReadHint::OwnerIsWaiting),
    ("read", SingleCopy::Cma, ReadHint::OwnerMayBeAway),
    ("measured", SingleCopy::Auto, ReadHint::OwnerIsWaiting),
];

fn open(rank: u32, single_copy: SingleCopy) -> Device<Shm> {
    let config = Config { single_copy, ..Config::default() };
    let job = Job { local_ranks: 2, rank };
    Device::open("memfd", &config, &job, Threads::Single).unwrap_or_else(|error| panic!("{error}"))
}

fn way(name: &str) -> SingleCopy {
    WAYS.iter().find(|(known, ..)| *known == name).map(|(_, how, _)| *how).expect("a way of WAYS")
}

#[derive(Default)]
struct Seen {
    messages: Cell<u64>,
    ended: Cell<u64>,
    last: RefCell<Vec<u8>>,
}

impl Handler for Seen {
    fn received(&self, _from: QueuePair, _imm: u32, payload: Payload) {
        let mut last = self.last.borrow_mut();
        last.resize(payload.len(), 0);
        // SAFETY: the payload is mapped during this call.
        unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), last.as_mut_ptr(), payload.len()) };
        self.messages.set(self.messages.get() + 1);
    }

    fn completed(&self, _endpoint: QueuePair, _id: WorkId, status: CompletionStatus) {
        assert_eq!(status, CompletionStatus::Success);
        self.ended.set(self.ended.get() + 1);
    }

    fn disconnected(&self, _endpoint: QueuePair, reason: &str) {
        panic!("{reason}");
    }
}

/// The second process: sends every message back, and has memory to be read.
fn be_other(name: &str) {
    let device = open(1, way(name));
    let mut memory = vec![0x5a_u8; LONGEST];
    // SAFETY: the memory lives as long as this process.
    let region = unsafe { device.register(memory.as_mut_ptr(), LONGEST, Access::ALL) }.expect("room");
    let address: String = device.address().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{address} {} {}", memory.as_ptr() as u64, region.key());
    let mut peer_address = vec![0; device.address().len()];
    std::io::stdin().read_exact(&mut peer_address).expect("the address of the process that measures");
    let peer = device.connect(&peer_address).unwrap_or_else(|reason| panic!("{reason}"));
    let parent = rustix::process::getppid();
    let (seen, mut answered) = (Seen::default(), 0);
    while rustix::process::getppid() == parent {
        for _ in 0..10_000 {
            device.progress(&seen);
            if seen.messages.get() > answered
                && device.send_short(peer, 0, &[], &seen.last.borrow()) == Posted::Complete
            {
                answered += 1;
            }
        }
    }
}

struct Other {
    device: Device<Shm>,
    peer: QueuePair,
    remote: RemoteAddress,
    seen: Seen,
    process: Child,
    _input: ChildStdin,
}

impl Other {
    fn start(name: &str) -> Self {
        let device = open(0, way(name));
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .env(OTHER, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts a second time");
        let mut input = process.stdin.take().expect("piped");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("the other process's address");
        let words: Vec<&str> = line.split_whitespace().collect();
        let byte = |at: usize| u8::from_str_radix(&words[0][at..at + 2], 16).expect("hexadecimal digits");
        let address: Vec<u8> = (0..words[0].len()).step_by(2).map(byte).collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let remote = RemoteAddress { address: number(1), key: number(2) };
        input.write_all(device.address()).expect("the other process reads its input");
        let peer = device.connect(&address).unwrap_or_else(|reason| panic!("{reason}"));
        Self { device, peer, remote, seen: Seen::default(), process, _input: input }
    }

    fn round_trip(&self, bytes: &[u8]) {
        let before = self.seen.messages.get();
        while self.device.send_short(self.peer, 0, &[], bytes) == Posted::Busy {
            self.device.progress(&self.seen);
        }
        while self.seen.messages.get() == before {
            self.device.progress(&self.seen);
        }
    }

    fn get(&self, into: &mut [u8], hint: ReadHint) {
        let before = self.seen.ended.get();
        loop {
            // SAFETY: the buffer is borrowed until the request has ended.
            let posted = unsafe {
                self.device.get(self.peer, WorkId(0), into.as_mut_ptr(), None, self.remote, into.len(), hint)
            };
            match posted {
                Posted::Complete => return,
                Posted::Queued => break,
                Posted::Busy => {
                    self.device.progress(&self.seen);
                }
                Posted::Failed => panic!("{:?}", self.device.failure(self.peer)),
            }
        }
        while self.seen.ended.get() == before {
            self.device.progress(&self.seen);
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_trip");
    let other = Other::start("measured");
    for len_bytes in [8_usize, 64, 512, 1024, 4096, 8192] {
        let bytes = vec![7; len_bytes];
        group.bench_function(BenchmarkId::from_parameter(len_bytes), |bencher| {
            bencher.iter(|| other.round_trip(&bytes));
        });
    }
    group.finish();
    drop(other);

    for (name, _, hint) in WAYS {
        let other = Other::start(name);
        other.round_trip(b"hello");
        if name != "pull"
            && let Some(notice) = other.device.take_notice()
        {
            println!("skipped: get/{name}: {notice}");
            continue;
        }
        let mut group = criterion.benchmark_group(format!("get/{name}"));
        for len_bytes in [16 << 10, 64 << 10, 256 << 10, 1 << 20] {
            let mut into = vec![0; len_bytes];
            group.throughput(Throughput::Bytes(len_bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(len_bytes), |bencher| {
                bencher.iter(|| other.get(&mut into, hint));
            });
            assert!(into.iter().all(|byte| *byte == 0x5a || *byte == 0), "wrong bytes");
        }
        group.finish();
    }
}

fn main() {
    if let Ok(name) = std::env::var(OTHER) {
        return be_other(&name);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
