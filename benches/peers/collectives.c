/* Collective operations of any MPI in C, measured as OSU's benchmarks and `osu_collective` do: for libraries that the Rust programs are not linked with, such as
 * Intel MPI. The average over ranks and rounds in us, with a barrier between any two rounds that is not measured.
 *
 *     cc -O2 -I MPICH/include benches/peers/collectives.c -L IMPI/lib -lmpi -o collectives    (Intel MPI has MPICH's ABI)
 *     mpiexec -n 2 ./collectives allreduce 8 100000
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rounds before the measured ones. */
enum { WARMUP = 200 };

static void once(const char *operation, const float *input, float *output, int bytes)
{
    int floats = bytes / (int)sizeof(float);

    if (strcmp(operation, "barrier") == 0)
        MPI_Barrier(MPI_COMM_WORLD);
    else if (strcmp(operation, "bcast") == 0)
        MPI_Bcast(output, bytes, MPI_CHAR, 0, MPI_COMM_WORLD);
    else
        MPI_Allreduce(input, output, floats, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    double spent = 0, sum = 0;
    int rank, ranks, round;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc != 4 || (strcmp(argv[1], "barrier") && strcmp(argv[1], "bcast") && strcmp(argv[1], "allreduce"))) {
        fprintf(stderr, "usage: collectives barrier|bcast|allreduce BYTES ROUNDS\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    int bytes = atoi(argv[2]), rounds = atoi(argv[3]);
    float *input = calloc((size_t)bytes + 1, 1), *output = calloc((size_t)bytes + 1, 1);

    if (!input || !output)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (round = -WARMUP; round < rounds; round++) {
        double began = MPI_Wtime();

        once(argv[1], input, output, bytes);
        if (round >= 0)
            spent += MPI_Wtime() - began;
        MPI_Barrier(MPI_COMM_WORLD);
    }
    spent = spent / rounds * 1e6;
    MPI_Reduce(&spent, &sum, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%s %d B: %.2f us\n", argv[1], bytes, sum / ranks);
    free(input);
    free(output);
    MPI_Finalize();
    return 0;
}
