//! The benchmarks of collective operations under a real `mpirun`: every operation in every form, MPI's and Ironband's, with validation.

use std::process::{Command, Output};

mod launch;

use launch::{assert_passes, mpirun, rows, text};

const COLLECTIVE: &str = env!("CARGO_BIN_EXE_osu_collective");
// On a busy machine a rank that spins keeps the one that it waits for from running.
const VADER: &str = "--mca btl vader,self --mca mpi_yield_when_idle 1";

fn collective(ranks: u32, arguments: &str) -> Output {
    mpirun(ranks, VADER, COLLECTIVE, arguments, &[])
}

/// The names that the program says it has.
fn names() -> Vec<String> {
    let output = Command::new(COLLECTIVE).arg("--list").output().expect("it was just built");
    assert!(output.status.success());
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// The titles of a table, of which no two stand nearer than two spaces.
fn titles(table: &str) -> Vec<&str> {
    let line = table.lines().rfind(|line| line.starts_with('#')).expect("a table has titles");
    line[1..].split("  ").map(str::trim).filter(|title| !title.is_empty()).collect()
}

/// Both in one run, which is one more thing that has to work.
fn all_validate_with(ranks: u32) {
    let names = names();
    assert_eq!(names.len(), 54);
    for name in names {
        // On both sides of the longest short message.
        let sizes = if name.contains("barrier") { 1 } else { 2 };
        let arguments = format!("osu_{name} --impl mpi,ironband -c -i 2 -x 1 -m 6000:12000");
        let output = collective(ranks, &arguments);
        assert_passes(&output, sizes, &format!("{ranks} ranks: {arguments}"));
        let table = text(&output.stdout);
        assert!(table.contains(&format!("# Ironband osu_{name} ")), "{table}");
        assert!(table.contains("in turn with Ironband called from Rust, fabric shm"), "{table}");
    }
}

#[test]
fn all_operations_validate_with_2_ranks() {
    all_validate_with(2);
}

#[test]
fn all_operations_validate_with_3_ranks() {
    all_validate_with(3);
}

#[test]
fn either_implementation_runs_alone() {
    for implementation in ["mpi", "ironband"] {
        for name in ["allreduce", "ialltoallv", "neighbor_alltoallv_persistent"] {
            let arguments = format!("{name} --impl {implementation} -c -i 3 -x 1 -m 16:1K");
            let output = collective(2, &arguments);
            assert_passes(&output, 7, &arguments);
            let is_ironbands = text(&output.stdout).contains("# Ironband 0.1.0 called from Rust");
            assert_eq!(is_ironbands, implementation == "ironband", "{arguments}");
        }
    }
}

#[test]
fn each_rank_can_be_the_root() {
    for name in ["bcast", "igather", "reduce_persistent", "scatterv"] {
        for root in ["fixed:2", "rotate"] {
            let arguments = format!("{name} --impl mpi,ironband -c -i 4 -x 1 -m 64:4K -k {root}");
            assert_passes(&collective(3, &arguments), 7, &arguments);
        }
    }
}

#[test]
fn tables_have_osus_columns() {
    let columns = |arguments: &str| {
        let output = collective(2, arguments);
        let table = text(&output.stdout);
        assert!(output.status.success(), "{table}\n{}", text(&output.stderr));
        let titles = titles(&table).iter().map(|title| (*title).to_owned()).collect::<Vec<_>>();
        for row in rows(&output) {
            let fields: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(fields.len(), titles.len(), "{table}");
            let values = fields.iter().zip(&titles).filter(|(_, title)| **title != "Validation");
            for (field, title) in values {
                assert!(field.parse::<f64>().is_ok_and(|value| value >= 0.0), "{title}: {field}\n{table}");
            }
        }
        titles.join("|")
    };
    for by in ["mpi", "ironband"] {
        let short = format!("--impl {by} -i 3 -x 1 -m 4:8");
        assert_eq!(columns(&format!("allreduce {short}")), "Size|Avg Latency(us)");
        assert_eq!(
            columns(&format!("scan_persistent {short} -f -c")),
            "Size|Avg Latency(us)|Min Latency(us)|Max Latency(us)|Iterations|Validation"
        );
        assert_eq!(
            columns(&format!("iscan {short} -t 2")),
            "Size|Overall(us)|Compute(us)|Pure Comm.(us)|Overlap(%)"
        );
        assert_eq!(
            columns(&format!("ialltoall {short} -f")),
            "Size|Overall(us)|Compute(us)|Coll. Init(us)|MPI_Test(us)|MPI_Wait(us)|Pure Comm.(us)|Min Comm.(us)|\
             Max Comm.(us)|Overlap(%)"
        );
        assert_eq!(columns(&format!("barrier {short}")), "Avg Latency(us)");
    }
    assert_eq!(
        columns("bcast --impl ironband,mpi -i 20 -x 1 -m 4:8"),
        "Size|MPI Avg Latency(us)|Ironband Avg Latency(us)|Ironband/MPI"
    );
}

#[test]
fn the_json_document_has_the_columns_and_the_parts_add_up() {
    let output = collective(2, "iallgather --impl mpi,ironband --json -f -i 20 -x 1 -m 8:16 -t 4");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["benchmark"], "osu_iallgather");
    assert_eq!(document["options"]["operation"], "iallgather");
    assert_eq!(document["metric"], "mpi_overall_us");
    for row in document["rows"].as_array().expect("rows") {
        for by in ["mpi", "ironband"] {
            let value = |key: &str| row[format!("{by}_{key}")].as_f64().expect(key);
            let parts = ["collective_init_us", "compute_us", "test_us", "wait_us"].map(value);
            let overall = value("overall_us");
            assert!((parts.iter().sum::<f64>() - overall).abs() < 1e-6 * overall.max(1.0), "{row}");
            assert!(parts.iter().all(|part| *part > 0.0), "{row}");
            let pure = ["pure_communication_min_us", "pure_communication_us", "pure_communication_max_us"];
            assert!(pure.map(value).is_sorted(), "{row}");
        }
        assert!(row["ironband_per_mpi"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
    }
}

#[test]
fn links_and_their_names_are_benchmarks() {
    let folder = tempfile::tempdir().expect("a folder for the links");
    let link = folder.path().join("osu_ibcast");
    std::os::unix::fs::symlink(COLLECTIVE, &link).expect("a link");
    let link = link.to_str().expect("a path of ours");
    let output = mpirun(2, VADER, link, "--impl ironband -c -i 2 -x 1 -m 1:8", &[]);
    assert_passes(&output, 4, link);
    assert!(text(&output.stdout).contains("# Ironband osu_ibcast "), "{}", text(&output.stdout));
}

#[test]
fn buffers_that_need_more_memory_than_allowed_are_left_out_and_told() {
    // Two blocks to send and two to receive: 4 KiB of memory are enough for blocks of 1 KiB.
    let output = collective(2, "alltoall --impl ironband -i 2 -x 1 -m 256:4K -M 4K");
    let table = text(&output.stdout);
    let sizes: Vec<String> = rows(&output).iter().map(|row| row[..10].trim().to_owned()).collect();
    assert_eq!(sizes, ["256", "512", "1024"], "{table}");
    assert!(table.contains("the 2 largest sizes need more memory than -M 4096 allows"), "{table}");
    let output = collective(2, "alltoall -m 4K:8K -M 4K");
    assert!(text(&output.stderr).contains("-M 4096: not even the buffers"), "{}", text(&output.stderr));
}

#[test]
fn touched_buffers_are_measured() {
    let output = collective(2, "iallreduce --impl mpi,ironband --touch -i 2 -x 1 -m 4:64K");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Every input is written anew before its round"));
}

#[test]
fn mistakes_are_told_once_with_what_there_is() {
    for (ranks, arguments, wanted) in [
        (1, "barrier", "needs at least 2 ranks"),
        (2, "barrier --impl line", "[possible values: mpi, ironband]"),
        (2, "alreduce", "allgather, allgatherv, allreduce, alltoall"),
        (2, "alreduce", "_persistent behind it"),
        (2, "", "required arguments were not provided"),
        (2, "bcast -k fixed:2", "-k fixed:2: the job has the ranks 0 to 1"),
        (2, "bcast -k second", "it is fixed:RANK or rotate"),
        (2, "allreduce -t 3", "iallreduce does"),
        (2, "allreduce -m 1:8", "sizes start at 4"),
        (2, "ireduce_scatter_block -m 4:8", "sizes start at 8"),
        (2, "bcast -M 4G", "0 to 2147483647"),
        (2, "ibcast -t 1000001", "0..=1000000"),
    ] {
        let output = collective(ranks, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert_eq!(said.matches(wanted).count(), 1, "{arguments}: {said}");
    }
}
