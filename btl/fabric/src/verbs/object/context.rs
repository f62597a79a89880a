//! An open adapter, one of its ports, and protection domains.

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys as ibv;

use super::error::{VerbError, check};
use crate::DeviceError;

/// An open adapter.
#[derive(Debug)]
pub(in crate::verbs) struct Context {
    raw: NonNull<ibv::ibv_context>,
    limits: AdapterLimits,
}

// SAFETY: libibverbs may be called from any thread; objects are used by one at a time (see the head of the crate).
unsafe impl Send for Context {}
// SAFETY: shared references only read the pointer and the limits.
unsafe impl Sync for Context {}

/// What the adapter says of itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct AdapterLimits {
    pub(in crate::verbs) queue_pairs_max: u32,
    pub(in crate::verbs) region_bytes_max: u64,
    pub(in crate::verbs) send_queue_depth_max: u32,
    pub(in crate::verbs) completion_queue_depth_max: u32,
    pub(in crate::verbs) shared_receive_queues: bool,
    pub(in crate::verbs) shared_receive_depth_max: u32,
    pub(in crate::verbs) regions_max: usize,
    /// Reads and atomics served at once, as responder and as initiator.
    pub(in crate::verbs) reads_served: u8,
    pub(in crate::verbs) reads_asked: u8,
    pub(in crate::verbs) is_iwarp: bool,
    pub(in crate::verbs) vendor: u32,
    pub(in crate::verbs) has_atomics: bool,
    pub(in crate::verbs) atomics_are_global: bool,
    pub(in crate::verbs) survives_fork: bool,
}

/// What a port says of itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct Port {
    pub(in crate::verbs) lid: u16,
    /// As verbs count it: 1 is 256 bytes, 5 is 4096.
    pub(in crate::verbs) mtu: u8,
    pub(in crate::verbs) message_bytes_max: u32,
    pub(in crate::verbs) is_active: bool,
}

impl Context {
    /// Opens the adapter with this name.
    pub(in crate::verbs) fn open(name: &str) -> Result<Arc<Self>, DeviceError> {
        let mut count: c_int = 0;
        // SAFETY: `count` is writable.
        let list = unsafe { ibv::ibv_get_device_list(&raw mut count) };
        if list.is_null() {
            return Err(VerbError::from_errno("ibv_get_device_list").into());
        }
        let mut found = None;
        for index in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the list has `count` devices, and is freed below only.
            let device = unsafe { *list.add(index) };
            // SAFETY: as above; the name is a string inside the device.
            if unsafe { CStr::from_ptr(ibv::ibv_get_device_name(device)) }.to_bytes() == name.as_bytes() {
                // SAFETY: a device of the list.
                found = Some(
                    NonNull::new(unsafe { ibv::ibv_open_device(device) })
                        .ok_or_else(|| VerbError::from_errno(format!("ibv_open_device for {name}"))),
                );
            }
        }
        // SAFETY: given by ibv_get_device_list; an open context stays valid.
        unsafe { ibv::ibv_free_device_list(list) };
        let Some(found) = found else {
            return Err(DeviceError::NoProvider { adapter: name.to_owned() });
        };
        let raw = found?;
        match query(raw) {
            Ok(limits) => Ok(Arc::new(Self { raw, limits })),
            Err(error) => {
                // SAFETY: just opened, and not used by anyone.
                unsafe { ibv::ibv_close_device(raw.as_ptr()) };
                Err(error.into())
            }
        }
    }

    pub(super) fn as_ptr(&self) -> *mut ibv::ibv_context {
        self.raw.as_ptr()
    }

    pub(in crate::verbs) fn limits(&self) -> &AdapterLimits {
        &self.limits
    }

    /// Asks for the state of a port.
    pub(in crate::verbs) fn port(&self, number: u8) -> Result<Port, VerbError> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut attributes: ibv::ibv_port_attr = unsafe { std::mem::zeroed() };
        // SAFETY: an open context and a writable structure of the size that the library is told.
        let returned = unsafe { ibv::___ibv_query_port(self.as_ptr(), number, &raw mut attributes) };
        check("ibv_query_port", returned)?;
        Ok(Port {
            lid: attributes.lid,
            mtu: u8::try_from(attributes.active_mtu).unwrap_or(1).clamp(1, 5),
            message_bytes_max: attributes.max_msg_sz.max(4096),
            is_active: attributes.state == ibv::ibv_port_state::IBV_PORT_ACTIVE,
        })
    }
}

