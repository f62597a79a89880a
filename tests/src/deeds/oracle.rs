//! What the processes of a deed have before it, and what they must have behind it, computed from the inputs of all.

use std::ops::Range;

use super::element::Element;
use super::{Deed, What, bits};

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

    /// Whom a rank has to its right: two neighbours, the second one twice.
    pub(super) fn neighbours(&self, rank: u32) -> [u32; 3] {
        [(rank + 1) % self.size, (rank + 2) % self.size, (rank + 2) % self.size]
    }

    pub(super) fn opposite(&self, rank: u32) -> [u32; 3] {
        let before = |distance: u32| (rank + 2 * self.size - distance) % self.size;
        [before(1), before(2), before(2)]
    }

    pub(super) fn input<T: Element>(&self, rank: u32) -> Vec<T> {
        let p = u64::from(self.size);
        let is_root = rank == self.root;
        let len = match self.what {
            What::Barrier | What::Bcast => 0,
            What::Reduce | What::Allreduce | What::Gather | What::Allgather | What::Scan | What::Exscan => {
                self.len
            }
            What::ReduceScatterBlock | What::Alltoall => self.len * p,
            What::ReduceScatter => self.counts().iter().sum(),
            What::Gatherv | What::Allgatherv => self.count(0, rank),
            What::Scatter => {
                if is_root {
                    self.len * p
                } else {
                    0
                }
            }
            What::Scatterv => {
                if is_root {
                    self.counts().iter().sum()
                } else {
                    0
                }
            }
            What::Alltoallv => (0..self.size).map(|to| self.count(rank, to)).sum(),
            What::Neighbours => self.neighbours(rank).iter().map(|to| self.count(rank, *to)).sum(),
        };
        (0..len).map(|index| T::of(bits(self.salt, rank, index))).collect()
    }

    /// What is in the output before: something that must not be left.
    pub(super) fn output_before<T: Element>(&self, rank: u32) -> Vec<T> {
        let p = u64::from(self.size);
        let is_root = rank == self.root;
        let len = match self.what {
            What::Barrier => 0,
            What::Bcast if is_root => {
                return (0..self.len).map(|index| T::of(bits(self.salt, rank, index))).collect();
            }
            What::Bcast | What::Allreduce | What::ReduceScatterBlock | What::Scatter => self.len,
            What::Scan | What::Exscan => self.len,
            What::Reduce => {
                if is_root {
                    self.len
                } else {
                    0
                }
            }
            What::ReduceScatter | What::Scatterv => self.count(0, rank),
            What::Gather => {
                if is_root {
                    self.len * p
                } else {
                    0
                }
            }
            What::Gatherv => {
                if is_root {
                    self.counts().iter().sum()
                } else {
                    0
                }
            }
            What::Allgather | What::Alltoall => self.len * p,
            What::Allgatherv => self.counts().iter().sum(),
            What::Alltoallv => (0..self.size).map(|from| self.count(from, rank)).sum(),
            What::Neighbours => self.opposite(rank).iter().map(|from| self.count(*from, rank)).sum(),
        };
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
            What::Neighbours => {
                let mut got = Vec::new();
                let mut seen = Vec::new();
                for from in self.opposite(rank) {
                    // The k-th edge from there is the k-th one to here.
                    let number = seen.iter().filter(|other| **other == from).count();
                    seen.push(from);
                    let edges = self.neighbours(from);
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
            && !matches!(self.what, What::Barrier | What::Neighbours)
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
