//! Operations that go on while the program does something else: whoever waits for anything drives all of them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironband::Context;

use crate::error::Error;
use crate::memory::Combine;
use crate::run::{Caller, KeptRun};

/// How long a process that is done with its communicators waits for operations that have failed to end.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// The operations under way of a communicator and all that were made of it.
pub(crate) struct Engine<'c> {
    context: &'c Context,
    tasks: RefCell<Vec<Rc<Task<'c>>>>,
    /// How many there are: looked at with every step of waiting.
    count: Cell<usize>,
    is_tending: Cell<bool>,
}

impl<'c> Engine<'c> {
    pub(crate) fn new(context: &'c Context) -> Rc<Self> {
        Rc::new(Self {
            context,
            tasks: RefCell::default(),
            count: Cell::new(0),
            is_tending: Cell::new(false),
        })
    }

    pub(crate) const fn context(&self) -> &'c Context {
        self.context
    }

    /// Begins an operation, which goes on whenever something waits. `keeps` is kept until it has ended.
    pub(crate) fn start(
        &self,
        run: KeptRun<'c>,
        combine: Rc<dyn Combine>,
        keeps: Rc<dyn Any>,
    ) -> Rc<Task<'c>> {
        let task = Rc::new(Task {
            stage: RefCell::new(Stage::Running(run)),
            combine,
            since: Instant::now(),
            _keeps: keeps,
        });
        if !task.step() {
            self.tasks.borrow_mut().push(Rc::clone(&task));
            self.count.set(self.count.get() + 1);
        }
        task
    }

    /// Drives all operations a step.
    #[inline]
    pub(crate) fn tend(&self) {
        if self.count.get() > 0 {
            self.tend_all();
        }
    }

    #[inline(never)]
    fn tend_all(&self) {
        // An operator of the program may call something that waits.
        if self.is_tending.replace(true) {
            return;
        }
        let _tending = EndTending(&self.is_tending);
        let mut at = 0;
        loop {
            let Some(task) = self.tasks.borrow().get(at).cloned() else { break };
            if task.step() {
                self.tasks.borrow_mut().remove(at);
            } else {
                at += 1;
            }
        }
        self.count.set(self.tasks.borrow().len());
    }

    /// Waits for the end of an operation.
    pub(crate) fn wait_for(&self, task: &Task<'c>) -> Result<(), Error> {
        let mut is_idle = false;
        loop {
            if let Some(outcome) = task.outcome() {
                return outcome;
            }
            is_idle = self.context.wait_step(is_idle);
            self.tend();
        }
    }

    /// Waits for the ends of all operations, whatever they are. Those that have failed and do not end, because a process that lives may still use their
    /// buffers and does not answer, are left to it: what they have is never freed.
    pub(crate) fn finish_all(&self) {
        // Whoever drives them, and has dropped the last communicator meanwhile, goes on.
        if self.is_tending.get() {
            return;
        }
        let mut since = None;
        while self.count.get() > 0 {
            self.context.progress();
            self.tend();
            if !self.tasks.borrow().iter().all(|task| task.has_failed()) {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() > LEAVE_LIMIT {
                return self.leave_all();
            }
        }
    }

    #[cold]
    fn leave_all(&self) {
        for task in &*self.tasks.borrow() {
            tracing::warn!(waits_for = ?task.waits_for(), "the buffers of an operation that has failed are leaked");
            std::mem::forget(Rc::clone(task));
        }
    }
}

/// While operations are driven, also if one panics.
struct EndTending<'e>(&'e Cell<bool>);

impl Drop for EndTending<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Drives an engine to the end of its operations when the last communicator goes.
pub(crate) struct FinishAll<'c>(pub(crate) Rc<Engine<'c>>);

impl Drop for FinishAll<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.finish_all();
        }
    }
}

enum Stage<'c> {
    Running(KeptRun<'c>),
    /// It has failed, and its requests are being ended.
    Ending(KeptRun<'c>, Error),
    Ended(Result<(), Error>),
    /// In between.
    Moving,
}

/// One operation.
pub(crate) struct Task<'c> {
    stage: RefCell<Stage<'c>>,
    combine: Rc<dyn Combine>,
    since: Instant,
    /// Dropped behind the run.
    _keeps: Rc<dyn Any>,
}

impl Task<'_> {
    /// Does what can be done; true when it has ended.
    pub(crate) fn step(&self) -> bool {
        // An operator of the program that waits in here must not find it borrowed.
        let Ok(mut stage) = self.stage.try_borrow_mut() else { return false };
        *stage = match std::mem::replace(&mut *stage, Stage::Moving) {
            Stage::Running(run) => self.advance(run),
            Stage::Ending(run, error) => Self::end(run, error),
            other => other,
        };
        matches!(*stage, Stage::Ended(_))
    }

    fn advance<'c>(&self, mut run: KeptRun<'c>) -> Stage<'c> {
        let group = Rc::clone(run.group());
        let advanced = run.advance(Caller::LooksIn, Some(&*self.combine)).and_then(|is_over| {
            if !is_over {
                group.check()?;
                group.check_limit(self.since, &run)?;
            }
            Ok(is_over)
        });
        match advanced {
            Ok(false) => Stage::Running(run),
            Ok(true) => Stage::Ended(Ok(())),
            Err(error) => Self::end(run, group.fail(error)),
        }
    }

    fn end<'c>(mut run: KeptRun<'c>, error: Error) -> Stage<'c> {
        if run.abandon() { Stage::Ended(Err(error)) } else { Stage::Ending(run, error) }
    }

    /// Whether it has failed, and its requests have not ended yet.
    fn has_failed(&self) -> bool {
        matches!(self.stage.try_borrow().as_deref(), Ok(Stage::Ending(..)))
    }

    /// For whom it waits; nobody if it has ended.
    pub(crate) fn waits_for(&self) -> Vec<u32> {
        match &*self.stage.borrow() {
            Stage::Running(run) | Stage::Ending(run, _) => run.waits_for(),
            _ => Vec::new(),
        }
    }

    /// How it has ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Result<(), Error>> {
        match &*self.stage.borrow() {
            Stage::Ended(outcome) => Some(outcome.clone()),
            _ => None,
        }
    }
}
