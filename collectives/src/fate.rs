//! What has become of a communicator: it works, or it has failed, and then all of its processes are to know.
//!
//! Who finds that something is wrong tells those that are 1, 2, 4, 8 ... ranks before and behind, who tell theirs, each once. In that graph, with 2 log2 p
//! neighbours each, the word reaches all even if several of them have ended (Bosilca et al., "Failure detection and propagation in HPC systems",
//! SC 2016). Messages of a communicator that has failed are refused from then on, so that nobody waits for them to be received.
//!
//! *Numbers.* A communicator's number is higher than those of all communicators that its processes were in before. Where all who were to be in one have ended, though,
//! those that were to be in it and never were may give its number to another one. So what is said about a communicator carries its *mark*, which is
//! made of the number and of who is in it: two communicators with both in common would have a process in common that knows the number.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ironband::{Context, LIBRARY_TAG_BIT, Pattern};

use crate::agreement::Agreement;
use crate::error::Error;

/// The active message that tells of a failure: a program that uses this crate has to leave its number alone.
const FAILURE_ID: u32 = 0x8000_c011;
/// The active message with a word of an agreement on who lives.
const AGREEMENT_ID: u32 = 0x8000_c012;
/// The longest text in a notice of a failure.
const TEXT_BYTES_MAX: usize = 200;

/// How a tag is made: the bit of libraries, the communicator's number, the number of the operation.
pub(crate) const SEQUENCE_BITS: u32 = 40;
/// The number under which processes are watched while they agree on who lives: that of no communicator.
pub(crate) const ID_SHRINK: u32 = (1 << (63 - SEQUENCE_BITS)) - 1;
/// The highest number of a communicator.
pub(crate) const ID_MAX: u32 = ID_SHRINK - 1;
/// The lowest number of those that are what is left of others. They have numbers of their own, because others may be made while processes agree.
const ID_SHRUNK_MIN: u32 = 1 << 22;

/// The tag of an operation.
#[inline]
pub(crate) const fn tag_of(id: u32, sequence: u64) -> u64 {
    LIBRARY_TAG_BIT | (id as u64) << SEQUENCE_BITS | (sequence & ((1 << SEQUENCE_BITS) - 1))
}

/// Which communicator: its number, and what tells it from another one that may have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    id: u32,
    mark: u64,
}

impl Name {
    fn of(id: u32, members: &[u32]) -> Self {
        // FNV-1a, of numbers: nobody has a reason to make two that are alike.
        let mix = |mark: u64, number: &u32| (mark ^ u64::from(*number)).wrapping_mul(0x0100_0000_01b3);
        Self { id, mark: std::iter::once(&id).chain(members).fold(0xcbf2_9ce4_8422_2325, mix) }
    }

    fn encode(self) -> [u8; NAME_BYTES] {
        let mut bytes = [0; NAME_BYTES];
        bytes[..4].copy_from_slice(&self.id.to_le_bytes());
        bytes[4..].copy_from_slice(&self.mark.to_le_bytes());
        bytes
    }

    /// The name at the beginning, if it is that of a communicator, and what is behind it.
    fn split_off(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (mark, rest) = rest.split_first_chunk()?;
        let name = Self { id: u32::from_le_bytes(*id), mark: u64::from_le_bytes(*mark) };
        (name.id <= ID_MAX).then_some((name, rest))
    }
}

/// Length of a name in a message.
const NAME_BYTES: usize = 12;

/// What was said of who lives: by this rank of the job, in these bytes.
pub(crate) type Said = (u32, Vec<u8>);

/// What has become of one communicator.
#[derive(Debug)]
pub(crate) struct Fate {
    name: Name,
    /// This process's rank in it.
    rank: u32,
    /// Ranks of the job, by rank of the communicator.
    members: Rc<[u32]>,
    has_failed: Cell<bool>,
    error: OnceCell<Error>,
    /// How many agreements on who lives have ended.
    agreed: Cell<u32>,
    /// The one that has begun and has not ended: it goes on where it was, also if a limit has passed meanwhile.
    agreement: RefCell<Option<Agreement>>,
    /// Somebody is at it.
    is_shrinking: Cell<bool>,
}

impl Fate {
    fn new(id: u32, rank: u32, members: Rc<[u32]>) -> Self {
        Self {
            name: Name::of(id, &members),
            rank,
            members,
            has_failed: Cell::new(false),
            error: OnceCell::new(),
            agreed: Cell::new(0),
            agreement: RefCell::default(),
            is_shrinking: Cell::new(false),
        }
    }

