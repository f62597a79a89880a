//! Messages longer than what a device moves at once, over a simulated adapter that moves little.

use ironband::{Config, Pattern, simulated};
use ironband_fabric::sim::{Faults, Options, World};

const PART: usize = 1000;
/// Too long to be sent at once.
const LENS: [usize; 5] = [20_000, 20_001, 20_999, 21_000, 100_001];

fn arrives_in_parts(prefers_writing: bool, faults: Faults) {
    for (seed, len) in (0..).zip(LENS) {
        let options = Options { rdma_bytes_max: PART, prefers_writing, ..Options::new(seed) };
        let world = World::new(options.with_faults(faults));
        let contexts = simulated(&world, 2, &Config::default()).unwrap();
        let [near, far] = &contexts[..] else { panic!("two were wanted") };
        let message: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
        let send = near.endpoint(1).unwrap().start_send(5, message.clone()).unwrap();
        let receive = far.start_receive(Pattern::exact(0, 5), vec![0_u8; len]).unwrap();
        for _ in 0..100_000 {
            near.progress();
            far.progress();
        }
        assert!(send.is_done() && receive.is_done(), "{len} bytes: {:?}", world.statistics());
        send.wait().unwrap();
        let (received, _) = receive.wait().unwrap();
        assert!(received == message, "{len} bytes are not what was sent");
        assert_eq!(world.violations(), []);
        // What was refused for lack of room is not counted.
        assert_eq!(world.statistics().requests, len.div_ceil(PART) as u64, "{len} bytes");
        assert_eq!(world.statistics().rdma_bytes, len as u64);
    }
}

#[test]
fn what_is_read_is_read_in_parts() {
    arrives_in_parts(false, Faults::NONE);
    arrives_in_parts(false, Faults { busy: 200_000, ..Faults::late() });
}

#[test]
fn what_is_written_is_written_in_parts() {
    arrives_in_parts(true, Faults::NONE);
    arrives_in_parts(true, Faults { busy: 200_000, ..Faults::late() });
}

/// Who ends between two parts is missed by the other.
#[test]
fn a_peer_ends_between_parts() {
    for turns in [10, 20, 30, 40, 60, 100] {
        for prefers_writing in [false, true] {
            let options = Options { rdma_bytes_max: 100, prefers_writing, ..Options::new(turns) };
            let world = World::new(options.with_faults(Faults::late()));
            let contexts = simulated(&world, 2, &Config::default()).unwrap();
            let [near, far] = &contexts[..] else { panic!("two were wanted") };
            let send = near.endpoint(1).unwrap().start_send(5, vec![1_u8; 50_000]).unwrap();
            let receive = far.start_receive(Pattern::exact(0, 5), vec![0_u8; 50_000]).unwrap();
            let (living, dead) = if prefers_writing { (near, 1) } else { (far, 0) };
            for turn in 0..200_000 {
                if turn == turns {
                    world.kill(dead);
                }
                living.progress();
                if turn < turns {
                    contexts[dead as usize].progress();
                }
            }
            let outcome = if prefers_writing {
                assert!(send.is_done());
                send.wait().err()
            } else {
                assert!(receive.is_done());
                receive.wait().err()
            };
            assert!(outcome.is_some(), "after {turns} turns, {:?}", world.statistics());
            assert_eq!(world.violations(), []);
        }
    }
}
