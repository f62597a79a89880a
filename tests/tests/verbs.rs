//! The programs of the other tables over an RDMA device, in a guest of `ci/testbed`, which `ci/testbed.d/programs` starts
//! this in. The guest's processor is emulated, so each program does less, and has more time.

use ironband_tests::rows;

/// It takes the lock of a window's list of regions twice (mended in 4.1.5), unless all processes are on one node.
const DYNAMIC: &str =
    "Open MPI 4.1.2 to 4.1.4 waits for ever when a dynamic window of another node is accessed";

rows! {
    passes_with_device;

    sizes_and_modes: "p2p_sizes" x 2, args("size_max=1048576");
    outstanding: "p2p_outstanding" x 2, args("rounds=3 messages=60");
    flood: "flood" x 2, args("messages=3000 sleep_ms=700");
    matching: "matching" x 2, args("messages=60");
    datatypes: "datatypes" x 2, args("quick=1");
    buffers: "buffers" x 2, args("rounds=3 size_max=262144");
    churn: "churn" x 2, args("seconds=15"), registrations();
    churn_jemalloc: "churn" x 2, jemalloc(), args("seconds=15"), registrations();
    churn_threads: "churn" x 2, threads(3), args("seconds=15 workers=3 threads=1"), registrations();
    churn_threads_jemalloc: "churn" x 2, threads(3), jemalloc(), args("seconds=15 workers=3 threads=1"), registrations();
    churn_a_minute: "churn" x 2, args("seconds=60"), registrations();
    churn_a_minute_jemalloc: "churn" x 2, jemalloc(), args("seconds=60"), registrations();
    churn_a_minute_threads: "churn" x 2, threads(3), args("seconds=60 workers=3 threads=1"), registrations();
    churn_a_minute_threads_jemalloc: "churn" x 2, threads(3), jemalloc(), args("seconds=60 workers=3 threads=1"), registrations();
    to_oneself: "self_comm" x 2, args("size_max=65536");
    traffic: "traffic" x 2, args("rounds=3");
    traffic_of_four: "traffic" x 4, args("rounds=2 messages=25 seed=2");
    threads: "threads" x 2, threads(8), args("iterations=20");
    collectives: "collectives" x 4, args("count_max=300");
    lifecycle_silent: "lifecycle" x 2, args("mode=silent");
    lifecycle_late: "lifecycle" x 2, args("mode=late messages=500");
    lifecycle_one_way: "lifecycle" x 2, args("mode=oneway messages=500");
    spawn: "spawn" x 1, args("rounds=1");
    connect: "connect" x 2, args("rounds=1"),
        between_hosts("join=0", "the program joins over a socket of its own host");
    intercommunicators: "intercomm" x 2, args("rounds=2");
    epochs: "rma_epochs" x 2, args("size_max=4096 window=create"),
        between_hosts("size_max=64", "each element of a vector is a round trip or more, and a guest takes 2 ms for one");
    epochs_with_threads: "rma_epochs" x 2, args("size_max=1024 epoch=0 threads=1"),
        between_hosts("window=allocate", DYNAMIC);
    atomics: "rma_atomics" x 2, args("repeats=1"), atomics(),
        between_hosts("window=create", DYNAMIC);
    contention: "rma_contention" x 3, args("iterations=60"), atomics(),
        between_hosts("window=allocate", DYNAMIC);
    busy_target: "rma_passive" x 2, args("iterations=12 margin_ms=60000"), atomics(),
        between_hosts("window=create", DYNAMIC);
    threads_on_windows: "rma_threads" x 2, threads(4), args("iterations=20"),
        between_hosts("window=allocate", DYNAMIC);
}
