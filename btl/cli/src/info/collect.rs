//! Finds out.

use super::choice::{self, Choice};
use super::document::{Atomics, DeviceInfo, DeviceState, Document, FabricInfo, Opened};
use super::{parameters, topology};
use crate::cross_memory::CrossMemory;
use crate::machine::Machine;
use crate::rdma;
use crate::trial::{self, Failure, Memory};
use ironband::{AtomicScope, Config, Device};
use ironband_fabric::Fabric;
use ironband_fabric::shm::Shm;
#[cfg(feature = "verbs")]
use ironband_fabric::verbs::Verbs;

/// Looks at everything, for `ranks` ranks of this node or one for each processor.
pub(crate) fn document(config: &Config, ranks: Option<usize>) -> Document {
    let machine = Machine::read();
    let ranks = ranks.unwrap_or(machine.cores.hardware_threads);
    let cross_memory = CrossMemory::find();
    let fabrics = vec![
        fabric::<Shm>(config, ranks, |device| Some(trial::memory(device))),
        #[cfg(feature = "verbs")]
        fabric::<Verbs>(config, ranks, |_| None),
    ];
    let rdma = rdma::read(config);
    Document {
        format: "ironband-info/1",
        version: env!("CARGO_PKG_VERSION"),
        ranks,
        machine,
        topology: topology::read(),
        choice: choose(&fabrics, config, &cross_memory),
        remote: choice::remote(&rdma),
        fabrics,
        rdma,
        cross_memory,
        parameters: parameters::all(config),
    }
}

/// All devices of a fabric; `memory` measures what an open one reserves for its peers.
fn fabric<F: Fabric>(config: &Config, ranks: usize, memory: Measure<F>) -> FabricInfo {
    let devices = F::probe(config)
        .into_iter()
        .map(|report| DeviceInfo {
            state: match report.usable {
                Err(reason) => DeviceState::Unusable { reason },
                Ok(offers) => match opened::<F>(&report.device, offers, (config, ranks), memory) {
                    Ok(opened) => DeviceState::Usable(opened),
                    Err(failure) => DeviceState::Broken { failure },
                },
            },
            name: report.device,
        })
        .collect();
    FabricInfo { name: F::NAME, devices }
}

type Measure<F> = fn(&Device<F>) -> Option<Result<Memory, Failure>>;

fn opened<F: Fabric>(
    name: &str,
    offers: String,
    (config, ranks): (&Config, usize),
    memory: Measure<F>,
) -> Result<Opened, Failure> {
    let device = trial::open::<F>(name, config, ranks)?;
    let memory = memory(&device);
    let capabilities = device.capabilities();
    let limits = &capabilities.limits;
    Ok(Opened {
        offers,
        report: device.report(),
        eager_bytes: device.eager_bytes() as u64,
        inline_bytes_max: limits.inline_bytes_max as u64,
        send_copy_bytes_max: limits.send_copy_bytes_max as u64,
        rdma_bytes_max: limits.rdma_bytes_max as u64,
        outstanding_max: limits.outstanding_max as u64,
        atomics: match capabilities.atomics {
            AtomicScope::None => Atomics::None,
            AtomicScope::Device => Atomics::Device,
            AtomicScope::Global => Atomics::Global,
        },
        write_with_immediate: capabilities.write_with_immediate,
        loopback: capabilities.loopback,
        one_sided: capabilities.one_sided,
        checks_remote_keys: capabilities.checks_remote_keys,
        single_copy: capabilities.single_copy.clone(),
        ring_bytes: memory
            .is_some()
            .then(|| config.ring_bytes_for(u32::try_from(ranks).unwrap_or(u32::MAX)) as u64),
        memory,
    })
}

/// The first device that was opened: fabrics are in the order of preference for peers of this node.
fn choose(fabrics: &[FabricInfo], config: &Config, cross_memory: &CrossMemory) -> Option<Choice> {
    let mut devices =
        fabrics.iter().flat_map(|fabric| fabric.devices.iter().map(move |device| (fabric.name, device)));
    let (fabric, device) = devices.find(|(_, device)| matches!(device.state, DeviceState::Usable(_)))?;
    let usable = fabrics
        .iter()
        .flat_map(|fabric| &fabric.devices)
        .filter(|device| matches!(device.state, DeviceState::Usable(_)));
    let why = match usable.count() {
        1 => "the only usable device".to_owned(),
        count => format!("the first of {count} usable devices for peers of this node"),
    };
    Some(Choice {
        fabric,
        device: device.name.clone(),
        why,
        long_messages: choice::long_messages(config.single_copy, cross_memory),
    })
}
