//! The sender's side: messages that go at once, announcements, pieces, and what else is to be posted, in order.

use super::machine::{Post, Protocol, ReceiveStage, RequestError, Send, SendStage};
use super::peer::{Peer, Word};
use super::requests::Handle;
use crate::wire::message::{
    Announce, Ended, HEADER_BYTES_MAX, Kind, Memory, Outcome, Piece, Ready, Withdraw,
};

/// A message that may be sent at once.
#[derive(Debug)]
pub struct Eager<'p> {
    peer: &'p mut Peer,
    len_bytes: u32,
}

impl Eager<'_> {
    /// Its immediate data.
    #[inline]
    pub const fn immediate(&self) -> u32 {
        Kind::Eager.immediate(self.peer.numbers.upcoming())
    }

    /// It was posted.
    #[inline]
    pub const fn posted(self) {
        self.peer.numbers.number();
        self.peer.sends.sent(self.len_bytes);
    }
}

impl<S, R, K> Protocol<S, R, K> {
    /// A message of this length that may be sent at once, whose header is the tag. Once it is posted, [`Eager::posted`]; otherwise
    /// nothing has happened.
    #[inline]
    pub fn try_eager(&mut self, peer: u32, len_bytes: usize) -> Option<Eager<'_>> {
        let peer = self.peers.get_mut(peer)?;
        let len_bytes = u32::try_from(len_bytes).ok()?;
        let may = peer.outbox.is_empty()
            && len_bytes <= peer.limits.eager_bytes_max
            && peer.sends.may_send(len_bytes);
        may.then_some(Eager { peer, len_bytes })
    }

    /// The immediate data for an active message, if one may be sent now. It takes no room of the window: it is handled at once. Once it
    /// is posted, [`Protocol::active_sent`].
    pub fn try_active(&self, peer: u32) -> Option<u32> {
        let peer = self.peers.get(peer)?;
        peer.outbox.is_empty().then(|| Kind::Active.immediate(peer.numbers.upcoming()))
    }

    /// A message that [`Protocol::try_active`] allowed was posted.
    pub fn active_sent(&mut self, peer: u32) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.numbers.number();
        }
    }

    /// Says something to a peer that has no other meaning than that it may notice, and this process by it, when the connection does not
    /// work any more.
    pub fn nudge(&mut self, peer: u32) {
        if let Some(peer) = self.peers.get_mut(peer)
            && !std::mem::replace(&mut peer.credit_waits, true)
        {
            peer.say(Word::Credit, &mut self.talkers);
        }
    }

    /// A message to be sent. `memory` is where a peer can read it, if it is registered.
    pub fn send(&mut self, peer: u32, tag: u64, len_bytes: u64, memory: Option<Memory>, body: S) -> Handle {
        let stage = if self.is_lost(peer) {
            SendStage::Done(Err(RequestError::PeerLost { rank: peer }))
        } else {
            SendStage::Waits
        };
        let handle =
            self.sends.insert(Send { peer, tag, len_bytes, memory, is_withdrawn: false, stage, body });
        if stage == SendStage::Waits {
            let peer = self.peers.get_mut(peer).expect("a peer is connected before it is sent to");
            peer.say(Word::Send(handle), &mut self.talkers);
        }
        handle
    }

    /// A message is not to be sent any more, if it can be helped; either way its send ends as if it had been sent. One that nobody was told of ends at
    /// once. One that was announced ends when the peer says so: it may be reading already, and until it has heard of this it may begin.
    pub fn withdraw(&mut self, handle: Handle) {
        let Some(send) = self.sends.get_mut(handle) else { return };
        let Some(peer) = self.peers.get_mut(send.peer) else { return };
        if std::mem::replace(&mut send.is_withdrawn, true) {
            return;
        }
        match send.stage {
            SendStage::Waits => {
                // The peer stays among the talkers, who find that there is nothing to say.
                peer.outbox.retain(|word| *word != Word::Send(handle));
                send.stage = SendStage::Done(Ok(()));
            }
            SendStage::Announced => peer.say(Word::Withdraw(handle), &mut self.talkers),
            SendStage::Writing { .. } | SendStage::InPieces { .. } | SendStage::Done(_) => {}
        }
    }

    /// Whether a send has ended: then its buffer may be used again.
    pub fn send_outcome(&self, handle: Handle) -> Option<Result<(), RequestError>> {
        match self.sends.get(handle)?.stage {
            SendStage::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// To whom a send is.
    pub fn peer_of_send(&self, handle: Handle) -> Option<u32> {
        self.sends.get(handle).map(|send| send.peer)
    }

    /// What was kept with a send.
    pub fn send_body(&mut self, handle: Handle) -> Option<&mut S> {
        self.sends.get_mut(handle).map(|send| &mut send.body)
    }

    /// Forgets a send, if it has ended.
    #[inline]
    pub fn take_send(&mut self, handle: Handle) -> Option<(S, Result<(), RequestError>)> {
        let send = self.sends.remove_if(handle, |send| matches!(send.stage, SendStage::Done(_)))?;
        let SendStage::Done(outcome) = send.stage else { unreachable!("looked at above") };
        Some((send.body, outcome))
    }

    /// The next message to post to a peer. Once it is posted, [`Protocol::posted`]; otherwise it stays the next one.
    pub fn next_post(&mut self, to: u32) -> Option<Post> {
        let peer = self.peers.get_mut(to)?;
        let word = *peer.outbox.front()?;
        let number = peer.numbers.upcoming();
        let mut post = Post {
            immediate: 0,
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            payload: None,
            announced_key: None,
        };
        let mut set = |kind: Kind, header: &[u8]| {
            post.immediate = kind.immediate(number);
            post.header[..header.len()].copy_from_slice(header);
            post.header_bytes = header.len();
        };
        // The counter is of this moment: a post that has to wait brings a newer one.
        let counter = peer.receives.consumed_counter();
        match word {
            Word::Hello(hello) => set(Kind::Hello, &hello.encode()),
            Word::Read { sender, outcome } => {
                set(Kind::Read, &Ended { request: sender.to_wire(), outcome, counter }.encode());
            }
            Word::Written { receiver, outcome } => {
                set(Kind::Written, &Ended { request: receiver.to_wire(), outcome, counter }.encode());
            }
            Word::Ready { sender, receiver, memory, len_bytes } => {
                let (sender, receiver) = (sender.to_wire(), receiver.to_wire());
                set(Kind::Ready, &Ready { sender, receiver, memory, len_bytes, counter }.encode());
            }
            Word::Credit => {
                let mut header = [0; 8];
                header[..4].copy_from_slice(&counter.to_le_bytes());
                set(Kind::Credit, &header);
            }
            Word::Withdraw(handle) => {
                set(Kind::Withdraw, &Withdraw { sender: handle.to_wire(), counter }.encode());
            }
            Word::Send(handle) => {
                let send = self.sends.get(handle).expect("a send in the outbox is not forgotten");
                match eager_bytes(peer, send.len_bytes) {
                    Some(len_bytes) => {
                        set(Kind::Eager, &send.tag.to_le_bytes());
                        post.payload = Some((handle, 0, len_bytes as usize));
                    }
                    None => {
                        let Send { tag, len_bytes, memory, .. } = *send;
                        let announce = Announce { tag, len_bytes, memory, sender: handle.to_wire(), counter };
                        set(Kind::Announce, &announce.encode());
                        post.announced_key = memory.map(|memory| memory.key);
                    }
                }
            }
            Word::Piece(handle) => {
                let send = self.sends.get(handle).expect("a send in the outbox is not forgotten");
                let SendStage::InPieces { receiver, gone_bytes } = send.stage else {
                    unreachable!("a piece of a send that is {:?}", send.stage)
                };
                set(Kind::Piece, &Piece { receiver: receiver.to_wire(), offset: gone_bytes }.encode());
                let len_bytes = (send.len_bytes - gone_bytes).min(peer.limits.piece_bytes_max.into());
                post.payload = Some((handle, gone_bytes, len_bytes as usize));
            }
        }
        Some(post)
    }

    /// The message of [`Protocol::next_post`] was posted.
    pub fn posted(&mut self, to: u32) {
        let Some(peer) = self.peers.get_mut(to) else { return };
        let Some(word) = peer.outbox.pop_front() else { return };
        peer.numbers.number();
        match word {
            Word::Hello(_) => {}
            // All these bring the counter.
            Word::Read { .. } | Word::Written { .. } | Word::Withdraw(_) => {
                peer.receives.pay();
            }
            Word::Ready { receiver, memory, .. } => {
                peer.receives.pay();
                // What the peer does from now on it may do, and nothing before.
                let stage = match memory {
                    Some(_) => ReceiveStage::AwaitsWrite,
                    None => ReceiveStage::AwaitsPieces { come_bytes: 0 },
                };
                self.stage(receiver, stage);
            }
            Word::Credit => {
                peer.receives.pay();
                peer.credit_waits = false;
            }
            Word::Send(handle) => {
                let send = self.sends.get_mut(handle).expect("a send in the outbox is not forgotten");
                match eager_bytes(peer, send.len_bytes) {
                    Some(len_bytes) => {
                        peer.sends.sent(len_bytes);
                        send.stage = SendStage::Done(Ok(()));
                    }
                    None => {
                        peer.receives.pay();
                        send.stage = SendStage::Announced;
                    }
                }
            }
            Word::Piece(handle) => {
                let send = self.sends.get_mut(handle).expect("a send in the outbox is not forgotten");
                let SendStage::InPieces { receiver, gone_bytes } = send.stage else { return };
                let len_bytes = (send.len_bytes - gone_bytes).min(peer.limits.piece_bytes_max.into());
                let gone_bytes = gone_bytes + len_bytes;
                if gone_bytes == send.len_bytes {
                    send.stage = SendStage::Done(Ok(()));
                } else {
                    send.stage = SendStage::InPieces { receiver, gone_bytes };
                    // Behind the others: a long message must not keep them.
                    peer.say(word, &mut self.talkers);
                }
            }
        }
    }

    /// A [`Transfer::Write`](super::Transfer::Write) has ended.
    pub fn write_ended(&mut self, send: Handle, is_done: bool) {
        let Some(Send { peer, stage, .. }) = self.sends.get_mut(send) else { return };
        let SendStage::Writing { receiver } = *stage else { return };
        let rank = *peer;
        let Some(peer) = self.peers.get_mut(rank) else {
            *stage = SendStage::Done(Err(RequestError::PeerLost { rank }));
            return;
        };
        let (outcome, end) = if is_done {
            (Outcome::Done, Ok(()))
        } else {
            (Outcome::Failed, Err(RequestError::NotMoved { rank }))
        };
        *stage = SendStage::Done(end);
        peer.say(Word::Written { receiver, outcome }, &mut self.talkers);
    }
}

/// The length of a message that may go at once.
fn eager_bytes(peer: &Peer, len_bytes: u64) -> Option<u32> {
    let len_bytes = u32::try_from(len_bytes).ok()?;
    (len_bytes <= peer.limits.eager_bytes_max && peer.sends.may_send(len_bytes)).then_some(len_bytes)
}
