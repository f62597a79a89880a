//! A peer does not keep to the protocol.

use super::credit::CreditError;
use super::peer::ANNOUNCED_MAX;
use super::sequence::OutOfSequence;
use crate::wire::message::{HelloError, Kind};

/// What a peer did. The connection to it is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A kind of message that there is not.
    #[error("a message of the unknown kind {0} arrived")]
    Kind(u32),
    /// A message of a length that its kind does not have.
    #[error("a message of kind {kind:?} and {len_bytes} bytes arrived, which is too short or too long")]
    Length {
        /// Its kind.
        kind: Kind,
        /// Its length.
        len_bytes: usize,
    },
    /// A message that makes no sense at this point.
    #[error("a message of kind {kind:?} arrived {what}")]
    Unexpected {
        /// Its kind.
        kind: Kind,
        /// Why.
        what: &'static str,
    },
    /// A greeting of a process that is not the one that was connected to.
    #[error("rank {rank} of the job {job:016x} greets, who is not whom the connection is with")]
    OtherJob {
        /// Whom it calls itself.
        rank: u32,
        /// Its job.
        job: u64,
    },
    /// More announcements than are kept.
    #[error(
        "a message was announced, and {ANNOUNCED_MAX} others that this rank has announced wait to be received: \
         receive them before so many more are sent"
    )]
    TooManyAnnounced,
    /// See [`HelloError`].
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// See [`OutOfSequence`].
    #[error(transparent)]
    Sequence(#[from] OutOfSequence),
    /// See [`CreditError`].
    #[error(transparent)]
    Credit(#[from] CreditError),
}
