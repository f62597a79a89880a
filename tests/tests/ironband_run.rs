//! `ironband run` as its user sees it: statuses, signals, output, input, what is left when it is killed, and what it may be nested in.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ironband_tests::{Ended, Job, Outcome, build_ironband, wait_for_turn};
use rustix::process::Signal;

const AGENT: &str = env!("CARGO_BIN_EXE_wire_up_agent");

/// Every job is over long before.
const WHOLE: Duration = Duration::from_secs(60);

/// Processes are given 5 seconds when they are asked to end: what ends faster was not waited for.
const AT_ONCE: Duration = Duration::from_secs(4);

fn turn() -> impl Sized {
    wait_for_turn(env!("CARGO_TARGET_TMPDIR"))
}

fn own() -> String {
    static PATH: OnceLock<String> = OnceLock::new();
    let build = || build_ironband().unwrap_or_else(|error| panic!("{error:#}")).path.display().to_string();
    PATH.get_or_init(build).clone()
}

/// `ironband run` with these words, and this on its standard input.
fn start_with(words: &[&str], stdin: &[u8]) -> Job {
    let mut all = vec![own(), "run".to_owned()];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    Job::start_command(&all, &[], stdin).unwrap_or_else(|error| panic!("{error:#}"))
}

fn start(words: &[&str]) -> Job {
    start_with(words, b"")
}

fn finish(job: Job) -> Outcome {
    job.finish(WHOLE)
}

fn run(words: &[&str]) -> Outcome {
    finish(start(words))
}

fn status(outcome: &Outcome) -> i32 {
    match outcome.ended {
        Ended::By(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap()),
        Ended::TimedOut(_) => panic!("{}", outcome.explain()),
    }
}

#[track_caller]
fn assert_status(outcome: &Outcome, wanted: i32) {
    assert_eq!(status(outcome), wanted, "{}", outcome.explain());
}

/// Waits until all of `ranks` processes have printed `ready`.
fn wait_until_ready(job: &mut Job, ranks: usize) {
    let ready = |output: &str| output.lines().filter(|line| line.contains("ready")).count() == ranks;
    assert!(job.wait_for_output(WHOLE, ready).unwrap(), "{}\n{}", job.stdout(), job.stderr());
}

#[test]
fn the_status_is_that_of_the_first_that_fails() {
    let _turn = turn();
    let outcome = run(&[
        "-n",
        "3",
        "sh",
        "-c",
        "case $PMI_RANK in 1) exit 7;; 2) sleep 0.4; exit 5;; *) sleep 50;; esac",
    ]);
    assert_status(&outcome, 7);
    assert!(outcome.took < AT_ONCE, "{}", outcome.explain());
    let line = outcome.stderr.lines().next().unwrap_or_default();
    assert!(line.starts_with("ironband run: rank 1 (process "), "{}", outcome.explain());
    assert!(line.ends_with(") ended with status 7; the 2 others are being ended"), "{}", outcome.explain());
    assert_eq!(outcome.stderr.lines().count(), 1, "what follows is its consequence\n{}", outcome.explain());
}

#[test]
fn a_program_that_never_calls_pmi() {
    let _turn = turn();
    assert_status(&run(&["-n", "3", "true"]), 0);
    assert_status(&run(&["-n", "3", "false"]), 1);
    let outcome = run(&["-n", "2", "sh", "-c", "kill -SEGV $$"]);
    assert_status(&outcome, 128 + 11);
    assert!(outcome.stderr.contains("was ended by signal 11 (SIGSEGV)"), "{}", outcome.explain());
}

#[test]
fn the_status_of_an_abort() {
    let _turn = turn();
    for (code, wanted) in [("9", 9), ("0", 1), ("256", 1)] {
        let outcome = run(&["-n", "3", AGENT, "abort", "1", code]);
        assert_status(&outcome, wanted);
        let wanted = "ironband run: rank 1 has aborted the job: this is a test; the 2 others are being ended";
        assert!(outcome.stderr.lines().any(|line| line == wanted), "{}", outcome.explain());
    }
}

#[test]
fn a_program_that_cannot_be_started() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let not_executable = file("text", "hello", 0o644);
    let no_interpreter = file("script", "#!/no/such/interpreter\n", 0o755);
    let folder_itself = folder.path().display().to_string();
    for (program, wanted, says) in [
        ("no-such-program-anywhere", 127, "it is looked for in PATH"),
        ("Cargo.toml", 127, "./Cargo.toml is here"),
        ("./no-such-program", 127, "No such file"),
        (&no_interpreter, 127, "its interpreter"),
        (&not_executable, 126, "chmod +x"),
        (&folder_itself, 126, "it is a folder"),
    ] {
        let outcome = run(&["-n", "2", program]);
        assert_status(&outcome, wanted);
        let line = outcome.stderr.trim_end();
        assert!(line.starts_with("ironband run: ") && line.contains(program), "{}", outcome.explain());
        assert!(line.contains(says) && !line.contains('\n'), "no {says:?}\n{}", outcome.explain());
    }
}

