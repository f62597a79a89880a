//! Reads that make a Soft-iWARP peer look at what has come.
//!
//! Who accepts a connection answers before its socket is told whom to call when data comes (`siw_accept` in Linux 6.1). What the
//! connector sends in between lies there until more comes, and the connector may have said all that it has to say. So, until
//! something has come from the peer, it is read from now and then: whatever follows makes its kernel look, and an answer
//! tells that it has. As all that is due, this is done by a process that polls.

use std::time::Duration;

use super::device::VerbsDevice;
use super::works::Underway;
use crate::QueuePairNumber;

/// Until the first read. Each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The last comes after 5 s, which no kernel takes to go on. What is unanswered holds room for requests.
const NUDGES_MAX: u32 = 10;

/// A peer of which nothing has been heard since this process connected to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unheard {
    qp: QueuePairNumber,
    /// Number of the connection.
    qpn: u32,
    due: Duration,
    pause: Duration,
    left: u32,
}

impl Unheard {
    pub(super) fn new(qp: QueuePairNumber, qpn: u32, now: Duration) -> Self {
        Self { qp, qpn, due: now + FIRST_PAUSE, pause: FIRST_PAUSE, left: NUDGES_MAX }
    }

    fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// It is read from now.
    fn note(&mut self, now: Duration) {
        self.left -= 1;
        self.pause *= 2;
        self.due = now + self.pause;
    }
}

impl VerbsDevice {
    /// Reads from those that have not been heard for a while; those that have been are no longer among `unheard`.
    pub(super) fn nudge(&mut self, unheard: &mut Vec<Unheard>, now: Duration) {
        if unheard.iter().any(|peer| peer.is_due(now)) {
            // Their first words may lie in the completion queue.
            self.pump();
        }
        unheard.retain_mut(|peer| {
            let is_silent = self.is_silent(peer.qp, peer.qpn);
            if is_silent && peer.is_due(now) {
                // If it is refused, the connection is ending: its events say how.
                if let Some(Ok(())) = self.read_landing(peer.qp, Underway::Nudge) {
                    self.tally.nudges += 1;
                }
                peer.note(now);
            }
            is_silent && peer.left > 0
        });
    }

    /// True if this connection stands, and nothing has come by it. One that is not open may be a later one, with the same number.
    fn is_silent(&self, qp: QueuePairNumber, qpn: u32) -> bool {
        let peer = &self.peers[qp.index()];
        let silent = peer
            .connection
            .as_ref()
            .is_some_and(|it| it.qpn == qpn && it.received == 0 && !it.nudge_answered);
        silent && peer.open
    }

    /// A peer's kernel has answered a read, so it has looked at all that came before.
    pub(super) fn note_nudge(&mut self, qp: QueuePairNumber) {
        if let Some(connection) = &mut self.peers[qp.index()].connection {
            connection.nudge_answered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow() {
        let ms = Duration::from_millis;
        let mut peer = Unheard::new(QueuePairNumber(1), 2, ms(100));
        let mut due = Vec::new();
        for now in (100..20_000).map(ms) {
            if peer.left > 0 && peer.is_due(now) {
                peer.note(now);
                due.push(now.as_millis());
            }
        }
        assert_eq!(due, [105, 115, 135, 175, 255, 415, 735, 1375, 2655, 5215]);
    }
}
