//! The conformance suite of every fabric; see `ironband_tests::conformance`.

use ironband_fabric::shm::Shm;
use ironband_tests::conformance;

conformance!(shm: Shm, "memfd", and shm {
    segments_are_private, nothing_is_left, wrong_key, hostile_peer, out_of_memory,
    sleepers_wake_at_once,
});

#[cfg(feature = "verbs")]
conformance!(verbs: ironband_tests::conformance::verbs::Chosen, "testbed", and verbs { hot_peers_write_to_rings, memory_per_peer, send_buffers_come_back, silent_peer_is_nudged, taken_ports_are_passed_over, thousand_connections, unreachable_is_named });
