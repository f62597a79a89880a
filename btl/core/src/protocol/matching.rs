//! Tag matching: brings messages and receives together, by MPI's rules.
//!
//! A message has an [`Envelope`]: the rank it comes from and a tag of 64 bits. A receive has a [`Pattern`]: a source or any,
//! a tag, and a mask that says which bits of the tag count. A message goes to the receive that was posted first of those that
//! match; a receive gets the message that arrived first of those that match; so messages of one source never overtake each other.
//! What finds nothing waits here: receives are *posted*, messages are *kept*. No kept message ever matches a posted receive.
//!
//! ```text
//!  posted receives: each in one list                       kept messages: each in four lists
//!
//!  kinds (any source?, mask, how many)                     queues, by key
//!    exact  ANY_SOURCE  ANY_TAG  anything  4 more            (exact, source, tag)  (any source, tag)  (any tag, source)
//!      |        |          |        |         |                     |                    |                  |
//!      v        v          v        v         v                     v                    v                  v
//!  queues, by key (kind, source if it counts,                   m3 - m7              m3 - m5 - m7       m1 - m3 - m7
//!                  bits of the tag that count)
//!      |                                                   and all, in the order of arrival: m1 - m2 - m3 - m5 - m7
//!      v
//!   r2 - r6 - r9    (equal patterns, oldest first)
//!
//!  and one list, oldest first, of the masks for which
//!  there was no kind left: r4 - r8
//! ```
//!
//! *An arrival* looks at the head of one queue for each kind in use, and then at those receives of the last list that are
//! older than the oldest head; stamps, counted up with every receive, say which. *A post* looks at the head of one queue if its
//! pattern is exact, has any source or has any tag: each queue of messages is in the order of arrival, so its head is the
//! oldest. Another mask walks the source's messages or, with any source, all.
//!
//! | operation | cost |
//! |---|---|
//! | arrival | at most 8 look-ups, one for each kind of pattern among the posted receives, however many there are; and a step for each older receive with a mask beyond the 4 that have a kind |
//! | post, probe: exact, any source with a full mask, any tag or anything | one look-up, and for the latter two a step for each library's message before |
//! | post, probe: another mask | a step for each message kept, of the source if one is named |
//! | `keep` | 3 look-ups; to take a message out, up to 3 |
//! | `cancel`, `take` | as taking out |
//! | `source_failed` | a step for each place of a receive, and a sort of those that failed |
//!
//! A look-up is expected to be short, but the hash is fixed: a peer that chooses tags that collide makes it as long as its kept
//! messages are many, which its window bounds, and of announcements [`super::ANNOUNCED_MAX`]. Places and tables grow by doubling and are kept, so nothing is
//! allocated once the most there has ever been is reached.
//!
//! *A receive that is posted alone*, as a process that only waits for an answer has it, is in no list: a message is compared with it, and
//! the next receive puts it into its list first.
//!
//! Invariants: a receive is in the queue of its kind's key or, without a kind, in the last list, unless it is alone; a kind's count is
//! the number of its receives in queues; a kind beyond the first four takes another mask only while it has none; every list is in the order of stamps; a key has an
//! entry while its queue has members.
//!
//! Prior art. Open MPI's ob1 has a list of receives for each peer and one of any source, with numbers to tell which is older: a message
//! costs a step for each receive of its peer before the right one. UCX (`ucp/tag/tag_match.inl`) has 1,021 lists by a hash of the tag
//! and one of wildcards, numbered too: a long list slows all tags that fall on it, and each wildcard every message. Flajslik, Dinan and
//! Underwood ("Mitigating MPI Message Matching Misery", ISC 2016) have a hash map whose entries carry their order; Zounmevo and Afsahi
//! ("An Efficient MPI Message Queue Mechanism for Large-scale Jobs", ICPADS 2012) look at jobs so large that memory for each rank
//! counts; Bayatpour et al. ("Adaptive and Dynamic Design for MPI Tag Matching", CLUSTER 2016) change between designs by bin and by
//! rank while the program runs. One look-up for each *kind* of wildcard is the tuple space search of packet filters (Srinivasan, Suri and
//! Varghese, "Packet Classification Using Tuple Space Search", SIGCOMM 1999): an MPI program has few masks, such as "any tag
//! of this communicator", and may have very many receives.

mod queues;
mod slab;

use queues::{Key, Queues};
use slab::{NONE, Queue, Slab};

/// What a message says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The sender's rank.
    pub source: u32,
    /// The sender's tag.
    pub tag: u64,
}

