//! Documents of machines that nobody has, and how they are shown.

use super::*;
use crate::cross_memory::{Attempt, CrossMemory};
use crate::info::choice::{self, Choice, LongMessages};
use crate::info::document::{DeviceInfo, FabricInfo};
use crate::info::parameters;
use crate::machine::{Cores, Machine};
use crate::rdma::{Adapter, AdapterLimits, Gid, Memlock, Port, Rdma};
use crate::trial::{Failure, Memory};
use ironband::Config;

fn opened() -> Opened {
    Opened {
        offers: "shared memory".into(),
        report: "fabric shm, device memfd, ".repeat(12),
        eager_bytes: 8256,
        inline_bytes_max: 48,
        send_copy_bytes_max: 64 << 10,
        rdma_bytes_max: 1 << 62,
        outstanding_max: 64,
        atomics: Atomics::Global,
        write_with_immediate: true,
        loopback: true,
        one_sided: false,
        checks_remote_keys: true,
        single_copy: "through the ring".into(),
        ring_bytes: Some(256 << 10),
        memory: Some(Ok(Memory { control_bytes: 12 << 10, ring_region_bytes: 340 << 10 })),
    }
}

fn gid(index: u8, address: &str, score: u16) -> Gid {
    let reasons = ["RoCE v2", "a reason", "eth0 up"].map(String::from).to_vec();
    Gid { index, address: address.into(), kind: "RoCE v2", netdev: Some("eth0".into()), score, reasons }
}

fn port(name: &str, unusable: Option<Failure>) -> Port {
    Port {
        name: name.into(),
        link: "Ethernet (RoCE)",
        state: "4: ACTIVE".into(),
        rate: "100 Gb/sec (4X EDR)".into(),
        inactive: None,
        gids: (0..12).map(|index| gid(index, &format!("10.0.0.{index}"), 2081)).collect(),
        gid: Ok(1),
        unusable,
    }
}

/// One adapter with two ports, the second of them left out.
fn two_ports() -> Rdma {
    let left_out =
        Failure { message: "ports = \"^mlx5_0:2\" leaves mlx5_0:2 out".into(), fix: "add it".into() };
    Rdma {
        built: true,
        library: Some("/usr/lib/libibverbs.so.1".into()),
        memlock: Memlock { limit_bytes: Some(65_536), hard_bytes: None, exempt: true, refused: None },
        ports_refused: None,
        adapters: vec![Adapter {
            name: "mlx5_0".into(),
            numa_node: Some(1),
            numa_distance: 21,
            node: Ok("/dev/infiniband/uverbs0".into()),
            limits: Ok(AdapterLimits {
                queue_pairs_max: 131_072,
                region_bytes_max: u64::MAX,
                regions_max: 1 << 24,
                send_queue_depth_max: 32_768,
                completion_queue_depth_max: 4_194_303,
                reads_served_max: 16,
                shared_receive_queues: true,
                atomics: true,
                inline_bytes_max: Some(256),
            }),
            ports: vec![port("mlx5_0:1", None), port("mlx5_0:2", Some(left_out))],
        }],
        order: vec!["mlx5_0:1".into()],
        not_ready: None,
    }
}

fn document(state: DeviceState) -> Document {
    document_with(state, two_ports())
}

fn document_with(state: DeviceState, rdma: Rdma) -> Document {
    let choice = matches!(state, DeviceState::Usable(_)).then(|| Choice {
        fabric: "shm",
        device: "memfd".into(),
        why: "the only usable device".into(),
        long_messages: LongMessages { mechanism: Mechanism::Ring, why: "it is refused".into() },
    });
    Document {
        format: "ironband-info/1",
        version: "0.1.0",
        ranks: 5,
        machine: Machine {
            processor: "A processor whose name is long".into(),
            cores: Cores { hardware_threads: 8, cores: 4, quota: Some(1.5) },
            memory_bytes: 1 << 30,
            kernel: "6.1.0".into(),
            architecture: "x86_64".into(),
        },
        topology: Ok(Topology { processors: 8, cores: 4, packages: 1, numa_nodes: 2, caches: vec![] }),
        fabrics: vec![FabricInfo { name: "shm", devices: vec![DeviceInfo { name: "memfd".into(), state }] }],
        cross_memory: CrossMemory { plain: Attempt::Worked, with_consent: None, ptrace_scope: None },
        choice,
        remote: choice::remote(&rdma),
        rdma,
        parameters: parameters::all(&Config::default()),
    }
}

#[track_caller]
fn assert_shows(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

#[test]
fn no_line_is_wider_than_a_hundred_columns() {
    let failure = Failure { message: "word ".repeat(60), fix: "other ".repeat(60) };
    let states = [
        DeviceState::Usable(opened()),
        DeviceState::Usable(Opened { memory: Some(Err(failure.clone())), ..opened() }),
        DeviceState::Unusable { reason: "reason ".repeat(60) },
        DeviceState::Broken { failure },
    ];
    for state in states {
        for line in text(&document(state)).lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert_eq!(line.trim_end(), line, "trailing blanks");
        }
    }
}

