//! `ironband compare`: runs benchmarks over several transports, interleaved, and sets the medians side by side.

mod comparison;
mod job;
mod measurement;
mod metric;
mod plot;
mod schedule;
mod statistics;
mod table;
mod transport;

use crate::machine::{Cores, Machine};
use crate::open_mpi;
use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use comparison::{Benchmark, Comparison, Outcome, Run};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use job::{Job, OutputForm, Program};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};
use transport::Transport;

/// Arguments of `ironband compare`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Transports to compare: names of BTLs, or ucx; with Ironband's own benchmarks also rust (Ironband's messages without MPI) and
    /// line (one cache line between two processes: the least that is possible). The others are divided by the first.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "ironband,vader,tcp")]
    btl: Vec<String>,
    /// OSU-style benchmarks to run: names, looked for in --bench-dir, beside this program and on PATH, or paths. Those of collective operations,
    /// as osu_allreduce, osu_iallreduce and osu_allreduce_persistent, may be parts of an osu_collective there.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "osu_latency")]
    bench: Vec<String>,
    /// How many times every transport runs; each round starts with another one.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Message sizes in bytes, handed to the benchmark as its -m.
    #[arg(short, long, value_name = "MIN:MAX", value_parser = message_sizes)]
    message_sizes: Option<String>,
    /// Ranks.
    #[arg(short = 'n', long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    ranks: u16,
    /// What each rank is bound to [default: core, or none when there are more ranks than cores].
    #[arg(long, value_enum)]
    bind: Option<Binding>,
    /// Where the benchmarks are.
    #[arg(long, value_name = "DIR")]
    bench_dir: Option<PathBuf>,
    /// Where Open MPI shall look for components first, such as a build of Ironband that is not installed.
    #[arg(long, value_name = "DIR")]
    component_dir: Option<PathBuf>,
    /// Write every sample, the medians and the machine's description to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the medians into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How long one run may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Further arguments of the benchmark.
    #[arg(last = true, value_name = "ARGUMENTS")]
    extra: Vec<String>,
}

/// What `mpirun --bind-to` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Binding {
    /// Every rank to a core of its own.
    Core,
    /// To a socket.
    Socket,
    /// To a NUMA node.
    Numa,
    /// To nothing.
    None,
}

impl Binding {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Socket => "socket",
            Self::Numa => "numa",
            Self::None => "none",
        }
    }
}

fn message_sizes(text: &str) -> Result<String, String> {
    let (min, max) = text.split_once(':').ok_or("two sizes are wanted, as in 1:4194304")?;
    match (min.parse::<u64>(), max.parse::<u64>()) {
        (Ok(min), Ok(max)) if min <= max => Ok(text.to_owned()),
        (Ok(_), Ok(_)) => Err("the first size is larger than the second".into()),
        _ => Err("sizes are whole numbers of bytes, as in 1:4194304".into()),
    }
}

