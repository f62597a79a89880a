//! The verbs-shaped fabric: what every kind of device offers to the layers above, in the words of the
//! verbs specification (InfiniBand Architecture Specification, volume 1, chapters 10 and 11).
//!
//! A [`Fabric`] is a family of devices: `shm` (memory that processes of a node share), `verbs` (real adapters) and `sim` (a seeded
//! simulation inside one process, for tests). It opens a
//! [`Device`], which owns its protection domains, memory regions, completion queues and queue pairs and hands out
//! small `Copy` handles to them. Everything is dispatched statically; nothing on a data path is `dyn`.
//!
//! # One owner, no locks
//! Every call that changes something takes `&mut self`: a device is a single-threaded object. The layer above
//! (`ironband::Device`) puts one lock around it when the runtime asked for `MPI_THREAD_MULTIPLE`, and none otherwise.
//!
//! # Back-pressure is a value
//! A full ring, a queue pair with no free work request or a connection that is still being made is not an error:
//! the post returns [`Posted::Busy`], nothing was taken, and the caller tries again after a poll.
//!
//! # Receives
//! The fabric owns the receive buffers (a ring shared with the peer, or buffers posted to a receive queue), because only
//! it knows how many a device wants. A receive completion lends the payload in place; the caller gives it back with
//! [`Device::release`], which re-posts the buffer. Completions may be released in any order.

#![cfg_attr(loom, allow(dead_code, reason = "only the ring is built, and its tests use a part of it"))]

#[cfg(not(loom))]
mod atomics;
mod capability;
mod error;
#[cfg(not(loom))]
mod extent;
#[cfg(not(loom))]
mod host;
mod payload;
mod short_copy;
mod work;

#[cfg(not(loom))]
pub mod shm;
#[cfg(not(loom))]
pub mod sim;
#[cfg(all(feature = "verbs", not(loom)))]
pub mod verbs;
/// The part of shared memory that loom checks: its atomics are not the processor's, so nothing is mapped.
#[cfg(loom)]
mod shm {
    mod ring;
    mod sync;
}

pub use capability::{AtomicScope, Capabilities, Limits};
pub use error::{DeviceError, RegisterError, Unreachable};
pub use payload::Payload;
pub use work::{
    Access, AtomicOp, AtomicWidth, Completion, CompletionStatus, Message, Operation, Posted, QueuePairNumber,
    ReadHint, ReceiveToken, RemoteAddress, SendFill, WorkId,
};

use ironband_core::config::Config;
pub use ironband_core::gid::Reach;

/// What a device must know of the job it serves.
#[derive(Debug, Clone)]
pub struct Job {
    /// How many processes of this job run on this node, this one included; at least 1. Sizes shared buffers.
    pub local_ranks: u32,
    /// Shown in messages to the user: which process this is (for MPI: its rank in `MPI_COMM_WORLD`).
    pub rank: u32,
}

/// One device that [`Fabric::probe`] found, usable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// Name of the fabric, for example `shm`.
    pub fabric: &'static str,
    /// Name of the device inside the fabric, for example `memfd0` or `mlx5_0`.
    pub device: String,
    /// `Ok` with one sentence on what it offers, or `Err` with the reason why it cannot be used and what to do.
    pub usable: Result<String, String>,
}

/// A family of devices that are driven in the same way.
pub trait Fabric: Sized + 'static {
    /// The name users select it by: `shm`, `verbs`, `sim`.
    const NAME: &'static str;

    /// What [`Fabric::open`] gives.
    type Device: Device;

    /// Lists the devices of this fabric on this machine, with the reason for each that cannot be used. Devices of one network
    /// are side by side, in an order of networks that all machines share.
    fn probe(config: &Config) -> Vec<DeviceReport>;

    /// Opens the device called `name` (one of those that [`Fabric::probe`] lists).
    ///
    /// # Errors
    /// A [`DeviceError`] that names the resource, what was wanted and what was available.
    fn open(name: &str, config: &Config, job: &Job) -> Result<Self::Device, DeviceError>;
}