    #[inline]
    pub(crate) const fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Nobody is at the agreement any more, which may have ended or not.
    pub(crate) fn rest_agreement(&self) {
        self.is_shrinking.set(false);
    }

    /// The agreement on who lives that is under way.
    pub(crate) const fn agreement(&self) -> &RefCell<Option<Agreement>> {
        &self.agreement
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
    /// How many numbers of what is left of communicators are taken.
    shrunk: Cell<u32>,
    /// The communicator whose processes agree on who lives. They agree on the number of the next one, too, so there is one at a time.
    shrinking: RefCell<Weak<Fate>>,
    /// Those of all processes: they have the highest numbers, counted down.
    worlds: Cell<u32>,
    listens: Cell<bool>,
    fates: RefCell<BTreeMap<Name, Weak<Fate>>>,
    /// Of communicators that others have made already and this process has not.
    early: RefCell<BTreeMap<Name, Error>>,
    /// Words of agreements, by the communicator and which of its agreements it is; also such that others have begun already.
    words: RefCell<BTreeMap<(Name, u32), Vec<Said>>>,
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
            let ears = Rc::downgrade(&registry);
            context.on_active(AGREEMENT_ID, move |_context, source, data| {
                if let Some(registry) = ears.upgrade() {
                    registry.hear_word(source, data);
                }
            });
        }
        registry
    }

    /// The number that the next communicator may have as far as this process knows: all of its processes agree on the highest.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id.get()
    }

    /// As [`Registry::next_id`], for what is left of a communicator.
    pub(crate) fn next_shrunk(&self) -> u32 {
        ID_SHRUNK_MIN + self.shrunk.get()
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
        if id < ID_SHRUNK_MIN { Ok(()) } else { Err(Error::TooMany { limit: ID_SHRUNK_MIN }) }
    }

    /// Whether what is left of a communicator can have this number.
    pub(crate) fn check_shrunk(&self, id: u32) -> Result<(), Error> {
        let is_free = (ID_SHRUNK_MIN..ID_MAX).contains(&id) && !self.is_world(id);
        if is_free { Ok(()) } else { Err(Error::TooMany { limit: ID_MAX - ID_SHRUNK_MIN }) }
    }

    /// A communicator is made.
    pub(crate) fn register(&self, context: &Context, id: u32, rank: u32, members: Rc<[u32]>) -> Rc<Fate> {
        if id < ID_SHRUNK_MIN {
            self.next_id.set(self.next_id.get().max(id + 1));
        } else if !self.is_world(id) {
            self.shrunk.set(self.shrunk.get().max(id + 1 - ID_SHRUNK_MIN));
        }
        let fate = Rc::new(Fate::new(id, rank, members));
        let mut fates = self.fates.borrow_mut();
        fates.retain(|_, fate| fate.strong_count() > 0);
        fates.insert(fate.name, Rc::downgrade(&fate));
        let early = self.early.borrow_mut().remove(&fate.name);
        // What was said about communicators that this process will not be in any more.
        self.early.borrow_mut().retain(|name, _| !self.is_past(name.id));
        self.words.borrow_mut().retain(|(name, _), _| fates.contains_key(name) || !self.is_past(name.id));
        drop(fates);
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
        tracing::warn!(id = fate.name.id, %error, "a communicator has failed");
        let notice = encode(fate, &error);
        let lost =
            if let Error::PeerFailed { rank, .. } = error { fate.members.get(rank as usize) } else { None };
        for neighbour in fate.neighbours().into_iter().filter(|neighbour| Some(neighbour) != lost) {
            // Who cannot be reached need not know.
            let _ = context.endpoint(neighbour).and_then(|to| to.post_active(FAILURE_ID, &notice));
        }
        // It was not set before, because it had not failed.
        let _ = fate.error.set(error);
        let tag = tag_of(fate.name.id, 0);
        let mask = LIBRARY_TAG_BIT | u64::from(ID_SHRINK) << SEQUENCE_BITS;
        context.refuse(Pattern { source: None, tag, mask });
    }

    /// Tells some ranks why the communicator has failed.
    #[cold]
    pub(crate) fn tell(&self, context: &Context, fate: &Fate, ranks: impl Iterator<Item = u32>) {
        let Some(error) = fate.error() else { return };
        let notice = encode(fate, error);
        for rank in ranks {
            let member = fate.members[rank as usize];
            let _ = context.endpoint(member).and_then(|to| to.post_active(FAILURE_ID, &notice));
        }
    }

    fn hear(&self, context: &Context, notice: &[u8]) {
        let Some((name, error)) = decode(notice) else {
            tracing::warn!("a notice of a failure of {} bytes makes no sense", notice.len());
            return;
        };
        match self.find(name) {
            Some(fate) => self.fail(context, &fate, error),
            // One that is gone needs nothing any more.
            None if self.is_past(name.id) => {}
            None => {
                self.early.borrow_mut().entry(name).or_insert(error);
            }
        }
    }

    fn find(&self, name: Name) -> Option<Rc<Fate>> {
        self.fates.borrow().get(&name).and_then(Weak::upgrade)
    }

    /// Whether all communicators with this number that this process is ever in are made.
    fn is_past(&self, id: u32) -> bool {
        if id < ID_SHRUNK_MIN {
            id < self.next_id.get()
        } else {
            id < self.next_shrunk() || self.is_world(id)
        }
    }

    /// Processes of a communicator begin to agree on who lives, or go on with it.
    ///
    /// # Panics
    /// When those of another one have begun, and have not ended, or when it is begun twice.
    pub(crate) fn begin_agreement(&self, fate: &Rc<Fate>) {
        let other = self.shrinking.borrow().upgrade();
        let other = other.filter(|other| !Rc::ptr_eq(other, fate) && other.agreement.borrow().is_some());
        assert!(other.is_none(), "another communicator is being shrunk: that has to end first");
        assert!(
            !fate.is_shrinking.replace(true),
            "this communicator is being shrunk already: that has to end first"
        );
        self.shrinking.replace(Rc::downgrade(fate));
        let new = || Agreement::new(fate.rank, fate.members.len() as u32, self.next_shrunk());
        fate.agreement.borrow_mut().get_or_insert_with(new);
    }

    // ---- words of agreements ------------------------------------------------------------------------------------------

    fn hear_word(&self, source: u32, data: &[u8]) {
        let word = Name::split_off(data).and_then(|(name, rest)| Some((name, rest.split_first_chunk()?)));
        let Some((name, (number, word))) = word else {
            tracing::warn!(source, "a word of an agreement of {} bytes makes no sense", data.len());
            return;
        };
        let number = u32::from_le_bytes(*number);
        let is_over =
            self.find(name).map_or_else(|| self.is_past(name.id), |fate| number < fate.agreed.get());
        if !is_over {
            self.words.borrow_mut().entry((name, number)).or_default().push((source, word.to_vec()));
        }
    }

    /// Says a word of the agreement that is under way to a rank of the job.
    pub(crate) fn say_word(
        &self,
        context: &Context,
        fate: &Fate,
        to: u32,
        word: &[u8],
    ) -> Result<(), ironband::Error> {
        let bytes = [&fate.name.encode(), &fate.agreed.get().to_le_bytes()[..], word].concat();
        context.endpoint(to).and_then(|to| to.post_active(AGREEMENT_ID, &bytes))
    }

    /// The words of the agreement that is under way that have come since the last time.
    pub(crate) fn take_words(&self, fate: &Fate) -> Vec<Said> {
        self.words.borrow_mut().remove(&(fate.name, fate.agreed.get())).unwrap_or_default()
    }

    /// The agreement that is under way has ended: the next one has another number.
    pub(crate) fn end_agreement(&self, fate: &Fate) {
        self.take_words(fate);
        fate.agreement.take();
        fate.agreed.set(fate.agreed.get() + 1);
    }
}

