//! Ironband's collective operations against MPI's own, in one MPI program, over contexts of MPI communicators: what `tests/collectives.rs` starts under `mpirun`.
//!
//! `do SEED COUNT`: all operations, and then so many that follow from the seed, on the world and on its halves in turn. `refused RANK`: one process can open no
//! device; all others are told, and all can open a context later. `aborts RANK`: one process ends the job. In the end MPI is finalized before the context is closed.

mod campaign;
mod datum;
mod mpi;
mod trial;

use std::process::ExitCode;

use ::mpi::topology::{Color, SimpleCommunicator};
use ::mpi::traits::Communicator as _;
use ironband::{Config, Context, Error};
use ironband_collectives::operator::Sum;
use ironband_collectives::{Communicator, Table};
use ironband_tests::Random;
use ironband_tests::deeds::{neighbours, opposite};

use campaign::{MANY, do_each, do_one, low_table};
use mpi::Mpi;
use trial::Both;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u32>().unwrap_or_else(|_| panic!("{word:?} is no number"));
    let universe = ::mpi::initialize().unwrap_or_else(|| panic!("MPI cannot be initialized"));
    let world = universe.world();
    let outcome = match words[..] {
        ["do", seed, count] => all_agree(&world, u64::from(number(seed)), number(count)),
        ["refused", rank] => one_is_refused(&world, number(rank)),
        ["aborts", rank] => one_aborts(&world, number(rank)),
        _ => panic!("{words:?}: see the head of this file"),
    };
    let context = outcome.unwrap_or_else(|wrong| {
        println!("{} of {}: {wrong}", world.rank(), world.size());
        // The others may wait for this one.
        world.abort(1)
    });
    drop(universe);
    match without_mpi(context, &world) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            println!("after MPI_Finalize: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// After `MPI_Finalize` a context is what it was, and none can be opened.
fn without_mpi(context: Context, world: &SimpleCommunicator) -> Result<(), String> {
    let (rank, size) = (context.rank(), context.size());
    match Context::from_mpi(world) {
        Err(Error::Bootstrap { .. }) => {}
        other => return Err(format!("a context is opened: {other:?}")),
    }
    ranks_add_up(&context)?;
    context.close().map_err(text)?;
    println!("{rank} of {size}: ok");
    Ok(())
}

fn ranks_add_up(context: &Context) -> Result<(), String> {
    let mut sum = [0];
    let all = Communicator::world(context).map_err(text)?;
    all.allreduce(&[context.rank()], &mut sum, Sum).map_err(text)?;
    let expected = (0..context.size()).sum::<u32>();
    if sum == [expected] { Ok(()) } else { Err(format!("{sum:?} is not {expected}")) }
}

/// The same processes for MPI and for Ironband.
struct Pair<'c> {
    ironband: Communicator<'c>,
    mpi: Mpi<'c>,
}

impl<'c> Pair<'c> {
    fn new(context: &'c Context, communicator: &'c SimpleCommunicator) -> Result<Self, String> {
        let ironband = Communicator::world(context).map_err(text)?;
        let (rank, size) = (ironband.rank(), ironband.size());
        if (rank as i32, size as i32) != (communicator.rank(), communicator.size()) {
            return Err(format!("{ironband:?} is not what MPI has"));
        }
        let mpi = Mpi::new(communicator, &neighbours(rank, size), &opposite(rank, size));
        Ok(Self { ironband, mpi })
    }

    const fn both(&self) -> Both<'_, 'c> {
        Both { ironband: &self.ironband, mpi: &self.mpi }
    }
}

/// On the world, and on its even and its odd ranks in the opposite order.
fn all_agree(world: &SimpleCommunicator, seed: u64, count: u32) -> Result<Context, String> {
    let parity = world.rank() % 2;
    let half = world.split_by_color_with_key(Color::with_value(parity), -world.rank());
    let half = half.ok_or("who has a color gets a communicator")?;
    let alone = Context::from_mpi(&SimpleCommunicator::self_comm()).map_err(text)?;
    let context = Context::from_mpi(world).map_err(text)?;
    let of_half = Context::from_mpi(&half).map_err(text)?;
    ranks_add_up(&alone)?;
    alone.close().map_err(text)?;

    let mut all = Pair::new(&context, world)?;
    let part = Pair::new(&of_half, &half)?;
    let mut compared = do_each(&all.both(), &Table::default())?;
    all.ironband.set_table(low_table()).map_err(text)?;
    compared += do_each(&all.both(), &low_table())?;
    if all.ironband.size() <= MANY {
        all.ironband.set_reproducible(true);
        compared += do_each(&all.both(), &low_table())?;
        all.ironband.set_reproducible(false);
    }

    let mut random = (Random::new(seed), Random::new(seed + 1 + parity as u64));
    for number in 0..count {
        let with_number = |wrong: String| format!("operation {number} from seed {seed}: {wrong}");
        do_one(&mut random.0, &all.both()).map_err(with_number)?;
        do_one(&mut random.1, &part.both()).map_err(with_number)?;
    }
    if world.rank() == 0 {
        println!("{} operations are as MPI's, seed {seed}", compared + 2 * u64::from(count));
    }
    drop((all, part));
    of_half.close().map_err(text)?;
    Ok(context)
}

/// All get an error, nobody waits, and MPI goes on.
fn one_is_refused(world: &SimpleCommunicator, victim: u32) -> Result<Context, String> {
    let rank = world.rank() as u32;
    let fabrics = if rank == victim { Vec::new() } else { Config::default().fabrics };
    let config = Config { fabrics, ..Config::default() };
    let bootstrap = ironband::Mpi::new(world).map_err(text)?;
    match Context::open_over(bootstrap, &config) {
        Err(Error::NoDevice { .. }) if rank == victim => {}
        Err(Error::NotOpened { rank: named, .. }) if rank != victim && named == victim => {}
        other => return Err(format!("{other:?}")),
    }
    let context = Context::from_mpi(world).map_err(text)?;
    ranks_add_up(&context)?;
    Ok(context)
}

/// The others wait for it without end.
fn one_aborts(world: &SimpleCommunicator, who: u32) -> Result<Context, String> {
    let context = Context::from_mpi(world).map_err(text)?;
    ranks_add_up(&context)?;
    if context.rank() == who {
        context.abort(3, "as the test wants it");
    }
    Communicator::world(&context).map_err(text)?.barrier().map_err(text)?;
    Err("the job goes on".to_owned())
}
