//! Shared memory inside one node: the embedded default, for machines with no RDMA device and for local peers everywhere.
//!
//! Small messages cross in a ring per pair of processes ([`ring`]), one cache line each. Long ones are copied by the kernel
//! (cross-memory attach), by both processes at once, or through the ring, whichever is fastest as measured
//! ([`ironband_core::path`]). Segments have no names ([`segment`]); connecting takes no round trip ([`queue_pair`]).

mod accept;
mod capabilities;
mod copy;
mod cross_memory;
mod device;
#[cfg(test)]
mod device_tests;
mod inbound;
mod layout;
mod pull;
mod queue_pair;
mod regions;
mod ring;
mod segment;
mod serve;
mod stores;
mod sync;
mod transfer;

pub use device::ShmDevice;
pub use regions::MemoryRegion;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use ring::fuzzing;

use ironband_core::config::{Config, FabricName};

use crate::{DeviceError, DeviceReport, Fabric, Job};

/// Requests that one queue pair keeps waiting for the peer's answer.
pub(crate) const OUTSTANDING_MAX: usize = 64;

/// The shared-memory fabric. It has one device, `memfd`.
#[derive(Debug)]
pub struct Shm;

const DEVICE: &str = "memfd";

impl Fabric for Shm {
    const NAME: &'static str = FabricName::Shm.as_str();
    type Device = ShmDevice;

    fn probe(_config: &Config) -> Vec<DeviceReport> {
        let usable = segment::Segment::create()
            .and_then(|mut segment| segment.allocate(segment::PAGE_BYTES, "a probe"))
            .and_then(|_| crate::host::identity())
            .map(|_| "shared memory to processes of the same user on this node".to_owned())
            .map_err(|error| error.to_string());
        vec![DeviceReport { fabric: Self::NAME, device: DEVICE.to_owned(), usable }]
    }

    fn open(name: &str, config: &Config, job: &Job) -> Result<Self::Device, DeviceError> {
        if name != DEVICE {
            return Err(DeviceError::Unknown {
                fabric: Self::NAME,
                name: name.to_owned(),
                known: DEVICE.to_owned(),
            });
        }
        ShmDevice::open(config, job)
    }
}
