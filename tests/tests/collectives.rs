//! Collective operations over shared memory, in jobs of many sizes and under launchers: results, deaths, panics, limits.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use ironband_tests::deeds::What;
use ironband_tests::{Ended, Launcher, Random, number, start_by_hand, wait_for_turn};

const AGENT: &str = env!("CARGO_BIN_EXE_collectives_agent");
/// An MPI program, over contexts of MPI communicators.
const AGAINST_MPI: &str = env!("CARGO_BIN_EXE_against_mpi");
const LIMIT: Duration = Duration::from_secs(120);
/// For MPI, which is slow where there are more processes than processors.
const LIMIT_OF_MPI: Duration = Duration::from_secs(600);

fn turn() -> impl Sized {
    wait_for_turn(env!("CARGO_TARGET_TMPDIR"))
}

fn passes(name: &'static str, ranks: u32, words: &[&str]) {
    ends_well(name, ranks, &[&[AGENT], words].concat(), LIMIT);
}

fn ends_well(name: &'static str, ranks: u32, words: &[&str], limit: Duration) {
    let Some(launcher) = Launcher::find(name) else { return };
    launcher.start(ranks, words, &[]).finish(limit).expect_ok(ranks);
}

#[test]
fn every_size() {
    let _turn = turn();
    for ranks in (1..=17).chain(31..=33) {
        let count = if ranks < 9 { "200" } else { "40" };
        passes("ironband", ranks, &["do", &ranks.to_string(), count]);
    }
}

/// The processes believe to be on several nodes: with consecutive ranks, with ranks that go round, and with different numbers of them.
#[test]
fn over_several_nodes() {
    let _turn = turn();
    for (ranks, nodes, each) in
        [(2, 1, 2), (3, 2, 2), (4, 2, 1), (5, 2, 3), (8, 4, 2), (9, 3, 1), (12, 3, 4), (17, 2, 5)]
    {
        // They believe to have their processors for themselves, and yield them late.
        let count = if ranks < 5 { "150" } else { "40" };
        let (pretended, nodes, each) = (format!("{nodes}x{each}"), nodes.to_string(), each.to_string());
        let words = ["nodes", &nodes, &each, &ranks.to_string(), count];
        if let Some(launcher) = Launcher::find("ironband") {
            let command = [&["--pretend-nodes", &pretended, AGENT], &words[..]].concat();
            launcher.start(ranks, &command, &[]).finish(LIMIT).expect_ok(ranks);
        }
    }
}

/// The same program under launchers of others.
#[test]
fn under_other_launchers() {
    let _turn = turn();
    for name in ["openmpi4", "mpich5", "slurm-pmi2"] {
        passes(name, 4, &["do", "77", "100"]);
    }
}

/// In an MPI program, over contexts of its communicators: each operation, and MPI's own with the same inputs.
#[test]
fn results_are_those_of_mpi() {
    let _turn = turn();
    for ranks in [1, 2, 3, 4, 5, 7, 8] {
        ends_well("openmpi4", ranks, &[AGAINST_MPI, "do", &ranks.to_string(), "200"], LIMIT_OF_MPI);
    }
}

/// Who can open no device tells the others, and MPI goes on.
#[test]
fn one_of_a_communicator_opens_no_device() {
    let _turn = turn();
    for (ranks, victim) in [(1, "0"), (2, "0"), (3, "1"), (5, "4")] {
        ends_well("openmpi4", ranks, &[AGAINST_MPI, "refused", victim], LIMIT);
    }
}

/// The others, who wait for it, are ended.
#[test]
fn one_of_a_communicator_aborts() {
    let _turn = turn();
    let Some(launcher) = Launcher::find("openmpi4") else { return };
    let outcome = launcher.start(3, &[AGAINST_MPI, "aborts", "1"], &[]).finish(LIMIT);
    let Ended::By(status) = outcome.ended else { unreachable!("finish looks at it") };
    assert!(!status.success(), "{}", outcome.explain());
    assert!(
        outcome.stderr.contains("rank 1 of 3 aborts the job: as the test wants it"),
        "{}",
        outcome.explain()
    );
    assert!(outcome.processes_left.is_empty(), "{}", outcome.explain());
}

