/*
 * MPI_THREAD_MULTIPLE: many threads of every rank communicate at once.
 *
 * Of each rank: `threads` threads exchange with their namesakes on the neighbouring ranks, the odd
 * ones by tag on MPI_COMM_WORLD, the even ones on a communicator of their own; two threads receive
 * whatever comes for a shared tag, while every rank sends to everybody, and each message must reach
 * exactly one of them; one thread runs collectives on its own communicator.
 *
 * Arguments: threads, iterations, size_max
 */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 32, SHARED_TAG = 1000, STOP_TAG = 1001, TAKERS = 2 };

static int threads, iterations;
static size_t size_max;
static MPI_Comm comms[THREADS_MAX], collective_comm, shared_comm;
static atomic_uchar *taken;
static atomic_int taken_count;
static atomic_llong received;

/* A ring: send to the right, receive from the left, sizes that change with every turn. */
static void *exchange(void *argument)
{
    int thread = (int)(intptr_t)argument;
    MPI_Comm comm = thread % 2 ? MPI_COMM_WORLD : comms[thread];
    int right = (check_rank + 1) % check_size, left = (check_rank + check_size - 1) % check_size;
    unsigned char *out = check_malloc(size_max), *in = check_malloc(size_max);

    for (int i = 0; i < iterations; i++) {
        uint64_t rng = seed_of(30, (uint64_t)thread, (uint64_t)i, 0);
        size_t bytes = rng_size(&rng, size_max);
        uint64_t mine = seed_of(31, (uint64_t)check_rank, (uint64_t)thread, (uint64_t)i);
        uint64_t theirs = seed_of(31, (uint64_t)left, (uint64_t)thread, (uint64_t)i);
        MPI_Request requests[2];
        MPI_Status statuses[2];

        pattern_fill(out, bytes, mine);
        switch (i % 3) {
        case 0:
            MPI_Irecv(in, (int)size_max, MPI_BYTE, left, thread, comm, &requests[0]);
            MPI_Isend(out, (int)bytes, MPI_BYTE, right, thread, comm, &requests[1]);
            MPI_Waitall(2, requests, statuses);
            break;
        case 1:
            MPI_Isend(out, (int)bytes, MPI_BYTE, right, thread, comm, &requests[1]);
            MPI_Recv(in, (int)size_max, MPI_BYTE, left, thread, comm, &statuses[0]);
            MPI_Wait(&requests[1], MPI_STATUS_IGNORE);
            break;
        default:
            MPI_Sendrecv(out, (int)bytes, MPI_BYTE, right, thread, in, (int)size_max, MPI_BYTE, left, thread, comm,
                         &statuses[0]);
            break;
        }
        check_status(&statuses[0], left, thread, bytes);
        check_bytes(in, bytes, theirs, "thread %d, iteration %d, %zu bytes from rank %d", thread, i, bytes, left);
        atomic_fetch_add(&received, 1);
    }
    free(in);
    free(out);
    return NULL;
}

/* Receivers that compete for the same messages. */
static void *take(void *argument)
{
    unsigned char in[512];

    (void)argument;
    for (;;) {
        MPI_Message message;
        MPI_Status status;
        int bytes, index;

        MPI_Mprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, shared_comm, &message, &status);
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        MPI_Mrecv(in, bytes, MPI_BYTE, &message, &status);
        if (status.MPI_TAG == STOP_TAG)
            return NULL;
        memcpy(&index, in, sizeof index);
        check_that(index >= 0 && index < iterations, "message number %d from rank %d was never sent", index,
                   status.MPI_SOURCE);
        check_bytes(in + sizeof index, (size_t)bytes - sizeof index,
                    seed_of(32, (uint64_t)status.MPI_SOURCE, (uint64_t)check_rank, (uint64_t)index),
                    "shared message %d from rank %d", index, status.MPI_SOURCE);
        check_value(atomic_fetch_add(&taken[status.MPI_SOURCE * iterations + index], 1), 0,
                    "earlier receives of message %d from rank %d", index, status.MPI_SOURCE);
        atomic_fetch_add(&taken_count, 1);
    }
}

