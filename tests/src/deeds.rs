//! Collective operations that ranks do together, and what has to come out of them: from a seed, and computed by one loop over the inputs
//! of all.

use bytemuck::{Pod, Zeroable};
use ironband_collectives::operator::{InOrder, Operator, Sum};
use ironband_collectives::{Combining, Communicator, Error, Plan, Request};

use crate::Random;

/// A 2 x 2 matrix of whole numbers modulo 2^32: its product is associative and does not commute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Matrix([u32; 4]);

impl Matrix {
    fn times(&self, right: &Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, right.0);
        let sum = |x: u32, y: u32, z: u32, w: u32| x.wrapping_mul(y).wrapping_add(z.wrapping_mul(w));
        Self([sum(a, e, b, g), sum(a, f, b, h), sum(c, e, d, g), sum(c, f, d, h)])
    }
}

/// Elements that are made from a number.
pub trait Element: Pod + PartialEq + std::fmt::Debug {
    /// The element of these bits.
    fn of(bits: u64) -> Self;
}

impl Element for u8 {
    fn of(bits: u64) -> Self {
        bits as Self
    }
}

impl Element for f64 {
    /// Whole, so that sums are exact in any order.
    fn of(bits: u64) -> Self {
        (bits % 1000) as Self
    }
}

impl Element for Matrix {
    fn of(bits: u64) -> Self {
        Self([bits as u32, (bits >> 7) as u32, (bits >> 13) as u32 | 1, (bits >> 29) as u32])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Barrier,
    Bcast,
    Reduce,
    Allreduce,
    ReduceScatterBlock,
    ReduceScatter,
    Gather,
    Gatherv,
    Scatter,
    Scatterv,
    Allgather,
    Allgatherv,
    Alltoall,
    Alltoallv,
    Scan,
    Exscan,
    Neighbours,
}

const ALL: [What; 17] = [
    What::Barrier,
    What::Bcast,
    What::Reduce,
    What::Allreduce,
    What::ReduceScatterBlock,
    What::ReduceScatter,
    What::Gather,
    What::Gatherv,
    What::Scatter,
    What::Scatterv,
    What::Allgather,
    What::Allgatherv,
    What::Alltoall,
    What::Alltoallv,
    What::Scan,
    What::Exscan,
    What::Neighbours,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes,
    Floats,
    Matrices,
}

/// One operation of all ranks. It follows from a seed.
#[derive(Debug, Clone, Copy)]
pub struct Deed {
    what: What,
    kind: Kind,
    len: u64,
    root: u32,
    size: u32,
    salt: u64,
}

/// A number for each element of each rank.
fn bits(salt: u64, rank: u32, index: u64) -> u64 {
    let mut random = Random::new(salt ^ u64::from(rank) << 40 ^ index << 20);
    (random.below(1 << 30) << 30 | random.below(1 << 30)) as u64
}

impl Deed {
    /// One of `size` ranks, the one with this number.
    pub fn of(random: &mut Random, size: u32, number: u32) -> Self {
        let p = u64::from(size);
        let lens = [0, 1, p - 1, p, p + 1, 37, 300, 3000];
        Self {
            what: ALL[random.below(ALL.len())],
            kind: [Kind::Bytes, Kind::Floats, Kind::Matrices][random.below(3)],
            len: lens[random.below(lens.len())],
            root: random.below(size as usize) as u32,
            size,
            salt: (random.below(1 << 30) << 8) as u64 | u64::from(number),
        }
    }

