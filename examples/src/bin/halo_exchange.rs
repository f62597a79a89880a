//! Heat spreads over a plate that is cut into one block for each process.
//!
//!     ironband run -n 4 target/release/halo_exchange --steps 500 --picture heat.png
//!
//! `mpirun -np 4 target/release/halo_exchange` does the same, and one process alone computes the whole plate.
//!
//! In each step the processes exchange the edges of their blocks with their neighbours (the *halo*), all at the same time, and then
//! compute their blocks. At the end process 0 gathers the blocks, compares them with a serial run of its own, which has to be equal
//! to the last bit, and draws a picture. `mpi_halo_exchange` is the same program over MPI.

use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ironband::{Context, Pattern};
use ironband_examples::plate::{Block, Side, compare, nearly_square, place, share};

/// Solves the heat equation on a plate cut into one block for each process, and compares with a serial run.
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
    /// Write the plate as it is at the end to this file, as PNG.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// What is sent to a side has the side's number as its tag; the blocks at the end have this.
const BLOCK: u64 = 4;

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match solve(&context, &options) {
        Ok(()) => Ok(context.close()?),
        // The neighbours wait for this process: end them, too.
        Err(error) => context.abort(1, &format!("halo_exchange: {error:#}")),
    }
}

/// How many blocks the plate has, and which one is whose: rank by rank along the rows, as in a Cartesian communicator of MPI.
struct Grid<'o> {
    options: &'o Options,
    rows: usize,
    columns: usize,
}

impl Grid<'_> {
    /// The cells of a process's block.
    fn cells_of(&self, rank: u32) -> (Range<usize>, Range<usize>) {
        let (row, column) = (rank as usize / self.columns, rank as usize % self.columns);
        (share(self.options.rows, self.rows, row), share(self.options.columns, self.columns, column))
    }

    /// Who is next to a process; nobody beyond the edge of the plate.
    fn neighbour(&self, rank: u32, side: Side) -> Option<u32> {
        let columns = self.columns as u32;
        let (row, column) = (rank / columns, rank % columns);
        match side {
            Side::North => (row > 0).then(|| rank - columns),
            Side::South => (row + 1 < self.rows as u32).then(|| rank + columns),
            Side::West => (column > 0).then(|| rank - 1),
            Side::East => (column + 1 < columns).then(|| rank + 1),
        }
    }
}

fn solve(context: &Context, options: &Options) -> Result<()> {
    let (rows, columns) = nearly_square(context.size() as usize);
    ensure!(
        options.rows >= rows && options.columns >= columns,
        "{} x {} cells cannot be cut into {rows} x {columns} blocks; use more cells or fewer processes",
        options.rows,
        options.columns
    );
    let grid = Grid { options, rows, columns };
    let (own_rows, own_columns) = grid.cells_of(context.rank());
    let mut block = Block::new(own_rows, own_columns);
    for _ in 0..options.steps {
        exchange(context, &grid, &mut block)?;
        block.step();
    }
    let Some(plate) = gather(context, &grid, &block)? else { return Ok(()) };
    compare(&plate, options.rows, options.columns, options.steps)?;
    if let Some(file) = &options.picture {
        draw(&plate, options, file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!(
        "halo_exchange: {rows} x {columns} processes, {} x {} cells, {} steps: equals the serial run",
        options.rows, options.columns, options.steps
    );
    Ok(())
}

/// Sends the block's edges to its neighbours and receives theirs into the halo, all at once.
fn exchange(context: &Context, grid: &Grid, block: &mut Block) -> Result<()> {
    let with_neighbours =
        || Side::ALL.into_iter().filter_map(|side| Some((side, grid.neighbour(context.rank(), side)?)));
    // Receives first: what arrives then finds its buffer, and is copied once.
    let mut coming = Vec::new();
    for (side, rank) in with_neighbours() {
        // What comes from the north was sent to the south there.
        let pattern = Pattern::exact(rank, side.opposite() as u64);
        coming.push((side, context.start_receive(pattern, vec![0.0; block.side(side, 0).len()])?));
    }
    let mut going = Vec::new();
    for (side, rank) in with_neighbours() {
        let edge: Vec<f64> = block.side(side, 1).iter().map(|&at| block.cells[at]).collect();
        going.push(context.endpoint(rank)?.start_send(side as u64, edge)?);
    }
    // Waiting for one makes progress with all; the order does not matter.
    for (side, request) in coming {
        let (halo, _) = request.wait()?;
        for (at, value) in block.side(side, 0).into_iter().zip(halo) {
            block.cells[at] = value;
        }
    }
    for request in going {
        request.wait()?;
    }
    Ok(())
}

/// Brings all blocks to process 0, which puts the plate together; the others get nothing.
fn gather(context: &Context, grid: &Grid, block: &Block) -> Result<Option<Vec<f64>>> {
    let going = context.endpoint(0)?.start_send(BLOCK, block.interior())?;
    let mut plate = None;
    if context.rank() == 0 {
        let Options { rows, columns, .. } = *grid.options;
        let whole = plate.insert(vec![0.0; rows * columns]);
        for rank in 0..context.size() {
            let (rows, own_columns) = grid.cells_of(rank);
            let buffer = vec![0.0; rows.len() * own_columns.len()];
            let (cells, _) = context.start_receive(Pattern::exact(rank, BLOCK), buffer)?.wait()?;
            place(whole, columns, rows, own_columns, &cells);
        }
    }
    // Process 0 has sent its own block to itself: such a send ends when it is received, not before.
    going.wait()?;
    Ok(plate)
}

/// Black for 0, over red and yellow, to white for 100.
fn colour_of(heat: f64) -> [u8; 3] {
    let channel = |from: f64| ((heat / 100.0 * 3.0 - from).clamp(0.0, 1.0) * 255.0) as u8;
    [channel(0.0), channel(1.0), channel(2.0)]
}

fn draw(plate: &[f64], options: &Options, file: &Path) -> Result<()> {
    let (width, height) = (options.columns.try_into()?, options.rows.try_into()?);
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(file)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    let pixels: Vec<u8> = plate.iter().flat_map(|heat| colour_of(*heat)).collect();
    writer.write_image_data(&pixels)?;
    Ok(writer.finish()?)
}
