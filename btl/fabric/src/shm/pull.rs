//! Reads through the ring: the asker sends a request, the owner feeds the memory into its ring, piece by piece, and the
//! asker copies each piece out of it while the owner writes the next.
//!
//! The question costs a crossing, and with 4 to 256 KiB that is a good part of the whole. So an owner that sends a message
//! about a region may feed it right behind that message, *ahead* of the question: if the reader has asked for it (by a bit in
//! the ring's head, one per power of two). The reader asks while that is the fastest way for the length, as measured, and
//! stops for a while when what came found nobody waiting, because it is then copied for nothing.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ironband_core::config::SingleCopy;
use ironband_core::path::{Allowed, Path, class_of};
use ironband_core::wire::{AheadOffer, PullRequest, PushAck, RecordKind, WireStatus};

use super::copy::{self, CrossMemoryError};
use super::device::ShmDevice;
use super::queue_pair::{CrossMemory, corrupt};
use super::serve::{BAD_JOB, BAD_LENGTH, Body};
use super::transfer::{
    AheadState, AwaitedOffer, JobKind, Task, Timed, WatchedPull, claim_back, claim_front, piece, pieces,
    pull_chunk_bytes, split_ticket_word, ticket_word,
};
use crate::extent::Want;
use crate::{CompletionStatus, Operation, Posted, QueuePairNumber, ReadHint, RemoteAddress, WorkId};

/// Longest transfer for which a copy through the ring is tried when the kernel could copy: beyond, a trial costs too much.
const PULL_TRIAL_BYTES_MAX: usize = 4 << 20;
/// From this length on both processes copy a part of a long message when both wait for it.
const SHARE_BYTES_MIN: usize = 128 << 10;
/// Sent ahead is at most this part of a ring, so that it fits while other messages are on their way ...
const AHEAD_RING_FRACTION: usize = 2;
/// ... and no more than this, because nothing is received meanwhile.
const AHEAD_BYTES_MAX: usize = 256 << 10;
/// Reads for which nothing is sent ahead, after something was in vain; doubled each time that happens again.
const AHEAD_HOLD_MIN: u32 = 64;
const AHEAD_HOLD_MAX: u32 = 8192;
/// Bytes fed into one ring by one poll, so that receiving goes on in between.
pub(super) const FEED_BYTES_PER_POLL: usize = 64 << 10;
/// How long an owner may take to begin a pull before the asker reads by itself, where the kernel allows it. Several times
/// what an owner that waits in MPI needs, and much less than a time slice.
const PULL_PATIENCE: Duration = Duration::from_micros(30);
/// How long it may pause once it has begun: it may have lost its processor, and much has been copied already.
const FEED_PATIENCE: Duration = Duration::from_millis(2);

impl ShmDevice {
    pub(super) fn pull(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        remote: RemoteAddress,
        len_bytes: usize,
    ) -> Posted {
        // Where the kernel copies, an owner that computes need not be waited for.
        let kernel = self.qps[qp.index()].cross_memory == CrossMemory::Permitted;
        let ticket = if kernel { self.qps[qp.index()].take_ticket(1) } else { None };
        let kind = JobKind::Pull {
            local,
            remote: remote.address,
            len_bytes,
            received: 0,
            start: Some(Instant::now()),
            ticket,
            path: Path::Pull,
        };
        let posted = match self.admit(qp, id, kind) {
            Ok(number) => {
                let request = self.pull_request(number, remote, len_bytes, ticket);
                let posted = self.ask(qp, number, RecordKind::PullRequest, &request.encode());
                if posted == Posted::Queued && ticket.is_some() {
                    let since = Instant::now();
                    self.pulls.push_back(WatchedPull { qp, job: number, begun: false, received: 0, since });
                }
                posted
            }
            Err(posted) => posted,
        };
        if posted != Posted::Queued
            && let Some((number, _)) = ticket
        {
            self.qps[qp.index()].tickets |= 1 << number;
        }
        posted
    }

    fn pull_request(
        &self,
        job: u32,
        remote: RemoteAddress,
        len_bytes: usize,
        ticket: Option<(usize, u16)>,
    ) -> PullRequest {
        PullRequest {
            job,
            chunk_bytes: pull_chunk_bytes(len_bytes, self.capabilities.limits.send_copy_bytes_max) as u32,
            address: remote.address,
            key: remote.key,
            len_bytes: len_bytes as u64,
            ticket: ticket.map_or(PullRequest::NO_TICKET, |(number, uses)| ticket_word(number, uses)),
            reserved: 0,
        }
    }

