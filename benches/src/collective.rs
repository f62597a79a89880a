//! Collective operations, MPI's or Ironband's: how long they take, on average over all ranks, with a barrier between any two, as OSU's do.

use clap::ValueEnum;
use ironband_collectives::{Communicator, operator::Sum};
use mpi::{collective::SystemOperation, topology::Communicator as _, traits::*};
use serde::Serialize;

use crate::{
    error::BenchError,
    options::{Common, Implementation},
    pattern::Mismatch,
    plan::COLLECTIVE,
    point_to_point::{abort, now},
    report::{Metric, Report, Row},
    session::Session,
};

/// OSU's heading.
pub const AVERAGE: Metric =
    Metric { heading: "Avg Latency(us)", key: "latency_us", unit: "us", better: "lower" };

/// Largest message unless `-m` says otherwise, as OSU's.
const SIZE_BYTES_MAX: usize = 1 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// MPI_Allgather, blocks of the size.
    Allgather,
    /// MPI_Allreduce of floats, a sum.
    Allreduce,
    /// MPI_Alltoall, blocks of the size.
    Alltoall,
    /// MPI_Barrier.
    Barrier,
    /// MPI_Bcast from rank 0.
    Bcast,
    /// MPI_Exscan of floats, a sum.
    Exscan,
    /// MPI_Gather to rank 0, blocks of the size.
    Gather,
    /// MPI_Reduce of floats to rank 0, a sum.
    Reduce,
    /// MPI_Reduce_scatter_block of floats, a sum; the size is that of all blocks together.
    #[value(name = "reduce_scatter")]
    ReduceScatter,
    /// MPI_Scan of floats, a sum.
    Scan,
    /// MPI_Scatter from rank 0, blocks of the size.
    Scatter,
}

impl Operation {
    /// The name of OSU's benchmark.
    pub const fn benchmark(self) -> &'static str {
        match self {
            Self::Allgather => "osu_allgather",
            Self::Allreduce => "osu_allreduce",
            Self::Alltoall => "osu_alltoall",
            Self::Barrier => "osu_barrier",
            Self::Bcast => "osu_bcast",
            Self::Exscan => "osu_exscan",
            Self::Gather => "osu_gather",
            Self::Reduce => "osu_reduce",
            Self::ReduceScatter => "osu_reduce_scatter",
            Self::Scan => "osu_scan",
            Self::Scatter => "osu_scatter",
        }
    }

    /// Whether numbers are combined.
    const fn combines(self) -> bool {
        matches!(self, Self::Allreduce | Self::Exscan | Self::Reduce | Self::ReduceScatter | Self::Scan)
    }
}

/// What a number of a rank is: small, so that sums are exact.
fn number(rank: usize, at: usize) -> f32 {
    ((rank * 7 + at * 3) % 61) as f32
}

/// What a byte of a rank's block for another is.
fn byte(rank: usize, block: usize, at: usize) -> u8 {
    (rank * 37 + block * 11 + at * 5 + at / 251) as u8
}

/// Input and output of one rank.
enum Buffers {
    Numbers(Vec<f32>, Vec<f32>),
    Bytes(Vec<u8>, Vec<u8>),
}

/// One size, at one rank.
struct Case {
    operation: Operation,
    /// Elements of the vector, or of a block.
    len: usize,
    rank: usize,
    ranks: usize,
}

impl Case {
    fn new(operation: Operation, size_bytes: usize, session: &Session) -> Self {
        let (rank, ranks) = (session.rank() as usize, session.ranks() as usize);
        let len = match operation {
            Operation::Barrier => 0,
            Operation::ReduceScatter => size_bytes / size_of::<f32>() / ranks,
            _ if operation.combines() => size_bytes / size_of::<f32>(),
            _ => size_bytes,
        };
        Self { operation, len, rank, ranks }
    }

