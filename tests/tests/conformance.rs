//! The conformance suite of every fabric; see `ironband_tests::conformance`.

use ironband_fabric::shm::Shm;
use ironband_fabric::sim::Sim;
use ironband_tests::conformance;

conformance!(shm: Shm, "memfd", and shm {
    segments_are_private, nothing_is_left, wrong_key, hostile_peer, out_of_memory,
    sleepers_wake_at_once,
});

// Calm and strict; then late, in pieces and out of order, as each kind of adapter.
conformance!(sim: Sim, "seed=7", and sim {
    names, promises_hold_in_all_weathers, same_seed_same_run, busy_at_random, held_messages_fill_the_window, reads_are_torn,
    writes_land_in_pieces, breaks_leave_no_gap, flushed_may_be_done, refusals, refused_for_a_while, killed,
    atomics_beside_the_processor, violations, reads_find_what_was_written, some_orders_are_the_seeds, queues_are_bounded, done_in_the_post, died_before_the_answer, thousands_of_devices,
});
conformance!(sim_late: Sim, "seed=8,faults=late");
conformance!(sim_infiniband: Sim, "seed=9,like=infiniband,faults=late");
conformance!(sim_iwarp: Sim, "seed=10,like=iwarp,faults=late");
conformance!(sim_two_sided: Sim, "seed=11,like=two-sided,faults=late");

#[cfg(feature = "verbs")]
conformance!(verbs: ironband_tests::conformance::verbs::Chosen, "testbed", and verbs { hot_peers_write_to_rings, memory_per_peer, send_buffers_come_back, silent_peer_is_nudged, taken_ports_are_passed_over, thousand_connections, unreachable_is_named });
