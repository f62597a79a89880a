//! Runs a schedule: begins the transfers of a round, waits for their ends, does its steps, and goes on to the next one. Never waits itself:
//! [`Run::advance`] does what can be done now.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironband::{Buffer as _, Pattern, RawBuffer, ReceiveRequest, Received, SendRequest};

use crate::error::Error;
use crate::group::Group;
use crate::memory::{Combine, Line, Memory};
use crate::schedule::{Schedule, Span, Transfer};

/// How long the ends of requests of an operation that has failed are waited for at least, if its communicator has a limit. After that and the limit those whom
/// they are with are given up: memory must not be used by a device that its owner takes back.
const ABANDON_LIMIT_MIN: Duration = Duration::from_secs(3);

/// Longer messages are announced, more often than not, and a receive that is posted finds them sooner.
const SOON_BYTES_MAX: u64 = 4096;

/// A receive under way.
pub(crate) struct Receiving<'c> {
    from: u32,
    expected_bytes: u64,
    request: ReceiveRequest<'c, RawBuffer>,
}

/// A send under way.
pub(crate) struct Sending<'c> {
    to: u32,
    request: SendRequest<'c, RawBuffer>,
}

/// What an operation needs: scratch memory, and room for its requests. Kept by the group for the next one, so that none allocates.
#[derive(Default)]
pub(crate) struct Kit<'c> {
    receives: Vec<Receiving<'c>>,
    sends: Vec<Sending<'c>>,
    pub(crate) scratch: Vec<Line>,
}

impl Kit<'_> {
    /// Whether no request is under way.
    #[inline]
    const fn is_quiet(&self) -> bool {
        self.receives.is_empty() && self.sends.is_empty()
    }
}

/// A kit of the group, until the run that has it is dropped.
struct Lent<'c>(Option<Box<Kit<'c>>>);

impl<'c> Deref for Lent<'c> {
    type Target = Kit<'c>;

    #[inline]
    fn deref(&self) -> &Kit<'c> {
        self.0.as_deref().expect("a run has its kit until it is dropped")
    }
}

impl DerefMut for Lent<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_deref_mut().expect("a run has its kit until it is dropped")
    }
}

/// Whether the caller has something else to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It waits for the end of the operation.
    Waits,
    /// It looks in.
    LooksIn,
}

/// A schedule under way. A call that waits for its end lends it the group and the schedule; one that goes on keeps them.
pub(crate) struct Run<'c, G: Deref<Target = Group<'c>>, S: Deref<Target = Schedule> + Clone> {
    group: G,
    schedule: S,
    tag: u64,
    round: usize,
    has_begun: bool,
    memory: Memory,
    /// Given back when the run is dropped.
    kit: Lent<'c>,
    /// Since when the ends of its requests are waited for in vain.
    abandoned: Option<Instant>,
    has_told: bool,
}

/// One that goes on behind the call that has begun it.
pub(crate) type KeptRun<'c> = Run<'c, Rc<Group<'c>>, Rc<Schedule>>;

