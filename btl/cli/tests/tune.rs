//! `ironband tune`: what it explains and counts, and one small measurement from end to end, with the table
//! that comes out of it.

use std::path::Path;
use std::process::{Command, Output};

const IRONBAND: &str = env!("CARGO_BIN_EXE_ironband");
const TABLE: &str = "IRONBAND_COLLECTIVES_TABLE";

fn tune(words: &[&str]) -> Output {
    Command::new(IRONBAND).arg("tune").args(words).env_remove(TABLE).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(words: &[&str]) -> String {
    let output = tune(words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_choice_is_explained_by_the_table_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.toml");
    std::fs::write(&file, "[table]\nallreduce_whole_max = 65536\n").unwrap();
    let name = file.to_str().unwrap();
    let words = ["--explain", "allreduce", "64KiB", "-n", "8"];
    let explained = output(&words);
    assert!(explained.contains("by the default table\n  takes    allreduce::rabenseifner"), "{explained}");
    let because = "because  64 KiB is not above allreduce_whole_max (64 KiB)\n";
    let explained = output(&[&words[..], &["--table", name]].concat());
    assert!(
        explained.contains(&format!("by the table of {name}\n")) && explained.contains(because),
        "{explained}"
    );
    let by_variable = Command::new(IRONBAND).arg("tune").args(words).env(TABLE, name).output().unwrap();
    assert_eq!(text(&by_variable.stdout), explained);
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.toml");
    std::fs::write(&file, "[table]\nwindow = 0\n").unwrap();
    let name = file.to_str().unwrap();
    for (words, wanted) in [
        (
            &["--costs", "--table", name][..],
            format!("{name}:2: \"window = 0\" is refused: it must be 1 at least"),
        ),
        (&["--explain", "allreduce"], "an operation and a length are wanted".to_owned()),
        (&["--output", "/nowhere/table.toml"], "there is no folder /nowhere".to_owned()),
        (&["-n", "1"], "-n 1: between 2 and 4096 processes can measure".to_owned()),
        (&["--table", name], "--table is for --explain and --costs".to_owned()),
    ] {
        let output = tune(words);
        assert!(
            !output.status.success() && text(&output.stderr).contains(&wanted),
            "{words:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn costs_are_counted_to_the_number_of_ranks_that_is_asked_for() {
    let costs = output(&["--costs", "--max-ranks", "50"]);
    let ranks: std::collections::BTreeSet<&str> = costs
        .lines()
        .skip(4)
        .filter_map(|line| line.split(')').next_back()?.split_whitespace().next())
        .collect();
    assert!(ranks.contains("50"), "{ranks:?}");
    // 5 of these 7 numbers of ranks are even powers of nothing: every line says whose schedules it is from.
    assert!(
        costs.lines().skip(4).all(|line| line.ends_with("  all") || line.ends_with("  1, alike")),
        "{costs}"
    );
    assert!(costs.lines().filter(|line| line.starts_with("allreduce ")).count() == 7 * 3 * 3, "{costs}");
}

/// What a small measurement writes is a table, and processes take it.
#[test]
fn a_measurement_writes_a_table_that_processes_take() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.toml");
    let name = file.to_str().unwrap();
    for ranks in ["2", "3"] {
        let report = output(&["-n", ranks, "--rounds", "1", "--output", name]);
        assert!(report.contains(&format!("\n{ranks} ranks: alpha ")), "{report}");
        for row in ["bcast_tree_max", "allreduce_whole_max", "scan_chain_min"] {
            assert!(report.lines().any(|line| line.starts_with(row)), "no {row}: {report}");
        }
        let written = std::fs::read_to_string(&file).unwrap();
        assert!(
            written.contains(&format!("\nranks = {ranks}\n")) && written.contains("\n[model]\n"),
            "{written}"
        );
        let explained = output(&["--explain", "bcast", "1M", "-n", "3", "--table", name]);
        assert!(!explained.contains("nominal"), "the model of the file counts: {explained}");
    }
    let same = job(&format!("export {TABLE}={name}"), folder.path());
    assert!(same.status.success(), "{}", text(&same.stderr));
}

/// Three processes that measure, of which each runs this line of the shell before.
fn job(line: &str, folder: &Path) -> Output {
    let rank = format!(
        "{line}; exec {IRONBAND} tune-rank --machine=none --rounds=1 --output={}",
        folder.join("out.toml").display()
    );
    let mut command = Command::new(IRONBAND);
    command.args(["run", "-n", "3", "sh", "-c", &rank]).env_remove(TABLE);
    command.output().expect("the program runs")
}

/// Who has another table than the others is found out by the first operation, and named by all.
#[test]
fn processes_with_different_tables_do_not_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.toml");
    std::fs::write(&file, "[table]\nbcast_radix = 3\n").unwrap();
    let line = format!("[ $PMI_RANK = 1 ] && export {TABLE}={}", file.display());
    let outcome = job(&line, folder.path());
    let said = text(&outcome.stderr);
    assert!(!outcome.status.success(), "{said}");
    assert!(said.contains("ranks 0 and 1 of the communicator choose algorithms differently"), "{said}");
    assert!(!folder.path().join("out.toml").exists());
}
