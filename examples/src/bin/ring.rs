//! A token goes round a ring of processes by blocking calls; then blocks of numbers go round, all at the same time, by requests.
//!
//!     ironband run -n 3 target/release/ring --laps 100 --words 100000
//!
//! `mpirun -np 3 target/release/ring` does the same, and alone the program is a ring of one process.

use anyhow::{Result, ensure};
use clap::Parser;
use ironband::{Context, Pattern};

/// Passes a token and blocks of numbers around a ring of processes, and checks them.
#[derive(Parser)]
struct Options {
    /// How often the token goes round.
    #[arg(long, default_value_t = 1000)]
    laps: u64,
    /// Length of a block, in words of 8 bytes.
    #[arg(long, default_value_t = 100_000)]
    words: usize,
}

/// Tags, chosen by the program. The receiver asks for a message by its tag and its sender, as in MPI.
const TOKEN: u64 = 1;
const BLOCK: u64 = 2;

fn main() -> Result<()> {
    let options = Options::parse();
    // MPI_Init, with MPI_Comm_rank and MPI_Comm_size inside.
    let context = Context::open()?;
    match ring(&context, &options) {
        // MPI_Finalize: waits for all others.
        Ok(()) => Ok(context.close()?),
        // MPI_Abort: a process that has failed must not leave the others waiting for it.
        Err(error) => context.abort(1, &format!("ring: {error:#}")),
    }
}

fn ring(context: &Context, options: &Options) -> Result<()> {
    pass_token(context, options.laps)?;
    pass_blocks(context, options.words)?;
    if context.rank() == 0 {
        println!(
            "ring: {} processes, {} laps of the token, blocks of {} words: all as expected",
            context.size(),
            options.laps,
            options.words
        );
    }
    Ok(())
}

/// Process 0 starts each lap; each process adds its rank and one more to the token.
fn pass_token(context: &Context, laps: u64) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    let next = context.endpoint((rank + 1) % size)?;
    let previous = context.endpoint((rank + size - 1) % size)?;
    let own = u64::from(rank) + 1;
    // What all processes up to this one add, and what all add.
    let (up_to_here, all) = (own * (own + 1) / 2, u64::from(size) * (u64::from(size) + 1) / 2);

    // Messages are bytes. A token of 8 bytes is short: `send` copies it, and never waits for its receive.
    let mut bytes = [0; 8];
    let mut token = 0_u64;
    for lap in 0..laps {
        if rank == 0 {
            next.send(TOKEN, &(token + own).to_le_bytes())?;
            previous.receive(TOKEN, &mut bytes)?;
            token = u64::from_le_bytes(bytes);
            ensure!(token == (lap + 1) * all, "lap {lap}: the token came back as {token}");
        } else {
            previous.receive(TOKEN, &mut bytes)?;
            token = u64::from_le_bytes(bytes) + own;
            ensure!(token == lap * all + up_to_here, "lap {lap}: the token is {token} at rank {rank}");
            next.send(TOKEN, &token.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Each process has a block. In each step all pass on the block they have, until each has seen all, and has its own again.
///
/// With blocking calls this would hang: a long message is sent when it is received, and nobody would begin to receive.
fn pass_blocks(context: &Context, words: usize) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    let next = context.endpoint((rank + 1) % size)?;
    let previous = (rank + size - 1) % size;

    let mut block = block_of(rank, words);
    let mut spare = vec![0_u64; words];
    for step in 1..=size {
        // MPI_Irecv and MPI_Isend. The requests own their buffers until they are done: `block` cannot be touched meanwhile, because
        // the compiler knows that it was given away.
        let coming = context.start_receive(Pattern::exact(previous, BLOCK), spare)?;
        let going = next.start_send(BLOCK, block)?;
        // MPI_Wait: gives the buffers back.
        let (received, _) = coming.wait()?;
        (block, spare) = (received, going.wait()?);

        let owner = (rank + size - step) % size;
        ensure!(block == block_of(owner, words), "step {step}: this is not the block of rank {owner}");
    }
    Ok(())
}

/// Unlike at every place and for every process, so that a wrong or shifted block is noticed.
fn block_of(rank: u32, words: usize) -> Vec<u64> {
    (0..words as u64).map(|at| (at << 32 | u64::from(rank)).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}
