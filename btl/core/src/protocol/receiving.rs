//! The receiver's side: receives that are posted, and how announced messages come to them.

use super::machine::{
    Ending, Found, Kept, Protocol, Receive, ReceiveStage, Received, RequestError, SendStage, Transfer,
};
use super::matching::{Envelope, Match, Pattern};
use super::peer::Word;
use super::requests::Handle;
use crate::wire::message::{Announce, Memory, Outcome};

impl<S, R, K> Protocol<S, R, K> {
    /// A receive is posted. If its message was kept it is returned, to be copied at once; then, or later, [`Protocol::receive_outcome`]
    /// says how it has ended.
    pub fn receive(&mut self, pattern: Pattern, capacity_bytes: u64, body: R) -> (Handle, Option<Found<K>>) {
        let message = Received { source: 0, tag: 0, len_bytes: 0 };
        // What a lost peer has sent before can still be received.
        let lost = pattern.source.filter(|rank| self.is_lost(*rank));
        if let Some(rank) = lost
            && self.matching.probe(pattern).is_none()
        {
            let stage = ReceiveStage::Done(Ending::PeerLost { rank });
            return (self.receives.insert(Receive { capacity_bytes, message, stage, body }), None);
        }
        let mut found = None;
        let handle = self.receives.insert_with(|handle| {
            let stage = match self.matching.post(pattern, handle) {
                Match::Waits(posted) => ReceiveStage::Posted(posted),
                Match::Matched { envelope, message, .. } => {
                    found = Some((envelope, message));
                    // Set below.
                    ReceiveStage::Answering
                }
            };
            Receive { capacity_bytes, message, stage, body }
        });
        let found = found.and_then(|(envelope, kept)| self.found(handle, envelope, kept));
        (handle, found)
    }

    /// A receive has found its message among those kept.
    fn found(&mut self, handle: Handle, envelope: Envelope, kept: Kept<K>) -> Option<Found<K>> {
        let peer = self.peers.get_mut(envelope.source);
        match kept {
            Kept::Data { data, len_bytes } => {
                if let Some(peer) = peer {
                    peer.consumed(len_bytes, &mut self.talkers);
                }
                let receive = self.receives.get_mut(handle)?;
                let len_bytes = receive.deliver(envelope, len_bytes.into());
                Some(Found { data, len_bytes })
            }
            Kept::Announced(announce) => {
                if let Some(peer) = peer {
                    peer.announced -= 1;
                }
                self.begin(handle, envelope.source, announce);
                None
            }
        }
    }

    pub(super) fn stage(&mut self, handle: Handle, stage: ReceiveStage) {
        if let Some(receive) = self.receives.get_mut(handle) {
            receive.stage = stage;
        }
    }

    /// An announced message has found its receive.
    pub(super) fn begin(&mut self, handle: Handle, source: u32, announce: Announce) {
        let Some(receive) = self.receives.get_mut(handle) else { return };
        let Announce { tag, len_bytes, memory, sender, .. } = announce;
        receive.message = Received { source, tag, len_bytes };
        let sender = Handle::from_wire(sender);
        let Some(peer) = self.peers.get_mut(source) else {
            receive.stage = ReceiveStage::Done(Ending::PeerLost { rank: source });
            return;
        };
        if len_bytes > receive.capacity_bytes {
            receive.stage = ReceiveStage::Done(Ending::Met);
            peer.say(Word::Read { sender, outcome: Outcome::Truncated }, &mut self.talkers);
        } else if len_bytes == 0 {
            receive.stage = ReceiveStage::Done(Ending::Met);
            peer.say(Word::Read { sender, outcome: Outcome::Done }, &mut self.talkers);
        } else if let Some(memory) = memory {
            if peer.limits.prefers_writing {
                receive.stage = ReceiveStage::Exposing { sender };
                self.transfers.push_back(Transfer::Expose { receive: handle, peer: source, len_bytes });
            } else {
                receive.stage = ReceiveStage::Reading { sender };
                self.transfers.push_back(Transfer::Read { receive: handle, peer: source, memory, len_bytes });
            }
        } else {
            receive.stage = ReceiveStage::Answering;
            peer.say(Word::Ready { sender, receiver: handle, memory: None, len_bytes }, &mut self.talkers);
        }
    }

    /// The next transfer to start.
    pub fn next_transfer(&mut self) -> Option<Transfer> {
        self.transfers.pop_front()
    }

    /// A [`Transfer::Read`] has ended.
    pub fn read_ended(&mut self, receive: Handle, is_done: bool) {
        let Some(receive) = self.receives.get_mut(receive) else { return };
        let ReceiveStage::Reading { sender } = receive.stage else { return };
        let rank = receive.message.source;
        let Some(peer) = self.peers.get_mut(rank) else {
            receive.stage = ReceiveStage::Done(Ending::PeerLost { rank });
            return;
        };
        let (outcome, end) =
            if is_done { (Outcome::Done, Ending::Met) } else { (Outcome::Failed, Ending::NotMoved { rank }) };
        receive.stage = ReceiveStage::Done(end);
        peer.say(Word::Read { sender, outcome }, &mut self.talkers);
    }

    /// A [`Transfer::Read`] cannot be started, because the buffer cannot be registered: the message comes in pieces instead.
    pub fn read_impossible(&mut self, receive: Handle) {
        self.exposed_or_read(receive, None);
    }

    /// A [`Transfer::Expose`] has ended: the peer can write there; or nowhere, and then the message comes in pieces.
    pub fn exposed(&mut self, receive: Handle, memory: Option<Memory>) {
        self.exposed_or_read(receive, memory);
    }

