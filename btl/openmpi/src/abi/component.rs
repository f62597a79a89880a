//! The component: what Open MPI finds when it loads the library.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use ironband::{Config, Job, Threads};
use ironband_fabric::Fabric;
use ironband_fabric::shm::Shm;

use super::module::Module;
use super::panics::contained;
use super::series::{
    ComponentTable, ModuleTable, OPAL_ERR_NOT_AVAILABLE, OPAL_ERROR, OPAL_SUCCESS, check_version,
    component_table, modex_put, this_process,
};
use super::{runtime, variables};
use crate::card;

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

/// The module of the shared-memory fabric, once there is one. A fabric more is a static more, and a line in
/// [`progress`], so that progress calls no function by pointer.
static SHM: AtomicPtr<Module<Shm>> = AtomicPtr::new(null_mut());

/// The component's table.
pub(super) fn table() -> *const ComponentTable {
    mca_btl_ironband_component.0.get()
}

/// Takes a module out of progress.
pub(super) fn forget(module: *mut ModuleTable) {
    let _ = SHM.compare_exchange(module.cast(), null_mut(), Ordering::AcqRel, Ordering::Relaxed);
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
        let Some(module) = open_first_device::<Shm>(&config, threads) else { return null_mut() };
        // SAFETY: just made, and freed by nobody but `btl_finalize`.
        let device = unsafe { module.as_ref() }.device();
        let card = card::encode([(Shm::NAME, device.address())].into_iter());
        if let Err(code) = modex_put(table(), &card) {
            runtime::say(&format!(
                "the launcher does not take this process's address (code {code}); not used"
            ));
            return null_mut();
        }
        // SAFETY: a plain allocation, checked below.
        let modules: *mut *mut ModuleTable = unsafe { libc::malloc(size_of::<*mut ModuleTable>()) }.cast();
        if modules.is_null() {
            return null_mut();
        }
        // SAFETY: room for one pointer, and Open MPI's variable.
        unsafe {
            modules.write(module.as_ptr().cast());
            count.write(1);
        }
        SHM.store(module.as_ptr(), Ordering::Release);
        modules
    })
}

/// The first usable device of a fabric, opened. Why others are not usable is said to the user.
fn open_first_device<F: Fabric>(config: &Config, threads: Threads) -> Option<NonNull<Module<F>>> {
    let process = this_process();
    let job = Job { local_ranks: process.local_ranks, rank: process.rank };
    for report in F::probe(config) {
        let opened = match report.usable {
            Ok(_) => {
                Module::<F>::create(&report.device, config, &job, threads).map_err(|error| error.to_string())
            }
            Err(reason) => Err(reason),
        };
        match opened {
            Ok(module) => return Some(module),
            Err(reason) => {
                let device = &report.device;
                runtime::say(&format!(
                    "rank {}: device {} of fabric {} is not used: {reason}",
                    job.rank,
                    device,
                    F::NAME
                ));
            }
        }
    }
    None
}

/// `btl_progress`: called from every wait of MPI, whenever this component is in use.
unsafe extern "C" fn progress() -> c_int {
    let module = SHM.load(Ordering::Relaxed);
    if module.is_null() {
        return 0;
    }
    contained("btl_progress", 0, || {
        // SAFETY: stored by `init` and taken out by `btl_finalize`, before which Open MPI unregisters this function.
        let module = unsafe { (&*module, module.cast()) };
        module.0.progress(module.1) as c_int
    })
}
