//! The Rust API: processes of a job that send each other messages and reach into each other's memory, over whichever device there
//! is, under whichever launcher.
//!
//! [`Context`] is a process's place in its job. It is used by one thread, has no threads of its own, and nothing moves unless
//! something of it is called: a blocking call, a wait, or [`Context::progress`].

mod access;
mod body;
mod bootstrap;
mod buffer;
mod devices;
mod endpoint;
mod error;
mod incoming;
mod library;
mod location;
mod memory;
#[cfg(feature = "mpi")]
mod mpi;
mod open;
mod posting;
mod request;
mod roll_call;
mod scope;
mod state;

pub use access::AccessRequest;
pub use bootstrap::{Bootstrap, Directory};
pub use buffer::{Buffer, BufferMut, RawBuffer};
pub use endpoint::Endpoint;
pub use error::Error;
pub use location::Location;
pub use memory::{Exposed, MemoryKey, RemoteMemory};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use open::{simulated, simulated_at};
pub use request::{ReceiveRequest, SendRequest};
pub use scope::{Scope, ScopedReceive, ScopedSend};

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use ironband_core::protocol::matching::{LIBRARY_TAG_BIT, Pattern};
use ironband_core::protocol::{Handle, Received, RequestError};
use ironband_core::wire::message::{ACTIVE_HEADER_BYTES, Memory};
use ironband_fabric::{Access, Posted};

use crate::device::Handler;
use body::{Incoming, Outgoing, Target};
use devices::{AnyDevice, Registered};
use incoming::{Awaited, AwaitingEars, Ears};
use roll_call::RollCall;
use state::{Link, State};

type ActiveHandler = Rc<dyn Fn(&Context, u32, &[u8])>;

/// Active messages with these numbers and above are ours.
pub const ACTIVE_IDS_OWN: u32 = 0xffff_ff00;

/// Calls of progress between two looks at the clock.
const NUDGE_TURNS: u32 = 4096;
/// Calls of progress of a blocking receive before it is posted.
const LOOKS_BEFORE_POST: u32 = 64;
/// Between two words to processes that are awaited.
const NUDGE_INTERVAL: Duration = Duration::from_millis(500);

/// This process's place in its job: what `MPI_COMM_WORLD` is to an MPI program.
///
/// ```
/// use ironband::{Context, Pattern};
///
/// let context = Context::open()?;
/// let next = context.endpoint((context.rank() + 1) % context.size())?;
/// let request = context.start_receive(Pattern::any_source(7), vec![0_u8; 5])?;
/// next.send(7, b"hello")?;
/// let (bytes, received) = request.wait()?;
/// assert_eq!((&bytes[..], received.len_bytes), (&b"hello"[..], 5));
/// context.close()?;
/// # Ok::<(), ironband::Error>(())
/// ```
///
/// *It stays with its thread*, because it takes no locks:
///
/// ```compile_fail,E0277
/// # let context = ironband::Context::open().unwrap();
/// std::thread::spawn(move || context.rank());
/// ```
///
/// *It ends last.* It cannot be closed while one of its requests lives, because the request's buffer may be in use:
///
/// ```compile_fail,E0505
/// # use ironband::{Context, Pattern};
/// # let context = Context::open().unwrap();
/// let request = context.start_receive(Pattern::anything(), vec![0_u8; 8]).unwrap();
/// context.close().unwrap();
/// request.wait().unwrap();
/// ```
///
/// Nor while memory is exposed, which other processes may be writing:
///
/// ```compile_fail,E0505
/// # let context = ironband::Context::open().unwrap();
/// let exposed = context.expose(vec![0_u8; 8]).unwrap();
/// context.close().unwrap();
/// drop(exposed);
/// ```
///
/// Nor may a request leave the function that has the context:
///
/// ```compile_fail,E0515
/// # use ironband::{Context, Pattern, ReceiveRequest};
/// fn begin() -> ReceiveRequest<'static, Vec<u8>> {
///     let context = Context::open().unwrap();
///     context.start_receive(Pattern::anything(), vec![0_u8; 8]).unwrap()
/// }
/// ```
///
/// *Dropped without [`Context::close`]*, as when a program returns an error from `main`, it leaves early: the others are told that this process is lost,
/// and do not wait for it. [`Context::abort`] ends them, too.
pub struct Context {
    // Dropped in this order: what is registered before the devices that registered it.
    state: RefCell<State>,
    devices: Vec<AnyDevice>,
    /// What all have published; nothing after the end.
    directory: RefCell<Option<Box<dyn Directory>>>,
    handlers: RefCell<BTreeMap<u32, ActiveHandler>>,
    /// What libraries keep, by type.
    extensions: RefCell<BTreeMap<TypeId, Rc<dyn Any>>>,
    roll_call: RefCell<RollCall>,
    is_simulated: bool,
    /// A handler is being called.
    is_handling: Cell<bool>,
    /// Calls of progress, and when awaited processes were last looked after.
    turn: Cell<u32>,
    nudged: Cell<Instant>,
    awaited_in_roll_call: Cell<Option<u32>>,
    rank: u32,
    size: u32,
    /// The same in all processes of the job.
    job: u64,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Context(rank {} of {})", self.rank, self.size)
    }
}

