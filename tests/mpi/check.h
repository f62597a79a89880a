/*
 * Verification shared by every program in this folder.
 *
 * A program calls check_begin, does its work through check_bytes / check_value / check_that, and
 * returns check_end. On success rank 0 prints one line that begins with "ok <program>"; on a
 * mismatch the rank that saw it prints one line that begins with "FAIL <program>", naming rank,
 * message, offset, expected and got, and aborts the job. A watchdog turns a hang into a failure
 * that names the phase the rank was in.
 *
 * Arguments are key=value words, so that a reproducing command line explains itself.
 *
 * Environment:
 *   IRONBAND_TEST_WATCHDOG_SECONDS  bound on a program's run (default 120)
 *   IRONBAND_TEST_FAULT             damage what is received before this check (1 = the first) of
 *                                   rank IRONBAND_TEST_FAULT_RANK (default: the last); proves that
 *                                   the checks can fail
 */
#ifndef IRONBAND_CHECK_H
#define IRONBAND_CHECK_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The rank and size in MPI_COMM_WORLD, set by check_begin. */
extern int check_rank;
extern int check_size;

/* Initialises MPI with at least `thread_level`, or MPI_THREAD_MULTIPLE if the argument `threads=1` asks for it (fails if the
 * library gives less). */
void check_begin(int argc, char **argv, const char *program, int thread_level);

/* Prints the "ok" line with the given details, finalises MPI and returns the exit status. */
int check_end(const char *details, ...) __attribute__((format(printf, 1, 2)));

/* As check_end, without MPI_Finalize: for a program that must finalise in its own way. */
void check_ok(const char *details, ...) __attribute__((format(printf, 1, 2)));

/* Names what this rank is doing, for the watchdog's message. Call from the main thread only. */
void check_phase(const char *phase, ...) __attribute__((format(printf, 1, 2)));

/* Prints a FAIL line and aborts the job. */
void check_fail(const char *why, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Fails with the message unless the condition holds. */
#define check_that(condition, ...)     \
    do {                               \
        if (!(condition))              \
            check_fail(__VA_ARGS__);   \
    } while (0)

/* Fails unless got == expected; `what` (a printf format) names the value. */
void check_value(long long got, long long expected, const char *what, ...)
    __attribute__((format(printf, 3, 4)));

/* Fails unless the status carries this source, tag and length in bytes. */
void check_status(const MPI_Status *status, int source, int tag, size_t bytes);

/* The value of argument `key=value`, of the last one if there are several, or `fallback`. Accepts decimal and 0x numbers. */
long long check_option(const char *key, long long fallback);

/* The text of argument `key=value`, or `fallback`. */
const char *check_option_text(const char *key, const char *fallback);

/* One byte of the endless pattern `seed`: every offset matters, so shifted data is noticed. */
unsigned char pattern_byte(uint64_t seed, size_t offset);

/* Writes bytes [offset, offset + bytes) of pattern `seed`. */
void pattern_fill_at(void *buffer, size_t bytes, uint64_t seed, size_t offset);
void pattern_fill(void *buffer, size_t bytes, uint64_t seed);

/* Fails unless the buffer holds bytes [offset, offset + bytes) of pattern `seed`. */
void check_bytes_at(const void *buffer, size_t bytes, uint64_t seed, size_t offset, const char *what, ...)
    __attribute__((format(printf, 5, 6)));
void check_bytes(const void *buffer, size_t bytes, uint64_t seed, const char *what, ...)
    __attribute__((format(printf, 4, 5)));

/* A message seed from its coordinates: no two messages of a program share a pattern. */
uint64_t seed_of(uint64_t a, uint64_t b, uint64_t c, uint64_t d);

/* A small deterministic generator (splitmix64); the state is the caller's. */
uint64_t rng_next(uint64_t *state);
uint64_t rng_below(uint64_t *state, uint64_t bound);
/* Log-uniform in [0, max]: as many sizes near 8 bytes as near 8 MiB. */
size_t rng_size(uint64_t *state, size_t size_max);
void rng_shuffle(uint64_t *state, int *items, int count);

/* Memory with guard zones on both sides; guarded_check fails if either was written. */
struct guarded {
    unsigned char *base;
    unsigned char *data;
    size_t bytes;
};
struct guarded guarded_new(size_t bytes, size_t misalign);
void guarded_check(const struct guarded *memory, const char *what);
void guarded_free(struct guarded *memory);

/* malloc that fails the test instead of returning NULL. */
void *check_malloc(size_t bytes);

/* Sleeps without calling MPI. */
void sleep_ms(long milliseconds);
double seconds_now(void);

#endif
