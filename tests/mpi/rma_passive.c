/*
 * Passive target: rank 0 exposes memory and computes, without a call to MPI, while the others put,
 * get, fetch and add to it; everything must be done and right within busy_ms plus a margin. How long
 * an origin waited is printed: a transport with true one-sided access does not wait for the target.
 *
 * Arguments: window = create | allocate | dynamic | all, busy_ms, margin_ms, iterations,
 * threads (1: MPI_THREAD_MULTIPLE)
 */
#include "check.h"
#include "windows.h"

#include <stdlib.h>
#include <string.h>

enum { PART_BYTES = 1 << 16, COUNTER = 0, PARTS_AT = 64 };

static volatile double sink;

/* Computes on the processor, as an application does; sleeping would hide a target that must poll. */
static void compute(long milliseconds)
{
    double end = seconds_now() + (double)milliseconds / 1000;

    while (seconds_now() < end)
        for (int i = 0; i < 1000; i++)
            sink = sink * 0.999 + i;
}

static void access_target(struct window *w, int iterations, enum epoch epoch)
{
    unsigned char *out = check_malloc(PART_BYTES), *in = check_malloc(PART_BYTES);
    int64_t one = 1, before;
    size_t part = PARTS_AT + (size_t)PART_BYTES * (size_t)(w->rank - 1);

    for (int i = 0; i < iterations; i++) {
        size_t bytes = (size_t)PART_BYTES >> (i % 12);
        uint64_t seed = seed_of(400, (uint64_t)w->rank, (uint64_t)i, (uint64_t)epoch);
        check_phase("%s window, iteration %d, %s", window_kind_name(w->kind), i, epoch_name(epoch));
        pattern_fill(out, bytes, seed);
        memset(in, 0, bytes);
        epoch_open(w, epoch, 0, 0);
        MPI_Put(out, (int)bytes, MPI_BYTE, 0, window_at(w, 0, part), (int)bytes, MPI_BYTE, w->win);
        epoch_flush(w, epoch, 0);
        MPI_Get(in, (int)bytes, MPI_BYTE, 0, window_at(w, 0, part), (int)bytes, MPI_BYTE, w->win);
        MPI_Fetch_and_op(&one, &before, MPI_INT64_T, 0, window_at(w, 0, COUNTER), MPI_SUM, w->win);
        epoch_close(w, epoch, 0);
        check_bytes(in, bytes, seed, "%s window, iteration %d, %zu bytes put to and got from a busy target",
                    window_kind_name(w->kind), i, bytes);
        check_that(before >= i, "%s window: fetched %lld in iteration %d", window_kind_name(w->kind), (long long)before,
                   i);
    }
    free(in);
    free(out);
}

static double one_window(enum window_kind kind, long busy_ms, long margin_ms, int iterations)
{
    static const enum epoch epochs[] = {EPOCH_LOCK_SHARED, EPOCH_LOCK_EXCLUSIVE, EPOCH_LOCK_ALL};
    struct window window;
    double waited = 0, longest = 0;

    window_open(&window, kind, MPI_COMM_WORLD, PARTS_AT + (size_t)PART_BYTES * (size_t)check_size);
    window_settle(&window);
    for (size_t e = 0; e < sizeof epochs / sizeof epochs[0]; e++) {
        MPI_Barrier(MPI_COMM_WORLD);
        if (check_rank == 0) {
            check_phase("%s window: computing for %ld ms", window_kind_name(kind), busy_ms);
            compute(busy_ms);
        } else {
            double begun = seconds_now();
            access_target(&window, iterations, epochs[e]);
            waited = seconds_now() - begun > waited ? seconds_now() - begun : waited;
            check_that(waited * 1000 < (double)(busy_ms + margin_ms),
                       "%s window, %s: %d accesses to a target that computes for %ld ms took %.0f ms",
                       window_kind_name(kind), epoch_name(epochs[e]), iterations, busy_ms, waited * 1000);
        }
        check_phase("%s window: barrier after %s", window_kind_name(kind), epoch_name(epochs[e]));
        MPI_Barrier(MPI_COMM_WORLD);
    }
    window_settle(&window);
    if (check_rank == 0) {
        int64_t counter;
        memcpy(&counter, window.memory + COUNTER, sizeof counter);
        check_value(counter, 3LL * iterations * (check_size - 1), "%s window: counter", window_kind_name(kind));
    }
    window_close(&window);
    MPI_Reduce(&waited, &longest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    return longest;
}

int main(int argc, char **argv)
{
    double longest[WINDOW_KINDS] = {-1, -1, -1};
    long busy_ms, margin_ms;
    int iterations;

    check_begin(argc, argv, "rma_passive", MPI_THREAD_SINGLE);
    check_that(check_size >= 2, "needs 2 ranks or more, got %d", check_size);
    busy_ms = (long)check_option("busy_ms", 500);
    margin_ms = (long)check_option("margin_ms", 15000);
    iterations = (int)check_option("iterations", 48);
    for (int kind = 0; kind < WINDOW_KINDS; kind++)
        if (window_kind_wanted((enum window_kind)kind))
            longest[kind] = one_window((enum window_kind)kind, busy_ms, margin_ms, iterations);
    return check_end("busy_ms=%ld, longest wait of an origin: create %.3f s, allocate %.3f s, dynamic %.3f s", busy_ms,
                     longest[0], longest[1], longest[2]);
}
