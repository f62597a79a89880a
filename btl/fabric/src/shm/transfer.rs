//! Transfers that take more than one step: pulls and pushes through the ring, copies that both ends share, atomics.
//!
//! A *job* is a request of this process that waits for the peer; its number travels with the request and comes back with the
//! answer. A *task* is a piece of work that this process does bit by bit in `poll_cq`: for its own jobs or for a peer's.

use std::collections::VecDeque;
use std::mem::{Discriminant, discriminant};
use std::sync::atomic::Ordering;
use std::time::Instant;

use ironband_core::limits::SHARED_COPIES_MAX;
use ironband_core::path::Path;

use super::layout::Ticket;
use crate::{AtomicWidth, QueuePairNumber, RemoteAddress, WorkId};

/// What a job waits for.
#[derive(Debug)]
pub(crate) enum JobKind {
    /// Pull data: where it goes, what has come, and when it was asked for. With a ticket (and its use) the asker can read by
    /// itself, from `remote`, if the owner does not begin.
    Pull {
        local: *mut u8,
        remote: u64,
        len_bytes: usize,
        received: usize,
        /// `None`: not to be timed.
        start: Option<Instant>,
        ticket: Option<(usize, u16)>,
        /// `Pull` or `Ahead`.
        path: Path,
    },
    /// The acknowledgement of a push.
    Push,
    /// The old value.
    Atomic { result: *mut u8, width: AtomicWidth },
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) qp: QueuePairNumber,
    pub(crate) id: WorkId,
    pub(crate) kind: JobKind,
}

/// Jobs by number. A number is an index and a generation, so that an answer to an old job finds nothing.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    table: Vec<(u16, Option<Job>)>,
    free: Vec<u16>,
}

impl Jobs {
    /// `None` when 65,536 jobs are under way.
    pub(crate) fn add(&mut self, job: Job) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u16::try_from(self.table.len()).ok()?;
                self.table.push((0, None));
                index
            }
        };
        let entry = &mut self.table[usize::from(index)];
        entry.1 = Some(job);
        Some(u32::from(index) | u32::from(entry.0) << 16)
    }

    /// The job with this number, if it is one of this queue pair: peers cannot end each other's jobs.
    pub(crate) fn get_mut(&mut self, number: u32, qp: QueuePairNumber) -> Option<&mut Job> {
        let (generation, job) = self.table.get_mut(number as u16 as usize)?;
        if *generation != (number >> 16) as u16 {
            return None;
        }
        job.as_mut().filter(|job| job.qp == qp)
    }

    pub(crate) fn remove(&mut self, number: u32, qp: QueuePairNumber) -> Option<Job> {
        self.get_mut(number, qp)?;
        let index = number as u16;
        let entry = &mut self.table[usize::from(index)];
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(index);
        entry.1.take()
    }

    /// Numbers of all jobs of a queue pair.
    pub(crate) fn of(&self, qp: QueuePairNumber) -> Vec<u32> {
        let number = |(index, (generation, job)): (usize, &(u16, Option<Job>))| {
            job.as_ref().filter(|job| job.qp == qp).map(|_| index as u32 | u32::from(*generation) << 16)
        };
        self.table.iter().enumerate().filter_map(number).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.table.len()
    }
}

/// What is known of memory that a peer sends unasked, behind the message that tells of it.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    pub(crate) state: AheadState,
    /// The classes for which it was asked to, as in the ring's head.
    pub(crate) wanted: u32,
    /// Reads until it is asked to again: what it sent found nobody waiting.
    pub(crate) hold: u32,
    /// The next such pause.
    pub(crate) next_hold: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AheadState {
    /// Nothing is on its way, or nothing that anybody wants.
    #[default]
    Idle,
    /// An offer comes next. This read waits for it, if the message has led to one.
    Due(Option<AwaitedOffer>),
    /// The bytes are for this job.
    Taking(u32),
}

/// A read that has not been asked for, because its bytes seem to be on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AwaitedOffer {
    pub(crate) job: u32,
    pub(crate) remote: RemoteAddress,
    pub(crate) len_bytes: usize,
}

/// A pull that is watched, because the reader could go on by itself.
#[derive(Debug)]
pub(crate) struct WatchedPull {
    pub(crate) qp: QueuePairNumber,
    pub(crate) job: u32,
    /// The owner has taken the ticket.
    pub(crate) begun: bool,
    /// What had come at the last look, and since when nothing more has.
    pub(crate) received: usize,
    pub(crate) since: Instant,
}

/// Work to be done bit by bit.
#[derive(Debug)]
pub(crate) enum Task {
    /// Send a piece of own memory that a peer pulls.
    Feed { qp: QueuePairNumber, job: u32, key: u64, next: *const u8, left_bytes: usize, chunk_bytes: usize },
    /// Send a piece of an own write.
    Push {
        qp: QueuePairNumber,
        job: u32,
        next: *const u8,
        left_bytes: usize,
        address: u64,
        key: u64,
        total_bytes: u64,
        notify: Option<u32>,
    },
    /// Read pieces of a transfer that both ends share, from the front.
    ReadShare(ReadShare),
    /// Write pieces of such a transfer, from the back.
    WriteShare {
        qp: QueuePairNumber,
        ticket: u32,
        key: u64,
        source: *const u8,
        target: u64,
        len_bytes: usize,
        chunk_bytes: usize,
    },
}

