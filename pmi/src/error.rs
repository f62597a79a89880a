//! What can go wrong, in words for the person who started the job.

use std::fmt;
use std::time::Duration;

use crate::detect::{Launcher, Protocol};

/// A wire-up operation failed. The text names launcher, protocol, operation, key, time, missing ranks, and what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Text(.0))]
pub struct Error(Box<Failure>);

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self(Box::new(failure))
    }
}

impl std::ops::Deref for Error {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

/// What an [`Error`] knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Who started this process.
    pub launcher: Launcher,
    /// What was spoken with it; none if it did not come to that.
    pub protocol: Option<Protocol>,
    /// Which process this is, if it was known already.
    pub rank: Option<u32>,
    /// What was tried: `init`, `put`, `get`, `fence`, `finalize`.
    pub operation: &'static str,
    /// The key of a put or get.
    pub key: Option<String>,
    /// How long it took to fail.
    pub elapsed: Duration,
    /// Ranks that are known to be missing or to have ended.
    pub missing: Vec<u32>,
    /// What happened.
    pub reason: Reason,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The environment says that there is a launcher, and lacks or garbles what is needed to talk to it.
    #[error("{0}")]
    Environment(String),
    /// The deadline has passed; with the limit.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The launcher has closed the connection.
    #[error("the launcher has closed the connection")]
    Closed,
    /// The launcher's answer makes no sense.
    #[error("the launcher's answer was not understood: {0}")]
    Malformed(String),
    /// The launcher refused; with its words.
    #[error("the launcher refused: {0}")]
    Refused(String),
    /// Other processes of the job have ended, or failed, before all had come.
    #[error("not all processes of the job have come: {0}")]
    Incomplete(String),
    /// What the caller wants cannot be stored or asked for.
    #[error("{0}")]
    Misuse(String),
    /// The operating system refused.
    #[error("{0}")]
    System(String),
}

impl Reason {
    pub(crate) fn system(call: &str, error: rustix::io::Errno) -> Self {
        Self::System(format!("{call}: {error}"))
    }
}

/// What a protocol reports: who is missing, where it says so, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) missing: Vec<u32>,
    pub(crate) reason: Reason,
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self { missing: Vec::new(), reason }
    }
}

struct Text<'a>(&'a Failure);

impl fmt::Display for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { launcher, protocol, rank, operation, key, elapsed, missing, reason } = self.0;
        write!(out, "{operation}")?;
        if let Some(key) = key {
            write!(out, " of {key:?}")?;
        }
        write!(out, " failed")?;
        if let Some(rank) = rank {
            write!(out, " in rank {rank}")?;
        }
        write!(out, " after {:.1} s under {launcher}", elapsed.as_secs_f64())?;
        if let Some(protocol) = protocol {
            write!(out, " ({protocol})")?;
        }
        write!(out, ": {reason}")?;
        if !missing.is_empty() {
            write!(out, "; missing: {}", Ranks(missing))?;
        }
        if let Some(hint) = hint(self.0) {
            write!(out, "; {hint}")?;
        }
        Ok(())
    }
}

/// What to try.
fn hint(error: &Failure) -> Option<&'static str> {
    let is_init = error.operation == "init";
    let is_tcp = error.protocol == Some(Protocol::Tcp);
    Some(match &error.reason {
        Reason::Environment(_) => {
            "start the program with a launcher (mpirun, mpiexec, srun, ironband run), or set IRONBAND_PMI=single to run it alone"
        }
        Reason::TimedOut(_) | Reason::System(_) if is_init && is_tcp => {
            "rank 0 must run and be reached by all: IRONBAND_PMI_ROOT=HOST:PORT in all processes says where it is (with srun, --mpi=pmi2 and --mpi=pmix need none); IRONBAND_PMI_INIT_SECONDS sets the limit"
        }
        Reason::System(_) if is_init && error.protocol == Some(Protocol::Pmix) => {
            "install the PMIx library (Debian: libpmix2), or set IRONBAND_PMIX_LIBRARY to the launcher's own"
        }
        Reason::TimedOut(_) if is_init => {
            "the launcher's connection may be another program's, inherited (IRONBAND_PMI=single runs this one alone); IRONBAND_PMI_INIT_SECONDS sets the limit"
        }
        Reason::TimedOut(_) if matches!(error.operation, "put" | "get") => {
            "the launcher may be stopped or overloaded; IRONBAND_PMI_INIT_SECONDS sets the limit"
        }
        Reason::TimedOut(_) if error.launcher == Launcher::Slurm && !is_tcp => {
            "a process may have ended without Slurm ending the others: add -K to srun; IRONBAND_PMI_FENCE_SECONDS sets the limit"
        }
        Reason::TimedOut(_) => "a process may have ended or hang; IRONBAND_PMI_FENCE_SECONDS sets the limit",
        Reason::Closed if is_tcp => "rank 0, through which the processes exchange values, has ended",
        Reason::Closed => "another process may have ended the job, or the launcher has died",
        _ => return None,
    })
}

