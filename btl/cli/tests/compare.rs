//! `ironband compare` from its command line to its files, with an `mpirun`, an `ompi_info` and benchmarks that only
//! pretend: what ran, in which order, and what is said about it.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Takes the options that `ironband` gives and runs the rest, with MCA parameters in the environment as `mpirun` does.
const MPIRUN: &str = r#"#!/bin/sh
set -eu
if [ "$1" = --version ]; then echo 'mpirun (Open MPI) 4.1.4'; exit; fi
while [ $# -gt 0 ]; do
    case $1 in
        -n|--bind-to) shift 2 ;;
        --oversubscribe) shift ;;
        --mca) export "OMPI_MCA_$2=$3"; shift 3 ;;
        *) break ;;
    esac
done
exec "$@"
"#;

const OMPI_INFO: &str = r#"#!/bin/sh
echo 'ompi:version:full:4.1.4'
echo 'path:pkglibdir:/usr/lib/openmpi3'
for component in btl:self btl:fast btl:slow pml:ob1; do echo "mca:$component:version:\"mca:2.1.0\""; done
echo 'mca:mca:base:param:mca_base_component_path:value:/usr/lib/openmpi3'
"#;

/// Latencies by transport; every run leaves a line in the log.
const LATENCY: &str = r#"#!/bin/sh
if [ "$1" = --help ]; then echo 'usage: osu_latency -m MIN:MAX'; exit; fi
echo "$OMPI_MCA_btl $OMPI_MCA_pml $*" >> "$LOG"
rounds=$(grep -c "^$OMPI_MCA_btl" "$LOG")
case $OMPI_MCA_btl in
    fast,*) eight=0.1$rounds; big=2.00 ;;
    slow,*) eight=0.4$rounds; big=1.00 ;;
esac
echo '# OSU MPI Latency Test v7.0'
printf '# %-8s%18s\n0         %18s\n8         %18s\n65536     %18s\n' Size 'Latency (us)' 0.00 "$eight" "$big"
"#;

/// A benchmark that knows JSON.
const RATE: &str = r#"#!/bin/sh
case "$*" in
    *--help*) echo 'usage: osu_mbw_mr [--json]' ;;
    *--json*) echo '{"rows": [{"size_bytes": 8, "bandwidth_mb_per_s": 174.4375, "messages_per_s": 21804687.5}]}' ;;
    *) echo 'the table was asked for' >&2; exit 2 ;;
esac
"#;

/// The program of collective operations: which one it is told comes first.
const COLLECTIVE: &str = r#"#!/bin/sh
case "$*" in
    --list) printf 'allreduce\niallreduce\n' ;;
    *--help*) echo 'usage: osu_collective OPERATION [--json]' ;;
    allreduce*) echo "$*" >> "$LOG"; echo '{"rows": [{"size_bytes": 8, "latency_us": 0.5}]}' ;;
    iallreduce*) echo "$*" >> "$LOG"
        echo '{"rows": [{"size_bytes": 8, "overall_us": 3.0, "compute_us": 2.0, "pure_communication_us": 2.0, "overlap_percent": 0.0}]}' ;;
    *) echo "no such operation: $*" >&2; exit 2 ;;
esac
"#;

struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(stage.path("benches")).unwrap();
        stage.script("mpirun", MPIRUN);
        stage.script("ompi_info", OMPI_INFO);
        stage.script("benches/osu_latency", LATENCY);
        stage.script("benches/osu_mbw_mr", RATE);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn compare(&self, arguments: &[&str]) -> Output {
        let path = std::env::var_os("PATH").unwrap();
        let folders = std::iter::once(self.folder.path().to_owned()).chain(std::env::split_paths(&path));
        Command::new(env!("CARGO_BIN_EXE_ironband"))
            .arg("compare")
            .args(["--bench-dir", self.path("benches").to_str().unwrap()])
            .args(arguments)
            .env("PATH", std::env::join_paths(folders).unwrap())
            .env("LOG", self.path("log"))
            .output()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn transports_take_turns_and_medians_are_divided() {
    let stage = Stage::new();
    let (json, svg) = (stage.path("out.json"), stage.path("out.svg"));
    let files = ["--json", json.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    let base = ["--btl", "fast,slow", "--rounds", "3", "-n", "1", "-m", "8:65536"];
    let output = stage.compare(&[&base, files.as_slice(), &["--", "-i", "10"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));

    let order: Vec<String> = stage.log().lines().map(str::to_owned).collect();
    let turn = |btl: &str| format!("{btl},self ob1 -m 8:65536 -i 10");
    assert_eq!(order, ["fast", "slow", "slow", "fast", "fast", "slow"].map(turn));

    let table = text(&output.stdout);
    assert!(table.contains("above 1, fast is better"), "{table}");
    let row = table.lines().find(|line| line.starts_with("8 ")).unwrap();
    let fields: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(fields, ["8", "0.120", "[0.110-0.130]", "0.420", "[0.410-0.430]", "3.50", "[3.31-3.73]"]);
    let row = table.lines().find(|line| line.starts_with("65536 ")).unwrap();
    assert!(row.ends_with("0.50 [0.50-0.50]"), "{row}");
    let row = table.lines().find(|line| line.starts_with("0 ")).unwrap();
    assert!(row.ends_with(" -"), "zero cannot be divided: {row}");

    let document = read_json(&json);
    let benchmark = &document["benchmarks"][0];
    assert_eq!(document["open_mpi_version"], "4.1.4");
    assert!(document["machine"]["cores"]["cores"].as_u64().unwrap() >= 1);
    assert_eq!(benchmark["runs"].as_array().unwrap().len(), 6);
    assert_eq!(benchmark["runs"][1]["transport"], "slow");
    assert_eq!(benchmark["runs"][1]["measurement"]["columns"][0]["values"]["8"], 0.41);
    assert_eq!(benchmark["tables"][0]["rows"][1]["cells"][0]["summary"]["median"], 0.12);

    let drawing = fs::read_to_string(svg).unwrap();
    for label in ["Latency (us)", "Message size (bytes)", "fast", "slow", "64K"] {
        assert!(drawing.contains(label), "the plot lacks {label}");
    }
}

#[test]
fn a_benchmark_that_knows_json_is_asked_for_it() {
    let stage = Stage::new();
    let json = stage.path("out.json");
    let base = ["--btl", "fast", "--bench", "osu_mbw_mr,osu_latency", "--rounds", "1", "-n", "1"];
    let output = stage.compare(&[base.as_slice(), &["--json", json.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document = read_json(&json);
    assert_eq!(document["benchmarks"][0]["tables"][0]["rows"][0]["cells"][0]["summary"]["median"], 174.4375);
    assert_eq!(document["benchmarks"][0]["tables"][1]["metric"], "message_rate");
    assert_eq!(document["benchmarks"][1]["name"], "osu_latency");
    assert_eq!(document["benchmarks"][0]["arguments"], serde_json::json!([]));
}

#[test]
fn collective_operations_are_parts_of_one_program() {
    let stage = Stage::new();
    stage.script("benches/osu_collective", COLLECTIVE);
    let (json, svg) = (stage.path("out.json"), stage.path("out.svg"));
    let base =
        ["--btl", "fast,rust", "--bench", "osu_allreduce,osu_iallreduce", "--rounds", "1", "-m", "8:8"];
    let files = ["--json", json.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    let output = stage.compare(&[base.as_slice(), &files].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ran: Vec<String> = stage.log().lines().map(str::to_owned).collect();
    let commands = ["-m 8:8 --json", "--impl ironband -m 8:8 --json"];
    let want = ["allreduce", "iallreduce"].map(|name| commands.map(|rest| format!("{name} {rest}")));
    assert_eq!(ran, want.concat());

    let document = read_json(&json);
    let benchmark = &document["benchmarks"][1];
    assert_eq!(document["benchmarks"][0]["name"], "osu_allreduce");
    assert_eq!(benchmark["name"], "osu_iallreduce");
    let metrics = benchmark["tables"].as_array().unwrap().iter().map(|table| &table["metric"]);
    assert_eq!(metrics.collect::<Vec<_>>(), ["overall", "pure_communication", "overlap"]);
    let table = text(&output.stdout);
    for words in
        ["osu_iallreduce -m 8:8: overlap in %, higher is better", "pure communication in us, lower is better"]
    {
        assert!(table.contains(words), "{words}: {table}");
    }
    let drawing = fs::read_to_string(svg).unwrap();
    assert!(drawing.contains("Overall time (us)") && !drawing.contains("Overlap"), "a share of 0 was drawn");
}

#[test]
fn a_name_that_no_program_has_is_told_what_there_is() {
    let stage = Stage::new();
    stage.script("benches/osu_collective", COLLECTIVE);
    let output = stage.compare(&["--btl", "fast", "--bench", "osu_alreduce"]);
    let complaint = text(&output.stderr);
    assert!(!output.status.success() && stage.log().is_empty());
    assert!(complaint.contains("has osu_allreduce, osu_iallreduce"), "{complaint}");
    stage.script("benches/osu_collective", "#!/bin/sh\necho 'no library' >&2\nexit 127\n");
    let complaint = text(&stage.compare(&["--btl", "fast", "--bench", "osu_allreduce"]).stderr);
    assert!(complaint.contains("--list ended with exit status: 127: no library"), "{complaint}");
}

#[test]
fn a_transport_that_fails_is_left_out_and_the_others_go_on() {
    let stage = Stage::new();
    let failing = LATENCY.replace("slow,*) ", "slow,*) echo 'no route to rank 1' >&2; exit 7;; never) ");
    stage.script("benches/osu_latency", &failing);
    let json = stage.path("out.json");
    let base = ["--btl", "fast,slow", "--rounds", "3", "-n", "1"];
    let output = stage.compare(&[base.as_slice(), &["--json", json.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(
        complaint.contains("| no route to rank 1") && complaint.contains("exit status: 7"),
        "{complaint}"
    );
    assert!(complaint.contains("--mca btl slow,self"), "the command is not shown: {complaint}");
    let log = stage.log();
    assert_eq!(log.lines().filter(|line| line.starts_with("slow")).count(), 1);
    assert_eq!(log.lines().filter(|line| line.starts_with("fast")).count(), 3);
    assert!(text(&output.stdout).contains("0.120 [0.110-0.130]"));
    assert_eq!(read_json(&json)["benchmarks"][0]["runs"][1]["failure"], "the run ended with exit status: 7");
}

#[test]
fn the_command_that_is_shown_runs_as_it_stands() {
    let stage = Stage::new();
    stage.script("benches/osu_latency", "#!/bin/sh\necho \"saw: $*\" >&2\nexit 7\n");
    let output = stage.compare(&["--btl", "fast", "--rounds", "1", "-n", "1", "--", "two words", "it's"]);
    let complaint = text(&output.stderr);
    let command = complaint.lines().find_map(|line| line.trim().strip_prefix("command: ")).unwrap();
    let again = Command::new("sh").args(["-c", command]).output().unwrap();
    assert_eq!(again.status.code(), Some(7));
    assert_eq!(text(&again.stderr).trim(), "saw: two words it's");
}

#[test]
fn a_run_that_hangs_is_ended() {
    let stage = Stage::new();
    stage.script("benches/osu_latency", "#!/bin/sh\n[ \"$1\" = --help ] || exec sleep 60\n");
    let output = stage.compare(&["--btl", "fast", "--rounds", "1", "-n", "1", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("ended after 1 s (--timeout)"), "{}", text(&output.stderr));
}

#[test]
fn what_cannot_run_is_refused_before_anything_runs() {
    let stage = Stage::new();
    for (arguments, words) in [
        (["--btl", "fast,openib", "--bench", "osu_latency"], "there are fast, slow"),
        (["--btl", "ironband", "--bench", "osu_latency"], "ironband doctor"),
        (["--btl", "fast", "--bench", "osu_absent"], "--bench-dir"),
        (["--btl", "fast", "-m", "16:8"], "larger"),
        (["--btl", "fast", "--rounds", "0"], "0 is not in 1..=1000"),
    ] {
        let output = stage.compare(&arguments);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(stage.log(), "");
}

#[test]
fn a_component_folder_comes_first_and_keeps_the_others() {
    let stage = Stage::new();
    let listing =
        LATENCY.replace("echo \"$OMPI_MCA_btl ", "echo \"$OMPI_MCA_btl $OMPI_MCA_mca_base_component_path ");
    stage.script("benches/osu_latency", &listing);
    let folder = stage.path("components");
    fs::create_dir(&folder).unwrap();
    let base = ["--btl", "fast", "--rounds", "1", "-n", "1"];
    let output = stage.compare(&[base.as_slice(), &["--component-dir", folder.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let want = format!("{}:/usr/lib/openmpi3", folder.canonicalize().unwrap().display());
    assert_eq!(stage.log().split_whitespace().nth(1), Some(want.as_str()));
}
