//! The Rust API between two processes: tagged messages there and back. The second process is this program started again; both find each
//! other as processes that are started by hand do.

use std::net::TcpListener;
use std::process::{Command, ExitCode};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use ironband::{Context, Endpoint, Error};

const RANK: &str = "IRONBAND_PMI_RANK";
const DATA: u64 = 1;
/// How long the next messages are; 0 ends it.
const LENGTH: u64 = 2;

fn main() -> ExitCode {
    match std::env::var(RANK).as_deref() {
        Ok("0") => measure(),
        Ok(_) => status(play_back()),
        Err(_) => start_both(),
    }
}

fn status(outcome: Result<(), Error>) -> ExitCode {
    if let Err(error) = outcome {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// This program twice, as ranks 0 and 1 of a job.
fn start_both() -> ExitCode {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let start = |rank: u32| {
        Command::new(std::env::current_exe().expect("this program"))
            .args(std::env::args_os().skip(1))
            .envs([("IRONBAND_PMI", "tcp"), ("IRONBAND_PMI_SIZE", "2")])
            .env("IRONBAND_PMI_ROOT", format!("127.0.0.1:{port}"))
            .env(RANK, rank.to_string())
            .spawn()
            .expect("this program starts again")
    };
    let both = [start(0), start(1)];
    let ended = both.map(|mut process| process.wait().expect("it was started").success());
    if ended == [true, true] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play_back() -> Result<(), Error> {
    let context = Context::open()?;
    let peer = context.endpoint(0)?;
    let mut ball = Vec::new();
    loop {
        let mut words = [0; 16];
        peer.receive(LENGTH, &mut words)?;
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().expect("eight bytes"));
        let (len_bytes, rounds) = (word(0), word(8));
        if rounds == 0 {
            return context.close();
        }
        ball.resize(len_bytes as usize, 0);
        for _ in 0..rounds {
            peer.receive(DATA, &mut ball)?;
            peer.send(DATA, &ball)?;
        }
    }
}

/// Says what comes.
fn announce(peer: &Endpoint<'_>, len_bytes: usize, rounds: u64) {
    let words = [(len_bytes as u64).to_le_bytes(), rounds.to_le_bytes()].concat();
    peer.send(LENGTH, &words).expect("the other process lives");
}

fn measure() -> ExitCode {
    let context = Context::open().expect("both processes are there");
    let peer = context.endpoint(1).expect("there are two");
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("tagged_round_trip");
    for len_bytes in [8_usize, 64, 1 << 10, 8 << 10, 64 << 10, 1 << 20, 4 << 20] {
        let ball = vec![7_u8; len_bytes];
        let mut back = vec![0_u8; len_bytes];
        group.throughput(Throughput::Bytes(2 * len_bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(len_bytes), |bencher| {
            bencher.iter_custom(|rounds| {
                announce(&peer, len_bytes, rounds);
                let start = std::time::Instant::now();
                for _ in 0..rounds {
                    peer.send(DATA, &ball).expect("the other process lives");
                    peer.receive(DATA, &mut back).expect("the other process lives");
                }
                start.elapsed()
            });
        });
        assert!(back == ball || back.iter().all(|byte| *byte == 0), "what comes back has changed");
    }
    group.finish();
    announce(&peer, 0, 0);
    criterion.final_summary();
    status(context.close())
}
