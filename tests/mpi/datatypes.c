/*
 * Derived datatypes: every layout to itself, and every pair of layouts with the same signature.
 *
 * A layout is described twice: as an MPI datatype, and as a list of (offset, length) blocks of ints
 * written down by this program. The receiver's expectation comes from the blocks alone, so MPI's
 * datatype engine is not its own judge. Holes must stay as they were.
 *
 * Needs an even number of ranks; rank r exchanges with r ^ 1.  Arguments: quick (1: no large ones)
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { LAYOUTS = 11, TAG = 21, UNIT = (int)sizeof(int) };

/* One element: blocks in typemap order, offsets and lengths in ints, extent in ints. */
struct layout {
    const char *name;
    MPI_Datatype type;
    int *offsets, *lengths;
    int blocks;
    size_t extent;
};

static long long messages;

static void layout_block(struct layout *layout, int offset, int length)
{
    size_t room = sizeof(int) * (size_t)(layout->blocks + 1);

    layout->offsets = realloc(layout->offsets, room);
    layout->lengths = realloc(layout->lengths, room);
    check_that(layout->offsets && layout->lengths, "no memory for %zu bytes of layout", room);
    layout->offsets[layout->blocks] = offset;
    layout->lengths[layout->blocks++] = length;
}

static void layout_vector(struct layout *layout, int count, int length, int stride)
{
    for (int i = 0; i < count; i++)
        layout_block(layout, i * stride, length);
    layout->extent = (size_t)((count - 1) * stride + length);
}

/* Gives the element an extent of its own, so that consecutive elements leave a hole. */
static void layout_resize(struct layout *layout, int extent)
{
    MPI_Datatype inner = layout->type;

    MPI_Type_create_resized(inner, 0, (MPI_Aint)extent * UNIT, &layout->type);
    MPI_Type_free(&inner);
    layout->extent = (size_t)extent;
}

static void build_indexed(struct layout *layout, int n, int descending)
{
    int count = n / 2, *lengths = check_malloc(sizeof(int) * (size_t)count);
    int *offsets = check_malloc(sizeof(int) * (size_t)count), at = 0;

    /* Lengths 1, 2, 3 in turn; gaps of 0 to 3. Descending: the typemap runs backwards in memory. */
    for (int i = 0; i < count; i++) {
        lengths[i] = 1 + i % 3;
        offsets[i] = at;
        at += lengths[i] + i % 4;
    }
    if (descending)
        for (int i = 0; i < count; i++)
            offsets[i] = at - offsets[i] - lengths[i];
    MPI_Type_indexed(count, lengths, offsets, MPI_INT, &layout->type);
    for (int i = 0; i < count; i++)
        layout_block(layout, offsets[i], lengths[i]);
    layout_resize(layout, at);
    free(lengths);
    free(offsets);
}

static void build_indexed_block(struct layout *layout, int n)
{
    int *offsets = check_malloc(sizeof(int) * (size_t)n);

    for (int i = 0; i < n; i++) {
        offsets[i] = i * 2 + (i % 5 == 0);
        layout_block(layout, offsets[i], 1);
    }
    MPI_Type_create_indexed_block(n, 1, offsets, MPI_INT, &layout->type);
    layout_resize(layout, 2 * n + 1);
    free(offsets);
}

static void build_struct(struct layout *layout, int n)
{
    int lengths[3] = {n / 2, n / 4, n / 4};
    int at[3] = {0, n / 2 + 3, n / 2 + n / 4 + 8};
    MPI_Aint displacements[3] = {(MPI_Aint)at[0] * UNIT, (MPI_Aint)at[1] * UNIT, (MPI_Aint)at[2] * UNIT};
    MPI_Datatype types[3] = {MPI_INT, MPI_INT, MPI_INT};

    MPI_Type_create_struct(3, lengths, displacements, types, &layout->type);
    for (int i = 0; i < 3; i++)
        layout_block(layout, at[i], lengths[i]);
    layout_resize(layout, n + 20);
}

static void build_subarray(struct layout *layout, int n)
{
    int rows = n / 6, sizes[3] = {4, 5, rows + 7}, sub[3] = {2, 3, rows}, start[3] = {1, 2, 5};

    MPI_Type_create_subarray(3, sizes, sub, start, MPI_ORDER_C, MPI_INT, &layout->type);
    for (int i = 0; i < sub[0]; i++)
        for (int j = 0; j < sub[1]; j++)
            layout_block(layout, ((i + start[0]) * sizes[1] + j + start[1]) * sizes[2] + start[2], rows);
    layout->extent = (size_t)(sizes[0] * sizes[1] * sizes[2]);
}

