//! What this component says to the user and to the runtime.

use std::ffi::{CString, c_int};
use std::mem::transmute;
use std::process::exit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::series::{
    MCA_BTL_ERROR_FLAGS_FATAL, ModuleTable, Proc, end_job, framework_output,
    mca_btl_base_module_error_cb_fn_t, opal_output, opal_output_verbose, opal_proc_local_get, this_process,
};

/// Stream 0 of Open MPI: standard error, always on.
const ALWAYS: c_int = 0;

/// How the upper layer wants to hear of fatal errors: the function of `btl_register_error`, or null.
static ERROR_CALLBACK: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// The module it was registered on, which it gets as an argument.
static ERROR_MODULE: AtomicPtr<ModuleTable> = AtomicPtr::new(null_mut());

/// Remembers who is to be told of fatal errors.
pub(super) fn set_error_callback(table: *mut ModuleTable, callback: mca_btl_base_module_error_cb_fn_t) {
    ERROR_MODULE.store(table, Ordering::Release);
    ERROR_CALLBACK.store(callback.map_or(null_mut(), |callback| callback as *mut ()), Ordering::Release);
}

/// Forgets the callback: the upper layer is gone.
pub(super) fn clear_error_callback() {
    ERROR_CALLBACK.store(null_mut(), Ordering::Release);
}

/// Says something to the user, whatever the verbosity.
pub(super) fn say(message: &str) {
    let line = to_c(&format!("{}: {message}", crate::COMPONENT_NAME));
    // SAFETY: a format with one string argument.
    unsafe { opal_output(ALWAYS, c"%s".as_ptr(), line.as_ptr()) };
}

/// Says something at `btl_base_verbose` of `level` and above.
pub(super) fn say_at(level: c_int, message: &str) {
    let line = to_c(&format!("{}: {message}", crate::COMPONENT_NAME));
    // SAFETY: a format with one string argument, and the framework's own stream.
    unsafe { opal_output_verbose(level, framework_output(), c"%s".as_ptr(), line.as_ptr()) };
}

/// Reports an error of which this process cannot recover, about itself. See [`fatal_about`].
pub(super) fn fatal(message: &str) {
    fatal_about(null_mut(), message);
}

/// Reports an error of which this process cannot recover: to the user, and to the upper layer, which ends the job. Only
/// the first one is reported; what follows from it would hide it. `proc` is the process it is about, or null.
///
/// It does not return once an upper layer has registered, in Open MPI 4.1. Before that it asks the launcher to end the
/// job, and ends the process.
pub(super) fn fatal_about(proc: *mut Proc, message: &str) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if REPORTED.swap(true, Ordering::AcqRel) {
        return;
    }
    let line = format!("rank {}: {message}", this_process().rank);
    say(&line);
    let callback = ERROR_CALLBACK.load(Ordering::Acquire);
    if callback.is_null() {
        end_job(&to_c(&line));
        exit(1);
    }
    // SAFETY: stored from a function of this type, and not null.
    let callback = unsafe { transmute::<*mut (), mca_btl_base_module_error_cb_fn_t>(callback) };
    if let Some(callback) = callback {
        // SAFETY: Open MPI's own structure for this process, or null.
        let proc = if proc.is_null() { unsafe { opal_proc_local_get() } } else { proc };
        // The callback takes this text for a format, and shows it a second time: keep it short and plain.
        let reason = c"the ironband transport has failed (the reason is above)".as_ptr().cast_mut();
        // SAFETY: the upper layer's contract for its error callback; it does not keep the text.
        unsafe {
            callback(ERROR_MODULE.load(Ordering::Acquire), MCA_BTL_ERROR_FLAGS_FATAL as i32, proc, reason)
        };
    }
}

/// A zero byte inside would end the text early, so it becomes a question mark.
fn to_c(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).expect("it has no zero byte")
}
