/*
 * One-sided communication: put, get, accumulate and get_accumulate, their request-based forms and
 * derived datatypes on either side, in every kind of epoch on every kind of window.
 *
 * Rank r accesses rank r + shift, for shift 0 (itself), 1 and 2, so every rank is origin and target.
 * Arguments: window = create | allocate | dynamic | all, epoch = number of one epoch or -1 for all,
 * size_max, threads (1: initialise with MPI_THREAD_MULTIPLE)
 */
#include "check.h"
#include "windows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 64 };

struct access {
    struct window *window;
    enum epoch epoch;
    int target, origin;
    const char *kind;
};

static long long transfers;
static uint64_t turn;

/* Names the access in every message. */
#define WHERE "%s in %s on a %s window, rank %d -> %d, %zu bytes"
#define WHERE_ARGS(a, name, bytes) (name), epoch_name((a)->epoch), (a)->kind, check_rank, (a)->target, (bytes)
#define WHERE_ARGS_IN(a, name, bytes) (name), epoch_name((a)->epoch), (a)->kind, (a)->origin, check_rank, (bytes)

static uint64_t content(int rank, uint64_t what)
{
    return seed_of(200, (uint64_t)rank, turn, what);
}

static void open_epoch(struct access *a)
{
    epoch_open(a->window, a->epoch, a->target, a->origin);
}

static void close_epoch(struct access *a)
{
    epoch_close(a->window, a->epoch, a->target);
    window_settle(a->window);
}

/* Puts between guard zones of the target's memory, then looks at what arrived there. */
static void test_put(struct access *a, size_t bytes)
{
    struct window *w = a->window;
    unsigned char *out = check_malloc(bytes);

    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "put", bytes));
    memset(w->memory, 0xC3, bytes + 2 * GAP);
    window_settle(w);
    pattern_fill(out, bytes, content(check_rank, 1));
    open_epoch(a);
    MPI_Put(out, (int)bytes, MPI_BYTE, a->target, window_at(w, a->target, GAP), (int)bytes, MPI_BYTE, w->win);
    close_epoch(a);
    check_bytes(w->memory + GAP, bytes, content(a->origin, 1), WHERE, WHERE_ARGS_IN(a, "put", bytes));
    for (size_t i = 0; i < GAP; i++) {
        check_value(w->memory[i], 0xC3, "byte %zu before a " WHERE, i, WHERE_ARGS_IN(a, "put", bytes));
        check_value(w->memory[GAP + bytes + i], 0xC3, "byte %zu after a " WHERE, i, WHERE_ARGS_IN(a, "put", bytes));
    }
    free(out);
    transfers++;
}

static void test_get(struct access *a, size_t bytes)
{
    struct window *w = a->window;
    struct guarded in = guarded_new(bytes, bytes % 5);

    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "get", bytes));
    pattern_fill(w->memory, bytes + GAP, content(check_rank, 2));
    window_settle(w);
    open_epoch(a);
    MPI_Get(in.data, (int)bytes, MPI_BYTE, a->target, window_at(w, a->target, 3), (int)bytes, MPI_BYTE, w->win);
    close_epoch(a);
    check_bytes_at(in.data, bytes, content(a->target, 2), 3, WHERE, WHERE_ARGS(a, "get", bytes));
    guarded_check(&in, "get");
    guarded_free(&in);
    transfers++;
}

/* What was put before a flush is there for a get after it, within one epoch. */
static void test_put_flush_get(struct access *a, size_t bytes)
{
    struct window *w = a->window;
    unsigned char *out = check_malloc(bytes), *in = check_malloc(bytes);

    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "put, flush, get", bytes));
    pattern_fill(out, bytes, content(check_rank, 3));
    memset(in, 0, bytes);
    open_epoch(a);
    MPI_Put(out, (int)bytes, MPI_BYTE, a->target, window_at(w, a->target, 0), (int)bytes, MPI_BYTE, w->win);
    epoch_flush(w, a->epoch, a->target);
    MPI_Get(in, (int)bytes, MPI_BYTE, a->target, window_at(w, a->target, 0), (int)bytes, MPI_BYTE, w->win);
    close_epoch(a);
    check_bytes(in, bytes, content(check_rank, 3), WHERE, WHERE_ARGS(a, "put, flush, get", bytes));
    free(in);
    free(out);
    transfers += 2;
}

