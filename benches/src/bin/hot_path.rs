//! The shared-memory hot path, to be counted by callgrind: `hot_path send N`, `hot_path receive N`, `hot_path poll N`,
//! `hot_path message N`, `hot_path window N`.
//!
//! What one operation costs is the difference between a long and a short run, divided by the difference of their lengths:
//! start-up, connecting and the end are the same in both (`ci/callgrind` does that). A message goes to this process itself.
//! For all else the other end is a second process with no valgrind around it, which is faster than this one by far: a sender
//! never finds the ring full and a receiver never finds it empty, so the count does not depend on the machine.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use clap::{Parser, ValueEnum};
use ironband::config::FabricName;
use ironband::{
    Config, Context, Device, Endpoint, Handler, Job, Pattern, Payload, Posted, QueuePair, RawBuffer,
    ReceiveRequest, SendRequest, Threads,
};
use ironband_fabric::shm::Shm;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// Send 8 bytes.
    Send,
    /// Receive 8 bytes.
    Receive,
    /// Poll and find nothing.
    Poll,
    /// Send 8 bytes from Rust, and receive them: one process alone, to itself.
    Message,
    /// As `message`, so many windows: 64 receives are begun, then 64 sends, and all are waited for.
    Window,
    /// The other end of `send`: takes everything.
    #[value(hide = true)]
    Sink,
    /// The other end of `receive`: sends all the time.
    #[value(hide = true)]
    Source,
}

/// Runs one operation of the shared-memory hot path so many times, for callgrind to count.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to do
    operation: Operation,
    /// How often
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

#[derive(Default)]
struct Count(Cell<u32>);

impl Handler for Count {
    fn received(&self, _from: QueuePair, _imm: u32, payload: Payload) {
        self.0.set(self.0.get() + payload.len() as u32 / 8);
    }
}

fn main() {
    let Arguments { operation, count } = Arguments::parse();
    match operation {
        Operation::Send => {
            let (device, peer, _other) = with_other("sink");
            // The last message is not counted as sent before it is accepted.
            for imm in 0..count {
                while device.send_short(peer, imm, b"", b"8 bytes.") != Posted::Complete {
                    std::thread::yield_now();
                }
            }
        }
        Operation::Receive => {
            let (device, _, _other) = with_other("source");
            let received = Count::default();
            while received.0.get() < count {
                device.progress(&received);
            }
        }
        Operation::Poll => {
            let (device, _, _other) = with_other("sink");
            let received = Count::default();
            for _ in 0..count {
                device.progress(&received);
            }
        }
        Operation::Message => {
            let context = alone();
            let own = check(context.endpoint(context.rank()));
            let mut back = [0; 8];
            for tag in 0..u64::from(count) {
                check(own.send(tag, b"8 bytes."));
                check(own.receive(tag, &mut back));
            }
            assert_eq!(&back, b"8 bytes.");
        }
        Operation::Window => {
            let context = alone();
            let own = check(context.endpoint(context.rank()));
            let mut windows =
                Windows { receives: Vec::new(), sends: Vec::new(), data: *b"8 bytes.", back: [0; 8] };
            for _ in 0..count {
                windows.one(&context, own);
            }
            assert_eq!(&windows.back, b"8 bytes.");
        }
        Operation::Sink | Operation::Source => be_other(operation),
    }
}

fn check<T>(result: Result<T, ironband::Error>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// A job of this process alone.
fn alone() -> Context {
    let config = Config { fabrics: vec![FabricName::Shm], ring_bytes: Some(16 << 20), ..Config::default() };
    check(Context::open_with(&config))
}

/// Requests of windows of messages; all receives share one buffer.
struct Windows<'c> {
    receives: Vec<ReceiveRequest<'c, RawBuffer>>,
    sends: Vec<SendRequest<'c, RawBuffer>>,
    data: [u8; 8],
    back: [u8; 8],
}

impl<'c> Windows<'c> {
    fn one(&mut self, context: &'c Context, own: Endpoint<'c>) {
        const TAG: u64 = 7;
        let pattern = Pattern::exact(own.rank(), TAG);
        let (back, data) = (self.back.as_mut_ptr(), self.data.as_mut_ptr());
        for _ in 0..64 {
            // SAFETY: all requests have ended before this function returns, and nobody else touches the buffers meanwhile. Should it unwind the
            // requests are dropped first, and leave the buffers to a context that nobody drives any more.
            let buffer = unsafe { RawBuffer::new(back, 8) };
            self.receives.push(check(context.start_receive(pattern, buffer)));
        }
        for _ in 0..64 {
            // SAFETY: as above.
            let buffer = unsafe { RawBuffer::new(data, 8) };
            self.sends.push(check(own.start_send(TAG, buffer)));
        }
        for request in self.sends.drain(..) {
            check(request.wait());
        }
        for request in self.receives.drain(..) {
            check(request.wait());
        }
    }
}

/// The longest ring, so that a scheduling accident of the other end is not noticed.
fn open(rank: u32) -> Device<Shm> {
    let config = Config { ring_bytes: Some(16 << 20), ..Config::default() };
    let job = Job { local_ranks: 2, rank };
    Device::open("memfd", &config, &job, Threads::Single).unwrap_or_else(|error| panic!("{error}"))
}

/// The other process; it ends when its standard input does.
struct Other {
    process: Child,
    _input: ChildStdin,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A device that is connected, in both directions, to a second process that does what `role` says.
fn with_other(role: &str) -> (Device<Shm>, QueuePair, Other) {
    let device = open(0);
    let mut process = Command::new(std::env::current_exe().expect("this program"))
        .args([role, "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts a second time");
    let mut input = process.stdin.take().expect("piped");
    let output = process.stdout.take().expect("piped");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).expect("the other process's address");
    let text = line.trim().as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    let address: Vec<u8> = text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    input.write_all(device.address()).expect("the other process reads its input");
    let other = Other { process, _input: input };
    let peer = device.connect(&address).unwrap_or_else(|reason| panic!("{reason}"));
    let received = Count::default();
    assert_eq!(device.send_short(peer, 0, b"", b"8 bytes."), Posted::Complete);
    while received.0.get() == 0 {
        device.progress(&received);
    }
    // What a new connection needs in its first polls is not the hot path.
    if role == "sink" {
        for _ in 0..20_000 {
            device.progress(&received);
        }
    }
    (device, peer, other)
}

fn be_other(role: Operation) {
    let device = open(1);
    let address: String = device.address().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{address}");
    let mut peer_address = vec![0; device.address().len()];
    std::io::stdin().read_exact(&mut peer_address).expect("the address of the process that is measured");
    let peer = device.connect(&peer_address).unwrap_or_else(|reason| panic!("{reason}"));
    let parent = rustix::process::getppid();
    let received = Count::default();
    assert_eq!(device.send_short(peer, 0, b"", b"8 bytes."), Posted::Complete);
    // Also when the process that is measured was killed and could not end this one.
    while rustix::process::getppid() == parent {
        for _ in 0..1000 {
            let busy =
                role == Operation::Source && device.send_short(peer, 0, b"", b"8 bytes.") != Posted::Complete;
            if device.progress(&received) == 0 && (busy || role == Operation::Sink) {
                std::thread::yield_now();
            }
        }
    }
}
