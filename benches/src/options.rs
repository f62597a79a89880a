//! The command line: OSU's letters, ranges and defaults.

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use crate::{
    collective::RootRank,
    error::BenchError,
    plan::{Plan, Schedule},
    point_to_point::LINE_BYTES_MAX,
    rma::{Creation, Synchronization},
    sizes::{DEFAULT_SIZE_BYTES_MAX, SizeRange, Sizes, parse_bytes},
};

/// Most rounds of one size: samples of many ranks are counted by C `int`s.
const ROUNDS_MAX: u64 = 100_000_000;

/// Most messages of one window.
const WINDOW_MAX: u64 = 4096;

/// Most calls of `MPI_Test` within one operation.
const TESTS_MAX: u64 = 1_000_000;

/// Most threads of one side, as in OSU.
const THREADS_MAX: usize = 128;

/// Options of every benchmark.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Common {
    /// Message sizes in bytes: MAX, MIN:MAX or MIN: (K, M, G are powers of 1024).
    ///
    /// Sizes start at MIN and double up to MAX; 0 is followed by 1. Default: 0 (latency of two-sided and
    /// one-sided operations) or 1 (bandwidth) up to 4194304.
    #[arg(short = 'm', long = "message-size", value_name = "[MIN:]MAX")]
    #[serde(serialize_with = "as_text")]
    pub message_size: Option<SizeRange>,

    /// Measured rounds of every size.
    ///
    /// A round is one ping-pong, one one-sided operation, one window of messages, or one collective operation.
    /// Default, as OSU's: latency 10000, above 8192 bytes 1000; bandwidth 100, above 8192 bytes 20; collective
    /// operations 1000, above 8192 bytes 100.
    #[arg(short = 'i', long, value_name = "ROUNDS", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    pub iterations: Option<u64>,

    /// Rounds before the measured ones.
    ///
    /// Default, as OSU's: latency 100, above 8192 bytes 10; bandwidth 10, above 8192 bytes 2; collective operations
    /// 200, above 8192 bytes 10.
    #[arg(short = 'x', long, value_name = "ROUNDS", value_parser = clap::value_parser!(u64).range(0..=ROUNDS_MAX))]
    pub warmup: Option<u64>,

    /// Check every byte of every message and print Pass or Fail; the exit status is 1 if any size fails.
    ///
    /// The bytes change with message, size and sender. They are written and checked outside the measured
    /// time; what lies behind each message is watched as well. Like --touch, this times every round by
    /// itself, between two empty messages.
    #[arg(short = 'c', long = "validation")]
    pub validate: bool,

    /// Also print average, minimum, maximum and the 50th, 90th and 99th percentile over the measured rounds.
    ///
    /// Reads the clock once more in every round, which adds about 20 ns to each. Of collective operations OSU's
    /// columns: minimum and maximum are of the ranks' averages, and the parts of a non-blocking operation.
    #[arg(short = 'f', long)]
    pub full: bool,

    /// Print one JSON document at the end instead of the table.
    #[arg(long)]
    pub json: bool,

    /// Write to every cache line of a message before it is sent.
    ///
    /// OSU sends the same unmodified bytes again and again, so that a receiver that reads the sender's pages
    /// (cross-memory attach) finds its own copy of the cache lines still valid; a real program has just
    /// written what it sends. The writing is not in the measured time: every round is timed by itself, and
    /// both sides have prepared their buffers when it starts. Each message of a window has its own buffer.
    #[arg(long)]
    pub touch: bool,
}

impl Common {
    /// Sizes of a benchmark whose smallest size is `min_bytes`.
    pub fn sizes(&self, min_bytes: usize) -> Result<Sizes, BenchError> {
        self.sizes_up_to(min_bytes, DEFAULT_SIZE_BYTES_MAX)
    }

    /// As [`Common::sizes`], with the largest size unless `-m` says otherwise.
    pub fn sizes_up_to(&self, min_bytes: usize, max_bytes: usize) -> Result<Sizes, BenchError> {
        let range = self.message_size.unwrap_or(SizeRange { min_bytes: None, max_bytes: None });
        let first = range.min_bytes.unwrap_or(min_bytes);
        let last = range.max_bytes.unwrap_or(max_bytes);
        if first < min_bytes || last < first {
            return Err(BenchError::Option {
                option: "-m",
                value: range.to_string(),
                reason: format!("this benchmark's sizes start at {min_bytes}"),
            });
        }
        Ok(Sizes::new(first, last))
    }

    /// How one size is run.
    pub fn plan(&self, schedule: Schedule, size_bytes: usize) -> Plan {
        Plan {
            rounds: schedule.rounds(size_bytes, self.iterations, self.warmup),
            sampled: self.full,
            staged: self.staged(),
        }
    }