    /// Begins it at one rank, or does it until its end.
    pub fn start<'c>(&self, communicator: &Communicator<'c>, how: How) -> Under<'c> {
        let under = match self.kind {
            _ if self.what == What::Barrier => {
                go(&communicator.plan_barrier(), how, Default::default()).map(Under::Bytes)
            }
            Kind::Bytes => self.begin(communicator, how, Sum).map(Under::Bytes),
            Kind::Floats => self.begin(communicator, how, Sum).map(Under::Floats),
            Kind::Matrices => self.begin(communicator, how, InOrder(Matrix::times)).map(Under::Matrices),
        };
        // After a death nothing can be begun.
        under.unwrap_or_else(Under::Refused)
    }

    /// Does it until its end, and looks whether the result is right.
    ///
    /// # Errors
    /// What is wrong with the result, or the failure as a text.
    pub fn run(&self, communicator: &Communicator<'_>, how: How) -> Result<Option<Error>, String> {
        let mut under = self.start(communicator, how);
        loop {
            let outcome = under.look(self, communicator.rank())?;
            if under.is_over() {
                return Ok(outcome);
            }
        }
    }

    /// The block that `from` has for `to`, where blocks differ.
    fn count(&self, from: u32, to: u32) -> u64 {
        let spread = self.len / 4 + 2;
        (u64::from(from) * 7 + u64::from(to) * 3 + self.salt) % spread
    }

    fn counts(&self) -> Vec<u64> {
        (0..self.size).map(|rank| self.count(0, rank)).collect()
    }

    /// Whom a rank has to its right: two neighbours, the second one twice.
    fn neighbours(&self, rank: u32) -> [u32; 3] {
        [(rank + 1) % self.size, (rank + 2) % self.size, (rank + 2) % self.size]
    }

    fn opposite(&self, rank: u32) -> [u32; 3] {
        let before = |distance: u32| (rank + 2 * self.size - distance) % self.size;
        [before(1), before(2), before(2)]
    }

    fn input<T: Element>(&self, rank: u32) -> Vec<T> {
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
    fn output_before<T: Element>(&self, rank: u32) -> Vec<T> {
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

    fn begin<'c, T: Element>(
        &self,
        communicator: &Communicator<'c>,
        how: How,
        operator: impl Operator<T>,
    ) -> Result<Begun<'c, T>, Error> {
        let rank = communicator.rank();
        let buffers = (self.input(rank), self.output_before(rank));
        let (root, len) = (self.root, self.len);
        let counts = self.counts();
        let counts_of_root = Some(&counts[..]).filter(|_| rank == root);
        match self.what {
            What::Barrier => unreachable!("it has no elements"),
            What::Bcast => go(&communicator.plan_bcast(root, len)?, how, buffers),
            What::Reduce => go(&communicator.plan_reduce(root, len, operator)?, how, buffers),
            What::Allreduce => go(&communicator.plan_allreduce(len, operator)?, how, buffers),
            What::ReduceScatterBlock => {
                go(&communicator.plan_reduce_scatter_block(len, operator)?, how, buffers)
            }
            What::ReduceScatter => go(&communicator.plan_reduce_scatter(&counts, operator)?, how, buffers),
            What::Gather => go(&communicator.plan_gather(root, len)?, how, buffers),
            What::Gatherv => {
                go(&communicator.plan_gatherv(root, self.count(0, rank), counts_of_root)?, how, buffers)
            }
            What::Scatter => go(&communicator.plan_scatter(root, len)?, how, buffers),
            What::Scatterv => {
                go(&communicator.plan_scatterv(root, self.count(0, rank), counts_of_root)?, how, buffers)
            }
            What::Allgather => go(&communicator.plan_allgather(len)?, how, buffers),
            What::Allgatherv => go(&communicator.plan_allgatherv(&counts)?, how, buffers),
            What::Alltoall => go(&communicator.plan_alltoall(len)?, how, buffers),
            What::Alltoallv => {
                let to: Vec<u64> = (0..self.size).map(|to| self.count(rank, to)).collect();
                let from: Vec<u64> = (0..self.size).map(|from| self.count(from, rank)).collect();
                go(&communicator.plan_alltoallv(&to, &from)?, how, buffers)
            }
            What::Scan => go(&communicator.plan_scan(len, operator, true)?, how, buffers),
            What::Exscan => go(&communicator.plan_scan(len, operator, false)?, how, buffers),
            What::Neighbours => {
                let (to, from) = (self.neighbours(rank), self.opposite(rank));
                let sent = to.map(|to| self.count(rank, to));
                let got = from.map(|from| self.count(from, rank));
                go(&communicator.plan_neighbour_exchange((&to, &sent), (&from, &got))?, how, buffers)
            }
        }
    }

    /// What has to be in the output of a rank in the end, computed from the inputs of all.
    fn expected<T: Element>(&self, rank: u32, combine: impl Fn(&T, &T) -> T) -> Vec<T> {
        let inputs: Vec<Vec<T>> = (0..self.size).map(|rank| self.input(rank)).collect();
        let is_root = rank == self.root;
        let folded = |ranks: std::ops::Range<u32>| -> Vec<T> {
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
}

impl Deed {
    fn judge<T: Element>(
        &self,
        ended: Ended<T>,
        rank: u32,
        combine: impl Fn(&T, &T) -> T,
    ) -> Result<Option<Error>, String> {
        let (input, got) = match ended {
            Ok(buffers) => buffers,
            Err(error) => return Ok(Some(error)),
        };
        if self.what == What::Barrier {
            return Ok(None);
        }
        if input != self.input::<T>(rank) {
            return Err(format!("rank {rank}: the input has changed in {self:?}"));
        }
        let expected = self.expected(rank, combine);
        if got == expected {
            return Ok(None);
        }
        let at = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        let lens = (got.len(), expected.len());
        Err(format!("rank {rank} gets a wrong result at {at:?} of {lens:?} from {self:?}"))
    }
}

/// How an operation is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Until it has ended.
    Blocking,
    /// As a request that owns the buffers.
    Owned,
    /// As a request, in a scope, with borrowed buffers.
    Borrowed,
    /// As one that was started before.
    Persistent,
}