/// An open device with all its objects.
pub trait Device: Sized {
    /// Handle to a protection domain.
    type ProtectionDomain: Copy;
    /// Handle to a completion queue.
    type CompletionQueue: Copy;
    /// A registered region; give it back with [`Device::deregister`].
    type MemoryRegion: Send + Sync;

    /// What this device can do, asked of the device and not looked up in a table.
    fn capabilities(&self) -> &Capabilities;

    /// The name of this device inside its fabric.
    fn name(&self) -> &str;

    /// The out-of-band address that peers need to connect: opaque bytes, to be passed through the launcher's
    /// key-value exchange unchanged; at most [`ironband_core::limits::ADDRESS_BYTES_MAX`] long.
    fn address(&self) -> &[u8];

    /// Says whether and how well a peer with this address can be reached by this device, without connecting.
    ///
    /// # Errors
    /// [`Unreachable`] with the reason, written for a person.
    fn reach(&self, address: &[u8]) -> Result<Reach, Unreachable>;

    /// Allocates a protection domain: memory regions and queue pairs work together only inside one.
    ///
    /// # Errors
    /// When the device has no more of them.
    fn alloc_pd(&mut self) -> Result<Self::ProtectionDomain, DeviceError>;

    /// Creates a completion queue for at least `depth` completions.
    ///
    /// # Errors
    /// When the device has no more of them or `depth` is beyond its limit.
    fn create_cq(&mut self, depth: usize) -> Result<Self::CompletionQueue, DeviceError>;

    /// Creates the reliable, ordered queue pair to the process with this address, or returns the one that exists
    /// already (the peer may have connected first). Returns at once: until the connection stands, posts are
    /// [`Posted::Busy`] or are kept by the fabric; a connection that cannot be made arrives as
    /// [`Completion::Disconnected`].
    ///
    /// # Errors
    /// [`Unreachable`] when this device cannot reach that address.
    fn create_qp(
        &mut self,
        pd: Self::ProtectionDomain,
        cq: Self::CompletionQueue,
        address: &[u8],
    ) -> Result<QueuePairNumber, Unreachable>;

    /// Destroys a queue pair: what is not complete yet completes with [`CompletionStatus::Flushed`]. Idempotent.
    fn destroy_qp(&mut self, qp: QueuePairNumber);

    /// The address of the process at the other end, as it was given to [`Device::create_qp`] or as the peer sent it.
    /// `None` for a number that was never handed out.
    fn peer_address(&self, qp: QueuePairNumber) -> Option<&[u8]>;

    /// Why a queue pair is in the error state: what happened, the likely cause, what to try. `None` while it works.
    fn failure(&self, qp: QueuePairNumber) -> Option<&str>;

    /// The next thing that a user who asked for details should be told once, for example that the kernel refuses
    /// something and what is done instead.
    fn take_notice(&mut self) -> Option<String>;

    /// What went which way so far, in one clause for the report at the end; `None` if the device does not count.
    fn tally(&self) -> Option<String> {
        None
    }

