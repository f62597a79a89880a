//! Checks on RDMA. A machine without it runs jobs on one node, so nothing here fails there; one with adapters that cannot be
//! used is warned of, because other transports then carry what goes to other nodes. What the user asked for and is not there fails.

use crate::doctor::facts::Facts;
use crate::doctor::report::Check;
use crate::quantity::bytes_text;
use crate::rdma::{Port, Rdma};
use crate::trial::Failure;

/// Below this, registration of a program's buffers fails early.
const MEMLOCK_ENOUGH_BYTES: u64 = 1 << 30;

pub(super) fn library(facts: &Facts) -> Check {
    const ID: &str = "rdma-library";
    match &facts.rdma {
        Rdma { built: false, .. } => {
            Check::ok(ID, "this build of ironband leaves the fabric verbs out, so RDMA is not looked for")
        }
        Rdma { library: Some(path), .. } => Check::ok(ID, format!("libibverbs: {}", path.display())),
        _ => Check::ok(ID, "libibverbs is part of this program"),
    }
}

/// The value of checks that have nothing to look at.
fn nothing(id: &'static str, rdma: &Rdma) -> Option<Check> {
    let why = if rdma.built {
        "no RDMA adapter: ranks of one node use shared memory, other nodes another transport"
    } else {
        "not looked at: this build leaves RDMA out"
    };
    rdma.adapters.is_empty().then(|| Check::ok(id, why))
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join("; ")
}

fn messages(failures: &[&Failure]) -> String {
    joined(failures.iter().map(|failure| failure.message.clone()))
}

pub(super) fn devices(facts: &Facts) -> Check {
    const ID: &str = "rdma-devices";
    let rdma = &facts.rdma;
    if let Some(refused) = &rdma.ports_refused {
        return Check::failure(ID, &refused.message, &refused.fix);
    }
    if let Some(check) = nothing(ID, rdma) {
        return check;
    }
    // Of those that may be opened: the others are the next check's.
    let opened = rdma.adapters.iter().filter(|adapter| adapter.node.is_ok());
    let failed: Vec<&Failure> = opened.filter_map(|adapter| adapter.limits.as_ref().err()).collect();
    match failed.first() {
        Some(first) => Check::warning(ID, messages(&failed), &first.fix),
        None => Check::ok(ID, joined(rdma.adapters.iter().map(|adapter| adapter.name.clone()))),
    }
}

pub(super) fn permission(facts: &Facts) -> Check {
    const ID: &str = "rdma-permission";
    let rdma = &facts.rdma;
    if let Some(check) = nothing(ID, rdma) {
        return check;
    }
    let refused: Vec<&Failure> =
        rdma.adapters.iter().filter_map(|adapter| adapter.node.as_ref().err()).collect();
    match refused.first() {
        Some(first) => Check::warning(ID, messages(&refused), &first.fix),
        None => {
            let names: Vec<&str> = rdma.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
            Check::ok(ID, format!("{} may be opened", names.join(", ")))
        }
    }
}

pub(super) fn memlock(facts: &Facts) -> Check {
    const ID: &str = "memlock";
    let memlock = &facts.rdma.memlock;
    // A build without RDMA has not asked.
    let limit_bytes = if facts.rdma.built { memlock.limit_bytes } else { facts.limits.memlock_bytes.soft };
    let value = limit_bytes.map_or_else(|| "unlimited".to_owned(), bytes_text);
    if facts.rdma.adapters.is_empty() {
        return Check::ok(
            ID,
            format!("{value}; enough, because only RDMA locks memory and there is no RDMA adapter"),
        );
    }
    if let Some(refused) = &memlock.refused {
        return Check::warning(ID, &refused.message, &refused.fix);
    }
    match limit_bytes {
        Some(bytes) if bytes < MEMLOCK_ENOUGH_BYTES && memlock.exempt => {
            Check::ok(ID, format!("{value}, and a capability lets this process lock any amount"))
        }
        Some(bytes) if bytes < MEMLOCK_ENOUGH_BYTES => {
            let fix = "raise it: ulimit -l unlimited, `* - memlock unlimited` in /etc/security/limits.conf, \
                       LimitMEMLOCK=infinity for a service, --ulimit memlock=-1 for a container";
            Check::warning(ID, format!("{value}: large buffers of a program may not be registered"), fix)
        }
        _ => Check::ok(ID, value),
    }
}

pub(super) fn port(facts: &Facts) -> Check {
    const ID: &str = "rdma-port";
    let rdma = &facts.rdma;
    if let Some(check) = nothing(ID, rdma) {
        return check;
    }
    let text = |port: &Port| format!("{} ({}, {}, {})", port.name, port.link, port.state, port.rate);
    let active: Vec<&Port> = rdma.ports().filter(|port| port.inactive.is_none()).collect();
    let inactive: Vec<&Failure> = rdma.ports().filter_map(|port| port.inactive.as_ref()).collect();
    match (active.is_empty(), inactive.first()) {
        (true, Some(first)) => Check::warning(ID, messages(&inactive), &first.fix),
        (true, None) => Check::warning(ID, "the adapters have no port", "look at the kernel's log (dmesg)"),
        // Cables that nobody plugged in are no fault while another port works.
        (false, Some(_)) => {
            let active = joined(active.into_iter().map(text));
            Check::ok(ID, format!("{active}; not used: {}", messages(&inactive)))
        }
        (false, None) => Check::ok(ID, joined(active.into_iter().map(text))),
    }
}

pub(super) fn gid(facts: &Facts) -> Check {
    const ID: &str = "rdma-gid";
    let rdma = &facts.rdma;
    if let Some(check) = nothing(ID, rdma) {
        return check;
    }
    let chosen = |port: &Port| {
        let index = port.gid.as_ref().ok()?;
        let gid = port.gids.iter().find(|gid| gid.index == *index)?;
        let reasons = gid.reasons.join(", ");
        Some(format!("{}: {} (index {index}, score {}: {reasons})", port.name, gid.address, gid.score))
    };
    let active = || rdma.ports().filter(|port| port.inactive.is_none());
    let refused: Vec<&Failure> = active().filter_map(|port| port.gid.as_ref().err()).collect();
    match refused.first() {
        Some(first) => Check::warning(ID, messages(&refused), &first.fix),
        None => {
            let chosen = joined(active().filter_map(chosen));
            Check::ok(
                ID,
                if chosen.is_empty() { "not looked at: no port is active".to_owned() } else { chosen },
            )
        }
    }
}
