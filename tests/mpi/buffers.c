/*
 * Where a buffer lives must not matter: stack, static data, read-only data, malloc with churn,
 * private and shared mappings, a mapping that is unmapped and mapped again at the same address,
 * a grown mapping (mremap), a mapped file, and a process that forks in between.
 *
 * Needs an even number of ranks; rank r exchanges with r ^ 1.  Arguments: rounds, size_max
 */
#define _GNU_SOURCE
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TAG = 90, STATIC_BYTES = 300000 };

static unsigned char static_out[STATIC_BYTES], static_in[STATIC_BYTES];
static uint64_t turn;
static int peer;

/* Sends and receives at once; both ranks are at the same turn, so each knows what to expect. */
static void exchange(unsigned char *out, unsigned char *in, size_t bytes, const char *where)
{
    uint64_t mine = seed_of(7, (uint64_t)check_rank, ++turn, 0), theirs = seed_of(7, (uint64_t)peer, turn, 0);

    check_phase("%s, %zu bytes", where, bytes);
    pattern_fill(out, bytes, mine);
    memset(in, 0, bytes);
    MPI_Sendrecv(out, (int)bytes, MPI_BYTE, peer, TAG, in, (int)bytes, MPI_BYTE, peer, TAG, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    check_bytes(in, bytes, theirs, "%s, turn %llu, %zu bytes", where, (unsigned long long)turn, bytes);
}

static void on_stack(size_t bytes)
{
    unsigned char out[bytes + 1], in[bytes + 1];
    exchange(out, in, bytes, "stack");
}

/* Same sizes on both sides, from the turn; other allocations in between move things about. */
static void churn(size_t size_max)
{
    enum { SLOTS = 16 };
    static void *held[SLOTS];
    uint64_t rng = seed_of(8, turn, (uint64_t)(check_rank / 2), 0);

    for (int i = 0; i < 8; i++) {
        size_t bytes = rng_size(&rng, size_max), slot = (size_t)rng_below(&rng, SLOTS);
        unsigned char *out = check_malloc(bytes), *in = check_malloc(bytes);
        exchange(out, in, bytes, "malloc");
        free(in);
        free(held[slot]);
        held[slot] = out;
    }
}

static unsigned char *map(void *where, size_t bytes, int flags, int file)
{
    void *memory = mmap(where, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
    check_that(memory != MAP_FAILED, "mmap of %zu bytes failed", bytes);
    return memory;
}

/* The address stays, the pages behind it change: a stale registration would move old bytes. */
static void remapped(size_t bytes)
{
    unsigned char *out = map(NULL, bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    unsigned char *in = map(NULL, bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);

    for (int i = 0; i < 4; i++) {
        exchange(out, in, bytes, "mapping at a reused address");
        munmap(out, bytes);
        munmap(in, bytes);
        out = map(out, bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
        in = map(in, bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
    }
    out = mremap(out, bytes, 2 * bytes, MREMAP_MAYMOVE);
    in = mremap(in, bytes, 2 * bytes, MREMAP_MAYMOVE);
    check_that((void *)out != MAP_FAILED && (void *)in != MAP_FAILED, "mremap to %zu bytes failed", 2 * bytes);
    exchange(out, in, 2 * bytes, "grown mapping");
    munmap(out, 2 * bytes);
    munmap(in, 2 * bytes);
}

static void shared_mapping(size_t bytes)
{
    unsigned char *out = map(NULL, bytes, MAP_SHARED | MAP_ANONYMOUS, -1);
    unsigned char *in = map(NULL, bytes, MAP_SHARED | MAP_ANONYMOUS, -1);

    exchange(out, in, bytes, "shared mapping");
    munmap(out, bytes);
    munmap(in, bytes);
}

static void file_mapping(size_t bytes)
{
    FILE *file = tmpfile();

    check_that(file != NULL, "tmpfile failed");
    check_value(ftruncate(fileno(file), (off_t)(2 * bytes)), 0, "result of ftruncate");
    unsigned char *both = map(NULL, 2 * bytes, MAP_SHARED, fileno(file));
    exchange(both, both + bytes, bytes, "mapped file");
    munmap(both, 2 * bytes);
    fclose(file);
}

/* Sends from pages that may not be written. */
static void read_only(size_t bytes)
{
    unsigned char *out = map(NULL, bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1), *in = check_malloc(bytes);
    uint64_t mine = seed_of(9, (uint64_t)check_rank, bytes, 0), theirs = seed_of(9, (uint64_t)peer, bytes, 0);

    check_phase("read-only pages, %zu bytes", bytes);
    pattern_fill(out, bytes, mine);
    check_value(mprotect(out, bytes, PROT_READ), 0, "result of mprotect");
    MPI_Sendrecv(out, (int)bytes, MPI_BYTE, peer, TAG, in, (int)bytes, MPI_BYTE, peer, TAG, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    check_bytes(in, bytes, theirs, "read-only pages, %zu bytes", bytes);
    munmap(out, bytes);
    free(in);
}

/* A child that touches every page breaks copy-on-write sharing while messages go on. */
static void forked(size_t bytes)
{
    unsigned char *out = check_malloc(bytes), *in = check_malloc(bytes);

    exchange(out, in, bytes, "before fork");
    pid_t child = fork();
    check_that(child >= 0, "fork failed");
    if (child == 0) {
        memset(out, 0xFF, bytes);
        memset(in, 0xFF, bytes);
        _exit(0);
    }
    exchange(out, in, bytes, "while a forked child writes");
    int status = -1;
    check_value(waitpid(child, &status, 0), child, "child that ended");
    check_value(status, 0, "exit status of the forked child");
    exchange(out, in, bytes, "after fork");
    free(in);
    free(out);
}

int main(int argc, char **argv)
{
    int rounds;
    size_t size_max;

    check_begin(argc, argv, "buffers", MPI_THREAD_SINGLE);
    check_that(check_size % 2 == 0, "needs an even number of ranks, got %d", check_size);
    peer = check_rank ^ 1;
    rounds = (int)check_option("rounds", 12);
    size_max = (size_t)check_option("size_max", 2 << 20);
    for (int round = 0; round < rounds; round++) {
        size_t pages = (size_t)4096 << (round % 9);
        on_stack((size_t)round * 9973);
        exchange(static_out, static_in, (size_t)STATIC_BYTES * (size_t)round / (size_t)rounds, "static");
        churn(size_max);
        remapped(pages);
        shared_mapping(pages + 1);
        file_mapping(pages);
        read_only(pages);
        if (round % 4 == 0)
            forked(pages + 333);
    }
    return check_end("rounds=%d exchanges=%llu", rounds, (unsigned long long)turn);
}
