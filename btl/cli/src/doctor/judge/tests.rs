//! Machines that nobody has, and what is said about them.

use super::checks;
use crate::cross_memory::{Attempt, CrossMemory};
use crate::doctor::facts::{
    ComponentFile, Facts, Identity, Limit, Limits, Mpirun, Namespaces, OmpiInfo, Reservation, SharedObject,
    Space,
};
use crate::doctor::report::{Check, Level, verdict};
use crate::machine::Cores;
use crate::open_mpi::Parameter;
use crate::rdma::{Adapter, AdapterLimits, Gid, Memlock, Port, Rdma};
use crate::trial::Failure;

/// A machine with nothing wrong.
fn healthy() -> Facts {
    Facts {
        ranks: 2,
        mpirun: Mpirun::Found {
            path: "/usr/bin/mpirun".into(),
            version_line: "mpirun (Open MPI) 4.1.4".into(),
        },
        ompi_info: Ok(OmpiInfo {
            version: Some("4.1.4".into()),
            loads_components: true,
            component_folders: vec!["/home/u/.openmpi/components".into()],
            btls: ["self", "tcp", "ironband"].map(String::from).to_vec(),
            pmls: ["ob1", "ucx", "cm"].map(String::from).to_vec(),
            ironband_parameters: 12,
            load_errors: vec![],
            btl_selection: Some(parameter("^uct,openib,ofi")),
            pml_selection: Some(parameter("^ucx")),
        }),
        component_files: vec![component("/home/u/.openmpi/components", true)],
        parameters: Ok(0),
        reservation: Reservation::Worked { control_bytes: 12 << 10, ring_bytes: 340 << 10 },
        dev_shm: Ok(Space { size_bytes: 8 << 30, free_bytes: 8 << 30 }),
        cross_memory: CrossMemory { plain: Attempt::Worked, with_consent: None, ptrace_scope: Some(0) },
        namespaces: Namespaces { own_pids: false, own_users: false },
        limits: Limits {
            memlock_bytes: Limit { soft: None, hard: None },
            open_files: Limit { soft: Some(1024), hard: Some(4096) },
        },
        cores: Cores { hardware_threads: 4, cores: 2, quota: None },
        identity: Identity { root: false, root_consent: false, container: false },
        rdma_devices: vec![],
        rdma: Rdma { built: true, library: Some("/usr/lib/libibverbs.so.1".into()), ..no_rdma() },
    }
}

fn failure(message: &str, fix: &str) -> Failure {
    Failure { message: message.into(), fix: fix.into() }
}

/// A build with the fabric, on a machine without adapters.
fn no_rdma() -> Rdma {
    let not_ready = Some(failure("this machine has no RDMA adapter", "load its driver"));
    Rdma { built: true, not_ready, ..Rdma::default() }
}

fn port(name: &str) -> Port {
    Port {
        name: name.into(),
        link: "Ethernet (RoCE)",
        state: "4: ACTIVE".into(),
        rate: "100 Gb/sec".into(),
        inactive: None,
        gids: vec![Gid {
            index: 1,
            address: "10.0.0.1".into(),
            kind: "RoCE v2",
            netdev: Some("eth0".into()),
            score: 2081,
            reasons: vec!["RoCE v2".into(), "eth0 up".into()],
        }],
        gid: Ok(1),
        unusable: None,
    }
}

fn adapter(name: &str) -> Adapter {
    Adapter {
        name: name.into(),
        numa_node: None,
        numa_distance: 10,
        node: Ok("/dev/infiniband/uverbs0".into()),
        limits: Ok(AdapterLimits {
            queue_pairs_max: 100,
            region_bytes_max: 1 << 30,
            regions_max: 100,
            send_queue_depth_max: 100,
            completion_queue_depth_max: 100,
            reads_served_max: 16,
            shared_receive_queues: true,
            atomics: true,
            inline_bytes_max: Some(256),
        }),
        ports: vec![port(&format!("{name}:1"))],
    }
}

