//! Registered memory: `btl_register_mem` and `btl_deregister_mem`.
//!
//! ob1 and `osc/rdma` copy the first `btl_registration_handle_size` bytes of a handle into their own headers and hand
//! the copy to `btl_get` and the others in the peer:
//!
//! ```text
//!  0                 8          12         16
//! +-----------------+----------+----------+
//! | key of the      | purpose  | mark     |     in this machine's byte order: a peer of another
//! | transport       | 0 or 1   | "IBky"   |     architecture is not on this node
//! +-----------------+----------+----------+
//! ```

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use ironband::{Access, ReadHint, Registration};
use ironband_fabric::Fabric;

use super::module::Module;
use super::panics::contained;
use super::runtime;
use super::series::{
    MCA_BTL_REG_FLAG_REMOTE_ATOMIC, MCA_BTL_REG_FLAG_REMOTE_READ, MCA_BTL_REG_FLAG_REMOTE_WRITE, ModuleTable,
    OPAL_ERROR, OPAL_SUCCESS, OpaqueEndpoint, OpaqueHandle,
};

/// The part of a handle that travels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RemoteKey {
    pub(super) key: u64,
    purpose: u32,
    mark: u32,
}

/// `btl_registration_handle_size`.
pub(super) const REMOTE_KEY_BYTES: usize = size_of::<RemoteKey>();
const _: () = assert!(REMOTE_KEY_BYTES == 16);

/// Last word of each handle.
const MARK: u32 = u32::from_le_bytes(*b"IBky");

/// Registered by ob1 for one message.
const RENDEZVOUS: u32 = 0;
/// Registered by `osc/rdma` for a window.
const WINDOW: u32 = 1;

impl RemoteKey {
    /// Reads the copy that came from the peer.
    ///
    /// # Safety
    /// [`REMOTE_KEY_BYTES`] bytes are readable at `handle`, aligned or not.
    #[inline]
    pub(super) unsafe fn from_c(handle: *const OpaqueHandle) -> Self {
        // SAFETY: as promised by the caller; every bit pattern is a value.
        unsafe { handle.cast::<Self>().read_unaligned() }
    }

    /// The key of the message that a control message of ob1's announces: ob1 puts the handle at the end of its header. Other
    /// bytes that look like a handle do no harm, because the transport knows which keys are good.
    #[inline]
    pub(super) fn announced_by(message: &[u8]) -> Option<u64> {
        let handle = message.last_chunk::<REMOTE_KEY_BYTES>()?;
        // SAFETY: as many bytes as a key has.
        let key = unsafe { Self::from_c(handle.as_ptr().cast()) };
        (key.mark == MARK && key.purpose == RENDEZVOUS).then_some(key.key)
    }

    /// True for a window of one-sided communication.
    pub(super) const fn is_window(self) -> bool {
        self.purpose == WINDOW
    }

    /// Who waits for a read of this memory: the sender of a rendezvous does, and can lend a hand; the owner of a window
    /// may be computing.
    pub(super) const fn read_hint(self) -> ReadHint {
        if self.is_window() { ReadHint::OwnerMayBeAway } else { ReadHint::OwnerIsWaiting }
    }
}

/// What Open MPI holds for a registration.
#[repr(C)]
pub(super) struct Handle<F: Fabric> {
    /// First, because Open MPI copies it from here.
    remote: RemoteKey,
    registration: Option<Registration<F>>,
}

const _: () = assert!(std::mem::offset_of!(Handle<ironband_fabric::shm::Shm>, remote) == 0);

/// The registration behind the handle that Open MPI passes for the local memory of a transfer; `None` without a handle.
///
/// # Safety
/// `handle` is null or one of this module's, and is not given back during `'handle`.
#[inline]
pub(super) unsafe fn of<'handle, F: Fabric>(handle: *const OpaqueHandle) -> Option<&'handle Registration<F>> {
    // SAFETY: as promised by the caller; registered handles are only read until they are given back.
    unsafe { handle.cast::<Handle<F>>().as_ref() }?.registration.as_ref()
}

