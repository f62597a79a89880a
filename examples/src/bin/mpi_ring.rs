//! Passes a buffer around a ring of ranks, each of which adds its part, and checks the sums.
//!
//! `mpirun -np 3 --mca btl ironband,self mpi_ring --bytes 100000 --laps 20`

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mpi::traits::*;

/// Passes a buffer around a ring of ranks, each of which adds its part, and checks the sums.
#[derive(Parser)]
struct Options {
    /// Size of the buffer in bytes, rounded down to whole 8-byte words.
    #[arg(long, default_value_t = 65536)]
    bytes: usize,
    /// How often the buffer goes around.
    #[arg(long, default_value_t = 100)]
    laps: u64,
}

/// What word `index` starts from; unlike at every index, so that a shifted buffer is noticed.
fn initial(index: usize) -> u64 {
    (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What rank `rank` adds to word `index` each time the buffer passes.
fn part(rank: i32, index: usize) -> u64 {
    (rank as u64 + 1).wrapping_mul(index as u64 + 1)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let universe = mpi::initialize().context("MPI_Init failed: run this under mpirun")?;
    let world = universe.world();
    let (rank, size) = (world.rank(), world.size());
    ensure!(size >= 2, "a ring needs 2 ranks or more, this job has {size}");
    let next = world.process_at_rank((rank + 1) % size);
    let previous = world.process_at_rank((rank + size - 1) % size);

    let mut words: Vec<u64> = (0..options.bytes / 8).map(initial).collect();
    let begun = Instant::now();
    for lap in 0..options.laps {
        // Rank 0 starts every lap, and is the last to see its buffer.
        if rank == 0 {
            add_part(&mut words, rank);
            next.send(&words[..]);
            previous.receive_into(&mut words[..]);
        } else {
            previous.receive_into(&mut words[..]);
            add_part(&mut words, rank);
            next.send(&words[..]);
        }
        if let Err(error) = check(&words, rank, size, lap) {
            eprintln!("ring: {error}");
            world.abort(1);
        }
    }
    if rank == 0 {
        let hops = options.laps as f64 * f64::from(size);
        let per_hop = begun.elapsed().as_secs_f64() / hops.max(1.0) * 1e6;
        println!(
            "ring: {size} ranks, {} laps of {} bytes: verified, {per_hop:.2} us a hop",
            options.laps,
            words.len() * 8
        );
    }
    Ok(())
}

fn add_part(words: &mut [u64], rank: i32) {
    for (index, word) in words.iter_mut().enumerate() {
        *word = word.wrapping_add(part(rank, index));
    }
}

/// At the end of `lap`, rank 0 holds what all ranks have added; any other rank what all up to itself have.
fn check(words: &[u64], rank: i32, size: i32, lap: u64) -> Result<()> {
    for (index, &got) in words.iter().enumerate() {
        let whole_laps = if rank == 0 { lap + 1 } else { lap };
        let whole: u64 = (0..size).fold(0, |sum: u64, from| sum.wrapping_add(part(from, index)));
        let begun = if rank == 0 {
            0
        } else {
            (0..=rank).fold(0, |sum: u64, from| sum.wrapping_add(part(from, index)))
        };
        let expected = initial(index).wrapping_add(whole.wrapping_mul(whole_laps)).wrapping_add(begun);
        ensure!(
            got == expected,
            "rank {rank}, lap {lap}, word {index}: expected {expected:#x}, got {got:#x}"
        );
    }
    Ok(())
}