    /// The ways that a read may take.
    pub(super) fn allowed(&self, qp: QueuePairNumber, len_bytes: usize, hint: ReadHint) -> Allowed {
        let kernel = self.qps[qp.index()].cross_memory == CrossMemory::Permitted;
        let both = hint == ReadHint::OwnerIsWaiting;
        let pull =
            !kernel || (both && self.single_copy == SingleCopy::Auto && len_bytes <= PULL_TRIAL_BYTES_MAX);
        let share = kernel && both && len_bytes >= SHARE_BYTES_MIN;
        let ahead =
            pull && both && len_bytes <= self.ahead_bytes_max() && self.qps[qp.index()].ahead.hold == 0;
        Allowed { pull, read: kernel, share, ahead }
    }

    pub(super) fn take_pull_data(
        &mut self,
        qp: QueuePairNumber,
        number: u32,
        body: Body,
    ) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(number, qp) else { return Ok(()) };
        let JobKind::Pull { local, len_bytes, received, start, path, .. } = &mut job.kind else {
            return Err(BAD_JOB.to_owned());
        };
        if body.len_bytes > *len_bytes - *received {
            return Err("it sent more than was asked for".to_owned());
        }
        // SAFETY: the poster keeps `local` writable for `len_bytes`; the piece ends inside, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(body.start, local.add(*received), body.len_bytes) };
        *received += body.len_bytes;
        if *received == *len_bytes {
            let timed = start.map(|start| Timed { path: *path, len_bytes: *len_bytes, start });
            if let Some((id, _)) = self.end_job(qp, number) {
                if let Some(timed) = timed {
                    self.observe(qp, timed);
                }
                self.finish(qp, id, Operation::Read, CompletionStatus::Success);
            }
        }
        Ok(())
    }

    /// Reads by the kernel what an owner has not begun to send for long: it is computing.
    pub(super) fn take_over_pulls(&mut self) {
        while let Some(pull) = self.pulls.front_mut() {
            let (qp, number) = (pull.qp, pull.job);
            let Some(job) = self.jobs.get_mut(number, qp) else {
                self.pulls.pop_front();
                continue;
            };
            let JobKind::Pull {
                local, remote, len_bytes, received, start, ticket: Some((ticket, _)), ..
            } = job.kind
            else {
                self.pulls.pop_front();
                continue;
            };
            if received > pull.received {
                (pull.received, pull.since) = (received, Instant::now());
            }
            let begun = pull.begun || received > 0;
            if pull.since.elapsed() < if begun { FEED_PATIENCE } else { PULL_PATIENCE } {
                return;
            }
            let entry = &self.qps[qp.index()];
            let taken =
                entry.tx.as_ref().is_some_and(|tx| claim_front(&tx.memory.head().tickets[ticket]).is_ok());
            if !taken && !begun {
                // The owner has begun after all, and gets more time.
                pull.begun = true;
                return;
            }
            self.pulls.pop_front();
            let (rest, from) = (len_bytes - received, remote + received as u64);
            // SAFETY: the poster keeps `local` writable for `len_bytes` until the completion. Pieces that still come find no
            // job and are dropped.
            let result = unsafe { copy::read_process(entry.card.pid, local.add(received), from, rest) };
            let Some((id, _)) = self.end_job(qp, number) else { continue };
            match result {
                Ok(()) => {
                    if let Some(start) = start {
                        self.observe(qp, Timed { path: Path::Pull, len_bytes, start });
                    }
                    self.finish(qp, id, Operation::Read, CompletionStatus::Success);
                }
                Err(CrossMemoryError::Unmapped) => {
                    self.finish(qp, id, Operation::Read, CompletionStatus::Unmapped);
                }
                Err(error) => {
                    self.finish(qp, id, Operation::Read, CompletionStatus::Flushed);
                    self.fail(qp, format!("the kernel stopped copying: {error:?}"));
                }
            }
        }
    }

    pub(super) fn serve_pull(&mut self, qp: QueuePairNumber, body: Body) -> Result<(), String> {
        let request = PullRequest::decode(&body.fixed::<{ PullRequest::BYTES }>()?).ok_or(BAD_LENGTH)?;
        if request.ticket != PullRequest::NO_TICKET {
            let (number, use_number) =
                split_ticket_word(request.ticket).ok_or("it named a ticket that no ring has")?;
            // The asker did not wait: there is nothing left to do.
            if self.inbound_ticket(qp, number).is_none_or(|ticket| claim_back(ticket, use_number).is_none()) {
                return Ok(());
            }
        }
        self.answering(qp)?;
        let Some(start) = self.regions.check(request.key, request.address, request.len_bytes, Want::Read)
        else {
            let refusal = PushAck { job: request.job, status: WireStatus::RemoteAccess as u32 };
            return self.qps[qp.index()].reply(RecordKind::PullRefused, &refusal.encode());
        };
        let longest = self.capabilities.limits.send_copy_bytes_max;
        self.take_on(Task::Feed {
            qp,
            job: request.job,
            key: request.key,
            next: start,
            left_bytes: request.len_bytes as usize,
            chunk_bytes: (request.chunk_bytes as usize).clamp(64, longest),
        })
    }

    pub(super) fn feed(&mut self, task: Task) -> Result<Option<Task>, String> {
        let Task::Feed { qp, job, key, mut next, mut left_bytes, chunk_bytes } = task else {
            return Ok(None);
        };
        // The registration may have ended since the last turn, and the memory with it.
        if self.regions.check(key, next as u64, left_bytes as u64, Want::Read).is_none() {
            let refusal = PushAck { job, status: WireStatus::RemoteAccess as u32 };
            return self.qps[qp.index()].reply(RecordKind::PullRefused, &refusal.encode()).map(|()| None);
        }
        if self.qps[qp.index()].tx.is_none() {
            self.answering(qp)?;
        }
        let mut fed = 0;
        while left_bytes > 0 && fed < FEED_BYTES_PER_POLL {
            let len = left_bytes.min(chunk_bytes);
            let entry = &mut self.qps[qp.index()];
            match entry.send_record(RecordKind::PullData, job, &[], (next, len)).map_err(corrupt)? {
                Posted::Complete => {}
                _ => break,
            }
            next = next.wrapping_add(len);
            left_bytes -= len;
            fed += len;
        }
        Ok((left_bytes > 0).then_some(Task::Feed { qp, job, key, next, left_bytes, chunk_bytes }))
    }

    fn ahead_bytes_max(&self) -> usize {
        AHEAD_BYTES_MAX.min(self.ring_bytes / AHEAD_RING_FRACTION)
    }

    /// Sends a message and, if the peer wants that and there is room for all of it, the memory it tells of. `None`: nothing
    /// was sent.
    pub(super) fn send_ahead(
        &mut self,
        qp: QueuePairNumber,
        imm: u32,
        header: &[u8],
        payload: &[u8],
        key: u64,
    ) -> Option<Posted> {
        let ahead_bytes_max = self.ahead_bytes_max();
        let entry = self.qps.get_mut(qp.index())?;
        let tx = entry.tx.as_mut()?;
        let wanted = tx.memory.head().ahead_wanted.load(Ordering::Relaxed);
        if wanted == 0 {
            return None;
        }
        let (start, len_bytes) = self.regions.readable(key)?;
        if wanted & 1 << class_of(len_bytes) == 0 || len_bytes > ahead_bytes_max {
            return None;
        }
        let message_bytes = header.len() + payload.len();
        let chunk = pull_chunk_bytes(len_bytes, self.capabilities.limits.send_copy_bytes_max);
        let records = 2 + pieces(len_bytes, chunk) as usize;
        if message_bytes > chunk || !tx.has_room(records, chunk, len_bytes + message_bytes) {
            return None;
        }
        let offer = AheadOffer { address: start as u64, key, len_bytes: len_bytes as u64 };
        let mut send = |kind, imm, head: &[u8], data| match entry.send_record(kind, imm, head, data) {
            Ok(posted) => {
                assert_eq!(posted, Posted::Complete, "has_room promised room");
                Ok(())
            }
            Err(error) => Err(error),
        };
        let sent = send(RecordKind::SendAhead, imm, header, (payload.as_ptr(), payload.len()))
            .and_then(|()| send(RecordKind::AheadOffer, 0, &offer.encode(), (std::ptr::null(), 0)))
            .and_then(|()| {
                (0..pieces(len_bytes, chunk)).try_for_each(|index| {
                    let (offset, len) = piece(index, len_bytes, chunk);
                    send(RecordKind::AheadData, 0, &[], (start.wrapping_add(offset), len))
                })
            });
        Some(match sent {
            Ok(()) => Posted::Complete,
            Err(error) => self.fail_corrupt(qp, error),
        })
    }

    /// The message that is being handed out has its memory behind it.
    #[cold]
    pub(super) fn expect_offer(&mut self, qp: QueuePairNumber) {
        self.qps[qp.index()].ahead.state = AheadState::Due(None);
    }

    /// Tells the peer what is wanted of it from now on, and lets this read wait for what is on its way already. `None`:
    /// nothing is.
    pub(super) fn await_offer(
        &mut self,
        qp: QueuePairNumber,
        id: WorkId,
        local: *mut u8,
        remote: RemoteAddress,
        len_bytes: usize,
        path: Path,
    ) -> Option<Posted> {
        let due = self.qps[qp.index()].ahead.state == AheadState::Due(None);
        self.wish(qp, len_bytes, path == Path::Ahead, due);
        if !due {
            return None;
        }
        let timed = self.qps[qp.index()].chooser.is_timed(Path::Ahead, len_bytes);
        let kind = JobKind::Pull {
            local,
            remote: remote.address,
            len_bytes,
            received: 0,
            start: timed.then(Instant::now),
            ticket: None,
            path: Path::Ahead,
        };
        match self.admit(qp, id, kind) {
            Ok(job) => {
                let awaited = AwaitedOffer { job, remote, len_bytes };
                self.qps[qp.index()].ahead.state = AheadState::Due(Some(awaited));
                Some(Posted::Queued)
            }
            Err(posted) => Some(posted),
        }
    }

    /// Notes whether memory of this length is to be sent ahead, for the peer to see.
    fn wish(&mut self, qp: QueuePairNumber, len_bytes: usize, wanted: bool, came: bool) {
        let bit = 1 << class_of(len_bytes);
        let entry = &mut self.qps[qp.index()];
        entry.ahead.hold = entry.ahead.hold.saturating_sub(1);
        let before = entry.ahead.wanted;
        if wanted && !came && before & bit != 0 {
            // The peer could have known: it did not announce the region, or had no room.
            entry.chooser.observe(Path::Ahead, len_bytes, u64::MAX >> 16);
        }
        let now = if wanted { before | bit } else { before & !bit };
        if now != before {
            entry.ahead.wanted = now;
            self.show_wishes(qp);
        }
    }

    #[cold]
    fn show_wishes(&mut self, qp: QueuePairNumber) {
        let wanted = self.qps[qp.index()].ahead.wanted;
        if let Some(ring) = self.inbound.of(qp)
            && let Some(entry) = self.inbound.get_mut(ring)
        {
            entry.consumer.memory.head().ahead_wanted.store(wanted, Ordering::Relaxed);
        }
    }

    pub(super) fn take_offer(&mut self, qp: QueuePairNumber, body: Body) -> Result<(), String> {
        let offer = AheadOffer::decode(&body.fixed::<{ AheadOffer::BYTES }>()?).ok_or(BAD_LENGTH)?;
        let ahead = &mut self.qps[qp.index()].ahead;
        // Idle: the queue pair was destroyed and made again meanwhile.
        let AheadState::Due(awaited) = std::mem::take(&mut ahead.state) else { return Ok(()) };
        let Some(awaited) = awaited else {
            self.refuse_offers(qp);
            return Ok(());
        };
        let fits = offer.address == awaited.remote.address
            && offer.key == awaited.remote.key
            && offer.len_bytes == awaited.len_bytes as u64;
        if fits {
            ahead.state = AheadState::Taking(awaited.job);
            ahead.next_hold = AHEAD_HOLD_MIN;
            return Ok(());
        }
        // What came is something else: ask. The answer is not worth timing.
        let request = self.pull_request(awaited.job, awaited.remote, awaited.len_bytes, None);
        self.answering(qp)?;
        self.qps[qp.index()].reply(RecordKind::PullRequest, &request.encode())
    }

    /// Nobody was waiting for what was sent ahead: the program had not posted its receive.
    fn refuse_offers(&mut self, qp: QueuePairNumber) {
        let ahead = &mut self.qps[qp.index()].ahead;
        ahead.next_hold = ahead.next_hold.clamp(AHEAD_HOLD_MIN, AHEAD_HOLD_MAX);
        ahead.hold = ahead.next_hold;
        ahead.next_hold *= 2;
        ahead.wanted = 0;
        self.show_wishes(qp);
    }

    pub(super) fn take_ahead_data(&mut self, qp: QueuePairNumber, body: Body) -> Result<(), String> {
        match self.qps[qp.index()].ahead.state {
            AheadState::Taking(job) => self.take_pull_data(qp, job, body),
            AheadState::Idle => Ok(()),
            AheadState::Due(_) => Err("it broke the protocol: bytes came before their offer".to_owned()),
        }
    }
}
