//! A counter that all processes share: it lies in the memory of process 0, and the others change it there.
//!
//!     ironband run -n 4 target/release/counter --adds 10000
//!
//! `mpirun -np 4 target/release/counter` does the same. Alone, a process shares the counter with itself.
//!
//! Nobody calls anything to receive: that is one-sided communication, MPI's `MPI_Fetch_and_op`, `MPI_Put` and `MPI_Get`.

use anyhow::{Result, ensure};
use clap::Parser;
use ironband::{Context, RemoteMemory};
use ironband_examples::together::{barrier, share_keys};

/// Counts together: by atomics, by compare-and-swap, and, to show what is wrong with it, by get and put.
#[derive(Parser)]
struct Options {
    /// How often each process adds one.
    #[arg(long, default_value_t = 10_000)]
    adds: u64,
}

/// What is where in the memory of process 0, in bytes. A number that atomics change lies at a multiple of 8.
const COUNTER: u64 = 0;
const LARGEST: u64 = 8;
const CARELESS: u64 = 16;
/// Behind these each process has a place of its own.
const PLACES: u64 = 24;

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match count(&context, options.adds) {
        Ok(()) => Ok(context.close()?),
        // The others wait for this process: end them, too.
        Err(error) => context.abort(1, &format!("counter: {error:#}")),
    }
}

fn count(context: &Context, adds: u64) -> Result<()> {
    let (rank, size) = (u64::from(context.rank()), u64::from(context.size()));
    // MPI_Win_create: all expose memory here, though only that of process 0 is used. The buffer belongs to `exposed` now.
    let exposed = context.expose(vec![0_u64; (PLACES / 8 + size) as usize])?;
    let keys = share_keys(context, &exposed.key())?;
    let memory = context.endpoint(0)?.memory(&keys[0])?;

    let tickets = take_tickets(&memory, adds)?;
    raise(&memory, tickets.iter().copied().max().unwrap_or(0))?;
    // A put of a number to a place that nobody else writes needs no atomic.
    memory.put(PLACES + 8 * rank, &tickets.iter().sum::<u64>().to_le_bytes())?;
    add_carelessly(&memory, adds)?;

    // A call has returned when the other process can see what it did; so after the barrier process 0 sees all of it.
    barrier(context)?;
    if rank == 0 {
        let all = size * adds;
        let counted = exposed.load(COUNTER as usize)?;
        ensure!(counted == all, "the counter is {counted}, after {all} times one");
        let largest = exposed.load(LARGEST as usize)?;
        ensure!(largest == all.saturating_sub(1), "the last ticket was {largest}, of {all}");
        let sum = (0..size)
            .map(|rank| exposed.load((PLACES + 8 * rank) as usize))
            .sum::<Result<u64, ironband::Error>>()?;
        ensure!(sum == all * all.saturating_sub(1) / 2, "a ticket was given twice: they add up to {sum}");
        let careless = exposed.load(CARELESS as usize)?;
        ensure!(careless <= all, "more was counted than was added: {careless}");
        println!(
            "counter: {size} processes counted to {counted}, each number given once; get and put lost {}",
            all - careless
        );
    }
    // Nobody is using the memory any more: `exposed` may go.
    Ok(())
}

/// Adds one so often; what was there before is a number that nobody else gets.
fn take_tickets(memory: &RemoteMemory, adds: u64) -> Result<Vec<u64>> {
    let mut tickets = Vec::new();
    for _ in 0..adds {
        let ticket = memory.fetch_add(COUNTER, 1)?;
        ensure!(tickets.last().is_none_or(|last| ticket > *last), "ticket {ticket} came late");
        tickets.push(ticket);
    }
    Ok(tickets)
}

/// Sets a number to `candidate` if that is larger. There is no atomic for that, and none is needed: whoever finds that the number has
/// changed since he looked, tries again.
fn raise(memory: &RemoteMemory, candidate: u64) -> Result<()> {
    let mut known = 0;
    while known < candidate {
        let found = memory.compare_swap(LARGEST, known, candidate)?;
        if found == known {
            break;
        }
        known = found;
    }
    Ok(())
}

/// How not to do it: between the get and the put another process may have added.
fn add_carelessly(memory: &RemoteMemory, adds: u64) -> Result<()> {
    let mut bytes = [0; 8];
    for _ in 0..adds {
        memory.get(CARELESS, &mut bytes)?;
        memory.put(CARELESS, &(u64::from_le_bytes(bytes) + 1).to_le_bytes())?;
    }
    Ok(())
}
