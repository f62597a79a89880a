/*
 * Back-pressure: senders run far ahead of receivers that sleep without calling MPI.
 *
 * Five floods: small messages by MPI_Isend all outstanding at once, the same by blocking MPI_Send,
 * messages of just under 4 KiB, 64 messages of 1 MiB, and both sides flooding each other before
 * either receives. Nothing may be lost, damaged or reordered, and nobody may hang.
 * Rank 0 receives from all the others.
 *
 * Beyond 65536 messages ahead of the receiver, ob1's 16-bit sequence number no longer repairs the
 * order, so a transport may not let a later message overtake one that it has refused. (vader of
 * Open MPI 4.1.4 does: messages=100000 fails over it, messages=60000 passes.)
 *
 * Arguments: messages (small messages of each sender), sleep_ms
 */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG = 3 };

struct flood {
    const char *name;
    int messages;
    size_t bytes_min, bytes_max;
    int blocking;
};

static long long received;

static size_t length_of(const struct flood *flood, int from, int index)
{
    uint64_t state = seed_of(4, (uint64_t)from, (uint64_t)index, flood->bytes_max);
    return flood->bytes_min + rng_below(&state, flood->bytes_max - flood->bytes_min + 1);
}

static uint64_t content_of(const struct flood *flood, int from, int index)
{
    return seed_of(5, (uint64_t)from, (uint64_t)index, flood->bytes_max);
}

static void send_all(const struct flood *flood, int to, MPI_Request *requests, unsigned char *memory)
{
    for (int i = 0; i < flood->messages; i++) {
        unsigned char *out = memory + (size_t)i * flood->bytes_max;
        size_t bytes = length_of(flood, check_rank, i);
        pattern_fill(out, bytes, content_of(flood, check_rank, i));
        if (flood->blocking)
            MPI_Send(out, (int)bytes, MPI_BYTE, to, TAG, MPI_COMM_WORLD);
        else
            MPI_Isend(out, (int)bytes, MPI_BYTE, to, TAG, MPI_COMM_WORLD, &requests[i]);
    }
}

static void receive_from(const struct flood *flood, int from, unsigned char *in)
{
    for (int i = 0; i < flood->messages; i++) {
        size_t bytes = length_of(flood, from, i);
        MPI_Status status;
        MPI_Recv(in, (int)flood->bytes_max, MPI_BYTE, from, TAG, MPI_COMM_WORLD, &status);
        check_status(&status, from, TAG, bytes);
        check_bytes(in, bytes, content_of(flood, from, i), "%s, message %d of %d from rank %d", flood->name, i,
                    flood->messages, from);
        received++;
    }
}

static void one_way(const struct flood *flood, long nap_ms)
{
    check_phase("%s: %d messages", flood->name, flood->messages);
    if (check_rank == 0) {
        unsigned char *in = check_malloc(flood->bytes_max);
        sleep_ms(nap_ms);
        for (int from = 1; from < check_size; from++)
            receive_from(flood, from, in);
        free(in);
    } else {
        MPI_Request *requests = check_malloc(sizeof *requests * (size_t)flood->messages);
        unsigned char *memory = check_malloc((size_t)flood->messages * flood->bytes_max);
        send_all(flood, 0, requests, memory);
        if (!flood->blocking)
            MPI_Waitall(flood->messages, requests, MPI_STATUSES_IGNORE);
        free(memory);
        free(requests);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

/* Every rank fills every queue towards its two neighbours before anyone receives. */
static void all_ways(const struct flood *flood)
{
    int right = (check_rank + 1) % check_size, left = (check_rank + check_size - 1) % check_size;
    MPI_Request *requests = check_malloc(sizeof *requests * (size_t)flood->messages);
    unsigned char *memory = check_malloc((size_t)flood->messages * flood->bytes_max);
    unsigned char *in = check_malloc(flood->bytes_max);

    check_phase("%s: %d messages", flood->name, flood->messages);
    send_all(flood, right, requests, memory);
    receive_from(flood, left, in);
    MPI_Waitall(flood->messages, requests, MPI_STATUSES_IGNORE);
    free(in);
    free(memory);
    free(requests);
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    int small;
    long nap_ms;

    check_begin(argc, argv, "flood", MPI_THREAD_SINGLE);
    check_that(check_size >= 2, "needs 2 ranks or more, got %d", check_size);
    small = (int)check_option("messages", 100000);
    nap_ms = (long)check_option("sleep_ms", 1500);
    const struct flood floods[] = {
        {"flood of small MPI_Isend", small, 0, 64, 0},
        {"flood of small MPI_Send", small, 0, 64, 1},
        {"flood of 4 KiB MPI_Isend", small / 10, 3500, 4000, 0},
        {"flood of 1 MiB MPI_Isend", 64, 1 << 20, 1 << 20, 0},
    };
    for (size_t i = 0; i < sizeof floods / sizeof floods[0]; i++)
        one_way(&floods[i], nap_ms);
    const struct flood mutual[] = {
        {"mutual flood of small MPI_Isend", small / 5, 1, 64, 0},
        {"mutual flood of 4 KiB MPI_Isend", small / 50, 3500, 4000, 0},
        {"mutual flood of 1 MiB MPI_Isend", 64, 1 << 20, 1 << 20, 0},
    };
    for (size_t i = 0; i < sizeof mutual / sizeof mutual[0]; i++)
        all_ways(&mutual[i]);
    return check_end("small=%d sleep_ms=%ld, messages received by rank 0=%lld", small, nap_ms, received);
}