impl<'c, G: Deref<Target = Group<'c>>, S: Deref<Target = Schedule> + Clone> Run<'c, G, S> {
    /// Begins an operation, the next one of its group.
    #[inline]
    pub(crate) fn new(group: G, schedule: S, memory: Memory, kit: Box<Kit<'c>>) -> Self {
        let (tag, kit) = (group.next_tag(), Lent(Some(kit)));
        Self {
            group,
            schedule,
            tag,
            round: 0,
            has_begun: false,
            memory,
            kit,
            abandoned: None,
            has_told: false,
        }
    }

    pub(crate) const fn group(&self) -> &G {
        &self.group
    }

    /// Does what can be done; true when all is done. After an error there is [`Run::abandon`] to be called.
    #[inline]
    pub(crate) fn advance(&mut self, caller: Caller, combine: Option<&dyn Combine>) -> Result<bool, Error> {
        let schedule = self.schedule.clone();
        while let Some(round) = schedule.rounds().get(self.round) {
            if !self.has_begun {
                self.begin(caller, &round.transfers)?;
                self.has_begun = true;
            }
            if !self.have_ended()? {
                return Ok(false);
            }
            for step in &round.steps {
                self.memory.do_step(*step, combine).map_err(|message| self.group.panicked(message))?;
            }
            self.round += 1;
            self.has_begun = false;
        }
        // With tables that differ what was done may be wrong.
        self.group.comparisons().have_ended(self.tag)
    }

    /// Begins the transfers of a round.
    #[inline]
    fn begin(&mut self, caller: Caller, transfers: &[Transfer]) -> Result<(), Error> {
        // Sends first: the others wait for them, and nothing is taken in before this process waits.
        for transfer in transfers {
            if let Transfer::Send { to, data } = *transfer {
                let (context, member) = (self.group.context(), self.group.member(to));
                if !context.try_send(member, self.tag, self.memory.bytes(data)) {
                    self.start_send(to, data)?;
                }
            }
        }
        let mut receives = transfers.iter().filter_map(|transfer| match *transfer {
            Transfer::Receive { from, data } => Some((from, data)),
            Transfer::Send { .. } => None,
        });
        let Some((from, data)) = receives.next() else { return Ok(()) };
        let mut more = receives.peekable();
        if more.peek().is_some() || caller == Caller::LooksIn || !self.receive_soon(from, data)? {
            self.start_receive(from, data)?;
        }
        more.try_for_each(|(from, data)| self.start_receive(from, data))
    }

    /// The only one of a round: it comes at once, more often than not.
    #[inline]
    fn receive_soon(&mut self, from: u32, data: Span) -> Result<bool, Error> {
        let group = &*self.group;
        let pattern = Pattern::exact(group.member(from), self.tag);
        let piece = self.memory.bytes_mut(data);
        let expected_bytes = piece.len() as u64;
        if expected_bytes > SOON_BYTES_MAX {
            return Ok(false);
        }
        match group.context().try_receive(pattern, piece) {
            Some(outcome) => self.check_received(from, expected_bytes, outcome).map(|()| true),
            None => Ok(false),
        }
    }

    #[inline]
    fn start_receive(&mut self, from: u32, data: Span) -> Result<(), Error> {
        let piece = self.memory.piece_mut(data);
        let expected_bytes = piece.len_bytes() as u64;
        let pattern = Pattern::exact(self.group.member(from), self.tag);
        let request = self.group.context().start_receive(pattern, piece);
        let request = request.map_err(|error| self.group.explain(error, from))?;
        self.kit.receives.push(Receiving { from, expected_bytes, request });
        Ok(())
    }

    /// One that cannot be sent at once.
    #[inline(never)]
    fn start_send(&mut self, to: u32, data: Span) -> Result<(), Error> {
        let group = &*self.group;
        let request = group.endpoint(to)?.start_send(self.tag, self.memory.piece(data));
        let request = request.map_err(|error| group.explain(error, to))?;
        self.kit.sends.push(Sending { to, request });
        Ok(())
    }

    /// Takes out the requests of the round that have ended, from the last one to the first that has not; true when there are no others.
    #[inline]
    fn have_ended(&mut self) -> Result<bool, Error> {
        while let Some(last) = self.kit.receives.last_mut() {
            let Some(outcome) = last.request.take_outcome() else { return Ok(false) };
            let (from, expected_bytes) = (last.from, last.expected_bytes);
            self.kit.receives.pop();
            self.check_received(from, expected_bytes, outcome)?;
        }
        while let Some(one) = self.kit.sends.pop_if(|last| last.request.has_ended()) {
            self.end_send(one)?;
        }
        Ok(self.kit.sends.is_empty())
    }

    /// Takes out all requests that have ended, so that a failure does not lie behind one that takes long.
    pub(crate) fn look_at_all(&mut self) -> Result<(), Error> {
        for at in (0..self.kit.receives.len()).rev() {
            let one = &mut self.kit.receives[at];
            if let Some(outcome) = one.request.take_outcome() {
                let (from, expected_bytes) = (one.from, one.expected_bytes);
                self.kit.receives.swap_remove(at);
                self.check_received(from, expected_bytes, outcome)?;
            }
        }
        for at in (0..self.kit.sends.len()).rev() {
            if self.kit.sends[at].request.has_ended() {
                let one = self.kit.sends.swap_remove(at);
                self.end_send(one)?;
            }
        }
        Ok(())
    }

    /// What was received has to be as long as was expected.
    #[inline]
    fn check_received(
        &self,
        from: u32,
        expected_bytes: u64,
        outcome: Result<Received, ironband::Error>,
    ) -> Result<(), Error> {
        let got_bytes = match outcome {
            Ok(received) if received.len_bytes == expected_bytes => return Ok(()),
            Ok(received) => received.len_bytes,
            Err(ironband::Error::Truncated { len_bytes, .. }) => len_bytes,
            Err(error) => return Err(self.group.explain(error, from)),
        };
        Err(Error::Mismatch { rank: self.group.rank(), from, got_bytes, expected_bytes })
    }

    fn end_send(&self, Sending { to, request }: Sending<'c>) -> Result<(), Error> {
        request.wait().map(drop).map_err(|error| self.group.explain(error, to))
    }

    /// For whom it waits.
    pub(crate) fn waits_for(&self) -> Vec<u32> {
        let receives = self.kit.receives.iter().filter(|one| !one.request.has_ended()).map(|one| one.from);
        let sends = self.kit.sends.iter().filter(|one| !one.request.has_ended()).map(|one| one.to);
        let mut ranks: Vec<u32> = receives.chain(sends).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// The word of a failure goes from rank to rank, and ends at those that have done with the communicator. Who waits for this process hears it from this
    /// one, too.
    fn tell_those_who_wait(&mut self) {
        if std::mem::replace(&mut self.has_told, true) {
            return;
        }
        let left = &self.schedule.rounds()[self.round..];
        let sends = left.iter().flat_map(|round| &round.transfers).filter_map(|transfer| match *transfer {
            Transfer::Send { to, .. } => Some(to),
            Transfer::Receive { .. } => None,
        });
        self.group.tell(sends.collect::<BTreeSet<u32>>().into_iter());
    }

    #[cold]
    fn drop_in_the_middle(&mut self) {
        // The group has not failed: a handler of the program has panicked. The others wait for this process.
        if self.round < self.schedule.rounds().len() && self.group.check().is_ok() {
            let rank = self.group.rank();
            self.group.fail(Error::HandlerPanicked { rank });
        }
        while !self.abandon() {
            self.group.context().progress();
            self.group.engine().tend();
        }
    }

    /// Ends the requests of an operation that has failed; true when none is left, and the memory is its owner's again. Receives that no message has found are
    /// taken back, and so are messages that their receivers have not begun with, as soon as these say so. The others end by what their peers do, who learn of
    /// the failure, or with their peers' ends. Only a limit gives up a peer that lives and does nothing: it is lost to the whole process then.
    pub(crate) fn abandon(&mut self) -> bool {
        self.tell_those_who_wait();
        if self.kit.is_quiet() {
            return true;
        }
        let is_first = self.abandoned.is_none();
        let since = *self.abandoned.get_or_insert_with(Instant::now);
        let mut left = Vec::new();
        for Receiving { from, expected_bytes, request } in self.kit.receives.drain(..) {
            // One that a message has found already goes on until that is there.
            match request.cancel() {
                Ok(_) => {}
                Err(request) if request.has_ended() => drop(request.wait()),
                Err(request) => left.push(Receiving { from, expected_bytes, request }),
            }
        }
        self.kit.receives = left;
        let mut left = Vec::new();
        for Sending { to, request } in self.kit.sends.drain(..) {
            if request.has_ended() {
                drop(request.wait());
            } else {
                if is_first {
                    request.withdraw();
                }
                left.push(Sending { to, request });
            }
        }
        self.kit.sends = left;
        let is_over = self.kit.is_quiet();
        let limit = self.group.limit().map(|limit| limit.max(ABANDON_LIMIT_MIN));
        if !is_over && limit.is_some_and(|limit| since.elapsed() > limit) {
            for rank in self.waits_for() {
                let reason = "it does not answer, and an operation with it has failed";
                // A member of the group is a rank of the job.
                let _ = self.group.context().part_with(self.group.member(rank), reason);
            }
        }
        is_over
    }
}

impl<'c, G: Deref<Target = Group<'c>>, S: Deref<Target = Schedule> + Clone> Drop for Run<'c, G, S> {
    #[inline]
    fn drop(&mut self) {
        let is_over = self.round == self.schedule.rounds().len();
        if !is_over || !self.kit.is_quiet() {
            self.drop_in_the_middle();
        }
        if let Some(kit) = self.kit.0.take() {
            self.group.give_back(kit);
        }
    }
}
