//! One operation at one size at one rank: how long its buffers are, what is in them, and what has to come out.

use std::ops::Range;

use bytemuck::Pod;

use super::operation::Operation;
use crate::pattern::Mismatch;

/// What buffers are made of: bytes that are moved, or floats that are combined.
pub(super) trait Element: Pod + PartialEq {
    /// The sum of nothing.
    const ZERO: Self;

    /// Element `at` of the block with this number of a rank, in a round. Other ranks, blocks, places and rounds have other values, or most of
    /// them, so that what comes from elsewhere is seen.
    fn value(rank: usize, block: usize, at: usize, round: u64) -> Self;

    /// Adds.
    fn plus(self, other: Self) -> Self;

    /// Something else than this, which is a value or a sum of some.
    fn spoiled(self) -> Self;
}

impl Element for u8 {
    const ZERO: Self = 0;

    fn value(rank: usize, block: usize, at: usize, round: u64) -> Self {
        (rank * 37 + block * 11 + at * 5 + at / 251 + (round % 251) as usize * 13) as u8
    }

    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn spoiled(self) -> Self {
        !self
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    /// Small and whole, so that sums are exact in any order.
    fn value(rank: usize, block: usize, at: usize, round: u64) -> Self {
        ((rank * 7 + block * 11 + at * 3 + (round % 59) as usize * 5) % 61) as f32
    }

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn spoiled(self) -> Self {
        -1.0 - self
    }
}

/// What an output is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Output {
    /// Blocks, one behind the other: whose, and which of them.
    Blocks(Vec<(usize, usize)>),
    /// The vectors of these ranks, summed, from an element on.
    Sum { ranks: Range<usize>, from: usize, len: usize },
}

/// An operation at one size, at one rank.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) operation: Operation,
    pub(super) rank: usize,
    pub(super) ranks: usize,
    /// The root, if the operation has one.
    pub(super) root: usize,
    /// Elements of a block, or of a vector that is combined.
    pub(super) len: usize,
    input_blocks: usize,
    output: Output,
}

/// The neighbours of a rank on a ring, lower ones first, each once; nobody is its own.
pub(super) fn neighbours(rank: usize, ranks: usize) -> Vec<usize> {
    let mut both = vec![(rank + ranks - 1) % ranks, (rank + 1) % ranks];
    both.sort_unstable();
    both.dedup();
    both.retain(|neighbour| *neighbour != rank);
    both
}

/// The elements of each rank's block of a vector, longer ones first.
pub(super) fn parts(len: usize, ranks: usize) -> Vec<usize> {
    (0..ranks).map(|rank| len / ranks + usize::from(rank < len % ranks)).collect()
}

impl Case {
    /// The case of a message size.
    pub(super) fn new(
        operation: Operation,
        size_bytes: usize,
        (rank, ranks): (usize, usize),
        root: usize,
    ) -> Self {
        let len = match operation {
            Operation::Barrier => 0,
            Operation::ReduceScatterBlock => size_bytes / size_of::<f32>() / ranks,
            _ if operation.combines() => size_bytes / size_of::<f32>(),
            _ => size_bytes,
        };
        let is_root = rank == root;
        let (input_blocks, output) = shape(operation, (rank, ranks), root, len);
        let output = match output {
            // Only the root gets these.
            _ if !is_root
                && matches!(operation, Operation::Reduce | Operation::Gather | Operation::Gatherv) =>
            {
                Output::Blocks(Vec::new())
            }
            output => output,
        };
        Self { operation, rank, ranks, root, len, input_blocks, output }
    }

    /// Elements of the input.
    pub(super) fn input_len(&self) -> usize {
        self.input_blocks * self.len
    }

    /// Elements of the output.
    pub(super) fn output_len(&self) -> usize {
        match &self.output {
            Output::Blocks(blocks) => blocks.len() * self.len,
            Output::Sum { len, .. } => *len,
        }
    }

    /// Memory of both.
    pub(super) fn bytes(&self) -> usize {
        let element_bytes = if self.operation.combines() { size_of::<f32>() } else { 1 };
        (self.input_len() + self.output_len()) * element_bytes
    }

    /// Makes the buffers ready for a round: what this rank gives, and in the output nothing that is right already.
    pub(super) fn fill<T: Element>(&self, round: u64, input: &mut [T], output: &mut [T]) {
        let len = self.len.max(1);
        for (at, element) in input.iter_mut().enumerate() {
            // Sums are of whole vectors, which count as one block.
            let (block, at) = if self.operation.combines() { (0, at) } else { (at / len, at % len) };
            *element = T::value(self.rank, block, at, round);
        }
        if self.operation == Operation::Bcast && self.rank == self.root {
            output.iter_mut().enumerate().for_each(|(at, one)| *one = T::value(self.rank, 0, at, round));
        } else {
            for (at, element) in output.iter_mut().enumerate() {
                *element = self.expected(round, at).map_or(T::ZERO, T::spoiled);
            }
        }
    }

