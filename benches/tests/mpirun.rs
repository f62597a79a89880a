//! Runs the benchmarks under a real `mpirun`, with validation, and against an MPI that spoils messages.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

mod launch;

use launch::{assert_passes, mpirun, rows, text};

const LATENCY: &str = env!("CARGO_BIN_EXE_osu_latency");
const MANY_THREADS: &str = env!("CARGO_BIN_EXE_osu_latency_mt");
const TWO_SIDED: [&str; 4] =
    [LATENCY, env!("CARGO_BIN_EXE_osu_bw"), env!("CARGO_BIN_EXE_osu_bibw"), MANY_THREADS];
const PAIRS: [&str; 2] = [env!("CARGO_BIN_EXE_osu_mbw_mr"), env!("CARGO_BIN_EXE_osu_multi_lat")];
const ONE_SIDED: [&str; 4] = [
    env!("CARGO_BIN_EXE_osu_put_latency"),
    env!("CARGO_BIN_EXE_osu_get_latency"),
    env!("CARGO_BIN_EXE_osu_put_bw"),
    env!("CARGO_BIN_EXE_osu_get_bw"),
];

#[test]
fn two_sided_benchmarks_validate_over_shared_memory_and_tcp() {
    for transport in ["--mca btl vader,self", "--mca btl tcp,self"] {
        for program in TWO_SIDED {
            let output = mpirun(2, transport, program, "-c -i 3 -x 1 -m 1:256K", &[]);
            assert_passes(&output, 19, &format!("{program} {transport}"));
        }
    }
}

#[test]
fn pairs_validate_with_four_ranks() {
    for program in PAIRS {
        let output = mpirun(4, "--mca btl vader,self", program, "-c -i 3 -x 1 -m 1:16K", &[]);
        assert_passes(&output, 15, program);
    }
}

/// Without MPI: launched by mpirun, which is not asked for anything but who is there.
#[test]
fn ironband_itself_validates() {
    for program in TWO_SIDED.into_iter().filter(|program| *program != MANY_THREADS) {
        let output = mpirun(2, "", program, "--impl ironband -c -i 3 -x 1 -m 1:256K", &[]);
        assert_passes(&output, 19, program);
        let table = text(&output.stdout);
        assert!(table.contains(" called from Rust, fabric shm, device memfd"), "{table}");
    }
    for program in PAIRS {
        let output = mpirun(4, "", program, "--impl ironband -c -i 3 -x 1 -m 1:16K", &[]);
        assert_passes(&output, 15, program);
    }
}

#[test]
fn a_line_carries_short_messages_one_at_a_time() {
    for (ranks, program) in [(2, LATENCY), (4, PAIRS[1])] {
        let output = mpirun(ranks, "", program, "--impl line -c -f -i 100 -x 1 -m 0:32", &[]);
        assert_passes(&output, 7, program);
    }
    for (program, arguments, reason) in [
        (LATENCY, "--impl line", "--impl line carries up to 56 bytes; say -m 0:32"),
        (
            PAIRS[0],
            "--impl line",
            "--impl line: a line carries one message at a time; osu_latency measures it",
        ),
        (LATENCY, "--impl nothing", "[possible values: mpi, ironband, line]"),
        (MANY_THREADS, "--impl ironband", "unexpected argument '--impl'"),
    ] {
        let output = mpirun(2, "--mca btl vader,self", program, arguments, &[]);
        assert!(!output.status.success(), "{program} {arguments}");
        let said = text(&output.stderr);
        assert_eq!(said.matches(reason).count(), 1, "{program} {arguments}: {said}");
    }
}

#[test]
fn many_threads_on_both_sides_validate() {
    let program = MANY_THREADS;
    for threads in ["1:1", "3:2", "2:3"] {
        let arguments = format!("-c -i 6 -x 3 -m 0:16 -t {threads}");
        assert_passes(&mpirun(2, "--mca btl vader,self", program, &arguments, &[]), 6, &arguments);
    }
}

#[test]
fn one_sided_benchmarks_validate_with_every_window_and_synchronization() {
    for program in ONE_SIDED {
        for window in ["create", "allocate", "dynamic"] {
            for sync in ["flush", "flush_local", "lock", "lock_all", "pscw", "fence"] {
                let arguments = format!("-c -i 3 -x 1 -m 1:4K -w {window} -s {sync}");
                let output = mpirun(2, "--mca btl vader,self", program, &arguments, &[]);
                assert_passes(&output, 13, &format!("{program} {arguments}"));
            }
        }
    }
}

/// Over tcp alone, windows on memory of the program need osc/pt2pt, which Debian switches off in
/// openmpi-mca-params.conf; without it MPI_Win_create itself fails.
#[test]
fn one_sided_benchmarks_validate_over_tcp() {
    for program in ONE_SIDED {
        let output =
            mpirun(2, "--mca btl tcp,self --mca osc pt2pt", program, "-c -i 3 -x 1 -m 1:4K -w create", &[]);
        assert_passes(&output, 13, program);
    }
}

/// The library that spoils messages, built once for all tests.
fn corrupting_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libcorrupting_mpi.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corrupting_mpi.c");
        let mut compiler = Command::new("mpicc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        let built = compiler.status().expect("mpicc is installed: the build needed it");
        assert!(built.success());
        library
    })
}