#[test]
fn an_operator_panics() {
    let _turn = turn();
    for (ranks, victim) in [(1, "0"), (2, "1"), (3, "0"), (5, "4"), (8, "3")] {
        passes("ironband", ranks, &["panic", "5", victim]);
    }
}

#[test]
fn a_handler_panics_while_a_scope_waits() {
    let _turn = turn();
    for ranks in [1, 2] {
        passes("ironband", ranks, &["handler"]);
    }
}

#[test]
fn one_is_wrong_behind_a_slow_one() {
    let _turn = turn();
    passes("ironband", 3, &["behind"]);
}

#[test]
fn a_scope_of_another_world() {
    let _turn = turn();
    passes("ironband", 3, &["worlds"]);
}

#[test]
fn a_limit_passes() {
    let _turn = turn();
    for (ranks, victim) in [(2, "1"), (3, "0"), (5, "4")] {
        passes("ironband", ranks, &["late", victim]);
    }
}

/// One is killed in the middle of an operation; the others are told which, and go on without it. There is no launcher, which would end
/// them.
#[test]
fn one_is_killed() {
    let _turn = turn();
    for (seed, ranks, victim) in [(1, 2, 1), (2, 3, 0), (3, 4, 2), (4, 5, 4), (5, 8, 1), (6, 4, 0), (7, 4, 3)]
    {
        all_but_one_go_on(ranks, victim, &["die", &seed.to_string(), &victim.to_string()]);
    }
}

/// As above, for each operation, with short and with long messages, in the middle of its messages and in the middle of an operator. `IRONBAND_SEEDS`
/// says how often.
#[test]
fn one_is_killed_in_each_operation() {
    let _turn = turn();
    let seeds = number("IRONBAND_SEEDS").unwrap_or(1);
    for (operation, what) in What::ALL.into_iter().enumerate() {
        for (seed, length) in (0..seeds).flat_map(|seed| [(2 * seed, "short"), (2 * seed + 1, "long")]) {
            let mut random = Random::new(seed * 1000 + operation as u64);
            let ranks = 2 + random.below(5) as u32;
            let victim = random.below(ranks as usize) as u32;
            let places = if what.combines() { &["step", "operator"][..] } else { &["step"] };
            for place in places {
                let [operation, seed] = [operation as u64, seed].map(|number| number.to_string());
                let words = ["die-in", &operation, length, place, &seed, &victim.to_string()];
                all_but_one_go_on(ranks, victim, &words);
            }
        }
    }
}

/// One process kills itself, and all others end well. There is no launcher.
fn all_but_one_go_on(ranks: u32, victim: u32, words: &[&str]) {
    let jobs = start_by_hand(ranks, &[&[AGENT], words].concat());
    let outcomes: Vec<_> = jobs.into_iter().map(|job| job.finish(LIMIT)).collect();
    for (rank, outcome) in (0..).zip(&outcomes) {
        let Ended::By(status) = outcome.ended else { unreachable!("finish looks at it") };
        let has_ended = (status.code(), status.signal());
        let is_right = if rank == victim {
            has_ended == (None, Some(9))
        } else {
            has_ended == (Some(0), None) && outcome.stdout.contains(&format!("{rank} of {ranks}: ok"))
        };
        // What went wrong at one may have begun at another.
        let all = || outcomes.iter().map(|outcome| outcome.explain()).collect::<Vec<_>>().join("\n");
        assert!(is_right, "{words:?}, rank {rank} of {ranks} has ended by {status}: {}", all());
    }
}

#[test]
fn the_last_communicator_goes_while_others_are_silent() {
    let _turn = turn();
    passes("ironband", 2, &["drop"]);
}
