//! Opens a device for a trial, as a rank of a job does, and sends one message through it. What a job will be given is
//! so measured and never computed a second time.

use ironband::{Config, Device, DeviceError, Handler, Job, Payload, Posted, QueuePair, Threads};
use ironband_core::wire::Card;
use ironband_fabric::Fabric;
use serde::Serialize;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A message to oneself arrives at once; longer means that it never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a trial failed, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) fix: String,
}

impl Failure {
    /// A failure of the device that comes with no advice of its own.
    fn of_memory(message: impl Into<String>) -> Self {
        let fix = "free memory, raise the memory limit of the container or job, or lower IRONBAND_RING_BYTES";
        Self { message: message.into(), fix: fix.into() }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Exhausted { what, wanted, available, fix } => {
                Self { message: format!("{what}: wanted {wanted}, available {available}"), fix }
            }
            DeviceError::System { call, reason, fix } => {
                Self { message: format!("{call} failed: {reason}"), fix }
            }
            DeviceError::NoProvider { .. } => {
                Self { message: error.to_string(), fix: "install the adapter's provider library".into() }
            }
            DeviceError::Unknown { ref known, .. } => {
                Self { fix: format!("use one of: {known}"), message: error.to_string() }
            }
        }
    }
}

/// What a process of a job reserves in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Once for each process.
    pub(crate) control_bytes: u64,
    /// For each peer that the process sends to, slots and heads included.
    pub(crate) ring_region_bytes: u64,
}

/// The name of the first usable device, or why there is none.
pub(crate) fn first_usable<F: Fabric>(config: &Config) -> Result<String, Failure> {
    let mut refusals = Vec::new();
    for report in F::probe(config) {
        match report.usable {
            Ok(_) => return Ok(report.device),
            Err(reason) => refusals.push(format!("{}: {reason}", report.device)),
        }
    }
    Err(Failure::of_memory(format!("fabric {} has no usable device; {}", F::NAME, refusals.join("; "))))
}

/// Opens a device as one of `ranks` processes of this node would.
pub(crate) fn open<F: Fabric>(name: &str, config: &Config, ranks: usize) -> Result<Device<F>, Failure> {
    let job = Job { local_ranks: u32::try_from(ranks).unwrap_or(u32::MAX), rank: 0 };
    Ok(Device::open(name, config, &job, Threads::Single)?)
}

/// Sends one message to this process itself and answers with what that took from shared memory.
pub(crate) fn memory<F: Fabric>(device: &Device<F>) -> Result<Memory, Failure> {
    let control_bytes = segment_bytes(device)?;
    send_to_self(device)?;
    let ring_region_bytes = segment_bytes(device)?.saturating_sub(control_bytes);
    Ok(Memory { control_bytes, ring_region_bytes })
}

/// The length of the segment that the device's own address names.
fn segment_bytes<F: Fabric>(device: &Device<F>) -> Result<u64, Failure> {
    let card = Card::decode(device.address()).map_err(|error| Failure::of_memory(error.to_string()))?;
    let path = format!("/proc/self/fd/{}", card.memfd);
    let found = std::fs::metadata(&path).map_err(|error| Failure {
        message: format!("{path}: {error}"),
        fix: "mount /proc: processes find each other's memory there".into(),
    })?;
    Ok(found.len())
}

struct Arrival(Cell<bool>);

impl Handler for Arrival {
    fn received(&self, _from: QueuePair, _imm: u32, _payload: Payload) {
        self.0.set(true);
    }
}

fn send_to_self<F: Fabric>(device: &Device<F>) -> Result<(), Failure> {
    let own = device
        .connect(device.address())
        .map_err(|error| Failure::of_memory(format!("the device does not reach this process: {error}")))?;
    let deadline = Instant::now() + PATIENCE;
    let (arrival, mut sent) = (Arrival(Cell::new(false)), false);
    while !arrival.0.get() {
        if !sent {
            sent = device.send_short(own, 0, b"trial", &[]) == Posted::Complete;
        }
        if let Some(reason) = device.failure(own) {
            return Err(Failure::of_memory(reason));
        }
        if Instant::now() > deadline {
            let message = format!("a message to this process itself did not arrive in {PATIENCE:?}");
            return Err(Failure { message, fix: "report it: this is a defect of ironband".into() });
        }
        device.progress(&arrival);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironband_fabric::shm::Shm;

    #[test]
    fn the_shared_memory_of_a_rank_is_measured() {
        let config = Config::default();
        let name = first_usable::<Shm>(&config).unwrap();
        let device = open::<Shm>(&name, &config, 2).unwrap();
        let memory = memory(&device).unwrap();
        assert!(memory.control_bytes > 0 && memory.control_bytes < 64 << 10, "{memory:?}");
        assert!(memory.ring_region_bytes > config.ring_bytes_for(2) as u64, "{memory:?}");
        let all_bytes = segment_bytes(&device).unwrap();
        assert_eq!(memory.control_bytes + memory.ring_region_bytes, all_bytes, "parts of one segment");
    }

    #[test]
    fn errors_of_the_device_are_taken_apart_into_finding_and_fix() {
        let failure = open::<Shm>("mlx5_0", &Config::default(), 2).err().unwrap();
        assert!(failure.message.contains("no device \"mlx5_0\""), "{failure:?}");
        assert_eq!(failure.fix, "use one of: memfd");
        let system = DeviceError::System {
            call: "memfd_create".into(),
            reason: "EPERM".into(),
            fix: "allow it".into(),
        };
        let want = Failure { message: "memfd_create failed: EPERM".into(), fix: "allow it".into() };
        assert_eq!(Failure::from(system), want);
    }
}
