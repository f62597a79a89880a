//! The window of one direction of a queue pair: how many messages the receiver has room for, as the sender knows it. A message
//! takes a receive when it is posted; the receive comes back when the receiver's user has released the message and word of that
//! has travelled.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Receives that the sender knows of.
    free: u32,
    /// Released, and on their way to the sender.
    returning: u32,
}

impl Window {
    pub(super) const fn new(receives: u32) -> Self {
        Self { free: receives, returning: 0 }
    }

    pub(super) const fn has_room(self) -> bool {
        self.free > 0
    }

    /// A message is posted; there is room.
    pub(super) const fn take(&mut self) {
        self.free -= 1;
    }

    /// A message that was posted has used no receive after all.
    pub(super) const fn untake(&mut self) {
        self.free += 1;
    }

    /// The receiver's user has released a message. True when nothing is on its way yet: then this is to be sent, and takes
    /// everything along that is released until it arrives.
    #[must_use]
    pub(super) const fn release(&mut self) -> bool {
        self.returning += 1;
        self.returning == 1
    }

    /// What was on its way has come.
    pub(super) const fn arrive(&mut self) {
        self.free += std::mem::replace(&mut self.returning, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No receive is lost or made, and one notice at most is on its way.
        #[test]
        fn every_receive_is_somewhere(receives in 1_u32..20, steps in prop::collection::vec(0_u8..4, 0..300)) {
            let mut window = Window::new(receives);
            // The model: each receive is free, used, or in the notice under way.
            let (mut free, mut used, mut noticed, mut notice) = (receives, 0, 0, false);
            for step in steps {
                match step {
                    0 if free > 0 => {
                        window.take();
                        (free, used) = (free - 1, used + 1);
                    }
                    1 if used > 0 => {
                        prop_assert_eq!(window.release(), !notice);
                        (used, noticed, notice) = (used - 1, noticed + 1, true);
                    }
                    2 if notice => {
                        window.arrive();
                        (free, noticed, notice) = (free + noticed, 0, false);
                    }
                    3 if used > 0 => {
                        window.untake();
                        (free, used) = (free + 1, used - 1);
                    }
                    _ => {}
                }
                prop_assert_eq!(window.has_room(), free > 0);
                prop_assert_eq!(free + used + noticed, receives);
            }
            prop_assert_eq!(window, Window { free, returning: noticed });
        }
    }
}
