//! The verbs objects, one type each, destroyed when dropped. An object keeps those alive that it was made from, so that they
//! go in the order that verbs want, whoever drops them.

mod context;
mod error;
mod identifier;
mod queue;
mod queue_pair;
mod region;

pub(super) use context::{Context, ProtectionDomain};
pub(super) use error::VerbError;
pub(super) use identifier::{Event, EventChannel, Happened, Identifier, Terms, local_addresses};
pub(super) use queue::{CompletionQueue, RECEIVES_PER_POST, Receive, SharedReceiveQueue, WorkCompletion};
pub(super) use queue_pair::{
    ACK_TIMEOUT, AddressHandle, Part, Path, QueuePair, RETRIES, RNR_RETRIES, Sizes, Work,
};
pub(super) use region::Buffers;
pub use region::MemoryRegion;
