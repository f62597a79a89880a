//! Completion queues and shared receive queues.

use std::ffi::c_int;
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use rdma_sys as ibv;

use super::context::{Context, ProtectionDomain};
use super::error::{VerbError, check};

/// Completions taken from the adapter at once.
const BATCH: usize = 16;

/// A completion queue, and the completions that were taken from it and not handed out yet. Where the adapter cannot resize one, it
/// is several: queue pairs are made on the last, and all are polled.
pub(in crate::verbs) struct CompletionQueue {
    raw: Vec<NonNull<ibv::ibv_cq>>,
    /// The one to look at first, so that a busy one does not hide the others.
    turn: usize,
    /// Kept, because clearing it for each poll would cost more than the poll.
    batch: [ibv::ibv_wc; BATCH],
    next: usize,
    count: usize,
    depth: u32,
    context: Arc<Context>,
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionQueue").field("depth", &self.depth).finish_non_exhaustive()
    }
}

// SAFETY: as for `Context`.
unsafe impl Send for CompletionQueue {}

/// One completion.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct WorkCompletion {
    pub(in crate::verbs) id: u64,
    pub(in crate::verbs) qpn: u32,
    pub(in crate::verbs) status: u32,
    /// Of a receive.
    pub(in crate::verbs) len_bytes: u32,
    pub(in crate::verbs) vendor_error: u32,
    /// Of a receive that has ended well, and that an RDMA write has used up: its immediate data. `len_bytes` were written then,
    /// none of them to the buffer.
    pub(in crate::verbs) written: Option<u32>,
}

impl WorkCompletion {
    pub(in crate::verbs) const fn is_success(&self) -> bool {
        self.status == ibv::ibv_wc_status::IBV_WC_SUCCESS
    }
}

impl CompletionQueue {
    pub(in crate::verbs) fn create(context: &Arc<Context>, depth: u32) -> Result<Self, VerbError> {
        let raw = vec![create_raw(context, depth)?];
        let context = Arc::clone(context);
        // SAFETY: plain numbers, for which zero is a value.
        let batch = unsafe { std::mem::zeroed() };
        Ok(Self { raw, turn: 0, batch, next: 0, count: 0, depth, context })
    }

    /// Where the next queue pair's completions go.
    pub(super) fn as_ptr(&self) -> *mut ibv::ibv_cq {
        self.raw.last().map_or(null_mut(), |raw| raw.as_ptr())
    }

    /// Makes room for at least so many completions.
    pub(in crate::verbs) fn grow(&mut self, depth: u32) -> Result<(), VerbError> {
        let max = self.context.limits().completion_queue_depth_max;
        if depth <= self.depth || self.depth == max {
            return Ok(());
        }
        let depth = depth.next_power_of_two().min(max);
        // SAFETY: a completion queue of this process.
        let returned = unsafe { ibv::ibv_resize_cq(self.as_ptr(), depth.cast_signed()) };
        match check("ibv_resize_cq", returned) {
            Err(error) if matches!(error.number, libc::EOPNOTSUPP | libc::ENOSYS) => {
                self.raw.push(create_raw(&self.context, depth)?);
            }
            resized => resized?,
        }
        self.depth = depth;
        Ok(())
    }

    /// The next completion.
    #[inline]
    pub(in crate::verbs) fn poll(&mut self) -> Option<WorkCompletion> {
        if self.next == self.count {
            self.refill();
            if self.count == 0 {
                return None;
            }
        }
        let found = &self.batch[self.next];
        self.next += 1;
        // SAFETY: four bytes under either name, which the library has written or left zero.
        let imm = unsafe { found.imm_data_invalidated_rkey_union.imm_data };
        Some(WorkCompletion {
            id: found.wr_id,
            qpn: found.qp_num,
            status: found.status,
            len_bytes: found.byte_len,
            vendor_error: found.vendor_err,
            written: (found.opcode == ibv::ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM)
                .then_some(u32::from_be(imm)),
        })
    }

    /// True when the last look at the adapter found more than has been handed out, or as much as it could.
    #[inline]
    pub(in crate::verbs) const fn has_more(&self) -> bool {
        self.next < self.count || self.count == BATCH
    }

