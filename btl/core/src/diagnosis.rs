//! From a failed work to a text for the person who has to mend it: what failed, between whom, on which way, the likely cause, what
//! to try.
//!
//! An adapter answers "transport retry counter exceeded" to a pulled cable, a dead process, a firewall and two MTUs alike.
//! What tells them apart is around it: whether the port is up, the process alive, anything ever came through. All of that is
//! in [`FailureFacts`], so that the text is a pure function and a machine that nobody has can be talked about in a test.

use std::fmt;

use crate::gid::{Reach, gid_text, reach_by_ip};
use crate::wire::Carrier;

/// What was asked of the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedOperation {
    /// A message to the peer.
    Send,
    /// A message from the peer.
    Receive,
    /// A read of the peer's memory.
    Read,
    /// A write to the peer's memory.
    Write,
    /// An atomic on the peer's memory.
    Atomic,
    /// One of the last three.
    Request,
}

impl FailedOperation {
    const fn words(self) -> &'static str {
        match self {
            Self::Send => "a message to",
            Self::Receive => "a receive from",
            Self::Read => "an RDMA read from",
            Self::Write => "an RDMA write to",
            Self::Atomic => "an atomic on memory of",
            Self::Request => "an RDMA or atomic request to",
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The port: `mlx5_0:1` of the own end, `port 1` of a peer, whose adapter's name is not known.
    pub port: String,
    /// Its global identifier in use.
    pub gid: [u8; 16],
    /// Its active MTU.
    pub mtu_bytes: u32,
}

/// How often and how long an adapter tries again, as verbs code it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySettings {
    /// Time to an acknowledgement: 4.096 us times 2 to this power.
    pub timeout: u8,
    /// How often a packet is sent again.
    pub retry_cnt: u8,
    /// How often a sender waits for a receive to be posted; 7 is without end.
    pub rnr_retry: u8,
}

impl RetrySettings {
    /// Time to an acknowledgement; 0 waits for ever.
    pub const fn timeout_ms(self) -> u64 {
        match self.timeout {
            0 => 0,
            timeout => (4096_u64 << if timeout > 31 { 31 } else { timeout }) / 1_000_000,
        }
    }
}

/// Everything that is known of a failed work and of the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureFacts {
    /// The peer's rank.
    pub peer_rank: u32,
    /// Its host.
    pub peer_host: String,
    /// Its process number.
    pub peer_pid: u32,
    /// What was asked for.
    pub operation: FailedOperation,
    /// `ibv_wc_status`.
    pub status: u32,
    /// The vendor's number for it.
    pub vendor_error: u32,
    /// What carries the packets.
    pub carrier: Carrier,
    /// This end.
    pub own: End,
    /// The other end.
    pub peer: End,
    /// Length of the own network's prefix, where it is known.
    pub prefix_bits: Option<u8>,
    /// In force on this connection.
    pub retries: RetrySettings,
    /// Whether the own port carries packets now; none when it could not be asked.
    pub own_port_active: Option<bool>,
    /// Whether the peer's process lives; none when it is on another host.
    pub peer_alive: Option<bool>,
    /// Whether anything that was sent on this connection was acknowledged before.
    pub worked_before: bool,
}

