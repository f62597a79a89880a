/*
 * Stands between a benchmark and MPI, by the profiling interface, and changes one byte of one message that
 * arrives: what -c must notice. Which byte, as in CORRUPT="bytes:offset", comes from the environment; an offset
 * equal to the size changes the byte behind the message. Every message of that size is changed.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static void corrupt(void *buffer, int count)
{
    const char *wanted = getenv("CORRUPT");
    int bytes, offset;
    if (wanted != NULL && sscanf(wanted, "%d:%d", &bytes, &offset) == 2 && bytes == count) {
        ((unsigned char *)buffer)[offset] ^= 0x10;
    }
}

int MPI_Recv(void *buffer, int count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Status *status)
{
    int code = PMPI_Recv(buffer, count, type, source, tag, comm, status);
    corrupt(buffer, count);
    return code;
}

/* The receive posted last, and the window of requests it belongs to: a wait for sends must not spoil it. */
static struct {
    MPI_Request *first;
    void *buffer;
    int count;
} posted;

int MPI_Irecv(void *buffer, int count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Request *request)
{
    if (posted.first == NULL) {
        posted.first = request;
    }
    posted.buffer = buffer;
    posted.count = count;
    return PMPI_Irecv(buffer, count, type, source, tag, comm, request);
}

int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[])
{
    int code = PMPI_Waitall(count, requests, statuses);
    if (requests == posted.first) {
        corrupt(posted.buffer, posted.count);
        posted.first = NULL;
    }
    return code;
}

/* The byte is changed before the put reads it. */
int MPI_Put(const void *origin, int count, MPI_Datatype type, int target, MPI_Aint at, int target_count,
            MPI_Datatype target_type, MPI_Win window)
{
    corrupt((void *)origin, count);
    return PMPI_Put(origin, count, type, target, at, target_count, target_type, window);
}

/* The bytes asked for are right and the place is not: they are fetched from one byte further on. */
int MPI_Get(void *origin, int count, MPI_Datatype type, int target, MPI_Aint at, int target_count,
            MPI_Datatype target_type, MPI_Win window)
{
    const char *wanted = getenv("CORRUPT");
    MPI_Aint shift = wanted != NULL && atoi(wanted) == count ? 1 : 0;
    return PMPI_Get(origin, count, type, target, at + shift, target_count, target_type, window);
}
