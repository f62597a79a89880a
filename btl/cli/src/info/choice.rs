//! What a job on this node would use, and why.

use crate::cross_memory::{Attempt, CrossMemory};
use crate::rdma::Rdma;
use crate::trial::Failure;
use ironband::config::SingleCopy;
use serde::Serialize;

/// The device and the way of long messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Choice {
    pub(crate) fabric: &'static str,
    pub(crate) device: String,
    /// Why this device.
    pub(crate) why: String,
    pub(crate) long_messages: LongMessages,
}

/// The port that the first rank of this node would use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RemoteChoice {
    pub(crate) fabric: &'static str,
    pub(crate) device: String,
    /// Why this port, and which others there are.
    pub(crate) why: String,
    /// Its global identifier, with the reasons.
    pub(crate) gid: String,
}

/// Chooses as a rank does.
pub(crate) fn remote(rdma: &Rdma) -> Result<RemoteChoice, Failure> {
    let Some(device) = rdma.order.first() else {
        return Err(rdma.not_ready.clone().unwrap_or_else(|| Failure {
            message: "this build has no fabric for other nodes".into(),
            fix: "build with the feature verbs".into(),
        }));
    };
    let why = match rdma.order.len() {
        1 => "the only usable port".to_owned(),
        count => format!(
            "the first of {count} usable ports, by network and name: {}; a peer that it does not reach well is reached by another",
            rdma.order.join(", ")
        ),
    };
    let port = rdma.ports().find(|port| port.name == *device);
    let gid = port.and_then(|port| port.gids.iter().find(|gid| Ok(&gid.index) == port.gid.as_ref()));
    let gid = gid.map_or_else(String::new, |gid| {
        format!("{} (index {}, score {}): {}", gid.address, gid.index, gid.score, gid.reasons.join(", "))
    });
    Ok(RemoteChoice { fabric: "verbs", device: device.clone(), why, gid })
}

/// How long messages between ranks of this node would move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LongMessages {
    pub(crate) mechanism: Mechanism,
    pub(crate) why: String,
}

/// Who copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mechanism {
    /// The kernel or the ring, whichever is measured to be faster, peer by peer and size by size.
    Measured,
    /// The kernel, once.
    Cma,
    /// Both processes, through shared memory.
    Ring,
}

/// Ranks probe every peer when they connect; this says what they will find.
pub(crate) fn long_messages(wanted: SingleCopy, found: &CrossMemory) -> LongMessages {
    let ring = |why: String| LongMessages { mechanism: Mechanism::Ring, why };
    if wanted == SingleCopy::Ring {
        return ring("single_copy = ring asks for it".into());
    }
    match found.between_ranks() {
        Attempt::Worked => {
            let consent = match found.with_consent {
                Some(_) => " once its owner agrees, as ranks do (yama ptrace_scope = 1)",
                None => "",
            };
            let found = format!("one process read and wrote another's memory{consent}");
            if wanted == SingleCopy::Cma {
                let why = format!("{found}, and single_copy = cma asks for it");
                return LongMessages { mechanism: Mechanism::Cma, why };
            }
            let why = format!("{found}; ranks measure it against the ring and keep the faster");
            LongMessages { mechanism: Mechanism::Measured, why }
        }
        Attempt::Refused { call, message, .. } => {
            ring(format!("{call} is refused: {message}; ironband doctor names the remedy"))
        }
        Attempt::Wrong { message } => ring(format!("cross-memory attach cannot be trusted here: {message}")),
        Attempt::NotTried { message } => {
            ring(format!("unless ranks find otherwise: cross-memory attach could not be tried: {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Attempt {
        Attempt::Refused { call: "process_vm_readv".into(), errno: 1, message: "not permitted".into() }
    }

    fn found(plain: Attempt, with_consent: Option<Attempt>) -> CrossMemory {
        CrossMemory { plain, with_consent, ptrace_scope: None }
    }

    #[track_caller]
    fn assert_chosen(wanted: SingleCopy, found: &CrossMemory, mechanism: Mechanism, why: &str) {
        let chosen = long_messages(wanted, found);
        assert_eq!(chosen.mechanism, mechanism, "{chosen:?}");
        assert!(chosen.why.contains(why), "{chosen:?} lacks {why:?}");
    }

    #[test]
    fn the_parameter_decides_where_the_kernel_permits() {
        let permitted = found(Attempt::Worked, None);
        assert_chosen(SingleCopy::Auto, &permitted, Mechanism::Measured, "keep the faster");
        assert_chosen(SingleCopy::Cma, &permitted, Mechanism::Cma, "single_copy = cma");
        assert_chosen(SingleCopy::Ring, &permitted, Mechanism::Ring, "single_copy = ring");
    }

    #[test]
    fn what_the_kernel_refuses_goes_through_the_ring_whatever_was_asked_for() {
        for wanted in [SingleCopy::Auto, SingleCopy::Cma] {
            let plainly = found(refused(), None);
            assert_chosen(wanted, &plainly, Mechanism::Ring, "process_vm_readv is refused: not permitted");
            let with_consent = found(refused(), Some(refused()));
            assert_chosen(wanted, &with_consent, Mechanism::Ring, "refused");
            let wrong = found(Attempt::Wrong { message: "bytes differ".into() }, None);
            assert_chosen(wanted, &wrong, Mechanism::Ring, "bytes differ");
        }
        let not_tried = found(Attempt::NotTried { message: "no /proc".into() }, None);
        assert_chosen(SingleCopy::Auto, &not_tried, Mechanism::Ring, "no /proc");
    }

    #[test]
    fn consent_that_helps_is_named() {
        let agreed = found(refused(), Some(Attempt::Worked));
        assert_chosen(SingleCopy::Auto, &agreed, Mechanism::Measured, "yama ptrace_scope = 1");
    }
}
