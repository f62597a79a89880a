/*
 * Every collective with checked results, at counts from 0 to count_max ints, with every rank as
 * root in turn, on the world and on a reversed subset of it, blocking and non-blocking.
 *
 * Arguments: count_max
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* Element i of what rank r holds; small enough that a sum over 1000 ranks fits an int. */
static int element(int r, int i)
{
    return (r + 1) * 1000 + i % 997;
}

/* The sum of element(r, i) over the ranks 0..n-1. */
static int element_sum(int n, int i)
{
    return 1000 * (n * (n + 1) / 2) + n * (i % 997);
}

struct job {
    MPI_Comm comm;
    int rank, size, count, root;
};

static int *ints(size_t count)
{
    int *memory = check_malloc(sizeof(int) * (count + 1));
    memset(memory, 0xEE, sizeof(int) * (count + 1));
    return memory;
}

static int *own(const struct job *job, int count)
{
    int *memory = ints((size_t)count);
    for (int i = 0; i < count; i++)
        memory[i] = element(job->rank, i);
    return memory;
}

static void wait_one(MPI_Request *request)
{
    MPI_Wait(request, MPI_STATUS_IGNORE);
}

static void test_bcast(const struct job *job, int nonblocking)
{
    int *data = job->rank == job->root ? own(job, job->count) : ints((size_t)job->count);
    MPI_Request request;

    if (nonblocking) {
        MPI_Ibcast(data, job->count, MPI_INT, job->root, job->comm, &request);
        wait_one(&request);
    } else {
        MPI_Bcast(data, job->count, MPI_INT, job->root, job->comm);
    }
    for (int i = 0; i < job->count; i++)
        check_value(data[i], element(job->root, i), "bcast of %d from %d, element %d", job->count, job->root, i);
    free(data);
}

static void test_reduce(const struct job *job, int nonblocking)
{
    int *mine = own(job, job->count), *result = ints((size_t)job->count), *all = ints((size_t)job->count);
    MPI_Request request;

    MPI_Reduce(mine, result, job->count, MPI_INT, MPI_SUM, job->root, job->comm);
    if (nonblocking) {
        MPI_Iallreduce(mine, all, job->count, MPI_INT, MPI_SUM, job->comm, &request);
        wait_one(&request);
    } else {
        MPI_Allreduce(mine, all, job->count, MPI_INT, MPI_SUM, job->comm);
    }
    for (int i = 0; i < job->count; i++) {
        if (job->rank == job->root)
            check_value(result[i], element_sum(job->size, i), "reduce of %d to %d, element %d", job->count, job->root, i);
        check_value(all[i], element_sum(job->size, i), "allreduce of %d, element %d", job->count, i);
    }
    MPI_Allreduce(MPI_IN_PLACE, mine, job->count, MPI_INT, MPI_MAX, job->comm);
    for (int i = 0; i < job->count; i++)
        check_value(mine[i], element(job->size - 1, i), "allreduce in place (max) of %d, element %d", job->count, i);
    free(all);
    free(result);
    free(mine);
}

static void test_scan(const struct job *job)
{
    int *mine = own(job, job->count), *scan = ints((size_t)job->count), *exscan = ints((size_t)job->count);

    MPI_Scan(mine, scan, job->count, MPI_INT, MPI_SUM, job->comm);
    MPI_Exscan(mine, exscan, job->count, MPI_INT, MPI_SUM, job->comm);
    for (int i = 0; i < job->count; i++) {
        check_value(scan[i], element_sum(job->rank + 1, i), "scan of %d, element %d", job->count, i);
        if (job->rank > 0)
            check_value(exscan[i], element_sum(job->rank, i), "exscan of %d, element %d", job->count, i);
    }
    free(exscan);
    free(scan);
    free(mine);
}

static void test_gather_scatter(const struct job *job)
{
    int n = job->count, *mine = own(job, n), *all = ints((size_t)n * (size_t)job->size), *part = ints((size_t)n);

    MPI_Gather(mine, n, MPI_INT, all, n, MPI_INT, job->root, job->comm);
    if (job->rank == job->root)
        for (int r = 0; r < job->size; r++)
            for (int i = 0; i < n; i++)
                check_value(all[r * n + i], element(r, i), "gather of %d to %d, from %d, element %d", n, job->root, r, i);
    MPI_Scatter(all, n, MPI_INT, part, n, MPI_INT, job->root, job->comm);
    for (int i = 0; i < n; i++)
        check_value(part[i], element(job->rank, i), "scatter of %d from %d, element %d", n, job->root, i);
    memset(all, 0, sizeof(int) * (size_t)n * (size_t)job->size);
    MPI_Allgather(mine, n, MPI_INT, all, n, MPI_INT, job->comm);
    for (int r = 0; r < job->size; r++)
        for (int i = 0; i < n; i++)
            check_value(all[r * n + i], element(r, i), "allgather of %d, from %d, element %d", n, r, i);
    free(part);
    free(all);
    free(mine);
}

