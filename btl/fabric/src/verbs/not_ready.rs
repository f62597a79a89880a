//! Why a machine, an adapter or a port cannot be used, and what to do: one variant for each reason, each with the value
//! that was found.

use std::fmt;
use std::path::PathBuf;

use ironband_core::gid::GidError;
use ironband_core::ports::PortListError;

use crate::DeviceError;

/// A reason why RDMA cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// The kernel shows no adapter.
    NoAdapter,
    /// The parameter `ports` names what does not exist, or leaves nothing.
    Ports {
        /// Its value.
        list: String,
        /// What is wrong with it.
        error: PortListError,
    },
    /// The parameter `ports` leaves this port out.
    LeftOut {
        /// The port.
        port: String,
        /// The value of the parameter.
        list: String,
    },
    /// The kernel offers the adapter to nobody outside it.
    NoVerbsDevice {
        /// The adapter.
        adapter: String,
    },
    /// The adapter's file is not there.
    NodeMissing {
        /// Its path.
        path: PathBuf,
    },
    /// The adapter's file is there and this user may not open it.
    NotPermitted {
        /// Its path.
        path: PathBuf,
        /// Its permissions, as `chmod` writes them; none where they cannot be seen.
        mode: Option<u32>,
        /// The user of this process.
        user: u32,
    },
    /// The adapter's file cannot be opened for another reason.
    NodeFails {
        /// Its path.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// libibverbs has no library for the adapter.
    NoProvider {
        /// The adapter.
        adapter: String,
    },
    /// The adapter can be seen and not opened, or lacks something.
    Adapter {
        /// The adapter.
        adapter: String,
        /// What was tried and what came of it.
        reason: String,
        /// What to do.
        fix: String,
    },
    /// The RDMA connection manager cannot serve the port, and the adapter connects in no other way.
    Manager {
        /// The port.
        port: String,
        /// What was tried, what came of it, what to do.
        reason: String,
    },
    /// This process may not lock enough memory.
    Memlock {
        /// The limit in force.
        limit_bytes: u64,
        /// Up to which a user may raise it; none is any.
        hard_bytes: Option<u64>,
        /// What RDMA needs at least.
        wanted_bytes: u64,
    },
    /// The port carries nothing.
    PortDown {
        /// The port.
        port: String,
        /// Its state, in the kernel's words.
        state: String,
        /// The state of its link, in the kernel's words.
        link: String,
        /// It is an InfiniBand port.
        infiniband: bool,
        /// Its network interfaces that are down.
        netdevs_down: Vec<String>,
    },
    /// The port has no usable global identifier, or not the one that was asked for.
    Gid(GidError),
}

impl NotReady {
    /// What was found, with the value.
    pub fn found(&self) -> String {
        match self {
            Self::NoAdapter => "this machine has no RDMA adapter (/sys/class/infiniband is empty)".to_owned(),
            Self::Ports { list, error } => format!("ports = {list:?}: {}", error.found()),
            Self::LeftOut { port, list } => format!("ports = {list:?} leaves {port} out"),
            Self::NoVerbsDevice { adapter } => {
                format!("the kernel offers {adapter} to no program: it is not in /sys/class/infiniband_verbs")
            }
            Self::NodeMissing { path } => format!("{} does not exist", path.display()),
            Self::NotPermitted { path, mode, user } => {
                let mode = mode.map_or_else(
                    || "its permissions cannot be seen".to_owned(),
                    |mode| format!("its mode is {mode:04o}"),
                );
                format!("{} may not be opened by user {user}: {mode}", path.display())
            }
            Self::NodeFails { path, reason } => format!("{} cannot be opened: {reason}", path.display()),
            Self::NoProvider { adapter } => {
                format!("the kernel has the adapter {adapter}, and libibverbs has no provider library for it")
            }
            Self::Adapter { adapter, reason, .. } => format!("adapter {adapter} cannot be used: {reason}"),
            Self::Manager { port, reason } => {
                format!(
                    "port {port} is iWARP, which connects through the RDMA connection manager only: {reason}"
                )
            }
            Self::Memlock { limit_bytes, wanted_bytes, .. } => format!(
                "this process may lock {} KiB of memory (ulimit -l), and RDMA needs {} KiB at least",
                limit_bytes >> 10,
                wanted_bytes >> 10
            ),
            Self::PortDown { port, state, link, .. } => {
                format!("port {port} is not active: its state is {state}, its link {link}")
            }
            Self::Gid(error) => error.found(),
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        match self {
            Self::NoAdapter => {
                "if it should have one, load its driver (lsmod, lspci); in a container, pass /dev/infiniband in"
                    .to_owned()
            }
            Self::Ports { error, .. } => error.fix(),
            Self::LeftOut { port, .. } => format!("add {port} to ports, or set ports = all"),
            Self::NoVerbsDevice { .. } => "load the kernel module: modprobe ib_uverbs".to_owned(),
            Self::NodeMissing { path } => format!(
                "in a container, pass it in (--device={0}); else see that udev makes it",
                path.display()
            ),
            Self::NotPermitted { path, .. } => format!(
                "chmod 666 {}, or a udev rule with MODE=\"0666\" for the subsystem infiniband_verbs",
                path.display()
            ),
            Self::NodeFails { .. } => "look at the kernel's log (dmesg)".to_owned(),
            Self::NoProvider { .. } => {
                "install the provider libraries (package ibverbs-providers, or those of the adapter's vendor) in the release of libibverbs"
                    .to_owned()
            }
            Self::Adapter { fix, .. } => fix.clone(),
            Self::Manager { .. } => "ironband doctor shows the port's interface and addresses".to_owned(),
            Self::Memlock { hard_bytes, wanted_bytes, .. } => {
                let now = match hard_bytes {
                    Some(hard) if hard < wanted_bytes => "as root: ulimit -l unlimited",
                    _ => "ulimit -l unlimited",
                };
                format!(
                    "{now}; for good: '* - memlock unlimited' in /etc/security/limits.conf, LimitMEMLOCK=infinity in the systemd unit of the launcher's daemon (slurmd, sshd), --ulimit memlock=-1 for a container"
                )
            }
            Self::PortDown { infiniband, link, netdevs_down, .. } => {
                match (infiniband, netdevs_down.first()) {
                    (true, _) if link.ends_with("LinkUp") => {
                        "its link is up, so it waits for a subnet manager: start opensm on one host, or the switch's own".to_owned()
                    }
                    (true, _) => "look at the cable and at the switch".to_owned(),
                    (false, Some(netdev)) => format!("ip link set {netdev} up; then look at its cable"),
                    (false, None) => "set its network interface up, then look at the cable".to_owned(),
                }
            }
            Self::Gid(error) => error.fix(),
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found(), self.fix())
    }
}

impl std::error::Error for NotReady {}

impl NotReady {
    /// As the error of opening a device.
    pub(super) fn of_device(self, name: &str) -> DeviceError {
        DeviceError::System {
            call: format!("opening {name} of fabric {}", super::NAME),
            reason: self.found(),
            fix: self.fix(),
        }
    }

