//! Queue pairs, address handles, and the work that is posted to a send queue.

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use ironband_core::wire::{Carrier, Offer};
use rdma_sys as ibv;
use rdma_sys::ibv_qp_attr_mask as Mask;

use super::context::ProtectionDomain;
use super::error::{VerbError, check};
use super::identifier::Identifier;
use super::queue::{CompletionQueue, Receive, SharedReceiveQueue, post_to_queue_pair};

/// Time without an acknowledgement until a packet is sent again: 4.096 us times 2 to this power, a second. Adapters take up to four times
/// as long.
pub(in crate::verbs) const ACK_TIMEOUT: u8 = 18;
/// How often a packet is sent again before the connection fails, after 7.5 s at least. Not 7, the most: Soft-RoCE takes that for "as long as
/// it takes" (`rxe_completer`), and never noticed that a process on another node had ended.
pub(in crate::verbs) const RETRIES: u8 = 6;
/// How often a sender waits for a receive to be posted: 7 stands for "as long as it takes".
pub(in crate::verbs) const RNR_RETRIES: u8 = 7;

/// What a reliable queue pair has to be told for the state "ready to receive".
const READY_TO_RECEIVE: Mask = Mask(
    Mask::IBV_QP_STATE.0
        | Mask::IBV_QP_AV.0
        | Mask::IBV_QP_PATH_MTU.0
        | Mask::IBV_QP_DEST_QPN.0
        | Mask::IBV_QP_RQ_PSN.0
        | Mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
        | Mask::IBV_QP_MIN_RNR_TIMER.0,
);
/// The same for "ready to send".
const READY_TO_SEND: Mask = Mask(
    Mask::IBV_QP_STATE.0
        | Mask::IBV_QP_SQ_PSN.0
        | Mask::IBV_QP_MAX_QP_RD_ATOMIC.0
        | Mask::IBV_QP_TIMEOUT.0
        | Mask::IBV_QP_RETRY_CNT.0
        | Mask::IBV_QP_RNR_RETRY.0,
);

/// How much a queue pair holds.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct Sizes {
    pub(in crate::verbs) sends: u32,
    /// 0 with a shared receive queue.
    pub(in crate::verbs) receives: u32,
    /// Wanted; the adapter may give less.
    pub(in crate::verbs) inline_bytes: u32,
}

/// The way to a peer's port.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct Path {
    pub(in crate::verbs) carrier: Carrier,
    pub(in crate::verbs) port: u8,
    pub(in crate::verbs) own_gid_index: u8,
    pub(in crate::verbs) peer_gid: [u8; 16],
    pub(in crate::verbs) peer_lid: u16,
}

impl Path {
    fn attributes(&self) -> ibv::ibv_ah_attr {
        ibv::ibv_ah_attr {
            grh: ibv::ibv_global_route {
                dgid: ibv::ibv_gid { raw: self.peer_gid },
                flow_label: 0,
                sgid_index: self.own_gid_index,
                hop_limit: 64,
                traffic_class: 0,
            },
            dlid: self.peer_lid,
            sl: 0,
            src_path_bits: 0,
            static_rate: 0,
            // Inside an InfiniBand subnet the local identifier is enough, and saves 40 bytes per packet.
            is_global: u8::from(self.carrier != Carrier::InfiniBand),
            port_num: self.port,
        }
    }
}

/// A queue pair, reliable or for datagrams.
#[derive(Debug)]
pub(in crate::verbs) struct QueuePair {
    raw: NonNull<ibv::ibv_qp>,
    inline_bytes_max: u32,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: as for `Context`.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A reliable one. It has to be initialised.
    pub(in crate::verbs) fn reliable(
        domain: &Arc<ProtectionDomain>,
        cq: &CompletionQueue,
        srq: Option<&SharedReceiveQueue>,
        sizes: Sizes,
    ) -> Result<Self, VerbError> {
        Self::create(domain, cq, srq, ibv::ibv_qp_type::IBV_QPT_RC, sizes)
    }

    /// Brings a reliable queue pair to the state "initialised". Peers may do all that the keys of regions allow.
    pub(in crate::verbs) fn initialise(&self, port: u8) -> Result<(), VerbError> {
        let access = ibv::ibv_access_flags::IBV_ACCESS_REMOTE_READ
            | ibv::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            | ibv::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC;
        let mut attributes = blank();
        attributes.qp_state = ibv::ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = port;
        attributes.qp_access_flags = access.0;
        let mask =
            Mask::IBV_QP_STATE | Mask::IBV_QP_PKEY_INDEX | Mask::IBV_QP_PORT | Mask::IBV_QP_ACCESS_FLAGS;
        self.modify("to INIT", attributes, mask)
    }

