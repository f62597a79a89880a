/* See check.h. */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GUARD_BYTES = 128, GUARD_VALUE = 0xA5 };

int check_rank = -1;
int check_size = 0;

static const char *program_name = "?";
static int argument_count;
static char **arguments;
static double started_at;
static char phase_text[256] = "start-up";
static unsigned watchdog_seconds = 120;
static atomic_llong checks_made;
static long long fault_at;

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void sleep_ms(long milliseconds)
{
    struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

void *check_malloc(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    check_that(memory != NULL, "malloc(%zu) gave no memory", bytes);
    return memory;
}

/* Only async-signal-safe calls in here: the rank may hang inside malloc or inside the transport. */
static void on_alarm(int signal_number)
{
    char line[512];
    size_t used = 0;
    char number[24];
    const char *parts[] = {"FAIL ", program_name, " rank ", NULL, ": watchdog: not done after ", NULL,
                           " s, in phase \"", phase_text, "\"\n"};
    long values[] = {check_rank, (long)watchdog_seconds};
    int value = 0;

    (void)signal_number;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const char *part = parts[i];
        if (part == NULL) {
            long rest = values[value++];
            int at = (int)sizeof number - 1;
            bool negative = rest < 0;
            number[at] = '\0';
            rest = negative ? -rest : rest;
            do {
                number[--at] = (char)('0' + rest % 10);
                rest /= 10;
            } while (rest != 0);
            if (negative)
                number[--at] = '-';
            part = number + at;
        }
        for (; *part != '\0' && used < sizeof line; part++)
            line[used++] = *part;
    }
    if (write(STDERR_FILENO, line, used) < 0) {
        /* nothing can be said any more; the exit status still says it */
    }
    _exit(3);
}

static long environment_number(const char *name, long fallback)
{
    const char *text = getenv(name);
    return text && *text ? strtol(text, NULL, 0) : fallback;
}

void check_begin(int argc, char **argv, const char *program, int thread_level)
{
    struct sigaction action;
    int provided = -1;

    program_name = program;
    argument_count = argc;
    arguments = argv;
    started_at = seconds_now();
    watchdog_seconds = (unsigned)environment_number("IRONBAND_TEST_WATCHDOG_SECONDS", 120);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    alarm(watchdog_seconds);

    if (strcmp(check_option_text("threads", "0"), "1") == 0)
        thread_level = MPI_THREAD_MULTIPLE;
    check_phase("MPI_Init_thread");
    MPI_Init_thread(&argc, &argv, thread_level, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &check_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &check_size);
    check_that(provided >= thread_level, "MPI gives thread level %d, the program needs %d", provided,
               thread_level);
    if (environment_number("IRONBAND_TEST_FAULT_RANK", check_size - 1) == check_rank)
        fault_at = environment_number("IRONBAND_TEST_FAULT", 0);
    check_phase("after MPI_Init");
}

static void print_ok(const char *details, va_list list)
{
    char text[512];

    if (check_rank != 0)
        return;
    vsnprintf(text, sizeof text, details, list);
    printf("ok %s np=%d %s seconds=%.2f\n", program_name, check_size, text, seconds_now() - started_at);
    fflush(stdout);
}

void check_ok(const char *details, ...)
{
    va_list list;

    va_start(list, details);
    print_ok(details, list);
    va_end(list);
}

int check_end(const char *details, ...)
{
    va_list list;

    /* Every rank has passed its checks before rank 0 says so. */
    check_phase("final barrier");
    MPI_Barrier(MPI_COMM_WORLD);
    va_start(list, details);
    print_ok(details, list);
    va_end(list);
    check_phase("MPI_Finalize");
    MPI_Finalize();
    return 0;
}

void check_phase(const char *phase, ...)
{
    va_list list;

    va_start(list, phase);
    vsnprintf(phase_text, sizeof phase_text, phase, list);
    va_end(list);
}

