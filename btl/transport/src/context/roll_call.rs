//! Are all here? Launchers cannot be asked: some let a fence go though a process has ended. So the processes ask each other, over
//! the transport: in round k each tells the one 2^k further that it, and all from whom it has heard, are here (dissemination; Hensgen,
//! Finkel and Manber, "Two algorithms for barrier synchronization", 1988).
//!
//! Who learns that one is missing says so instead to all to whom it has still to speak, so that all name the same one. A process waits
//! a second longer in each round than in the one before: who waits in the first round waits for one that has not come at all,
//! and its word reaches the others before they blame somebody who only waits himself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{ACTIVE_IDS_OWN, Context, Error};

/// The active message that says it.
const ROLL_CALL_ID: u32 = ACTIVE_IDS_OWN;
/// Nobody is missing.
const NOBODY: u32 = u32::MAX;
/// Why one is believed to be missing that others have missed.
const SAID: &str = "another process has said so";
/// How much longer each round waits.
const ROUND_GRACE: Duration = Duration::from_secs(1);

/// What this process has heard.
#[derive(Debug, Default)]
pub(super) struct RollCall {
    /// How many roll-calls it has begun.
    number: u32,
    /// Roll-call and round.
    heard: BTreeSet<(u32, u32)>,
    /// Who was said to be missing.
    missing: Option<u32>,
}

impl RollCall {
    /// Somebody is missing.
    pub(super) const fn has_failed(&self) -> bool {
        self.missing.is_some()
    }
}

impl Context {
    /// Listens to the words of roll-calls.
    pub(super) fn attend_roll_calls(&self) {
        let handler = |context: &Self, source: u32, data: &[u8]| context.hear_roll_call(source, data);
        self.handlers.borrow_mut().insert(ROLL_CALL_ID, std::rc::Rc::new(handler));
    }

    fn hear_roll_call(&self, source: u32, data: &[u8]) {
        let word = |at: usize| {
            data.get(at..at + 4).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
        };
        let (Some(number), Some(round), Some(missing)) = (word(0), word(4), word(8)) else {
            tracing::warn!(source, "a roll-call of {} bytes makes no sense", data.len());
            return;
        };
        if round >= rounds(self.size) || (missing != NOBODY && missing >= self.size) {
            tracing::warn!(source, round, missing, "a roll-call makes no sense");
            return;
        }
        let mut roll_call = self.roll_call.borrow_mut();
        if missing != NOBODY {
            roll_call.missing.get_or_insert(missing);
        }
        roll_call.heard.insert((number, round));
    }

    /// Waits until all processes of the job have called this, as a barrier; without a limit until one is known to have ended.
    ///
    /// # Errors
    /// [`Error::Missing`] with the process that has not come within the time, or has ended.
    pub(super) fn call_the_roll(&self, limit: Option<Duration>) -> Result<(), Error> {
        let number = {
            let mut roll_call = self.roll_call.borrow_mut();
            roll_call.number += 1;
            roll_call.number
        };
        let start = Instant::now();
        let mut missing: Option<(u32, String)> = None;
        let word = |round: u32, missing: &Option<(u32, String)>| {
            let said = missing.as_ref().map_or(NOBODY, |(rank, _)| *rank);
            [number.to_le_bytes(), round.to_le_bytes(), said.to_le_bytes()].concat()
        };
        for round in 0..rounds(self.size) {
            let deadline = limit.map(|limit| start + limit + ROUND_GRACE * round);
            let knew = missing.is_some();
            if let Err(found) = self.call_round(number, round, &word(round, &missing), deadline, knew)
                && !knew
            {
                missing = Some(found);
                // It may have been told that all are here, or nothing yet.
                let _ = self.call_round(number, round, &word(round, &missing), deadline, true);
            }
        }
        self.awaited_in_roll_call.set(None);
        let mut roll_call = self.roll_call.borrow_mut();
        roll_call.heard.retain(|(heard, _)| *heard > number);
        match missing {
            None => Ok(()),
            Some((rank, reason)) => {
                roll_call.missing.get_or_insert(rank);
                let seconds = start.elapsed().as_secs();
                Err(Error::Missing { rank, seconds, reason })
            }
        }
    }

