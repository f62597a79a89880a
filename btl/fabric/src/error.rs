//! What can go wrong with a device, in words for the person who has to mend it.

/// A device could not be opened, or is out of something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device.
    #[error("fabric {fabric} has no device {name:?}; it has: {known}")]
    Unknown {
        /// The fabric that was asked.
        fabric: &'static str,
        /// The name that was given.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// The kernel has an adapter that libibverbs cannot drive.
    #[error(
        "the kernel has the adapter {adapter}, and libibverbs has no provider library for it; install the provider libraries (package ibverbs-providers, or those of the adapter's vendor) in the release of libibverbs"
    )]
    NoProvider {
        /// The adapter.
        adapter: String,
    },
    /// A resource of the system is missing or used up.
    #[error("{what}: wanted {wanted}, available {available}; {fix}")]
    Exhausted {
        /// Which resource, by name.
        what: String,
        /// How much was wanted, with its unit.
        wanted: String,
        /// How much there is, with its unit.
        available: String,
        /// What the user can do.
        fix: String,
    },
    /// A system call failed for another reason.
    #[error("{call} failed: {reason}; {fix}")]
    System {
        /// The call and what it was for.
        call: String,
        /// The system's message.
        reason: String,
        /// What the user can do.
        fix: String,
    },
}

/// Why a peer cannot be reached by this device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreachable {
    /// One clause for a person: what is different or missing.
    pub reason: String,
}

impl Unreachable {
    /// With this reason.
    pub fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Memory could not be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The table of regions is full.
    #[error(
        "{in_use} memory regions are registered and the device has no more (limit {limit}); deregister some"
    )]
    TooMany {
        /// Regions registered now.
        in_use: usize,
        /// The device's limit.
        limit: usize,
    },
    /// The memory that the process may lock, or the device's, is used up.
    #[error("{len_bytes} bytes could not be registered: {reason}")]
    NoRoom {
        /// How much was to be registered.
        len_bytes: usize,
        /// What the system said, and what to do.
        reason: String,
    },
    /// The device or the kernel refused.
    #[error("{len_bytes} bytes could not be registered: {reason}")]
    Refused {
        /// How much was to be registered.
        len_bytes: usize,
        /// What the system said, and what to do.
        reason: String,
    },
}