    /// Whether buffers are prepared between rounds.
    pub fn staged(&self) -> bool {
        self.validate || self.touch
    }
}

fn as_text<S: Serializer>(range: &Option<SizeRange>, serializer: S) -> Result<S::Ok, S::Error> {
    range.map(|range| range.to_string()).serialize(serializer)
}

/// What carries the messages that are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Implementation {
    /// MPI.
    #[default]
    Mpi,
    /// Ironband's messages, called from Rust, without MPI: under mpirun, mpiexec, srun or ironband run.
    Ironband,
    /// One cache line in shared memory for each direction: the least that any transport can take. Latency of up to 56 bytes, between
    /// ranks of one node.
    Line,
}

/// Option of the two-sided benchmarks.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub struct Which {
    /// What carries the messages that are measured.
    #[arg(long = "impl", value_name = "IMPLEMENTATION", value_enum, default_value_t)]
    #[serde(rename = "impl")]
    pub implementation: Implementation,
}

impl Which {
    /// For a benchmark of many messages at a time: a line carries one.
    ///
    /// # Errors
    /// When a line is asked for.
    pub fn check_windows(self) -> Result<(), BenchError> {
        if self.implementation != Implementation::Line {
            return Ok(());
        }
        Err(BenchError::Option {
            option: "--impl",
            value: "line".to_owned(),
            reason: "a line carries one message at a time; osu_latency measures it".to_owned(),
        })
    }

    /// The sizes of a benchmark whose smallest size is `min_bytes`.
    ///
    /// # Errors
    /// As [`Common::sizes`]; when they do not fit a line.
    pub fn sizes(self, common: &Common, min_bytes: usize) -> Result<Sizes, BenchError> {
        let sizes = common.sizes(min_bytes)?;
        if self.implementation == Implementation::Line && sizes.largest_bytes() > LINE_BYTES_MAX {
            return Err(BenchError::Option {
                option: "-m",
                value: sizes.largest_bytes().to_string(),
                reason: format!("--impl line carries up to {LINE_BYTES_MAX} bytes; say -m 0:32"),
            });
        }
        Ok(sizes)
    }
}

/// Whose collective operations are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// MPI's.
    Mpi,
    /// Ironband's, called from Rust; alone, also without MPI: under mpirun, mpiexec, srun or ironband run.
    Ironband,
}

impl By {
    /// Its name in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mpi => "MPI",
            Self::Ironband => "Ironband",
        }
    }
}

/// Options of the benchmarks of collective operations.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Collective {
    /// Whose operations are measured; mpi,ironband are both, in turn, in one table.
    #[arg(
        long = "impl",
        value_name = "IMPLEMENTATIONS",
        value_enum,
        value_delimiter = ',',
        default_value = "mpi"
    )]
    #[serde(rename = "impl")]
    pub implementations: Vec<By>,

    /// Calls of MPI_Test while a non-blocking operation goes on; the computing is divided by them.
    #[arg(short = 't', long = "num-test-calls", visible_alias = "num_test_calls", value_name = "CALLS",
          default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=TESTS_MAX))]
    pub tests: u64,

    /// The root of operations that have one: fixed:RANK, or each rank in turn.
    #[arg(short = 'k', long = "root-rank", value_name = "fixed:RANK|rotate",
          default_value_t = RootRank::Fixed(0))]
    pub root_rank: RootRank,

    /// Sizes whose buffers take more memory than this in a process are left out, in bytes (K, M, G are powers of 1024).
    #[arg(short = 'M', long = "mem-limit", value_name = "BYTES", default_value = "512M", value_parser = parse_bytes)]
    pub memory_limit: usize,
}

impl Collective {
    /// Whose operations are measured: each once, MPI's first.
    pub fn by(&self) -> Vec<By> {
        let mut by = self.implementations.clone();
        by.sort_unstable();
        by.dedup();
        by
    }
}

/// Option of the bandwidth benchmarks.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub struct WindowSize {
    /// Messages in flight at a time.
    #[arg(short = 'W', long = "window-size", value_name = "MESSAGES", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=WINDOW_MAX))]
    pub window_size: u64,
}

/// Options of the one-sided benchmarks.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub struct OneSided {
    /// How the window is made: MPI_Win_create, MPI_Win_allocate or MPI_Win_create_dynamic.
    #[arg(short = 'w', long = "win-option", value_name = "WINDOW", default_value = "allocate")]
    pub window: Creation,

    /// How operations are completed.
    #[arg(short = 's', long = "sync-option", value_name = "SYNC", default_value = "flush")]
    pub sync: Synchronization,
}

