//! One peer, as the protocol sees it: both directions' numbers and windows, and what is still to be said to it.

use std::collections::VecDeque;

use super::credit::{ReceiveWindow, SendWindow};
use super::requests::Handle;
use super::sequence::Sequence;
use super::violation::Violation;
use crate::wire::message::{Hello, Kind, Memory, Outcome};

/// What a peer may be sent unasked before it has said how much it takes. All grant that much.
pub const INITIAL_WINDOW_BYTES: u32 = 64 * 1024;

/// How many messages a peer may announce that no receive has asked for. They take no room of its window, so that none has to wait; and a
/// program may well send thousands before it receives one. So this is no flow control but the end of a peer that has gone wrong,
/// before memory ends: 120 MB of announcements with one tag, 310 MB with a tag for each.
pub const ANNOUNCED_MAX: u32 = 1 << 20;

/// What the connection to a peer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// The longest message that is sent at once, in bytes of data.
    pub eager_bytes_max: u32,
    /// The longest piece of a message that is sent in pieces, in bytes of data; at least 1.
    pub piece_bytes_max: u32,
    /// Long messages are better written by their sender than read by their receiver.
    pub prefers_writing: bool,
}

/// Something to be said to a peer, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Hello(Hello),
    /// A message, at once or by announcement: decided when its turn comes.
    Send(Handle),
    Read {
        sender: Handle,
        outcome: Outcome,
    },
    Ready {
        sender: Handle,
        receiver: Handle,
        memory: Option<Memory>,
        len_bytes: u64,
    },
    Written {
        receiver: Handle,
        outcome: Outcome,
    },
    /// The next piece of a message.
    Piece(Handle),
    /// A message that was announced is not to be received any more, if it can be helped.
    Withdraw(Handle),
    Credit,
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) limits: PeerLimits,
    pub(super) numbers: Sequence,
    pub(super) expected: Sequence,
    pub(super) sends: SendWindow,
    pub(super) receives: ReceiveWindow,
    /// Announcements of this peer that are kept.
    pub(super) announced: u32,
    /// It has greeted.
    pub(super) has_greeted: bool,
    /// Waits for room in the fabric; filled by [`Peer::say`] only.
    pub(super) outbox: VecDeque<Word>,
    /// Its rank, which is among the talkers while there is something in the outbox.
    rank: u32,
    pub(super) is_talked_to: bool,
    /// A credit message waits in the outbox.
    pub(super) credit_waits: bool,
}

impl Peer {
    /// Whom nothing has been said to yet: the greeting is the first word.
    pub(super) fn new(rank: u32, limits: PeerLimits, hello: Hello) -> Self {
        assert!(limits.piece_bytes_max > 0, "pieces of nothing never end");
        Self {
            limits,
            numbers: Sequence::new(),
            expected: Sequence::new(),
            sends: SendWindow::new(INITIAL_WINDOW_BYTES),
            receives: ReceiveWindow::new(hello.window_bytes),
            announced: 0,
            has_greeted: false,
            outbox: VecDeque::new(),
            rank,
            is_talked_to: false,
            credit_waits: false,
        }
    }

    /// Whether this peer may send a message of this kind and number now.
    #[inline]
    pub(super) fn check(&mut self, kind: Kind, number: u32) -> Result<(), Violation> {
        self.expected.check(number)?;
        if kind != Kind::Hello && !self.has_greeted {
            return Err(Violation::Unexpected { kind, what: "before its greeting" });
        }
        Ok(())
    }

    /// Whether this peer may send an eager message of this number and length now; the length that counts in its window.
    #[inline(always)]
    pub(super) fn take_eager(&mut self, number: u32, len_bytes: usize) -> Result<u32, Violation> {
        self.check(Kind::Eager, number)?;
        let wrong_length = Violation::Length { kind: Kind::Eager, len_bytes };
        let counted = u32::try_from(len_bytes).map_err(|_| wrong_length)?;
        self.receives.arrived(counted)?;
        Ok(counted)
    }

    /// Puts a word into the outbox, and the peer among the talkers, so that somebody looks there.
    pub(super) fn say(&mut self, word: Word, talkers: &mut Vec<u32>) {
        self.outbox.push_back(word);
        if !std::mem::replace(&mut self.is_talked_to, true) {
            talkers.push(self.rank);
        }
    }

    /// A message that came unasked needs no room any more.
    #[inline]
    pub(super) fn consumed(&mut self, len_bytes: u32, talkers: &mut Vec<u32>) {
        self.receives.consumed(len_bytes);
        if self.receives.owes_much() && !self.credit_waits {
            self.credit_waits = true;
            self.say(Word::Credit, talkers);
        }
    }
}
