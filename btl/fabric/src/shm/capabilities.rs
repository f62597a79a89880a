//! What the device says of itself.

use ironband_core::config::{Config, SingleCopy};
use ironband_core::limits::ring_message_bytes_max;

use super::regions::REGIONS_MAX;
use super::ring::LINE_BODY_BYTES;
use super::{OUTSTANDING_MAX, cross_memory};
use crate::{AtomicScope, Capabilities, Limits};

/// 8 KiB and the headers of the layer above: longer messages move with one copy, or with two at the same time.
const EAGER_BYTES: usize = 8 * 1024 + 64;

/// A longer send would keep this process from receiving for too long, and its reader from beginning.
const SEND_COPY_BYTES_MAX: usize = 64 << 10;

/// The capabilities of a device with these settings and rings.
pub(super) fn of(config: &Config, ring_bytes: usize) -> Capabilities {
    let single_copy = match (config.single_copy, cross_memory::yama_scope()) {
        (SingleCopy::Ring, _) => "through the ring (single_copy=ring)".to_owned(),
        (_, Some(scope)) if scope > 1 && !rustix::process::geteuid().is_root() => {
            format!("through the ring unless a probe shows otherwise (kernel.yama.ptrace_scope is {scope})")
        }
        (SingleCopy::Cma, _) => "cross-memory attach (single_copy=cma; probed at connect)".to_owned(),
        (SingleCopy::Auto, _) => {
            "cross-memory attach by one or both ends, or the ring, as measured (probed at connect)".to_owned()
        }
    };
    let longest = ring_message_bytes_max(ring_bytes);
    let eager_bytes = config.eager_bytes.unwrap_or(EAGER_BYTES).min(longest);
    Capabilities {
        limits: Limits {
            inline_bytes_max: LINE_BODY_BYTES,
            send_copy_bytes_max: longest.min(SEND_COPY_BYTES_MAX.max(eager_bytes)),
            eager_bytes,
            rdma_bytes_max: usize::MAX >> 1,
            outstanding_max: OUTSTANDING_MAX,
            regions_max: REGIONS_MAX,
            registered_bytes_max: None,
        },
        atomics: AtomicScope::Global,
        write_with_immediate: true,
        loopback: true,
        between_nodes: false,
        between_processes: true,
        megabits: None,
        registers_local_memory: false,
        prefers_writing: false,
        one_sided: config.single_copy != SingleCopy::Ring,
        checks_remote_keys: config.single_copy == SingleCopy::Ring,
        survives_refusal: true,
        names_refusal: true,
        connects_alone: true,
        survives_fork: true,
        single_copy,
    }
}
