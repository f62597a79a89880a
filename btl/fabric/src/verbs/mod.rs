//! Real RDMA adapters through libibverbs: InfiniBand, RoCE and iWARP. One device is one port of one adapter.
//!
//! Processes find each other over one datagram queue pair per device ([`ironband_core::handshake`]) or, on iWARP and on request
//! on RoCE, through the RDMA connection manager ([`ironband_core::arbitration`]), and talk over one
//! reliable connected queue pair per pair of processes, made on first use. Messages are sends into buffers of a shared
//! receive queue, or of one for each peer where the adapter cannot share, bounded by credits; RDMA and 8-byte atomics are the adapter's own. Nothing here looks an adapter up in a
//! table: what it can do is asked of it.
//!
//! All `unsafe` of verbs is in [`object`], except what touches posters' memory.

mod complete;
mod connect;
mod connection;
mod credits;
mod datagrams;
mod device;
mod dialogue;
mod eager_messages;
mod eager_ring;
mod failure;
mod gid_table;
mod landing;
mod loopback;
#[cfg(test)]
mod made_up;
mod manager;
mod not_ready;
mod nudges;
mod object;
mod options;
mod port;
mod receives;
mod regions;
mod requests;
mod short_reads;
mod survey;
mod tree;
mod works;

pub use device::VerbsDevice;
pub use not_ready::NotReady;
pub use options::{Connect, Options};
pub use port::{LinkKind, Memlock};
pub use regions::MemoryRegion;
pub use survey::{AdapterFacts, AdapterReport, PortReport, Survey};

use ironband_core::config::{Config, FabricName};

use crate::{DeviceError, DeviceReport, Fabric, Job};

const NAME: &str = FabricName::Verbs.as_str();

/// The fabric of real RDMA adapters. Its devices are called `ADAPTER:PORT`: `mlx5_0:1`.
#[derive(Debug)]
pub struct Verbs;

impl Fabric for Verbs {
    const NAME: &'static str = NAME;
    type Device = VerbsDevice;

    fn probe(config: &Config) -> Vec<DeviceReport> {
        // A machine without adapters never gets as far as libibverbs, which has its own opinions on what to print.
        let survey = Survey::take_briefly(config);
        if let Err(reason) = &survey.ports {
            let device = config.ports.text().to_owned();
            return vec![DeviceReport { fabric: NAME, device, usable: Err(reason.to_string()) }];
        }
        let report = |port: &PortReport| DeviceReport {
            fabric: NAME,
            device: port.name.to_string(),
            usable: port
                .usable
                .as_ref()
                .map(|gid| format!("{}, GID {gid}", port.rate))
                .map_err(ToString::to_string),
        };
        // What the user leaves out on purpose is nothing to report.
        let left_out = |port: &&PortReport| matches!(port.usable, Err(NotReady::LeftOut { .. }));
        survey.in_order().into_iter().filter(|port| !left_out(port)).map(report).collect()
    }

    fn open(name: &str, config: &Config, job: &Job) -> Result<Self::Device, DeviceError> {
        let options = Options { connect: config.connect, ..Options::default() };
        Self::open_with(name, config, job, options)
    }
}

impl Verbs {
    /// As [`Fabric::open`], with a say in how the device is used.
    ///
    /// # Errors
    /// As [`Fabric::open`]; also when the device cannot do what the options ask for.
    pub fn open_with(
        name: &str,
        config: &Config,
        job: &Job,
        options: Options,
    ) -> Result<VerbsDevice, DeviceError> {
        VerbsDevice::open(name, config, job, options)
    }
}
