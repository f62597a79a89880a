//! The registration cache with registrations that cost nothing: criterion's figures of each operation, and then a table of medians
//! beside Open MPI's grdma and UCX's rcache, which are measured in turn with it by small C programs that are built here.
//!
//! `cargo bench -p ironband-benches --bench registration_cache`; with `-- --table` the table alone.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::Criterion;
use ironband::rcache::{CacheLimits, Registrar, RegistrationCache};
use ironband::{Access, unmap_events};

const PAGE: usize = 4096;
/// Regions are a page long, with a page between.
const STRIDE: usize = 2 * PAGE;
const MANY: usize = 10_000;
const VERY_MANY: usize = 100_000;
/// Fewer than there are cells for news, so that none is lost.
const NEWS: usize = 512;
/// Turns of each contender in the table.
const ROUNDS: usize = 5;
/// Made-up addresses: nothing is mapped there, and nobody looks.
const BASE: usize = 1 << 40;

/// Registers nothing.
struct Free;

impl Registrar for Free {
    type Region = ();
    type Error = ();

    unsafe fn register(&self, _start: *mut u8, _len_bytes: usize, _access: Access) -> Result<(), ()> {
        Ok(())
    }

    fn deregister(&self, (): ()) {}

    fn too_many(_in_use: usize) {}
}

struct Bench {
    cache: RegistrationCache<()>,
    random: u64,
}

impl Bench {
    fn new() -> Self {
        let limits = CacheLimits { bytes_max: usize::MAX / 2, regions_max: usize::MAX / 2 };
        Self {
            cache: RegistrationCache::open(limits).expect("a letter box is free"),
            random: 88_172_645_463_325_252,
        }
    }

    fn with(regions: usize) -> Self {
        let bench = Self::new();
        (0..regions).for_each(|index| bench.use_it(index));
        bench
    }

    fn use_it(&self, index: usize) {
        // SAFETY: the registrar does not look at the memory.
        let held =
            unsafe { self.cache.acquire(&Free, (BASE + index * STRIDE) as *mut u8, PAGE, Access::LOCAL) };
        self.cache.release(&Free, black_box(held.expect("it costs nothing")));
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % bound
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cache.close(&Free);
    }
}

/// An operation: time for so many of it.
type Measure = fn(u64) -> Duration;

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn hit_same(count: u64) -> Duration {
    let bench = Bench::with(1);
    time(|| (0..count).for_each(|_| bench.use_it(0)))
}

fn hit_random(count: u64) -> Duration {
    let mut bench = Bench::with(MANY);
    let order: Vec<usize> = (0..count).map(|_| bench.below(MANY)).collect();
    time(|| order.iter().for_each(|&index| bench.use_it(index)))
}

fn miss(count: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count as usize;
    while left > 0 {
        let bench = Bench::new();
        let now = left.min(MANY);
        spent += time(|| (0..now).for_each(|index| bench.use_it(index)));
        left -= now;
    }
    spent
}

/// The hook around an unmapping that costs nothing, of pages that are `start` bytes behind the first region.
fn hook(count: u64, start: usize) -> Duration {
    let bench = Bench::with(1);
    let mut spent = Duration::ZERO;
    let mut left = count as usize;
    while left > 0 {
        let now = left.min(NEWS);
        spent += time(|| (0..now).for_each(|_| unmap_events::around(BASE + start, PAGE, || black_box(()))));
        left -= now;
        bench.use_it(0);
    }
    spent
}

fn hook_other(count: u64) -> Duration {
    hook(count, 1 << 30)
}

fn hook_region(count: u64) -> Duration {
    hook(count, 0)
}

/// What the next acquisition pays for each range that was unmapped.
fn drain(count: u64) -> Duration {
    let bench = Bench::with(VERY_MANY);
    let mut spent = Duration::ZERO;
    let (mut left, mut at) = (count as usize, 0);
    while left > 0 {
        let now = left.min(NEWS);
        let unmapped: Vec<usize> = (0..now).map(|index| (at + index * 97) % VERY_MANY).collect();
        unmapped.iter().for_each(|index| unmap_events::unmapping(BASE + index * STRIDE, PAGE));
        spent += time(|| bench.use_it(VERY_MANY));
        unmapped.iter().for_each(|&index| bench.use_it(index));
        (left, at) = (left - now, at + 1);
    }
    spent
}