/// Gives the machine an adapter with one port that works, before `change` spoils it.
fn with_adapter(change: impl FnOnce(&mut Rdma)) -> impl FnOnce(&mut Facts) {
    move |facts| {
        facts.rdma_devices = vec!["rxe0".into()];
        facts.rdma.adapters = vec![adapter("rxe0")];
        facts.rdma.order = vec!["rxe0:1".into()];
        facts.rdma.not_ready = None;
        change(&mut facts.rdma);
    }
}

fn parameter(value: &str) -> Parameter {
    Parameter { value: value.into(), source: "file (x:1)".into() }
}

fn component(folder: &str, searched: bool) -> ComponentFile {
    ComponentFile {
        path: format!("{folder}/mca_btl_ironband.so").into(),
        searched,
        object: Ok(SharedObject {
            architecture: std::env::consts::ARCH.into(),
            needed: vec!["libopen-pal.so.40".into(), "libc.so.6".into()],
        }),
    }
}

fn refused(errno: i32) -> Attempt {
    Attempt::Refused { call: "process_vm_readv".into(), errno, message: "Operation not permitted".into() }
}

fn info(facts: &mut Facts) -> &mut OmpiInfo {
    facts.ompi_info.as_mut().unwrap()
}

/// Changes a healthy machine and answers with the one check that must speak of it; all others must stay silent,
/// but for those named in `along`.
fn judged_along(id: &str, along: &[&str], change: impl FnOnce(&mut Facts)) -> Check {
    let mut facts = healthy();
    change(&mut facts);
    let all = checks(&facts);
    for check in &all {
        let expected = check.id == id || along.contains(&check.id);
        assert!(expected || check.level == Level::Ok, "unexpected: {check:?}");
        assert_eq!(
            check.level == Level::Ok,
            check.fix.is_none(),
            "a fix goes with what is not ok: {check:?}"
        );
    }
    all.into_iter().find(|check| check.id == id).unwrap_or_else(|| panic!("no check {id}"))
}

fn judged(id: &str, change: impl FnOnce(&mut Facts)) -> Check {
    judged_along(id, &[], change)
}

#[track_caller]
fn assert_says(check: &Check, level: Level, value: &str, fix: &str) {
    assert_eq!(check.level, level, "{check:?}");
    assert!(check.value.contains(value), "value lacks \"{value}\": {check:?}");
    assert!(check.fix.as_deref().unwrap_or_default().contains(fix), "fix lacks \"{fix}\": {check:?}");
}

#[test]
fn a_healthy_machine_passes_every_check() {
    let all = checks(&healthy());
    assert_eq!(verdict(&all), Level::Ok, "{all:?}");
    assert_eq!(all.len(), 20);
}

#[test]
fn an_mpirun_that_is_missing_or_not_ours_fails() {
    let check =
        judged("open-mpi", |f| f.mpirun = Mpirun::Unusable { reason: "mpirun is not on PATH".into() });
    assert_says(&check, Level::Failure, "not on PATH", "install Open MPI 4.1");
    let check = judged("open-mpi", |f| {
        f.mpirun =
            Mpirun::Found { path: "/opt/i/mpirun".into(), version_line: "Intel(R) MPI Library".into() };
    });
    assert_says(
        &check,
        Level::Failure,
        "/opt/i/mpirun is not Open MPI's: \"Intel(R) MPI Library\"",
        "first on PATH",
    );
}

#[test]
fn other_series_and_mixed_installations_fail() {
    for version in ["5.0.7", "4.0.3", "6.0.0rc1"] {
        let check = judged_along("open-mpi", &["component-series"], |f| {
            f.mpirun =
                Mpirun::Found { path: "m".into(), version_line: format!("mpirun (Open MPI) {version}") };
            info(f).version = Some(version.into());
        });
        assert_says(&check, Level::Failure, version, "use Open MPI 4.1");
    }
    let check = judged("open-mpi", |f| info(f).version = Some("4.1.6".into()));
    assert_says(&check, Level::Failure, "4.1.4 (/usr/bin/mpirun) and ompi_info of 4.1.6", "mixed");
}

