/*
 * Atomic one-sided operations: MPI_Fetch_and_op, MPI_Compare_and_swap and MPI_Get_accumulate for
 * every C integer type of 4 and 8 bytes (and, for what MPI allows, of 1 and 2), every predefined
 * operation, and the floating-point types; MPI_Accumulate with all of them.
 *
 * Each result is checked against plain C arithmetic, at random aligned places of the window. What
 * happens when several ranks use one word is in rma_contention.c.
 *
 * Over Open MPI 4.1.4's own vader, MPI_Compare_and_swap on one's own memory, or on any of a window
 * from MPI_Win_allocate, crashes: osc/rdma then gives the BTL no endpoint and an address in the
 * caller's address space. swaps=0 leaves it out, to try the rest over vader.
 *
 * Arguments: window = create | allocate | dynamic | all, repeats, swaps, threads (1: MPI_THREAD_MULTIPLE)
 */
#include "check.h"
#include "windows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = 64, WINDOW_BYTES = 1 << 16, REPLACE = 10, OPERATIONS = 12 };

struct integer {
    const char *name;
    MPI_Datatype type;
    int bytes, is_signed;
};

struct operation {
    const char *name;
    MPI_Op op;
};

static struct integer integers[24];
static int integer_count;
static const struct operation operations[OPERATIONS] = {
    {"MPI_SUM", MPI_SUM},   {"MPI_PROD", MPI_PROD}, {"MPI_MIN", MPI_MIN},   {"MPI_MAX", MPI_MAX},
    {"MPI_BAND", MPI_BAND}, {"MPI_BOR", MPI_BOR},   {"MPI_BXOR", MPI_BXOR}, {"MPI_LAND", MPI_LAND},
    {"MPI_LOR", MPI_LOR},   {"MPI_LXOR", MPI_LXOR}, {"MPI_REPLACE", MPI_REPLACE}, {"MPI_NO_OP", MPI_NO_OP}};

static long long operations_done;
static int swaps;
static char broken[24][OPERATIONS];

static void integer_add(const char *name, MPI_Datatype type, size_t bytes, int is_signed)
{
    integers[integer_count++] = (struct integer){name, type, (int)bytes, is_signed};
}

static void list_integers(void)
{
    integer_add("MPI_INT", MPI_INT, sizeof(int), 1);
    integer_add("MPI_UNSIGNED", MPI_UNSIGNED, sizeof(unsigned), 0);
    integer_add("MPI_LONG", MPI_LONG, sizeof(long), 1);
    integer_add("MPI_UNSIGNED_LONG", MPI_UNSIGNED_LONG, sizeof(unsigned long), 0);
    integer_add("MPI_LONG_LONG", MPI_LONG_LONG, sizeof(long long), 1);
    integer_add("MPI_UNSIGNED_LONG_LONG", MPI_UNSIGNED_LONG_LONG, sizeof(unsigned long long), 0);
    integer_add("MPI_INT32_T", MPI_INT32_T, 4, 1);
    integer_add("MPI_UINT32_T", MPI_UINT32_T, 4, 0);
    integer_add("MPI_INT64_T", MPI_INT64_T, 8, 1);
    integer_add("MPI_UINT64_T", MPI_UINT64_T, 8, 0);
    integer_add("MPI_AINT", MPI_AINT, sizeof(MPI_Aint), 1);
    integer_add("MPI_OFFSET", MPI_OFFSET, sizeof(MPI_Offset), 1);
    integer_add("MPI_COUNT", MPI_COUNT, sizeof(MPI_Count), 1);
    integer_add("MPI_SHORT", MPI_SHORT, sizeof(short), 1);
    integer_add("MPI_UNSIGNED_SHORT", MPI_UNSIGNED_SHORT, sizeof(short), 0);
    integer_add("MPI_INT8_T", MPI_INT8_T, 1, 1);
    integer_add("MPI_UINT8_T", MPI_UINT8_T, 1, 0);
    integer_add("MPI_INT16_T", MPI_INT16_T, 2, 1);
    integer_add("MPI_UINT16_T", MPI_UINT16_T, 2, 0);
}

