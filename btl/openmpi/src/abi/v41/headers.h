/* What bindgen reads: the internal headers of Open MPI 4.1 and the constants that it cannot evaluate itself. */
#include "opal_config.h"
#include "opal/constants.h"
#include "opal/version.h"
#include "opal/mca/btl/btl.h"
#include "opal/mca/btl/base/base.h"
#include "opal/mca/base/mca_base_var.h"
#include "opal/mca/hwloc/hwloc-internal.h"
#include "opal/mca/memory/base/base.h"
#include "opal/class/opal_bitmap.h"
#include "opal/datatype/opal_convertor.h"
#include "opal/datatype/opal_datatype.h"
#include "opal/memoryhooks/memory.h"
#include "opal/runtime/opal.h"
#include "opal/util/output.h"
#include "opal/util/proc.h"

enum {
    IRONBAND_PROC_ON_NODE = OPAL_PROC_ON_NODE,
    IRONBAND_FLAG_CONTIGUOUS = OPAL_DATATYPE_FLAG_CONTIGUOUS,
    IRONBAND_FLAG_NO_GAPS = OPAL_DATATYPE_FLAG_NO_GAPS,
    IRONBAND_MCA_MAJOR = MCA_BASE_VERSION_MAJOR,
    IRONBAND_MCA_MINOR = MCA_BASE_VERSION_MINOR,
    IRONBAND_MCA_RELEASE = MCA_BASE_VERSION_RELEASE,
};
