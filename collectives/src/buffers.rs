//! The buffers of an operation, and who has them while it is under way.

use std::any::Any;
use std::cell::{Ref, RefCell, RefMut};
use std::ops::Deref;
use std::rc::Rc;

use bytemuck::Pod;

use crate::communicator::Communicator;
use crate::engine::Task;
use crate::error::Error;
use crate::group::Group;
use crate::memory::{Combine, Line, Memory};
use crate::run::Run;
use crate::schedule::Schedule;

/// Runs a schedule on borrowed buffers, until it has ended.
pub(crate) fn run<T: Pod>(
    communicator: &Communicator<'_>,
    schedule: &Schedule,
    combine: Option<&dyn Combine>,
    input: &[T],
    output: &mut [T],
) -> Result<(), Error> {
    let input = (input.as_ptr().cast(), size_of_val(input));
    let output = (output.as_mut_ptr().cast(), size_of_val(output));
    let group = &*communicator.group;
    group.check()?;
    // SAFETY: both are borrowed until this function returns, and before that the run has ended or is dropped.
    let run = unsafe { begin::<T, _, _>(group, schedule, input, output) };
    group.finish(run, combine)
}

/// As [`run`], with one buffer for input and output.
pub(crate) fn run_in_place<T: Pod>(
    communicator: &Communicator<'_>,
    schedule: &Schedule,
    combine: Option<&dyn Combine>,
    vector: &mut [T],
) -> Result<(), Error> {
    let (start, len_bytes) = (vector.as_mut_ptr().cast::<u8>(), size_of_val(vector));
    let (input, output) = ((start.cast_const(), len_bytes), (start, len_bytes));
    let group = &*communicator.group;
    group.check()?;
    // SAFETY: as in `run`.
    let run = unsafe { begin::<T, _, _>(group, schedule, input, output) };
    group.finish(run, combine)
}

/// Begins an operation on elements of type `T`. The group has to be one that has not failed.
///
/// # Safety
/// As for [`Memory::new`], until the run has ended or was dropped.
#[inline]
pub(crate) unsafe fn begin<'c, T, G, S>(
    group: G,
    schedule: S,
    input: (*const u8, usize),
    output: (*mut u8, usize),
) -> Run<'c, G, S>
where
    T: Pod,
    G: Deref<Target = Group<'c>>,
    S: Deref<Target = Schedule> + Clone,
{
    const {
        assert!(align_of::<T>() <= align_of::<Line>(), "elements are aligned to a cache line at most");
    }
    let mut kit = group.take_kit(Memory::scratch_lines(schedule.scratch, size_of::<T>()));
    // SAFETY: as promised by the caller; the run keeps the scratch memory, which is as long as the schedule wants.
    let memory = unsafe { Memory::new(input, output, &mut kit.scratch, size_of::<T>()) };
    Run::new(group, schedule, memory, kit)
}

/// Input and output, and the operation that has them: nobody else can touch them until that has ended, whatever becomes of this value.
pub(crate) struct Owned<'c, T> {
    both: Rc<RefCell<(Vec<T>, Vec<T>)>>,
    task: Option<Rc<Task<'c>>>,
}

impl<'c, T: Pod> Owned<'c, T> {
    pub(crate) fn new(input: Vec<T>, output: Vec<T>) -> Self {
        Self { both: Rc::new(RefCell::new((input, output))), task: None }
    }

    /// The operation that was begun last.
    pub(crate) const fn task(&self) -> Option<&Rc<Task<'c>>> {
        self.task.as_ref()
    }

    /// # Panics
    /// When the operation has not ended: the caller has waited for it.
    fn check_ended(&self) {
        let is_under_way = self.task.as_ref().is_some_and(|task| task.outcome().is_none());
        assert!(!is_under_way, "an operation has these buffers");
    }

    /// Begins an operation on them.
    ///
    /// # Panics
    /// As [`Owned::input_mut`].
    pub(crate) fn start(
        &mut self,
        communicator: &Communicator<'c>,
        schedule: &Rc<Schedule>,
        combine: Rc<dyn Combine>,
    ) -> Result<(), Error> {
        self.check_ended();
        communicator.group.check()?;
        let (input, output) = {
            let mut both = self.both.borrow_mut();
            let (input, output) = &mut *both;
            let input = (input.as_ptr().cast::<u8>(), size_of_val(input.as_slice()));
            (input, (output.as_mut_ptr().cast::<u8>(), size_of_val(output.as_slice())))
        };
        // SAFETY: the task keeps the vectors until its run has ended and was dropped, and only methods of this type touch them, which look whether it
        // has. A vector's elements stay where they are.
        let run =
            unsafe { begin::<T, _, _>(Rc::clone(&communicator.group), Rc::clone(schedule), input, output) };
        let keeps = Rc::clone(&self.both) as Rc<dyn Any>;
        self.task = Some(communicator.group.engine().start(run, combine, keeps));
        Ok(())
    }

    /// # Panics
    /// When the operation has not ended: the caller has waited for it.
    pub(crate) fn input_mut(&mut self) -> RefMut<'_, [T]> {
        self.check_ended();
        RefMut::map(self.both.borrow_mut(), |(input, _)| input.as_mut_slice())
    }

    /// # Panics
    /// As [`Owned::input_mut`].
    pub(crate) fn output(&self) -> Ref<'_, [T]> {
        self.check_ended();
        Ref::map(self.both.borrow(), |(_, output)| output.as_slice())
    }

    /// # Panics
    /// As [`Owned::input_mut`].
    pub(crate) fn output_mut(&mut self) -> RefMut<'_, [T]> {
        self.check_ended();
        RefMut::map(self.both.borrow_mut(), |(_, output)| output.as_mut_slice())
    }

    /// # Panics
    /// As [`Owned::input_mut`].
    pub(crate) fn take(&mut self) -> (Vec<T>, Vec<T>) {
        self.check_ended();
        self.both.take()
    }
}
