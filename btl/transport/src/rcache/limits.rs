//! How much a cache may hold.

use std::fmt;

/// The limits of one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes that are registered and not in use, and those that are.
    pub bytes_max: usize,
    /// Registrations.
    pub regions_max: usize,
}

impl fmt::Display for CacheLimits {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes_max, regions_max } = self;
        write!(to, "up to {} MiB in {regions_max} regions", bytes_max >> 20)
    }
}

/// Share of what the device's own buffers leave of the locked memory: the rest is for registrations for one use.
const MEMLOCK_PERCENT: u64 = 80;
/// However many a device can count: each costs a page of kernel memory or so.
const REGIONS_MAX: u64 = 1 << 16;

/// What the limits are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What the process may lock, in bytes (`RLIMIT_MEMLOCK`); none is no limit.
    pub(crate) memlock_bytes: Option<u64>,
    /// What the device's own buffers may take of that.
    pub(crate) buffers_bytes: u64,
    /// Memory of this machine, in bytes.
    pub(crate) memory_bytes: u64,
    /// Processes of the job on this machine.
    pub(crate) local_ranks: u64,
    /// Registrations that the device can count (`ibv_device_attr.max_mr`).
    pub(crate) device_regions_max: u64,
}

impl CacheLimits {
    /// Of one of the processes on a machine.
    pub(crate) fn of(machine: &Machine) -> Self {
        let ranks = machine.local_ranks.max(1);
        let left = machine.memlock_bytes.map(|bytes| bytes.saturating_sub(machine.buffers_bytes));
        let memlock = left.map_or(u64::MAX, |bytes| bytes / 100 * MEMLOCK_PERCENT);
        let bytes = memlock.min(machine.memory_bytes / 2 / ranks);
        let regions = (machine.device_regions_max / ranks).clamp(1, REGIONS_MAX);
        Self { bytes_max: usize::try_from(bytes).unwrap_or(usize::MAX), regions_max: regions as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine {
        memlock_bytes: None,
        buffers_bytes: 32 << 20,
        memory_bytes: 64 << 30,
        local_ranks: 4,
        device_regions_max: 1 << 20,
    };

    #[test]
    fn the_least_of_all_counts() {
        assert_eq!(CacheLimits::of(&MACHINE), CacheLimits { bytes_max: 8 << 30, regions_max: 1 << 16 });
        let little = Machine { memlock_bytes: Some(132 << 20), device_regions_max: 1000, ..MACHINE };
        assert_eq!(CacheLimits::of(&little), CacheLimits { bytes_max: 80 << 20, regions_max: 250 });
        let none = Machine { local_ranks: 0, device_regions_max: 0, ..MACHINE };
        assert_eq!(CacheLimits::of(&none), CacheLimits { bytes_max: 32 << 30, regions_max: 1 });
    }
}
