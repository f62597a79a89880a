//! The ports of this machine's adapters, as the kernel shows them below `/sys/class/infiniband`: found without opening a
//! device, so that one that cannot be opened is still listed, with the reason.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ironband_core::gid::{self, Candidate, GidEntry};
use ironband_core::ports::{self, PortListError, PortName};

use super::gid_table;
use super::not_ready::NotReady;
use super::tree::Root;
use crate::DeviceError;

const ADAPTERS: &str = "sys/class/infiniband";
const VERBS_DEVICES: &str = "sys/class/infiniband_verbs";
/// Locked memory below which nothing works: queues, buffers and a first registration.
pub(super) const MEMLOCK_BYTES_MIN: u64 = 64 << 20;

/// How a port's packets are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// By the subnet manager's numbers.
    InfiniBand,
    /// RoCE.
    Ethernet,
    /// TCP.
    Iwarp,
}

impl LinkKind {
    /// How users call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InfiniBand => "InfiniBand",
            Self::Ethernet => "Ethernet (RoCE)",
            Self::Iwarp => "Ethernet (iWARP)",
        }
    }

    pub(super) fn of(root: &Root, name: &PortName) -> Self {
        let kind = root.read(adapter_folder(&name.adapter).join("node_type")).unwrap_or_default();
        if kind.ends_with("RNIC") {
            return Self::Iwarp;
        }
        match root.read(folder(name).join("link_layer")).as_deref() {
            Some("InfiniBand") => Self::InfiniBand,
            _ => Self::Ethernet,
        }
    }
}

fn adapter_folder(adapter: &str) -> PathBuf {
    Path::new(ADAPTERS).join(adapter)
}

/// Where the kernel tells of a port, from the root.
pub(super) fn folder(name: &PortName) -> PathBuf {
    adapter_folder(&name.adapter).join("ports").join(name.port.to_string())
}

/// All ports, in the order of their names.
pub(super) fn all(root: &Root) -> Vec<PortName> {
    let ports_of = |adapter: String| {
        let names = root.names(adapter_folder(&adapter).join("ports"));
        let mut ports: Vec<u8> = names.iter().filter_map(|port| port.parse().ok()).collect();
        ports.sort_unstable();
        ports.into_iter().map(move |port| PortName { adapter: adapter.clone(), port })
    };
    root.names(ADAPTERS).into_iter().flat_map(ports_of).collect()
}

/// What a port runs at, by the kernel's `rate`: `100 Gb/sec (4X EDR)`.
pub(super) fn megabits(root: &Root, name: &PortName) -> Option<u32> {
    let rate = root.read(folder(name).join("rate"))?;
    let gigabits: f64 = rate.split_whitespace().next()?.parse().ok()?;
    Some((gigabits * 1000.0) as u32)
}

/// The NUMA node that an adapter is plugged into, where it is plugged into anything and the firmware tells.
pub(super) fn numa_node(root: &Root, adapter: &str) -> Option<u32> {
    root.read(adapter_folder(adapter).join("device/numa_node"))?.parse().ok()
}

/// Says why a port cannot be used, by what can be seen without opening it.
pub(super) fn check(root: &Root, name: &PortName, gid_index: Option<u8>) -> Result<Candidate, NotReady> {
    let link = LinkKind::of(root, name);
    let gids = gid_table::read(root, name, link);
    check_state(root, name, link, &gids)?;
    check_node(root, &name.adapter)?;
    Memlock::read().check()?;
    choose(name, &gids, gid_index)
}

/// The global identifier to use.
pub(super) fn choose(
    name: &PortName,
    gids: &[GidEntry],
    gid_index: Option<u8>,
) -> Result<Candidate, NotReady> {
    gid::choose(&name.to_string(), gids, gid_index).map_err(NotReady::Gid)
}

/// A port's own account of its state: `4: ACTIVE`.
pub(super) fn state(root: &Root, name: &PortName) -> String {
    root.read(folder(name).join("state")).unwrap_or_else(|| "missing".to_owned())
}

