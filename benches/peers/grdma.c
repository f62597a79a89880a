/* Open MPI's registration cache grdma, with registrations that cost nothing. Built and run by benches/benches/registration_cache.rs. */
#include "opal_config.h"

#include <mpi.h>

#include "opal/mca/rcache/base/base.h"
#include "opal/memoryhooks/memory.h"
#include "opal/memoryhooks/memory_internal.h"

#include "measure.h"

static mca_rcache_base_module_t *cache;

static int register_mem(void *data, void *base, size_t size, mca_rcache_base_registration_t *registration)
{
    (void)data, (void)base, (void)size, (void)registration;
    return OPAL_SUCCESS;
}

static int deregister_mem(void *data, mca_rcache_base_registration_t *registration)
{
    (void)data, (void)registration;
    return OPAL_SUCCESS;
}

static void use(void *address)
{
    mca_rcache_base_registration_t *registration = NULL;

    if (cache->rcache_register(cache, address, PAGE, 0, MCA_RCACHE_ACCESS_REMOTE_READ, &registration) != OPAL_SUCCESS)
        exit(1);
    cache->rcache_deregister(cache, registration);
}

int main(int argc, char **argv)
{
    enum { CALLS = 2000 };
    mca_rcache_base_resources_t resources = {
        .cache_name = "ironband-bench",
        .sizeof_reg = sizeof(mca_rcache_base_registration_t),
        .register_mem = register_mem,
        .deregister_mem = deregister_mem,
    };
    double start;

    MPI_Init(&argc, &argv);
    if (mca_base_framework_open(&opal_rcache_base_framework, 0) != OPAL_SUCCESS)
        return 1;
    cache = mca_rcache_base_module_create("grdma", NULL, &resources);
    if (cache == NULL) {
        fprintf(stderr, "Open MPI makes no cache grdma\n");
        return 1;
    }
    measure(use);
    /* What Open MPI's hook does before an munmap: of other memory, and of the regions. */
    char *other = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    start = now();
    for (int i = 0; i < CALLS; i++)
        opal_mem_hooks_release_hook(other, PAGE, false);
    printf("hook_other %.1f\n", (now() - start) / CALLS);
    start = now();
    for (int i = 0; i < CALLS; i++)
        opal_mem_hooks_release_hook(place(i), PAGE, false);
    printf("hook_region %.1f\n", (now() - start) / CALLS);
    fflush(stdout);
    /* The cache's memory is nobody's any more; MPI_Finalize would look at it. */
    _Exit(0);
}