static void *give(void *argument)
{
    unsigned char out[512];

    (void)argument;
    for (int i = 0; i < iterations; i++)
        for (int to = 0; to < check_size; to++) {
            size_t bytes = sizeof i + (size_t)(i % 400);
            memcpy(out, &i, sizeof i);
            pattern_fill(out + sizeof i, bytes - sizeof i,
                         seed_of(32, (uint64_t)check_rank, (uint64_t)to, (uint64_t)i));
            MPI_Send(out, (int)bytes, MPI_BYTE, to, SHARED_TAG, shared_comm);
        }
    return NULL;
}

static void *collect(void *argument)
{
    (void)argument;
    for (int i = 0; i < iterations / 4 + 1; i++) {
        long long mine = (long long)check_rank * i, sum = -1;
        int word = check_rank == i % check_size ? i * 7 : -1;

        MPI_Allreduce(&mine, &sum, 1, MPI_LONG_LONG, MPI_SUM, collective_comm);
        check_value(sum, (long long)i * check_size * (check_size - 1) / 2, "allreduce number %d", i);
        MPI_Bcast(&word, 1, MPI_INT, i % check_size, collective_comm);
        check_value(word, i * 7, "bcast number %d", i);
        MPI_Barrier(collective_comm);
    }
    return NULL;
}

static void start(pthread_t *thread, void *(*body)(void *), int argument)
{
    int code = pthread_create(thread, NULL, body, (void *)(intptr_t)argument);
    check_value(code, 0, "error code of pthread_create");
}

int main(int argc, char **argv)
{
    pthread_t exchangers[THREADS_MAX], takers[TAKERS], giver, collector;

    check_begin(argc, argv, "threads", MPI_THREAD_MULTIPLE);
    threads = (int)check_option("threads", 4);
    iterations = (int)check_option("iterations", 400);
    size_max = (size_t)check_option("size_max", 128 << 10);
    check_that(threads >= 1 && threads <= THREADS_MAX, "threads=%d is not in 1..%d", threads, THREADS_MAX);
    taken = calloc((size_t)check_size * (size_t)iterations, sizeof *taken);
    check_that(taken != NULL, "calloc gave no memory");
    for (int i = 0; i < threads; i++)
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
    MPI_Comm_dup(MPI_COMM_WORLD, &collective_comm);
    MPI_Comm_dup(MPI_COMM_WORLD, &shared_comm);

    check_phase("threads run");
    for (int i = 0; i < TAKERS; i++)
        start(&takers[i], take, i);
    for (int i = 0; i < threads; i++)
        start(&exchangers[i], exchange, i);
    start(&giver, give, 0);
    start(&collector, collect, 0);
    for (int i = 0; i < threads; i++)
        pthread_join(exchangers[i], NULL);
    check_phase("sender of shared messages");
    pthread_join(giver, NULL);
    check_phase("thread with collectives");
    pthread_join(collector, NULL);
    check_phase("receivers of shared messages");
    while (atomic_load(&taken_count) < check_size * iterations)
        sleep_ms(1);
    for (int i = 0; i < TAKERS; i++)
        MPI_Send(NULL, 0, MPI_BYTE, check_rank, STOP_TAG, shared_comm);
    for (int i = 0; i < TAKERS; i++)
        pthread_join(takers[i], NULL);

    for (int i = 0; i < threads; i++)
        MPI_Comm_free(&comms[i]);
    MPI_Comm_free(&collective_comm);
    MPI_Comm_free(&shared_comm);
    free(taken);
    return check_end("threads=%d of each rank, exchanged by rank 0=%lld, shared=%d", threads + TAKERS + 2,
                     (long long)atomic_load(&received), atomic_load(&taken_count));
}