    fn buffers(&self) -> Buffers {
        let Self { operation, len, rank, ranks } = *self;
        let is_root = rank == 0;
        let numbers = |len: usize| (0..len).map(|at| number(rank, at)).collect();
        let bytes = |blocks: usize| {
            (0..blocks).flat_map(|block| (0..len).map(move |at| byte(rank, block, at))).collect()
        };
        match operation {
            Operation::Barrier => Buffers::Bytes(Vec::new(), Vec::new()),
            Operation::Bcast => Buffers::Bytes(Vec::new(), bytes(1)),
            Operation::Allreduce | Operation::Scan | Operation::Exscan => {
                Buffers::Numbers(numbers(len), vec![0.0; len])
            }
            Operation::Reduce => Buffers::Numbers(numbers(len), vec![0.0; if is_root { len } else { 0 }]),
            Operation::ReduceScatter => Buffers::Numbers(numbers(len * ranks), vec![0.0; len]),
            Operation::Allgather => Buffers::Bytes(bytes(1), vec![0; len * ranks]),
            Operation::Gather => Buffers::Bytes(bytes(1), vec![0; if is_root { len * ranks } else { 0 }]),
            Operation::Scatter => Buffers::Bytes(bytes(if is_root { ranks } else { 0 }), vec![0; len]),
            Operation::Alltoall => Buffers::Bytes(bytes(ranks), vec![0; len * ranks]),
        }
    }

    /// What has to be in the output.
    fn expected(&self) -> Buffers {
        let Self { operation, len, rank, ranks } = *self;
        // The sum of nothing by `sum` is -0.
        let sum = |ranks: std::ops::Range<usize>, at: usize| {
            ranks.map(|rank| number(rank, at)).fold(0.0, |sum, one| sum + one)
        };
        let sums = |ranks: std::ops::Range<usize>, from: usize| {
            (0..len).map(|at| sum(ranks.clone(), from + at)).collect()
        };
        let blocks = |blocks: &mut dyn Iterator<Item = (usize, usize)>| {
            let blocks = blocks.flat_map(|(rank, block)| (0..len).map(move |at| byte(rank, block, at)));
            blocks.collect()
        };
        let numbers = |sums| Buffers::Numbers(Vec::new(), sums);
        let bytes = |bytes| Buffers::Bytes(Vec::new(), bytes);
        match operation {
            Operation::Barrier => bytes(Vec::new()),
            Operation::Allreduce => numbers(sums(0..ranks, 0)),
            Operation::Reduce if rank == 0 => numbers(sums(0..ranks, 0)),
            Operation::Reduce => numbers(Vec::new()),
            Operation::ReduceScatter => numbers(sums(0..ranks, rank * len)),
            Operation::Scan => numbers(sums(0..rank + 1, 0)),
            Operation::Exscan => numbers(sums(0..rank, 0)),
            Operation::Bcast => bytes(blocks(&mut std::iter::once((0, 0)))),
            Operation::Allgather => bytes(blocks(&mut (0..ranks).map(|rank| (rank, 0)))),
            Operation::Gather if rank == 0 => bytes(blocks(&mut (0..ranks).map(|rank| (rank, 0)))),
            Operation::Gather => bytes(Vec::new()),
            Operation::Scatter => bytes(blocks(&mut std::iter::once((0, rank)))),
            Operation::Alltoall => bytes(blocks(&mut (0..ranks).map(|from| (from, rank)))),
        }
    }

    /// The first wrong byte of an output.
    fn mismatch(&self, got: &Buffers) -> Option<Mismatch> {
        let as_bytes = |buffers: &Buffers| -> Vec<u8> {
            match buffers {
                Buffers::Numbers(_, numbers) => {
                    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
                }
                Buffers::Bytes(_, bytes) => bytes.clone(),
            }
        };
        let (got, expected) = (as_bytes(got), as_bytes(&self.expected()));
        let at = got.iter().zip(&expected).position(|(got, expected)| got != expected)?;
        Some(Mismatch {
            source: self.rank as i32,
            size_bytes: expected.len(),
            message: 0,
            offset_bytes: at,
            expected: expected[at],
            found: got[at],
        })
    }
}

/// One call of the operation.
type Call<'a> = Box<dyn FnMut(&mut Buffers) + 'a>;