pub(super) fn check_state(
    root: &Root,
    name: &PortName,
    link: LinkKind,
    gids: &[GidEntry],
) -> Result<(), NotReady> {
    let state = state(root, name);
    if state.ends_with("ACTIVE") {
        return Ok(());
    }
    let mut netdevs_down: Vec<String> = Vec::new();
    for netdev in gids.iter().filter_map(|gid| gid.netdev.as_ref()).filter(|netdev| !netdev.is_up) {
        if !netdevs_down.contains(&netdev.name) {
            netdevs_down.push(netdev.name.clone());
        }
    }
    Err(NotReady::PortDown {
        port: name.to_string(),
        state,
        link: root.read(folder(name).join("phys_state")).unwrap_or_else(|| "not told".to_owned()),
        infiniband: link == LinkKind::InfiniBand,
        netdevs_down,
    })
}

/// The file that an adapter is opened by, if this process may open it.
pub(super) fn check_node(root: &Root, adapter: &str) -> Result<PathBuf, NotReady> {
    let device = |node: &String| {
        root.read(Path::new(VERBS_DEVICES).join(node).join("ibdev")).as_deref() == Some(adapter)
    };
    let Some(node) = root.names(VERBS_DEVICES).into_iter().find(device) else {
        return Err(NotReady::NoVerbsDevice { adapter: adapter.to_owned() });
    };
    let path = root.path("dev/infiniband").join(node);
    match fs::OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(node_error(path, &error)),
    }
}

fn node_error(path: PathBuf, error: &io::Error) -> NotReady {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let mode = fs::metadata(&path).ok().map(|found| found.permissions().mode() & 0o7777);
            NotReady::NotPermitted { path, mode, user: rustix::process::geteuid().as_raw() }
        }
        io::ErrorKind::NotFound => NotReady::NodeMissing { path },
        _ => NotReady::NodeFails { path, reason: error.to_string() },
    }
}

/// How much memory this process may lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memlock {
    /// The limit in force; none is any.
    pub limit_bytes: Option<u64>,
    /// Up to which a user may raise it; none is any.
    pub hard_bytes: Option<u64>,
    /// Who has the capability (`CAP_IPC_LOCK`) may lock any amount.
    pub exempt: bool,
}

impl Memlock {
    /// Of this process.
    pub fn read() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
        Self { limit_bytes: limit.current, hard_bytes: limit.maximum, exempt: may_lock_memory() }
    }

    /// What this process may really lock; none is any.
    pub fn effective_bytes(self) -> Option<u64> {
        self.limit_bytes.filter(|_| !self.exempt)
    }

    /// Says what to do when it is not enough.
    ///
    /// # Errors
    /// [`NotReady::Memlock`].
    pub fn check(self) -> Result<(), NotReady> {
        match self.limit_bytes {
            Some(limit_bytes) if limit_bytes < MEMLOCK_BYTES_MIN && !self.exempt => Err(NotReady::Memlock {
                limit_bytes,
                hard_bytes: self.hard_bytes,
                wanted_bytes: MEMLOCK_BYTES_MIN,
            }),
            _ => Ok(()),
        }
    }
}

fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

