//! Ironband's collective operations: by the calls that a program makes, from plans, and persistent.

use ironband_collectives::{Combining, Communicator, Error, Persistent, Plan, Request, operator::Sum};

use super::{
    case::{Case, Element, neighbours, parts},
    operation::{Form, Operation},
    rounds::Operate,
};
use crate::{error::BenchError, pattern::Mismatch, point_to_point::abort};

/// Ends the job: the other ranks may wait for this one.
fn check<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        abort()
    })
}

/// The blocking call, from an input to an output.
type Call<'w, T> = Box<dyn Fn(&[T], &mut [T]) -> Result<(), Error> + 'w>;

/// Who has the buffers.
enum Buffers<'c, T: Element> {
    Idle(Vec<T>, Vec<T>),
    UnderWay(Request<'c, T>),
    Persistent(Persistent<'c, T>),
    /// In between.
    Moving,
}

struct Own<'w, 'c, T: Element, C> {
    case: Case,
    call: Call<'w, T>,
    plan: Plan<'w, 'c, T, C>,
    /// Kept, so that the schedule of what is measured stays the one that the communicator used last, as in a program without barriers.
    barrier: Plan<'w, 'c, u8, ()>,
    buffers: Buffers<'c, T>,
}

/// An operation of Ironband's, ready to be measured.
///
/// # Errors
/// When lengths do not suit.
pub(super) fn operation<'w, 'c: 'w>(
    world: &'w Communicator<'c>,
    case: Case,
    form: Form,
) -> Result<Box<dyn Operate + 'w>, BenchError> {
    if case.operation.combines() { combining(world, case, form) } else { moving(world, case, form) }
}

