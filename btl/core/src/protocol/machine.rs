//! The protocol of one process: a pure state machine. Requests of the program and messages of peers go in; messages to post, and
//! transfers to start, come out.
//!
//! ```text
//!   short     send ───────────── eager ─────────────► matched: copied to the receive, or kept
//!
//!   long      send ──────────── announce ───────────► matched: the receiver reads
//!                  ◄────────────── read ─────────────
//!
//!   long,     send ──────────── announce ───────────► matched: the receiver registers its buffer
//!   written        ◄───────────── ready ─────────────
//!             writes, then ──── written ────────────►
//!
//!   taken     send ──────────── announce ───────────► kept: nobody has asked for it
//!   back      withdraw ──────── withdraw ───────────► forgotten; if it was matched meanwhile, it goes on as above
//!                  ◄────────────── read ─────────────
//!
//!   in        send ──────────── announce ───────────► matched, or reading it was not possible
//!   pieces         ◄───────────── ready ─────────────
//!                  ────── piece, piece, piece ──────►
//! ```
//!
//! A message for which the peer's window has no room is announced, however short it is, and comes in one piece when it is
//! received. So nothing but the fabric's back-pressure ever holds a message up, and what a process keeps for messages that nobody
//! has asked for is bounded, peer by peer: their data by the window, announcements by [`ANNOUNCED_MAX`](super::ANNOUNCED_MAX).
//!
//! What a peer says is checked: a number that is not the next one, a length that does not fit, a request that there is not, or that
//! is not at that point, fails this peer and changes nothing else.
//!
//! The calls are in `sending.rs`, `receiving.rs` and `arriving.rs`. `S`, `R` and `K` are what the caller wants to keep with a send, with a
//! receive and of a kept message: buffers.

use std::collections::{BTreeSet, VecDeque};

use super::matching::{Envelope, Matching, MessageHandle, Pattern, ReceiveHandle};
use super::peer::{Peer, PeerLimits, Word};
use super::requests::{Handle, Requests};
use crate::rank_table::RankTable;
use crate::wire::message::{Announce, HEADER_BYTES_MAX, Hello, Memory};

/// What a receive got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The sender's rank.
    pub source: u32,
    /// The sender's tag.
    pub tag: u64,
    /// The message's length in bytes.
    pub len_bytes: u64,
}

/// Why a request was in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The message is longer than the buffer. If it was short, its beginning is in the buffer.
    #[error(
        "a message of {len_bytes} bytes from rank {source_rank}, tag {tag:#x}, does not fit a buffer of {capacity_bytes}"
    )]
    Truncated {
        /// The sender.
        source_rank: u32,
        /// Its tag.
        tag: u64,
        /// The message's length.
        len_bytes: u64,
        /// The buffer's.
        capacity_bytes: u64,
    },
    /// The peer is lost.
    #[error("rank {rank} is lost")]
    PeerLost {
        /// The peer.
        rank: u32,
    },
    /// The data could not be moved, though the connection lives.
    #[error("the data of a message to or from rank {rank} could not be moved")]
    NotMoved {
        /// The peer.
        rank: u32,
    },
}

/// A transfer to be started. It ends with the call that its variant names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// Read a message into the buffer of a receive; then [`Protocol::read_ended`].
    Read {
        /// The receive.
        receive: Handle,
        /// Whose memory.
        peer: u32,
        /// From here.
        memory: Memory,
        /// So much.
        len_bytes: u64,
    },
    /// Register the buffer of a receive for writing by the peer; then [`Protocol::exposed`].
    Expose {
        /// The receive.
        receive: Handle,
        /// Who will write.
        peer: u32,
        /// So much.
        len_bytes: u64,
    },
    /// Write the message of a send to a peer's memory; then [`Protocol::write_ended`].
    Write {
        /// The send.
        send: Handle,
        /// Whose memory.
        peer: u32,
        /// To here.
        memory: Memory,
        /// So much.
        len_bytes: u64,
    },
}

