//! Runs a schedule: begins the transfers of a round, waits for their ends, does its steps, and goes on to the next one. Never waits itself:
//! [`Run::advance`] does what can be done now.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ironband::{Buffer as _, Pattern, RawBuffer, ReceiveRequest, SendRequest};

use crate::error::Error;
use crate::group::Group;
use crate::memory::{Combine, Memory};
use crate::schedule::{Schedule, Transfer};

/// How long the ends of requests of an operation that has failed are waited for. After that those whom they are with are given up:
/// memory must not be used by a device that its owner takes back.
const ABANDON_LIMIT: Duration = Duration::from_secs(3);

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

/// Requests under way; kept by the group for the next operation, so that none allocates.
#[derive(Default)]
pub(crate) struct Requests<'c> {
    receives: Vec<Receiving<'c>>,
    sends: Vec<Sending<'c>>,
}

/// A schedule under way.
pub(crate) struct Run<'c> {
    group: Rc<Group<'c>>,
    schedule: Rc<Schedule>,
    tag: u64,
    round: usize,
    has_begun: bool,
    // Before the memory that they are of.
    requests: Requests<'c>,
    memory: Option<Memory>,
    /// Since when the ends of its requests are waited for in vain.
    abandoned: Option<Instant>,
}

impl<'c> Run<'c> {
    /// Begins an operation, the next one of its group.
    pub(crate) fn new(group: &Rc<Group<'c>>, schedule: Rc<Schedule>, memory: Memory) -> Self {
        Self {
            schedule,
            tag: group.next_tag(),
            round: 0,
            has_begun: false,
            requests: group.take_requests(),
            memory: Some(memory),
            abandoned: None,
            group: Rc::clone(group),
        }
    }

