/* See windows.h. */
#include "windows.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

static const char *const kind_names[WINDOW_KINDS] = {"create", "allocate", "dynamic"};
static const char *const epoch_names[EPOCHS] = {"fence", "post-start-complete-wait", "lock shared", "lock exclusive",
                                                "lock_all and flush"};

const char *window_kind_name(enum window_kind kind)
{
    return kind_names[kind];
}

int window_kind_wanted(enum window_kind kind)
{
    const char *wanted = check_option_text("window", "all");

    for (int i = 0; i < WINDOW_KINDS; i++)
        if (strcmp(wanted, kind_names[i]) == 0)
            return (int)kind == i;
    check_that(strcmp(wanted, "all") == 0, "window=%s is none of create, allocate, dynamic, all", wanted);
    return 1;
}

void window_open(struct window *window, enum window_kind kind, MPI_Comm comm, size_t bytes)
{
    MPI_Aint mine = 0;

    window->kind = kind;
    window->comm = comm;
    window->bytes = bytes;
    MPI_Comm_rank(comm, &window->rank);
    MPI_Comm_size(comm, &window->size);
    check_phase("MPI_Win_%s of %zu bytes", kind_names[kind], bytes);
    switch (kind) {
    case WINDOW_CREATE:
        window->memory = check_malloc(bytes);
        MPI_Win_create(window->memory, (MPI_Aint)bytes, 1, MPI_INFO_NULL, comm, &window->win);
        break;
    case WINDOW_ALLOCATE:
        MPI_Win_allocate((MPI_Aint)bytes, 1, MPI_INFO_NULL, comm, &window->memory, &window->win);
        break;
    default:
        window->memory = check_malloc(bytes);
        MPI_Win_create_dynamic(MPI_INFO_NULL, comm, &window->win);
        MPI_Win_attach(window->win, window->memory, (MPI_Aint)bytes);
        MPI_Get_address(window->memory, &mine);
        break;
    }
    memset(window->memory, 0, bytes);
    window->start = check_malloc(sizeof *window->start * (size_t)window->size);
    MPI_Allgather(&mine, 1, MPI_AINT, window->start, 1, MPI_AINT, comm);
}

void window_close(struct window *window)
{
    check_phase("MPI_Win_free (%s)", kind_names[window->kind]);
    if (window->kind == WINDOW_DYNAMIC) {
        MPI_Barrier(window->comm);
        MPI_Win_detach(window->win, window->memory);
    }
    MPI_Win_free(&window->win);
    if (window->kind != WINDOW_ALLOCATE)
        free(window->memory);
    free(window->start);
}

MPI_Aint window_at(const struct window *window, int target, size_t offset)
{
    return window->kind == WINDOW_DYNAMIC ? MPI_Aint_add(window->start[target], (MPI_Aint)offset) : (MPI_Aint)offset;
}

void window_settle(struct window *window)
{
    MPI_Win_lock(MPI_LOCK_EXCLUSIVE, window->rank, 0, window->win);
    MPI_Win_sync(window->win);
    MPI_Win_unlock(window->rank, window->win);
    MPI_Barrier(window->comm);
}

const char *epoch_name(enum epoch epoch)
{
    return epoch_names[epoch];
}

static MPI_Group group_of(struct window *window, int rank)
{
    MPI_Group all, one;

    MPI_Win_get_group(window->win, &all);
    MPI_Group_incl(all, 1, &rank, &one);
    MPI_Group_free(&all);
    return one;
}

void epoch_open(struct window *window, enum epoch epoch, int target, int origin)
{
    MPI_Group group;

    switch (epoch) {
    case EPOCH_FENCE:
        MPI_Win_fence(0, window->win);
        break;
    case EPOCH_PSCW:
        group = group_of(window, origin);
        MPI_Win_post(group, 0, window->win);
        MPI_Group_free(&group);
        group = group_of(window, target);
        MPI_Win_start(group, 0, window->win);
        MPI_Group_free(&group);
        break;
    case EPOCH_LOCK_SHARED:
        MPI_Win_lock(MPI_LOCK_SHARED, target, 0, window->win);
        break;
    case EPOCH_LOCK_EXCLUSIVE:
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, target, 0, window->win);
        break;
    default:
        MPI_Win_lock_all(0, window->win);
        break;
    }
}

void epoch_flush(struct window *window, enum epoch epoch, int target)
{
    switch (epoch) {
    case EPOCH_FENCE:
        MPI_Win_fence(0, window->win);
        break;
    case EPOCH_PSCW:
        /* Nothing completes inside such an epoch: end it and open the same one again. */
        epoch_close(window, epoch, target);
        epoch_open(window, epoch, target, (2 * window->rank - target + 2 * window->size) % window->size);
        break;
    case EPOCH_LOCK_ALL:
        MPI_Win_flush_all(window->win);
        break;
    default:
        MPI_Win_flush(target, window->win);
        break;
    }
}

void epoch_close(struct window *window, enum epoch epoch, int target)
{
    switch (epoch) {
    case EPOCH_FENCE:
        MPI_Win_fence(MPI_MODE_NOSUCCEED, window->win);
        break;
    case EPOCH_PSCW:
        MPI_Win_complete(window->win);
        MPI_Win_wait(window->win);
        break;
    case EPOCH_LOCK_SHARED:
    case EPOCH_LOCK_EXCLUSIVE:
        MPI_Win_unlock(target, window->win);
        break;
    default:
        MPI_Win_unlock_all(window->win);
        break;
    }
}
