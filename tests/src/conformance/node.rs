//! One device with its buffers, as the cases use it: completions become owned events, posts need no `unsafe`.

use std::collections::VecDeque;
use std::time::Instant;

use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, Capabilities, Completion, CompletionStatus, Device, DeviceError, Fabric,
    Job, Message, Posted, QueuePairNumber, ReadHint, ReceiveToken, RegisterError, RemoteAddress, WorkId,
};

use super::memory::{Pages, first_difference, patterned};
use super::{Setup, patience};

/// What a poll found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message, copied out.
    Message {
        /// From this queue pair.
        qp: QueuePairNumber,
        /// Immediate data.
        imm: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A write with immediate data has arrived.
    Written {
        /// From this queue pair.
        qp: QueuePairNumber,
        /// Immediate data.
        imm: u32,
        /// Its length.
        len_bytes: usize,
    },
    /// A request has ended.
    Done {
        /// On this queue pair.
        qp: QueuePairNumber,
        /// The request.
        id: u64,
        /// How it ended.
        status: CompletionStatus,
    },
    /// A queue pair has failed.
    Disconnected {
        /// This one.
        qp: QueuePairNumber,
    },
}

/// A message whose buffer has not been given back.
#[derive(Debug)]
pub struct Held {
    /// The message.
    pub event: Event,
    start: *const u8,
    token: ReceiveToken,
}

/// Registered memory of a node.
struct Buffer<F: Fabric> {
    region: Option<<F::Device as Device>::MemoryRegion>,
    key: u64,
    pages: Option<Pages>,
}

/// One device and what belongs to it.
pub struct Node<F: Fabric> {
    // Before the buffers: the device is dropped first and so never sees memory that is gone.
    device: F::Device,
    pd: <F::Device as Device>::ProtectionDomain,
    cq: <F::Device as Device>::CompletionQueue,
    buffers: Vec<Buffer<F>>,
    /// Events that no case has asked for yet.
    pub inbox: VecDeque<Event>,
    /// Where atomics store what they found, by request.
    results: Pages,
    polls: u64,
}

/// Concurrent atomics of a node.
const RESULTS_MAX: usize = 4096;

impl<F: Fabric> Node<F> {
    /// Opens the device for a job of so many processes.
    ///
    /// # Errors
    /// As [`Fabric::open`].
    pub fn try_open(setup: &Setup, rank: u32, local_ranks: u32) -> Result<Self, DeviceError> {
        let mut device = F::open(setup.device, &setup.config, &Job { local_ranks, rank })?;
        let (pd, cq) = (device.alloc_pd()?, device.create_cq(4096)?);
        let results = Pages::new(8 * RESULTS_MAX);
        Ok(Self { device, pd, cq, buffers: Vec::new(), inbox: VecDeque::new(), results, polls: 0 })
    }