    /// Why an adapter could not be opened.
    pub(super) fn of_adapter(adapter: &str, error: DeviceError) -> Self {
        let adapter = adapter.to_owned();
        match error {
            DeviceError::NoProvider { adapter } => Self::NoProvider { adapter },
            DeviceError::System { call, reason, fix } => {
                Self::Adapter { adapter, reason: format!("{call} failed: {reason}"), fix }
            }
            DeviceError::Exhausted { what, wanted, available, fix } => Self::Adapter {
                adapter,
                reason: format!("{what}: wanted {wanted}, available {available}"),
                fix,
            },
            unknown @ DeviceError::Unknown { .. } => Self::Adapter {
                adapter,
                reason: unknown.to_string(),
                fix: "ironband info lists all ports".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn says(reason: &NotReady, found: &str, fix: &str) {
        assert!(reason.found().contains(found), "found: {}", reason.found());
        assert!(reason.fix().contains(fix), "fix: {}", reason.fix());
        assert_eq!(reason.to_string(), format!("{}; {}", reason.found(), reason.fix()));
    }

    #[test]
    fn each_reason_names_the_value_and_the_fix() {
        let path = PathBuf::from("/dev/infiniband/uverbs0");
        says(
            &NotReady::NotPermitted { path: path.clone(), mode: Some(0), user: 1000 },
            "/dev/infiniband/uverbs0 may not be opened by user 1000: its mode is 0000",
            "chmod 666 /dev/infiniband/uverbs0",
        );
        says(&NotReady::NodeMissing { path }, "uverbs0 does not exist", "--device=/dev/infiniband/uverbs0");
        let memlock =
            NotReady::Memlock { limit_bytes: 64 << 10, hard_bytes: Some(64 << 10), wanted_bytes: 64 << 20 };
        says(
            &memlock,
            "64 KiB of memory (ulimit -l), and RDMA needs 65536 KiB",
            "as root: ulimit -l unlimited",
        );
        says(&memlock, "", "limits.conf, LimitMEMLOCK=infinity in the systemd unit");
        let raisable = NotReady::Memlock { limit_bytes: 0, hard_bytes: None, wanted_bytes: 64 << 20 };
        assert!(raisable.fix().starts_with("ulimit -l unlimited;"), "{raisable}");
        let down = |infiniband, link: &str, netdevs: &[&str]| NotReady::PortDown {
            port: "a:1".to_owned(),
            state: "1: DOWN".to_owned(),
            link: link.to_owned(),
            infiniband,
            netdevs_down: netdevs.iter().map(|&name| name.to_owned()).collect(),
        };
        says(
            &down(false, "3: Disabled", &["eth0"]),
            "a:1 is not active: its state is 1: DOWN",
            "ip link set eth0 up",
        );
        says(&down(true, "2: Polling", &[]), "its link 2: Polling", "cable");
        says(&down(true, "5: LinkUp", &[]), "", "opensm");
        says(&NotReady::NoProvider { adapter: "mlx5_0".to_owned() }, "mlx5_0", "ibverbs-providers");
        says(&NotReady::NoVerbsDevice { adapter: "mlx5_0".to_owned() }, "mlx5_0", "modprobe ib_uverbs");
        says(
            &NotReady::LeftOut { port: "a:1".to_owned(), list: "^a".to_owned() },
            "ports = \"^a\" leaves a:1 out",
            "add a:1",
        );
    }

    #[test]
    fn an_error_of_opening_keeps_its_parts() {
        let error = DeviceError::System {
            call: "ibv_open_device for a".to_owned(),
            reason: "no".to_owned(),
            fix: "mend it".to_owned(),
        };
        says(
            &NotReady::of_adapter("a", error),
            "adapter a cannot be used: ibv_open_device for a failed: no",
            "mend it",
        );
        let provider = NotReady::of_adapter("a", DeviceError::NoProvider { adapter: "a".to_owned() });
        assert_eq!(provider, NotReady::NoProvider { adapter: "a".to_owned() });
        let error = NotReady::NoAdapter.of_device("a:1").to_string();
        assert!(error.starts_with("opening a:1 of fabric verbs failed: this machine has no RDMA"), "{error}");
    }
}