    /// One for datagrams, ready to send.
    pub(in crate::verbs) fn datagrams(
        domain: &Arc<ProtectionDomain>,
        cq: &CompletionQueue,
        port: u8,
        qkey: u32,
        sizes: Sizes,
    ) -> Result<Self, VerbError> {
        let qp = Self::create(domain, cq, None, ibv::ibv_qp_type::IBV_QPT_UD, sizes)?;
        let mut attributes = blank();
        attributes.qp_state = ibv::ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = port;
        attributes.qkey = qkey;
        let init = Mask::IBV_QP_STATE | Mask::IBV_QP_PKEY_INDEX | Mask::IBV_QP_PORT | Mask::IBV_QP_QKEY;
        qp.modify("for datagrams to INIT", attributes, init)?;
        let mut attributes = blank();
        attributes.qp_state = ibv::ibv_qp_state::IBV_QPS_RTR;
        qp.modify("for datagrams to RTR", attributes, Mask::IBV_QP_STATE)?;
        let mut attributes = blank();
        attributes.qp_state = ibv::ibv_qp_state::IBV_QPS_RTS;
        qp.modify("for datagrams to RTS", attributes, Mask::IBV_QP_STATE | Mask::IBV_QP_SQ_PSN)?;
        Ok(qp)
    }

    fn create(
        domain: &Arc<ProtectionDomain>,
        cq: &CompletionQueue,
        srq: Option<&SharedReceiveQueue>,
        kind: ibv::ibv_qp_type::Type,
        sizes: Sizes,
    ) -> Result<Self, VerbError> {
        // What an adapter can send inline cannot be asked, only tried.
        let mut inline_bytes = sizes.inline_bytes;
        loop {
            let mut attributes = ibv::ibv_qp_init_attr {
                qp_context: null_mut(),
                send_cq: cq.as_ptr(),
                recv_cq: cq.as_ptr(),
                srq: srq.map_or(null_mut(), SharedReceiveQueue::as_ptr),
                cap: ibv::ibv_qp_cap {
                    max_send_wr: sizes.sends,
                    max_recv_wr: sizes.receives,
                    max_send_sge: 3,
                    max_recv_sge: 1,
                    max_inline_data: inline_bytes,
                },
                qp_type: kind,
                sq_sig_all: 0,
            };
            // SAFETY: objects of one context, and a structure that the library may write its answers to.
            let raw = unsafe { ibv::ibv_create_qp(domain.as_ptr(), &raw mut attributes) };
            if let Some(raw) = NonNull::new(raw) {
                let inline_bytes_max = attributes.cap.max_inline_data;
                return Ok(Self { raw, inline_bytes_max, _domain: Arc::clone(domain) });
            }
            let error = VerbError::from_errno("ibv_create_qp");
            if inline_bytes == 0 || error.number != libc::EINVAL {
                return Err(error);
            }
            inline_bytes /= 2;
        }
    }

    fn modify(&self, to: &str, mut attributes: ibv::ibv_qp_attr, mask: Mask) -> Result<(), VerbError> {
        // SAFETY: an existing queue pair and a readable structure.
        let returned =
            unsafe { ibv::ibv_modify_qp(self.raw.as_ptr(), &raw mut attributes, mask.0.cast_signed()) };
        match returned {
            0 => Ok(()),
            _ => check(&format!("ibv_modify_qp {to}"), returned),
        }
    }

    /// Connects: brings a reliable queue pair to the states "ready to receive" and "ready to send".
    pub(in crate::verbs) fn connect(&self, own: &Offer, peer: &Offer, path: &Path) -> Result<(), VerbError> {
        let mut attributes = blank();
        attributes.qp_state = ibv::ibv_qp_state::IBV_QPS_RTR;
        attributes.path_mtu = u32::from(own.mtu.min(peer.mtu));
        attributes.dest_qp_num = peer.qpn;
        attributes.rq_psn = peer.psn;
        attributes.max_dest_rd_atomic = own.reads;
        attributes.min_rnr_timer = own.rnr_timer.max(peer.rnr_timer);
        attributes.ah_attr = path.attributes();
        self.modify("to RTR", attributes, READY_TO_RECEIVE)?;
        let mut attributes = blank();
        attributes.qp_state = ibv::ibv_qp_state::IBV_QPS_RTS;
        attributes.sq_psn = own.psn;
        attributes.max_rd_atomic = own.reads.min(peer.reads);
        attributes.timeout = ACK_TIMEOUT;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RNR_RETRIES;
        self.modify("to RTS", attributes, READY_TO_SEND)
    }

