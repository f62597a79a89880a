//! Real RDMA adapters through libibverbs: InfiniBand and RoCE. One device is one port of one adapter.
//!
//! Processes find each other over one datagram queue pair per device ([`ironband_core::handshake`]) and talk over one
//! reliable connected queue pair per pair of processes, made on first use. Messages are sends into buffers of a shared
//! receive queue, bounded by credits; RDMA and 8-byte atomics are the adapter's own. Nothing here looks an adapter up in a
//! table: what it can do is asked of it.
//!
//! All `unsafe` of verbs is in [`object`], except what touches posters' memory.

mod complete;
mod connect;
mod connection;
mod datagrams;
mod device;
mod failure;
mod loopback;
mod object;
mod port;
mod receives;
mod regions;
mod requests;

pub use device::VerbsDevice;
pub use regions::MemoryRegion;

use ironband_core::config::Config;

use crate::{DeviceError, DeviceReport, Fabric, Job};

const NAME: &str = "verbs";

/// The fabric of real RDMA adapters. Its devices are called `ADAPTER:PORT`: `mlx5_0:1`.
#[derive(Debug)]
pub struct Verbs;

impl Fabric for Verbs {
    const NAME: &'static str = NAME;
    type Device = VerbsDevice;

    fn probe(_config: &Config) -> Vec<DeviceReport> {
        // A machine without adapters never gets as far as libibverbs, which has its own opinions on what to print.
        let report = |name: port::PortName| {
            let usable = port::check(&name).and_then(|gid| {
                object::Context::open(&name.adapter).map_err(|error| error.to_string()).and_then(|context| {
                    device::check(&context, &name)?;
                    Ok(format!(
                        "{}, GID {} ({})",
                        gid.carrier.name(),
                        gid.index,
                        failure::gid_text(&gid.bytes)
                    ))
                })
            });
            DeviceReport { fabric: NAME, device: name.to_string(), usable }
        };
        port::all().into_iter().map(report).collect()
    }

    fn open(name: &str, config: &Config, job: &Job) -> Result<Self::Device, DeviceError> {
        VerbsDevice::open(name, config, job)
    }
}
