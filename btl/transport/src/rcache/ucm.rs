//! UCX's memory hooks as the source, in a process that has loaded UCX: it has patched libc then, or will, and two patches disable one
//! another.

use std::ffi::{c_int, c_void};

use super::source;

/// For messages.
pub(super) const NAME: &str = "UCX's memory hooks";

/// `UCM_EVENT_VM_UNMAPPED` (ucm/api/ucm.h), whose handlers come before the system call.
const VM_UNMAPPED: c_int = 1 << 17;
/// Handlers of other priorities are UCX's own caches; the order among them does not matter.
const PRIORITY: c_int = 1000;

/// The member `vm_unmapped` of the union `ucm_event_t`.
#[repr(C)]
struct Unmapped {
    address: *mut c_void,
    size: usize,
}

type Handler = unsafe extern "C" fn(c_int, *const Unmapped, *mut c_void);
type SetHandler = unsafe extern "C" fn(c_int, c_int, Handler, *mut c_void) -> c_int;

/// # Safety
/// UCX calls it, with the event that it was registered for.
unsafe extern "C" fn unmapped(_events: c_int, event: *const Unmapped, _context: *mut c_void) {
    // SAFETY: as promised by the caller.
    let Unmapped { address, size } = *unsafe { &*event };
    source::unmapping(address as usize, size);
}

/// `ucm_set_event_handler`, if UCX is loaded.
fn set_handler() -> Option<SetHandler> {
    // SAFETY: finds a library that is loaded, without loading it.
    let library = unsafe { libc::dlopen(c"libucm.so.0".as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    if library.is_null() {
        return None;
    }
    // SAFETY: a library that is loaded, and stays so: this reference to it is never given back.
    let function = unsafe { libc::dlsym(library, c"ucm_set_event_handler".as_ptr()) };
    // SAFETY: the function of that name and signature since UCX 1.0.
    unsafe { std::mem::transmute::<*mut c_void, Option<SetHandler>>(function) }
}

pub(super) fn is_loaded() -> bool {
    set_handler().is_some()
}

/// Registers the handler, once.
///
/// # Errors
/// UCX's word, in one clause.
pub(super) fn start() -> Result<(), String> {
    let set_handler = set_handler().ok_or("UCX is not loaded")?;
    // SAFETY: the handler stays loaded, as this library must.
    match unsafe { set_handler(VM_UNMAPPED, PRIORITY, unmapped, std::ptr::null_mut()) } {
        0 => Ok(()),
        status => Err(format!("UCX does not take the handler (status {status})")),
    }
}