/// A notice: what has failed, and why.
///
/// ```text
///  0         4         12     13        16        20                 28                36
///  | id      | mark    | kind | 0       | rank    | a                | b               | text ...
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
        Error::Revoked { rank } => (6, *rank, 0, 0, String::new()),
        other => (0, fate.rank, 0, 0, other.to_string()),
    };
    let mut text = text;
    while text.len() > TEXT_BYTES_MAX {
        text.pop();
    }
    let mut notice = Vec::with_capacity(NAME_BYTES + 24 + text.len());
    notice.extend(fate.name.encode());
    notice.extend([kind, 0, 0, 0]);
    notice.extend(rank.to_le_bytes());
    notice.extend(a.to_le_bytes());
    notice.extend(b.to_le_bytes());
    notice.extend(text.as_bytes());
    notice
}

fn decode(notice: &[u8]) -> Option<(Name, Error)> {
    let (name, notice) = Name::split_off(notice)?;
    let u32_at = |at: usize| Some(u32::from_le_bytes(notice.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(notice.get(at..at + 8)?.try_into().ok()?));
    let (rank, a, b) = (u32_at(4)?, u64_at(8)?, u64_at(16)?);
    let text = String::from_utf8_lossy(notice.get(24..)?).into_owned();
    let error = match notice.first()? {
        0 => Error::PeerFailed { rank, reason: text },
        1 => Error::OperatorPanicked { rank, message: text },
        2 => {
            let waits_for = u32::try_from(b).into_iter().collect();
            Error::LimitPassed { rank, limit: Duration::from_nanos(a), waits_for }
        }
        3 => Error::Mismatch { rank, from: text.parse().ok()?, got_bytes: a, expected_bytes: b },
        4 => Error::HandlerPanicked { rank },
        5 => Error::TablesDiffer { rank, other: u32::try_from(a).ok()? },
        6 => Error::Revoked { rank },
        _ => return None,
    };
    Some((name, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fate(rank: u32, size: u32) -> Fate {
        Fate::new(7, rank, (0..size).collect())
    }

    #[test]
    fn notices_are_read_as_they_were_written() {
        let waits_for = vec![4];
        for error in [
            Error::PeerFailed { rank: 3, reason: "it has ended".to_owned() },
            Error::OperatorPanicked { rank: 3, message: "no".to_owned() },
            Error::HandlerPanicked { rank: 3 },
            Error::TablesDiffer { rank: 3, other: 4 },
            Error::Revoked { rank: 3 },
            Error::LimitPassed { rank: 3, limit: Duration::from_millis(1500), waits_for },
            Error::Mismatch { rank: 3, from: 2, got_bytes: 8, expected_bytes: 16 },
        ] {
            let fate = fate(1, 5);
            assert_eq!(decode(&encode(&fate, &error)), Some((fate.name, error)));
        }
        let long = Error::PeerFailed { rank: 3, reason: "ä".repeat(150) };
        let Some((_, Error::PeerFailed { reason, .. })) = decode(&encode(&fate(1, 5), &long)) else {
            panic!()
        };
        assert_eq!(reason, "ä".repeat(100));
    }

    #[test]
    fn names_tell_communicators_apart() {
        let names =
            [Name::of(7, &[0, 1]), Name::of(7, &[1, 0]), Name::of(7, &[0, 1, 2]), Name::of(8, &[0, 1])];
        for (at, name) in names.iter().enumerate() {
            assert_eq!(names.iter().position(|other| other == name), Some(at));
            assert_eq!(Name::split_off(&name.encode()), Some((*name, &[][..])));
        }
        let none = Name { id: ID_SHRINK, mark: 0 };
        assert_eq!(Name::split_off(&none.encode()), None, "no communicator has this number");
    }

    /// What was said about one communicator is not taken for another one with the same number.
    #[test]
    fn words_are_kept_for_those_that_may_come() {
        let registry = Registry::default();
        let say = |name: Name, number: u32, word: &[u8]| {
            registry.hear_word(3, &[&name.encode(), &number.to_le_bytes()[..], word].concat());
        };
        let fate = Fate::new(7, 0, [0, 3].into());
        say(fate.name, 0, b"first");
        say(fate.name, 1, b"second");
        say(Name::of(7, &[1, 3]), 0, b"other");
        say(Name::of(ID_SHRINK, &[0, 3]), 0, b"none");
        registry.hear_word(3, b"short");
        assert_eq!(registry.take_words(&fate), [(3, b"first".to_vec())]);
        assert_eq!(registry.take_words(&fate), []);
        registry.end_agreement(&fate);
        assert_eq!(registry.take_words(&fate), [(3, b"second".to_vec())]);
        registry.next_id.set(8);
        say(fate.name, 2, b"late");
        assert_eq!(registry.words.borrow().len(), 1, "of one that may still come, and did not");
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let registry = Registry::default();
        assert_eq!(registry.check_id(0), Ok(()));
        assert_eq!(registry.check_id(ID_SHRUNK_MIN - 1), Ok(()));
        assert!(registry.check_id(ID_SHRUNK_MIN).is_err());
        assert_eq!(registry.next_shrunk(), ID_SHRUNK_MIN);
        assert_eq!(registry.check_shrunk(ID_SHRUNK_MIN), Ok(()));
        assert!(registry.check_shrunk(ID_SHRUNK_MIN - 1).is_err() && registry.check_shrunk(ID_MAX).is_err());
        // Those of all processes count down.
        assert_eq!((registry.next_world(), registry.next_world()), (ID_MAX, ID_MAX - 1));
        assert!(registry.check_shrunk(ID_MAX - 1).is_err() && registry.check_shrunk(ID_MAX - 2).is_ok());
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
