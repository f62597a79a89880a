/*
 * Many outstanding non-blocking messages between all pairs, completed in random order.
 *
 * Each round posts `messages` receives from and sends to every other rank, each in its own random
 * order, with sizes that span the eager and rendezvous protocols, and completes them by one of
 * MPI_Wait in random order, Waitall, Waitany, Waitsome, Testsome, Testany, Testall. A second part
 * sends equal envelopes and checks that they are received in the order they were sent.
 *
 * Arguments: seed, rounds, messages, size_max
 */
#include "check.h"

#include <stdlib.h>

struct message {
    size_t bytes;
    uint64_t seed;
};

static long long received;

/* Both sides derive a message from its coordinates, so nothing is agreed on beforehand. */
static struct message message_at(uint64_t seed, int round, int from, int to, int index, size_t size_max)
{
    uint64_t state = seed_of(seed, (uint64_t)round, (uint64_t)(from * 1000 + to), (uint64_t)index);
    struct message message;

    message.seed = rng_next(&state);
    message.bytes = rng_size(&state, size_max);
    return message;
}

static void complete_by_index(MPI_Request *requests, int count, uint64_t *rng)
{
    int *order = check_malloc(sizeof(int) * (size_t)count);

    for (int i = 0; i < count; i++)
        order[i] = i;
    rng_shuffle(rng, order, count);
    for (int i = 0; i < count; i++)
        MPI_Wait(&requests[order[i]], MPI_STATUS_IGNORE);
    free(order);
}

static void complete_some(MPI_Request *requests, int count, int by_test)
{
    int *indices = check_malloc(sizeof(int) * (size_t)count);
    int done = 0, found;

    while (done < count) {
        if (by_test)
            MPI_Testsome(count, requests, &found, indices, MPI_STATUSES_IGNORE);
        else
            MPI_Waitsome(count, requests, &found, indices, MPI_STATUSES_IGNORE);
        check_that(found != MPI_UNDEFINED, "%d of %d requests completed, then no active one was left", done, count);
        done += found;
    }
    free(indices);
}

static void complete_any(MPI_Request *requests, int count, int by_test)
{
    for (int done = 0; done < count;) {
        int index, flag = 1;
        if (by_test)
            MPI_Testany(count, requests, &index, &flag, MPI_STATUS_IGNORE);
        else
            MPI_Waitany(count, requests, &index, MPI_STATUS_IGNORE);
        if (!flag)
            continue;
        check_that(index != MPI_UNDEFINED, "%d of %d requests completed, then no active one was left", done, count);
        done++;
    }
}

static const char *complete(MPI_Request *requests, int count, int way, uint64_t *rng)
{
    int flag = 0;

    switch (way % 7) {
    case 0:
        complete_by_index(requests, count, rng);
        return "MPI_Wait in random order";
    case 1:
        MPI_Waitall(count, requests, MPI_STATUSES_IGNORE);
        return "MPI_Waitall";
    case 2:
        complete_any(requests, count, 0);
        return "MPI_Waitany";
    case 3:
        complete_some(requests, count, 0);
        return "MPI_Waitsome";
    case 4:
        complete_some(requests, count, 1);
        return "MPI_Testsome";
    case 5:
        complete_any(requests, count, 1);
        return "MPI_Testany";
    default:
        while (!flag)
            MPI_Testall(count, requests, &flag, MPI_STATUSES_IGNORE);
        return "MPI_Testall";
    }
}

