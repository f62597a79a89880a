//! Everything there is to say about a machine's RDMA adapters and ports before a job uses them: what `ironband info` shows, what
//! `ironband doctor` judges, and what the fabric's own list of devices is made from.

use std::path::PathBuf;
use std::sync::Arc;

use ironband_core::config::Config;
use ironband_core::gid::{self, Candidate};
use ironband_core::ports::PortName;

use super::device;
use super::gid_table;
use super::manager;
use super::not_ready::NotReady;
use super::object::{CompletionQueue, Context, ProtectionDomain, QueuePair, Sizes};
use super::port::{self, LinkKind, Memlock};
use super::tree::Root;

/// A machine, with the parameters of a job.
#[derive(Debug, Clone)]
pub struct Survey {
    /// In the order of their names.
    pub adapters: Vec<AdapterReport>,
    /// How much memory this process may lock.
    pub memlock: Memlock,
    /// The file of libibverbs that this process runs with.
    pub library: Option<PathBuf>,
    /// Whether the parameter `ports` makes sense here.
    pub ports: Result<(), NotReady>,
}

/// One adapter.
#[derive(Debug, Clone)]
pub struct AdapterReport {
    /// `mlx5_0`.
    pub name: String,
    /// The NUMA node it is plugged into, where there is one.
    pub numa_node: Option<u32>,
    /// The file it is opened by, or why it cannot be.
    pub node: Result<PathBuf, NotReady>,
    /// What it can do, or why it cannot be opened or used.
    pub opened: Result<AdapterFacts, NotReady>,
    /// Its ports, in order.
    pub ports: Vec<PortReport>,
}

/// What an adapter says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterFacts {
    /// Queue pairs.
    pub queue_pairs_max: u32,
    /// Longest region of memory that one key can cover.
    pub region_bytes_max: u64,
    /// Regions of memory.
    pub regions_max: usize,
    /// Works on one send queue.
    pub send_queue_depth_max: u32,
    /// Completions in one queue.
    pub completion_queue_depth_max: u32,
    /// Reads and atomics that one queue pair serves at once.
    pub reads_served_max: u8,
    /// Whether receives can be shared between queue pairs.
    pub shared_receive_queues: bool,
    /// Whether it does atomics itself.
    pub atomics: bool,
    /// What it sends inline, of what the fabric asks for; none where that was not tried, or could not be.
    pub inline_bytes_max: Option<u32>,
}

/// One port.
#[derive(Debug, Clone)]
pub struct PortReport {
    /// `mlx5_0:1`.
    pub name: PortName,
    /// How its packets are addressed.
    pub link: LinkKind,
    /// In the kernel's words: `4: ACTIVE`.
    pub state: String,
    /// In the kernel's words: `100 Gb/sec (4X EDR)`.
    pub rate: String,
    /// Whether it carries packets.
    pub active: Result<(), NotReady>,
    /// All identifiers, the best first.
    pub gids: Vec<Candidate>,
    /// The one that would be used, whatever else is wrong.
    pub gid: Result<Candidate, NotReady>,
    /// The same, or the first reason why the port cannot be used.
    pub usable: Result<Candidate, NotReady>,
}

impl Survey {
    /// Looks at this machine, and opens each adapter that may be opened.
    pub fn take(config: &Config) -> Self {
        let open = |adapter: &str| open(adapter).map(|context| facts(&context, inline_bytes_max(&context)));
        Self::read(&Root::machine(), config, Memlock::read(), open)
    }

    /// The same without what has to be tried: what each process of a job does.
    pub(super) fn take_briefly(config: &Config) -> Self {
        let open = |adapter: &str| open(adapter).map(|context| facts(&context, None));
        Self::read(&Root::machine(), config, Memlock::read(), open)
    }

