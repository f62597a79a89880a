//! Credits of one connection, in both directions: pure bookkeeping. A credit stands for a receive, or a slot of an eager ring,
//! that waits for a message.

/// What one end knows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credits {
    /// Messages that the peer has room for.
    available: u16,
    /// What the peer has offered: `available` never exceeds it.
    offered: u16,
    /// Buffers that the peer may use again and has not been told of.
    owed: u16,
    /// What the peer was offered: `owed` never exceeds it.
    granted: u16,
}

impl Credits {
    pub(super) const fn new(granted: u16) -> Self {
        Self { available: 0, offered: 0, owed: 0, granted }
    }

    /// What the peer has room for.
    pub(super) const fn accept(&mut self, offered: u16) {
        (self.available, self.offered) = (offered, offered);
    }

    pub(super) const fn offered(&self) -> u16 {
        self.offered
    }

    /// Room for one more message at the peer's? The last credit is kept for a message that gives credits back.
    #[inline]
    pub(super) const fn may_send(&self, gives_back: bool) -> bool {
        self.available > !gives_back as u16
    }

    /// A message is sent, for which there is room.
    #[inline]
    pub(super) const fn spend(&mut self) {
        self.available -= 1;
    }

    /// Takes credits that the peer gives back; false if they are more than it was sent messages.
    #[inline]
    pub(super) const fn take_back(&mut self, credits: u16) -> bool {
        let sum = self.available.saturating_add(credits);
        self.available = if sum < self.offered { sum } else { self.offered };
        sum <= self.offered
    }

    /// Notes buffers that the peer may use again; false if they are more than it may have used.
    #[inline]
    #[must_use]
    pub(super) const fn owe(&mut self, credits: u16) -> bool {
        let sum = self.owed.saturating_add(credits);
        self.owed = if sum < self.granted { sum } else { self.granted };
        sum <= self.granted
    }

    /// Gives back all that is owed: so much the next message is to tell the peer.
    #[inline]
    pub(super) const fn pay(&mut self) -> u16 {
        std::mem::replace(&mut self.owed, 0)
    }

    /// True when a message to the peer should bring it its credits: not each does, so that receives are posted in batches.
    #[inline]
    pub(super) const fn owes_some(&self) -> bool {
        self.owed > 0 && self.owed * 4 >= self.granted
    }

    /// True when the peer should be told of its credits even if there is nothing else to say.
    #[inline]
    pub(super) const fn owes_much(&self) -> bool {
        self.owed * 2 >= self.granted
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_takes_or_gives_too_much_is_found_out() {
        let mut credits = Credits::new(4);
        credits.accept(3);
        assert!(!credits.take_back(1), "nothing was sent");
        credits.spend();
        assert!(credits.take_back(1) && !credits.take_back(u16::MAX));
        let mut sent = 0;
        while credits.may_send(true) {
            credits.spend();
            sent += 1;
        }
        assert_eq!(sent, 3);
        assert!(credits.owe(4));
        assert!(!credits.owe(1), "a fifth message without a credit");
        let mut credits = Credits::new(4);
        assert!(!credits.owe(u16::MAX) && !credits.owe(u16::MAX));
    }

    /// Two ends, and messages under way from each: what credits each brings.
    struct Line {
        ends: [Credits; 2],
        under_way: [VecDeque<u16>; 2],
        unanswered: [u16; 2],
    }

    impl Line {
        fn send(&mut self, from: usize, gives_back: bool) -> bool {
            let end = &mut self.ends[from];
            if !end.may_send(gives_back) || gives_back && !end.owes_much() {
                return false;
            }
            end.spend();
            let paid = if end.owes_some() { end.pay() } else { 0 };
            self.under_way[from].push_back(paid);
            true
        }

        fn receive(&mut self, at: usize) -> bool {
            let Some(paid) = self.under_way[1 - at].pop_front() else { return false };
            self.unanswered[at] += 1;
            assert!(self.ends[at].take_back(paid), "more was given back than taken");
            true
        }

        fn release(&mut self, at: usize) -> bool {
            let lent = std::mem::replace(&mut self.unanswered[at], 0);
            assert!(self.ends[at].owe(lent), "more messages than credits");
            lent > 0
        }
    }

    proptest! {
        /// Two honest ends never accuse each other, no buffer is used twice, and neither is ever stuck.
        #[test]
        fn honest_ends_never_stand_still(
            granted in (4_u16..33, 4_u16..33),
            moves in prop::collection::vec((0_usize..2, 0_u8..4), 1..500),
        ) {
            let mut ends = [Credits::new(granted.0), Credits::new(granted.1)];
            ends[0].accept(granted.1);
            ends[1].accept(granted.0);
            let mut line = Line { ends, under_way: Default::default(), unanswered: [0; 2] };
            for (end, act) in moves {
                match act {
                    0 => line.send(end, false),
                    1 => line.send(end, true),
                    2 => line.receive(end),
                    _ => line.release(end),
                };
                for (at, granted) in [granted.0, granted.1].into_iter().enumerate() {
                    let used = line.under_way[1 - at].len() + usize::from(line.unanswered[at]);
                    prop_assert!(used <= usize::from(granted), "{used} of {granted} buffers are used");
                }
            }
            // All is received and given back: then both have something to send with.
            while (0..2).any(|at| line.receive(at) || line.release(at) || line.send(at, true)) {}
            prop_assert!((0..2).all(|at| line.ends[at].may_send(false)), "{:?}", line.ends);
        }
    }
}
