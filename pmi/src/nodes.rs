//! Which ranks share a node.

use std::collections::BTreeMap;

use crate::error::Reason;

/// Which node each rank of a job runs on. Nodes are numbered from 0 and have no names here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMap {
    layout: Layout,
    size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// A few words for any number of ranks.
    Blocks(Vec<Block>),
    /// By rank.
    Each(Vec<u32>),
}

/// Consecutive nodes with as many consecutive ranks each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    first_node: u32,
    nodes: u32,
    ranks_per_node: u32,
}

impl Block {
    fn ranks(self) -> u64 {
        u64::from(self.nodes) * u64::from(self.ranks_per_node)
    }
}

impl NodeMap {
    /// All ranks on one node.
    pub(crate) fn one_node(size: u32) -> Self {
        let block = Block { first_node: 0, nodes: 1, ranks_per_node: size.max(1) };
        Self { layout: Layout::Blocks(vec![block]), size }
    }

    /// From what tells the nodes apart, by rank. Nodes are numbered in the order of their first ranks.
    pub(crate) fn of_identities<T: Ord>(identities: impl IntoIterator<Item = T>) -> Self {
        let mut numbers = BTreeMap::new();
        let each: Vec<u32> = identities
            .into_iter()
            .map(|identity| {
                let next = numbers.len() as u32;
                *numbers.entry(identity).or_insert(next)
            })
            .collect();
        Self { size: each.len() as u32, layout: Layout::Each(each) }
    }

    /// From `PMI_process_mapping`, if it tells: servers without one may answer with an empty value, and MPICH 5 has `(vector,0)` for a
    /// single process. What is not understood tells nothing either: all processes get the same text, and go on alike.
    pub(crate) fn if_it_is_told(text: &str, size: u32) -> Option<Self> {
        match Self::of_process_mapping(text, size) {
            Ok(map) => Some(map),
            Err(reason) => {
                tracing::debug!(%reason, "the launcher tells no nodes");
                None
            }
        }
    }

    /// `PMI_process_mapping`: `(vector,(FIRST_NODE,NODES,RANKS_PER_NODE),...)`. When the job has more ranks than the blocks
    /// together, they begin again. Source: MPICH, "PMI process mapping" in its design notes; observed with Hydra and Slurm.
    pub(crate) fn of_process_mapping(text: &str, size: u32) -> Result<Self, Reason> {
        let malformed = || Reason::Malformed(format!("PMI_process_mapping {text:?}"));
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let inside =
            compact.strip_prefix("(vector,").and_then(|rest| rest.strip_suffix(')')).ok_or_else(malformed)?;
        let mut blocks = Vec::new();
        for block in inside.split_inclusive(')') {
            let block = block.strip_prefix(',').unwrap_or(block);
            let numbers =
                block.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(malformed)?;
            let mut numbers = numbers.split(',').map(str::parse::<u32>);
            let mut next = || numbers.next().and_then(Result::ok).ok_or_else(malformed);
            let block = Block { first_node: next()?, nodes: next()?, ranks_per_node: next()? };
            if numbers.next().is_some() {
                return Err(malformed());
            }
            blocks.push(block);
        }
        let ranks = blocks.iter().try_fold(0_u64, |ranks, block| ranks.checked_add(block.ranks()));
        let is_sensible =
            |block: &Block| block.ranks() > 0 && block.first_node.checked_add(block.nodes).is_some();
        if ranks.is_none() || blocks.is_empty() || !blocks.iter().all(is_sensible) {
            return Err(malformed());
        }
        Ok(Self { layout: Layout::Blocks(blocks), size })
    }

    /// As [`NodeMap::of_process_mapping`] reads it, in few words: a block for each run of nodes with equally many ranks each, and of
    /// blocks that come again and again only the first ones.
    pub(crate) fn to_process_mapping(&self) -> String {
        let mut blocks: Vec<Block> = Vec::new();
        let nodes: Vec<u32> = (0..self.size).map(|rank| self.node_of(rank)).collect();
        for run in nodes.chunk_by(|one, next| one == next) {
            let (node, ranks_per_node) = (run[0], run.len() as u32);
            match blocks.last_mut() {
                Some(last)
                    if last.ranks_per_node == ranks_per_node && last.first_node + last.nodes == node =>
                {
                    last.nodes += 1;
                }
                _ => blocks.push(Block { first_node: node, nodes: 1, ranks_per_node }),
            }
        }
        // But for the last block, which may be cut short by the end of the ranks.
        let comes_again = |period: &usize| {
            let again = blocks[*period..blocks.len() - 1].iter().zip(&blocks).all(|(next, one)| next == one);
            let short = Self { layout: Layout::Blocks(blocks[..*period].to_vec()), size: self.size };
            again && (0..self.size).all(|rank| short.node_of(rank) == nodes[rank as usize])
        };
        let period = (1..blocks.len()).find(comes_again).unwrap_or(blocks.len());
        let texts = blocks[..period].iter().map(|block| {
            let Block { first_node, nodes, ranks_per_node } = block;
            format!(",({first_node},{nodes},{ranks_per_node})")
        });
        format!("(vector{})", texts.collect::<String>())
    }

