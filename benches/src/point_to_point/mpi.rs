//! MPI's two-sided calls.
//!
//! rsmpi's own `send`, `receive_into` and request scopes are not used here. Each of them looks up a datatype
//! and measures a slice per call, a receive builds a `Status`, and a request in a scope costs a counter and a
//! drop: a few nanoseconds that a C benchmark does not pay, in a latency of about a hundred. Here every call is
//! one C call and one compare of its result, with the handles held in registers.

use std::{cell::Cell, ffi::c_int, marker::PhantomData};

use mpi::ffi;

use super::{Tag, abort, without_unwinding};
use crate::{
    memory::{Slots, Span},
    session::Session,
};

/// One other rank and all that a call needs besides the buffer.
#[derive(Clone, Copy, Debug)]
pub struct Channel<'session> {
    communicator: ffi::MPI_Comm,
    byte: ffi::MPI_Datatype,
    peer: c_int,
    session: PhantomData<&'session Session>,
}

/// Ends the job if MPI reports an error. `MPI_COMM_WORLD` keeps its fatal error handler, so this is a second
/// line of defence that costs one predicted branch.
#[inline]
pub(crate) fn check(code: c_int, call: &'static str) {
    if code != ffi::MPI_SUCCESS as c_int {
        fail(code, call);
    }
}

#[cold]
#[inline(never)]
fn fail(code: c_int, call: &'static str) -> ! {
    eprintln!("{call} failed with MPI error {code}");
    abort()
}

/// `-m` refuses larger messages, so the cast keeps the value.
#[inline]
pub(crate) fn count_of(message: Span<'_>) -> c_int {
    debug_assert!(c_int::try_from(message.length_bytes()).is_ok());
    message.length_bytes() as c_int
}

impl<'session> Channel<'session> {
    /// A channel to `peer` in `MPI_COMM_WORLD` of an MPI job.
    pub(super) fn new(_: &'session Session, peer: c_int) -> Self {
        // SAFETY: MPI is initialised while the session lives, and then these constants are set.
        let (communicator, byte) = unsafe { (ffi::RSMPI_COMM_WORLD, ffi::RSMPI_UINT8_T) };
        Self { communicator, byte, peer, session: PhantomData }
    }

    /// `MPI_Send`.
    #[inline]
    pub fn send(self, message: Span<'_>, tag: Tag) {
        let (data, count) = (message.as_ptr(), count_of(message));
        // SAFETY: the span is valid for `count` bytes until this blocking call returns.
        let code = unsafe { ffi::MPI_Send(data, count, self.byte, self.peer, tag.0, self.communicator) };
        check(code, "MPI_Send");
    }

    /// `MPI_Recv`.
    #[inline]
    pub fn receive(self, message: Span<'_>, tag: Tag) {
        let (data, count) = (message.as_mut_ptr(), count_of(message));
        // SAFETY: the span is valid for `count` bytes until this blocking call returns; the status is ignored.
        let code = unsafe {
            let ignore = ffi::RSMPI_STATUS_IGNORE;
            ffi::MPI_Recv(data, count, self.byte, self.peer, tag.0, self.communicator, ignore)
        };
        check(code, "MPI_Recv");
    }

    /// Sends a message of no bytes.
    #[inline]
    pub fn signal(self, tag: Tag) {
        // SAFETY: a count of zero reads nothing, so the pointer may be null.
        let code =
            unsafe { ffi::MPI_Send(std::ptr::null(), 0, self.byte, self.peer, tag.0, self.communicator) };
        check(code, "MPI_Send");
    }

    /// Receives a message of no bytes.
    #[inline]
    pub fn await_signal(self, tag: Tag) {
        // SAFETY: a count of zero writes nothing, so the pointer may be null; the status is ignored.
        let code = unsafe {
            let ignore = ffi::RSMPI_STATUS_IGNORE;
            ffi::MPI_Recv(std::ptr::null_mut(), 0, self.byte, self.peer, tag.0, self.communicator, ignore)
        };
        check(code, "MPI_Recv");
    }
}

