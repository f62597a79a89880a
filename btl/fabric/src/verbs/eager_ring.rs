//! Eager rings: a peer that sends much is given memory that it writes its short messages to, so that they are found without the
//! adapter's queues. See [`ironband_core::wire::SlotTrailer`] for what a slot holds.
//!
//! A message in a slot costs its sender a credit as any other does. Credits of slots are given back in the order of the
//! slots, so whoever has a credit finds the next slot free: there are as many slots as credits.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ironband_core::wire::{
    RING_OFFER_BYTES, RingOffer, SLOT_BYTES, SLOT_MESSAGE_BYTES_MAX, SLOT_TRAILER_BYTES, SlotTrailer,
    padded_bytes,
};

use super::object::{Buffers, ProtectionDomain, VerbError};
use super::receives::Owner;
use crate::{Access, ReceiveToken};

/// Marks tokens of messages in a ring.
pub(super) const IN_RING: u64 = 1 << 61;
/// Slots of a ring; no connection has more credits.
pub(super) const SLOTS: u16 = 32;
/// Peers that get a ring: each costs 72 KiB and a look per poll.
pub(super) const RINGS_MAX: usize = 16;
/// Short messages after which a peer is given a ring.
pub(super) const HOT_AFTER: u32 = 64;

/// A ring of the peer's, where this process writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outbound {
    offer: RingOffer,
    written: u32,
}

impl Outbound {
    pub(super) const fn new(offer: RingOffer) -> Self {
        Self { offer, written: 0 }
    }

    pub(super) const fn key(&self) -> u32 {
        self.offer.key
    }

    /// The number of the next message and where it goes, given its length.
    #[inline]
    pub(super) fn next(&mut self, len_bytes: usize) -> (u32, u64) {
        let slot = u64::from(self.written % u32::from(self.offer.slots));
        self.written = self.written.wrapping_add(1);
        let end = self.offer.address + (slot + 1) * SLOT_BYTES as u64;
        (self.written, end - (SLOT_TRAILER_BYTES + padded_bytes(len_bytes)) as u64)
    }
}

/// Which messages of a ring have been taken and given back: pure bookkeeping.
#[derive(Debug, Default)]
struct Loans {
    taken: u32,
    /// Taken and given back, with all before them.
    returned: u32,
    /// Those behind `returned`, from bit 0 on.
    given_back: u32,
}

impl Loans {
    /// How many slots are lent, or wait for one that is.
    const fn out(&self) -> u32 {
        self.taken.wrapping_sub(self.returned)
    }

    /// Takes back the message with this number; says how many credits that frees.
    fn give_back(&mut self, number: u32) -> u16 {
        let place = number.wrapping_sub(self.returned).wrapping_sub(1);
        if place >= self.out() {
            return 0;
        }
        self.given_back |= 1 << place;
        let freed = self.given_back.trailing_ones();
        self.given_back = self.given_back.checked_shr(freed).unwrap_or(0);
        self.returned = self.returned.wrapping_add(freed);
        freed as u16
    }
}

/// A ring of this process, where one peer writes.
#[derive(Debug)]
struct Inbound {
    slots: Buffers,
    loans: Loans,
    /// Whose it is; `None` when the connection is gone and messages are still lent.
    owner: Option<Owner>,
}

impl Inbound {
    /// First byte of the slot of the next message.
    fn next_slot(&self) -> NonNull<u8> {
        self.slots.at(self.loans.taken % u32::from(SLOTS))
    }

    #[inline]
    fn has_next(&self) -> bool {
        // Without a free slot the peer has no credit; what it writes all the same is left alone.
        if self.loans.out() == u32::from(SLOTS) {
            return false;
        }
        // SAFETY: the last word of a slot of this ring, aligned to its length. The adapter writes it for the peer, so it is
        // read as an atomic.
        let last = unsafe { self.next_slot().add(SLOT_BYTES - 4).cast::<AtomicU32>().as_ref() };
        // What was written before the number is there when the number is.
        last.load(Ordering::Acquire) == self.loans.taken.wrapping_add(1)
    }
}

/// A message that has arrived in a ring.
pub(super) struct Arrived {
    pub(super) ring: usize,
    pub(super) owner: Owner,
    /// `None` if the peer has written what no trailer is.
    pub(super) trailer: Option<SlotTrailer>,
}

/// All rings of this process where peers write.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Tokens name rings by their places, so a place is free only when nothing of its ring is lent.
    rings: Vec<Option<Inbound>>,
    /// The ring to look at first.
    turn: usize,
    /// The ring whose message was taken last.
    last: usize,
}

impl Rings {
    /// A ring for this peer; `None` when there are enough.
    pub(super) fn claim(
        &mut self,
        domain: &Arc<ProtectionDomain>,
        owner: Owner,
    ) -> Result<Option<[u8; RING_OFFER_BYTES]>, VerbError> {
        let free = self.rings.iter().position(Option::is_none);
        if free.is_none() && self.rings.len() == RINGS_MAX {
            return Ok(None);
        }
        let access = Access { remote_write: true, ..Access::LOCAL };
        // Memory of its own, with a key of its own: who has the key of one ring reaches no other.
        let slots = Buffers::allocate(domain, SLOT_BYTES, SLOTS.into(), access)?;
        let offer = RingOffer { address: slots.at(0).as_ptr() as u64, key: slots.remote_key(), slots: SLOTS };
        let ring = Some(Inbound { slots, loans: Loans::default(), owner: Some(owner) });
        match free {
            Some(place) => self.rings[place] = ring,
            None => self.rings.push(ring),
        }
        Ok(Some(offer.encode()))
    }

