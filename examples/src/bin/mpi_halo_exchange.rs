//! Heat spreading over a plate, cut into one block for each rank.
//!
//! In every step each rank exchanges the edges of its block with its four neighbours (the *halo*) and then computes
//! its block alone. At the end rank 0 gathers the blocks and compares them with a serial run of its own: the
//! arithmetic is the same, so the results must be the same to the last bit.
//!
//! `mpirun -np 4 --oversubscribe --mca btl ironband,self mpi_halo_exchange --rows 96 --columns 128 --steps 60`

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ironband_examples::plate::{Block, Side, compare, nearly_square, place, share};
use mpi::{
    Count, Rank,
    datatype::PartitionMut,
    request::WaitGuard,
    topology::{CartesianCommunicator, CartesianLayout},
    traits::*,
};

/// Solves the heat equation on a plate cut into one block for each rank, and compares with a serial run.
#[derive(Parser)]
struct Options {
    /// Rows of the plate.
    #[arg(long, default_value_t = 256)]
    rows: usize,
    /// Columns of the plate.
    #[arg(long, default_value_t = 256)]
    columns: usize,
    /// Steps in time.
    #[arg(long, default_value_t = 100)]
    steps: usize,
}

/// The ranks next to this one; none beyond the edge of the plate.
fn neighbours(grid: &CartesianCommunicator) -> [Option<Rank>; 4] {
    let (north, south) = grid.shift(0, 1);
    let (west, east) = grid.shift(1, 1);
    [north, south, west, east]
}

/// Sends the block's edges to its neighbours and receives theirs into the halo, all at once.
fn exchange(grid: &CartesianCommunicator, neighbours: &[Option<Rank>; 4], block: &mut Block) {
    let edges =
        Side::ALL.map(|side| block.side(side, 1).iter().map(|&at| block.cells[at]).collect::<Vec<f64>>());
    let mut halos = Side::ALL.map(|side| vec![0.0; block.side(side, 0).len()]);
    mpi::request::scope(|scope| {
        let mut pending = Vec::new();
        for ((side, neighbour), halo) in Side::ALL.into_iter().zip(neighbours).zip(&mut halos) {
            if let Some(rank) = *neighbour {
                // What my northern neighbour sends me is what it sends to its south.
                let tag = side.opposite() as i32;
                let peer = grid.process_at_rank(rank);
                pending.push(WaitGuard::from(peer.immediate_receive_into_with_tag(
                    scope,
                    &mut halo[..],
                    tag,
                )));
            }
        }
        for ((side, neighbour), edge) in Side::ALL.into_iter().zip(neighbours).zip(&edges) {
            if let Some(rank) = *neighbour {
                let peer = grid.process_at_rank(rank);
                pending.push(WaitGuard::from(peer.immediate_send_with_tag(scope, &edge[..], side as i32)));
            }
        }
        // The guards wait for their messages when they go out of scope, here.
    });
    for (side, halo) in Side::ALL.into_iter().zip(halos) {
        for (at, value) in block.side(side, 0).into_iter().zip(halo) {
            block.cells[at] = value;
        }
    }
}

/// Brings all blocks to rank 0, which puts the plate together; the others get nothing.
fn gather(
    grid: &CartesianCommunicator,
    options: &Options,
    shape: (usize, usize),
    block: &Block,
) -> Option<Vec<f64>> {
    let root = grid.process_at_rank(0);
    let interior = block.interior();
    if grid.rank() != 0 {
        root.gather_varcount_into(&interior[..]);
        return None;
    }
    let places: Vec<(Range<usize>, Range<usize>)> = (0..grid.size())
        .map(|rank| {
            let at = grid.rank_to_coordinates(rank);
            (share(options.rows, shape.0, at[0] as usize), share(options.columns, shape.1, at[1] as usize))
        })
        .collect();
    let counts: Vec<Count> =
        places.iter().map(|(rows, columns)| (rows.len() * columns.len()) as Count).collect();
    let starts: Vec<Count> =
        counts.iter().scan(0, |sum, &count| Some(std::mem::replace(sum, *sum + count))).collect();
    let mut gathered = vec![0.0; options.rows * options.columns];
    let mut partition = PartitionMut::new(&mut gathered[..], &counts[..], &starts[..]);
    root.gather_varcount_into_root(&interior[..], &mut partition);

    let mut plate = vec![0.0; gathered.len()];
    for ((rows, columns), start) in places.into_iter().zip(starts) {
        place(&mut plate, options.columns, rows, columns, &gathered[start as usize..]);
    }
    Some(plate)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let universe = mpi::initialize().context("MPI_Init failed: run this under mpirun")?;
    let world = universe.world();
    let shape = nearly_square(world.size() as usize);
    ensure!(
        options.rows >= shape.0 && options.columns >= shape.1,
        "{} x {} cells cannot be cut into {} x {} blocks; use more cells or fewer ranks",
        options.rows,
        options.columns,
        shape.0,
        shape.1
    );
    let grid = world
        .create_cartesian_communicator(&[shape.0 as Count, shape.1 as Count], &[false, false], true)
        .context("MPI_Cart_create left this rank out of the grid")?;
    let CartesianLayout { coords, .. } = grid.get_layout();
    let mut block = Block::new(
        share(options.rows, shape.0, coords[0] as usize),
        share(options.columns, shape.1, coords[1] as usize),
    );
    let neighbours = neighbours(&grid);
    for _ in 0..options.steps {
        exchange(&grid, &neighbours, &mut block);
        block.step();
    }
    if let Some(plate) = gather(&grid, &options, shape, &block) {
        if let Err(error) = compare(&plate, options.rows, options.columns, options.steps) {
            eprintln!("mpi_halo_exchange: {error}");
            grid.abort(1);
        }
        println!(
            "mpi_halo_exchange: {} x {} ranks, {} x {} cells, {} steps: equals the serial run",
            shape.0, shape.1, options.rows, options.columns, options.steps
        );
    }
    Ok(())
}
