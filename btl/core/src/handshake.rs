//! How two processes make one reliable connection out of datagrams that may be lost, come twice or overtake each other.
//!
//! Each side makes a queue pair and offers its numbers. Who has the other's numbers brings its queue pair to the state
//! "ready to receive" and says so; who has heard that from the other may send. Either side may begin, and both may begin
//! at once: a request carries all that an answer carries, so it serves as the answer.
//!
//! ```text
//!      asker                          answerer
//!        | -- Request (numbers) ------> |   its queue pair is ready
//!        | <------ Reply (numbers) ---- |   may not send yet
//!   ready, may send                     |
//!        | -- Ready ------------------> |   may send
//! ```
//!
//! Every attempt has a number, its *life*, that counts up in each process. A connection that was ended and begun again is
//! thus told from a late datagram of the one before.
//!
//! Nothing here reads a clock or sends: time comes in, and [`Handshake::due`] says what is to be sent.

use std::time::Duration;

use crate::wire::{DatagramKind, Offer};

/// Time until the first repetition.
pub const FIRST_REPEAT: Duration = Duration::from_millis(20);
/// The longest time between repetitions.
pub const LAST_REPEAT: Duration = Duration::from_secs(1);

/// One attempt to connect to one peer, from its begin until both ends may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    own: Offer,
    peer: Option<Offer>,
    /// The peer's queue pair is known to be ready.
    ready: bool,
    /// Answers that must be sent whatever the clock says.
    owed: Option<DatagramKind>,
    began: Duration,
    next: Duration,
    interval: Duration,
}

/// What a datagram means for its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing new, or too late.
    Nothing,
    /// The peer's numbers: bring the queue pair to the state "ready to receive" and "ready to send" with these, then send
    /// what is due. `ready` says whether messages may be sent from then on.
    Numbers {
        /// The peer's queue pair.
        peer: Offer,
        /// It is ready too.
        ready: bool,
    },
    /// Messages may be sent from now on.
    Ready,
    /// The peer has begun anew: end this connection, begin with [`Handshake::answer`].
    Anew,
    /// The peer has ended this attempt or connection.
    Bye,
}

impl Handshake {
    /// Begins, with the own queue pair's numbers.
    pub const fn ask(now: Duration, own: Offer) -> Self {
        Self { own, peer: None, ready: false, owed: None, began: now, next: now, interval: FIRST_REPEAT }
    }

    /// Begins because the peer has asked.
    pub const fn answer(now: Duration, own: Offer, peer: Offer) -> Self {
        Self {
            own,
            peer: Some(peer),
            ready: false,
            owed: Some(DatagramKind::Reply),
            began: now,
            next: Duration::from_nanos(now.as_nanos() as u64 + FIRST_REPEAT.as_nanos() as u64),
            interval: FIRST_REPEAT,
        }
    }

    /// The own numbers.
    pub const fn own(&self) -> Offer {
        self.own
    }

    /// The peer's numbers, once they are known.
    pub const fn peer(&self) -> Option<Offer> {
        self.peer
    }

    /// The peer's life, or 0 while it is not known.
    pub const fn peer_life(&self) -> u32 {
        match self.peer {
            Some(peer) => peer.life,
            None => 0,
        }
    }

    /// True when messages may be sent.
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// When this attempt began.
    pub const fn began(&self) -> Duration {
        self.began
    }

    /// Takes a datagram of the peer.
    pub fn hear(&mut self, kind: DatagramKind, offer: Offer, receiver_life: u32) -> Heard {
        if let Some(peer) = self.peer {
            if newer(peer.life, offer.life) {
                return Heard::Nothing;
            }
            if newer(offer.life, peer.life) {
                return if kind == DatagramKind::Request { Heard::Anew } else { Heard::Nothing };
            }
        }
        // All but requests answer something of this side, and only this attempt is asked about.
        let meant = receiver_life == self.own.life;
        match kind {
            DatagramKind::Request => {
                self.owed = Some(DatagramKind::Reply);
                self.learn(offer, false)
            }
            DatagramKind::Reply if meant => {
                self.owed = Some(DatagramKind::Ready);
                self.learn(offer, true)
            }
            DatagramKind::Ready if meant && self.peer.is_some() => self.learn(offer, true),
            DatagramKind::Bye if meant || self.peer.is_some() => Heard::Bye,
            _ => Heard::Nothing,
        }
    }

    fn learn(&mut self, offer: Offer, ready: bool) -> Heard {
        let was_ready = self.ready;
        self.ready |= ready;
        if self.peer.is_none() {
            self.peer = Some(offer);
            self.interval = FIRST_REPEAT;
            return Heard::Numbers { peer: offer, ready };
        }
        if ready && !was_ready { Heard::Ready } else { Heard::Nothing }
    }

    /// A message has arrived on the connection, which says the same as a [`DatagramKind::Ready`]. True if that was news.
    pub fn hear_message(&mut self) -> bool {
        self.peer.is_some() && !std::mem::replace(&mut self.ready, true)
    }

    /// What is to be sent now.
    pub fn due(&mut self, now: Duration) -> Option<DatagramKind> {
        if let Some(kind) = self.owed.take() {
            // A reply says less than what is known by now, if the peer's queue pair is known to be ready.
            let kind = if self.ready { DatagramKind::Ready } else { kind };
            self.put_off(now);
            return Some(kind);
        }
        if self.ready || now < self.next {
            return None;
        }
        self.put_off(now);
        Some(if self.peer.is_some() { DatagramKind::Reply } else { DatagramKind::Request })
    }

    fn put_off(&mut self, now: Duration) {
        self.next = now + self.interval;
        self.interval = (self.interval * 2).min(LAST_REPEAT);
    }
}

