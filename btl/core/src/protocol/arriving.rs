//! Messages of peers: each is checked before anything is changed.

use super::machine::{
    Arrival, Ending, Kept, Protocol, Receive, ReceiveStage, Received, RequestError, Send, SendStage, Transfer,
};
use super::matching::{Envelope, Pattern};
use super::peer::{ANNOUNCED_MAX, Word};
use super::receiving::fits;
use super::requests::Handle;
use super::violation::Violation;
use crate::wire::message::{
    ACTIVE_HEADER_BYTES, Announce, EAGER_HEADER_BYTES, Ended, Hello, Kind, Outcome, Piece, Ready, Withdraw,
};

impl<S, R, K> Protocol<S, R, K> {
    /// A message has arrived from a peer that is known. `start` is its beginning, as long as the longest header or all of it; `len_bytes` is
    /// its whole length.
    ///
    /// # Errors
    /// When it makes no sense: then the peer is to be given up, with [`Protocol::peer_lost`].
    pub fn arrived(
        &mut self,
        from: u32,
        immediate: u32,
        start: &[u8],
        len_bytes: usize,
    ) -> Result<Arrival, Violation> {
        let Some((kind, number)) = Kind::of_immediate(immediate) else {
            return Err(Violation::Kind(immediate & 15));
        };
        if self.peers.get(from).is_none() {
            return Ok(Arrival::Nothing);
        }
        if start.len() < kind.header_bytes() {
            return Err(Violation::Length { kind, len_bytes });
        }
        if kind == Kind::Farewell {
            return Ok(Arrival::Farewell);
        }
        if let (Kind::Eager, Some(tag)) = (kind, header::<EAGER_HEADER_BYTES>(start)) {
            let envelope = Envelope { source: from, tag: u64::from_le_bytes(*tag) };
            return self.eager_arrived(
                envelope,
                number,
                len_bytes - EAGER_HEADER_BYTES,
                |receive, _, len_bytes| Arrival::Deliver { receive, offset: 0, len_bytes },
            );
        }
        let Some(peer) = self.peers.get_mut(from) else { return Ok(Arrival::Nothing) };
        peer.check(kind, number)?;
        self.other_arrived(from, kind, start, len_bytes)
    }

    /// As [`Protocol::arrived`], for an eager message of this number, with `len_bytes` bytes behind the header: most are. If a receive waits for it,
    /// `deliver` gets what is kept with that, to copy so many bytes to its buffer, and says what is still to be done.
    ///
    /// # Errors
    /// As [`Protocol::arrived`].
    #[inline(always)]
    pub fn eager_arrived(
        &mut self,
        envelope: Envelope,
        number: u32,
        len_bytes: usize,
        deliver: impl FnOnce(Handle, &R, usize) -> Arrival,
    ) -> Result<Arrival, Violation> {
        let Some(peer) = self.peers.get_mut(envelope.source) else { return Ok(Arrival::Nothing) };
        let counted = peer.take_eager(number, len_bytes)?;
        match self.matching.arrive(envelope) {
            Some(handle) => {
                peer.consumed(counted, &mut self.talkers);
                let Some(receive) = self.receives.get_mut(handle) else { return Ok(Arrival::Nothing) };
                let len_bytes = receive.deliver(envelope, len_bytes as u64);
                Ok(deliver(handle, &receive.body, len_bytes))
            }
            None if is_refused(&self.refused, envelope) => {
                peer.consumed(counted, &mut self.talkers);
                Ok(Arrival::Nothing)
            }
            None => Ok(Arrival::Keep(envelope)),
        }
    }

    /// As [`Protocol::eager_arrived`], for a message that the caller has awaited without a receive that is posted: it may do so while
    /// [`Protocol::is_unasked`]. What becomes of its receive, and `None` if the peer is lost.
    ///
    /// # Errors
    /// As [`Protocol::arrived`].
    #[inline(always)]
    pub fn awaited_arrived(
        &mut self,
        envelope: Envelope,
        number: u32,
        len_bytes: usize,
        capacity_bytes: u64,
    ) -> Result<Option<Result<Received, RequestError>>, Violation> {
        let Some(peer) = self.peers.get_mut(envelope.source) else { return Ok(None) };
        let counted = peer.take_eager(number, len_bytes)?;
        peer.consumed(counted, &mut self.talkers);
        let Envelope { source, tag } = envelope;
        Ok(Some(fits(Received { source, tag, len_bytes: len_bytes as u64 }, capacity_bytes)))
    }

    /// Whether no receive is posted and no message kept.
    #[inline]
    pub const fn is_unasked(&self) -> bool {
        self.matching.is_empty()
    }

    /// Keeps the data of an [`Arrival::Keep`].
    pub fn keep(&mut self, envelope: Envelope, len_bytes: usize, data: K) {
        self.matching.keep(envelope, Kept::Data { data, len_bytes: len_bytes as u32 });
    }