impl Task {
    pub(crate) const fn qp(&self) -> QueuePairNumber {
        match self {
            Self::Feed { qp, .. } | Self::Push { qp, .. } | Self::WriteShare { qp, .. } => *qp,
            Self::ReadShare(read) => read.qp,
        }
    }
}

/// The tasks of one kind for one queue pair, served in order: finishing one before the next is begun keeps its data in the
/// cache, and makes the time that a transfer takes mean something.
#[derive(Debug)]
struct Lane {
    qp: QueuePairNumber,
    kind: Discriminant<Task>,
    queue: VecDeque<Task>,
}

/// All tasks.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    lanes: Vec<Lane>,
}

impl Tasks {
    fn lane(&mut self, task: &Task) -> &mut VecDeque<Task> {
        let (qp, kind) = (task.qp(), discriminant(task));
        let found = self.lanes.iter().position(|lane| lane.qp == qp && lane.kind == kind);
        let at = found.unwrap_or_else(|| {
            self.lanes.push(Lane { qp, kind, queue: VecDeque::new() });
            self.lanes.len() - 1
        });
        &mut self.lanes[at].queue
    }

    /// Adds a task behind those of its kind.
    pub(crate) fn push(&mut self, task: Task) {
        self.lane(&task).push_back(task);
    }

    /// Puts a task that is not finished back, before those of its kind.
    pub(crate) fn resume(&mut self, task: Task) {
        self.lane(&task).push_front(task);
    }

    /// The next task of the lane with this number. Lanes are numbered from 0 without gaps until [`Tasks::sweep`].
    pub(crate) fn next_of(&mut self, lane: usize) -> Option<Task> {
        self.lanes.get_mut(lane)?.queue.pop_front()
    }

    /// Removes lanes that are empty.
    pub(crate) fn sweep(&mut self) {
        self.lanes.retain(|lane| !lane.queue.is_empty());
    }

    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// True when nothing is to be done (after [`Tasks::sweep`]).
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Queue pairs that have a write of their own to send.
    pub(crate) fn pushing(&self) -> impl Iterator<Item = QueuePairNumber> {
        let pushes = |lane: &&Lane| matches!(lane.queue.front(), Some(Task::Push { .. }));
        self.lanes.iter().filter(pushes).map(|lane| lane.qp)
    }

    /// How many tasks a queue pair has.
    pub(crate) fn count(&self, qp: QueuePairNumber) -> usize {
        self.lanes.iter().filter(|lane| lane.qp == qp).map(|lane| lane.queue.len()).sum()
    }

    /// Takes all tasks of a queue pair away.
    pub(crate) fn remove(&mut self, qp: QueuePairNumber) -> Vec<Task> {
        let (gone, kept) = std::mem::take(&mut self.lanes).into_iter().partition(|lane| lane.qp == qp);
        self.lanes = kept;
        let gone: Vec<Lane> = gone;
        gone.into_iter().flat_map(|lane| lane.queue).collect()
    }

    /// Takes the push with this job number away, if it is still being sent.
    pub(crate) fn remove_push(&mut self, of: QueuePairNumber, number: u32) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.qp == of) {
            lane.queue.retain(|task| !matches!(task, Task::Push { job, .. } if *job == number));
        }
        self.sweep();
    }
}

/// The asker's side of a shared transfer.
#[derive(Debug)]
pub(crate) struct ReadShare {
    pub(crate) qp: QueuePairNumber,
    pub(crate) id: WorkId,
    pub(crate) ticket: usize,
    pub(crate) local: *mut u8,
    pub(crate) remote: u64,
    pub(crate) len_bytes: usize,
    pub(crate) chunk_bytes: usize,
    pub(crate) start: Instant,
    /// Pieces taken from the front.
    pub(crate) front: u32,
    /// Set once the two ends have met: pieces of the other end start here.
    pub(crate) met_at: Option<u32>,
}

/// Pieces of a transfer; the last may be shorter.
pub(crate) fn pieces(len_bytes: usize, chunk_bytes: usize) -> u32 {
    len_bytes.div_ceil(chunk_bytes) as u32
}

/// Offset and length of one piece.
pub(crate) fn piece(index: u32, len_bytes: usize, chunk_bytes: usize) -> (usize, usize) {
    let offset = index as usize * chunk_bytes;
    (offset, chunk_bytes.min(len_bytes - offset))
}

/// Piece length of a shared transfer: some pieces for each end, none too short for a system call.
pub(crate) fn share_chunk_bytes(len_bytes: usize) -> usize {
    const SHORTEST: usize = 32 << 10;
    const LONGEST: usize = 1 << 20;
    (len_bytes / 8)
        .clamp(SHORTEST, LONGEST)
        .next_multiple_of(4096)
        .max(len_bytes.div_ceil(PIECES_MAX as usize))
}