/* Rank r contributes count * (r % 3) elements, placed in reverse order with gaps of one. */
static void test_varying(const struct job *job)
{
    int *counts = ints((size_t)job->size), *at = ints((size_t)job->size), room = 0;

    for (int r = job->size - 1; r >= 0; r--) {
        counts[r] = job->count * (r % 3);
        at[r] = room;
        room += counts[r] + 1;
    }
    int mine_count = counts[job->rank], *mine = own(job, mine_count), *all = ints((size_t)room);
    int *part = ints((size_t)mine_count);
    MPI_Gatherv(mine, mine_count, MPI_INT, all, counts, at, MPI_INT, job->root, job->comm);
    MPI_Scatterv(all, counts, at, MPI_INT, part, mine_count, MPI_INT, job->root, job->comm);
    for (int i = 0; i < mine_count; i++)
        check_value(part[i], element(job->rank, i), "gatherv + scatterv at %d, element %d", job->root, i);
    memset(all, 0, sizeof(int) * (size_t)room);
    MPI_Allgatherv(mine, mine_count, MPI_INT, all, counts, at, MPI_INT, job->comm);
    for (int r = 0; r < job->size; r++)
        for (int i = 0; i < counts[r]; i++)
            check_value(all[at[r] + i], element(r, i), "allgatherv, from %d, element %d", r, i);
    for (int r = 0; r < job->size; r++)
        check_value(all[at[r] + counts[r]], 0, "gap after the part of rank %d in allgatherv", r);
    free(part);
    free(all);
    free(mine);
    free(at);
    free(counts);
}

static void test_alltoall(const struct job *job, int nonblocking)
{
    int n = job->count;
    size_t total = (size_t)n * (size_t)job->size;
    int *out = ints(total), *in = ints(total);
    MPI_Request request;

    for (int to = 0; to < job->size; to++)
        for (int i = 0; i < n; i++)
            out[to * n + i] = element(job->rank, i) * 100 + to;
    if (nonblocking) {
        MPI_Ialltoall(out, n, MPI_INT, in, n, MPI_INT, job->comm, &request);
        wait_one(&request);
    } else {
        MPI_Alltoall(out, n, MPI_INT, in, n, MPI_INT, job->comm);
    }
    for (int from = 0; from < job->size; from++)
        for (int i = 0; i < n; i++)
            check_value(in[from * n + i], element(from, i) * 100 + job->rank, "alltoall of %d, from %d, element %d", n,
                        from, i);
    free(in);
    free(out);
}

/* Rank a sends to rank b count * ((a + b) % 4) elements: what a sends to b, b expects from a. */
static void test_alltoallv(const struct job *job)
{
    int *counts = ints((size_t)job->size), *at = ints((size_t)job->size), *byte_at = ints((size_t)job->size), room = 0;
    MPI_Datatype *types = check_malloc(sizeof *types * (size_t)job->size);

    for (int r = 0; r < job->size; r++) {
        counts[r] = job->count * ((r + job->rank) % 4);
        at[r] = room;
        byte_at[r] = room * (int)sizeof(int);
        types[r] = MPI_INT;
        room += counts[r];
    }
    int *out = ints((size_t)room), *in = ints((size_t)room);
    for (int way = 0; way < 2; way++) {
        for (int to = 0; to < job->size; to++)
            for (int i = 0; i < counts[to]; i++)
                out[at[to] + i] = element(job->rank, i) * 100 + to + way;
        if (way == 0)
            MPI_Alltoallv(out, counts, at, MPI_INT, in, counts, at, MPI_INT, job->comm);
        else
            MPI_Alltoallw(out, counts, byte_at, types, in, counts, byte_at, types, job->comm);
        for (int from = 0; from < job->size; from++)
            for (int i = 0; i < counts[from]; i++)
                check_value(in[at[from] + i], element(from, i) * 100 + job->rank + way, "%s, from %d, element %d",
                            way ? "alltoallw" : "alltoallv", from, i);
    }
    free(in);
    free(out);
    free(types);
    free(byte_at);
    free(at);
    free(counts);
}