    fn other_arrived(
        &mut self,
        from: u32,
        kind: Kind,
        start: &[u8],
        len_bytes: usize,
    ) -> Result<Arrival, Violation> {
        let wrong_length = || Violation::Length { kind, len_bytes };
        let has_data = matches!(kind, Kind::Piece | Kind::Active);
        if !has_data && len_bytes != kind.header_bytes() {
            return Err(wrong_length());
        }
        match kind {
            Kind::Hello => self.greeted(from, header(start).ok_or_else(wrong_length)?)?,
            Kind::Credit => {
                let [a, b, c, d, ..] = *header::<8>(start).ok_or_else(wrong_length)?;
                self.paid(from, u32::from_le_bytes([a, b, c, d]))?;
            }
            Kind::Announce => {
                let announce = Announce::decode(header(start).ok_or_else(wrong_length)?);
                self.paid(from, announce.counter)?;
                self.announced(from, announce)?;
            }
            Kind::Read | Kind::Written => {
                let ended = Ended::decode(header(start).ok_or_else(wrong_length)?);
                let ended = ended.ok_or(Violation::Unexpected { kind, what: "with an unknown outcome" })?;
                self.paid(from, ended.counter)?;
                let request = Handle::from_wire(ended.request);
                if kind == Kind::Read {
                    self.was_read(from, request, ended.outcome)?;
                } else {
                    self.was_written(from, request, ended.outcome)?;
                }
            }
            Kind::Ready => {
                let ready = Ready::decode(header(start).ok_or_else(wrong_length)?);
                self.paid(from, ready.counter)?;
                self.ready(from, ready)?;
            }
            Kind::Withdraw => {
                let withdraw = Withdraw::decode(header(start).ok_or_else(wrong_length)?);
                self.paid(from, withdraw.counter)?;
                self.withdrawn(from, withdraw.sender);
            }
            Kind::Piece => {
                let piece = Piece::decode(header(start).ok_or_else(wrong_length)?);
                return self.piece(from, piece, len_bytes - kind.header_bytes());
            }
            Kind::Active => {
                let [a, b, c, d, ..] = *header::<ACTIVE_HEADER_BYTES>(start).ok_or_else(wrong_length)?;
                return Ok(Arrival::Active { id: u32::from_le_bytes([a, b, c, d]) });
            }
            Kind::Eager | Kind::Farewell => unreachable!("handled before"),
        }
        Ok(Arrival::Nothing)
    }

    fn greeted(&mut self, from: u32, bytes: &[u8; 48]) -> Result<(), Violation> {
        let hello = Hello::decode(bytes)?;
        if hello.rank != from || hello.job != self.hello.job {
            return Err(Violation::OtherJob { rank: hello.rank, job: hello.job });
        }
        let Some(peer) = self.peers.get_mut(from) else { return Ok(()) };
        if peer.has_greeted {
            return Err(Violation::Unexpected { kind: Kind::Hello, what: "twice" });
        }
        peer.has_greeted = true;
        peer.sends.grow(hello.window_bytes);
        Ok(())
    }

