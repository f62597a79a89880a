/*
 * One-sided communication from several threads at once (MPI_THREAD_MULTIPLE).
 *
 * On one shared window, inside one lock_all: every thread puts to and gets from a part of its own on
 * every rank, adds to counters that all threads of all ranks share, and increments by
 * compare-and-swap. At the same time each thread has a window on a communicator of its own, with
 * fences or exclusive locks, while one thread exchanges messages.
 *
 * Arguments: window = create | allocate | dynamic | all, threads, iterations, swaps (0: see rma_atomics.c)
 */
#include "check.h"
#include "windows.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 16, PART_BYTES = 1 << 14, COUNTER = 0, SWAPPED = 64, PARTS_AT = 128, TAG = 17 };

static int threads, iterations, swaps;
static struct window shared, own[THREADS_MAX];
static MPI_Comm message_comm;

static size_t part_of(int rank, int thread)
{
    return PARTS_AT + (size_t)PART_BYTES * (size_t)(rank * threads + thread);
}

static void increment_by_swap(struct window *w, int target)
{
    int64_t seen = 0, before = -1;

    for (;;) {
        int64_t next = seen + 1;
        MPI_Compare_and_swap(&next, &seen, &before, MPI_INT64_T, target, window_at(w, target, SWAPPED), w->win);
        MPI_Win_flush(target, w->win);
        if (before == seen)
            return;
        seen = before;
    }
}

static void use_shared(int thread, int i, unsigned char *out, unsigned char *in)
{
    int target = (check_rank + i) % check_size;
    uint64_t rng = seed_of(500, (uint64_t)check_rank, (uint64_t)thread, (uint64_t)i), seed = rng_next(&rng);
    size_t bytes = rng_size(&rng, PART_BYTES), part = part_of(check_rank, thread);
    int64_t one = 1, before = -1;

    pattern_fill(out, bytes, seed);
    MPI_Put(out, (int)bytes, MPI_BYTE, target, window_at(&shared, target, part), (int)bytes, MPI_BYTE, shared.win);
    MPI_Win_flush(target, shared.win);
    MPI_Get(in, (int)bytes, MPI_BYTE, target, window_at(&shared, target, part), (int)bytes, MPI_BYTE, shared.win);
    MPI_Win_flush(target, shared.win);
    check_bytes(in, bytes, seed, "thread %d, iteration %d, %zu bytes put to and got from rank %d", thread, i, bytes,
                target);
    MPI_Fetch_and_op(&one, &before, MPI_INT64_T, target, window_at(&shared, target, COUNTER), MPI_SUM, shared.win);
    MPI_Win_flush(target, shared.win);
    check_that(before >= 0 && before < (int64_t)iterations * threads * check_size,
               "thread %d, iteration %d: fetched %lld from the counter of rank %d", thread, i, (long long)before, target);
    if (swaps)
        increment_by_swap(&shared, target);
}

static void use_own(int thread, int i, unsigned char *out, unsigned char *in)
{
    struct window *w = &own[thread];
    int target = (check_rank + 1) % check_size, origin = (check_rank + check_size - 1) % check_size;
    enum epoch epoch = i % 2 ? EPOCH_FENCE : EPOCH_LOCK_EXCLUSIVE;
    size_t bytes = (size_t)(i * 37 % 3000);
    uint64_t mine = seed_of(501, (uint64_t)check_rank, (uint64_t)thread, (uint64_t)i);
    uint64_t theirs = seed_of(501, (uint64_t)origin, (uint64_t)thread, (uint64_t)i);

    pattern_fill(out, bytes, mine);
    epoch_open(w, epoch, target, origin);
    MPI_Put(out, (int)bytes, MPI_BYTE, target, window_at(w, target, 0), (int)bytes, MPI_BYTE, w->win);
    epoch_close(w, epoch, target);
    window_settle(w);
    memcpy(in, w->memory, bytes);
    check_bytes(in, bytes, theirs, "thread %d, iteration %d, %zu bytes put by rank %d in %s", thread, i, bytes, origin,
                epoch_name(epoch));
    MPI_Barrier(w->comm);
}