/// Name of an `ibv_wc_status`, and what it says in one sentence.
pub const fn status_name(status: u32) -> (&'static str, &'static str) {
    match status {
        0 => ("IBV_WC_SUCCESS", "it succeeded"),
        1 => ("IBV_WC_LOC_LEN_ERR", "a message was longer than its buffer"),
        2 => ("IBV_WC_LOC_QP_OP_ERR", "the own adapter found its queue pair inconsistent"),
        3 => ("IBV_WC_LOC_EEC_OP_ERR", "the own adapter found its end-to-end context inconsistent"),
        4 => ("IBV_WC_LOC_PROT_ERR", "the local memory is not registered for this"),
        5 => ("IBV_WC_WR_FLUSH_ERR", "the connection had failed before"),
        6 => ("IBV_WC_MW_BIND_ERR", "a memory window could not be bound"),
        7 => ("IBV_WC_BAD_RESP_ERR", "the peer's adapter answered with nonsense"),
        8 => ("IBV_WC_LOC_ACCESS_ERR", "the peer wrote to memory here that is not registered for it"),
        9 => ("IBV_WC_REM_INV_REQ_ERR", "the peer's adapter found the request invalid"),
        10 => ("IBV_WC_REM_ACCESS_ERR", "the peer's adapter refused access to its memory"),
        11 => ("IBV_WC_REM_OP_ERR", "the peer's adapter could not do the request"),
        12 => ("IBV_WC_RETRY_EXC_ERR", "no acknowledgement came"),
        13 => ("IBV_WC_RNR_RETRY_EXC_ERR", "the peer had no receive posted"),
        14 => ("IBV_WC_LOC_RDD_VIOL_ERR", "the reliable datagram domains differ"),
        15 => ("IBV_WC_REM_INV_RD_REQ_ERR", "the peer's adapter found the reliable datagram invalid"),
        16 => ("IBV_WC_REM_ABORT_ERR", "the peer aborted the operation"),
        17 => ("IBV_WC_INV_EECN_ERR", "the end-to-end context number is invalid"),
        18 => ("IBV_WC_INV_EEC_STATE_ERR", "the end-to-end context is in the wrong state"),
        19 => ("IBV_WC_FATAL_ERR", "the adapter failed"),
        20 => ("IBV_WC_RESP_TIMEOUT_ERR", "the peer's adapter did not answer in time"),
        21 => ("IBV_WC_GENERAL_ERR", "the adapter gave no reason"),
        22 => ("IBV_WC_TM_ERR", "tag matching failed"),
        23 => ("IBV_WC_TM_RNDV_INCOMPLETE", "a rendezvous of tag matching is incomplete"),
        _ => ("a status that verbs do not define", "the adapter gave a number of its own"),
    }
}

/// Explains a failure in a few lines.
pub fn explain(facts: &FailureFacts) -> String {
    let (name, meaning) = status_name(facts.status);
    let mut text = format!(
        "{} rank {} on {} (process {}) failed: {meaning} ({name}, {}; vendor error {:#x})",
        facts.operation.words(),
        facts.peer_rank,
        facts.peer_host,
        facts.peer_pid,
        facts.status,
        facts.vendor_error
    );
    let mut line = |name: &str, value: &dyn fmt::Display| text.push_str(&format!("\n  {name:<7} {value}"));
    line("way:", &way(facts));
    if matters(facts.status) {
        line("tries:", &tries(facts.retries));
    }
    let Advice { cause, attempt } = advice(facts);
    line("likely:", &cause);
    line("try:", &attempt);
    text
}

fn way(facts: &FailureFacts) -> String {
    let end = |end: &End| format!("{} {}, MTU {}", end.port, gid_text(&end.gid), end.mtu_bytes);
    format!("{}, {} to {}", facts.carrier.name(), end(&facts.own), end(&facts.peer))
}

/// Whether trying again has to do with the status.
const fn matters(status: u32) -> bool {
    matches!(status, 12 | 13 | 20)
}

fn tries(retries: RetrySettings) -> String {
    let rnr = match retries.rnr_retry {
        7 => "for ever".to_owned(),
        count => format!("{count} times"),
    };
    let RetrySettings { timeout, retry_cnt, .. } = retries;
    format!(
        "{retry_cnt} repetitions after {} ms each (timeout {timeout}, retry_cnt {retry_cnt}); waits {rnr} for a receive (rnr_retry {})",
        retries.timeout_ms(),
        retries.rnr_retry
    )
}

struct Advice {
    cause: String,
    attempt: String,
}

impl Advice {
    fn new(cause: impl Into<String>, attempt: impl Into<String>) -> Self {
        Self { cause: cause.into(), attempt: attempt.into() }
    }
}

/// Likely cause, and what to try.
fn advice(facts: &FailureFacts) -> Advice {
    match facts.status {
        12 | 20 => unanswered(facts),
        // A flush says that something else happened first; what, the surroundings tell.
        5 if facts.own_port_active == Some(false) || facts.peer_alive == Some(false) => unanswered(facts),
        5 => Advice::new(
            "an earlier error ended this connection: the peer's request was refused, or the peer ended it",
            "look for the first error, in the output of the peer too",
        ),
        13 => receive_not_ready(facts),
        1 => Advice::new(
            "the two processes have different values of eager_bytes, or a peer breaks the protocol",
            "run the same release with the same parameters everywhere",
        ),
        4 => Advice::new(
            "the buffer was unmapped, or is mapped for reading only, while the request was under way",
            "see that the program does not free or remap a buffer before its request is complete",
        ),
        8 | 10 => Advice::new(
            "the key, the range or the access does not fit: the memory was deregistered (a window freed, a buffer gone), or the offset is outside it",
            "check displacements and the lifetime of windows and buffers in the program",
        ),
        9 => Advice::new(
            "a message longer than the peer's buffers, or more reads at once than it serves: the releases or parameters differ",
            "run the same release with the same parameters everywhere",
        ),
        11 => Advice::new(
            "the peer's adapter or its memory failed",
            format!("look at the kernel's log (dmesg) of {}", facts.peer_host),
        ),
        7 => Advice::new(
            "packets are damaged on the way, or the peer's adapter is at fault",
            format!(
                "look at the port's error counters here and on {}, and at both kernels' logs",
                facts.peer_host
            ),
        ),
        2 | 19 => Advice::new(
            "the own adapter or its driver failed",
            "look at this host's kernel log (dmesg) and at the adapter's firmware",
        ),
        _ => Advice::new(
            "not known",
            format!("look at the kernel's log (dmesg) of this host and of {}", facts.peer_host),
        ),
    }
}

