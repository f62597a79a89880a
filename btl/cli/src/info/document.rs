//! Everything that `info` knows, as it is printed with `--json`.

use super::choice::{Choice, RemoteChoice};
use super::parameters::ParameterInfo;
use super::topology::Topology;
use crate::cross_memory::CrossMemory;
use crate::machine::Machine;
use crate::rdma::Rdma;
use crate::trial::{Failure, Memory};
use serde::Serialize;

/// The whole answer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Document {
    /// The name and version of this form.
    pub(crate) format: &'static str,
    pub(crate) version: &'static str,
    /// How many ranks of this node all figures are for.
    pub(crate) ranks: usize,
    pub(crate) machine: Machine,
    /// As hwloc sees it, or why it does not.
    pub(crate) topology: Result<Topology, String>,
    pub(crate) fabrics: Vec<FabricInfo>,
    /// Adapters, ports and identifiers behind the fabric `verbs`.
    pub(crate) rdma: Rdma,
    /// Whether one process here may really read and write another's memory.
    pub(crate) cross_memory: CrossMemory,
    /// What a job on this node would use; none when no device works.
    pub(crate) choice: Option<Choice>,
    /// Which port would carry messages to other nodes, or why none would.
    pub(crate) remote: Result<RemoteChoice, Failure>,
    pub(crate) parameters: Vec<ParameterInfo>,
}

/// A family of devices.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FabricInfo {
    pub(crate) name: &'static str,
    pub(crate) devices: Vec<DeviceInfo>,
}

/// One device.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceInfo {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) state: DeviceState,
}

/// Whether a device can be used.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum DeviceState {
    /// It was opened.
    Usable(Opened),
    /// It says itself that it cannot be.
    Unusable { reason: String },
    /// It says that it can be, and opening it failed.
    Broken { failure: Failure },
}

/// What an open device says of itself, and what it took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Opened {
    /// One sentence.
    pub(crate) offers: String,
    /// The line that each rank prints with `--mca btl_base_verbose 1`.
    pub(crate) report: String,
    pub(crate) eager_bytes: u64,
    pub(crate) inline_bytes_max: u64,
    pub(crate) send_copy_bytes_max: u64,
    pub(crate) rdma_bytes_max: u64,
    pub(crate) outstanding_max: u64,
    pub(crate) atomics: Atomics,
    pub(crate) write_with_immediate: bool,
    pub(crate) loopback: bool,
    pub(crate) one_sided: bool,
    pub(crate) checks_remote_keys: bool,
    pub(crate) single_copy: String,
    /// Bulk space from one process to one peer, for this number of ranks. Of shared memory only.
    pub(crate) ring_bytes: Option<u64>,
    /// Measured with a message to this process itself, or why it could not be. Of shared memory only.
    pub(crate) memory: Option<Result<Memory, Failure>>,
}

/// See [`ironband::AtomicScope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Atomics {
    None,
    Device,
    Global,
}