/* A vector of structs of two ints around a hole of one. */
static void build_nested(struct layout *layout, int n)
{
    int lengths[2] = {1, 1};
    MPI_Aint displacements[2] = {0, 2 * UNIT};
    MPI_Datatype types[2] = {MPI_INT, MPI_INT}, pair, pairs;

    MPI_Type_create_struct(2, lengths, displacements, types, &pair);
    MPI_Type_create_resized(pair, 0, 4 * UNIT, &pairs);
    MPI_Type_vector(n / 4, 2, 3, pairs, &layout->type);
    for (int i = 0; i < n / 4; i++)
        for (int j = 0; j < 2; j++) {
            layout_block(layout, (i * 3 + j) * 4, 1);
            layout_block(layout, (i * 3 + j) * 4 + 2, 1);
        }
    layout_resize(layout, 3 * n);
    MPI_Type_free(&pair);
    MPI_Type_free(&pairs);
}

/* All layouts hold n ints (a multiple of 12) in an element, so any can be sent to any. */
static void build(struct layout *layouts, int n)
{
    static const char *const names[LAYOUTS] = {"contiguous", "vector", "hvector of single ints", "indexed",
                                               "indexed descending", "indexed block", "struct", "resized vector",
                                               "subarray", "vector of structs", "dup of a vector"};
    MPI_Datatype inner;

    memset(layouts, 0, sizeof *layouts * LAYOUTS);
    for (int i = 0; i < LAYOUTS; i++)
        layouts[i].name = names[i];
    MPI_Type_contiguous(n, MPI_INT, &layouts[0].type);
    layout_vector(&layouts[0], 1, n, n);
    MPI_Type_vector(n / 3, 3, 5, MPI_INT, &layouts[1].type);
    layout_vector(&layouts[1], n / 3, 3, 5);
    MPI_Type_create_hvector(n, 1, 3 * UNIT, MPI_INT, &layouts[2].type);
    layout_vector(&layouts[2], n, 1, 3);
    build_indexed(&layouts[3], n, 0);
    build_indexed(&layouts[4], n, 1);
    build_indexed_block(&layouts[5], n);
    build_struct(&layouts[6], n);
    MPI_Type_vector(n / 6, 6, 9, MPI_INT, &layouts[7].type);
    layout_vector(&layouts[7], n / 6, 6, 9);
    layout_resize(&layouts[7], 2 * n + 3);
    build_subarray(&layouts[8], n);
    build_nested(&layouts[9], n);
    MPI_Type_vector(n / 4, 4, 7, MPI_INT, &inner);
    MPI_Type_dup(inner, &layouts[10].type);
    MPI_Type_free(&inner);
    layout_vector(&layouts[10], n / 4, 4, 7);
    for (int i = 0; i < LAYOUTS; i++)
        MPI_Type_commit(&layouts[i].type);
}

static void demolish(struct layout *layouts)
{
    for (int i = 0; i < LAYOUTS; i++) {
        MPI_Type_free(&layouts[i].type);
        free(layouts[i].offsets);
        free(layouts[i].lengths);
    }
}

/* Checks the receive buffer: data where the layout has it, the hole pattern everywhere else. */
static void check_layout(const struct layout *to, const struct layout *from, int count, unsigned char *in,
                         size_t ints, uint64_t seed, uint64_t hole)
{
    size_t stream = 0;
    /* The holes are checked after the data has been replaced by what was there before. */
    for (int e = 0; e < count; e++)
        for (int b = 0; b < to->blocks; b++) {
            size_t at = ((size_t)e * to->extent + (size_t)to->offsets[b]) * UNIT;
            size_t bytes = (size_t)to->lengths[b] * UNIT;
            check_bytes_at(in + at, bytes, seed, stream, "%s -> %s, element %d of %d, block %d at byte %zu",
                           from->name, to->name, e, count, b, at);
            stream += bytes;
            pattern_fill_at(in + at, bytes, hole, at);
        }
    check_bytes(in, ints * UNIT, hole, "hole of %s -> %s, %d elements", from->name, to->name, count);
    messages++;
}

/* The stream of data bytes is the same for every pair; only where it lies differs. */
static void scatter_stream(const struct layout *from, int count, unsigned char *out, uint64_t seed)
{
    size_t stream = 0;

    for (int e = 0; e < count; e++)
        for (int b = 0; b < from->blocks; b++) {
            size_t bytes = (size_t)from->lengths[b] * UNIT;
            pattern_fill_at(out + ((size_t)e * from->extent + (size_t)from->offsets[b]) * UNIT, bytes, seed, stream);
            stream += bytes;
        }
}

