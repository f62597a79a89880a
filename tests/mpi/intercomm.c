/*
 * Intercommunicators made of parts of the world: creation, duplication, point-to-point between all
 * pairs both ways (also by wildcard), collectives with MPI_ROOT, merge in both orders, and groups of
 * communicators made and freed in large numbers.
 *
 * Arguments: rounds
 */
#include "check.h"

#include <stdlib.h>

enum { TAG = 70, BRIDGE_TAG = 71, BYTES_MAX = 200000 };

static size_t length_of(int side, int from, int to)
{
    uint64_t state = seed_of(80, (uint64_t)side, (uint64_t)from, (uint64_t)to);
    return rng_size(&state, BYTES_MAX);
}

static uint64_t content_of(int side, int from, int to)
{
    return seed_of(81, (uint64_t)side, (uint64_t)from, (uint64_t)to);
}

static void point_to_point(MPI_Comm inter, int side, int wildcard)
{
    int rank, remote;

    MPI_Comm_rank(inter, &rank);
    MPI_Comm_remote_size(inter, &remote);
    MPI_Request *requests = check_malloc(sizeof *requests * (size_t)remote);
    unsigned char *out = check_malloc((size_t)remote * BYTES_MAX), *in = check_malloc(BYTES_MAX);
    for (int peer = 0; peer < remote; peer++) {
        unsigned char *at = out + (size_t)peer * BYTES_MAX;
        size_t bytes = length_of(side, rank, peer);
        pattern_fill(at, bytes, content_of(side, rank, peer));
        MPI_Isend(at, (int)bytes, MPI_BYTE, peer, TAG, inter, &requests[peer]);
    }
    for (int turn = 0; turn < remote; turn++) {
        MPI_Status status;
        MPI_Recv(in, BYTES_MAX, MPI_BYTE, wildcard ? MPI_ANY_SOURCE : turn, TAG, inter, &status);
        int from = status.MPI_SOURCE;
        size_t bytes = length_of(!side, from, rank);
        check_status(&status, from, TAG, bytes);
        check_bytes(in, bytes, content_of(!side, from, rank), "%zu bytes from remote rank %d", bytes, from);
    }
    MPI_Waitall(remote, requests, MPI_STATUSES_IGNORE);
    free(in);
    free(out);
    free(requests);
}

static void collectives(MPI_Comm inter, int side)
{
    int rank, size, remote;

    MPI_Comm_rank(inter, &rank);
    MPI_Comm_size(inter, &size);
    MPI_Comm_remote_size(inter, &remote);
    check_phase("collectives on an intercommunicator");
    MPI_Barrier(inter);
    for (int root_side = 0; root_side < 2; root_side++) {
        int word = 0, root = rank == 0 ? MPI_ROOT : MPI_PROC_NULL;
        if (root_side == side && rank == 0)
            word = 4711 + side;
        MPI_Bcast(&word, 1, MPI_INT, root_side == side ? root : 0, inter);
        if (root_side != side)
            check_value(word, 4711 + root_side, "bcast from the other group");
    }
    int mine = rank + 1, theirs = 0;
    MPI_Allreduce(&mine, &theirs, 1, MPI_INT, MPI_SUM, inter);
    check_value(theirs, remote * (remote + 1) / 2, "allreduce of the other group");
    int *all = check_malloc(sizeof(int) * (size_t)remote);
    mine = 1000 * side + rank;
    MPI_Allgather(&mine, 1, MPI_INT, all, 1, MPI_INT, inter);
    for (int i = 0; i < remote; i++)
        check_value(all[i], 1000 * !side + i, "allgather of the other group, element %d", i);
    free(all);
}

static void merge(MPI_Comm inter, int side, int first_side)
{
    int rank, size, remote, merged_rank, merged_size, sum;
    MPI_Comm merged;

    MPI_Comm_rank(inter, &rank);
    MPI_Comm_size(inter, &size);
    MPI_Comm_remote_size(inter, &remote);
    MPI_Intercomm_merge(inter, side != first_side, &merged);
    MPI_Comm_rank(merged, &merged_rank);
    MPI_Comm_size(merged, &merged_size);
    check_value(merged_size, size + remote, "size of the merged communicator");
    check_value(merged_rank, side == first_side ? rank : remote + rank, "rank in the merged communicator");
    MPI_Allreduce(&merged_rank, &sum, 1, MPI_INT, MPI_SUM, merged);
    check_value(sum, merged_size * (merged_size - 1) / 2, "sum of the merged ranks");
    MPI_Comm_free(&merged);
}

int main(int argc, char **argv)
{
    int rounds;

    check_begin(argc, argv, "intercomm", MPI_THREAD_SINGLE);
    check_that(check_size >= 2, "needs 2 ranks or more, got %d", check_size);
    rounds = (int)check_option("rounds", 10);
    for (int round = 0; round < rounds; round++) {
        /* The cut moves, so the groups differ in size. */
        int cut = 1 + round % (check_size - 1), side = check_rank >= cut;
        MPI_Comm half, inter, copy;

        check_phase("round %d: cut at rank %d", round, cut);
        MPI_Comm_split(MPI_COMM_WORLD, side, check_rank, &half);
        MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, side ? 0 : cut, BRIDGE_TAG, &inter);
        point_to_point(inter, side, 0);
        MPI_Comm_dup(inter, &copy);
        point_to_point(copy, side, 1);
        collectives(copy, side);
        merge(inter, side, 0);
        merge(inter, side, 1);
        MPI_Comm_disconnect(&copy);
        MPI_Comm_free(&inter);
        MPI_Comm_free(&half);
    }
    return check_end("rounds=%d", rounds);
}
