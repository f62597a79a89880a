//! Operations under way with borrowed buffers, which none outlives: as [`ironband::Context::scope`] for messages.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::rc::Rc;

use bytemuck::Pod;

use crate::buffers::begin_kept;
use crate::communicator::Communicator;
use crate::engine::{Engine, Task};
use crate::error::Error;
use crate::in_place::InPlacePlan;
use crate::memory::Combine;
use crate::plan::{Combining, Plan};
use crate::run::KeptRun;

/// Where operations with borrowed buffers are begun; see [`Communicator::scope`].
pub struct Scope<'scope, 'env: 'scope, 'c: 'env> {
    ends: EndAll<'c>,
    /// Neither lifetime may be taken for a shorter one: a buffer has to outlive the whole scope.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// All operations of a scope.
struct EndAll<'c> {
    /// With the engine that drives it: a plan may be of another communicator than the scope.
    begun: RefCell<Vec<(Rc<Engine<'c>>, Rc<Task<'c>>)>>,
}

impl Drop for EndAll<'_> {
    /// Waits for the ends of all: behind this the buffers are the program's again, also if it panics, here or in a handler that is called
    /// while this waits.
    fn drop(&mut self) {
        let mut panic = None;
        for (engine, task) in self.begun.get_mut() {
            while task.outcome().is_none() {
                // Who wants to know how it has ended has waited for it.
                let waited = catch_unwind(AssertUnwindSafe(|| drop(engine.wait_for(task))));
                panic = panic.or(waited.err());
            }
        }
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }
}

impl<'c> Communicator<'c> {
    /// Calls `work`, in which operations with borrowed buffers may be begun, by [`Plan::start_in`]. All of them have ended when this returns, also
    /// those whose requests were dropped or forgotten.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let (ones, mut sums) = ([1; 100], [0; 100]);
    /// let plan = world.plan_allreduce(100, Sum)?;
    /// world.scope(|scope| {
    ///     let request = plan.start_in(scope, &ones, &mut sums)?;
    ///     // Something else is done here.
    ///     request.wait().map(|_| ())
    /// })?;
    /// assert_eq!(sums, [world.size(); 100]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// What an operation may write cannot be read meanwhile:
    ///
    /// ```compile_fail,E0502
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open().unwrap();
    /// # let world = Communicator::world(&context).unwrap();
    /// let (ones, mut sums) = ([1; 100], [0; 100]);
    /// let plan = world.plan_allreduce(100, Sum).unwrap();
    /// world.scope(|scope| {
    ///     drop(plan.start_in(scope, &ones, &mut sums));
    ///     println!("{}", sums[0]);
    /// });
    /// ```
    pub fn scope<'env, R>(
        &'env self,
        work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env, 'c>) -> R,
    ) -> R {
        let scope =
            Scope { ends: EndAll { begun: RefCell::default() }, scope: PhantomData, env: PhantomData };
        work(&scope)
    }
}

impl<'c, T: Pod, C: Combining> Plan<'_, 'c, T, C> {
    /// Begins it with borrowed buffers, in a [`Communicator::scope`]. What it reads stays as it is meanwhile:
    ///
    /// ```compile_fail,E0506
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open().unwrap();
    /// # let world = Communicator::world(&context).unwrap();
    /// # let (mut ones, mut sums) = ([1; 100], [0; 100]);
    /// # let plan = world.plan_allreduce(100, Sum).unwrap();
    /// world.scope(|scope| {
    ///     drop(plan.start_in(scope, &ones, &mut sums));
    ///     ones[0] = 2;
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn start_in<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_, 'c>,
        input: &'scope [T],
        output: &'scope mut [T],
    ) -> Result<ScopedRequest<'scope, 'c, T>, Error> {
        self.check(input.len(), output.len())?;
        let output = NonNull::from(output);
        let pointers = (
            (input.as_ptr().cast(), size_of_val(input)),
            (output.as_ptr().cast(), output.len() * size_of::<T>()),
        );
        // SAFETY: both are borrowed for the scope, which waits for the end of the operation; the output is given back after that.
        let run = unsafe { begin_kept::<T>(self.communicator, &self.schedule, pointers.0, pointers.1) }?;
        Ok(scope.take(run, self.combining.kept(), output))
    }
}