#[test]
fn a_usable_device_shows_limits_and_memory() {
    let text = text(&document(DeviceState::Usable(opened())));
    assert_shows(&text, "  eager limit             8256 bytes, header included");
    assert_shows(&text, "  inline                  up to 48 bytes, header included");
    assert_shows(&text, "  longest copying send    64 KiB");
    assert_shows(&text, "  longest RDMA operation  any length");
    assert_shows(&text, "  ring                    256 KiB from one process to one peer");
    assert_shows(
        &text,
        "  memory per pair         680 KiB for both directions with slots and heads, made on first use",
    );
    assert_shows(
        &text,
        "  memory per process      12 KiB at the start, 1.3 MiB with a ring to each other rank",
    );
    assert_shows(&text, "What a job with 5 ranks on this node would use");
    assert_shows(&text, "  device                  shm/memfd: the only usable device");
    assert_shows(&text, "  long messages           through the ring: it is refused");
}

#[test]
fn a_device_that_cannot_be_used_says_why_and_nothing_is_chosen() {
    let shown = text(&document(DeviceState::Unusable { reason: "memfd_create is refused".into() }));
    assert_shows(&shown, "  unusable                memfd_create is refused");
    assert!(shown.contains("none: no device is usable"), "{shown}");
    let failure = Failure { message: "no memory".into(), fix: "free some".into() };
    let shown = text(&document(DeviceState::Broken { failure }));
    assert_shows(&shown, "  cannot be opened        no memory");
    assert_shows(&shown, "  fix                     free some");
}

#[test]
fn adapters_ports_and_identifiers_are_shown_with_reasons() {
    let shown = text(&document(DeviceState::Usable(opened())));
    assert_shows(&shown, "  libibverbs              /usr/lib/libibverbs.so.1");
    assert_shows(
        &shown,
        "  locked memory           64 KiB, and a capability lets this process lock any amount",
    );
    assert_shows(&shown, "  adapter mlx5_0          NUMA node 1, distance 21");
    assert_shows(
        &shown,
        "                          131072 queue pairs, 16777216 regions of any length, inline 256 bytes,",
    );
    assert_shows(&shown, "  port mlx5_0:1           Ethernet (RoCE), 4: ACTIVE, 100 Gb/sec (4X EDR)");
    assert_shows(&shown, "    GID 1, chosen         10.0.0.1, score 2081: RoCE v2, a reason, eth0 up");
    assert_shows(&shown, "    GID 0                 10.0.0.0, score 2081: RoCE v2, a reason, eth0 up");
    assert_shows(&shown, "    more                  4 other GIDs (--json has all)");
    assert_shows(&shown, "    not used              ports = \"^mlx5_0:2\" leaves mlx5_0:2 out");
    assert_shows(&shown, "  other nodes             verbs/mlx5_0:1: the only usable port");
    assert_shows(
        &shown,
        "  its GID                 10.0.0.1 (index 1, score 2081): RoCE v2, a reason, eth0 up",
    );
}

#[test]
fn a_machine_without_rdma_says_why_and_nothing_else() {
    let none = Rdma {
        adapters: vec![],
        order: vec![],
        not_ready: Some(Failure {
            message: "this machine has no RDMA adapter".into(),
            fix: "load it".into(),
        }),
        ..two_ports()
    };
    let shown = text(&document_with(DeviceState::Usable(opened()), none));
    assert_shows(&shown, "  none                    this machine has no RDMA adapter");
    assert_shows(&shown, "  other nodes             no device of ironband: this machine has no RDMA adapter");
    let shown = text(&document_with(DeviceState::Usable(opened()), Rdma::default()));
    assert_shows(&shown, "  none                    this build of ironband leaves the fabric verbs out");
}

#[test]
fn two_ports_say_which_goes_first() {
    let both = Rdma { order: vec!["a:1".into(), "b:1".into()], ..two_ports() };
    let chosen = choice::remote(&both).unwrap();
    assert!(chosen.why.contains("first of 2 usable ports") && chosen.why.contains("a:1, b:1"), "{chosen:?}");
}

#[test]
fn every_parameter_is_shown_with_its_source() {
    let mut document = document(DeviceState::Usable(opened()));
    let ring = document.parameters.iter_mut().find(|entry| entry.name == "ring_bytes").unwrap();
    ring.from_environment = true;
    let text = text(&document);
    assert_shows(&text, "  exclusivity             65535 (default)");
    assert_shows(&text, "  eager_bytes             auto (default)");
    assert_shows(&text, "  ring_bytes              auto (from IRONBAND_RING_BYTES; default auto)");
    for entry in &document.parameters {
        let line = format!("{:26}{}, {}", "", entry.environment_name, entry.mca_name);
        assert_shows(&text, &line);
        assert!(text.contains(&format!("Accepted: {}.", entry.range)), "{}", entry.name);
    }
}

#[test]
fn caches_say_who_shares_them() {
    let cache = |count, processors, cores| CacheGroup {
        level: 2,
        count,
        size_bytes: Some(2 << 20),
        processors,
        cores,
    };
    assert_eq!(cache_text(&cache(4, 1, 1)), "4 of 2 MiB, own of each core");
    assert_eq!(cache_text(&cache(4, 2, 1)), "4 of 2 MiB, own of each core (shared by its hardware threads)");
    assert_eq!(cache_text(&cache(1, 8, 8)), "1 of 2 MiB, shared by 8 cores");
    assert_eq!(cache_text(&cache(2, 4, 4)), "2 of 2 MiB, each shared by 4 cores");
    assert!(cache_text(&CacheGroup { size_bytes: None, ..cache(1, 8, 8) }).contains("unknown size"));
}

#[test]
fn long_words_are_not_cut() {
    assert_eq!(wrapped("a bb ccc", 4), ["a bb", "ccc"]);
    assert_eq!(wrapped("a bbbbbbbb c", 4), ["a", "bbbbbbbb", "c"]);
    assert_eq!(wrapped("", 4), [""]);
}
