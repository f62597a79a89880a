//! The table of an adapter's registered regions, and which operations use them.

use crate::extent::{Extent, Want};
use crate::{Access, RegisterError};

/// A registered region of the `sim` fabric.
#[derive(Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    pub(super) key: u64,
    pub(super) len_bytes: usize,
}

/// Whose operations use a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    Peer,
    Owner,
}

#[derive(Debug)]
struct Region {
    extent: Extent,
    /// Upper half of the key; another for each registration.
    generation: u32,
    used: bool,
    /// Operations under way, by [`User`].
    uses: [u32; 2],
}

#[derive(Debug)]
pub(super) struct Regions {
    table: Vec<Region>,
    free: Vec<u32>,
    /// Keys of different adapters have different generations, so that a key that went to the wrong peer is noticed.
    first_generation: u32,
}

impl Regions {
    pub(super) const fn new(first_generation: u32) -> Self {
        Self { table: Vec::new(), free: Vec::new(), first_generation }
    }

    pub(super) fn register(
        &mut self,
        extent: (usize, usize, Access),
        limit: usize,
    ) -> Result<MemoryRegion, RegisterError> {
        let (start, len_bytes, access) = extent;
        let in_use = self.table.len() - self.free.len();
        if in_use >= limit {
            return Err(RegisterError::TooMany { in_use, limit });
        }
        let extent = Extent { start, len_bytes, access };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(Region { extent, generation: self.first_generation, used: false, uses: [0; 2] });
            self.table.len() as u32 - 1
        });
        let region = &mut self.table[index as usize];
        (region.extent, region.used, region.uses) = (extent, true, [0; 2]);
        Ok(MemoryRegion { key: u64::from(index) | u64::from(region.generation) << 32, len_bytes })
    }

    fn find(&self, key: u64) -> Option<&Region> {
        let region = self.table.get(key as u32 as usize)?;
        (region.used && region.generation == (key >> 32) as u32).then_some(region)
    }

    fn find_mut(&mut self, key: u64) -> Option<&mut Region> {
        let region = self.table.get_mut(key as u32 as usize)?;
        (region.used && region.generation == (key >> 32) as u32).then_some(region)
    }

    /// Ends a registration; tells how many operations of peers and of the owner it leaves without memory.
    pub(super) fn deregister(&mut self, key: u64) -> [u32; 2] {
        let Some(region) = self.find_mut(key) else { return [0; 2] };
        region.used = false;
        region.generation = region.generation.wrapping_add(1);
        let uses = region.uses;
        self.free.push(key as u32);
        uses
    }

    /// The local address for a peer's request, if key, range and access allow it.
    pub(super) fn check(&self, key: u64, address: u64, len_bytes: u64, want: Want) -> Option<*mut u8> {
        self.find(key)?.extent.check(address, len_bytes, want)
    }

    /// Whether the owner may use these bytes with this registration.
    pub(super) fn covers(&self, key: u64, address: usize, len_bytes: usize) -> bool {
        let all = |region: &Region| Extent { access: Access::ALL, ..region.extent };
        let found = self.find(key).map(all);
        found.is_some_and(|extent| extent.check(address as u64, len_bytes as u64, Want::Read).is_some())
    }

    /// An operation under way uses the region; nothing happens if there is no such region.
    pub(super) fn hold(&mut self, key: u64, user: User) {
        if let Some(region) = self.find_mut(key) {
            region.uses[user as usize] += 1;
        }
    }

    /// The reverse. A region that has ended meanwhile has forgotten its uses.
    pub(super) fn unhold(&mut self, key: u64, user: User) {
        if let Some(region) = self.find_mut(key) {
            region.uses[user as usize] = region.uses[user as usize].saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access_of(bits: u8) -> Access {
        Access { remote_read: bits & 1 > 0, remote_write: bits & 2 > 0, remote_atomic: bits & 4 > 0 }
    }

    #[derive(Debug)]
    struct Naive {
        key: u64,
        range: std::ops::Range<u64>,
        access: Access,
        uses: [u32; 2],
    }

    proptest! {
        /// As a list of registrations that is searched from end to end.
        #[test]
        fn as_a_list(steps in prop::collection::vec((0_u8..5, 0_usize..16, 0_u64..40, 0_u64..20, 0_u8..8), 1..200)) {
            let mut regions = Regions::new(77);
            let (mut list, mut keys) = (Vec::<Naive>::new(), vec![5_u64]);
            for (step, which, start, len_bytes, bits) in steps {
                let key = keys[which % keys.len()];
                let at = list.iter().position(|entry| entry.key == key);
                let user = if bits & 1 > 0 { User::Peer } else { User::Owner };
                match step {
                    0 => match regions.register((start as usize, len_bytes as usize, access_of(bits)), 8) {
                        Ok(region) => {
                            prop_assert!(list.len() < 8 && !keys.contains(&region.key), "a key came twice");
                            keys.push(region.key);
                            let range = start..start + len_bytes;
                            list.push(Naive { key: region.key, range, access: access_of(bits), uses: [0; 2] });
                        }
                        Err(error) => prop_assert_eq!(error, RegisterError::TooMany { in_use: list.len(), limit: 8 }),
                    },
                    1 => prop_assert_eq!(regions.deregister(key), at.map_or([0; 2], |at| list.remove(at).uses)),
                    2 => {
                        regions.hold(key, user);
                        if let Some(at) = at {
                            list[at].uses[user as usize] += 1;
                        }
                    }
                    3 => {
                        regions.unhold(key, user);
                        if let Some(at) = at {
                            list[at].uses[user as usize] = list[at].uses[user as usize].saturating_sub(1);
                        }
                    }
                    _ => {
                        let inside = at.is_some_and(|at| {
                            start >= list[at].range.start && start + len_bytes <= list[at].range.end
                        });
                        prop_assert_eq!(regions.covers(key, start as usize, len_bytes as usize), inside);
                        let access = at.map_or(Access::LOCAL, |at| list[at].access);
                        for (want, allowed) in [
                            (Want::Read, access.remote_read),
                            (Want::Write, access.remote_write),
                            (Want::Atomic, access.remote_atomic),
                        ] {
                            let found = regions.check(key, start, len_bytes, want);
                            let wanted = (inside && allowed).then_some(start as *mut u8);
                            prop_assert_eq!(found, wanted, "{:?}", want);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_wraps_around() {
        let mut regions = Regions::new(0);
        let region = regions.register((1000, 100, Access::ALL), 1).expect("room");
        for (address, len_bytes) in [(u64::MAX, 2), (1000, u64::MAX), (u64::MAX - 10, 11)] {
            assert_eq!(regions.check(region.key, address, len_bytes, Want::Read), None);
        }
    }
}