/* Every second int of the target from every third int of the origin, and back. */
static void test_spaced(struct access *a, int ints)
{
    struct window *w = a->window;
    MPI_Datatype every_third, every_second;
    int *out = check_malloc(sizeof(int) * 3 * (size_t)ints), *in = check_malloc(sizeof(int) * 3 * (size_t)ints);
    int *memory = (int *)w->memory;
    size_t bytes = sizeof(int) * (size_t)ints;

    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "put and get of vectors", bytes));
    MPI_Type_vector(ints, 1, 3, MPI_INT, &every_third);
    MPI_Type_vector(ints, 1, 2, MPI_INT, &every_second);
    MPI_Type_commit(&every_third);
    MPI_Type_commit(&every_second);
    for (int i = 0; i < 3 * ints; i++) {
        out[i] = check_rank * 1000000 + i;
        in[i] = -1;
    }
    for (int i = 0; i < 2 * ints; i++)
        memory[i] = -2;
    window_settle(w);
    open_epoch(a);
    MPI_Put(out, 1, every_third, a->target, window_at(w, a->target, 0), 1, every_second, w->win);
    epoch_flush(w, a->epoch, a->target);
    MPI_Get(in, 1, every_third, a->target, window_at(w, a->target, 0), 1, every_second, w->win);
    close_epoch(a);
    for (int i = 0; i < 2 * ints; i++)
        check_value(memory[i], i % 2 == 0 ? a->origin * 1000000 + i / 2 * 3 : -2, "int %d of " WHERE, i,
                    WHERE_ARGS_IN(a, "put of a vector", bytes));
    for (int i = 0; i < 3 * ints - 2; i++)
        check_value(in[i], i % 3 == 0 ? check_rank * 1000000 + i : -1, "int %d of " WHERE, i,
                    WHERE_ARGS(a, "get of a vector", bytes));
    MPI_Type_free(&every_third);
    MPI_Type_free(&every_second);
    free(in);
    free(out);
    transfers += 2;
}

static void test_accumulate(struct access *a, int count)
{
    struct window *w = a->window;
    size_t bytes = sizeof(long long) * (size_t)count;
    long long *out = check_malloc(bytes), *before = check_malloc(bytes), *memory = (long long *)w->memory;
    MPI_Aint at = window_at(w, a->target, 0);

    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "accumulate", bytes));
    for (int i = 0; i < count; i++) {
        memory[i] = 5000000000LL * (check_rank + 1) + i;
        out[i] = 7LL * (check_rank + 1) * i;
        before[i] = -1;
    }
    window_settle(w);
    open_epoch(a);
    MPI_Accumulate(out, count, MPI_LONG_LONG, a->target, at, count, MPI_LONG_LONG, MPI_SUM, w->win);
    epoch_flush(w, a->epoch, a->target);
    MPI_Get_accumulate(out, count, MPI_LONG_LONG, before, count, MPI_LONG_LONG, a->target, at, count, MPI_LONG_LONG,
                       MPI_SUM, w->win);
    close_epoch(a);
    for (int i = 0; i < count; i++) {
        check_value(before[i], 5000000000LL * (a->target + 1) + i + 7LL * (check_rank + 1) * i, "element %d of " WHERE, i,
                    WHERE_ARGS(a, "get_accumulate, value before", bytes));
        check_value(memory[i], 5000000000LL * (check_rank + 1) + i + 14LL * (a->origin + 1) * i, "element %d of " WHERE, i,
                    WHERE_ARGS_IN(a, "accumulate + get_accumulate, value after", bytes));
    }
    free(before);
    free(out);
    transfers += 2;
}

/* Accumulate of doubles into every second element. */
static void test_accumulate_spaced(struct access *a, int count)
{
    struct window *w = a->window;
    double *out = check_malloc(sizeof(double) * (size_t)count), *memory = (double *)w->memory;
    MPI_Datatype every_second;

    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "accumulate into a vector", sizeof(double) * (size_t)count));
    MPI_Type_vector(count, 1, 2, MPI_DOUBLE, &every_second);
    MPI_Type_commit(&every_second);
    for (int i = 0; i < count; i++)
        out[i] = 0.5 * i + check_rank;
    for (int i = 0; i < 2 * count; i++)
        memory[i] = i;
    window_settle(w);
    open_epoch(a);
    MPI_Accumulate(out, count, MPI_DOUBLE, a->target, window_at(w, a->target, 0), 1, every_second, MPI_SUM, w->win);
    close_epoch(a);
    for (int i = 0; i < 2 * count; i++) {
        double expected = i % 2 == 0 ? i + 0.5 * (i / 2) + a->origin : i;
        check_that(memory[i] == expected, "double %d of " WHERE ": expected %f, got %f", i,
                   WHERE_ARGS_IN(a, "accumulate into a vector", sizeof(double) * (size_t)count), expected, memory[i]);
    }
    MPI_Type_free(&every_second);
    free(out);
    transfers++;
}

