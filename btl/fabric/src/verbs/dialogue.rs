//! Connecting by the RDMA connection manager, from one peer's view: how far it is, and what ends it.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ironband_core::wire::{Greeting, Offer, Refusal, VerbsCard};

use super::object::{Event, Happened, Identifier};

/// Until an attempt that was turned down is repeated: the first time, and at most.
const REPEAT_FIRST: Duration = Duration::from_millis(20);
const REPEAT_LAST: Duration = Duration::from_secs(1);
/// InfiniBand's reason of a rejection when nobody listens.
const NO_SUCH_SERVICE: i32 = 8;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits before it asks again.
    Resting,
    /// The peer's address is being resolved.
    Address,
    /// The route to it is being resolved.
    Route,
    /// Asked: the answer is due.
    Answer,
    /// The connection stands, and this end's first message is to be sent.
    Introduce,
    /// Accepted: the peer's first message is due.
    Hello,
}

/// One connection that is being made.
#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) stage: Stage,
    /// Until it moves into the connection.
    pub(super) id: Option<Identifier>,
    pub(super) own: Option<Offer>,
    pub(super) began: Duration,
    pub(super) next: Duration,
    interval: Duration,
}

impl Dialogue {
    pub(super) const fn begin(now: Duration, stage: Stage) -> Self {
        Self { stage, id: None, own: None, began: now, next: now, interval: REPEAT_FIRST }
    }

    /// Asks again after a while.
    pub(super) fn rest(&mut self, now: Duration) {
        self.stage = Stage::Resting;
        self.own = None;
        self.next = now + self.interval;
        self.interval = (self.interval * 2).min(REPEAT_LAST);
    }

    /// True while this end has asked.
    pub(super) const fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Address | Stage::Route | Stage::Answer)
    }
}

/// A peer's request that was not decided on yet.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) id: Identifier,
    pub(super) greeting: Greeting,
    /// As in [`Event::reads`].
    pub(super) reads: (u8, u8),
}

/// What to do after an attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The peer's own request is on its way, or the peer only takes its time.
    Repeat,
    /// Repeat, but not beyond the deadline.
    RepeatUntilDeadline,
    /// It is of no use.
    GiveUp,
}

/// Why an attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer's process has said so.
    Refused(Refusal),
    /// Its host has: nobody listens at that port.
    NobodyListens,
    /// Somebody has, without a reason.
    TurnedDown,
    /// No answer in time.
    NoAnswer,
    /// The address or the route.
    Unresolved(i32),
    /// Something else, by the system's error number.
    Broken(i32),
}

impl Cause {
    pub(super) fn of(event: &Event, is_iwarp: bool) -> Self {
        let number = event.status.abs();
        match event.happened {
            Happened::Unresolved => Self::Unresolved(number),
            Happened::Unreachable => Self::NoAnswer,
            Happened::Rejected => match Refusal::decode(&event.private) {
                Some(refusal) => Self::Refused(refusal),
                None if is_iwarp && number == libc::ECONNREFUSED => Self::NobodyListens,
                None if !is_iwarp && number == NO_SUCH_SERVICE => Self::NobodyListens,
                None => Self::TurnedDown,
            },
            _ => Self::Broken(number),
        }
    }

    /// Of a call that failed.
    pub(super) const fn of_call(number: i32) -> Self {
        match number {
            libc::ECONNREFUSED => Self::NobodyListens,
            libc::ETIMEDOUT => Self::NoAnswer,
            libc::ENETUNREACH | libc::EHOSTUNREACH => Self::Unresolved(number),
            _ => Self::Broken(number),
        }
    }

    pub(super) const fn next(self) -> Next {
        match self {
            // Without a reason it is the kernel of the peer's host, for a process that has not looked for long.
            Self::Refused(Refusal::OursCounts | Refusal::Stale) | Self::NoAnswer | Self::TurnedDown => {
                Next::Repeat
            }
            Self::Refused(Refusal::Failed | Refusal::Stranger)
            | Self::NobodyListens
            | Self::Unresolved(libc::ENETUNREACH) => Next::GiveUp,
            Self::Unresolved(_) | Self::Broken(_) => Next::RepeatUntilDeadline,
        }
    }

