//! Work requests and completions.

use std::ptr::NonNull;

use crate::Payload;

/// Number of a queue pair of one device, dense from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueuePairNumber(pub u32);

impl QueuePairNumber {
    /// As an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the poster of a work request wants to find in its completion (verbs: `wr_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkId(pub u64);

/// What became of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "Busy means that nothing was sent"]
pub enum Posted {
    /// Done before the call returned: no completion follows.
    Complete,
    /// Accepted: a completion follows.
    Queued,
    /// Not accepted for lack of room: poll, then post again. Nothing was taken.
    Busy,
    /// The queue pair is in the error state (or was never created): nothing was taken and nothing will be.
    Failed,
}

/// What a registered region may be used for (verbs: `ibv_access_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Peers may read it.
    pub remote_read: bool,
    /// Peers may write it.
    pub remote_write: bool,
    /// Peers may run atomics on it.
    pub remote_atomic: bool,
}

impl Access {
    /// Only this process.
    pub const LOCAL: Self = Self { remote_read: false, remote_write: false, remote_atomic: false };
    /// Everything.
    pub const ALL: Self = Self { remote_read: true, remote_write: true, remote_atomic: true };
}

/// An address in the peer's memory, with the key that allows its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddress {
    /// Virtual address in the peer.
    pub address: u64,
    /// What [`crate::Device::remote_key`] gave in the peer.
    pub key: u64,
}

/// Who makes progress while an RDMA read is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadHint {
    /// The owner of the memory may be computing and not poll for long (one-sided communication).
    OwnerMayBeAway,
    /// The owner waits for this very transfer (rendezvous): its processor may take a share of the work.
    OwnerIsWaiting,
}

/// The atomic operations. The operand is in the low bytes for a 4-byte width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomicOp {
    /// Adds, wrapping.
    FetchAdd(u64),
    /// Bitwise and.
    FetchAnd(u64),
    /// Bitwise or.
    FetchOr(u64),
    /// Bitwise exclusive or.
    FetchXor(u64),
    /// Minimum as signed integers.
    FetchMin(u64),
    /// Maximum as signed integers.
    FetchMax(u64),
    /// Replaces.
    Swap(u64),
    /// Replaces with `swap` if the value is `compare`.
    CompareSwap {
        /// The expected value.
        compare: u64,
        /// The new value.
        swap: u64,
    },
}

/// How wide the operand of an atomic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomicWidth {
    /// 4 bytes.
    Four,
    /// 8 bytes.
    Eight,
}

impl AtomicWidth {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Packs the payload of one message: gets the room and its length, returns how much it wrote.
///
/// The room is memory that the peer can see and write at any time, hence a pointer and not a slice: write it, do not
/// read it back.
pub trait SendFill: FnOnce(NonNull<u8>, usize) -> usize {}
impl<T: FnOnce(NonNull<u8>, usize) -> usize> SendFill for T {}

/// What must be given back after a receive completion.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the receive buffer is lost until it is released"]
pub struct ReceiveToken(pub(crate) u64);

/// The operation that a completion ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// RDMA read.
    Read,
    /// RDMA write.
    Write,
    /// Any atomic.
    Atomic,
}

/// How a work request ended (verbs: `ibv_wc_status`, reduced to what the layers above distinguish).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionStatus {
    /// Done.
    Success,
    /// The peer refused the key, the range or the access.
    RemoteAccess,
    /// The memory at one of the ends is not mapped.
    Unmapped,
    /// The queue pair failed or was destroyed before the request was done.
    Flushed,
}

/// A message that has arrived.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it holds a buffer"]
pub struct Message {
    /// From which queue pair.
    pub qp: QueuePairNumber,
    /// The sender's immediate data.
    pub imm: u32,
    /// What it carries.
    pub payload: Payload,
    /// Give this back when the payload is no longer needed.
    pub token: ReceiveToken,
}

/// One entry of a completion queue.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a receive completion holds a buffer"]
pub enum Completion {
    /// A message has arrived.
    Received(Message),
    /// A peer's RDMA write with immediate has arrived.
    WrittenWithImmediate {
        /// From which queue pair.
        qp: QueuePairNumber,
        /// The writer's immediate data.
        imm: u32,
        /// How much was written, in bytes.
        len_bytes: usize,
    },
    /// A work request of this side has ended.
    Done {
        /// On which queue pair.
        qp: QueuePairNumber,
        /// Which request.
        id: WorkId,
        /// What it was.
        operation: Operation,
        /// How it ended.
        status: CompletionStatus,
    },
    /// A queue pair has entered the error state; [`crate::Device::failure`] says why. Its pending requests complete
    /// as `Flushed`, before or after this.
    Disconnected {
        /// Which queue pair.
        qp: QueuePairNumber,
    },
}
