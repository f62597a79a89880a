/*
 * Matching: wildcards, probes, matched probes, cancel, truncation, MPI_PROC_NULL.
 *
 * Rank 0 receives from all the others. Per-source order is checked under every wildcard.
 * Arguments: messages (of each sender and part)
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES_MAX = 20000, TAG_COUNT = 5, GO_TAG = 99 };

enum how { RECV_ANY, RECV_ANY_SOURCE, RECV_ANY_TAG, IRECV_ANY, PROBE, IPROBE, MPROBE, IMPROBE, HOWS };

static const char *const how_names[HOWS] = {
    "MPI_Recv any source, any tag", "MPI_Recv any source", "MPI_Recv any tag", "MPI_Irecv any source, any tag",
    "MPI_Probe", "MPI_Iprobe", "MPI_Mprobe", "MPI_Improbe"};

static long long received;

static int tag_of(int from, int index)
{
    uint64_t state = seed_of(1, (uint64_t)from, (uint64_t)index, 0);
    return (int)rng_below(&state, TAG_COUNT);
}

static size_t length_of(int from, int index)
{
    uint64_t state = seed_of(2, (uint64_t)from, (uint64_t)index, 0);
    return rng_size(&state, BYTES_MAX);
}

static void send_part(int part, int messages)
{
    MPI_Request *requests = check_malloc(sizeof *requests * (size_t)messages);
    unsigned char *memory = check_malloc((size_t)messages * BYTES_MAX);

    /* All outstanding: rank 0 asks for tags in an order of its own. */
    for (int i = 0; i < messages; i++) {
        unsigned char *out = memory + (size_t)i * BYTES_MAX;
        size_t bytes = length_of(check_rank, i);
        pattern_fill(out, bytes, seed_of(3, (uint64_t)part, (uint64_t)check_rank, (uint64_t)i));
        MPI_Isend(out, (int)bytes, MPI_BYTE, 0, tag_of(check_rank, i), MPI_COMM_WORLD, &requests[i]);
    }
    MPI_Waitall(messages, requests, MPI_STATUSES_IGNORE);
    free(memory);
    free(requests);
}

/* next[source][tag] is the first message index of this tag not yet received from this source. */
static int take_next(int *next, int source, int tag, int messages)
{
    int *at = &next[source * TAG_COUNT + tag];
    int index;

    while (*at < messages && tag_of(source, *at) != tag)
        (*at)++;
    index = (*at)++;
    check_that(index < messages, "rank %d sent more messages with tag %d than it has", source, tag);
    return index;
}

static void check_message(int part, int *next, const unsigned char *in, MPI_Status *status, int messages)
{
    int source = status->MPI_SOURCE, tag = status->MPI_TAG;

    check_that(source > 0 && source < check_size, "status names source %d of %d ranks", source, check_size);
    check_that(tag >= 0 && tag < TAG_COUNT, "status names tag %d, nobody sent it", tag);
    int index = take_next(next, source, tag, messages);
    size_t bytes = length_of(source, index);
    check_status(status, source, tag, bytes);
    check_bytes(in, bytes, seed_of(3, (uint64_t)part, (uint64_t)source, (uint64_t)index),
                "%s, message %d (tag %d, %zu bytes) from rank %d", how_names[part], index, tag, bytes, source);
    received++;
}