    /// Element `at` of the output after a round; `None` where MPI leaves it open.
    fn expected<T: Element>(&self, round: u64, at: usize) -> Option<T> {
        match &self.output {
            Output::Blocks(blocks) => {
                let (rank, block) = blocks[at / self.len];
                Some(T::value(rank, block, at % self.len, round))
            }
            // The exclusive scan's output of rank 0.
            Output::Sum { ranks, .. } if ranks.is_empty() => None,
            Output::Sum { ranks, from, .. } => {
                let values = ranks.clone().map(|rank| T::value(rank, 0, from + at, round));
                Some(values.fold(T::ZERO, T::plus))
            }
        }
    }

    /// The first wrong byte of an output after a round.
    pub(super) fn mismatch<T: Element>(&self, round: u64, output: &[T]) -> Option<Mismatch> {
        let (at, expected) = output.iter().enumerate().find_map(|(at, found)| {
            let expected: T = self.expected(round, at)?;
            (*found != expected).then_some((at, expected))
        })?;
        let (expected, found) = (bytemuck::bytes_of(&expected), bytemuck::bytes_of(&output[at]));
        // Zeros of both signs are equal and have different bytes, but are no mismatch.
        let byte = expected.iter().zip(found).position(|(expected, found)| expected != found)?;
        Some(Mismatch {
            source: match &self.output {
                Output::Blocks(blocks) => blocks[at / self.len].0 as i32,
                Output::Sum { .. } => self.rank as i32,
            },
            size_bytes: size_of_val(output),
            message: round,
            offset_bytes: at * size_of::<T>() + byte,
            expected: expected[byte],
            found: found[byte],
        })
    }
}

