//! Accesses under way to memory of other processes.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::Poll;

use ironband_core::protocol::Handle;
use ironband_fabric::{CompletionStatus, Posted, WorkId};

use super::buffer::Owned;
use super::devices::{AnyDevice, Registered};
use super::state::{AccessState, InFlight};
use super::{Buffer, Context, Error};

/// Posts an access, and waits until the device has taken it, which a panic of a handler of the program may prevent.
pub(super) fn begin<'c>(
    context: &'c Context,
    rank: u32,
    registration: Option<Registered>,
    post: impl Fn(WorkId, Option<&Registered>) -> Posted,
) -> AccessGuard<'c> {
    let state = AccessState { rank, is_posted: false, status: None, registration, owner: None };
    let access = context.state.borrow_mut().accesses.insert(state);
    let guard = AccessGuard { context, access };
    loop {
        let is_over = {
            let mut state = context.state.borrow_mut();
            let id = state.in_flight.insert(InFlight::Access { access });
            let own = state.accesses.get(access).and_then(|access| access.registration.as_ref());
            let posted = post(WorkId(id.to_wire()), own);
            if posted == Posted::Queued {
                state.access_posted(access);
                return guard;
            }
            state.in_flight.remove(id);
            let status = match posted {
                Posted::Complete => Some(CompletionStatus::Success),
                Posted::Failed => Some(CompletionStatus::Flushed),
                Posted::Busy | Posted::Queued => None,
            };
            if status.is_some() {
                state.access_posted(access);
                state.access_ended(access, status);
            }
            status.is_some()
        };
        context.progress();
        if is_over {
            // A loop of accesses that end at once must not keep others waiting for this process, and does not wait itself.
            context.devices.iter().for_each(AnyDevice::reset_patience);
            return guard;
        }
    }
}

/// An access that is waited for, whatever happens.
pub(super) struct AccessGuard<'c> {
    context: &'c Context,
    access: Handle,
}

impl AccessGuard<'_> {
    /// Leaves the access to whoever has its handle.
    fn into_handle(self) -> Handle {
        ManuallyDrop::new(self).access
    }

    pub(super) fn end(self) -> Result<(), Error> {
        let Some(AccessState { rank, status, .. }) = self.wait() else { return Ok(()) };
        match status {
            Some(CompletionStatus::Success) | None => Ok(()),
            Some(CompletionStatus::Flushed) => {
                Err(Error::PeerLost { rank, reason: self.context.state.borrow().loss(rank) })
            }
            Some(status) => Err(Error::Access { rank, status }),
        }
    }

    /// Waits for the end; `None` if it was waited for before.
    fn wait(&self) -> Option<AccessState> {
        self.context
            .wait_until(|state| state.accesses.get(self.access).is_none_or(|access| access.status.is_some()));
        let mut access = self.context.state.borrow_mut().accesses.remove(self.access)?;
        if let Some(own) = access.registration.take() {
            self.context.deregister(own);
        }
        Some(access)
    }
}

impl Drop for AccessGuard<'_> {
    fn drop(&mut self) {
        let is_posted =
            self.context.state.borrow().accesses.get(self.access).is_some_and(|access| access.is_posted);
        if is_posted {
            self.wait();
        } else {
            let access = self.context.state.borrow_mut().accesses.remove(self.access);
            if let Some(own) = access.and_then(|access| access.registration) {
                self.context.deregister(own);
            }
        }
    }
}

/// A put or get under way, with its local buffer. Dropped or forgotten, it goes on; [`RemoteMemory::flush`](super::RemoteMemory::flush)
/// waits for it.
#[must_use = "wait for it to know whether the access has ended, and to get the buffer back"]
pub struct AccessRequest<'c, B: Buffer> {
    context: &'c Context,
    /// None when there is nothing to wait for.
    access: Option<Handle>,
    buffer: Owned<B>,
}

impl<'c, B: Buffer> AccessRequest<'c, B> {
    /// If a handler of the program panics while there is no room, the buffer is leaked.
    pub(super) fn start(
        context: &'c Context,
        buffer: B,
        begin: impl FnOnce(&mut B) -> Result<Option<AccessGuard<'c>>, Error>,
    ) -> Result<Self, Error> {
        let mut buffer = Owned::new(buffer);
        match begin(buffer.get_mut()) {
            Ok(guard) => Ok(Self { context, access: guard.map(AccessGuard::into_handle), buffer }),
            Err(error) => {
                drop(buffer.take());
                Err(error)
            }
        }
    }

    /// Whether the access has ended. Makes progress.
    pub fn is_done(&self) -> bool {
        let Some(access) = self.access else { return true };
        let is_done = || {
            let state = self.context.state.borrow();
            state.accesses.get(access).is_none_or(|access| access.status.is_some())
        };
        is_done() || {
            self.context.progress();
            is_done()
        }
    }

    /// Waits for the end: what was put can be seen by the other process then, what was to be got is in the buffer, which is given
    /// back.
    ///
    /// # Errors
    /// [`Error::PeerLost`], [`Error::Access`]. The buffer is dropped then.
    pub fn wait(mut self) -> Result<B, Error> {
        self.take()
    }

    fn take(&mut self) -> Result<B, Error> {
        let outcome = match self.access.take() {
            // If a handler of the program panics in here the guard waits, and the buffer is dropped after that.
            Some(access) => AccessGuard { context: self.context, access }.end(),
            None => Ok(()),
        };
        let buffer = self.buffer.take();
        outcome.map(|()| buffer)
    }
}

impl<B: Buffer> Drop for AccessRequest<'_, B> {
    fn drop(&mut self) {
        if self.buffer.is_taken() {
            return;
        }
        let buffer = self.buffer.take();
        let Some(handle) = self.access else { return };
        let mut state = self.context.state.borrow_mut();
        if let Some(access) = state.accesses.get_mut(handle) {
            access.owner = Some(Box::new(buffer));
            state.orphan_accesses.push(handle);
        }
    }
}

impl<B: Buffer + Unpin> Future for AccessRequest<'_, B> {
    type Output = Result<B, Error>;

    /// As that of [`SendRequest`](super::SendRequest).
    fn poll(self: Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let request = self.get_mut();
        if request.is_done() {
            return Poll::Ready(request.take());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
