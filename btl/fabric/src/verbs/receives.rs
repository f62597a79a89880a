//! Receive buffers, posted to the shared receive queue or to each connection's own, and refilled in batches; and send buffers,
//! for messages that do not fit inline.
//!
//! Own queues never hold fewer receives than their peer has credits. How many a new connection gets follows from what is left
//! of the budget, see [`Receives::share`]: early ones get all they want, later ones less, and everyone gets some.

use std::ptr::NonNull;
use std::sync::Arc;

use ironband_core::wire::CREDITS_MIN;

use super::object::{
    Buffers, ProtectionDomain, QueuePair, RECEIVES_PER_POST, Receive, SharedReceiveQueue, VerbError,
};
use crate::{Access, QueuePairNumber};

/// Marks the work numbers of receives.
pub(super) const RECEIVE: u64 = 1 << 63;
/// Buffers registered at once.
const CHUNK: u32 = 32;
/// A connection's own receives are at most this part of what is left of the budget.
const SHARE: usize = 16;
/// Of a connection's number, so much is in the work numbers of its receives.
const LIFE_BITS: u32 = 0x7fff_ffff;

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
        if self.chunks.len() >= self.chunks_max {
            return Ok(None);
        }
        self.grow_beyond(domain).map(Some)
    }

    /// Adds a chunk, whatever the budget says.
    fn grow_beyond(&mut self, domain: &Arc<ProtectionDomain>) -> Result<std::ops::Range<u32>, VerbError> {
        let first = self.count();
        self.chunks.push(Buffers::allocate(domain, self.buffer_bytes, CHUNK, Access::LOCAL)?);
        Ok(first..first + CHUNK)
    }

    /// Buffers that the budget still allows.
    const fn addable(&self) -> usize {
        self.chunks_max.saturating_sub(self.chunks.len()) * CHUNK as usize
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

/// The receives of one connection, where none are shared.
#[derive(Debug, Default)]
pub(super) struct OwnReceives {
    /// All of them.
    buffers: Vec<u32>,
    /// Given back and not posted yet.
    idle: Vec<u32>,
    /// The connection's life, which its receives carry: a late completion of a queue pair before with the same number is told
    /// from one of this.
    life: u32,
}

impl OwnReceives {
    pub(super) fn put_back(&mut self, index: u32) {
        self.idle.push(index);
    }

    pub(super) const fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// True if this buffer is one of them.
    pub(super) fn holds(&self, index: u32) -> bool {
        self.buffers.contains(&index)
    }

    /// True if a receive with this work number was posted by this connection.
    pub(super) const fn posted(&self, id: u64) -> bool {
        (id >> 32) as u32 & LIFE_BITS == self.life & LIFE_BITS
    }
}

/// All receive buffers of a device.
#[derive(Debug)]
pub(super) struct Receives {
    // The queue goes before the buffers that are posted to it.
    queue: Option<SharedReceiveQueue>,
    chunks: Chunks,
    owners: Vec<Option<Owner>>,
    /// With a shared queue: given back and not posted yet. Else: of no connection.
    idle: Vec<u32>,
}

impl Receives {
    pub(super) fn new(queue: Option<SharedReceiveQueue>, buffer_bytes: usize, memory_bytes: usize) -> Self {
        let chunks = Chunks::new(buffer_bytes, memory_bytes);
        Self { queue, chunks, owners: Vec::new(), idle: Vec::new() }
    }

    pub(super) const fn queue(&self) -> Option<&SharedReceiveQueue> {
        self.queue.as_ref()
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.queue.is_some()
    }

    /// How many receives a new connection gets for itself: what it wants, as long as that is a small part of what is left of
    /// the budget, and never so few that credits could not turn around.
    pub(super) fn share(&self, wanted: u16) -> u16 {
        own_share(self.idle.len() + self.chunks.addable(), wanted)
    }

    /// True when connections get their receives beyond the budget.
    pub(super) fn is_used_up(&self) -> bool {
        self.idle.len() + self.chunks.addable() < usize::from(CREDITS_MIN)
    }

    /// Receives for a connection of its own. They are not posted yet.
    pub(super) fn grant(
        &mut self,
        domain: &Arc<ProtectionDomain>,
        count: u16,
        life: u32,
    ) -> Result<OwnReceives, VerbError> {
        while self.idle.len() < usize::from(count) {
            let added = match self.chunks.grow(domain)? {
                Some(added) => added,
                None => self.chunks.grow_beyond(domain)?,
            };
            self.owners.resize(added.end as usize, None);
            self.idle.extend(added);
        }
        let buffers = self.idle.split_off(self.idle.len() - usize::from(count));
        Ok(OwnReceives { idle: buffers.clone(), buffers, life })
    }

    /// Takes a connection's receives back, now that its queue pair is gone. What is lent comes back when it is released.
    pub(super) fn take_all_back(&mut self, own: &OwnReceives) {
        let owners = &self.owners;
        self.idle.extend(own.buffers.iter().filter(|&&index| owners[index as usize].is_none()));
    }

    /// Posts the idle receives of a connection, or of all if they are shared.
    pub(super) fn post(&mut self, qp: &QueuePair, own: &mut OwnReceives) -> Result<(), VerbError> {
        if self.is_shared() {
            return self.post_idle();
        }
        let mark = RECEIVE | u64::from(own.life & LIFE_BITS) << 32;
        in_batches(&self.chunks, &mut own.idle, mark, |batch| {
            // SAFETY: the buffers live as long as the queue pair, and were idle: nobody reads them.
            unsafe { qp.post_receives(batch) }
        })
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

    /// Posts all idle buffers to the shared queue.
    pub(super) fn post_idle(&mut self) -> Result<(), VerbError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        in_batches(&self.chunks, &mut self.idle, RECEIVE, |batch| {
            // SAFETY: the buffers live as long as the queue, and were idle: nobody reads them.
            unsafe { queue.post(batch) }
        })
    }

    /// True when a shared queue can be refilled.
    pub(super) const fn has_idle(&self) -> bool {
        self.is_shared() && !self.idle.is_empty()
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

    /// Ends a loan; says whose message it was. The buffer then goes where it is posted from.
    pub(super) fn end_loan(&mut self, index: u32) -> Option<Owner> {
        self.owners.get_mut(index as usize)?.take()
    }

    /// Takes a buffer back that belongs to all, or whose connection is gone.
    pub(super) fn put_back(&mut self, index: u32) {
        self.idle.push(index);
    }
}

/// See [`Receives::share`]; `left` buffers are left of the budget.
fn own_share(left: usize, wanted: u16) -> u16 {
    let most = u16::try_from(left / SHARE).unwrap_or(u16::MAX);
    most.clamp(CREDITS_MIN, wanted.max(CREDITS_MIN))
}

/// Posts all of `idle`, with `mark` in their work numbers.
fn in_batches(
    chunks: &Chunks,
    idle: &mut Vec<u32>,
    mark: u64,
    mut post: impl FnMut(&[Receive]) -> Result<(), VerbError>,
) -> Result<(), VerbError> {
    while !idle.is_empty() {
        let mut batch =
            [Receive { id: 0, start: NonNull::dangling(), len_bytes: 0, local_key: 0 }; RECEIVES_PER_POST];
        let first = idle.len().saturating_sub(RECEIVES_PER_POST);
        for (receive, &index) in batch.iter_mut().zip(&idle[first..]) {
            *receive = Receive {
                id: mark | u64::from(index),
                start: chunks.at(index),
                len_bytes: chunks.buffer_bytes as u32,
                local_key: chunks.local_key(index),
            };
        }
        let count = idle.len() - first;
        idle.truncate(first);
        post(&batch[..count])?;
    }
    Ok(())
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

    /// True when more than half are under way. Messages are then signalled, each: so buffers whose adapter says nothing, until
    /// there is more to send to the same peer, are never more than half, and the others come back.
    pub(super) fn is_short(&self) -> bool {
        self.free.len() * 2 < self.chunks.count() as usize
    }

    pub(super) fn at(&self, index: u32) -> NonNull<u8> {
        self.chunks.at(index)
    }

    pub(super) fn local_key(&self, index: u32) -> u32 {
        self.chunks.local_key(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_connections_get_what_they_want_and_late_ones_some() {
        // 16 MiB, by default.
        let (mut left, mut shares) = (992_usize, Vec::new());
        for _ in 0..200 {
            shares.push(own_share(left, 32));
            left = left.saturating_sub(usize::from(own_share(left, 32)));
        }
        assert!(shares[..16].iter().all(|share| *share == 32), "{shares:?}");
        assert!(shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
        assert_eq!((shares[199], own_share(0, 32)), (CREDITS_MIN, CREDITS_MIN));
        assert_eq!(own_share(1 << 30, 8), 8, "no more than is wanted");
    }

    #[test]
    fn receives_of_another_life_are_known() {
        let own = OwnReceives { life: 0x8000_0005, ..OwnReceives::default() };
        assert!(own.posted(RECEIVE | 5 << 32 | 17));
        assert!(!own.posted(RECEIVE | 4 << 32 | 17));
    }
}