    /// The connection is gone, or has not been told of its ring.
    pub(super) fn abandon(&mut self, qpn: u32) {
        for ring in self.rings.iter_mut().flatten() {
            ring.owner = ring.owner.filter(|owner| owner.qpn != qpn);
        }
        self.drop_unused();
    }

    fn drop_unused(&mut self) {
        for place in &mut self.rings {
            place.take_if(|ring| ring.owner.is_none() && ring.loans.out() == 0);
        }
        while self.rings.last().is_some_and(Option::is_none) {
            self.rings.pop();
        }
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    /// True when the ring whose message was handed out last has another one.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.rings.get(self.last).is_some_and(|ring| ring.as_ref().is_some_and(Inbound::has_next))
    }

    /// Looks at all rings for a message.
    #[inline]
    pub(super) fn find(&mut self) -> Option<Arrived> {
        for _ in 0..self.rings.len() {
            self.turn = if self.turn + 1 >= self.rings.len() { 0 } else { self.turn + 1 };
            let found = self.look(self.turn);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Looks at the ring of one connection.
    pub(super) fn find_of(&self, qpn: u32) -> Option<Arrived> {
        let owner = |ring: &Option<Inbound>| ring.as_ref().and_then(|ring| ring.owner);
        self.look(self.rings.iter().position(|ring| owner(ring).is_some_and(|owner| owner.qpn == qpn))?)
    }

    #[inline]
    fn look(&self, index: usize) -> Option<Arrived> {
        let ring = self.rings[index].as_ref()?;
        let owner = ring.owner.filter(|_| ring.has_next())?;
        // SAFETY: the trailer of a slot of this ring, copied out before anything in it is believed.
        let bytes: [u8; SLOT_TRAILER_BYTES] =
            unsafe { ring.next_slot().add(SLOT_MESSAGE_BYTES_MAX).cast().read_volatile() };
        Some(Arrived { ring: index, owner, trailer: SlotTrailer::decode(bytes) })
    }

    /// Takes the message that was found: where it lies, and its token.
    #[inline]
    pub(super) fn take(&mut self, ring: usize, trailer: &SlotTrailer) -> Option<(NonNull<u8>, ReceiveToken)> {
        self.last = ring;
        let inbound = self.rings[ring].as_mut()?;
        let padded = padded_bytes(trailer.len_bytes.into());
        // SAFETY: inside the slot: `decode` refuses longer messages.
        let body = unsafe { inbound.next_slot().add(SLOT_MESSAGE_BYTES_MAX - padded) };
        inbound.loans.taken = inbound.loans.taken.wrapping_add(1);
        Some((body, ReceiveToken(IN_RING | (ring as u64) << 32 | u64::from(inbound.loans.taken))))
    }

    /// Ends a loan: whose message it was, and how many credits that frees.
    #[inline]
    pub(super) fn end_loan(&mut self, token: u64) -> Option<(Owner, u16)> {
        let index = ((token & !IN_RING) >> 32) as usize;
        let ring = self.rings.get_mut(index)?.as_mut()?;
        let freed = ring.loans.give_back(token as u32);
        let owner = ring.owner;
        if owner.is_none() {
            self.drop_unused();
        }
        owner.map(|owner| (owner, freed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_end_where_slots_end() {
        let mut ring = Outbound::new(RingOffer { address: 0x1000, key: 1, slots: 2 });
        let slot = SLOT_BYTES as u64;
        assert_eq!(ring.next(0), (1, 0x1000 + slot - 16));
        assert_eq!(ring.next(9), (2, 0x1000 + 2 * slot - 32));
        assert_eq!(ring.next(SLOT_MESSAGE_BYTES_MAX), (3, 0x1000));
    }

    #[test]
    fn what_was_not_lent_is_not_taken_back() {
        let mut loans = Loans { taken: 3, returned: 1, given_back: 0 };
        assert_eq!((loans.give_back(1), loans.give_back(4), loans.give_back(0)), (0, 0, 0));
        assert_eq!((loans.give_back(3), loans.give_back(2)), (0, 2));
        assert_eq!(loans.out(), 0);
        assert_eq!(loans.give_back(3), 0);
    }

    proptest! {
        /// Whatever the order in which messages are given back: credits come in the order of the slots, each once, so the slot
        /// that a credit is for is free.
        #[test]
        fn credits_come_in_the_order_of_slots(
            choices in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400),
            start in any::<u32>(),
        ) {
            let mut loans = Loans { taken: start, returned: start, given_back: 0 };
            let (mut out, mut credits) = (Vec::<u32>::new(), u32::from(SLOTS));
            for (take, choice) in choices {
                if take && credits > 0 {
                    credits -= 1;
                    loans.taken = loans.taken.wrapping_add(1);
                    // The slot of this number held the message SLOTS before, which must be back.
                    prop_assert!(!out.contains(&loans.taken.wrapping_sub(SLOTS.into())));
                    out.push(loans.taken);
                } else if !out.is_empty() {
                    credits += u32::from(loans.give_back(out.swap_remove(choice.index(out.len()))));
                }
            }
            for number in out {
                credits += u32::from(loans.give_back(number));
            }
            prop_assert_eq!(credits, u32::from(SLOTS));
            prop_assert_eq!(loans.out(), 0);
        }
    }
}
