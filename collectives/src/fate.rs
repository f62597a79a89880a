//! What has become of a communicator: it works, or it has failed, and then all of its processes are to know.
//!
//! Who finds that something is wrong tells those that are 1, 2, 4, 8 ... ranks before and behind, who tell theirs, each once. In that graph, with 2 log2 p
//! neighbours each, the word reaches all even if several of them have ended (Bosilca et al., "Failure detection and propagation in HPC systems",
//! SC 2016). Messages of a communicator that has failed are refused from then on, so that nobody waits for them to be received.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ironband::{Context, LIBRARY_TAG_BIT, Pattern};

use crate::error::Error;

/// The active message that tells of a failure: a program that uses this crate has to leave its number alone.
const FAILURE_ID: u32 = 0x8000_c011;
/// The longest text in it.
const TEXT_BYTES_MAX: usize = 200;

/// How a tag is made: the bit of libraries, the communicator's number, the number of the operation.
pub(crate) const SEQUENCE_BITS: u32 = 40;
/// The number under which processes agree on who lives: that of no communicator.
pub(crate) const ID_SHRINK: u32 = (1 << (63 - SEQUENCE_BITS)) - 1;
/// The highest number of a communicator.
pub(crate) const ID_MAX: u32 = ID_SHRINK - 1;

/// The tag of an operation.
#[inline]
pub(crate) const fn tag_of(id: u32, sequence: u64) -> u64 {
    LIBRARY_TAG_BIT | (id as u64) << SEQUENCE_BITS | (sequence & ((1 << SEQUENCE_BITS) - 1))
}

/// What has become of one communicator.
#[derive(Debug)]
pub(crate) struct Fate {
    id: u32,
    /// This process's rank in it.
    rank: u32,
    /// Ranks of the job, by rank of the communicator.
    members: Rc<[u32]>,
    has_failed: Cell<bool>,
    error: OnceCell<Error>,
}

impl Fate {
    #[inline]
    pub(crate) const fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Why the communicator has failed, if it has.
    #[inline]
    pub(crate) fn error(&self) -> Option<&Error> {
        if self.has_failed.get() { self.error.get() } else { None }
    }

    /// Whom this process tells.
    fn neighbours(&self) -> Vec<u32> {
        let size = self.members.len() as u64;
        let mut neighbours = Vec::new();
        let mut distance = 1;
        while distance < size {
            for neighbour in [u64::from(self.rank) + distance, u64::from(self.rank) + size - distance] {
                neighbours.push(self.members[(neighbour % size) as usize]);
            }
            distance *= 2;
        }
        neighbours.sort_unstable();
        neighbours.dedup();
        neighbours
    }
}

/// All communicators of a context.
#[derive(Default)]
pub(crate) struct Registry {
    next_id: Cell<u32>,
    /// Those of all processes: they have the highest numbers, counted down.
    worlds: Cell<u32>,
    listens: Cell<bool>,
    fates: RefCell<BTreeMap<u32, Weak<Fate>>>,
    /// Of communicators that others have made already and this process has not.
    early: RefCell<BTreeMap<u32, Error>>,
}

impl Registry {
    /// The registry of a context.
    pub(crate) fn of(context: &Context) -> Rc<Self> {
        let registry = context.extension::<Self>();
        if !registry.listens.replace(true) {
            let ears = Rc::downgrade(&registry);
            context.on_active(FAILURE_ID, move |context, _source, data| {
                if let Some(registry) = ears.upgrade() {
                    registry.hear(context, data);
                }
            });
        }
        registry
    }

