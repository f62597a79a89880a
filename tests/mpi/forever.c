/*
 * Traffic without end, for tests that kill ranks in the middle of it.
 *
 * Every rank prints "pid <rank> <pid>" first. Every rank exchanges with all others, small and large
 * messages and (rma=1) one-sided accesses; rank 0 prints "round <n>" now and then, so a test knows
 * that traffic flows. The watchdog of check.h bounds it if nobody kills it.
 *
 * Arguments: rma, size_max
 */
#include "check.h"
#include "windows.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { TAG = 9, WINDOW_BYTES = 4096 };

static void exchange_all(long long round, size_t size_max)
{
    size_t room = size_max ? size_max : 1;
    MPI_Request *requests = check_malloc(sizeof *requests * 2 * (size_t)check_size);
    unsigned char *out = check_malloc(room), *in = check_malloc(room * (size_t)check_size);
    uint64_t rng = seed_of(700, (uint64_t)round, 0, 0);
    size_t bytes = rng_size(&rng, size_max);
    int posted = 0;

    pattern_fill(out, bytes, seed_of(701, (uint64_t)round, (uint64_t)check_rank, 0));
    for (int peer = 0; peer < check_size; peer++) {
        MPI_Irecv(in + room * (size_t)peer, (int)bytes, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &requests[posted++]);
        MPI_Isend(out, (int)bytes, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &requests[posted++]);
    }
    MPI_Waitall(posted, requests, MPI_STATUSES_IGNORE);
    for (int peer = 0; peer < check_size; peer++)
        check_bytes(in + room * (size_t)peer, bytes, seed_of(701, (uint64_t)round, (uint64_t)peer, 0),
                    "round %lld, %zu bytes from rank %d", round, bytes, peer);
    free(in);
    free(out);
    free(requests);
}

static void access_next(struct window *window)
{
    int target = (check_rank + 1) % check_size;
    int64_t one = 1, before;

    MPI_Win_lock(MPI_LOCK_SHARED, target, 0, window->win);
    MPI_Fetch_and_op(&one, &before, MPI_INT64_T, target, window_at(window, target, 0), MPI_SUM, window->win);
    MPI_Win_unlock(target, window->win);
}

int main(int argc, char **argv)
{
    struct window window;
    size_t size_max;
    int rma;

    check_begin(argc, argv, "forever", MPI_THREAD_SINGLE);
    size_max = (size_t)check_option("size_max", 1 << 20);
    rma = (int)check_option("rma", 0);
    printf("pid %d %d\n", check_rank, (int)getpid());
    fflush(stdout);
    if (rma)
        window_open(&window, WINDOW_CREATE, MPI_COMM_WORLD, WINDOW_BYTES);
    check_phase("traffic");
    for (long long round = 0;; round++) {
        exchange_all(round, size_max);
        if (rma)
            access_next(&window);
        if (check_rank == 0 && round % 50 == 49) {
            printf("round %lld\n", round);
            fflush(stdout);
        }
    }
}