/// Handles that are not in use, to be used again: a rendezvous registers and deregisters once per message.
pub(super) struct SpareHandles<F: Fabric>(Vec<NonNull<Handle<F>>>);

// SAFETY: a spare handle belongs to this list alone.
unsafe impl<F: Fabric> Send for SpareHandles<F> {}

impl<F: Fabric> SpareHandles<F> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }
}

impl<F: Fabric> Drop for SpareHandles<F> {
    fn drop(&mut self) {
        for handle in self.0.drain(..) {
            // SAFETY: made by Box::leak, and nobody else's.
            drop(unsafe { Box::from_raw(handle.as_ptr()) });
        }
    }
}

/// `btl_register_mem`. Null if the transport has no more room, or copying is faster, which ob1 and `osc/rdma` cope with.
pub(super) unsafe extern "C" fn register_mem<F: Fabric>(
    table: *mut ModuleTable,
    _endpoint: *mut OpaqueEndpoint,
    start: *mut c_void,
    len_bytes: usize,
    flags: u32,
) -> *mut OpaqueHandle {
    contained("btl_register_mem", null_mut(), || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        let access = Access {
            remote_read: flags & MCA_BTL_REG_FLAG_REMOTE_READ != 0,
            remote_write: flags & MCA_BTL_REG_FLAG_REMOTE_WRITE != 0,
            remote_atomic: flags & MCA_BTL_REG_FLAG_REMOTE_ATOMIC != 0,
        };
        // ob1 never asks for atomics and osc/rdma always does, for what it exposes.
        let purpose = if access.remote_atomic { WINDOW } else { RENDEZVOUS };
        let device = module.device();
        // The sender of a rendezvous may copy instead, with which ob1 goes on when there is no handle.
        let may_copy = purpose == RENDEZVOUS && access.remote_read;
        // SAFETY: the memory is the user's or osc/rdma's, which keep it until they deregister it.
        let registered = unsafe {
            if may_copy {
                device.register_to_send(start.cast(), len_bytes, access)
            } else {
                device.register(start.cast(), len_bytes, access).map(Some)
            }
        };
        match registered {
            Ok(None) => null_mut(),
            Ok(Some(registration)) => {
                let remote = RemoteKey { key: registration.key(), purpose, mark: MARK };
                let handle = Handle { remote, registration: Some(registration) };
                let spare = module.with_spare_handles(|spare| spare.0.pop());
                let place = spare.unwrap_or_else(|| {
                    NonNull::from(Box::leak(Box::new(Handle { remote, registration: None })))
                });
                // SAFETY: nobody else has the place. Its old contents have no registration to drop.
                unsafe { place.as_ptr().write(handle) };
                place.as_ptr().cast()
            }
            Err(reason) => {
                module.pass_on_warnings();
                runtime::say_at(2, &reason.to_string());
                null_mut()
            }
        }
    })
}

/// `btl_deregister_mem`.
pub(super) unsafe extern "C" fn deregister_mem<F: Fabric>(
    table: *mut ModuleTable,
    handle: *mut OpaqueHandle,
) -> std::ffi::c_int {
    contained("btl_deregister_mem", OPAL_ERROR, || {
        // SAFETY: the module table's contract (see `abi`).
        let module = unsafe { Module::<F>::from_c(table) };
        let Some(handle) = NonNull::new(handle.cast::<Handle<F>>()) else { return OPAL_SUCCESS };
        // SAFETY: a handle of this module, which its owner gives back.
        if let Some(registration) = unsafe { (*handle.as_ptr()).registration.take() } {
            module.device().deregister(registration);
        }
        let kept = module.with_spare_handles(|spare| spare.0.try_reserve(1).map(|()| spare.0.push(handle)));
        if kept.is_err() {
            // SAFETY: made by Box::leak, and given back.
            drop(unsafe { Box::from_raw(handle.as_ptr()) });
        }
        OPAL_SUCCESS
    })
}
