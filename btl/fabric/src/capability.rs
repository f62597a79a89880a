//! What a device says of itself.

/// Against what an atomic operation of the device is atomic (verbs: `ibv_atomic_cap`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomicScope {
    /// The device has no atomics.
    None,
    /// Atomic against other operations of the same device only (`IBV_ATOMIC_HCA`).
    Device,
    /// Atomic against everything, the target's processor included (`IBV_ATOMIC_GLOB`).
    Global,
}

/// Sizes and counts. All lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A message up to this length travels with its header in one unit of the device: one cache line, or one inline
    /// work request.
    pub inline_bytes_max: usize,
    /// The longest message that the copying sends take, header included.
    pub send_copy_bytes_max: usize,
    /// Up to this length, header included, a message is best sent at once; longer ones are better announced and read. What the
    /// user has set, or what suits the device; at most `send_copy_bytes_max`.
    pub eager_bytes: usize,
    /// The longest RDMA operation.
    pub rdma_bytes_max: usize,
    /// Atomics and emulated RDMA that one queue pair keeps under way; beyond that posts are `Busy`.
    pub outstanding_max: usize,
    /// Registrations of memory at a time, of all processes that use the device.
    pub regions_max: usize,
    /// Memory that this process may register, its device's own buffers included (`RLIMIT_MEMLOCK`); none is any.
    pub registered_bytes_max: Option<u64>,
}

/// What one device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Sizes and counts.
    pub limits: Limits,
    /// Atomicity of fetch-and-add, compare-and-swap and the others.
    pub atomics: AtomicScope,
    /// RDMA write can notify the target with 32 bits.
    pub write_with_immediate: bool,
    /// Peers on other nodes can be reached.
    pub between_nodes: bool,
    /// Peers in other processes can be reached. Without, the device is a simulation.
    pub between_processes: bool,
    /// What the device moves at best, in megabits per second, where it says so.
    pub megabits: Option<u32>,
    /// RDMA takes local memory only if it is registered, for the time of the request if need be. Without, registration of
    /// local memory is of no use.
    pub registers_local_memory: bool,
    /// Long messages are better written by their sender than read by their receiver: the adapter asks for one read of a queue
    /// pair at a time (`max_qp_init_rd_atom`), so that each waits for a round trip.
    pub prefers_writing: bool,
    /// A queue pair to the own process can be made.
    pub loopback: bool,
    /// RDMA proceeds without the target's process polling. It may differ by peer: then this says what the device can
    /// do at best, and the report line what was found. Reads of up to 32 bytes over Soft-iWARP do not.
    pub one_sided: bool,
    /// The key, the range and the access of every remote operation are checked ([`crate::CompletionStatus::RemoteAccess`]).
    /// Without, atomics alone are sure to be checked, and whoever knows an address can reach it.
    pub checks_remote_keys: bool,
    /// Registered pages stay this process's when it forks: the child gets copies. Without, a page that the process writes after a fork is
    /// another than the one that is registered (Linux before 5.12).
    pub survives_fork: bool,
    /// A remote operation that was refused ends with an error, and the queue pair works on. Reliable queue pairs of verbs
    /// do not: they enter the error state.
    pub survives_refusal: bool,
    /// A remote operation that was refused ends as [`crate::CompletionStatus::RemoteAccess`]. Without, it ends as
    /// [`crate::CompletionStatus::Flushed`], with its connection: an iWARP adapter does not say why the connection has ended.
    pub names_refusal: bool,
    /// A connection is made, and messages are accepted for it, while the peer's process does not poll.
    pub connects_alone: bool,
    /// How large transfers move, and why it was chosen: one clause for the report line.
    pub single_copy: String,
}
