//! Operations on buffers of this process, as they are measured.

use std::time::Instant;

use ironband_collectives::choose::Collective;
use ironband_collectives::operator::{Max, Sum};
use ironband_collectives::{Communicator, Error};

/// Input and output, long enough for all that is measured.
pub(super) struct Buffers {
    input: Vec<f64>,
    output: Vec<f64>,
}

impl Buffers {
    /// For operations whose input and output have up to so many bytes in all.
    pub(super) fn of(bytes: u64) -> Self {
        let len = elements(bytes);
        Self { input: vec![1.0; len], output: vec![0.0; len] }
    }
}

/// As many numbers as have so many bytes, and at least one.
pub(super) fn elements(bytes: u64) -> usize {
    (bytes as usize / size_of::<f64>()).max(1)
}

/// Does it once. `bytes` are of the vector or of each rank's block.
pub(super) fn run(
    communicator: &Communicator<'_>,
    collective: Collective,
    bytes: u64,
    buffers: &mut Buffers,
) -> Result<(), Error> {
    let len = elements(bytes);
    let all = len * communicator.size() as usize;
    let Buffers { input, output } = buffers;
    let is_root = communicator.rank() == 0;
    let root = communicator.root(0)?;
    match collective {
        Collective::Bcast => root.bcast(&mut output[..len]),
        Collective::Reduce => root.reduce(&input[..len], &mut output[..if is_root { len } else { 0 }], Sum),
        Collective::Allreduce => communicator.allreduce(&input[..len], &mut output[..len], Sum),
        Collective::ReduceScatter => {
            communicator.reduce_scatter_block(&input[..all], &mut output[..len], Sum)
        }
        Collective::Gather => root.gather(&input[..len], &mut output[..if is_root { all } else { 0 }]),
        Collective::Allgather => communicator.allgather(&input[..len], &mut output[..all]),
        Collective::Alltoall => communicator.alltoall(&input[..all], &mut output[..all]),
        Collective::Scan => communicator.scan(&input[..len], &mut output[..len], Sum),
        other => unreachable!("no row is measured by {}", other.name()),
    }
}

/// Does it so often, and gives the time of one in ns, by the rank that took longest.
pub(super) fn time(
    communicator: &Communicator<'_>,
    (collective, bytes): (Collective, u64),
    count: u32,
    buffers: &mut Buffers,
) -> Result<f64, Error> {
    communicator.barrier()?;
    let start = Instant::now();
    for _ in 0..count {
        run(communicator, collective, bytes, buffers)?;
    }
    let mut longest = [0_u64];
    communicator.allreduce(&[start.elapsed().as_nanos() as u64], &mut longest, Max)?;
    Ok(longest[0] as f64 / f64::from(count))
}