/// Room for the requests of one window, allocated once.
#[derive(Debug)]
pub struct Requests {
    handles: Vec<ffi::MPI_Request>,
}

impl Requests {
    /// Room for `count` requests.
    pub fn new(count: usize) -> Self {
        // SAFETY: the constant is set once MPI is initialised; the value is only compared and overwritten.
        let null = unsafe { ffi::RSMPI_REQUEST_NULL };
        Self { handles: vec![null; count] }
    }

    /// Runs `post`, which starts operations, then waits for all of them (`MPI_Waitall`).
    ///
    /// Messages borrow memory for `'memory`, which outlives this call, so the memory outlives the operations.
    #[inline]
    pub(super) fn window<'memory>(&mut self, post: impl FnOnce(&Posting<'memory, '_>)) {
        without_unwinding(|| {
            let posting = Posting {
                free: Cell::new(self.handles.as_mut_ptr()),
                end: self.handles.as_mut_ptr_range().end,
                requests: PhantomData,
                memory: PhantomData,
            };
            post(&posting);
            let started = (posting.free.get() as usize - self.handles.as_ptr() as usize)
                / size_of::<ffi::MPI_Request>();
            // SAFETY: the first `started` handles were written by MPI_Isend or MPI_Irecv just above.
            let code = unsafe {
                let ignore = ffi::RSMPI_STATUSES_IGNORE;
                ffi::MPI_Waitall(started as c_int, self.handles.as_mut_ptr(), ignore)
            };
            check(code, "MPI_Waitall");
        });
    }
}

/// Starts the operations of one window.
#[derive(Debug)]
pub struct Posting<'memory, 'requests> {
    free: Cell<*mut ffi::MPI_Request>,
    end: *mut ffi::MPI_Request,
    requests: PhantomData<&'requests mut Requests>,
    /// Invariant: messages must live as long as the caller of [`Requests::window`] promised, not shorter.
    memory: PhantomData<Cell<&'memory ()>>,
}

impl<'memory> Posting<'memory, '_> {
    /// The next `count` requests. One check for all of them keeps the loops below as short as in C.
    #[inline]
    fn take(&self, count: usize) -> *mut ffi::MPI_Request {
        let first = self.free.get();
        let left = (self.end as usize - first as usize) / size_of::<ffi::MPI_Request>();
        assert!(count <= left, "{count} operations for {left} requests");
        self.free.set(first.wrapping_add(count));
        first
    }

    /// `MPI_Isend` of every slot.
    #[inline]
    pub fn send_all(&self, channel: Channel<'_>, messages: Slots<'memory>, tag: Tag) {
        let Channel { communicator, byte, peer, .. } = channel;
        let mut request = self.take(messages.count());
        for message in messages.iter() {
            let (data, count) = (message.as_ptr(), count_of(message));
            // SAFETY: the memory outlives the wait in `Requests::window`, as does the request, one of those
            // that `take` handed out.
            let code = unsafe { ffi::MPI_Isend(data, count, byte, peer, tag.0, communicator, request) };
            check(code, "MPI_Isend");
            request = request.wrapping_add(1);
        }
    }

    /// `MPI_Irecv` into every slot.
    #[inline]
    pub fn receive_all(&self, channel: Channel<'_>, messages: Slots<'memory>, tag: Tag) {
        let Channel { communicator, byte, peer, .. } = channel;
        let mut request = self.take(messages.count());
        for message in messages.iter() {
            let (data, count) = (message.as_mut_ptr(), count_of(message));
            // SAFETY: as in `send_all`; that several receives may share memory is the benchmark's business.
            let code = unsafe { ffi::MPI_Irecv(data, count, byte, peer, tag.0, communicator, request) };
            check(code, "MPI_Irecv");
            request = request.wrapping_add(1);
        }
    }
}
