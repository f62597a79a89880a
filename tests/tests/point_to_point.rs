//! Messages between ranks, datatypes, threads and collectives, under a real `mpirun`.

use ironband_tests::rows;

rows! {
    passes;

    sizes_and_modes: "p2p_sizes" x 2;
    sizes_and_modes_oversubscribed: "p2p_sizes" x 6, args("size_max=1048576");

    outstanding_of_two: "p2p_outstanding" x 2;
    outstanding_of_five: "p2p_outstanding" x 5, args("seed=2");

    flood: "flood" x 2, args("messages=60000 sleep_ms=700");
    flood_from_three: "flood" x 4, args("messages=30000 sleep_ms=700");
    flood_past_the_sequence_number: "flood" x 2, args("messages=100000 sleep_ms=700"),
        not_over("vader", "of Open MPI 4.1.4 lets messages overtake by more than ob1's 16-bit sequence can order");

    matching_of_two: "matching" x 2;
    matching_of_five: "matching" x 5;

    datatypes: "datatypes" x 2;
    datatypes_oversubscribed: "datatypes" x 6, args("quick=1");

    buffers: "buffers" x 2;
    buffers_oversubscribed: "buffers" x 4;

    to_oneself_alone: "self_comm" x 1;
    to_oneself: "self_comm" x 3;

    traffic_of_two: "traffic" x 2;
    traffic_of_eight: "traffic" x 8, args("seed=2");
    traffic_of_thirty_two: "traffic" x 32, args("seed=3 messages=16 rounds=4");
    #[ignore = "minutes with more ranks than cores; run with --ignored"]
    traffic_of_thirty_two_long: "traffic" x 32, args("seed=4 messages=100 rounds=40"), time(600);

    threads_of_one: "threads" x 1, threads(8);
    threads_of_two: "threads" x 2, threads(8), args("iterations=300");
    threads_of_four: "threads" x 4, threads(8), args("iterations=150");
    #[ignore = "minutes with more threads than cores; run with --ignored"]
    threads_of_eight_long: "threads" x 8, threads(20), args("threads=16 iterations=1000"), time(600);

    collectives_of_two: "collectives" x 2;
    collectives_of_seven: "collectives" x 7;
    collectives_of_thirty_two: "collectives" x 32, args("count_max=7");
    #[ignore = "minutes with more ranks than cores; run with --ignored"]
    collectives_of_thirty_two_long: "collectives" x 32, args("count_max=40000"), time(600);

    #[ignore = "one message over 4 GiB, needs 9 GiB of memory; run with --ignored"]
    over_4_gib: "huge" x 2, args("mode=send"), time(300);
    #[ignore = "one message over 4 GiB, needs 9 GiB of memory; run with --ignored"]
    over_4_gib_nonblocking: "huge" x 2, args("mode=isend"), time(300);
    #[ignore = "one message over 4 GiB, needs 9 GiB of memory; run with --ignored"]
    over_4_gib_with_holes: "huge" x 2, args("mode=vector"), time(300);
}
