//! One open device, for all threads of a process.

use std::ptr::NonNull;

use ironband_core::config::{Config, SingleCopy};
use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, Capabilities, Completion, CompletionStatus, Device as _, DeviceError,
    Fabric, Job, Message, Payload, Posted, QueuePairNumber, Reach, ReadHint, RegisterError, RemoteAddress,
    Unreachable, WorkId,
};

use crate::lock::MaybeLock;
use crate::patience::{Patience, SPIN_POLLS, online_processors};
use crate::registrations::{Registration, Registrations};

/// Completions handed out by one call of [`Device::progress`], so that a flood from one peer does not keep the caller.
const COMPLETIONS_PER_PROGRESS: usize = 64;
/// Depth asked of completion queues; devices give at least that.
const COMPLETION_QUEUE_DEPTH: usize = 4096;

/// Looks of [`Device::watch`]: some 0.1 us.
const LOOKS_PER_WATCH: u32 = 32;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One thread at a time (`MPI_THREAD_SERIALIZED` and below): no lock is taken.
    Single,
    /// Any thread at any time (`MPI_THREAD_MULTIPLE`): one lock for posts, one for progress.
    Multiple,
}

/// A peer, as this device sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueuePair(QueuePairNumber);

impl QueuePair {
    /// Dense from 0, for tables.
    #[inline]
    pub const fn index(self) -> usize {
        self.0.index()
    }
}

/// What happens to a device's user in [`Device::progress`]. All calls come with no lock of the device held, except
/// that no second thread makes progress meanwhile; they may post and may call `progress` again.
pub trait Handler {
    /// A message has arrived. The payload is valid during the call.
    fn received(&self, from: QueuePair, imm: u32, payload: Payload);

    /// A peer's put with notification has arrived.
    fn written(&self, from: QueuePair, imm: u32, len_bytes: usize) {
        let _ = (from, imm, len_bytes);
    }

    /// A request that was [`Posted::Queued`] has ended.
    fn completed(&self, endpoint: QueuePair, id: WorkId, status: CompletionStatus) {
        let _ = (endpoint, id, status);
    }

    /// A peer is lost; the reason is for a person.
    fn disconnected(&self, endpoint: QueuePair, reason: &str) {
        let _ = (endpoint, reason);
    }
}

/// The open device with its objects.
pub(crate) struct State<F: Fabric> {
    pub(crate) device: F::Device,
    pub(crate) pd: <F::Device as ironband_fabric::Device>::ProtectionDomain,
    cq: <F::Device as ironband_fabric::Device>::CompletionQueue,
}

/// One open device of the fabric `F`.
pub struct Device<F: Fabric> {
    // First: it goes before the device that its registrations are of.
    registrations: Registrations<F>,
    state: MaybeLock<State<F>>,
    /// Held while completions are handed out, so that one peer's messages reach the handler in order.
    progress: MaybeLock<()>,
    patience: Patience,
    address: Vec<u8>,
    capabilities: Capabilities,
    name: String,
    single_copy: SingleCopy,
    threads: Threads,
}

impl<F: Fabric> Device<F> {
    /// Opens the device called `name`.
    ///
    /// With [`Threads::Single`] the caller promises that no two threads use the device at the same time.
    ///
    /// # Errors
    /// See [`Fabric::open`].
    pub fn open(name: &str, config: &Config, job: &Job, threads: Threads) -> Result<Self, DeviceError> {
        Self::of(F::open(name, config, job)?, config, job, threads)
    }

