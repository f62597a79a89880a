//! Collective operations, MPI's or Ironband's or both in turn: how long they take, as OSU's benchmarks measure it.
//!
//! | module | what it holds |
//! |---|---|
//! | `operation` | what is measured, by OSU's names |
//! | `case` | lengths and contents of the buffers, and what has to come out |
//! | `mpi`, `ironband` | the operations of either, each in three forms |
//! | `rounds` | the timed rounds; those of two implementations take turns |
//! | `overlap` | computing while an operation goes on |
//! | `columns` | what is printed of it |

use ::ironband::Context;
use ironband_collectives::Communicator;
use serde::Serialize;

use crate::{
    error::BenchError,
    options::{By, Collective, Common},
    plan::COLLECTIVE,
    report::{Report, Row},
    session::Session,
    sizes::Sizes,
};

mod case;
mod columns;
mod ironband;
#[allow(unsafe_code, reason = "calls MPI's collective operations, of which rsmpi wraps some")]
mod mpi;
mod operation;
mod overlap;
mod rounds;

pub use columns::columns;
pub use operation::{Form, Measured, Operation, RootRank};
pub use overlap::overlap_percent;

use case::Case;
use rounds::{Contender, Operate, Stage};

/// Largest message unless `-m` says otherwise, as OSU's.
const SIZE_BYTES_MAX: usize = 1 << 20;

/// All that a run is asked for.
#[derive(Debug, Serialize)]
pub struct Asked<'o> {
    /// What is measured.
    pub measured: Measured,
    /// The options of every benchmark.
    pub common: &'o Common,
    /// The options of collective operations.
    pub collective: &'o Collective,
}

impl Asked<'_> {
    /// The roots, one for each round in turn.
    fn roots(&self, ranks: usize) -> Result<Vec<usize>, BenchError> {
        if !self.measured.operation.has_root() {
            return Ok(vec![0]);
        }
        match self.collective.root_rank {
            RootRank::Rotate => Ok((0..ranks).collect()),
            RootRank::Fixed(root) if root < ranks => Ok(vec![root]),
            RootRank::Fixed(root) => Err(BenchError::Option {
                option: "-k",
                value: RootRank::Fixed(root).to_string(),
                reason: format!("the job has the ranks 0 to {}", ranks - 1),
            }),
        }
    }

    /// The sizes, and how many of them are left out because their buffers are longer than `-M` allows.
    fn sizes(&self, ranks: usize, roots: &[usize]) -> Result<(Vec<usize>, usize), BenchError> {
        let operation = self.measured.operation;
        let all = match operation {
            Operation::Barrier => Sizes::new(0, 0),
            operation => self.common.sizes_up_to(operation.size_bytes_min(ranks), SIZE_BYTES_MAX)?,
        };
        let fits = |size_bytes: &usize| {
            let bytes = |rank| -> usize {
                roots.iter().map(|root| Case::new(operation, *size_bytes, (rank, ranks), *root).bytes()).sum()
            };
            (0..ranks).all(|rank| bytes(rank) <= self.collective.memory_limit)
        };
        let fitting: Vec<usize> = all.take_while(fits).collect();
        if fitting.is_empty() {
            return Err(BenchError::Option {
                option: "-M",
                value: self.collective.memory_limit.to_string(),
                reason: "not even the buffers of the smallest message fit; raise it".to_owned(),
            });
        }
        let left_out = all.count() - fitting.len();
        Ok((fitting, left_out))
    }

    fn notes(&self, context: Option<&Context>, left_out: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(context) = context.filter(|_| self.collective.by().len() > 1) {
            notes.push(format!("in turn with Ironband called from Rust, {}", context.report().join("; ")));
        }
        if self.measured.form == Form::Nonblocking {
            notes.push("Overall = Coll. Init + Compute + MPI_Test + MPI_Wait".to_owned());
        }
        if self.measured.operation.combines() {
            notes.push("Datatype: MPI_FLOAT.".to_owned());
        }
        if left_out > 0 {
            let limit = self.collective.memory_limit;
            notes.push(format!(
                "the {left_out} largest sizes need more memory than -M {limit} allows, and are left out"
            ));
        }
        if self.common.staged() && self.measured.operation != Operation::Barrier {
            notes.push("Every input is written anew before its round, outside the measured time".to_owned());
        }
        notes
    }
}

/// Runs one collective operation with all sizes.
///
/// # Errors
/// When an option or the job does not suit, and when this MPI cannot do it.
pub fn run(session: &Session, asked: &Asked<'_>, report: &mut Report<'_>) -> Result<(), BenchError> {
    let ranks = session.ranks() as usize;
    let (by, roots) = (asked.collective.by(), asked.roots(ranks)?);
    let (sizes, left_out) = asked.sizes(ranks, &roots)?;
    let beside = beside(session, &by)?;
    let context = session.context().or(beside.as_ref());
    let world = context.map(Communicator::world).transpose()?;
    if by.contains(&By::Mpi) {
        mpi::check(session, asked.measured)?;
    }
    report.open(&asked.notes(context, left_out), sizes.len())?;
    let meet = || {
        // One that is measured alone needs no other's progress.
        if let Some(context) = &beside {
            mpi::meet(session, || {
                context.progress();
            });
        }
    };
    for size_bytes in sizes {
        report.begin(size_bytes);
        report.add(measure(session, asked, world.as_ref(), &roots, size_bytes, &meet)?)?;
    }
    drop(world);
    session.agree(beside.map_or(Ok(()), Context::close).map_err(BenchError::from))
}

/// Ironband beside MPI, in the same processes, where both are measured.
fn beside(session: &Session, by: &[By]) -> Result<Option<Context>, BenchError> {
    if session.context().is_some() || !by.contains(&By::Ironband) {
        return Ok(None);
    }
    let context = session.agree(Context::open().map_err(BenchError::from))?;
    let place = (context.rank() as i32, context.size() as i32);
    // Both ask the same launcher. If they did not, nothing that follows would end.
    let is_same = place == (session.rank(), session.ranks());
    let checked = is_same
        .then_some(context)
        .ok_or_else(|| BenchError::Places { mpi: (session.rank(), session.ranks()), ironband: place });
    session.agree(checked).map(Some)
}

/// Measures one size.
fn measure(
    session: &Session,
    asked: &Asked<'_>,
    world: Option<&Communicator<'_>>,
    roots: &[usize],
    size_bytes: usize,
    meet: &dyn Fn(),
) -> Result<Row, BenchError> {
    let Measured { operation, form } = asked.measured;
    let stage = Stage::of(asked.common);
    let place = (session.rank() as usize, session.ranks() as usize);
    let mut contenders = Vec::new();
    for by in asked.collective.by() {
        let operations = roots.iter().map(|root| {
            let case = Case::new(operation, size_bytes, place, *root);
            match (by, world) {
                (By::Ironband, Some(world)) => ironband::operation(world, case, form),
                _ => mpi::operation(session, case, form),
            }
        });
        let operations: Vec<Box<dyn Operate + '_>> = operations.collect::<Result<_, _>>()?;
        contenders.push(Contender::new(operations, stage));
    }
    let rounds = asked.common.plan(COLLECTIVE, size_bytes).rounds;
    let own = rounds::measure(&mut contenders, form, rounds, asked.collective.tests, meet);
    let of_all: Vec<Vec<f64>> = own.iter().map(|own| session.gather_at_root(&own.as_array())).collect();
    let mismatch = contenders.iter().find_map(Contender::mismatch);
    let values = columns::values(form, asked.common.full, &of_all);
    Ok(Row { size_bytes, rounds, values, samples: Vec::new(), mismatch })
}
