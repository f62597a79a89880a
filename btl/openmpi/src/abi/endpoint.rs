//! Peers: `btl_add_procs` and `btl_del_procs`.

use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::{Duration, Instant};

use ironband::{Threads, partners};
use ironband_fabric::Fabric;

use super::backlog::Backlog;
use super::component;
use super::fragment::Fragment;
use super::module::Module;
use super::panics::contained;
use super::runtime;
use super::series::{
    ModuleTable, OPAL_ERROR, OPAL_SUCCESS, OpaqueEndpoint, Proc, ProcessName, is_on_this_node, modex_get,
    opal_bitmap_set_bit, opal_bitmap_t, opal_proc_local_get,
};

/// How long `del_procs` waits until what is queued to a peer has left. The peer has to take it, and it is about to
/// delete us as well; so this only ends when it has died or hangs.
const LEAVE_SECONDS: u64 = 10;

/// What Open MPI holds for a peer. It lives as long as the module, because stale pointers to it come back: `del_procs`
/// is called twice for some peers.
pub(super) struct Endpoint {
    /// The transport's name for the peer.
    pub(super) transport: ironband::QueuePair,
    /// Fragments that found no room. While there are any, later sends go behind them.
    pub(super) sends: Backlog<QueuedFragment>,
    /// Numbers of the transfers (in the module's table) that found no room.
    pub(super) transfers: Backlog<u32>,
    /// In the module's list of endpoints with something queued.
    pub(super) listed: AtomicBool,
    /// Between `add_procs` and `del_procs`.
    in_use: AtomicBool,
    /// Open MPI's structure, for its error callback; null when the peer is deleted.
    proc: AtomicPtr<Proc>,
    /// The peer's job and its rank in that job's MPI_COMM_WORLD.
    name: (u32, u32),
}

/// A fragment that waits in an endpoint's queue.
#[derive(Clone, Copy)]
pub(super) struct QueuedFragment(pub(super) NonNull<Fragment>);

// SAFETY: a queued fragment belongs to the queue alone.
unsafe impl Send for QueuedFragment {}

impl Endpoint {
    fn new(threads: Threads, transport: ironband::QueuePair, proc: *mut Proc, name: (u32, u32)) -> Self {
        Self {
            transport,
            sends: Backlog::new(threads),
            transfers: Backlog::new(threads),
            listed: AtomicBool::new(false),
            in_use: AtomicBool::new(true),
            proc: AtomicPtr::new(proc),
            name,
        }
    }

    /// The endpoint behind Open MPI's pointer.
    ///
    /// # Safety
    /// `add_procs` gave the pointer out, and the module has not been finalized.
    #[inline(always)]
    pub(super) unsafe fn from_c<'a>(endpoint: *mut OpaqueEndpoint) -> &'a Self {
        // SAFETY: as promised by the caller; endpoints are freed with the module only.
        unsafe { &*endpoint.cast::<Self>() }
    }

    /// As Open MPI knows it.
    #[inline]
    pub(super) fn to_c(&self) -> *mut OpaqueEndpoint {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Open MPI's structure for the peer, or null.
    pub(super) fn proc(&self) -> *mut Proc {
        self.proc.load(Ordering::Relaxed)
    }

    /// False when the peer is deleted.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    /// The peer, in words.
    pub(super) fn peer(&self) -> String {
        // SAFETY: a static structure of libopen-pal, or null.
        let own_job = unsafe { opal_proc_local_get().as_ref() }.map(|own| own.proc_name.jobid);
        let (job, rank) = self.name;
        if own_job == Some(job) { format!("rank {rank}") } else { format!("rank {rank} of job {job:#x}") }
    }

    /// True while anything waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        !self.sends.is_empty() || !self.transfers.is_empty()
    }
}

