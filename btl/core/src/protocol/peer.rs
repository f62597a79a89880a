//! One peer, as the protocol sees it: both directions' numbers and windows, and what is still to be said to it.

use std::collections::VecDeque;

use super::credit::{ReceiveWindow, SendWindow};
use super::requests::Handle;
use super::sequence::Sequence;
use crate::wire::message::{Hello, Memory, Outcome};

/// What a peer may be sent unasked before it has said how much it takes. All grant that much.
pub const INITIAL_WINDOW_BYTES: u32 = 64 * 1024;

/// What the connection to a peer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// The longest message that is sent at once, in bytes of data.
    pub eager_bytes_max: u32,
    /// The longest piece of a message that is sent in pieces, in bytes of data.
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
    Credit,
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) limits: PeerLimits,
    pub(super) numbers: Sequence,
    pub(super) expected: Sequence,
    pub(super) sends: SendWindow,
    pub(super) receives: ReceiveWindow,
    /// It has greeted.
    pub(super) has_greeted: bool,
    /// Waits for room in the fabric.
    pub(super) outbox: VecDeque<Word>,
    /// A credit message waits in the outbox.
    pub(super) credit_waits: bool,
}

impl Peer {
    pub(super) fn new(limits: PeerLimits, hello: Hello) -> Self {
        Self {
            limits,
            numbers: Sequence::new(),
            expected: Sequence::new(),
            sends: SendWindow::new(INITIAL_WINDOW_BYTES),
            receives: ReceiveWindow::new(hello.window_bytes),
            has_greeted: false,
            outbox: VecDeque::from([Word::Hello(hello)]),
            credit_waits: false,
        }
    }

    /// A message that came unasked needs no room any more.
    pub(super) fn consumed(&mut self, len_bytes: u32) {
        self.receives.consumed(len_bytes);
        if self.receives.owes_much() && !self.credit_waits {
            self.credit_waits = true;
            self.outbox.push_back(Word::Credit);
        }
    }
}