    fn paid(&mut self, from: u32, counter: u32) -> Result<(), Violation> {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.sends.returned(counter)?;
        }
        Ok(())
    }

    fn announced(&mut self, from: u32, announce: Announce) -> Result<(), Violation> {
        let envelope = Envelope { source: from, tag: announce.tag };
        if let Some(receive) = self.matching.arrive(envelope) {
            self.begin(receive, from, announce);
        } else if let Some(peer) = self.peers.get_mut(from) {
            if is_refused(&self.refused, envelope) {
                let sender = Handle::from_wire(announce.sender);
                peer.say(Word::Read { sender, outcome: Outcome::Truncated }, &mut self.talkers);
                return Ok(());
            }
            if peer.announced == ANNOUNCED_MAX {
                return Err(Violation::TooManyAnnounced);
            }
            peer.announced += 1;
            self.matching.keep(envelope, Kept::Announced(announce));
        }
        Ok(())
    }

    /// The sender wants a message back that it has announced. If a receive has found it, or it was refused, the answer is on its way already, or will be.
    fn withdrawn(&mut self, from: u32, sender: u64) {
        let is_meant =
            |kept: &Kept<K>| matches!(kept, Kept::Announced(announce) if announce.sender == sender);
        if self.peers.get(from).is_none_or(|peer| peer.announced == 0) {
            return;
        }
        let found = self.matching.messages_of(from).find(|(.., kept)| is_meant(kept));
        let Some((handle, ..)) = found else { return };
        self.matching.take(handle);
        if let Some(peer) = self.peers.get_mut(from) {
            peer.announced -= 1;
            let sender = Handle::from_wire(sender);
            peer.say(Word::Read { sender, outcome: Outcome::Truncated }, &mut self.talkers);
        }
    }

    /// The send that a peer speaks of, if it is one that the peer was told of.
    fn announced_send(&mut self, from: u32, kind: Kind, handle: Handle) -> Result<&mut Send<S>, Violation> {
        match self.sends.get_mut(handle) {
            Some(send) if send.peer == from && send.stage == SendStage::Announced => Ok(send),
            _ => Err(Violation::Unexpected { kind, what: "for a message that was not announced" }),
        }
    }

    fn was_read(&mut self, from: u32, handle: Handle, outcome: Outcome) -> Result<(), Violation> {
        let send = self.announced_send(from, Kind::Read, handle)?;
        // Who could read nothing can only say that nothing fits, or that there is nothing.
        if send.memory.is_none() && send.len_bytes > 0 && outcome != Outcome::Truncated {
            return Err(Violation::Unexpected {
                kind: Kind::Read,
                what: "for a message that cannot be read",
            });
        }
        // A message that was too long for its receive was sent all the same; the receiver knows.
        let failed = outcome == Outcome::Failed;
        send.stage =
            SendStage::Done(if failed { Err(RequestError::NotMoved { rank: from }) } else { Ok(()) });
        Ok(())
    }

    fn ready(&mut self, from: u32, ready: Ready) -> Result<(), Violation> {
        let handle = Handle::from_wire(ready.sender);
        let send = self.announced_send(from, Kind::Ready, handle)?;
        if send.len_bytes != ready.len_bytes {
            return Err(Violation::Unexpected { kind: Kind::Ready, what: "for another length" });
        }
        // Such messages end without data, or go in pieces: there is nothing to write, or it is not registered.
        if send.len_bytes == 0 || (send.memory.is_none() && ready.memory.is_some()) {
            return Err(Violation::Unexpected {
                kind: Kind::Ready,
                what: "for a message that is not written",
            });
        }
        let (receiver, len_bytes) = (Handle::from_wire(ready.receiver), ready.len_bytes);
        match ready.memory {
            Some(memory) => {
                send.stage = SendStage::Writing { receiver };
                self.transfers.push_back(Transfer::Write { send: handle, peer: from, memory, len_bytes });
            }
            None => {
                send.stage = SendStage::InPieces { receiver, gone_bytes: 0 };
                if let Some(peer) = self.peers.get_mut(from) {
                    peer.say(Word::Piece(handle), &mut self.talkers);
                }
            }
        }
        Ok(())
    }

    /// The receive that a peer speaks of, if its message is of this peer.
    fn receive_of(&mut self, from: u32, kind: Kind, handle: Handle) -> Result<&mut Receive<R>, Violation> {
        match self.receives.get_mut(handle) {
            Some(receive) if receive.message.source == from => Ok(receive),
            _ => Err(Violation::Unexpected { kind, what: "for a receive that is not this peer's" }),
        }
    }

    fn was_written(&mut self, from: u32, handle: Handle, outcome: Outcome) -> Result<(), Violation> {
        let receive = self.receive_of(from, Kind::Written, handle)?;
        if receive.stage != ReceiveStage::AwaitsWrite {
            return Err(Violation::Unexpected {
                kind: Kind::Written,
                what: "for a receive that is not written to",
            });
        }
        let failed = outcome != Outcome::Done;
        receive.stage =
            ReceiveStage::Done(if failed { Ending::NotMoved { rank: from } } else { Ending::Met });
        Ok(())
    }

    fn piece(&mut self, from: u32, piece: Piece, len_bytes: usize) -> Result<Arrival, Violation> {
        let handle = Handle::from_wire(piece.receiver);
        let receive = self.receive_of(from, Kind::Piece, handle)?;
        let unexpected = |what| Err(Violation::Unexpected { kind: Kind::Piece, what });
        let ReceiveStage::AwaitsPieces { come_bytes } = receive.stage else {
            return unexpected("for a receive that gets no pieces");
        };
        let (total, len) = (receive.message.len_bytes, len_bytes as u64);
        if piece.offset != come_bytes || len == 0 || len > total - come_bytes {
            return unexpected("that is not the next one");
        }
        let come_bytes = come_bytes + len;
        receive.stage = if come_bytes == total {
            ReceiveStage::Done(Ending::Met)
        } else {
            ReceiveStage::AwaitsPieces { come_bytes }
        };
        Ok(Arrival::Deliver { receive: handle, offset: piece.offset, len_bytes })
    }
}

#[inline]
fn is_refused(refused: &[Pattern], envelope: Envelope) -> bool {
    refused.iter().any(|pattern| pattern.matches(envelope))
}

fn header<const N: usize>(start: &[u8]) -> Option<&[u8; N]> {
    start.first_chunk()
}
