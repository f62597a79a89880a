//! Reads that make a Soft-iWARP peer look at what has come.
//!
//! Who accepts a connection answers before its socket is told whom to call when data comes (`siw_accept` in Linux 6.1). What the
//! connector sends in between lies there until more comes, and the connector may have said all that it has to say. So, until
//! something has come from the peer, it is read from now and then: whatever follows makes its kernel look, and an answer
//! tells that it has.

use std::time::Duration;

use super::device::VerbsDevice;
use super::object::Work;
use super::requests::work_id;
use super::works::Underway;
use crate::QueuePairNumber;

/// Until the first read, and by how much longer each pause is than the one before. An answer ends them.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const GROWTH: u32 = 2;
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A peer of which nothing has been heard since this process connected to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unheard {
    qp: QueuePairNumber,
    /// Number of the connection.
    qpn: u32,
    due: Duration,
    pause: Duration,
}

impl Unheard {
    pub(super) fn new(qp: QueuePairNumber, qpn: u32, now: Duration) -> Self {
        Self { qp, qpn, due: now + FIRST_PAUSE, pause: FIRST_PAUSE }
    }

    /// True if it is to be read from now; the next time is noted.
    fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.due;
        if due {
            self.pause = (self.pause * GROWTH).min(LAST_PAUSE);
            self.due = now + self.pause;
        }
        due
    }
}

impl VerbsDevice {
    /// Reads from those that have not been heard for a while; those that have been are no longer among `unheard`.
    pub(super) fn nudge(&mut self, unheard: &mut Vec<Unheard>, now: Duration) {
        unheard.retain_mut(|peer| {
            let connection = self.peers[peer.qp.index()].connection.as_ref();
            let silent =
                connection.is_some_and(|it| it.qpn == peer.qpn && it.received == 0 && !it.nudge_answered);
            if silent && peer.is_due(now) {
                self.post_nudge(peer.qp);
            }
            silent
        });
    }

    /// A peer's kernel has answered a read, so it has looked at all that came before.
    pub(super) fn note_nudge(&mut self, qp: QueuePairNumber) {
        if let Some(connection) = &mut self.peers[qp.index()].connection {
            connection.nudge_answered = true;
        }
    }

    fn post_nudge(&mut self, qp: QueuePairNumber) {
        let (Some(connection), Some(landing)) = (&mut self.peers[qp.index()].connection, &self.landing)
        else {
            return;
        };
        if !connection.works.has_request_room() {
            return;
        }
        let (number, _) = connection.works.note(Underway::Nudge, true);
        let (there, id) = (connection.landing, work_id(qp, number));
        let work = Work::read(id, landing.part(), there.address, there.key);
        // SAFETY: memory of this device's own, that nobody looks at.
        if let Err(error) = unsafe { connection.qp.post(&mut [work.signalled()]) } {
            connection.works.unnote();
            self.fail(qp, error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_never_end() {
        let ms = Duration::from_millis;
        let mut peer = Unheard::new(QueuePairNumber(1), 2, ms(100));
        let due: Vec<u64> = (100..20_000).filter(|&now| peer.is_due(ms(now))).collect();
        assert_eq!(due[..5], [105, 115, 135, 175, 255]);
        let last = due.windows(2).next_back().map(|pair| pair[1] - pair[0]);
        assert_eq!(last, Some(1000));
    }
}
