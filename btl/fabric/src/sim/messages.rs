//! Messages: copied when they are posted, in order on their lane, lent to the receiver's user, and given back.

use super::arena::Handle;
use super::link::Parcel;
use super::state::{Credit, Event, Ready, State};
use crate::Posted;

impl State {
    /// Where a message may be sent now; or what the post returns instead.
    #[inline]
    pub(super) fn room(&mut self, device: u32, qp: u32) -> Result<(Handle, usize), Posted> {
        let (handle, end) = self.admit(device, qp)?;
        let lane = &self.links.get(handle).ok_or(Posted::Failed)?.lanes[end];
        if lane.window.has_room() && lane.parcels.len() < self.options.send_queue_max as usize {
            Ok((handle, end))
        } else {
            Err(Posted::Busy)
        }
    }

    /// Sends a message for which there is room.
    #[inline]
    pub(super) fn send(&mut self, (handle, end): (Handle, usize), imm: u32, bytes: Box<[u8]>) -> Posted {
        let (transfer_ns, crossed_ns) =
            (self.transfer_ns(bytes.len()), self.crossing(self.options.faults.message_delay_ns));
        let Some(link) = self.links.get_mut(handle).filter(|link| link.ends[end].attached) else {
            // The world went on while the payload was packed.
            return Posted::Failed;
        };
        let (device, peer) = (link.ends[end].device, link.ends[1 - end].device);
        let lane = &mut link.lanes[end];
        lane.window.take();
        lane.last_ns = lane.last_ns.max(crossed_ns) + transfer_ns;
        self.events.push(lane.last_ns, Event::Arrived(handle, end as u8));
        self.statistics.messages += 1;
        self.statistics.message_bytes += bytes.len() as u64;
        let (len_bytes, arrival_ns) = (bytes.len(), lane.last_ns);
        lane.parcels.push_back(Parcel { imm, bytes });
        if let Some(adapter) = self.adapter(device) {
            adapter.outgoing += 1;
        }
        self.note(|_| {
            format!("device {device} sends device {peer} message {imm:#x} of {len_bytes} bytes, for {arrival_ns} ns")
        });
        self.may_break(handle);
        Posted::Complete
    }

    /// After a post that was accepted.
    pub(super) fn may_break(&mut self, handle: Handle) {
        if self.random.chance(self.options.faults.failure) {
            let after_ns = self.random.within(self.options.faults.failure_after_ns);
            self.statistics.faults += 1;
            self.events.push(self.now_ns + after_ns, Event::Broken(handle));
        }
    }

    /// The oldest message of this end arrives, unless the connection has failed before.
    pub(super) fn arrived(&mut self, handle: Handle, sender: u8) {
        let Some(link) = self.links.get_mut(handle) else { return };
        let (from, to) = (link.ends[sender as usize].device, link.ends[1 - sender as usize]);
        let lane = &mut link.lanes[sender as usize];
        let Some(parcel) = lane.parcels.pop_front() else { return };
        let (counted, arrives) = (!lane.forgotten, to.attached && self.now_ns <= lane.cut_ns);
        if counted && let Some(adapter) = self.adapter(from) {
            adapter.outgoing -= 1;
        }
        let imm = parcel.imm;
        if !arrives {
            self.statistics.messages_lost += 1;
            self.note(|_| format!("message {imm:#x} of device {from} to device {} is lost", to.device));
            return;
        }
        self.note(|_| format!("message {imm:#x} of device {from} reaches device {}", to.device));
        let credit = Credit { link: handle, sender };
        self.complete(to.device, Ready::Message { qp: to.qp, imm, bytes: parcel.bytes, credit });
    }

    /// The receiver's user has given a message back.
    #[inline]
    pub(super) fn give_back(&mut self, credit: Credit) {
        let Some(link) = self.links.get_mut(credit.link) else { return };
        if link.lanes[credit.sender as usize].window.release() {
            let time_ns = self.crossing(self.options.faults.credit_delay_ns);
            self.events.push(time_ns, Event::Credits(credit.link, credit.sender));
        }
    }

    /// Word of what was given back has come.
    pub(super) fn credits(&mut self, handle: Handle, sender: u8) {
        if let Some(link) = self.links.get_mut(handle) {
            link.lanes[sender as usize].window.arrive();
        }
    }
}
