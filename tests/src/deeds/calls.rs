//! How a deed is called: in each of the ways in which a program can.

use bytemuck::Pod;
use ironband_collectives::algorithms::{bcast, reduce};
use ironband_collectives::operator::{Operator, Sum};
use ironband_collectives::schedule::{Place, Schedule};
use ironband_collectives::{Combining, Communicator, Error, InPlacePlan, InPlaceRequest, Plan, Request};

use super::element::{Element, Visitor};
use super::{Deed, What, neighbours, opposite};

/// How an operation is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By the method of its name, until it has ended.
    Blocking,
    /// As a request that owns the buffers.
    Owned,
    /// As a request, in a scope, with borrowed buffers.
    Borrowed,
    /// As one that was started before.
    Persistent,
}

/// Input and output, or nothing and the one vector; or why it has failed.
type Ended<T> = Result<(Vec<T>, Vec<T>), Error>;

/// One that has been begun: it is under way, or has ended in the call.
enum Begun<'c, T: Pod> {
    Apart(Request<'c, T>),
    InPlace(InPlaceRequest<'c, T>),
    Ended(Ended<T>),
}

fn go<'c, T: Pod, C: Combining>(
    plan: &Plan<'_, 'c, T, C>,
    how: How,
    (input, mut output): (Vec<T>, Vec<T>),
) -> Result<Begun<'c, T>, Error> {
    let outcome = match how {
        How::Owned => return plan.start(input, output).map(Begun::Apart),
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

fn go_in_place<'c, T: Pod, C: Combining>(
    plan: &InPlacePlan<'_, 'c, T, C>,
    how: How,
    mut vector: Vec<T>,
) -> Result<Begun<'c, T>, Error> {
    let outcome = match how {
        How::Owned => return plan.start(vector).map(Begun::InPlace),
        How::Blocking => plan.run(&mut vector),
        How::Borrowed => plan.communicator().scope(|scope| {
            let request = plan.start_in(scope, &mut vector)?;
            request.wait().map(|_| ())
        }),
        How::Persistent => {
            let mut persistent = plan.with(std::mem::take(&mut vector))?;
            persistent.start().and_then(|()| {
                vector = persistent.into_vector()?;
                Ok(())
            })
        }
    };
    Ok(Begun::Ended(outcome.map(|()| (Vec::new(), vector))))
}

/// A deed that is called at one rank.
struct Call<'d, 'r, 'c> {
    deed: &'d Deed,
    communicator: &'r Communicator<'c>,
    how: How,
}

impl<'c> Call<'_, '_, 'c> {
    fn to(&self) -> Vec<u64> {
        let rank = self.communicator.rank();
        (0..self.deed.size).map(|to| self.deed.count(rank, to)).collect()
    }

    fn from(&self) -> Vec<u64> {
        let rank = self.communicator.rank();
        (0..self.deed.size).map(|from| self.deed.count(from, rank)).collect()
    }