#[test]
fn without_ompi_info_what_depends_on_it_is_not_passed_in_silence() {
    let along = ["component-series", "component-load", "btl-selection", "pml-selection"];
    let check = judged_along("open-mpi", &along, |f| f.ompi_info = Err("ompi_info is not on PATH".into()));
    assert_says(&check, Level::Failure, "ompi_info is not on PATH", "repair");
    let mut facts = healthy();
    facts.ompi_info = Err("gone".into());
    let silent = checks(&facts).into_iter().filter(|c| along.contains(&c.id) && c.level == Level::Ok).count();
    assert_eq!(silent, 0);
}

#[test]
fn a_component_that_is_missing_or_misplaced_fails() {
    let check = judged_along("component-file", &["component-series"], |f| f.component_files.clear());
    assert_says(&check, Level::Failure, "no mca_btl_ironband.so", "ci/install");
    let check = judged_along("component-file", &["component-series"], |f| {
        f.component_files = vec![component("/home/u/.openmpi/components", false)];
    });
    assert_says(&check, Level::Failure, "does not look", "add /home/u/.openmpi/components to it");
}

#[test]
fn two_components_are_a_warning() {
    let check = judged("component-file", |f| f.component_files.push(component("/usr/lib/openmpi3", true)));
    assert_says(&check, Level::Warning, "/usr/lib/openmpi3", "remove all but one");
}

#[test]
fn a_component_for_another_machine_or_series_fails() {
    let check = judged("component-file", |f| {
        f.component_files[0].object.as_mut().unwrap().architecture = "riscv64".into();
    });
    assert_says(&check, Level::Failure, "is for riscv64", "ci/install");
    let check = judged("component-series", |f| {
        f.component_files[0].object.as_mut().unwrap().needed = vec!["libopen-pal.so.80".into()];
    });
    assert_says(
        &check,
        Level::Failure,
        "libopen-pal.so.80, and Open MPI 4.1 has libopen-pal.so.40",
        "headers",
    );
    let check = judged("component-series", |f| f.component_files[0].object.as_mut().unwrap().needed.clear());
    assert_says(&check, Level::Warning, "no libopen-pal", "ci/install");
}

#[test]
fn a_component_that_does_not_load_fails_with_the_loader_s_words() {
    let gone = |f: &mut Facts| info(f).btls.retain(|name| name != "ironband");
    let check = judged("component-load", |f| {
        gone(f);
        info(f).load_errors = vec!["x.so: undefined symbol: y".into()];
    });
    assert_says(&check, Level::Failure, "undefined symbol: y", "rebuild");
    let check = judged("component-load", gone);
    assert_says(&check, Level::Failure, "(self, tcp)", "ompi_info --param btl ironband --level 9");
    let check = judged("component-load", |f| {
        gone(f);
        info(f).loads_components = false;
    });
    assert_says(&check, Level::Failure, "--disable-dlopen", "built with dlopen");
}

#[test]
fn selections_that_leave_ironband_out_are_warned_of() {
    for (value, words) in
        [("vader,self", "leaves ironband out"), ("^ironband", "leaves ironband out"), ("ironband", "self")]
    {
        let check = judged("btl-selection", |f| info(f).btl_selection = Some(parameter(value)));
        assert_says(&check, Level::Warning, words, "--mca btl ironband,self");
    }
    for value in ["", "ironband,self", " self , ironband ", "^tcp"] {
        let check = judged("btl-selection", |f| info(f).btl_selection = Some(parameter(value)));
        assert_eq!(check.level, Level::Ok, "{check:?}");
    }
}

