/*
 * All ranks at once on the same words.
 *
 * Counters by MPI_Fetch_and_op, MPI_Accumulate and MPI_Get_accumulate, mixed, of 4 and of 8 bytes, on
 * every rank: the sums must add up, and no value may be fetched twice. A counter that is not atomic,
 * read and written back by get and put under an exclusive MPI_Win_lock. The same under a spin lock
 * made of MPI_Compare_and_swap, and a counter incremented by compare-and-swap alone.
 *
 * Arguments: window = create | allocate | dynamic | all, iterations, swaps (0: no compare-and-swap, see
 * rma_atomics.c), threads (1: MPI_THREAD_MULTIPLE)
 */
#include "check.h"
#include "windows.h"

#include <stdlib.h>
#include <string.h>

enum { COUNTER64 = 0, COUNTER32 = 64, MIXED64 = 128, MIXED32 = 192, PLAIN = 256, LOCK = 320, GUARDED = 384, SWAPPED = 448,
       TICKETS = 512, WINDOW_BYTES = 4096 };

static int iterations;

static int64_t fetch_add64(struct window *w, int target, size_t offset, int64_t value)
{
    int64_t before = -1;

    MPI_Fetch_and_op(&value, &before, MPI_INT64_T, target, window_at(w, target, offset), MPI_SUM, w->win);
    MPI_Win_flush(target, w->win);
    return before;
}

/* Rank 0 holds the values that everybody fetched: they must be 0 .. total - 1, each once. */
static void check_tickets(struct window *w, const int64_t *mine, const char *what)
{
    int total = iterations * w->size;
    int64_t *all = check_malloc(sizeof *all * (size_t)total);
    char *seen = calloc((size_t)total, 1);

    check_that(seen != NULL, "calloc gave no memory");
    MPI_Gather(mine, iterations, MPI_INT64_T, all, iterations, MPI_INT64_T, 0, w->comm);
    for (int i = 0; w->rank == 0 && i < total; i++) {
        check_that(all[i] >= 0 && all[i] < total, "%s: rank %d fetched %lld of %d", what, i / iterations,
                   (long long)all[i], total);
        check_value(seen[all[i]]++, 0, "%s: earlier fetches of the value %lld", what, (long long)all[i]);
    }
    free(seen);
    free(all);
}

static void check_word(struct window *w, size_t offset, size_t width, long long expected, const char *what)
{
    long long got;

    window_settle(w);
    if (width == 4) {
        int32_t word;
        memcpy(&word, w->memory + offset, 4);
        got = word;
    } else {
        int64_t word;
        memcpy(&word, w->memory + offset, 8);
        got = word;
    }
    check_value(got, expected, "%s window: %s on rank %d", window_kind_name(w->kind), what, w->rank);
}

static void counters(struct window *w)
{
    int64_t *tickets = check_malloc(sizeof *tickets * (size_t)iterations);
    int32_t one = 1, before;
    long long total = (long long)iterations * w->size;

    check_phase("%s window: counters", window_kind_name(w->kind));
    MPI_Win_lock_all(0, w->win);
    for (int i = 0; i < iterations; i++) {
        tickets[i] = fetch_add64(w, 0, TICKETS, 1);
        for (int target = 0; target < w->size; target++) {
            fetch_add64(w, target, COUNTER64, target + 1);
            MPI_Fetch_and_op(&one, &before, MPI_INT32_T, target, window_at(w, target, COUNTER32), MPI_SUM, w->win);
        }
        MPI_Win_flush_all(w->win);
    }
    MPI_Win_unlock_all(w->win);
    MPI_Barrier(w->comm);
    check_tickets(w, tickets, "MPI_Fetch_and_op");
    check_word(w, COUNTER64, 8, total * (w->rank + 1), "8-byte counter");
    check_word(w, COUNTER32, 4, total, "4-byte counter");
    free(tickets);
}