/* A receive from a known source takes its messages in turn, whatever else has arrived. */
static void receive_one(enum how how, int turn, unsigned char *in, MPI_Status *status)
{
    int source = 1 + turn % (check_size - 1), index = turn / (check_size - 1), flag = 0, count;
    MPI_Message message;
    MPI_Status probed;

    switch (how) {
    case RECV_ANY_SOURCE:
        /* Of a tag that is known to come: the turn's own. */
        MPI_Recv(in, BYTES_MAX, MPI_BYTE, MPI_ANY_SOURCE, tag_of(source, index), MPI_COMM_WORLD, status);
        return;
    case RECV_ANY_TAG:
        MPI_Recv(in, BYTES_MAX, MPI_BYTE, source, MPI_ANY_TAG, MPI_COMM_WORLD, status);
        return;
    case PROBE:
        MPI_Probe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &probed);
        break;
    case IPROBE:
        while (!flag)
            MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, &probed);
        break;
    case MPROBE:
        MPI_Mprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &message, &probed);
        break;
    case IMPROBE:
        while (!flag)
            MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, &message, &probed);
        break;
    default:
        MPI_Recv(in, BYTES_MAX, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, status);
        return;
    }
    /* After a probe the receive names exactly what was seen, with exactly that length. */
    MPI_Get_count(&probed, MPI_BYTE, &count);
    if (how == MPROBE || how == IMPROBE)
        MPI_Mrecv(in, count, MPI_BYTE, &message, status);
    else
        MPI_Recv(in, count, MPI_BYTE, probed.MPI_SOURCE, probed.MPI_TAG, MPI_COMM_WORLD, status);
    check_status(status, probed.MPI_SOURCE, probed.MPI_TAG, (size_t)count);
}

static void receive_part(int part, int messages)
{
    int total = messages * (check_size - 1);
    int *next = calloc((size_t)check_size * TAG_COUNT, sizeof(int));
    MPI_Status status;

    check_that(next != NULL, "calloc gave no memory");
    if (part == IRECV_ANY) {
        MPI_Request *requests = check_malloc(sizeof *requests * (size_t)total);
        unsigned char *in = check_malloc((size_t)total * BYTES_MAX);
        for (int i = 0; i < total; i++)
            MPI_Irecv(in + (size_t)i * BYTES_MAX, BYTES_MAX, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD,
                      &requests[i]);
        for (int i = 0; i < total; i++) {
            MPI_Wait(&requests[i], &status);
            check_message(part, next, in + (size_t)i * BYTES_MAX, &status, messages);
        }
        free(in);
        free(requests);
    } else {
        unsigned char *in = check_malloc(BYTES_MAX);
        for (int turn = 0; turn < total; turn++) {
            receive_one((enum how)part, turn, in, &status);
            check_message(part, next, in, &status, messages);
        }
        free(in);
    }
    free(next);
}