#[test]
fn another_pml_takes_over_only_where_it_may() {
    let check = judged("pml-selection", |f| info(f).pml_selection = Some(parameter("ucx")));
    assert_says(&check, Level::Warning, "leaves ob1 out", "--mca pml ob1");
    let everything = |device: &'static str| {
        move |f: &mut Facts| {
            info(f).pml_selection = None;
            f.rdma_devices = vec![device.into()];
        }
    };
    assert_says(
        &judged("pml-selection", everything("mlx5_0")),
        Level::Warning,
        "ucx outranks ob1",
        "--mca pml ob1",
    );
    assert_says(
        &judged("pml-selection", everything("hfi1_0")),
        Level::Warning,
        "cm outranks ob1",
        "--mca pml ob1",
    );
    assert_eq!(judged("pml-selection", everything("rxe0")).level, Level::Ok);
    // Debian's default leaves ucx out, so that ob1 stays.
    assert_eq!(judged("pml-selection", |f| f.rdma_devices = vec!["mlx5_0".into()]).level, Level::Ok);
}

#[test]
fn root_needs_consent() {
    let root = |consent| {
        move |f: &mut Facts| f.identity = Identity { root: true, root_consent: consent, container: true }
    };
    assert_says(
        &judged("root", root(false)),
        Level::Warning,
        "in a container",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    );
    assert_eq!(judged("root", root(true)).level, Level::Ok);
}

#[test]
fn shared_memory_that_cannot_be_had_fails() {
    let check = judged("shared-memory", |f| {
        f.reservation =
            Reservation::Failed { message: "memfd_create failed: EPERM".into(), fix: "allow it".into() };
    });
    assert_says(&check, Level::Failure, "memfd_create failed: EPERM", "allow it");
    assert_says(&judged("shared-memory", |_| ()), Level::Ok, "a ring of 340 KiB (and 12 KiB", "");
}

#[test]
fn an_environment_that_every_rank_would_refuse_fails() {
    let check = judged("parameters", |f| f.parameters = Err("eager_bytes = \"1\" is refused".into()));
    assert_says(&check, Level::Failure, "eager_bytes = \"1\" is refused", "ironband info");
    assert_says(&judged("parameters", |f| f.parameters = Ok(2)), Level::Ok, "sets 2", "");
}

#[test]
fn a_small_dev_shm_is_a_warning_because_ironband_does_not_use_it() {
    let small = |f: &mut Facts| f.dev_shm = Ok(Space { size_bytes: 64 << 20, free_bytes: 7 << 20 });
    let check = judged("dev-shm", small);
    assert_says(
        &check,
        Level::Warning,
        "7 MiB free of 64 MiB; 2 ranks may want 8 MiB",
        "ironband itself puts nothing",
    );
    let check = judged("dev-shm", |f| f.dev_shm = Ok(Space { size_bytes: 64 << 20, free_bytes: 8 << 20 }));
    assert_eq!(check.level, Level::Ok);
    let check = judged("dev-shm", |f| f.dev_shm = Err("/dev/shm: No such file or directory".into()));
    assert_says(&check, Level::Warning, "/dev/shm", "tmpfs");
}

#[test]
fn cross_memory_refusals_are_explained() {
    let judged_with = |errno, scope, with_consent| {
        judged("cross-memory", |f| {
            f.cross_memory = CrossMemory { plain: refused(errno), with_consent, ptrace_scope: scope };
        })
    };
    assert_eq!(judged_with(libc::EPERM, Some(1), Some(Attempt::Worked)).level, Level::Ok);
    let fix = "kernel.yama.ptrace_scope=0";
    assert_says(
        &judged_with(libc::EPERM, Some(1), Some(refused(libc::EPERM))),
        Level::Warning,
        "refused",
        fix,
    );
    assert_says(&judged_with(libc::EPERM, Some(2), None), Level::Warning, "refused", "CAP_SYS_PTRACE");
    assert_says(&judged_with(libc::EPERM, Some(3), None), Level::Warning, "refused", "next boot");
    assert_says(&judged_with(libc::EPERM, Some(0), None), Level::Warning, "refused", "seccomp");
    assert_says(&judged_with(libc::EPERM, None, None), Level::Warning, "refused", "--cap-add=SYS_PTRACE");
    assert_says(
        &judged_with(libc::ENOSYS, None, None),
        Level::Warning,
        "refused",
        "CONFIG_CROSS_MEMORY_ATTACH",
    );
    let wrong =
        judged("cross-memory", |f| f.cross_memory.plain = Attempt::Wrong { message: "bytes differ".into() });
    assert_says(&wrong, Level::Failure, "bytes differ", "");
    let not_tried =
        judged("cross-memory", |f| f.cross_memory.plain = Attempt::NotTried { message: "no /proc".into() });
    assert_says(&not_tried, Level::Warning, "could not be tried: no /proc", "ring");
}