    /// Brings an iWARP queue pair to the state "initialised"; the connection manager does the rest by itself.
    pub(in crate::verbs) fn initialise_by(&self, id: &Identifier) -> Result<(), VerbError> {
        let (attributes, mask) = id.attributes(ibv::ibv_qp_state::IBV_QPS_INIT)?;
        self.modify("to INIT", attributes, Mask(mask.cast_unsigned()))
    }

    /// As [`QueuePair::connect`], with the way to the peer and the first numbers from the connection manager.
    pub(in crate::verbs) fn connect_by(
        &self,
        id: &Identifier,
        own: &Offer,
        peer: &Offer,
    ) -> Result<(), VerbError> {
        let (mut attributes, _) = id.attributes(ibv::ibv_qp_state::IBV_QPS_RTR)?;
        attributes.path_mtu = u32::from(own.mtu.min(peer.mtu));
        attributes.max_dest_rd_atomic = own.reads;
        attributes.min_rnr_timer = own.rnr_timer.max(peer.rnr_timer);
        self.modify("to RTR", attributes, READY_TO_RECEIVE)?;
        let (mut attributes, _) = id.attributes(ibv::ibv_qp_state::IBV_QPS_RTS)?;
        attributes.max_rd_atomic = own.reads.min(peer.reads);
        attributes.timeout = ACK_TIMEOUT;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RNR_RETRIES;
        self.modify("to RTS", attributes, READY_TO_SEND)
    }

    pub(in crate::verbs) fn number(&self) -> u32 {
        // SAFETY: an existing queue pair, only read.
        unsafe { self.raw.as_ref() }.qp_num
    }

    pub(in crate::verbs) const fn inline_bytes_max(&self) -> usize {
        self.inline_bytes_max as usize
    }

    /// Posts work with one doorbell.
    ///
    /// # Safety
    /// The memory of all parts is registered, or is sent inline; the adapter may use it until the completion of this or of a
    /// later work, or until the queue pair is dropped.
    #[inline]
    pub(in crate::verbs) unsafe fn post(&self, works: &mut [Work]) -> Result<(), VerbError> {
        let mut next = null_mut();
        for work in works.iter_mut().rev() {
            work.raw.sg_list = work.parts.as_mut_ptr();
            work.raw.next = next;
            next = &raw mut work.raw;
        }
        let mut bad = null_mut();
        // SAFETY: the caller vouches for the memory; the chain was just linked and lives during the call.
        match unsafe { ibv::ibv_post_send(self.raw.as_ptr(), next, &raw mut bad) } {
            0 => Ok(()),
            number => check("ibv_post_send", number),
        }
    }

    /// Posts receives to this queue pair.
    ///
    /// # Safety
    /// As for [`SharedReceiveQueue::post`].
    pub(in crate::verbs) unsafe fn post_receives(&self, receives: &[Receive]) -> Result<(), VerbError> {
        // SAFETY: as promised by the caller.
        unsafe { post_to_queue_pair(self.raw.as_ptr(), receives) }
    }
}

fn blank() -> ibv::ibv_qp_attr {
    // SAFETY: plain numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: created by `create`; the adapter touches no memory of its work any more when this returns.
        let returned = unsafe { ibv::ibv_destroy_qp(self.raw.as_ptr()) };
        debug_assert_eq!(returned, 0, "ibv_destroy_qp");
    }
}

/// Where datagrams go.
#[derive(Debug)]
pub(in crate::verbs) struct AddressHandle {
    raw: NonNull<ibv::ibv_ah>,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: as for `Context`.
unsafe impl Send for AddressHandle {}

impl AddressHandle {
    pub(in crate::verbs) fn create(domain: &Arc<ProtectionDomain>, path: &Path) -> Result<Self, VerbError> {
        let mut attributes = path.attributes();
        // SAFETY: an existing domain and a readable structure.
        let raw = NonNull::new(unsafe { ibv::ibv_create_ah(domain.as_ptr(), &raw mut attributes) });
        let raw = raw.ok_or_else(|| VerbError::from_errno("ibv_create_ah"))?;
        Ok(Self { raw, _domain: Arc::clone(domain) })
    }
}

impl Drop for AddressHandle {
    fn drop(&mut self) {
        // SAFETY: created by `create`; sends that use it have been posted by now, which is when it is read.
        let returned = unsafe { ibv::ibv_destroy_ah(self.raw.as_ptr()) };
        debug_assert_eq!(returned, 0, "ibv_destroy_ah");
    }
}

/// One work request for a send queue.
pub(in crate::verbs) struct Work {
    raw: ibv::ibv_send_wr,
    parts: [ibv::ibv_sge; 3],
}

/// A stretch of local memory.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct Part {
    pub(in crate::verbs) start: *const u8,
    pub(in crate::verbs) len_bytes: usize,
    /// Not looked at for inline sends.
    pub(in crate::verbs) local_key: u32,
}

