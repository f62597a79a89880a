//! One-sided communication, under a real `mpirun`.
//!
//! Debian's Open MPI disables `osc/pt2pt`, so windows need a transport with put, get and atomic operations. With
//! `osc=^ucx`, which allows it again, windows also work where `osc/rdma` gives up: on one rank alone, and over tcp.

use ironband_tests::rows;

const NO_WINDOWS: &str = "has no atomic operations, and Debian's Open MPI disables osc/pt2pt";
const NO_THREADS: &str = "has no atomic operations, and osc/pt2pt refuses MPI_THREAD_MULTIPLE";
const VADER_SWAPS: &str =
    "of Open MPI 4.1.4 crashes in MPI_Compare_and_swap on own memory and on allocated windows";
const VADER_OPERATIONS: &str =
    "of Open MPI 4.1.4 gets logical and unsigned fetch-and-op wrong, and compare-and-swap too";

rows! {
    passes;

    epochs_of_two: "rma_epochs" x 2, not_over("tcp", NO_WINDOWS);
    epochs_of_four: "rma_epochs" x 4, not_over("tcp", NO_WINDOWS);
    epochs_with_threads: "rma_epochs" x 2, args("threads=1"), not_over("tcp", NO_THREADS);
    epochs_without_shared_memory_windows: "rma_epochs" x 3, mca("osc", "^ucx,pt2pt,sm"), not_over("tcp", NO_WINDOWS);
    epochs_over_messages: "rma_epochs" x 2, mca("osc", "pt2pt");
    epochs_alone: "rma_epochs" x 1, mca("osc", "^ucx");

    atomics_of_two: "rma_atomics" x 2, not_over("tcp", NO_WINDOWS), not_over("vader", VADER_OPERATIONS);
    atomics_of_four: "rma_atomics" x 4, not_over("tcp", NO_WINDOWS), not_over("vader", VADER_OPERATIONS);
    atomics_with_threads: "rma_atomics" x 3, args("threads=1"),
        not_over("tcp", NO_THREADS), not_over("vader", VADER_OPERATIONS);
    atomics_over_messages: "rma_atomics" x 3, mca("osc", "pt2pt");

    contention_of_two: "rma_contention" x 2, not_over("tcp", NO_WINDOWS), not_over("vader", VADER_SWAPS);
    contention_of_eight: "rma_contention" x 8, args("iterations=150"),
        not_over("tcp", NO_WINDOWS), not_over("vader", VADER_SWAPS);
    contention_with_threads: "rma_contention" x 4, args("iterations=400 threads=1"),
        not_over("tcp", NO_THREADS), not_over("vader", VADER_SWAPS);
    contention_without_swaps: "rma_contention" x 4, args("swaps=0"), not_over("tcp", NO_WINDOWS);

    busy_target: "rma_passive" x 2, not_over("tcp", NO_WINDOWS);
    busy_target_with_threads: "rma_passive" x 3, args("threads=1"), not_over("tcp", NO_THREADS);

    threads_of_two: "rma_threads" x 2, threads(4), not_over("tcp", NO_THREADS), not_over("vader", VADER_SWAPS);
    threads_of_four: "rma_threads" x 4, threads(4), args("iterations=100"),
        not_over("tcp", NO_THREADS), not_over("vader", VADER_SWAPS);
    threads_without_swaps: "rma_threads" x 3, threads(4), args("swaps=0"), not_over("tcp", NO_THREADS);

    window_of_oneself: "self_comm" x 2, args("windows=1"), mca("osc", "^ucx");

    #[ignore = "one access over 4 GiB, needs 9 GiB of memory; run with --ignored"]
    put_over_4_gib: "huge" x 2, args("mode=put"), time(300), not_over("tcp", NO_WINDOWS);
    #[ignore = "one access over 4 GiB, needs 9 GiB of memory; run with --ignored"]
    get_over_4_gib: "huge" x 2, args("mode=get"), time(300), not_over("tcp", NO_WINDOWS);
}
