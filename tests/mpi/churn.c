/*
 * Memory that comes and goes between messages: malloc, send, free, malloc again at other sizes, for some seconds, while
 * child processes are started as Python's subprocess does it. What is registered with an adapter must not outlive the
 * memory, though a new buffer often lies where an old one was.
 *
 * Needs two ranks.  Arguments:
 *   seconds      how long
 *   workers      threads of each rank, each with a communicator of its own (more than 1 needs threads=1)
 *   size_max     of a message
 *   child_ms     between two child processes; 0 for none
 *   memlock      half-way the limit on locked memory is lowered to so many bytes; 0 leaves it
 */
#define _GNU_SOURCE
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MAX = 8, HELD = 12, BATCH = 8 };

static double end;
static size_t size_max;
static MPI_Comm comms[WORKERS_MAX];
static atomic_llong exchanges;

/* A buffer is from malloc, or a mapping of its own. */
struct buffer {
    unsigned char *data;
    size_t bytes;
    bool mapped;
};

static struct buffer take(uint64_t *rng, size_t bytes)
{
    struct buffer buffer = {NULL, bytes, rng_below(rng, 4) == 0};

    if (buffer.mapped) {
        buffer.data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check_that(buffer.data != MAP_FAILED, "mmap of %zu bytes failed", bytes);
    } else {
        buffer.data = check_malloc(bytes);
    }
    return buffer;
}

static void give_back(struct buffer *buffer)
{
    if (buffer->mapped)
        munmap(buffer->data, buffer->bytes);
    else
        free(buffer->data);
    buffer->data = NULL;
}

/* Pages whose contents go, and come back as zeros, with the addresses in place. */
static void discard(struct buffer *buffer)
{
    if (buffer->data != NULL && buffer->mapped)
        madvise(buffer->data, buffer->bytes, MADV_DONTNEED);
}

static void exchange(MPI_Comm comm, struct buffer *out, struct buffer *in, size_t bytes, int worker, uint64_t turn)
{
    uint64_t mine = seed_of(60, (uint64_t)check_rank, (uint64_t)worker, turn);
    uint64_t theirs = seed_of(60, (uint64_t)!check_rank, (uint64_t)worker, turn);

    pattern_fill(out->data, bytes, mine);
    MPI_Sendrecv(out->data, (int)bytes, MPI_BYTE, !check_rank, 0, in->data, (int)bytes, MPI_BYTE, !check_rank, 0,
                 comm, MPI_STATUS_IGNORE);
    check_bytes(in->data, bytes, theirs, "worker %d, exchange %llu of %zu bytes", worker, (unsigned long long)turn,
                bytes);
    atomic_fetch_add(&exchanges, 1);
}

static size_t choose_size(uint64_t *rng)
{
    /* Most are long enough to be registered. */
    size_t bytes = rng_below(rng, 8) == 0 ? rng_size(rng, size_max) : 16384 + rng_below(rng, size_max - 16384);
    return bytes ? bytes : 1;
}

static void *work(void *argument)
{
    int worker = (int)(intptr_t)argument, goes_on = 1;
    MPI_Comm comm = comms[worker];
    /* Sizes are the same in both ranks; where the memory lies is each one's own affair. */
    uint64_t sizes = seed_of(61, (uint64_t)worker, 0, 0), rng = seed_of(62, (uint64_t)worker, (uint64_t)check_rank, 0);
    struct buffer held[HELD] = {{0}};

    for (uint64_t turn = 0; goes_on;) {
        for (int i = 0; i < BATCH; i++, turn++) {
            size_t bytes = choose_size(&sizes);
            struct buffer *place = &held[rng_below(&rng, HELD)], in = take(&rng, bytes);

            /* An old buffer that is long enough may be used again, and is still the same memory, or is not. */
            if (place->data == NULL || place->bytes < bytes || rng_below(&rng, 3) == 0) {
                if (place->data != NULL)
                    give_back(place);
                *place = take(&rng, bytes);
            }
            exchange(comm, place, &in, bytes, worker, turn);
            give_back(&in);
            if (rng_below(&rng, 4) == 0)
                discard(&held[rng_below(&rng, HELD)]);
            if (rng_below(&rng, 16) == 0)
                malloc_trim(0);
        }
        goes_on = seconds_now() < end;
        MPI_Bcast(&goes_on, 1, MPI_INT, 0, comm);
    }
    for (int i = 0; i < HELD; i++)
        if (held[i].data != NULL)
            give_back(&held[i]);
    return NULL;
}

/* fork and exec, as subprocess.run does. */
static void start_child(void)
{
    int status = -1;
    pid_t child = fork();

    check_that(child >= 0, "fork failed");
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
    }
    check_value(waitpid(child, &status, 0), child, "child that ended");
    check_value(status, 0, "exit status of the child");
}

static void lower_memlock(long long bytes)
{
    struct rlimit limit;

    check_value(getrlimit(RLIMIT_MEMLOCK, &limit), 0, "result of getrlimit");
    limit.rlim_cur = (rlim_t)bytes;
    check_value(setrlimit(RLIMIT_MEMLOCK, &limit), 0, "result of setrlimit");
}

/* Beside the workers, or in between. */
static void disturb(double start, long long child_ms, long long memlock)
{
    double child_at = start + 1e-3 * (double)child_ms;
    bool lowered = memlock == 0;

    while (seconds_now() < end) {
        sleep_ms(20);
        if (child_ms > 0 && seconds_now() >= child_at) {
            start_child();
            child_at += 1e-3 * (double)child_ms;
        }
        if (!lowered && seconds_now() > (start + end) / 2) {
            lower_memlock(memlock);
            lowered = true;
        }
    }
}

int main(int argc, char **argv)
{
    pthread_t threads[WORKERS_MAX];
    long long child_ms, memlock, seconds, mine, all = 0;
    int workers;

    check_begin(argc, argv, "churn", MPI_THREAD_SINGLE);
    check_value(check_size, 2, "number of ranks");
    seconds = check_option("seconds", 5);
    workers = (int)check_option("workers", 1);
    size_max = (size_t)check_option("size_max", 1 << 20);
    child_ms = check_option("child_ms", 1000);
    memlock = check_option("memlock", 0);
    check_that(workers >= 1 && workers <= WORKERS_MAX, "workers=%d is not between 1 and %d", workers, WORKERS_MAX);
    check_that(size_max > 16384, "size_max=%zu is too short to be registered", size_max);
    for (int i = 0; i < workers; i++)
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[i]);
    check_phase("%lld seconds of messages", seconds);
    double start = seconds_now();
    end = start + (double)seconds;
    /* One worker alone calls MPI: a program below MPI_THREAD_MULTIPLE may have other threads. */
    for (int i = 0; i < workers; i++)
        check_value(pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i), 0, "result of pthread_create");
    disturb(start, child_ms, memlock);
    for (int i = 0; i < workers; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < workers; i++)
        MPI_Comm_free(&comms[i]);
    mine = exchanges;
    MPI_Allreduce(&mine, &all, 1, MPI_LONG_LONG, MPI_MIN, MPI_COMM_WORLD);
    check_that(all >= BATCH, "only %lld exchanges", all);
    return check_end("seconds=%lld workers=%d exchanges=%lld", seconds, workers, all);
}