fn receive_not_ready(facts: &FailureFacts) -> Advice {
    if facts.peer_alive == Some(false) {
        return unanswered(facts);
    }
    Advice::new(
        "its process is stopped (a debugger, SIGSTOP, swapping), so that it posts no receives",
        format!("look at process {} on {}", facts.peer_pid, facts.peer_host),
    )
}

/// Nothing came back. What is known for certain is told first.
fn unanswered(facts: &FailureFacts) -> Advice {
    let FailureFacts { own, peer, peer_host, peer_pid, .. } = facts;
    if facts.own_port_active == Some(false) {
        return Advice::new(
            format!("the own port {} is down", own.port),
            "look at its cable and its network interface (ip link, ironband doctor)",
        );
    }
    if facts.peer_alive == Some(false) {
        return Advice::new(
            format!("process {peer_pid} has ended"),
            "look for its last words: why it ended is the cause of all that follows",
        );
    }
    if facts.worked_before {
        let mtu = if own.mtu_bytes == peer.mtu_bytes {
            ""
        } else {
            "; if only long messages fail, the MTUs of the interfaces differ"
        };
        return Advice::new(
            format!(
                "it worked before, so process {peer_pid} or {peer_host} has ended, or the link or a switch went down{mtu}"
            ),
            format!("look at process and port on {peer_host}; ping {}", gid_text(&peer.gid)),
        );
    }
    match facts.carrier {
        Carrier::InfiniBand => Advice::new(
            "nothing ever came back: the ports are in subnets that no router joins, or the partition (P_Key) differs",
            format!("ibping or ibv_rc_pingpong between the hosts; ibstat on {peer_host}"),
        ),
        Carrier::RoceV1 => Advice::new(
            "nothing ever came back: RoCE v1 does not cross routers, so both ports must be in one broadcast domain and VLAN",
            "choose a RoCE v2 GID with gid_index (ironband info lists them)",
        ),
        Carrier::RoceV2 | Carrier::Iwarp => first_contact(facts),
    }
}

/// Nothing ever came back over IP.
fn first_contact(facts: &FailureFacts) -> Advice {
    let (own, peer) = (gid_text(&facts.own.gid), gid_text(&facts.peer.gid));
    let port = if facts.carrier == Carrier::Iwarp { "its TCP port" } else { "UDP port 4791" };
    match reach_by_ip(&facts.own.gid, &facts.peer.gid, facts.prefix_bits) {
        Reach::Never => Advice::new(
            format!("{own} and {peer} are addresses of different kinds, and do not reach each other"),
            "choose GIDs of one kind on both ends with gid_index (ironband info lists them)",
        ),
        Reach::Routed => Advice::new(
            format!(
                "nothing ever came back: {peer} is in another subnet than {own}, and no router is on the way, or a firewall drops {port}"
            ),
            format!(
                "ping -I {own} {peer}; choose the GID of the right network with gid_index, or the port with ports"
            ),
        ),
        Reach::Perhaps | Reach::Subnet => Advice::new(
            format!(
                "nothing ever came back: a firewall drops {port}, a VLAN differs, or a switch has a smaller MTU"
            ),
            format!("ping -I {own} {peer}; for the MTU, ping -M do -s {} {peer}", longest_ping_bytes(facts)),
        ),
    }
}

/// What `ping` has to carry so that its packets are as long as the connection's: those have 32 more bytes of headers.
fn longest_ping_bytes(facts: &FailureFacts) -> u32 {
    facts.own.mtu_bytes.min(facts.peer.mtu_bytes) + 32
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