/// What is meant for the launcher is not taken for a program.
#[test]
fn options_that_are_not_there() {
    let _turn = turn();
    for words in [&["--tagoutput", "true"][..], &["-q", "true"], &["-n", "0", "true"], &["-n", "true"], &[]] {
        let outcome = run(words);
        assert_status(&outcome, 2);
        assert!(outcome.stderr.contains("error: "), "{}", outcome.explain());
    }
    for words in [
        &["-np", "2", "echo", "-np", "x"][..],
        &["--np", "2", "echo", "-np", "x"],
        &["-n2", "--", "echo", "-np", "x"],
    ] {
        assert_eq!(run(words).stdout, "-np x\n-np x\n");
    }
    let version = run(&["--version"]);
    assert_status(&version, 0);
    assert!(version.stdout.trim_end().ends_with(env!("CARGO_PKG_VERSION")), "{}", version.explain());
    let help = run(&["--help"]).stdout;
    for wanted in ["Exit status: ", "Signals: ", "Example: ", "[ARGUMENTS]", "PMI_RANK"] {
        assert!(help.contains(wanted), "no {wanted:?} in\n{help}");
    }
}

/// Says which signal has come, and ends.
const TRAPS: &str = "for s in TERM INT HUP; do trap \"echo $PMI_RANK got $s; exit 3\" $s; done; echo ready; \
                     while :; do sleep 0.05; done";

#[test]
fn signals_are_handed_on() {
    let _turn = turn();
    for (signal, name, wanted) in
        [(Signal::TERM, "TERM", 143), (Signal::INT, "INT", 130), (Signal::HUP, "HUP", 129)]
    {
        let mut job = start(&["-n", "3", "sh", "-c", TRAPS]);
        wait_until_ready(&mut job, 3);
        job.signal(job.launcher_pid(), signal);
        let outcome = finish(job);
        assert_status(&outcome, wanted);
        for rank in 0..3 {
            let wanted = format!("{rank} got {name}");
            assert!(outcome.stdout.lines().any(|line| line == wanted), "{}", outcome.explain());
        }
    }
}

#[test]
fn user_signals_end_nothing() {
    let _turn = turn();
    let script = "trap 'echo got USR1; exit 0' USR1; echo ready; while :; do sleep 0.05; done";
    let mut job = start(&["-n", "2", "sh", "-c", script]);
    wait_until_ready(&mut job, 2);
    job.signal(job.launcher_pid(), Signal::USR1);
    let outcome = finish(job);
    assert_status(&outcome, 0);
    assert_eq!(outcome.stdout.matches("got USR1").count(), 2, "{}", outcome.explain());
}

const DEAF: &str = "trap '' TERM INT; echo ready; while :; do sleep 0.05; done";

#[test]
fn who_does_not_hear_is_killed() {
    let _turn = turn();
    let mut job = start(&["-n", "2", "sh", "-c", DEAF]);
    wait_until_ready(&mut job, 2);
    let began = Instant::now();
    job.signal(job.launcher_pid(), Signal::TERM);
    let outcome = finish(job);
    assert_status(&outcome, 143);
    assert!((4..9).contains(&began.elapsed().as_secs()), "{:?}\n{}", began.elapsed(), outcome.explain());
}

