//! One-sided transfers: `btl_get`, `btl_put` and the three atomics.
//!
//! A transfer for which the transport has no room is queued here, not refused. For a rendezvous that is needed: ob1
//! puts a refused get on a list that only another completion makes it look at, so with nothing else under way the job
//! would hang; and after 20 refusals it falls back to copying. Transfers on windows are refused beyond a limit, because
//! `osc/rdma` copes (it calls progress and tries again) and nothing else bounds how many a program starts.
//!
//! Atomics never return 1 ("complete"), though the contract allows it: `osc/rdma` 4.1 then forgets to count down its
//! pending operations, and copies a result to where it did not ask for one. They call back before they return.

use std::ffi::{c_int, c_void};

use ironband::{AtomicOp, AtomicWidth, CompletionStatus, Posted, ReadHint, RemoteAddress, WorkId};
use ironband_fabric::Fabric;

use super::endpoint::Endpoint;
use super::module::Module;
use super::own_memory;
use super::panics::contained;
use super::registration::{self, RemoteKey};
use super::runtime;
use super::series::{
    MCA_BTL_ATOMIC_ADD, MCA_BTL_ATOMIC_AND, MCA_BTL_ATOMIC_FLAG_32BIT, MCA_BTL_ATOMIC_FLAG_FLOAT,
    MCA_BTL_ATOMIC_OR, MCA_BTL_ATOMIC_SWAP, MCA_BTL_ATOMIC_XOR, ModuleTable, OPAL_ERR_NOT_SUPPORTED,
    OPAL_ERR_OUT_OF_RESOURCE, OPAL_ERR_UNREACH, OPAL_ERROR, OPAL_SUCCESS, OpaqueEndpoint, OpaqueHandle,
    mca_btl_base_atomic_op_t, mca_btl_base_rdma_completion_fn_t,
};

/// Transfers on windows that may wait for room, per peer; further ones are refused.
const WINDOW_TRANSFERS_QUEUED_MAX: u32 = 1024;

/// A transfer under way.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    request: Request,
    /// On a window, and not a part of a message.
    window: bool,
    endpoint: *const Endpoint,
    callback: Callback,
}

// SAFETY: the pointers are Open MPI's and are only handed back to it.
unsafe impl Send for Transfer {}

/// What Open MPI wants to hear when a transfer is complete.
#[derive(Clone, Copy)]
struct Callback {
    function: mca_btl_base_rdma_completion_fn_t,
    local_address: *mut c_void,
    local_handle: *mut OpaqueHandle,
    context: *mut c_void,
    data: *mut c_void,
}

/// What the transport is to do.
#[derive(Clone, Copy)]
enum Request {
    Get {
        local: *mut u8,
        handle: *const OpaqueHandle,
        remote: RemoteAddress,
        len_bytes: usize,
        hint: ReadHint,
    },
    Put {
        local: *const u8,
        handle: *const OpaqueHandle,
        remote: RemoteAddress,
        len_bytes: usize,
    },
    Atomic {
        result: *mut u8,
        remote: RemoteAddress,
        op: AtomicOp,
        width: AtomicWidth,
    },
}

impl Request {
    const fn verb(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::Atomic { .. } => "atomic operation",
        }
    }

    const fn remote(&self) -> RemoteAddress {
        match self {
            Self::Get { remote, .. } | Self::Put { remote, .. } | Self::Atomic { remote, .. } => *remote,
        }
    }
}

/// Offers a transfer to the transport.
///
/// # Safety
/// The local memory of the request, and its handle if there is one, stay valid until the transfer is complete.
unsafe fn post<F: Fabric>(module: &Module<F>, peer: &Endpoint, number: u32, request: &Request) -> Posted {
    let id = WorkId(u64::from(number));
    // SAFETY: as promised by the caller.
    unsafe {
        match *request {
            Request::Get { local, handle, remote, len_bytes, hint } => {
                let registration = registration::of::<F>(handle);
                module.device().get(peer.transport, id, local, registration, remote, len_bytes, hint)
            }
            Request::Put { local, handle, remote, len_bytes } => {
                let registration = registration::of::<F>(handle);
                module.device().put(peer.transport, id, local, registration, remote, len_bytes)
            }
            Request::Atomic { result, remote, op, width } => {
                module.device().atomic(peer.transport, id, result, remote, op, width)
            }
        }
    }
}

