//! What several examples do with all processes of the job: two collectives, made of messages.

use ironband::{Context, Error, MemoryKey};

/// The highest tags that a program may use: the highest bit is for libraries.
const BARRIER: u64 = u64::MAX >> 1;
const KEY: u64 = BARRIER - 1;

/// Waits until all processes have called this, as `MPI_Barrier`. In each round a process tells one that is twice as far as in the round
/// before that it, and all from whom it has heard, are here; after log2 P rounds everybody has heard of everybody.
///
/// # Errors
/// Those of [`Context::receive`], when a process is lost.
pub fn barrier(context: &Context) -> Result<(), Error> {
    let (rank, size) = (context.rank(), context.size());
    let mut distance = 1;
    while distance < size {
        // An empty message waits for nobody. Two barriers in a row cannot be mixed up: messages of one sender keep their order.
        context.endpoint((rank + distance) % size)?.send(BARRIER, &[])?;
        context.endpoint((rank + size - distance) % size)?.receive(BARRIER, &mut [])?;
        distance *= 2;
    }
    Ok(())
}

/// Gives each process the keys of all, in the order of their ranks, as `MPI_Allgather`. Who has a key can reach the memory.
///
/// # Errors
/// Those of [`Context::receive`], when a process is lost.
pub fn share_keys(context: &Context, own: &MemoryKey) -> Result<Vec<MemoryKey>, Error> {
    for rank in 0..context.size() {
        context.endpoint(rank)?.send(KEY, own.as_bytes())?;
    }
    let receive = |rank| {
        let mut bytes = [0; MemoryKey::BYTES_MAX];
        let received = context.endpoint(rank)?.receive(KEY, &mut bytes)?;
        MemoryKey::from_bytes(&bytes[..received.len_bytes as usize])
    };
    (0..context.size()).map(receive).collect()
}