impl Context {
    /// The number of this process, below [`Context::size`].
    pub const fn rank(&self) -> u32 {
        self.rank
    }

    /// The number of processes of the job, at least 1.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// What was opened, and what was chosen and why: one line for each device.
    pub fn report(&self) -> Vec<String> {
        self.devices.iter().map(AnyDevice::report).collect()
    }

    /// The process of this rank. Cheap; the connection is made when it is first used.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// assert_eq!(context.endpoint(0)?.rank(), 0);
    /// assert!(context.endpoint(context.size()).is_err());
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSuchRank`].
    pub fn endpoint(&self, rank: u32) -> Result<Endpoint<'_>, Error> {
        self.check_rank(rank)?;
        Ok(Endpoint::new(self, rank))
    }

    fn check_rank(&self, rank: u32) -> Result<(), Error> {
        if rank < self.size { Ok(()) } else { Err(Error::NoSuchRank { rank, size: self.size }) }
    }

    /// Does what there is to do, and returns how many things that were: messages that have arrived, requests that have ended. Never
    /// waits; offers the processor to others when there is nothing for long. A program that computes for long calls it now and then:
    /// some devices need this process's processor to serve others.
    #[inline]
    pub fn progress(&self) -> usize {
        let count = self.take_in_all(|ears| ears);
        if !self.state.borrow().is_quiet() {
            self.go_on();
            self.run_handlers();
        }
        self.look_after_awaited();
        count
    }

    /// Takes in what has come to the devices. Nothing of the program's is called.
    #[inline]
    fn take_in_all<'c, H: Handler>(&'c self, listening: impl Fn(Ears<'c>) -> H) -> usize {
        let mut count = 0;
        for (device, open) in self.devices.iter().enumerate() {
            count += open.progress(&listening(Ears { context: self, device }));
        }
        if count > 0 && self.devices.len() > 1 {
            self.devices.iter().for_each(AnyDevice::reset_patience);
        }
        count
    }

    /// Now and then says something to those without whom a request does not end: an idle connection would not show that the other process has
    /// ended.
    #[inline]
    fn look_after_awaited(&self) {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        if turn.is_multiple_of(NUDGE_TURNS) {
            self.nudge_awaited();
        }
    }

    #[cold]
    fn nudge_awaited(&self) {
        // Simulated time does not pass with this machine's.
        if self.nudged.get().elapsed() < NUDGE_INTERVAL || self.is_simulated {
            return;
        }
        self.nudged.set(Instant::now());
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let awaited: BTreeSet<u32> = state.protocol.awaited_peers().collect();
        for rank in awaited.into_iter().chain(self.awaited_in_roll_call.get()) {
            state.protocol.nudge(rank);
        }
        self.say_news(state);
    }

    /// What a user who wants details should be told, once: for example that the kernel refuses something and what is done instead.
    pub fn take_notice(&self) -> Option<String> {
        self.devices.iter().find_map(AnyDevice::take_notice)
    }

    // ---- sending ------------------------------------------------------------------------------------------------------

    /// Where a peer can read a long message; nowhere if it is short, or cannot be registered, or is better copied.
    fn announce(&self, link: Link, body: &mut Outgoing) -> Option<Memory> {
        let device = &self.devices[link.device];
        if body.len_bytes() <= state::limits_of(device).eager_bytes_max as usize {
            return None;
        }
        let access = Access { remote_read: true, ..Access::LOCAL };
        // SAFETY: the buffer stays until the send was taken out, and is deregistered then.
        let registered =
            unsafe { device.register_to_send(body.start().cast_mut(), body.len_bytes(), access) };
        match registered {
            Ok(Some(registration)) => {
                let memory = Memory { address: body.start() as u64, key: registration.key() };
                body.registration = Some(Box::new(Registered { device: link.device, registration }));
                Some(memory)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(%error, "a message goes in pieces");
                None
            }
        }
    }

    /// The way to a peer.
    fn link(&self, rank: u32) -> Result<Link, Error> {
        let known = {
            let state = self.state.borrow();
            if state.protocol.is_lost(rank) {
                return Err(Error::PeerLost { rank, reason: state.loss(rank) });
            }
            state.link(rank)
        };
        match known {
            Some(link) => Ok(link),
            None => self.connect(rank),
        }
    }

    pub(crate) fn send_blocking(&self, rank: u32, tag: u64, data: &[u8]) -> Result<(), Error> {
        if self.send_now(rank, tag, data) {
            return Ok(());
        }
        // SAFETY: `data` is borrowed until this function returns, and the guard does not let it return, or unwind, before the send
        // has ended.
        let body = unsafe { Outgoing::new(data.as_ptr(), data.len()) };
        let send = self.begin_send(rank, tag, body)?;
        let guard = request::EndBeforeReturn::of_send(self, send);
        let outcome = self.finish_send(guard.handle());
        guard.disarm();
        outcome
    }

    /// Sends a short message at once, if that is possible: nothing is left to wait for.
    #[inline]
    fn send_now(&self, rank: u32, tag: u64, data: &[u8]) -> bool {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(link) = state.link(rank) else { return false };
        let Some(message) = state.protocol.try_eager(rank, data.len()) else { return false };
        let device = &self.devices[link.device];
        let is_sent =
            device.send_short(link.qp, message.immediate(), &tag.to_le_bytes(), data) == Posted::Complete;
        if is_sent {
            message.posted();
        }
        is_sent
    }

    fn begin_send(&self, rank: u32, tag: u64, mut body: Outgoing) -> Result<Handle, Error> {
        let link = self.link(rank)?;
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let memory = self.announce(link, &mut body);
        let len_bytes = body.len_bytes() as u64;
        let send = state.protocol.send(rank, tag, len_bytes, memory, body);
        self.say_news(state);
        Ok(send)
    }

    /// Waits until a send has ended, and forgets it.
    fn finish_send(&self, send: Handle) -> Result<(), Error> {
        let (body, outcome) = self.wait_for(|state| state.protocol.take_send(send));
        if let Some(own) = body.registration {
            self.deregister(*own);
        }
        outcome.map_err(|error| self.explain(error))
    }

    // ---- receiving ----------------------------------------------------------------------------------------------------

    /// Waits for the first message that matches, and receives it into `buffer`, which may be longer than the message.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// context.endpoint(context.rank())?.send(7, b"hello")?;
    /// let mut buffer = [0; 100];
    /// let received = context.receive(Pattern::any_source(7), &mut buffer)?;
    /// assert_eq!((received.source, received.tag, received.len_bytes), (context.rank(), 7, 5));
    /// assert_eq!(buffer[..5], *b"hello");
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Truncated`] when the message is longer than the buffer; [`Error::PeerLost`] when the source, if the pattern names
    /// one, is lost. A receive of any source waits for others.
    pub fn receive(&self, pattern: Pattern, buffer: &mut [u8]) -> Result<Received, Error> {
        // SAFETY: `buffer` is borrowed until this function returns, and the guard does not let it return, or unwind, before the
        // receive has ended. Before there is a guard nothing is posted.
        let target = unsafe { Target::new(buffer.as_mut_ptr(), buffer.len()) };
        if let Some(outcome) = self.receive_soon(pattern, target, true) {
            return outcome;
        }
        let receive = self.begin_receive(pattern, target)?;
        self.finish_guarded(request::EndBeforeReturn::of_receive(self, receive))
    }

    fn finish_guarded(&self, guard: request::EndBeforeReturn<'_>) -> Result<Received, Error> {
        let outcome = self.finish_receive(guard.handle());
        guard.disarm();
        outcome
    }

    /// Waits a moment for a message, which goes to the buffer without a receive that is posted. That is not possible if receives are
    /// posted or messages kept: these are older. `None` when something else has come, or nothing. Nothing of the program's is called
    /// until the receive is posted, or it might post one that would be taken for an older one; so where there is anything else to be done it is posted.
    ///
    /// A long message takes longer than a moment: with `may_post` it is received as by a receive that is posted, and waited for; otherwise it is kept.
    #[inline]
    fn receive_soon(
        &self,
        pattern: Pattern,
        target: Target,
        may_post: bool,
    ) -> Option<Result<Received, Error>> {
        let source = pattern.source?;
        let may_wait = |state: &State| state.protocol.is_unasked() && state.is_quiet();
        if !may_wait(&self.state.borrow()) {
            return None;
        }
        let awaited = Awaited::new(source, pattern, target, may_post);
        for _ in 0..LOOKS_BEFORE_POST {
            if let [only] = &self.devices[..] {
                only.watch();
            }
            let count = self.take_in_all(|ears| AwaitingEars { ears, awaited: &awaited });
            if let Some(outcome) = awaited.outcome() {
                // The sender is told of its room; the rest is for the next call that makes progress.
                self.say_news(&mut self.state.borrow_mut());
                return Some(outcome.map_err(|error| self.explain(error)));
            }
            if count > 0 || !self.state.borrow().is_quiet() {
                break;
            }
        }
        let guard = awaited.take_posted()?;
        // It may have ended as it was posted: then nothing is left to wait for, and its sender is told now.
        self.say_news(&mut self.state.borrow_mut());
        Some(self.finish_guarded(guard))
    }

    /// Begins to receive the first message that matches. The request owns the buffer, and gives it back with [`ReceiveRequest::wait`].
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// let request = context.start_receive(Pattern::any_source(7), vec![0.0_f64; 3])?;
    /// context.endpoint(context.rank())?.start_send(7, vec![1.0, 2.0, 3.0])?.wait()?;
    /// let (numbers, received) = request.wait()?;
    /// assert_eq!((&numbers[..], received.len_bytes), (&[1.0, 2.0, 3.0][..], 24));
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// Nobody else can read the buffer meanwhile:
    ///
    /// ```compile_fail,E0382
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open().unwrap();
    /// let buffer = vec![0_u8; 8];
    /// let request = context.start_receive(Pattern::anything(), buffer).unwrap();
    /// println!("{}", buffer[0]);
    /// ```
    ///
    /// [`Context::scope`] is for borrowed buffers.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`] when the pattern names a source that there is not. The buffer is dropped then.
    #[inline]
    pub fn start_receive<B: BufferMut>(
        &self,
        pattern: Pattern,
        buffer: B,
    ) -> Result<ReceiveRequest<'_, B>, Error> {
        ReceiveRequest::start(self, pattern, buffer)
    }

    /// The first message that a receive would get, if one is there, without receiving it: tells how long a buffer has to be. Makes
    /// progress, and never waits.
    ///
    /// ```
    /// # use ironband::{Context, Pattern};
    /// # let context = Context::open()?;
    /// context.endpoint(context.rank())?.send(7, b"hello")?;
    /// let found = loop {
    ///     if let Some(found) = context.probe(Pattern::any_source(7)) {
    ///         break found;
    ///     }
    /// };
    /// let mut buffer = vec![0; found.len_bytes as usize];
    /// context.receive(Pattern::exact(found.source, found.tag), &mut buffer)?;
    /// assert_eq!(buffer, b"hello");
    /// # Ok::<(), ironband::Error>(())
    /// ```
    pub fn probe(&self, pattern: Pattern) -> Option<Received> {
        self.progress();
        self.state.borrow().protocol.probe(pattern)
    }

    fn begin_receive(&self, pattern: Pattern, target: Target) -> Result<Handle, Error> {
        let mut guard = self.state.borrow_mut();
        if let Some(source) = pattern.source.filter(|source| guard.link(*source).is_none()) {
            drop(guard);
            self.meet(source)?;
            guard = self.state.borrow_mut();
        }
        let state = &mut *guard;
        let capacity_bytes = target.len_bytes() as u64;
        let body = Incoming { target, registration: None };
        let (receive, found) = state.protocol.receive(pattern, capacity_bytes, body);
        if let Some(found) = found {
            target.fill_from(&found.data[..found.len_bytes]);
            state.give_back(found.data);
        }
        // Of a message that was announced before.
        if state.protocol.has_transfer() {
            self.start_transfers(state);
        }
        // One that has ended at once leaves nothing to wait for: its sender is told now, or when this process happens to call again.
        if state.protocol.talker(0).is_some() {
            self.say_news(state);
        }
        Ok(receive)
    }

    /// With a connection to a source its end is noticed. One that is lost may have sent before: the protocol knows.
    #[cold]
    fn meet(&self, source: u32) -> Result<(), Error> {
        self.check_rank(source)?;
        let is_lost = self.state.borrow().protocol.is_lost(source);
        if is_lost { Ok(()) } else { self.connect(source).map(|_| ()) }
    }

    /// Waits until a receive has ended, and forgets it.
    fn finish_receive(&self, receive: Handle) -> Result<Received, Error> {
        let (body, outcome) = self.wait_for(|state| state.protocol.take_receive(receive));
        self.end_receive(body, outcome)
    }

    /// What has become of a receive that was taken out.
    #[inline]
    fn end_receive(
        &self,
        body: Incoming,
        outcome: Result<Received, RequestError>,
    ) -> Result<Received, Error> {
        if let Some(own) = body.registration {
            self.deregister(*own);
        }
        outcome.map_err(|error| self.explain(error))
    }

    // ---- active messages ----------------------------------------------------------------------------------------------

    /// Sets what is done with active messages of this number: `handler` gets the context, the sender's rank and the data, while this
    /// process makes progress, after all that has arrived was taken in. It may send and start requests; it must not wait for another active
    /// message, because no handler is called inside a handler. What came before the handler was set is handled then. It replaces
    /// the handler that was there before.
    ///
    /// ```
    /// # use ironband::Context;
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// # let context = Context::open()?;
    /// let sum = Rc::new(Cell::new(0));
    /// let in_handler = Rc::clone(&sum);
    /// context.on_active(1, move |_context, _source, data| in_handler.set(in_handler.get() + data[0]));
    /// let own = context.endpoint(context.rank())?;
    /// own.send_active(1, &[3])?;
    /// own.send_active(1, &[4])?;
    /// while sum.get() != 7 {
    ///     context.progress();
    /// }
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Panics
    /// For numbers from [`ACTIVE_IDS_OWN`] on, which are Ironband's.
    pub fn on_active(&self, id: u32, handler: impl Fn(&Self, u32, &[u8]) + 'static) {
        assert!(id < ACTIVE_IDS_OWN, "the numbers of active messages end at {ACTIVE_IDS_OWN:#x}");
        let before = self.handlers.borrow_mut().insert(id, Rc::new(handler));
        // The old one may call the context when it is dropped.
        drop(before);
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let claimed = state.unclaimed.extract_if(.., |(_, other, _)| *other == id);
        let claimed: Vec<_> = claimed.collect();
        for message in claimed.into_iter().rev() {
            state.actives.push_front(message);
        }
    }

    fn send_active(&self, rank: u32, id: u32, data: &[u8]) -> Result<(), Error> {
        self.check_active_id(id)?;
        while self.has_postponed(rank) || !self.try_active(rank, id, data)? {
            self.progress();
        }
        Ok(())
    }

    fn post_active(&self, rank: u32, id: u32, data: &[u8]) -> Result<(), Error> {
        // Behind those that wait already: they arrive in order.
        if self.has_postponed(rank) {
            self.check_active_len(self.link(rank)?, rank, data)?;
        } else if self.try_active(rank, id, data)? {
            return Ok(());
        }
        self.state.borrow_mut().postponed.push((rank, id, data.to_vec()));
        Ok(())
    }

    fn has_postponed(&self, rank: u32) -> bool {
        self.state.borrow().postponed.iter().any(|(to, ..)| *to == rank)
    }

    fn check_active_len(&self, link: Link, rank: u32, data: &[u8]) -> Result<(), Error> {
        let limit_bytes = state::active_bytes_max(&self.devices[link.device]);
        let len_bytes = data.len();
        if len_bytes <= limit_bytes { Ok(()) } else { Err(Error::TooLong { rank, len_bytes, limit_bytes }) }
    }

    fn check_active_id(&self, id: u32) -> Result<(), Error> {
        if id < ACTIVE_IDS_OWN { Ok(()) } else { Err(Error::ActiveId { id }) }
    }

    /// Sends an active message if there is room for it now.
    fn try_active(&self, rank: u32, id: u32, data: &[u8]) -> Result<bool, Error> {
        let link = self.link(rank)?;
        let device = &self.devices[link.device];
        self.check_active_len(link, rank, data)?;
        let mut header = [0; ACTIVE_HEADER_BYTES];
        header[..4].copy_from_slice(&id.to_le_bytes());
        let mut state = self.state.borrow_mut();
        let Some(immediate) = state.protocol.try_active(rank) else { return Ok(false) };
        match device.send_short(link.qp, immediate, &header, data) {
            Posted::Complete | Posted::Queued => {
                state.protocol.active_sent(rank);
                Ok(true)
            }
            Posted::Busy => Ok(false),
            Posted::Failed => {
                let reason = device.failure(link.qp).unwrap_or_default();
                self.give_up(&mut state, rank, reason.clone());
                Err(Error::PeerLost { rank, reason })
            }
        }
    }

    // ---- waiting ------------------------------------------------------------------------------------------------------

    fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        self.wait_for(|state| is_so(state).then_some(()));
    }

    /// Makes progress until there is something to take.
    #[inline]
    fn wait_for<T>(&self, take: impl Fn(&mut State) -> Option<T>) -> T {
        let mut is_idle = false;
        loop {
            // Before the call of `progress`, which borrows.
            let taken = take(&mut self.state.borrow_mut());
            if let Some(taken) = taken {
                return taken;
            }
            is_idle = self.wait_step(is_idle);
        }
    }

    /// Why a request was in vain, with what is known of the peer.
    #[cold]
    fn explain(&self, error: RequestError) -> Error {
        Error::of_request(error, |rank| self.state.borrow().loss(rank))
    }
}