/// Starts a transfer, or queues it.
///
/// # Safety
/// As for [`post`]. Nothing is borrowed or locked: the callback comes back.
unsafe fn start<F: Fabric>(
    module: &Module<F>,
    table: *mut ModuleTable,
    peer: &Endpoint,
    transfer: Transfer,
) -> c_int {
    let Some(number) = module.with_transfers(|transfers| transfers.insert(transfer)) else {
        return OPAL_ERR_OUT_OF_RESOURCE;
    };
    if peer.transfers.is_empty() {
        // SAFETY: as promised by the caller.
        let posted = unsafe { post(module, peer, number, &transfer.request) };
        module.pass_on_notices();
        match posted {
            Posted::Complete => {
                // SAFETY: as promised by the caller.
                unsafe { complete(module, table, number, CompletionStatus::Success) };
                return OPAL_SUCCESS;
            }
            Posted::Queued => return OPAL_SUCCESS,
            Posted::Failed => {
                module.with_transfers(|transfers| transfers.remove(number));
                module.peer_failed(peer);
                return OPAL_ERR_UNREACH;
            }
            Posted::Busy => {}
        }
    }
    let refused = transfer.window && peer.transfers.len() >= WINDOW_TRANSFERS_QUEUED_MAX;
    if refused || !peer.transfers.push(number) {
        module.with_transfers(|transfers| transfers.remove(number));
        return OPAL_ERR_OUT_OF_RESOURCE;
    }
    module.list(peer);
    OPAL_SUCCESS
}

/// Ends a transfer: makes its callback.
///
/// # Safety
/// Nothing is borrowed or locked: the callback comes back.
pub(super) unsafe fn complete<F: Fabric>(
    module: &Module<F>,
    table: *mut ModuleTable,
    number: u32,
    status: CompletionStatus,
) {
    let Some(transfer) = module.with_transfers(|transfers| transfers.remove(number)) else {
        runtime::fatal(&format!("the transport completed the transfer {number}, which does not exist"));
        return;
    };
    if module.is_closing() {
        return; // The upper layer is gone, and its callback with it.
    }
    // SAFETY: endpoints live as long as the module.
    let peer = unsafe { &*transfer.endpoint };
    let code = match status {
        CompletionStatus::Success => OPAL_SUCCESS,
        _ if transfer.window => {
            // osc/rdma takes every completion for a success, so this is the last chance to say otherwise.
            report_failed(module, peer, &transfer, status);
            OPAL_ERROR
        }
        // ob1 moves this part of the message in another way.
        _ => OPAL_ERROR,
    };
    let Callback { function, local_address, local_handle, context, data } = transfer.callback;
    if let Some(function) = function {
        // SAFETY: the callback's contract; everything it gets is what Open MPI passed to start the transfer.
        unsafe { function(table, peer.to_c(), local_address, local_handle, context, data, code) };
    }
}

#[cold]
fn report_failed<F: Fabric>(
    module: &Module<F>,
    peer: &Endpoint,
    transfer: &Transfer,
    status: CompletionStatus,
) {
    let why = match status {
        CompletionStatus::RemoteAccess => {
            "the target refused it: the address is outside of the window, or the window is freed".to_owned()
        }
        CompletionStatus::Unmapped => "the memory at one of the two ends is not mapped".to_owned(),
        // The connection's own end is reported after those of its requests, which is too late.
        CompletionStatus::Flushed | CompletionStatus::Success => {
            module.device().failure(peer.transport).unwrap_or_else(|| "the connection was closed".to_owned())
        }
    };
    let message = format!(
        "a one-sided {} on {} at address {:#x} failed: {why}",
        transfer.request.verb(),
        peer.peer(),
        transfer.request.remote().address
    );
    runtime::fatal_about(peer.proc(), &message);
}

/// Starts what is queued to a peer, until the transport is busy again. Gives how many were started.
pub(super) fn flush<F: Fabric>(module: &Module<F>, table: *mut ModuleTable, peer: &Endpoint) -> usize {
    let mut started = 0;
    let offer = |number| match module.with_transfers(|transfers| transfers.get(number).map(|it| it.request)) {
        // SAFETY: Open MPI keeps the local memory and its handle until the callback, which has not been made.
        Some(request) => unsafe { post(module, peer, number, &request) },
        None => Posted::Failed,
    };
    while let Some((number, posted)) = peer.transfers.offer_first(offer) {
        match posted {
            // SAFETY: nothing is borrowed here.
            Posted::Complete => unsafe { complete(module, table, number, CompletionStatus::Success) },
            Posted::Failed => {
                module.peer_failed(peer);
                // SAFETY: as above.
                unsafe { complete(module, table, number, CompletionStatus::Flushed) };
            }
            Posted::Queued | Posted::Busy => {}
        }
        started += 1;
    }
    started
}