/// The bit of a tag that libraries above set in theirs, as collective operations do: a receive of any tag is for messages of the program and
/// does not match them.
pub const LIBRARY_TAG_BIT: u64 = 1 << 63;

/// Which messages a receive wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// The sender's rank; `None` is any.
    pub source: Option<u32>,
    /// The tag, as far as `mask` says.
    pub tag: u64,
    /// The bits of the tag that have to be equal.
    pub mask: u64,
}

impl Pattern {
    /// One source and one tag.
    pub const fn exact(source: u32, tag: u64) -> Self {
        Self { source: Some(source), tag, mask: u64::MAX }
    }

    /// One tag, of any source.
    pub const fn any_source(tag: u64) -> Self {
        Self { source: None, tag, mask: u64::MAX }
    }

    /// Any tag, of one source; but for tags with [`LIBRARY_TAG_BIT`].
    pub const fn any_tag(source: u32) -> Self {
        Self { source: Some(source), tag: 0, mask: LIBRARY_TAG_BIT }
    }

    /// Every message, but for those whose tag has [`LIBRARY_TAG_BIT`].
    pub const fn anything() -> Self {
        Self { source: None, tag: 0, mask: LIBRARY_TAG_BIT }
    }

    /// Whether a message is one of those wanted.
    pub fn matches(self, envelope: Envelope) -> bool {
        self.source.is_none_or(|source| source == envelope.source)
            && (envelope.tag ^ self.tag) & self.mask == 0
    }
}

/// A posted receive. Handles of one [`Matching`] order by age and are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiveHandle {
    stamp: u64,
    index: u32,
}

/// A kept message. Handles of one [`Matching`] order by age and are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageHandle {
    stamp: u64,
    index: u32,
}

/// What became of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match<R, M> {
    /// A kept message was for it.
    Matched {
        /// The receive, given back.
        receive: R,
        /// What the message said of itself.
        envelope: Envelope,
        /// The message, taken out.
        message: M,
    },
    /// It is posted.
    Waits(ReceiveHandle),
}

/// How much there is room for without allocating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Posted receives.
    pub receives: usize,
    /// Kept messages.
    pub messages: usize,
    /// Entries of the table of receives: half of them may be used.
    pub receive_entries: usize,
    /// Entries of the table of messages: half of them may be used.
    pub message_entries: usize,
}

/// Patterns of one kind look at the same parts of an envelope, so one look-up finds the first of those that match.
#[derive(Debug, Clone, Copy)]
struct Kind {
    any_source: bool,
    mask: u64,
    posted: usize,
}

impl Kind {
    const EXACT: Self = Self { any_source: false, mask: u64::MAX, posted: 0 };

    const fn is_of(&self, pattern: Pattern) -> bool {
        self.any_source == pattern.source.is_none() && self.mask == pattern.mask
    }

    /// The key of the queue for receives of this kind that match a message, or want such ones.
    const fn key(&self, kind: usize, source: u32, tag: u64) -> Key {
        Key { tag: tag & self.mask, source: if self.any_source { 0 } else { source }, kind: kind as u32 }
    }
}

/// The kind of patterns with a source and a tag.
const EXACT: usize = 0;
/// The first four kinds are always there; the others take the masks that come.
const KINDS_FIXED: usize = 4;
/// A bit each in `Matching::kinds_in_use`.
const KINDS: usize = 8;

#[derive(Debug, Clone)]
struct Receive<R> {
    pattern: Pattern,
    /// `None`: in the last list, or alone.
    kind: Option<u8>,
    receive: R,
}

/// The key of the queue for receives of one source and one tag.
#[inline]
fn exact_key(pattern: Pattern) -> Option<Key> {
    let source = pattern.source.filter(|_| pattern.mask == u64::MAX)?;
    Some(Key { tag: pattern.tag, source, kind: EXACT as u32 })
}

/// The one list that a receive is in, if it is in one.
const RECEIVES: usize = 0;

/// Where the receive for a message is.
#[derive(Debug, Clone, Copy)]
enum First {
    /// The oldest of a queue.
    InQueue {
        kind: usize,
        entry: usize,
    },
    InLastList(u32),
    /// The only one.
    Alone,
}

#[derive(Debug, Clone)]
struct Message<M> {
    envelope: Envelope,
    message: M,
}

/// The lists that a message is in; of all but the last there is one for each key.
const BY_BOTH: usize = 0;
const BY_TAG: usize = 1;
const BY_SOURCE: usize = 2;
const BY_ARRIVAL: usize = 3;

