//! `ironband perf`: one of our own fabrics between two processes, without MPI, measured in perftest's terms, so that the cost of
//! MPI, of Ironband and of the device can be told apart.
//!
//! ```text
//! ironband perf ----- starts ------ perf-server          both on this host; lines go over its standard input and output
//! ironband perf --connect HOST --- ironband perf --listen PORT    on two hosts; lines go over TCP
//!       client                            server
//!         \____________ the fabric ____________/
//! ```
//! What they tell each other is in [`conversation`]; who does what in [`client`] and [`server`].

mod bind;
mod client;
mod clock;
mod conversation;
mod inbox;
mod link;
mod meet;
mod memory;
mod pattern;
mod plan;
mod report;
mod server;
mod sizes;
mod statistics;

use anyhow::{Context, bail};
use bind::Binding;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ironband::{Config, Device, Job, Threads};
use ironband_fabric::Fabric;
use ironband_fabric::shm::Shm;
use plan::{Amount, Metric, Operation, Plan};
use report::{Document, Head, Row, Side};
use serde::{Deserialize, Serialize};
use sizes::Sizes;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::machine::Machine;
use clock::Clock;
use conversation::{Conversation, Hello, Line};
use link::Link;

/// Arguments of `ironband perf`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    fabric: FabricArguments,
    /// The peer's device, when this command starts the peer [default: as --device].
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["listen", "connect"])]
    peer_device: Option<String>,
    /// What is measured of the fabric.
    #[arg(long, value_enum, value_name = "OPERATION", default_value = "send", conflicts_with = "listen")]
    op: Operation,
    /// Latency, bandwidth, or message rate.
    #[arg(long, value_enum, default_value = "lat", conflicts_with = "listen")]
    metric: Metric,
    /// Sizes in bytes: 8:1M counts up in powers of two, 8,1K,24K is a list [default: 8:1M; 8 for a rate or an atomic].
    #[arg(short, long, value_name = "SIZES", conflicts_with = "listen")]
    size: Option<Sizes>,
    /// Operations for each size [default: 1000 for latency, 5000 otherwise].
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000), conflicts_with = "listen")]
    iters: Option<u64>,
    /// Operations before them that do not count, for each size.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000), conflicts_with = "listen")]
    warmup: u64,
    /// Measure each size for so many seconds instead of a number of operations.
    #[arg(short = 'D', long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), conflicts_with_all = ["iters", "listen"])]
    duration: Option<u64>,
    /// Operations under way at once, for bandwidth and rate. Messages that are sent at once need no limit.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=65_536), conflicts_with = "listen")]
    depth: u64,
    /// Verify all data. Times mean little then.
    #[arg(short, long, conflicts_with = "listen")]
    check: bool,
    /// Print one JSON document instead of the table.
    #[arg(long, conflicts_with = "listen")]
    json: bool,
    /// Processors of this process and of the peer that it starts: 0,1; or auto, or none. Without a peer of its own, auto is none.
    #[arg(long, value_name = "PROCESSORS", default_value = "auto")]
    bind: Binding,
    /// Serve one client that connects to this port, and end. For networks whose hosts trust each other.
    #[arg(long, value_name = "[ADDRESS:]PORT", conflicts_with = "connect")]
    listen: Option<String>,
    /// Measure against the process that listens there.
    #[arg(long, value_name = "HOST[:PORT]")]
    connect: Option<String>,
    /// How long to wait for the peer, in seconds: to connect, and for a sign of life.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// Spoil a byte of each message, to see that --check finds it.
    #[arg(long, hide = true)]
    corrupt: bool,
}

/// Arguments that both processes have.
#[derive(Debug, Clone, Args)]
struct FabricArguments {
    /// The fabric to measure.
    #[arg(long, value_enum, default_value = "shm")]
    fabric: FabricName,
    /// The device: DEVICE or DEVICE:PORT for verbs [default: the first that is usable].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// Fabrics by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
enum FabricName {
    /// Shared memory inside one node.
    Shm,
    /// InfiniBand and RoCE adapters.
    Verbs,
}

/// Arguments of the process that `perf` starts.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    fabric: FabricArguments,
    #[arg(long)]
    bind: Option<usize>,
    #[arg(long)]
    timeout: u64,
}

/// Measures, or serves who measures.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match arguments.fabric.fabric {
        FabricName::Shm => run_over::<Shm>(arguments),
        #[cfg(feature = "verbs")]
        FabricName::Verbs => run_over::<ironband_fabric::verbs::Verbs>(arguments),
        #[cfg(not(feature = "verbs"))]
        FabricName::Verbs => bail!(WITHOUT_VERBS),
    }
}

/// The process that `perf` starts. It says everything to its parent, errors too.
pub(crate) fn run_server(arguments: &ServerArguments) -> anyhow::Result<ExitCode> {
    match arguments.fabric.fabric {
        FabricName::Shm => run_server_over::<Shm>(arguments),
        #[cfg(feature = "verbs")]
        FabricName::Verbs => run_server_over::<ironband_fabric::verbs::Verbs>(arguments),
        #[cfg(not(feature = "verbs"))]
        FabricName::Verbs => bail!(WITHOUT_VERBS),
    }
}