static void random_round(uint64_t seed, int round, int messages, size_t size_max)
{
    int count = messages * check_size, posted = 0;
    uint64_t rng = seed_of(seed, (uint64_t)round, (uint64_t)check_rank, 77);
    MPI_Request *requests = check_malloc(sizeof *requests * 2 * (size_t)count);
    unsigned char **in = check_malloc(sizeof *in * (size_t)count);
    unsigned char **out = check_malloc(sizeof *out * (size_t)count);
    int *order = check_malloc(sizeof(int) * (size_t)count);
    const char *way;

    for (int i = 0; i < count; i++)
        order[i] = i;
    rng_shuffle(&rng, order, count);
    for (int i = 0; i < count; i++) {
        int slot = order[i], from = slot / messages, index = slot % messages;
        struct message m = message_at(seed, round, from, check_rank, index, size_max);
        in[slot] = check_malloc(m.bytes);
        MPI_Irecv(in[slot], (int)m.bytes, MPI_BYTE, from, index, MPI_COMM_WORLD, &requests[posted++]);
    }
    rng_shuffle(&rng, order, count);
    for (int i = 0; i < count; i++) {
        int slot = order[i], to = slot / messages, index = slot % messages;
        struct message m = message_at(seed, round, check_rank, to, index, size_max);
        out[slot] = check_malloc(m.bytes);
        pattern_fill(out[slot], m.bytes, m.seed);
        MPI_Isend(out[slot], (int)m.bytes, MPI_BYTE, to, index, MPI_COMM_WORLD, &requests[posted++]);
    }
    check_phase("round %d, completing %d requests", round, posted);
    way = complete(requests, posted, round, &rng);
    for (int slot = 0; slot < count; slot++) {
        int from = slot / messages, index = slot % messages;
        struct message m = message_at(seed, round, from, check_rank, index, size_max);
        check_bytes(in[slot], m.bytes, m.seed, "round %d (%s), message %d of %zu bytes from rank %d", round, way,
                    index, m.bytes, from);
        received++;
        free(in[slot]);
        free(out[slot]);
    }
    free(order);
    free(out);
    free(in);
    free(requests);
}

/* Equal source, tag and communicator: MPI promises the order of sending, whatever the sizes. */
static void ordered_round(uint64_t seed, int messages, size_t size_max)
{
    int right = (check_rank + 1) % check_size, left = (check_rank + check_size - 1) % check_size;
    MPI_Request *requests = check_malloc(sizeof *requests * 2 * (size_t)messages);
    unsigned char **in = check_malloc(sizeof *in * (size_t)messages);
    unsigned char **out = check_malloc(sizeof *out * (size_t)messages);

    check_phase("equal envelopes in order");
    for (int i = 0; i < messages; i++) {
        struct message m = message_at(seed, -1, check_rank, right, i, size_max);
        out[i] = check_malloc(m.bytes);
        pattern_fill(out[i], m.bytes, m.seed);
        MPI_Isend(out[i], (int)m.bytes, MPI_BYTE, right, 5, MPI_COMM_WORLD, &requests[i]);
        /* Half of the receives are posted before their message can have arrived, half after. */
        if (i >= messages / 2) {
            int j = i - messages / 2;
            in[j] = check_malloc(size_max);
            MPI_Irecv(in[j], (int)size_max, MPI_BYTE, left, 5, MPI_COMM_WORLD, &requests[messages + j]);
        }
    }
    for (int j = messages - messages / 2; j < messages; j++) {
        in[j] = check_malloc(size_max);
        MPI_Irecv(in[j], (int)size_max, MPI_BYTE, left, 5, MPI_COMM_WORLD, &requests[messages + j]);
    }
    for (int j = 0; j < messages; j++) {
        struct message m = message_at(seed, -1, left, check_rank, j, size_max);
        MPI_Status status;
        MPI_Wait(&requests[messages + j], &status);
        check_status(&status, left, 5, m.bytes);
        check_bytes(in[j], m.bytes, m.seed, "message %d of equal envelopes, %zu bytes from rank %d", j, m.bytes,
                    left);
        received++;
        free(in[j]);
    }
    MPI_Waitall(messages, requests, MPI_STATUSES_IGNORE);
    for (int i = 0; i < messages; i++)
        free(out[i]);
    free(out);
    free(in);
    free(requests);
}

int main(int argc, char **argv)
{
    uint64_t seed;
    int rounds, messages;
    size_t size_max;

    check_begin(argc, argv, "p2p_outstanding", MPI_THREAD_SINGLE);
    seed = (uint64_t)check_option("seed", 1);
    rounds = (int)check_option("rounds", 14);
    messages = (int)check_option("messages", 200);
    size_max = (size_t)check_option("size_max", 256 << 10);
    for (int round = 0; round < rounds; round++)
        random_round(seed, round, messages, size_max);
    ordered_round(seed, messages * 2, size_max);
    return check_end("seed=%llu rounds=%d, messages received by rank 0=%lld", (unsigned long long)seed, rounds,
                     received);
}