    /// Registers `len_bytes` bytes at `start` for local and remote access.
    ///
    /// # Safety
    /// The memory stays mapped, readable (and writable if `access` says so) until [`Device::deregister`] returns.
    ///
    /// # Errors
    /// [`RegisterError`] when the device or the process is out of what registration needs.
    unsafe fn register(
        &mut self,
        pd: Self::ProtectionDomain,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Self::MemoryRegion, RegisterError>;

    /// Ends a registration. The remote key is refused from now on.
    fn deregister(&mut self, region: Self::MemoryRegion);

    /// False for a region that the device may only read, because the memory is mapped so.
    fn may_be_written(&self, region: &Self::MemoryRegion) -> bool {
        let _ = region;
        true
    }

    /// The key that a peer needs to reach a region, to be sent to it as it is.
    fn remote_key(&self, region: &Self::MemoryRegion) -> u64;

    /// Sends `header` and `payload` as one message with 32 bits of immediate data. Both are copied before the call
    /// returns, so there is no completion ([`Posted::Complete`]). Together at most [`Limits::send_copy_bytes_max`].
    fn post_send(&mut self, qp: QueuePairNumber, imm: u32, header: &[u8], payload: &[u8]) -> Posted;

    /// Like [`Device::post_send`], for a message that tells the peer of a region of this process, by its remote key, which the
    /// peer will most likely read as a whole and at once. A device may send the memory along, unasked; the key may be
    /// anything, and one that is not of a region for remote reading means nothing.
    #[inline]
    fn post_send_announcing(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload: &[u8],
        key: u64,
    ) -> Posted {
        let _ = key;
        self.post_send(qp, imm, header, payload)
    }

    /// Like [`Device::post_send`], but the payload is produced by `fill`, directly into the device's send buffer: for
    /// data that must be packed. `payload_bytes_max` is what `fill` may write; it returns what it wrote.
    fn post_send_fill(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload_bytes_max: usize,
        fill: impl SendFill,
    ) -> Posted;

    /// RDMA read: copies `len_bytes` bytes of the peer's memory to `local`.
    ///
    /// `local_region` is the registration that `local` lies in. Without one, a device whose hardware moves the bytes registers
    /// the memory for the time of this request, which costs system calls; others do not care.
    ///
    /// # Safety
    /// `local_region` stays registered and `local` is writable for `len_bytes` until the completion with this `id` arrives (or the call returned `Complete`).
    unsafe fn post_read(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        local_region: Option<&Self::MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    ) -> Posted;

    /// RDMA write: copies `len_bytes` bytes at `local` to the peer's memory. It is complete when the data is visible at
    /// the target. With `imm`, the target then gets a [`Completion::WrittenWithImmediate`].
    /// `local_region` is as for [`Device::post_read`].
    ///
    /// # Safety
    /// `local_region` stays registered and `local` is readable for `len_bytes` until the completion with this `id` arrives (or the call returned `Complete`).
    unsafe fn post_write(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *const u8,
        local_region: Option<&Self::MemoryRegion>,
        remote: RemoteAddress,
        len_bytes: usize,
        imm: Option<u32>,
    ) -> Posted;

    /// An atomic on the peer's memory; the old value is stored to `result`.
    ///
    /// # Safety
    /// `result` is writable for the width until the completion with this `id` arrives (or the call returned
    /// `Complete`), and aligned to it.
    unsafe fn post_atomic(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        result: *mut u8,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    ) -> Posted;

    /// Takes the next completion, if there is one. A call that finds nothing costs a few instructions, however
    /// many peers are connected.
    fn poll_cq(&mut self, cq: Self::CompletionQueue) -> Option<Completion>;

    /// As [`Device::poll_cq`], if the next completion is a message and at hand: most are, and need no look at anything else. It is the one that
    /// `poll_cq` would have given next, so the order of a queue pair's completions is kept. `None` says nothing; so it is when it is time to look at
    /// everything else.
    #[inline]
    fn poll_message(&mut self, cq: Self::CompletionQueue) -> Option<Message> {
        let _ = cq;
        None
    }

    /// Says, in a few instructions, whether the next [`Device::poll_cq`] is likely to find something, right after one that did.
    /// For who waits for one message, a poll that looks everywhere and finds nothing is time lost. `false` may be wrong.
    fn is_more_likely(&self, cq: Self::CompletionQueue) -> bool;

    /// Says, in a few instructions, whether there may be something to find: for who has nothing to do but wait for a message, between two
    /// calls of [`Device::poll_cq`]. `false` is sure but for what a poll finds on its rounds only; `true` is where only a poll can tell.
    #[inline]
    fn has_message(&self, cq: Self::CompletionQueue) -> bool {
        let _ = cq;
        true
    }

    /// Gives back the buffer of a receive completion.
    fn release(&mut self, token: ReceiveToken);

    /// True when nothing that was posted, or that a peer asked of this device, is still under way.
    fn is_idle(&self) -> bool;
}