/// True if `a` was given out after `b`.
pub const fn newer(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(life: u32, qpn: u32) -> Offer {
        Offer { life, qpn, psn: qpn + 1, mtu: 3, reads: 4, rnr_timer: 12, credits: 8 }
    }

    const A: u32 = 10;
    const B: u32 = 20;

    type Message = (DatagramKind, Offer, u32);

    fn pump(from: &mut Handshake, now: Duration) -> Option<Message> {
        from.due(now).map(|kind| (kind, from.own(), from.peer_life()))
    }

    #[test]
    fn one_asks() {
        let now = Duration::ZERO;
        let mut a = Handshake::ask(now, offer(1, A));
        let request = pump(&mut a, now).expect("a request at once");
        assert_eq!(request, (DatagramKind::Request, offer(1, A), 0));
        assert_eq!(pump(&mut a, now), None, "not again at once");
        let mut b = Handshake::answer(now, offer(5, B), request.1);
        let reply = pump(&mut b, now).expect("a reply at once");
        assert_eq!(reply, (DatagramKind::Reply, offer(5, B), 1));
        assert!(!b.is_ready());
        assert_eq!(a.hear(reply.0, reply.1, reply.2), Heard::Numbers { peer: offer(5, B), ready: true });
        let ready = pump(&mut a, now).expect("the last word");
        assert_eq!(ready, (DatagramKind::Ready, offer(1, A), 5));
        assert_eq!(b.hear(ready.0, ready.1, ready.2), Heard::Ready);
        let later = now + Duration::from_secs(100);
        assert_eq!((pump(&mut a, later), pump(&mut b, later)), (None, None), "nothing more to say");
    }

    #[test]
    fn repetitions_become_rarer() {
        let mut a = Handshake::ask(Duration::ZERO, offer(1, A));
        let sent = (0..10_000).filter(|ms| a.due(Duration::from_millis(*ms)).is_some()).count();
        assert!((10..20).contains(&sent), "{sent} requests in 10 seconds");
    }

    #[test]
    fn an_earlier_life_is_not_heard_and_a_later_one_begins_anew() {
        let mut b = Handshake::answer(Duration::ZERO, offer(5, B), offer(7, A));
        assert_eq!(b.hear(DatagramKind::Request, offer(6, 99), 0), Heard::Nothing);
        assert_eq!(b.hear(DatagramKind::Bye, offer(6, 99), 5), Heard::Nothing);
        assert_eq!(b.hear(DatagramKind::Reply, offer(8, 99), 5), Heard::Nothing);
        assert_eq!(b.hear(DatagramKind::Request, offer(8, 99), 0), Heard::Anew);
        assert_eq!(b.hear(DatagramKind::Bye, offer(7, A), 5), Heard::Bye);
        let mut a = Handshake::ask(Duration::ZERO, offer(9, A));
        assert_eq!(
            a.hear(DatagramKind::Reply, offer(5, B), 8),
            Heard::Nothing,
            "an answer to the life before"
        );
        assert_eq!(a.hear(DatagramKind::Bye, offer(5, B), 8), Heard::Nothing);
        assert!(newer(1, u32::MAX) && !newer(u32::MAX, 1));
    }

    proptest! {
        /// Whatever is lost, doubled and delayed at first, both ends get to know the right numbers, may send in the end, and
        /// no end may send before the other's queue pair is ready.
        #[test]
        fn ends_well(both_ask in any::<bool>(), fates in proptest::collection::vec(0..6_u8, 0..60), shuffle in any::<u64>()) {
            let mut a = Handshake::ask(Duration::ZERO, offer(3, A));
            let mut b = both_ask.then(|| Handshake::ask(Duration::ZERO, offer(4, B)));
            let mut wire: Vec<(bool, Message)> = Vec::new();
            let (mut a_has, mut b_has) = (None, None);
            let (mut fates, mut random) = (fates.into_iter(), shuffle | 1);
            for step in 0..2_000_u64 {
                let now = Duration::from_millis(step * 70);
                let mut send = |to_b: bool, message: Message, wire: &mut Vec<(bool, Message)>| {
                    // The weather clears up once all fates are used.
                    let copies = match fates.next() { Some(0..=2) => 0, Some(3) => 2, _ => 1 };
                    (0..copies).for_each(|_| wire.push((to_b, message)));
                };
                if let Some(message) = pump(&mut a, now) { send(true, message, &mut wire); }
                if let Some(message) = b.as_mut().and_then(|b| pump(b, now)) { send(false, message, &mut wire); }
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if wire.is_empty() { continue; }
                let (to_b, (kind, from, life)) = wire.swap_remove((random >> 33) as usize % wire.len());
                if !to_b {
                    match a.hear(kind, from, life) {
                        Heard::Numbers { peer, .. } => a_has = Some(peer),
                        Heard::Anew | Heard::Bye => prop_assert!(false, "nobody began anew"),
                        _ => {}
                    }
                } else if let Some(b) = &mut b {
                    match b.hear(kind, from, life) {
                        Heard::Numbers { peer, .. } => b_has = Some(peer),
                        Heard::Anew | Heard::Bye => prop_assert!(false, "nobody began anew"),
                        _ => {}
                    }
                } else if kind == DatagramKind::Request {
                    b_has = Some(from);
                    b = Some(Handshake::answer(now, offer(4, B), from));
                }
                prop_assert!(!a.is_ready() || b_has.is_some(), "a may send to a queue pair that is not ready");
                prop_assert!(!b.as_ref().is_some_and(Handshake::is_ready) || a_has.is_some(), "so may b");
            }
            prop_assert_eq!((a_has, b_has), (Some(offer(4, B)), Some(offer(3, A))));
            prop_assert!(a.is_ready() && b.is_some_and(|b| b.is_ready()));
        }
    }
}
