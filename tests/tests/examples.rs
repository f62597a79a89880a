//! The examples that use the Rust API: under `ironband run`, under `mpirun`, and alone.

use std::path::Path;
use std::time::Duration;

use ironband_tests::{Ended, Job, Outcome, Row, build_program};

/// By whom the processes are started.
#[derive(Clone, Copy)]
enum Launcher {
    IronbandRun,
    Mpirun,
}

fn program(package: &str, name: &str) -> String {
    let program = build_program(package, name).unwrap_or_else(|error| panic!("{error:#}"));
    program.path.to_str().unwrap().to_owned()
}

fn run(launcher: Launcher, processes: u32, name: &str, args: &str) -> Outcome {
    let _turn = Row::new(name, processes, env!("CARGO_TARGET_TMPDIR")).turn();
    let number = processes.to_string();
    let mut words = match launcher {
        Launcher::IronbandRun => {
            vec![program("ironband-cli", "ironband"), "run".to_owned(), "-n".to_owned(), number]
        }
        Launcher::Mpirun => {
            ["mpirun", "-np", &number, "--oversubscribe", "--bind-to", "none"].map(str::to_owned).to_vec()
        }
    };
    words.push(program("ironband-examples", name));
    words.extend(args.split_whitespace().map(str::to_owned));
    let job = Job::start_command(&words, &[], b"").unwrap_or_else(|error| panic!("{error:#}"));
    job.wait(Duration::from_secs(60)).unwrap()
}

/// Ends well under both launchers, and says so once.
fn passes(name: &str, args: &str, numbers: &[u32], expected: &str) {
    for &processes in numbers {
        for launcher in [Launcher::IronbandRun, Launcher::Mpirun] {
            let outcome = run(launcher, processes, name, args);
            let said = outcome.stdout.matches(expected).count();
            assert!(outcome.is_success() && said == 1, "{}", outcome.explain());
            print!("{}", outcome.stdout);
        }
    }
}

/// All processes end, with a failure, soon, and this is said.
fn fails(name: &str, args: &str, processes: u32, expected: &str) {
    for launcher in [Launcher::IronbandRun, Launcher::Mpirun] {
        let outcome = run(launcher, processes, name, args);
        let Ended::By(status) = outcome.ended else { panic!("{}", outcome.explain()) };
        assert!(!status.success() && outcome.stderr.contains(expected), "{}", outcome.explain());
        assert!(outcome.processes_left.is_empty(), "{}", outcome.explain());
    }
}

#[test]
fn hello() {
    passes("hello", "", &[1, 2, 3, 5], "rank 0 got: hello from ");
}

/// What a newcomer copies from there is a program that is compiled and run here.
#[test]
fn hello_is_in_the_readme() {
    let read = |path: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
    };
    let program = read("examples/src/bin/hello.rs");
    let code = program.lines().skip_while(|line| line.starts_with("//!") || line.is_empty());
    let indent = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") };
    let code: String = code.map(indent).collect();
    assert!(
        code.lines().count() <= 15 && read("README.md").contains(&code),
        "README.md does not have:\n{code}"
    );
}

#[test]
fn ring() {
    passes("ring", "--laps 100 --words 50000", &[1, 2, 3, 5], "blocks of 50000 words: all as expected");
    passes("ring", "--laps 0 --words 0", &[3], "blocks of 0 words: all as expected");
}

#[test]
fn ping_pong() {
    passes("ping_pong", "--rounds 200", &[2], " 4194304 ");
    fails("ping_pong", "", 1, "wants two processes");
    fails("ping_pong", "", 3, "wants two processes");
}

#[test]
fn counter() {
    for processes in [1, 2, 3, 5] {
        let expected = format!("counted to {}, each number given once", 500 * processes);
        passes("counter", "--adds 500", &[processes], &expected);
    }
}

#[test]
fn halo_exchange() {
    let args = "--rows 37 --columns 53 --steps 40";
    passes("halo_exchange", args, &[1, 2, 3, 5, 6], "40 steps: equals the serial run");
    fails("halo_exchange", "--rows 1 --columns 1", 3, "use more cells or fewer processes");
}

#[test]
fn halo_exchange_draws_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("heat.png");
    let args = format!("--rows 30 --columns 70 --steps 5 --picture {}", file.display());
    passes("halo_exchange", &args, &[4], "equals the serial run");
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    // Width and height, in the first chunk.
    assert_eq!(bytes[16..24], [0, 0, 0, 70, 0, 0, 0, 30]);
}

#[test]
fn key_value_store() {
    passes("key_value_store", "--keys 300 --operations 2000", &[1, 2, 3, 5], "all as expected");
}

/// All of them read and write the same entry all the time, and it is so long that many find it half written.
#[test]
fn key_value_store_with_one_key() {
    passes(
        "key_value_store",
        "--keys 1 --operations 1000 --writes 50 --value-bytes 60000",
        &[2, 3],
        "all as expected",
    );
}

/// Without any launcher a process is a job of one.
#[test]
fn alone() {
    for name in ["hello", "ring", "counter", "halo_exchange", "key_value_store"] {
        let output = std::process::Command::new(Path::new(&program("ironband-examples", name))).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn dot_product() {
    passes("dot_product", "--length 100001", &[1, 2, 3, 5], "100001 elements: ");
    passes("dot_product", "--length 1", &[3], "as the serial run");
}

#[test]
fn sample_sort() {
    passes("sample_sort", "--numbers 5000", &[1, 2, 3, 5], "as the serial run");
    passes("sample_sort", "--numbers 0", &[3], "0 numbers");
    passes("sample_sort", "--numbers 1", &[4], "4 numbers");
}

#[test]
fn k_means() {
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters.png");
    passes(
        "k_means",
        &format!("--points 4000 --picture {}", picture.display()),
        &[1, 2, 3],
        "as the serial run",
    );
    let bytes = std::fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG"), "no picture");
    fails("k_means", "--points 3", 2, "fewer points than centres");
}

#[test]
fn fft_transpose() {
    passes("fft_transpose", "--side 64", &[1, 2, 4, 8], "as the serial run");
    fails("fft_transpose", "--side 64", 3, "a multiple of 3 processes");
}