/// Finds the port that the user named `ADAPTER:PORT`; the port may be left out where there is one.
pub(super) fn find(root: &Root, name: &str) -> Result<PortName, DeviceError> {
    let machine = all(root);
    ports::find(name, &machine).map_err(|error| match error {
        PortListError::UnknownAdapter { .. } => {
            let known = if machine.is_empty() {
                "none (there is no RDMA adapter on this machine)".to_owned()
            } else {
                machine.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            DeviceError::Unknown { fabric: super::NAME, name: name.to_owned(), known }
        }
        error => DeviceError::System {
            call: format!("opening {name:?} of fabric {}", super::NAME),
            reason: error.found(),
            fix: error.fix(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;
    use ironband_core::wire::Carrier;

    #[test]
    fn an_unknown_port_is_named_with_those_that_exist() {
        let error = find(&Root::machine(), "nosuch9:1").expect_err("no such port").to_string();
        assert!(error.contains("nosuch9:1") && error.contains("has:"), "{error}");
        let made_up = MadeUp::roce("rxe0", 1, "eth0");
        let refused = |name| find(&made_up.root(), name).expect_err("no such port").to_string();
        assert_eq!(refused("rxe9"), "fabric verbs has no device \"rxe9\"; it has: rxe0:1");
        assert!(refused("rxe0:0").contains("counted from 1; write rxe0:1"), "{}", refused("rxe0:0"));
        assert!(refused("rxe0:2").contains("rxe0 has no port 2; it has port 1; write rxe0:1"));
        assert_eq!(find(&made_up.root(), "rxe0").map(|name| name.to_string()).as_deref(), Ok("rxe0:1"));
    }

    #[test]
    fn the_best_identifier_is_taken_unless_another_is_asked_for() {
        let made_up = MadeUp::roce("rxe0", 1, "eth0");
        let name = PortName { adapter: "rxe0".to_owned(), port: 1 };
        let gids = gid_table::read(&made_up.root(), &name, LinkKind::Ethernet);
        let best = choose(&name, &gids, None).expect("one fits");
        assert_eq!((best.entry.index, best.entry.carrier), (3, Carrier::RoceV2));
        assert_eq!(choose(&name, &gids, Some(0)).expect("it is there").entry.carrier, Carrier::RoceV1);
        let refused = choose(&name, &gids, Some(99)).expect_err("not there").to_string();
        assert!(
            refused.starts_with("gid_index = 99: port rxe0:1 has no GID there; it has 3 (10.0.0.1"),
            "{refused}"
        );
    }

    #[test]
    fn a_port_that_is_down_names_the_interface_to_set_up() {
        let made_up = MadeUp::roce("rxe0", 1, "eth0");
        let name = PortName { adapter: "rxe0".to_owned(), port: 1 };
        made_up.write("sys/class/infiniband/rxe0/ports/1/state", "1: DOWN");
        made_up.write("sys/class/net/eth0/operstate", "down");
        let refused = check(&made_up.root(), &name, None).expect_err("down");
        assert!(
            matches!(&refused, NotReady::PortDown { netdevs_down, .. } if *netdevs_down == ["eth0"]),
            "{refused:?}"
        );
        made_up.write("sys/class/infiniband/rxe0/ports/1/link_layer", "InfiniBand");
        let refused = check(&made_up.root(), &name, None).expect_err("down");
        assert!(refused.fix().contains("opensm"), "{refused}");
    }

    #[test]
    fn the_file_of_an_adapter_is_looked_for_and_opened() {
        let made_up = MadeUp::roce("rxe0", 1, "eth0");
        assert!(check_node(&made_up.root(), "rxe0").is_ok_and(|path| path.ends_with("uverbs_rxe0")));
        made_up.remove("dev/infiniband");
        assert!(matches!(check_node(&made_up.root(), "rxe0"), Err(NotReady::NodeMissing { .. })));
        made_up.remove("sys/class/infiniband_verbs");
        assert!(matches!(check_node(&made_up.root(), "rxe0"), Err(NotReady::NoVerbsDevice { .. })));
        // Root may open whatever it likes, so the kernel's answer is made up as well.
        let path = made_up.root().path("sys/class/infiniband/rxe0/node_type");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("the own file");
        let refused = node_error(path, &io::Error::from_raw_os_error(libc::EACCES));
        assert!(matches!(refused, NotReady::NotPermitted { mode: Some(0o640), .. }), "{refused:?}");
    }

    #[test]
    fn little_memory_to_lock_is_refused_unless_the_process_is_exempt() {
        let memlock = Memlock { limit_bytes: Some(64 << 10), hard_bytes: None, exempt: false };
        assert!(matches!(memlock.check(), Err(NotReady::Memlock { limit_bytes: 65_536, .. })));
        assert_eq!(Memlock { exempt: true, ..memlock }.check(), Ok(()));
        assert_eq!(Memlock { limit_bytes: Some(MEMLOCK_BYTES_MIN), ..memlock }.check(), Ok(()));
        assert_eq!(Memlock { limit_bytes: None, ..memlock }.check(), Ok(()));
    }
}