/// Blocks of the input, and the output, as if this rank were the root.
fn shape(operation: Operation, (rank, ranks): (usize, usize), root: usize, len: usize) -> (usize, Output) {
    let sum = |ranks, from, len| Output::Sum { ranks, from, len };
    let of_all = |block: usize| Output::Blocks((0..ranks).map(|from| (from, block)).collect());
    match operation {
        Operation::Barrier => (0, Output::Blocks(Vec::new())),
        Operation::Bcast => (0, Output::Blocks(vec![(root, 0)])),
        Operation::Allreduce | Operation::Reduce => (1, sum(0..ranks, 0, len)),
        Operation::Scan => (1, sum(0..rank + 1, 0, len)),
        Operation::Exscan => (1, sum(0..rank, 0, len)),
        Operation::ReduceScatterBlock => (ranks, sum(0..ranks, rank * len, len)),
        Operation::ReduceScatter => {
            let parts = parts(len, ranks);
            (1, sum(0..ranks, parts[..rank].iter().sum(), parts[rank]))
        }
        Operation::Allgather | Operation::Allgatherv | Operation::Gather | Operation::Gatherv => {
            (1, of_all(0))
        }
        Operation::Scatter | Operation::Scatterv => {
            (if rank == root { ranks } else { 0 }, Output::Blocks(vec![(root, rank)]))
        }
        Operation::Alltoall | Operation::Alltoallv => (ranks, of_all(rank)),
        Operation::NeighborAlltoall | Operation::NeighborAlltoallv => {
            let neighbours = neighbours(rank, ranks);
            let own_block = |of: usize| self::neighbours(of, ranks).iter().position(|one| *one == rank);
            let blocks = neighbours.iter().map(|one| (*one, own_block(*one).expect("a ring goes both ways")));
            (neighbours.len(), Output::Blocks(blocks.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(operation: Operation, size_bytes: usize, rank: usize, ranks: usize, root: usize) -> Case {
        Case::new(operation, size_bytes, (rank, ranks), root)
    }

    #[test]
    fn buffers_are_as_long_as_mpi_says() {
        let lens = |operation, rank| {
            let case = case(operation, 48, rank, 3, 1);
            (case.input_len(), case.output_len())
        };
        for rank in 0..3 {
            let at_root = |len| if rank == 1 { len } else { 0 };
            assert_eq!(lens(Operation::Barrier, rank), (0, 0));
            assert_eq!(lens(Operation::Bcast, rank), (0, 48));
            assert_eq!(lens(Operation::Reduce, rank), (12, at_root(12)));
            assert_eq!(lens(Operation::Gatherv, rank), (48, at_root(144)));
            assert_eq!(lens(Operation::Scatter, rank), (at_root(144), 48));
            assert_eq!(lens(Operation::ReduceScatterBlock, rank), (12, 4));
            assert_eq!(lens(Operation::NeighborAlltoall, rank), (96, 96));
        }
        let got: Vec<_> =
            (0..3).map(|rank| case(Operation::ReduceScatter, 44, rank, 3, 0).output_len()).collect();
        assert_eq!(got, [4, 4, 3]);
    }

    #[test]
    fn rings_of_any_size_go_both_ways() {
        assert!(neighbours(0, 1).is_empty());
        assert_eq!((neighbours(0, 2), neighbours(1, 2)), (vec![1], vec![0]));
        assert_eq!((neighbours(0, 3), neighbours(1, 4)), (vec![1, 2], vec![0, 2]));
    }

    /// What a round gives, worked out from the definitions of the operations with whole matrices, and not from a case's own tables.
    fn by_definition(
        operation: Operation,
        ranks: usize,
        len: usize,
        root: usize,
        round: u64,
    ) -> Vec<Vec<u8>> {
        let value = |rank, block, at| u8::value(rank, block, at, round);
        let block =
            |rank: usize, block: usize| -> Vec<u8> { (0..len).map(|at| value(rank, block, at)).collect() };
        let of = |rank: usize| -> Vec<u8> {
            match operation {
                Operation::Alltoall => (0..ranks).flat_map(|from| block(from, rank)).collect(),
                Operation::Gather if rank != root => Vec::new(),
                Operation::Gather | Operation::Allgather => {
                    (0..ranks).flat_map(|from| block(from, 0)).collect()
                }
                Operation::Scatter => block(root, rank),
                _ => block(root, 0),
            }
        };
        (0..ranks).map(of).collect()
    }

    #[test]
    fn what_has_to_come_out_follows_from_the_definitions() {
        for (operation, root) in [
            (Operation::Alltoall, 0),
            (Operation::Gather, 2),
            (Operation::Allgather, 0),
            (Operation::Scatter, 1),
            (Operation::Bcast, 2),
        ] {
            let right = by_definition(operation, 3, 5, root, 7);
            for (rank, right) in right.iter().enumerate() {
                let case = case(operation, 5, rank, 3, root);
                let mut output = right.clone();
                assert_eq!(case.mismatch(7, &output), None, "{operation:?}");
                for at in 0..output.len() {
                    output[at] ^= 0x10;
                    let mismatch = case.mismatch(7, &output).expect("a byte is wrong");
                    assert_eq!(mismatch.offset_bytes, at, "{operation:?}");
                    output[at] ^= 0x10;
                }
                if !output.is_empty() {
                    assert!(
                        case.mismatch(8, &output).is_some(),
                        "the round before would pass: {operation:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn sums_are_of_the_ranks_that_the_operation_names() {
        let sum = |ranks: Range<usize>, at| ranks.map(|rank| f32::value(rank, 0, at, 1)).sum::<f32>();
        for rank in 0..4 {
            let vector = |ranks: Range<usize>, from: usize, len: usize| -> Vec<f32> {
                (from..from + len).map(|at| sum(ranks.clone(), at)).collect()
            };
            let check = |operation, output: Vec<f32>| {
                let case = case(operation, 40, rank, 4, 0);
                assert_eq!(case.output_len(), output.len(), "{operation:?}");
                assert_eq!(case.mismatch(1, &output), None, "{operation:?}");
            };
            check(Operation::Allreduce, vector(0..4, 0, 10));
            check(Operation::Scan, vector(0..rank + 1, 0, 10));
            check(Operation::ReduceScatterBlock, vector(0..4, rank * 2, 2));
            check(Operation::ReduceScatter, vector(0..4, [0, 3, 6, 8][rank], [3, 3, 2, 2][rank]));
            let before = if rank == 0 { vec![-5.0; 10] } else { vector(0..rank, 0, 10) };
            check(Operation::Exscan, before);
            let case = case(Operation::Allreduce, 40, rank, 4, 0);
            assert!(case.mismatch(1, &vector(0..3, 0, 10)).is_some(), "a rank is missing");
        }
    }

    #[test]
    fn nothing_passes_that_was_not_received() {
        for operation in Operation::ALL {
            for (rank, ranks) in [(0, 2), (1, 2), (1, 3)] {
                let case = case(operation, 64, rank, ranks, (rank + 1) % ranks);
                let passes = if operation.combines() {
                    let (mut input, mut output) = (vec![0.0; case.input_len()], vec![0.0; case.output_len()]);
                    case.fill(3, &mut input, &mut output);
                    case.mismatch::<f32>(3, &output).is_none()
                } else {
                    let (mut input, mut output) = (vec![0_u8; case.input_len()], vec![0; case.output_len()]);
                    case.fill(3, &mut input, &mut output);
                    case.mismatch::<u8>(3, &output).is_none()
                };
                let is_open = case.output_len() == 0 || (operation == Operation::Exscan && rank == 0);
                assert_eq!(passes, is_open, "{operation:?} at {rank} of {ranks}");
            }
        }
    }
}