static void fail_line(const char *what, const char *why)
{
    fprintf(stderr, "FAIL %s rank %d: %s%s%s (phase \"%s\")\n", program_name, check_rank, what,
            *what ? ": " : "", why, phase_text);
    fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1);
}

void check_fail(const char *why, ...)
{
    char text[512];
    va_list list;

    va_start(list, why);
    vsnprintf(text, sizeof text, why, list);
    va_end(list);
    fail_line("", text);
    _exit(1);
}

/* True for the one check that IRONBAND_TEST_FAULT asks to damage. */
static bool fault_due(void)
{
    return fault_at != 0 && atomic_fetch_add(&checks_made, 1) + 1 == fault_at;
}

void check_value(long long got, long long expected, const char *what, ...)
{
    char text[256], why[128];
    va_list list;

    if (fault_due())
        got ^= 1;
    if (got == expected)
        return;
    va_start(list, what);
    vsnprintf(text, sizeof text, what, list);
    va_end(list);
    snprintf(why, sizeof why, "expected %lld (0x%llx), got %lld (0x%llx)", expected,
             (unsigned long long)expected, got, (unsigned long long)got);
    fail_line(text, why);
}

void check_status(const MPI_Status *status, int source, int tag, size_t bytes)
{
    MPI_Count count = -1;

    MPI_Get_elements_x((MPI_Status *)status, MPI_BYTE, &count);
    check_value(status->MPI_SOURCE, source, "status source of a message with tag %d", status->MPI_TAG);
    check_value(status->MPI_TAG, tag, "status tag of a message from rank %d", status->MPI_SOURCE);
    check_value((long long)count, (long long)bytes, "status length in bytes of the message from rank %d tag %d",
                source, tag);
}

const char *check_option_text(const char *key, const char *fallback)
{
    size_t length = strlen(key);

    for (int i = argument_count - 1; i >= 1; i--)
        if (strncmp(arguments[i], key, length) == 0 && arguments[i][length] == '=')
            return arguments[i] + length + 1;
    return fallback;
}

long long check_option(const char *key, long long fallback)
{
    const char *text = check_option_text(key, NULL);
    char *end;
    long long value;

    if (text == NULL)
        return fallback;
    value = strtoll(text, &end, 0);
    check_that(*text != '\0' && *end == '\0', "argument %s=%s is not a number", key, text);
    return value;
}

static inline uint64_t pattern_word(uint64_t seed, uint64_t index)
{
    uint64_t word = (seed ^ index) * 0x9E3779B97F4A7C15u;
    return word ^ (word >> 29);
}

unsigned char pattern_byte(uint64_t seed, size_t offset)
{
    return (unsigned char)(pattern_word(seed, offset / 8) >> (8 * (offset % 8)));
}

void pattern_fill_at(void *buffer, size_t bytes, uint64_t seed, size_t offset)
{
    unsigned char *out = buffer;
    size_t i = 0;

    for (; i < bytes && (offset + i) % 8 != 0; i++)
        out[i] = pattern_byte(seed, offset + i);
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word = pattern_word(seed, (offset + i) / 8);
        memcpy(out + i, &word, 8);
    }
    for (; i < bytes; i++)
        out[i] = pattern_byte(seed, offset + i);
}

void pattern_fill(void *buffer, size_t bytes, uint64_t seed)
{
    pattern_fill_at(buffer, bytes, seed, 0);
}

/* The first offset that differs from the pattern, or `bytes`. */
static size_t first_difference(const unsigned char *in, size_t bytes, uint64_t seed, size_t offset)
{
    size_t i = 0;

    for (; i < bytes && (offset + i) % 8 != 0; i++)
        if (in[i] != pattern_byte(seed, offset + i))
            return i;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, in + i, 8);
        if (word != pattern_word(seed, (offset + i) / 8))
            break;
    }
    for (; i < bytes; i++)
        if (in[i] != pattern_byte(seed, offset + i))
            return i;
    return bytes;
}

