//! Contexts of the processes of an MPI communicator: cargo feature `mpi`.
//!
//! MPI is used while a context is opened, and then no more: the cards of all processes are gathered once and kept, some 100 to 200 bytes for each process. So a context does
//! not borrow the communicator, which may be freed, and may be closed before or after `MPI_Finalize`.
//!
//! What calls MPI is generic over the communicator: it is compiled into the programs that use it, and other programs over a library with this feature are
//! not linked with MPI.

use ironband_core::config::Config;
use mpi::Count;
use mpi::datatype::PartitionMut;
use mpi::environment::{is_finalized, is_initialized};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives as _};

use super::bootstrap::{Bootstrap, Directory};
use super::{Context, Error};

impl Context {
    /// Opens a context of the processes of an MPI communicator, any subset of the world, in the order of its ranks; parameters are `IRONBAND_*`. All of its processes
    /// call it, as they would `MPI_Comm_dup`.
    ///
    /// ```no_run
    /// use ironband::Context;
    /// use mpi::topology::Color;
    /// use mpi::traits::*;
    ///
    /// let universe = mpi::initialize().expect("MPI can be initialized once");
    /// let world = universe.world();
    /// let half = world.split_by_color(Color::with_value(world.rank() % 2)).expect("all have a color");
    /// let context = Context::from_mpi(&half)?;
    /// assert_eq!((context.rank(), context.size()), (half.rank() as u32, half.size() as u32));
    /// context.close()?;
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// *Life.* The context is the program's, and borrows nothing: the communicator may be freed, and the context be closed before or after `MPI_Finalize`.
    /// [`Context::close`] waits for the other processes, over Ironband.
    ///
    /// *Several* contexts may be open in a process, of one communicator or of several that overlap. Each makes progress in its own calls only, and MPI in its own:
    /// a process that waits in one of them does nothing for the others. What must not be is that one process waits in MPI for a second one, and that
    /// in Ironband for the first.
    ///
    /// *Threads.* The thread that calls this has to be one that may call MPI; the context stays with it, and its other calls are none of MPI's.
    ///
    /// *Failure.* Where a process can open no device, all others get [`Error::NotOpened`] with its reason. What fails in MPI is handled by the
    /// communicator's error handler, which ends the job unless the program has set another.
    /// [`Context::abort`] is `MPI_Abort` of the world: MPI libraries end the whole job whichever communicator is given. After `MPI_Finalize` it ends
    /// this process only.
    ///
    /// # Errors
    /// As [`Context::open_over`]; [`Error::Bootstrap`] of an intercommunicator, and when MPI is not initialized or finalized already.
    pub fn from_mpi<C: Communicator>(communicator: &C) -> Result<Self, Error> {
        let bootstrap = Mpi::new(communicator)?;
        let config = Config::from_environment(|name| std::env::var(name).ok());
        Self::take_place(bootstrap, config.map_err(Error::from))
    }
}

/// The processes of an MPI communicator, for [`Context::open_over`]; see [`Context::from_mpi`].
///
/// ```no_run
/// use ironband::{Config, Context, Mpi};
///
/// let universe = mpi::initialize().expect("MPI can be initialized once");
/// let config = Config { ring_bytes: Some(1 << 20), ..Config::default() };
/// let context = Context::open_over(Mpi::new(&universe.world())?, &config)?;
/// # Ok::<(), ironband::Error>(())
/// ```
#[derive(Debug)]
pub struct Mpi<'c, C> {
    communicator: &'c C,
    /// What this process publishes.
    records: Vec<u8>,
}

impl<'c, C: Communicator> Mpi<'c, C> {
    /// Before anything is published.
    ///
    /// # Errors
    /// [`Error::Bootstrap`] of an intercommunicator, and when MPI is not initialized or finalized already.
    pub fn new(communicator: &'c C) -> Result<Self, Error> {
        let refused = |reason: &str| Err(Error::Bootstrap { reason: reason.to_owned() });
        if !is_initialized() || is_finalized() {
            return refused(
                "MPI is not running: open the context while the `Universe` of mpi::initialize lives",
            );
        }
        if communicator.test_inter() {
            return refused("an intercommunicator has two groups of ranks: merge it first");
        }
        Ok(Self { communicator, records: Vec::new() })
    }
}

/// A rank or a number of processes.
fn unsigned(number: Count) -> u32 {
    u32::try_from(number).expect("MPI has no negative ranks in communicators")
}

impl<C: Communicator> Bootstrap for Mpi<'_, C> {
    fn rank(&self) -> u32 {
        unsigned(self.communicator.rank())
    }

    fn size(&self) -> u32 {
        unsigned(self.communicator.size())
    }

    fn local_ranks(&mut self) -> Result<u32, Error> {
        Ok(unsigned(self.communicator.split_shared(self.communicator.rank()).size()))
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        append_record(&mut self.records, key, value);
        Ok(())
    }

    /// `MPI_Allgather` of the lengths, and `MPI_Allgatherv`.
    fn fence(self) -> Result<Box<dyn Directory>, Error> {
        let Self { communicator, records } = self;
        let too_much = |bytes: usize| Error::Bootstrap {
            reason: format!("{bytes} bytes about all processes are more than MPI can count ({})", Count::MAX),
        };
        // One that is too long for MPI counts as one that makes the sum too long: all ranks find that.
        let own = Count::try_from(records.len()).unwrap_or(Count::MAX);
        let mut counts = vec![0; self.communicator.size() as usize];
        communicator.all_gather_into(&own, &mut counts[..]);
        let ends = ends_of(&counts).map_err(too_much)?;
        let starts: Vec<Count> = ends.iter().zip(&counts).map(|(end, count)| end - count).collect();
        let mut bytes = vec![0; ends.last().map_or(0, |end| *end as usize)];
        let mut partition = PartitionMut::new(&mut bytes[..], &counts[..], &starts[..]);
        communicator.all_gather_varcount_into(&records[..], &mut partition);
        let abort = |code| SimpleCommunicator::world().abort(code);
        let is_over = is_finalized;
        Ok(Box::new(Gathered { rank: unsigned(communicator.rank()), bytes, starts, abort, is_over }))
    }
}

