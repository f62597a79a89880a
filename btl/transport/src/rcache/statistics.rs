//! What a cache has done.

use std::fmt;

/// Counts since the cache was made, and what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests for memory that was registered; with several threads, about.
    pub hits: u64,
    /// Requests for which memory was registered.
    pub misses: u64,
    /// Registrations ended because their memory was unmapped.
    pub invalidated: u64,
    /// Registrations ended to make room.
    pub evicted: u64,
    /// Registrations for one use: nothing tells of unmapped memory, there was no room, or pages changed meanwhile.
    pub uncached: u64,
    /// Registrations in the cache.
    pub regions: usize,
    /// Their pages in all, in bytes.
    pub bytes: usize,
}

impl fmt::Display for Statistics {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hits, misses, invalidated, evicted, uncached, regions, bytes } = self;
        write!(
            to,
            "registrations: {hits} hits, {misses} misses, {uncached} for one use, {invalidated} unmapped, {evicted} evicted; {regions} cached, {} KiB",
            bytes / 1024
        )
    }
}
