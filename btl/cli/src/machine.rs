//! The machine: its processor, its kernel, and how much of it this process may use.

use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What a reader of a measurement needs to know about where it was taken.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// The processor's name, as it calls itself.
    pub(crate) processor: String,
    /// How much of it this process may use.
    pub(crate) cores: Cores,
    /// All memory.
    pub(crate) memory_bytes: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The instruction set.
    pub(crate) architecture: String,
}

/// The processors that this process may run on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cores {
    /// Hardware threads in the affinity mask, which a cpuset narrows.
    pub(crate) hardware_threads: usize,
    /// Cores that those threads belong to: what `mpirun` counts as slots.
    pub(crate) cores: usize,
    /// Processors' worth of time that the control groups allow, when they limit it.
    pub(crate) quota: Option<f64>,
}

/// Reads the argument `-n`.
pub(crate) fn ranks(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(ranks @ 1..=65536) => Ok(ranks),
        _ => Err("the number of ranks must be between 1 and 65536".into()),
    }
}

impl Machine {
    /// Reads `/proc`, `/sys` and the affinity mask.
    pub(crate) fn read() -> Self {
        let name = rustix::system::uname();
        Self {
            processor: processor_name(&read_text("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            cores: Cores::read(),
            memory_bytes: rustix::system::sysinfo().totalram.saturating_mul(sysinfo_unit_bytes()),
            kernel: name.release().to_string_lossy().into_owned(),
            architecture: name.machine().to_string_lossy().into_owned(),
        }
    }

    /// One line for the head of a table.
    pub(crate) fn line(&self) -> String {
        let Cores { hardware_threads, cores, quota } = &self.cores;
        let quota = quota.map_or(String::new(), |quota| format!(", quota {quota:.1}"));
        format!(
            "{}, {cores} cores ({hardware_threads} hardware threads{quota}), Linux {}",
            self.processor, self.kernel
        )
    }
}

impl Cores {
    /// Reads the affinity mask, the topology of the processors in it, and the quota of the control groups.
    pub(crate) fn read() -> Self {
        let allowed = allowed_processors();
        let siblings: BTreeSet<String> = allowed.iter().map(|&cpu| core_of(cpu)).collect();
        Self {
            hardware_threads: allowed.len(),
            cores: siblings.len(),
            quota: quota(Path::new("/sys/fs/cgroup"), &read_text("/proc/self/cgroup")),
        }
    }
}

/// The core of a hardware thread, by the list of its threads. Without a topology each is a core of its own.
fn core_of(cpu: usize) -> String {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).map_or_else(|_| cpu.to_string(), |list| list.trim().to_owned())
}

/// The first hardware threads of two cores; `None` where there is one core.
pub(crate) fn processors_of_two_cores() -> Option<(usize, usize)> {
    match processors_of_cores()[..] {
        [first, other, ..] => Some((first, other)),
        _ => None,
    }
}

/// One hardware thread of each core that this process may run on.
pub(crate) fn processors_of_cores() -> Vec<usize> {
    let mut cores = BTreeSet::new();
    allowed_processors().into_iter().filter(|cpu| cores.insert(core_of(*cpu))).collect()
}

/// The hardware threads that this process may run on.
pub(crate) fn allowed_processors() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        // More processors than the mask holds: believe the standard library's count.
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

fn sysinfo_unit_bytes() -> u64 {
    u64::from(rustix::system::sysinfo().mem_unit).max(1)
}

fn processor_name(cpuinfo: &str) -> Option<&str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| matches!(key.trim(), "model name" | "Processor" | "cpu model"))
        .map(|(_, name)| name.trim())
}

/// The smallest quota of processor time, in processors, on the way from this process' control group to the root;
/// `membership` is the text of `/proc/self/cgroup`. Both versions of control groups are read, because a container
/// may have either. Inside a container the path can lie outside what is mounted: then the mounted root speaks.
fn quota(root: &Path, membership: &str) -> Option<f64> {
    membership
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                smallest_on_the_way(root, path, unified_quota)
            } else if controllers.split(',').any(|controller| controller == "cpu") {
                let mounted =
                    [controllers, "cpu"].map(|name| root.join(name)).into_iter().find(|dir| dir.is_dir())?;
                smallest_on_the_way(&mounted, path, legacy_quota)
            } else {
                None
            }
        })
        .reduce(f64::min)
}

fn smallest_on_the_way(root: &Path, path: &str, read: fn(&Path) -> Option<f64>) -> Option<f64> {
    Path::new(path).ancestors().filter_map(|group| read(&root.join(group))).reduce(f64::min)
}

/// Version 2: `cpu.max` holds `max 100000` or `150000 100000`.
fn unified_quota(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

/// Version 1: a quota of -1 is none.
fn legacy_quota(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<f64>().ok();
    let quota = read("cpu.cfs_quota_us").filter(|quota| *quota > 0.0)?;
    Some(quota / read("cpu.cfs_period_us")?)
}

fn read_text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_s_name_is_found() {
        assert_eq!(
            processor_name("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n"),
            Some("Some CPU @ 2GHz")
        );
        assert_eq!(processor_name("processor\t: 0\n"), None);
    }

    #[test]
    fn this_process_may_run_somewhere() {
        let cores = Cores::read();
        assert!(cores.cores >= 1 && cores.cores <= cores.hardware_threads);
    }

    #[test]
    fn the_tightest_unified_quota_counts() {
        let root = tempfile::tempdir().unwrap();
        let job = root.path().join("slice/job");
        fs::create_dir_all(&job).unwrap();
        fs::write(job.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/slice/job\n"), None);
        fs::write(root.path().join("slice/cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/slice/job\n"), Some(1.5));
        fs::write(job.join("cpu.max"), "50000 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/slice/job\n"), Some(0.5));
    }

    #[test]
    fn a_legacy_quota_of_a_container_is_read_at_the_mounted_root() {
        let root = tempfile::tempdir().unwrap();
        let cpu = root.path().join("cpu");
        fs::create_dir(&cpu).unwrap();
        fs::write(cpu.join("cpu.cfs_period_us"), "100000\n").unwrap();
        fs::write(cpu.join("cpu.cfs_quota_us"), "-1\n").unwrap();
        let membership = "4:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n";
        assert_eq!(quota(root.path(), membership), None);
        fs::write(cpu.join("cpu.cfs_quota_us"), "200000\n").unwrap();
        assert_eq!(quota(root.path(), membership), Some(2.0));
    }
}
