/*
 * A rank that talks to itself: point-to-point on MPI_COMM_SELF and on the world, blocking and not,
 * of all sizes and with unlike datatypes; and windows (windows=1) on MPI_COMM_SELF.
 *
 * Arguments: size_max, windows, swaps (0: see rma_atomics.c)
 */
#include "check.h"
#include "windows.h"

#include <stdlib.h>
#include <string.h>

enum { TAG = 55 };

static long long messages;

static void with_myself(MPI_Comm comm, int me, size_t size_max)
{
    for (size_t bytes = 0; bytes <= size_max; bytes = bytes * 3 + 1) {
        unsigned char *out = check_malloc(bytes);
        struct guarded in = guarded_new(bytes, 1);
        uint64_t seed = seed_of(600, (uint64_t)check_rank, bytes, 0);
        MPI_Request request;
        MPI_Status status;

        pattern_fill(out, bytes, seed);
        MPI_Isend(out, (int)bytes, MPI_BYTE, me, TAG, comm, &request);
        MPI_Recv(in.data, (int)bytes, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &status);
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        check_status(&status, me, TAG, bytes);
        check_bytes(in.data, bytes, seed, "%zu bytes sent to oneself, unexpected", bytes);
        pattern_fill(in.data, bytes, ~seed);
        MPI_Irecv(in.data, (int)bytes, MPI_BYTE, me, TAG, comm, &request);
        MPI_Ssend(out, (int)bytes, MPI_BYTE, me, TAG, comm);
        MPI_Wait(&request, &status);
        check_bytes(in.data, bytes, seed, "%zu bytes sent to oneself, posted", bytes);
        pattern_fill(in.data, bytes, ~seed);
        MPI_Sendrecv(out, (int)bytes, MPI_BYTE, me, TAG, in.data, (int)bytes, MPI_BYTE, me, TAG, comm, &status);
        check_bytes(in.data, bytes, seed, "%zu bytes sent to oneself by MPI_Sendrecv", bytes);
        guarded_check(&in, "message to oneself");
        guarded_free(&in);
        free(out);
        messages += 3;
    }
}

/* A transpose, as the classic use of sending to oneself: rows out, columns in. */
static void transpose(MPI_Comm comm, int me, int n)
{
    int *matrix = check_malloc(sizeof(int) * (size_t)(n * n)), *turned = check_malloc(sizeof(int) * (size_t)(n * n));
    MPI_Datatype column, columns;

    MPI_Type_vector(n, 1, n, MPI_INT, &column);
    MPI_Type_create_resized(column, 0, sizeof(int), &columns);
    MPI_Type_commit(&columns);
    for (int i = 0; i < n * n; i++)
        matrix[i] = i * 3 + check_rank;
    MPI_Sendrecv(matrix, n * n, MPI_INT, me, TAG, turned, n, columns, me, TAG, comm, MPI_STATUS_IGNORE);
    for (int row = 0; row < n; row++)
        for (int at = 0; at < n; at++)
            check_value(turned[at * n + row], matrix[row * n + at], "row %d, column %d of a %dx%d transpose", row, at, n,
                        n);
    MPI_Type_free(&column);
    MPI_Type_free(&columns);
    free(turned);
    free(matrix);
    messages++;
}

static void own_window(enum window_kind kind, int swaps)
{
    enum { BYTES = 100000 };
    struct window w;
    unsigned char *out = check_malloc(BYTES), *in = check_malloc(BYTES);
    int64_t five = 5, before = -1, zero = 0, one = 1;

    window_open(&w, kind, MPI_COMM_SELF, BYTES + 64);
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        uint64_t seed = seed_of(601, (uint64_t)check_rank, (uint64_t)epoch, (uint64_t)kind);
        check_phase("%s window on MPI_COMM_SELF, %s", window_kind_name(kind), epoch_name((enum epoch)epoch));
        memset(w.memory, 0, BYTES + 64);
        window_settle(&w);
        pattern_fill(out, BYTES, seed);
        memset(in, 0, BYTES);
        epoch_open(&w, (enum epoch)epoch, 0, 0);
        MPI_Put(out, BYTES, MPI_BYTE, 0, window_at(&w, 0, 64), BYTES, MPI_BYTE, w.win);
        epoch_flush(&w, (enum epoch)epoch, 0);
        MPI_Get(in, BYTES, MPI_BYTE, 0, window_at(&w, 0, 64), BYTES, MPI_BYTE, w.win);
        MPI_Fetch_and_op(&five, &before, MPI_INT64_T, 0, window_at(&w, 0, 0), MPI_SUM, w.win);
        epoch_close(&w, (enum epoch)epoch, 0);
        check_bytes(in, BYTES, seed, "put to and got from one's own %s window", window_kind_name(kind));
        check_value(before, 0, "value fetched from one's own window");
        if (swaps) {
            epoch_open(&w, (enum epoch)epoch, 0, 0);
            MPI_Compare_and_swap(&one, &zero, &before, MPI_INT64_T, 0, window_at(&w, 0, 0), w.win);
            epoch_close(&w, (enum epoch)epoch, 0);
            check_value(before, 5, "value fetched by compare-and-swap from one's own window");
        }
        window_settle(&w);
        memcpy(&before, w.memory, sizeof before);
        check_value(before, 5, "word of one's own window");
    }
    window_close(&w);
    free(in);
    free(out);
}

int main(int argc, char **argv)
{
    size_t size_max;
    int windows;

    check_begin(argc, argv, "self_comm", MPI_THREAD_SINGLE);
    size_max = (size_t)check_option("size_max", 4 << 20);
    windows = (int)check_option("windows", 0);
    check_phase("MPI_COMM_SELF");
    with_myself(MPI_COMM_SELF, 0, size_max);
    check_phase("MPI_COMM_WORLD");
    with_myself(MPI_COMM_WORLD, check_rank, size_max);
    for (int n = 1; n <= 400; n = n * 4 + 1)
        transpose(MPI_COMM_SELF, 0, n);
    for (int kind = 0; windows && kind < WINDOW_KINDS; kind++)
        if (window_kind_wanted((enum window_kind)kind))
            own_window((enum window_kind)kind, (int)check_option("swaps", 1));
    return check_end("windows=%d messages=%lld", windows, messages);
}
