//! One module: one device of a fabric, behind the table of functions that Open MPI calls.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ironband::{AtomicScope, Config, Device, DeviceError, Job, Threads};
use ironband_fabric::Fabric;

use super::endpoint::{self, Endpoint, Peers};
use super::fragment::{Fragment, Pool};
use super::modules::Modules;
use super::one_at_a_time::OneAtATime;
use super::panics::contained;
use super::progress::{self, Receiver, Waiting};
use super::rdma::Transfer;
use super::registration::{REMOTE_KEY_BYTES, SpareHandles};
use super::series::{
    ATOMIC_FLAGS, GLOBAL_ATOMIC_FLAGS, MCA_BTL_FLAGS_ATOMIC_FOPS, MCA_BTL_FLAGS_ATOMIC_OPS,
    MCA_BTL_FLAGS_RDMA, MCA_BTL_FLAGS_SEND, ModuleTable, OPAL_ERROR, OPAL_SUCCESS, mca_btl_base_dump,
    mca_btl_base_module_error_cb_fn_t,
};
use super::{component, rdma, registration, runtime, send};
use crate::slots::Slots;

/// How long `btl_finalize` waits for what is queued or under way. Open MPI has synchronized all processes of the job by
/// then, so more than a moment means that a peer has died.
const FINALIZE_SECONDS: u64 = 5;
/// Longest piece of a long message that must be packed because its data type is not contiguous.
const FRAGMENT_BYTES: usize = 32 << 10;

/// Microseconds, as all transports through shared memory say; ob1 starts messages on the fastest only, and `osc/rdma`
/// takes the fastest that reaches all processes of a window.
const LATENCY_INSIDE_NODE_MICROSECONDS: u32 = 1;
/// Between nodes.
const LATENCY_BETWEEN_NODES_MICROSECONDS: u32 = 3;
/// `MCA_BTL_EXCLUSIVITY_HIGH`, which vader and self have.
const VADER_EXCLUSIVITY: u32 = 64 * 1024;

/// Megabits per second, which Open MPI only compares: to share a message between transports of equal exclusivity, and
/// to choose the one for windows among all that can do one-sided communication, whatever their exclusivity. So it goes
/// with the exclusivity: more than vader's 40000 when this component is to be preferred, less when vader is. A component
/// that is merely installed changes nothing.
const fn bandwidth_megabits(exclusivity: u32) -> u32 {
    if exclusivity >= VADER_EXCLUSIVITY { 80_000 } else { 20_000 }
}

/// A module. Open MPI holds a pointer to its first field.
#[repr(C)]
pub(super) struct Module<F: Fabric> {
    /// Open MPI reads it, and may write to it.
    table: UnsafeCell<ModuleTable>,
    device: Device<F>,
    place: Place<F>,
    threads: Threads,
    /// The longest message in one piece, header included.
    message_bytes_max: usize,
    pool: OneAtATime<Pool>,
    transfers: OneAtATime<Slots<Transfer>>,
    spare_handles: OneAtATime<SpareHandles<F>>,
    waiting: Waiting,
    /// Only for adding and deleting, and when something has failed.
    peers: Mutex<Peers>,
    /// Where atomics without a result store one. Written by the device only, and never read.
    discarded_result: UnsafeCell<u64>,
    /// `btl_finalize` is under way: the upper layers are closed, and may not be called any more.
    closing: AtomicBool,
    /// The report line has been printed.
    announced: AtomicBool,
}

/// A module among those of its fabric.
pub(super) struct Place<F: Fabric> {
    /// Which one it is, from 0. Where hosts are alike, modules of two processes that have the same number are partners; see
    /// [`ironband::partners`].
    pub(super) ordinal: usize,
    /// All of the fabric.
    pub(super) siblings: &'static Modules<F>,
}

