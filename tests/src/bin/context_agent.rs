//! One process of a job that tries the Rust API: what `tests/context.rs` starts under launchers.
//!
//! Without arguments it goes through all of it. `die WHEN RANK` has one process killed: before it publishes its card, before the others are
//! called together, or while they wait for its messages. Who finds out says so and ends with status 3.

use std::process::ExitCode;

use std::time::Instant;

use ironband::{Context, Error, Pattern};
use ironband_pmi::Pmi;
use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (outcome, status) = match words[..] {
        [] => (run(), ExitCode::FAILURE),
        ["die", when, rank] => (die(when, rank.parse().expect("a rank")), ExitCode::from(3)),
        _ => panic!("{words:?}: see the head of this file"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            status
        }
    }
}

fn kill_this_process() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

fn die(when: &str, victim: u32) -> Result<(), Error> {
    let is_victim = |rank: u32| rank == victim;
    if when == "before-card" || when == "before-roll-call" {
        // A process that joins as others do, and goes no further.
        let rank = std::env::var("IRONBAND_PMI_RANK").expect("started by hand");
        if is_victim(rank.parse().expect("a rank")) {
            let mut pmi = Pmi::init()?;
            pmi.neighbours()?;
            if when == "before-card" {
                kill_this_process();
            }
            pmi.put("card", b"\x01\x00")?;
            pmi.fence()?;
            kill_this_process();
        }
    }
    let context = Context::open()?;
    let rank = context.rank();
    // The others may still be about to open theirs: until then they would miss it in the roll-call.
    if is_victim(rank) {
        for _ in 1..context.size() {
            context.receive(Pattern::any_source(2), &mut [])?;
        }
        kill_this_process();
    }
    context.endpoint(victim)?.send(2, b"")?;
    // By a receive that names it: nothing else is under way.
    let waited = Instant::now();
    let outcome = context.receive(Pattern::exact(victim, 1), &mut [0; 8]);
    println!(
        "{rank}: after {} ms: {}",
        waited.elapsed().as_millis(),
        outcome.as_ref().map_or_else(Error::to_string, |_| "received".to_owned())
    );
    outcome.map(|_| ())
}

fn pattern(seed: u32, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at as u32).wrapping_mul(31).wrapping_add(seed * 7) as u8).collect()
}

/// Lengths around all limits.
const LENGTHS: [usize; 14] =
    [0, 1, 8, 40, 41, 64, 1000, 8000, 8248, 8249, 20_000, 65_536, 300_000, 5_000_000];

fn run() -> Result<(), Error> {
    let context = Context::open()?;
    let (rank, size) = (context.rank(), context.size());
    if rank == 0 {
        context.report().iter().for_each(|line| println!("{line}"));
    }
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);
    for (tag, len_bytes) in LENGTHS.into_iter().enumerate() {
        let request = context.start_receive(Pattern::exact(previous, tag as u64), vec![0; len_bytes])?;
        context.endpoint(next)?.send(tag as u64, &pattern(rank, len_bytes))?;
        let (bytes, received) = request.wait()?;
        assert_eq!((received.source, received.len_bytes), (previous, len_bytes as u64));
        assert_eq!(bytes, pattern(previous, len_bytes), "{len_bytes} bytes");
    }
    // Unexpected: sent before the receive is there.
    for (tag, len_bytes) in LENGTHS.into_iter().enumerate() {
        let request = context.endpoint(next)?.start_send(100 + tag as u64, pattern(rank, len_bytes))?;
        let mut bytes = vec![0; len_bytes];
        context.receive(Pattern::any_source(100 + tag as u64), &mut bytes)?;
        assert_eq!(bytes, pattern(previous, len_bytes), "{len_bytes} bytes, unexpected");
        request.wait()?;
    }
    // One-sided: each adds to a counter of rank 0, and writes to its own place there.
    let exposed = context.expose(vec![0_u8; 8 + 8 * size as usize])?;
    if rank == 0 {
        for other in 1..size {
            context.endpoint(other)?.send(7, exposed.key().as_bytes())?;
        }
    }
    let mut key = vec![0; 200];
    let key = if rank == 0 {
        exposed.key()
    } else {
        let received = context.endpoint(0)?.receive(7, &mut key)?;
        ironband::MemoryKey::from_bytes(&key[..received.len_bytes as usize])?
    };
    let memory = context.endpoint(0)?.memory(&key)?;
    for _ in 0..100 {
        memory.fetch_add(0, u64::from(rank) + 1)?;
    }
    memory.put(8 + 8 * u64::from(rank), &u64::from(rank).to_le_bytes())?;
    let mut back = [0; 8];
    memory.get(8 + 8 * u64::from(rank), &mut back)?;
    assert_eq!(u64::from_le_bytes(back), u64::from(rank));
    context.endpoint(0)?.send(8, b"done")?;
    if rank == 0 {
        for _ in 0..size {
            context.receive(Pattern::any_source(8), &mut [0; 4])?;
        }
        assert_eq!(exposed.load(0)?, 100 * u64::from(size) * (u64::from(size) + 1) / 2);
        for other in 0..size {
            assert_eq!(exposed.load(8 + 8 * other as usize)?, u64::from(other));
        }
    }
    println!("{rank} of {size}: ok");
    if rank == 0 {
        // By messages of all processes, each length twice; what is one-sided comes on top.
        println!("carried {} bytes", 2 * u64::from(size) * LENGTHS.iter().sum::<usize>() as u64);
    }
    drop(exposed);
    context.close()
}
