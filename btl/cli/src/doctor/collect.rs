//! Finds the facts. Nothing here judges, and nothing here fails: what cannot be found is a fact too.

use super::elf;
use super::facts::{
    ComponentFile, CrossMemory, Facts, Identity, Limit, Limits, Mpirun, Namespaces, OmpiInfo, Reservation,
    Space,
};
use crate::cross_memory::{self, Attempt};
use crate::machine::Cores;
use crate::open_mpi;
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::process::Resource;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file name that Open MPI expects of Ironband's component.
pub(crate) const COMPONENT_FILE: &str = "mca_btl_ironband.so";

/// Reserved for a trial: more than a pair of ranks takes, and little enough for any container.
const TRIAL_BYTES: u64 = 16 << 20;

/// The inode numbers that Linux gives to the namespaces it starts with.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Looks at everything.
pub(crate) fn facts(ranks: usize) -> Facts {
    let ompi_info =
        open_mpi::ask_ompi_info(&[]).map(|report| ompi_info(&report)).map_err(|error| error.to_string());
    Facts {
        ranks,
        mpirun: match open_mpi::ask_mpirun() {
            Ok((path, version_line)) => Mpirun::Found { path, version_line },
            Err(error) => Mpirun::Unusable { reason: error.to_string() },
        },
        component_files: component_files(ompi_info.as_ref().map_or(&[], |info| &info.component_folders)),
        ompi_info,
        reservation: reservation(TRIAL_BYTES),
        dev_shm: space("/dev/shm"),
        cross_memory: cross_memory_facts(),
        namespaces: Namespaces {
            own_pids: namespace_differs("/proc/self/ns/pid", FIRST_PID_NAMESPACE),
            own_users: namespace_differs("/proc/self/ns/user", FIRST_USER_NAMESPACE),
        },
        limits: Limits { memlock_bytes: limit(Resource::Memlock), open_files: limit(Resource::Nofile) },
        cores: Cores::read(),
        identity: identity(),
        rdma_devices: rdma_devices(Path::new("/sys/class/infiniband")),
    }
}

fn ompi_info(report: &open_mpi::Report) -> OmpiInfo {
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    OmpiInfo {
        version: report.version().map(str::to_owned),
        loads_components: report.loads_components(),
        component_folders: report.component_folders().into_iter().map(PathBuf::from).collect(),
        btls: owned(report.components("btl")),
        pmls: owned(report.components("pml")),
        ironband_parameters: report.parameter_count("btl", "ironband"),
        load_errors: report
            .load_errors()
            .iter()
            .filter(|line| line.contains("mca_btl_ironband"))
            .cloned()
            .collect(),
        btl_selection: report.parameter("btl", "base", "btl"),
        pml_selection: report.parameter("pml", "base", "pml"),
    }
}

/// Looks in the folders that Open MPI searches, and in the user's own folder even when it does not: a component
/// installed where nobody looks is a mistake worth naming.
fn component_files(searched: &[PathBuf]) -> Vec<ComponentFile> {
    let mut folders: Vec<(PathBuf, bool)> = searched.iter().map(|folder| (folder.clone(), true)).collect();
    if let Some(home) = std::env::var_os("HOME") {
        let own = Path::new(&home).join(".openmpi/components");
        if !searched.contains(&own) {
            folders.push((own, false));
        }
    }
    folders
        .into_iter()
        .map(|(folder, searched)| (folder.join(COMPONENT_FILE), searched))
        .filter(|(path, _)| path.symlink_metadata().is_ok())
        .map(|(path, searched)| ComponentFile { object: elf::read(&path), path, searched })
        .collect()
}

/// Does what the shared-memory fabric does before it maps a segment: reserves its pages, so that a shortage is an
/// error here and not a bus error later.
fn reservation(bytes: u64) -> Reservation {
    let failed = |call: &str, error: rustix::io::Errno| Reservation::Failed {
        call: call.into(),
        bytes,
        message: error.to_string(),
    };
    match rustix::fs::memfd_create("ironband-doctor", MemfdFlags::CLOEXEC) {
        Err(error) => failed("memfd_create", error),
        Ok(segment) => match rustix::fs::fallocate(&segment, FallocateFlags::empty(), 0, bytes) {
            Err(error) => failed("fallocate", error),
            Ok(()) => Reservation::Worked { bytes },
        },
    }
}

fn space(path: &str) -> Result<Space, String> {
    let found = rustix::fs::statvfs(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(Space { size_bytes: found.f_blocks * found.f_frsize, free_bytes: found.f_bavail * found.f_frsize })
}

fn cross_memory_facts() -> CrossMemory {
    let ptrace_scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let ptrace_scope = ptrace_scope.and_then(|text| text.trim().parse().ok());
    let plain = cross_memory::attempt(false);
    // Consent changes only what Yama's scope 1 decides.
    let consent_may_help = ptrace_scope == Some(1) && matches!(plain, Attempt::Refused { .. });
    CrossMemory { with_consent: consent_may_help.then(|| cross_memory::attempt(true)), plain, ptrace_scope }
}

fn namespace_differs(path: &str, first: u64) -> bool {
    // Without /proc nothing can be told apart, and nothing else here would work either.
    fs::metadata(path).is_ok_and(|found| found.ino() != first)
}

fn limit(resource: Resource) -> Limit {
    let found = rustix::process::getrlimit(resource);
    Limit { soft: found.current, hard: found.maximum }
}

fn identity() -> Identity {
    Identity {
        root: rustix::process::geteuid().is_root(),
        root_consent: open_mpi::ROOT_CONSENT
            .iter()
            .all(|name| std::env::var(name).is_ok_and(|value| value == "1")),
        container: ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
            || std::env::var_os("container").is_some(),
    }
}

fn rdma_devices(class: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_found_where_open_mpi_looks() {
        let folder = tempfile::tempdir().unwrap();
        let searched = vec![folder.path().join("absent"), folder.path().to_owned()];
        let ours =
            |files: Vec<ComponentFile>| files.into_iter().find(|file| file.path.starts_with(folder.path()));
        assert!(ours(component_files(&searched)).is_none());
        fs::write(folder.path().join(COMPONENT_FILE), "not a library").unwrap();
        let file = ours(component_files(&searched)).unwrap();
        assert!(file.searched && file.object.is_err());
    }

    #[test]
    fn a_reservation_that_fails_says_which_call() {
        assert!(matches!(reservation(1 << 20), Reservation::Worked { bytes: 1048576 }));
        // Nothing is the one amount that every kernel refuses at once. Never try it with too much: the kernel
        // fills all memory before it says no.
        match reservation(0) {
            Reservation::Failed { call, .. } => assert_eq!(call, "fallocate"),
            worked => panic!("a reservation of nothing is an error: {worked:?}"),
        }
    }

    #[test]
    fn devices_are_listed_in_order_and_their_absence_is_an_empty_list() {
        let class = tempfile::tempdir().unwrap();
        fs::create_dir(class.path().join("rxe0")).unwrap();
        fs::create_dir(class.path().join("mlx5_0")).unwrap();
        assert_eq!(rdma_devices(class.path()), ["mlx5_0", "rxe0"]);
        assert!(rdma_devices(&class.path().join("absent")).is_empty());
    }

    #[test]
    fn a_file_system_that_is_missing_is_named() {
        assert!(space("/nonexistent").unwrap_err().starts_with("/nonexistent: "));
        assert!(space("/").unwrap().size_bytes > 0);
    }
}
