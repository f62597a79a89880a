//! Is a registration ever stale? Threads register memory through the cache, let the kernel write to it through the registration, and
//! look whether the number has arrived; in between they unmap, replace, move, discard, free and fork.
//!
//! `IRONBAND_STALE_SECONDS` (60) bounds the time, `IRONBAND_STALE_OPERATIONS` (10000000) the number of acquisitions;
//! `IRONBAND_STALE_SEED` (1) chooses what happens. First comes a mutant, a cache that nobody tells of unmapped memory, for which the answer must
//! be yes.

mod child;
mod conclusion;
mod counter;
mod memory;
mod random;
mod uring;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironband::rcache::{CacheLimits, RegistrationCache, Statistics};
use ironband::{Access, unmap_events};

use crate::conclusion::{Conclusion, conclude};
use crate::memory::{DEEDS, Memory};
use crate::random::Random;
use crate::uring::Uring;

const THREADS: u64 = 3;
/// Fewer than the blocks of all threads, so that some are evicted.
const LIMITS: CacheLimits = CacheLimits { bytes_max: 24 << 20, regions_max: 200 };
/// For the mutant, and how soon it must have failed.
const MUTANT_OPERATIONS: u64 = 20_000;

/// What came out.
struct Outcome {
    operations: u64,
    stale: u64,
    deeds: [u64; DEEDS.len()],
    statistics: Statistics,
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?} is no number")),
        Err(_) => default,
    }
}

/// # Errors
/// Why the kernel does not let us.
fn run(operations_max: u64, seconds: u64, seed: u64) -> std::io::Result<Outcome> {
    let uring = Uring::open()?;
    let cache = RegistrationCache::<u16>::open(LIMITS).expect("a letter box is free");
    let (operations, stale) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = AtomicBool::new(false);
    let work = |thread: u64| {
        let mut random = Random::new(seed * 1000 + thread);
        let mut memory = Memory::new(thread == 0);
        while !end.load(Ordering::Relaxed) {
            if random.below(16) == 0 {
                memory.disturb(&mut random);
                continue;
            }
            let block = memory.choose(&mut random);
            // SAFETY: mapped, and this thread's.
            let held = unsafe { cache.acquire(&uring, block.start, block.len_bytes, Access::LOCAL) };
            let held = held.expect("there is room");
            let place = block.start.wrapping_add(random.below(block.len_bytes / 8) * 8);
            // SAFETY: inside the block.
            let (written, found) = unsafe {
                let written = uring.write(*held.region(), place).expect("the kernel writes");
                (written, place.cast::<u64>().read_unaligned())
            };
            if found != written {
                stale.fetch_add(1, Ordering::Relaxed);
            }
            if random.below(2) == 0 {
                cache.release(&uring, held);
            } else {
                drop(held);
            }
            cache.tend(&uring);
            operations.fetch_add(1, Ordering::Relaxed);
        }
        memory.deeds
    };
    let start = Instant::now();
    let deeds = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        let mut told = start;
        while start.elapsed() < Duration::from_secs(seconds)
            && operations.load(Ordering::Relaxed) < operations_max
        {
            std::thread::sleep(Duration::from_millis(20));
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                eprintln!(
                    "{} operations, {} stale, {} s",
                    operations.load(Ordering::Relaxed),
                    stale.load(Ordering::Relaxed),
                    start.elapsed().as_secs()
                );
            }
        }
        end.store(true, Ordering::Relaxed);
        let mut deeds = [0; DEEDS.len()];
        for thread in threads {
            let found = thread.join().expect("a thread");
            deeds.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
        }
        deeds
    });
    let statistics = cache.statistics();
    assert_eq!(cache.close(&uring), 0, "registrations are in use after the end");
    Ok(Outcome { operations: operations.into_inner(), stale: stale.into_inner(), deeds, statistics })
}

fn report(outcome: &Outcome, what: &str) {
    let Outcome { operations, stale, deeds, statistics } = outcome;
    println!("{what}: {operations} operations, {stale} stale hits; {statistics}");
    let deeds: Vec<String> = DEEDS.iter().zip(deeds).map(|(name, count)| format!("{name} {count}")).collect();
    println!("    {}", deeds.join(", "));
}

fn main() -> ExitCode {
    // All threads share the heap that grows and shrinks by brk.
    // SAFETY: sets a number.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let seed = number("IRONBAND_STALE_SEED", 1);
    let start = Instant::now();
    let mutant = match run(MUTANT_OPERATIONS, 60, seed) {
        Ok(outcome) => outcome,
        Err(error) => {
            let why =
                format!("the kernel does not let this process use io_uring with registered buffers: {error}");
            return conclude(
                &[
                    ("mutant_is_stale", Conclusion::Skipped(why.clone())),
                    ("never_stale", Conclusion::Skipped(why)),
                    ("child_forgets_its_parents_registrations", child::forgets().into()),
                ],
                start,
            );
        }
    };
    report(&mutant, "mutant, which nobody tells");
    // SAFETY: the threads of `run` have ended.
    unsafe { unmap_events::start_own() }.expect("libc can be patched");
    let operations = number("IRONBAND_STALE_OPERATIONS", 10_000_000);
    let outcome = run(operations, number("IRONBAND_STALE_SECONDS", 60), seed).expect("io_uring works");
    report(&outcome, "the cache");
    let undone: Vec<&str> =
        DEEDS.iter().zip(outcome.deeds).filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect();
    for name in &undone {
        println!("left out: {name}: this kernel does not do that, or the time was too short");
    }
    let is_cache = outcome.statistics.hits > outcome.operations / 10;
    // Guard pages are of Linux 6.13, and there are few forks.
    let all_done = undone.iter().all(|name| ["guard pages", "fork"].contains(name));
    conclude(
        &[
            ("mutant_is_stale", (mutant.stale > 0).into()),
            ("never_stale", (outcome.stale == 0 && is_cache && all_done).into()),
            ("child_forgets_its_parents_registrations", child::forgets().into()),
        ],
        start,
    )
}
