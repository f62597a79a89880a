/*
 * Every send mode at 0 bytes and around every power of two up to size_max (default 16 MiB):
 * 2^k - 1, 2^k, 2^k + 1. Every byte is checked, and so are status, guard zones around each receive
 * buffer, and that a synchronous send does not complete before its receive is posted.
 *
 * Needs an even number of ranks; rank r exchanges with r ^ 1.  Arguments: size_max
 */
#include "check.h"

#include <stdlib.h>

enum { DATA_TAG = 7, TOKEN_TAG = 8, SIZES_MAX = 128 };

enum mode { SEND, SEND_PREPOSTED, SSEND, BSEND, RSEND, ISEND_UNEXPECTED, ISSEND, IBSEND, IRSEND, PERSISTENT, MODES };

static const char *const mode_names[MODES] = {
    "MPI_Send", "MPI_Send to a posted receive", "MPI_Ssend", "MPI_Bsend", "MPI_Rsend",
    "MPI_Isend, unexpected", "MPI_Issend", "MPI_Ibsend", "MPI_Irsend", "MPI_Send_init"};

static long long messages;

static void token_send(int peer)
{
    MPI_Send(NULL, 0, MPI_BYTE, peer, TOKEN_TAG, MPI_COMM_WORLD);
}

static void token_receive(int peer)
{
    MPI_Recv(NULL, 0, MPI_BYTE, peer, TOKEN_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

static void send_synchronous(const void *data, int bytes, int peer)
{
    MPI_Request request;
    int done = 0;

    MPI_Issend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
    for (int i = 0; i < 20; i++) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        check_that(!done, "MPI_Issend of %d bytes completed before its receive was posted", bytes);
    }
    token_send(peer);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
}

static void send_one(enum mode mode, const void *data, int bytes, int peer)
{
    MPI_Request request = MPI_REQUEST_NULL;

    switch (mode) {
    case SEND:
        MPI_Send(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD);
        break;
    case SEND_PREPOSTED:
        token_receive(peer);
        MPI_Send(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD);
        break;
    case SSEND:
        MPI_Ssend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD);
        break;
    case BSEND:
        MPI_Bsend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD);
        break;
    case RSEND:
        token_receive(peer);
        MPI_Rsend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD);
        break;
    case ISEND_UNEXPECTED:
        MPI_Isend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
        token_send(peer);
        break;
    case ISSEND:
        send_synchronous(data, bytes, peer);
        break;
    case IBSEND:
        MPI_Ibsend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
        break;
    case IRSEND:
        token_receive(peer);
        MPI_Irsend(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
        break;
    case PERSISTENT:
        MPI_Send_init(data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
        for (int i = 0; i < 2; i++) {
            MPI_Start(&request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        }
        MPI_Request_free(&request);
        break;
    case MODES:
        break;
    }
    if (request != MPI_REQUEST_NULL)
        MPI_Wait(&request, MPI_STATUS_IGNORE);
}

static void check_received(const struct guarded *in, MPI_Status *status, enum mode mode, int bytes, int peer,
                           uint64_t seed)
{
    check_status(status, peer, DATA_TAG, (size_t)bytes);
    check_bytes(in->data, (size_t)bytes, seed, "%s, %d bytes from rank %d", mode_names[mode], bytes, peer);
    guarded_check(in, mode_names[mode]);
    messages++;
}

static void receive_one(enum mode mode, int bytes, int peer, uint64_t seed, size_t misalign)
{
    struct guarded in = guarded_new((size_t)bytes, misalign);
    MPI_Request request;
    MPI_Status status;

    switch (mode) {
    case SEND_PREPOSTED:
    case RSEND:
    case IRSEND:
        MPI_Irecv(in.data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
        token_send(peer);
        MPI_Wait(&request, &status);
        break;
    case ISEND_UNEXPECTED:
    case ISSEND:
        token_receive(peer);
        MPI_Recv(in.data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &status);
        break;
    case PERSISTENT:
        MPI_Recv_init(in.data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &request);
        MPI_Start(&request);
        MPI_Wait(&request, &status);
        check_received(&in, &status, mode, bytes, peer, seed);
        pattern_fill(in.data, (size_t)bytes, ~seed);
        MPI_Start(&request);
        MPI_Wait(&request, &status);
        MPI_Request_free(&request);
        break;
    default:
        MPI_Recv(in.data, bytes, MPI_BYTE, peer, DATA_TAG, MPI_COMM_WORLD, &status);
        break;
    }
    check_received(&in, &status, mode, bytes, peer, seed);
    guarded_free(&in);
}

/* Both directions at once. */
static void exchange(int bytes, int peer, size_t misalign)
{
    uint64_t mine = seed_of(100, (uint64_t)check_rank, (uint64_t)bytes, 0);
    uint64_t theirs = seed_of(100, (uint64_t)peer, (uint64_t)bytes, 0);
    unsigned char *out = check_malloc((size_t)bytes);
    struct guarded in = guarded_new((size_t)bytes, misalign);
    MPI_Status status;

    pattern_fill(out, (size_t)bytes, mine);
    MPI_Sendrecv(out, bytes, MPI_BYTE, peer, DATA_TAG, in.data, bytes, MPI_BYTE, peer, DATA_TAG,
                 MPI_COMM_WORLD, &status);
    check_status(&status, peer, DATA_TAG, (size_t)bytes);
    check_bytes(in.data, (size_t)bytes, theirs, "MPI_Sendrecv, %d bytes from rank %d", bytes, peer);
    MPI_Sendrecv_replace(in.data, bytes, MPI_BYTE, peer, DATA_TAG, peer, DATA_TAG, MPI_COMM_WORLD, &status);
    check_bytes(in.data, (size_t)bytes, mine, "MPI_Sendrecv_replace, %d bytes from rank %d", bytes, peer);
    guarded_check(&in, "MPI_Sendrecv");
    guarded_free(&in);
    free(out);
    messages += 2;
}

static int list_sizes(int *sizes, long long size_max)
{
    int count = 0;

    sizes[count++] = 0;
    for (long long power = 1; power <= size_max; power *= 2)
        for (long long size = power - 1; size <= power + 1; size++)
            if (size > sizes[count - 1])
                sizes[count++] = (int)size;
    return count;
}

int main(int argc, char **argv)
{
    int sizes[SIZES_MAX], count, peer, attached_bytes;
    void *attached;
    long long size_max;

    check_begin(argc, argv, "p2p_sizes", MPI_THREAD_SINGLE);
    check_that(check_size % 2 == 0, "needs an even number of ranks, got %d", check_size);
    size_max = check_option("size_max", 16 << 20);
    count = list_sizes(sizes, size_max);
    peer = check_rank ^ 1;
    attached_bytes = sizes[count - 1] + MPI_BSEND_OVERHEAD + 4096;
    MPI_Buffer_attach(check_malloc((size_t)attached_bytes), attached_bytes);

    for (int i = 0; i < count; i++) {
        int bytes = sizes[i];
        size_t misalign = (size_t)i % 9;
        unsigned char *out = check_malloc((size_t)bytes + misalign);
        for (int mode = 0; mode < MODES; mode++) {
            /* Every mode in both directions for what is cheap, in one of them for what is not. */
            int directions = bytes <= (1 << 20) ? 2 : 1;
            for (int d = 0; d < directions; d++) {
                uint64_t seed = seed_of((uint64_t)(check_rank & ~1), (uint64_t)bytes, (uint64_t)mode, (uint64_t)d);
                check_phase("%s, %d bytes, direction %d", mode_names[mode], bytes, d);
                if (((i + mode + d) & 1) == (check_rank & 1)) {
                    pattern_fill(out + misalign, (size_t)bytes, seed);
                    send_one((enum mode)mode, out + misalign, bytes, peer);
                } else {
                    receive_one((enum mode)mode, bytes, peer, seed, misalign);
                }
            }
        }
        exchange(bytes, peer, misalign);
        free(out);
    }
    MPI_Buffer_detach(&attached, &attached_bytes);
    free(attached);
    return check_end("sizes=%d up to %d bytes, modes=%d, messages received by rank 0=%lld", count,
                     sizes[count - 1], MODES + 2, messages);
}
