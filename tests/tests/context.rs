//! The Rust API under each launcher: one program, unchanged. And processes that end too early, found out by the others whatever the
//! launcher does.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use ironband_tests::{Ended, Job, Launcher, by_hand, free_port, wait_for_turn};

const AGENT: &str = env!("CARGO_BIN_EXE_context_agent");
const LIMIT: Duration = Duration::from_secs(60);

fn turn() -> impl Sized {
    wait_for_turn(env!("CARGO_TARGET_TMPDIR").as_ref()).unwrap_or_else(|error| panic!("{error:#}"))
}

fn passes(name: &'static str, numbers: &[u32]) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    for &ranks in numbers {
        let outcome = launcher.start(ranks, &[AGENT], &[]).finish(LIMIT);
        assert!(outcome.is_well_ended(), "{}", outcome.explain());
        for rank in 0..ranks {
            assert!(outcome.stdout.contains(&format!("{rank} of {ranks}: ok")), "{}", outcome.explain());
        }
        println!("{ranks} ranks: ok after {:.2} s", outcome.took.as_secs_f64());
    }
}

macro_rules! launchers {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                passes($name, &[1, 2, 3]);
            }
        )+
    };
}

launchers! {
    openmpi4: "openmpi4", openmpi5: "openmpi5", mpich4: "mpich4", mpich5: "mpich5", mpich5_gforker: "mpich5-gforker",
    mpich5_port: "mpich5-port", impi: "impi", slurm_pmi2: "slurm-pmi2", slurm_pmix: "slurm-pmix", slurm_none: "slurm-none",
}

#[test]
fn ironband_run() {
    passes("ironband", &[1, 2, 3, 5, 8]);
}

#[test]
fn alone() {
    passes("alone", &[1]);
}

/// One of four is killed; all others say which. There is no launcher: one would end them, perhaps before they find out.
fn dies(when: &str, name: &str) {
    let _turn = turn();
    let root = format!("127.0.0.1:{}", free_port());
    let start = |rank| {
        let own = |(name, value): (&str, String)| (name.to_owned(), value);
        let variables: Vec<_> = by_hand(&root, rank, 4).into_iter().map(own).collect();
        let words = [AGENT, "die", when, "1"].map(str::to_owned);
        Job::start_command(&words, &variables, b"").unwrap_or_else(|error| panic!("{error:#}"))
    };
    let jobs: Vec<Job> = (0..4).map(start).collect();
    for (rank, outcome) in jobs.into_iter().map(|job| job.finish(LIMIT)).enumerate() {
        let Ended::By(status) = outcome.ended else { unreachable!("finish looks at it") };
        let ended = (status.code(), status.signal());
        if rank == 1 {
            assert_eq!(ended, (None, Some(9)), "{}", outcome.explain());
        } else {
            assert_eq!(ended, (Some(3), None), "{}", outcome.explain());
            assert!(
                outcome.stdout.lines().any(|line| line.starts_with(name)),
                "no {name:?}: {}",
                outcome.explain()
            );
        }
    }
}

#[test]
fn one_ends_before_it_publishes_its_card() {
    dies("before-card", "fence failed in rank");
}

#[test]
fn one_ends_before_the_roll_is_called() {
    dies("before-roll-call", "rank 1 is missing");
}

/// The others only wait for its messages.
#[test]
fn one_ends_while_others_wait() {
    dies("after-open", "rank 1 is lost");
}
