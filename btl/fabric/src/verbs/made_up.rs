//! Machines that nobody has, as trees of the kernel's files. For tests.

use std::fs;
use std::path::Path;

use super::tree::Root;

/// A tree below a folder of its own.
pub(super) struct MadeUp(tempfile::TempDir);

impl MadeUp {
    /// A machine with nothing.
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for a test"))
    }

    /// A machine with one RoCE port whose interface has a link-local and an IPv4 address, 10.0.0.PORT.
    pub(super) fn roce(adapter: &str, port: u8, netdev: &str) -> Self {
        let made_up = Self::new();
        made_up.add_roce(adapter, port, netdev);
        made_up
    }

    pub(super) fn add_roce(&self, adapter: &str, port: u8, netdev: &str) {
        self.add_port(adapter, port, "Ethernet", "4: ACTIVE");
        self.netdev(netdev, true, &format!("INTERFACE={netdev}"));
        let link_local = "fe80:0000:0000:0000:5054:00ff:fe12:3456";
        let ipv4 = format!("0000:0000:0000:0000:0000:ffff:0a00:00{port:02x}");
        for (index, (gid, kind)) in [
            (link_local, "IB/RoCE v1"),
            (link_local, "RoCE v2"),
            (ipv4.as_str(), "IB/RoCE v1"),
            (ipv4.as_str(), "RoCE v2"),
        ]
        .into_iter()
        .enumerate()
        {
            self.gid(adapter, port, index, gid, kind, netdev);
        }
    }

    pub(super) fn add_port(&self, adapter: &str, port: u8, link_layer: &str, state: &str) {
        let adapter_folder = format!("sys/class/infiniband/{adapter}");
        self.write(format!("{adapter_folder}/node_type"), "1: CA");
        let folder = format!("{adapter_folder}/ports/{port}");
        self.write(format!("{folder}/link_layer"), link_layer);
        self.write(format!("{folder}/state"), state);
        self.write(format!("{folder}/phys_state"), "5: LinkUp");
        self.write(format!("{folder}/rate"), "100 Gb/sec (4X EDR)");
        let node = format!("uverbs_{adapter}");
        self.write(format!("sys/class/infiniband_verbs/{node}/ibdev"), adapter);
        self.write(format!("dev/infiniband/{node}"), "");
    }

    pub(super) fn gid(&self, adapter: &str, port: u8, index: usize, gid: &str, kind: &str, netdev: &str) {
        let folder = format!("sys/class/infiniband/{adapter}/ports/{port}");
        self.write(format!("{folder}/gids/{index}"), gid);
        self.write(format!("{folder}/gid_attrs/types/{index}"), kind);
        self.write(format!("{folder}/gid_attrs/ndevs/{index}"), netdev);
    }

    pub(super) fn netdev(&self, name: &str, is_up: bool, uevent: &str) {
        let folder = format!("sys/class/net/{name}");
        self.write(format!("{folder}/flags"), if is_up { "0x1003" } else { "0x1002" });
        self.write(format!("{folder}/operstate"), if is_up { "up" } else { "down" });
        self.write(format!("{folder}/uevent"), uevent);
    }

    pub(super) fn write(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("folders of a test");
        fs::write(path, format!("{text}\n")).expect("a file of a test");
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.0.path().join(path)).expect("a folder of a test");
    }

    pub(super) fn root(&self) -> Root {
        Root::at(self.0.path())
    }
}
