//! Messages through eager rings: who gets one, what goes there, and how its messages keep their order among those that come
//! through receives.

use ironband_core::wire::{
    MessageKind, RING_OFFER_BYTES, RingOffer, SLOT_MESSAGE_BYTES_MAX, SLOT_TRAILER_BYTES, SlotTrailer,
    padded_bytes,
};

use super::complete::part;
use super::connection::Connection;
use super::device::VerbsDevice;
use super::eager_ring::{Arrived, HOT_AFTER, Outbound};
use super::object::{Part, Work};
use super::receives::Owner;
use super::works::Underway;
use crate::{Completion, Message, Payload, Posted, QueuePairNumber, ReceiveToken};

const BROKEN: &str = "it broke the protocol: what it has written to its ring is no message";

/// Length of the write that puts a message of this length into a ring.
#[inline]
pub(super) const fn ring_write_bytes(len_bytes: usize) -> usize {
    padded_bytes(len_bytes) + SLOT_TRAILER_BYTES
}

impl Connection {
    /// True if a message of this length goes to the peer's ring.
    #[inline]
    pub(super) const fn writes_to_ring(&self, len_bytes: usize) -> bool {
        self.outbound.is_some() && len_bytes <= self.ring_message_bytes_max
    }

    /// Where in the peer's ring the next message goes, the key for it, and what stands behind the message.
    #[inline]
    fn next_slot(&mut self, len_bytes: usize, imm: u32, credits: u16) -> Option<(u64, u32, SlotTrailer)> {
        let ring = self.outbound.as_mut()?;
        let (number, address) = ring.next(len_bytes);
        let trailer = SlotTrailer { len_bytes: len_bytes as u16, credits, sends: self.sends, imm, number };
        Some((address, ring.key(), trailer))
    }
}

impl VerbsDevice {
    /// Writes a message to the next slot of the peer's ring, inline; see [`Connection::writes_to_ring`].
    #[inline]
    pub(super) fn transmit_to_ring(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload: &[u8],
    ) -> Posted {
        let credits = match self.take_credit(qp, MessageKind::Send) {
            Ok(credits) => credits,
            Err(posted) => return posted,
        };
        let len_bytes = header.len() + payload.len();
        let Some(connection) = &mut self.peers[qp.index()].connection else { return Posted::Busy };
        let Some((address, key, trailer)) = connection.next_slot(len_bytes, imm, credits) else {
            return Posted::Busy;
        };
        self.tally.in_rings += 1;
        self.tally.bytes += len_bytes as u64;
        // Zeros for padding, and the trailer.
        let mut tail = [0; 8 + SLOT_TRAILER_BYTES];
        tail[8..].copy_from_slice(&trailer.encode());
        let padding = padded_bytes(len_bytes) - len_bytes;
        let parts = [part(header), part(payload), part(&tail[8 - padding..])];
        // SAFETY: sent inline: all three are copied before the call returns.
        unsafe {
            self.post_message(qp, Underway::Inline, |id| Work::write(id, &parts, address, key).inline())
        }
    }

    /// Writes a message that lies in a send buffer to the next slot of the peer's ring; its credit has been taken.
    #[inline]
    pub(super) fn transmit_buffer_to_ring(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        credits: u16,
        (bounce, len_bytes): (u32, usize),
    ) -> Posted {
        let Some(connection) = &mut self.peers[qp.index()].connection else { return Posted::Busy };
        let Some((address, key, trailer)) = connection.next_slot(len_bytes, imm, credits) else {
            return Posted::Busy;
        };
        self.tally.in_rings += 1;
        let start = self.bounces.at(bounce);
        let padding = padded_bytes(len_bytes) - len_bytes;
        // SAFETY: a send buffer is longer than a slot (`BUFFER_BYTES_MIN`), and the message fits one.
        unsafe {
            let end = start.add(len_bytes);
            end.write_bytes(0, padding);
            end.add(padding).cast::<[u8; SLOT_TRAILER_BYTES]>().write(trailer.encode());
        }
        let len_bytes = ring_write_bytes(len_bytes);
        let whole = Part { start: start.as_ptr(), len_bytes, local_key: self.bounces.local_key(bounce) };
        // SAFETY: the buffer is this message's until the completion.
        unsafe {
            self.post_message(qp, Underway::Bounce(bounce), |id| Work::write(id, &[whole], address, key))
        }
    }

