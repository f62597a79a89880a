//! From the fabric's survey to plain data.

use super::{Adapter, AdapterLimits, Gid, Memlock, Port, Rdma};
use crate::numa::Nodes;
use crate::trial::Failure;
use ironband::Config;
use ironband_core::gid::Candidate;
use ironband_fabric::verbs::{AdapterFacts, AdapterReport, NotReady, PortReport, Survey};

/// Surveys this machine, with these parameters.
pub(crate) fn read(config: &Config) -> Rdma {
    let survey = Survey::take(config);
    let nodes = Nodes::read();
    let distance = |adapter: &AdapterReport| nodes.distance(adapter.numa_node);
    Rdma {
        built: true,
        library: survey.library.clone(),
        memlock: Memlock {
            limit_bytes: survey.memlock.limit_bytes,
            hard_bytes: survey.memlock.hard_bytes,
            exempt: survey.memlock.exempt,
            refused: survey.memlock.check().err().map(|reason| failure(&reason)),
        },
        ports_refused: survey.ports.as_ref().err().map(failure),
        adapters: survey.adapters.iter().map(|it| adapter(it, distance(it))).collect(),
        order: survey
            .in_order()
            .iter()
            .filter(|port| port.usable.is_ok())
            .map(|port| port.name.to_string())
            .collect(),
        not_ready: survey.not_ready().map(|reason| failure(&reason)),
    }
}

fn failure(reason: &NotReady) -> Failure {
    Failure { message: reason.found(), fix: reason.fix() }
}

fn adapter(report: &AdapterReport, numa_distance: u32) -> Adapter {
    Adapter {
        name: report.name.clone(),
        numa_node: report.numa_node,
        numa_distance,
        node: report.node.clone().map_err(|reason| failure(&reason)),
        limits: report.opened.as_ref().map(limits).map_err(failure),
        ports: report.ports.iter().map(port).collect(),
    }
}

fn limits(facts: &AdapterFacts) -> AdapterLimits {
    AdapterLimits {
        queue_pairs_max: facts.queue_pairs_max,
        region_bytes_max: facts.region_bytes_max,
        regions_max: facts.regions_max as u64,
        send_queue_depth_max: facts.send_queue_depth_max,
        completion_queue_depth_max: facts.completion_queue_depth_max,
        reads_served_max: facts.reads_served_max,
        shared_receive_queues: facts.shared_receive_queues,
        atomics: facts.atomics,
        inline_bytes_max: facts.inline_bytes_max,
    }
}

fn port(report: &PortReport) -> Port {
    Port {
        name: report.name.to_string(),
        link: report.link.name(),
        state: report.state.clone(),
        rate: report.rate.clone(),
        inactive: report.active.as_ref().err().map(failure),
        gids: report.gids.iter().map(gid).collect(),
        gid: report.gid.as_ref().map(|gid| gid.entry.index).map_err(failure),
        unusable: report.usable.as_ref().err().map(failure),
    }
}

fn gid(candidate: &Candidate) -> Gid {
    let entry = &candidate.entry;
    Gid {
        index: entry.index,
        address: entry.text(),
        kind: entry.carrier.name(),
        netdev: entry.netdev.as_ref().map(|netdev| netdev.name.clone()),
        score: candidate.score,
        reasons: candidate.reasons.clone(),
    }
}
