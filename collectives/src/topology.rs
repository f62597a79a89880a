//! Where the ranks of a communicator are: which of them share a node, and which of those share a cache.
//!
//! All processes know alike which ranks share a node. Which of them share a cache is known inside the node only: what is made of a topology for a
//! rank depends on the nodes of all ranks and on the caches of its own node, and on nothing else.

use std::collections::BTreeMap;

/// By rank: its node, and the cache of that node which it has to do with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topology {
    /// Numbered in the order of their first ranks.
    nodes: Vec<u32>,
    /// [`NO_CACHE`] of those bound to none.
    caches: Vec<u32>,
    node_count: u32,
}

const NO_CACHE: u32 = u32::MAX;

impl Topology {
    /// From the node of each rank, and the third-level cache that it is bound to: `None` if it may run beside several. The numbers may be any
    /// (of caches, below `u32::MAX`); those of caches count within a node.
    pub fn new(places: impl IntoIterator<Item = (u32, Option<u32>)>) -> Self {
        let mut numbers = BTreeMap::new();
        let (mut nodes, mut caches) = (Vec::new(), Vec::new());
        for (node, cache) in places {
            let next = numbers.len() as u32;
            nodes.push(*numbers.entry(node).or_insert(next));
            caches.push(cache.unwrap_or(NO_CACHE));
        }
        Self { nodes, caches, node_count: numbers.len() as u32 }
    }

    /// That of a communicator whose ranks are these ranks of this one.
    #[must_use]
    pub fn of(&self, ranks: &[u32]) -> Self {
        Self::new(ranks.iter().map(|rank| (self.node_of(*rank), Some(self.caches[*rank as usize]))))
    }

    /// How many ranks there are.
    pub fn size(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// How many nodes have ranks.
    pub const fn node_count(&self) -> u32 {
        self.node_count
    }

    /// The node of a rank, below [`Topology::node_count`].
    pub fn node_of(&self, rank: u32) -> u32 {
        self.nodes[rank as usize]
    }

    /// By node, its ranks in their order.
    pub fn members(&self) -> Vec<Vec<u32>> {
        let mut members = vec![Vec::new(); self.node_count as usize];
        for (rank, node) in (0..).zip(&self.nodes) {
            members[*node as usize].push(rank);
        }
        members
    }

    /// How many ranks the node has that has most.
    pub fn most_members(&self) -> u32 {
        self.members().iter().map(Vec::len).max().unwrap_or(0) as u32
    }

    /// The ranks of the node of a rank, those that share a cache together; those that are bound to none are together, too. In the order of
    /// their first ranks.
    pub fn caches_around(&self, rank: u32) -> Vec<Vec<u32>> {
        let node = self.node_of(rank);
        let mut groups: Vec<(u32, Vec<u32>)> = Vec::new();
        for other in (0..self.size()).filter(|other| self.node_of(*other) == node) {
            let cache = self.caches[other as usize];
            match groups.iter_mut().find(|(known, _)| *known == cache) {
                Some((_, members)) => members.push(other),
                None => groups.push((cache, vec![other])),
            }
        }
        groups.into_iter().map(|(_, members)| members).collect()
    }

    /// Whether the ranks of each node are consecutive: then what nodes have combined can be combined in the order of ranks.
    pub fn keeps_order(&self) -> bool {
        // Nodes are numbered by their first ranks, so they only ever go up then.
        self.nodes.is_sorted()
    }
}

/// Whether these lists, one behind the other, are in the order of ranks without a gap.
pub(crate) fn are_consecutive(groups: &[Vec<u32>]) -> bool {
    let mut ranks = groups.iter().flatten();
    let Some(first) = ranks.next() else { return true };
    ranks.zip(*first + 1..).all(|(rank, expected)| *rank == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_by_their_first_ranks() {
        let topology = Topology::new([(7, None), (3, Some(0)), (7, Some(2)), (3, Some(0)), (9, None)]);
        assert_eq!((topology.size(), topology.node_count(), topology.most_members()), (5, 3, 2));
        assert_eq!(topology.members(), [vec![0, 2], vec![1, 3], vec![4]]);
        assert!(!topology.keeps_order());
        let part = topology.of(&[3, 1, 2]);
        assert_eq!(part.members(), [vec![0, 1], vec![2]]);
        assert!(part.keeps_order());
        assert_eq!(part, Topology::new([(1, Some(0)), (1, Some(0)), (2, Some(2))]));
    }

    #[test]
    fn caches_are_of_a_node() {
        let caches = [Some(1), Some(4), None, Some(1), None, Some(1)];
        let topology = Topology::new(caches.map(|cache| (0, cache)).into_iter().chain([(1, Some(1))]));
        assert_eq!(topology.caches_around(2), [vec![0, 3, 5], vec![1], vec![2, 4]]);
        assert_eq!(topology.caches_around(6), [vec![6]]);
    }

    #[test]
    fn gaps_and_disorder_are_seen() {
        assert!(are_consecutive(&[vec![2, 3], vec![4], vec![5]]));
        assert!(!are_consecutive(&[vec![2, 4], vec![3]]));
        assert!(!are_consecutive(&[vec![4], vec![2, 3]]));
        assert!(are_consecutive(&[]));
    }
}
