/*
 * MPI_Comm_spawn: children exchange data with their parents, among themselves, and, after a merge,
 * in one communicator with the parents. Done `rounds` times: endpoints come and go.
 *
 * Arguments: children, rounds
 */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG = 40, SIZES = 5 };

static const int sizes[SIZES] = {0, 1, 1000, 65537, 1 << 20};

/* The same on both sides of an intercommunicator; `side` tells the two directions apart. */
static uint64_t content(int side, int from, int to, int bytes)
{
    return seed_of((uint64_t)side, (uint64_t)from, (uint64_t)to, (uint64_t)bytes);
}

/* Everybody here with everybody there, both ways. */
static void exchange_across(MPI_Comm inter, int rank, int remote_size, int side)
{
    MPI_Request *requests = check_malloc(sizeof *requests * 2 * (size_t)remote_size);

    for (int s = 0; s < SIZES; s++) {
        int bytes = sizes[s];
        unsigned char *out = check_malloc((size_t)bytes * (size_t)remote_size);
        unsigned char *in = check_malloc((size_t)bytes * (size_t)remote_size);
        check_phase("%s: %d bytes across the intercommunicator", side ? "child" : "parent", bytes);
        for (int peer = 0; peer < remote_size; peer++) {
            size_t at = (size_t)peer * (size_t)bytes;
            pattern_fill(out + at, (size_t)bytes, content(side, rank, peer, bytes));
            MPI_Irecv(in + at, bytes, MPI_BYTE, peer, TAG, inter, &requests[2 * peer]);
            MPI_Isend(out + at, bytes, MPI_BYTE, peer, TAG, inter, &requests[2 * peer + 1]);
        }
        MPI_Waitall(2 * remote_size, requests, MPI_STATUSES_IGNORE);
        for (int peer = 0; peer < remote_size; peer++)
            check_bytes(in + (size_t)peer * (size_t)bytes, (size_t)bytes, content(!side, peer, rank, bytes),
                        "%s %d, %d bytes from remote rank %d", side ? "child" : "parent", rank, bytes, peer);
        free(in);
        free(out);
    }
    free(requests);
}

/* A ring inside one communicator, and a sum over it. */
static void exchange_within(MPI_Comm comm, const char *name)
{
    int rank, size, sum = -1;

    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    int right = (rank + 1) % size, left = (rank + size - 1) % size;
    for (int s = 0; s < SIZES; s++) {
        unsigned char *out = check_malloc((size_t)sizes[s]), *in = check_malloc((size_t)sizes[s]);
        check_phase("%s: %d bytes around a ring of %d", name, sizes[s], size);
        pattern_fill(out, (size_t)sizes[s], content(2, rank, right, sizes[s]));
        MPI_Sendrecv(out, sizes[s], MPI_BYTE, right, TAG, in, sizes[s], MPI_BYTE, left, TAG, comm,
                     MPI_STATUS_IGNORE);
        check_bytes(in, (size_t)sizes[s], content(2, left, rank, sizes[s]), "%s, %d bytes from rank %d", name,
                    sizes[s], left);
        free(in);
        free(out);
    }
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, comm);
    check_value(sum, size * (size - 1) / 2, "%s: sum of ranks", name);
}

static void both_sides(MPI_Comm inter, int side)
{
    int rank, remote_size;
    MPI_Comm merged;

    MPI_Comm_rank(inter, &rank);
    MPI_Comm_remote_size(inter, &remote_size);
    exchange_across(inter, rank, remote_size, side);
    check_phase("merge");
    MPI_Intercomm_merge(inter, side, &merged);
    exchange_within(merged, "merged communicator");
    MPI_Comm_free(&merged);
    check_phase("disconnect");
    MPI_Comm_disconnect(&inter);
}

int main(int argc, char **argv)
{
    MPI_Comm parent;
    int children, rounds;

    check_begin(argc, argv, "spawn", MPI_THREAD_SINGLE);
    children = (int)check_option("children", 2);
    rounds = (int)check_option("rounds", 2);
    MPI_Comm_get_parent(&parent);
    if (parent != MPI_COMM_NULL) {
        exchange_within(MPI_COMM_WORLD, "children");
        both_sides(parent, 1);
        MPI_Finalize();
        return 0;
    }
    for (int round = 0; round < rounds; round++) {
        MPI_Comm inter;
        int *codes = check_malloc(sizeof(int) * (size_t)children);
        check_phase("MPI_Comm_spawn number %d", round);
        MPI_Comm_spawn(argv[0], MPI_ARGV_NULL, children, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &inter, codes);
        for (int i = 0; i < children; i++)
            check_value(codes[i], MPI_SUCCESS, "error code of child %d in round %d", i, round);
        free(codes);
        both_sides(inter, 0);
        exchange_within(MPI_COMM_WORLD, "parents");
    }
    return check_end("children=%d rounds=%d", children, rounds);
}
