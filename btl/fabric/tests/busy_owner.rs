//! A rendezvous whose sender computes: where the kernel can copy, the receiver does not wait for it.

use std::time::{Duration, Instant};

use ironband_core::config::Config;
use ironband_fabric::shm::Shm;
use ironband_fabric::{
    Access, Completion, CompletionStatus, Device, Fabric, Job, Posted, ReadHint, RemoteAddress, WorkId,
};

#[test]
fn an_owner_that_computes_is_not_waited_for() {
    let job = Job { local_ranks: 2, rank: 0 };
    let config = Config::default();
    let mut owner = Shm::open("memfd", &config, &job).expect("owner");
    let mut reader = Shm::open("memfd", &config, &job).expect("reader");
    let mut source: Vec<u8> = (0..40_000_u32).map(|i| (i % 251) as u8).collect();
    // SAFETY: `source` lives until the end of the test.
    let region =
        unsafe { owner.register((), source.as_mut_ptr(), source.len(), Access::ALL) }.expect("region");
    let remote = RemoteAddress { address: source.as_ptr() as u64, key: owner.remote_key(&region) };
    let qp = reader.create_qp((), (), owner.address()).expect("reachable");

    // More reads than it takes to try every path; the owner is not polled once.
    let start = Instant::now();
    for round in 0..40 {
        let mut target = vec![0_u8; source.len()];
        // SAFETY: `target` lives until the completion has been seen below.
        let posted = unsafe {
            let local = target.as_mut_ptr();
            reader.post_read(qp, WorkId(round), local, None, remote, target.len(), ReadHint::OwnerIsWaiting)
        };
        if posted == Posted::Queued {
            let done = loop {
                if let Some(completion) = reader.poll_cq(()) {
                    break completion;
                }
                assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "round {round} waits for an owner that computes"
                );
            };
            let Completion::Done { id, status, .. } = done else { panic!("{done:?}") };
            assert_eq!((id, status), (WorkId(round), CompletionStatus::Success));
        } else {
            assert_eq!(posted, Posted::Complete);
        }
        assert_eq!(target, source, "round {round}");
    }

    // What the owner finds when it comes back is nothing that it must do.
    for _ in 0..10_000 {
        assert_eq!(owner.poll_cq(()), None);
        assert_eq!(reader.poll_cq(()), None);
    }
    assert!(reader.is_idle());
}