#[cfg(not(feature = "verbs"))]
const WITHOUT_VERBS: &str =
    "--fabric verbs: this ironband was built without the feature \"verbs\"; build it with default features";

fn run_server_over<F: Fabric>(arguments: &ServerArguments) -> anyhow::Result<ExitCode> {
    let mut conversation = Conversation::new(
        "the process that started this one".to_owned(),
        std::io::stdin(),
        std::io::stdout(),
    );
    let timeout = Duration::from_secs(arguments.timeout);
    let outcome = arguments.bind.map_or(Ok(()), bind::bind).and_then(|()| open::<F>(&arguments.fabric, 1));
    let outcome = meet::telling(&mut conversation, outcome).and_then(|device| {
        let client = conversation.greet(&hello(&device, arguments.bind), timeout)?;
        serve(conversation, device, &client, timeout)
    });
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_over<F: Fabric>(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let timeout = Duration::from_secs(arguments.timeout);
    if let Some(place) = &arguments.listen {
        return listen::<F>(arguments, place, timeout);
    }
    let task = Task::of(arguments)?;
    if let Some(place) = &arguments.connect {
        let core = arguments.bind.for_one();
        core.map_or(Ok(()), bind::bind)?;
        let device = open::<F>(&arguments.fabric, 0)?;
        return measure(arguments, &task, meet::connect(place, timeout)?, device, core);
    }
    let (core, peer_core) = arguments.bind.for_two();
    core.map_or(Ok(()), bind::bind)?;
    let device = open::<F>(&arguments.fabric, 0)?;
    let mut peer = FabricArguments { ..arguments.fabric.clone() };
    peer.device = arguments.peer_device.clone().or(peer.device);
    let (conversation, child) = meet::start(&peer_arguments(&peer, peer_core, arguments.timeout))?;
    let outcome = measure(arguments, &task, conversation, device, core);
    if outcome.is_ok() {
        child.ends_itself()?;
    }
    outcome
}

/// The command line of the process that is started here.
fn peer_arguments(fabric: &FabricArguments, core: Option<usize>, timeout: u64) -> Vec<String> {
    let name = fabric.fabric.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut words =
        vec!["perf-server".to_owned(), "--fabric".to_owned(), name, format!("--timeout={timeout}")];
    words.extend(fabric.device.iter().map(|device| format!("--device={device}")));
    words.extend(core.iter().map(|core| format!("--bind={core}")));
    words
}

/// Opens the device that is named, or the first that is usable.
fn open<F: Fabric>(arguments: &FabricArguments, rank: u32) -> anyhow::Result<Device<F>> {
    let config = crate::environment::config().context("the environment (IRONBAND_*) cannot be used")?;
    let name = match &arguments.device {
        Some(name) => name.clone(),
        None => first_usable::<F>(&config)?,
    };
    // Two, even if the peer is on another host: nobody else is known here.
    Ok(Device::open(&name, &config, &Job { local_ranks: 2, rank }, Threads::Single)?)
}

fn first_usable<F: Fabric>(config: &Config) -> anyhow::Result<String> {
    crate::trial::first_usable::<F>(config)
        .map_err(|failure| anyhow::anyhow!("{}; {}", failure.message, failure.fix))
}

fn hello<F: Fabric>(device: &Device<F>, core: Option<usize>) -> Hello {
    Hello::new(F::NAME, device.name(), device.address(), device.eager_bytes(), core)
}

/// Serves one client. Strangers, who say something else than a client does, are sent away.
fn listen<F: Fabric>(arguments: &Arguments, place: &str, timeout: Duration) -> anyhow::Result<ExitCode> {
    let core = arguments.bind.for_one();
    core.map_or(Ok(()), bind::bind)?;
    let device = open::<F>(&arguments.fabric, 1)?;
    let (listener, at) = meet::listen(place)?;
    println!("ironband perf: fabric {}, device {}, listens at {at}", F::NAME, device.name());
    std::io::stdout().flush()?;
    let own = hello(&device, core);
    loop {
        let (stream, _) = listener.accept().context("nobody can connect")?;
        let greeted = Conversation::over(stream).and_then(|mut conversation| {
            conversation.greet(&own, timeout).map(|client| (conversation, client))
        });
        match greeted {
            Ok((conversation, client)) => {
                let steps = serve(conversation, device, &client, timeout)?;
                println!(
                    "served {}, {}: {steps} measurements, warm-ups included",
                    client.host, client.device
                );
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => eprintln!("ironband: {error:#}; listening on"),
        }
    }
}

/// Serves a client that has been greeted.
fn serve<F: Fabric>(
    mut conversation: Conversation,
    device: Device<F>,
    client: &Hello,
    timeout: Duration,
) -> anyhow::Result<u64> {
    let plan = match conversation.hear(timeout, || {})? {
        Line::Plan(plan) => plan,
        other => return Err(conversation.surprise(&other, "plan")),
    };
    let mut link = meet::link(conversation, device, client, plan, timeout, Clock::start())?;
    let served = server::serve(&mut link);
    meet::telling(&mut link.conversation, served)
}

/// What a client is to do.
struct Task {
    /// Read before this process is bound, which would hide the other cores.
    machine: Machine,
    operation: Operation,
    metric: Metric,
    sizes: Vec<usize>,
    iterations: u64,
}

impl Task {
    fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let (operation, metric) = (arguments.op, arguments.metric);
        let atomic = operation == Operation::Atomic;
        let sizes = match &arguments.size {
            Some(Sizes(sizes)) => sizes.clone(),
            None if atomic || metric == Metric::Rate => vec![8],
            None => (3..=20).map(|power| 1 << power).collect(),
        };
        if let Some(size) = sizes.iter().find(|size| atomic && **size != 8) {
            bail!("--size {size} with --op atomic: an atomic has 8 bytes");
        }
        let default = if metric == Metric::Lat { 1000 } else { 5000 };
        let machine = Machine::read();
        Ok(Self { machine, operation, metric, sizes, iterations: arguments.iters.unwrap_or(default) })
    }

    fn plan(&self, arguments: &Arguments, eager_bytes: usize) -> Plan {
        Plan {
            operation: self.operation,
            metric: self.metric,
            size_bytes_max: self.sizes.iter().copied().max().unwrap_or(0),
            depth: arguments.depth,
            eager_bytes,
            check: arguments.check,
        }
    }
}

/// Measures all sizes and prints them.
fn measure<F: Fabric>(
    arguments: &Arguments,
    task: &Task,
    mut conversation: Conversation,
    device: Device<F>,
    core: Option<usize>,
) -> anyhow::Result<ExitCode> {
    let timeout = Duration::from_secs(arguments.timeout);
    let clock = Clock::start();
    let own = hello(&device, core);
    let server = conversation.greet(&own, timeout)?;
    let plan = task.plan(arguments, device.eager_bytes().min(server.eager_bytes));
    conversation.say(&Line::Plan(plan.clone()))?;
    let mut link = meet::link(conversation, device, &server, plan, timeout, clock)?;
    link.corrupt = arguments.corrupt;
    let head = head(&link, &own, &server, task.machine.clone());
    let rows = rows(arguments, task, &mut link, &head);
    let rows = meet::telling(&mut link.conversation, rows)?;
    link.conversation.say(&Line::Bye)?;
    let wrong = rows.iter().any(|row| row.wrong.is_some());
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&Document { head, rows })?);
    }
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn head<F: Fabric>(link: &Link<F>, own: &Hello, server: &Hello, machine: Machine) -> Head {
    let capabilities = link.windows.device().capabilities();
    let side =
        |hello: &Hello| Side { host: hello.host.clone(), device: hello.device.clone(), core: hello.core };
    Head {
        format: "ironband-perf/1",
        ironband_version: env!("CARGO_PKG_VERSION"),
        title: link.plan.title(),
        plan: link.plan.clone(),
        fabric: F::NAME.to_owned(),
        client: side(own),
        server: side(server),
        mechanism: link.plan.mechanism(capabilities.limits.inline_bytes_max, &capabilities.single_copy),
        clock: link.inbox.clock().name(),
        machine,
    }
}