/* A cancelled receive takes no message and leaves its buffer alone; a matched one cannot be cancelled. */
static void cancel_receive(int peer)
{
    for (int i = 0; i < 50; i++) {
        struct guarded in = guarded_new(64, 0);
        MPI_Request request;
        MPI_Status status;
        int cancelled = 0;

        MPI_Irecv(in.data, 64, MPI_BYTE, peer, i, MPI_COMM_WORLD, &request);
        MPI_Cancel(&request);
        MPI_Wait(&request, &status);
        MPI_Test_cancelled(&status, &cancelled);
        check_value(cancelled, 1, "cancel of an unmatched receive, round %d", i);
        MPI_Sendrecv(NULL, 0, MPI_BYTE, peer, GO_TAG, NULL, 0, MPI_BYTE, peer, GO_TAG, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
        for (int b = 0; b < 64; b++)
            check_value(in.data[b], 0, "byte %d of a cancelled receive's buffer", b);

        unsigned char out[64];
        pattern_fill(out, 64, seed_of(9, (uint64_t)check_rank, (uint64_t)i, 0));
        MPI_Irecv(in.data, 64, MPI_BYTE, peer, i, MPI_COMM_WORLD, &request);
        MPI_Send(out, 64, MPI_BYTE, peer, i, MPI_COMM_WORLD);
        MPI_Sendrecv(NULL, 0, MPI_BYTE, peer, GO_TAG, NULL, 0, MPI_BYTE, peer, GO_TAG, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
        MPI_Cancel(&request);
        MPI_Wait(&request, &status);
        MPI_Test_cancelled(&status, &cancelled);
        check_value(cancelled, 0, "cancel of a matched receive, round %d", i);
        check_bytes(in.data, 64, seed_of(9, (uint64_t)peer, (uint64_t)i, 0), "receive after a cancelled one");
        guarded_check(&in, "receive after a cancelled one");
        guarded_free(&in);
    }
}

/* Either outcome of cancelling a send is legal; delivering it and saying it was cancelled is not. */
static void cancel_send(int peer, size_t bytes)
{
    unsigned char *out = check_malloc(bytes), *in = check_malloc(bytes);
    MPI_Request request;
    MPI_Status status;
    int mine = 0, theirs = 0, flag = 0;

    pattern_fill(out, bytes, seed_of(10, (uint64_t)check_rank, bytes, 0));
    MPI_Isend(out, (int)bytes, MPI_BYTE, peer, 50, MPI_COMM_WORLD, &request);
    MPI_Cancel(&request);
    MPI_Test(&request, &flag, &status);
    if (flag)
        MPI_Test_cancelled(&status, &mine);
    /* A send that has not been cancelled by now needs its receive to complete. */
    MPI_Sendrecv(&mine, 1, MPI_INT, peer, 51, &theirs, 1, MPI_INT, peer, 51, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (!theirs) {
        MPI_Recv(in, (int)bytes, MPI_BYTE, peer, 50, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        check_bytes(in, bytes, seed_of(10, (uint64_t)peer, bytes, 0), "send that could not be cancelled");
    }
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    free(in);
    free(out);
}

/* Too long a message is an error of that receive alone: no byte past its buffer, the next one is whole. */
static void truncation(int peer, size_t sent, size_t room)
{
    unsigned char *out = check_malloc(sent);
    struct guarded in = guarded_new(room, 0), after = guarded_new(sent, 0);
    MPI_Request request[2];
    int class = MPI_SUCCESS, code;

    pattern_fill(out, sent, seed_of(11, (uint64_t)check_rank, sent, 0));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Isend(out, (int)sent, MPI_BYTE, peer, 60, MPI_COMM_WORLD, &request[0]);
    MPI_Isend(out, (int)sent, MPI_BYTE, peer, 60, MPI_COMM_WORLD, &request[1]);
    code = MPI_Recv(in.data, (int)room, MPI_BYTE, peer, 60, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Error_class(code, &class);
    check_value(class, MPI_ERR_TRUNCATE, "error class of receiving %zu bytes into %zu", sent, room);
    guarded_check(&in, "truncated receive");
    MPI_Recv(after.data, (int)sent, MPI_BYTE, peer, 60, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    check_bytes(after.data, sent, seed_of(11, (uint64_t)peer, sent, 0), "receive after a truncated one");
    MPI_Waitall(2, request, MPI_STATUSES_IGNORE);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
    guarded_free(&in);
    guarded_free(&after);
    free(out);
}

static void proc_null(void)
{
    unsigned char byte = 17;
    MPI_Status status;

    MPI_Send(&byte, 1, MPI_BYTE, MPI_PROC_NULL, 0, MPI_COMM_WORLD);
    MPI_Recv(&byte, 1, MPI_BYTE, MPI_PROC_NULL, 0, MPI_COMM_WORLD, &status);
    check_value(byte, 17, "byte received from MPI_PROC_NULL");
    check_value(status.MPI_SOURCE, MPI_PROC_NULL, "source of a receive from MPI_PROC_NULL");
}

int main(int argc, char **argv)
{
    int messages;

    check_begin(argc, argv, "matching", MPI_THREAD_SINGLE);
    check_that(check_size >= 2, "needs 2 ranks or more, got %d", check_size);
    messages = (int)check_option("messages", 300);
    for (int part = 0; part < HOWS; part++) {
        check_phase("%s", how_names[part]);
        if (check_rank == 0)
            receive_part(part, messages);
        else
            send_part(part, messages);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    if (check_rank < (check_size & ~1)) {
        check_phase("cancel");
        cancel_receive(check_rank ^ 1);
        for (size_t bytes = 1; bytes <= 1 << 20; bytes *= 32)
            cancel_send(check_rank ^ 1, bytes);
        check_phase("truncation");
        truncation(check_rank ^ 1, 100, 10);
        truncation(check_rank ^ 1, 3000, 0);
        /*
         * Only eager lengths: for a truncated rendezvous ob1 itself writes past the buffer over a BTL
         * with put (Open MPI 4.1.4; tcp shows it).
         */
    }
    proc_null();
    return check_end("messages=%d of each sender and part, received by rank 0=%lld", messages, received);
}
