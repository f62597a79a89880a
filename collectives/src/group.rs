//! The processes of a communicator, and what they need for operations: numbers, connections, memory that is used again.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironband::{Context, Endpoint};

use crate::alike::Comparisons;
use crate::engine::Engine;
use crate::error::Error;
use crate::fate::{Fate, Registry, tag_of};
use crate::memory::{Combine, Line};
use crate::run::{Caller, Kit, Run};
use crate::schedule::Schedule;

/// How many kits are kept.
const KEPT_MAX: usize = 4;
/// How often a waiting process looks at the clock.
const TURNS_PER_LOOK: u32 = 512;

/// One communicator, seen by one of its processes.
pub(crate) struct Group<'c> {
    context: &'c Context,
    registry: Rc<Registry>,
    engine: Rc<Engine<'c>>,
    fate: Rc<Fate>,
    id: u32,
    rank: u32,
    members: Rc<[u32]>,
    sequence: Cell<u64>,
    limit: Cell<Option<Duration>>,
    comparisons: Comparisons,
    #[expect(
        clippy::vec_box,
        reason = "a kit goes to a run and back with each operation: a pointer, not ten words"
    )]
    kits: RefCell<Vec<Box<Kit<'c>>>>,
}

impl<'c> Group<'c> {
    pub(crate) fn new(engine: &Rc<Engine<'c>>, id: u32, rank: u32, members: Rc<[u32]>) -> Rc<Self> {
        let context = engine.context();
        let registry = Registry::of(context);
        Rc::new(Self {
            context,
            fate: registry.register(context, id, rank, Rc::clone(&members)),
            registry,
            engine: Rc::clone(engine),
            id,
            rank,
            members,
            sequence: Cell::new(0),
            limit: Cell::new(None),
            comparisons: Comparisons::default(),
            kits: RefCell::default(),
        })
    }

    pub(crate) const fn context(&self) -> &'c Context {
        self.context
    }

    pub(crate) const fn engine(&self) -> &Rc<Engine<'c>> {
        &self.engine
    }

    pub(crate) const fn registry(&self) -> &Rc<Registry> {
        &self.registry
    }

    pub(crate) const fn fate(&self) -> &Rc<Fate> {
        &self.fate
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    pub(crate) const fn rank(&self) -> u32 {
        self.rank
    }

    pub(crate) fn size(&self) -> u32 {
        self.members.len() as u32
    }

    /// The rank in the job of a rank of this group.
    #[inline]
    pub(crate) fn member(&self, rank: u32) -> u32 {
        self.members[rank as usize]
    }

    pub(crate) fn endpoint(&self, rank: u32) -> Result<Endpoint<'c>, Error> {
        self.context.endpoint(self.member(rank)).map_err(|error| self.explain(error, rank))
    }

    pub(crate) const fn comparisons(&self) -> &Comparisons {
        &self.comparisons
    }

    /// The tag of the operation that is begun next.
    pub(crate) fn upcoming_tag(&self) -> u64 {
        tag_of(self.id, self.sequence.get())
    }

    pub(crate) fn set_limit(&self, limit: Option<Duration>) {
        self.limit.set(limit);
    }

    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit.get()
    }

    /// The next operation's.
    #[inline]
    pub(crate) fn next_tag(&self) -> u64 {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        tag_of(self.id, sequence)
    }

    /// What a failure of a transfer with a rank means.
    #[cold]
    pub(crate) fn explain(&self, error: ironband::Error, rank: u32) -> Error {
        match error {
            ironband::Error::PeerLost { reason, .. } | ironband::Error::Unreachable { reason, .. } => {
                Error::PeerFailed { rank, reason }
            }
            ironband::Error::NotMoved { .. } => Error::PeerFailed { rank, reason: error.to_string() },
            other => Error::Transport(other),
        }
    }

    /// Why nothing can be done with the group any more, if so.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.fate.has_failed() { Err(self.why_failed()) } else { Ok(()) }
    }

    #[cold]
    fn why_failed(&self) -> Error {
        self.fate.error().cloned().unwrap_or_else(|| unreachable!("who has failed has an error"))
    }

    /// The group has failed. Gives the reason that counts: another may have been first.
    #[cold]
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.registry.fail(self.context, &self.fate, error.clone());
        self.fate.error().cloned().unwrap_or(error)
    }

    /// An operator of this process has panicked.
    #[cold]
    pub(crate) const fn panicked(&self, message: String) -> Error {
        Error::OperatorPanicked { rank: self.rank, message }
    }

    /// Tells some ranks that the group has failed.
    #[cold]
    pub(crate) fn tell(&self, ranks: impl Iterator<Item = u32>) {
        self.registry.tell(self.context, &self.fate, ranks);
    }

    /// Waits for the end of an operation.
    #[inline]
    pub(crate) fn finish(
        &self,
        mut run: Run<'c, &Self, &Schedule>,
        combine: Option<&dyn Combine>,
    ) -> Result<(), Error> {
        let error = match self.wait(&mut run, combine) {
            Ok(()) => return Ok(()),
            Err(error) => self.fail(error),
        };
        while !run.abandon() {
            self.context.progress();
            self.engine.tend();
        }
        Err(error)
    }

    #[inline]
    fn wait(&self, run: &mut Run<'c, &Self, &Schedule>, combine: Option<&dyn Combine>) -> Result<(), Error> {
        let mut is_idle = false;
        let (mut turns, mut since) = (0_u32, None);
        loop {
            if run.advance(Caller::Waits, combine)? {
                return Ok(());
            }
            self.check()?;
            is_idle = self.context.wait_step(is_idle);
            self.engine.tend();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_PER_LOOK) {
                run.look_at_all()?;
                self.check_limit(*since.get_or_insert_with(Instant::now), run)?;
            }
        }
    }

    /// Whether an operation that has waited since then has waited too long.
    pub(crate) fn check_limit<G, S>(&self, since: Instant, run: &Run<'c, G, S>) -> Result<(), Error>
    where
        G: Deref<Target = Self>,
        S: Deref<Target = Schedule> + Clone,
    {
        match self.limit.get() {
            Some(limit) if since.elapsed() > limit => {
                Err(Error::LimitPassed { rank: self.rank, limit, waits_for: run.waits_for() })
            }
            _ => Ok(()),
        }
    }

    // ---- what is used again -------------------------------------------------------------------------------------------

    /// What an operation needs, with scratch memory of so many lines at least.
    #[inline]
    pub(crate) fn take_kit(&self, scratch_lines: usize) -> Box<Kit<'c>> {
        let mut kit = self.kits.borrow_mut().pop().unwrap_or_default();
        if kit.scratch.len() < scratch_lines {
            kit.scratch.resize(scratch_lines, Line::ZERO);
        }
        kit
    }

    #[inline]
    pub(crate) fn give_back(&self, kit: Box<Kit<'c>>) {
        let mut kits = self.kits.borrow_mut();
        if kits.len() < KEPT_MAX {
            kits.push(kit);
        }
    }
}
