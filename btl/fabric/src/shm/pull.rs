//! Reads through the ring: the asker sends a request, the owner feeds the memory into its ring, piece by piece, and the
//! asker copies each piece out of it while the owner writes the next.

use std::time::{Duration, Instant};

use ironband_core::config::SingleCopy;
use ironband_core::path::{Allowed, Path};
use ironband_core::wire::{PullRequest, PushAck, RecordKind, WireStatus};

use super::copy::{self, CrossMemoryError};
use super::device::ShmDevice;
use super::queue_pair::{CrossMemory, corrupt};
use super::regions::Want;
use super::serve::{BAD_JOB, BAD_LENGTH, Body};
use super::transfer::{
    JobKind, Task, Timed, WatchedPull, claim_back, claim_front, pull_chunk_bytes, split_ticket_word,
    ticket_word,
};
use crate::{CompletionStatus, Operation, Posted, QueuePairNumber, ReadHint, RemoteMemory, WorkId};

/// Longest transfer for which a copy through the ring is tried when the kernel could copy: beyond, a trial costs too much.
const PULL_TRIAL_BYTES_MAX: usize = 4 << 20;
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
        remote: RemoteMemory,
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
            start: Instant::now(),
            ticket,
        };
        let posted = match self.admit(qp, id, kind) {
            Ok(number) => {
                let chunk = pull_chunk_bytes(len_bytes, self.capabilities.limits.send_copy_bytes_max);
                let request = PullRequest {
                    job: number,
                    chunk_bytes: chunk as u32,
                    address: remote.address,
                    key: remote.key,
                    len_bytes: len_bytes as u64,
                    ticket: ticket.map_or(PullRequest::NO_TICKET, |(number, uses)| ticket_word(number, uses)),
                    reserved: 0,
                };
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

    /// The ways that a read may take.
    pub(super) fn allowed(&self, qp: QueuePairNumber, len_bytes: usize, hint: ReadHint) -> Allowed {
        let kernel = self.qps[qp.index()].cross_memory == CrossMemory::Permitted;
        let both = hint == ReadHint::OwnerIsWaiting;
        let pull =
            !kernel || (both && self.single_copy == SingleCopy::Auto && len_bytes <= PULL_TRIAL_BYTES_MAX);
        let share = kernel && both && len_bytes >= self.share_bytes;
        Allowed { pull, read: kernel, share }
    }

    pub(super) fn take_pull_data(
        &mut self,
        qp: QueuePairNumber,
        number: u32,
        body: Body,
    ) -> Result<(), String> {
        let Some(job) = self.jobs.get_mut(number, qp) else { return Ok(()) };
        let JobKind::Pull { local, len_bytes, received, start, .. } = &mut job.kind else {
            return Err(BAD_JOB.to_owned());
        };
        if body.len_bytes > *len_bytes - *received {
            return Err("it sent more than was asked for".to_owned());
        }
        // SAFETY: the poster keeps `local` writable for `len_bytes`; the piece ends inside, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(body.start, local.add(*received), body.len_bytes) };
        *received += body.len_bytes;
        if *received == *len_bytes {
            let timed = Timed { path: Path::Pull, len_bytes: *len_bytes, start: *start };
            if let Some((id, _)) = self.end_job(qp, number) {
                self.observe(qp, timed);
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
            let JobKind::Pull { local, remote, len_bytes, received, start, ticket: Some((ticket, _)) } =
                job.kind
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
                    self.observe(qp, Timed { path: Path::Pull, len_bytes, start });
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
        let longest = self.send_copy_bytes_max();
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
}