    /// Reads the kernel's files below `root`; `open` tells what an adapter can do.
    fn read(
        root: &Root,
        config: &Config,
        memlock: Memlock,
        open: impl Fn(&str) -> Result<AdapterFacts, NotReady>,
    ) -> Self {
        let machine = port::all(root);
        let selected = config
            .ports
            .select(&machine)
            .map_err(|error| NotReady::Ports { list: config.ports.text().to_owned(), error });
        let mut adapters: Vec<AdapterReport> = Vec::new();
        for name in &machine {
            if adapters.last().is_none_or(|adapter| adapter.name != name.adapter) {
                adapters.push(adapter(root, &name.adapter, &open));
            }
            let Some(adapter) = adapters.last_mut() else { continue };
            let taken = match &selected {
                Ok(selected) if selected.contains(name) => Ok(()),
                Ok(_) => {
                    Err(NotReady::LeftOut { port: name.to_string(), list: config.ports.text().to_owned() })
                }
                Err(reason) => Err(reason.clone()),
            };
            let report = port_report(root, name, adapter, (taken, memlock), config.gid_index);
            adapter.ports.push(report);
        }
        Self { adapters, memlock, library: library(), ports: selected.map(|_| ()) }
    }

    /// All ports.
    pub fn all_ports(&self) -> impl Iterator<Item = &PortReport> {
        self.adapters.iter().flat_map(|adapter| &adapter.ports)
    }

    /// All ports in the order in which processes prefer them, the unusable last: those of one network side by side, networks in an order that all
    /// machines share. So ports of two hosts that have the same place are in the same network, where hosts are alike.
    pub fn in_order(&self) -> Vec<&PortReport> {
        let mut ports: Vec<&PortReport> = self.all_ports().collect();
        ports.sort_by_key(|port| {
            port.usable.as_ref().map_or((true, 0), |gid| (false, gid::network(&gid.entry)))
        });
        ports
    }

    /// Why no port of this machine can be used, if none can: what stands in the way of all of them, or of the first.
    pub fn not_ready(&self) -> Option<NotReady> {
        if let Err(reason) = &self.ports {
            return Some(reason.clone());
        }
        let mut reasons = Vec::new();
        for port in self.all_ports() {
            match &port.usable {
                Ok(_) => return None,
                Err(reason) => reasons.push(reason),
            }
        }
        // That a port was left out on purpose is the last thing to tell.
        let wanted = reasons.iter().find(|reason| !matches!(reason, NotReady::LeftOut { .. }));
        match wanted.or_else(|| reasons.first()) {
            Some(reason) => Some((*reason).clone()),
            None => Some(NotReady::NoAdapter),
        }
    }
}

fn adapter(root: &Root, name: &str, open: impl Fn(&str) -> Result<AdapterFacts, NotReady>) -> AdapterReport {
    let node = port::check_node(root, name);
    let opened = node.clone().and_then(|_| open(name));
    let numa_node = port::numa_node(root, name);
    AdapterReport { name: name.to_owned(), numa_node, node, opened, ports: Vec::new() }
}

fn port_report(
    root: &Root,
    name: &PortName,
    adapter: &AdapterReport,
    (taken, memlock): (Result<(), NotReady>, Memlock),
    gid_index: Option<u8>,
) -> PortReport {
    let link = LinkKind::of(root, name);
    let entries = gid_table::read(root, name, link);
    let active = port::check_state(root, name, link, &entries);
    let gid = port::choose(name, &entries, gid_index);
    let usable = taken
        .and_then(|()| active.clone())
        .and_then(|()| adapter.node.clone().map(|_| ()))
        .and_then(|()| memlock.check())
        .and_then(|()| gid.clone())
        .and_then(|gid| managed_address(name, link, gid))
        .and_then(|gid| adapter.opened.clone().map(|_| gid));
    PortReport {
        name: name.clone(),
        link,
        state: port::state(root, name),
        rate: root.read(port::folder(name).join("rate")).unwrap_or_else(|| "not told".to_owned()),
        active,
        gids: gid::rank(&entries, None),
        gid,
        usable,
    }
}