/// Option of osu_latency_mt.
#[derive(Args, Clone, Copy, Debug, Serialize)]
pub struct ThreadCounts {
    /// Threads of the sender and of the receiver: SENDER:RECEIVER, or one number for both.
    #[arg(short = 't', long = "num-threads", visible_alias = "num_threads", value_name = "S[:R]",
          default_value = "1:2", value_parser = parse_threads)]
    pub threads: Threads,
}

/// Threads of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Threads {
    /// Threads of rank 0.
    pub senders: usize,
    /// Threads of rank 1.
    pub receivers: usize,
}

fn parse_threads(text: &str) -> Result<Threads, String> {
    let (senders, receivers) = text.split_once(':').unwrap_or((text, text));
    let parse = |side: &str| {
        side.parse()
            .ok()
            .filter(|count| (1..=THREADS_MAX).contains(count))
            .ok_or_else(|| format!("`{side}` is not a number of threads from 1 to {THREADS_MAX}"))
    };
    Ok(Threads { senders: parse(senders)?, receivers: parse(receivers)? })
}

/// The name clap knows an option's value by.
pub fn value_name<V: ValueEnum>(value: V) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LATENCY;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Everything {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        window: WindowSize,
        #[command(flatten)]
        one_sided: OneSided,
        #[command(flatten)]
        threads: ThreadCounts,
    }

    fn parse(line: &str) -> Result<Everything, String> {
        let words = std::iter::once("test").chain(line.split_whitespace());
        Everything::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_osus() {
        let all = parse("").expect("no option is needed");
        assert_eq!(all.window.window_size, 64);
        assert_eq!((all.one_sided.window, all.one_sided.sync), (Creation::Allocate, Synchronization::Flush));
        assert_eq!(all.threads.threads, Threads { senders: 1, receivers: 2 });
        let sizes: Vec<_> = all.common.sizes(0).expect("default").collect();
        assert_eq!((sizes[0], sizes[23], sizes.len()), (0, 4 << 20, 24));
        assert_eq!(all.common.sizes(1).expect("default").count(), 23);
        let plan = all.common.plan(LATENCY, 8);
        assert_eq!((plan.rounds.iterations, plan.sampled, plan.staged), (10_000, false, false));
    }

    #[test]
    fn every_option_arrives() {
        let all =
            parse("-m 8:64 -i 5 -x 0 -c -f --json --touch -W 2 -w dynamic -s pscw -t 3:4").expect("valid");
        assert_eq!(all.common.sizes(1).expect("valid").collect::<Vec<_>>(), [8, 16, 32, 64]);
        let plan = all.common.plan(LATENCY, 1 << 20);
        assert_eq!((plan.rounds.iterations, plan.rounds.warmup), (5, 0));
        assert!(plan.sampled && plan.staged && all.common.json);
        assert_eq!(all.window.window_size, 2);
        assert_eq!((all.one_sided.window, all.one_sided.sync), (Creation::Dynamic, Synchronization::Pscw));
        assert_eq!(all.threads.threads, Threads { senders: 3, receivers: 4 });
        assert_eq!(parse("-t 6").expect("valid").threads.threads, Threads { senders: 6, receivers: 6 });
    }

    #[test]
    fn bad_values_are_named_with_their_range() {
        for (line, value, range) in [
            ("-i 0", "0", "1..=100000000"),
            ("-i many", "many", "-i"),
            ("-x 100000001", "100000001", "0..=100000000"),
            ("-W 0", "0", "1..=4096"),
            ("-W 5000", "5000", "1..=4096"),
            ("-m 8:4", "8", "above the largest, 4"),
            ("-m 4G", "4G", "0 to 2147483647"),
            ("-t 0", "0", "1 to 128"),
            ("-t 1:129", "129", "1 to 128"),
            ("-w shared", "shared", "create, allocate, dynamic"),
            ("-s none", "none", "flush"),
        ] {
            let message = parse(line).expect_err(line);
            assert!(message.contains(value) && message.contains(range), "{line}: {message}");
        }
    }

    #[test]
    fn sizes_below_a_benchmarks_smallest_are_refused() {
        let common = parse("-m 0:8").expect("a range").common;
        assert!(common.sizes(0).is_ok());
        let message = common.sizes(1).expect_err("no bandwidth of nothing").to_string();
        assert!(message.contains("0:8") && message.contains("start at 1"), "{message}");
        assert!(parse("-m 0").expect("a range").common.sizes(1).is_err());
    }

    #[test]
    fn every_creation_and_synchronization_has_a_name_of_osus() {
        let windows: Vec<_> = Creation::value_variants().iter().map(|v| value_name(*v)).collect();
        assert_eq!(windows, ["create", "allocate", "dynamic"]);
        let syncs: Vec<_> = Synchronization::value_variants().iter().map(|v| value_name(*v)).collect();
        assert_eq!(syncs, ["flush", "flush_local", "lock", "lock_all", "pscw", "fence"]);
    }
}
