//! The buffers of an operation, and who has them while it is under way. An operation in place has one, and says with [`Parts`] what of
//! it is the input, and what the output.

use std::any::Any;
use std::cell::{Ref, RefCell, RefMut};
use std::ops::Deref;
use std::rc::Rc;

use bytemuck::Pod;

use crate::alike;
use crate::communicator::Communicator;
use crate::engine::Task;
use crate::error::Error;
use crate::group::Group;
use crate::memory::{Combine, Line, Memory};
use crate::run::{KeptRun, Run};
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
    let group = ready(communicator)?;
    // SAFETY: both are borrowed until this function returns, and before that the run has ended or is dropped.
    let run = unsafe { begin::<T, _, _>(group, schedule, input, output) };
    group.finish(run, combine)
}

/// The group of a communicator that can do an operation. The first one after a table was set has another beside it.
#[inline]
fn ready<'a, 'c>(communicator: &'a Communicator<'c>) -> Result<&'a Group<'c>, Error> {
    let group = &*communicator.group;
    group.check()?;
    if group.comparisons().is_due() {
        alike::begin(communicator)?;
    }
    Ok(group)
}

/// As [`run`], with parts of one buffer for input and output.
pub(crate) fn run_in_place<T: Pod>(
    communicator: &Communicator<'_>,
    schedule: &Schedule,
    combine: Option<&dyn Combine>,
    parts: Parts,
    vector: &mut [T],
) -> Result<(), Error> {
    let group = ready(communicator)?;
    let (input, output) = parts.of(vector);
    // SAFETY: as in `run`; nobody but the operation writes to the input.
    let run = unsafe { begin::<T, _, _>(group, schedule, input, output) };
    group.finish(run, combine)
}

/// Bytes to read, and bytes to write.
type Pointers = ((*const u8, usize), (*mut u8, usize));

/// Where in the one vector of an operation in place its input and its output are, in elements. They may be the same, or one a part of the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The length of the vector.
    pub(crate) len: u64,
    /// The input's first element, and its length.
    pub(crate) input: (u64, u64),
    /// The output's.
    pub(crate) output: (u64, u64),
}

impl Parts {
    /// Input and output, as bytes.
    ///
    /// # Panics
    /// When the vector has another length: the caller has looked.
    pub(crate) fn of<T: Pod>(self, vector: &mut [T]) -> Pointers {
        assert_eq!(vector.len() as u64, self.len, "the vector is as long as was planned");
        let start = vector.as_mut_ptr();
        let part = |(first, len): (u64, u64)| {
            assert!(first + len <= self.len, "{self:?}");
            (start.wrapping_add(first as usize).cast::<u8>(), len as usize * size_of::<T>())
        };
        let ((input, input_bytes), output) = (part(self.input), part(self.output));
        ((input.cast_const(), input_bytes), output)
    }
}

/// Begins an operation on elements of type `T`. The group has to be one that has not failed.
///
/// # Safety
/// As for [`Memory::new`], until the run has ended or was dropped.
#[inline]
unsafe fn begin<'c, T, G, S>(
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

/// As [`begin`], for an operation that goes on behind the call.
///
/// # Safety
/// As for [`begin`].
pub(crate) unsafe fn begin_kept<'c, T: Pod>(
    communicator: &Communicator<'c>,
    schedule: &Rc<Schedule>,
    input: (*const u8, usize),
    output: (*mut u8, usize),
) -> Result<KeptRun<'c>, Error> {
    ready(communicator)?;
    // SAFETY: as promised by the caller.
    Ok(unsafe { begin::<T, _, _>(Rc::clone(&communicator.group), Rc::clone(schedule), input, output) })
}

/// Input and output, and the operation that has them: nobody else can touch them until that has ended, whatever becomes of this value.
pub(crate) struct Owned<'c, T> {
    both: Rc<RefCell<(Vec<T>, Vec<T>)>>,
    /// The output is the one vector of an operation in place, and these are parts of it.
    parts: Option<Parts>,
    task: Option<Rc<Task<'c>>>,
}

impl<'c, T: Pod> Owned<'c, T> {
    pub(crate) fn new(input: Vec<T>, output: Vec<T>) -> Self {
        Self { both: Rc::new(RefCell::new((input, output))), parts: None, task: None }
    }

    /// One vector for both: it is the output, and the input is empty.
    pub(crate) fn in_place(vector: Vec<T>, parts: Parts) -> Self {
        Self { parts: Some(parts), ..Self::new(Vec::new(), vector) }
    }

    /// The buffers, for who knows when the operation has ended.
    pub(crate) fn shared(&self) -> Rc<RefCell<(Vec<T>, Vec<T>)>> {
        Rc::clone(&self.both)
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
        let (input, output) = {
            let mut both = self.both.borrow_mut();
            let (input, output) = &mut *both;
            if let Some(parts) = self.parts {
                parts.of(output)
            } else {
                let input = (input.as_ptr().cast::<u8>(), size_of_val(input.as_slice()));
                (input, (output.as_mut_ptr().cast::<u8>(), size_of_val(output.as_slice())))
            }
        };
        // SAFETY: the task keeps the vectors until its run has ended and was dropped, and only methods of this type touch them, which look whether it
        // has. A vector's elements stay where they are.
        let run = unsafe { begin_kept::<T>(communicator, schedule, input, output) }?;
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