    pub(crate) const fn group(&self) -> &Rc<Group<'c>> {
        &self.group
    }

    /// Does what can be done; true when all is done. After an error there is [`Run::abandon`] to be called.
    pub(crate) fn advance(&mut self, combine: Option<&dyn Combine>) -> Result<bool, Error> {
        let schedule = Rc::clone(&self.schedule);
        while let Some(round) = schedule.rounds().get(self.round) {
            if !self.has_begun {
                self.begin(&round.transfers)?;
                self.has_begun = true;
            }
            if !self.have_ended()? {
                return Ok(false);
            }
            let memory = self.memory.as_mut().expect("a run that has not ended has memory");
            for step in &round.steps {
                let rank = self.group.rank();
                memory
                    .do_step(*step, combine)
                    .map_err(|message| Error::OperatorPanicked { rank, message })?;
            }
            self.round += 1;
            self.has_begun = false;
        }
        Ok(true)
    }

    fn begin(&mut self, transfers: &[Transfer]) -> Result<(), Error> {
        let group = &*self.group;
        let memory = self.memory.as_mut().expect("a run that has not ended has memory");
        // Receives first: what comes finds them.
        for transfer in transfers {
            if let Transfer::Receive { from, data } = *transfer {
                let piece = memory.piece_mut(data);
                let expected_bytes = piece.len_bytes() as u64;
                let pattern = Pattern::exact(group.member(from), self.tag);
                let request = group.context().start_receive(pattern, piece);
                let request = request.map_err(|error| group.explain(error, from))?;
                self.requests.receives.push(Receiving { from, expected_bytes, request });
            }
        }
        for transfer in transfers {
            if let Transfer::Send { to, data } = *transfer {
                let endpoint = group.endpoint(to)?;
                let request = endpoint.start_send(self.tag, memory.piece(data));
                let request = request.map_err(|error| group.explain(error, to))?;
                self.requests.sends.push(Sending { to, request });
            }
        }
        Ok(())
    }

    /// Takes out the requests of the round that have ended, from the last one to the first that has not; true when there are no others.
    fn have_ended(&mut self) -> Result<bool, Error> {
        while let Some(last) = self.requests.receives.last() {
            if !last.request.has_ended() {
                return Ok(false);
            }
            self.end_receive(self.requests.receives.len() - 1)?;
        }
        while let Some(last) = self.requests.sends.last() {
            if !last.request.has_ended() {
                return Ok(false);
            }
            self.end_send(self.requests.sends.len() - 1)?;
        }
        Ok(true)
    }

    /// Takes out all requests that have ended, so that a failure does not lie behind one that takes long.
    pub(crate) fn look_at_all(&mut self) -> Result<(), Error> {
        for at in (0..self.requests.receives.len()).rev() {
            if self.requests.receives[at].request.has_ended() {
                self.end_receive(at)?;
            }
        }
        for at in (0..self.requests.sends.len()).rev() {
            if self.requests.sends[at].request.has_ended() {
                self.end_send(at)?;
            }
        }
        Ok(())
    }

    fn end_receive(&mut self, at: usize) -> Result<(), Error> {
        let group = &*self.group;
        let Receiving { from, expected_bytes, request } = self.requests.receives.swap_remove(at);
        let mismatch = |got_bytes| Error::Mismatch { rank: group.rank(), from, got_bytes, expected_bytes };
        match request.wait() {
            Ok((_, received)) if received.len_bytes == expected_bytes => Ok(()),
            Ok((_, received)) => Err(mismatch(received.len_bytes)),
            Err(ironband::Error::Truncated { len_bytes, .. }) => Err(mismatch(len_bytes)),
            Err(error) => Err(group.explain(error, from)),
        }
    }

    fn end_send(&mut self, at: usize) -> Result<(), Error> {
        let Sending { to, request } = self.requests.sends.swap_remove(at);
        request.wait().map(drop).map_err(|error| self.group.explain(error, to))
    }

    /// For whom it waits.
    pub(crate) fn waits_for(&self) -> Vec<u32> {
        let receives =
            self.requests.receives.iter().filter(|one| !one.request.has_ended()).map(|one| one.from);
        let sends = self.requests.sends.iter().filter(|one| !one.request.has_ended()).map(|one| one.to);
        let mut ranks: Vec<u32> = receives.chain(sends).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// Ends the requests of an operation that has failed; true when none is left, and the memory is its owner's again.
    pub(crate) fn abandon(&mut self) -> bool {
        if self.requests.receives.is_empty() && self.requests.sends.is_empty() {
            return true;
        }
        let since = *self.abandoned.get_or_insert_with(Instant::now);
        let mut left = Vec::new();
        for Receiving { from, expected_bytes, request } in self.requests.receives.drain(..) {
            // One that a message has found already goes on until that is there.
            match request.cancel() {
                Ok(_) => {}
                Err(request) if request.has_ended() => drop(request.wait()),
                Err(request) => left.push(Receiving { from, expected_bytes, request }),
            }
        }
        self.requests.receives = left;
        let mut left = Vec::new();
        for Sending { to, request } in self.requests.sends.drain(..) {
            if request.has_ended() {
                drop(request.wait());
            } else {
                left.push(Sending { to, request });
            }
        }
        self.requests.sends = left;
        let is_over = self.requests.receives.is_empty() && self.requests.sends.is_empty();
        if !is_over && since.elapsed() > ABANDON_LIMIT {
            for rank in self.waits_for() {
                let reason = "it does not answer, and an operation with it has failed";
                // A member of the group is a rank of the job.
                let _ = self.group.context().part_with(self.group.member(rank), reason);
            }
        }
        is_over
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // Left in the middle, and the group has not failed: a handler of the program has panicked. The others wait for this process.
        if self.round < self.schedule.rounds().len() && self.group.check().is_ok() {
            let rank = self.group.rank();
            self.group.fail(Error::HandlerPanicked { rank });
        }
        while !self.abandon() {
            self.group.context().progress();
        }
        self.group.give_back(std::mem::take(&mut self.requests), self.memory.take());
    }
}
