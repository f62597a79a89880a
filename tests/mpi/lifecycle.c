/*
 * Beginnings and ends.
 *   mode=silent   MPI_Init and MPI_Finalize, and nothing else
 *   mode=late     every other rank sends to rank 0 and finalises at once; rank 0 sleeps, then receives:
 *                 nothing may be lost, although the senders' requests were freed unwaited
 *   mode=oneway   rank 0 sends to all others and never receives
 *   mode=single   only ranks 0 and 1 ever speak; the others go from MPI_Init to MPI_Finalize
 * Arguments: mode, messages, sleep_ms
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { TAG = 33, BYTES_MAX = 100000 };

static size_t length_of(int from, int to, int index)
{
    uint64_t state = seed_of(61, (uint64_t)from, (uint64_t)to, (uint64_t)index);
    /* Mostly small ones, and every 64th large enough for rendezvous. */
    return index % 64 == 63 ? BYTES_MAX : rng_size(&state, 3000);
}

static void send_all(int to, int messages, int wait)
{
    /* Never freed: the messages may still be under way inside MPI_Finalize. */
    for (int i = 0; i < messages; i++) {
        size_t bytes = length_of(check_rank, to, i);
        unsigned char *out = check_malloc(bytes);
        MPI_Request request;
        pattern_fill(out, bytes, seed_of(62, (uint64_t)check_rank, (uint64_t)to, (uint64_t)i));
        MPI_Isend(out, (int)bytes, MPI_BYTE, to, TAG, MPI_COMM_WORLD, &request);
        if (wait)
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        else
            MPI_Request_free(&request);
    }
}

static void receive_all(int from, int messages)
{
    unsigned char *in = check_malloc(BYTES_MAX);

    for (int i = 0; i < messages; i++) {
        size_t bytes = length_of(from, check_rank, i);
        MPI_Status status;
        check_phase("message %d of %d from rank %d", i, messages, from);
        MPI_Recv(in, BYTES_MAX, MPI_BYTE, from, TAG, MPI_COMM_WORLD, &status);
        check_status(&status, from, TAG, bytes);
        check_bytes(in, bytes, seed_of(62, (uint64_t)from, (uint64_t)check_rank, (uint64_t)i),
                    "message %d of %d from rank %d", i, messages, from);
    }
    free(in);
}

int main(int argc, char **argv)
{
    const char *mode;
    int messages;
    long nap_ms;

    check_begin(argc, argv, "lifecycle", MPI_THREAD_SINGLE);
    mode = check_option_text("mode", "silent");
    messages = (int)check_option("messages", 5000);
    nap_ms = (long)check_option("sleep_ms", 700);
    if (strcmp(mode, "late") == 0) {
        if (check_rank != 0) {
            send_all(0, messages, 0);
        } else {
            sleep_ms(nap_ms);
            for (int from = 1; from < check_size; from++)
                receive_all(from, messages);
        }
    } else if (strcmp(mode, "oneway") == 0) {
        if (check_rank == 0)
            for (int to = 1; to < check_size; to++)
                send_all(to, messages, 1);
        else
            receive_all(0, messages);
    } else if (strcmp(mode, "single") == 0) {
        check_that(check_size >= 2, "mode=single needs 2 ranks or more, got %d", check_size);
        if (check_rank == 0)
            send_all(1, messages, 1);
        else if (check_rank == 1)
            receive_all(0, messages);
    } else {
        check_that(strcmp(mode, "silent") == 0, "mode=%s is none of silent, late, oneway, single", mode);
    }
    /* No barrier here: whatever is under way is MPI_Finalize's to deliver. */
    check_ok("mode=%s messages=%d", mode, messages);
    check_phase("MPI_Finalize");
    MPI_Finalize();
    return 0;
}