    /// The number that the next communicator may have as far as this process knows: all of its processes agree on the highest.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id.get()
    }

    /// The number of the next communicator of all processes: all count alike.
    pub(crate) fn next_world(&self) -> u32 {
        let id = ID_MAX - self.worlds.get();
        self.worlds.set(self.worlds.get() + 1);
        id
    }

    const fn is_world(&self, id: u32) -> bool {
        id > ID_MAX - self.worlds.get()
    }

    /// Whether a communicator can have this number.
    pub(crate) fn check_id(&self, id: u32) -> Result<(), Error> {
        if id < ID_MAX && !self.is_world(id) { Ok(()) } else { Err(Error::TooMany { limit: ID_MAX }) }
    }

    /// A communicator is made.
    pub(crate) fn register(&self, context: &Context, id: u32, rank: u32, members: Rc<[u32]>) -> Rc<Fate> {
        if !self.is_world(id) {
            self.next_id.set(self.next_id.get().max(id + 1));
        }
        let fate = Rc::new(Fate { id, rank, members, has_failed: Cell::new(false), error: OnceCell::new() });
        let mut fates = self.fates.borrow_mut();
        fates.retain(|_, fate| fate.strong_count() > 0);
        fates.insert(id, Rc::downgrade(&fate));
        drop(fates);
        let early = self.early.borrow_mut().remove(&id);
        if let Some(error) = early {
            self.fail(context, &fate, error);
        }
        fate
    }

    /// A communicator has failed. Only the first reason counts.
    pub(crate) fn fail(&self, context: &Context, fate: &Fate, error: Error) {
        if fate.has_failed.replace(true) {
            return;
        }
        tracing::warn!(id = fate.id, %error, "a communicator has failed");
        let notice = encode(fate, &error);
        let lost =
            if let Error::PeerFailed { rank, .. } = error { fate.members.get(rank as usize) } else { None };
        for neighbour in fate.neighbours().into_iter().filter(|neighbour| Some(neighbour) != lost) {
            // Who cannot be reached need not know.
            let _ = context.endpoint(neighbour).and_then(|to| to.post_active(FAILURE_ID, &notice));
        }
        // It was not set before, because it had not failed.
        let _ = fate.error.set(error);
        let tag = tag_of(fate.id, 0);
        let mask = LIBRARY_TAG_BIT | u64::from(ID_SHRINK) << SEQUENCE_BITS;
        context.refuse(Pattern { source: None, tag, mask });
    }

    fn hear(&self, context: &Context, notice: &[u8]) {
        let Some((id, error)) = decode(notice) else {
            tracing::warn!("a notice of a failure of {} bytes makes no sense", notice.len());
            return;
        };
        let fate = self.fates.borrow().get(&id).and_then(Weak::upgrade);
        match fate {
            Some(fate) => self.fail(context, &fate, error),
            // One that is gone needs nothing any more.
            None if id < self.next_id.get() || self.is_world(id) => {}
            None => {
                self.early.borrow_mut().entry(id).or_insert(error);
            }
        }
    }
}

/// A notice: what has failed, and why.
///
/// ```text
///  0         4      5         8         12                 20                28
///  | id      | kind | 0       | rank    | a                | b               | text ...
/// ```
fn encode(fate: &Fate, error: &Error) -> Vec<u8> {
    let (kind, rank, a, b, text) = match error {
        Error::PeerFailed { rank, reason } => (0, *rank, 0, 0, reason.clone()),
        Error::OperatorPanicked { rank, message } => (1, *rank, 0, 0, message.clone()),
        Error::LimitPassed { rank, limit, waits_for } => {
            let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            (2, *rank, nanos, waits_for.first().map_or(u64::MAX, |rank| u64::from(*rank)), String::new())
        }
        Error::Mismatch { rank, from, got_bytes, expected_bytes } => {
            (3, *rank, *got_bytes, *expected_bytes, from.to_string())
        }
        Error::HandlerPanicked { rank } => (4, *rank, 0, 0, String::new()),
        Error::TablesDiffer { rank, other } => (5, *rank, u64::from(*other), 0, String::new()),
        other => (0, fate.rank, 0, 0, other.to_string()),
    };
    let mut text = text;
    while text.len() > TEXT_BYTES_MAX {
        text.pop();
    }
    let mut notice = Vec::with_capacity(28 + text.len());
    notice.extend(fate.id.to_le_bytes());
    notice.extend([kind, 0, 0, 0]);
    notice.extend(rank.to_le_bytes());
    notice.extend(a.to_le_bytes());
    notice.extend(b.to_le_bytes());
    notice.extend(text.as_bytes());
    notice
}

