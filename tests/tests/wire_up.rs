//! Wire-up under every launcher that `ci/launchers` has, under our own, and alone: `wire_up_agent` goes through all of it, comes late, is
//! killed, is stopped, aborts. What is missing on a machine is skipped by name.

use std::time::Duration;

use ironband_tests::{Ended, Job, Launcher, Outcome, wait_for_turn};

const AGENT: &str = env!("CARGO_BIN_EXE_wire_up_agent");

/// Every job is over long before.
const WHOLE: Duration = Duration::from_secs(60);

/// What a fence waits for, where one has to fail.
const FENCE_SECONDS: u64 = 2;
const SHORT: [(&str, &str); 2] = [("IRONBAND_PMI_FENCE_SECONDS", "2"), ("IRONBAND_PMI_INIT_SECONDS", "10")];

/// A job whose process was killed is over by then: no fence waits longer, and launchers take their time to end.
const END: Duration = Duration::from_secs(FENCE_SECONDS + 10);

const VICTIM: u32 = 1;
const RANKS: u32 = 3;

/// How launchers themselves break in some of the runs in which a process dies or aborts: `mpirun` 4.1.4 and 5.0.11 by SIGSEGV, Intel's
/// by SIGPIPE, Hydra by an assertion. No process may be left then either.
const FAULTS: [i32; 4] = [139, 141, 134, 255];

/// What is known of a launcher.
struct Known {
    /// As messages call it.
    called: &'static str,
    protocol: &'static str,
    /// Its status when a process is killed with SIGKILL.
    killed: &'static [i32],
    /// Its status when a process aborts with 9.
    aborted: &'static [i32],
    survivors: Survivors,
}

/// What happens to processes of a job in which another one has been killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survivors {
    /// The launcher ends them, most of them before they can say anything.
    Ended,
    /// They wait until their own deadline.
    Wait,
    /// Fences that they are in fail, or let go as if all had come.
    Pass,
    /// They are told who is missing.
    Told,
}

fn known(launcher: &str) -> Known {
    let hydra = Known {
        called: "MPICH's mpiexec",
        protocol: "PMI-1",
        killed: &[9],
        aborted: &[9],
        survivors: Survivors::Ended,
    };
    let slurm = Known { called: "Slurm's srun", killed: &[137], survivors: Survivors::Wait, ..hydra };
    match launcher {
        "openmpi4" => Known {
            called: "Open MPI's mpirun",
            protocol: "PMIx",
            killed: &[137],
            aborted: &[9],
            survivors: Survivors::Pass,
        },
        "openmpi5" => Known {
            called: "prterun (Open MPI 5)",
            protocol: "PMIx",
            killed: &[137],
            aborted: &[9],
            survivors: Survivors::Pass,
        },
        "mpich4" | "mpich5" | "mpich5-port" => hydra,
        // It takes no notice of how processes end, and of one that has said nothing yet it takes none at all.
        "mpich5-gforker" => Known { killed: &[0], ..hydra },
        // It waits for a process that has died before it has said anything.
        "impi" => Known { called: "Intel MPI's mpiexec", killed: &[137], ..hydra },
        "slurm-pmi2" => Known { aborted: &[137], ..slurm },
        "slurm-pmix" => Known { protocol: "PMIx", survivors: Survivors::Pass, ..slurm },
        "slurm-none" => Known { protocol: "TCP to rank 0", survivors: Survivors::Told, ..slurm },
        "ironband" => Known { called: "ironband run", killed: &[137], survivors: Survivors::Told, ..hydra },
        "alone" => Known { called: "no launcher", protocol: "a single process", ..hydra },
        other => panic!("{other}"),
    }
}

fn turn() -> impl Sized {
    wait_for_turn(env!("CARGO_TARGET_TMPDIR"))
}

/// The launcher's status, as a shell shows it.
fn status(outcome: &Outcome) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    match outcome.ended {
        Ended::By(status) => status.code().or_else(|| Some(128 + status.signal()?)).unwrap(),
        Ended::TimedOut(_) => panic!("{}", outcome.explain()),
    }
}

fn finish(job: Job) -> Outcome {
    job.finish(WHOLE)
}

/// What a rank has said, in its order.
fn said_by(outcome: &Outcome, rank: u32) -> Vec<&str> {
    let tag = format!("{rank}: ");
    outcome.stdout.lines().filter_map(|line| line.strip_prefix(tag.as_str())).collect()
}

