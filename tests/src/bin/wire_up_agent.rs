//! One process of a job that tries the wire-up: what [`tests/wire_up.rs`] starts under each launcher.
//!
//! `check` goes through all of it. `die WHEN RANK` has one process killed; `delay RANK MS`, `stop RANK`, `leave RANK` and `abort RANK
//! CODE` have it come late, stop, end without a word, abort. Each process prints lines that begin with its rank; the status is 0 if all is well, 3 if a fence failed, and 4 if
//! something else did.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ironband_pmi::{Error, Pmi};
use rustix::process::{Signal, getpid, kill_process};

/// Lengths around what launchers store in one piece, and beyond.
const LENGTHS: [usize; 8] = [0, 1, 150, 200, 700, 1000, 3100, 5000];
const FENCES: u32 = 100;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["check"] => check(),
        ["die", when, rank] => die(when, number(rank)),
        ["delay", rank, milliseconds] => delay(number(rank), number(milliseconds)),
        ["stop", rank] => stop(number(rank)),
        ["leave", rank] => leave(number(rank)),
        ["abort", rank, code] => abort(number(rank), number(code)),
        _ => panic!("{words:?}: see the head of this file"),
    };
    outcome.unwrap_or_else(|error| {
        println!("{}: {error}", error.rank.or_else(rank_in_environment).unwrap_or_default());
        ExitCode::from(4)
    })
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

/// The value of a rank: its length and its bytes tell whose it is.
fn value(rank: u32, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at as u32 * 31 + rank * 7) as u8).collect()
}

fn check() -> Result<ExitCode, Error> {
    let mut pmi = Pmi::init()?;
    let (rank, size) = (pmi.rank(), pmi.size());
    for len_bytes in LENGTHS {
        pmi.put(&format!("of-{len_bytes}"), &value(rank, len_bytes))?;
    }
    pmi.fence()?;
    for other in 0..size {
        for len_bytes in LENGTHS {
            let key = format!("of-{len_bytes}");
            let found = pmi.get(other, &key)?;
            assert_eq!(
                found.as_ref(),
                Some(&value(other, len_bytes)),
                "{key} of rank {other} in rank {rank}"
            );
        }
        assert_eq!(pmi.get(other, "nothing")?, None);
    }
    assert!(pmi.get(size, "card").is_err());
    for _ in 0..FENCES {
        pmi.fence()?;
    }
    // A second round of values after the first.
    pmi.put("again", &rank.to_le_bytes())?;
    pmi.fence()?;
    let next = (rank + 1) % size;
    assert_eq!(pmi.get(next, "again")?, Some(next.to_le_bytes().to_vec()));
    let neighbours = pmi.neighbours()?.to_vec();
    assert!(neighbours.contains(&rank), "{neighbours:?} without {rank}");
    let nodes = pmi.nodes()?;
    assert_eq!(nodes.neighbours_of(rank), neighbours);
    // What Slurm says, for the test to hold the neighbours against.
    let node = std::env::var("SLURM_NODEID").unwrap_or_else(|_| "0".to_owned());
    let (protocol, launcher) = (pmi.protocol(), pmi.launcher());
    println!("{rank} of {size}: ok, {protocol} by {launcher}, on node {node}, neighbours {neighbours:?}");
    pmi.finalize()?;
    Ok(ExitCode::SUCCESS)
}

fn kill_this_process() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// A fence, whose outcome is told.
fn tell(pmi: &mut Pmi) -> bool {
    let start = Instant::now();
    let outcome = pmi.fence();
    let (rank, spent) = (pmi.rank(), start.elapsed().as_millis());
    match &outcome {
        Ok(()) => println!("{rank}: the fence let go after {spent} ms"),
        Err(error) => println!("{rank}: {error}"),
    }
    outcome.is_ok()
}

/// What launchers say about it before they are asked.
fn rank_in_environment() -> Option<u32> {
    let names = ["PMIX_RANK", "PMI_RANK", "PMI_ID", "SLURM_PROCID", "IRONBAND_PMI_RANK"];
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

fn die(when: &str, victim: u32) -> Result<ExitCode, Error> {
    if when == "before-init" && rank_in_environment() == Some(victim) {
        kill_this_process();
    }
    let mut pmi = Pmi::init()?;
    let is_victim = pmi.rank() == victim;
    println!("{}: here, process {}", pmi.rank(), std::process::id());
    if !tell(&mut pmi) {
        return Ok(ExitCode::from(3));
    }
    if is_victim && when == "before-put" {
        kill_this_process();
    }
    pmi.put("card", b"here")?;
    match when {
        "before-fence" if is_victim => kill_this_process(),
        // It waits in the fence, because another one comes late.
        "in-fence" if is_victim => {
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                kill_this_process()
            });
        }
        "in-fence" if pmi.rank() == (victim + 1) % pmi.size() => {
            std::thread::sleep(Duration::from_millis(900))
        }
        _ => {}
    }
    if !tell(&mut pmi) {
        return Ok(ExitCode::from(3));
    }
    if is_victim && when == "after-fence" {
        kill_this_process();
    }
    if !tell(&mut pmi) {
        return Ok(ExitCode::from(3));
    }
    pmi.finalize()?;
    Ok(ExitCode::SUCCESS)
}

/// Is a fence a fence?
fn delay(late: u32, milliseconds: u64) -> Result<ExitCode, Error> {
    let mut pmi = Pmi::init()?;
    pmi.put("card", b"here")?;
    pmi.fence()?;
    let delay = Duration::from_millis(milliseconds);
    let start = Instant::now();
    if pmi.rank() == late {
        std::thread::sleep(delay);
    }
    pmi.fence()?;
    let spent = start.elapsed();
    println!("{}: the fence let go after {} ms", pmi.rank(), spent.as_millis());
    // Processes leave the fence before within some milliseconds of each other.
    assert!(spent + Duration::from_millis(50) > delay, "rank {} did not wait for rank {late}", pmi.rank());
    pmi.finalize()?;
    Ok(ExitCode::SUCCESS)
}

fn stop(victim: u32) -> Result<ExitCode, Error> {
    let mut pmi = Pmi::init()?;
    pmi.fence()?;
    println!("{}: here, process {}", pmi.rank(), std::process::id());
    if pmi.rank() == victim {
        let _ = kill_process(getpid(), Signal::STOP);
    }
    Ok(ExitCode::from(if tell(&mut pmi) { 0 } else { 3 }))
}

/// One process ends as if all were well.
fn leave(early: u32) -> Result<ExitCode, Error> {
    let mut pmi = Pmi::init()?;
    pmi.fence()?;
    if pmi.rank() == early {
        std::process::exit(0);
    }
    Ok(ExitCode::from(if tell(&mut pmi) { 0 } else { 3 }))
}

fn abort(rank: u32, code: i32) -> Result<ExitCode, Error> {
    let mut pmi = Pmi::init()?;
    pmi.fence()?;
    if pmi.rank() == rank {
        pmi.abort(code, "this is a test");
    }
    // The others wait, and are ended.
    Ok(ExitCode::from(if tell(&mut pmi) { 0 } else { 3 }))
}