/// Where blocks of these lengths end, one behind the other; or their sum, if MPI cannot count it.
fn ends_of(counts: &[Count]) -> Result<Vec<Count>, usize> {
    let sum: usize = counts.iter().map(|count| *count as usize).sum();
    if Count::try_from(sum).is_err() {
        return Err(sum);
    }
    let add = |end: &mut Count, count: &Count| {
        *end += count;
        Some(*end)
    };
    Ok(counts.iter().scan(0, add).collect())
}

/// What all have published.
struct Gathered {
    rank: u32,
    /// The records of all, by rank, and where those of each begin.
    bytes: Vec<u8>,
    starts: Vec<Count>,
    /// `MPI_Abort` of the world, and `MPI_Finalized`.
    abort: fn(i32) -> !,
    is_over: fn() -> bool,
}

impl Directory for Gathered {
    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let at = rank as usize;
        let Some(start) = self.starts.get(at) else {
            let size = self.starts.len() as u32;
            return Err(Error::NoSuchRank { rank, size });
        };
        let end = self.starts.get(at + 1).map_or(self.bytes.len(), |next| *next as usize);
        Ok(find_record(&self.bytes[*start as usize..end], key).map(<[u8]>::to_vec))
    }

    fn abort(self: Box<Self>, code: i32, message: &str) -> ! {
        // As a launcher's: one that a shell would take for a success becomes 1.
        let code = if code & 0xff == 0 { 1 } else { code };
        eprintln!("ironband: rank {} of {} aborts the job: {message}", self.rank, self.starts.len());
        if (self.is_over)() {
            std::process::exit(code)
        }
        (self.abort)(code)
    }
}

// ---- records: a key and a value, each with its length before it as a little-endian u32 ---------------------------------

fn append_record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    for field in [key.as_bytes(), value] {
        // Keys are words of ours, and values have 64 KiB at most.
        records.extend((field.len() as u32).to_le_bytes());
        records.extend(field);
    }
}

/// The value of a key. Of records that make no sense nothing is found.
fn find_record<'r>(mut records: &'r [u8], key: &str) -> Option<&'r [u8]> {
    fn take<'r>(records: &mut &'r [u8]) -> Option<&'r [u8]> {
        let (len_bytes, rest) = records.split_first_chunk()?;
        let (field, rest) = rest.split_at_checked(u32::from_le_bytes(*len_bytes) as usize)?;
        *records = rest;
        Some(field)
    }
    loop {
        let (found, value) = (take(&mut records)?, take(&mut records)?);
        if found == key.as_bytes() {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_records() {
        let mut records = Vec::new();
        append_record(&mut records, "ab", &[7]);
        append_record(&mut records, "c", &[]);
        assert_eq!(records, [2, 0, 0, 0, b'a', b'b', 1, 0, 0, 0, 7, 1, 0, 0, 0, b'c', 0, 0, 0, 0]);
        assert_eq!(find_record(&records, "ab"), Some(&[7][..]));
        assert_eq!(find_record(&records, "c"), Some(&[][..]));
        assert_eq!(find_record(&records, "b"), None);
        // What is cut short has no last record.
        for len in 0..records.len() {
            assert_eq!(find_record(&records[..len], "c"), None, "{len} bytes");
        }
    }

    #[test]
    fn what_mpi_cannot_count_is_refused() {
        assert_eq!(ends_of(&[]), Ok(vec![]));
        assert_eq!(ends_of(&[3, 0, 4]), Ok(vec![3, 3, 7]));
        assert_eq!(ends_of(&[Count::MAX, 0]), Ok(vec![Count::MAX, Count::MAX]));
        assert_eq!(ends_of(&[Count::MAX, 1]), Err(1 << 31));
    }

    #[test]
    fn each_rank_is_asked_for_its_own() {
        let of = |value: &[u8]| {
            let mut records = Vec::new();
            append_record(&mut records, "card", value);
            records
        };
        let bytes = [of(b"one"), Vec::new(), of(b"three")].concat();
        let starts = vec![0, of(b"one").len() as Count, of(b"one").len() as Count];
        let abort = |code| std::process::exit(code);
        let mut all = Gathered { rank: 0, bytes, starts, abort, is_over: || false };
        assert_eq!(all.get(0, "card"), Ok(Some(b"one".to_vec())));
        assert_eq!(all.get(1, "card"), Ok(None));
        assert_eq!(all.get(2, "card"), Ok(Some(b"three".to_vec())));
        assert_eq!(all.get(2, "job"), Ok(None));
        assert_eq!(all.get(3, "card"), Err(Error::NoSuchRank { rank: 3, size: 3 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_records_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = find_record(&bytes, "card");
        }
    }
}