    /// The ranks of a job.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// The node of a rank.
    ///
    /// # Panics
    /// When the job has no such rank.
    pub fn node_of(&self, rank: u32) -> u32 {
        assert!(rank < self.size, "rank {rank} of a job of {}", self.size);
        match &self.layout {
            Layout::Each(each) => each[rank as usize],
            Layout::Blocks(blocks) => {
                let cycle: u64 = blocks.iter().map(|block| block.ranks()).sum();
                let mut left = u64::from(rank) % cycle;
                for block in blocks {
                    if left < block.ranks() {
                        return block.first_node + (left / u64::from(block.ranks_per_node)) as u32;
                    }
                    left -= block.ranks();
                }
                unreachable!("what is left of a cycle is within its blocks")
            }
        }
    }

    /// The ranks of the node of `rank`, in their order, itself included.
    pub fn neighbours_of(&self, rank: u32) -> Vec<u32> {
        let node = self.node_of(rank);
        (0..self.size).filter(|other| self.node_of(*other) == node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(text: &str, size: u32) -> Vec<u32> {
        let map = NodeMap::of_process_mapping(text, size).unwrap();
        (0..size).map(|rank| map.node_of(rank)).collect()
    }

    #[test]
    fn mappings_of_real_launchers() {
        assert_eq!(nodes("(vector,(0,1,4))", 4), [0; 4]);
        assert_eq!(nodes("(vector,(0,2,2))", 4), [0, 0, 1, 1]);
        assert_eq!(nodes("(vector,(0,2,1))", 5), [0, 1, 0, 1, 0], "ranks go round");
        assert_eq!(nodes("(vector,(0,1,1))", 3), [0, 0, 0], "blocks begin again");
        assert_eq!(nodes("(vector,(0,2,2),(2,1,1))", 6), [0, 0, 1, 1, 2, 0]);
        assert_eq!(nodes("(vector, (0,1,2), (1,1,1))", 3), [0, 0, 1], "with spaces");
        let map = NodeMap::of_process_mapping("(vector,(0,2,1))", 5).unwrap();
        assert_eq!(map.neighbours_of(2), [0, 2, 4]);
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for text in [
            "",
            "(vector)",
            "(vector,)",
            "(vector,())",
            "(vector,0)",
            "(vector,(0,1))",
            "(vector,(0,1,1,1))",
            "(vector,(0,0,1))",
            "(vector,(0,1,0))",
            "(vector,(0,-1,1))",
            "(vector,(0,1,1)",
            "(vector,(0,1,1)x)",
            "vector,(0,1,1)",
            "(vector,(0,99999999999,1))",
            // Beyond the last number of a node, and more ranks than can be counted.
            "(vector,(4294967295,2,1))",
            "(vector,(0,4294967295,4294967295),(0,4294967295,4294967295))",
        ] {
            assert!(NodeMap::of_process_mapping(text, 2).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nodes_by_identity_are_numbered_by_their_first_ranks() {
        let map = NodeMap::of_identities(["b", "a", "b", "c"]);
        assert_eq!((0..4).map(|rank| map.node_of(rank)).collect::<Vec<_>>(), [0, 1, 0, 2]);
        assert_eq!(NodeMap::one_node(3).neighbours_of(1), [0, 1, 2]);
    }

    #[test]
    fn mappings_are_written_in_few_words() {
        let written = |nodes: &[u32]| NodeMap::of_identities(nodes).to_process_mapping();
        assert_eq!(written(&[0, 0, 0]), "(vector,(0,1,3))");
        assert_eq!(written(&[0, 0, 1, 1, 2]), "(vector,(0,2,2),(2,1,1))");
        let around: Vec<u32> = (0..99).map(|rank| rank % 3).collect();
        assert_eq!(written(&around), "(vector,(0,3,1))");
        // The last time around, one is not needed.
        assert_eq!(written(&around[..98]), "(vector,(0,3,1))");
    }

    proptest! {
        /// Whatever a job is like, what is written is read as it was.
        #[test]
        fn mappings_are_read_as_they_were_written(nodes in proptest::collection::vec(0_u32..4, 1..60)) {
            let map = NodeMap::of_identities(&nodes);
            let read = NodeMap::of_process_mapping(&map.to_process_mapping(), map.size()).unwrap();
            for rank in 0..map.size() {
                prop_assert_eq!(read.node_of(rank), map.node_of(rank));
            }
        }

        #[test]
        fn parsing_never_panics(text in "[(),0-9 vector-]{0,60}", size in 1_u32..50) {
            if let Ok(map) = NodeMap::of_process_mapping(&text, size) {
                for rank in 0..size {
                    let _ = map.node_of(rank);
                }
            }
        }

        /// Against a list that is written out.
        #[test]
        fn blocks_are_as_written_out(
            blocks in proptest::collection::vec((0_u32..9, 1_u32..4, 1_u32..4), 1..5),
            size in 1_u32..80,
        ) {
            let text: String = blocks.iter().map(|(a, b, c)| format!(",({a},{b},{c})")).collect();
            let map = NodeMap::of_process_mapping(&format!("(vector{text})"), size).unwrap();
            let written = blocks
                .iter()
                .flat_map(|(first, nodes, ranks)| {
                    (*first..first + nodes).flat_map(|node| std::iter::repeat_n(node, *ranks as usize))
                })
                .collect::<Vec<u32>>();
            for rank in 0..size {
                prop_assert_eq!(map.node_of(rank), written[rank as usize % written.len()]);
            }
        }
    }
}
