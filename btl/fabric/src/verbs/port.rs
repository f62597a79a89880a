//! The ports of this machine's adapters, as the kernel shows them below `/sys/class/infiniband`: found without opening a
//! device, so that one that cannot be opened is still listed, with the reason.

use std::fs;
use std::path::{Path, PathBuf};

use ironband_core::wire::Carrier;

use crate::DeviceError;

const ADAPTERS: &str = "/sys/class/infiniband";
/// Locked memory below which nothing works: queues, buffers and a first registration.
const MEMLOCK_BYTES_MIN: u64 = 64 << 20;

/// One port of one adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortName {
    /// The adapter: `mlx5_0`.
    pub(super) adapter: String,
    /// Counted from 1.
    pub(super) port: u8,
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.adapter, self.port)
    }
}

impl PortName {
    fn directory(&self) -> PathBuf {
        Path::new(ADAPTERS).join(&self.adapter).join("ports").join(self.port.to_string())
    }

    /// What the port runs at, by the kernel's `rate` ("100 Gb/sec (4X EDR)").
    pub(super) fn megabits(&self) -> Option<u32> {
        let rate = self.attribute("rate")?;
        let gigabits: f64 = rate.split_whitespace().next()?.parse().ok()?;
        Some((gigabits * 1000.0) as u32)
    }

    fn attribute(&self, name: &str) -> Option<String> {
        read(&self.directory().join(name))
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned)).collect();
    names.sort();
    names
}

/// All ports, in the order of their names.
pub(super) fn all() -> Vec<PortName> {
    let ports_of = |adapter: String| {
        let directory = Path::new(ADAPTERS).join(&adapter).join("ports");
        let mut ports: Vec<u8> = names_in(&directory).iter().filter_map(|port| port.parse().ok()).collect();
        ports.sort_unstable();
        ports.into_iter().map(move |port| PortName { adapter: adapter.clone(), port })
    };
    names_in(Path::new(ADAPTERS)).into_iter().flat_map(ports_of).collect()
}

/// One entry of a port's table of global identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gid {
    pub(super) index: u8,
    pub(super) carrier: Carrier,
    pub(super) bytes: [u8; 16],
}

/// How good a global identifier is: routable ones first.
fn preference(gid: &Gid) -> u8 {
    let link_local = gid.bytes[0] == 0xfe && gid.bytes[1] & 0xc0 == 0x80;
    let ipv4 = gid.bytes[..10] == [0; 10] && gid.bytes[10..12] == [0xff; 2];
    match gid.carrier {
        Carrier::InfiniBand => 5,
        Carrier::RoceV2 if ipv4 => 4,
        Carrier::RoceV2 if !link_local => 3,
        Carrier::RoceV2 => 2,
        Carrier::RoceV1 => 1,
    }
}

fn parse_gid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten().map(u128::to_be_bytes)
}

/// The best global identifier of a port.
pub(super) fn best_gid(name: &PortName) -> Result<Gid, String> {
    let infiniband = name.attribute("link_layer").as_deref() == Some("InfiniBand");
    let table = name.directory().join("gids");
    let mut candidates = Vec::new();
    for number in names_in(&table) {
        let Ok(index) = number.parse::<u8>() else { continue };
        let Some(bytes) = read(&table.join(&number)).as_deref().and_then(parse_gid) else { continue };
        if bytes == [0; 16] {
            continue;
        }
        // Of an empty entry, and on InfiniBand of old kernels, the kernel does not tell the type.
        let carrier = match name.attribute(&format!("gid_attrs/types/{number}")).as_deref() {
            _ if infiniband => Carrier::InfiniBand,
            Some("RoCE v2") => Carrier::RoceV2,
            Some("IB/RoCE v1") => Carrier::RoceV1,
            _ => continue,
        };
        candidates.push(Gid { index, carrier, bytes });
    }
    // The first of equals: lower numbers are older, and stay.
    candidates.sort_by_key(|gid| (std::cmp::Reverse(preference(gid)), gid.index));
    candidates.first().copied().ok_or_else(|| {
        format!("port {name} has no global identifier (GID): give its network interface an IP address and set it up")
    })
}

