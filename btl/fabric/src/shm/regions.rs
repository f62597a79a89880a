//! The table of registered regions: which of this process's memory a peer may ask for, and with which key.
//!
//! Shared memory needs no registration by the hardware. The table exists because requests that come through the ring are
//! served by this process on behalf of a peer, and a peer's address is never used unchecked.

use crate::extent::{Extent, Want};
use crate::{Access, RegisterError};

/// More than any runtime registers at once; a table beyond it is a leak.
pub(crate) const REGIONS_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
struct Region {
    extent: Extent,
    generation: u32,
    used: bool,
}

/// All regions of a device.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    table: Vec<Region>,
    free: Vec<u32>,
}

/// A registered region of the `shm` fabric.
#[derive(Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    pub(crate) key: u64,
}

impl Regions {
    pub(crate) fn register(
        &mut self,
        start: usize,
        len_bytes: usize,
        access: Access,
    ) -> Result<MemoryRegion, RegisterError> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.table.len() < REGIONS_MAX => {
                let extent = Extent { start: 0, len_bytes: 0, access: Access::LOCAL };
                self.table.push(Region { extent, generation: 0, used: false });
                self.table.len() as u32 - 1
            }
            None => return Err(RegisterError::TooMany { in_use: self.table.len(), limit: REGIONS_MAX }),
        };
        let region = &mut self.table[index as usize];
        let generation = region.generation;
        *region = Region { extent: Extent { start, len_bytes, access }, generation, used: true };
        Ok(MemoryRegion { key: u64::from(index) | u64::from(generation) << 32 })
    }

    pub(crate) fn deregister(&mut self, region: &MemoryRegion) {
        let index = region.key as u32;
        let entry = &mut self.table[index as usize];
        entry.used = false;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
    }

    /// Start and length of the region with this key, if peers may read it.
    pub(crate) fn readable(&self, key: u64) -> Option<(*const u8, usize)> {
        let region = self.table.get(key as u32 as usize)?;
        let Extent { start, len_bytes, access } = region.extent;
        let live = region.used && region.generation == (key >> 32) as u32 && access.remote_read;
        live.then_some((start as *const u8, len_bytes))
    }

    /// The local pointer for a peer's request, if key, range and access allow it.
    pub(crate) fn check(&self, key: u64, address: u64, len_bytes: u64, want: Want) -> Option<*mut u8> {
        let region = self.table.get(key as u32 as usize)?;
        let live = region.used && region.generation == (key >> 32) as u32;
        region.extent.check(address, len_bytes, want).filter(|_| live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_range_and_access_pass() {
        let mut regions = Regions::default();
        let read_only = Access { remote_read: true, ..Access::LOCAL };
        let region = regions.register(1000, 100, read_only).expect("room");
        let check =
            |regions: &Regions, key, address, len, want| regions.check(key, address, len, want).is_some();
        assert!(check(&regions, region.key, 1000, 100, Want::Read));
        assert!(check(&regions, region.key, 1100, 0, Want::Read));
        assert!(!check(&regions, region.key, 999, 1, Want::Read), "before");
        assert!(!check(&regions, region.key, 1000, 101, Want::Read), "behind");
        assert!(!check(&regions, region.key, u64::MAX, 2, Want::Read), "overflow");
        assert!(!check(&regions, region.key, 1000, u64::MAX, Want::Read), "overflow");
        assert!(!check(&regions, region.key, 1000, 1, Want::Write));
        assert!(!check(&regions, region.key, 1000, 1, Want::Atomic));
        assert_eq!(regions.readable(region.key), Some((1000 as *const u8, 100)));
        assert_eq!(regions.readable(region.key + (1 << 32)), None, "another generation");
        let hidden =
            regions.register(5000, 100, Access { remote_write: true, ..Access::LOCAL }).expect("room");
        assert_eq!(regions.readable(hidden.key), None, "not for reading");
        regions.deregister(&hidden);
        assert!(!check(&regions, region.key + 1, 1000, 1, Want::Read), "no such index");
        let stale = region.key;
        regions.deregister(&region);
        assert!(!check(&regions, stale, 1000, 1, Want::Read), "deregistered");
        let again = regions.register(1000, 100, Access::ALL).expect("room");
        assert_ne!(again.key, stale);
        assert!(!check(&regions, stale, 1000, 1, Want::Read), "the slot is used again, the key is not");
        assert!(check(&regions, again.key, 1000, 1, Want::Atomic));
    }
}