/// Name, what it is, the aim in nanoseconds, how to measure, and how often in one turn of the table.
const OPERATIONS: [(&str, &str, f64, Measure, u64); 6] = [
    ("hit_same", "hit, same region", 20.0, hit_same, 300_000),
    ("hit_random", "hit, 10,000 regions, random", 150.0, hit_random, 300_000),
    ("miss", "miss, registration excluded", 500.0, miss, 10_000),
    ("hook_other", "hook, other memory", 30.0, hook_other, 300_000),
    ("hook_region", "hook, registered memory", 100.0, hook_region, 100_000),
    ("drain", "drain per range, 100,000 regions", 1000.0, drain, 5_120),
];

/// Another transport's cache: what to call it, its source, and how it is built.
struct Peer {
    name: &'static str,
    source: &'static str,
    /// Words for the compiler, from pkg-config; or why there are none.
    flags: Result<Vec<String>, String>,
}

fn pkg_config(package: &str, more: &[&str]) -> Result<Vec<String>, String> {
    let output = Command::new("pkg-config").args(["--cflags", "--libs", package]).output();
    let output = output.map_err(|error| format!("pkg-config: {error}"))?;
    if !output.status.success() {
        return Err(format!("pkg-config knows no {package}"));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().chain(more.iter().copied()).map(str::to_owned).collect())
}

fn peers() -> [Peer; 2] {
    [
        Peer { name: "Open MPI grdma", source: "grdma.c", flags: pkg_config("ompi", &["-lopen-pal"]) },
        Peer {
            name: "UCX rcache",
            source: "ucx.c",
            flags: Ok(["-lucs", "-lucm"].map(str::to_owned).to_vec()),
        },
    ]
}

/// Builds a peer's driver.
///
/// # Errors
/// Why it cannot be had here.
fn build(peer: &Peer, folder: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(peer.source);
    let program = folder.join(peer.source).with_extension("");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&program).arg(source).args(peer.flags.clone()?);
    let output = cc.output().map_err(|error| format!("cc: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    if output.status.success() { Ok(program) } else { Err(complaint) }
}

/// One turn of a peer: its lines `NAME NANOSECONDS`.
fn turn(program: &Path) -> Vec<(String, f64)> {
    // A job of one process, started without a launcher, needs no transport.
    let output = Command::new(program).env("OMPI_MCA_btl", "self").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{}: {output:?}", program.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// Name, driver (none is ourselves), and what it has said.
type Column = (&'static str, Option<PathBuf>, Vec<(String, f64)>);

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn table() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut columns: Vec<Column> = vec![("ironband", None, Vec::new())];
    for peer in peers() {
        match build(&peer, folder.path()) {
            Ok(program) => columns.push((peer.name, Some(program), Vec::new())),
            Err(reason) => println!("skipped: {}: {reason}", peer.name),
        }
    }
    for _ in 0..ROUNDS {
        for (_, program, samples) in &mut columns {
            match program {
                Some(program) => samples.extend(turn(program)),
                None => samples.extend(OPERATIONS.iter().map(|(name, _, _, measure, count)| {
                    ((*name).to_owned(), measure(*count).as_nanos() as f64 / *count as f64)
                })),
            }
        }
    }
    println!("\nnanoseconds, medians of {ROUNDS} turns; registrations cost nothing");
    let names: String = columns.iter().map(|(name, ..)| format!("{name:>16}")).collect();
    println!("{:34}{:>8}{names}", "", "aim");
    for (name, what, aim, ..) in OPERATIONS {
        let cells = columns.iter().map(|(_, _, samples)| {
            let values = samples.iter().filter(|(found, _)| found == name).map(|(_, value)| *value).collect();
            median(values).map_or_else(|| format!("{:>16}", "-"), |value| format!("{value:16.1}"))
        });
        println!("{what:34}{aim:8}{}", cells.collect::<String>());
    }
}

fn main() {
    if !std::env::args().any(|argument| argument == "--table") {
        let mut criterion = Criterion::default().configure_from_args();
        let mut group = criterion.benchmark_group("registration_cache");
        for (name, _, _, measure, _) in OPERATIONS {
            group.bench_function(name, |bencher| bencher.iter_custom(measure));
        }
        group.finish();
        criterion.final_summary();
    }
    if !std::env::args().any(|argument| argument == "--test") {
        table();
    }
}
