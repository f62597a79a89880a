//! What the processes of a deed have before it, and what they must have behind it, computed from the inputs of all.

use std::ops::Range;

use ironband_collectives::schedule::Place;

use super::element::Element;
use super::{Deed, What, bits, neighbours, opposite};

impl Deed {
    /// The block that `from` has for `to`, where blocks differ.
    pub(super) fn count(&self, from: u32, to: u32) -> u64 {
        // Two ranks have blocks of one length for each other, if they are to be in one place.
        let is_even = self.what == What::Alltoallv && self.in_place;
        let (from, to) = if is_even { (from.min(to), from.max(to)) } else { (from, to) };
        let spread = self.len / 4 + 2;
        (u64::from(from) * 7 + u64::from(to) * 3 + self.salt) % spread
    }

    pub(super) fn counts(&self) -> Vec<u64> {
        (0..self.size).map(|rank| self.count(0, rank)).collect()
    }

    /// The elements of input and output of a rank.
    fn lens(&self, rank: u32) -> (u64, u64) {
        let place = Place { rank, size: self.size };
        self.what.lens(place, self.root, self.len, |from, to| self.count(from, to))
    }

    pub(super) fn input<T: Element>(&self, rank: u32) -> Vec<T> {
        (0..self.lens(rank).0).map(|index| T::of(bits(self.salt, rank, index))).collect()
    }

    /// What is in the output before: the root's data of a broadcast, and otherwise something that must not be left.
    pub(super) fn output_before<T: Element>(&self, rank: u32) -> Vec<T> {
        let len = self.lens(rank).1;
        if self.what == What::Bcast && rank == self.root {
            return (0..len).map(|index| T::of(bits(self.salt, rank, index))).collect();
        }
        vec![T::of(0xdead_beef); len as usize]
    }

    /// What has to be in the output of a rank in the end, computed from the inputs of all.
    pub(super) fn expected<T: Element>(&self, rank: u32, combine: impl Fn(&T, &T) -> T) -> Vec<T> {
        let inputs: Vec<Vec<T>> = (0..self.size).map(|rank| self.input(rank)).collect();
        let is_root = rank == self.root;
        let folded = |ranks: Range<u32>| -> Vec<T> {
            let vectors = &inputs[ranks.start as usize..ranks.end as usize];
            (0..vectors[0].len())
                .map(|at| vectors[1..].iter().fold(vectors[0][at], |sum, next| combine(&sum, &next[at])))
                .collect()
        };
        // The part of `from`'s input that is for `to`, where counts differ.
        let block = |from: u32, to: u32| {
            let start: u64 = (0..to).map(|to| self.count(from, to)).sum();
            inputs[from as usize][start as usize..(start + self.count(from, to)) as usize].to_vec()
        };
        let even = |vector: &[T], at: u32| {
            let len = self.len as usize;
            vector[at as usize * len..(at as usize + 1) * len].to_vec()
        };
        match self.what {
            What::Barrier => Vec::new(),
            What::Bcast => (0..self.len).map(|index| T::of(bits(self.salt, self.root, index))).collect(),
            What::Reduce if is_root => folded(0..self.size),
            What::Gather | What::Gatherv if is_root => inputs.concat(),
            What::Reduce | What::Gather | What::Gatherv => Vec::new(),
            What::Allreduce => folded(0..self.size),
            What::ReduceScatterBlock => even(&folded(0..self.size), rank),
            What::ReduceScatter => {
                let start: u64 = self.counts()[..rank as usize].iter().sum();
                folded(0..self.size)[start as usize..(start + self.count(0, rank)) as usize].to_vec()
            }
            What::Scatter => even(&inputs[self.root as usize], rank),
            What::Scatterv => {
                let start: u64 = self.counts()[..rank as usize].iter().sum();
                inputs[self.root as usize][start as usize..(start + self.count(0, rank)) as usize].to_vec()
            }
            What::Allgather | What::Allgatherv => inputs.concat(),
            What::Alltoall => inputs.iter().flat_map(|input| even(input, rank)).collect(),
            What::Alltoallv => (0..self.size).flat_map(|from| block(from, rank)).collect(),
            What::Scan => folded(0..rank + 1),
            // That of rank 0 stays.
            What::Exscan if rank == 0 => self.output_before(rank),
            What::Exscan => folded(0..rank),
            What::NeighbourAlltoallv => {
                let mut got = Vec::new();
                let mut seen = Vec::new();
                for from in opposite(rank, self.size) {
                    // The k-th edge from there is the k-th one to here.
                    let number = seen.iter().filter(|other| **other == from).count();
                    seen.push(from);
                    let edges = neighbours(from, self.size);
                    let at = (0..3).filter(|at| edges[*at] == rank).nth(number).expect("edges have two ends");
                    let start: u64 = edges[..at].iter().map(|to| self.count(from, *to)).sum();
                    let len = self.count(from, rank);
                    got.extend(&inputs[from as usize][start as usize..(start + len) as usize]);
                }
                got
            }
        }
    }

    /// Where the own block is among those of all ranks.
    fn own_block(&self, rank: u32) -> Range<usize> {
        let p = self.size as usize;
        let lens = match self.what {
            What::Gather | What::Scatter | What::Allgather => vec![self.len; p],
            _ => self.counts(),
        };
        let start: u64 = lens[..rank as usize].iter().sum();
        start as usize..(start + lens[rank as usize]) as usize
    }

    /// Whether this rank does it in one vector. Where that is each one's own affair, some do.
    pub(super) fn is_in_place(&self, rank: u32) -> bool {
        let has_own_choice = !matches!(self.what, What::Alltoall | What::Alltoallv);
        self.in_place
            && !matches!(self.what, What::Barrier | What::NeighbourAlltoallv)
            && !(has_own_choice && (self.salt + u64::from(rank)).is_multiple_of(3))
    }

    /// What is in the one vector before.
    pub(super) fn vector_before<T: Element>(&self, rank: u32) -> Vec<T> {
        let is_root = rank == self.root;
        match self.what {
            What::Barrier | What::Bcast => self.output_before(rank),
            What::Scatter | What::Scatterv if !is_root => self.output_before(rank),
            What::Allgather | What::Allgatherv => self.with_own_block(rank),
            What::Gather | What::Gatherv if is_root => self.with_own_block(rank),
            _ => self.input(rank),
        }
    }

    fn with_own_block<T: Element>(&self, rank: u32) -> Vec<T> {
        let mut vector = self.output_before(rank);
        vector[self.own_block(rank)].copy_from_slice(&self.input(rank));
        vector
    }

    /// What has to be in the one vector in the end. What is not of the result stays.
    pub(super) fn vector_after<T: Element>(&self, rank: u32, combine: impl Fn(&T, &T) -> T) -> Vec<T> {
        let is_root = rank == self.root;
        match self.what {
            What::Reduce | What::Gather | What::Gatherv if !is_root => self.input(rank),
            What::Scatter | What::Scatterv if is_root => self.input(rank),
            What::Exscan if rank == 0 => self.input(rank),
            What::ReduceScatter | What::ReduceScatterBlock => {
                let mut vector: Vec<T> = self.input(rank);
                let result = self.expected(rank, combine);
                vector[..result.len()].copy_from_slice(&result);
                vector
            }
            _ => self.expected(rank, combine),
        }
    }
}
