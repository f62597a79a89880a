//! How far memory is from this process, by hwloc: what decides between two adapters.

use hwlocality::Topology;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;

/// What firmware calls the distance of a node to itself.
const OWN: u32 = 10;
/// For another node, where the machine does not tell.
const OTHER: u32 = 20;

/// The nodes that this process runs on, and the way from them to others.
#[derive(Debug)]
pub(crate) struct Nodes(Option<Topology>);

impl Nodes {
    /// Asks hwloc. Where it does not answer, everything is equally near.
    pub(crate) fn read() -> Self {
        Self(Topology::new().ok())
    }

    /// The distance of this process to a node; what is plugged into no known node is near.
    pub(crate) fn distance(&self, node: Option<u32>) -> u32 {
        let (Some(topology), Some(node)) = (&self.0, node) else { return OWN };
        let Some(there) = topology.node_with_os_index(node as usize) else { return OTHER };
        let binding = topology.cpu_binding(CpuBindingFlags::PROCESS).ok();
        let is_here = |object: &&TopologyObject| match (object.cpuset(), &binding) {
            (Some(cpus), Some(binding)) => cpus.intersects(binding),
            _ => true,
        };
        let here: Vec<&TopologyObject> =
            topology.objects_with_type(ObjectType::NUMANode).filter(is_here).collect();
        if here.iter().any(|object| object.os_index() == there.os_index()) {
            return OWN;
        }
        let tables = topology.distances_with_type(None, ObjectType::NUMANode).unwrap_or_default();
        let told = tables.iter().flat_map(|table| {
            here.iter().filter_map(|object| table.object_pair_distance((object, there))).map(|(way, _)| way)
        });
        told.min().and_then(|way| u32::try_from(way).ok()).unwrap_or(OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_node_is_nearest() {
        let nodes = Nodes::read();
        assert_eq!(nodes.distance(None), OWN);
        assert_eq!(nodes.distance(Some(100_000)), OTHER, "no machine has it");
        let all: Vec<u32> = (0..64).map(|node| nodes.distance(Some(node))).collect();
        assert_eq!(all.iter().min(), Some(&OWN), "this process runs somewhere: {all:?}");
        assert_eq!(Nodes(None).distance(Some(3)), OWN);
    }
}
