//! What a very large job costs a process: memory and messages of thousands of processes in this one, over a simulated network, and the
//! wire-up of real ones at rank 0's server; from both, a table up to 100,000 processes.
//!
//!     cargo bench -p ironband-benches --bench scale -- --ranks 4096 --neighbours 64
//!
//! Times of the simulation are this machine's time for all processes together, the network included.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use ironband::{Config, Context, Pattern, ReceiveRequest, simulated};
use ironband_core::rank_table::SHEET_RANKS;
use ironband_fabric::sim::{Options, SimDevice, World};
use ironband_fabric::{Device as _, Job, Posted};
use ironband_pmi::Pmi;

/// The system's allocator, counting what is allocated now.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Costs of a process in a large job, measured and extrapolated.
#[derive(Parser)]
struct Arguments {
    /// Processes of the simulation.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=100_000))]
    ranks: u32,
    /// With how many others each of them talks, a multiple of four: half of them are next to it, the others far away.
    #[arg(long, default_value_t = 64, value_parser = neighbours)]
    neighbours: u32,
    /// Messages from each to each of its neighbours.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Real processes for the wire-up, at most.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=512))]
    processes: u32,
    /// What cargo bench says, and what is meant for the other benchmarks.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _others: Vec<String>,
}

fn neighbours(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count) if count >= 4 && u32::is_multiple_of(count, 4) => Ok(count),
        _ => Err("a multiple of four is wanted, as 64".to_owned()),
    }
}

fn main() {
    if std::env::var_os("IRONBAND_PMI_RANK").is_some() {
        return fence_often();
    }
    let arguments = Arguments::parse();
    let neighbours = arguments.neighbours;
    let small = arguments.ranks / 8;
    if small <= 2 * neighbours {
        eprintln!(
            "--ranks {}: {neighbours} neighbours are too many; more than {} ranks are wanted",
            arguments.ranks,
            16 * neighbours
        );
        std::process::exit(2);
    }
    let network = network_bytes(neighbours);
    println!(
        "the simulated network itself: {} bytes a device, {} a connection (both directions of one end); left out below",
        network.device, network.connection
    );
    // The smaller job shows how little of what a process takes depends on the job's size.
    simulate(small, neighbours, arguments.rounds, &network);
    let measured = simulate(arguments.ranks, neighbours, arguments.rounds, &network);
    println!();
    let wire_up = wire_up(arguments.processes);
    extrapolate(&measured, neighbours, &wire_up);
}

// ---- memory and messages ------------------------------------------------------------------------------------------------

struct NetworkBytes {
    device: usize,
    connection: usize,
}

/// What the simulation needs, without anything of ours.
fn network_bytes(neighbours: u32) -> NetworkBytes {
    let count = 4 * neighbours as usize;
    let world = World::new(Options::new(1));
    let before = BYTES.load(Ordering::Relaxed);
    let mut devices: Vec<SimDevice> =
        (0..count as u32).map(|rank| world.open(&Config::default(), &Job { local_ranks: 1, rank })).collect();
    let opened = BYTES.load(Ordering::Relaxed);
    let addresses: Vec<Vec<u8>> = devices.iter().map(|device| device.address().to_vec()).collect();
    let held = BYTES.load(Ordering::Relaxed) - opened;
    for rank in 0..count {
        for peer in neighbours_of(rank as u32, count as u32, neighbours) {
            let qp = devices[rank].create_qp((), (), &addresses[peer as usize]).expect("reachable");
            // The connection is made by the first message.
            while devices[rank].post_send(qp, 0, &[], &[]) == Posted::Busy {
                drain(&world, &mut devices);
            }
        }
    }
    drain(&world, &mut devices);
    let connected = BYTES.load(Ordering::Relaxed) - held;
    NetworkBytes {
        device: (opened - before) / count,
        connection: (connected - opened) / (count * neighbours as usize),
    }
}

fn drain(world: &World, devices: &mut [SimDevice]) {
    while world.step() {
        while let Some(number) = world.next_to_poll() {
            while let Some(completion) = devices[number as usize].poll_cq(()) {
                if let ironband::Completion::Received(ironband::Message { token, .. }) = completion {
                    devices[number as usize].release(token);
                }
            }
        }
    }
}