#[test]
fn a_second_signal_kills_at_once() {
    let _turn = turn();
    let mut job = start(&["-n", "2", "sh", "-c", DEAF]);
    wait_until_ready(&mut job, 2);
    let began = Instant::now();
    job.signal(job.launcher_pid(), Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    job.signal(job.launcher_pid(), Signal::INT);
    let outcome = finish(job);
    assert_status(&outcome, 130);
    assert!(began.elapsed() < AT_ONCE, "{}", outcome.explain());
}

/// A stopped process does not hear that it is to end.
#[test]
fn a_stopped_process_is_ended_too() {
    let _turn = turn();
    let outcome =
        run(&["-n", "2", "sh", "-c", "[ $PMI_RANK = 1 ] || { sleep 0.3; exit 4; }; kill -STOP $$; sleep 50"]);
    assert_status(&outcome, 4);
    assert!(outcome.took < AT_ONCE, "{}", outcome.explain());
}

#[test]
fn nothing_outlives_a_launcher_that_is_killed() {
    let _turn = turn();
    // The children of a process are its group; the inner launcher's processes have groups of their own.
    let nested = format!("{} run -n 2 sh -c 'sleep 70 & echo ready; sleep 70'", own());
    for (script, ready) in
        [("sleep 70 & sh -c 'sleep 70 & sleep 70' & echo ready; sleep 70", 3), (&nested, 6)]
    {
        let mut job = start(&["-n", "3", "sh", "-c", script]);
        wait_until_ready(&mut job, ready);
        assert!(job.processes().len() > 2 * ready, "{:?}", job.processes());
        job.kill(job.launcher_pid());
        let outcome = finish(job);
        assert_status(&outcome, 137);
    }
}

/// What a process leaves in its group when it ends does not outlive the job either.
#[test]
fn nothing_outlives_a_job_that_ends() {
    let _turn = turn();
    for (last, wanted) in [("true", 0), ("exit 6", 6)] {
        let outcome = run(&["-n", "2", "sh", "-c", &format!("sleep 70 >/dev/null 2>&1 & {last}")]);
        assert_status(&outcome, wanted);
        assert!(outcome.took < AT_ONCE, "{}", outcome.explain());
    }
}

#[test]
fn tagged_lines_are_whole() {
    let _turn = turn();
    // A line in pieces, a last line without an end, and enough of them that writes would mix.
    let script = "i=0; while [ $i -lt 300 ]; do printf '%s' \"$PMI_RANK:$i:\"; printf '%s\\n' abcdefghijklmnopqrstuvwxyz; \
                  i=$((i+1)); done; echo err >&2; printf last";
    let outcome = run(&["-n", "11", "--tag-output", "sh", "-c", script]);
    assert_status(&outcome, 0);
    for rank in 0..11 {
        let tag = format!("[{rank:>2}] ");
        let lines: Vec<&str> = outcome.stdout.lines().filter_map(|line| line.strip_prefix(&*tag)).collect();
        let mut wanted: Vec<String> =
            (0..300).map(|i| format!("{rank}:{i}:abcdefghijklmnopqrstuvwxyz")).collect();
        wanted.push("last".to_owned());
        assert_eq!(lines, wanted, "rank {rank}");
        assert_eq!(outcome.stderr.lines().filter(|line| *line == format!("{tag}err")).count(), 1);
    }
    assert_eq!(outcome.stdout.lines().count(), 11 * 301);
    assert_eq!(outcome.stderr.lines().count(), 11);
}

#[test]
fn variables_reach_all_processes() {
    let _turn = turn();
    let outcome = run(&[
        "-n",
        "2",
        "-x",
        "A=one two",
        "--env",
        "B=",
        "-x",
        "PATH",
        "sh",
        "-c",
        "echo \"[$A][$B][${PATH:+path}]\"",
    ]);
    assert_eq!(outcome.stdout, "[one two][][path]\n[one two][][path]\n", "{}", outcome.explain());
    let outcome = run(&["-x", "NOBODY_SETS_THIS", "true"]);
    assert_status(&outcome, 2);
    assert!(outcome.stderr.contains("NOBODY_SETS_THIS is not set here"), "{}", outcome.explain());
}

#[test]
fn standard_input_reaches_rank_0_only() {
    let _turn = turn();
    let text = "line\n".repeat(50_000);
    let outcome = finish(start_with(&["-n", "3", "-t", "sh", "-c", "wc -c"], text.as_bytes()));
    assert_status(&outcome, 0);
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] 250000", "[1] 0", "[2] 0"], "{}", outcome.explain());
    // One that does not read it does not stop the job.
    assert_status(&finish(start_with(&["-n", "2", "true"], text.as_bytes())), 0);
}

#[test]
fn more_ranks_than_cores() {
    let _turn = turn();
    let outcome = run(&["-n", "64", AGENT, "check"]);
    assert_status(&outcome, 0);
    for rank in 0..64 {
        let begins = format!("{rank} of 64: ok, PMI-1 by ironband run, ");
        assert!(outcome.stdout.lines().any(|line| line.starts_with(&begins)), "{}", outcome.explain());
    }
}

/// Another process's socket would keep its connection open after its end.
#[test]
fn each_process_has_its_own_socket_only() {
    let _turn = turn();
    let outcome = run(&["-n", "4", "sh", "-c", "ls -l /proc/$$/fd | grep -c socket:"]);
    assert_eq!(outcome.stdout, "1\n1\n1\n1\n", "{}", outcome.explain());
}

/// Each process belongs to the innermost job.
#[test]
fn jobs_in_jobs() {
    let _turn = turn();
    let own = own();
    let inner = [&own, "run", "-n", "2", AGENT, "check"];
    let outcome = run(&[&["-n", "3"], &inner[..]].concat());
    assert_status(&outcome, 0);
    let count = |outcome: &Outcome| {
        outcome.stdout.lines().filter(|line| line.contains(" of 2: ok, PMI-1 by ironband run")).count()
    };
    assert_eq!(count(&outcome), 6, "{}", outcome.explain());
    // The status comes through both.
    assert_status(&run(&["-n", "2", &own, "run", "-n", "2", "sh", "-c", "exit 8"]), 8);
    let mpirun: Vec<String> = ["mpirun", "--oversubscribe", "-n", "2"]
        .iter()
        .chain(&inner)
        .map(|word| (*word).to_owned())
        .collect();
    match Job::start_command(&mpirun, &[], b"") {
        Ok(job) => {
            let outcome = finish(job);
            assert_status(&outcome, 0);
            assert_eq!(count(&outcome), 4, "{}", outcome.explain());
        }
        Err(error) => println!("skipped: wire_up inside of mpirun: {error:#}"),
    }
}