/* Rput, Rget and Raccumulate need a passive-target epoch; each is waited for by its own request. */
static void test_requests(struct access *a, size_t bytes)
{
    enum { PARTS = 16 };
    struct window *w = a->window;
    unsigned char *out = check_malloc(bytes * PARTS), *in = check_malloc(bytes * PARTS);
    int one = 1, *memory = (int *)(w->memory + bytes * PARTS);
    MPI_Request requests[PARTS];

    if (a->epoch == EPOCH_FENCE || a->epoch == EPOCH_PSCW || bytes % sizeof(int) != 0) {
        free(in);
        free(out);
        return;
    }
    turn++;
    check_phase(WHERE, WHERE_ARGS(a, "rput and rget", bytes));
    *memory = 0;
    window_settle(w);
    pattern_fill(out, bytes * PARTS, content(check_rank, 4));
    open_epoch(a);
    for (size_t i = 0; i < PARTS; i++)
        MPI_Rput(out + i * bytes, (int)bytes, MPI_BYTE, a->target, window_at(w, a->target, i * bytes), (int)bytes,
                 MPI_BYTE, w->win, &requests[i]);
    MPI_Waitall(PARTS, requests, MPI_STATUSES_IGNORE);
    epoch_flush(w, a->epoch, a->target);
    for (size_t i = 0; i < PARTS; i++)
        MPI_Rget(in + i * bytes, (int)bytes, MPI_BYTE, a->target, window_at(w, a->target, i * bytes), (int)bytes,
                 MPI_BYTE, w->win, &requests[i]);
    MPI_Waitall(PARTS, requests, MPI_STATUSES_IGNORE);
    check_bytes(in, bytes * PARTS, content(check_rank, 4), WHERE, WHERE_ARGS(a, "rput and rget", bytes));
    for (size_t i = 0; i < PARTS; i++)
        MPI_Raccumulate(&one, 1, MPI_INT, a->target, window_at(w, a->target, bytes * PARTS), 1, MPI_INT, MPI_SUM, w->win,
                        &requests[i]);
    MPI_Waitall(PARTS, requests, MPI_STATUSES_IGNORE);
    close_epoch(a);
    check_bytes(w->memory, bytes * PARTS, content(a->origin, 4), WHERE, WHERE_ARGS_IN(a, "rput", bytes));
    check_value(*memory, PARTS, WHERE, WHERE_ARGS_IN(a, "raccumulate", bytes));
    free(in);
    free(out);
    transfers += 3 * PARTS;
}

static void test_access(struct access *a, size_t size_max)
{
    for (size_t bytes = 1; bytes <= size_max; bytes = bytes * 8 + bytes % 7) {
        test_put(a, bytes);
        test_get(a, bytes);
        test_put_flush_get(a, bytes);
    }
    for (size_t bytes = 0; bytes < 40; bytes += 1 + bytes / 9) {
        test_put(a, bytes);
        test_get(a, bytes);
    }
    for (int count = 1; count <= 10000 && (size_t)count <= size_max; count *= 10) {
        test_spaced(a, count);
        test_accumulate(a, count);
        test_accumulate_spaced(a, count);
    }
    for (size_t bytes = 4; bytes <= 65536; bytes *= 16)
        test_requests(a, bytes);
}

int main(int argc, char **argv)
{
    size_t size_max, window_bytes;
    int only;

    check_begin(argc, argv, "rma_epochs", MPI_THREAD_SINGLE);
    size_max = (size_t)check_option("size_max", 1 << 20);
    only = (int)check_option("epoch", -1);
    window_bytes = size_max * 2 + (2 << 20);
    for (int kind = 0; kind < WINDOW_KINDS; kind++) {
        struct window window;
        if (!window_kind_wanted((enum window_kind)kind))
            continue;
        window_open(&window, (enum window_kind)kind, MPI_COMM_WORLD, window_bytes);
        for (int epoch = 0; epoch < EPOCHS; epoch++)
            for (int shift = 0; shift < 3 && shift < check_size && (only < 0 || only == epoch); shift++) {
                struct access access = {&window, (enum epoch)epoch, (check_rank + shift) % check_size,
                                        (check_rank - shift + check_size) % check_size,
                                        window_kind_name((enum window_kind)kind)};
                test_access(&access, size_max);
            }
        window_close(&window);
    }
    return check_end("window=%s epoch=%d transfers of rank 0=%lld", check_option_text("window", "all"), only, transfers);
}
