//! One row of a test table: a program, how many ranks, and what is different about this run.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::{CompiledProgram, Job, Outcome, Tally, Transport, compile_program};

/// Bound on a row, unless it sets its own.
const TIME: Duration = Duration::from_secs(120);

/// The same in an emulated guest, for a row that takes some ten seconds there when the machine is idle.
const DEVICE_SECONDS: u64 = 400;

/// The program's own watchdog comes first: it says where each rank hangs.
const WATCHDOG_LEAD: Duration = Duration::from_secs(15);

/// A run of one program. Built step by step, then [`Row::passes`].
#[derive(Clone, Debug)]
pub struct Row {
    program: String,
    ranks: u32,
    threads: u32,
    args: Vec<String>,
    mca: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    not_over: Vec<(String, String)>,
    between_hosts: Option<(String, String)>,
    atomics: bool,
    registrations: bool,
    btls: Option<String>,
    time: Duration,
    preload: Option<&'static str>,
    out_dir: PathBuf,
}

impl Row {
    /// `program` is a C file of `tests/mpi` (without its ending) or a name for an executable that the caller brings.
    /// Compiled programs go to `out_dir`: `env!("CARGO_TARGET_TMPDIR")`, which only a test itself knows.
    pub fn new(program: &str, ranks: u32, out_dir: &str) -> Self {
        Self {
            program: program.to_owned(),
            ranks,
            threads: 1,
            args: Vec::new(),
            mca: Vec::new(),
            environment: Vec::new(),
            not_over: Vec::new(),
            between_hosts: None,
            atomics: false,
            registrations: false,
            btls: None,
            time: TIME,
            preload: None,
            out_dir: PathBuf::from(out_dir),
        }
    }

    /// Arguments of the program, separated by blanks.
    pub fn args(mut self, args: &str) -> Self {
        self.args.extend(args.split_whitespace().map(str::to_owned));
        self
    }

