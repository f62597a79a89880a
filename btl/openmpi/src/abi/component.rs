//! The component: what Open MPI finds when it loads the library.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::ptr::null_mut;

use ironband::{Threads, unmap_events};
use ironband_core::config::{Config, FabricName};

#[cfg(feature = "verbs")]
use super::modules::VERBS;
use super::modules::{Opened, SHM};
use super::panics::contained;
use super::series::{
    ComponentTable, ModuleTable, OPAL_ERR_NOT_AVAILABLE, OPAL_ERROR, OPAL_SUCCESS, check_version,
    component_table, memory_hooks, modex_put,
};
use super::{runtime, variables};

/// The component's table, as Open MPI sees it.
#[repr(transparent)]
pub(super) struct Component(UnsafeCell<ComponentTable>);

// SAFETY: only Open MPI changes it, if anybody.
unsafe impl Sync for Component {}

/// The symbol that Open MPI looks for in `mca_btl_ironband.so`.
// SAFETY: nothing else in the process has this name; Open MPI looks it up in this library only.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "Open MPI chooses the name")]
pub(super) static mca_btl_ironband_component: Component = Component(UnsafeCell::new({
    let mut table = component_table();
    table.btl_version.mca_register_component_params = Some(register);
    table.btl_version.mca_open_component = Some(open);
    table.btl_version.mca_close_component = Some(close);
    table.btl_init = Some(init);
    table.btl_progress = Some(progress);
    table
}));

/// The component's table.
pub(super) fn table() -> *const ComponentTable {
    mca_btl_ironband_component.0.get()
}

/// Takes a module out of progress.
pub(super) fn forget(module: *mut ModuleTable) {
    SHM.forget(module);
    #[cfg(feature = "verbs")]
    VERBS.forget(module);
}

/// `mca_register_component_params`, for programs and for `ompi_info`.
unsafe extern "C" fn register() -> c_int {
    contained("component_register", OPAL_ERROR, || match variables::register(table()) {
        Ok(()) => OPAL_SUCCESS,
        Err(code) => code,
    })
}

/// `mca_open_component`: the first thing that is called in MPI_Init.
unsafe extern "C" fn open() -> c_int {
    contained("component_open", OPAL_ERROR, || match check_version() {
        Ok(()) => OPAL_SUCCESS,
        Err(found) => {
            runtime::say(&format!(
                "this component was built for another Open MPI than {found}, and is not used; build it again on this machine"
            ));
            OPAL_ERR_NOT_AVAILABLE
        }
    })
}

/// `mca_close_component`. The modules are finalized by then.
unsafe extern "C" fn close() -> c_int {
    OPAL_SUCCESS
}

/// `btl_init`: opens the devices and publishes their addresses. Open MPI frees the array.
unsafe extern "C" fn init(
    count: *mut c_int,
    _progress_threads: bool,
    mpi_threads: bool,
) -> *mut *mut ModuleTable {
    contained("btl_init", null_mut(), || {
        // SAFETY: Open MPI's variable.
        unsafe { count.write(0) };
        let config = match variables::read() {
            Ok(config) => config,
            Err(refusal) => {
                // To go on without this component would be to ignore what the user asked for: this ends the job.
                runtime::fatal(&refusal);
                return null_mut();
            }
        };
        let threads = if mpi_threads { Threads::Multiple } else { Threads::Single };
        unmap_events::offer(memory_hooks::NAME, memory_hooks::start);
        let opened = open_devices(&config, threads);
        if opened.tables.is_empty() {
            return null_mut();
        }
        let addresses = opened.addresses.iter().map(|(fabric, address)| (*fabric, address.as_slice()));
        if let Err(code) = modex_put(table(), &ironband::encode_process_card(addresses)) {
            runtime::say(&format!(
                "the launcher does not take this process's address (code {code}); not used"
            ));
            return null_mut();
        }
        let bytes = opened.tables.len() * size_of::<*mut ModuleTable>();
        // SAFETY: a plain allocation, checked below.
        let modules: *mut *mut ModuleTable = unsafe { libc::malloc(bytes) }.cast();
        if modules.is_null() {
            return null_mut();
        }
        // SAFETY: room for that many pointers, and Open MPI's variable.
        unsafe {
            modules.copy_from_nonoverlapping(opened.tables.as_ptr(), opened.tables.len());
            count.write(opened.tables.len() as c_int);
        }
        modules
    })
}

/// Opens what the user chose: one device of shared memory, every port of the RDMA adapters.
fn open_devices(config: &Config, threads: Threads) -> Opened {
    let mut opened = Opened::default();
    for fabric in &config.fabrics {
        let before = opened.tables.len();
        match fabric {
            FabricName::Shm => SHM.open(config, threads, 1, &mut opened),
            #[cfg(feature = "verbs")]
            FabricName::Verbs => VERBS.open(config, threads, usize::MAX, &mut opened),
            #[cfg(not(feature = "verbs"))]
            FabricName::Verbs => {}
        }
        // Without adapters the default leaves this fabric out, and nobody needs to hear of it.
        if opened.tables.len() == before && config.fabrics.len() == 1 {
            runtime::say(&format!(
                "fabric {} was asked for, and {}; ironband doctor looks into it",
                fabric.as_str(),
                missing(*fabric)
            ));
        }
    }
    opened
}

/// Why a fabric has no module, as far as its devices have not said so themselves.
fn missing(fabric: FabricName) -> &'static str {
    match fabric {
        FabricName::Verbs if cfg!(not(feature = "verbs")) => {
            "this component was built without it (the cargo feature verbs)"
        }
        _ => "no device of it can be used here",
    }
}

/// `btl_progress`: called from every wait of MPI, whenever this component is in use.
unsafe extern "C" fn progress() -> c_int {
    contained("btl_progress", 0, || {
        // SAFETY: Open MPI unregisters this function before it calls `btl_finalize`.
        let done = unsafe { SHM.progress() };
        #[cfg(feature = "verbs")]
        // SAFETY: as above.
        let done = if VERBS.is_empty() { done } else { unsafe { with_verbs(done) } };
        done as c_int
    })
}

/// Progress of a process that has RDMA devices; shared memory has found `done`. A process waits for both at once: what one of
/// them finds ends the waiting of the other.
///
/// # Safety
/// As [`Modules::progress`](super::modules::Modules::progress).
#[cfg(feature = "verbs")]
unsafe fn with_verbs(done: usize) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        if done > 0 {
            VERBS.reset_patience();
        }
        let found = VERBS.progress();
        if found > 0 {
            SHM.reset_patience();
        }
        done + found
    }
}
