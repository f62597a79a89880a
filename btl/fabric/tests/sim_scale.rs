//! What a simulated device, a connection and a step cost, and that none of them depends on how many there are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ironband_core::config::Config;
use ironband_fabric::sim::{Faults, Options, SimDevice, World};
use ironband_fabric::{Completion, Device, Job, Message, Posted, QueuePairNumber};

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

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PEERS: usize = 12;

/// A world in which each device is connected to the next twelve, and what that has cost.
struct Cost {
    world: World,
    devices: Vec<SimDevice>,
    qps: Vec<(usize, QueuePairNumber)>,
    device_bytes: usize,
    /// Of one that nothing was posted on.
    queue_pair_bytes: usize,
    connection_bytes: usize,
}

fn world(count: usize) -> Cost {
    let world = World::new(Options::new(1).with_faults(Faults::late()));
    let config = Config::default();
    let before = BYTES.load(Ordering::Relaxed);
    let mut devices: Vec<SimDevice> = Vec::with_capacity(count);
    devices.extend((0..count as u32).map(|rank| world.open(&config, &Job { local_ranks: 1, rank })));
    let opened = BYTES.load(Ordering::Relaxed);
    let mut qps = Vec::with_capacity(count * PEERS);
    let addresses: Vec<Vec<u8>> = devices.iter().map(|device| device.address().to_vec()).collect();
    for (rank, device) in devices.iter_mut().enumerate() {
        for peer in 0..PEERS {
            let peer = &addresses[(rank + 1 + peer) % count];
            qps.push((rank, device.create_qp((), (), peer).expect("reachable")));
        }
    }
    drop(addresses);
    let created = BYTES.load(Ordering::Relaxed) - qps.capacity() * size_of_val(&qps[0]);
    let queue_pair_bytes = (created - opened) / (count * PEERS);
    let mut unconnected = qps.clone();
    while !unconnected.is_empty() {
        unconnected.retain(|(rank, qp)| devices[*rank].post_send(*qp, 0, &[], &[]) == Posted::Busy);
        run(&world, &mut devices);
    }
    drop(unconnected);
    let connected = BYTES.load(Ordering::Relaxed) - qps.capacity() * size_of_val(&qps[0]);
    let device_bytes = (opened - before) / count;
    let connection_bytes = (connected - opened) / (count * PEERS);
    Cost { world, devices, qps, device_bytes, queue_pair_bytes, connection_bytes }
}

/// Lets everything happen; returns how many completions there were.
fn run(world: &World, devices: &mut [SimDevice]) -> u32 {
    let mut found = 0;
    while world.step() {
        while let Some(number) = world.next_to_poll() {
            let device = &mut devices[number as usize];
            while let Some(completion) = device.poll_cq(()) {
                found += 1;
                if let Completion::Received(Message { token, .. }) = completion {
                    device.release(token);
                }
            }
        }
    }
    found
}

#[test]
fn a_device_a_connection_and_a_step_cost_little_however_many_there_are() {
    let mut steps = Vec::new();
    for count in [64, 4_096, 16_384] {
        let Cost { world, mut devices, qps, device_bytes, queue_pair_bytes, connection_bytes } = world(count);
        // Many under way at once: the event queue is long.
        let before = world.statistics().events;
        let start = Instant::now();
        let (mut arrived, rounds) = (0, (600_000 / qps.len()).max(1));
        for _ in 0..rounds {
            for (rank, qp) in &qps {
                let posted = devices[*rank].post_send(*qp, 1, &[], &[1; 16]);
                assert_eq!(posted, Posted::Complete);
            }
            arrived += run(&world, &mut devices);
        }
        let events = world.statistics().events - before;
        let step_ns = start.elapsed().as_nanos() as u64 / events;
        assert_eq!(arrived as usize, rounds * qps.len());
        println!(
            "{count} devices of {device_bytes} bytes, {queue_pair_bytes} bytes a queue pair, {} connections of {connection_bytes} bytes, {step_ns} ns a step with its post and poll",
            qps.len()
        );
        assert!(device_bytes <= 1024, "a device takes {device_bytes} bytes");
        assert!(queue_pair_bytes <= 192, "an unconnected queue pair takes {queue_pair_bytes} bytes");
        assert!(connection_bytes <= 1536, "a connection takes {connection_bytes} bytes, both ends included");
        steps.push(step_ns);
    }
    // A machine may be busy, and caches are smaller than worlds; a scan of all devices would cost thousands of times as much.
    assert!(steps[2] < 50 * steps[0].max(20), "{steps:?} ns a step");
}