/// Says why a port cannot be used, by what can be seen without opening it.
pub(super) fn check(name: &PortName) -> Result<Gid, String> {
    let adapter = Path::new(ADAPTERS).join(&name.adapter);
    let kind = read(&adapter.join("node_type")).unwrap_or_default();
    if kind.ends_with("RNIC") {
        return Err(format!(
            "{} is an iWARP adapter, which connects only through the RDMA connection manager; this release connects InfiniBand and RoCE",
            name.adapter
        ));
    }
    let state = name.attribute("state").unwrap_or_else(|| "missing".to_owned());
    if !state.ends_with("ACTIVE") {
        return Err(format!(
            "port {name} is not active (its state is {state}): set its network interface up, or look at the cable and the subnet manager"
        ));
    }
    check_character_device(name)?;
    check_memlock()?;
    best_gid(name)
}

fn check_character_device(name: &PortName) -> Result<(), String> {
    let class = Path::new("/sys/class/infiniband_verbs");
    let node = names_in(class)
        .into_iter()
        .find(|node| read(&class.join(node).join("ibdev")).as_deref() == Some(name.adapter.as_str()));
    let Some(node) = node else {
        return Err(format!("{} has no verbs device: load the kernel module ib_uverbs", name.adapter));
    };
    let path = format!("/dev/infiniband/{node}");
    match fs::OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(format!(
            "{path} may not be opened: {error}; make it readable and writable for this user (chmod 666 {path}, or a udev rule)"
        )),
        Err(error) => Err(format!(
            "{path} cannot be opened: {error}; in a container, pass the device in (--device={path})"
        )),
    }
}

/// Says what to do when this process may not lock enough memory. Who has the capability may lock any amount.
pub(super) fn check_memlock() -> Result<(), String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    match limit {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN && !may_lock_memory() => Err(format!(
            "this process may lock {} KiB of memory (ulimit -l), RDMA needs {} KiB at least: set 'memlock unlimited' in /etc/security/limits.conf, or LimitMEMLOCK=infinity in the unit of the launcher's daemon",
            bytes >> 10,
            MEMLOCK_BYTES_MIN >> 10
        )),
        _ => Ok(()),
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
pub(super) fn find(name: &str) -> Result<PortName, DeviceError> {
    let ports = all();
    let mut fits = ports.iter().filter(|port| port.to_string() == name || port.adapter == name);
    if let (Some(port), None) = (fits.next(), fits.next()) {
        return Ok(port.clone());
    }
    let known = if ports.is_empty() {
        "none (there is no RDMA adapter on this machine)".to_owned()
    } else {
        ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    Err(DeviceError::Unknown { fabric: super::NAME, name: name.to_owned(), known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_and_ordered() {
        let bytes = parse_gid("0000:0000:0000:0000:0000:ffff:0a4d:0001").expect("a GID");
        assert_eq!(bytes[10..], [0xff, 0xff, 10, 0x4d, 0, 1]);
        assert_eq!(parse_gid("0000:0000"), None);
        let gid = |carrier, bytes| preference(&Gid { index: 0, carrier, bytes });
        let local = parse_gid("fe80:0000:0000:0000:5054:00ff:fe12:3456").expect("a GID");
        let global = parse_gid("2001:0db8:0000:0000:0000:0000:0000:0001").expect("a GID");
        let order = [
            gid(Carrier::RoceV2, bytes),
            gid(Carrier::RoceV2, global),
            gid(Carrier::RoceV2, local),
            gid(Carrier::RoceV1, bytes),
        ];
        assert!(order.is_sorted_by(|a, b| a > b), "{order:?}");
    }

    #[test]
    fn an_unknown_port_is_named_with_those_that_exist() {
        let error = find("nosuch9:1").expect_err("no such port").to_string();
        assert!(error.contains("nosuch9:1") && error.contains("has:"), "{error}");
    }
}