    fn begin<T: Element, O: Operator<T>>(&self, operator: O) -> Result<Begun<'c, T>, Error> {
        let is_in_place = self.deed.is_in_place(self.communicator.rank());
        match self.how {
            How::Blocking if is_in_place => self.call_in_place(operator),
            How::Blocking => self.call(operator),
            _ => self.plan(operator),
        }
    }

    fn go<T: Element, C: Combining>(
        &self,
        plan: Result<Plan<'_, 'c, T, C>, Error>,
    ) -> Result<Begun<'c, T>, Error> {
        let rank = self.communicator.rank();
        if self.deed.is_in_place(rank) {
            go_in_place(&plan?.in_place()?, self.how, self.deed.vector_before(rank))
        } else {
            go(&plan?, self.how, (self.deed.input(rank), self.deed.output_before(rank)))
        }
    }

    /// With the schedule of a chain in place of the one that was chosen, if the deed wants that.
    fn by_chain<'p, T: Element, C: Combining>(
        &self,
        plan: Result<Plan<'p, 'c, T, C>, Error>,
        chain: impl FnOnce(Place, u64) -> Schedule,
    ) -> Result<Plan<'p, 'c, T, C>, Error> {
        let place = Place { rank: self.communicator.rank(), size: self.deed.size };
        match self.deed.chain {
            None => plan,
            Some(segment) => plan?.by(chain(place, segment)),
        }
    }

    /// By a plan.
    fn plan<T: Element, O: Operator<T>>(&self, operator: O) -> Result<Begun<'c, T>, Error> {
        let Self { deed, communicator, .. } = *self;
        let (root, len, rank) = (deed.root, deed.len, communicator.rank());
        let counts = deed.counts();
        let of_root = Some(&counts[..]).filter(|_| rank == root);
        match deed.what {
            What::Barrier => unreachable!("it has no elements"),
            What::Bcast => self.go(self.by_chain(communicator.plan_bcast(root, len), |place, segment| {
                bcast::chain(place, root, len, segment)
            })),
            What::Reduce => self
                .go(self.by_chain(communicator.plan_reduce(root, len, operator), |place, segment| {
                    reduce::chain(place, root, len, segment)
                })),
            What::Allreduce => self.go(communicator.plan_allreduce(len, operator)),
            What::ReduceScatterBlock => self.go(communicator.plan_reduce_scatter_block(len, operator)),
            What::ReduceScatter => self.go(communicator.plan_reduce_scatter(&counts, operator)),
            What::Gather => self.go(communicator.plan_gather(root, len)),
            What::Gatherv => self.go(communicator.plan_gatherv(root, deed.count(0, rank), of_root)),
            What::Scatter => self.go(communicator.plan_scatter(root, len)),
            What::Scatterv => self.go(communicator.plan_scatterv(root, deed.count(0, rank), of_root)),
            What::Allgather => self.go(communicator.plan_allgather(len)),
            What::Allgatherv => self.go(communicator.plan_allgatherv(&counts)),
            What::Alltoall => self.go(communicator.plan_alltoall(len)),
            What::Alltoallv => self.go(communicator.plan_alltoallv(&self.to(), &self.from())),
            What::Scan => self.go(communicator.plan_scan(len, operator, true)),
            What::Exscan => self.go(communicator.plan_scan(len, operator, false)),
            What::NeighbourAlltoallv => {
                let (to, from) = (neighbours(rank, deed.size), opposite(rank, deed.size));
                let sent = to.map(|to| deed.count(rank, to));
                let got = from.map(|from| deed.count(from, rank));
                self.go(communicator.plan_neighbour_exchange((&to, &sent), (&from, &got)))
            }
        }
    }

    /// By the method of its name.
    fn call<T: Element, O: Operator<T>>(&self, operator: O) -> Result<Begun<'c, T>, Error> {
        let Self { deed, communicator, .. } = *self;
        let rank = communicator.rank();
        let (input, mut output) = (deed.input::<T>(rank), deed.output_before::<T>(rank));
        let (counts, root) = (deed.counts(), communicator.root(deed.root)?);
        let of_root = if rank == deed.root { &counts[..] } else { &[] };
        let outcome = match deed.what {
            What::Barrier => unreachable!("it has no elements"),
            What::Bcast => root.bcast(&mut output),
            What::Reduce => root.reduce(&input, &mut output, operator),
            What::Allreduce => communicator.allreduce(&input, &mut output, operator),
            What::ReduceScatterBlock => communicator.reduce_scatter_block(&input, &mut output, operator),
            What::ReduceScatter => communicator.reduce_scatter(&input, &mut output, &counts, operator),
            What::Gather => root.gather(&input, &mut output),
            What::Gatherv => root.gatherv(&input, &mut output, of_root),
            What::Scatter => root.scatter(&input, &mut output),
            What::Scatterv => root.scatterv(&input, of_root, &mut output),
            What::Allgather => communicator.allgather(&input, &mut output),
            What::Allgatherv => communicator.allgatherv(&input, &mut output, &counts),
            What::Alltoall => communicator.alltoall(&input, &mut output),
            What::Alltoallv => communicator.alltoallv(&input, &self.to(), &mut output, &self.from()),
            What::Scan => communicator.scan(&input, &mut output, operator),
            What::Exscan => communicator.exscan(&input, &mut output, operator),
            What::NeighbourAlltoallv => {
                let (to, from) = (neighbours(rank, deed.size), opposite(rank, deed.size));
                let sent = to.map(|to| deed.count(rank, to));
                let got = from.map(|from| deed.count(from, rank));
                communicator.neighbour_exchange((&input, &sent, &to), (&mut output, &got, &from))
            }
        };
        Ok(Begun::Ended(outcome.map(|()| (input, output))))
    }

    /// By the method of its name, in place.
    fn call_in_place<T: Element, O: Operator<T>>(&self, operator: O) -> Result<Begun<'c, T>, Error> {
        let Self { deed, communicator, .. } = *self;
        let rank = communicator.rank();
        let mut vector = deed.vector_before::<T>(rank);
        let (counts, root) = (deed.counts(), communicator.root(deed.root)?);
        let of_root = if rank == deed.root { &counts[..] } else { &[] };
        let outcome = match deed.what {
            What::Barrier | What::NeighbourAlltoallv => unreachable!("it has no form in place"),
            What::Bcast => root.bcast(&mut vector),
            What::Reduce => root.reduce_in_place(&mut vector, operator),
            What::Allreduce => communicator.allreduce_in_place(&mut vector, operator),
            What::ReduceScatterBlock => communicator.reduce_scatter_block_in_place(&mut vector, operator),
            What::ReduceScatter => communicator.reduce_scatter_in_place(&mut vector, &counts, operator),
            What::Gather => root.gather_in_place(&mut vector),
            What::Gatherv => root.gatherv_in_place(&mut vector, of_root),
            What::Scatter => root.scatter_in_place(&mut vector),
            What::Scatterv => root.scatterv_in_place(&mut vector, of_root),
            What::Allgather => communicator.allgather_in_place(&mut vector),
            What::Allgatherv => communicator.allgatherv_in_place(&mut vector, &counts),
            What::Alltoall => communicator.alltoall_in_place(&mut vector),
            What::Alltoallv => communicator.alltoallv_in_place(&mut vector, &self.to()),
            What::Scan => communicator.scan_in_place(&mut vector, operator),
            What::Exscan => communicator.exscan_in_place(&mut vector, operator),
        };
        Ok(Begun::Ended(outcome.map(|()| (Vec::new(), vector))))
    }
}

