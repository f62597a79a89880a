//! Memory that the fabric and the peer use while it is measured: the only place of `perf` that touches it by pointer.

use ironband::{
    Access, AtomicOp, AtomicWidth, CompletionStatus, Device, Handler, Payload, Posted, QueuePair, ReadHint,
    Registration, RemoteAddress, WorkId,
};
use ironband_fabric::Fabric;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::conversation::Area;

/// Whole pages, so that no registration shares one with anything else.
struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    fn new(len_bytes: usize) -> Self {
        let layout = Layout::from_size_align(len_bytes.max(1).next_multiple_of(4096), 4096);
        let layout = layout.expect("sizes are bounded by SIZE_BYTES_MAX");
        // SAFETY: the layout is at least a page long.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        // Present before anything is measured.
        // SAFETY: all of the fresh allocation.
        unsafe { start.write_bytes(0, layout.size()) };
        Self { start, layout }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout; `Windows` has dropped the device, which may use them, before.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// A device, and the memory at this side of it: what is sent lies in the *source*, what arrives in the *target*.
pub(super) struct Windows<F: Fabric> {
    // In this order: when the device is gone, nothing uses the registrations, and then the memory, any more.
    device: Device<F>,
    source_registration: Registration<F>,
    target_registration: Registration<F>,
    source: Pages,
    target: Pages,
    results: Pages,
    len_bytes: usize,
}

impl<F: Fabric> Windows<F> {
    /// Memory for messages of at most this length.
    pub(super) fn new(device: Device<F>, len_bytes: usize) -> anyhow::Result<Self> {
        // An atomic's word is in there, too.
        let len_bytes = len_bytes.max(8);
        let (source, target, results) = (Pages::new(len_bytes), Pages::new(len_bytes), Pages::new(8));
        let readable = Access { remote_read: true, ..Access::LOCAL };
        // SAFETY: the pages live as long as `self`, which drops the device first.
        let source_registration = unsafe { device.register(source.start.as_ptr(), len_bytes, readable) }?;
        // SAFETY: as above.
        let target_registration = unsafe { device.register(target.start.as_ptr(), len_bytes, Access::ALL) }?;
        Ok(Self { device, source_registration, target_registration, source, target, results, len_bytes })
    }

    pub(super) const fn device(&self) -> &Device<F> {
        &self.device
    }

    /// What the peer is told.
    pub(super) fn areas(&self) -> (Area, Area) {
        let area = |pages: &Pages, key| Area {
            address: pages.start.as_ptr().expose_provenance() as u64,
            key,
            len_bytes: self.len_bytes as u64,
        };
        (
            area(&self.source, self.source_registration.key()),
            area(&self.target, self.target_registration.key()),
        )
    }

    /// The first bytes of the source. No peer writes there, and this process only in [`Windows::fill_source`].
    pub(super) fn source(&self, len_bytes: usize) -> &[u8] {
        assert!(len_bytes <= self.len_bytes);
        // SAFETY: inside the pages, which live as long as `self`; they are registered for reading only, and `fill_source` wants
        // `&mut self`.
        unsafe { std::slice::from_raw_parts(self.source.start.as_ptr(), len_bytes) }
    }

    /// Writes into the source.
    pub(super) fn fill_source(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len_bytes);
        // SAFETY: inside the pages, and nobody here has a reference to them. A peer that reads them at the same time, against
        // what was agreed, gets wrong bytes and no more.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.source.start.as_ptr(), bytes.len()) };
    }

    /// Overwrites the target, so that what lies there afterwards has arrived.
    pub(super) fn scrub_target(&self, len_bytes: usize, with: u8) {
        assert!(len_bytes <= self.len_bytes);
        // SAFETY: inside the pages; peers that write there at the same time change bytes, nothing else.
        unsafe { self.target.start.write_bytes(with, len_bytes) };
    }

    /// Copies the first bytes of the target out.
    pub(super) fn copy_target(&self, into: &mut [u8]) {
        assert!(into.len() <= self.len_bytes);
        // SAFETY: as in `scrub_target`: a raw copy of memory that peers may write.
        unsafe { std::ptr::copy_nonoverlapping(self.target.start.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// Hands out what has arrived and what has ended.
    #[inline(always)]
    pub(super) fn progress(&self, incoming: &impl Incoming) -> usize {
        self.device.progress(&Dispatch(incoming))
    }

    /// What the last atomic found.
    pub(super) fn result(&self) -> u64 {
        // SAFETY: aligned, and only this process writes it, while a request is under way.
        unsafe { self.results.start.cast::<u64>().read_volatile() }
    }

    /// Writes the first bytes of the source to the peer's memory; the peer is told if there is an `imm`.
    pub(super) fn put(
        &self,
        to: QueuePair,
        id: WorkId,
        remote: RemoteAddress,
        len_bytes: usize,
        imm: Option<u32>,
    ) -> Posted {
        assert!(len_bytes <= self.len_bytes);
        let (local, region) = (self.source.start.as_ptr(), Some(&self.source_registration));
        match imm {
            // SAFETY: memory and registration live until the device is gone.
            Some(imm) => unsafe { self.device.put_notify(to, id, local, region, remote, len_bytes, imm) },
            // SAFETY: as above.
            None => unsafe { self.device.put(to, id, local, region, remote, len_bytes) },
        }
    }

    /// Reads the peer's memory into the first bytes of the target.
    pub(super) fn get(
        &self,
        from: QueuePair,
        id: WorkId,
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    ) -> Posted {
        assert!(len_bytes <= self.len_bytes);
        let (local, region) = (self.target.start.as_ptr(), Some(&self.target_registration));
        // SAFETY: memory and registration live until the device is gone.
        unsafe { self.device.get(from, id, local, region, remote, len_bytes, hint) }
    }

    /// Adds 1 to a word of the peer.
    pub(super) fn fetch_add(&self, to: QueuePair, id: WorkId, remote: RemoteAddress) -> Posted {
        let result = self.results.start.as_ptr();
        // SAFETY: aligned, and alive until the device is gone.
        unsafe { self.device.atomic(to, id, result, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight) }
    }
}

/// A received message, during the call that hands it out: it cannot be kept.
pub(super) struct Message(Payload);

impl Message {
    pub(super) const fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// Copies the first bytes out, as many as there is room for.
    pub(super) fn copy_to(&self, into: &mut [u8]) {
        let len_bytes = self.0.len().min(into.len());
        // SAFETY: `Dispatch` lends a message for the time in which its payload is valid; a raw copy, because its sender may
        // write it.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), into.as_mut_ptr(), len_bytes) };
    }
}

/// A handler that gets messages it cannot keep. See [`Handler`].
pub(super) trait Incoming {
    fn message(&self, from: QueuePair, imm: u32, message: &Message);
    fn written(&self, from: QueuePair, imm: u32, len_bytes: usize);
    fn completed(&self, id: WorkId, status: CompletionStatus);
    fn disconnected(&self, from: QueuePair, reason: &str);
}

struct Dispatch<'a, I>(&'a I);

impl<I: Incoming> Handler for Dispatch<'_, I> {
    #[inline(always)]
    fn received(&self, from: QueuePair, imm: u32, payload: Payload) {
        self.0.message(from, imm, &Message(payload));
    }

    #[inline(always)]
    fn written(&self, from: QueuePair, imm: u32, len_bytes: usize) {
        self.0.written(from, imm, len_bytes);
    }

    #[inline(always)]
    fn completed(&self, _endpoint: QueuePair, id: WorkId, status: CompletionStatus) {
        self.0.completed(id, status);
    }

    fn disconnected(&self, endpoint: QueuePair, reason: &str) {
        self.0.disconnected(endpoint, reason);
    }
}
