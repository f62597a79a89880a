//! Finds clusters among points that are spread over all processes, and draws them.
//!
//!     ironband run -n 4 target/release/k_means --points 100000 --picture clusters.png
//!
//! Lloyd's algorithm: each point belongs to the nearest centre; then each centre moves to the middle of its points. The points stay where they are; what the
//! processes exchange are the sums for each centre: `bcast` of the first centres, and an `allreduce` in each step. Compared with a serial run.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Parser;
use ironband::Context;
use ironband_collectives::Communicator;
use ironband_collectives::operator::Sum;

/// Finds clusters among points that are spread over all processes.
#[derive(Parser)]
struct Options {
    /// All points.
    #[arg(long, default_value_t = 20_000)]
    points: usize,
    /// Centres.
    #[arg(long, default_value_t = 6)]
    centres: usize,
    /// How often the centres move.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Where to draw the points, each in the colour of its centre.
    #[arg(long)]
    picture: Option<PathBuf>,
}

/// From 0 to 1 both.
type Point = [f64; 2];

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match find(&context, &options) {
        Ok(()) => Ok(context.close()?),
        Err(error) => context.abort(1, &format!("k_means: {error:#}")),
    }
}

/// Some of the points: seven clouds, of which each point follows from its number (splitmix64).
fn points(range: std::ops::Range<usize>) -> Vec<Point> {
    let chance = |number: usize| {
        let mut bits = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let point = |number: usize| {
        let cloud = number % 7;
        // The sum of some chances lies near their middle.
        let spread = |first: usize| (0..4).map(|at| chance(number * 8 + first + at)).sum::<f64>() / 4.0 - 0.5;
        let middle = |first: usize| 0.15 + 0.7 * chance(1_000_000_007 + cloud * 2 + first);
        [(middle(0) + 0.3 * spread(0)).clamp(0.0, 1.0), (middle(1) + 0.3 * spread(4)).clamp(0.0, 1.0)]
    };
    range.map(point).collect()
}

fn nearest(point: Point, centres: &[Point]) -> usize {
    let distance = |centre: &Point| (point[0] - centre[0]).powi(2) + (point[1] - centre[1]).powi(2);
    let pairs = (0..centres.len()).map(|at| (at, distance(&centres[at])));
    pairs.min_by(|(_, left), (_, right)| left.total_cmp(right)).map_or(0, |(at, _)| at)
}

/// For each centre the sums of the coordinates of its points, and their number.
fn sums(points: &[Point], centres: &[Point]) -> Vec<f64> {
    let mut sums = vec![0.0; centres.len() * 3];
    for point in points {
        let own = &mut sums[nearest(*point, centres) * 3..][..3];
        own[0] += point[0];
        own[1] += point[1];
        own[2] += 1.0;
    }
    sums
}

/// Each centre moves to the middle of its points; one without points stays.
fn move_to_middles(centres: &mut [Point], sums: &[f64]) {
    for (centre, sum) in centres.iter_mut().zip(sums.chunks(3)) {
        if sum[2] > 0.0 {
            *centre = [sum[0] / sum[2], sum[1] / sum[2]];
        }
    }
}

fn find(context: &Context, options: &Options) -> Result<()> {
    let world = Communicator::world(context)?;
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    ensure!(options.centres >= 1 && options.points >= options.centres, "there are fewer points than centres");
    let own = points(rank * options.points / size..(rank + 1) * options.points / size);

    // MPI_Bcast: process 0 chooses.
    let mut centres = vec![[0.0; 2]; options.centres];
    if rank == 0 {
        centres.copy_from_slice(&points(0..options.centres));
    }
    world.root(0)?.bcast(&mut centres)?;
    for _ in 0..options.steps {
        let mut all = sums(&own, &centres);
        // MPI_Allreduce with MPI_IN_PLACE.
        world.allreduce_in_place(&mut all, Sum)?;
        move_to_middles(&mut centres, &all);
    }

    if rank == 0 {
        let points = points(0..options.points);
        let mut serial = points[..options.centres].to_vec();
        for _ in 0..options.steps {
            let sums = sums(&points, &serial);
            move_to_middles(&mut serial, &sums);
        }
        // The sums were made in another order.
        for (got, expected) in centres.iter().flatten().zip(serial.iter().flatten()) {
            ensure!((got - expected).abs() < 1e-9, "a centre at {got} together and at {expected} serially");
        }
        if let Some(file) = &options.picture {
            draw(&points, &centres, file)?;
        }
        println!(
            "k_means: {size} processes, {} points, {} centres: as the serial run",
            points.len(),
            centres.len()
        );
    }
    Ok(())
}

const SIDE: usize = 480;
const COLOURS: [[u8; 3]; 8] = [
    [230, 80, 60],
    [60, 140, 220],
    [80, 180, 90],
    [230, 170, 40],
    [150, 90, 200],
    [60, 190, 190],
    [220, 110, 170],
    [130, 110, 80],
];

fn draw(points: &[Point], centres: &[Point], file: &Path) -> Result<()> {
    let mut pixels = vec![255; SIDE * SIDE * 3];
    let mut paint = |point: Point, radius: i64, colour: [u8; 3]| {
        let place = |value: f64| (value * (SIDE - 1) as f64) as i64;
        let inside = |at: i64| (0..SIDE as i64).contains(&at).then_some(at as usize);
        for row in place(point[1]) - radius..=place(point[1]) + radius {
            for column in place(point[0]) - radius..=place(point[0]) + radius {
                if let (Some(row), Some(column)) = (inside(row), inside(column)) {
                    pixels[(row * SIDE + column) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
    };
    for point in points {
        paint(*point, 0, COLOURS[nearest(*point, centres) % COLOURS.len()]);
    }
    for centre in centres {
        paint(*centre, 3, [0; 3]);
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(file)?), SIDE as u32, SIDE as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    Ok(writer.finish()?)
}
