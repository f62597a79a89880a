//! The two-sided calls that the timed loops make: MPI's, Ironband's, or a cache line's. Which they are costs one branch a call
//! that is always taken the same way.

use std::ffi::c_int;

use ::mpi::ffi;

use crate::{
    memory::{Slots, Span},
    session::Session,
};

mod ironband;
mod line;
mod mpi;

pub use line::{LINE_BYTES_MAX, Lines};
pub(crate) use mpi::{check, count_of};

/// Message tags, one per use, so that no message can be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(c_int);

impl Tag {
    /// What is measured.
    pub const DATA: Tag = Tag(1);
    /// The answer of a ping-pong among threads.
    pub const REPLY: Tag = Tag(2);
    /// Closes a window.
    pub const ACKNOWLEDGE: Tag = Tag(3);
    /// Both sides' buffers are prepared.
    pub const READY: Tag = Tag(4);
    /// The timed round is over.
    pub const DONE: Tag = Tag(5);

    /// Rounds told apart by a numbered tag. MPI promises tags up to 32767, so with five uses the number wraps
    /// at this; far fewer rounds are in flight.
    const NUMBERS: u64 = 6000;

    /// The same use, for round `number` alone.
    #[inline]
    pub fn numbered(self, number: u64) -> Tag {
        Tag(self.0 * Self::NUMBERS as c_int + (number % Self::NUMBERS) as c_int)
    }
}

/// One other rank, and how it is spoken to.
#[derive(Clone, Copy, Debug)]
pub enum Channel<'session> {
    /// By MPI.
    Mpi(mpi::Channel<'session>),
    /// By Ironband's messages.
    Ironband(ironband::Channel<'session>),
    /// By one cache line for each direction.
    Line(&'session Lines),
}

/// A [`Channel`] that threads may share, which needs `MPI_THREAD_MULTIPLE`.
#[derive(Clone, Copy, Debug)]
pub struct SharedChannel<'session>(mpi::Channel<'session>);

// SAFETY: `Session::shared_channel` makes one only if MPI granted MPI_THREAD_MULTIPLE; handles are plain values.
unsafe impl Send for SharedChannel<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedChannel<'_> {}

impl<'session> SharedChannel<'session> {
    /// For [`Session::shared_channel`], which checks the thread level.
    pub(crate) fn new(session: &'session Session, peer: i32) -> Self {
        Self(mpi::Channel::new(session, peer))
    }

    /// The channel, in the calling thread.
    pub fn get(self) -> Channel<'session> {
        Channel::Mpi(self.0)
    }
}

/// Ends every rank of the job: the only way out when one rank cannot go on and others may wait for it.
#[cold]
pub fn abort() -> ! {
    if ::mpi::environment::is_initialized() {
        // SAFETY: MPI is initialised; the handle is MPI's own constant.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, 1) };
    }
    // Most launchers end the others when one has ended so; under one that does not, they notice, since they wait for messages of this one.
    std::process::abort()
}

/// Ends the job if dropped by a panic: MPI still owns buffers then, which unwinding would free.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        abort();
    }
}

/// Runs `body` and ends the job if it panics.
#[inline]
pub(crate) fn without_unwinding<R>(body: impl FnOnce() -> R) -> R {
    let guard = AbortOnUnwind;
    let result = body();
    std::mem::forget(guard);
    result
}

/// The clock of the benchmarks, in seconds since some time before; the same for all that is measured.
#[inline]
pub fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Does the same with a channel of each kind.
macro_rules! by_each {
    ($channel:expr, $own:ident => $call:expr) => {
        match $channel {
            Self::Mpi($own) => $call,
            Self::Ironband($own) => $call,
            Self::Line($own) => $call,
        }
    };
}

impl<'session> Channel<'session> {
    /// A channel to `peer`, of the kind that the session is of.
    pub fn new(session: &'session Session, peer: i32) -> Self {
        assert!((0..session.ranks()).contains(&peer), "rank {peer} is not in this job");
        match (session.context(), session.lines()) {
            (_, Some(lines)) => Self::Line(lines),
            (Some(context), None) => Self::Ironband(ironband::Channel::new(context, peer)),
            (None, None) => Self::Mpi(mpi::Channel::new(session, peer)),
        }
    }

    /// Sends a message, and returns when its memory may be used again: `MPI_Send`, [`::ironband::Endpoint::send`].
    #[inline]
    pub fn send(self, message: Span<'_>, tag: Tag) {
        by_each!(self, channel => channel.send(message, tag))
    }

    /// Waits for a message: `MPI_Recv`, [`::ironband::Endpoint::receive`].
    #[inline]
    pub fn receive(self, message: Span<'_>, tag: Tag) {
        by_each!(self, channel => channel.receive(message, tag))
    }

    /// Sends a message of no bytes.
    #[inline]
    pub fn signal(self, tag: Tag) {
        by_each!(self, channel => channel.signal(tag))
    }

    /// Receives a message of no bytes.
    #[inline]
    pub fn await_signal(self, tag: Tag) {
        by_each!(self, channel => channel.await_signal(tag))
    }
}

/// Room for the requests of one window, allocated once.
#[derive(Debug)]
pub enum Requests<'session> {
    /// MPI's.
    Mpi(mpi::Requests),
    /// Ironband's.
    Ironband(ironband::Requests<'session>),
}

impl<'session> Requests<'session> {
    /// Room for `count` requests.
    pub fn new(session: &'session Session, count: usize) -> Self {
        match session.context() {
            Some(_) => Self::Ironband(ironband::Requests::new(count)),
            None => Self::Mpi(mpi::Requests::new(count)),
        }
    }

    /// Runs `post`, which starts operations, then waits for all of them.
    ///
    /// Messages borrow memory for `'memory`, which outlives this call, so the memory outlives the operations.
    #[inline]
    pub fn window<'memory>(&mut self, post: impl FnOnce(&Posting<'memory, '_, 'session>)) {
        match self {
            Self::Mpi(requests) => requests.window(|posting| post(&Posting::Mpi(posting))),
            Self::Ironband(requests) => requests.window(|posting| post(&Posting::Ironband(posting))),
        }
    }
}

/// Starts the operations of one window.
#[derive(Debug)]
pub enum Posting<'memory, 'requests, 'session> {
    /// MPI's.
    Mpi(&'requests mpi::Posting<'memory, 'requests>),
    /// Ironband's.
    Ironband(&'requests ironband::Posting<'memory, 'requests, 'session>),
}

impl<'memory, 'session> Posting<'memory, '_, 'session> {
    /// Begins to send every slot: `MPI_Isend`, [`::ironband::Endpoint::start_send`].
    #[inline]
    pub fn send_all(&self, channel: Channel<'session>, messages: Slots<'memory>, tag: Tag) {
        match (self, channel) {
            (Self::Mpi(posting), Channel::Mpi(channel)) => posting.send_all(channel, messages, tag),
            (Self::Ironband(posting), Channel::Ironband(channel)) => {
                posting.send_all(channel, messages, tag);
            }
            _ => unreachable!("requests and channels are of one session"),
        }
    }

    /// Begins to receive into every slot: `MPI_Irecv`, [`::ironband::Context::start_receive`].
    #[inline]
    pub fn receive_all(&self, channel: Channel<'session>, messages: Slots<'memory>, tag: Tag) {
        match (self, channel) {
            (Self::Mpi(posting), Channel::Mpi(channel)) => posting.receive_all(channel, messages, tag),
            (Self::Ironband(posting), Channel::Ironband(channel)) => {
                posting.receive_all(channel, messages, tag);
            }
            _ => unreachable!("requests and channels are of one session"),
        }
    }
}
