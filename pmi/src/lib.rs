//! Wire-up: how the processes of a parallel program find each other, under any launcher.
//!
//! A launcher (mpirun, prterun, mpiexec, srun, `ironband run`) starts N processes and gives each a number and a way to exchange small
//! values with the others. What that way is differs: PMI-1, PMI-2, PMIx, nothing. [`Pmi`] is one surface over all of them: who am
//! I, how many are we, who is on my node, put, fence, get. It knows nothing of what is exchanged, and depends on no MPI library.
//!
//! Nothing waits for ever: an operation that fails says which, with whom, after how long, whose absence is known, and what to
//! try ([`Error`]).
//!
//! | variable | meaning |
//! |---|---|
//! | `IRONBAND_PMI` | `auto` (default), `pmi1`, `pmi2`, `pmix`, `tcp`, `single` |
//! | `IRONBAND_PMI_INIT_SECONDS` | limit for what a launcher answers by itself; 60 |
//! | `IRONBAND_PMI_FENCE_SECONDS` | limit for what waits for other processes; 300 |
//! | `IRONBAND_PMI_ROOT` | `HOST:PORT` of rank 0, for `tcp` |
//! | `IRONBAND_PMI_RANK`, `IRONBAND_PMI_SIZE` | who this process is, for `tcp` outside Slurm |
//! | `IRONBAND_PMI_JOB` | a word that tells this job from others at the same port, for `tcp` |
//! | `IRONBAND_PMIX_LIBRARY` | what to load instead of the launcher's `libpmix.so.2`, or the system's |

mod connections;
mod deadline;
mod detect;
#[cfg(test)]
mod dialogues;
mod environment;
mod error;
mod exchange;
#[cfg(test)]
mod fake;
mod flat;
/// For `tests/fuzz`.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inherited;
mod nodes;
mod pmi;
mod pmi1;
mod pmi2;
#[cfg(test)]
mod pmi2_tests;
mod pmix;
mod record;
mod root;
mod single;
mod slurm;
mod stream;
mod value;

pub use detect::{Launcher, Protocol};
pub use error::{Error, Failure, Reason};
pub use nodes::NodeMap;
pub use pmi::Pmi;

/// The other side: what a launcher needs to serve PMI-1.1 to the processes that it has started.
pub mod launcher {
    pub use crate::connections::{Connections, Event};
    pub use crate::pmi1::server::{Action, Server};
}