    /// The next message in any ring.
    #[inline]
    pub(super) fn poll_rings(&mut self) -> Option<Completion> {
        let arrived = self.rings.find()?;
        let Owner { qp, qpn } = arrived.owner;
        // What comes on a connection that ends is taken when its last message tells that all has come.
        let is_current = self.peers[qp.index()].connection.as_ref().is_some_and(|it| it.qpn == qpn);
        if is_current { self.take_arrived(arrived) } else { None }
    }

    /// Takes a message out of a ring, unless messages through receives come before it.
    #[inline]
    fn take_arrived(&mut self, arrived: Arrived) -> Option<Completion> {
        let Arrived { ring, owner: Owner { qp, qpn }, trailer } = arrived;
        let Some(trailer) = trailer else {
            self.fail_current(qp, qpn, BROKEN);
            return None;
        };
        let connection = self.connection_of(qp, qpn)?;
        let before = trailer.sends.wrapping_sub(connection.received).cast_signed();
        if before > 0 {
            return None;
        }
        if before < 0 || !connection.credits.take_back(trailer.credits) {
            self.fail_current(qp, qpn, BROKEN);
            return None;
        }
        let (body, token) = self.rings.take(ring, &trailer)?;
        let payload = Payload::new(body, trailer.len_bytes.into());
        Some(Completion::Received(Message { qp, imm: trailer.imm, payload, token }))
    }

    /// Hands out what came to a connection's ring before the message that has just come through a receive: its adapter
    /// has written all of that by now.
    #[cold]
    pub(super) fn drain_ring(&mut self, qpn: u32) {
        while let Some(arrived) = self.rings.find_of(qpn) {
            let Some(found) = self.take_arrived(arrived) else { return };
            self.done.push_back(found);
        }
    }

    fn fail_current(&mut self, qp: QueuePairNumber, qpn: u32, reason: &str) {
        if self.peers[qp.index()].connection.as_ref().is_some_and(|it| it.qpn == qpn) {
            self.fail(qp, reason.to_owned());
        }
    }

    /// Counts a short message that came through a receive; a peer that sends many is offered a ring.
    #[inline]
    pub(super) fn warm(&mut self, qp: QueuePairNumber, len_bytes: usize) {
        // An iWARP adapter may write in any order; see `core::wire`.
        if len_bytes > SLOT_MESSAGE_BYTES_MAX || self.landing.is_some() {
            return;
        }
        let Some(connection) = &mut self.peers[qp.index()].connection else { return };
        connection.heat += 1;
        if connection.heat >= HOT_AFTER && !connection.has_ring {
            self.offer_ring(qp);
        }
    }

    #[cold]
    fn offer_ring(&mut self, qp: QueuePairNumber) {
        let may_send = self.peers[qp.index()].open && self.may_send(qp, MessageKind::Ring);
        let Some(connection) = &mut self.peers[qp.index()].connection else { return };
        // Where there is no room, or no ring, it is tried again after as many messages.
        connection.heat = 0;
        let qpn = connection.qpn;
        if !may_send || self.rings_refused {
            return;
        }
        let offer = match self.rings.claim(&self.domain, Owner { qp, qpn }) {
            Ok(Some(offer)) => offer,
            Ok(None) => return,
            Err(error) => {
                self.rings_refused = true;
                self.notices.push_back(format!(
                    "no eager ring for peers that send much: {error}; their messages come through receives"
                ));
                return;
            }
        };
        if self.transmit(qp, MessageKind::Ring, 0, &offer, &[]) == Posted::Complete {
            if let Some(connection) = &mut self.peers[qp.index()].connection {
                connection.has_ring = true;
            }
        } else {
            self.rings.abandon(qpn);
        }
    }

    /// The peer has a ring for this process.
    pub(super) fn take_ring_offer(
        &mut self,
        qp: QueuePairNumber,
        bytes: &[u8; RING_OFFER_BYTES],
    ) -> Result<(), &'static str> {
        let Some(connection) = &mut self.peers[qp.index()].connection else { return Ok(()) };
        match RingOffer::decode(bytes).filter(|offer| offer.slots >= connection.credits.offered()) {
            Some(offer) if connection.outbound.is_none() => {
                connection.outbound = Some(Outbound::new(offer));
                Ok(())
            }
            _ => Err("it broke the protocol: its ring cannot be"),
        }
    }

    /// A message in a ring was given back.
    #[inline]
    pub(super) fn release_slot(&mut self, token: ReceiveToken) {
        if let Some((owner, freed)) = self.rings.end_loan(token.0)
            && freed > 0
        {
            self.owe(owner, freed);
        }
    }
}