/// The ranks of the node of `rank`, as the launcher says by its own variables, where it shows its processes more than one node.
fn neighbours(launcher: &str, rank: u32, lines: &[&str]) -> Vec<u32> {
    let node_of = |rank: u32| {
        let line = lines.iter().find(|line| line.starts_with(&format!("{rank} of "))).unwrap();
        line.split_once(", on node ").unwrap().1.split(',').next().unwrap()
    };
    // Without it, hosts are compared, and Slurm's two nodes are one host.
    let tells = matches!(launcher, "slurm-pmi2" | "slurm-pmix");
    (0..lines.len() as u32).filter(|other| !tells || node_of(*other) == node_of(rank)).collect()
}

fn check(launcher: &Launcher, ranks: u32, environment: &[(&str, &str)], protocol: &str) {
    let outcome = finish(launcher.start(ranks, &[AGENT, "check"], environment));
    let called = known(launcher.name()).called;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), ranks as usize, "{}", outcome.explain());
    for rank in 0..ranks {
        let begins = format!("{rank} of {ranks}: ok, {protocol} by {called}, on node ");
        let line = lines.iter().find(|line| line.starts_with(&begins));
        let Some(line) = line else { panic!("no {begins:?}\n{}", outcome.explain()) };
        let neighbours = neighbours(launcher.name(), rank, &lines);
        assert!(line.ends_with(&format!(", neighbours {neighbours:?}")), "{}", outcome.explain());
    }
    assert!(outcome.is_well_ended(), "{}", outcome.explain());
    // Nothing on standard error either: a library that does not fit the launcher, for one, makes it complain.
    assert_eq!(outcome.stderr, "", "{}", outcome.explain());
    println!("{ranks} ranks: ok after {:.2} s", outcome.took.as_secs_f64());
}

fn check_all_sizes(name: &'static str) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    for ranks in [1, 2, 3, 5, 8] {
        check(&launcher, ranks, &[], known(name).protocol);
    }
}

/// A fence waits for the last.
fn delay(name: &'static str) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    for late in [0, 2] {
        let words = [AGENT, "delay", &late.to_string(), "300"];
        let outcome = finish(launcher.start(RANKS, &words, &[]));
        assert!(outcome.is_well_ended(), "{}", outcome.explain());
        for rank in 0..RANKS {
            let [said] = said_by(&outcome, rank)[..] else { panic!("{}", outcome.explain()) };
            let spent: u64 = said.split(' ').nth(5).unwrap().parse().unwrap();
            assert!((250..3000).contains(&spent), "rank {rank}: {said}\n{}", outcome.explain());
        }
    }
}

fn abort(name: &'static str) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    let outcome = finish(launcher.start(RANKS, &[AGENT, "abort", "1", "9"], &SHORT));
    assert_status(name, &outcome, known(name).aborted);
    // MPICH's launchers may lose what a process has written last.
    if !name.starts_with("mpich") {
        assert!(
            outcome.stderr.contains("rank 1 of 3 aborts the job: this is a test"),
            "{}",
            outcome.explain()
        );
    }
    assert!(outcome.took < END, "{}", outcome.explain());
}

/// The status of a launcher that has lost a process.
#[track_caller]
fn assert_status(name: &str, outcome: &Outcome, wanted: &[i32]) {
    let status = status(outcome);
    // A survivor whose fence has failed ends with 3, and may be the first that its launcher hears of.
    let is_fault = name != "ironband" && (FAULTS.contains(&status) || status == 3);
    assert!(is_fault || wanted.contains(&status), "not {wanted:?}\n{}", outcome.explain());
    if is_fault {
        println!("not the status of the process that was lost: {name} ended with {status}");
    }
}

/// An error of a fence: who, under whom, and something that helps.
fn assert_helps(name: &str, said: &str, outcome: &Outcome) {
    let Known { called, protocol, .. } = known(name);
    let place = format!("under {called} ({protocol}): ");
    assert!(said.contains(&place), "{said:?} does not say {place:?}\n{}", outcome.explain());
    let knows = [
        "not all processes of the job have come: ",
        "the launcher has closed the connection; ",
        "no answer within 2s; a process may have ended",
        "no answer within 2s; missing: rank",
    ];
    assert!(knows.iter().any(|known| said.contains(known)), "{said:?}\n{}", outcome.explain());
    if said.contains("no answer within") {
        let hint = if name.starts_with("slurm") && protocol != "TCP to rank 0" {
            "add -K to srun"
        } else {
            "or hang"
        };
        assert!(said.contains(hint) && said.contains("IRONBAND_PMI_FENCE_SECONDS"), "{said:?}");
    }
}

