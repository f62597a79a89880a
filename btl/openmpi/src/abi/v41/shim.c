/*
 * What Open MPI 4.1 offers only as C macros and inline functions over its object system: the key-value exchange of
 * the launcher (the modex), and the request to end the job.
 */
#include "opal_config.h"

#include <stdlib.h>

#include "opal/constants.h"
#include "opal/mca/base/base.h"
#include "opal/mca/pmix/pmix.h"
#include "opal/util/error.h"
#include "opal/util/proc.h"

int ironband_modex_put(const mca_base_component_t *component, const void *data, size_t len_bytes);
int ironband_modex_get(const mca_base_component_t *component, const opal_process_name_t *name, void **data,
                       size_t *len_bytes);
void ironband_modex_free(void *data);
void ironband_end_job(int status, const char *message);

int ironband_modex_put(const mca_base_component_t *component, const void *data, size_t len_bytes)
{
    int rc;
    /* Global and not only local: a job that is connected later (MPI_Comm_connect) must find it as well. */
    OPAL_MODEX_SEND(rc, OPAL_PMIX_GLOBAL, component, data, len_bytes);
    return rc;
}

int ironband_modex_get(const mca_base_component_t *component, const opal_process_name_t *name, void **data,
                       size_t *len_bytes)
{
    int rc;
    uint8_t *bytes = NULL;
    *data = NULL;
    *len_bytes = 0;
    OPAL_MODEX_RECV(rc, component, name, &bytes, len_bytes);
    *data = bytes;
    return rc;
}

void ironband_modex_free(void *data)
{
    free(data);
}

void ironband_end_job(int status, const char *message)
{
    if (NULL != opal_pmix.abort) {
        (void) opal_pmix.abort(status, message, NULL);
    }
}