static void test_reduce_scatter(const struct job *job)
{
    int *counts = ints((size_t)job->size), room = 0, mine_at = 0;

    for (int r = 0; r < job->size; r++) {
        counts[r] = job->count * (r % 2 + 1);
        if (r == job->rank)
            mine_at = room;
        room += counts[r];
    }
    int *mine = own(job, room), *part = ints((size_t)counts[job->rank]);
    MPI_Reduce_scatter(mine, part, counts, MPI_INT, MPI_SUM, job->comm);
    for (int i = 0; i < counts[job->rank]; i++)
        check_value(part[i], element_sum(job->size, mine_at + i), "reduce_scatter, element %d", i);
    free(part);
    free(mine);

    mine = own(job, job->count * job->size);
    part = ints((size_t)job->count);
    MPI_Reduce_scatter_block(mine, part, job->count, MPI_INT, MPI_SUM, job->comm);
    for (int i = 0; i < job->count; i++)
        check_value(part[i], element_sum(job->size, job->rank * job->count + i), "reduce_scatter_block, element %d", i);
    free(part);
    free(mine);
    free(counts);
}

/* 2x2 matrices modulo a prime: associative, not commutative, so the order of ranks matters. */
static void matrix_product(void *left, void *right, int *count, MPI_Datatype *type)
{
    const long long *a = left;
    long long *b = right;

    (void)type;
    for (int i = 0; i < *count; i++, a += 4, b += 4) {
        long long product[4] = {(a[0] * b[0] + a[1] * b[2]) % 65521, (a[0] * b[1] + a[1] * b[3]) % 65521,
                                (a[2] * b[0] + a[3] * b[2]) % 65521, (a[2] * b[1] + a[3] * b[3]) % 65521};
        memcpy(b, product, sizeof product);
    }
}

static void test_user_operation(const struct job *job)
{
    long long mine[4] = {job->rank + 1, 2, 3, job->rank + 5}, got[4], expected[4] = {1, 2, 3, 5};
    MPI_Datatype type;
    MPI_Op op;
    int one = 1;

    MPI_Type_contiguous(4, MPI_LONG_LONG, &type);
    MPI_Type_commit(&type);
    MPI_Op_create(matrix_product, 0, &op);
    MPI_Allreduce(mine, got, 1, type, op, job->comm);
    for (int r = 1; r < job->size; r++) {
        long long next[4] = {r + 1, 2, 3, r + 5};
        matrix_product(expected, next, &one, &type);
        memcpy(expected, next, sizeof next);
    }
    for (int i = 0; i < 4; i++)
        check_value(got[i], expected[i], "allreduce with a non-commutative operation, element %d", i);
    MPI_Op_free(&op);
    MPI_Type_free(&type);
}

static int run_all(MPI_Comm comm, int count_max)
{
    static const int counts[] = {0, 1, 7, 250, 3000, 40000};
    struct job job = {.comm = comm};
    int runs = 0;

    MPI_Comm_rank(comm, &job.rank);
    MPI_Comm_size(comm, &job.size);
    for (size_t c = 0; c < sizeof counts / sizeof counts[0] && counts[c] <= count_max; c++)
        for (job.root = 0; job.root < job.size; job.root += 1 + job.size / 4) {
            job.count = counts[c];
            check_phase("count %d, root %d of %d", job.count, job.root, job.size);
            for (int nonblocking = 0; nonblocking < 2; nonblocking++) {
                test_bcast(&job, nonblocking);
                test_reduce(&job, nonblocking);
                test_alltoall(&job, nonblocking);
            }
            test_scan(&job);
            test_gather_scatter(&job);
            test_varying(&job);
            test_alltoallv(&job);
            test_reduce_scatter(&job);
            MPI_Barrier(comm);
            runs++;
        }
    test_user_operation(&job);
    return runs;
}

int main(int argc, char **argv)
{
    MPI_Comm subset;
    int count_max, runs;

    check_begin(argc, argv, "collectives", MPI_THREAD_SINGLE);
    count_max = (int)check_option("count_max", 40000);
    runs = run_all(MPI_COMM_WORLD, count_max);
    MPI_Comm_split(MPI_COMM_WORLD, check_rank % 3 == 1, -check_rank, &subset);
    runs += run_all(subset, count_max > 3000 ? 3000 : count_max);
    MPI_Comm_free(&subset);
    return check_end("count_max=%d runs=%d", count_max, runs);
}
