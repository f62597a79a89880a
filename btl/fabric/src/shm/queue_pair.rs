//! One queue pair: the ring to a peer, and how it came about.
//!
//! Connecting takes no round trip. The asker makes a ring in its own segment, writes a request into a free slot of
//! the peer's control block and may send at once; the peer finds messages in the ring when it accepts. Each direction has its
//! own ring and is connected by its own sender, so two processes that connect at the same moment do not collide.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ironband_core::limits::{CONNECT_SLOTS, SHARED_COPIES_MAX};
use ironband_core::path::PathChooser;
use ironband_core::wire::{CARD_VERSION, Card, RecordKind};

use super::copy;
use super::layout::{
    CONTROL_BYTES, ConnectSlot, Control, MAGIC, MappedRing, connect_state, ring_region_bytes,
};
use super::ring::{Corrupt, INLINE_BODY_BYTES, LINE_BODY_BYTES, Producer};
use super::segment::{Mapping, PAGE_BYTES, PeerSegment, Segment};
use super::stores::StoresChooser;
use super::transfer::{Ahead, Claims};
use crate::host;
use crate::short_copy::copy_short;
use crate::{Posted, Unreachable};

/// What is known of copies through the kernel to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CrossMemory {
    /// Not tried yet: there is no connection.
    Unknown,
    /// A probe went through.
    Permitted,
    /// The user turned it off, or the probe was refused.
    Unavailable,
}

/// An answer that had no room in the ring.
type Reply = (RecordKind, [u8; INLINE_BODY_BYTES], usize);

/// Answers that may wait for room. A correct peer has at most `outstanding_max` requests under way.
const REPLIES_MAX: usize = 4 * super::OUTSTANDING_MAX;

#[derive(Debug)]
pub(crate) struct QueuePair {
    /// First, because the small-message path touches nothing else: the ring to the peer, once connected.
    pub(crate) tx: Option<Producer<MappedRing>>,
    pub(crate) peer: Option<Mapping>,
    pub(crate) card: Card,
    pub(crate) address: Vec<u8>,
    /// Set when the queue pair is in the error state.
    pub(crate) failure: Option<String>,
    /// Set by `destroy_qp`, cleared by the next `create_qp` for the same peer.
    pub(crate) closed: bool,
    pub(crate) cross_memory: CrossMemory,
    pub(crate) chooser: PathChooser,
    stores: StoresChooser,
    /// Memory that the peer sends unasked.
    pub(crate) ahead: Ahead,
    /// Requests of this side that the peer has not answered.
    pub(crate) outstanding: usize,
    pub(crate) replies: VecDeque<Reply>,
    /// Free tickets of the ring, one bit each.
    pub(crate) tickets: u16,
    /// Tickets of transfers that failed: the other end may still hold a piece, so they are not used again.
    pub(crate) tickets_lost: u16,
    /// Reuse count of each ticket; goes into its claims so that a late look at an old transfer takes nothing of a new one.
    pub(crate) ticket_uses: [u16; SHARED_COPIES_MAX],
    /// When the last transfer from this peer ended, for timing those that queue up.
    pub(crate) last_end: Option<Instant>,
    /// The connection request: slot and time, until it is answered.
    pub(crate) request: Option<(usize, Instant)>,
    ring_range: Option<(u64, usize)>,
    /// The ring of a life that was ended: it stays until the peer has read it all.
    leaving: Option<Producer<MappedRing>>,
    said_goodbye: bool,
    /// Since when a connection has been wanted and could not even be asked for.
    pub(crate) waiting_since: Option<Instant>,
    claims_tried: u32,
    overdue_told: bool,
}

const _: () = assert!(SHARED_COPIES_MAX == 16, "`tickets` has a bit for each");

impl QueuePair {
    pub(crate) fn new(card: Card, address: &[u8]) -> Self {
        Self {
            tx: None,
            peer: None,
            card,
            address: address.to_vec(),
            failure: None,
            closed: false,
            cross_memory: CrossMemory::Unknown,
            chooser: PathChooser::default(),
            stores: StoresChooser::default(),
            ahead: Ahead::default(),
            outstanding: 0,
            replies: VecDeque::new(),
            tickets: u16::MAX,
            tickets_lost: 0,
            ticket_uses: [0; SHARED_COPIES_MAX],
            last_end: None,
            request: None,
            ring_range: None,
            leaving: None,
            said_goodbye: false,
            waiting_since: None,
            claims_tried: 0,
            overdue_told: false,
        }
    }

    /// How messages to the user call the peer.
    pub(crate) fn peer_name(&self) -> String {
        format!("rank {} (process {})", self.card.rank, self.card.pid)
    }