/// The keys of the queues that a message is in.
const fn message_key(list: usize, envelope: Envelope) -> Key {
    Key {
        tag: if list == BY_SOURCE { 0 } else { envelope.tag },
        source: if list == BY_TAG { 0 } else { envelope.source },
        kind: list as u32,
    }
}

/// The posted receives and the kept messages of one process. `R` is what a posted receive carries, `M` what a kept message does.
#[derive(Debug, Clone)]
pub struct Matching<R, M> {
    receives: Slab<Receive<R>, 1>,
    kinds: [Kind; KINDS],
    /// Bit by bit the kinds that have receives in queues.
    kinds_in_use: u8,
    receive_queues: Queues,
    /// Receives without a kind.
    others: Queue,
    /// The receive that is in no list, because it was posted when there was no other; or [`NONE`].
    alone: u32,
    messages: Slab<Message<M>, 4>,
    message_queues: Queues,
    arrivals: Queue,
}

impl<R, M> Default for Matching<R, M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, M> Matching<R, M> {
    /// With nothing posted and nothing kept.
    pub fn new() -> Self {
        let mut kinds = [Kind::EXACT; KINDS];
        kinds[1] = Kind { any_source: true, ..Kind::EXACT };
        kinds[2] = Kind { mask: LIBRARY_TAG_BIT, ..Kind::EXACT };
        kinds[3] = Kind { any_source: true, mask: LIBRARY_TAG_BIT, posted: 0 };
        Self {
            receives: Slab::new(),
            kinds,
            kinds_in_use: 0,
            receive_queues: Queues::new(),
            others: Queue::EMPTY,
            alone: NONE,
            messages: Slab::new(),
            message_queues: Queues::new(),
            arrivals: Queue::EMPTY,
        }
    }

    /// A receive is posted: it gets the first kept message that matches, or waits.
    #[inline]
    pub fn post(&mut self, pattern: Pattern, receive: R) -> Match<R, M> {
        if let Some(index) = self.first_message(pattern) {
            let Message { envelope, message } = self.remove_message(index);
            return Match::Matched { receive, envelope, message };
        }
        let is_alone = self.receives.len() == 0;
        let index = self.receives.insert(Receive { pattern, kind: None, receive });
        if is_alone {
            self.alone = index;
        } else {
            self.join(pattern, index);
        }
        Match::Waits(ReceiveHandle { stamp: self.receives.stamp(index), index })
    }

    /// There are others.
    #[inline]
    fn join(&mut self, pattern: Pattern, index: u32) {
        // In a window of messages most are as the one before. That an exact one is in a queue says that none is alone.
        if let Some(key) = exact_key(pattern)
            && self.receive_queues.append_to_recent(&mut self.receives, RECEIVES, key, index)
        {
            self.receives.get_mut(index).kind = Some(EXACT as u8);
            self.kinds[EXACT].posted += 1;
            return;
        }
        self.enlist_both(index);
    }

