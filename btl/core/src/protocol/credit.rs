//! How much a peer may send before it is received: memory for messages that no receive waits for is bounded, peer by peer.
//!
//! The receiver grants a window of bytes. What the sender sends unasked takes room in it, and gets it back once the receiver has
//! matched the message or copied it to where it belongs. A message that finds no room goes by rendezvous.
//!
//! ```text
//!  sender's window   |<------------------------------ window_bytes ------------------------------>|
//!                    | under way | kept by the receiver | owed | told, under way back | available |
//!  counters        sent       arrived                consumed  told                returned
//! ```
//!
//! Counters count all bytes since the connection began, modulo 2^32, and go over the wire as such, so any message can bring the
//! newest one, in four bytes of its header. No difference exceeds the window, so wrapping does no harm. TCP acknowledges in this way;
//! a fabric's connections count receives instead, because there each message takes a whole one.
//!
//! Every message takes [`MESSAGE_OVERHEAD_BYTES`] besides its data, or a peer could fill memory with empty messages. No message may
//! take more than half the window, and the receiver says on its own what it owes when that is more than half: so when all is received,
//! there is room for any message, though the last bit of the window comes back with later traffic only.

/// What a kept message takes besides its data: its place, its entries in the tables of [`super::matching`], its share of an allocation.
pub const MESSAGE_OVERHEAD_BYTES: u32 = 256;

/// The room that a message takes in the window.
pub const fn room_bytes(len_bytes: u32) -> u32 {
    len_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES)
}

/// A peer does not keep to the window; the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// It sends too much.
    #[error(
        "a message of {len_bytes} bytes arrived unasked, but the peer had room left for {available_bytes} bytes, \
         of which {MESSAGE_OVERHEAD_BYTES} are each message's overhead: it does not keep to the protocol"
    )]
    WindowExceeded {
        /// The message's length.
        len_bytes: u32,
        /// The room there was.
        available_bytes: u32,
    },
    /// It says that it received more than it was sent.
    #[error(
        "the peer says that it has received {returned_bytes} bytes more, but only {outstanding_bytes} are with it: \
         it does not keep to the protocol"
    )]
    ReturnedTooMuch {
        /// What it gives back.
        returned_bytes: u32,
        /// What could be given back.
        outstanding_bytes: u32,
    },
}

/// The sender's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendWindow {
    window_bytes: u32,
    sent: u32,
    returned: u32,
}

impl SendWindow {
    /// With the window that the peer grants.
    pub const fn new(window_bytes: u32) -> Self {
        Self { window_bytes, sent: 0, returned: 0 }
    }

    /// The peer grants more, or as much.
    pub const fn grow(&mut self, window_bytes: u32) {
        if window_bytes > self.window_bytes {
            self.window_bytes = window_bytes;
        }
    }

    /// The room that is not taken.
    pub const fn available_bytes(&self) -> u32 {
        self.window_bytes.saturating_sub(self.outstanding_bytes())
    }

    /// The room that messages take which the peer has not said it received.
    pub const fn outstanding_bytes(&self) -> u32 {
        self.sent.wrapping_sub(self.returned)
    }

    /// Whether a message of this length may be sent unasked now. Never, if it takes more than half the window.
    pub const fn may_send(&self, len_bytes: u32) -> bool {
        let room_bytes = room_bytes(len_bytes);
        room_bytes <= self.window_bytes / 2 && room_bytes <= self.available_bytes()
    }

    /// A message is sent, for which there is room.
    pub const fn sent(&mut self, len_bytes: u32) {
        debug_assert!(self.may_send(len_bytes), "sent without room in the window");
        self.sent = self.sent.wrapping_add(room_bytes(len_bytes));
    }

    /// Takes the peer's counter, as [`ReceiveWindow::pay`] made it; says how much room it gives back.
    pub const fn returned(&mut self, counter: u32) -> Result<u32, CreditError> {
        let returned_bytes = counter.wrapping_sub(self.returned);
        let outstanding_bytes = self.outstanding_bytes();
        if returned_bytes > outstanding_bytes {
            return Err(CreditError::ReturnedTooMuch { returned_bytes, outstanding_bytes });
        }
        self.returned = counter;
        Ok(returned_bytes)
    }
}

/// The receiver's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveWindow {
    window_bytes: u32,
    arrived: u32,
    consumed: u32,
    told: u32,
}

impl ReceiveWindow {
    /// With the window that is granted to the peer.
    pub const fn new(window_bytes: u32) -> Self {
        Self { window_bytes, arrived: 0, consumed: 0, told: 0 }
    }

    /// The room of messages that have arrived and are not consumed.
    pub const fn held_bytes(&self) -> u32 {
        self.arrived.wrapping_sub(self.consumed)
    }

    /// The room that the peer may use again and has not been told of: the next message to it brings the news, by [`ReceiveWindow::pay`].
    pub const fn owed_bytes(&self) -> u32 {
        self.consumed.wrapping_sub(self.told)
    }

