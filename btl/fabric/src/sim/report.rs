//! What a world tells of itself: counts, and what a real adapter would have turned into corruption.

/// What has happened in a world so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Events handled.
    pub events: u64,
    /// Messages posted.
    pub messages: u64,
    /// Their bytes.
    pub message_bytes: u64,
    /// Messages that never arrived, because the connection had failed or the receiver had gone.
    pub messages_lost: u64,
    /// RDMA reads, writes and atomics posted.
    pub requests: u64,
    /// Bytes moved by reads and writes.
    pub rdma_bytes: u64,
    /// Operations that a peer has refused.
    pub refusals: u64,
    /// Posts that were `Busy`, for whatever reason.
    pub busy: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections that there are now, those included that are being made or of which one end is left.
    pub connections_now: u64,
    /// Requests that have not ended now.
    pub requests_now: u64,
    /// Ends of connections that have failed.
    pub failures: u64,
    /// Faults that were injected, [`super::World::fail`] and [`super::World::kill`] included. Lateness does not count.
    pub faults: u64,
}

/// Something that a real adapter would turn into corrupted memory, or into a failed connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, in virtual nanoseconds.
    pub time_ns: u64,
    /// Number of the device that did it.
    pub device: u32,
    /// What it did, in words.
    pub what: String,
}