fn decode(notice: &[u8]) -> Option<(u32, Error)> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(notice.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(notice.get(at..at + 8)?.try_into().ok()?));
    let (id, rank, a, b) = (u32_at(0)?, u32_at(8)?, u64_at(12)?, u64_at(20)?);
    let text = String::from_utf8_lossy(notice.get(28..)?).into_owned();
    let error = match notice.get(4)? {
        0 => Error::PeerFailed { rank, reason: text },
        1 => Error::OperatorPanicked { rank, message: text },
        2 => {
            let waits_for = u32::try_from(b).into_iter().collect();
            Error::LimitPassed { rank, limit: Duration::from_nanos(a), waits_for }
        }
        3 => Error::Mismatch { rank, from: text.parse().ok()?, got_bytes: a, expected_bytes: b },
        4 => Error::HandlerPanicked { rank },
        5 => Error::TablesDiffer { rank, other: u32::try_from(a).ok()? },
        _ => return None,
    };
    (id <= ID_MAX).then_some((id, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fate(rank: u32, size: u32) -> Fate {
        let members = (0..size).collect::<Vec<_>>().into();
        Fate { id: 7, rank, members, has_failed: Cell::new(false), error: OnceCell::new() }
    }

    #[test]
    fn notices_are_read_as_they_were_written() {
        let waits_for = vec![4];
        for error in [
            Error::PeerFailed { rank: 3, reason: "it has ended".to_owned() },
            Error::OperatorPanicked { rank: 3, message: "no".to_owned() },
            Error::HandlerPanicked { rank: 3 },
            Error::TablesDiffer { rank: 3, other: 4 },
            Error::LimitPassed { rank: 3, limit: Duration::from_millis(1500), waits_for },
            Error::Mismatch { rank: 3, from: 2, got_bytes: 8, expected_bytes: 16 },
        ] {
            assert_eq!(decode(&encode(&fate(1, 5), &error)), Some((7, error)));
        }
        let long = Error::PeerFailed { rank: 3, reason: "ä".repeat(150) };
        let Some((_, Error::PeerFailed { reason, .. })) = decode(&encode(&fate(1, 5), &long)) else {
            panic!()
        };
        assert_eq!(reason, "ä".repeat(100));
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let registry = Registry::default();
        assert_eq!(registry.check_id(0), Ok(()));
        assert_eq!(registry.check_id(ID_MAX - 1), Ok(()));
        assert!(registry.check_id(ID_MAX).is_err());
        // Those of all processes count down.
        assert_eq!((registry.next_world(), registry.next_world()), (ID_MAX, ID_MAX - 1));
        assert!(registry.check_id(ID_MAX - 1).is_err() && registry.check_id(ID_MAX - 2).is_ok());
    }

    /// Whoever has ended, as long as they are fewer than each one's neighbours, all others hear.
    #[test]
    fn the_word_reaches_all_who_live() {
        for size in 2..40_u32 {
            let neighbours: Vec<Vec<u32>> = (0..size).map(|rank| fate(rank, size).neighbours()).collect();
            for dead in 0..size {
                let other_dead = (dead * 7 + 3) % size;
                let lives = |rank: u32| rank != dead && rank != other_dead;
                for first in (0..size).filter(|rank| lives(*rank)) {
                    let mut told = vec![first];
                    let mut at = 0;
                    while at < told.len() {
                        for next in &neighbours[told[at] as usize] {
                            if lives(*next) && !told.contains(next) {
                                told.push(*next);
                            }
                        }
                        at += 1;
                    }
                    assert_eq!(told.len(), (0..size).filter(|rank| lives(*rank)).count(), "{size} {dead}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_notice_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
