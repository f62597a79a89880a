//! The constants of the model, measured: messages from rank 0 to rank 1 and back, messages in a row, sums.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Context as _;
use indicatif::ProgressBar;
use ironband::Context;
use ironband_collectives::operator::{Operator, Sum};
use ironband_collectives::{Communicator, Model};

use super::date;
use super::fit::{Line, latency, line, median};

/// Messages of so many bytes go back and forth.
const LENGTHS: [usize; 12] =
    [0, 8, 64, 256, 1 << 10, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20];
/// So many short messages go one behind the other.
const IN_A_ROW: [u32; 6] = [1, 4, 8, 16, 32, 64];
/// Vectors of so many bytes are combined.
const VECTORS: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
/// About so many bytes are moved for one sample ...
const BYTES_PER_SAMPLE: usize = 1 << 20;
/// ... by so many messages at most.
const MESSAGES_PER_SAMPLE: usize = 100;
/// Of the messages here.
const TAG: u64 = 1;

/// How many things are measured in a round.
pub(super) const STEPS: usize = LENGTHS.len() + IN_A_ROW.len() + VECTORS.len();

/// Samples of one kind: by place, one of each round.
struct Samples {
    places: Vec<f64>,
    times_ns: Vec<Vec<f64>>,
}

impl Samples {
    fn at(places: impl Iterator<Item = f64>) -> Self {
        let places: Vec<f64> = places.collect();
        Self { times_ns: vec![Vec::new(); places.len()], places }
    }

    /// The medians.
    fn points(&self) -> Vec<(f64, f64)> {
        let medians = self.times_ns.iter().map(|times| median(times.iter().copied()).unwrap_or(0.0));
        self.places.iter().copied().zip(medians).collect()
    }
}

/// Measures them. Rank 0 has the result, the others get one that is no matter.
pub(super) fn measure(
    context: &Context,
    world: &Communicator<'_>,
    machine: &str,
    rounds: u32,
    bar: &ProgressBar,
) -> anyhow::Result<Model> {
    let mut back_and_forth = Samples::at(LENGTHS.iter().map(|bytes| *bytes as f64));
    let mut in_a_row = Samples::at(IN_A_ROW.iter().map(|count| f64::from(*count)));
    let mut sums = Samples::at(VECTORS.iter().map(|bytes| *bytes as f64));
    // The first round is thrown away: connections are made in it, and memory is touched.
    for round in 0..=rounds {
        world.barrier()?;
        for (bytes, times) in LENGTHS.iter().zip(&mut back_and_forth.times_ns) {
            bar.set_message(format!("messages of {bytes} bytes"));
            times.push(ping_pong(context, *bytes)?);
            bar.inc(1);
        }
        for (count, times) in IN_A_ROW.iter().zip(&mut in_a_row.times_ns) {
            bar.set_message(format!("{count} messages in a row"));
            times.push(burst(context, *count)?);
            bar.inc(1);
        }
        for (bytes, times) in VECTORS.iter().zip(&mut sums.times_ns) {
            bar.set_message(format!("sums of {bytes} bytes"));
            times.push(sum(*bytes));
            bar.inc(1);
        }
        if round == 0 {
            let all = [&mut back_and_forth, &mut in_a_row, &mut sums];
            all.into_iter().flat_map(|samples| &mut samples.times_ns).for_each(Vec::clear);
        }
    }
    const FEW: &str = "there are lengths to draw a line through";
    let Line { start, slope } = latency(&back_and_forth.points()).context(FEW)?;
    Ok(Model {
        machine: machine.to_owned(),
        date: date::today(),
        ranks: world.size(),
        alpha_ns: start,
        beta_ns_per_byte: slope,
        gamma_ns_per_byte: line(&sums.points()).context(FEW)?.slope,
        gap_ns: line(&in_a_row.points()).context(FEW)?.slope,
    })
}

/// Half of a round trip, in ns.
fn ping_pong(context: &Context, bytes: usize) -> anyhow::Result<f64> {
    let count = (BYTES_PER_SAMPLE / bytes.max(1)).clamp(4, MESSAGES_PER_SAMPLE);
    let mut buffer = vec![0; bytes];
    let start = Instant::now();
    for _ in 0..count {
        match context.rank() {
            0 => {
                let other = context.endpoint(1)?;
                other.send(TAG, &buffer)?;
                other.receive(TAG, &mut buffer)?;
            }
            1 => {
                let other = context.endpoint(0)?;
                other.receive(TAG, &mut buffer)?;
                other.send(TAG, &buffer)?;
            }
            _ => {}
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / (2 * count) as f64)
}

/// So many short messages from rank 0, and an answer, in ns.
fn burst(context: &Context, count: u32) -> anyhow::Result<f64> {
    const TIMES: u32 = 8;
    let mut word = [0; 8];
    let start = Instant::now();
    for _ in 0..TIMES {
        match context.rank() {
            0 => {
                let other = context.endpoint(1)?;
                for _ in 0..count {
                    other.send(TAG, &word)?;
                }
                other.receive(TAG, &mut word)?;
            }
            1 => {
                let other = context.endpoint(0)?;
                for _ in 0..count {
                    other.receive(TAG, &mut word)?;
                }
                other.send(TAG, &word)?;
            }
            _ => {}
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES))
}

/// Combining two vectors of so many bytes, in ns.
fn sum(bytes: usize) -> f64 {
    let len = bytes / size_of::<f64>();
    let (mut into, from) = (vec![1.0_f64; len], vec![2.0_f64; len]);
    let count = (BYTES_PER_SAMPLE / bytes).max(1);
    let start = Instant::now();
    for _ in 0..count {
        for (into, from) in black_box(&mut into).iter_mut().zip(black_box(&from)) {
            *into = Sum.apply(into, from);
        }
    }
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}