/* The value as the type would hold it: cut to its width, then sign- or zero-extended. */
static int64_t fit(const struct integer *type, uint64_t value)
{
    int shift = 64 - 8 * type->bytes;

    return type->is_signed ? (int64_t)(value << shift) >> shift : (int64_t)((value << shift) >> shift);
}

static int64_t load(const struct integer *type, const void *memory)
{
    uint64_t value = 0;

    memcpy(&value, memory, (size_t)type->bytes);
    return fit(type, value);
}

static void store(const struct integer *type, void *memory, uint64_t value)
{
    memcpy(memory, &value, (size_t)type->bytes);
}

/* What `target = target op origin` gives. */
static int64_t apply(const struct integer *type, int operation, int64_t target, int64_t origin)
{
    int less = type->is_signed ? target < origin : (uint64_t)target < (uint64_t)origin;

    switch (operation) {
    case 0:
        return fit(type, (uint64_t)target + (uint64_t)origin);
    case 1:
        return fit(type, (uint64_t)target * (uint64_t)origin);
    case 2:
        return less ? target : origin;
    case 3:
        return less ? origin : target;
    case 4:
        return fit(type, (uint64_t)target & (uint64_t)origin);
    case 5:
        return fit(type, (uint64_t)target | (uint64_t)origin);
    case 6:
        return fit(type, (uint64_t)target ^ (uint64_t)origin);
    case 7:
        return target && origin;
    case 8:
        return target || origin;
    case 9:
        return !target != !origin;
    case 10:
        return origin;
    default:
        return target;
    }
}

/* Whether MPI_Reduce_local agrees with C, for short and long vectors of ordinary and edge values. */
static int reduces_locally(const struct integer *type, int operation)
{
    static const uint64_t edges[] = {0, 1, 0x7F, 0x80, UINT64_C(1) << 63, UINT64_C(0x8000800080008080), ~UINT64_C(0)};
    enum { EDGES = sizeof edges / sizeof edges[0], LENGTH = EDGES * EDGES + 50 };
    unsigned char in[LENGTH * 8], out[LENGTH * 8];
    int64_t a[LENGTH], b[LENGTH];
    uint64_t rng = 1;

    for (int length = 1; length <= LENGTH; length += LENGTH / 9)
        for (int first = 0; first + length <= LENGTH; first += length) {
            for (int i = 0; i < length; i++) {
                int at = first + i, is_edge = at < EDGES * EDGES;
                a[i] = fit(type, is_edge ? edges[at / EDGES] : rng_next(&rng));
                b[i] = fit(type, is_edge ? edges[at % EDGES] : rng_next(&rng));
                store(type, in + i * type->bytes, (uint64_t)a[i]);
                store(type, out + i * type->bytes, (uint64_t)b[i]);
            }
            MPI_Reduce_local(in, out, length, type->type, operations[operation].op);
            for (int i = 0; i < length; i++)
                if (load(type, out + i * type->bytes) != apply(type, operation, b[i], a[i]))
                    return 0;
        }
    return 1;
}

/*
 * An operation that Open MPI's own local reduction gets wrong says nothing about a transport: it is
 * named and left out. (4.1.4 compares MPI_UNSIGNED_LONG as signed and MPI_OFFSET as unsigned, and its
 * AVX code saturates sums of 1 and 2 bytes instead of wrapping, which MPI does not define.)
 */
static void find_broken(void)
{
    for (int i = 0; i < integer_count; i++)
        for (int operation = 0; operation < REPLACE; operation++) {
            broken[i][operation] = !reduces_locally(&integers[i], operation);
            if (broken[i][operation] && check_rank == 0)
                printf("left out: %s of %s, for which MPI_Reduce_local differs from C\n", operations[operation].name,
                       integers[i].name);
        }
}

