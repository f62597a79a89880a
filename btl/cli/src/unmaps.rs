//! Who tells this process of unmapped memory, so that registrations are cached as in a job.

use ironband::unmap_events;

/// Makes this process tell itself. Where that cannot be done, the report line of each RDMA device says that nothing is cached, and why.
pub(crate) fn tell() {
    // SAFETY: called first thing in `main`, before any thread exists.
    let _ = unsafe { unmap_events::start_own() };
}