    /// Makes the ring and asks the peer to look at it. `Ok(false)`: all request slots of the peer are taken, or it has not
    /// yet read the last ring to its end; try later.
    pub(crate) fn connect(
        &mut self,
        own: &Card,
        segment: &mut Segment,
        ring_bytes: usize,
    ) -> Result<bool, Unreachable> {
        if self.peer.is_none() {
            let mapping = PeerSegment::open(&self.card)?.map(0, CONTROL_BYTES)?;
            // SAFETY: `Control` is made of atomics, and all processes use it so.
            let control = unsafe { mapping.shared::<Control>(0) };
            let (magic, version) =
                (control.magic.load(Ordering::Acquire), control.version.load(Ordering::Acquire));
            if magic != MAGIC || version != u64::from(CARD_VERSION) {
                return Err(Unreachable::because(format!(
                    "its segment has magic {magic:#018x} and version {version}, expected {MAGIC:#018x} and {CARD_VERSION}"
                )));
            }
            self.peer = Some(mapping);
        }
        self.leave_on(segment).map_err(Unreachable::because)?;
        let claimed = if self.is_leaving() { None } else { self.claim_slot(own.pid) };
        let Some(slot) = claimed else {
            self.waiting_since.get_or_insert_with(Instant::now);
            return Ok(false);
        };
        self.waiting_since = None;
        let region_bytes = ring_region_bytes(ring_bytes);
        let what = format!("the ring from rank {} to {}", own.rank, self.peer_name());
        let (offset, mapping) = match segment.allocate(region_bytes, &what) {
            Ok(ring) => ring,
            Err(error) => {
                give_back(self.slot(slot));
                return Err(Unreachable::because(error.to_string()));
            }
        };
        self.ring_range = Some((offset, region_bytes));
        self.tx = Some(Producer::new(MappedRing::new(mapping, ring_bytes)));
        self.submit(slot, own, offset, ring_bytes);
        self.request = Some((slot, Instant::now()));
        Ok(true)
    }

