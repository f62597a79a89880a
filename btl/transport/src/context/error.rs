//! What can go wrong for a program, in words for the person who has to mend it.

use ironband_core::protocol::RequestError;
use ironband_fabric::{CompletionStatus, DeviceError, RegisterError};

/// An operation of a [`Context`](super::Context) failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The processes of the job could not be brought together.
    #[error(transparent)]
    WireUp(#[from] ironband_pmi::Error),
    /// A parameter has a value that it cannot have.
    #[error(transparent)]
    Config(#[from] ironband_core::config::ConfigError),
    /// No device can be used.
    #[error("no device can be used: {reasons}")]
    NoDevice {
        /// Each with its reason.
        reasons: String,
    },
    /// A device could not be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// As [`Error::WireUp`], by a [`Bootstrap`](super::Bootstrap) that is no launcher.
    #[error("the processes could not be brought together: {reason}")]
    Bootstrap {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process has come, and could not take its place: all others get this error.
    #[error("rank {rank} could not open a context: {reason}")]
    NotOpened {
        /// The process.
        rank: u32,
        /// What it says itself.
        reason: String,
    },
    /// A process is needed that has not come, or has ended.
    #[error("rank {rank} is missing after {seconds} s: {reason}")]
    Missing {
        /// The process.
        rank: u32,
        /// How long it was waited for, in seconds.
        seconds: u64,
        /// What is known.
        reason: String,
    },
    /// No device reaches a process.
    #[error("rank {rank} cannot be reached: {reason}")]
    Unreachable {
        /// The process.
        rank: u32,
        /// Each device with its reason.
        reason: String,
    },
    /// A process is lost: it has ended, or the connection to it has broken.
    #[error("rank {rank} is lost: {reason}")]
    PeerLost {
        /// The process.
        rank: u32,
        /// What happened.
        reason: String,
    },
    /// A message is longer than the buffer that was to receive it.
    #[error(
        "a message of {len_bytes} bytes from rank {source_rank}, tag {tag:#x}, does not fit a buffer of {capacity_bytes}"
    )]
    Truncated {
        /// The sender.
        source_rank: u32,
        /// Its tag.
        tag: u64,
        /// The message's length.
        len_bytes: u64,
        /// The buffer's.
        capacity_bytes: u64,
    },
    /// The data could not be moved, though the connection lives.
    #[error("the data of a message to or from rank {rank} could not be moved")]
    NotMoved {
        /// The process.
        rank: u32,
    },
    /// There is no such process.
    #[error("the job has {size} processes, and no rank {rank}")]
    NoSuchRank {
        /// What was asked for.
        rank: u32,
        /// How many there are.
        size: u32,
    },
    /// Memory could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// An access to memory of another process that lies outside it, or is not aligned.
    #[error("{len_bytes} bytes at offset {offset} of memory of {memory_bytes} bytes: {rule}")]
    Range {
        /// From here.
        offset: u64,
        /// So much.
        len_bytes: u64,
        /// How long the memory is.
        memory_bytes: u64,
        /// What must hold.
        rule: &'static str,
    },
    /// A key for memory of another process is none.
    #[error("the key is not one of Ironband's, or of another release: {reason}")]
    Key {
        /// What is wrong.
        reason: &'static str,
    },
    /// An access to memory of another process was refused there, or has failed.
    #[error("access to memory of rank {rank} failed: {status:?}")]
    Access {
        /// The process.
        rank: u32,
        /// What the device says.
        status: CompletionStatus,
    },
    /// An active message with a number that is Ironband's.
    #[error("{id:#x} is no number of an active message: they end before {:#x}", super::ACTIVE_IDS_OWN)]
    ActiveId {
        /// The number.
        id: u32,
    },
    /// A message that the device cannot carry in one piece.
    #[error("an active message has {len_bytes} bytes, and {limit_bytes} at most can be sent to rank {rank}")]
    TooLong {
        /// To whom.
        rank: u32,
        /// Its length.
        len_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

impl Error {
    /// Of a request; `reason` says why a peer is lost.
    pub(super) fn of_request(error: RequestError, reason: impl FnOnce(u32) -> String) -> Self {
        match error {
            RequestError::Truncated { source_rank, tag, len_bytes, capacity_bytes } => {
                Self::Truncated { source_rank, tag, len_bytes, capacity_bytes }
            }
            RequestError::PeerLost { rank } => Self::PeerLost { rank, reason: reason(rank) },
            RequestError::NotMoved { rank } => Self::NotMoved { rank },
        }
    }
}