fn spoiled(ranks: u32, program: &str, arguments: &str, corrupt: &str) -> Output {
    let environment = [("LD_PRELOAD", corrupting_library().into()), ("CORRUPT", corrupt.into())];
    mpirun(ranks, "--mca btl vader,self", program, arguments, &environment)
}

#[test]
fn one_wrong_byte_fails_its_size_alone_and_the_exit_status() {
    for program in TWO_SIDED.into_iter().chain(PAIRS).chain(ONE_SIDED) {
        for offset in [0, 37, 127] {
            let output = spoiled(2, program, "-c -i 2 -x 0 -m 64:256", &format!("128:{offset}"));
            let shown = format!("{program}\n{}\n{}", text(&output.stdout), text(&output.stderr));
            assert!(!output.status.success(), "{shown}");
            let verdicts: Vec<_> = rows(&output).iter().map(|row| row.contains("Fail")).collect();
            assert_eq!(verdicts, [false, true, false], "{shown}");
            assert!(text(&output.stderr).contains("of 128 bytes from rank"), "{shown}");
        }
    }
}

#[test]
fn a_byte_written_behind_a_message_fails() {
    for program in [env!("CARGO_BIN_EXE_osu_latency"), env!("CARGO_BIN_EXE_osu_bw")] {
        let output = spoiled(2, program, "-c -i 2 -x 0 -m 128:128", "128:128");
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains("behind the message, byte 128"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_failure_is_in_the_json_document_too() {
    let output = spoiled(2, env!("CARGO_BIN_EXE_osu_bw"), "-c -f --json -i 2 -x 0 -m 64:128", "128:5");
    assert!(!output.status.success());
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["benchmark"], "osu_bw");
    assert_eq!(document["options"]["window_size"], 64);
    let rows = document["rows"].as_array().expect("rows");
    assert_eq!((rows[0]["size_bytes"].as_u64(), rows[1]["size_bytes"].as_u64()), (Some(64), Some(128)));
    assert_eq!((&rows[0]["validation"], &rows[1]["validation"]), (&"pass".into(), &"fail".into()));
    let metric = document["metric"].as_str().expect("the name of the first metric");
    for row in rows {
        assert!(row[metric].as_f64().is_some_and(|value| value > 0.0), "{row}");
        let statistics = &row["statistics"];
        let values = ["min", "p50", "p90", "p99", "max"].map(|key| statistics[key].as_f64().expect(key));
        assert!(values.is_sorted(), "{row}");
    }
}

#[test]
fn tables_have_osus_columns() {
    let output = mpirun(2, "--mca btl vader,self", env!("CARGO_BIN_EXE_osu_latency"), "-i 2 -x 0 -m 4", &[]);
    let table = text(&output.stdout);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("# Ironband osu_latency (OSU-compatible) "), "{table}");
    assert!(lines.contains(&"# Size          Latency (us)"), "{table}");
    let sizes: Vec<_> = rows(&output).iter().map(|row| row[..10].trim().to_owned()).collect();
    assert_eq!(sizes, ["0", "1", "2", "4"], "{table}");
    assert!(
        rows(&output).iter().all(|row| row.len() == 28 && row[10..].trim().parse::<f64>().is_ok()),
        "{table}"
    );

    let output = mpirun(2, "--mca btl vader,self", env!("CARGO_BIN_EXE_osu_mbw_mr"), "-i 2 -x 0 -m 4", &[]);
    let table = text(&output.stdout);
    assert!(table.contains("# [ pairs: 1 ] [ window size: 64 ]"), "{table}");
    assert!(table.contains("# Size                  MB/s        Messages/s\n"), "{table}");
}

#[test]
fn touch_runs_everywhere() {
    for program in TWO_SIDED.into_iter().chain(ONE_SIDED) {
        let output = mpirun(2, "--mca btl vader,self", program, "--touch -f -i 3 -x 1 -m 1:64K", &[]);
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
        assert_eq!(rows(&output).len(), 17, "{program}");
        assert!(text(&output.stdout).contains("every cache line of a message is written"), "{program}");
    }
}

#[test]
fn mistakes_are_told_once_with_the_value_and_a_status() {
    for (ranks, program, arguments, wanted) in [
        (2, env!("CARGO_BIN_EXE_osu_bw"), "-i 0", "0 is not in 1..=100000000"),
        (2, env!("CARGO_BIN_EXE_osu_bw"), "-m 0:8", "-m 0:8"),
        (2, env!("CARGO_BIN_EXE_osu_latency_mt"), "-t 4 -i 3", "each of the 4 sender threads"),
        (3, env!("CARGO_BIN_EXE_osu_put_bw"), "", "exactly 2 ranks and was started with 3"),
        (3, env!("CARGO_BIN_EXE_osu_mbw_mr"), "", "an even number of at least 2 ranks"),
    ] {
        let output = mpirun(ranks, "--mca btl vader,self", program, arguments, &[]);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{program} {arguments}\n{shown}");
        assert_eq!(shown.matches(wanted).count(), 1, "{program} {arguments}\n{shown}");
        assert!(rows(&output).iter().all(|row| row.starts_with("---") || row.is_empty()), "{shown}");
    }
}
