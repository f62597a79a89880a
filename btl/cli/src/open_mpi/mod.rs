//! What is known about the Open MPI of this machine: which programs are on `PATH`, and what `ompi_info` says.

mod report;

pub(crate) use report::{Parameter, Report};

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

/// The series of Open MPI whose BTL interface Ironband's component speaks.
pub(crate) const SUPPORTED_SERIES: (u32, u32) = (4, 1);

/// The environment that lets `mpirun` start as root; it wants both, so that nobody does it by accident.
pub(crate) const ROOT_CONSENT: [&str; 2] = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];

/// Why a program of Open MPI's gave no answer.
#[derive(Debug, Error)]
pub(crate) enum ProgramError {
    /// No executable of that name in any folder of `PATH`.
    #[error("{name} is not on PATH (Debian, Ubuntu: apt install openmpi-bin)")]
    Missing {
        /// The program looked for.
        name: &'static str,
    },
    /// It could not be started.
    #[error("{} could not be started: {source}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with a status other than 0.
    #[error("{} ended with {status}: {stderr}", path.display())]
    Status {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
}

/// The first executable called `name` in the folders of `PATH`.
pub(crate) fn find_program(name: &'static str) -> Result<PathBuf, ProgramError> {
    find_in(name, &std::env::var_os("PATH").unwrap_or_default()).ok_or(ProgramError::Missing { name })
}

fn find_in(name: &str, path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|candidate| is_executable(candidate))
}

/// Whether this process may execute `path`, a regular file.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Asks `mpirun` for its version; answers with its path and the first line it printed.
pub(crate) fn ask_mpirun() -> Result<(PathBuf, String), ProgramError> {
    let path = find_program("mpirun")?;
    let output = run(&path, &["--version"], &[])?;
    let line = output.stdout.lines().next().unwrap_or_default().trim().to_owned();
    Ok((path, line))
}

/// Asks `ompi_info` for everything it knows, as a job started with `environment` would find it.
pub(crate) fn ask_ompi_info(environment: &[(&str, &str)]) -> Result<Report, ProgramError> {
    let path = find_program("ompi_info")?;
    let mut settings = vec![("OMPI_MCA_mca_base_component_show_load_errors", "1")];
    settings.extend_from_slice(environment);
    let output = run(&path, &["--all", "--level", "9", "--parsable"], &settings)?;
    Ok(Report::new(output.stdout, &output.stderr))
}

struct Output {
    stdout: String,
    stderr: String,
}

fn run(path: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output, ProgramError> {
    let output = Command::new(path)
        .args(arguments)
        .envs(environment.iter().copied())
        .envs(consent_if_root())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ProgramError::Start { path: path.to_owned(), source })?;
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        return Err(ProgramError::Status { path: path.to_owned(), status: output.status, stderr });
    }
    Ok(Output { stdout: String::from_utf8_lossy(&output.stdout).into_owned(), stderr })
}

/// What a child process needs in its environment so that Open MPI agrees to run: nothing, unless this is root.
pub(crate) fn consent_if_root() -> Vec<(&'static str, &'static str)> {
    if rustix::process::geteuid().is_root() {
        ROOT_CONSENT.map(|name| (name, "1")).to_vec()
    } else {
        Vec::new()
    }
}

/// The version in the line that Open MPI's `mpirun --version` begins with, `mpirun (Open MPI) 4.1.4`; none for the
/// `mpirun` of another MPI.
pub(crate) fn version_in(line: &str) -> Option<&str> {
    let (_, version) = line.split_once("(Open MPI)")?;
    version.split_whitespace().next()
}

/// The series of a version: `4.1.4` is of series 4.1, `5.0.7rc1` of 5.0.
pub(crate) fn series_of(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

/// The shared library of OPAL that a component of a series is linked with.
pub(crate) fn opal_library_of(series: (u32, u32)) -> Option<&'static str> {
    match series.0 {
        4 => Some("libopen-pal.so.40"),
        5 => Some("libopen-pal.so.80"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_only_in_open_mpi_s_own_line() {
        assert_eq!(version_in("mpirun (Open MPI) 4.1.4"), Some("4.1.4"));
        assert_eq!(version_in("mpirun.real (OpenRTE) 4.1.4"), None);
        assert_eq!(version_in("Intel(R) MPI Library for Linux* OS, Version 2021.11"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn series_ignore_the_release_and_its_suffix() {
        assert_eq!(series_of("4.1.4"), Some((4, 1)));
        assert_eq!(series_of("5.0.7rc1"), Some((5, 0)));
        assert_eq!(series_of("4.1rc2"), Some((4, 1)));
        assert_eq!(series_of("6"), None);
        assert_eq!(series_of("main"), None);
    }

    #[test]
    fn programs_must_be_executable() {
        use std::os::unix::fs::PermissionsExt;
        let first = tempfile::tempdir().unwrap();
        let second = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([first.path(), second.path()]).unwrap();
        std::fs::write(first.path().join("mpirun"), "not a program").unwrap();
        std::fs::write(second.path().join("mpirun"), "#!/bin/sh\n").unwrap();
        assert_eq!(find_in("mpirun", &path), None);
        let executable = second.path().join("mpirun");
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_in("mpirun", &path), Some(executable));
    }
}