impl<'c> Visitor for Call<'_, '_, 'c> {
    type Told = Result<Box<dyn Doing + 'c>, Error>;

    fn visit<T: Element, O: Operator<T>>(self, operator: O) -> Self::Told {
        let begun = self.begin::<T, O>(operator.clone())?;
        Ok(Box::new(Going { begun, operator }))
    }
}

/// A deed that was begun, whatever its elements are.
trait Doing: std::fmt::Debug {
    fn has_ended(&self) -> bool;

    fn judge(self: Box<Self>, deed: &Deed, rank: u32) -> Result<Option<Error>, String>;
}

struct Going<'c, T: Pod, O> {
    begun: Begun<'c, T>,
    operator: O,
}

impl<T: Pod, O> std::fmt::Debug for Going<'_, T, O> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.begun {
            Begun::Apart(request) => request.fmt(out),
            Begun::InPlace(request) => request.fmt(out),
            Begun::Ended(outcome) => write!(out, "{:?}", outcome.as_ref().map(|_| ())),
        }
    }
}

impl<T: Element, O: Operator<T>> Doing for Going<'_, T, O> {
    fn has_ended(&self) -> bool {
        match &self.begun {
            Begun::Apart(request) => request.is_done(),
            Begun::InPlace(request) => request.is_done(),
            Begun::Ended(_) => true,
        }
    }

    fn judge(self: Box<Self>, deed: &Deed, rank: u32) -> Result<Option<Error>, String> {
        let Self { begun, operator } = *self;
        let outcome = match begun {
            Begun::Apart(request) => request.wait(),
            Begun::InPlace(request) => request.wait().map(|vector| (Vec::new(), vector)),
            Begun::Ended(outcome) => outcome,
        };
        let (input, got) = match outcome {
            Ok(buffers) => buffers,
            Err(error) => return Ok(Some(error)),
        };
        let combine = |left: &T, right: &T| operator.apply(left, right);
        let expected = if deed.is_in_place(rank) {
            deed.vector_after(rank, combine)
        } else if input == deed.input::<T>(rank) {
            deed.expected(rank, combine)
        } else {
            return Err(format!("rank {rank}: the input has changed in {deed:?}"));
        };
        if got == expected {
            return Ok(None);
        }
        let at = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        let lens = (got.len(), expected.len());
        Err(format!("rank {rank} gets a wrong result at {at:?} of {lens:?} from {deed:?}"))
    }
}

/// A deed under way, at one rank.
#[derive(Debug)]
pub struct Under<'c> {
    stage: Stage<'c>,
}

#[derive(Debug)]
enum Stage<'c> {
    Begun(Box<dyn Doing + 'c>),
    /// It could not be begun.
    Refused(Error),
    /// It was looked at when it had ended.
    Over,
}

impl<'c> Under<'c> {
    pub(super) fn begin(deed: &Deed, communicator: &Communicator<'c>, how: How) -> Self {
        let begun = if deed.what == What::Barrier {
            let begun = go(&communicator.plan_barrier(), how, Default::default());
            begun.map(|begun| Box::new(Going { begun, operator: Sum }) as Box<dyn Doing + 'c>)
        } else {
            deed.kind.tell(Call { deed, communicator, how })
        };
        // After a death nothing can be begun.
        Self { stage: begun.map_or_else(Stage::Refused, Stage::Begun) }
    }

    /// Whether it has ended, and that was seen.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Looks whether it has ended, and whether its result is right. Gives the error that it has ended with.
    ///
    /// # Errors
    /// What is wrong with the result.
    pub fn look(&mut self, deed: &Deed, rank: u32) -> Result<Option<Error>, String> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Begun(doing) if doing.has_ended() => doing.judge(deed, rank),
            Stage::Refused(error) => Ok(Some(error)),
            other => {
                self.stage = other;
                Ok(None)
            }
        }
    }
}
