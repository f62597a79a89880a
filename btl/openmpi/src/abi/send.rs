//! Messages: `btl_alloc`, `btl_free`, `btl_prepare_src`, `btl_send`, `btl_sendi`.
//!
//! The module does not claim `MCA_BTL_FLAGS_SEND_INPLACE`. With it, ob1 sends everything from 257 bytes to the eager
//! limit by `prepare_src` and `send`; without it, by one `sendi` that copies from user memory into the ring. ob1
//! consults the flag for standard and ready sends below the eager limit only: synchronous sends and the first part of a
//! rendezvous go through `prepare_src` whatever it says, and buffered ones through `sendi` or `alloc` either way. So
//! `prepare_src` can still lend out contiguous user memory, and the pipeline of a long message copies once as well.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

use ironband::Posted;
use ironband_fabric::Fabric;

use super::endpoint::{Endpoint, QueuedFragment};
use super::fragment::Fragment;
use super::module::Module;
use super::panics::contained;
use super::registration::RemoteKey;
use super::series::{
    Convertor, Descriptor, MCA_BTL_DES_FLAGS_BTL_OWNERSHIP, MCA_BTL_DES_SEND_ALWAYS_CALLBACK, ModuleTable,
    OPAL_ERR_OUT_OF_RESOURCE, OPAL_ERR_UNREACH, OPAL_ERROR, OPAL_SUCCESS, OpaqueEndpoint, current_pointer,
    iovec, is_contiguous, mca_btl_base_tag_t, opal_convertor_pack,
};

/// What `btl_send` returns for a message that has left already.
const SENT: c_int = 1;

/// Memory of Open MPI's as a slice, for the time of a call.
///
/// # Safety
/// `len_bytes` bytes at `start` are readable for `'a`; `start` may be null if there are none.
#[inline(always)]
unsafe fn bytes<'a>(start: *const u8, len_bytes: usize) -> &'a [u8] {
    if len_bytes == 0 {
        return &[];
    }
    // SAFETY: as promised by the caller. That the user's program does not write to a buffer while it is sent is MPI's
    // own rule; a program that breaks it gets either value, as the bytes are only copied.
    unsafe { std::slice::from_raw_parts(start, len_bytes) }
}

/// Packs `room_bytes` bytes of a convertor's data to `room`; gives how many came, or `None` if the convertor failed.
///
/// # Safety
/// `convertor` is prepared for sending; `room_bytes` bytes at `room` are writable.
unsafe fn pack(convertor: *mut Convertor, room: *mut u8, room_bytes: usize) -> Option<usize> {
    let mut vector = iovec { iov_base: room.cast(), iov_len: room_bytes };
    let mut vectors = 1;
    let mut packed_bytes = room_bytes;
    // SAFETY: as promised by the caller. Packing copies memory and calls nobody.
    let code =
        unsafe { opal_convertor_pack(convertor, &raw mut vector, &raw mut vectors, &raw mut packed_bytes) };
    (code >= 0).then_some(packed_bytes)
}