/// `btl_get`: copies from the peer's memory.
pub(super) unsafe extern "C" fn get<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    local_address: *mut c_void,
    remote_address: u64,
    local_handle: *mut OpaqueHandle,
    remote_handle: *mut OpaqueHandle,
    len_bytes: usize,
    _flags: c_int,
    _order: c_int,
    function: mca_btl_base_rdma_completion_fn_t,
    context: *mut c_void,
    data: *mut c_void,
) -> c_int {
    contained("btl_get", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`); the handle is a copy of one that the peer's module made.
        let (module, peer, key) = unsafe {
            (Module::<F>::from_c(table), Endpoint::from_c(endpoint), RemoteKey::from_c(remote_handle))
        };
        let remote = RemoteAddress { address: remote_address, key: key.key };
        let transfer = Transfer {
            request: Request::Get {
                local: local_address.cast(),
                handle: local_handle,
                remote,
                len_bytes,
                hint: key.read_hint(),
            },
            window: key.is_window(),
            endpoint: peer,
            callback: Callback { function, local_address, local_handle, context, data },
        };
        // SAFETY: Open MPI keeps the local memory and its handle until the callback.
        unsafe { start(module, table, peer, transfer) }
    })
}

/// `btl_put`: copies to the peer's memory.
pub(super) unsafe extern "C" fn put<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    local_address: *mut c_void,
    remote_address: u64,
    local_handle: *mut OpaqueHandle,
    remote_handle: *mut OpaqueHandle,
    len_bytes: usize,
    _flags: c_int,
    _order: c_int,
    function: mca_btl_base_rdma_completion_fn_t,
    context: *mut c_void,
    data: *mut c_void,
) -> c_int {
    contained("btl_put", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`); the handle is a copy of one that the peer's module made.
        let (module, peer, key) = unsafe {
            (Module::<F>::from_c(table), Endpoint::from_c(endpoint), RemoteKey::from_c(remote_handle))
        };
        let remote = RemoteAddress { address: remote_address, key: key.key };
        let transfer = Transfer {
            request: Request::Put { local: local_address.cast(), handle: local_handle, remote, len_bytes },
            window: key.is_window(),
            endpoint: peer,
            callback: Callback { function, local_address, local_handle, context, data },
        };
        // SAFETY: Open MPI keeps the local memory and its handle until the callback.
        unsafe { start(module, table, peer, transfer) }
    })
}

/// The transport's name for an atomic of Open MPI's. `None` for what is not offered (see `series::ATOMIC_FLAGS`):
/// `osc/rdma` 4.1 asks for minimum, maximum and the logical operations without looking at the flags, and on
/// "not supported" does them under a lock.
fn atomic_op(op: mca_btl_base_atomic_op_t, operand: u64) -> Option<AtomicOp> {
    match op {
        MCA_BTL_ATOMIC_ADD => Some(AtomicOp::FetchAdd(operand)),
        MCA_BTL_ATOMIC_AND => Some(AtomicOp::FetchAnd(operand)),
        MCA_BTL_ATOMIC_OR => Some(AtomicOp::FetchOr(operand)),
        MCA_BTL_ATOMIC_XOR => Some(AtomicOp::FetchXor(operand)),
        MCA_BTL_ATOMIC_SWAP => Some(AtomicOp::Swap(operand)),
        _ => None,
    }
}

/// What the three atomics have in common.
struct AtomicCall {
    /// Null for an atomic without a result.
    local_address: *mut c_void,
    local_handle: *mut OpaqueHandle,
    remote_address: u64,
    remote_handle: *mut OpaqueHandle,
    op: Option<AtomicOp>,
    flags: c_int,
    function: mca_btl_base_rdma_completion_fn_t,
    context: *mut c_void,
    data: *mut c_void,
}

/// # Safety
/// As for the `extern "C"` functions below.
unsafe fn atomic<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    call: &AtomicCall,
) -> c_int {
    let flags = call.flags as u32;
    let width = if flags & MCA_BTL_ATOMIC_FLAG_32BIT != 0 { AtomicWidth::Four } else { AtomicWidth::Eight };
    let op = match call.op {
        Some(op)
            if flags & MCA_BTL_ATOMIC_FLAG_FLOAT == 0
                && call.remote_address.is_multiple_of(width.bytes() as u64) =>
        {
            op
        }
        // Not OPAL_ERR_NOT_AVAILABLE, as the contract says: osc/rdma 4.1 would repeat the call for ever.
        _ => return OPAL_ERR_NOT_SUPPORTED,
    };
    // SAFETY: the module table's contract (see `abi`).
    let module = unsafe { Module::<F>::from_c(table) };
    if call.remote_handle.is_null() {
        // SAFETY: without a handle the address is one of this process; the callback's contract.
        unsafe { atomic_on_own_memory(module, table, endpoint, call, op, width) };
        return OPAL_SUCCESS;
    }
    // SAFETY: as above; the handle is a copy of one that the peer's module made.
    let (peer, key) = unsafe { (Endpoint::from_c(endpoint), RemoteKey::from_c(call.remote_handle)) };
    let result =
        if call.local_address.is_null() { module.discarded_result() } else { call.local_address.cast() };
    let transfer = Transfer {
        request: Request::Atomic {
            result,
            remote: RemoteAddress { address: call.remote_address, key: key.key },
            op,
            width,
        },
        window: true,
        endpoint: peer,
        callback: Callback {
            function: call.function,
            local_address: call.local_address,
            local_handle: call.local_handle,
            context: call.context,
            data: call.data,
        },
    };
    // SAFETY: Open MPI keeps the result's place until the callback; the module keeps its own.
    unsafe { start(module, table, peer, transfer) }
}

