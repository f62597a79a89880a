/* Counts what one eager MPI_Send of 8 bytes costs the sender, under callgrind; driven by ci/callgrind.
 *
 * Only instructions between the two toggles are collected, so start-up, warm-up and the waiting for the peer (whose
 * number of polls differs from run to run) are outside. Rank 1 answers each batch with an empty message before the next
 * one starts: the ring of the transport under test is never full, and a send never has to wait within the count.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <valgrind/callgrind.h>

enum { WARM_UP_BATCHES = 64, BATCH = 16, PAYLOAD_BYTES = 8 };

static void send_batch(const char *payload) {
    for (int i = 0; i < BATCH; i++) MPI_Send(payload, PAYLOAD_BYTES, MPI_BYTE, 1, 1, MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    char payload[PAYLOAD_BYTES] = {0};
    int rank;
    long batches = argc > 1 ? strtol(argv[1], NULL, 10) : 0;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (long batch = 0; batch < WARM_UP_BATCHES + batches; batch++) {
        if (rank == 0) {
            if (batch >= WARM_UP_BATCHES) CALLGRIND_TOGGLE_COLLECT;
            send_batch(payload);
            if (batch >= WARM_UP_BATCHES) CALLGRIND_TOGGLE_COLLECT;
            MPI_Recv(NULL, 0, MPI_BYTE, 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            for (int i = 0; i < BATCH; i++)
                MPI_Recv(payload, PAYLOAD_BYTES, MPI_BYTE, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(NULL, 0, MPI_BYTE, 0, 2, MPI_COMM_WORLD);
        }
    }
    if (rank == 0) printf("sends %ld\n", batches * BATCH);
    MPI_Finalize();
    return 0;
}