/// `btl_sendi`: sends a message at once, or not at all.
///
/// The hot path of the component: from here to the ring there is no allocation, no lock while single-threaded, and no
/// call that the compiler does not see through.
pub(super) unsafe extern "C" fn sendi<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    convertor: *mut Convertor,
    header: *mut c_void,
    header_bytes: usize,
    payload_bytes: usize,
    order: u8,
    flags: u32,
    tag: mca_btl_base_tag_t,
    descriptor: *mut *mut Descriptor,
) -> c_int {
    contained("btl_sendi", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`).
        let (module, peer) = unsafe { (Module::<F>::from_c(table), Endpoint::from_c(endpoint)) };
        // Earlier messages still wait: this one must not overtake them.
        if peer.sends.is_empty() {
            // SAFETY: ob1 lends the header, and the data behind the convertor, for this call.
            let posted = unsafe {
                let header = bytes(header.cast(), header_bytes);
                if payload_bytes == 0 {
                    module.device().send_short(peer.transport, u32::from(tag), header, &[])
                } else if is_contiguous(convertor) {
                    let payload = bytes(current_pointer(convertor), payload_bytes);
                    module.device().send_short(peer.transport, u32::from(tag), header, payload)
                } else {
                    send_packed(module, peer, tag, header, convertor, payload_bytes)
                }
            };
            if posted == Posted::Complete {
                return OPAL_SUCCESS;
            }
            if posted == Posted::Failed {
                module.peer_failed(peer);
                // SAFETY: ob1's variable, or null.
                unsafe { give_descriptor(descriptor, null_mut()) };
                return OPAL_ERR_UNREACH;
            }
        }
        sendi_later(module, header_bytes + payload_bytes, order, flags, descriptor)
    })
}

/// The part of [`sendi`] for data that Open MPI's datatype engine has to pack: directly into the ring.
///
/// # Safety
/// As for [`sendi`].
#[inline(never)]
unsafe fn send_packed<F: Fabric>(
    module: &Module<F>,
    peer: &Endpoint,
    tag: mca_btl_base_tag_t,
    header: &[u8],
    convertor: *mut Convertor,
    payload_bytes: usize,
) -> Posted {
    module.device().send_bcopy(peer.transport, u32::from(tag), header, payload_bytes, |room, room_bytes| {
        // SAFETY: the transport lends `room_bytes` bytes.
        unsafe { pack(convertor, room.as_ptr(), room_bytes.min(payload_bytes)) }.unwrap_or(0)
    })
}

/// There is no room now: hands a descriptor back, which ob1 fills and gives to [`send`], where it queues.
#[cold]
#[inline(never)]
fn sendi_later<F: Fabric>(
    module: &Module<F>,
    message_bytes: usize,
    order: u8,
    flags: u32,
    descriptor: *mut *mut Descriptor,
) -> c_int {
    if !descriptor.is_null() {
        let fragment = module.alloc(message_bytes, flags, order);
        // SAFETY: ob1's variable.
        unsafe {
            give_descriptor(descriptor, fragment.map_or(null_mut(), |fragment| fragment.as_ptr().cast()))
        };
    }
    OPAL_ERR_OUT_OF_RESOURCE
}

/// # Safety
/// `place` is writable, or null.
unsafe fn give_descriptor(place: *mut *mut Descriptor, descriptor: *mut Descriptor) {
    if !place.is_null() {
        // SAFETY: as promised by the caller.
        unsafe { place.write(descriptor) };
    }
}

/// `btl_alloc`: a descriptor with room for `room_bytes`. Null only when memory has run out (ob1 would otherwise keep
/// the request on a list that nothing but another completion makes it look at).
pub(super) unsafe extern "C" fn alloc<F: Fabric>(
    table: *mut ModuleTable,
    _endpoint: *mut OpaqueEndpoint,
    order: u8,
    room_bytes: usize,
    flags: u32,
) -> *mut Descriptor {
    contained("btl_alloc", null_mut(), || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        module.alloc(room_bytes, flags, order).map_or(null_mut(), |fragment| fragment.as_ptr().cast())
    })
}

/// `btl_free`: takes a descriptor back.
pub(super) unsafe extern "C" fn free<F: Fabric>(
    table: *mut ModuleTable,
    descriptor: *mut Descriptor,
) -> c_int {
    contained("btl_free", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        if let Some(fragment) = NonNull::new(descriptor.cast::<Fragment>()) {
            // SAFETY: a descriptor of this module, which its owner gives back.
            unsafe { module.free(fragment) };
        }
        OPAL_SUCCESS
    })
}

/// `btl_prepare_src`: a descriptor with `reserve_bytes` of room for a header and up to `*payload_bytes` of the
/// convertor's data: where they are if they lie in one piece, and packed behind the header otherwise.
pub(super) unsafe extern "C" fn prepare_src<F: Fabric>(
    table: *mut ModuleTable,
    _endpoint: *mut OpaqueEndpoint,
    convertor: *mut Convertor,
    order: u8,
    reserve_bytes: usize,
    payload_bytes: *mut usize,
    flags: u32,
) -> *mut Descriptor {
    contained("btl_prepare_src", null_mut(), || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        // SAFETY: ob1's variable.
        let wanted_bytes =
            unsafe { *payload_bytes }.min(module.message_bytes_max().saturating_sub(reserve_bytes));
        // SAFETY: ob1 has prepared the convertor.
        let in_place = unsafe { is_contiguous(convertor) };
        let room_bytes = if in_place { reserve_bytes } else { reserve_bytes + wanted_bytes };
        let Some(fragment) = module.alloc(room_bytes, flags, order) else { return null_mut() };
        let it = fragment.as_ptr();
        // SAFETY: the fragment is this function's until it returns; its room has `room_bytes` bytes.
        unsafe {
            let taken_bytes = if in_place {
                (*it).segments[1].seg_addr.pval = current_pointer(convertor).cast();
                (*it).segments[1].seg_len = wanted_bytes as u64;
                (*it).descriptor.des_segment_count = 2;
                wanted_bytes
            } else {
                let room = (*it).segments[0].seg_addr.pval.cast::<u8>().add(reserve_bytes);
                let Some(packed_bytes) = pack(convertor, room, wanted_bytes) else {
                    module.free(fragment);
                    return null_mut();
                };
                (*it).segments[0].seg_len = (reserve_bytes + packed_bytes) as u64;
                packed_bytes
            };
            *payload_bytes = taken_bytes;
        }
        it.cast()
    })
}

/// `btl_send`: sends a descriptor that ob1 has filled, or queues it.
///
/// Returns 1 if it has left (the callback is made only if ob1 asked for it) and 0 if the callback comes later.
pub(super) unsafe extern "C" fn send<F: Fabric>(
    table: *mut ModuleTable,
    endpoint: *mut OpaqueEndpoint,
    descriptor: *mut Descriptor,
    tag: mca_btl_base_tag_t,
) -> c_int {
    contained("btl_send", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`).
        let (module, peer) = unsafe { (Module::<F>::from_c(table), Endpoint::from_c(endpoint)) };
        let Some(fragment) = NonNull::new(descriptor.cast::<Fragment>()) else { return OPAL_ERROR };
        // SAFETY: ob1 gives the descriptor, which came from this module, to this function.
        unsafe {
            (*fragment.as_ptr()).endpoint = peer;
            (*fragment.as_ptr()).tag = tag;
        }
        if peer.sends.is_empty() {
            // SAFETY: its segments are ob1's until the callback.
            match unsafe { post(module, peer, fragment) } {
                Posted::Complete | Posted::Queued => {
                    // SAFETY: it has left and belongs to this function.
                    unsafe { finish(module, table, fragment, OPAL_SUCCESS) };
                    return SENT;
                }
                Posted::Failed => {
                    module.peer_failed(peer);
                    return OPAL_ERR_UNREACH;
                }
                Posted::Busy => {}
            }
        }
        // SAFETY: as above.
        unsafe { queue(module, peer, fragment) }
    })
}