#[test]
fn a_container_s_namespaces_are_told_and_not_blamed() {
    let check = judged("pid-namespace", |f| f.namespaces.own_pids = true);
    assert_says(&check, Level::Ok, "must run inside it", "");
}

#[test]
fn a_machine_without_rdma_is_not_blamed() {
    for id in ["rdma-devices", "rdma-permission", "memlock", "rdma-port", "rdma-gid"] {
        assert_says(&judged(id, |_| ()), Level::Ok, "no RDMA adapter", "");
    }
    let check = judged("rdma-library", |f| f.rdma = Rdma::default());
    assert_says(&check, Level::Ok, "leaves the fabric verbs out", "");
}

#[test]
fn adapters_that_work_are_listed_with_port_and_identifier() {
    let judged = |id| judged(id, with_adapter(|_| ()));
    assert_says(&judged("rdma-library"), Level::Ok, "/usr/lib/libibverbs.so.1", "");
    assert_says(&judged("rdma-devices"), Level::Ok, "rxe0", "");
    assert_says(&judged("rdma-permission"), Level::Ok, "rxe0 may be opened", "");
    assert_says(&judged("rdma-port"), Level::Ok, "rxe0:1 (Ethernet (RoCE), 4: ACTIVE, 100 Gb/sec)", "");
    assert_says(
        &judged("rdma-gid"),
        Level::Ok,
        "rxe0:1: 10.0.0.1 (index 1, score 2081: RoCE v2, eth0 up)",
        "",
    );
}

#[test]
fn a_library_without_a_provider_and_adapters_that_fail_are_named() {
    let no_provider = failure("libibverbs has no provider library for it", "install ibverbs-providers");
    let check = judged("rdma-devices", with_adapter(|rdma| rdma.adapters[0].limits = Err(no_provider)));
    assert_says(&check, Level::Warning, "no provider library", "ibverbs-providers");
}

#[test]
fn a_device_that_may_not_be_opened_is_a_matter_of_permission_only() {
    let spoil = |rdma: &mut Rdma| {
        let refused =
            failure("/dev/infiniband/uverbs0 may not be opened", "chmod 666 /dev/infiniband/uverbs0");
        (rdma.adapters[0].node, rdma.adapters[0].limits) = (Err(refused.clone()), Err(refused));
    };
    let check = judged("rdma-permission", with_adapter(spoil));
    assert_says(&check, Level::Warning, "uverbs0 may not be opened", "chmod 666");
}

#[test]
fn a_list_of_ports_or_an_index_that_means_nothing_fails() {
    let wrong = |rdma: &mut Rdma| {
        rdma.ports_refused = Some(failure("ports = \"rxe9\": there is no adapter \"rxe9\"", "write rxe0"));
    };
    assert_says(
        &judged("rdma-devices", with_adapter(wrong)),
        Level::Failure,
        "ports = \"rxe9\"",
        "write rxe0",
    );
    let asked = judged("rdma-devices", |f| wrong(&mut f.rdma));
    assert_says(&asked, Level::Failure, "ports = \"rxe9\"", "write rxe0");
    let check = judged(
        "rdma-gid",
        with_adapter(|rdma| {
            rdma.adapters[0].ports[0].gid =
                Err(failure("gid_index = 99: port rxe0:1 has no GID there", "use 1"));
            rdma.order.clear();
        }),
    );
    assert_says(&check, Level::Warning, "gid_index = 99", "use 1");
}