impl Work {
    fn new(id: u64, opcode: ibv::ibv_wr_opcode::Type, parts: &[Part]) -> Self {
        // SAFETY: numbers and null pointers, for which zero is a value.
        let mut raw: ibv::ibv_send_wr = unsafe { std::mem::zeroed() };
        raw.wr_id = id;
        raw.opcode = opcode;
        let mut list = [ibv::ibv_sge { addr: 0, length: 0, lkey: 0 }; 3];
        let mut count = 0;
        for part in parts.iter().filter(|part| part.len_bytes > 0) {
            let length = u32::try_from(part.len_bytes).expect("split at the adapter's longest message");
            list[count] = ibv::ibv_sge { addr: part.start as u64, length, lkey: part.local_key };
            count += 1;
        }
        raw.num_sge = count as c_int;
        Self { raw, parts: list }
    }

    /// A message.
    #[inline]
    pub(in crate::verbs) fn send(id: u64, parts: &[Part]) -> Self {
        Self::new(id, ibv::ibv_wr_opcode::IBV_WR_SEND, parts)
    }

    /// A datagram.
    pub(in crate::verbs) fn datagram(id: u64, part: Part, to: &AddressHandle, qpn: u32, qkey: u32) -> Self {
        let mut work = Self::send(id, &[part]);
        work.raw.wr.ud = ibv::ud_t { ah: to.raw.as_ptr(), remote_qpn: qpn, remote_qkey: qkey };
        work
    }

    /// RDMA read into `part`.
    pub(in crate::verbs) fn read(id: u64, part: Part, address: u64, key: u32) -> Self {
        let mut work = Self::new(id, ibv::ibv_wr_opcode::IBV_WR_RDMA_READ, &[part]);
        work.raw.wr.rdma = ibv::rdma_t { remote_addr: address, rkey: key };
        work
    }

    /// RDMA write of `parts`, one behind the other.
    #[inline]
    pub(in crate::verbs) fn write(id: u64, parts: &[Part], address: u64, key: u32) -> Self {
        let mut work = Self::new(id, ibv::ibv_wr_opcode::IBV_WR_RDMA_WRITE, parts);
        work.raw.wr.rdma = ibv::rdma_t { remote_addr: address, rkey: key };
        work
    }

    /// RDMA write of `part` that uses up a receive of the peer's, whose completion has `imm`.
    pub(in crate::verbs) fn write_with_immediate(
        id: u64,
        part: Part,
        address: u64,
        key: u32,
        imm: u32,
    ) -> Self {
        let mut work = Self::new(id, ibv::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM, &[part]);
        work.raw.wr.rdma = ibv::rdma_t { remote_addr: address, rkey: key };
        // In network byte order (ibv_post_send(3)).
        work.raw.imm_data_invalidated_rkey_union =
            ibv::imm_data_invalidated_rkey_union_t { imm_data: imm.to_be() };
        work
    }

    /// Adds to 8 bytes; the old value arrives in `part`.
    pub(in crate::verbs) fn fetch_add(id: u64, part: Part, address: u64, key: u32, add: u64) -> Self {
        let mut work = Self::new(id, ibv::ibv_wr_opcode::IBV_WR_ATOMIC_FETCH_AND_ADD, &[part]);
        work.raw.wr.atomic = ibv::atomic_t { remote_addr: address, compare_add: add, swap: 0, rkey: key };
        work
    }

    /// Replaces 8 bytes by `swap` if they are `compare`; the old value arrives in `part`.
    pub(in crate::verbs) fn compare_swap(
        id: u64,
        part: Part,
        address: u64,
        key: u32,
        (compare, swap): (u64, u64),
    ) -> Self {
        let mut work = Self::new(id, ibv::ibv_wr_opcode::IBV_WR_ATOMIC_CMP_AND_SWP, &[part]);
        work.raw.wr.atomic = ibv::atomic_t { remote_addr: address, compare_add: compare, swap, rkey: key };
        work
    }

    /// Copies the data when it is posted, so that its memory is free at once.
    #[inline]
    pub(in crate::verbs) fn inline(mut self) -> Self {
        self.raw.send_flags |= ibv::ibv_send_flags::IBV_SEND_INLINE.0;
        self
    }

    /// Wants a completion.
    #[inline]
    pub(in crate::verbs) fn signalled(mut self) -> Self {
        self.raw.send_flags |= ibv::ibv_send_flags::IBV_SEND_SIGNALED.0;
        self
    }
}
