//! Benchmarks under a real `mpirun`, and what they print.

use std::{
    ffi::OsString,
    process::{Command, Output},
};

/// `mpirun -np ranks <transport> <program> <arguments>`, killed by mpirun itself if it hangs.
pub(crate) fn mpirun(
    ranks: u32,
    transport: &str,
    program: &str,
    arguments: &str,
    environment: &[(&str, OsString)],
) -> Output {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--timeout", "120", "-np", &ranks.to_string()]);
    for (name, value) in environment {
        command.arg("-x").arg(name).env(name, value);
    }
    command
        .args(transport.split_whitespace())
        .arg(program)
        .args(arguments.split_whitespace())
        // Containers run as root; without these mpirun refuses to.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .output()
        .expect("mpirun is installed: the build needed its mpicc")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

pub(crate) fn rows(output: &Output) -> Vec<String> {
    text(&output.stdout).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Every row passes, there are `sizes` of them, and the status says so.
pub(crate) fn assert_passes(output: &Output, sizes: usize, what: &str) {
    let shown = format!("{what}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{shown}");
    let rows = rows(output);
    assert_eq!(rows.len(), sizes, "{shown}");
    assert!(rows.iter().all(|row| row.contains("Pass")), "{shown}");
}
