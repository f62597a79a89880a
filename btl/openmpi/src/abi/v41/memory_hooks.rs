//! Open MPI's memory hooks: they patch libc and tell of pages before they are unmapped.
//!
//! Ours is one callback among those of other components. Open MPI tells them apart by the function alone, so it is registered once for
//! all devices.

use std::ffi::{c_int, c_void};

use super::bindings::{
    OPAL_EXISTS, OPAL_MEMORY_MUNMAP_SUPPORT, OPAL_SUCCESS, mca_base_framework_open,
    opal_mem_hooks_register_release, opal_mem_hooks_support_level, opal_memory_base_framework,
};

/// For messages.
pub(in crate::abi) const NAME: &str = "Open MPI's memory hooks";

/// Called with any lock held, in any thread: see [`ironband::unmap_events::unmapping`], which allows that.
unsafe extern "C" fn unmapping(
    start: *mut c_void,
    len_bytes: usize,
    _context: *mut c_void,
    _from_allocator: bool,
) {
    // Open MPI passes 0 for a segment whose length it could not find out.
    let (start, len_bytes) = if len_bytes == 0 { (0, usize::MAX) } else { (start as usize, len_bytes) };
    ironband::unmap_events::unmapping(start, len_bytes);
}

/// Has Open MPI patch libc, if nobody has before, and registers the callback. Neither is taken back: to close the framework would change
/// libc under threads that are inside, and Open MPI does not patch a second time. Afterwards there is nobody left to tell.
///
/// # Errors
/// Why they do not work, in one clause.
pub(in crate::abi) fn start() -> Result<(), String> {
    // SAFETY: a framework of libopen-pal.
    let code = unsafe { mca_base_framework_open(&raw mut opal_memory_base_framework, 0) };
    if code != OPAL_SUCCESS {
        return Err(format!("Open MPI's framework \"memory\" does not open (code {code})"));
    }
    // SAFETY: reads a number.
    let level = unsafe { opal_mem_hooks_support_level() };
    if level & OPAL_MEMORY_MUNMAP_SUPPORT as c_int == 0 {
        return Err(format!(
            "Open MPI has not patched libc (level {level}): it was built without memory hooks, or --mca memory leaves out patcher"
        ));
    }
    // SAFETY: the library stays loaded (`-z nodelete`), so the function does.
    match unsafe { opal_mem_hooks_register_release(Some(unmapping), std::ptr::null_mut()) } {
        OPAL_SUCCESS | OPAL_EXISTS => Ok(()),
        code => Err(format!("Open MPI does not take the callback (code {code})")),
    }
}