static void *access_windows(void *argument)
{
    int thread = (int)(intptr_t)argument;
    unsigned char *out = check_malloc(PART_BYTES), *in = check_malloc(PART_BYTES);

    for (int i = 0; i < iterations; i++) {
        use_shared(thread, i, out, in);
        if (i % 8 == 0)
            use_own(thread, i / 8, out, in);
    }
    free(in);
    free(out);
    return NULL;
}

static void *exchange_messages(void *argument)
{
    int right = (check_rank + 1) % check_size, left = (check_rank + check_size - 1) % check_size;
    unsigned char *out = check_malloc(PART_BYTES), *in = check_malloc(PART_BYTES);

    (void)argument;
    for (int i = 0; i < iterations; i++) {
        size_t bytes = (size_t)(i * 101 % PART_BYTES);
        pattern_fill(out, bytes, seed_of(502, (uint64_t)check_rank, (uint64_t)i, 0));
        MPI_Sendrecv(out, (int)bytes, MPI_BYTE, right, TAG, in, (int)bytes, MPI_BYTE, left, TAG, message_comm,
                     MPI_STATUS_IGNORE);
        check_bytes(in, bytes, seed_of(502, (uint64_t)left, (uint64_t)i, 0), "message %d of %zu bytes from rank %d", i,
                    bytes, left);
    }
    free(in);
    free(out);
    return NULL;
}

static long long word_at(size_t offset)
{
    int64_t word;

    memcpy(&word, shared.memory + offset, sizeof word);
    return word;
}

/* Rank r is the target of iteration i of every thread of rank s when r = (s + i) mod size. */
static void check_counters(void)
{
    long long expected = 0;

    for (int rank = 0; rank < check_size; rank++)
        for (int i = 0; i < iterations; i++)
            expected += (rank + i) % check_size == check_rank ? threads : 0;
    window_settle(&shared);
    check_value(word_at(COUNTER), expected, "%s window: counter by fetch-and-op", window_kind_name(shared.kind));
    check_value(word_at(SWAPPED), swaps ? expected : 0, "%s window: counter by compare-and-swap",
                window_kind_name(shared.kind));
}

static void one_kind(enum window_kind kind, MPI_Comm *comms)
{
    pthread_t thread_ids[THREADS_MAX], messenger;

    window_open(&shared, kind, MPI_COMM_WORLD, part_of(check_size, 0));
    window_settle(&shared);
    for (int i = 0; i < threads; i++) {
        window_open(&own[i], kind, comms[i], PART_BYTES);
        window_settle(&own[i]);
    }
    MPI_Win_lock_all(0, shared.win);
    check_phase("%s windows: threads run", window_kind_name(kind));
    for (int i = 0; i < threads; i++)
        check_value(pthread_create(&thread_ids[i], NULL, access_windows, (void *)(intptr_t)i), 0, "error of pthread_create");
    check_value(pthread_create(&messenger, NULL, exchange_messages, NULL), 0, "error of pthread_create");
    for (int i = 0; i < threads; i++)
        pthread_join(thread_ids[i], NULL);
    pthread_join(messenger, NULL);
    check_phase("%s windows: closing", window_kind_name(kind));
    MPI_Win_unlock_all(shared.win);
    MPI_Barrier(MPI_COMM_WORLD);
    check_counters();
    for (int i = 0; i < threads; i++)
        window_close(&own[i]);
    window_close(&shared);
}

int main(int argc, char **argv)
{
    MPI_Comm comms[THREADS_MAX];

    check_begin(argc, argv, "rma_threads", MPI_THREAD_MULTIPLE);
    threads = (int)check_option("threads", 3);
    iterations = (int)check_option("iterations", 200);
    swaps = (int)check_option("swaps", 1);
    check_that(threads >= 1 && threads <= THREADS_MAX, "threads=%d is not in 1..%d", threads, THREADS_MAX);
    MPI_Comm_dup(MPI_COMM_WORLD, &message_comm);
    for (int i = 0; i < threads; i++)
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
    for (int kind = 0; kind < WINDOW_KINDS; kind++)
        if (window_kind_wanted((enum window_kind)kind))
            one_kind((enum window_kind)kind, comms);
    for (int i = 0; i < threads; i++)
        MPI_Comm_free(&comms[i]);
    MPI_Comm_free(&message_comm);
    return check_end("window=%s threads=%d iterations=%d", check_option_text("window", "all"), threads, iterations);
}