/// All endpoints of a module.
pub(super) struct Peers {
    /// Those in use, by job and rank.
    by_name: HashMap<(u32, u32), NonNull<Endpoint>>,
    /// Each that was ever handed out, to be freed with the module.
    all: Vec<NonNull<Endpoint>>,
}

// SAFETY: the endpoints belong to this table and are only reached through shared references.
unsafe impl Send for Peers {}

impl Peers {
    pub(super) fn new() -> Self {
        Self { by_name: HashMap::new(), all: Vec::new() }
    }

    /// The endpoint that the transport knows by this name.
    pub(super) fn find(&self, transport: ironband::QueuePair) -> Option<NonNull<Endpoint>> {
        // SAFETY: never freed before this table.
        self.all.iter().copied().rev().find(|endpoint| unsafe { endpoint.as_ref() }.transport == transport)
    }

    pub(super) fn any_waiting(&self) -> bool {
        // SAFETY: as above.
        self.all.iter().any(|endpoint| unsafe { endpoint.as_ref() }.is_waiting())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for endpoint in self.all.drain(..) {
            // SAFETY: made by Box::into_raw, in this table only, and Open MPI uses none after finalize.
            drop(unsafe { Box::from_raw(endpoint.as_ptr()) });
        }
    }
}

/// `btl_add_procs`: makes an endpoint for each process that this module reaches. The connection itself is made on
/// first use.
///
/// This process is one of them, because `osc/rdma` asks for a path from a process to itself: a window on
/// MPI_COMM_SELF, or in a job of one, would otherwise find no transport. It does not take the sends to itself away
/// from the `self` transport, whose exclusivity is higher.
pub(super) unsafe extern "C" fn add_procs<F: Fabric>(
    table: *mut ModuleTable,
    count: usize,
    procs: *mut *mut Proc,
    endpoints: *mut *mut OpaqueEndpoint,
    reachable: *mut opal_bitmap_t,
) -> c_int {
    contained("btl_add_procs", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        for i in 0..count {
            // SAFETY: both arrays have `count` entries.
            let (proc, endpoint) = unsafe { (*procs.add(i), endpoints.add(i)) };
            // SAFETY: a process of Open MPI's.
            let found = unsafe { reach(module, proc) };
            // SAFETY: as above. The null lets bml/r2 see that this module is no path to the process.
            unsafe { endpoint.write(found.map_or(null_mut(), Endpoint::to_c)) };
            // A single process is added without a bitmap.
            if found.is_some() && !reachable.is_null() {
                // SAFETY: Open MPI's bitmap, with a bit for each process.
                let code = unsafe { opal_bitmap_set_bit(reachable, i as c_int) };
                if code != OPAL_SUCCESS {
                    return code;
                }
            }
        }
        module.announce();
        OPAL_SUCCESS
    })
}

/// The endpoint of a process, made if need be. `None` for a process that this module does not reach.
///
/// # Safety
/// `proc` is a process of Open MPI's.
unsafe fn reach<F: Fabric>(module: &Module<F>, proc: *mut Proc) -> Option<&Endpoint> {
    // SAFETY: as promised by the caller.
    let ProcessName { jobid, vpid } = unsafe { (*proc).proc_name };
    let name = (jobid, vpid);
    if let Some(known) = module.with_peers(|peers| peers.by_name.get(&name).copied()) {
        // SAFETY: endpoints are never freed before the module.
        return Some(unsafe { known.as_ref() });
    }
    // What only works inside a node need not ask others for their cards.
    // SAFETY: as promised by the caller.
    if !module.device().capabilities().between_nodes && !unsafe { is_on_this_node(proc) } {
        return None;
    }
    // SAFETY: as above. It may wait for the process to publish, so no lock is held.
    let card = match unsafe { modex_get(component::table(), proc) } {
        Ok(card) => card,
        // A process without this component; another transport may reach it.
        Err(code) => {
            runtime::say_at(1, &format!("rank {vpid} is not reached: it has no address here (code {code})"));
            return None;
        }
    };
    let connected = ironband::addresses_of(&card, F::NAME).and_then(|addresses| {
        let address = partner(module, &addresses)?;
        module.device().connect(address).map_err(|unreachable| unreachable.to_string())
    });
    match connected {
        Ok(transport) => {
            let endpoint = module.with_peers(|peers| {
                // Another thread may have added the process meanwhile; two queues for one peer would lose the order.
                *peers.by_name.entry(name).or_insert_with(|| {
                    let endpoint = Endpoint::new(module.threads(), transport, proc, name);
                    let endpoint = NonNull::from(Box::leak(Box::new(endpoint)));
                    peers.all.push(endpoint);
                    endpoint
                })
            });
            // SAFETY: as above.
            Some(unsafe { endpoint.as_ref() })
        }
        Err(reason) => {
            runtime::say_at(1, &format!("rank {vpid} is not reached: {reason}"));
            None
        }
    }
}

