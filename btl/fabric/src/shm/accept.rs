//! Connections from the other end's point of view, and what is looked at from time to time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ironband_core::limits::{CONNECT_SLOTS, RING_BYTES_MAX, RING_BYTES_MIN};
use ironband_core::wire::{CARD_BYTES, Card};

use super::device::ShmDevice;
use super::layout::{CARD_WORDS, ConnectSlot, Control, MappedRing, connect_state, ring_region_bytes};
use super::queue_pair::QueuePair;
use super::segment::PeerSegment;
use crate::host;
use crate::{QueuePairNumber, Unreachable};

/// How often peers that owe an answer are looked for in the process table.
const LIFE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A connection request, copied out of shared memory.
struct Request {
    key: [u8; 16],
    card: [u8; CARD_BYTES],
    ring_offset: u64,
    ring_bytes: u64,
}

impl Request {
    fn read(slot: &ConnectSlot) -> Self {
        let (mut key, mut card) = ([0; 16], [0; CARD_BYTES]);
        for (bytes, cell) in key.as_chunks_mut::<8>().0.iter_mut().zip(&slot.key) {
            *bytes = cell.load(Ordering::Relaxed).to_le_bytes();
        }
        debug_assert_eq!(slot.card.len(), CARD_WORDS);
        for (bytes, cell) in card.as_chunks_mut::<8>().0.iter_mut().zip(&slot.card) {
            *bytes = cell.load(Ordering::Relaxed).to_le_bytes();
        }
        let word = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed);
        Self { key, card, ring_offset: word(&slot.ring_offset), ring_bytes: word(&slot.ring_bytes) }
    }
}

impl ShmDevice {
    /// The queue pair to the process with this card, made if there is none.
    pub(super) fn qp_of(&mut self, card: Card, address: &[u8]) -> QueuePairNumber {
        *self.by_key.entry(card.key).or_insert_with(|| {
            let number = QueuePairNumber(self.qps.len() as u32);
            self.qps.push(QueuePair::new(card, address));
            number
        })
    }

    /// Looks at all requests that peers have made since the last look.
    pub(super) fn accept_requests(&mut self) {
        self.requests_seen = self.control().requests.load(Ordering::Acquire);
        for index in 0..CONNECT_SLOTS {
            let slot = &self.control().connect[index];
            let (ready, accepting) = (connect_state::READY, connect_state::ACCEPTING);
            // By exchange: the asker may withdraw it at the same moment.
            if slot.state.load(Ordering::Relaxed) != ready
                || slot.state.compare_exchange(ready, accepting, Ordering::AcqRel, Ordering::Relaxed).is_err()
            {
                continue;
            }
            let request = Request::read(slot);
            let accepted = self.accept(&request);
            // SAFETY: `Control` is made of atomics; borrowed again because `accept` changed the device.
            let control = unsafe { self.control.shared::<Control>(0) };
            let answer = if accepted { connect_state::ACCEPTED } else { connect_state::REFUSED };
            control.connect[index].state.store(answer, Ordering::Release);
        }
    }

    /// Maps the ring that a peer offers. What is refused for a reason that the user should know becomes an event.
    fn accept(&mut self, request: &Request) -> bool {
        // A process that does not know our key was not given our card by the launcher: a stranger, not answered further.
        if request.key != self.card.key {
            return false;
        }
        let Ok(card) = Card::decode(&request.card) else { return false };
        let qp = self.qp_of(card, &request.card);
        if self.qps[qp.index()].failure.is_some() || self.inbound.of(qp).is_some() {
            return false;
        }
        match self.map_ring(&card, request, qp) {
            Ok(()) => {
                self.probe_peer(qp);
                true
            }
            Err(unreachable) => {
                self.fail(qp, unreachable.reason);
                false
            }
        }
    }

    fn map_ring(&mut self, card: &Card, request: &Request, qp: QueuePairNumber) -> Result<(), Unreachable> {
        if let Some(reason) = self.card.host.mismatch(&card.host) {
            return Err(Unreachable::because(reason));
        }
        let ring_bytes = usize::try_from(request.ring_bytes)
            .ok()
            .filter(|bytes| bytes.is_power_of_two() && (RING_BYTES_MIN..=RING_BYTES_MAX).contains(bytes))
            .ok_or_else(|| {
                Unreachable::because(format!("it offers a ring of {} bytes", request.ring_bytes))
            })?;
        let mapping = PeerSegment::open(card)?.map(request.ring_offset, ring_region_bytes(ring_bytes))?;
        // SAFETY: as in `control`; borrowed apart from `inbound`.
        let control = unsafe { self.control.shared::<Control>(0) };
        self.inbound
            .add(control, MappedRing::new(mapping, ring_bytes), qp)
            .map(|_| ())
            .ok_or_else(|| Unreachable::because("this process has as many local peers as it can have"))
    }

    /// Stops reading from a peer.
    pub(super) fn close_inbound(&mut self, qp: QueuePairNumber) {
        if let Some(ring) = self.inbound.of(qp) {
            self.inbound.close(ring);
        }
    }

    /// Answers to connection requests, room for kept answers, rings of closed queue pairs, peers that have died.
    pub(super) fn keep_house(&mut self) {
        let check_life = self.last_life_check.elapsed() >= LIFE_CHECK_INTERVAL;
        if check_life {
            self.last_life_check = Instant::now();
        }
        let mut restless = false;
        for index in 0..self.qps.len() {
            let entry = &mut self.qps[index];
            if entry.failure.is_some() {
                continue;
            }
            let mut result = entry
                .check_request()
                .and_then(|()| entry.flush_replies())
                .and_then(|()| entry.leave_on(&mut self.segment));
            if result.is_ok() && entry.tx.is_none() && !entry.replies.is_empty() {
                let connected = entry.connect(&self.card, &mut self.segment, self.ring_bytes);
                result = connected.map(|_| ()).map_err(|unreachable| unreachable.reason);
            }
            // Shared transfers are not counted as outstanding: each has a ticket.
            let owes = entry.outstanding > 0
                || entry.waiting_since.is_some()
                || entry.tickets | entry.tickets_lost != u16::MAX
                || !entry.is_drained();
            if check_life && owes && !host::is_alive(entry.card.pid) {
                result = Err("the process has ended".to_owned());
            }
            let overdue = if check_life { entry.overdue(self.connect_deadline) } else { None };
            self.notices.extend(overdue);
            restless |= !entry.is_quiet() || entry.is_leaving();
            if let Err(reason) = result {
                let qp = QueuePairNumber(index as u32);
                let entry = &mut self.qps[index];
                if entry.closed {
                    entry.replies.clear();
                    entry.drop_ring(&mut self.segment);
                } else {
                    self.fail(qp, reason);
                }
            }
        }
        self.restless = restless;
    }
}
