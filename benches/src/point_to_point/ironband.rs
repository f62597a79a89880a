//! Ironband's messages, called from Rust.

use std::{cell::RefCell, marker::PhantomData};

use ironband::{Context, Endpoint, Error, Pattern, RawBuffer, ReceiveRequest, SendRequest};

use super::{Tag, abort, without_unwinding};
use crate::memory::{Slots, Span};

/// One other rank.
#[derive(Clone, Copy, Debug)]
pub struct Channel<'session> {
    context: &'session Context,
    peer: Endpoint<'session>,
}

/// Ends the job when a call fails: the other rank may wait for this one.
#[inline]
fn check<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| fail(&error))
}

#[cold]
#[inline(never)]
fn fail(error: &Error) -> ! {
    eprintln!("{error}");
    abort()
}

impl Tag {
    #[inline]
    const fn number(self) -> u64 {
        self.0 as u64
    }
}

impl<'session> Channel<'session> {
    pub(super) fn new(context: &'session Context, peer: i32) -> Self {
        Self { context, peer: check(context.endpoint(peer as u32)) }
    }

    #[inline]
    pub(super) fn send(self, message: Span<'_>, tag: Tag) {
        // SAFETY: the span is valid, and nobody writes there until this blocking call returns.
        let data = unsafe { std::slice::from_raw_parts(message.as_ptr().cast(), message.length_bytes()) };
        check(self.peer.send(tag.number(), data));
    }

    #[inline]
    pub(super) fn receive(self, message: Span<'_>, tag: Tag) {
        // SAFETY: the span is valid, and nobody else looks there until this blocking call returns.
        let buffer =
            unsafe { std::slice::from_raw_parts_mut(message.as_mut_ptr().cast(), message.length_bytes()) };
        check(self.peer.receive(tag.number(), buffer));
    }

    #[inline]
    pub(super) fn signal(self, tag: Tag) {
        check(self.peer.send(tag.number(), &[]));
    }

    #[inline]
    pub(super) fn await_signal(self, tag: Tag) {
        check(self.peer.receive(tag.number(), &mut []));
    }
}

/// Memory of a window, as a request's buffer.
#[inline]
fn slot(span: Span<'_>) -> RawBuffer {
    // SAFETY: the memory lives as long as the request, because only `Posting` makes these and `Requests::window` waits for all requests
    // while the memory is borrowed. It is read and written by the program between windows only. Sends may share memory, which nobody
    // writes meanwhile; so may receives, whose contents are then any of those that came.
    unsafe { RawBuffer::new(span.as_mut_ptr().cast(), span.length_bytes()) }
}

/// Room for the requests of one window.
pub struct Requests<'session> {
    sends: RefCell<Vec<SendRequest<'session, RawBuffer>>>,
    receives: RefCell<Vec<ReceiveRequest<'session, RawBuffer>>>,
}

impl std::fmt::Debug for Requests<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sends, receives) = (self.sends.borrow().len(), self.receives.borrow().len());
        f.debug_struct("Requests").field("sends", &sends).field("receives", &receives).finish()
    }
}

impl<'session> Requests<'session> {
    pub(super) fn new(count: usize) -> Self {
        Self {
            sends: RefCell::new(Vec::with_capacity(count)),
            receives: RefCell::new(Vec::with_capacity(count)),
        }
    }

    /// As [`super::Requests::window`].
    #[inline]
    pub(super) fn window<'memory>(&mut self, post: impl FnOnce(&Posting<'memory, '_, 'session>)) {
        without_unwinding(|| {
            post(&Posting { requests: self, memory: PhantomData });
            self.sends.get_mut().drain(..).for_each(|request| _ = check(request.wait()));
            self.receives.get_mut().drain(..).for_each(|request| _ = check(request.wait()));
        });
    }
}

/// Starts the operations of one window.
#[derive(Debug)]
pub struct Posting<'memory, 'requests, 'session> {
    requests: &'requests Requests<'session>,
    /// Invariant: messages must live as long as the caller of `window` promised, not shorter.
    memory: PhantomData<std::cell::Cell<&'memory ()>>,
}

impl<'memory, 'session> Posting<'memory, '_, 'session> {
    #[inline]
    pub(super) fn send_all(&self, channel: Channel<'session>, messages: Slots<'memory>, tag: Tag) {
        let mut sends = self.requests.sends.borrow_mut();
        for message in messages.iter() {
            sends.push(check(channel.peer.start_send(tag.number(), slot(message))));
        }
    }

    #[inline]
    pub(super) fn receive_all(&self, channel: Channel<'session>, messages: Slots<'memory>, tag: Tag) {
        let pattern = Pattern::exact(channel.peer.rank(), tag.number());
        let mut receives = self.requests.receives.borrow_mut();
        for message in messages.iter() {
            receives.push(check(channel.context.start_receive(pattern, slot(message))));
        }
    }
}
