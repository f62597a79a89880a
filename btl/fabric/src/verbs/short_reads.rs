//! Soft-iWARP's short reads, which the peer's processor does.
//!
//! To an answer of up to 32 bytes Soft-iWARP copies the data by its user address if the process is in the midst of a post
//! (`in_syscall` in Linux' `siw_try_1seg`), though it is a thread of the kernel that copies, which has no such addresses: the read
//! fails, and the connection with it. Longer answers come from the pages that were registered. Adapters of silicon have no part
//! in this, and one of them that reads from a Soft-iWARP peer is not helped.

use ironband_core::wire::{MessageKind, ReadReply, ReadRequest, SHORT_READ_BYTES_MAX, WireStatus};

use super::device::VerbsDevice;
use super::requests::Request;
use super::works::OUTSTANDING_MAX;
use crate::extent::Want;
use crate::{CompletionStatus, Operation, Posted, QueuePairNumber, RemoteAddress, WorkId};

/// What Soft-iWARP calls its maker (`SIW_VENDOR_ID`: "bmt").
pub(super) const SOFT_IWARP_VENDOR: u32 = 0x0062_6d74;

/// Where the data of a short read goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShortRead {
    local: *mut u8,
    len_bytes: u16,
}

impl VerbsDevice {
    /// True if a read of this length is not for the adapter.
    pub(super) const fn asks_for_read(&self, len_bytes: usize) -> bool {
        self.is_soft_iwarp && len_bytes <= SHORT_READ_BYTES_MAX
    }

    /// Asks the peer's processor for a read.
    ///
    /// # Safety
    /// As for `Device::post_read`.
    pub(super) unsafe fn post_short_read(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        remote: RemoteAddress,
        len_bytes: usize,
    ) -> Posted {
        if !self.has_request_room(qp, true) {
            return Posted::Busy;
        }
        let Some(connection) = &self.peers[qp.index()].connection else { return Posted::Busy };
        let qpn = connection.qpn;
        if self.requests.asked_of(qpn) >= OUTSTANDING_MAX as usize {
            return Posted::Busy;
        }
        let short = ShortRead { local, len_bytes: len_bytes as u16 };
        let request = Request { short: Some(short), ..Request::new(qp, qpn, id, Operation::Read) };
        let job = self.requests.insert(request);
        let RemoteAddress { address, key } = remote;
        let body = ReadRequest { job, len_bytes: short.len_bytes, address, key }.encode();
        let posted = self.transmit(qp, MessageKind::ReadRequest, 0, &body, &[]);
        if posted == Posted::Complete {
            self.tally.asked_reads += 1;
            self.tally.bytes += len_bytes as u64;
            return Posted::Queued;
        }
        // A connection that has failed meanwhile has ended the request.
        if self.requests.remove(job).is_none() { Posted::Queued } else { posted }
    }

    /// A peer wants this process to read for it.
    pub(super) fn serve_read(
        &mut self,
        qp: QueuePairNumber,
        body: &[u8; ReadRequest::BYTES],
    ) -> Result<(), &'static str> {
        let request = ReadRequest::decode(body).filter(|_| self.is_soft_iwarp);
        let request = request.ok_or("it broke the protocol: a read makes no sense")?;
        let len_bytes = request.len_bytes;
        let mut data = [0; SHORT_READ_BYTES_MAX];
        let source = self.regions.check(request.key, request.address, len_bytes.into(), Want::Read);
        if let Some(source) = source {
            // SAFETY: inside a region that is registered for remote reads; `decode` refuses longer ones than `data`.
            unsafe { std::ptr::copy_nonoverlapping(source, data.as_mut_ptr(), len_bytes.into()) };
        }
        let status = if source.is_some() { WireStatus::Success } else { WireStatus::RemoteAccess };
        let reply = ReadReply { job: request.job, status: status as u32, data };
        self.reply(qp, MessageKind::ReadReply, reply.encode())
    }

    /// The peer's answer to a short read.
    pub(super) fn take_read_reply(
        &mut self,
        qp: QueuePairNumber,
        body: &[u8; ReadReply::BYTES],
    ) -> Result<(), &'static str> {
        let reply = ReadReply::decode(body);
        let fits = |request: &&mut Request| request.qp == qp && request.operation == Operation::Read;
        let short = self.requests.get(reply.job).filter(fits).and_then(|request| request.short);
        let short = short.ok_or("it broke the protocol: it answered what was not asked")?;
        if WireStatus::from_u32(reply.status) != Some(WireStatus::Success) {
            self.end_request(reply.job, CompletionStatus::RemoteAccess);
            return Ok(());
        }
        // SAFETY: the poster keeps it writable until the completion, for as many bytes as it asked for.
        unsafe {
            std::ptr::copy_nonoverlapping(reply.data.as_ptr(), short.local, short.len_bytes.into());
        }
        self.end_request(reply.job, CompletionStatus::Success);
        Ok(())
    }
}