/// See [`own_memory`].
///
/// # Safety
/// As for [`own_memory::atomic`] and for the callback.
#[cold]
unsafe fn atomic_on_own_memory<F: Fabric>(
    module: &Module<F>,
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    call: &AtomicCall,
    op: AtomicOp,
    width: AtomicWidth,
) {
    let result =
        if call.local_address.is_null() { module.discarded_result() } else { call.local_address.cast() };
    // SAFETY: as promised by the caller.
    unsafe {
        own_memory::atomic(call.remote_address, op, width, result);
        if let Some(function) = call.function {
            function(
                table,
                endpoint,
                call.local_address,
                call.local_handle,
                call.context,
                call.data,
                OPAL_SUCCESS,
            );
        }
    }
}

/// `btl_atomic_op`: an atomic without a result.
pub(super) unsafe extern "C" fn atomic_op_without_result<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    remote_address: u64,
    remote_handle: *mut OpaqueHandle,
    op: mca_btl_base_atomic_op_t,
    operand: u64,
    flags: c_int,
    _order: c_int,
    function: mca_btl_base_rdma_completion_fn_t,
    context: *mut c_void,
    data: *mut c_void,
) -> c_int {
    contained("btl_atomic_op", OPAL_ERROR, || {
        let call = AtomicCall {
            local_address: std::ptr::null_mut(),
            local_handle: std::ptr::null_mut(),
            remote_address,
            remote_handle,
            op: atomic_op(op, operand),
            flags,
            function,
            context,
            data,
        };
        // SAFETY: passed on.
        unsafe { atomic::<F>(table, endpoint, &call) }
    })
}

/// `btl_atomic_fop`: an atomic that gives the old value.
pub(super) unsafe extern "C" fn atomic_fop<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    local_address: *mut c_void,
    remote_address: u64,
    local_handle: *mut OpaqueHandle,
    remote_handle: *mut OpaqueHandle,
    op: mca_btl_base_atomic_op_t,
    operand: u64,
    flags: c_int,
    _order: c_int,
    function: mca_btl_base_rdma_completion_fn_t,
    context: *mut c_void,
    data: *mut c_void,
) -> c_int {
    contained("btl_atomic_fop", OPAL_ERROR, || {
        let op = atomic_op(op, operand);
        let call = AtomicCall {
            local_address,
            local_handle,
            remote_address,
            remote_handle,
            op,
            flags,
            function,
            context,
            data,
        };
        // SAFETY: passed on.
        unsafe { atomic::<F>(table, endpoint, &call) }
    })
}

/// `btl_atomic_cswap`: compare and swap.
pub(super) unsafe extern "C" fn atomic_cswap<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    local_address: *mut c_void,
    remote_address: u64,
    local_handle: *mut OpaqueHandle,
    remote_handle: *mut OpaqueHandle,
    compare: u64,
    swap: u64,
    flags: c_int,
    _order: c_int,
    function: mca_btl_base_rdma_completion_fn_t,
    context: *mut c_void,
    data: *mut c_void,
) -> c_int {
    contained("btl_atomic_cswap", OPAL_ERROR, || {
        let op = Some(AtomicOp::CompareSwap { compare, swap });
        let call = AtomicCall {
            local_address,
            local_handle,
            remote_address,
            remote_handle,
            op,
            flags,
            function,
            context,
            data,
        };
        // SAFETY: passed on.
        unsafe { atomic::<F>(table, endpoint, &call) }
    })
}

#[cfg(test)]
mod tests {
    use super::super::series::ATOMIC_FLAGS;
    use super::*;

    #[test]
    fn what_is_offered_is_done_and_nothing_else() {
        assert_eq!(atomic_op(MCA_BTL_ATOMIC_ADD, 5), Some(AtomicOp::FetchAdd(5)));
        assert_eq!(atomic_op(MCA_BTL_ATOMIC_SWAP, 5), Some(AtomicOp::Swap(5)));
        // The values of btl.h: logical and, or, exclusive or; minimum; maximum.
        for op in [0x15, 0x16, 0x17, 0x20, 0x21] {
            assert_eq!(atomic_op(op, 1), None, "operation {op:#x}");
        }
        // The flags of btl.h for those five.
        assert_eq!(ATOMIC_FLAGS & 0x0030_7000, 0);
    }
}
