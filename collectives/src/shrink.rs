//! A communicator of those that live: `MPIX_Comm_revoke`, `MPIX_Comm_shrink` and `MPIX_Comm_ishrink` of the proposal for fault tolerance in MPI (Bland,
//! Bouteiller, Herault, Bosilca and Dongarra, "Post-failure recovery of MPI communication capability", IJHPCA 2013).
//!
//! How processes agree is in `agreement.rs`. Its words are active messages, which need nobody to wait for them. That a process has ended is learned from a receive
//! that no message is for: whoever has one is told when its source is lost.

use std::cell::{OnceCell, RefCell};
use std::time::Instant;

use ironband::{Pattern, ReceiveRequest};

use crate::agreement::{End, Word};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::fate::{ID_SHRINK, tag_of};

/// How often a waiting process looks at the clock.
const TURNS_PER_LOOK: u32 = 512;

/// A receive that ends when its source is lost, and not before.
type Watch<'c> = ReceiveRequest<'c, Vec<u8>>;

impl<'c> Communicator<'c> {
    /// Ends the communicator for all of its processes: what they do with it, and are doing, fails with [`Error::Revoked`], unless it has failed before.
    /// `MPIX_Comm_revoke`. A process that has to leave what it does, because another communicator has failed, revokes those whose processes would wait for it.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, Error};
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let copy = world.duplicate()?;
    /// copy.revoke();
    /// assert_eq!(copy.barrier(), Err(Error::Revoked { rank: copy.rank() }));
    /// assert_eq!(world.barrier(), Ok(()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revoke(&self) {
        self.group.fail(Error::Revoked { rank: self.rank() });
    }

    /// A communicator of the processes of this one that live, in the order of their ranks. All of them have to call it; usually because this one
    /// has failed. `MPIX_Comm_shrink`. All get the same processes, whoever ends meanwhile; one that ends behind that fails the new communicator. Operations
    /// of other communicators go on. It must not be called in a handler of active messages.
    ///
    /// # Errors
    /// [`Error::PeerFailed`] with the own rank when others have lost this process, and go on without it. [`Error::LimitPassed`] when processes that live have not
    /// called it within the communicator's limit: it can be called again, and goes on where it was. [`Error::TooMany`]. [`Error::Transport`] when so many
    /// have ended while so many others were at it that no message carries who has lost whom; some hundred processes are needed for that.
    ///
    /// # Panics
    /// As [`Communicator::start_shrink`].
    pub fn shrink(&self) -> Result<Self, Error> {
        self.start_shrink().wait()
    }

    /// Begins [`Communicator::shrink`]. `MPIX_Comm_ishrink`.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::Communicator;
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let shrinking = world.start_shrink();
    /// while !shrinking.is_done() {
    ///     // Something else is done here.
    /// }
    /// assert_eq!(shrinking.wait()?.size(), world.size());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// When this communicator or another one of the same context is being shrunk.
    pub fn start_shrink(&self) -> Shrinking<'c> {
        let group = &self.group;
        group.registry().begin_agreement(group.fate());
        let watch = |rank: u32| {
            let pattern = Pattern::exact(group.member(rank), tag_of(ID_SHRINK, group.id().into()));
            (rank, group.context().start_receive(pattern, Vec::new()).ok())
        };
        let others = (0..self.size()).filter(|rank| *rank != self.rank());
        let shrinking = Shrinking {
            communicator: self.same(),
            watches: RefCell::new(others.map(watch).collect()),
            since: Instant::now(),
            failure: OnceCell::new(),
        };
        shrinking.step();
        shrinking
    }
}

/// [`Communicator::shrink`] under way. One that is dropped goes no further before it is begun again, and the others wait for it.
#[must_use = "wait for it: the others do"]
pub struct Shrinking<'c> {
    communicator: Communicator<'c>,
    watches: RefCell<Vec<(u32, Option<Watch<'c>>)>>,
    since: Instant,
    /// A word that no message carries: too many have been lost by too many.
    failure: OnceCell<Error>,
}

impl std::fmt::Debug for Shrinking<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Shrinking({:?}, waits for {:?})", self.communicator, self.waits_for())
    }
}

