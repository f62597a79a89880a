//! The Fourier transform of a square image whose rows are spread over all processes.
//!
//!     ironband run -n 4 target/release/fft_transpose --side 256
//!
//! The transform of two dimensions is that of all rows and then that of all columns. A process has whole rows only; so between the two the image is transposed, for
//! which each process sends each other one a block: `alltoall`. Compared with a serial run.

use std::f64::consts::TAU;

use anyhow::{Result, ensure};
use clap::Parser;
use ironband::Context;
use ironband_collectives::Communicator;
use ironband_collectives::operator::Max;

/// The Fourier transform of an image that is spread over all processes.
#[derive(Parser)]
struct Options {
    /// Rows and columns: a power of two, and a multiple of the number of processes.
    #[arg(long, default_value_t = 256)]
    side: usize,
}

/// A complex number.
type Complex = [f64; 2];

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match transform(&context, options.side) {
        Ok(()) => Ok(context.close()?),
        Err(error) => context.abort(1, &format!("fft_transpose: {error:#}")),
    }
}

fn add([a, b]: Complex, [c, d]: Complex) -> Complex {
    [a + c, b + d]
}

fn subtract([a, b]: Complex, [c, d]: Complex) -> Complex {
    [a - c, b - d]
}

fn multiply([a, b]: Complex, [c, d]: Complex) -> Complex {
    [a * c - b * d, a * d + b * c]
}

/// Cooley and Tukey, 1965: the transform of the even places, that of the odd ones, and both put together.
fn fft(row: &[Complex]) -> Vec<Complex> {
    if row.len() == 1 {
        return row.to_vec();
    }
    let half = |first: usize| fft(&row.iter().skip(first).step_by(2).copied().collect::<Vec<_>>());
    let (even, odd) = (half(0), half(1));
    let mut result = vec![[0.0; 2]; row.len()];
    for (at, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        let angle = -TAU * at as f64 / row.len() as f64;
        let turned = multiply([angle.cos(), angle.sin()], odd);
        result[at] = add(even, turned);
        result[at + row.len() / 2] = subtract(even, turned);
    }
    result
}

/// Some rows of the image.
fn rows(range: std::ops::Range<usize>, side: usize) -> Vec<Complex> {
    let point = |row: usize, column: usize| [(row * 3 + column * column % 17) as f64 / side as f64, 0.0];
    range.flat_map(|row| (0..side).map(move |column| point(row, column))).collect()
}

fn transform_rows(rows: &[Complex], side: usize) -> Vec<Complex> {
    rows.chunks(side).flat_map(fft).collect()
}

/// The transposed image: process i gets the columns i of everybody's blocks as rows.
fn transpose(world: &Communicator<'_>, own: &[Complex], side: usize) -> Result<Vec<Complex>> {
    let height = own.len() / side;
    // The block for each process, column by column.
    let mut blocks = Vec::with_capacity(own.len());
    for column in 0..side {
        blocks.extend((0..height).map(|row| own[row * side + column]));
    }
    // MPI_Alltoall.
    let mut got = vec![[0.0; 2]; own.len()];
    world.alltoall(&blocks, &mut got)?;
    // From each process a block with the middle of each of our rows.
    let mut result = Vec::with_capacity(own.len());
    for row in 0..height {
        for block in got.chunks(height * height) {
            result.extend(&block[row * height..(row + 1) * height]);
        }
    }
    Ok(result)
}

fn transform(context: &Context, side: usize) -> Result<()> {
    let world = Communicator::world(context)?;
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    ensure!(
        side.is_power_of_two() && side.is_multiple_of(size),
        "--side {side} has to be a power of two and a multiple of {size} processes"
    );
    let height = side / size;
    let own = rank * height..(rank + 1) * height;

    let once = transform_rows(&rows(own.clone(), side), side);
    let twice = transform_rows(&transpose(&world, &once, side)?, side);
    let result = transpose(&world, &twice, side)?;

    let difference = compare(&result, own, side);
    let mut largest = [0.0];
    world.allreduce(&[difference], &mut largest, Max)?;
    ensure!(largest[0] < 1e-9, "the result differs from the serial run by {}", largest[0]);
    if rank == 0 {
        println!("fft_transpose: {size} processes, {side} x {side} points: as the serial run");
    }
    Ok(())
}

/// How far some rows are from those of a serial run.
fn compare(result: &[Complex], own: std::ops::Range<usize>, side: usize) -> f64 {
    let transposed = |image: &[Complex]| -> Vec<Complex> {
        (0..side * side).map(|at| image[at % side * side + at / side]).collect()
    };
    let once = transform_rows(&rows(0..side, side), side);
    let serial = transposed(&transform_rows(&transposed(&once), side));
    let serial = &serial[own.start * side..own.end * side];
    let scale = serial.iter().flatten().fold(1.0, |most: f64, value| most.max(value.abs()));
    let pairs = result.iter().flatten().zip(serial.iter().flatten());
    pairs.map(|(got, expected)| (got - expected).abs() / scale).fold(0.0, f64::max)
}