/// MPI's.
fn by_mpi<'a>(session: &'a Session, case: &Case) -> Call<'a> {
    let world = session.world();
    let root = world.process_at_rank(0);
    let is_root = case.rank == 0;
    let sum = SystemOperation::sum;
    match case.operation {
        Operation::Barrier => Box::new(|_| world.barrier()),
        Operation::Bcast => Box::new(move |buffers| {
            let Buffers::Bytes(_, data) = buffers else { unreachable!("bytes are moved") };
            root.broadcast_into(&mut data[..]);
        }),
        operation if operation.combines() => Box::new(move |buffers| {
            let Buffers::Numbers(input, output) = buffers else { unreachable!("numbers are combined") };
            match operation {
                Operation::Allreduce => world.all_reduce_into(&input[..], &mut output[..], sum()),
                Operation::Reduce if is_root => root.reduce_into_root(&input[..], &mut output[..], sum()),
                Operation::Reduce => root.reduce_into(&input[..], sum()),
                Operation::ReduceScatter => {
                    world.reduce_scatter_block_into(&input[..], &mut output[..], sum());
                }
                Operation::Scan => world.scan_into(&input[..], &mut output[..], sum()),
                _ => world.exclusive_scan_into(&input[..], &mut output[..], sum()),
            }
        }),
        operation => Box::new(move |buffers| {
            let Buffers::Bytes(input, output) = buffers else { unreachable!("bytes are moved") };
            match operation {
                Operation::Allgather => world.all_gather_into(&input[..], &mut output[..]),
                Operation::Gather if is_root => root.gather_into_root(&input[..], &mut output[..]),
                Operation::Gather => root.gather_into(&input[..]),
                Operation::Scatter if is_root => root.scatter_into_root(&input[..], &mut output[..]),
                Operation::Scatter => root.scatter_into(&mut output[..]),
                _ => world.all_to_all_into(&input[..], &mut output[..]),
            }
        }),
    }
}

/// Ironband's, by the blocking calls.
fn by_ironband<'a>(world: &'a Communicator<'_>, case: &Case) -> Call<'a> {
    let operation = case.operation;
    Box::new(move |buffers| {
        let outcome = match buffers {
            Buffers::Bytes(input, output) => match operation {
                Operation::Barrier => world.barrier(),
                Operation::Bcast => world.root(0).and_then(|root| root.bcast(&mut output[..])),
                Operation::Allgather => world.allgather(input, output),
                Operation::Gather => world.root(0).and_then(|root| root.gather(input, output)),
                Operation::Scatter => world.root(0).and_then(|root| root.scatter(input, output)),
                _ => world.alltoall(input, output),
            },
            Buffers::Numbers(input, output) => match operation {
                Operation::Allreduce => world.allreduce(input, output, Sum),
                Operation::Reduce => world.root(0).and_then(|root| root.reduce(input, output, Sum)),
                Operation::ReduceScatter => world.reduce_scatter_block(input, output, Sum),
                Operation::Scan => world.scan(input, output, Sum),
                _ => world.exscan(input, output, Sum),
            },
        };
        if let Err(error) = outcome {
            eprintln!("{error}");
            abort();
        }
    })
}

/// Runs one collective operation with all sizes.
///
/// # Errors
/// When an option or the job does not suit.
pub fn run(
    session: &Session,
    common: &Common,
    implementation: Implementation,
    operation: Operation,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    let world = session.context().map(Communicator::world).transpose()?;
    let sizes: Vec<usize> = if operation == Operation::Barrier {
        vec![0]
    } else {
        let min_bytes = match operation {
            Operation::ReduceScatter => size_of::<f32>() * session.ranks() as usize,
            _ if operation.combines() => size_of::<f32>(),
            _ => 1,
        };
        common.sizes_up_to(min_bytes, SIZE_BYTES_MAX)?.collect()
    };
    debug_assert_eq!(world.is_some(), implementation == Implementation::Ironband);
    report.open(&[], sizes.len())?;
    for size_bytes in sizes {
        report.begin(size_bytes);
        let case = Case::new(operation, size_bytes, session);
        let barrier = Case::new(Operation::Barrier, 0, session);
        let (mut call, mut barrier) = match &world {
            Some(world) => (by_ironband(world, &case), by_ironband(world, &barrier)),
            None => (by_mpi(session, &case), by_mpi(session, &barrier)),
        };
        let mut buffers = case.buffers();
        let mut nothing = Buffers::Bytes(Vec::new(), Vec::new());
        let plan = common.plan(COLLECTIVE, size_bytes);
        let mut seconds = 0.0;
        for round in 0..plan.rounds.warmup + plan.rounds.iterations {
            let start = now();
            call(&mut buffers);
            let end = now();
            if round >= plan.rounds.warmup {
                seconds += end - start;
            }
            barrier(&mut nothing);
        }
        let mismatch = if common.validate { case.mismatch(&buffers) } else { None };
        let own = seconds * 1e6 / plan.rounds.iterations as f64;
        // Each rank's average is a sample.
        let samples = session.gather_at_root(&[own]);
        let average = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        report.add(Row { size_bytes, rounds: plan.rounds, values: vec![average], samples, mismatch })?;
    }
    Ok(())
}