/// Input and output, or why it has failed.
type Ended<T> = Result<(Vec<T>, Vec<T>), Error>;

/// One that has been begun: it is under way, or has ended in the call.
#[derive(Debug)]
pub enum Begun<'c, T: Pod> {
    /// It goes on.
    Request(Request<'c, T>),
    /// It has ended.
    Ended(Ended<T>),
}

fn go<'c, T: Pod, C: Combining>(
    plan: &Plan<'_, 'c, T, C>,
    how: How,
    (input, mut output): (Vec<T>, Vec<T>),
) -> Result<Begun<'c, T>, Error> {
    let outcome = match how {
        How::Owned => return plan.start(input, output).map(Begun::Request),
        How::Blocking => plan.run(&input, &mut output),
        How::Borrowed => plan.communicator().scope(|scope| {
            let request = plan.start_in(scope, &input, &mut output)?;
            request.wait().map(|_| ())
        }),
        How::Persistent => {
            let mut persistent = plan.with(input.clone(), output.clone())?;
            persistent.start().and_then(|()| {
                output.copy_from_slice(&persistent.output()?);
                Ok(())
            })
        }
    };
    Ok(Begun::Ended(outcome.map(|()| (input, output))))
}

/// A deed under way, at one rank.
#[derive(Debug)]
pub enum Under<'c> {
    /// Of bytes.
    Bytes(Begun<'c, u8>),
    /// Of numbers.
    Floats(Begun<'c, f64>),
    /// Of matrices.
    Matrices(Begun<'c, Matrix>),
    /// It could not be begun.
    Refused(Error),
    /// It was looked at when it had ended.
    Over,
}

/// The end of one that was begun, if it has come.
fn end<T: Pod>(begun: Begun<'_, T>) -> Result<Ended<T>, Begun<'_, T>> {
    match begun {
        Begun::Ended(ended) => Ok(ended),
        Begun::Request(request) if request.is_done() => Ok(request.wait()),
        request => Err(request),
    }
}

impl Under<'_> {
    /// Whether it has ended, and that was seen.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Looks whether it has ended, and whether its result is right. Gives the error that it has ended with.
    ///
    /// # Errors
    /// What is wrong with the result.
    pub fn look(&mut self, deed: &Deed, rank: u32) -> Result<Option<Error>, String> {
        match std::mem::replace(self, Self::Over) {
            Self::Bytes(begun) => match end(begun) {
                Ok(ended) => deed.judge(ended, rank, |left: &u8, right| left.wrapping_add(*right)),
                Err(begun) => self.go_on(Self::Bytes(begun)),
            },
            Self::Floats(begun) => match end(begun) {
                Ok(ended) => deed.judge(ended, rank, |left: &f64, right| left + right),
                Err(begun) => self.go_on(Self::Floats(begun)),
            },
            Self::Matrices(begun) => match end(begun) {
                Ok(ended) => deed.judge(ended, rank, Matrix::times),
                Err(begun) => self.go_on(Self::Matrices(begun)),
            },
            Self::Refused(error) => Ok(Some(error)),
            Self::Over => Ok(None),
        }
    }
}

impl<'c> Under<'c> {
    fn go_on(&mut self, under: Under<'c>) -> Result<Option<Error>, String> {
        *self = under;
        Ok(None)
    }
}
