//! Checks on what the kernel and the administrator allow.

use crate::cross_memory::Attempt;
use crate::doctor::facts::{Facts, Limit, Reservation};
use crate::doctor::report::Check;
use crate::quantity::bytes_text;

/// What one rank of Open MPI's own shared-memory transport puts into `/dev/shm` (`btl_vader_segment_size`).
const DEV_SHM_PER_RANK_BYTES: u64 = 4 << 20;

/// Files that `mpirun` keeps open whatever it runs, with room for what a site adds, and for each rank: two ends of pipes
/// for its output and a socket for its questions. Ranks themselves need fewer: over Ironband each keeps one file (its
/// segment) however many peers it has, and opens a peer's only while it maps it.
const OPEN_FILES_FIXED: u64 = 128;
const OPEN_FILES_PER_RANK: u64 = 3;

pub(super) fn parameters(facts: &Facts) -> Check {
    const ID: &str = "parameters";
    match &facts.parameters {
        Ok(0) => Check::ok(ID, "the environment sets none"),
        Ok(count) => Check::ok(ID, format!("the environment sets {count}, within their ranges")),
        Err(reason) => {
            let fix = "correct or unset the IRONBAND_ variable of that name; ironband info lists all of them";
            Check::failure(ID, reason, fix)
        }
    }
}

pub(super) fn reservation(facts: &Facts) -> Check {
    const ID: &str = "shared-memory";
    match &facts.reservation {
        Reservation::Worked { control_bytes, ring_bytes } => Check::ok(
            ID,
            format!(
                "a message went through a ring of {} (and {} for the process)",
                bytes_text(*ring_bytes),
                bytes_text(*control_bytes)
            ),
        ),
        Reservation::Failed { message, fix } => Check::failure(ID, message, fix),
    }
}

pub(super) fn dev_shm(facts: &Facts) -> Check {
    const ID: &str = "dev-shm";
    let space = match &facts.dev_shm {
        Err(reason) => {
            let fix =
                "mount a tmpfs there if other transports shall run too; ironband itself puts nothing there";
            return Check::warning(ID, reason, fix);
        }
        Ok(space) => space,
    };
    let value = format!("{} free of {}", bytes_text(space.free_bytes), bytes_text(space.size_bytes));
    let wanted_bytes = DEV_SHM_PER_RANK_BYTES * facts.ranks as u64;
    if space.free_bytes < wanted_bytes {
        let fix = format!(
            "raise it to {} for Open MPI's own parts (container: --shm-size); ironband itself puts nothing there",
            bytes_text((2 * wanted_bytes).max(64 << 20))
        );
        return Check::warning(
            ID,
            format!("{value}; {} ranks may want {}", facts.ranks, bytes_text(wanted_bytes)),
            fix,
        );
    }
    Check::ok(ID, value)
}

pub(super) fn cross_memory(facts: &Facts) -> Check {
    const ID: &str = "cross-memory";
    let slower = "without it ironband copies large messages through its ring: correct, and often slower";
    let scope = facts.cross_memory.ptrace_scope;
    match (&facts.cross_memory.plain, &facts.cross_memory.with_consent) {
        (Attempt::Worked, _) => Check::ok(ID, "one process read and wrote another's memory"),
        (Attempt::Refused { .. }, Some(Attempt::Worked)) => {
            Check::ok(ID, "permitted to processes that agree (yama ptrace_scope = 1), as ranks do")
        }
        (Attempt::Refused { call, errno, message }, _) => Check::warning(
            ID,
            format!("{call} is refused: {message}"),
            format!("{}; {slower}", remedy(scope, *errno)),
        ),
        (Attempt::Wrong { message }, _) => {
            Check::failure(ID, message, "do not trust this kernel with MPI jobs")
        }
        (Attempt::NotTried { message }, _) => {
            Check::warning(ID, format!("could not be tried: {message}"), slower)
        }
    }
}

fn remedy(ptrace_scope: Option<u8>, errno: i32) -> &'static str {
    match (errno, ptrace_scope) {
        (libc::ENOSYS, _) => "this kernel has no cross-memory attach (CONFIG_CROSS_MEMORY_ATTACH)",
        (_, Some(1)) => "allow it with: sysctl kernel.yama.ptrace_scope=0",
        (_, Some(2)) => {
            "yama ptrace_scope = 2 wants CAP_SYS_PTRACE: sysctl kernel.yama.ptrace_scope=0 (container: --cap-add=SYS_PTRACE)"
        }
        (_, Some(3)) => {
            "yama ptrace_scope = 3 forbids it until the next boot: lower the setting and boot again"
        }
        _ => "a container's seccomp profile or user namespace forbids it: start it with --cap-add=SYS_PTRACE",
    }
}

pub(super) fn namespaces(facts: &Facts) -> Check {
    const ID: &str = "pid-namespace";
    let users = if facts.namespaces.own_users { " and its own users" } else { "" };
    if facts.namespaces.own_pids || facts.namespaces.own_users {
        let pids = if facts.namespaces.own_pids {
            "its own process numbers"
        } else {
            "the machine's process numbers"
        };
        return Check::ok(
            ID,
            format!("this container has {pids}{users}: all ranks of this node must run inside it"),
        );
    }
    Check::ok(ID, "the machine's own")
}

pub(super) fn open_files(facts: &Facts) -> Check {
    const ID: &str = "open-files";
    let wanted = OPEN_FILES_FIXED + OPEN_FILES_PER_RANK * facts.ranks as u64;
    let Limit { soft, hard } = facts.limits.open_files;
    let Some(soft) = soft else { return Check::ok(ID, "unlimited") };
    if soft >= wanted {
        return Check::ok(ID, format!("{soft}; mpirun may want {wanted} for {} ranks", facts.ranks));
    }
    let fix = match hard {
        Some(hard) if hard < wanted => {
            format!(
                "ask the administrator to raise the hard limit of {hard} (`* - nofile` in /etc/security/limits.conf)"
            )
        }
        _ => format!("ulimit -n {wanted}"),
    };
    Check::warning(ID, format!("{soft}; mpirun may want {wanted} for {} ranks", facts.ranks), fix)
}

pub(super) fn cores(facts: &Facts) -> Check {
    const ID: &str = "cores";
    let (ranks, cores) = (facts.ranks, &facts.cores);
    let quota = cores.quota.map_or(String::new(), |quota| format!(", a quota of {quota:.1} processors"));
    let value =
        format!("{} cores, {} hardware threads{quota}; {ranks} ranks", cores.cores, cores.hardware_threads);
    if let Some(quota) = cores.quota
        && quota < ranks.min(cores.cores) as f64
    {
        let fix = format!(
            "raise the processor quota to {ranks} (container: --cpus), or run fewer ranks: \
                           ranks that poll use it up and are then stopped"
        );
        return Check::warning(ID, value, fix);
    }
    if ranks <= cores.cores {
        Check::ok(ID, value)
    } else if ranks <= cores.hardware_threads {
        Check::warning(
            ID,
            value,
            "mpirun counts cores: add --use-hwthread-cpus; ranks that share a core slow each other",
        )
    } else {
        let fix = "mpirun wants --oversubscribe; ranks then take turns on the cores, and waiting ones yield";
        Check::warning(ID, value, fix)
    }
}
