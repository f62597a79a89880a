//! Collective operations that ranks do together, and what has to come out of them: from a seed, and computed by one loop over the inputs
//! of all.

mod calls;
mod element;
mod oracle;
mod what;

use ironband_collectives::{Communicator, Error};

use crate::Random;

pub use calls::{How, Under};
pub use element::{Element, Kind, Matrix, die_in_product};
pub use what::{What, neighbours, opposite};

/// One operation of all ranks. It follows from a seed.
#[derive(Debug, Clone, Copy)]
pub struct Deed {
    what: What,
    kind: Kind,
    len: u64,
    root: u32,
    size: u32,
    /// In one vector, where that is possible.
    in_place: bool,
    salt: u64,
    /// By the algorithm that sends pieces of so many elements along a chain, which no table chooses.
    chain: Option<u64>,
}

/// A number for each element of each rank.
fn bits(salt: u64, rank: u32, index: u64) -> u64 {
    let mut random = Random::new(salt ^ u64::from(rank) << 40 ^ index << 20);
    (random.below(1 << 30) << 30 | random.below(1 << 30)) as u64
}

/// How many elements there are.
fn lens(size: u32) -> [u64; 8] {
    let p = u64::from(size);
    [0, 1, p - 1, p, p + 1, 37, 300, 3000]
}

impl Deed {
    /// One of `size` ranks, the one with this number.
    pub fn of(random: &mut Random, size: u32, number: u32) -> Self {
        let lens = lens(size);
        Self {
            what: What::ALL[random.below(What::ALL.len())],
            kind: Kind::ALL[random.below(Kind::ALL.len())],
            len: lens[random.below(lens.len())],
            root: random.below(size as usize) as u32,
            size,
            in_place: random.below(2) == 0,
            salt: (random.below(1 << 30) << 8) as u64 | u64::from(number),
            chain: None,
        }
    }

    /// Every operation on every type; the rest follows from a seed.
    pub fn each(random: &mut Random, size: u32) -> Vec<Self> {
        let pairs = What::ALL.iter().flat_map(|what| Kind::ALL.iter().map(|kind| (*what, *kind)));
        (0..)
            .zip(pairs)
            .map(|(number, (what, kind))| Self { what, kind, ..Self::of(random, size, number) })
            .collect()
    }

    /// One of `size` ranks: this operation on few elements, or so many that no message goes at once.
    pub fn of_operation(what: What, is_long: bool, random: &mut Random, size: u32, number: u32) -> Self {
        let lens = if is_long { [5000, 20_000] } else { [1, 37] };
        Self { what, len: lens[random.below(2)], ..Self::of(random, size, number) }
    }

    /// This operation on a few hundred elements, which commute or do not.
    pub fn of_order(what: What, commutes: bool, random: &mut Random, size: u32, number: u32) -> Self {
        let kinds = if commutes { [Kind::SumU8, Kind::SumF64] } else { [Kind::Matrices; 2] };
        let lens = [1, 37, 300];
        let (kind, len) = (kinds[random.below(2)], lens[random.below(3)]);
        Self { kind, len, ..Self::of_operation(what, false, random, size, number) }
    }

    /// The same by a chain: a broadcast or a reduction, by a plan.
    pub fn by_chain(self, segment: u64) -> Self {
        Self { chain: Some(segment), in_place: false, ..self }
    }

    /// The same on matrices, if the operation combines something.
    pub fn on_matrices(self) -> Option<Self> {
        self.what.combines().then_some(Self { kind: Kind::Matrices, ..self })
    }

    /// Begins it at one rank, or does it until its end.
    pub fn start<'c>(&self, communicator: &Communicator<'c>, how: How) -> Under<'c> {
        Under::begin(self, communicator, how)
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
}
