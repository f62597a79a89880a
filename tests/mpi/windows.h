/*
 * Windows of every kind behind one description, and the ways to open and close an epoch on them.
 *
 * All displacements are in bytes and relative to the start of the exposed memory, also for dynamic
 * windows, where MPI itself wants absolute addresses.
 */
#ifndef IRONBAND_WINDOWS_H
#define IRONBAND_WINDOWS_H

#include <mpi.h>
#include <stddef.h>

enum window_kind { WINDOW_CREATE, WINDOW_ALLOCATE, WINDOW_DYNAMIC, WINDOW_KINDS };

struct window {
    enum window_kind kind;
    MPI_Win win;
    MPI_Comm comm;
    int rank, size;
    unsigned char *memory;
    size_t bytes;
    MPI_Aint *start; /* of each rank */
};

const char *window_kind_name(enum window_kind kind);
/* The kinds named by argument window=create|allocate|dynamic; all of them by default. */
int window_kind_wanted(enum window_kind kind);

/* Collective over `comm`; exposes `bytes` zeroed bytes on each rank. */
void window_open(struct window *window, enum window_kind kind, MPI_Comm comm, size_t bytes);
void window_close(struct window *window);

/* MPI's displacement of byte `offset` of `target`'s memory. */
MPI_Aint window_at(const struct window *window, int target, size_t offset);

/* Orders this rank's own loads and stores with the other ranks' accesses; collective. */
void window_settle(struct window *window);

enum epoch { EPOCH_FENCE, EPOCH_PSCW, EPOCH_LOCK_SHARED, EPOCH_LOCK_EXCLUSIVE, EPOCH_LOCK_ALL, EPOCHS };

const char *epoch_name(enum epoch epoch);
/* Opens an access epoch to `target` on every rank; `origin` is the rank that accesses this one. */
void epoch_open(struct window *window, enum epoch epoch, int target, int origin);
/* Completes everything issued so far, at both ends, inside the epoch where the kind allows it. */
void epoch_flush(struct window *window, enum epoch epoch, int target);
void epoch_close(struct window *window, enum epoch epoch, int target);

#endif
