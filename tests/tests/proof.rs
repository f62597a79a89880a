//! The tests of the tests: that traffic uses the transport under test, that damage is noticed, and that a hang is
//! ended and explained.

use std::collections::BTreeSet;

use ironband_tests::{Ended, Row, Transport, compile_library};

fn transport() -> Transport {
    Transport::from_environment().unwrap_or_else(|error| panic!("{error:#}"))
}

fn row(program: &str, ranks: u32) -> Row {
    Row::new(program, ranks, env!("CARGO_TARGET_TMPDIR"))
}

/// With `btl_base_verbose` 1 each process says by which fabric it moves data.
#[test]
fn every_process_reports_ironband() {
    if !transport().is_ironband() {
        println!("skipped: the report line is Ironband's, and the transport is {}", transport());
        return;
    }
    let ranks = 3;
    let outcome = row("traffic", ranks).args("rounds=2").mca("btl_base_verbose", "1").run().unwrap();
    assert!(outcome.is_success(), "{}", outcome.explain());
    let lines: BTreeSet<&str> =
        outcome.stderr.lines().filter(|line| line.contains("ironband: fabric ")).collect();
    // Open MPI puts "[host:process]" before each line.
    let processes: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(processes.len(), ranks as usize, "report lines: {lines:?}\n{}", outcome.explain());
    println!("{}", Vec::from_iter(lines).join("\n"));
}

/// Without the transport there is no other way for the data: `btl=self` alone reaches nobody.
#[test]
fn without_a_transport_ranks_cannot_reach_each_other() {
    let outcome = row("traffic", 2).args("rounds=2").btls("self").run().unwrap();
    assert!(!outcome.is_success(), "something else carried the messages\n{}", outcome.explain());
    // The ranks send mpirun the reason as text, and mpirun 4.1 fails to unpack it in every second run: which of the two
    // messages arrive is chance, and when none does there is only its own complaint about them.
    let said = ["unable to reach each other", "An error occurred in MPI_Init", "orte/util/show_help.c"];
    assert!(said.iter().any(|text| outcome.stderr.contains(text)), "{}", outcome.explain());
}

/// One bit of every larger fragment is flipped on its way: each program must say where.
#[test]
fn damage_on_the_way_is_noticed() {
    let library = compile_library("corrupt", env!("CARGO_TARGET_TMPDIR").as_ref())
        .unwrap_or_else(|error| panic!("{error:#}"));
    let preload = library.path.to_str().unwrap().to_owned();
    for (program, args) in [
        ("p2p_sizes", ""),
        ("p2p_outstanding", ""),
        ("flood", "messages=2000 sleep_ms=100"),
        ("matching", ""),
        ("datatypes", "quick=1"),
        ("buffers", ""),
        ("traffic", ""),
        ("threads", "iterations=40"),
        ("collectives", ""),
        ("intercomm", ""),
        ("lifecycle", "mode=late messages=200"),
    ] {
        let outcome = row(program, 2).threads(8).args(args).variable("LD_PRELOAD", &preload).run().unwrap();
        assert!(!outcome.is_success(), "{program} did not notice flipped bits\n{}", outcome.explain());
        let failure = format!("FAIL {program} rank ");
        let line = outcome.stderr.lines().find(|line| line.contains(&failure));
        println!(
            "{}",
            line.unwrap_or_else(|| panic!("{program} does not say what is wrong\n{}", outcome.explain()))
        );
    }
}

/// Each kind of check, made to fail once.
#[test]
fn a_single_wrong_byte_or_value_is_noticed() {
    for (program, check, args) in [
        ("rma_epochs", "500", "threads=1"),
        ("rma_passive", "20", "busy_ms=50 threads=1"),
        ("rma_contention", "3", "swaps=0 iterations=20 threads=1"),
        ("rma_threads", "30", "swaps=0 iterations=20"),
        ("self_comm", "17", ""),
        ("connect", "9", "rounds=1"),
    ] {
        let row = row(program, 2)
            .threads(8)
            .args(args)
            .variable("IRONBAND_TEST_FAULT", check)
            .not_over("tcp", "has no atomic operations for windows");
        let Some(outcome) = row.run() else { continue };
        let failure = format!("FAIL {program} rank 1: ");
        let line = outcome.stderr.lines().find(|line| line.contains(&failure));
        assert!(!outcome.is_success() && line.is_some(), "{program}, check {check}\n{}", outcome.explain());
        println!("{}", line.unwrap_or_default());
    }
}

/// The watchdog of the program comes first and says where it hangs.
#[test]
fn a_hang_is_explained_by_the_program() {
    let outcome = row("forever", 2).variable("IRONBAND_TEST_WATCHDOG_SECONDS", "2").time(60).run().unwrap();
    assert!(matches!(outcome.ended, Ended::By(status) if !status.success()), "{}", outcome.explain());
    assert!(
        outcome.stderr.contains("watchdog: not done after 2 s, in phase \"traffic\""),
        "the watchdog did not speak\n{}",
        outcome.explain()
    );
    assert!(outcome.processes_left.is_empty(), "{}", outcome.explain());
}

/// And if even that does not work, the harness ends the job.
#[test]
fn a_hang_is_ended_by_the_harness() {
    let outcome = row("forever", 2).variable("IRONBAND_TEST_WATCHDOG_SECONDS", "60").time(3).run().unwrap();
    assert!(matches!(outcome.ended, Ended::TimedOut(_)), "{}", outcome.explain());
    assert!(outcome.processes_left.is_empty(), "{}", outcome.explain());
    assert!(outcome.explain().contains("to repeat: env "), "{}", outcome.explain());
}