/* The three ways to add must be atomic with each other as well. */
static void mixed(struct window *w)
{
    int64_t one64 = 1, back64;
    int32_t one32 = 1, back32;
    long long total = (long long)iterations * w->size;

    check_phase("%s window: mixed ways to add", window_kind_name(w->kind));
    MPI_Win_lock_all(0, w->win);
    for (int i = 0; i < iterations; i++)
        for (int target = 0; target < w->size; target++) {
            MPI_Aint at64 = window_at(w, target, MIXED64), at32 = window_at(w, target, MIXED32);
            switch ((i + w->rank) % 3) {
            case 0:
                MPI_Fetch_and_op(&one64, &back64, MPI_INT64_T, target, at64, MPI_SUM, w->win);
                MPI_Fetch_and_op(&one32, &back32, MPI_INT32_T, target, at32, MPI_SUM, w->win);
                break;
            case 1:
                MPI_Accumulate(&one64, 1, MPI_INT64_T, target, at64, 1, MPI_INT64_T, MPI_SUM, w->win);
                MPI_Accumulate(&one32, 1, MPI_INT32_T, target, at32, 1, MPI_INT32_T, MPI_SUM, w->win);
                break;
            default:
                MPI_Get_accumulate(&one64, 1, MPI_INT64_T, &back64, 1, MPI_INT64_T, target, at64, 1, MPI_INT64_T, MPI_SUM,
                                   w->win);
                MPI_Get_accumulate(&one32, 1, MPI_INT32_T, &back32, 1, MPI_INT32_T, target, at32, 1, MPI_INT32_T, MPI_SUM,
                                   w->win);
                break;
            }
            MPI_Win_flush(target, w->win);
        }
    MPI_Win_unlock_all(w->win);
    MPI_Barrier(w->comm);
    check_word(w, MIXED64, 8, total, "8-byte word added to in three ways");
    check_word(w, MIXED32, 4, total, "4-byte word added to in three ways");
}

/* Get, add, put: right only if the exclusive lock keeps everybody else out. */
static void exclusive_lock(struct window *w)
{
    check_phase("%s window: exclusive lock", window_kind_name(w->kind));
    for (int i = 0; i < iterations; i++) {
        int target = i % w->size;
        int64_t word = -1;
        MPI_Aint at = window_at(w, target, PLAIN);
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, target, 0, w->win);
        MPI_Get(&word, 1, MPI_INT64_T, target, at, 1, MPI_INT64_T, w->win);
        MPI_Win_flush(target, w->win);
        word++;
        MPI_Put(&word, 1, MPI_INT64_T, target, at, 1, MPI_INT64_T, w->win);
        MPI_Win_unlock(target, w->win);
    }
    MPI_Barrier(w->comm);
    long long turns = iterations / w->size + (w->rank < iterations % w->size);
    check_word(w, PLAIN, 8, turns * w->size, "counter under an exclusive lock");
}

static int64_t swap(struct window *w, int target, size_t offset, int64_t expected, int64_t wanted)
{
    int64_t before = -1;

    MPI_Compare_and_swap(&wanted, &expected, &before, MPI_INT64_T, target, window_at(w, target, offset), w->win);
    MPI_Win_flush(target, w->win);
    return before;
}

static void compare_and_swap(struct window *w)
{
    int turns = iterations / 4 + 1;
    int64_t *tickets = check_malloc(sizeof *tickets * (size_t)iterations);

    check_phase("%s window: spin lock of compare-and-swap", window_kind_name(w->kind));
    MPI_Win_lock_all(0, w->win);
    for (int i = 0; i < turns; i++) {
        int64_t word = -1;
        while (swap(w, 0, LOCK, 0, w->rank + 1) != 0)
            sleep_ms(0);
        MPI_Get(&word, 1, MPI_INT64_T, 0, window_at(w, 0, GUARDED), 1, MPI_INT64_T, w->win);
        MPI_Win_flush(0, w->win);
        word++;
        MPI_Put(&word, 1, MPI_INT64_T, 0, window_at(w, 0, GUARDED), 1, MPI_INT64_T, w->win);
        MPI_Win_flush(0, w->win);
        check_value(swap(w, 0, LOCK, w->rank + 1, 0), w->rank + 1, "holder of the spin lock");
    }
    check_phase("%s window: counter of compare-and-swap", window_kind_name(w->kind));
    for (int i = 0; i < iterations; i++) {
        int64_t seen = 0, before;
        while ((before = swap(w, w->size - 1, SWAPPED, seen, seen + 1)) != seen)
            seen = before;
        tickets[i] = seen;
    }
    MPI_Win_unlock_all(w->win);
    MPI_Barrier(w->comm);
    check_tickets(w, tickets, "MPI_Compare_and_swap");
    check_word(w, GUARDED, 8, w->rank == 0 ? (long long)turns * w->size : 0, "counter under a spin lock");
    check_word(w, SWAPPED, 8, w->rank == w->size - 1 ? (long long)iterations * w->size : 0, "swapped counter");
    free(tickets);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv, "rma_contention", MPI_THREAD_SINGLE);
    iterations = (int)check_option("iterations", 1000);
    for (int kind = 0; kind < WINDOW_KINDS; kind++) {
        struct window window;
        if (!window_kind_wanted((enum window_kind)kind))
            continue;
        window_open(&window, (enum window_kind)kind, MPI_COMM_WORLD, WINDOW_BYTES);
        window_settle(&window);
        counters(&window);
        mixed(&window);
        exclusive_lock(&window);
        if (check_option("swaps", 1))
            compare_and_swap(&window);
        window_close(&window);
    }
    return check_end("window=%s iterations=%d", check_option_text("window", "all"), iterations);
}