    /// One more `--mca` parameter.
    pub fn mca(mut self, name: &str, value: &str) -> Self {
        self.mca.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable for `mpirun` and, through `-x`, for every rank.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Each rank runs this many busy threads: with more of them than cores, waiting ranks must yield.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// The ranks use jemalloc instead of the allocator of libc.
    pub fn jemalloc(mut self) -> Self {
        self.preload = Some(JEMALLOC);
        self
    }

    /// The bound on the whole run.
    pub fn time(mut self, seconds: u64) -> Self {
        self.time = Duration::from_secs(seconds);
        self
    }

    /// The value of the parameter `btl`, instead of the transport under test and `self`.
    pub fn btls(mut self, btls: &str) -> Self {
        self.btls = Some(btls.to_owned());
        self
    }

    /// One of Open MPI's own transports cannot do this, for this reason: the row says so instead of running over it.
    pub fn not_over(mut self, transport: &str, reason: &str) -> Self {
        self.not_over.push((transport.to_owned(), reason.to_owned()));
        self
    }

    /// Between hosts not all of this can be done, for this reason: there the program gets these arguments as well.
    pub fn between_hosts(mut self, args: &str, reason: &str) -> Self {
        self.between_hosts = Some((args.to_owned(), reason.to_owned()));
        self
    }

    /// The program's atomics are the adapter's, where it has any, and counted; see [`Row::passes_with_device`].
    pub fn atomics(mut self) -> Self {
        self.atomics = true;
        self
    }

    /// The program's memory is registered again and again, and unmapped in between; see [`Row::passes_with_device`].
    pub fn registrations(mut self) -> Self {
        self.registrations = true;
        self
    }

    /// Like [`Row::passes`] where there is an RDMA device, which `TESTBED_DEV` names, and with time for an emulated processor.
    pub fn passes_with_device(&self) {
        let Some(device) = env::var_os("TESTBED_DEV").filter(|device| !device.is_empty()) else {
            // For the guests, which see the program where it is now.
            fatal(compile_program(&self.program, &self.out_dir));
            println!(
                "skipped: {} {} over verbs: TESTBED_DEV names no RDMA device; ci/testbed.d/programs runs it",
                self.program,
                self.args.join(" ")
            );
            return;
        };
        // At this level the transport says at its end what it has carried.
        let mut row = self.clone().time(DEVICE_SECONDS).mca("btl_base_verbose", "1");
        if let Some((args, reason)) = self.between_hosts.as_ref().filter(|_| has_several_hosts()) {
            println!("between hosts only with {args}: {reason}");
            row = row.args(args);
        }
        let Some(outcome) = row.run() else { return };
        row.assert_ok(&outcome, &format!("ok {} ", row.program));
        if !fatal(Transport::from_environment()).is_ironband() {
            println!("skipped: what was carried over the device: only Ironband tells");
            return;
        }
        let tally = Tally::of_job(&format!("{}\n{}", outcome.stdout, outcome.stderr));
        assert!(
            tally.devices >= self.ranks,
            "not all of {} processes tell what they have carried",
            self.ranks
        );
        if self.atomics {
            tally.assert_atomics(device.as_encoded_bytes().starts_with(b"rxe"), has_several_hosts());
        }
        if self.registrations {
            tally.assert_registrations();
            println!(
                "registrations: {} hits, {} unmapped",
                tally.registration_hits, tally.registrations_unmapped
            );
        }
        // `ci/testbed.d/programs` holds it against what the device has counted.
        println!(
            "carried {} bytes, {} atomics of adapters, {} of processors",
            tally.bytes, tally.native_atomics, tally.asked_atomics
        );
    }

    /// Runs the program of `tests/mpi` and panics, with all there is to know, unless it prints its `ok` line, ends
    /// well and leaves nothing.
    pub fn passes(&self) {
        let Some(outcome) = self.run() else { return };
        self.assert_ok(&outcome, &format!("ok {} ", self.program));
    }

    /// Like [`Row::passes`] for an executable of another kind, whose last word is `expected`.
    pub fn passes_with(&self, program: &CompiledProgram, expected: &str) {
        let Some(outcome) = self.run_program(program) else { return };
        self.assert_ok(&outcome, expected);
    }

    /// Runs the program of `tests/mpi`; none if the transport cannot do this.
    pub fn run(&self) -> Option<Outcome> {
        let program = fatal(compile_program(&self.program, &self.out_dir));
        self.run_program(&program)
    }

    /// Runs this executable; none if the transport cannot do this.
    pub fn run_program(&self, program: &CompiledProgram) -> Option<Outcome> {
        let _turn = wait_for_turn(&self.out_dir);
        let job = self.start(program)?;
        Some(fatal(job.wait(self.time)))
    }

    /// Takes this row's turn: nothing else of this harness runs until the result is dropped.
    pub fn turn(&self) -> impl Sized + use<> {
        wait_for_turn(&self.out_dir)
    }

    /// Starts this executable; none if the transport cannot do this. The caller has taken its [`Row::turn`].
    pub fn start(&self, program: &CompiledProgram) -> Option<Job> {
        let transport = fatal(Transport::from_environment());
        if let Some((_, reason)) = self.not_over.iter().find(|(name, _)| name == transport.name()) {
            println!("skipped: {} over {}: {reason}", self.program, transport.name());
            return None;
        }
        if let Some(library) = self.preload.filter(|library| !Path::new(library).exists()) {
            println!("skipped: {} with jemalloc: there is no {library} (package libjemalloc2)", self.program);
            return None;
        }
        println!("{} x {} {} over {transport}", self.ranks, self.program, self.args.join(" "));
        Some(fatal(Job::start(&self.mpirun_args(&transport, program), &self.whole_environment())))
    }

    fn mpirun_args(&self, transport: &Transport, program: &CompiledProgram) -> Vec<String> {
        let mut args: Vec<String> = vec!["-np".to_owned(), self.ranks.to_string()];
        // Correctness is tested here: no rank may depend on a core of its own.
        args.extend(["--oversubscribe", "--bind-to", "none"].map(str::to_owned));
        let transport_and_self = format!("{},self", transport.name());
        args.extend(transport.mpirun_args(self.btls.as_deref().unwrap_or(&transport_and_self)));
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let mut mca = self.mca.clone();
        if (self.ranks * self.threads) as usize > cores {
            mca.push(("mpi_yield_when_idle".to_owned(), "1".to_owned()));
        }
        for (name, value) in mca {
            args.extend(["--mca".to_owned(), name, value]);
        }
        let more = env::var(MPIRUN_ARGUMENTS).unwrap_or_default();
        args.extend(more.split_whitespace().map(str::to_owned));
        for (name, _) in self.whole_environment() {
            args.extend(["-x".to_owned(), name]);
        }
        if let Some(library) = self.preload {
            args.extend(["-x".to_owned(), format!("LD_PRELOAD={library}")]);
        }
        args.push(program.path.display().to_string());
        args.extend(self.args.iter().cloned());
        args
    }

    fn whole_environment(&self) -> Vec<(String, String)> {
        let watchdog = self.time.saturating_sub(WATCHDOG_LEAD).max(Duration::from_secs(1));
        let mut environment = self.environment.clone();
        if !environment.iter().any(|(name, _)| name == WATCHDOG) {
            environment.push((WATCHDOG.to_owned(), watchdog.as_secs().to_string()));
        }
        environment
    }

    fn assert_ok(&self, outcome: &Outcome, expected: &str) {
        let Some(line) = outcome.stdout.lines().find(|line| line.contains(expected)) else {
            panic!("{} did not print {expected:?}\n{}", self.program, outcome.explain());
        };
        assert!(outcome.is_success(), "{} did not end well\n{}", self.program, outcome.explain());
        for note in outcome.stdout.lines().filter(|line| line.starts_with("left out: ")) {
            println!("{note}");
        }
        println!("{line} [{:.1} s with mpirun]", outcome.took.as_secs_f64());
    }
}

/// Further arguments of every `mpirun`, separated by blanks: hosts, or MCA parameters to run the whole table under.
const MPIRUN_ARGUMENTS: &str = "IRONBAND_TEST_MPIRUN";

/// Where Debian's package libjemalloc2 puts it.
const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";

/// The variable that `check.h` reads.
const WATCHDOG: &str = "IRONBAND_TEST_WATCHDOG_SECONDS";

/// Until nothing else of this harness runs, and then nothing else does until the result is dropped.
///
/// Rows share two or three cores with each other badly. A lock on a file, because a runner may use a process for each
/// test; two open files exclude each other within one process as well.
///
/// # Panics
/// When the file in this folder cannot be made or locked.
pub fn wait_for_turn(dir: impl AsRef<Path>) -> File {
    fatal(lock(dir.as_ref()))
}

fn lock(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("mpirun.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// True in guests of `ci/testbed` that are joined.
pub(crate) fn has_several_hosts() -> bool {
    env::var("TESTBED_HOSTS").is_ok_and(|hosts| hosts.contains(' '))
}

/// In a test an error ends the test, with its whole chain of reasons.
fn fatal<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Makes a `#[test]` of each row of a table: `rows! { passes; name: "program" x RANKS, method(arguments), ...; ... }`. The first
/// word is the method that ends each row.
#[macro_export]
macro_rules! rows {
    ($end:ident; $($(#[$meta:meta])* $name:ident: $program:literal x $ranks:literal $(, $method:ident($($arg:expr),*))*;)*) => {
        $(
            #[test]
            $(#[$meta])*
            fn $name() {
                $crate::Row::new($program, $ranks, env!("CARGO_TARGET_TMPDIR"))$(.$method($($arg),*))*.$end();
            }
        )*
    };
}
