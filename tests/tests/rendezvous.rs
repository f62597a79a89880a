//! Processes that are started by hand and meet at rank 0 over TCP (`IRONBAND_PMI=tcp`), and all that can be wrong with that. Also what
//! Slurm's variables make of it, without Slurm.

use std::net::TcpListener;
use std::time::Duration;

use ironband_tests::{Ended, Job, Outcome, by_hand, free_port, wait_for_turn};

const AGENT: &str = env!("CARGO_BIN_EXE_wire_up_agent");

/// Every process is over long before.
const WHOLE: Duration = Duration::from_secs(40);

fn turn() -> impl Sized {
    wait_for_turn(env!("CARGO_TARGET_TMPDIR"))
}

/// One process of a job: its variables over those of all.
fn start(words: &[&str], variables: &[(&str, String)]) -> Job {
    let mut all = vec![AGENT.to_owned()];
    all.extend(words.iter().map(|word| (*word).to_owned()));
    let limits = [("IRONBAND_PMI_INIT_SECONDS", "3"), ("IRONBAND_PMI_FENCE_SECONDS", "3")];
    let limits = limits.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Job::start_command(&all, &limits.into_iter().chain(variables).collect::<Vec<_>>(), b"")
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn in_slurm(nodes: &str, launched_from: &str, rank: u32, size: u32) -> Vec<(&'static str, String)> {
    vec![
        // Chosen so that no test uses the port of another.
        ("SLURM_JOB_ID", std::process::id().to_string()),
        ("SLURM_STEP_ID", "0".to_owned()),
        ("SLURM_PROCID", rank.to_string()),
        ("SLURM_STEP_NUM_TASKS", size.to_string()),
        ("SLURM_STEP_NODELIST", nodes.to_owned()),
        ("SLURM_LAUNCH_NODE_IPADDR", launched_from.to_owned()),
    ]
}

fn code(outcome: &Outcome) -> Option<i32> {
    match outcome.ended {
        Ended::By(status) => status.code(),
        Ended::TimedOut(_) => panic!("{}", outcome.explain()),
    }
}

fn finish(jobs: Vec<Job>) -> Vec<Outcome> {
    jobs.into_iter().map(|job| job.wait(WHOLE).unwrap()).collect()
}

#[track_caller]
fn assert_says(outcome: &Outcome, status: i32, wanted: &str) {
    assert_eq!(code(outcome), Some(status), "{}", outcome.explain());
    assert!(outcome.stdout.contains(wanted), "no {wanted:?}\n{}", outcome.explain());
}

#[test]
fn by_hand_in_any_order() {
    let _turn = turn();
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        if host == "[::1]" && TcpListener::bind("[::1]:0").is_err() {
            println!("left out: this machine has no IPv6");
            continue;
        }
        let root = format!("{host}:{}", free_port());
        let late_first = [2, 1, 0].map(|rank| {
            std::thread::sleep(Duration::from_millis(100));
            start(&["check"], &by_hand(&root, rank, 3))
        });
        for (at, outcome) in finish(late_first.into()).iter().enumerate() {
            let line = format!(
                "{} of 3: ok, TCP to rank 0 by an unknown launcher, on node 0, neighbours [0, 1, 2]",
                2 - at
            );
            assert_says(outcome, 0, &line);
        }
    }
    // One alone opens no port: the one that it is told may be another's.
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let root = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    assert_says(&finish(vec![start(&["check"], &by_hand(&root, 0, 1))])[0], 0, "0 of 1: ok");
}

/// Two jobs that are told the same port.
#[test]
fn of_another_job() {
    let _turn = turn();
    let root = format!("127.0.0.1:{}", free_port());
    let job =
        |rank, name: &str| [by_hand(&root, rank, 2), vec![("IRONBAND_PMI_JOB", name.to_owned())]].concat();
    let outcomes = finish(vec![start(&["check"], &job(0, "mine")), start(&["check"], &job(1, "yours"))]);
    assert_says(&outcomes[1], 4, "this is rank 0 of the job \"mine\" and not of \"yours\"");
    assert_says(&outcomes[0], 4, "no answer within 3s");
}