fn rows<F: Fabric>(
    arguments: &Arguments,
    task: &Task,
    link: &mut Link<F>,
    head: &Head,
) -> anyhow::Result<Vec<Row>> {
    client::greet(link)?;
    let amount = match arguments.duration {
        Some(seconds) => Amount::Ticks((seconds as f64 * 1e9 / link.inbox.clock().ns_per_tick()) as u64),
        None => Amount::Operations(task.iterations),
    };
    let bar = progress(task.sizes.len());
    if !arguments.json {
        bar.suspend(|| print!("{}", head.text()));
    }
    let (mut rows, mut seed) = (Vec::new(), 1_u32);
    for &size_bytes in &task.sizes {
        bar.set_message(format!(
            "{} of {}",
            link.plan.operation.name(),
            crate::quantity::bytes_text(size_bytes as u64)
        ));
        if arguments.warmup > 0 {
            client::measure(link, size_bytes, seed, Amount::Operations(arguments.warmup))?;
        }
        seed = seed.wrapping_add(1 << 20);
        let row = Row::new(size_bytes, client::measure(link, size_bytes, seed, amount)?);
        seed = seed.wrapping_add(1 << 20);
        bar.suspend(|| show(&row, task.metric, arguments.json));
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

fn show(row: &Row, metric: Metric, json: bool) {
    if !json {
        println!("{}", row.text(metric));
    }
    if let Some(wrong) = &row.wrong {
        eprintln!("ironband: wrong data: {wrong}");
    }
    if let Some(drift) = row.clock_drift {
        eprintln!(
            "ironband: the processor's time stamp counter and the system's clock differ by {:.1}%: times of {} bytes are that uncertain",
            100.0 * drift,
            row.bytes()
        );
    }
}

/// A bar on standard error if that is a terminal. It moves between the sizes only: a ticking one would take time from what is
/// measured.
fn progress(sizes: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})")
        .expect("the template is constant and valid");
    ProgressBar::with_draw_target(Some(sizes as u64), ProgressDrawTarget::stderr()).with_style(style)
}
