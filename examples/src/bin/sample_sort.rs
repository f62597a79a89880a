//! Sorts numbers that are spread over all processes: a sample sort.
//!
//!     ironband run -n 4 target/release/sample_sort --numbers 100000
//!
//! Each process sorts what it has and shows some of it. From what all have shown everybody chooses the same borders, sends each process the numbers that lie
//! between its borders, and sorts what comes. Then all numbers of a process are below those of the next one.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ironband::Context;
use ironband_collectives::Communicator;

/// Sorts numbers that are spread over all processes.
#[derive(Parser)]
struct Options {
    /// How many numbers each process has.
    #[arg(long, default_value_t = 100_000)]
    numbers: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match sort(&context, options.numbers) {
        Ok(()) => Ok(context.close()?),
        Err(error) => context.abort(1, &format!("sample_sort: {error:#}")),
    }
}

/// The numbers of a process, in no order (xorshift).
fn numbers(rank: u32, count: usize) -> Vec<u64> {
    let mut state = u64::from(rank) * 0x9e37_79b9 + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn sort(context: &Context, count: usize) -> Result<()> {
    let world = Communicator::world(context)?;
    let (rank, size) = (world.rank(), world.size() as usize);
    let mut own = numbers(rank, count);
    own.sort_unstable();

    // MPI_Allgather: each process shows as many of its numbers as there are processes, at equal distances.
    let shown: Vec<u64> = (0..size).map(|at| own.get(at * count / size).copied().unwrap_or(0)).collect();
    let mut all_shown = vec![0; size * size];
    world.allgather(&shown, &mut all_shown)?;
    all_shown.sort_unstable();
    let borders: Vec<u64> = (1..size).map(|at| all_shown[at * size]).collect();

    // How many numbers go to each process, and how many come from each: MPI_Alltoall tells.
    let ends = borders.iter().map(|border| own.partition_point(|number| number < border));
    let ends: Vec<usize> = ends.chain([count]).collect();
    let starts = std::iter::once(&0).chain(&ends);
    let sent: Vec<u64> = starts.zip(&ends).map(|(start, end)| (end - start) as u64).collect();
    let mut received = vec![0; size];
    world.alltoall(&sent, &mut received)?;

    // MPI_Alltoallv: the numbers themselves.
    let mut sorted = vec![0; received.iter().sum::<u64>() as usize];
    world.alltoallv(&own, &sent, &mut sorted, &received)?;
    sorted.sort_unstable();

    check(&world, &sorted, count)
}

/// Process 0 gathers all, as long as they are, and compares with a serial run.
fn check(world: &Communicator<'_>, sorted: &[u64], count: usize) -> Result<()> {
    let is_root = world.rank() == 0;
    let size = world.size() as usize;
    let mut counts = vec![0; if is_root { size } else { 0 }];
    world.root(0)?.gather(&[sorted.len() as u64], &mut counts)?;
    let mut all = vec![0; counts.iter().sum::<u64>() as usize];
    world.root(0)?.gatherv(sorted, &mut all, &counts)?;
    if is_root {
        let mut serial: Vec<u64> = (0..world.size()).flat_map(|rank| numbers(rank, count)).collect();
        serial.sort_unstable();
        ensure!(all == serial, "the numbers are not sorted, or are others");
        let most = counts.iter().max().context("there is a process")?;
        println!(
            "sample_sort: {size} processes, {} numbers, at most {most} in one: as the serial run",
            all.len()
        );
    }
    Ok(())
}