/// How many fences may let go, the last of them without the victim, at the most.
fn fences_passed_max(when: &str) -> usize {
    match when {
        "before-init" => 0,
        "before-put" | "before-fence" => 1,
        // It has come, and then died.
        "in-fence" | "after-fence" => 2,
        other => panic!("{other}"),
    }
}

fn die(name: &'static str, when: &str) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    let Known { killed, survivors, .. } = known(name);
    let outcome = finish(launcher.start(RANKS, &[AGENT, "die", when, &VICTIM.to_string()], &SHORT));
    assert_status(name, &outcome, killed);
    assert!(outcome.took < END, "{when}: {}", outcome.explain());
    // Rank 0 of a job without a server does not know that one has ended that it has never heard of, only that it has not come.
    let is_told = survivors == Survivors::Told && (name == "ironband" || when != "before-init");
    for rank in (0..RANKS).filter(|rank| *rank != VICTIM) {
        let said = said_by(&outcome, rank);
        let passed = said.iter().filter(|said| said.starts_with("the fence let go")).count();
        let failed: Vec<&&str> = said.iter().filter(|said| said.contains(" failed in rank ")).collect();
        for said in &failed {
            assert_helps(name, said, &outcome);
        }
        let max = fences_passed_max(when) + usize::from(survivors == Survivors::Pass) * 3;
        assert!(passed <= max, "{when}: rank {rank} has passed {passed} fences\n{}", outcome.explain());
        if is_told {
            let names_it = |said: &&&str| {
                said.contains(&format!("missing: rank {VICTIM}")) || said.contains("missing: ranks ")
            };
            assert!(failed.iter().any(names_it), "{when}: rank {rank} is not told\n{}", outcome.explain());
        }
        if survivors == Survivors::Wait {
            assert!(!failed.is_empty(), "{when}: rank {rank} says nothing\n{}", outcome.explain());
        }
    }
    if is_told {
        assert!(outcome.took < Duration::from_secs(FENCE_SECONDS), "at once\n{}", outcome.explain());
    }
    if survivors == Survivors::Told {
        let names_it = |line: &str| line.contains(&format!("missing: rank {VICTIM}; "));
        assert!(is_told || outcome.stdout.lines().any(names_it), "nobody is told\n{}", outcome.explain());
    }
    // ORTE's server says so to all that are in the fence. (Others, and ORTE otherwise, call it a success.)
    if name == "openmpi4" && when == "in-fence" && status(&outcome) != 139 {
        assert!(
            outcome.stdout.contains("have come: PMIx_Fence: PARTIAL SUCCESS (-52)"),
            "{}",
            outcome.explain()
        );
    }
}

/// One process is stopped: the others give up in time, and say how long they have waited and what to do.
fn stop(name: &'static str) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    let mut job = launcher.start(RANKS, &[AGENT, "stop", &VICTIM.to_string()], &SHORT);
    let prefix = format!("{VICTIM}: here, process ");
    let given_up =
        |output: &str| output.lines().filter(|line| line.contains("no answer within 2s; ")).count();
    // Some launchers end the job for the status of the first that gives up.
    job.wait_for_output(END, |output| given_up(output) == RANKS as usize - 1).unwrap();
    // And some wait for the stopped one for ever.
    if let Some(pid) = job.stdout().lines().find_map(|line| line.strip_prefix(prefix.as_str())?.parse().ok())
        && job.processes().iter().any(|(living, _)| *living == pid)
    {
        std::thread::sleep(Duration::from_millis(200));
        job.kill(pid);
    }
    let outcome = finish(job);
    assert!(given_up(&outcome.stdout) >= 1, "{}", outcome.explain());
    if known(name).survivors == Survivors::Told {
        let wanted = format!("no answer within 2s; missing: rank {VICTIM}; ");
        assert!(outcome.stdout.contains(&wanted), "no {wanted:?}\n{}", outcome.explain());
    }
    for rank in (0..RANKS).filter(|rank| *rank != VICTIM) {
        for said in said_by(&outcome, rank).into_iter().filter(|said| said.starts_with("fence failed")) {
            assert_helps(name, said, &outcome);
            if said.contains("no answer within") {
                let after: f64 = said.split(' ').nth(6).unwrap().parse().unwrap();
                let limit = FENCE_SECONDS as f64;
                assert!((limit - 0.1..limit + 1.5).contains(&after), "{said}");
            }
        }
    }
}

