//! The regions that this process has registered: for what its own processor does on behalf of peers (4-byte atomics), and
//! for transfers inside the process. What the adapter does, the adapter checks.

use std::collections::HashMap;

pub use super::object::MemoryRegion;
use crate::Access;
use crate::extent::{Extent, Want};

/// All regions, by the adapter's remote key.
#[derive(Debug, Default)]
pub(super) struct Regions(HashMap<u32, Extent>);

/// What travels as the key: the adapter's 32 bits, and their complement. A key that was damaged or made up is known as such
/// by the asker, where it costs one request; sent to the adapter it would cost the connection.
pub(super) const fn key_on_the_wire(remote_key: u32) -> u64 {
    remote_key as u64 | (!remote_key as u64) << 32
}

/// The adapter's key inside a key from the wire.
pub(super) const fn adapter_key(key: u64) -> Option<u32> {
    let low = key as u32;
    if key == key_on_the_wire(low) { Some(low) } else { None }
}

impl Regions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&mut self, remote_key: u32, start: usize, len_bytes: usize, access: Access) {
        self.0.insert(remote_key, Extent { start, len_bytes, access });
    }

    pub(super) fn remove(&mut self, remote_key: u32) {
        self.0.remove(&remote_key);
    }

    /// The local pointer for a peer's request, if key, range and access allow it.
    pub(super) fn check(&self, key: u64, address: u64, len_bytes: u64, want: Want) -> Option<*mut u8> {
        self.0.get(&adapter_key(key)?)?.check(address, len_bytes, want)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_any_bit_changed_is_no_key() {
        let key = key_on_the_wire(0x0012_3456);
        assert_eq!(adapter_key(key), Some(0x0012_3456));
        for bit in 0..64 {
            assert_eq!(adapter_key(key ^ 1 << bit), None, "bit {bit}");
        }
        assert_eq!(adapter_key(u64::MAX), None);
        assert_eq!(adapter_key(0), None);
    }

    #[test]
    fn only_the_right_key_range_and_access_pass() {
        let mut regions = Regions::default();
        regions.insert(7, 1000, 100, Access { remote_read: true, ..Access::LOCAL });
        let key = key_on_the_wire(7);
        let passes =
            |regions: &Regions, key, address, len, want| regions.check(key, address, len, want).is_some();
        assert!(passes(&regions, key, 1000, 100, Want::Read));
        assert!(!passes(&regions, key, 999, 1, Want::Read), "before");
        assert!(!passes(&regions, key, 1000, 101, Want::Read), "behind");
        assert!(!passes(&regions, key, u64::MAX, 2, Want::Read), "overflow");
        assert!(!passes(&regions, key, 1000, 8, Want::Atomic));
        assert!(!passes(&regions, key, 1000, 8, Want::Write));
        assert!(!passes(&regions, key_on_the_wire(8), 1000, 8, Want::Read));
        regions.remove(7);
        assert!(!passes(&regions, key, 1000, 100, Want::Read), "deregistered");
    }
}