fn query(raw: NonNull<ibv::ibv_context>) -> Result<AdapterLimits, VerbError> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut attributes: ibv::ibv_device_attr = unsafe { std::mem::zeroed() };
    // SAFETY: an open context and a writable structure.
    check("ibv_query_device", unsafe { ibv::ibv_query_device(raw.as_ptr(), &raw mut attributes) })?;
    // SAFETY: an open context, whose device lives as long as the process.
    let transport = unsafe { (*raw.as_ref().device).transport_type };
    let count = |value: c_int| u32::try_from(value).unwrap_or(0);
    let few = |value: c_int| u8::try_from(value.clamp(0, 128)).unwrap_or(128);
    Ok(AdapterLimits {
        queue_pairs_max: count(attributes.max_qp),
        region_bytes_max: attributes.max_mr_size,
        send_queue_depth_max: count(attributes.max_qp_wr),
        completion_queue_depth_max: count(attributes.max_cqe),
        shared_receive_queues: attributes.max_srq > 0,
        shared_receive_depth_max: count(attributes.max_srq_wr),
        regions_max: count(attributes.max_mr) as usize,
        reads_served: few(attributes.max_qp_rd_atom),
        reads_asked: few(attributes.max_qp_init_rd_atom),
        is_iwarp: transport == ibv::ibv_transport_type::IBV_TRANSPORT_IWARP,
        vendor: attributes.vendor_id,
        has_atomics: attributes.atomic_cap != ibv::ibv_atomic_cap::IBV_ATOMIC_NONE,
        atomics_are_global: attributes.atomic_cap == ibv::ibv_atomic_cap::IBV_ATOMIC_GLOB,
        survives_fork: kernel_copies_on_fork(),
    })
}

/// True if the kernel gives a child copies of registered pages. libibverbs knows since rdma-core 35, and older headers do not name the
/// question.
fn kernel_copies_on_fork() -> bool {
    /// `IBV_FORK_UNNEEDED` of `enum ibv_fork_status` (infiniband/verbs.h).
    const UNNEEDED: c_int = 2;
    // SAFETY: looks a name up.
    let question = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ibv_is_fork_initialized".as_ptr()) };
    // SAFETY: libibverbs's function of that name, which takes nothing and gives an enumeration.
    let question =
        unsafe { std::mem::transmute::<*mut libc::c_void, Option<extern "C" fn() -> c_int>>(question) };
    question.is_some_and(|ask| ask() == UNNEEDED)
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by `open`; everything made from it holds an Arc of it, so it is the last.
        let returned = unsafe { ibv::ibv_close_device(self.raw.as_ptr()) };
        debug_assert_eq!(returned, 0, "ibv_close_device");
    }
}

/// A protection domain.
#[derive(Debug)]
pub(in crate::verbs) struct ProtectionDomain {
    raw: NonNull<ibv::ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as for `Context`.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(in crate::verbs) fn allocate(context: &Arc<Context>) -> Result<Arc<Self>, VerbError> {
        // SAFETY: an open context.
        let raw = NonNull::new(unsafe { ibv::ibv_alloc_pd(context.as_ptr()) });
        let raw = raw.ok_or_else(|| VerbError::from_errno("ibv_alloc_pd"))?;
        Ok(Arc::new(Self { raw, context: Arc::clone(context) }))
    }

    pub(super) fn as_ptr(&self) -> *mut ibv::ibv_pd {
        self.raw.as_ptr()
    }

    pub(in crate::verbs) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: allocated by `allocate`; everything made in it holds an Arc of it.
        let returned = unsafe { ibv::ibv_dealloc_pd(self.raw.as_ptr()) };
        debug_assert_eq!(returned, 0, "ibv_dealloc_pd");
    }
}