/// iWARP is reached by an IP address of its interface, or not at all.
fn managed_address(name: &PortName, link: LinkKind, gid: Candidate) -> Result<Candidate, NotReady> {
    if link == LinkKind::Iwarp {
        manager::address_of(name, &gid.entry)
            .map_err(|reason| NotReady::Manager { port: name.to_string(), reason })?;
    }
    Ok(gid)
}

/// Opens an adapter, if this fabric can use it.
fn open(adapter: &str) -> Result<Arc<Context>, NotReady> {
    let context = Context::open(adapter).map_err(|error| NotReady::of_adapter(adapter, error))?;
    device::check(&context).map_err(|reason| NotReady::Adapter {
        adapter: adapter.to_owned(),
        reason,
        fix: format!("use another adapter, and leave this one out: ports = ^{adapter}"),
    })?;
    Ok(context)
}

/// What an adapter sends inline cannot be asked, only tried. iWARP adapters make no datagram queue pairs.
fn inline_bytes_max(context: &Arc<Context>) -> Option<u32> {
    let domain = ProtectionDomain::allocate(context).ok()?;
    let cq = CompletionQueue::create(context, 1).ok()?;
    let sizes = Sizes { sends: 1, receives: 1, inline_bytes: device::INLINE_BYTES };
    let qp = QueuePair::datagrams(&domain, &cq, 1, 0, sizes).ok()?;
    u32::try_from(qp.inline_bytes_max()).ok()
}

fn facts(context: &Context, inline_bytes_max: Option<u32>) -> AdapterFacts {
    let limits = context.limits();
    AdapterFacts {
        queue_pairs_max: limits.queue_pairs_max,
        region_bytes_max: limits.region_bytes_max,
        regions_max: limits.regions_max,
        send_queue_depth_max: limits.send_queue_depth_max,
        completion_queue_depth_max: limits.completion_queue_depth_max,
        reads_served_max: limits.reads_served,
        shared_receive_queues: limits.shared_receive_queues,
        atomics: limits.has_atomics,
        inline_bytes_max,
    }
}

