//! The RDMA adapters of this machine as `info` shows and `doctor` judges them: the fabric's survey as plain data, and which
//! port a rank would take.

#![cfg_attr(not(feature = "verbs"), allow(dead_code, reason = "what is never seen is never made"))]

#[cfg(feature = "verbs")]
mod read;

#[cfg(feature = "verbs")]
pub(crate) use read::read;

use crate::trial::Failure;
#[cfg(not(feature = "verbs"))]
use ironband::Config;
use serde::Serialize;
use std::path::PathBuf;

/// Everything about RDMA.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Rdma {
    /// False for a build without the feature `verbs`, which sees nothing.
    pub(crate) built: bool,
    /// The file of libibverbs in use.
    pub(crate) library: Option<PathBuf>,
    pub(crate) memlock: Memlock,
    /// What is wrong with the parameter `ports`.
    pub(crate) ports_refused: Option<Failure>,
    pub(crate) adapters: Vec<Adapter>,
    /// The usable ports in the order in which the component prefers them.
    pub(crate) order: Vec<String>,
    /// Why no port can be used, if none can.
    pub(crate) not_ready: Option<Failure>,
}

/// How much memory this process may lock; none is any amount.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Memlock {
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) hard_bytes: Option<u64>,
    /// A capability lets it lock any amount.
    pub(crate) exempt: bool,
    /// Why it is not enough.
    pub(crate) refused: Option<Failure>,
}

/// One adapter.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Adapter {
    pub(crate) name: String,
    pub(crate) numa_node: Option<u32>,
    /// From this process, as firmware counts: 10 is the own node.
    pub(crate) numa_distance: u32,
    /// The file it is opened by.
    pub(crate) node: Result<PathBuf, Failure>,
    pub(crate) limits: Result<AdapterLimits, Failure>,
    pub(crate) ports: Vec<Port>,
}

/// What an adapter says that it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct AdapterLimits {
    pub(crate) queue_pairs_max: u32,
    pub(crate) region_bytes_max: u64,
    pub(crate) regions_max: u64,
    pub(crate) send_queue_depth_max: u32,
    pub(crate) completion_queue_depth_max: u32,
    pub(crate) reads_served_max: u8,
    pub(crate) shared_receive_queues: bool,
    pub(crate) atomics: bool,
    /// Where the adapter could be asked.
    pub(crate) inline_bytes_max: Option<u32>,
}

/// One port.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Port {
    /// `mlx5_0:1`.
    pub(crate) name: String,
    pub(crate) link: &'static str,
    pub(crate) state: String,
    pub(crate) rate: String,
    /// Why it carries nothing.
    pub(crate) inactive: Option<Failure>,
    /// The best first.
    pub(crate) gids: Vec<Gid>,
    /// Index of the one that would be used.
    pub(crate) gid: Result<u8, Failure>,
    /// The first reason why the port cannot be used.
    pub(crate) unusable: Option<Failure>,
}

/// One global identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Gid {
    pub(crate) index: u8,
    pub(crate) address: String,
    pub(crate) kind: &'static str,
    pub(crate) netdev: Option<String>,
    pub(crate) score: u16,
    pub(crate) reasons: Vec<String>,
}

impl Rdma {
    /// All ports.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Port> {
        self.adapters.iter().flat_map(|adapter| &adapter.ports)
    }
}

/// Nothing can be seen without libibverbs.
#[cfg(not(feature = "verbs"))]
pub(crate) fn read(_config: &Config) -> Rdma {
    Rdma::default()
}