static void report_bytes(const unsigned char *in, size_t bytes, uint64_t seed, size_t offset, size_t first,
                         const char *what, va_list list)
{
    char text[256], why[256];
    size_t wrong = 0, last = first;

    for (size_t i = first; i < bytes; i++)
        if (in[i] != pattern_byte(seed, offset + i)) {
            wrong++;
            last = i;
        }
    vsnprintf(text, sizeof text, what, list);
    snprintf(why, sizeof why,
             "offset %zu of %zu: expected 0x%02x, got 0x%02x; %zu bytes differ, the last at offset %zu", first,
             bytes, pattern_byte(seed, offset + first), in[first], wrong, last);
    fail_line(text, why);
}

static void check_bytes_list(const void *buffer, size_t bytes, uint64_t seed, size_t offset, const char *what,
                             va_list list)
{
    size_t first;

    if (bytes != 0 && fault_due())
        ((unsigned char *)buffer)[seed % bytes] ^= 0x10;
    first = first_difference(buffer, bytes, seed, offset);
    if (first != bytes)
        report_bytes(buffer, bytes, seed, offset, first, what, list);
}

void check_bytes_at(const void *buffer, size_t bytes, uint64_t seed, size_t offset, const char *what, ...)
{
    va_list list;

    va_start(list, what);
    check_bytes_list(buffer, bytes, seed, offset, what, list);
    va_end(list);
}

void check_bytes(const void *buffer, size_t bytes, uint64_t seed, const char *what, ...)
{
    va_list list;

    va_start(list, what);
    check_bytes_list(buffer, bytes, seed, 0, what, list);
    va_end(list);
}

uint64_t rng_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t rng_below(uint64_t *state, uint64_t bound)
{
    return bound ? rng_next(state) % bound : 0;
}

size_t rng_size(uint64_t *state, size_t size_max)
{
    int bits = 0;

    while (bits < 63 && (size_max >> bits) != 0)
        bits++;
    uint64_t ceiling = UINT64_C(1) << rng_below(state, (uint64_t)bits + 1);
    size_t size = (size_t)rng_below(state, ceiling);
    return size > size_max ? size_max : size;
}

void rng_shuffle(uint64_t *state, int *items, int count)
{
    for (int i = count - 1; i > 0; i--) {
        int j = (int)rng_below(state, (uint64_t)i + 1);
        int held = items[i];
        items[i] = items[j];
        items[j] = held;
    }
}

uint64_t seed_of(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    uint64_t state = a;
    state = rng_next(&state) ^ b;
    state = rng_next(&state) ^ c;
    state = rng_next(&state) ^ d;
    return rng_next(&state);
}

struct guarded guarded_new(size_t bytes, size_t misalign)
{
    struct guarded memory;

    memory.bytes = bytes;
    memory.base = check_malloc(bytes + misalign + 2 * GUARD_BYTES);
    memory.data = memory.base + GUARD_BYTES + misalign;
    memset(memory.base, GUARD_VALUE, (size_t)(memory.data - memory.base));
    memset(memory.data, 0, bytes);
    memset(memory.data + bytes, GUARD_VALUE, GUARD_BYTES);
    return memory;
}

void guarded_check(const struct guarded *memory, const char *what)
{
    size_t before = (size_t)(memory->data - memory->base);

    for (size_t i = 0; i < before; i++)
        check_that(memory->base[i] == GUARD_VALUE, "%s: wrote %zu bytes before a buffer of %zu bytes", what,
                   before - i, memory->bytes);
    for (size_t i = 0; i < GUARD_BYTES; i++)
        check_that(memory->data[memory->bytes + i] == GUARD_VALUE,
                   "%s: wrote %zu bytes past the end of a buffer of %zu bytes", what, i + 1, memory->bytes);
}

void guarded_free(struct guarded *memory)
{
    free(memory->base);
    memory->base = memory->data = NULL;
}
