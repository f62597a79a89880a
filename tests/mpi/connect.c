/*
 * MPI_Open_port / MPI_Comm_accept / MPI_Comm_connect between the two halves of the job, several
 * times over, with data both ways; and MPI_Comm_join of ranks 0 and 1 over a socket.
 *
 * Arguments: rounds, join (0: without MPI_Comm_join)
 */
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TAG = 60, PORT_TAG = 61, BYTES = 100003 };

static void exchange(MPI_Comm inter, int side, int round)
{
    int rank, remote_size, sum, remote_sum;
    unsigned char *out = check_malloc(BYTES), *in = check_malloc(BYTES);

    MPI_Comm_rank(inter, &rank);
    MPI_Comm_remote_size(inter, &remote_size);
    for (int peer = 0; peer < remote_size; peer++)
        for (int bytes = 0; bytes <= BYTES; bytes = bytes ? bytes * 46 : 1) {
            MPI_Request request;
            check_phase("round %d, side %d: %d bytes with remote rank %d", round, side, bytes, peer);
            pattern_fill(out, (size_t)bytes, seed_of((uint64_t)side, (uint64_t)rank, (uint64_t)peer, (uint64_t)bytes));
            MPI_Isend(out, bytes, MPI_BYTE, peer, TAG, inter, &request);
            MPI_Recv(in, bytes, MPI_BYTE, peer, TAG, inter, MPI_STATUS_IGNORE);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            check_bytes(in, (size_t)bytes, seed_of((uint64_t)!side, (uint64_t)peer, (uint64_t)rank, (uint64_t)bytes),
                        "round %d, %d bytes from remote rank %d", round, bytes, peer);
        }
    sum = rank + 1;
    MPI_Allreduce(&sum, &remote_sum, 1, MPI_INT, MPI_SUM, inter);
    check_value(remote_sum, remote_size * (remote_size + 1) / 2, "round %d: allreduce of the other half", round);
    free(in);
    free(out);
}

static void connect_halves(MPI_Comm half, int side, int round)
{
    char port[MPI_MAX_PORT_NAME] = "";
    int half_rank;
    MPI_Comm inter;

    MPI_Comm_rank(half, &half_rank);
    check_phase("round %d: side %d %s", round, side, side ? "connects" : "accepts");
    if (side == 0) {
        if (half_rank == 0) {
            MPI_Open_port(MPI_INFO_NULL, port);
            /* World ranks 0 and 1 are the roots of the two halves. */
            MPI_Send(port, sizeof port, MPI_CHAR, 1, PORT_TAG, MPI_COMM_WORLD);
        }
        MPI_Comm_accept(port, MPI_INFO_NULL, 0, half, &inter);
    } else {
        if (half_rank == 0)
            MPI_Recv(port, sizeof port, MPI_CHAR, 0, PORT_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Comm_connect(port, MPI_INFO_NULL, 0, half, &inter);
    }
    exchange(inter, side, round);
    check_phase("round %d: disconnect", round);
    MPI_Comm_disconnect(&inter);
    if (side == 0 && half_rank == 0)
        MPI_Close_port(port);
}

static int socket_between_ranks(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), connected;

    check_that(listener >= 0, "socket failed");
    if (check_rank == 0) {
        check_value(bind(listener, (struct sockaddr *)&address, length), 0, "result of bind");
        check_value(listen(listener, 1), 0, "result of listen");
        check_value(getsockname(listener, (struct sockaddr *)&address, &length), 0, "result of getsockname");
        MPI_Send(&address.sin_port, sizeof address.sin_port, MPI_BYTE, 1, PORT_TAG, MPI_COMM_WORLD);
        connected = accept(listener, NULL, NULL);
        check_that(connected >= 0, "accept failed");
        close(listener);
        return connected;
    }
    MPI_Recv(&address.sin_port, sizeof address.sin_port, MPI_BYTE, 0, PORT_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    check_value(connect(listener, (struct sockaddr *)&address, length), 0, "result of connect");
    return listener;
}

int main(int argc, char **argv)
{
    int rounds;
    MPI_Comm half;

    check_begin(argc, argv, "connect", MPI_THREAD_SINGLE);
    check_that(check_size >= 2, "needs 2 ranks or more, got %d", check_size);
    rounds = (int)check_option("rounds", 3);
    MPI_Comm_split(MPI_COMM_WORLD, check_rank % 2, check_rank, &half);
    for (int round = 0; round < rounds; round++)
        connect_halves(half, check_rank % 2, round);
    if (check_option("join", 1) && check_rank < 2) {
        MPI_Comm joined;
        int connected = socket_between_ranks();
        check_phase("MPI_Comm_join");
        MPI_Comm_join(connected, &joined);
        check_that(joined != MPI_COMM_NULL, "MPI_Comm_join gave no communicator");
        exchange(joined, check_rank, rounds);
        MPI_Comm_disconnect(&joined);
        close(connected);
    }
    MPI_Comm_free(&half);
    return check_end("rounds=%d join=%d", rounds, (int)check_option("join", 1));
}
