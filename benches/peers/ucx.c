/* UCX's registration cache, with registrations that cost nothing. Built and run by benches/benches/registration_cache.rs. */
#include <sys/mman.h>
#include <ucm/api/ucm.h>
#include <ucs/memory/rcache.h>

#include "measure.h"

static ucs_rcache_t *cache;

static ucs_status_t register_mem(void *context, ucs_rcache_t *rcache, void *argument, ucs_rcache_region_t *region,
                                 uint16_t flags)
{
    (void)context, (void)rcache, (void)argument, (void)region, (void)flags;
    return UCS_OK;
}

static void deregister_mem(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region)
{
    (void)context, (void)rcache, (void)region;
}

static void dump(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region, char *text, size_t max)
{
    (void)context, (void)rcache, (void)region;
    snprintf(text, max, "-");
}

static void use(void *address)
{
    ucs_rcache_region_t *region;

    if (ucs_rcache_get(cache, address, PAGE, PROT_READ | PROT_WRITE, NULL, &region) != UCS_OK)
        exit(1);
    ucs_rcache_region_put(cache, region);
}

int main(void)
{
    static const ucs_rcache_ops_t operations = {register_mem, deregister_mem, dump};
    ucs_rcache_params_t parameters = {
        .region_struct_size = sizeof(ucs_rcache_region_t),
        .alignment = UCS_RCACHE_MIN_ALIGNMENT,
        .max_alignment = PAGE,
        .ucm_events = UCM_EVENT_VM_UNMAPPED,
        .ucm_event_priority = 1000,
        .ops = &operations,
        .max_regions = -1ul,
        .max_size = SIZE_MAX,
        .max_unreleased = SIZE_MAX,
    };

    if (ucs_rcache_create(&parameters, "ironband-bench", NULL, &cache) != UCS_OK) {
        fprintf(stderr, "UCX makes no registration cache\n");
        return 1;
    }
    measure(use);
    fflush(stdout);
    _Exit(0);
}