/// Compares. Succeeds when every run gave a measurement; what could be measured is printed and written in any case.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let comparison = compare(arguments)?;
    print!("{}", table::head(&comparison));
    for benchmark in &comparison.benchmarks {
        print!("{}", table::text(benchmark));
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&comparison)? + "\n";
        std::fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))?;
    }
    if let Some(path) = &arguments.svg {
        plot::draw(&comparison, path)?;
    }
    Ok(if comparison.benchmarks.iter().any(Benchmark::failed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn compare(arguments: &Arguments) -> anyhow::Result<Comparison> {
    let (mpirun, version_line) = open_mpi::ask_mpirun()?;
    let open_mpi_version = open_mpi::version_in(&version_line)
        .with_context(|| format!("{} is not Open MPI's: \"{version_line}\"", mpirun.display()))?
        .to_owned();
    let search_path = arguments.component_dir.as_deref().map(component_search_path).transpose()?;
    let environment: Vec<_> =
        search_path.iter().map(|path| ("OMPI_MCA_mca_base_component_path", path.as_str())).collect();
    let report = open_mpi::ask_ompi_info(&environment)?;
    let transports = transport::select(&arguments.btl, &report)?;
    let benchmarks: Vec<Program> = arguments
        .bench
        .iter()
        .map(|name| find_benchmark(name, arguments.bench_dir.as_deref()))
        .collect::<Result<_, _>>()?;
    let machine = Machine::read();
    let binding = binding(arguments, &machine.cores)?;

    let began_unix_seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let progress = progress(arguments.rounds.into(), transports.len() * benchmarks.len());
    let mut results = Vec::new();
    for program in benchmarks {
        let job = Job {
            mpirun: mpirun.clone(),
            options: mpirun_options(arguments, binding, &machine.cores, search_path.as_deref()),
            output: OutputForm::of(&program.path, &mpirun),
            benchmark: program,
            benchmark_arguments: benchmark_arguments(arguments),
            timeout: Duration::from_secs(arguments.timeout),
        };
        results.push(run_benchmark(&job, arguments.rounds.into(), &transports, &progress));
    }
    progress.finish_and_clear();
    Ok(Comparison {
        format: "ironband-compare/1",
        ironband_version: env!("CARGO_PKG_VERSION"),
        began_unix_seconds,
        machine,
        open_mpi_version,
        ranks: arguments.ranks.into(),
        bound_to: (binding != Binding::None).then(|| binding.name()),
        rounds: arguments.rounds.into(),
        transports,
        benchmarks: results,
    })
}

/// The given folder before those that Open MPI searches anyway: the parameter replaces them all.
fn component_search_path(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.canonicalize().with_context(|| format!("--component-dir {}", folder.display()))?;
    let folder = folder.to_str().context("--component-dir must be UTF-8")?;
    ensure!(
        !folder.contains(':'),
        "--component-dir {folder}: Open MPI cannot search a folder with a colon in its name"
    );
    let mut folders = vec![folder.to_owned()];
    folders.extend(open_mpi::ask_ompi_info(&[])?.component_folders());
    Ok(folders.join(":"))
}

/// The program that contains the benchmarks of collective operations.
const COLLECTIVE: &str = "osu_collective";

fn find_benchmark(name: &str, folder: Option<&Path>) -> anyhow::Result<Program> {
    if name.contains('/') {
        let path = std::path::absolute(name)?;
        ensure!(open_mpi::is_executable(&path), "{name} is not an executable file");
        return Ok(Program { path, operation: None });
    }
    let mut folders: Vec<PathBuf> = match folder {
        Some(folder) => vec![std::path::absolute(folder)?],
        None => {
            let own = std::env::current_exe()?;
            own.parent().map(Path::to_owned).into_iter().collect()
        }
    };
    if folder.is_none() {
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    }
    let find =
        |name| folders.iter().map(|folder| folder.join(name)).find(|path| open_mpi::is_executable(path));
    if let Some(path) = find(name) {
        return Ok(Program { path, operation: None });
    }
    let mut also = String::new();
    if let Some(path) = find(COLLECTIVE) {
        let operations = operations_of(&path)?;
        let operation = name.strip_prefix("osu_").unwrap_or(name);
        if operations.iter().any(|one| one == operation) {
            return Ok(Program { path, operation: Some(operation.to_owned()) });
        }
        also = format!("; {} has osu_{}", path.display(), operations.join(", osu_"));
    }
    bail!(
        "{name} is neither {} nor on PATH: build the benchmarks (cargo build --release) or name their folder with --bench-dir{also}",
        folder.map_or_else(|| "beside this program".into(), |folder| format!("in {}", folder.display()))
    )
}

/// What a program of collective operations can measure, by its own words.
fn operations_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let listed = Command::new(path).arg("--list").stdin(Stdio::null()).output();
    let listed = listed.with_context(|| format!("{} could not be started", path.display()))?;
    ensure!(
        listed.status.success(),
        "{} --list ended with {}: {}",
        path.display(),
        listed.status,
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect())
}

fn binding(arguments: &Arguments, cores: &Cores) -> anyhow::Result<Binding> {
    let fits = usize::from(arguments.ranks) <= cores.cores;
    match arguments.bind {
        Some(Binding::Core) if !fits => {
            bail!(
                "{} ranks cannot be bound to {} cores one each: use --bind none",
                arguments.ranks,
                cores.cores
            )
        }
        Some(binding) => Ok(binding),
        None if fits => Ok(Binding::Core),
        None => Ok(Binding::None),
    }
}

fn mpirun_options(
    arguments: &Arguments,
    binding: Binding,
    cores: &Cores,
    search_path: Option<&str>,
) -> Vec<String> {
    let mut options: Vec<String> =
        ["-n", &arguments.ranks.to_string(), "--bind-to", binding.name()].map(str::to_owned).to_vec();
    if usize::from(arguments.ranks) > cores.cores {
        options.push("--oversubscribe".to_owned());
    }
    if let Some(path) = search_path {
        options.extend(["--mca", "mca_base_component_path", path].map(str::to_owned));
    }
    options
}

fn benchmark_arguments(arguments: &Arguments) -> Vec<String> {
    let sizes = arguments.message_sizes.iter().flat_map(|sizes| ["-m".to_owned(), sizes.clone()]);
    sizes.chain(arguments.extra.iter().cloned()).collect()
}

/// Runs one benchmark in all rounds. A transport whose run failed is left out of the later rounds: it would fail
/// again, perhaps after a long time, and the others are worth finishing.
fn run_benchmark(job: &Job, rounds: usize, transports: &[Transport], progress: &ProgressBar) -> Benchmark {
    let name = job.benchmark.name();
    let mut failed = vec![false; transports.len()];
    let mut runs = Vec::new();
    for turn in schedule::turns(rounds, transports.len()) {
        let transport = &transports[turn.transport];
        progress.set_message(format!("{name}, round {} of {rounds}, {}", turn.round + 1, transport.name));
        if !failed[turn.transport] {
            let began = Instant::now();
            let outcome = match job.run(transport) {
                Ok(measurement) => Outcome::Measurement(measurement),
                Err(error) => {
                    failed[turn.transport] = true;
                    progress.suspend(|| eprintln!("ironband: {name} over {}: {error}", transport.name));
                    Outcome::Failure(error.reason.to_string())
                }
            };
            let seconds = began.elapsed().as_secs_f64();
            let (round, position) = (turn.round, turn.position);
            runs.push(Run { round, position, transport: transport.name.clone(), seconds, outcome });
        }
        progress.inc(1);
    }
    Benchmark::new(name, job.benchmark_arguments.clone(), transports, rounds, runs)
}

/// A bar on standard error if that is a terminal. It moves between the runs only: a ticking bar would take processor
/// time from the benchmark.
fn progress(rounds: usize, runs_per_round: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
        .expect("the template is constant and valid");
    let bar =
        ProgressBar::with_draw_target(Some((rounds * runs_per_round) as u64), ProgressDrawTarget::stderr());
    bar.with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(words: &[&str]) -> Arguments {
        Line::try_parse_from(std::iter::once(&"compare").chain(words)).unwrap().arguments
    }

    const TWO_CORES: Cores = Cores { hardware_threads: 4, cores: 2, quota: None };

    #[test]
    fn lists_and_further_arguments_are_taken_apart() {
        let arguments = arguments(&["--btl", "a,b", "--bench", "x,y", "-m", "8:16", "--", "-i", "10"]);
        assert_eq!(arguments.btl, ["a", "b"]);
        assert_eq!(arguments.bench, ["x", "y"]);
        assert_eq!(benchmark_arguments(&arguments), ["-m", "8:16", "-i", "10"]);
    }

    #[test]
    fn sizes_must_be_two_numbers_in_order() {
        assert!(message_sizes("0:4194304").is_ok());
        for wrong in ["8", "8:", "16:8", "1K:2K", "-1:8"] {
            assert!(message_sizes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranks_are_bound_to_cores_while_they_fit() {
        assert_eq!(binding(&arguments(&["-n", "2"]), &TWO_CORES).unwrap(), Binding::Core);
        assert_eq!(binding(&arguments(&["-n", "3"]), &TWO_CORES).unwrap(), Binding::None);
        assert!(binding(&arguments(&["-n", "3", "--bind", "core"]), &TWO_CORES).is_err());
        let crowded = mpirun_options(&arguments(&["-n", "3"]), Binding::None, &TWO_CORES, None);
        assert_eq!(crowded, ["-n", "3", "--bind-to", "none", "--oversubscribe"]);
        let roomy = mpirun_options(&arguments(&[]), Binding::Core, &TWO_CORES, Some("/a:/b"));
        assert_eq!(roomy, ["-n", "2", "--bind-to", "core", "--mca", "mca_base_component_path", "/a:/b"]);
    }
}
