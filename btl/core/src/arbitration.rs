//! What becomes of a peer's request to connect, where the RDMA connection manager makes connections.
//!
//! The manager connects two queue pairs or none: unlike datagrams ([`crate::handshake`]), where one request serves as the answer
//! to the other, of two requests that cross one has to give way. The one of the process with the smaller job key counts: both
//! ends know both keys, so they come to the same verdict whatever each hears first.

use crate::handshake::newer;

/// What this end is about, when a peer's request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing, or it waits before it asks again.
    Free,
    /// It asks that peer.
    Asking,
    /// It has accepted an earlier request, and waits for the first message.
    Accepted,
    /// The connection stands.
    Connected,
    /// A connection that this end has ended still sends its last messages.
    Closing,
    /// A connection that the peer has replaced may still bring messages.
    Delivering,
    /// This end has given the peer up.
    Failed,
}

/// What to do with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Accept it, after dropping what is there.
    Accept,
    /// Ask again later: something has to end before.
    Wait,
    /// Put the connection aside, so that its last messages arrive; then ask again.
    SetAside,
    /// Refuse it: the own request counts.
    OursCounts,
    /// Refuse it: the peer was given up.
    Failed,
    /// Refuse it: the peer has sent a newer one.
    Stale,
}

/// Judges the request with number `life` of the peer with the key `theirs`; `heard` is the last one of it that was accepted.
pub fn judge(standing: Standing, own: &[u8; 16], theirs: &[u8; 16], heard: u32, life: u32) -> Verdict {
    if heard != 0 && !newer(life, heard) {
        return Verdict::Stale;
    }
    match standing {
        Standing::Failed => Verdict::Failed,
        Standing::Closing | Standing::Delivering => Verdict::Wait,
        Standing::Connected => Verdict::SetAside,
        Standing::Asking if own < theirs => Verdict::OursCounts,
        Standing::Free | Standing::Asking | Standing::Accepted => Verdict::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: [u8; 16] = [1; 16];
    const LARGE: [u8; 16] = [2; 16];

    #[test]
    fn of_two_that_cross_one_counts() {
        let small = judge(Standing::Asking, &SMALL, &LARGE, 0, 1);
        let large = judge(Standing::Asking, &LARGE, &SMALL, 0, 1);
        assert_eq!((small, large), (Verdict::OursCounts, Verdict::Accept));
        // The refused one waits before it asks again; should the other give up meanwhile, it is heard.
        assert_eq!(judge(Standing::Free, &SMALL, &LARGE, 0, 2), Verdict::Accept);
    }

    #[test]
    fn old_requests_and_given_up_peers_are_refused() {
        assert_eq!(judge(Standing::Free, &SMALL, &LARGE, 7, 7), Verdict::Stale);
        assert_eq!(judge(Standing::Connected, &SMALL, &LARGE, 7, 6), Verdict::Stale);
        assert_eq!(judge(Standing::Free, &SMALL, &LARGE, u32::MAX, 1), Verdict::Accept, "numbers wrap");
        assert_eq!(judge(Standing::Failed, &SMALL, &LARGE, 7, 8), Verdict::Failed);
    }

    #[test]
    fn a_connection_before_is_heard_out() {
        assert_eq!(judge(Standing::Connected, &SMALL, &LARGE, 7, 8), Verdict::SetAside);
        assert_eq!(judge(Standing::Delivering, &SMALL, &LARGE, 7, 8), Verdict::Wait);
        assert_eq!(judge(Standing::Closing, &SMALL, &LARGE, 7, 8), Verdict::Wait);
        assert_eq!(judge(Standing::Accepted, &SMALL, &LARGE, 7, 8), Verdict::Accept);
    }
}
