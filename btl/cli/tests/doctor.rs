//! `ironband doctor` on the machine that runs the tests: whatever it is, the report must be whole and consistent.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn doctor(path: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ironband"))
        .arg("doctor")
        .args(arguments)
        .env("PATH", path)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check<'a>(document: &'a Value, id: &str) -> &'a Value {
    document["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap()
}

#[test]
fn without_open_mpi_it_fails_and_says_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let output = doctor(empty.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let document = document(&output);
    assert_eq!(document["verdict"], "failure");
    let open_mpi = check(&document, "open-mpi");
    assert_eq!(open_mpi["level"], "failure");
    assert!(open_mpi["value"].as_str().unwrap().contains("not on PATH"), "{open_mpi}");
    let text = String::from_utf8(doctor(empty.path(), &[]).stdout).unwrap();
    for check in document["checks"].as_array().unwrap() {
        let id = check["id"].as_str().unwrap();
        assert!(text.contains(&format!(" {id} ")), "the text lacks {id}:\n{text}");
    }
}

#[test]
fn a_machine_with_everything_passes() {
    let folder = tempfile::tempdir().unwrap();
    // Any shared object of this machine will do: what is inside is Open MPI's to judge, and that is pretended.
    fs::copy(env!("CARGO_BIN_EXE_ironband"), folder.path().join("mca_btl_ironband.so")).unwrap();
    script(&folder.path().join("mpirun"), "#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n");
    let info = format!(
        "#!/bin/sh\necho ompi:version:full:4.1.4\necho 'mca:btl:ironband:version:\"mca:2.1.0\"'\n\
         echo 'mca:mca:base:param:mca_base_component_path:value:{}'\n",
        folder.path().display()
    );
    script(&folder.path().join("ompi_info"), &info);
    let output = doctor(folder.path(), &["--json", "-n", "1"]);
    let document = document(&output);
    for id in
        ["open-mpi", "component-file", "component-load", "btl-selection", "pml-selection", "shared-memory"]
    {
        assert_eq!(check(&document, id)["level"], "ok", "{}", check(&document, id));
    }
    assert_eq!(
        check(&document, "component-series")["level"],
        "warning",
        "this object is not linked with OPAL"
    );
    assert_eq!(output.status.success(), document["verdict"] != "failure");
    assert_eq!(document["facts"]["ranks"], 1);
}

#[test]
fn cross_memory_is_really_tried_between_siblings() {
    let empty = tempfile::tempdir().unwrap();
    let document = document(&doctor(empty.path(), &["--json"]));
    match document["facts"]["cross_memory"]["plain"]["outcome"].as_str().unwrap() {
        "worked" => assert_eq!(check(&document, "cross-memory")["level"], "ok"),
        "refused" => {
            eprintln!(
                "SKIPPED the writing half of cross_memory_is_really_tried_between_siblings: this machine forbids it"
            );
        }
        other => panic!("{other}: {}", check(&document, "cross-memory")),
    }
}

#[test]
fn a_number_of_ranks_that_makes_no_sense_is_refused() {
    let output = doctor(Path::new("/nonexistent"), &["-n", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("between 1 and 65536"));
}

#[test]
fn rdma_is_judged_and_its_absence_is_no_fault() {
    let empty = tempfile::tempdir().unwrap();
    let document = document(&doctor(empty.path(), &["--json"]));
    let adapters = document["facts"]["rdma"]["adapters"].as_array().unwrap();
    for id in ["rdma-library", "rdma-devices", "rdma-permission", "memlock", "rdma-port", "rdma-gid"] {
        let check = check(&document, id);
        if adapters.is_empty() {
            assert_eq!(check["level"], "ok", "{check}");
        } else {
            assert_eq!(check["level"] == "ok", check["fix"].is_null(), "{check}");
        }
    }
}

#[cfg(feature = "verbs")]
#[test]
fn a_port_that_is_not_there_fails() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ironband"))
        .args(["doctor", "--json"])
        .env("PATH", empty.path())
        .env("IRONBAND_PORTS", "nosuch9")
        .output()
        .unwrap();
    let document = document(&output);
    let devices = check(&document, "rdma-devices");
    assert_eq!(devices["level"], "failure", "{devices}");
    assert!(devices["value"].as_str().unwrap().contains("ports = \"nosuch9\""), "{devices}");
    assert!(!devices["fix"].as_str().unwrap().is_empty(), "{devices}");
}
