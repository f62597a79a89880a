/*
 * One message of more than 4 GiB: 65537 elements of 65537 bytes, 4 GiB + 131073 bytes.
 *
 * Every page carries a stamp that is checked; the edges and the surroundings of 2 GiB and 4 GiB,
 * where a 31- or 32-bit length would wrap, are checked byte by byte. Needs about 9 GiB of memory for
 * two ranks. Arguments: mode = send | isend | put | get | vector (non-contiguous on the send side)
 */
#include "check.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIDE = 65537, TAG = 2, PAGE = 4096 };

#define TOTAL_BYTES ((size_t)SIDE * SIDE)
#define EDGE_BYTES ((size_t)1 << 20)

static const uint64_t SEED = 0x600D;

static unsigned char *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check_that(memory != MAP_FAILED, "mmap of %zu bytes failed", bytes);
    return memory;
}

/* The zones checked byte by byte. */
static void each_zone(void (*visit)(unsigned char *, size_t, size_t), unsigned char *data)
{
    const size_t centers[] = {(size_t)1 << 31, (size_t)1 << 32};

    visit(data, 0, EDGE_BYTES);
    for (int i = 0; i < 2; i++)
        visit(data, centers[i] - EDGE_BYTES / 16, EDGE_BYTES / 8 > TOTAL_BYTES - centers[i] + EDGE_BYTES / 16
                                                      ? TOTAL_BYTES - centers[i] + EDGE_BYTES / 16
                                                      : EDGE_BYTES / 8);
    visit(data, TOTAL_BYTES - EDGE_BYTES, EDGE_BYTES);
}

static void fill_zone(unsigned char *data, size_t offset, size_t bytes)
{
    pattern_fill_at(data + offset, bytes, SEED, offset);
}

static void check_zone(unsigned char *data, size_t offset, size_t bytes)
{
    check_bytes_at(data + offset, bytes, SEED, offset, "zone of %zu bytes at offset %zu", bytes, offset);
}

static void fill(unsigned char *data)
{
    for (size_t at = 0; at + 8 <= TOTAL_BYTES; at += PAGE)
        pattern_fill_at(data + at, 8, SEED, at);
    each_zone(fill_zone, data);
}

static void check(unsigned char *data)
{
    check_phase("checking");
    for (size_t at = 0; at + 8 <= TOTAL_BYTES; at += PAGE)
        check_bytes_at(data + at, 8, SEED, at, "stamp of the page at offset %zu", at);
    each_zone(check_zone, data);
}

static MPI_Datatype row_type(int stride)
{
    MPI_Datatype row, type;

    if (stride == 0) {
        MPI_Type_contiguous(SIDE, MPI_BYTE, &type);
    } else {
        MPI_Type_contiguous(SIDE, MPI_BYTE, &row);
        MPI_Type_create_resized(row, 0, stride, &type);
        MPI_Type_free(&row);
    }
    MPI_Type_commit(&type);
    return type;
}

static void point_to_point(const char *mode)
{
    MPI_Datatype type = row_type(0);
    MPI_Request request;
    MPI_Status status;
    unsigned char *data = map(TOTAL_BYTES);

    if (check_rank == 0) {
        fill(data);
        check_phase("MPI_%s", mode);
        if (strcmp(mode, "isend") == 0) {
            MPI_Isend(data, SIDE, type, 1, TAG, MPI_COMM_WORLD, &request);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        } else {
            MPI_Send(data, SIDE, type, 1, TAG, MPI_COMM_WORLD);
        }
    } else if (check_rank == 1) {
        check_phase("receive");
        MPI_Irecv(data, SIDE, type, 0, TAG, MPI_COMM_WORLD, &request);
        MPI_Wait(&request, &status);
        check_status(&status, 0, TAG, TOTAL_BYTES);
        check(data);
    }
    munmap(data, TOTAL_BYTES);
    MPI_Type_free(&type);
}

/* Rows that lie 16 bytes apart on the sender become contiguous on the receiver. */
static void vector_to_contiguous(void)
{
    enum { STRIDE = SIDE + 16 };
    size_t room = (size_t)STRIDE * SIDE;
    MPI_Datatype spaced = row_type(STRIDE), dense = row_type(0);

    if (check_rank == 0) {
        unsigned char *data = map(room);
        for (size_t row = 0; row < SIDE; row++)
            pattern_fill_at(data + row * STRIDE, SIDE, SEED, row * SIDE);
        check_phase("send of a spaced type");
        MPI_Send(data, SIDE, spaced, 1, TAG, MPI_COMM_WORLD);
        munmap(data, room);
    } else if (check_rank == 1) {
        unsigned char *data = map(TOTAL_BYTES);
        check_phase("receive");
        MPI_Recv(data, SIDE, dense, 0, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        check_bytes(data, TOTAL_BYTES, SEED, "spaced rows received contiguously");
        munmap(data, TOTAL_BYTES);
    }
    MPI_Type_free(&spaced);
    MPI_Type_free(&dense);
}

static void one_sided(int put)
{
    MPI_Datatype type = row_type(0);
    unsigned char *data = map(TOTAL_BYTES);
    MPI_Win window;

    if ((check_rank == 0) == put)
        fill(data);
    MPI_Win_create(data, check_rank == 1 ? (MPI_Aint)TOTAL_BYTES : 0, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &window);
    check_phase(put ? "MPI_Put" : "MPI_Get");
    MPI_Barrier(MPI_COMM_WORLD);
    if (check_rank == 0) {
        MPI_Win_lock(MPI_LOCK_SHARED, 1, 0, window);
        if (put)
            MPI_Put(data, SIDE, type, 1, 0, SIDE, type, window);
        else
            MPI_Get(data, SIDE, type, 1, 0, SIDE, type, window);
        MPI_Win_unlock(1, window);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (check_rank == put)
        check(data);
    MPI_Win_free(&window);
    munmap(data, TOTAL_BYTES);
    MPI_Type_free(&type);
}

int main(int argc, char **argv)
{
    const char *mode;

    check_begin(argc, argv, "huge", MPI_THREAD_SINGLE);
    check_that(check_size >= 2, "needs 2 ranks, got %d", check_size);
    mode = check_option_text("mode", "send");
    if (strcmp(mode, "send") == 0 || strcmp(mode, "isend") == 0)
        point_to_point(mode);
    else if (strcmp(mode, "vector") == 0)
        vector_to_contiguous();
    else if (strcmp(mode, "put") == 0 || strcmp(mode, "get") == 0)
        one_sided(strcmp(mode, "put") == 0);
    else
        check_fail("mode=%s is none of send, isend, put, get, vector", mode);
    return check_end("mode=%s bytes=%zu", mode, TOTAL_BYTES);
}
