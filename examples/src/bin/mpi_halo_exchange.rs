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

/// How much of the difference to its neighbours a cell takes over in a step; above 0.25 it would not settle.
const DIFFUSION: f64 = 0.1;

/// A rectangle of the plate with one row and column of neighbours' cells around it, row by row.
#[derive(Clone)]
struct Block {
    rows: usize,
    columns: usize,
    cells: Vec<f64>,
}

impl Block {
    /// The part of the initial plate in these rows and columns; what lies around it is cold (0).
    fn new(rows: Range<usize>, columns: Range<usize>) -> Self {
        let mut block = Self {
            rows: rows.len(),
            columns: columns.len(),
            cells: vec![0.0; (rows.len() + 2) * (columns.len() + 2)],
        };
        for (i, row) in rows.enumerate() {
            for (j, column) in columns.clone().enumerate() {
                let at = block.at(i + 1, j + 1);
                block.cells[at] = initial(row, column);
            }
        }
        block
    }

    /// The index of a cell; rows and columns count from the halo, so the block's own begin at 1.
    fn at(&self, row: usize, column: usize) -> usize {
        row * (self.columns + 2) + column
    }

    /// One step: each cell moves towards the mean of its four neighbours.
    fn step(&mut self) {
        let old = self.cells.clone();
        for row in 1..=self.rows {
            for column in 1..=self.columns {
                let here = self.at(row, column);
                let (north, south) = (old[self.at(row - 1, column)], old[self.at(row + 1, column)]);
                let (west, east) = (old[here - 1], old[here + 1]);
                self.cells[here] = old[here] + DIFFUSION * (north + south + west + east - 4.0 * old[here]);
            }
        }
    }

    /// The indices of a side's cells: `depth` 0 is the halo, 1 the block's own edge.
    fn side(&self, side: Side, depth: usize) -> Vec<usize> {
        match side {
            Side::North => (1..=self.columns).map(|column| self.at(depth, column)).collect(),
            Side::South => (1..=self.columns).map(|column| self.at(self.rows + 1 - depth, column)).collect(),
            Side::West => (1..=self.rows).map(|row| self.at(row, depth)).collect(),
            Side::East => (1..=self.rows).map(|row| self.at(row, self.columns + 1 - depth)).collect(),
        }
    }

    /// The block without its halo, row by row.
    fn interior(&self) -> Vec<f64> {
        (1..=self.rows)
            .flat_map(|row| &self.cells[self.at(row, 1)..self.at(row, self.columns + 1)])
            .copied()
            .collect()
    }
}

/// Where a neighbour is; also the tag of what is sent to that side.
#[derive(Clone, Copy)]
enum Side {
    North,
    South,
    West,
    East,
}

impl Side {
    const ALL: [Self; 4] = [Self::North, Self::South, Self::West, Self::East];

    fn opposite(self) -> Self {
        match self {
            Self::North => Self::South,
            Self::South => Self::North,
            Self::West => Self::East,
            Self::East => Self::West,
        }
    }
}

/// The plate at the start: unlike everywhere, so that a block in the wrong place is noticed.
fn initial(row: usize, column: usize) -> f64 {
    ((row * 7919 + column * 104_729) % 1000) as f64 / 10.0
}

/// The part of `cells` that belongs to coordinate `index` of `count`, as even as can be.
fn share(cells: usize, count: usize, index: usize) -> Range<usize> {
    cells * index / count..cells * (index + 1) / count
}

/// The two factors of `ranks` that are closest to each other: a square has the shortest edges.
fn nearly_square(ranks: usize) -> (usize, usize) {
    let rows =
        (1..=ranks).take_while(|rows| rows * rows <= ranks).filter(|rows| ranks.is_multiple_of(*rows)).last();
    let rows = rows.unwrap_or(1);
    (rows, ranks / rows)
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
    let mut cells = gathered.into_iter();
    for (rows, columns) in places {
        for row in rows {
            for column in columns.clone() {
                plate[row * options.columns + column] = cells.next()?;
            }
        }
    }
    Some(plate)
}

fn serial(options: &Options) -> Vec<f64> {
    let mut plate = Block::new(0..options.rows, 0..options.columns);
    (0..options.steps).for_each(|_| plate.step());
    plate.interior()
}

/// Bit by bit: the blocks were computed by the same operations in the same order.
fn compare(options: &Options, got: &[f64], expected: &[f64]) -> Result<()> {
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (row, column) = (index / options.columns, index % options.columns);
        ensure!(
            got.to_bits() == expected.to_bits(),
            "row {row}, column {column}: the serial run has {expected}, got {got}"
        );
    }
    Ok(())
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
        if let Err(error) = compare(&options, &plate, &serial(&options)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for (cells, count) in [(10, 3), (7, 7), (100, 1), (53, 6)] {
            let all: Vec<usize> = (0..count).flat_map(|index| share(cells, count, index)).collect();
            assert_eq!(all, (0..cells).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranks_are_arranged_nearly_square() {
        assert_eq!([1, 2, 4, 6, 7, 12].map(nearly_square), [(1, 1), (1, 2), (2, 2), (2, 3), (1, 7), (3, 4)]);
    }

    #[test]
    fn heat_is_kept_while_it_is_far_from_the_edge() {
        let mut block = Block::new(0..9, 0..9);
        block.cells.fill(0.0);
        let middle = block.at(5, 5);
        block.cells[middle] = 1.0;
        (0..3).for_each(|_| block.step());
        assert!((block.interior().iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
