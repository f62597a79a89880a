//! Compiles the programs of `tests/mpi` and builds those of the `examples` package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};

use crate::row::has_several_hosts;

/// Warnings are errors; the same flags for programs and libraries.
const C_FLAGS: [&str; 6] = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// Linked into every program.
const SHARED_SOURCES: [&str; 2] = ["check.c", "windows.c"];

/// An executable that is ready to be run.
#[derive(Clone, Debug)]
pub struct CompiledProgram {
    /// Its absolute path.
    pub path: PathBuf,
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mpi")
}

/// Compiles `mpi/<name>.c` with `mpicc` into `out_dir`, unless what is there is newer than all sources.
pub fn compile_program(name: &str, out_dir: &Path) -> Result<CompiledProgram> {
    let mut inputs = vec![sources().join(format!("{name}.c"))];
    inputs.extend(SHARED_SOURCES.iter().map(|file| sources().join(file)));
    compile(&inputs, &[], &out_dir.join(name))
}

/// Compiles `mpi/<name>.c` as a library to preload.
pub fn compile_library(name: &str, out_dir: &Path) -> Result<CompiledProgram> {
    let input = sources().join(format!("{name}.c"));
    compile(&[input], &["-shared", "-fPIC"], &out_dir.join(format!("lib{name}.so")))
}

fn compile(inputs: &[PathBuf], flags: &[&str], output: &Path) -> Result<CompiledProgram> {
    if modified(output).is_some_and(|built| newest_source().is_ok_and(|source| built > source)) {
        return Ok(CompiledProgram { path: output.to_owned() });
    }
    // What one guest compiles another one does not see.
    ensure!(
        !has_several_hosts(),
        "{} is missing, or older than its source; compile it on the machine that runs the guests: cargo test -p ironband-tests --test verbs",
        output.display()
    );
    // Written aside and renamed: a compiler that is interrupted leaves no half of a program.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let partial = output.with_extension(format!("{}.{number}.partial", process::id()));
    let mut command = Command::new("mpicc");
    command.args(C_FLAGS).args(flags).args(inputs).arg("-ldl").arg("-o").arg(&partial);
    let result = command
        .output()
        .context("mpicc cannot be run: install Open MPI's development files (Debian: libopenmpi-dev)")?;
    ensure!(
        result.status.success(),
        "{command:?} failed with {}:\n{}",
        result.status,
        String::from_utf8_lossy(&result.stderr)
    );
    fs::rename(&partial, output).with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(CompiledProgram { path: output.to_owned() })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest_source() -> Result<SystemTime> {
    let dir = sources();
    fs::read_dir(&dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .filter_map(|entry| modified(&entry.ok()?.path()))
        .max()
        .with_context(|| format!("{} is empty", dir.display()))
}

/// Builds a program of the `examples` package with cargo, and says where it is.
///
/// The folder is this build's own, so what `ci/test` has built already is not built again.
pub fn build_example(name: &str) -> Result<CompiledProgram> {
    build(&["--release", "--package", "ironband-examples", "--bin", name], name)
}

/// Builds the `ironband` command with cargo, as these tests were built, and says where it is.
pub fn build_ironband() -> Result<CompiledProgram> {
    build_program("ironband-cli", "ironband")
}

/// Builds a program of one of our packages, as these tests were built, and says where it is.
pub fn build_program(package: &str, name: &str) -> Result<CompiledProgram> {
    let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    build(&[profile, &["--package", package, "--bin", name]].concat(), name)
}

fn build(arguments: &[&str], name: &str) -> Result<CompiledProgram> {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("build")
        .args(arguments)
        .arg("--message-format=json-render-diagnostics");
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .map(|path| CompiledProgram { path })
        .with_context(|| format!("{command:?} succeeded, but names no executable {name}"))
}