/// Piece length of a pull: short enough that both processors work at once, long enough that headers do not matter.
pub(crate) fn pull_chunk_bytes(len_bytes: usize, longest: usize) -> usize {
    (len_bytes / 8).next_multiple_of(64).clamp(2 << 10, 16 << 10).min(longest)
}

/// Claims have 24 bits for each end.
const PIECES_MAX: u32 = (1 << 24) - 1;

/// The claims word of a ticket: `| use 16 | back 24 | front 24 |`. Pieces `front..back` are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) use_number: u16,
    pub(crate) back: u32,
    pub(crate) front: u32,
}

impl Claims {
    pub(crate) const fn pack(self) -> u64 {
        self.front as u64 | (self.back as u64) << 24 | (self.use_number as u64) << 48
    }

    pub(crate) const fn unpack(word: u64) -> Self {
        Self {
            front: word as u32 & PIECES_MAX,
            back: (word >> 24) as u32 & PIECES_MAX,
            use_number: (word >> 48) as u16,
        }
    }
}

/// Takes the next piece from the front; `Err` has the claims when the ends have met.
pub(crate) fn claim_front(ticket: &Ticket) -> Result<u32, Claims> {
    update(ticket, |claims| {
        (claims.front < claims.back).then(|| (claims.front, Claims { front: claims.front + 1, ..claims }))
    })
}

/// Takes the next piece from the back, if the ticket is still in the same use.
pub(crate) fn claim_back(ticket: &Ticket, use_number: u16) -> Option<u32> {
    update(ticket, |claims| {
        (claims.use_number == use_number && claims.front < claims.back)
            .then(|| (claims.back - 1, Claims { back: claims.back - 1, ..claims }))
    })
    .ok()
}

fn update<T>(ticket: &Ticket, step: impl Fn(Claims) -> Option<(T, Claims)>) -> Result<T, Claims> {
    let mut word = ticket.claims.load(Ordering::Acquire);
    loop {
        let claims = Claims::unpack(word);
        let (taken, next) = step(claims).ok_or(claims)?;
        match ticket.claims.compare_exchange_weak(word, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(taken),
            Err(now) => word = now,
        }
    }
}

/// Ticket number and use in one word, for the request.
pub(crate) const fn ticket_word(ticket: usize, use_number: u16) -> u32 {
    ticket as u32 | (use_number as u32) << 16
}

/// The reverse; `None` for a number that no ring has.
pub(crate) fn split_ticket_word(word: u32) -> Option<(usize, u16)> {
    let ticket = word as usize & 0xffff;
    (ticket < SHARED_COPIES_MAX).then_some((ticket, (word >> 16) as u16))
}

/// A transfer to be timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) path: Path,
    pub(crate) len_bytes: usize,
    pub(crate) start: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, AtomicU64};

    fn ticket(pieces: u32, use_number: u16) -> Ticket {
        Ticket {
            claims: AtomicU64::new(Claims { use_number, back: pieces, front: 0 }.pack()),
            written: AtomicU32::new(0),
            failed: AtomicU32::new(0),
        }
    }

    #[test]
    fn every_piece_is_taken_once_from_two_threads() {
        let ticket = ticket(10_000, 7);
        let (front, back) = std::thread::scope(|scope| {
            let back = scope.spawn(|| std::iter::from_fn(|| claim_back(&ticket, 7)).collect::<Vec<_>>());
            let front: Vec<u32> = std::iter::from_fn(|| claim_front(&ticket).ok()).collect();
            (front, back.join().expect("no panic"))
        });
        let mut all: Vec<u32> = front.into_iter().chain(back).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_late_look_takes_nothing_of_the_next_use() {
        let ticket = ticket(5, 2);
        assert_eq!(claim_back(&ticket, 1), None);
        assert_eq!(claim_back(&ticket, 2), Some(4));
    }

    #[test]
    fn pieces_cover_the_transfer_and_fit_the_claims() {
        for len in [1, 4095, 131_072, 131_073, 1 << 20, (1 << 20) + 1, 5 << 32] {
            let chunk = share_chunk_bytes(len);
            let count = pieces(len, chunk);
            assert!(count <= PIECES_MAX);
            let total: usize = (0..count).map(|index| piece(index, len, chunk).1).sum();
            assert_eq!(total, len);
        }
    }

    #[test]
    fn answers_to_old_or_foreign_jobs_find_nothing() {
        let mut jobs = Jobs::default();
        let qp = QueuePairNumber(1);
        let add = |jobs: &mut Jobs| jobs.add(Job { qp, id: WorkId(1), kind: JobKind::Push }).expect("room");
        let old = add(&mut jobs);
        assert!(jobs.remove(old, QueuePairNumber(2)).is_none(), "another peer's");
        assert!(jobs.remove(old, qp).is_some());
        let new = add(&mut jobs);
        assert_ne!(old, new);
        assert!(jobs.get_mut(old, qp).is_none(), "an old number");
        assert_eq!(jobs.of(qp), [new]);
        assert!(!jobs.is_empty());
    }
}
