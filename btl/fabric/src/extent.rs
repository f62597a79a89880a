//! A piece of registered memory, and the check that every request of a peer passes before its address is used.

use crate::Access;

/// What a request wants to do with registered memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Read,
    Write,
    Atomic,
}

/// Where a region lies and what peers may do with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) start: usize,
    pub(crate) len_bytes: usize,
    pub(crate) access: Access,
}

impl Extent {
    /// The local pointer for a peer's request, if range and access allow it.
    pub(crate) fn check(&self, address: u64, len_bytes: u64, want: Want) -> Option<*mut u8> {
        let allowed = match want {
            Want::Read => self.access.remote_read,
            Want::Write => self.access.remote_write,
            Want::Atomic => self.access.remote_atomic,
        };
        let start = usize::try_from(address).ok()?;
        let end = start.checked_add(usize::try_from(len_bytes).ok()?)?;
        let inside = start >= self.start && end <= self.start.checked_add(self.len_bytes)?;
        (allowed && inside).then_some(start as *mut u8)
    }
}