    /// Speaks to one and hears another; who knows that one is missing does not wait to hear. The error is who is missing, and why that is
    /// believed.
    fn call_round(
        &self,
        number: u32,
        round: u32,
        word: &[u8],
        deadline: Option<Instant>,
        knows: bool,
    ) -> Result<(), (u32, String)> {
        let (to, from) = partners(self.rank, self.size, round);
        let mut has_spoken = false;
        self.awaited_in_roll_call.set(Some(from));
        let said_missing = || self.roll_call.borrow().missing.filter(|_| !knows);
        let because_of = |rank: u32, error: Error| match said_missing() {
            // It has left for a reason.
            Some(missing) => (missing, SAID.to_owned()),
            None => (rank, error.to_string()),
        };
        loop {
            if let Some(missing) = said_missing() {
                return Err((missing, SAID.to_owned()));
            }
            if !has_spoken {
                has_spoken =
                    self.try_active(to, ROLL_CALL_ID, word).map_err(|error| because_of(to, error))?;
            }
            let has_heard = self.roll_call.borrow().heard.contains(&(number, round));
            if has_spoken && (has_heard || knows) {
                return Ok(());
            }
            if !has_heard && !knows {
                // With a connection to it its end is noticed.
                self.link(from).map_err(|error| because_of(from, error))?;
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let silent = if has_spoken { from } else { to };
                return Err((silent, "it has not spoken".to_owned()));
            }
            self.progress();
        }
    }

    /// Before this process leaves because one is missing: stays for a moment and says so to all that it is connected to, and to those
    /// that connect meanwhile. They would take this one for the missing one.
    pub(super) fn tell_who_is_missing(&self, limit: Duration) {
        let (number, missing) = {
            let roll_call = self.roll_call.borrow();
            (roll_call.number, roll_call.missing)
        };
        let Some(missing) = missing else { return };
        let word = [number.to_le_bytes(), 0_u32.to_le_bytes(), missing.to_le_bytes()].concat();
        let mut told = BTreeSet::from([self.rank, missing]);
        let start = Instant::now();
        while start.elapsed() < limit {
            for rank in 0..self.size {
                let is_connected = self.state.borrow().link(rank).is_some();
                // One that has no room is told later; one that is lost hears it from others.
                if is_connected
                    && !told.contains(&rank)
                    && self.try_active(rank, ROLL_CALL_ID, &word) != Ok(false)
                {
                    told.insert(rank);
                }
            }
            self.progress();
        }
    }
}

/// How many rounds it takes.
const fn rounds(size: u32) -> u32 {
    u32::BITS - (size - 1).leading_zeros()
}

/// To whom a process speaks in a round, and whom it hears.
const fn partners(rank: u32, size: u32, round: u32) -> (u32, u32) {
    let distance = (1_u64 << round) % size as u64;
    let (rank, size) = (rank as u64, size as u64);
    (((rank + distance) % size) as u32, ((rank + size - distance) % size) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the end each has heard, over others, of all.
    #[test]
    fn all_hear_of_all() {
        for size in 1..70 {
            let mut known: Vec<BTreeSet<u32>> = (0..size).map(|rank| BTreeSet::from([rank])).collect();
            for round in 0..rounds(size) {
                let before = known.clone();
                for rank in 0..size {
                    let (to, _) = partners(rank, size, round);
                    assert_eq!(partners(to, size, round).1, rank);
                    known[to as usize].extend(&before[rank as usize]);
                }
            }
            assert!(known.iter().all(|known| known.len() == size as usize), "{size}");
        }
        assert_eq!((rounds(1), rounds(2), rounds(3), rounds(4), rounds(5)), (0, 1, 2, 2, 3));
    }
}