/// The device of a peer that this module talks to, of those whose addresses the peer's card has. Both processes choose alike, so
/// that what one registers with a module can be reached by the module that talks to it.
///
/// # Errors
/// Why there is none.
fn partner<'a, F: Fabric>(module: &Module<F>, addresses: &[&'a [u8]]) -> Result<&'a [u8], String> {
    let place = module.place();
    // SAFETY: Open MPI finalizes no module while it adds processes.
    let modules: Vec<&Module<F>> = unsafe { place.siblings.in_use() }.collect();
    let row =
        |module: &Module<F>| addresses.iter().map(|address| module.device().reach(address).ok()).collect();
    let reach: Vec<Vec<_>> = modules.iter().map(|module| row(module)).collect();
    let own = modules.iter().position(|it| std::ptr::eq(*it, module)).unwrap_or(place.ordinal);
    if let Some(Some(peer)) = partners::pairs(&reach).get(own) {
        return Ok(addresses[*peer]);
    }
    let refusals: Vec<String> = addresses
        .iter()
        .filter_map(|address| module.device().reach(address).err())
        .map(|it| it.to_string())
        .collect();
    Err(if addresses.is_empty() {
        format!("it has no {} device", F::NAME)
    } else if refusals.len() == addresses.len() {
        refusals.join("; ")
    } else {
        format!(
            "other ports of the two processes are nearer to each other than any is to {}",
            module.device().name()
        )
    })
}

/// `btl_del_procs`: ends the use of endpoints. What is queued leaves first, within [`LEAVE_SECONDS`]. The entries are
/// left as they are, and an endpoint that was deleted before is passed over.
pub(super) unsafe extern "C" fn del_procs<F: Fabric>(
    table: *mut ModuleTable,
    count: usize,
    _procs: *mut *mut Proc,
    endpoints: *mut *mut OpaqueEndpoint,
) -> c_int {
    contained("btl_del_procs", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        for i in 0..count {
            // SAFETY: the array has `count` entries.
            let endpoint = unsafe { *endpoints.add(i) };
            if endpoint.is_null() {
                continue;
            }
            // SAFETY: `add_procs` gave it out.
            let endpoint = unsafe { Endpoint::from_c(endpoint) };
            if !endpoint.in_use.swap(false, Ordering::AcqRel) {
                continue;
            }
            module.with_peers(|peers| peers.by_name.remove(&endpoint.name));
            let deadline = Instant::now() + Duration::from_secs(LEAVE_SECONDS);
            while endpoint.is_waiting() && Instant::now() < deadline {
                if module.progress(table) == 0 {
                    std::thread::yield_now();
                }
            }
            if endpoint.is_waiting() {
                runtime::say(&format!(
                    "{} took no messages for {LEAVE_SECONDS} seconds; some are lost",
                    endpoint.peer()
                ));
            }
            module.device().disconnect(endpoint.transport);
            endpoint.proc.store(null_mut(), Ordering::Relaxed);
        }
        OPAL_SUCCESS
    })
}