    #[inline]
    fn refill(&mut self) {
        (self.next, self.count) = (0, 0);
        for _ in 0..self.raw.len() {
            let queue = self.raw[self.turn].as_ptr();
            self.turn = if self.turn + 1 == self.raw.len() { 0 } else { self.turn + 1 };
            // SAFETY: room for `BATCH` completions.
            let polled = unsafe { ibv::ibv_poll_cq(queue, BATCH as c_int, self.batch.as_mut_ptr()) };
            // A negative number is a broken queue; the queue pairs behind it fail by their own errors.
            self.count = usize::try_from(polled).unwrap_or(0).min(BATCH);
            if self.count > 0 {
                return;
            }
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        for raw in &self.raw {
            // SAFETY: made by `create_raw`; the queue pairs that use it are gone (see `Device`).
            let returned = unsafe { ibv::ibv_destroy_cq(raw.as_ptr()) };
            debug_assert_eq!(returned, 0, "ibv_destroy_cq");
        }
    }
}

fn create_raw(context: &Arc<Context>, depth: u32) -> Result<NonNull<ibv::ibv_cq>, VerbError> {
    // SAFETY: an open context; no completion channel.
    let raw = unsafe { ibv::ibv_create_cq(context.as_ptr(), depth.cast_signed(), null_mut(), null_mut(), 0) };
    NonNull::new(raw).ok_or_else(|| VerbError::from_errno(format!("ibv_create_cq for {depth} completions")))
}

/// A queue of receives that all queue pairs of a device take from.
#[derive(Debug)]
pub(in crate::verbs) struct SharedReceiveQueue {
    raw: NonNull<ibv::ibv_srq>,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: as for `Context`.
unsafe impl Send for SharedReceiveQueue {}

/// A buffer to receive into.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct Receive {
    pub(in crate::verbs) id: u64,
    pub(in crate::verbs) start: NonNull<u8>,
    pub(in crate::verbs) len_bytes: u32,
    pub(in crate::verbs) local_key: u32,
}

/// Receives posted with one doorbell.
pub(in crate::verbs) const RECEIVES_PER_POST: usize = 16;

/// Calls `post` with chains of work requests made from `receives`.
///
/// # Safety
/// `post` only uses the chain during the call.
unsafe fn post_in_chains(
    receives: &[Receive],
    mut post: impl FnMut(*mut ibv::ibv_recv_wr, *mut *mut ibv::ibv_recv_wr) -> c_int,
) -> Result<(), VerbError> {
    for chunk in receives.chunks(RECEIVES_PER_POST) {
        let none = ibv::ibv_sge { addr: 0, length: 0, lkey: 0 };
        let mut parts = [none; RECEIVES_PER_POST];
        let empty = ibv::ibv_recv_wr { wr_id: 0, next: null_mut(), sg_list: null_mut(), num_sge: 1 };
        let mut works = [empty; RECEIVES_PER_POST];
        for (index, receive) in chunk.iter().enumerate() {
            parts[index] = ibv::ibv_sge {
                addr: receive.start.as_ptr() as u64,
                length: receive.len_bytes,
                lkey: receive.local_key,
            };
            works[index].wr_id = receive.id;
        }
        let (parts, chain) = (parts.as_mut_ptr(), works.as_mut_ptr());
        for index in 0..chunk.len() {
            // SAFETY: `index` is inside both arrays, which live until the end of this turn.
            unsafe {
                (*chain.add(index)).sg_list = parts.add(index);
                if index + 1 < chunk.len() {
                    (*chain.add(index)).next = chain.add(index + 1);
                }
            }
        }
        let mut bad = null_mut();
        check("ibv_post_recv", post(chain, &raw mut bad))?;
    }
    Ok(())
}

impl SharedReceiveQueue {
    pub(in crate::verbs) fn create(domain: &Arc<ProtectionDomain>, depth: u32) -> Result<Self, VerbError> {
        let mut attributes = ibv::ibv_srq_init_attr {
            srq_context: null_mut(),
            attr: ibv::ibv_srq_attr { max_wr: depth, max_sge: 1, srq_limit: 0 },
        };
        // SAFETY: an existing domain and a readable structure.
        let raw = NonNull::new(unsafe { ibv::ibv_create_srq(domain.as_ptr(), &raw mut attributes) });
        let raw = raw.ok_or_else(|| VerbError::from_errno(format!("ibv_create_srq for {depth} receives")))?;
        Ok(Self { raw, _domain: Arc::clone(domain) })
    }

    pub(super) fn as_ptr(&self) -> *mut ibv::ibv_srq {
        self.raw.as_ptr()
    }

    /// Posts receives.
    ///
    /// # Safety
    /// The buffers stay registered and nobody uses them until their completion, or until the queue is gone.
    pub(in crate::verbs) unsafe fn post(&self, receives: &[Receive]) -> Result<(), VerbError> {
        // SAFETY: the caller vouches for the buffers, the chain lives during the call.
        unsafe { post_in_chains(receives, |chain, bad| ibv::ibv_post_srq_recv(self.as_ptr(), chain, bad)) }
    }
}

impl Drop for SharedReceiveQueue {
    fn drop(&mut self) {
        // SAFETY: created by `create`; the queue pairs that use it are gone (see `Device`).
        let returned = unsafe { ibv::ibv_destroy_srq(self.raw.as_ptr()) };
        debug_assert_eq!(returned, 0, "ibv_destroy_srq");
    }
}

/// Posts receives to a queue pair's own queue.
///
/// # Safety
/// As for [`SharedReceiveQueue::post`].
pub(super) unsafe fn post_to_queue_pair(qp: *mut ibv::ibv_qp, receives: &[Receive]) -> Result<(), VerbError> {
    // SAFETY: the caller vouches for the buffers, the chain lives during the call.
    unsafe { post_in_chains(receives, |chain, bad| ibv::ibv_post_recv(qp, chain, bad)) }
}
