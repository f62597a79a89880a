//! The Rust API under each launcher: one program, unchanged. And processes that end too early, found out by the others whatever the
//! launcher does.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use ironband_tests::{Ended, Launcher, start_by_hand, wait_for_turn};

const AGENT: &str = env!("CARGO_BIN_EXE_context_agent");
const LIMIT: Duration = Duration::from_secs(60);

fn turn() -> impl Sized {
    wait_for_turn(env!("CARGO_TARGET_TMPDIR"))
}

fn passes(name: &'static str, numbers: &[u32]) {
    let Some(launcher) = Launcher::find(name) else { return };
    let _turn = turn();
    for &ranks in numbers {
        launcher.start(ranks, &[AGENT], &[]).finish(LIMIT).expect_ok(ranks);
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
    let jobs = start_by_hand(4, &[AGENT, "die", when, "1"]);
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