/// At most so many ranks are listed one by one.
const RANKS_LISTED_MAX: usize = 16;

struct Ranks<'a>(&'a [u32]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "rank{} ", if self.0.len() == 1 { "" } else { "s" })?;
        for (at, rank) in self.0.iter().take(RANKS_LISTED_MAX).enumerate() {
            write!(out, "{}{rank}", if at == 0 { "" } else { ", " })?;
        }
        match self.0.len().checked_sub(RANKS_LISTED_MAX) {
            Some(more) if more > 0 => write!(out, " and {more} more"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            launcher: Launcher::Slurm,
            protocol: Some(Protocol::Pmi1),
            rank: Some(2),
            operation: "fence",
            key: None,
            elapsed: Duration::from_millis(300_040),
            missing: vec![1],
            reason: Reason::TimedOut(Duration::from_secs(300)),
        }
    }

    #[test]
    fn the_text_names_everything() {
        assert_eq!(
            Error::from(failure()).to_string(),
            "fence failed in rank 2 after 300.0 s under Slurm's srun (PMI-1): no answer within 300s; missing: rank 1; \
             a process may have ended without Slurm ending the others: add -K to srun; IRONBAND_PMI_FENCE_SECONDS sets the limit"
        );
        let unknown = Failure { protocol: None, reason: Reason::Environment("x".to_owned()), ..failure() };
        assert!(
            Error::from(unknown)
                .to_string()
                .contains("under Slurm's srun: x; missing: rank 1; start the program")
        );
        let refused = Failure {
            operation: "put",
            key: Some("card".to_owned()),
            missing: (0..20).collect(),
            reason: Reason::Refused("out of memory".to_owned()),
            ..failure()
        };
        assert_eq!(
            Error::from(refused).to_string(),
            "put of \"card\" failed in rank 2 after 300.0 s under Slurm's srun (PMI-1): the launcher refused: out of memory; \
             missing: ranks 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 4 more"
        );
    }

    #[test]
    fn hints_fit_what_was_done() {
        let timed_out = Reason::TimedOut(Duration::from_secs(1));
        let no_library = Reason::System("libpmix.so.2 could not be loaded".to_owned());
        for (operation, launcher, protocol, reason, wanted) in [
            ("init", Launcher::Mpich, Protocol::Pmi1, timed_out.clone(), "IRONBAND_PMI_INIT_SECONDS"),
            ("get", Launcher::Slurm, Protocol::Pmi1, timed_out.clone(), "IRONBAND_PMI_INIT_SECONDS"),
            ("fence", Launcher::Slurm, Protocol::Pmix, timed_out.clone(), "add -K to srun"),
            ("fence", Launcher::Slurm, Protocol::Tcp, timed_out.clone(), "IRONBAND_PMI_FENCE_SECONDS"),
            ("fence", Launcher::OpenMpi, Protocol::Pmix, timed_out.clone(), "IRONBAND_PMI_FENCE_SECONDS"),
            ("init", Launcher::Slurm, Protocol::Tcp, timed_out, "IRONBAND_PMI_ROOT"),
            ("init", Launcher::Prrte, Protocol::Pmix, no_library, "IRONBAND_PMIX_LIBRARY"),
            ("fence", Launcher::Slurm, Protocol::Tcp, Reason::Closed, "rank 0"),
            ("fence", Launcher::Mpich, Protocol::Pmi1, Reason::Closed, "launcher has died"),
        ] {
            let failure = Failure { operation, launcher, protocol: Some(protocol), reason, ..failure() };
            let text = Error::from(failure).to_string();
            assert!(text.contains(wanted), "{text}");
        }
    }
}
