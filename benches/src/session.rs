//! An MPI job from this rank's side: start, agreement between ranks, end.

use mpi::{
    Threading,
    collective::SystemOperation,
    datatype::PartitionMut,
    environment::Universe,
    topology::{Process, SimpleCommunicator},
    traits::*,
};

use crate::{
    error::BenchError,
    point_to_point::{Channel, SharedChannel},
};

/// The pair of ranks that this one belongs to: rank `r` of the first half and rank `r + count` of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Number of pairs.
    pub count: i32,
    /// The other rank.
    pub peer: i32,
    /// Whether this rank sends first and holds the clock that counts.
    pub active: bool,
}

/// MPI, initialised; finalised when dropped.
pub struct Session {
    world: SimpleCommunicator,
    provided: Threading,
    rank: i32,
    ranks: i32,
    library: String,
    // Last, because dropping it finalises MPI and nothing may follow.
    _universe: Universe,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("rank", &self.rank)
            .field("ranks", &self.ranks)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Starts MPI with the thread level wanted; a lower one granted is the caller's to refuse.
    ///
    /// # Panics
    /// When MPI was started before in this process.
    pub fn start(threading: Threading) -> Self {
        let (universe, provided) =
            mpi::initialize_with_threading(threading).expect("MPI is started once, here");
        let world = universe.world();
        let (rank, ranks) = (world.rank(), world.size());
        let library = mpi::environment::library_version().unwrap_or_default();
        // Open MPI's sentence goes on with the builder's host and dates.
        let library = library.split([',', '\n', '\0']).next().unwrap_or_default().trim().to_owned();
        Self { world, provided, rank, ranks, library, _universe: universe }
    }

    /// This rank.
    pub fn rank(&self) -> i32 {
        self.rank
    }

    /// Number of ranks.
    pub fn ranks(&self) -> i32 {
        self.ranks
    }

    /// The pair of this rank, in a job of an even number of ranks.
    pub fn pair(&self) -> Pair {
        let count = self.ranks / 2;
        let active = self.rank < count;
        Pair { count, peer: if active { self.rank + count } else { self.rank - count }, active }
    }

    /// Name and version of the MPI library.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// The communicator of all ranks.
    pub fn world(&self) -> &SimpleCommunicator {
        &self.world
    }

    /// A channel to `peer` for several threads.
    pub fn shared_channel(&self, peer: i32) -> Result<SharedChannel<'_>, BenchError> {
        if self.provided < Threading::Multiple {
            return Err(BenchError::ThreadLevel { provided: format!("{:?}", self.provided) });
        }
        Ok(SharedChannel::new(Channel::new(self, peer)))
    }

    /// `MPI_Barrier`.
    pub fn barrier(&self) {
        self.world.barrier();
    }

    fn root(&self) -> Process<'_> {
        self.world.process_at_rank(0)
    }

    /// Sum over all ranks, on rank 0; 0 elsewhere.
    pub fn sum_at_root(&self, value: f64) -> f64 {
        let mut sum = 0.0;
        if self.rank == 0 {
            self.root().reduce_into_root(&value, &mut sum, SystemOperation::sum());
        } else {
            self.root().reduce_into(&value, SystemOperation::sum());
        }
        sum
    }

    /// Samples of all ranks, one rank's behind the other's, on rank 0; empty elsewhere.
    pub fn gather_at_root(&self, samples: &[f64]) -> Vec<f64> {
        let count = i32::try_from(samples.len()).expect("-i bounds the samples");
        if self.rank != 0 {
            self.root().gather_into(&count);
            self.root().gather_varcount_into(samples);
            return Vec::new();
        }
        let mut counts = vec![0; self.ranks as usize];
        self.root().gather_into_root(&count, &mut counts[..]);
        let starts: Vec<i32> = counts
            .iter()
            .scan(0_i32, |end, &count| {
                let start = *end;
                *end = end.checked_add(count).expect("-i bounds the samples");
                Some(start)
            })
            .collect();
        let total: i32 = counts.iter().sum();
        let mut all = vec![0.0; total as usize];
        self.root().gather_varcount_into_root(samples, &mut PartitionMut::new(&mut all[..], counts, starts));
        all
    }

    /// The lowest rank that has something to say and what it says, told to every rank.
    pub fn first_word(&self, word: Option<&str>) -> Option<(i32, String)> {
        let mine = if word.is_some() { self.rank } else { i32::MAX };
        let mut speaker = i32::MAX;
        self.world.all_reduce_into(&mine, &mut speaker, SystemOperation::min());
        if speaker == i32::MAX {
            return None;
        }
        let mut text = word.filter(|_| speaker == self.rank).unwrap_or_default().as_bytes().to_vec();
        let mut length = text.len() as u64;
        let process = self.world.process_at_rank(speaker);
        process.broadcast_into(&mut length);
        text.resize(length as usize, 0);
        process.broadcast_into(&mut text[..]);
        Some((speaker, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Turns a result that may differ from rank to rank into one that is an error everywhere or nowhere, so
    /// that no rank waits for one that gave up.
    pub fn agree<T>(&self, result: Result<T, BenchError>) -> Result<T, BenchError> {
        let mine = result.as_ref().err().map(ToString::to_string);
        match (self.first_word(mine.as_deref()), result) {
            (None, result) => result,
            (Some((rank, message)), _) => Err(BenchError::Peer { rank, message }),
        }
    }
}
