//! Two lines of a device: one that peers read behind their writes, and one that the own such reads arrive in.
//!
//! An iWARP adapter calls a write complete when it is on its way; the answer to a read behind it says that it has arrived. A read of
//! nothing would do, but Soft-iWARP answers one with the length of the answer before. Nor is a word enough, see `short_reads`.

use std::ptr::NonNull;
use std::sync::Arc;

use ironband_core::wire;

use super::device::VerbsDevice;
use super::object::{Buffers, MemoryRegion, Part, ProtectionDomain, VerbError, Work};
use super::requests::work_id;
use super::works::Underway;
use crate::{Access, QueuePairNumber};

/// Length of a read.
const LINE_BYTES: usize = 64;

/// The lines.
#[derive(Debug)]
pub(super) struct Landing {
    // The registration goes before its memory.
    region: MemoryRegion,
    page: Buffers,
}

impl Landing {
    pub(super) fn make(domain: &Arc<ProtectionDomain>) -> Result<Self, VerbError> {
        let page = Buffers::allocate(domain, LINE_BYTES, 2, Access::LOCAL)?;
        let access = Access { remote_read: true, ..Access::LOCAL };
        // SAFETY: the page stays mapped until it is dropped, after the region.
        let region = unsafe { MemoryRegion::register(domain, page.at(0).as_ptr(), 2 * LINE_BYTES, access) }?;
        Ok(Self { region, page })
    }

    /// What peers have to know.
    pub(super) fn of_peers(&self) -> wire::Landing {
        let start: NonNull<u8> = self.page.at(0);
        wire::Landing { address: start.as_ptr() as u64, key: self.region.remote_key() }
    }

    /// Where own reads arrive.
    fn part(&self) -> Part {
        Part { start: self.page.at(1).as_ptr(), len_bytes: LINE_BYTES, local_key: self.region.local_key() }
    }
}

impl VerbsDevice {
    /// Posts a read of the peer's line, which is a work of `what`; `None` if there is no room.
    pub(super) fn read_landing(
        &mut self,
        qp: QueuePairNumber,
        what: Underway,
    ) -> Option<Result<(), VerbError>> {
        let connection = self.peers[qp.index()].connection.as_mut()?;
        let landing = self.landing.as_ref().filter(|_| connection.works.has_request_room())?;
        let (number, _) = connection.works.note(what, true);
        let (there, id) = (connection.landing, work_id(qp, number));
        let work = Work::read(id, landing.part(), there.address, there.key);
        // SAFETY: memory of this device's own, that nobody looks at.
        let posted = unsafe { connection.qp.post(&mut [work.signalled()]) };
        if posted.is_err() {
            connection.works.unnote();
        }
        Some(posted)
    }
}