    /// As [`Node::try_open`], for a small job.
    ///
    /// # Panics
    /// When the device cannot be opened.
    pub fn open(setup: &Setup, rank: u32) -> Self {
        Self::try_open(setup, rank, 2).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    /// The device itself, for what this type does not wrap.
    pub fn device(&mut self) -> &mut F::Device {
        &mut self.device
    }

    /// The address for peers.
    pub fn address(&self) -> Vec<u8> {
        self.device.address().to_vec()
    }

    /// The queue pair to an address.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub fn connect(&mut self, address: &[u8]) -> QueuePairNumber {
        self.device.create_qp(self.pd, self.cq, address).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The queue pair to an address, or why there is none.
    ///
    /// # Errors
    /// The reason.
    pub fn try_connect(&mut self, address: &[u8]) -> Result<QueuePairNumber, String> {
        self.device.create_qp(self.pd, self.cq, address).map_err(|error| error.reason)
    }

    /// Why a queue pair does not work.
    pub fn failure(&self, qp: QueuePairNumber) -> String {
        self.device.failure(qp).unwrap_or_default().to_owned()
    }

    /// Makes and registers a buffer with a pattern in it; returns its number.
    ///
    /// # Panics
    /// When it cannot be registered.
    pub fn buffer(&mut self, len_bytes: usize, seed: u32, access: Access) -> usize {
        self.try_buffer(len_bytes, seed, access).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Node::buffer`].
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn try_buffer(
        &mut self,
        len_bytes: usize,
        seed: u32,
        access: Access,
    ) -> Result<usize, RegisterError> {
        let pages = Pages::new(len_bytes);
        pages.fill(seed);
        // SAFETY: the pages stay mapped until the buffer is deregistered or the device is gone.
        let region = unsafe { self.device.register(self.pd, pages.at(0), len_bytes, access) }?;
        let key = self.device.remote_key(&region);
        self.buffers.push(Buffer { region: Some(region), key, pages: Some(pages) });
        Ok(self.buffers.len() - 1)
    }

    /// The memory of a buffer.
    ///
    /// # Panics
    /// When it was unmapped.
    pub fn pages(&self, buffer: usize) -> &Pages {
        self.buffers[buffer].pages.as_ref().expect("still mapped")
    }

    /// What a peer needs to reach an offset of a buffer.
    pub fn remote(&self, buffer: usize, offset: usize) -> RemoteAddress {
        let entry = &self.buffers[buffer];
        let address = entry.pages.as_ref().map_or(0, |pages| pages.at(offset) as u64);
        RemoteAddress { address, key: entry.key }
    }

    /// Ends a buffer's registration.
    pub fn deregister(&mut self, buffer: usize) {
        if let Some(region) = self.buffers[buffer].region.take() {
            self.device.deregister(region);
        }
    }

    /// Ends a buffer's registration and unmaps its memory.
    pub fn unmap(&mut self, buffer: usize) {
        self.deregister(buffer);
        self.buffers[buffer].pages = None;
    }

    /// Polls once; a message is copied out and its buffer given back.
    pub fn poll(&mut self) -> Option<Event> {
        match self.poll_held()? {
            Ok(held) => Some(self.release(held)),
            Err(event) => Some(event),
        }
    }

    /// Polls once; a message's buffer is kept.
    pub fn poll_held(&mut self) -> Option<Result<Held, Event>> {
        // Both ways to a message, in turns that have no rhythm: each second poll, and each third.
        self.polls += 1;
        if (self.polls.is_multiple_of(2) || self.polls.is_multiple_of(3))
            && let Some(message) = self.device.poll_message(self.cq)
        {
            return Some(Ok(hold(message)));
        }
        Some(match self.device.poll_cq(self.cq)? {
            Completion::Received(message) => Ok(hold(message)),
            Completion::WrittenWithImmediate { qp, imm, len_bytes } => {
                Err(Event::Written { qp, imm, len_bytes })
            }
            Completion::Done { qp, id, status, .. } => Err(Event::Done { qp, id: id.0, status }),
            Completion::Disconnected { qp } => Err(Event::Disconnected { qp }),
        })
    }

    /// Gives a message's buffer back, after a last look that nobody wrote into it meanwhile.
    pub fn release(&mut self, held: Held) -> Event {
        if let Event::Message { bytes, imm, .. } = &held.event {
            assert_eq!(&copy_out(held.start, bytes.len()), bytes, "message {imm} changed while it was held");
        }
        self.device.release(held.token);
        held.event
    }

    /// Polls once, into the inbox.
    pub fn turn(&mut self) {
        if let Some(event) = self.poll() {
            self.inbox.push_back(event);
        }
    }

    /// Sends a message whose bytes follow from its immediate data.
    pub fn send(&mut self, qp: QueuePairNumber, imm: u32, len_bytes: usize) -> Posted {
        let bytes = patterned(imm, len_bytes);
        let (header, payload) = bytes.split_at(len_bytes / 3);
        self.device.post_send(qp, imm, header, payload)
    }

    /// As [`Node::send`], announcing the region with this key.
    pub fn announce(&mut self, qp: QueuePairNumber, imm: u32, len_bytes: usize, key: u64) -> Posted {
        let bytes = patterned(imm, len_bytes);
        let (header, payload) = bytes.split_at(len_bytes / 3);
        self.device.post_send_announcing(qp, imm, header, payload, key)
    }

    /// RDMA read of a peer's memory into a buffer.
    pub fn read(
        &mut self,
        qp: QueuePairNumber,
        id: u64,
        (buffer, offset): (usize, usize),
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    ) -> Posted {
        assert!(offset + len_bytes <= self.pages(buffer).len_bytes());
        let local = self.pages(buffer).at(offset);
        // SAFETY: inside the buffer, which outlives the device unless a case unmaps it, after the request has ended.
        unsafe {
            self.device.post_read(
                qp,
                WorkId(id),
                local,
                self.buffers[buffer].region.as_ref(),
                remote,
                len_bytes,
                hint,
            )
        }
    }

    /// RDMA read to memory that is not in the buffer whose registration is named: a program that does something wrong.
    pub fn read_to_elsewhere(
        &mut self,
        qp: QueuePairNumber,
        id: u64,
        buffer: usize,
        local: &mut [u8],
        remote: RemoteAddress,
    ) -> Posted {
        let region = self.buffers[buffer].region.as_ref();
        let (start, len_bytes) = (local.as_mut_ptr(), local.len());
        // SAFETY: writable memory; the case keeps it until the request has ended.
        unsafe {
            self.device.post_read(qp, WorkId(id), start, region, remote, len_bytes, ReadHint::OwnerMayBeAway)
        }
    }

    /// RDMA write of a buffer into a peer's memory.
    pub fn write(
        &mut self,
        qp: QueuePairNumber,
        id: u64,
        (buffer, offset): (usize, usize),
        remote: RemoteAddress,
        len_bytes: usize,
        imm: Option<u32>,
    ) -> Posted {
        assert!(offset + len_bytes <= self.pages(buffer).len_bytes());
        let local = self.pages(buffer).at(offset);
        // SAFETY: as in `read`.
        unsafe {
            self.device.post_write(
                qp,
                WorkId(id),
                local,
                self.buffers[buffer].region.as_ref(),
                remote,
                len_bytes,
                imm,
            )
        }
    }

    /// An atomic on a peer's memory; see [`Node::result`].
    pub fn atomic(
        &mut self,
        qp: QueuePairNumber,
        id: u64,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    ) -> Posted {
        let result = self.results.at(8 * (id as usize % RESULTS_MAX));
        // SAFETY: a word of the results, aligned, which outlive the device.
        unsafe { self.device.post_atomic(qp, WorkId(id), result, remote, op, width) }
    }

    /// What the atomic with this number found.
    pub fn result(&self, id: u64, width: AtomicWidth) -> u64 {
        let word = self.results.load_word(8 * (id as usize % RESULTS_MAX));
        if width == AtomicWidth::Four { word & 0xffff_ffff } else { word }
    }

    /// Takes the completion of a request out of the inbox.
    pub fn take_done(&mut self, wanted: u64) -> Option<CompletionStatus> {
        let at =
            self.inbox.iter().position(|event| matches!(event, Event::Done { id, .. } if *id == wanted))?;
        match self.inbox.remove(at) {
            Some(Event::Done { status, .. }) => Some(status),
            _ => None,
        }
    }

    /// Takes the oldest message or write notification out of the inbox.
    pub fn take_arrival(&mut self) -> Option<Event> {
        let arrived = |event: &Event| matches!(event, Event::Message { .. } | Event::Written { .. });
        let at = self.inbox.iter().position(arrived)?;
        self.inbox.remove(at)
    }

    /// Says whether a queue pair's failure has been reported.
    pub fn is_disconnected(&self, lost: QueuePairNumber) -> bool {
        self.inbox.iter().any(|event| matches!(event, Event::Disconnected { qp } if *qp == lost))
    }

    /// Fails the case if any queue pair has failed.
    pub fn assert_connected(&self) {
        for event in &self.inbox {
            if let Event::Disconnected { qp } = event {
                panic!("queue pair {} failed: {}", qp.0, self.failure(*qp));
            }
        }
    }
}

fn hold(message: Message) -> Held {
    let Message { qp, imm, payload, token } = message;
    let bytes = copy_out(payload.as_ptr(), payload.len());
    Held { event: Event::Message { qp, imm, bytes }, start: payload.as_ptr(), token }
}

/// Copies a message out of the fabric's buffer.
fn copy_out(start: *const u8, len_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; len_bytes];
    // SAFETY: the fabric keeps the payload mapped until its token is released, which happens after this call.
    unsafe { std::ptr::copy_nonoverlapping(start, bytes.as_mut_ptr(), len_bytes) };
    bytes
}

/// Fails unless a message's bytes are those of [`Node::send`].
#[track_caller]
pub fn assert_intact(event: &Event) {
    let Event::Message { imm, bytes, .. } = event else { panic!("{event:?} is no message") };
    if let Some(at) = first_difference(bytes, *imm) {
        panic!("message {imm} of {} bytes differs at byte {at}", bytes.len());
    }
}

/// Calls `step` until it gives something.
///
/// # Panics
/// After [`patience`], with `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, mut step: impl FnMut() -> Option<T>) -> T {
    let (start, patience) = (Instant::now(), patience());
    loop {
        for _ in 0..256 {
            if let Some(found) = step() {
                return found;
            }
        }
        assert!(start.elapsed() < patience, "waited {patience:?} for {what}");
        std::thread::yield_now();
    }
}

/// Two nodes of one process, connected to each other on first use.
pub struct Pair<F: Fabric> {
    /// One end.
    pub a: Node<F>,
    /// The other.
    pub b: Node<F>,
    /// From `a` to `b`.
    pub ab: QueuePairNumber,
    /// From `b` to `a`.
    pub ba: QueuePairNumber,
}

impl<F: Fabric> Pair<F> {
    /// Opens both.
    pub fn open(setup: &Setup) -> Self {
        let (mut a, mut b) = (Node::open(setup, 0), Node::open(setup, 1));
        let (address_a, address_b) = (a.address(), b.address());
        let (ab, ba) = (a.connect(&address_b), b.connect(&address_a));
        Self { a, b, ab, ba }
    }

    /// As [`Pair::open`], with a message exchanged in each direction.
    #[track_caller]
    pub fn connected(setup: &Setup) -> Self {
        let mut pair = Self::open(setup);
        pair.send_ab(1, 8);
        pair.send_ba(2, 8);
        pair.until("the first messages", |pair| {
            (!pair.a.inbox.is_empty() && !pair.b.inbox.is_empty()).then_some(())
        });
        pair.a.inbox.clear();
        pair.b.inbox.clear();
        // Some fabrics look at connections only now and then; cases that count polls want that behind them.
        (0..20_000).for_each(|_| pair.turn());
        pair
    }

    /// Polls both once.
    pub fn turn(&mut self) {
        self.a.turn();
        self.b.turn();
    }

    /// Polls both until `found` gives something.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        wait_for(what, || {
            self.turn();
            found(self)
        })
    }

    /// Repeats a post until it is accepted, polling both.
    #[track_caller]
    pub fn post(&mut self, mut post: impl FnMut(&mut Self) -> Posted) -> Posted {
        wait_for("a post to be accepted", || {
            let posted = post(self);
            if posted == Posted::Busy {
                self.turn();
                return None;
            }
            assert_ne!(
                posted,
                Posted::Failed,
                "a: {} b: {}",
                self.a.failure(self.ab),
                self.b.failure(self.ba)
            );
            Some(posted)
        })
    }

    /// Sends from `a` to `b`.
    #[track_caller]
    pub fn send_ab(&mut self, imm: u32, len_bytes: usize) {
        let posted = self.post(|pair| pair.a.send(pair.ab, imm, len_bytes));
        assert_eq!(posted, Posted::Complete);
    }

    /// Sends from `b` to `a`.
    #[track_caller]
    pub fn send_ba(&mut self, imm: u32, len_bytes: usize) {
        let posted = self.post(|pair| pair.b.send(pair.ba, imm, len_bytes));
        assert_eq!(posted, Posted::Complete);
    }

    /// Posts a request of `a` and waits until it has ended.
    #[track_caller]
    pub fn finish(&mut self, id: u64, post: impl FnMut(&mut Self) -> Posted) -> CompletionStatus {
        if self.post(post) == Posted::Complete {
            return CompletionStatus::Success;
        }
        self.until("a request to end", |pair| pair.a.take_done(id))
    }
}