impl<'c, T: Pod, C: Combining> InPlacePlan<'_, 'c, T, C> {
    /// Begins it in a borrowed vector, in a [`Communicator::scope`]. [`ScopedRequest::wait`] gives the whole vector back.
    ///
    /// ```
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open()?;
    /// let world = Communicator::world(&context)?;
    /// let mut sums = [1; 100];
    /// let plan = world.plan_allreduce(100, Sum)?.in_place()?;
    /// world.scope(|scope| plan.start_in(scope, &mut sums)?.wait().map(|_| ()))?;
    /// assert_eq!(sums, [world.size(); 100]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// There is one operation at a time in a vector:
    ///
    /// ```compile_fail,E0499
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open().unwrap();
    /// # let world = Communicator::world(&context).unwrap();
    /// # let mut sums = [1; 100];
    /// # let plan = world.plan_allreduce(100, Sum).unwrap().in_place().unwrap();
    /// world.scope(|scope| {
    ///     drop(plan.start_in(scope, &mut sums));
    ///     drop(plan.start_in(scope, &mut sums));
    /// });
    /// ```
    ///
    /// And a vector that ends before the scope is not taken:
    ///
    /// ```compile_fail,E0597
    /// # use ironband::Context;
    /// # use ironband_collectives::{Communicator, operator::Sum};
    /// # let context = Context::open().unwrap();
    /// # let world = Communicator::world(&context).unwrap();
    /// # let plan = world.plan_allreduce(100, Sum).unwrap().in_place().unwrap();
    /// world.scope(|scope| {
    ///     let mut sums = [1; 100];
    ///     drop(plan.start_in(scope, &mut sums));
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`InPlacePlan::run`].
    pub fn start_in<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_, 'c>,
        vector: &'scope mut [T],
    ) -> Result<ScopedRequest<'scope, 'c, T>, Error> {
        self.check(vector.len())?;
        let whole = NonNull::from(vector);
        // SAFETY: it is borrowed for the scope. The pointers of the parts come from this borrow, and `whole` is used when the operation has ended.
        let (input, output) = self.parts.of(unsafe { &mut *whole.as_ptr() });
        // SAFETY: as in `Plan::start_in`; nobody but the operation writes to the input.
        let run = unsafe { begin_kept::<T>(self.communicator, &self.schedule, input, output) }?;
        Ok(scope.take(run, self.combining.kept(), whole))
    }
}

impl<'scope, 'c> Scope<'scope, '_, 'c> {
    /// Starts what was begun, and waits for its end before the scope ends.
    fn take<T>(
        &'scope self,
        run: KeptRun<'c>,
        combine: Rc<dyn Combine>,
        output: NonNull<[T]>,
    ) -> ScopedRequest<'scope, 'c, T> {
        let engine = Rc::clone(run.group().engine());
        let task = engine.start(run, combine, Rc::new(()));
        self.ends.begun.borrow_mut().push((Rc::clone(&engine), Rc::clone(&task)));
        ScopedRequest { engine, task, output, borrow: PhantomData }
    }
}

/// An operation under way with borrowed buffers.
#[must_use = "wait for it to get the result"]
pub struct ScopedRequest<'scope, 'c, T> {
    engine: Rc<Engine<'c>>,
    task: Rc<Task<'c>>,
    output: NonNull<[T]>,
    borrow: PhantomData<&'scope mut [T]>,
}

impl<'scope, T> ScopedRequest<'scope, '_, T> {
    /// Whether it has ended. Makes progress.
    pub fn is_done(&self) -> bool {
        self.task.outcome().is_some() || {
            self.engine.context().progress();
            self.engine.tend();
            self.task.outcome().is_some()
        }
    }

    /// Waits for the end, and gives what the output was borrowed as back.
    ///
    /// # Errors
    /// Those that end the communicator.
    pub fn wait(self) -> Result<&'scope mut [T], Error> {
        self.engine.wait_for(&self.task)?;
        // SAFETY: it was borrowed for as long, and the operation, which has ended, was its only user.
        Ok(unsafe { &mut *self.output.as_ptr() })
    }
}