    /// For a person; `from` and `to` are addresses.
    pub(super) fn text(self, from: IpAddr, to: &str) -> String {
        let system = |number: i32| std::io::Error::from_raw_os_error(number).to_string();
        match self {
            Self::Refused(Refusal::Failed) => {
                "it has given this connection up after an error of its own".to_owned()
            }
            Self::Refused(_) | Self::TurnedDown => format!(
                "{to} turns this process down: another process has taken that port since the addresses were exchanged"
            ),
            Self::NobodyListens => {
                format!("nobody listens at {to} any more: the process has ended, or a firewall refuses it")
            }
            Self::NoAnswer => format!("{to} does not answer"),
            Self::Unresolved(number) => format!(
                "{to} cannot be reached from {from}: {}; look at the route (ip route get {}) and at the neighbour (ip neigh), and whether both addresses are on RDMA interfaces of one network",
                system(number),
                to.rsplit_once(':').map_or(to, |(address, _)| address)
            ),
            Self::Broken(number) => {
                format!(
                    "the connection manager cannot connect {from} to {to}: {}; look at the kernel's log of both hosts",
                    system(number)
                )
            }
        }
    }
}

/// The IP address that a GID stands for.
pub(super) fn ip_of(gid: &[u8; 16]) -> IpAddr {
    let address = Ipv6Addr::from(*gid);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

/// The GID that stands for an IP address.
pub(super) fn gid_of(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What is known of a peer before its card comes.
pub(super) fn provisional_card(own: &VerbsCard, greeting: &Greeting, ip: Option<IpAddr>) -> VerbsCard {
    VerbsCard {
        carrier: own.carrier,
        port: 1,
        mtu: greeting.offer.mtu,
        lid: 0,
        listen_port: 1,
        gid: ip.map_or([0; 16], gid_of),
        datagram_qpn: 0,
        qkey: 0,
        pid: greeting.pid,
        rank: greeting.rank,
        boot_id: [0; 8],
        pid_namespace: 0,
        key: greeting.sender_key,
        host: ip.map_or_else(|| "an unknown host".to_owned(), |ip| ip.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(status: i32, private: Vec<u8>) -> Event {
        Event { token: 0, happened: Happened::Rejected, status, private, reads: (0, 0), request: None }
    }

    #[test]
    fn a_rejection_says_who_has_rejected() {
        let cause = |event: &Event, is_iwarp| Cause::of(event, is_iwarp);
        let tie = rejected(28, Refusal::OursCounts.encode().to_vec());
        assert_eq!(cause(&tie, false).next(), Next::Repeat);
        assert_eq!(cause(&rejected(8, Vec::new()), false), Cause::NobodyListens);
        assert_eq!(cause(&rejected(-libc::ECONNREFUSED, Vec::new()), true), Cause::NobodyListens);
        assert_eq!(cause(&rejected(28, Vec::new()), false), Cause::TurnedDown);
        assert_eq!(cause(&rejected(-libc::ECONNRESET, Vec::new()), true), Cause::TurnedDown);
        assert_eq!(Cause::of_call(libc::ENETUNREACH).next(), Next::GiveUp);
    }

    #[test]
    fn every_cause_names_the_address() {
        let from = IpAddr::from([10, 0, 0, 1]);
        for cause in [
            Cause::TurnedDown,
            Cause::NobodyListens,
            Cause::NoAnswer,
            Cause::Unresolved(libc::EHOSTUNREACH),
            Cause::Broken(libc::EIO),
        ] {
            let text = cause.text(from, "10.0.0.2:99");
            assert!(text.contains("10.0.0.2"), "{text}");
        }
        assert!(
            Cause::Unresolved(libc::EHOSTUNREACH)
                .text(from, "10.0.0.2:99")
                .contains("ip route get 10.0.0.2)")
        );
    }

    #[test]
    fn addresses_and_identifiers_stand_for_each_other() {
        for text in ["10.77.0.1", "2001:db8::1"] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(ip_of(&gid_of(ip)), ip);
        }
    }
}