    /// The peer's control block.
    ///
    /// # Panics
    /// Before `connect` has mapped it.
    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        let mapping = self.peer.as_ref().expect("connect maps the control block before anything uses it");
        // SAFETY: `Control` is made of atomics, and all processes use it so.
        unsafe { mapping.shared(0) }
    }

    fn slot(&self, index: usize) -> &ConnectSlot {
        &self.control().connect[index]
    }

    /// Claims a request slot of the peer. Slots whose claimer died are taken over, but that costs a system call for each slot
    /// and is only tried now and then.
    fn claim_slot(&mut self, own_pid: u32) -> Option<usize> {
        const TAKE_OVER_INTERVAL: u32 = 64;
        self.claims_tried = self.claims_tried.wrapping_add(1);
        let take_over = self.claims_tried.is_multiple_of(TAKE_OVER_INTERVAL);
        let start = own_pid as usize;
        (0..CONNECT_SLOTS).map(|i| (start + i) % CONNECT_SLOTS).find(|&index| {
            let slot = self.slot(index);
            let before = slot.claimer.load(Ordering::Acquire);
            // What the owner has been told of or is looking at stays its own.
            let owners = || {
                matches!(slot.state.load(Ordering::Acquire), connect_state::READY | connect_state::ACCEPTING)
            };
            let free = before == 0 || (take_over && !owners() && !host::is_alive(before));
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let won = free && slot.claimer.compare_exchange(before, own_pid, success, failure).is_ok();
            if won {
                slot.state.store(connect_state::CLAIMED, Ordering::Release);
            }
            won
        })
    }

    fn submit(&self, index: usize, own: &Card, ring_offset: u64, ring_bytes: usize) {
        let slot = self.slot(index);
        let words = |bytes: &[u8]| -> Vec<u64> {
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
        };
        for (cell, word) in slot.key.iter().zip(words(&self.card.key)) {
            cell.store(word, Ordering::Relaxed);
        }
        for (cell, word) in slot.card.iter().zip(words(&own.encode())) {
            cell.store(word, Ordering::Relaxed);
        }
        slot.ring_offset.store(ring_offset, Ordering::Relaxed);
        slot.ring_bytes.store(ring_bytes as u64, Ordering::Relaxed);
        slot.state.store(connect_state::READY, Ordering::Release);
        self.control().requests.fetch_add(1, Ordering::Release);
    }

    /// Looks whether the peer has answered the connection request. An error is the reason for the error state.
    pub(crate) fn check_request(&mut self) -> Result<(), String> {
        let Some((index, _)) = self.request else { return Ok(()) };
        let slot = self.slot(index);
        match slot.state.load(Ordering::Acquire) {
            connect_state::ACCEPTED => {
                give_back(slot);
                self.request = None;
                Ok(())
            }
            connect_state::REFUSED => {
                give_back(slot);
                self.request = None;
                Err("it refused the connection: either it could not map the ring (its own message says why) or this \
                     process has the address of another job"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// What to tell the user, once, of a peer that has not accepted the connection for so long. It is no failure: a process
    /// that computes makes no MPI calls, for hours if it likes, and a stopped one may go on.
    pub(crate) fn overdue(&mut self, deadline: Duration) -> Option<String> {
        let since = self.request.map(|(_, since)| since).or(self.waiting_since)?;
        if self.overdue_told || since.elapsed() < deadline {
            return None;
        }
        self.overdue_told = true;
        Some(format!(
            "{} has not accepted a connection for {} s (btl_ironband_connect_seconds): it makes no MPI calls, is stopped, or \
             has no processor; messages to it wait",
            self.peer_name(),
            deadline.as_secs()
        ))
    }

    /// Sets the peer's doorbell.
    #[cold]
    #[inline(never)]
    pub(crate) fn ring_bell(&self, bit: u32) {
        self.control().ring_bell(bit);
    }

    /// Tells the peer, if it sleeps, that a record has been published.
    #[inline(always)]
    pub(crate) fn notify(&self) {
        if let Some(tx) = &self.tx {
            let bell = tx.memory.head().bell.load(Ordering::Acquire);
            if bell != 0 {
                self.ring_bell(bell - 1);
            }
        }
    }

    /// Sends one record with a short head and any data.
    #[inline]
    pub(crate) fn send_record(
        &mut self,
        kind: RecordKind,
        imm: u32,
        head: &[u8],
        data: (*const u8, usize),
    ) -> Result<Posted, Corrupt> {
        let Some(tx) = &mut self.tx else { return Ok(Posted::Failed) };
        let len = head.len() + data.1;
        let Some(claim) = tx.claim(len)? else { return Ok(Posted::Busy) };
        let body = tx.memory.body(claim.place).as_ptr();
        // SAFETY: the claim gives `len` bytes at `body`; the caller passes a readable range.
        self.stores.write(data.1, |how| unsafe { copy::store(how, data.0, body.add(head.len()), data.1) });
        // SAFETY: as above.
        unsafe {
            if head.len() <= LINE_BODY_BYTES {
                copy_short(body, head.as_ptr(), head.len());
            } else {
                std::ptr::copy_nonoverlapping(head.as_ptr(), body, head.len());
            }
        }
        tx.publish(claim, kind as u8, len, imm);
        self.notify();
        Ok(Posted::Complete)
    }

    /// Sends an answer, or keeps it until there is room. An error is the reason for the error state.
    pub(crate) fn reply(&mut self, kind: RecordKind, body: &[u8]) -> Result<(), String> {
        if self.replies.is_empty()
            && self.send_record(kind, 0, body, (std::ptr::null(), 0)).map_err(corrupt)? == Posted::Complete
        {
            return Ok(());
        }
        if self.replies.len() >= REPLIES_MAX {
            return Err(format!("it asked for {REPLIES_MAX} things without reading the answers"));
        }
        let mut bytes = [0; INLINE_BODY_BYTES];
        bytes[..body.len()].copy_from_slice(body);
        self.replies.push_back((kind, bytes, body.len()));
        Ok(())
    }

    /// Sends kept answers as far as there is room.
    pub(crate) fn flush_replies(&mut self) -> Result<(), String> {
        while let Some((kind, bytes, len)) = self.replies.front().copied() {
            match self.send_record(kind, 0, &bytes[..len], (std::ptr::null(), 0)).map_err(corrupt)? {
                Posted::Complete => drop(self.replies.pop_front()),
                _ => break,
            }
        }
        Ok(())
    }

    /// True when the peer has taken everything that was sent.
    pub(crate) fn is_drained(&self) -> bool {
        let drained = |ring: &Option<Producer<MappedRing>>| ring.as_ref().is_none_or(Producer::is_drained);
        self.request.is_none() && self.replies.is_empty() && drained(&self.tx) && drained(&self.leaving)
    }

    /// True when nothing waits to be written into a ring or to be read by [`Self::check_request`].
    pub(crate) fn is_quiet(&self) -> bool {
        self.request.is_none() && self.replies.is_empty() && (self.leaving.is_none() || self.said_goodbye)
    }

    /// Ends the sending side: what was sent arrives, then the peer closes its end. Until it has, there is no other ring, or
    /// the peer would find two.
    pub(crate) fn leave(&mut self) {
        if let Some(mut tx) = self.tx.take() {
            tx.unreserve();
            self.leaving = Some(tx);
            self.said_goodbye = false;
        }
    }

    /// True while the peer has not read the ring of an ended life to its end.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Goes on leaving; gives the ring back when the peer has read it all.
    pub(crate) fn leave_on(&mut self, segment: &mut Segment) -> Result<(), String> {
        if self.is_leaving() && !self.said_goodbye {
            std::mem::swap(&mut self.tx, &mut self.leaving);
            let said = self.say_goodbye();
            std::mem::swap(&mut self.tx, &mut self.leaving);
            self.said_goodbye = said?;
        }
        if self.is_read_to_the_end() {
            self.drop_ring(segment);
        }
        Ok(())
    }

    /// `false`: there is no room yet.
    fn say_goodbye(&mut self) -> Result<bool, String> {
        self.flush_replies()?;
        let goodbye = |qp: &mut Self| qp.send_record(RecordKind::Goodbye, 0, &[], (std::ptr::null(), 0));
        Ok(self.replies.is_empty() && goodbye(self).map_err(corrupt)? == Posted::Complete)
    }

    fn is_read_to_the_end(&self) -> bool {
        self.said_goodbye && self.request.is_none() && self.leaving.as_ref().is_some_and(Producer::is_drained)
    }

    /// Takes the connection request back, if the peer has not begun to look at it.
    fn withdraw(&mut self) -> bool {
        let Some((index, _)) = self.request.take() else { return false };
        let slot = self.slot(index);
        let order = (Ordering::AcqRel, Ordering::Acquire);
        match slot.state.compare_exchange(connect_state::READY, connect_state::CLAIMED, order.0, order.1) {
            Ok(_) => {
                give_back(slot);
                true
            }
            Err(connect_state::ACCEPTED | connect_state::REFUSED) => {
                give_back(slot);
                false
            }
            // The peer is about to answer a question that nobody asks any more; the slot is lost until this process ends.
            Err(_) => false,
        }
    }

    /// Takes a free ticket of the ring for a transfer of so many pieces; `None` if there is none. Gives its number and use.
    pub(crate) fn take_ticket(&mut self, pieces: u32) -> Option<(usize, u16)> {
        let number = self.tickets.trailing_zeros() as usize;
        let tx = self.tx.as_ref().filter(|_| self.tickets != 0)?;
        let use_number = self.ticket_uses[number].wrapping_add(1);
        let ticket = &tx.memory.head().tickets[number];
        ticket.written.store(0, Ordering::Relaxed);
        ticket.failed.store(0, Ordering::Relaxed);
        ticket.claims.store(Claims { use_number, back: pieces, front: 0 }.pack(), Ordering::Release);
        self.tickets &= !(1 << number);
        self.ticket_uses[number] = use_number;
        Some((number, use_number))
    }

    /// Lets the owner take no more pieces of a shared transfer: it has ended, and the memory may serve something else.
    pub(crate) fn revoke(&self, ticket: usize) {
        if let Some(ring) = self.tx.as_ref().or(self.leaving.as_ref()) {
            let none = Claims { use_number: self.ticket_uses[ticket], back: 0, front: 0 };
            ring.memory.head().tickets[ticket].claims.store(none.pack(), Ordering::Release);
        }
    }

    /// Gives the ring's memory back.
    pub(crate) fn drop_ring(&mut self, segment: &mut Segment) {
        let unused = self.is_read_to_the_end() || self.withdraw() || !host::is_alive(self.card.pid);
        (self.tx, self.leaving) = (None, None);
        (self.tickets, self.tickets_lost) = (u16::MAX, 0);
        if let Some((offset, len_bytes)) = self.ring_range.take() {
            // A peer that still reads it would find zeroes where its messages were, and deliver them. So the range is then
            // left as it is until this process ends; that is rare, because the connection has failed.
            if unused {
                segment.free(offset, len_bytes);
            }
        }
    }
}

/// Makes a request slot free for others.
fn give_back(slot: &ConnectSlot) {
    slot.state.store(connect_state::FREE, Ordering::Release);
    slot.claimer.store(0, Ordering::Release);
}

/// A peer's nonsense as a reason.
pub(crate) fn corrupt(corrupt: Corrupt) -> String {
    format!("it broke the protocol: {}", corrupt.0)
}

const _: () = assert!(CONTROL_BYTES.is_multiple_of(PAGE_BYTES));
