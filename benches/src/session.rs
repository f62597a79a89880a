//! A job from this rank's side: start, agreement between ranks, end. By MPI, or by Ironband alone.

use std::{collections::BTreeMap, fmt};

use ::ironband::Context;
use ::mpi::{Threading, topology::SimpleCommunicator};

use crate::{
    error::BenchError,
    options::Implementation,
    point_to_point::{Lines, SharedChannel},
};

mod ironband;
mod mpi;

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

/// Which of the two carries the job.
enum Job {
    Mpi(mpi::Job),
    Ironband(Box<ironband::Job>),
}

/// A job that has been joined; left when dropped.
pub struct Session {
    // Before the job, which they were made by.
    lines: Option<Lines>,
    job: Job,
    rank: i32,
    ranks: i32,
    library: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("rank", &self.rank)
            .field("ranks", &self.ranks)
            .finish_non_exhaustive()
    }
}

/// Does the same with a job of either kind.
macro_rules! by_either {
    ($session:expr, $job:ident => $call:expr) => {
        match &$session.job {
            Job::Mpi($job) => $call,
            Job::Ironband($job) => $call,
        }
    };
}

impl Session {
    /// Joins the job. MPI is started with the thread level wanted; a lower one granted is the caller's to refuse.
    ///
    /// # Errors
    /// What Ironband says when it cannot start. MPI ends the process itself.
    ///
    /// # Panics
    /// When MPI was started before in this process.
    pub fn start(implementation: Implementation, threading: Threading) -> Result<Self, BenchError> {
        if implementation == Implementation::Mpi {
            let (job, library) = mpi::Job::start(threading);
            let (rank, ranks) = job.place();
            return Ok(Self { lines: None, job: Job::Mpi(job), rank, ranks, library });
        }
        let job = ironband::Job::start()?;
        let (rank, ranks) = job.place();
        let mut library = format!("Ironband {} called from Rust", env!("CARGO_PKG_VERSION"));
        if implementation == Implementation::Line {
            "a cache line between two processes".clone_into(&mut library);
        }
        Ok(Self { lines: None, job: Job::Ironband(Box::new(job)), rank, ranks, library })
    }

    /// For [`Implementation::Line`]: shares the lines of this rank's pair. All ranks call it, when their number has been checked.
    ///
    /// # Errors
    /// When they cannot be shared, as between two nodes.
    pub fn share_lines(&mut self) -> Result<(), BenchError> {
        let Job::Ironband(job) = &self.job else { return Ok(()) };
        let Pair { peer, active, .. } = self.pair();
        let shared = if active {
            let created = Lines::create();
            // One that has none says so.
            let place = created.as_ref().map_or("", |(_, place)| place);
            job.tell(peer, place);
            let process = job.hear(peer).parse().unwrap_or(0);
            created.map(|(lines, _)| {
                lines.set_peer(process);
                lines
            })
        } else {
            let place = job.hear(peer);
            job.tell(peer, &std::process::id().to_string());
            Lines::open(&place)
        };
        let shared = shared.map_err(|source| BenchError::Line { peer, source });
        self.lines = Some(self.agree(shared)?);
        Ok(())
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

    /// What carries the messages, by name and version.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// What it uses, as far as it can be known: what Ironband has opened, or what Open MPI was told.
    pub fn transport(&self) -> String {
        match (&self.job, &self.lines) {
            (_, Some(_)) => "shared memory".to_owned(),
            (Job::Ironband(job), None) => job.context().report().join("; "),
            (Job::Mpi(_), None) => mpi::transport(),
        }
    }

    /// The environment's variables that have a say in it.
    pub fn environment(&self) -> BTreeMap<String, String> {
        match &self.job {
            Job::Mpi(_) => mpi::transport_environment().collect(),
            Job::Ironband(_) => std::env::vars().filter(|(name, _)| name.starts_with("IRONBAND_")).collect(),
        }
    }

    /// MPI's communicator of all ranks.
    ///
    /// # Panics
    /// When the job is not MPI's: benchmarks that use it do not offer another.
    pub fn world(&self) -> &SimpleCommunicator {
        match &self.job {
            Job::Mpi(job) => job.world(),
            Job::Ironband(_) => unreachable!("one-sided benchmarks are MPI's"),
        }
    }

    /// Ironband's context, unless the job is MPI's.
    pub fn context(&self) -> Option<&Context> {
        match &self.job {
            Job::Mpi(_) => None,
            Job::Ironband(job) => Some(job.context()),
        }
    }

    /// The lines that [`Session::share_lines`] has shared.
    pub fn lines(&self) -> Option<&Lines> {
        self.lines.as_ref()
    }

    /// A channel to `peer` for several threads.
    pub fn shared_channel(&self, peer: i32) -> Result<SharedChannel<'_>, BenchError> {
        let provided = match &self.job {
            Job::Mpi(job) if job.provided() >= Threading::Multiple => {
                return Ok(SharedChannel::new(self, peer));
            }
            Job::Mpi(job) => format!("{:?}", job.provided()),
            Job::Ironband(_) => "one thread".to_owned(),
        };
        Err(BenchError::ThreadLevel { provided })
    }

    /// Waits for all ranks.
    pub fn barrier(&self) {
        by_either!(self, job => job.barrier());
    }

    /// Sum over all ranks, on rank 0; 0 elsewhere.
    pub fn sum_at_root(&self, value: f64) -> f64 {
        by_either!(self, job => job.sum_at_root(value))
    }

    /// Samples of all ranks, one rank's behind the other's, on rank 0; empty elsewhere.
    pub fn gather_at_root(&self, samples: &[f64]) -> Vec<f64> {
        by_either!(self, job => job.gather_at_root(samples))
    }

    /// The lowest rank that has something to say and what it says, told to every rank.
    pub fn first_word(&self, word: Option<&str>) -> Option<(i32, String)> {
        by_either!(self, job => job.first_word(word))
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