    fn exposed_or_read(&mut self, handle: Handle, memory: Option<Memory>) {
        let Some(receive) = self.receives.get_mut(handle) else { return };
        let (ReceiveStage::Exposing { sender } | ReceiveStage::Reading { sender }) = receive.stage else {
            return;
        };
        let Received { source, len_bytes, .. } = receive.message;
        let Some(peer) = self.peers.get_mut(source) else {
            receive.stage = ReceiveStage::Done(Ending::PeerLost { rank: source });
            return;
        };
        receive.stage = ReceiveStage::Answering;
        peer.say(Word::Ready { sender, receiver: handle, memory, len_bytes }, &mut self.talkers);
    }

    /// Whether a receive has ended: then its buffer may be used again.
    pub fn receive_outcome(&self, handle: Handle) -> Option<Result<Received, RequestError>> {
        self.receives.get(handle)?.outcome()
    }

    /// Whose message a receive has found that has not ended.
    pub fn peer_of_receive(&self, handle: Handle) -> Option<u32> {
        let receive = self.receives.get(handle)?;
        let is_found = !matches!(receive.stage, ReceiveStage::Posted(_) | ReceiveStage::Done(_));
        is_found.then_some(receive.message.source)
    }

    /// Those without whom some request does not end: the sources that receives name, and the peers of messages that are under way in either
    /// direction. Some more than once.
    pub fn awaited_peers(&self) -> impl Iterator<Item = u32> {
        let named = self.matching.receives().filter_map(|(_, pattern, _)| pattern.source);
        let receiving = self
            .receives
            .iter()
            .filter(|receive| !matches!(receive.stage, ReceiveStage::Posted(_) | ReceiveStage::Done(_)));
        let sending = self.sends.iter().filter(|send| !matches!(send.stage, SendStage::Done(_)));
        named.chain(receiving.map(|receive| receive.message.source)).chain(sending.map(|send| send.peer))
    }

    /// What was kept with a receive.
    pub fn receive_body(&mut self, handle: Handle) -> Option<&mut R> {
        self.receives.get_mut(handle).map(|receive| &mut receive.body)
    }

    /// Forgets a receive, if it has ended.
    #[inline(always)]
    pub fn take_receive(&mut self, handle: Handle) -> Option<(R, Result<Received, RequestError>)> {
        let outcome = self.receives.get(handle)?.outcome()?;
        let receive = self.receives.remove(handle)?;
        Some((receive.body, outcome))
    }

    /// Takes back a receive that no message has found yet.
    pub fn cancel(&mut self, handle: Handle) -> Option<R> {
        let ReceiveStage::Posted(posted) = self.receives.get(handle)?.stage else { return None };
        self.matching.cancel(posted)?;
        self.receives.remove(handle).map(|receive| receive.body)
    }

    /// Nobody will ever receive messages that match and that no posted receive waits for: those that are kept are thrown away, and so
    /// are those that come from now on. Their senders are told that they were sent, as if a receive had been too short for them.
    pub fn refuse(&mut self, pattern: Pattern) {
        while let Some((handle, envelope, _)) = self.matching.probe(pattern) {
            let kept = self.matching.take(handle);
            let Some(peer) = self.peers.get_mut(envelope.source) else { continue };
            match kept {
                Some(Kept::Data { len_bytes, .. }) => peer.consumed(len_bytes, &mut self.talkers),
                Some(Kept::Announced(announce)) => {
                    peer.announced -= 1;
                    let sender = Handle::from_wire(announce.sender);
                    peer.say(Word::Read { sender, outcome: Outcome::Truncated }, &mut self.talkers);
                }
                None => {}
            }
        }
        self.refused.push(pattern);
    }

    /// The first message that a receive would get, without receiving it.
    pub fn probe(&self, pattern: Pattern) -> Option<Received> {
        let (_, Envelope { source, tag }, kept) = self.matching.probe(pattern)?;
        let len_bytes = match kept {
            Kept::Data { len_bytes, .. } => u64::from(*len_bytes),
            Kept::Announced(announce) => announce.len_bytes,
        };
        Some(Received { source, tag, len_bytes })
    }
}

impl<R> Receive<R> {
    /// How it has ended, if it has.
    #[inline]
    pub(super) const fn outcome(&self) -> Option<Result<Received, RequestError>> {
        let ReceiveStage::Done(ending) = self.stage else { return None };
        Some(match ending {
            Ending::Met => fits(self.message, self.capacity_bytes),
            Ending::PeerLost { rank } => Err(RequestError::PeerLost { rank }),
            Ending::NotMoved { rank } => Err(RequestError::NotMoved { rank }),
        })
    }

    /// All data of a short message are there: the receive ends. Says how much of it fits.
    #[inline]
    pub(super) const fn deliver(&mut self, envelope: Envelope, len_bytes: u64) -> usize {
        let Envelope { source, tag } = envelope;
        self.message = Received { source, tag, len_bytes };
        self.stage = ReceiveStage::Done(Ending::Met);
        if len_bytes < self.capacity_bytes { len_bytes as usize } else { self.capacity_bytes as usize }
    }
}

/// The message of a receive, or that it is too long.
#[inline]
pub(super) const fn fits(message: Received, capacity_bytes: u64) -> Result<Received, RequestError> {
    let Received { source: source_rank, tag, len_bytes } = message;
    if len_bytes <= capacity_bytes {
        Ok(message)
    } else {
        Err(RequestError::Truncated { source_rank, tag, len_bytes, capacity_bytes })
    }
}
