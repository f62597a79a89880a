//! An MPI program whose collective operations are Ironband's: sums over the rows and the columns of a grid of ranks, each compared with MPI's own.
//!
//! `mpirun -np 6 --oversubscribe mpi_with_ironband --length 10000`

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ironband::Context;
use ironband_collectives::Communicator;
use ironband_collectives::operator::Sum;
use ironband_examples::plate::nearly_square;
use mpi::collective::SystemOperation;
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};

/// Sums over the rows and the columns of a grid of ranks, by Ironband and by MPI.
#[derive(Parser)]
struct Options {
    /// Elements of each rank's vector.
    #[arg(long, default_value_t = 1000)]
    length: u32,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let universe = mpi::initialize().context("MPI_Init failed: run this under mpirun")?;
    let world = universe.world();
    let (rows, columns) = nearly_square(world.size() as usize);
    let (row, column) = (world.rank() / columns as i32, world.rank() % columns as i32);
    let part =
        |color| world.split_by_color(Color::with_value(color)).context("who has a color gets a communicator");
    let outcome = part(row).and_then(|row| sum_over_both(&row, &part(column)?, world.rank(), options.length));
    if let Err(error) = outcome {
        // The others wait for this process: end them, too.
        eprintln!("mpi_with_ironband: {error:#}");
        world.abort(1);
    }
    if world.rank() == 0 {
        println!("mpi_with_ironband: {rows} x {columns} ranks, {} elements: as MPI's own", options.length);
    }
    Ok(())
}

/// Two contexts are open at a time, as MPI has two communicators.
fn sum_over_both(
    row: &SimpleCommunicator,
    column: &SimpleCommunicator,
    rank: i32,
    length: u32,
) -> Result<()> {
    let (of_row, of_column) = (Context::from_mpi(row)?, Context::from_mpi(column)?);
    let own: Vec<f64> = (0..length).map(|index| f64::from(rank) * 1000.0 + f64::from(index)).collect();
    let over_row = sum(row, &of_row, &own)?;
    sum(column, &of_column, &over_row)?;
    of_row.close()?;
    Ok(of_column.close()?)
}

/// The sum of what all ranks of a communicator have. They are whole numbers, so it is exact, and the same whoever adds it up.
fn sum(communicator: &SimpleCommunicator, context: &Context, own: &[f64]) -> Result<Vec<f64>> {
    let mut by_mpi = vec![0.0; own.len()];
    communicator.all_reduce_into(own, &mut by_mpi[..], SystemOperation::sum());

    // The same processes, with the same ranks.
    let processes = Communicator::world(context)?;
    let mut by_ironband = vec![0.0; own.len()];
    processes.allreduce(own, &mut by_ironband, Sum)?;

    ensure!(by_ironband == by_mpi, "Ironband and MPI disagree at rank {} of {processes:?}", processes.rank());
    Ok(by_ironband)
}