#[test]
fn ports_that_are_down_are_a_warning_and_those_left_out_are_not() {
    let down = Some(failure("port rxe0:1 is not active", "ip link set eth0 up"));
    let check = judged("rdma-port", with_adapter(|rdma| rdma.adapters[0].ports[0].inactive = down.clone()));
    assert_says(&check, Level::Warning, "rxe0:1 is not active", "ip link set eth0 up");
    let second_down = with_adapter(|rdma| {
        rdma.adapters.push(adapter("rxe1"));
        rdma.adapters[1].ports[0].inactive = down;
        rdma.adapters[1].ports[0].unusable = Some(failure("down", "up"));
    });
    let check = judged("rdma-port", second_down);
    assert_says(&check, Level::Ok, "rxe0:1 (", "");
    assert_says(&check, Level::Ok, "not used: port rxe0:1 is not active", "");
}

#[test]
fn memlock_matters_only_with_rdma_devices() {
    let low =
        Memlock { limit_bytes: Some(64 << 10), hard_bytes: Some(64 << 10), exempt: false, refused: None };
    let refused = Some(failure("this process may lock 64 KiB", "ulimit -l unlimited"));
    let too_low = Memlock { refused, ..low.clone() };
    let check = judged("memlock", |f| f.rdma.memlock = too_low.clone());
    assert_says(&check, Level::Ok, "64 KiB; enough", "");
    let check = judged("memlock", with_adapter(|rdma| rdma.memlock = too_low));
    assert_says(&check, Level::Warning, "this process may lock 64 KiB", "ulimit -l unlimited");
    let some = Memlock { limit_bytes: Some(512 << 20), ..low.clone() };
    let check = judged("memlock", with_adapter(|rdma| rdma.memlock = some));
    assert_says(&check, Level::Warning, "512 MiB", "limits.conf");
    let exempt = Memlock { exempt: true, ..low };
    let check = judged("memlock", with_adapter(|rdma| rdma.memlock = exempt));
    assert_says(&check, Level::Ok, "64 KiB, and a capability", "");
}

#[test]
fn open_files_are_counted_per_rank() {
    let ranks = |ranks| move |f: &mut Facts| f.ranks = ranks;
    let along = ["cores", "dev-shm"];
    let just_enough = |f: &mut Facts| {
        f.ranks = 298;
        f.limits.open_files.soft = Some(1022);
    };
    assert_eq!(judged_along("open-files", &along, just_enough).level, Level::Ok);
    assert_says(
        &judged_along("open-files", &along, ranks(299)),
        Level::Warning,
        "1024; mpirun may want 1025 for 299 ranks",
        "ulimit -n 1025",
    );
    assert_says(
        &judged_along("open-files", &along, ranks(1400)),
        Level::Warning,
        "4328",
        "hard limit of 4096",
    );
    assert_eq!(
        judged("open-files", |f| f.limits.open_files = Limit { soft: None, hard: None }).level,
        Level::Ok
    );
}

#[test]
fn cores_are_set_against_ranks() {
    let ranks = |ranks| move |f: &mut Facts| f.ranks = ranks;
    assert_eq!(judged("cores", ranks(2)).level, Level::Ok);
    assert_says(&judged("cores", ranks(3)), Level::Warning, "3 ranks", "--use-hwthread-cpus");
    assert_says(&judged("cores", ranks(5)), Level::Warning, "2 cores, 4 hardware threads", "--oversubscribe");
    let check = judged("cores", |f| f.cores.quota = Some(1.5));
    assert_says(&check, Level::Warning, "a quota of 1.5 processors", "--cpus");
    assert_eq!(judged("cores", |f| f.cores.quota = Some(2.0)).level, Level::Ok);
}