    /// A message has arrived unasked.
    pub const fn arrived(&mut self, len_bytes: u32) -> Result<(), CreditError> {
        let available_bytes = self.window_bytes - self.arrived.wrapping_sub(self.told);
        if room_bytes(len_bytes) > available_bytes {
            return Err(CreditError::WindowExceeded { len_bytes, available_bytes });
        }
        self.arrived = self.arrived.wrapping_add(room_bytes(len_bytes));
        Ok(())
    }

    /// A message that had arrived is matched, or copied to where it belongs. Says what is owed now.
    pub const fn consumed(&mut self, len_bytes: u32) -> u32 {
        debug_assert!(room_bytes(len_bytes) <= self.held_bytes(), "consumed more than had arrived");
        self.consumed = self.consumed.wrapping_add(room_bytes(len_bytes));
        self.owed_bytes()
    }

    /// True when the peer should be told of its room even if there is nothing else to say: what is left might not do for the
    /// longest message.
    pub const fn owes_much(&self) -> bool {
        self.owed_bytes() > self.window_bytes - self.window_bytes / 2
    }

    /// The counter that [`ReceiveWindow::pay`] would give.
    pub const fn consumed_counter(&self) -> u32 {
        self.consumed
    }

    /// Gives back all that is owed: the counter that the next message is to bring to the peer.
    pub const fn pay(&mut self) -> u32 {
        self.told = self.consumed;
        self.told
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const OVERHEAD: u32 = MESSAGE_OVERHEAD_BYTES;

    /// One end of a connection.
    struct End {
        sends: SendWindow,
        receives: ReceiveWindow,
        /// Messages kept.
        held: Vec<u32>,
        /// On the way to this end: a counter, and a message's length unless it is a message for the counter alone.
        inbound: VecDeque<(u32, Option<u32>)>,
    }

    /// Two ends, whose counters are near wrapping.
    struct Connection([End; 2]);

    impl Connection {
        fn new(windows: [u32; 2], start: u32) -> Self {
            Self([0, 1].map(|end| End {
                sends: SendWindow { sent: start, returned: start, window_bytes: windows[1 - end] },
                receives: ReceiveWindow {
                    arrived: start,
                    consumed: start,
                    told: start,
                    window_bytes: windows[end],
                },
                held: Vec::new(),
                inbound: VecDeque::new(),
            }))
        }

        fn send(&mut self, from: usize, len_bytes: u32) {
            if self.0[from].sends.may_send(len_bytes) {
                self.0[from].sends.sent(len_bytes);
                self.bring(from, Some(len_bytes));
            }
        }

        fn bring(&mut self, from: usize, message: Option<u32>) {
            let counter = self.0[from].receives.pay();
            self.0[1 - from].inbound.push_back((counter, message));
        }

        fn receive(&mut self, at: usize) -> bool {
            let end = &mut self.0[at];
            let Some((counter, message)) = end.inbound.pop_front() else { return false };
            end.sends.returned(counter).expect("honest");
            if let Some(len_bytes) = message {
                end.receives.arrived(len_bytes).expect("honest");
                end.held.push(len_bytes);
            }
            true
        }

        /// Consumes one message, and says so if enough is owed.
        fn consume(&mut self, at: usize, which: usize) -> bool {
            let end = &mut self.0[at];
            if end.held.is_empty() {
                return false;
            }
            let len_bytes = end.held.swap_remove(which % end.held.len());
            let owed = end.receives.consumed(len_bytes);
            assert_eq!(owed, end.receives.owed_bytes());
            if end.receives.owes_much() {
                self.bring(at, None);
            }
            true
        }

        /// Every byte of the window is in one place.
        fn balance(&self) {
            for from in [0, 1] {
                let (sender, receiver) = (&self.0[from], &self.0[1 - from]);
                let room = |lens: &mut dyn Iterator<Item = u32>| lens.map(room_bytes).sum::<u32>();
                let under_way = room(&mut receiver.inbound.iter().filter_map(|(_, message)| *message));
                let held = room(&mut receiver.held.iter().copied());
                let coming_back = receiver.receives.told.wrapping_sub(sender.sends.returned);
                assert_eq!(held, receiver.receives.held_bytes());
                assert_eq!(
                    sender.sends.window_bytes,
                    sender.sends.available_bytes()
                        + under_way
                        + held
                        + receiver.receives.owed_bytes()
                        + coming_back
                );
                assert!(held <= receiver.receives.window_bytes);
            }
        }
    }

    proptest! {
        /// Honest ends never accuse each other, no byte of a window is lost, and nobody waits for ever.
        #[test]
        fn windows_come_back(
            windows in [2 * OVERHEAD..5_000, 2 * OVERHEAD..5_000],
            start in prop_oneof![any::<u32>(), u32::MAX - 5_000..=u32::MAX],
            moves in prop::collection::vec((0..2_usize, 0..3_u8, 0..3_000_u32), 1..400),
        ) {
            let mut connection = Connection::new(windows, start);
            for (end, act, number) in moves {
                match act {
                    0 => connection.send(end, number),
                    1 => _ = connection.receive(end),
                    _ => _ = connection.consume(end, number as usize),
                }
                connection.balance();
            }
            // All is received, and nobody has anything to say.
            while [0, 1].into_iter().any(|end| connection.receive(end) || connection.consume(end, 0)) {}
            connection.balance();
            for end in [0, 1] {
                let longest = windows[1 - end] / 2 - OVERHEAD;
                prop_assert!(connection.0[end].sends.may_send(longest), "room for every message");
                prop_assert!(!connection.0[end].sends.may_send(longest + 1), "more than half the window");
            }
            // Any message brings back the rest.
            [0, 1].into_iter().for_each(|end| connection.bring(end, None));
            [0, 1].into_iter().for_each(|end| assert!(connection.receive(end)));
            for end in [0, 1] {
                prop_assert_eq!(connection.0[end].sends.available_bytes(), windows[1 - end]);
            }
        }

        /// Whatever counter comes: it is taken if it lies between what was returned and what was sent.
        #[test]
        fn counters_that_no_honest_peer_sends_are_refused(start: u32, sent in 0..10_u32, counter: u32, near in 0..6_000_u32) {
            let mut window = SendWindow { window_bytes: 10_000, sent: start, returned: start };
            (0..sent).for_each(|_| window.sent(100));
            let outstanding = sent * room_bytes(100);
            for counter in [counter, start.wrapping_add(near), start.wrapping_sub(near)] {
                let mut window = window;
                let returned = counter.wrapping_sub(start);
                if returned <= outstanding {
                    prop_assert_eq!(window.returned(counter), Ok(returned));
                    prop_assert_eq!(window.outstanding_bytes(), outstanding - returned);
                } else {
                    let error = CreditError::ReturnedTooMuch { returned_bytes: returned, outstanding_bytes: outstanding };
                    prop_assert_eq!(window.returned(counter), Err(error));
                    prop_assert_eq!(window.outstanding_bytes(), outstanding, "nothing is taken");
                }
            }
        }
    }

    #[test]
    fn who_sends_too_much_is_found_out() {
        let mut window = ReceiveWindow::new(3 * OVERHEAD);
        assert_eq!(window.arrived(0), Ok(()));
        assert_eq!(window.arrived(OVERHEAD), Ok(()));
        let exceeded =
            |len_bytes, available_bytes| Err(CreditError::WindowExceeded { len_bytes, available_bytes });
        assert_eq!(window.arrived(0), exceeded(0, 0), "empty messages take room too");
        // Consumed is not enough: the peer must have been told.
        assert_eq!(window.consumed(0), OVERHEAD);
        assert_eq!((window.owes_much(), window.arrived(0)), (false, exceeded(0, 0)));
        assert_eq!(window.pay(), OVERHEAD);
        assert_eq!(window.owed_bytes(), 0);
        assert_eq!(window.arrived(1), exceeded(1, OVERHEAD));
        assert_eq!(window.arrived(u32::MAX), exceeded(u32::MAX, OVERHEAD));
        assert_eq!(window.arrived(0), Ok(()));
        assert_eq!((window.held_bytes(), window.consumed(OVERHEAD)), (3 * OVERHEAD, 2 * OVERHEAD));
        assert!(window.owes_much());
    }

    /// Half a window is owed in silence; a byte more, and the longest message might find no room.
    #[test]
    fn what_is_owed_is_told_before_anybody_waits() {
        for window_bytes in [4 * OVERHEAD, 4 * OVERHEAD + 1] {
            let half = window_bytes / 2;
            for (owed, told) in [(window_bytes - half, false), (window_bytes - half + 1, true)] {
                let (mut sender, mut receiver) =
                    (SendWindow::new(window_bytes), ReceiveWindow::new(window_bytes));
                for len_bytes in [0, owed - 2 * OVERHEAD] {
                    sender.sent(len_bytes);
                    assert_eq!(receiver.arrived(len_bytes), Ok(()));
                    receiver.consumed(len_bytes);
                }
                assert_eq!((receiver.owed_bytes(), receiver.owes_much()), (owed, told));
                assert_eq!(sender.may_send(half - OVERHEAD), !told);
            }
        }
    }

    #[test]
    fn a_window_too_small_for_any_message_lets_none_pass() {
        for window_bytes in [0, 1, 2 * OVERHEAD - 1] {
            assert!(!SendWindow::new(window_bytes).may_send(0));
            assert!(!ReceiveWindow::new(window_bytes).owes_much());
        }
        assert!(SendWindow::new(2 * OVERHEAD).may_send(0));
        // The largest window there can be: no length overflows it.
        let mut window = SendWindow::new(u32::MAX);
        assert!(!window.may_send(u32::MAX) && window.may_send(u32::MAX / 2 - OVERHEAD));
        window.sent(u32::MAX / 2 - OVERHEAD);
        window.sent(u32::MAX / 2 - OVERHEAD);
        assert_eq!((window.available_bytes(), window.may_send(0)), (1, false));
        assert_eq!(window.returned(u32::MAX - 1), Ok(u32::MAX - 1));
    }
}
