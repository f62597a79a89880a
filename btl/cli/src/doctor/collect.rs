//! Finds the facts. Nothing here judges, and nothing here fails: what cannot be found is a fact too.

use super::elf;
use super::facts::{
    ComponentFile, Facts, Identity, Limit, Limits, Mpirun, Namespaces, OmpiInfo, Reservation, Space,
};
use crate::cross_memory::CrossMemory;
use crate::machine::Cores;
use crate::{environment, open_mpi, rdma, trial};
use ironband::Config;
use ironband_fabric::shm::Shm;
use rustix::process::Resource;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file name that Open MPI expects of Ironband's component.
pub(crate) const COMPONENT_FILE: &str = "mca_btl_ironband.so";

/// The inode numbers that Linux gives to the namespaces it starts with.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Looks at everything.
pub(crate) fn facts(ranks: usize) -> Facts {
    let ompi_info =
        open_mpi::ask_ompi_info(&[]).map(|report| ompi_info(&report)).map_err(|error| error.to_string());
    let config = environment::config();
    Facts {
        ranks,
        mpirun: match open_mpi::ask_mpirun() {
            Ok((path, version_line)) => Mpirun::Found { path, version_line },
            Err(error) => Mpirun::Unusable { reason: error.to_string() },
        },
        component_files: component_files(ompi_info.as_ref().map_or(&[], |info| &info.component_folders)),
        ompi_info,
        parameters: config.as_ref().map(|_| environment::settings().len()).map_err(ToString::to_string),
        rdma: rdma::read(config.as_ref().unwrap_or(&Config::default())),
        reservation: reservation(&config.unwrap_or_default(), ranks),
        dev_shm: space("/dev/shm"),
        cross_memory: CrossMemory::find(),
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

/// Opens the device of a rank and sends one message through its ring: whatever that needs is needed by every job.
fn reservation(config: &Config, ranks: usize) -> Reservation {
    let failed = |failure: trial::Failure| Reservation::Failed { message: failure.message, fix: failure.fix };
    let device = match trial::first_usable::<Shm>(config) {
        Ok(device) => device,
        Err(failure) => return failed(failure),
    };
    match trial::open::<Shm>(&device, config, ranks).and_then(|opened| trial::memory(&opened)) {
        Err(failure) => failed(failure),
        Ok(memory) => {
            Reservation::Worked { control_bytes: memory.control_bytes, ring_bytes: memory.ring_region_bytes }
        }
    }
}

fn space(path: &str) -> Result<Space, String> {
    let found = rustix::fs::statvfs(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(Space { size_bytes: found.f_blocks * found.f_frsize, free_bytes: found.f_bavail * found.f_frsize })
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
    fn the_trial_reserves_a_control_block_and_the_ring_that_is_configured() {
        let mut config = Config::default();
        let mut reserved = |ring_bytes: u64| {
            config.set("ring_bytes", &ring_bytes.to_string()).unwrap();
            match reservation(&config, 2) {
                Reservation::Worked { control_bytes, ring_bytes } => (control_bytes, ring_bytes),
                failed => panic!("{failed:?}"),
            }
        };
        let (small, large) = (reserved(64 << 10), reserved(1 << 20));
        assert_eq!(small.0, large.0);
        assert!(small.1 >= 64 << 10 && large.1 >= 1 << 20 && large.1 < 4 << 20, "{small:?} {large:?}");
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
