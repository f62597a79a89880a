/*
 * Random all-to-all traffic, messages to oneself included, from one seed.
 *
 * Every rank derives the whole plan from the seed, so a failure is repeated by the same arguments.
 * A round is received either by posted receives or by matched probes with wildcards, and sent by a
 * random mix of MPI_Isend and MPI_Issend.
 *
 * Arguments: seed, rounds, messages (of each rank and round), size_max
 */
#include "check.h"

#include <stdlib.h>

struct plan {
    int from, to;
    size_t bytes;
    uint64_t seed;
};

static long long received;

static struct plan *plan_round(uint64_t seed, int round, int count, size_t size_max)
{
    struct plan *plan = check_malloc(sizeof *plan * (size_t)count);
    uint64_t rng = seed_of(seed, (uint64_t)round, 12, 34);

    for (int i = 0; i < count; i++) {
        plan[i].from = (int)rng_below(&rng, (uint64_t)check_size);
        plan[i].to = (int)rng_below(&rng, (uint64_t)check_size);
        plan[i].bytes = rng_size(&rng, size_max);
        plan[i].seed = rng_next(&rng);
    }
    return plan;
}

static void check_one(const struct plan *plan, int index, const unsigned char *in, int round, const char *how)
{
    check_bytes(in, plan->bytes, plan->seed, "round %d (%s), message %d of %zu bytes from rank %d", round, how, index,
                plan->bytes, plan->from);
    received++;
}

static int post_sends(const struct plan *plan, int count, const int *order, unsigned char **out,
                      MPI_Request *requests, uint64_t *rng)
{
    int posted = 0;

    for (int i = 0; i < count; i++) {
        const struct plan *m = &plan[order[i]];
        if (m->from != check_rank)
            continue;
        out[posted] = check_malloc(m->bytes);
        pattern_fill(out[posted], m->bytes, m->seed);
        if (rng_below(rng, 8) == 0)
            MPI_Issend(out[posted], (int)m->bytes, MPI_BYTE, m->to, order[i], MPI_COMM_WORLD, &requests[posted]);
        else
            MPI_Isend(out[posted], (int)m->bytes, MPI_BYTE, m->to, order[i], MPI_COMM_WORLD, &requests[posted]);
        posted++;
    }
    return posted;
}

static int post_receives(const struct plan *plan, int count, const int *order, unsigned char **in,
                         MPI_Request *requests)
{
    int posted = 0;

    for (int i = 0; i < count; i++) {
        const struct plan *m = &plan[order[i]];
        if (m->to != check_rank)
            continue;
        in[order[i]] = check_malloc(m->bytes);
        MPI_Irecv(in[order[i]], (int)m->bytes, MPI_BYTE, m->from, order[i], MPI_COMM_WORLD, &requests[posted++]);
    }
    return posted;
}

static void receive_by_probe(const struct plan *plan, int count, int round)
{
    int expected = 0;

    for (int i = 0; i < count; i++)
        expected += plan[i].to == check_rank;
    while (expected-- > 0) {
        MPI_Message message;
        MPI_Status status;
        int bytes;

        MPI_Mprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &message, &status);
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        check_that(status.MPI_TAG >= 0 && status.MPI_TAG < count, "round %d: tag %d is in no plan", round,
                   status.MPI_TAG);
        const struct plan *m = &plan[status.MPI_TAG];
        check_that(m->to == check_rank && m->from == status.MPI_SOURCE,
                   "round %d: message %d goes from rank %d to %d, but came from %d", round, status.MPI_TAG, m->from,
                   m->to, status.MPI_SOURCE);
        check_value(bytes, (long long)m->bytes, "round %d: probed length of message %d", round, status.MPI_TAG);
        unsigned char *in = check_malloc((size_t)bytes);
        MPI_Mrecv(in, bytes, MPI_BYTE, &message, &status);
        check_one(m, status.MPI_TAG, in, round, "matched probe");
        free(in);
    }
}

static void run_round(uint64_t seed, int round, int count, size_t size_max)
{
    struct plan *plan = plan_round(seed, round, count, size_max);
    uint64_t rng = seed_of(seed, (uint64_t)round, (uint64_t)check_rank, 56);
    MPI_Request *sends = check_malloc(sizeof *sends * (size_t)count);
    MPI_Request *receives = check_malloc(sizeof *receives * (size_t)count);
    unsigned char **in = calloc((size_t)count, sizeof *in), **out = calloc((size_t)count, sizeof *out);
    int *order = check_malloc(sizeof(int) * (size_t)count), posted = 0, sent;

    check_that(in && out, "no memory for a plan of %d messages", count);
    for (int i = 0; i < count; i++)
        order[i] = i;
    rng_shuffle(&rng, order, count);
    check_phase("round %d", round);
    if (round % 2 == 0)
        posted = post_receives(plan, count, order, in, receives);
    rng_shuffle(&rng, order, count);
    sent = post_sends(plan, count, order, out, sends, &rng);
    if (round % 2 == 0) {
        MPI_Waitall(posted, receives, MPI_STATUSES_IGNORE);
        for (int i = 0; i < count; i++)
            if (in[i] != NULL)
                check_one(&plan[i], i, in[i], round, "posted receive");
    } else {
        receive_by_probe(plan, count, round);
    }
    MPI_Waitall(sent, sends, MPI_STATUSES_IGNORE);
    /* Wildcard receives of this round must not see the next one's messages. */
    if (round % 2 != 0)
        MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; i < count; i++) {
        free(in[i]);
        free(out[i]);
    }
    free(order);
    free(out);
    free(in);
    free(receives);
    free(sends);
    free(plan);
}

int main(int argc, char **argv)
{
    uint64_t seed;
    int rounds, messages;
    size_t size_max;
    long long all = 0;

    check_begin(argc, argv, "traffic", MPI_THREAD_SINGLE);
    seed = (uint64_t)check_option("seed", 1);
    rounds = (int)check_option("rounds", 20);
    messages = (int)check_option("messages", 100);
    size_max = (size_t)check_option("size_max", 128 << 10);
    for (int round = 0; round < rounds; round++) {
        run_round(seed, round, messages * check_size, size_max);
        /* A posted round next to a probed one: separate them as well. */
        MPI_Barrier(MPI_COMM_WORLD);
    }
    MPI_Reduce(&received, &all, 1, MPI_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (check_rank == 0)
        check_value(all, (long long)rounds * messages * check_size, "messages received by all ranks");
    return check_end("seed=%llu rounds=%d messages=%lld", (unsigned long long)seed, rounds, all);
}
