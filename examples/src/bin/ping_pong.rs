//! Two processes send a message back and forth; says how long one way takes, by length, and checks what comes back.
//!
//!     ironband run -n 2 target/release/ping_pong
//!
//! `mpirun -np 2 target/release/ping_pong` does the same; one process alone has nobody to play with.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use ironband::{Context, Endpoint};

/// Sends messages back and forth between two processes.
#[derive(Parser)]
struct Options {
    /// How often a message of up to 8 KiB goes back and forth; longer ones a fiftieth of that.
    #[arg(long, default_value_t = 10_000)]
    rounds: usize,
    /// The longest message, in bytes; the others are the powers of two below.
    #[arg(long, default_value_t = 4 << 20)]
    bytes_max: usize,
}

const TAG: u64 = 1;

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    if context.size() != 2 {
        context.abort(2, "ping_pong wants two processes: ironband run -n 2 ping_pong");
    }
    match ping_pong(&context, &options) {
        Ok(()) => Ok(context.close()?),
        Err(error) => context.abort(1, &format!("ping_pong: {error:#}")),
    }
}

fn ping_pong(context: &Context, options: &Options) -> Result<()> {
    let peer = context.endpoint(1 - context.rank())?;
    if context.rank() == 0 {
        // What carries the messages: these lines say which device was chosen, and why.
        context.report().iter().for_each(|line| println!("# {line}"));
        println!("# one way, in us; MB/s by the median");
        println!("{:>8} {:>10} {:>10} {:>10} {:>10}", "bytes", "shortest", "median", "99%", "MB/s");
    }
    let lengths = (0..usize::BITS).map(|power| 1_usize << power);
    for len_bytes in lengths.take_while(|len_bytes| *len_bytes <= options.bytes_max) {
        let rounds = if len_bytes <= 8192 { options.rounds } else { options.rounds / 50 }.max(1);
        if context.rank() == 0 {
            report(len_bytes, serve(&peer, len_bytes, rounds)?);
        } else {
            play_back(&peer, len_bytes, rounds)?;
        }
    }
    Ok(())
}

/// A tenth more rounds come first, to warm up.
const fn with_warm_up(rounds: usize) -> usize {
    rounds + rounds / 10
}

/// Begins each round, and measures it.
fn serve(peer: &Endpoint, len_bytes: usize, rounds: usize) -> Result<Vec<Duration>> {
    let ball: Vec<u8> = (0..len_bytes).map(|at| (at * 31 + len_bytes) as u8).collect();
    let mut back = vec![0; len_bytes];
    let mut took = Vec::with_capacity(with_warm_up(rounds));
    for _ in 0..with_warm_up(rounds) {
        let start = Instant::now();
        peer.send(TAG, &ball)?;
        peer.receive(TAG, &mut back)?;
        took.push(start.elapsed());
    }
    ensure!(back == ball, "{len_bytes} bytes came back changed");
    Ok(took.split_off(rounds / 10))
}

fn play_back(peer: &Endpoint, len_bytes: usize, rounds: usize) -> Result<()> {
    let mut ball = vec![0; len_bytes];
    for _ in 0..with_warm_up(rounds) {
        peer.receive(TAG, &mut ball)?;
        peer.send(TAG, &ball)?;
    }
    Ok(())
}

fn report(len_bytes: usize, mut took: Vec<Duration>) {
    took.sort_unstable();
    // Of all rounds, sorted, the one at this part of the way; a round is two ways.
    let one_way_us = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6 / 2.0;
    let median_us = one_way_us(0.5);
    println!(
        "{len_bytes:>8} {:>10.3} {median_us:>10.3} {:>10.3} {:>10.1}",
        one_way_us(0.0),
        one_way_us(0.99),
        len_bytes as f64 / median_us
    );
}