macro_rules! matrix {
    ($($module:ident $name:literal;)*) => { $(mod $module {
        #[test]
        fn check() { super::check_all_sizes($name); }
        #[test]
        fn delay() { super::delay($name); }
        #[test]
        fn abort() { super::abort($name); }
        #[test]
        fn stop() { super::stop($name); }
        #[test]
        fn die_before_init() { super::die($name, "before-init"); }
        #[test]
        #[ignore = "slow: for launchers it is as die_before_fence"]
        fn die_before_put() { super::die($name, "before-put"); }
        #[test]
        fn die_before_fence() { super::die($name, "before-fence"); }
        #[test]
        fn die_in_fence() { super::die($name, "in-fence"); }
        #[test]
        fn die_after_fence() { super::die($name, "after-fence"); }
    })* };
}

matrix! {
    openmpi4 "openmpi4";
    openmpi5 "openmpi5";
    mpich4 "mpich4";
    mpich5 "mpich5";
    mpich5_port "mpich5-port";
    mpich5_gforker "mpich5-gforker";
    impi "impi";
    slurm_pmi2 "slurm-pmi2";
    slurm_pmix "slurm-pmix";
    slurm_none "slurm-none";
    ironband "ironband";
}

#[test]
fn alone() {
    let Some(launcher) = Launcher::find("alone") else { return };
    let _turn = turn();
    check(&launcher, 1, &[], "a single process");
    // A status that would hide it is not given.
    for (code, wanted) in [("9", 9), ("0", 1), ("256", 1)] {
        let outcome = finish(launcher.start(1, &[AGENT, "abort", "0", code], &[]));
        assert_eq!(status(&outcome), wanted, "{}", outcome.explain());
    }
}

/// The other protocol of those that have it, on request.
#[test]
fn by_pmi_2() {
    for name in ["mpich4", "mpich5", "slurm-pmi2"] {
        let Some(launcher) = Launcher::find(name) else { continue };
        let _turn = turn();
        for ranks in [1, 3, 5] {
            check(&launcher, ranks, &[("IRONBAND_PMI", "pmi2")], "PMI-2");
        }
    }
}

/// What the message tells the user to try, helps.
#[test]
fn slurm_ends_a_job_when_it_is_told_to() {
    for name in ["slurm-pmi2", "slurm-pmix", "slurm-none"] {
        let Some(launcher) = Launcher::find(name) else { continue };
        let _turn = turn();
        let environment = [("SLURM_KILL_BAD_EXIT", "1"), ("IRONBAND_PMI_FENCE_SECONDS", "50")];
        let outcome = finish(launcher.start(RANKS, &[AGENT, "die", "before-fence", "1"], &environment));
        // That of the one which was killed, or of one that it has ended.
        assert!([137, 143].contains(&status(&outcome)), "{}", outcome.explain());
        assert!(outcome.took < Duration::from_secs(20), "{}", outcome.explain());
    }
}

/// A process that ends well in the middle of a job is missed as one that is killed.
#[test]
fn one_that_leaves_is_missed() {
    for name in ["ironband", "slurm-none"] {
        let Some(launcher) = Launcher::find(name) else { continue };
        let _turn = turn();
        let outcome = finish(launcher.start(RANKS, &[AGENT, "leave", "1"], &SHORT));
        for rank in [0, 2] {
            let said = said_by(&outcome, rank);
            assert!(said.iter().any(|said| said.contains("missing: rank")), "{}", outcome.explain());
        }
        assert_eq!(status(&outcome), 3, "{}", outcome.explain());
    }
}

/// A stale descriptor of a launcher that is gone is an error at once, not a wait, and not N processes that are alone.
#[test]
fn variables_without_a_launcher() {
    let Some(launcher) = Launcher::find("alone") else { return };
    let _turn = turn();
    for (environment, wanted) in [
        (&[("PMI_FD", "77"), ("PMI_RANK", "0"), ("PMI_SIZE", "2")][..], "PMI_FD=77 is not open"),
        (&[("PMI_FD", "1"), ("PMI_RANK", "0"), ("PMI_SIZE", "2")], "PMI_FD=1 is no socket"),
        (&[("PMIX_RANK", "0")], "PMIX_NAMESPACE and PMIX_SERVER_URI* are missing"),
        (&[("IRONBAND_PMI", "nonsense")], "auto, pmi1, pmi2, pmix, tcp, single"),
        (
            &[("PMIX_NAMESPACE", "n"), ("PMIX_SERVER_URI2", "x"), ("IRONBAND_PMIX_LIBRARY", "libnone.so")],
            "libnone.so could not be loaded",
        ),
    ] {
        let outcome = finish(launcher.start(1, &[AGENT, "check"], environment));
        assert_eq!(status(&outcome), 4, "{}", outcome.explain());
        assert!(outcome.stdout.contains(wanted), "no {wanted:?}\n{}", outcome.explain());
    }
}
