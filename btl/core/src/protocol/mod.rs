//! The protocol of the Rust API's messages, above the fabrics: which receive a message belongs to, how much a peer may send
//! unasked, and whether a message is the next one. Under Open MPI, ob1 does all of this and nothing here runs.

mod arriving;
pub mod credit;
#[cfg(test)]
mod hostile_tests;
mod machine;
#[cfg(test)]
mod machine_tests;
pub mod matching;
mod peer;
mod receiving;
mod requests;
mod sending;
pub mod sequence;
mod violation;

pub use machine::{Arrival, Counts, Found, Post, Protocol, Received, RequestError, Transfer};
pub use peer::{ANNOUNCED_MAX, INITIAL_WINDOW_BYTES, PeerLimits};
pub use requests::{Handle, Requests};
pub use sending::Eager;
pub use violation::Violation;