/* One origin at a time on its target: results are exact. */
static void one_fetch_and_op(struct window *w, const struct integer *type, int operation, int target, size_t offset,
                             uint64_t *rng)
{
    unsigned char origin[8], result[8], read_back[8];
    uint64_t a = rng_next(rng), b = rng_below(rng, 3) ? rng_next(rng) : 0;
    const char *op = operations[operation].name;
    MPI_Aint at = window_at(w, target, offset);

    store(type, origin, a);
    MPI_Put(origin, 1, type->type, target, at, 1, type->type, w->win);
    MPI_Win_flush(target, w->win);
    store(type, origin, b);
    memset(result, 0xAA, sizeof result);
    MPI_Fetch_and_op(origin, result, type->type, target, at, operations[operation].op, w->win);
    MPI_Win_flush(target, w->win);
    check_value(load(type, result), fit(type, a), "value fetched by MPI_Fetch_and_op %s %s at offset %zu of rank %d", op,
                type->name, offset, target);
    MPI_Get(read_back, 1, type->type, target, at, 1, type->type, w->win);
    MPI_Win_flush(target, w->win);
    check_value(load(type, read_back), apply(type, operation, fit(type, a), fit(type, b)),
                "value after MPI_Fetch_and_op %s %s of 0x%llx at offset %zu of rank %d", op, type->name,
                (unsigned long long)fit(type, b), offset, target);
    operations_done++;
}

static void one_compare_and_swap(struct window *w, const struct integer *type, int equal, int target, size_t offset,
                                 uint64_t *rng)
{
    unsigned char present[8], compare[8], swap[8], result[8], read_back[8];
    uint64_t a = rng_next(rng), b = rng_next(rng), other = a ^ (UINT64_C(1) << rng_below(rng, 8 * (uint64_t)type->bytes));
    MPI_Aint at = window_at(w, target, offset);

    store(type, present, a);
    store(type, compare, equal ? a : other);
    store(type, swap, b);
    memset(result, 0xAA, sizeof result);
    MPI_Put(present, 1, type->type, target, at, 1, type->type, w->win);
    MPI_Win_flush(target, w->win);
    MPI_Compare_and_swap(swap, compare, result, type->type, target, at, w->win);
    MPI_Win_flush(target, w->win);
    MPI_Get(read_back, 1, type->type, target, at, 1, type->type, w->win);
    MPI_Win_flush(target, w->win);
    check_value(load(type, result), fit(type, a), "value fetched by MPI_Compare_and_swap %s (%s) at offset %zu of rank %d",
                type->name, equal ? "equal" : "unequal", offset, target);
    check_value(load(type, read_back), fit(type, equal ? b : a),
                "value after MPI_Compare_and_swap %s (%s) at offset %zu of rank %d", type->name,
                equal ? "equal" : "unequal", offset, target);
    operations_done++;
}

/* A vector of elements; the first and the last word around it must stay. */
static void one_get_accumulate(struct window *w, const struct integer *type, int operation, int target, size_t offset,
                               int count, uint64_t *rng)
{
    enum { ROOM = (WORDS + 2) * 8 };
    unsigned char before[ROOM], origin[ROOM], result[ROOM], after[ROOM];
    size_t width = (size_t)type->bytes, room = (size_t)(count + 2) * width;
    MPI_Aint at = window_at(w, target, offset);

    for (size_t i = 0; i < ROOM; i++) {
        before[i] = (unsigned char)rng_next(rng);
        origin[i] = rng_below(rng, 4) ? (unsigned char)rng_next(rng) : 0;
    }
    MPI_Put(before, (int)room, MPI_BYTE, target, at, (int)room, MPI_BYTE, w->win);
    MPI_Win_flush(target, w->win);
    if (operation % 2 && operation != 11)
        MPI_Accumulate(origin, count, type->type, target, at + (MPI_Aint)width, count, type->type,
                       operations[operation].op, w->win);
    else
        MPI_Get_accumulate(origin, count, type->type, result, count, type->type, target, at + (MPI_Aint)width, count,
                           type->type, operations[operation].op, w->win);
    MPI_Win_flush(target, w->win);
    MPI_Get(after, (int)room, MPI_BYTE, target, at, (int)room, MPI_BYTE, w->win);
    MPI_Win_flush(target, w->win);
    for (int i = 0; i < count; i++) {
        int64_t old = load(type, before + (size_t)(i + 1) * width), new = load(type, origin + (size_t)i * width);
        if (operation % 2 == 0 || operation == 11)
            check_value(load(type, result + (size_t)i * width), old, "element %d fetched by MPI_Get_accumulate %s %s", i,
                        operations[operation].name, type->name);
        check_value(load(type, after + (size_t)(i + 1) * width), apply(type, operation, old, new),
                    "element %d of %d after accumulate %s %s at offset %zu", i, count, operations[operation].name,
                    type->name, offset);
    }
    check_value(memcmp(before, after, width), 0, "word before an accumulate of %s", type->name);
    check_value(memcmp(before + room - width, after + room - width, width), 0, "word after an accumulate of %s",
                type->name);
    operations_done++;
}