/// What to do with a message that has arrived, before its buffer is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing.
    Nothing,
    /// Copy `len_bytes` bytes behind the header to this offset of a receive's buffer, at once: it may be done.
    Deliver {
        /// The receive.
        receive: Handle,
        /// In its buffer.
        offset: u64,
        /// Behind the header.
        len_bytes: usize,
    },
    /// Keep all that is behind the header, with [`Protocol::keep`], at once.
    Keep(Envelope),
    /// The peer has given this process up; why is behind the header. It is to be given up, too.
    Farewell,
    /// An active message, for the handler with this number.
    Active {
        /// The handler.
        id: u32,
    },
}

/// A message to be posted: immediate data, header, and a part of a send's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Post {
    /// Immediate data.
    pub immediate: u32,
    pub(super) header: [u8; HEADER_BYTES_MAX],
    pub(super) header_bytes: usize,
    /// The send, and where in its buffer the payload begins and how long it is.
    pub payload: Option<(Handle, u64, usize)>,
    /// The key of registered memory that this message tells the peer of.
    pub announced_key: Option<u64>,
}

impl Post {
    /// The header.
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_bytes]
    }
}

/// What a process keeps of a message that no receive waits for.
#[derive(Debug, Clone)]
pub(super) enum Kept<K> {
    Data { data: K, len_bytes: u32 },
    Announced(Announce),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendStage {
    /// In the outbox.
    Waits,
    /// The peer has been told of it, and will say how it goes on.
    Announced,
    /// Being written to the receiver's buffer.
    Writing {
        receiver: Handle,
    },
    /// Goes in pieces; so much has gone.
    InPieces {
        receiver: Handle,
        gone_bytes: u64,
    },
    Done(Result<(), RequestError>),
}

#[derive(Debug, Clone)]
pub(super) struct Send<S> {
    pub(super) peer: u32,
    pub(super) tag: u64,
    pub(super) len_bytes: u64,
    pub(super) memory: Option<Memory>,
    /// Its program wants the buffer back.
    pub(super) is_withdrawn: bool,
    pub(super) stage: SendStage,
    pub(super) body: S,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReceiveStage {
    Posted(ReceiveHandle),
    Reading {
        sender: Handle,
    },
    Exposing {
        sender: Handle,
    },
    /// The answer to the announcement waits in the outbox. The peer does not know of it, and can do nothing yet.
    Answering,
    /// The peer writes.
    AwaitsWrite,
    AwaitsPieces {
        come_bytes: u64,
    },
    Done(Ending),
}

/// How a receive has ended. What it got is beside it, and how much of that fits: requests are small, for there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its message has come; or it was too long, and has not.
    Met,
    PeerLost {
        rank: u32,
    },
    NotMoved {
        rank: u32,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Receive<R> {
    pub(super) capacity_bytes: u64,
    /// What was matched; nothing before.
    pub(super) message: Received,
    pub(super) stage: ReceiveStage,
    pub(super) body: R,
}

/// A receive that found its message among those kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<K> {
    /// The message; its beginning, as far as it fits, is to be copied to the receive's buffer at once.
    pub data: K,
    /// How much of it to copy.
    pub len_bytes: usize,
}

/// The protocol of one process.
#[derive(Debug)]
pub struct Protocol<S, R, K> {
    pub(super) hello: Hello,
    /// Made on first use.
    pub(super) peers: RankTable<Box<Peer>>,
    /// Few, or the job is over.
    pub(super) lost: BTreeSet<u32>,
    pub(super) size: u32,
    pub(super) matching: Matching<Handle, Kept<K>>,
    pub(super) sends: Requests<Send<S>>,
    pub(super) receives: Requests<Receive<R>>,
    pub(super) transfers: VecDeque<Transfer>,
    /// Messages that nobody will ever receive.
    pub(super) refused: Vec<Pattern>,
    /// Peers to whom there is something to say, each once.
    pub(super) talkers: Vec<u32>,
}

impl<S, R, K> Protocol<S, R, K> {
    /// For the process that greets so, in a job of `size` processes.
    pub fn new(hello: Hello, size: u32) -> Self {
        assert!(hello.rank < size && hello.window_bytes >= super::peer::INITIAL_WINDOW_BYTES);
        Self {
            hello,
            peers: RankTable::new(),
            lost: BTreeSet::new(),
            size,
            matching: Matching::new(),
            sends: Requests::new(),
            receives: Requests::new(),
            transfers: VecDeque::new(),
            refused: Vec::new(),
            talkers: Vec::new(),
        }
    }