impl<F: Fabric> Module<F> {
    /// Opens a device and makes its module, which lives until [`finalize`].
    ///
    /// # Errors
    /// The device's own message.
    pub(super) fn create(
        device: &str,
        place: Place<F>,
        config: &Config,
        job: &Job,
        threads: Threads,
    ) -> Result<NonNull<Self>, DeviceError> {
        let device = Device::<F>::open(device, config, job, threads)?;
        let message_bytes_max = device.capabilities().limits.send_copy_bytes_max;
        // Rings shrink when there are many processes on the node; the limits of ob1 have to follow.
        let eager_bytes = device.eager_bytes();
        let fragment_bytes = FRAGMENT_BYTES.min(message_bytes_max);
        let table = function_table::<F>(config, &device, &place, eager_bytes, fragment_bytes);
        let module = Self {
            table: UnsafeCell::new(table),
            device,
            place,
            threads,
            message_bytes_max,
            pool: OneAtATime::new(threads, Pool::new(eager_bytes, fragment_bytes)),
            transfers: OneAtATime::new(threads, Slots::new()),
            spare_handles: OneAtATime::new(threads, SpareHandles::new()),
            waiting: Waiting::new(threads),
            peers: Mutex::new(Peers::new()),
            discarded_result: UnsafeCell::new(0),
            closing: AtomicBool::new(false),
            announced: AtomicBool::new(false),
        };
        Ok(NonNull::from(Box::leak(Box::new(module))))
    }

    /// The module behind Open MPI's pointer.
    ///
    /// # Safety
    /// The pointer is one of [`Self::create`]'s, and the module has not been finalized.
    #[inline(always)]
    pub(super) unsafe fn from_c<'a>(table: *mut ModuleTable) -> &'a Self {
        // SAFETY: as promised by the caller; the table is the first field.
        unsafe { &*table.cast::<Self>() }
    }

    /// As Open MPI knows it.
    #[inline(always)]
    pub(super) fn table(&self) -> *mut ModuleTable {
        self.table.get()
    }

    #[inline(always)]
    pub(super) fn device(&self) -> &Device<F> {
        &self.device
    }

    /// This module among those of its fabric.
    pub(super) fn place(&self) -> &Place<F> {
        &self.place
    }

    pub(super) fn threads(&self) -> Threads {
        self.threads
    }

    #[inline]
    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// A descriptor from the pool.
    #[inline]
    pub(super) fn alloc(&self, room_bytes: usize, flags: u32, order: u8) -> Option<NonNull<Fragment>> {
        self.pool.with(|pool| pool.alloc(room_bytes, flags, order))
    }

    /// Gives a descriptor back to the pool.
    ///
    /// # Safety
    /// It came from [`Self::alloc`] and is not used any more.
    #[inline]
    pub(super) unsafe fn free(&self, fragment: NonNull<Fragment>) {
        // SAFETY: as promised by the caller.
        self.pool.with(|pool| unsafe { pool.free(fragment) });
    }

    pub(super) fn with_transfers<R>(&self, change: impl FnOnce(&mut Slots<Transfer>) -> R) -> R {
        self.transfers.with(change)
    }

    pub(super) fn with_spare_handles<R>(&self, change: impl FnOnce(&mut SpareHandles<F>) -> R) -> R {
        self.spare_handles.with(change)
    }