/// A quarter of them next, a quarter previous; the others as far from each other as can be, in both directions: each is in a sheet of its
/// own of the tables by rank.
fn neighbours_of(rank: u32, ranks: u32, neighbours: u32) -> impl Iterator<Item = u32> {
    let near = 1..=neighbours / 4;
    let stride = (ranks / 2 - near.end()) / (neighbours / 4 + 1);
    let far = near.clone().map(move |step| neighbours / 4 + step * stride);
    near.chain(far).flat_map(move |distance| [(rank + distance) % ranks, (rank + ranks - distance) % ranks])
}

struct Simulated {
    /// Of a process, before it talks to anybody.
    context_bytes: f64,
    /// More, for each that it talks to.
    peer_bytes: f64,
}

fn simulate(ranks: u32, neighbours: u32, rounds: u32, network: &NetworkBytes) -> Simulated {
    let world = World::new(Options::new(1));
    let before = BYTES.load(Ordering::Relaxed);
    let contexts = simulated(&world, ranks, &Config::default()).expect("a simulation opens");
    let opened = BYTES.load(Ordering::Relaxed);
    let per_rank = |bytes: usize| bytes as f64 / f64::from(ranks);
    let context_bytes = per_rank(opened - before) - network.device as f64;
    exchange(&world, &contexts, neighbours);
    let connected = BYTES.load(Ordering::Relaxed);
    let peer_bytes = per_rank(connected - opened) / f64::from(neighbours) - network.connection as f64;
    let start = Instant::now();
    for _ in 0..rounds {
        exchange(&world, &contexts, neighbours);
    }
    let seconds = start.elapsed().as_secs_f64();
    let messages = f64::from(ranks) * f64::from(neighbours) * f64::from(rounds);
    println!(
        "{ranks} processes, each with {neighbours} neighbours: {context_bytes:.0} bytes a process, {peer_bytes:.0} for each neighbour, places of a send and a receive included; \
         {:.0} messages/s, {:.0} ns each",
        messages / seconds,
        seconds / messages * 1e9
    );
    assert_eq!(world.violations(), [], "the simulation watches its users");
    Simulated { context_bytes, peer_bytes }
}

/// A message of each to each of its neighbours, all posted before any of them moves.
fn exchange(world: &World, contexts: &[Context], neighbours: u32) {
    let ranks = contexts.len() as u32;
    let mut receives: Vec<ReceiveRequest<'_, Vec<u8>>> = Vec::new();
    for context in contexts {
        for peer in neighbours_of(context.rank(), ranks, neighbours) {
            let receive = context.start_receive(Pattern::exact(peer, 1), vec![0_u8; 8]);
            receives.push(receive.expect("the peer is there"));
        }
    }
    let mut sends = Vec::new();
    for context in contexts {
        for peer in neighbours_of(context.rank(), ranks, neighbours) {
            let endpoint = context.endpoint(peer).expect("the peer is there");
            sends.push(endpoint.start_send(1, b"8 bytes.").expect("the peer is reachable"));
        }
    }
    // What the simulation does not wake is woken here: what a process wanted to post may have had no room.
    loop {
        while world.step() {
            while let Some(number) = world.next_to_poll() {
                contexts[number as usize].progress();
            }
        }
        let before = world.statistics().events;
        contexts.iter().for_each(|context| {
            context.progress();
        });
        if world.statistics().events == before && !world.step() {
            break;
        }
    }
    for send in sends {
        assert!(send.is_done(), "a send hangs");
        send.wait().expect("nothing fails here");
    }
    for receive in receives {
        assert!(receive.is_done(), "a receive hangs");
        assert_eq!(receive.wait().expect("nothing fails here").0, b"8 bytes.");
    }
}

// ---- wire-up --------------------------------------------------------------------------------------------------------------

/// Of a card, published by each process: as long as one of shm and one of verbs are together.
const CARD_BYTES: usize = 160;
const FENCES: u32 = 20;

/// A fence takes so long: a beginning, and more for each process.
struct WireUp {
    fixed_us: f64,
    process_us: f64,
}

