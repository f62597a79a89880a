//! Finds the files that a job leaves in shared memory and in temporary folders.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::processes;

/// The folders that are looked at.
const FOLDERS: [&str; 2] = ["/dev/shm", "/tmp"];

/// Open MPI's own session folder; on a job that is killed whole it is Open MPI that leaves it.
const OPEN_MPI_SESSION: &str = "ompi.";

/// What was in `/dev/shm` and `/tmp` at some moment.
#[derive(Debug)]
pub struct Snapshot {
    paths: BTreeSet<PathBuf>,
}

impl Snapshot {
    /// Looks now.
    pub fn take() -> Self {
        Self { paths: FOLDERS.iter().flat_map(|folder| entries(Path::new(folder))).collect() }
    }

    /// What has come since and belongs to the job whose ranks had the given ids and used the given files; waits a
    /// moment for what is just being removed.
    ///
    /// Other programs use these folders too. In `/dev/shm` a new file counts if no living process uses it; in `/tmp`
    /// if its name speaks of Ironband or holds the id of a rank; in both if a rank was seen to use it.
    pub fn left_behind(&self, pids: &[i32], used: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let left = self.left_now(pids, used);
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// True for what was there, or lies in a folder that was: a build folder in /tmp, for instance.
    fn was_there(&self, path: &Path) -> bool {
        path.ancestors().any(|ancestor| self.paths.contains(ancestor))
    }

    fn left_now(&self, pids: &[i32], used: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let new: Vec<PathBuf> = Self::take().paths.difference(&self.paths).cloned().collect();
        if new.is_empty() && used.is_empty() {
            return new;
        }
        let held: BTreeSet<PathBuf> = processes::all_pids().flat_map(processes::files_of).collect();
        let ours = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            !name.starts_with(OPEN_MPI_SESSION)
                && (path.starts_with("/dev/shm") && !held.contains(path) || speaks_of(&name, pids))
        };
        let mut left: BTreeSet<PathBuf> = new.into_iter().filter(ours).collect();
        left.extend(used.iter().filter(|path| !self.was_there(path) && path.exists()).cloned());
        left.into_iter().collect()
    }
}

/// Names of this kind are Ironband's, or of one of the ranks.
fn speaks_of(name: &str, pids: &[i32]) -> bool {
    name.to_lowercase().contains("ironband")
        || name
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .any(|number: i32| pids.contains(&number))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// What lies in a job's own temporary folder, apart from Open MPI's session folder.
pub(crate) fn foreign_entries(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    entries(folder).into_iter().partition(|path| {
        !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OPEN_MPI_SESSION))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_nobody_in_shared_memory_is_found_and_one_in_use_is_not() {
        let before = Snapshot::take();
        let left = tempfile::Builder::new().prefix("left-").tempfile_in("/dev/shm").unwrap();
        let path = left.path().to_owned();
        assert!(!before.left_now(&[], &BTreeSet::new()).contains(&path), "this process still has it open");
        let (file, kept) = left.keep().unwrap();
        drop(file);
        assert!(before.left_now(&[], &BTreeSet::new()).contains(&path), "nobody has it open");
        fs::remove_file(kept).unwrap();
    }

    #[test]
    fn names_of_ironband_and_of_ranks_are_ours() {
        assert!(speaks_of("Ironband.0.1", &[]));
        assert!(speaks_of("segment-4711-x", &[4711]));
        assert!(!speaks_of("segment-47110-x", &[4711]));
        assert!(!speaks_of("rustc1234", &[4711]));
    }
}
