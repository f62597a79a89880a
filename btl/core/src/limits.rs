//! Fixed bounds. What a user may change is in [`crate::config`]; what is here is part of a format or of a proof.

/// The unit in which processors hand memory to one another.
pub const CACHE_LINE_BYTES: usize = 64;

/// The longest out-of-band address of a device. Launchers limit the values of their key-value exchange; 200 bytes pass
/// all of them in one piece.
pub const ADDRESS_BYTES_MAX: usize = 200;

/// How many peers may connect to one process over shared memory. One bit each in the process's doorbell.
pub const INBOUND_PEERS_MAX: usize = 4096;

/// How many connection requests to one process can be under way at once; a further one waits.
pub const CONNECT_SLOTS: usize = 64;

/// Transfers that both ends of one ring may work on at once.
pub const SHARED_COPIES_MAX: usize = 16;

/// The shortest and the longest ring between two processes.
pub const RING_BYTES_MIN: usize = 32 * 1024;
/// See [`RING_BYTES_MIN`].
pub const RING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A ring when nobody has chosen its length and there are few, and when there are many: [`crate::config::Config::ring_bytes_for`].
pub const RING_BYTES_LONG: usize = 2 * 1024 * 1024;
/// See [`RING_BYTES_LONG`].
pub const RING_BYTES_SHORT: usize = 256 * 1024;

/// One ring slot for so many bytes of bulk space: a ring of 2 MiB has 2048 slots.
pub const RING_BYTES_PER_SLOT: usize = 1024;

/// Length of a ring slot: five cache lines. An odd number spreads the first lines over all sets of a cache.
pub const RING_SLOT_BYTES: usize = 320;

/// What a ring of `ring_bytes` takes in all: bulk space, slots and head.
pub const fn ring_region_bytes_about(ring_bytes: usize) -> usize {
    ring_bytes + ring_bytes / RING_BYTES_PER_SLOT * RING_SLOT_BYTES + 4096
}

/// A message takes at most this part of the bulk space, so that a message, the gap before it and what the reader
/// has not given back yet always fit together.
pub const RING_MESSAGE_FRACTION: usize = 4;

/// The longest message a ring of `ring_bytes` carries in one piece.
pub const fn ring_message_bytes_max(ring_bytes: usize) -> usize {
    ring_bytes / RING_MESSAGE_FRACTION
}