fn combining<'w, 'c: 'w>(
    world: &'w Communicator<'c>,
    case: Case,
    form: Form,
) -> Result<Box<dyn Operate + 'w>, BenchError> {
    let (len, root) = (case.len as u64, case.root as u32);
    match case.operation {
        Operation::Reduce => {
            let plan = world.plan_reduce(root, len, Sum)?;
            let call = move |input: &[f32], output: &mut [f32]| world.root(root)?.reduce(input, output, Sum);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::ReduceScatter => {
            let counts: Vec<u64> = parts(case.len, case.ranks).into_iter().map(|part| part as u64).collect();
            let plan = world.plan_reduce_scatter(&counts, Sum)?;
            let call =
                move |input: &[f32], output: &mut [f32]| world.reduce_scatter(input, output, &counts, Sum);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::ReduceScatterBlock => {
            let plan = world.plan_reduce_scatter_block(len, Sum)?;
            let call = |input: &[f32], output: &mut [f32]| world.reduce_scatter_block(input, output, Sum);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::Scan => {
            let plan = world.plan_scan(len, Sum, true)?;
            Own::boxed(world, case, form, plan, |input: &[f32], output| world.scan(input, output, Sum))
        }
        Operation::Exscan => {
            let plan = world.plan_scan(len, Sum, false)?;
            Own::boxed(world, case, form, plan, |input: &[f32], output| world.exscan(input, output, Sum))
        }
        _ => {
            let plan = world.plan_allreduce(len, Sum)?;
            Own::boxed(world, case, form, plan, |input: &[f32], output| world.allreduce(input, output, Sum))
        }
    }
}

fn moving<'w, 'c: 'w>(
    world: &'w Communicator<'c>,
    case: Case,
    form: Form,
) -> Result<Box<dyn Operate + 'w>, BenchError> {
    let (len, root, is_root) = (case.len as u64, case.root as u32, case.rank == case.root);
    let counts = vec![len; case.ranks];
    let counts_at_root = if is_root { counts.clone() } else { Vec::new() };
    match case.operation {
        Operation::Barrier => {
            Own::boxed(world, case, form, world.plan_barrier(), |_: &[u8], _: &mut [u8]| world.barrier())
        }
        Operation::Bcast => {
            let plan = world.plan_bcast(root, len)?;
            Own::boxed(world, case, form, plan, move |_: &[u8], output| world.root(root)?.bcast(output))
        }
        Operation::Gather => {
            let plan = world.plan_gather(root, len)?;
            let call = move |input: &[u8], output: &mut [u8]| world.root(root)?.gather(input, output);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::Gatherv => {
            let plan = world.plan_gatherv(root, len, Some(&counts_at_root))?;
            let call = move |input: &[u8], output: &mut [u8]| {
                world.root(root)?.gatherv(input, output, &counts_at_root)
            };
            Own::boxed(world, case, form, plan, call)
        }
        Operation::Scatter => {
            let plan = world.plan_scatter(root, len)?;
            let call = move |input: &[u8], output: &mut [u8]| world.root(root)?.scatter(input, output);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::Scatterv => {
            let plan = world.plan_scatterv(root, len, Some(&counts_at_root))?;
            let call = move |input: &[u8], output: &mut [u8]| {
                world.root(root)?.scatterv(input, &counts_at_root, output)
            };
            Own::boxed(world, case, form, plan, call)
        }
        Operation::Allgather => {
            let plan = world.plan_allgather(len)?;
            Own::boxed(world, case, form, plan, |input: &[u8], output| world.allgather(input, output))
        }
        Operation::Allgatherv => {
            let plan = world.plan_allgatherv(&counts)?;
            let call = move |input: &[u8], output: &mut [u8]| world.allgatherv(input, output, &counts);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::Alltoallv => {
            let plan = world.plan_alltoallv(&counts, &counts)?;
            let call =
                move |input: &[u8], output: &mut [u8]| world.alltoallv(input, &counts, output, &counts);
            Own::boxed(world, case, form, plan, call)
        }
        Operation::NeighborAlltoall | Operation::NeighborAlltoallv => {
            let ring: Vec<u32> =
                neighbours(case.rank, case.ranks).into_iter().map(|rank| rank as u32).collect();
            let counts = vec![len; ring.len()];
            let plan = world.plan_neighbour_exchange((&ring, &counts), (&ring, &counts))?;
            let call = move |input: &[u8], output: &mut [u8]| {
                world.neighbour_exchange((input, &counts, &ring), (output, &counts, &ring))
            };
            Own::boxed(world, case, form, plan, call)
        }
        _ => {
            let plan = world.plan_alltoall(len)?;
            Own::boxed(world, case, form, plan, |input: &[u8], output| world.alltoall(input, output))
        }
    }
}

impl<'w, 'c: 'w, T: Element, C: Combining> Own<'w, 'c, T, C> {
    fn boxed(
        world: &'w Communicator<'c>,
        case: Case,
        form: Form,
        plan: Plan<'w, 'c, T, C>,
        call: impl Fn(&[T], &mut [T]) -> Result<(), Error> + 'w,
    ) -> Result<Box<dyn Operate + 'w>, BenchError> {
        let (mut input, mut output) = (vec![T::ZERO; case.input_len()], vec![T::ZERO; case.output_len()]);
        case.fill(0, &mut input, &mut output);
        let buffers = match form {
            Form::Persistent => Buffers::Persistent(plan.with(input, output)?),
            Form::Blocking | Form::Nonblocking => Buffers::Idle(input, output),
        };
        Ok(Box::new(Self { case, call: Box::new(call), plan, barrier: world.plan_barrier(), buffers }))
    }
}

impl<T: Element, C: Combining> Operate for Own<'_, '_, T, C> {
    fn prepare(&mut self, round: u64) {
        let case = &self.case;
        match &mut self.buffers {
            Buffers::Idle(input, output) => case.fill(round, input, output),
            Buffers::Persistent(persistent) => {
                // One after the other: each is lent by the whole.
                let mut output = check(persistent.output_mut()).to_vec();
                case.fill(round, &mut check(persistent.input_mut()), &mut output);
                check(persistent.output_mut()).copy_from_slice(&output);
            }
            Buffers::UnderWay(_) | Buffers::Moving => unreachable!("a round ends before the next one begins"),
        }
    }

    fn mismatch(&self, round: u64) -> Option<Mismatch> {
        match &self.buffers {
            Buffers::Idle(_, output) => self.case.mismatch(round, output),
            Buffers::Persistent(persistent) => self.case.mismatch(round, &check(persistent.output())),
            Buffers::UnderWay(_) | Buffers::Moving => unreachable!("the round has ended"),
        }
    }

    fn call(&mut self) {
        let Buffers::Idle(input, output) = &mut self.buffers else { unreachable!("a blocking form") };
        check((self.call)(input, output));
    }

    fn begin(&mut self) {
        if let Buffers::Persistent(persistent) = &mut self.buffers {
            return check(persistent.start());
        }
        let idle = std::mem::replace(&mut self.buffers, Buffers::Moving);
        let Buffers::Idle(input, output) = idle else { unreachable!("the round before has ended") };
        self.buffers = Buffers::UnderWay(check(self.plan.start(input, output)));
    }

    fn test(&mut self) {
        if let Buffers::UnderWay(request) = &self.buffers {
            request.is_done();
        }
    }

    fn wait(&mut self) {
        if let Buffers::Persistent(persistent) = &self.buffers {
            return check(persistent.wait());
        }
        let under_way = std::mem::replace(&mut self.buffers, Buffers::Moving);
        let Buffers::UnderWay(request) = under_way else { unreachable!("it was begun") };
        let (input, output) = check(request.wait());
        self.buffers = Buffers::Idle(input, output);
    }

    fn barrier(&mut self) {
        check(self.barrier.run(&[], &mut []));
    }
}