    /// How many processes there are.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Whether a peer is known, or was lost.
    pub fn is_known(&self, peer: u32) -> bool {
        self.peers.get(peer).is_some() || self.is_lost(peer)
    }

    /// Whether a peer was lost.
    #[inline]
    pub fn is_lost(&self, peer: u32) -> bool {
        !self.lost.is_empty() && self.lost.contains(&peer)
    }

    /// There is a connection to a peer, who is greeted first. Does nothing for one that is known.
    pub fn connected(&mut self, peer: u32, limits: PeerLimits) {
        if !self.is_known(peer) {
            let mut new = Box::new(Peer::new(peer, limits, self.hello));
            new.say(Word::Hello(self.hello), &mut self.talkers);
            self.peers.insert(peer, new);
        }
    }

    pub(super) fn peer(&mut self, peer: u32) -> Option<&mut Peer> {
        self.peers.get_mut(peer).map(|peer| &mut **peer)
    }

    /// A peer is lost. Its requests end, but for those whose transfers are under way: these end with their transfers.
    pub fn peer_lost(&mut self, rank: u32) {
        self.lost.insert(rank);
        self.peers.remove(rank);
        for (_, send) in self.sends.iter_mut().filter(|(_, send)| send.peer == rank) {
            if !matches!(send.stage, SendStage::Writing { .. } | SendStage::Done(_)) {
                send.stage = SendStage::Done(Err(RequestError::PeerLost { rank }));
            }
        }
        for handle in self.matching.source_failed(rank) {
            self.stage(handle, ReceiveStage::Done(Ending::PeerLost { rank }));
        }
        for (_, receive) in self.receives.iter_mut().filter(|(_, receive)| receive.message.source == rank) {
            let waits_for_peer = matches!(
                receive.stage,
                ReceiveStage::Answering | ReceiveStage::AwaitsWrite | ReceiveStage::AwaitsPieces { .. }
            );
            if waits_for_peer {
                receive.stage = ReceiveStage::Done(Ending::PeerLost { rank });
            }
        }
        // What it has announced cannot come any more; a receive of any source must not wait for that, nor fail because of it.
        let announced: Vec<MessageHandle> = (self.matching.messages_of(rank))
            .filter(|(.., kept)| matches!(kept, Kept::Announced(_)))
            .map(|(handle, ..)| handle)
            .collect();
        for handle in announced {
            self.matching.take(handle);
        }
    }

    /// Requests that have not been forgotten, and messages kept.
    pub fn counts(&self) -> Counts {
        Counts { sends: self.sends.len(), receives: self.receives.len(), kept: self.matching.kept() }
    }

    /// A peer to whom there is something to say, which [`Protocol::next_post`] gives: the first for 0, and so on.
    #[inline]
    pub fn talker(&self, at: usize) -> Option<u32> {
        self.talkers.get(at).copied()
    }

    /// All has been said to the talker at this place; the last one takes it.
    pub fn fell_silent(&mut self, at: usize) {
        let rank = self.talkers.swap_remove(at);
        if let Some(peer) = self.peer(rank) {
            debug_assert!(peer.outbox.is_empty(), "there is more to say");
            peer.is_talked_to = false;
        }
    }

    /// Whether a transfer waits to be started.
    #[inline]
    pub fn has_transfer(&self) -> bool {
        !self.transfers.is_empty()
    }
}

/// What there is in a [`Protocol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sends.
    pub sends: usize,
    /// Receives.
    pub receives: usize,
    /// Messages that no receive has asked for.
    pub kept: usize,
}
