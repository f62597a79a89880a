//! What a simulated device says of itself.

use super::Options;
use crate::{Capabilities, Limits};

/// What travels with its header in one unit of most adapters.
const INLINE_BYTES: usize = 64;

/// 8 KiB and the headers of the layer above, as shared memory has it.
const EAGER_BYTES: usize = 8 * 1024 + 64;

/// The capabilities of a device of such a world, for a user that has chosen `eager_bytes` or not.
pub(super) fn of(options: &Options, eager_bytes: Option<usize>) -> Capabilities {
    let longest = options.send_copy_bytes_max;
    Capabilities {
        limits: Limits {
            inline_bytes_max: INLINE_BYTES.min(longest),
            send_copy_bytes_max: longest,
            eager_bytes: eager_bytes.unwrap_or(EAGER_BYTES).min(longest),
            rdma_bytes_max: options.rdma_bytes_max,
            outstanding_max: options.outstanding_max as usize,
            regions_max: options.regions_max,
            registered_bytes_max: None,
        },
        atomics: options.atomics,
        write_with_immediate: options.write_with_immediate,
        between_nodes: false,
        between_processes: false,
        megabits: None,
        registers_local_memory: options.registers_local_memory,
        prefers_writing: options.prefers_writing,
        loopback: options.loopback,
        one_sided: options.one_sided,
        checks_remote_keys: true,
        survives_fork: true,
        survives_refusal: options.survives_refusal,
        names_refusal: options.names_refusal,
        connects_alone: options.connects_alone,
        single_copy: "simulated RDMA, inside one process".to_owned(),
    }
}
