//! Receive buffers, posted to the shared receive queue and refilled in batches; and send buffers, for messages that do not
//! fit inline.

use std::ptr::NonNull;
use std::sync::Arc;

use super::object::{Buffers, ProtectionDomain, RECEIVES_PER_POST, Receive, SharedReceiveQueue, VerbError};
use crate::QueuePairNumber;

/// Marks the work numbers of receives.
pub(super) const RECEIVE: u64 = 1 << 63;
/// Buffers registered at once.
const CHUNK: u32 = 32;

/// Buffers of one length that grow by chunks.
#[derive(Debug)]
struct Chunks {
    chunks: Vec<Buffers>,
    buffer_bytes: usize,
    chunks_max: usize,
}

impl Chunks {
    fn new(buffer_bytes: usize, memory_bytes: usize) -> Self {
        let chunks_max = (memory_bytes / (buffer_bytes * CHUNK as usize)).max(1);
        Self { chunks: Vec::new(), buffer_bytes, chunks_max }
    }

    fn count(&self) -> u32 {
        self.chunks.len() as u32 * CHUNK
    }

    /// Adds a chunk; `None` when the budget is used.
    fn grow(&mut self, domain: &Arc<ProtectionDomain>) -> Result<Option<std::ops::Range<u32>>, VerbError> {
        if self.chunks.len() == self.chunks_max {
            return Ok(None);
        }
        let first = self.count();
        self.chunks.push(Buffers::allocate(domain, self.buffer_bytes, CHUNK)?);
        Ok(Some(first..first + CHUNK))
    }

    fn at(&self, index: u32) -> NonNull<u8> {
        self.chunks[(index / CHUNK) as usize].at(index % CHUNK)
    }

    fn local_key(&self, index: u32) -> u32 {
        self.chunks[(index / CHUNK) as usize].local_key()
    }
}

/// Whose message lies in a buffer, while it is lent to the layer above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) qp: QueuePairNumber,
    /// Number of the connection: it may have been replaced meanwhile.
    pub(super) qpn: u32,
}

/// All receive buffers of a device.
#[derive(Debug)]
pub(super) struct Receives {
    // The queue goes before the buffers that are posted to it.
    queue: SharedReceiveQueue,
    chunks: Chunks,
    owners: Vec<Option<Owner>>,
    /// Given back and not posted yet.
    idle: Vec<u32>,
}

impl Receives {
    pub(super) fn new(queue: SharedReceiveQueue, buffer_bytes: usize, memory_bytes: usize) -> Self {
        let chunks = Chunks::new(buffer_bytes, memory_bytes);
        Self { queue, chunks, owners: Vec::new(), idle: Vec::new() }
    }

    pub(super) const fn queue(&self) -> &SharedReceiveQueue {
        &self.queue
    }

    pub(super) fn count(&self) -> u32 {
        self.chunks.count()
    }

    /// Provides `wanted` buffers in all, or as many as the budget allows.
    pub(super) fn provide(&mut self, domain: &Arc<ProtectionDomain>, wanted: u32) -> Result<(), VerbError> {
        while self.chunks.count() < wanted {
            let Some(added) = self.chunks.grow(domain)? else { return Ok(()) };
            self.owners.resize(added.end as usize, None);
            self.idle.extend(added);
            self.post_idle()?;
        }
        Ok(())
    }

    /// Posts all idle buffers.
    pub(super) fn post_idle(&mut self) -> Result<(), VerbError> {
        while !self.idle.is_empty() {
            let mut batch = [Receive { id: 0, start: NonNull::dangling(), len_bytes: 0, local_key: 0 };
                RECEIVES_PER_POST];
            let first = self.idle.len().saturating_sub(RECEIVES_PER_POST);
            for (receive, &index) in batch.iter_mut().zip(&self.idle[first..]) {
                *receive = Receive {
                    id: RECEIVE | u64::from(index),
                    start: self.chunks.at(index),
                    len_bytes: self.chunks.buffer_bytes as u32,
                    local_key: self.chunks.local_key(index),
                };
            }
            let count = self.idle.len() - first;
            self.idle.truncate(first);
            // SAFETY: the buffers live as long as the queue, and were idle: nobody reads them.
            unsafe { self.queue.post(&batch[..count]) }?;
        }
        Ok(())
    }

    pub(super) const fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    pub(super) const fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// First byte of a filled buffer.
    pub(super) fn at(&self, index: u32) -> NonNull<u8> {
        self.chunks.at(index)
    }

    pub(super) const fn buffer_bytes(&self) -> usize {
        self.chunks.buffer_bytes
    }

    /// Lends a filled buffer to the layer above.
    pub(super) fn lend(&mut self, index: u32, owner: Owner) {
        self.owners[index as usize] = Some(owner);
    }

    /// Takes a buffer back; says whose message it held.
    pub(super) fn give_back(&mut self, index: u32) -> Option<Owner> {
        self.idle.push(index);
        self.owners.get_mut(index as usize)?.take()
    }
}

/// All send buffers of a device.
#[derive(Debug)]
pub(super) struct Bounces {
    chunks: Chunks,
    free: Vec<u32>,
}

impl Bounces {
    pub(super) fn new(buffer_bytes: usize, memory_bytes: usize) -> Self {
        Self { chunks: Chunks::new(buffer_bytes, memory_bytes), free: Vec::new() }
    }

    /// A free buffer; `None` when all are under way.
    pub(super) fn take(&mut self, domain: &Arc<ProtectionDomain>) -> Option<u32> {
        if self.free.is_empty() {
            // Without more memory one waits for those under way, as at the end of the budget.
            self.free.extend(self.chunks.grow(domain).ok().flatten()?);
        }
        self.free.pop()
    }

    pub(super) fn give_back(&mut self, index: u32) {
        self.free.push(index);
    }

    pub(super) fn at(&self, index: u32) -> NonNull<u8> {
        self.chunks.at(index)
    }

    pub(super) fn local_key(&self, index: u32) -> u32 {
        self.chunks.local_key(index)
    }
}