static void transfer(const struct layout *from, const struct layout *to, int n, int count, int sending)
{
    int peer = check_rank ^ 1;
    uint64_t seed = seed_of(6, (uint64_t)(check_rank / 2), (uint64_t)n, (uint64_t)messages), hole = ~seed;
    const struct layout *mine = sending ? from : to;
    size_t ints = mine->extent * (size_t)count;
    unsigned char *memory = check_malloc(ints * UNIT);
    MPI_Status status;

    check_phase("%s -> %s, %d x %d ints", from->name, to->name, count, n);
    if (sending) {
        memset(memory, 0x5A, ints * UNIT);
        scatter_stream(from, count, memory, seed);
        MPI_Send(memory, count, from->type, peer, TAG, MPI_COMM_WORLD);
        messages++;
    } else {
        pattern_fill(memory, ints * UNIT, hole);
        MPI_Recv(memory, count, to->type, peer, TAG, MPI_COMM_WORLD, &status);
        check_status(&status, peer, TAG, (size_t)n * (size_t)count * UNIT);
        check_layout(to, from, count, memory, ints, seed, hole);
    }
    free(memory);
}

/* A struct of unlike members, as a compiler lays it out. */
struct particle {
    char kind;
    double position[3];
    short charge;
    long long id;
    float weight;
};

static void particles(int count)
{
    int lengths[5] = {1, 3, 1, 1, 1}, peer = check_rank ^ 1;
    MPI_Aint at[5] = {offsetof(struct particle, kind), offsetof(struct particle, position),
                      offsetof(struct particle, charge), offsetof(struct particle, id),
                      offsetof(struct particle, weight)};
    MPI_Datatype types[5] = {MPI_CHAR, MPI_DOUBLE, MPI_SHORT, MPI_LONG_LONG, MPI_FLOAT}, packed, type;
    struct particle *out = check_malloc(sizeof *out * (size_t)count);
    struct particle *in = check_malloc(sizeof *in * (size_t)count);

    MPI_Type_create_struct(5, lengths, at, types, &packed);
    MPI_Type_create_resized(packed, 0, sizeof *out, &type);
    MPI_Type_commit(&type);
    for (int i = 0; i < count; i++)
        out[i] = (struct particle){(char)i, {i, i * 0.5, check_rank}, (short)-i, i * 1000000007LL, (float)i / 4};
    memset(in, 0, sizeof *in * (size_t)count);
    check_phase("%d particles", count);
    MPI_Sendrecv(out, count, type, peer, TAG, in, count, type, peer, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int i = 0; i < count; i++) {
        check_value(in[i].kind, (char)i, "kind of particle %d", i);
        check_value(in[i].charge, (short)-i, "charge of particle %d", i);
        check_value(in[i].id, i * 1000000007LL, "id of particle %d", i);
        check_that(in[i].weight == (float)i / 4, "weight of particle %d is %f", i, (double)in[i].weight);
        check_that(in[i].position[0] == i && in[i].position[1] == i * 0.5 && in[i].position[2] == peer,
                   "position of particle %d is %f %f %f", i, in[i].position[0], in[i].position[1],
                   in[i].position[2]);
    }
    MPI_Type_free(&packed);
    MPI_Type_free(&type);
    free(in);
    free(out);
}

/* Both directions of every pair, or only of pairs with the contiguous layout or the same one. */
static void all_pairs(int n, int count, int every_pair)
{
    struct layout layouts[LAYOUTS];

    build(layouts, n);
    for (int i = 0; i < LAYOUTS; i++)
        for (int j = 0; j < LAYOUTS; j++)
            if (every_pair || i == j || i == 0 || j == 0) {
                int parity = (i + j) & 1;
                transfer(&layouts[i], &layouts[j], n, count, (check_rank & 1) == parity);
                transfer(&layouts[i], &layouts[j], n, count, (check_rank & 1) != parity);
            }
    demolish(layouts);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv, "datatypes", MPI_THREAD_SINGLE);
    check_that(check_size % 2 == 0, "needs an even number of ranks, got %d", check_size);
    all_pairs(12, 0, 1);
    all_pairs(12, 1, 1);
    all_pairs(12, 5, 1);
    all_pairs(24, 40, 1);
    all_pairs(12, 1000, 1);
    all_pairs(1200, 100, 1);
    all_pairs(12 * 5000, 1, 1);
    if (!check_option("quick", 0)) {
        all_pairs(12 * 65536, 1, 0);
        all_pairs(12 * 3001, 30, 0);
    }
    for (int count = 1; count <= 100000; count *= 10)
        particles(count);
    return check_end("messages of rank 0=%lld", messages);
}
