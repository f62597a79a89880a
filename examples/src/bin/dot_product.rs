//! The dot product of two vectors that are spread over all processes.
//!
//!     ironband run -n 4 target/release/dot_product --length 1000000
//!
//! Each process has a part of both vectors and multiplies it; `allreduce` adds up what they have. Compared with a serial run.

use anyhow::{Result, ensure};
use clap::Parser;
use ironband::Context;
use ironband_collectives::Communicator;
use ironband_collectives::operator::Sum;

/// The dot product of two vectors that are spread over all processes.
#[derive(Parser)]
struct Options {
    /// Elements of the vectors.
    #[arg(long, default_value_t = 1_000_000)]
    length: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match multiply(&context, options.length) {
        Ok(()) => Ok(context.close()?),
        // The others wait for this process: end them, too.
        Err(error) => context.abort(1, &format!("dot_product: {error:#}")),
    }
}

/// The elements of the two vectors at a place.
fn elements(at: u64) -> (f64, f64) {
    ((at % 1000) as f64 / 1000.0, 1.0 - (at % 77) as f64 / 77.0)
}

fn products(range: std::ops::Range<u64>) -> f64 {
    range.map(elements).map(|(left, right)| left * right).sum()
}

fn multiply(context: &Context, length: u64) -> Result<()> {
    // MPI_COMM_WORLD.
    let world = Communicator::world(context)?;
    let (rank, size) = (u64::from(world.rank()), u64::from(world.size()));
    // From here on up to there.
    let own = rank * length / size..(rank + 1) * length / size;

    // MPI_Allreduce with MPI_SUM: everybody gets the sum of what all have.
    let mut product = [0.0];
    world.allreduce(&[products(own)], &mut product, Sum)?;

    let serial = products(0..length);
    let difference = (product[0] - serial).abs();
    ensure!(difference <= 1e-9 * serial.abs(), "{} together and {serial} serially", product[0]);
    if rank == 0 {
        println!("dot_product: {size} processes, {length} elements: {:.6}, as the serial run", product[0]);
    }
    Ok(())
}
