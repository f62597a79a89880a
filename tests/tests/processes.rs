//! Processes that come and go: start and end, spawn, connect/accept, intercommunicators, and the examples.

use ironband_tests::{Row, build_example, rows};

const VADER_SPAWN: &str = "of Open MPI 4.1.4 does not connect processes of different jobs";

rows! {
    passes;

    silent_alone: "lifecycle" x 1, args("mode=silent");
    silent_pair: "lifecycle" x 2, args("mode=silent");
    silent_thirty_two: "lifecycle" x 32, args("mode=silent");
    late_receiver: "lifecycle" x 2, args("mode=late");
    late_receiver_of_many: "lifecycle" x 5, args("mode=late messages=2000");
    one_way: "lifecycle" x 3, args("mode=oneway");
    most_ranks_silent: "lifecycle" x 8, args("mode=single");

    spawn_from_one: "spawn" x 1, not_over("vader", VADER_SPAWN);
    spawn_from_three: "spawn" x 3, args("children=3 rounds=3"), not_over("vader", VADER_SPAWN);
    connect_pair: "connect" x 2;
    connect_five: "connect" x 5;
    intercommunicators_of_two: "intercomm" x 2;
    intercommunicators_of_five: "intercomm" x 5;
}

fn example(name: &str, ranks: u32, args: &str, expected: &str) {
    let program = build_example(name).unwrap_or_else(|error| panic!("{error:#}"));
    Row::new(name, ranks, env!("CARGO_TARGET_TMPDIR")).args(args).passes_with(&program, expected);
}

#[test]
fn example_ring() {
    example("mpi_ring", 3, "--bytes 100000 --laps 20", "verified");
}

#[test]
fn example_halo_exchange() {
    example("mpi_halo_exchange", 4, "--rows 96 --columns 128 --steps 60", "equals the serial run");
}

#[test]
fn example_halo_exchange_with_uneven_blocks() {
    example("mpi_halo_exchange", 6, "--rows 37 --columns 53 --steps 40", "equals the serial run");
}