/// Real processes that publish a card and fence, at rank 0's server, by their number.
fn wire_up(most: u32) -> WireUp {
    println!("{:>10} {:>12} {:>14}", "processes", "fence (us)", "a process (us)");
    let counts = [most / 8, most / 4, most / 2, most].map(|count| count.max(2));
    let points = counts.map(|count| (f64::from(count), fence_us(count)));
    for (count, us) in points {
        println!("{count:>10} {us:>12.0} {:>14.1}", us / count);
    }
    // Least squares.
    let n = points.len() as f64;
    let (sum_x, sum_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / n, sum_y / n);
    let process_us = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>()
        / points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    WireUp { fixed_us: (mean_y - process_us * mean_x).max(0.0), process_us }
}

/// Starts `count` processes of this program and takes rank 0's word for the time of a fence.
fn fence_us(count: u32) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let start = |rank: u32| {
        Command::new(std::env::current_exe().expect("this program"))
            .env("IRONBAND_PMI", "tcp")
            .env("IRONBAND_PMI_ROOT", format!("127.0.0.1:{port}"))
            .env("IRONBAND_PMI_SIZE", count.to_string())
            .env("IRONBAND_PMI_RANK", rank.to_string())
            .stdout(if rank == 0 { Stdio::piped() } else { Stdio::null() })
            .spawn()
            .expect("this program starts again")
    };
    let mut processes: Vec<_> = (1..count).map(start).collect();
    let said = start(0).wait_with_output().expect("it was started").stdout;
    for process in &mut processes {
        assert!(process.wait().expect("it was started").success(), "a process has failed");
    }
    String::from_utf8_lossy(&said).trim().parse().expect("rank 0 prints microseconds")
}

/// What each of these processes does.
fn fence_often() {
    let mut pmi = Pmi::init().expect("rank 0 is there");
    let mut fence = |number: u32| {
        pmi.put(&format!("card{number}"), &[7; CARD_BYTES]).expect("the server lives");
        pmi.fence().expect("all are there");
    };
    fence(FENCES);
    let start = Instant::now();
    (0..FENCES).for_each(&mut fence);
    let us = start.elapsed().as_secs_f64() * 1e6 / f64::from(FENCES);
    if pmi.rank() == 0 {
        println!("{us}");
    }
    pmi.finalize().expect("the server lives");
}

// ---- the table ------------------------------------------------------------------------------------------------------------

/// Protocol, ways to peers, accesses under way.
const TABLES_BY_RANK: f64 = 3.0;

fn extrapolate(measured: &Simulated, neighbours: u32, wire_up: &WireUp) {
    println!(
        "\nfrom these: the context of a process with {neighbours} neighbours, and those of the roll-call at the start, without what the fabric \
         takes (shared memory: ring_bytes and its slots a neighbour of its node, 340 KiB where it has many) and what the launcher does; a fence at one server, {:.0} us + {:.1} us for \
         each process; what a process gets of cards of {CARD_BYTES} bytes, if it asks for those that it needs, and if it were sent all",
        wire_up.fixed_us, wire_up.process_us
    );
    println!(
        "{:>10} {:>8} {:>16} {:>12} {:>16} {:>14}",
        "processes", "peers", "KiB of context", "fence (ms)", "cards asked (KB)", "all cards (KB)"
    );
    for ranks in [64, 1_000, 4_096, 16_384, 65_536, 100_000] {
        let ranks = f64::from(ranks);
        // The roll-call speaks to one, and hears one, for each bit of a rank.
        let talks_to = (f64::from(neighbours) + 2.0 * ranks.log2().ceil()).min(ranks - 1.0);
        let sheets = (ranks / SHEET_RANKS as f64).ceil();
        let bytes = measured.context_bytes
            + talks_to * measured.peer_bytes
            + TABLES_BY_RANK * size_of::<usize>() as f64 * sheets;
        println!(
            "{ranks:>10} {talks_to:>8} {:>16.1} {:>12.1} {:>16.1} {:>14.1}",
            bytes / 1024.0,
            (wire_up.fixed_us + wire_up.process_us * ranks) / 1000.0,
            talks_to * CARD_BYTES as f64 / 1000.0,
            ranks * CARD_BYTES as f64 / 1000.0
        );
    }
}
