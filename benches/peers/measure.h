/*
 * What the drivers of other transports' registration caches share: the memory, the order in which it is used, and the clock.
 * Each prints lines `NAME NANOSECONDS`, by the names of benches/benches/registration_cache.rs.
 */
#ifndef IRONBAND_MEASURE_H
#define IRONBAND_MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Regions are a page long, with a page between, so that none merge. */
enum { PAGE = 4096, MANY = 10000, STRIDE = 2 * PAGE };

static char *memory;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void *place(long index)
{
    return memory + index * (long)STRIDE;
}

/* Addresses are what counts: the pages behind them are never touched. */
static void reserve(long regions)
{
    memory = mmap(NULL, (size_t)regions * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
}

static uint64_t state = 88172645463325252ull;

static long below(long bound)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (long)((state >> 16) % (uint64_t)bound);
}

/* use(address): gets a registration and gives it back. */
static void measure(void (*use)(void *))
{
    enum { HITS = 300000, MISSES = 10000 };
    double start;

    reserve(MANY + MISSES);
    use(place(0));
    start = now();
    for (int i = 0; i < HITS; i++)
        use(place(0));
    printf("hit_same %.1f\n", (now() - start) / HITS);
    start = now();
    for (int i = 1; i < MANY; i++)
        use(place(i));
    printf("miss %.1f\n", (now() - start) / (MANY - 1));
    /* The order is part of no one's cost. */
    long *order = malloc(sizeof *order * HITS);
    for (int i = 0; i < HITS; i++)
        order[i] = below(MANY);
    start = now();
    for (int i = 0; i < HITS; i++)
        use(place(order[i]));
    printf("hit_random %.1f\n", (now() - start) / HITS);
}

#endif