#[test]
fn a_rank_that_is_there_twice_or_that_there_is_not() {
    let _turn = turn();
    let root = format!("127.0.0.1:{}", free_port());
    let mut first = start(&["die", "before-fence", "1"], &by_hand(&root, 1, 3));
    let zero = start(&["die", "before-fence", "1"], &by_hand(&root, 0, 3));
    assert!(first.wait_for_output(WHOLE, |output| output.contains("1: here")).unwrap());
    let again =
        finish(vec![start(&["check"], &by_hand(&root, 1, 3)), start(&["check"], &by_hand(&root, 3, 9))]);
    assert_says(&again[0], 4, "rank 1 is connected already");
    assert_says(&again[1], 4, "this job has 3 processes and no rank 3");
    // The others do not mind.
    let third = start(&["die", "before-fence", "1"], &by_hand(&root, 2, 3));
    let outcomes = finish(vec![first, zero, third]);
    assert_eq!(code(&outcomes[0]), None, "killed\n{}", outcomes[0].explain());
    for outcome in &outcomes[1..] {
        assert_says(outcome, 3, "missing: rank");
    }
}

#[test]
fn a_port_that_is_taken() {
    let _turn = turn();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let root = format!("127.0.0.1:{port}");
    let outcomes = finish((0..2).map(|rank| start(&["check"], &by_hand(&root, rank, 2))).collect());
    assert_says(&outcomes[0], 4, &format!("rank 0 could not listen at port {port}: "));
    // Whoever listens there does not answer.
    assert_says(&outcomes[1], 4, "IRONBAND_PMI_ROOT=HOST:PORT in all processes says where it is");
}

#[test]
fn without_rank_0() {
    let _turn = turn();
    let root = format!("127.0.0.1:{}", free_port());
    let never = finish(vec![start(&["check"], &by_hand(&root, 1, 2))]);
    assert_says(&never[0], 4, "could not connect to 127.0.0.1");
    assert!(never[0].stdout.contains("rank 0 must run and be reached by all"), "{}", never[0].explain());
    for when in ["before-put", "before-fence", "in-fence", "after-fence"] {
        let root = format!("127.0.0.1:{}", free_port());
        let outcomes =
            finish((0..3).map(|rank| start(&["die", when, "0"], &by_hand(&root, rank, 3))).collect());
        for outcome in &outcomes[1..] {
            assert_says(
                outcome,
                if outcome.stdout.contains("fence failed") { 3 } else { 4 },
                "missing: rank 0; ",
            );
            assert!(outcome.stdout.contains("rank 0, through which"), "{}", outcome.explain());
            assert!(outcome.took < Duration::from_secs(3), "at once\n{}", outcome.explain());
        }
    }
}

/// A port scanner, or a process that speaks something else, is not one of the job and does not harm it.
#[test]
fn strangers_at_the_port() {
    use std::io::Write as _;
    let _turn = turn();
    let address = format!("127.0.0.1:{}", free_port());
    let zero = start(&["check"], &by_hand(&address, 0, 2));
    let mut strangers = Vec::new();
    for said in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\n", b"cmd=initack pmiid=nonsense\n", &[b'x'; 70_000]]
    {
        let began = std::time::Instant::now();
        let mut stranger = loop {
            match std::net::TcpStream::connect(&address) {
                Ok(stranger) => break stranger,
                Err(error) => assert!(began.elapsed() < WHOLE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let _ = stranger.write_all(said);
        // The silent one goes at once, the others stay.
        if !said.is_empty() {
            strangers.push(stranger);
        }
    }
    let outcomes = finish(vec![start(&["check"], &by_hand(&address, 1, 2)), zero]);
    for outcome in &outcomes {
        assert_says(outcome, 0, " of 2: ok, TCP to rank 0");
    }
}

/// Names of nodes that nobody knows: rank 0 is where the step was launched, or says that it is not.
#[test]
fn nodes_of_slurm_that_have_no_address() {
    let _turn = turn();
    let nodes = "no-such-node-[0-1].invalid";
    let job = |launched_from: &str| {
        finish((0..2).map(|rank| start(&["check"], &in_slurm(nodes, launched_from, rank, 2))).collect())
    };
    for outcome in job("127.0.0.1") {
        assert_says(&outcome, 0, " of 2: ok, TCP to rank 0 by Slurm's srun");
    }
    // Of a range for documentation: no host has it.
    let outcomes = job("192.0.2.1");
    assert_says(&outcomes[0], 4, "does not run at 192.0.2.1, where the job was launched");
    assert!(outcomes[0].took < Duration::from_secs(2), "{}", outcomes[0].explain());
    for outcome in &outcomes {
        assert_says(outcome, 4, "IRONBAND_PMI_ROOT=HOST:PORT in all processes says where it is");
    }
    // A name that is known is used.
    let jobs = (0..2).map(|rank| start(&["check"], &in_slurm("localhost,x", "192.0.2.1", rank, 2)));
    for outcome in finish(jobs.collect()) {
        assert_says(&outcome, 0, " of 2: ok, TCP to rank 0 by Slurm's srun");
    }
}
