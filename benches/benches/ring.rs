//! One way of a message between two threads on two processors, beside what the processors need at least: one cache line
//! that goes back and forth. A bare device on each side, no locks, no dispatch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use ironband::{Completion, Config, Job, Posted};
use ironband_fabric::shm::Shm;
use ironband_fabric::{Device as _, Fabric, Message, QueuePairNumber};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The first two processors that this process may use.
fn processors() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|index| allowed.is_set(*index));
    Some([usable.next()?, usable.next()?])
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    // Not pinned is slower, not wrong.
    let _ = sched_setaffinity(None, &set);
}

#[repr(align(128))]
struct Line(AtomicU64);

/// Half a round trip of one cache line, `rounds` times two.
fn line_ping_pong(rounds: u64, [here, there]: [usize; 2]) -> Duration {
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(there);
            for round in 1..=rounds {
                while ping.0.load(Ordering::Acquire) != round {
                    std::hint::spin_loop();
                }
                pong.0.store(round, Ordering::Release);
            }
        });
        pin(here);
        let start = Instant::now();
        for round in 1..=rounds {
            ping.0.store(round, Ordering::Release);
            while pong.0.load(Ordering::Acquire) != round {
                std::hint::spin_loop();
            }
        }
        start.elapsed() / 2
    })
}

type Device = <Shm as Fabric>::Device;

fn send(device: &mut Device, qp: QueuePairNumber, bytes: &[u8]) {
    loop {
        match device.post_send(qp, 0, &[], bytes) {
            Posted::Complete => return,
            Posted::Busy => drop(device.poll_cq(())),
            other => panic!("{other:?}: {:?}", device.failure(qp)),
        }
    }
}

fn receive(device: &mut Device, into: &mut [u8]) {
    loop {
        if let Some(Completion::Received(Message { payload, token, .. })) = device.poll_cq(()) {
            // SAFETY: the payload is mapped until it is released, and no longer than the buffer.
            unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), into.as_mut_ptr(), payload.len()) };
            return device.release(token);
        }
    }
}

fn ring_ping_pong(rounds: u64, len_bytes: usize, [here, there]: [usize; 2]) -> Duration {
    let open = |rank| {
        let job = Job { local_ranks: 2, rank };
        Shm::open("memfd", &Config::default(), &job).unwrap_or_else(|error| panic!("{error}"))
    };
    let (mut a, mut b) = (open(0), open(1));
    let (address_a, address_b) = (a.address().to_vec(), b.address().to_vec());
    let to_b = a.create_qp((), (), &address_b).expect("reachable");
    let to_a = b.create_qp((), (), &address_a).expect("reachable");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(there);
            let mut bytes = vec![0; len_bytes];
            // Some to warm up, then the rounds that are measured.
            for _ in 0..rounds + 100 {
                receive(&mut b, &mut bytes);
                send(&mut b, to_a, &bytes);
            }
            while !stop.load(Ordering::Acquire) {
                let _ = b.poll_cq(());
            }
        });
        pin(here);
        let mut bytes = vec![1; len_bytes];
        let mut round = || {
            send(&mut a, to_b, &bytes);
            receive(&mut a, &mut bytes);
        };
        (0..100).for_each(|_| round());
        let start = Instant::now();
        (0..rounds).for_each(|_| round());
        let elapsed = start.elapsed();
        stop.store(true, Ordering::Release);
        elapsed / 2
    })
}

fn benches(criterion: &mut Criterion) {
    let Some(processors) = processors() else {
        println!("skipped: ring: two processors are needed, this process may use one");
        return;
    };
    let mut group = criterion.benchmark_group("one_way");
    group.bench_function("cache_line", |bencher| {
        bencher.iter_custom(|rounds| line_ping_pong(rounds, processors));
    });
    for len_bytes in [0, 8, 48, 49, 512, 4096, 8192] {
        group.bench_with_input(BenchmarkId::new("ring", len_bytes), &len_bytes, |bencher, &len_bytes| {
            bencher.iter_custom(|rounds| ring_ping_pong(rounds, len_bytes, processors));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