/// Puts a fragment at the end of its endpoint's queue.
///
/// # Safety
/// The fragment is the caller's, who gives it away unless this returns an error.
#[cold]
unsafe fn queue<F: Fabric>(module: &Module<F>, peer: &Endpoint, fragment: NonNull<Fragment>) -> c_int {
    // The caller is told that the message has not left, so it waits for the callback whether it asked or not.
    // SAFETY: as promised by the caller.
    unsafe { (*fragment.as_ptr()).descriptor.des_flags |= MCA_BTL_DES_SEND_ALWAYS_CALLBACK };
    if !peer.sends.push(QueuedFragment(fragment)) {
        return OPAL_ERR_OUT_OF_RESOURCE;
    }
    module.list(peer);
    OPAL_SUCCESS
}

/// Offers a fragment to the transport.
///
/// # Safety
/// The fragment's segments are readable.
unsafe fn post<F: Fabric>(module: &Module<F>, peer: &Endpoint, fragment: NonNull<Fragment>) -> Posted {
    // SAFETY: as promised by the caller.
    let (header, payload, tag) = unsafe {
        let it = fragment.as_ptr();
        let segments = &(*it).segments;
        let first = bytes(segments[0].seg_addr.pval.cast(), segments[0].seg_len as usize);
        let second = match (*it).descriptor.des_segment_count {
            0 | 1 => &[],
            _ => bytes(segments[1].seg_addr.pval.cast(), segments[1].seg_len as usize),
        };
        (first, second, (*it).tag)
    };
    let announced = if payload.is_empty() { RemoteKey::announced_by(header) } else { None };
    match announced {
        Some(key) => module.device().send_announcing(peer.transport, u32::from(tag), header, payload, key),
        None => module.device().send_short(peer.transport, u32::from(tag), header, payload),
    }
}

/// Makes the callback of a fragment that has left (or never will), and frees it if that is this component's task.
///
/// # Safety
/// The fragment is the caller's, who gives it away. Nothing is borrowed or locked: the callback comes back.
unsafe fn finish<F: Fabric>(
    module: &Module<F>,
    table: *mut ModuleTable,
    fragment: NonNull<Fragment>,
    status: c_int,
) {
    let it = fragment.as_ptr();
    // SAFETY: as promised by the caller. The flags are read before the callback, which may free the fragment if this
    // component does not own it.
    unsafe {
        let flags = (*it).descriptor.des_flags;
        if flags & MCA_BTL_DES_SEND_ALWAYS_CALLBACK != 0
            && let Some(callback) = (*it).descriptor.des_cbfunc
        {
            callback(table, (*(*it).endpoint).to_c(), it.cast(), status);
        }
        if flags & MCA_BTL_DES_FLAGS_BTL_OWNERSHIP != 0 {
            module.free(fragment);
        }
    }
}

/// Sends what is queued to a peer, until the ring is full again. Gives how many left.
pub(super) fn flush<F: Fabric>(module: &Module<F>, table: *mut ModuleTable, peer: &Endpoint) -> usize {
    let mut left = 0;
    let offer = |QueuedFragment(fragment)| {
        // SAFETY: a queued fragment's segments are ob1's until the callback.
        unsafe { post(module, peer, fragment) }
    };
    while let Some((QueuedFragment(fragment), posted)) = peer.sends.offer_first(offer) {
        let status = if posted == Posted::Failed { OPAL_ERR_UNREACH } else { OPAL_SUCCESS };
        if posted == Posted::Failed {
            module.peer_failed(peer);
        }
        if module.is_closing() {
            continue; // The upper layer is gone, and its callback with it.
        }
        // SAFETY: taken off the queue, so it belongs to this function.
        unsafe { finish(module, table, fragment, status) };
        left += 1;
    }
    left
}
