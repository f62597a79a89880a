//! RDMA adapters, ports and global identifiers for a person.

use super::{Page, UNBOUNDED_BYTES, yes};
use crate::quantity::bytes_text;
use crate::rdma::{Adapter, AdapterLimits, Memlock, Port, Rdma};

/// Identifiers shown of each port: tables of hundreds exist.
const GIDS_MAX: usize = 8;

/// Everything about RDMA.
pub(super) fn rdma(page: &mut Page, found: &Rdma) {
    if !found.built {
        page.field("none", "this build of ironband leaves the fabric verbs out");
        return;
    }
    let library =
        found.library.as_ref().map_or_else(|| "unknown".to_owned(), |path| path.display().to_string());
    page.field("libibverbs", &library);
    memlock(page, &found.memlock);
    if let Some(refused) = &found.ports_refused {
        page.field("refused", &refused.message);
        page.field("fix", &refused.fix);
    }
    for each in &found.adapters {
        adapter(page, each);
    }
    if let (true, Some(reason)) = (found.adapters.is_empty(), &found.not_ready) {
        page.field("none", &reason.message);
        page.field("fix", &reason.fix);
    }
}

fn memlock(page: &mut Page, memlock: &Memlock) {
    let limit = memlock.limit_bytes.map_or_else(|| "unlimited".to_owned(), bytes_text);
    match (&memlock.refused, memlock.limit_bytes) {
        (Some(refused), _) => {
            page.field("locked memory", &refused.message);
            page.field("fix", &refused.fix);
        }
        (None, Some(_)) if memlock.exempt => {
            page.field(
                "locked memory",
                &format!("{limit}, and a capability lets this process lock any amount"),
            );
        }
        _ => page.field("locked memory", &limit),
    }
}

fn adapter(page: &mut Page, adapter: &Adapter) {
    let place = match adapter.numa_node {
        Some(node) => format!("NUMA node {node}, distance {}", adapter.numa_distance),
        None => "no known NUMA node".to_owned(),
    };
    page.field(&format!("adapter {}", adapter.name), &place);
    if let Err(failure) = &adapter.node {
        page.field("  cannot be opened", &failure.message);
        page.field("  fix", &failure.fix);
    } else {
        match &adapter.limits {
            Ok(limits) => page.field("", &limits_text(limits)),
            Err(failure) => {
                page.field("  cannot be used", &failure.message);
                page.field("  fix", &failure.fix);
            }
        }
    }
    for each in &adapter.ports {
        port(page, each);
    }
}

fn limits_text(limits: &AdapterLimits) -> String {
    let region = match limits.region_bytes_max {
        UNBOUNDED_BYTES.. => "any length".to_owned(),
        bytes => format!("up to {}", bytes_text(bytes)),
    };
    let inline =
        limits.inline_bytes_max.map_or_else(|| "not told".to_owned(), |bytes| format!("{bytes} bytes"));
    format!(
        "{} queue pairs, {} regions of {region}, inline {inline}, {} works in a send queue, {} completions in a queue, {} reads at once, shared receive queues: {}, atomics: {}",
        limits.queue_pairs_max,
        limits.regions_max,
        limits.send_queue_depth_max,
        limits.completion_queue_depth_max,
        limits.reads_served_max,
        yes(limits.shared_receive_queues),
        yes(limits.atomics)
    )
}

fn port(page: &mut Page, port: &Port) {
    page.field(&format!("port {}", port.name), &format!("{}, {}, {}", port.link, port.state, port.rate));
    if let Some(failure) = &port.unusable {
        page.field("  not used", &failure.message);
        page.field("  fix", &failure.fix);
    }
    let chosen = |index: &u8| Ok(index) == port.gid.as_ref();
    // The chosen one is always shown; it need not be among the best if the user asked for it.
    let (first, rest): (Vec<_>, Vec<_>) = port.gids.iter().partition(|gid| chosen(&gid.index));
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    for gid in all.iter().take(GIDS_MAX) {
        let mark = if chosen(&gid.index) { ", chosen" } else { "" };
        let value = format!("{}, score {}: {}", gid.address, gid.score, gid.reasons.join(", "));
        page.field(&format!("  GID {}{mark}", gid.index), &value);
    }
    if all.len() > GIDS_MAX {
        page.field("  more", &format!("{} other GIDs (--json has all)", all.len() - GIDS_MAX));
    }
}