impl Drop for Shrinking<'_> {
    fn drop(&mut self) {
        self.communicator.group.fate().rest_agreement();
    }
}

impl<'c> Shrinking<'c> {
    /// Whether the answer is there. Makes progress.
    pub fn is_done(&self) -> bool {
        let group = &self.communicator.group;
        group.context().progress();
        group.engine().tend();
        self.step()
    }

    /// Waits for the answer, and makes the communicator.
    ///
    /// # Errors
    /// As [`Communicator::shrink`].
    pub fn wait(self) -> Result<Communicator<'c>, Error> {
        let group = &self.communicator.group;
        let (mut is_idle, mut turns) = (false, 0_u32);
        while !self.step() {
            is_idle = group.context().wait_step(is_idle);
            group.engine().tend();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_PER_LOOK) {
                self.check_limit()?;
            }
        }
        if let Some(error) = self.failure.get() {
            return Err(error.clone());
        }
        let end = group.fate().agreement().borrow().as_ref().and_then(|agreement| agreement.end().cloned());
        group.registry().end_agreement(group.fate());
        match end {
            Some(End::Together { survivors, id }) => self.communicator.with_survivors(&survivors, id),
            _ => {
                let reason = "others have lost this process, and go on without it".to_owned();
                Err(Error::PeerFailed { rank: group.rank(), reason })
            }
        }
    }

    fn check_limit(&self) -> Result<(), Error> {
        let group = &self.communicator.group;
        match group.limit() {
            Some(limit) if self.since.elapsed() > limit => {
                Err(Error::LimitPassed { rank: group.rank(), limit, waits_for: self.waits_for() })
            }
            _ => Ok(()),
        }
    }

    fn waits_for(&self) -> Vec<u32> {
        let agreement = self.communicator.group.fate().agreement().borrow();
        agreement.as_ref().map_or_else(Vec::new, |agreement| agreement.awaited().collect())
    }

    /// Hears what has come, and says what is to be said; true when the answer is there.
    fn step(&self) -> bool {
        let group = &self.communicator.group;
        let mut agreement = group.fate().agreement().borrow_mut();
        let Some(agreement) = &mut *agreement else { unreachable!("it has begun, and `wait` ends it") };
        // What a lost process has said before it was lost counts.
        for (source, word) in group.registry().take_words(group.fate()) {
            let from = (0..group.size()).find(|rank| group.member(*rank) == source);
            match (from, Word::decode(&word, group.size())) {
                (Some(from), Some(word)) => agreement.hear(from, word),
                _ => tracing::warn!(source, "a word of an agreement makes no sense"),
            }
        }
        self.watches.borrow_mut().retain(|(rank, watch)| {
            let is_there = watch.as_ref().is_some_and(|watch| !watch.has_ended());
            if !is_there {
                agreement.lose(*rank, group.context().is_given_up_by(group.member(*rank)));
            }
            is_there
        });
        while let Some((to, word)) = agreement.next_word() {
            let word = word.encode(group.size());
            for rank in to {
                let said =
                    group.registry().say_word(group.context(), group.fate(), group.member(rank), &word);
                match said {
                    Ok(()) => {}
                    Err(error @ ironband::Error::TooLong { .. }) => {
                        self.failure.get_or_init(|| Error::Transport(error));
                    }
                    // Who is lost shows that in its watch.
                    Err(error) => tracing::debug!(rank, %error, "a word of an agreement was not said"),
                }
            }
        }
        agreement.end().is_some() || self.failure.get().is_some()
    }
}

impl Communicator<'_> {
    fn with_survivors(&self, survivors: &[u32], id: u32) -> Result<Self, Error> {
        self.group.registry().check_shrunk(id)?;
        let own = survivors.iter().position(|rank| *rank == self.rank());
        let own = own.unwrap_or_else(|| unreachable!("who goes on is among those who go on"));
        let members = survivors.iter().map(|rank| self.group.member(*rank)).collect();
        let new = self.like_this(id, own as u32, members);
        // The comparison of this one may not have ended, or may be why it has failed.
        new.group.comparisons().want(new.fingerprint());
        Ok(new)
    }
}