static void alone(struct window *w, int repeats)
{
    uint64_t rng = seed_of(300, (uint64_t)w->rank, (uint64_t)w->kind, 0);

    MPI_Win_lock_all(0, w->win);
    for (int repeat = 0; repeat < repeats; repeat++)
        for (int i = 0; i < integer_count; i++) {
            const struct integer *type = &integers[i];
            /* Each origin has a part of its own in its targets, so that it is alone there. */
            size_t part = (size_t)WINDOW_BYTES / (size_t)w->size, base = part * (size_t)w->rank / 64 * 64;
            int target = (w->rank + repeat) % w->size;
            size_t offset = base + (size_t)type->bytes * rng_below(&rng, 8);
            check_phase("%s window, %s, target %d", window_kind_name(w->kind), type->name, target);
            for (int operation = 0; operation < OPERATIONS; operation++) {
                if (broken[i][operation])
                    continue;
                one_fetch_and_op(w, type, operation, target, offset, &rng);
                one_get_accumulate(w, type, operation, target, offset, 1 + (int)rng_below(&rng, WORDS), &rng);
            }
            for (int equal = 0; equal < 2 && swaps; equal++)
                one_compare_and_swap(w, type, equal, target, offset, &rng);
        }
    MPI_Win_unlock_all(w->win);
    MPI_Barrier(w->comm);
}

static void floating_point(struct window *w)
{
    double d = 1.25, d_back = -1, d_seen = -1;
    float f = 0.5f, f_back = -1, f_seen = -1;
    int target = (w->rank + 1) % w->size;
    size_t base = 128 * (size_t)w->rank;

    window_settle(w);
    memset(w->memory, 0, WINDOW_BYTES);
    window_settle(w);
    MPI_Win_lock_all(0, w->win);
    for (int i = 0; i < 10; i++) {
        MPI_Fetch_and_op(&d, &d_back, MPI_DOUBLE, target, window_at(w, target, base), MPI_SUM, w->win);
        MPI_Fetch_and_op(&f, &f_back, MPI_FLOAT, target, window_at(w, target, base + 8), MPI_SUM, w->win);
        MPI_Win_flush(target, w->win);
        check_that(d_back == 1.25 * i, "MPI_DOUBLE fetched is %f, expected %f", d_back, 1.25 * i);
        check_that(f_back == 0.5f * (float)i, "MPI_FLOAT fetched is %f, expected %f", (double)f_back, 0.5 * i);
    }
    MPI_Get(&d_seen, 1, MPI_DOUBLE, target, window_at(w, target, base), 1, MPI_DOUBLE, w->win);
    MPI_Get(&f_seen, 1, MPI_FLOAT, target, window_at(w, target, base + 8), 1, MPI_FLOAT, w->win);
    MPI_Win_flush(target, w->win);
    check_that(d_seen == 12.5 && f_seen == 5.0f, "sums are %f and %f, expected 12.5 and 5", d_seen, (double)f_seen);
    MPI_Win_unlock_all(w->win);
    MPI_Barrier(w->comm);
}

int main(int argc, char **argv)
{
    int repeats;

    check_begin(argc, argv, "rma_atomics", MPI_THREAD_SINGLE);
    repeats = (int)check_option("repeats", 4);
    swaps = (int)check_option("swaps", 1);
    check_that(check_size <= 32, "needs at most 32 ranks, got %d", check_size);
    list_integers();
    find_broken();
    for (int kind = 0; kind < WINDOW_KINDS; kind++) {
        struct window window;
        if (!window_kind_wanted((enum window_kind)kind))
            continue;
        window_open(&window, (enum window_kind)kind, MPI_COMM_WORLD, WINDOW_BYTES);
        alone(&window, repeats);
        floating_point(&window);
        window_close(&window);
    }
    return check_end("window=%s operations of rank 0=%lld", check_option_text("window", "all"), operations_done);
}