    pub(super) fn with_peers<R>(&self, change: impl FnOnce(&mut Peers) -> R) -> R {
        change(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for results that nobody wants.
    pub(super) fn discarded_result(&self) -> *mut u8 {
        self.discarded_result.get().cast()
    }

    /// Puts an endpoint on the list of those with something queued.
    pub(super) fn list(&self, peer: &Endpoint) {
        self.waiting.add(peer);
    }

    /// Takes what has arrived and sends what was queued. Gives how much was done.
    #[inline]
    pub(super) fn progress(&self, table: *mut ModuleTable) -> usize {
        let mut done = self.device.progress(&Receiver { module: self, table });
        if !self.waiting.is_empty() {
            done += progress::flush(self, table, &self.waiting);
        }
        done
    }

    /// A send or a transfer was refused because the connection is in the error state.
    #[cold]
    #[inline(never)]
    pub(super) fn peer_failed(&self, peer: &Endpoint) {
        if self.is_closing() {
            return;
        }
        let reason =
            self.device.failure(peer.transport).unwrap_or_else(|| "the connection was closed".to_owned());
        runtime::fatal_about(peer.proc(), &format!("lost {}: {reason}", peer.peer()));
    }

    /// The transport has lost a peer. That matters as long as this process has to do with it.
    #[cold]
    #[inline(never)]
    pub(super) fn disconnected(&self, from: ironband::QueuePair, reason: &str) {
        // SAFETY: endpoints live as long as the module.
        let peer = self.with_peers(|peers| peers.find(from)).map(|peer| unsafe { peer.as_ref() });
        match peer {
            Some(peer) if peer.is_in_use() => {
                let message = format!("lost {}: {reason}", peer.peer());
                runtime::fatal_about(peer.proc(), &message);
            }
            _ => runtime::say_at(1, &format!("a process that is no peer any more is gone: {reason}")),
        }
    }

    /// The peer behind a name of the transport's, in words.
    pub(super) fn peer_of(&self, from: ironband::QueuePair) -> String {
        // SAFETY: endpoints live as long as the module.
        self.with_peers(|peers| peers.find(from))
            .map_or_else(|| "a process not known yet".to_owned(), |peer| unsafe { peer.as_ref() }.peer())
    }

    /// Passes on what the device found out about a peer since it was asked last, such as that the kernel refuses to copy
    /// between the two processes.
    pub(super) fn pass_on_notices(&self) {
        self.pass_on_warnings();
        while let Some(notice) = self.device.take_notice() {
            runtime::say_at(1, &notice);
        }
    }

    /// What a user should know who did not ask.
    #[inline]
    pub(super) fn pass_on_warnings(&self) {
        while let Some(warning) = self.device.take_warning() {
            runtime::say(&warning);
        }
    }

    /// Prints the report line, once.
    pub(super) fn announce(&self) {
        if !self.announced.swap(true, Ordering::Relaxed) {
            runtime::say_at(1, &self.device.report());
        }
    }
}

/// Everything Open MPI wants to know of a module, and its functions.
fn function_table<F: Fabric>(
    config: &Config,
    device: &Device<F>,
    place: &Place<F>,
    eager_bytes: usize,
    fragment_bytes: usize,
) -> ModuleTable {
    // SAFETY: numbers, pointers and optional functions, for all of which zero is a value.
    let mut table: ModuleTable = unsafe { std::mem::zeroed() };
    table.btl_component = component::table().cast_mut();
    let capabilities = device.capabilities();
    table.btl_exclusivity = config.exclusivity;
    table.btl_latency = LATENCY_INSIDE_NODE_MICROSECONDS;
    table.btl_bandwidth = bandwidth_megabits(config.exclusivity);
    if capabilities.between_nodes {
        // Inside a node shared memory alone carries messages, between nodes the first port that reaches the peer: modules of
        // one rank would share each message, and Open MPI 4.1 garbles data of gappy types whose pieces overtake each other
        // (over its own tcp with several links, too). Windows still use one module for all of their processes, whatever
        // its rank: r2 keeps a module of lower rank for that. Of several that will do, osc/rdma takes the one of the lowest
        // latency; all processes must take partners. Nor may the two ends of a pair prefer different modules: ob1
        // acknowledges over the module that a message came by only if it would send by it too, and else never.
        table.btl_exclusivity = config.exclusivity.saturating_sub(1 + place.ordinal as u32);
        table.btl_latency = LATENCY_BETWEEN_NODES_MICROSECONDS + place.ordinal as u32;
        table.btl_bandwidth = capabilities.megabits.unwrap_or(table.btl_bandwidth);
    }
    table.btl_eager_limit = eager_bytes;
    table.btl_rndv_eager_limit = eager_bytes;
    table.btl_max_send_size = fragment_bytes;
    // ob1 "pipelines" RDMA to hide the cost of registration, which is next to nothing here: never.
    table.btl_min_rdma_pipeline_size = usize::MAX;
    table.btl_rdma_pipeline_send_length = eager_bytes;
    table.btl_rdma_pipeline_frag_size = usize::MAX;
    // No SEND_INPLACE: see `send`. No RDMA_FLUSH and no btl_flush: osc/rdma then counts completions itself; with it, it
    // would rely on the flush for operations whose callback is still to come.
    table.btl_flags = MCA_BTL_FLAGS_SEND | MCA_BTL_FLAGS_RDMA;
    if capabilities.atomics != AtomicScope::None {
        // What osc/rdma asks of a transport. Its parameter `osc_rdma_btls` needs no change for that: in 4.1 it lists
        // transports to be trusted to reach every process of any window, unseen, which one that stays inside a node
        // does not; a transport that is not listed is asked process by process, and so this one is found.
        table.btl_flags |= MCA_BTL_FLAGS_ATOMIC_OPS | MCA_BTL_FLAGS_ATOMIC_FOPS;
        table.btl_atomic_flags = ATOMIC_FLAGS;
        if capabilities.atomics == AtomicScope::Global {
            table.btl_atomic_flags |= GLOBAL_ATOMIC_FLAGS;
        }
        table.btl_atomic_op = Some(rdma::atomic_op_without_result::<F>);
        table.btl_atomic_fop = Some(rdma::atomic_fop::<F>);
        table.btl_atomic_cswap = Some(rdma::atomic_cswap::<F>);
    }
    let rdma_bytes_max = capabilities.limits.rdma_bytes_max;
    table.btl_get_limit = rdma_bytes_max;
    table.btl_put_limit = rdma_bytes_max;
    // From these lengths on osc/rdma hands in registered local memory, for which it copies short data through buffers that
    // it registered before.
    let threshold = if capabilities.registers_local_memory { 0 } else { usize::MAX };
    table.btl_get_local_registration_threshold = threshold;
    table.btl_put_local_registration_threshold = threshold;
    table.btl_registration_handle_size = REMOTE_KEY_BYTES;
    table.btl_add_procs = Some(endpoint::add_procs::<F>);
    table.btl_del_procs = Some(endpoint::del_procs::<F>);
    table.btl_finalize = Some(finalize::<F>);
    table.btl_alloc = Some(send::alloc::<F>);
    table.btl_free = Some(send::free::<F>);
    table.btl_prepare_src = Some(send::prepare_src::<F>);
    table.btl_send = Some(send::send::<F>);
    table.btl_sendi = Some(send::sendi::<F>);
    table.btl_put = Some(rdma::put::<F>);
    table.btl_get = Some(rdma::get::<F>);
    table.btl_dump = Some(mca_btl_base_dump);
    table.btl_register_mem = Some(registration::register_mem::<F>);
    table.btl_deregister_mem = Some(registration::deregister_mem::<F>);
    table.btl_register_error = Some(register_error);
    table
}

/// `btl_register_error`.
unsafe extern "C" fn register_error(
    table: *mut ModuleTable,
    callback: mca_btl_base_module_error_cb_fn_t,
) -> c_int {
    runtime::set_error_callback(table, callback);
    OPAL_SUCCESS
}

/// `btl_finalize`: sends what is left, ends the connections and frees the module.
///
/// Messages that the peer has not read yet are not lost: they are in memory that both processes map. What would be
/// lost is a message to a peer that has not answered the connection request yet; so this waits until the device has
/// nothing under way. In the usual order of MPI_Finalize that is at once, because Open MPI synchronizes the processes
/// (and calls progress meanwhile) before it closes the transports.
unsafe extern "C" fn finalize<F: Fabric>(table: *mut ModuleTable) -> c_int {
    contained("btl_finalize", OPAL_ERROR, || {
        component::forget(table);
        runtime::clear_error_callback();
        // SAFETY: Open MPI finalizes a module once.
        let module = unsafe { Module::<F>::from_c(table) };
        module.closing.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(FINALIZE_SECONDS);
        let busy = || module.with_peers(|peers| peers.any_waiting()) || !module.device.is_idle();
        while busy() && Instant::now() < deadline {
            if module.progress(table) == 0 {
                std::thread::yield_now();
            }
        }
        if busy() {
            runtime::say(&format!(
                "messages were still under way {FINALIZE_SECONDS} seconds after MPI_Finalize; some are lost"
            ));
        }
        if let Some(tally) = module.device.tally() {
            runtime::say_at(1, &tally);
        }
        // SAFETY: made by Box::leak in `create`; the component has forgotten it and Open MPI uses it no more.
        drop(unsafe { Box::from_raw(table.cast::<Module<F>>()) });
        OPAL_SUCCESS
    })
}