    /// Takes over a device that is open.
    ///
    /// # Errors
    /// When it has no objects left.
    pub fn of(
        mut device: F::Device,
        config: &Config,
        job: &Job,
        threads: Threads,
    ) -> Result<Self, DeviceError> {
        let pd = device.alloc_pd()?;
        let cq = device.create_cq(COMPLETION_QUEUE_DEPTH)?;
        let address = device.address().to_vec();
        let capabilities = device.capabilities().clone();
        let name = device.name().to_owned();
        let registrations = Registrations::new(config, job, &capabilities);
        let state = State { device, pd, cq };
        let (state, progress) = match threads {
            Threads::Multiple => (MaybeLock::threaded(state), MaybeLock::threaded(())),
            // SAFETY: the caller's promise covers threads. Guards of the state never overlap: each method below lets go of its
            // guard before it returns or calls the handler. Those of `progress` may (a handler may call it again), and guard
            // nothing: the value is `()`.
            Threads::Single => unsafe { (MaybeLock::unthreaded(state), MaybeLock::unthreaded(())) },
        };
        registrations.calibrate(&state);
        Ok(Self {
            registrations,
            state,
            progress,
            patience: Patience::new(
                job.local_ranks,
                online_processors(),
                threads == Threads::Multiple,
                SPIN_POLLS,
            ),
            address,
            capabilities,
            name,
            single_copy: config.single_copy,
            threads,
        })
    }

    /// Where processes outnumber processors, offers this one to others sooner than for a caller that does so itself.
    pub(crate) const fn yield_soon(&mut self) {
        self.patience.shorten();
    }

    /// The out-of-band address, to be published to peers unchanged.
    pub fn address(&self) -> &[u8] {
        &self.address
    }

    /// The name of the device inside its fabric.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The eager limit in force, in bytes, header included.
    pub const fn eager_bytes(&self) -> usize {
        self.capabilities.limits.eager_bytes
    }

