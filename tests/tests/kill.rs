//! SIGKILL in the middle of traffic: nothing is left, and the job ends by naming who died.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use ironband_tests::{CompiledProgram, Ended, Job, Outcome, Row, Snapshot, compile_program};

const RANKS: u32 = 4;

/// Within this, traffic flows on the slowest machine.
const START: Duration = Duration::from_secs(60);

/// The whole of a job, from its start: `mpirun` must end within what is left of it after the kill.
const WHOLE_SECONDS: u64 = 90;

/// What may pass between the death of a rank and the end of `mpirun`.
const END: Duration = Duration::from_secs(20);

struct Traffic {
    before: Snapshot,
    job: Job,
    /// By rank.
    pids: Vec<i32>,
    /// Files that the ranks had in use.
    used: BTreeSet<PathBuf>,
}

fn program() -> CompiledProgram {
    compile_program("forever", env!("CARGO_TARGET_TMPDIR").as_ref())
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn row(args: &str) -> Row {
    Row::new("forever", RANKS, env!("CARGO_TARGET_TMPDIR")).args(args).time(WHOLE_SECONDS)
}

/// Starts endless traffic and waits until it flows.
fn start(row: &Row) -> Option<Traffic> {
    let before = Snapshot::take();
    let mut job = row.start(&program())?;
    let flows = |output: &str| pids(output).len() == RANKS as usize && output.contains("round ");
    if !job.wait_for_output(START, flows).unwrap() {
        let outcome = job.wait(Duration::ZERO).unwrap();
        panic!("no traffic after {} s\n{}", START.as_secs(), outcome.explain());
    }
    let pids = pids(&job.stdout());
    let used = job.files_used(&pids);
    println!("files in use by the ranks: {used:?}");
    Some(Traffic { before, job, pids, used })
}

/// The ids from the lines `pid <rank> <pid>`, in order of rank.
fn pids(output: &str) -> Vec<i32> {
    let mut found: Vec<(u32, i32)> = output
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("pid ")?.split(' ');
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// No process and no file is left; Open MPI's own session folder is reported, but is not ours to remove.
fn assert_nothing_left(outcome: &Outcome, before: &Snapshot, pids: &[i32], used: &BTreeSet<PathBuf>) {
    let left = before.left_behind(pids, used);
    if !outcome.session_left.is_empty() {
        println!("Open MPI left its own session folder: {:?}", outcome.session_left);
    }
    assert!(outcome.processes_left.is_empty(), "processes are left\n{}", outcome.explain());
    assert!(left.is_empty(), "files are left: {left:?}\n{}", outcome.explain());
    assert!(outcome.temporaries_left.is_empty(), "temporary files are left\n{}", outcome.explain());
}

fn kill_every_rank(args: &str) {
    let row = row(args);
    let _turn = row.turn();
    let Some(Traffic { before, job, pids, used }) = start(&row) else { return };
    for &pid in &pids {
        job.kill(pid);
    }
    let outcome = job.wait(Duration::from_secs(WHOLE_SECONDS)).unwrap();
    let Ended::By(status) = outcome.ended else {
        panic!("mpirun outlived all of its ranks\n{}", outcome.explain());
    };
    assert!(!status.success(), "mpirun calls it a success\n{}", outcome.explain());
    assert_nothing_left(&outcome, &before, &pids, &used);
    println!("mpirun ended with {status}, nothing is left");
}

#[test]
fn every_rank_killed_in_traffic() {
    kill_every_rank("");
}

#[test]
fn every_rank_killed_in_small_messages() {
    kill_every_rank("size_max=64");
}

/// Nobody is left to clean up: what is shared must have been without a name already.
#[test]
fn every_rank_and_mpirun_killed_in_traffic() {
    let row =
        row("").not_over("vader", "of Open MPI 4.1.4 leaves its segments in /dev/shm when mpirun dies too");
    let _turn = row.turn();
    let Some(Traffic { before, job, pids, used }) = start(&row) else { return };
    job.kill(job.launcher_pid());
    for &pid in &pids {
        job.kill(pid);
    }
    let outcome = job.wait(Duration::from_secs(WHOLE_SECONDS)).unwrap();
    assert_nothing_left(&outcome, &before, &pids, &used);
}

/// One rank dies: `mpirun` ends soon, and names it.
#[test]
fn one_rank_killed_in_traffic() {
    let row = row("");
    let _turn = row.turn();
    let Some(Traffic { before, job, pids, used }) = start(&row) else { return };
    let victim = 2;
    let begun = std::time::Instant::now();
    job.kill(pids[victim]);
    let outcome = job.wait(Duration::from_secs(WHOLE_SECONDS)).unwrap();
    let took = begun.elapsed();
    let Ended::By(status) = outcome.ended else {
        panic!("mpirun did not notice the death of rank {victim}\n{}", outcome.explain());
    };
    assert!(!status.success(), "mpirun calls it a success\n{}", outcome.explain());
    assert!(took < END, "the end took {:.1} s\n{}", took.as_secs_f64(), outcome.explain());
    let name = format!("rank {victim}");
    let named = outcome.stderr.lines().chain(outcome.stdout.lines()).find(|line| line.contains(&name));
    let Some(line) = named else { panic!("nobody names {name}\n{}", outcome.explain()) };
    println!("after {:.1} s: {line}", took.as_secs_f64());
    assert_nothing_left(&outcome, &before, &pids, &used);
}

/// With one-sided traffic as well. Open MPI's own osc/rdma may leave its files then; they are not looked at.
#[test]
fn one_rank_killed_in_one_sided_traffic() {
    let row = row("rma=1").not_over("tcp", "has no atomic operations for windows");
    let _turn = row.turn();
    let Some(Traffic { job, pids, .. }) = start(&row) else { return };
    job.kill(pids[1]);
    let outcome = job.wait(Duration::from_secs(WHOLE_SECONDS)).unwrap();
    assert!(matches!(outcome.ended, Ended::By(status) if !status.success()), "{}", outcome.explain());
    assert!(outcome.processes_left.is_empty(), "processes are left\n{}", outcome.explain());
    assert!(format!("{}{}", outcome.stdout, outcome.stderr).contains("rank 1"), "{}", outcome.explain());
}