    /// Puts a receive into its list, and before it the one that was alone.
    #[inline(never)]
    fn enlist_both(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.alone, NONE);
        if older != NONE {
            self.enlist(older);
        }
        self.enlist(index);
    }

    /// Puts a receive into its list.
    fn enlist(&mut self, index: u32) {
        let pattern = self.receives.get(index).pattern;
        if let Some(kind) = self.kind_for(pattern) {
            self.receives.get_mut(index).kind = Some(kind as u8);
            self.kinds[kind].posted += 1;
            self.kinds_in_use |= 1 << kind;
            let key = self.receive_key(kind, pattern);
            self.receive_queues.append(&mut self.receives, RECEIVES, key, index);
        } else {
            self.receives.append(&mut self.others, RECEIVES, index);
        }
    }

    /// A receive of this kind has left its queue.
    fn left_queue(&mut self, kind: usize) {
        self.kinds[kind].posted -= 1;
        if self.kinds[kind].posted == 0 {
            self.kinds_in_use &= !(1 << kind);
        }
    }

    /// A message has arrived: takes out the first posted receive that matches. If there is none, the message is to be kept, by
    /// [`Matching::keep`], before anything else is posted.
    #[inline]
    pub fn arrive(&mut self, envelope: Envelope) -> Option<R> {
        // Of a window of messages: nothing else is posted, and more are.
        if self.kinds_in_use == 1 << EXACT && self.others.is_empty() {
            let key = Key { tag: envelope.tag, source: envelope.source, kind: EXACT as u32 };
            if let Some(index) = self.receive_queues.pop_recent(&mut self.receives, RECEIVES, key) {
                self.kinds[EXACT].posted -= 1;
                return Some(self.receives.remove(index).receive);
            }
        }
        self.arrive_at_any(envelope)
    }

    #[inline(never)]
    fn arrive_at_any(&mut self, envelope: Envelope) -> Option<R> {
        match self.first_receive(envelope)? {
            First::Alone => {
                let index = std::mem::replace(&mut self.alone, NONE);
                Some(self.receives.remove(index).receive)
            }
            First::InQueue { kind, entry } => {
                self.left_queue(kind);
                let index = self.receive_queues.pop(&mut self.receives, RECEIVES, entry);
                Some(self.receives.remove(index).receive)
            }
            First::InLastList(index) => Some(self.remove_receive(index)),
        }
    }

    /// Keeps a message for which [`Matching::arrive`] has found no receive.
    pub fn keep(&mut self, envelope: Envelope, message: M) -> MessageHandle {
        debug_assert!(self.first_receive(envelope).is_none(), "a receive waits for {envelope:?}");
        let index = self.messages.insert(Message { envelope, message });
        for list in [BY_BOTH, BY_TAG, BY_SOURCE] {
            self.message_queues.append(&mut self.messages, list, message_key(list, envelope), index);
        }
        self.messages.append(&mut self.arrivals, BY_ARRIVAL, index);
        MessageHandle { stamp: self.messages.stamp(index), index }
    }

    /// The first kept message that a receive would get; it stays.
    pub fn probe(&self, pattern: Pattern) -> Option<(MessageHandle, Envelope, &M)> {
        self.first_message(pattern).map(|index| self.kept_at(index))
    }

    /// Takes out a kept message; `None` if it was taken before.
    pub fn take(&mut self, handle: MessageHandle) -> Option<M> {
        let there = self.messages.holds(handle.index, handle.stamp);
        there.then(|| self.remove_message(handle.index).message)
    }

    /// Takes back a posted receive; `None` if it was matched or taken back before.
    pub fn cancel(&mut self, handle: ReceiveHandle) -> Option<R> {
        let there = self.receives.holds(handle.index, handle.stamp);
        there.then(|| self.remove_receive(handle.index))
    }

    /// Takes back all receives that name this source, in the order in which they were posted. Those of any source stay, and so do
    /// messages of this source, which can still be received.
    pub fn source_failed(&mut self, source: u32) -> Vec<R> {
        let named = self.receives.iter().filter(|(_, receive)| receive.pattern.source == Some(source));
        let mut failed: Vec<_> = named.map(|(index, _)| (self.receives.stamp(index), index)).collect();
        failed.sort_unstable();
        failed.into_iter().map(|(_, index)| self.remove_receive(index)).collect()
    }

    /// How many receives are posted.
    pub const fn posted(&self) -> usize {
        self.receives.len()
    }

    /// Whether no receive is posted and no message kept: then whoever awaits a message gets the first one that matches.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.receives.len() == 0 && self.messages.len() == 0
    }

    /// How many messages are kept.
    pub const fn kept(&self) -> usize {
        self.messages.len()
    }

    /// The posted receives, in no order of meaning: their handles say which is older.
    pub fn receives(&self) -> impl Iterator<Item = (ReceiveHandle, Pattern, &R)> {
        self.receives.iter().map(|(index, receive)| {
            (ReceiveHandle { stamp: self.receives.stamp(index), index }, receive.pattern, &receive.receive)
        })
    }

    /// The kept messages, in the order in which they arrived.
    pub fn messages(&self) -> impl Iterator<Item = (MessageHandle, Envelope, &M)> {
        self.list(self.arrivals.head(), BY_ARRIVAL).map(|index| self.kept_at(index))
    }

    /// As [`Matching::messages`], of one source: no other is looked at.
    pub fn messages_of(&self, source: u32) -> impl Iterator<Item = (MessageHandle, Envelope, &M)> {
        let entry = self.message_queues.find(message_key(BY_SOURCE, Envelope { source, tag: 0 }));
        let head = entry.map_or(NONE, |entry| self.message_queues.head(entry));
        self.list(head, BY_SOURCE).map(|index| self.kept_at(index))
    }

    fn kept_at(&self, index: u32) -> (MessageHandle, Envelope, &M) {
        let Message { envelope, message } = self.messages.get(index);
        (MessageHandle { stamp: self.messages.stamp(index), index }, *envelope, message)
    }

    /// What there is room for. It never shrinks.
    pub const fn capacity(&self) -> Capacity {
        Capacity {
            receives: self.receives.capacity(),
            messages: self.messages.capacity(),
            receive_entries: self.receive_queues.capacity(),
            message_entries: self.message_queues.capacity(),
        }
    }

    /// The kind of a pattern, if it has one or one is free.
    fn kind_for(&mut self, pattern: Pattern) -> Option<usize> {
        if let Some(kind) = self.kinds.iter().position(|kind| kind.is_of(pattern)) {
            return Some(kind);
        }
        let free = (KINDS_FIXED..KINDS).find(|&kind| self.kinds[kind].posted == 0)?;
        self.kinds[free] = Kind { any_source: pattern.source.is_none(), mask: pattern.mask, posted: 0 };
        Some(free)
    }

    fn receive_key(&self, kind: usize, pattern: Pattern) -> Key {
        self.kinds[kind].key(kind, pattern.source.unwrap_or(0), pattern.tag)
    }

    #[inline]
    fn first_receive(&self, envelope: Envelope) -> Option<First> {
        if self.alone != NONE {
            step();
            return self.receives.get(self.alone).pattern.matches(envelope).then_some(First::Alone);
        }
        self.first_listed(envelope)
    }

    fn first_listed(&self, envelope: Envelope) -> Option<First> {
        let (mut oldest, mut first) = (u64::MAX, None);
        let mut in_use = self.kinds_in_use;
        while in_use != 0 {
            let number = in_use.trailing_zeros() as usize;
            in_use &= in_use - 1;
            let key = self.kinds[number].key(number, envelope.source, envelope.tag);
            let Some(entry) = self.receive_queues.find(key) else { continue };
            let stamp = self.receives.stamp(self.receive_queues.head(entry));
            if stamp < oldest {
                (oldest, first) = (stamp, Some(First::InQueue { kind: number, entry }));
            }
        }
        let mut index = self.others.head();
        while index != NONE && self.receives.stamp(index) < oldest {
            step();
            if self.receives.get(index).pattern.matches(envelope) {
                return Some(First::InLastList(index));
            }
            index = self.receives.next(RECEIVES, index);
        }
        first
    }

    #[inline]
    fn first_message(&self, pattern: Pattern) -> Option<u32> {
        if self.messages.len() == 0 { None } else { self.first_kept(pattern) }
    }

    fn first_kept(&self, pattern: Pattern) -> Option<u32> {
        let list = match (pattern.source, pattern.mask) {
            (Some(_), u64::MAX) => BY_BOTH,
            (None, u64::MAX) => BY_TAG,
            (Some(_), _) => BY_SOURCE,
            (None, _) => BY_ARRIVAL,
        };
        let head = if list == BY_ARRIVAL {
            self.arrivals.head()
        } else {
            let wanted = Envelope { source: pattern.source.unwrap_or(0), tag: pattern.tag };
            let entry = self.message_queues.find(message_key(list, wanted))?;
            self.message_queues.head(entry)
        };
        self.list(head, list).find(|&index| pattern.matches(self.messages.get(index).envelope))
    }

    /// The messages of a list, from one of them on.
    fn list(&self, head: u32, list: usize) -> impl Iterator<Item = u32> {
        let from = |index: u32| (index != NONE).then_some(index);
        std::iter::successors(from(head), move |&index| from(self.messages.next(list, index)))
            .inspect(|_| step())
    }

    fn remove_receive(&mut self, index: u32) -> R {
        let &Receive { pattern, kind, .. } = self.receives.get(index);
        if index == self.alone {
            self.alone = NONE;
        } else if let Some(kind) = kind.map(usize::from) {
            let key = self.receive_key(kind, pattern);
            self.left_queue(kind);
            self.receive_queues.unlink(&mut self.receives, RECEIVES, key, index);
        } else {
            let left = self.receives.unlink(RECEIVES, index);
            self.others.close_up(left);
        }
        self.receives.remove(index).receive
    }

    fn remove_message(&mut self, index: u32) -> Message<M> {
        let envelope = self.messages.get(index).envelope;
        for list in [BY_BOTH, BY_TAG, BY_SOURCE] {
            self.message_queues.unlink(&mut self.messages, list, message_key(list, envelope), index);
        }
        let left = self.messages.unlink(BY_ARRIVAL, index);
        self.arrivals.close_up(left);
        self.messages.remove(index)
    }
}

/// Tests count the entries, receives and messages that are looked at.
#[inline]
fn step() {
    #[cfg(test)]
    tests::STEPS.set(tests::STEPS.get() + 1);
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