    /// Says whether and how well a peer can be reached, without connecting.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn reach(&self, address: &[u8]) -> Result<Reach, Unreachable> {
        self.state.lock().device.reach(address)
    }

    /// The endpoint for the peer with this address. Cheap and idempotent; the connection is made on first use.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn connect(&self, address: &[u8]) -> Result<QueuePair, Unreachable> {
        let mut guard = self.state.lock();
        let State { device, pd, cq } = &mut *guard;
        device.create_qp(*pd, *cq, address).map(QueuePair)
    }

    /// Ends the connection; what was sent still arrives. Idempotent.
    pub fn disconnect(&self, endpoint: QueuePair) {
        self.state.lock().device.destroy_qp(endpoint.0);
    }

    /// Why an endpoint does not work any more; `None` while it does.
    pub fn failure(&self, endpoint: QueuePair) -> Option<String> {
        self.state.lock().device.failure(endpoint.0).map(str::to_owned)
    }

    /// Sends `header` and `payload` as one message. Both are copied before the call returns.
    #[inline(always)]
    pub fn send_short(&self, endpoint: QueuePair, imm: u32, header: &[u8], payload: &[u8]) -> Posted {
        self.state.lock().device.post_send(endpoint.0, imm, header, payload)
    }

    /// Like [`Device::send_short`], for a message that tells the peer of registered memory, by its key: where that is faster
    /// the memory is sent along, before the peer asks for it.
    #[inline]
    pub fn send_announcing(
        &self,
        endpoint: QueuePair,
        imm: u32,
        header: &[u8],
        payload: &[u8],
        key: u64,
    ) -> Posted {
        self.state.lock().device.post_send_announcing(endpoint.0, imm, header, payload, key)
    }

    /// Like [`Device::send_short`], with a payload that `fill` packs directly into the send buffer. `fill` must not call
    /// this device.
    #[inline]
    pub fn send_bcopy(
        &self,
        endpoint: QueuePair,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl FnOnce(NonNull<u8>, usize) -> usize,
    ) -> Posted {
        self.state.lock().device.post_send_fill(endpoint.0, imm, header, payload_bytes_max, fill)
    }

    /// Copies peer memory to `local`. `local_registration` is the one that `local` lies in; without, the device registers
    /// the memory for the time of the request, if its hardware needs that.
    ///
    /// # Safety
    /// `local_registration` is kept, and `local` is writable for `len_bytes` until the request has ended.
    pub unsafe fn get(
        &self,
        endpoint: QueuePair,
        id: WorkId,
        local: *mut u8,
        local_registration: Option<&Registration<F>>,
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    ) -> Posted {
        let region = local_registration.map(Registration::region);
        // SAFETY: as promised by the caller.
        unsafe { self.state.lock().device.post_read(endpoint.0, id, local, region, remote, len_bytes, hint) }
    }

    /// Copies `local` to peer memory; it has ended when the data is visible there.
    /// `local_registration` is as for [`Device::get`].
    ///
    /// # Safety
    /// `local_registration` is kept, and `local` is readable for `len_bytes` until the request has ended.
    pub unsafe fn put(
        &self,
        endpoint: QueuePair,
        id: WorkId,
        local: *const u8,
        local_registration: Option<&Registration<F>>,
        remote: RemoteAddress,
        len_bytes: usize,
    ) -> Posted {
        let region = local_registration.map(Registration::region);
        // SAFETY: as promised by the caller.
        unsafe { self.state.lock().device.post_write(endpoint.0, id, local, region, remote, len_bytes, None) }
    }

    /// Like [`Device::put`]; the peer's handler is then told ([`Handler::written`]).
    ///
    /// # Safety
    /// As [`Device::put`].
    pub unsafe fn put_notify(
        &self,
        endpoint: QueuePair,
        id: WorkId,
        local: *const u8,
        local_registration: Option<&Registration<F>>,
        remote: RemoteAddress,
        len_bytes: usize,
        imm: u32,
    ) -> Posted {
        let region = local_registration.map(Registration::region);
        // SAFETY: as promised by the caller.
        unsafe {
            self.state.lock().device.post_write(endpoint.0, id, local, region, remote, len_bytes, Some(imm))
        }
    }

    /// An atomic on peer memory; the old value goes to `result`.
    ///
    /// # Safety
    /// `result` is writable and aligned for the width until the request has ended.
    pub unsafe fn atomic(
        &self,
        endpoint: QueuePair,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    ) -> Posted {
        // SAFETY: as promised by the caller.
        unsafe { self.state.lock().device.post_atomic(endpoint.0, id, result, remote, op, width) }
    }

    /// Registers memory for peers. It may have been registered before: registrations are cached where the process is told of
    /// memory that is unmapped ([`unmap_events`](crate::unmap_events)).
    ///
    /// # Safety
    /// The memory stays mapped until [`Device::deregister`].
    ///
    /// # Errors
    /// When the device has no room for more.
    #[inline]
    pub unsafe fn register(
        &self,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Registration<F>, RegisterError> {
        // SAFETY: as promised by the caller.
        unsafe { self.registrations.register(&self.state, start, len_bytes, access) }
    }

    /// As [`Device::register`], for memory of which one message is sent: `None` if it is better copied, because it has not been sent
    /// before and registering it costs more than that.
    ///
    /// # Safety
    /// As for [`Device::register`].
    ///
    /// # Errors
    /// As for [`Device::register`].
    pub unsafe fn register_to_send(
        &self,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Option<Registration<F>>, RegisterError> {
        // SAFETY: as promised by the caller.
        unsafe { self.registrations.register_to_send(&self.state, start, len_bytes, access) }
    }

    /// Gives a registration back. What is cached stays registered until its memory is unmapped or there is no room.
    #[inline]
    pub fn deregister(&self, registration: Registration<F>) {
        self.registrations.deregister(&self.state, registration);
    }

    /// Hands out what has arrived and what has ended; returns how many completions that were. Offers the processor to
    /// others when nothing has come for long and processes outnumber processors.
    ///
    /// With [`Threads::Multiple`] only one call at a time finds something: one inside a handler, and one in a second thread
    /// meanwhile, return 0 at once. So a handler must not wait for another completion.
    #[inline(always)]
    pub fn progress(&self, handler: &impl Handler) -> usize {
        let Some(_in_order) = self.progress.try_lock() else {
            self.rest();
            return 0;
        };
        let mut count = 0;
        loop {
            let mut guard = self.state.lock();
            let State { device, cq, .. } = &mut *guard;
            // Most completions are messages, and each is handed out from registers.
            if count < COMPLETIONS_PER_PROGRESS
                && let Some(message) = device.poll_message(*cq)
            {
                drop(guard);
                self.dispatch_message(handler, message);
            } else {
                let goes_on = count == 0 || (count < COMPLETIONS_PER_PROGRESS && device.is_more_likely(*cq));
                let Some(completion) = goes_on.then(|| device.poll_cq(*cq)).flatten() else { break };
                drop(guard);
                self.dispatch(handler, completion);
            }
            count += 1;
        }
        self.registrations.tend(&self.state);
        if count > 0 {
            self.patience.reset();
        } else {
            self.rest();
        }
        count
    }

    /// For who has nothing to do but wait for a message, after a call of [`Device::progress`] that has found nothing: looks where it
    /// will arrive, a few times, or until it is there. A call of `progress` looks everywhere, and takes longer than a message should
    /// have to wait. Does nothing where processes outnumber processors, several peers have sent lately, or several threads use the device.
    #[inline(always)]
    pub fn watch(&self) {
        if self.patience.is_endless() {
            let state = self.state.lock();
            for _ in 0..LOOKS_PER_WATCH {
                if state.device.has_message(state.cq) {
                    return;
                }
            }
        }
    }

    /// Another device of this process has found something: whoever waits here has not waited in vain.
    #[inline(always)]
    pub fn reset_patience(&self) {
        self.patience.reset();
    }

    /// Nothing was found: offers the processor to others after a while.
    #[inline(always)]
    fn rest(&self) {
        if self.patience.exhausted() {
            std::thread::yield_now();
        }
    }

    #[inline(always)]
    fn dispatch_message(&self, handler: &impl Handler, message: Message) {
        handler.received(QueuePair(message.qp), message.imm, message.payload);
        self.state.lock().device.release(message.token);
    }

    #[inline(always)]
    fn dispatch(&self, handler: &impl Handler, completion: Completion) {
        match completion {
            Completion::Received(message) => self.dispatch_message(handler, message),
            other => self.dispatch_rare(handler, other),
        }
    }

    #[inline(never)]
    fn dispatch_rare(&self, handler: &impl Handler, completion: Completion) {
        match completion {
            Completion::Received(_) => unreachable!("handled by the caller"),
            Completion::WrittenWithImmediate { qp, imm, len_bytes } => {
                handler.written(QueuePair(qp), imm, len_bytes)
            }
            Completion::Done { qp, id, status, .. } => handler.completed(QueuePair(qp), id, status),
            Completion::Disconnected { qp } => {
                let reason = self.failure(QueuePair(qp)).unwrap_or_default();
                handler.disconnected(QueuePair(qp), &reason);
            }
        }
    }

    /// Hands out notices; not part of `progress` because nobody waits for them.
    pub fn take_notice(&self) -> Option<String> {
        self.state.lock().device.take_notice()
    }

    /// As [`Device::take_notice`], for what a user should know who did not ask: that the device has become slower, and why.
    #[inline]
    pub fn take_warning(&self) -> Option<String> {
        self.registrations.take_warning()
    }

    /// What went which way so far, in one line; `None` if the device does not count.
    pub fn tally(&self) -> Option<String> {
        let tally = self.state.lock().device.tally()?;
        let registrations = self.registrations.statistics().map_or_else(String::new, |it| format!("; {it}"));
        Some(format!("fabric {}, device {}: {tally}{registrations}", F::NAME, self.name))
    }

    /// True when nothing is under way: no request of this process, none that a peer made of it.
    pub fn is_idle(&self) -> bool {
        self.state.lock().device.is_idle()
    }

    /// What was chosen and why, in one line.
    pub fn report(&self) -> String {
        let threads = match self.threads {
            Threads::Single => "no locks",
            Threads::Multiple => "locked (MPI_THREAD_MULTIPLE)",
        };
        let registrations = self.registrations.report(&self.capabilities);
        format!(
            "fabric {}, device {}, eager limit {} bytes, long messages ({}): {}; {}{threads}",
            F::NAME,
            self.name,
            self.eager_bytes(),
            self.single_copy.as_str(),
            self.capabilities.single_copy,
            registrations.map_or_else(String::new, |clause| format!("{clause}; "))
        )
    }
}

impl<F: Fabric> Drop for Device<F> {
    fn drop(&mut self) {
        self.registrations.close(&self.state);
    }
}