/// This process is linked with libibverbs; which file that is, the loader has decided.
fn library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("/libibverbs.so")))?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    const FACTS: AdapterFacts = AdapterFacts {
        queue_pairs_max: 1000,
        region_bytes_max: 1 << 40,
        regions_max: 100,
        send_queue_depth_max: 1000,
        completion_queue_depth_max: 1000,
        reads_served_max: 16,
        shared_receive_queues: true,
        atomics: true,
        inline_bytes_max: Some(256),
    };

    const UNLIMITED: Memlock = Memlock { limit_bytes: None, hard_bytes: None, exempt: false };

    fn config(settings: &[(&str, &str)]) -> Config {
        let mut config = Config::default();
        for (name, text) in settings {
            config.set(name, text).expect("in range");
        }
        config
    }

    fn survey(made_up: &MadeUp, settings: &[(&str, &str)]) -> Survey {
        Survey::read(&made_up.root(), &config(settings), UNLIMITED, |_| Ok(FACTS))
    }

    fn two_adapters() -> MadeUp {
        let made_up = MadeUp::roce("mlx5_0", 1, "eth0");
        made_up.add_roce("mlx5_0", 2, "eth1");
        made_up.add_roce("mlx5_1", 1, "eth2");
        made_up.write("sys/class/infiniband/mlx5_1/device/numa_node", "1");
        made_up.write("sys/class/infiniband/mlx5_0/device/numa_node", "-1");
        made_up
    }

    fn usable(survey: &Survey) -> Vec<String> {
        let usable = survey.all_ports().filter(|port| port.usable.is_ok());
        usable.map(|port| port.name.to_string()).collect()
    }

    #[test]
    fn all_adapters_and_ports_are_told() {
        let survey = survey(&two_adapters(), &[]);
        assert_eq!(usable(&survey), ["mlx5_0:1", "mlx5_0:2", "mlx5_1:1"]);
        assert_eq!(survey.not_ready(), None);
        let nodes: Vec<Option<u32>> = survey.adapters.iter().map(|adapter| adapter.numa_node).collect();
        assert_eq!(nodes, [None, Some(1)]);
        let port = &survey.adapters[0].ports[1];
        assert_eq!((port.state.as_str(), port.rate.as_str()), ("4: ACTIVE", "100 Gb/sec (4X EDR)"));
        let order: Vec<u8> = port.gids.iter().map(|gid| gid.entry.index).collect();
        assert_eq!(order, [3, 1, 2, 0]);
        assert_eq!(port.gid.as_ref().map(|gid| gid.entry.index), Ok(3));
    }

    #[test]
    fn an_empty_machine_says_so() {
        let nothing = MadeUp::new();
        assert_eq!(survey(&nothing, &[]).not_ready(), Some(NotReady::NoAdapter));
        let asked = survey(&nothing, &[("ports", "rxe0")]).not_ready();
        assert!(matches!(asked, Some(NotReady::Ports { .. })), "what was asked for comes first: {asked:?}");
    }

    #[test]
    fn the_user_s_list_is_followed_and_a_wrong_one_stops_everything() {
        let made_up = two_adapters();
        let excluded = survey(&made_up, &[("ports", "^mlx5_0:2")]);
        assert_eq!(usable(&excluded), ["mlx5_0:1", "mlx5_1:1"]);
        assert!(matches!(excluded.adapters[0].ports[1].usable, Err(NotReady::LeftOut { .. })));
        let wrong = survey(&made_up, &[("ports", "mlx5_0,mlx5_7:1")]);
        assert!(usable(&wrong).is_empty());
        let reason = wrong.not_ready().expect("a reason").to_string();
        assert!(
            reason.starts_with("ports = \"mlx5_0,mlx5_7:1\": there is no adapter \"mlx5_7\""),
            "{reason}"
        );
    }

    #[test]
    fn the_reason_that_matters_is_told() {
        let made_up = two_adapters();
        for port in ["mlx5_0/ports/1", "mlx5_0/ports/2"] {
            made_up.write(format!("sys/class/infiniband/{port}/state"), "1: DOWN");
        }
        assert_eq!(survey(&made_up, &[]).not_ready(), None, "one port is enough");
        let left = survey(&made_up, &[("ports", "mlx5_0")]);
        assert!(matches!(left.not_ready(), Some(NotReady::PortDown { .. })), "{:?}", left.not_ready());
        let index = survey(&made_up, &[("gid_index", "99")]);
        let reasons: Vec<String> =
            index.all_ports().map(|port| port.usable.clone().expect_err("no such GID").to_string()).collect();
        assert!(reasons[0].contains("1: DOWN") && reasons[2].starts_with("gid_index = 99"), "{reasons:?}");
        let memlock = Memlock { limit_bytes: Some(65_536), ..UNLIMITED };
        let locked = Survey::read(&made_up.root(), &config(&[]), memlock, |_| Ok(FACTS));
        assert!(matches!(locked.adapters[1].ports[0].usable, Err(NotReady::Memlock { .. })));
        let provider = |name: &str| Err(NotReady::NoProvider { adapter: name.to_owned() });
        let closed = Survey::read(&made_up.root(), &config(&[("ports", "mlx5_1")]), UNLIMITED, provider);
        assert!(matches!(closed.not_ready(), Some(NotReady::NoProvider { .. })), "{:?}", closed.not_ready());
    }

    #[test]
    fn an_adapter_that_may_not_be_opened_is_not_tried() {
        let made_up = MadeUp::roce("rxe0", 1, "eth0");
        made_up.remove("dev/infiniband");
        let survey =
            Survey::read(&made_up.root(), &config(&[]), UNLIMITED, |name| panic!("{name} was opened"));
        assert!(matches!(survey.not_ready(), Some(NotReady::NodeMissing { .. })));
    }

    #[test]
    fn this_machine_is_surveyed_with_the_library_in_use() {
        let survey = Survey::take(&Config::default());
        assert!(survey.library.as_ref().is_some_and(|library| library.exists()), "{survey:?}");
        assert_eq!(survey.not_ready().is_some(), survey.all_ports().all(|port| port.usable.is_err()));
    }
}
