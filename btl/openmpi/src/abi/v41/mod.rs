//! Open MPI 4.1: BTL interface 3.1.0, `libopen-pal.so.40`.
//!
//! The structures come from the installed headers by bindgen; the asserts below are what this crate was written and
//! tested against, so that another layout (a debug build, a CUDA build) ends the build and not the program.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{align_of, offset_of, size_of};

use ironband::Payload;

#[allow(
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    clippy::all,
    reason = "generated"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub(super) mod memory_hooks;

pub(super) use bindings::{
    MCA_BASE_VAR_SCOPE_READONLY, MCA_BASE_VAR_SOURCE_DEFAULT, MCA_BASE_VAR_TYPE_STRING, MCA_BTL_ATOMIC_ADD,
    MCA_BTL_ATOMIC_AND, MCA_BTL_ATOMIC_FLAG_32BIT, MCA_BTL_ATOMIC_FLAG_FLOAT, MCA_BTL_ATOMIC_OR,
    MCA_BTL_ATOMIC_SWAP, MCA_BTL_ATOMIC_XOR, MCA_BTL_DES_FLAGS_BTL_OWNERSHIP,
    MCA_BTL_DES_SEND_ALWAYS_CALLBACK, MCA_BTL_ERROR_FLAGS_FATAL, MCA_BTL_FLAGS_ATOMIC_FOPS,
    MCA_BTL_FLAGS_ATOMIC_OPS, MCA_BTL_FLAGS_RDMA, MCA_BTL_FLAGS_SEND, MCA_BTL_REG_FLAG_REMOTE_ATOMIC,
    MCA_BTL_REG_FLAG_REMOTE_READ, MCA_BTL_REG_FLAG_REMOTE_WRITE, OPAL_ERR_NOT_AVAILABLE,
    OPAL_ERR_NOT_SUPPORTED, OPAL_ERR_OUT_OF_RESOURCE, OPAL_ERR_UNREACH, OPAL_ERROR, OPAL_INFO_LVL_4,
    OPAL_INFO_LVL_5, OPAL_SUCCESS, iovec, mca_base_component_var_register, mca_base_var_get_value,
    mca_base_var_group_component_register, mca_base_var_register_synonym, mca_btl_base_atomic_op_t,
    mca_btl_base_dump, mca_btl_base_module_error_cb_fn_t, mca_btl_base_rdma_completion_fn_t,
    mca_btl_base_tag_t, opal_bitmap_set_bit, opal_bitmap_t, opal_btl_base_framework, opal_convertor_pack,
    opal_convertor_t as Convertor, opal_output, opal_output_verbose, opal_proc_local_get,
    opal_proc_t as Proc, opal_process_info, opal_process_name_t as ProcessName,
};
pub(super) use bindings::{
    mca_btl_base_component_t as ComponentTable, mca_btl_base_descriptor_t as Descriptor,
    mca_btl_base_endpoint_t as OpaqueEndpoint, mca_btl_base_module_t as ModuleTable,
    mca_btl_base_registration_handle_t as OpaqueHandle, mca_btl_base_segment_t as Segment,
};

use bindings::{
    CONVERTOR_CUDA, CONVERTOR_CUDA_UNIFIED, CONVERTOR_HOMOGENEOUS, IRONBAND_FLAG_CONTIGUOUS,
    IRONBAND_FLAG_NO_GAPS, IRONBAND_MCA_MAJOR, IRONBAND_MCA_MINOR, IRONBAND_MCA_RELEASE,
    IRONBAND_PROC_ON_NODE, MCA_BTL_ATOMIC_SUPPORTS_32BIT, MCA_BTL_ATOMIC_SUPPORTS_ADD,
    MCA_BTL_ATOMIC_SUPPORTS_AND, MCA_BTL_ATOMIC_SUPPORTS_CSWAP, MCA_BTL_ATOMIC_SUPPORTS_GLOB,
    MCA_BTL_ATOMIC_SUPPORTS_OR, MCA_BTL_ATOMIC_SUPPORTS_SWAP, MCA_BTL_ATOMIC_SUPPORTS_XOR, OPAL_CUDA_SUPPORT,
    OPAL_MAJOR_VERSION, OPAL_MINOR_VERSION, OPAL_RELEASE_VERSION, mca_base_component_t,
    mca_btl_base_active_message_trigger, opal_datatype_t,
};

const _: () = assert!(size_of::<ComponentTable>() == 280 && align_of::<ComponentTable>() == 8);
const _: () = assert!(size_of::<ModuleTable>() == 560 && align_of::<ModuleTable>() == 8);
const _: () = assert!(size_of::<Descriptor>() == 104 && align_of::<Descriptor>() == 8);
const _: () = assert!(size_of::<Segment>() == 16);
const _: () = assert!(size_of::<Convertor>() == 264 && offset_of!(Convertor, flags) == 20);
const _: () = assert!(offset_of!(Convertor, pBaseBuf) == 72 && offset_of!(Convertor, bConverted) == 120);
const _: () = assert!(size_of::<Proc>() == 72 && offset_of!(Proc, proc_name) == 40);
const _: () = assert!(OPAL_MAJOR_VERSION == 4 && OPAL_MINOR_VERSION == 1);

/// What the library says of itself must start with this.
const SERIES_PREFIX: &str = "4.1.";

/// Every atomic that Open MPI 4.1 may hand to this component with the meaning that MPI gives it. `MIN` and `MAX` are
/// missing on purpose: `osc/rdma` asks for them without saying whether the numbers are signed, and so gets wrong
/// results for large unsigned ones; it is told that they are not supported and does those two under its own lock.
pub(super) const ATOMIC_FLAGS: u32 = MCA_BTL_ATOMIC_SUPPORTS_ADD
    | MCA_BTL_ATOMIC_SUPPORTS_AND
    | MCA_BTL_ATOMIC_SUPPORTS_OR
    | MCA_BTL_ATOMIC_SUPPORTS_XOR
    | MCA_BTL_ATOMIC_SUPPORTS_SWAP
    | MCA_BTL_ATOMIC_SUPPORTS_CSWAP
    | MCA_BTL_ATOMIC_SUPPORTS_32BIT;

/// In addition, where atomics of the transport and of the processor do not disturb each other. Without, `osc/rdma` goes
/// through the transport to its own memory, too.
pub(super) const GLOBAL_ATOMIC_FLAGS: u32 = MCA_BTL_ATOMIC_SUPPORTS_GLOB;

/// Open MPI was built to move the memory of GPUs too: convertors with these flags must then be packed by Open MPI.
const GPU_BUILD: bool = OPAL_CUDA_SUPPORT != 0;
const GPU_FLAGS: u32 = CONVERTOR_CUDA | CONVERTOR_CUDA_UNIFIED;

unsafe extern "C" {
    fn ironband_modex_put(
        component: *const mca_base_component_t,
        data: *const c_void,
        len_bytes: usize,
    ) -> c_int;
    fn ironband_modex_get(
        component: *const mca_base_component_t,
        name: *const ProcessName,
        data: *mut *mut c_void,
        len_bytes: *mut usize,
    ) -> c_int;
    fn ironband_modex_free(data: *mut c_void);
    fn ironband_end_job(status: c_int, message: *const c_char);
    // bindgen takes the declaration without a length for an array of none.
    safe static opal_version_string: c_char;
}

/// The version and type fields of a component table. What the component adds are its functions.
pub(super) const fn component_table() -> ComponentTable {
    // SAFETY: integers, byte arrays and optional functions, for all of which zero is a value.
    let mut table: ComponentTable = unsafe { std::mem::zeroed() };
    let version = &mut table.btl_version;
    version.mca_major_version = IRONBAND_MCA_MAJOR as c_int;
    version.mca_minor_version = IRONBAND_MCA_MINOR as c_int;
    version.mca_release_version = IRONBAND_MCA_RELEASE as c_int;
    copy_name(&mut version.mca_project_name, b"opal");
    version.mca_project_major_version = OPAL_MAJOR_VERSION as c_int;
    version.mca_project_minor_version = OPAL_MINOR_VERSION as c_int;
    version.mca_project_release_version = OPAL_RELEASE_VERSION as c_int;
    copy_name(&mut version.mca_type_name, b"btl");
    version.mca_type_major_version = 3;
    version.mca_type_minor_version = 1;
    version.mca_type_release_version = 0;
    copy_name(&mut version.mca_component_name, crate::COMPONENT_NAME.as_bytes());
    version.mca_component_major_version = OPAL_MAJOR_VERSION as c_int;
    version.mca_component_minor_version = OPAL_MINOR_VERSION as c_int;
    version.mca_component_release_version = OPAL_RELEASE_VERSION as c_int;
    table
}

const fn copy_name(to: &mut [c_char], from: &[u8]) {
    assert!(from.len() < to.len(), "a name and its terminating zero fit");
    let mut i = 0;
    while i < from.len() {
        to[i] = from[i] as c_char;
        i += 1;
    }
}

/// Checks that the library in this process is of the series this component was built for.
///
/// # Errors
/// The version that was found instead.
pub(super) fn check_version() -> Result<(), String> {
    // SAFETY: `opal_version_string` is a string constant of libopen-pal.
    let version = unsafe { CStr::from_ptr(&raw const opal_version_string) }.to_string_lossy();
    if version.trim_start_matches('v').starts_with(SERIES_PREFIX) {
        Ok(())
    } else {
        Err(version.into_owned())
    }
}

/// True when the data of a convertor lie in one piece, ready to be copied.
///
/// # Safety
/// `convertor` is one that Open MPI has prepared.
#[inline(always)]
pub(super) unsafe fn is_contiguous(convertor: *const Convertor) -> bool {
    // SAFETY: as promised by the caller; plain fields at the offsets asserted above.
    let (flags, count) = unsafe { ((*convertor).flags, (*convertor).count) };
    flags & CONVERTOR_HOMOGENEOUS != 0
        && !(GPU_BUILD && flags & GPU_FLAGS != 0)
        && (flags & IRONBAND_FLAG_NO_GAPS != 0 || (count == 1 && flags & IRONBAND_FLAG_CONTIGUOUS != 0))
}

/// Where the next byte of a contiguous convertor is.
///
/// # Safety
/// As for [`is_contiguous`], which said yes.
#[inline(always)]
pub(super) unsafe fn current_pointer(convertor: *const Convertor) -> *mut u8 {
    // SAFETY: a prepared convertor has a datatype description.
    unsafe {
        let datatype: *const opal_datatype_t = (*convertor).pDesc;
        (*convertor).pBaseBuf.wrapping_add((*convertor).bConverted).wrapping_offset((*datatype).true_lb)
    }
}

/// True when the process is on this node.
///
/// # Safety
/// `proc` is a process of Open MPI's.
pub(super) unsafe fn is_on_this_node(proc: *const Proc) -> bool {
    // SAFETY: as promised by the caller.
    let flags = u32::from(unsafe { (*proc).proc_flags });
    flags & IRONBAND_PROC_ON_NODE == IRONBAND_PROC_ON_NODE
}

/// Publishes this component's card.
///
/// # Errors
/// Open MPI's error code.
pub(super) fn modex_put(component: *const ComponentTable, card: &[u8]) -> Result<(), c_int> {
    // SAFETY: the version structure is the component's first field; the card is copied.
    match unsafe { ironband_modex_put(component.cast(), card.as_ptr().cast(), card.len()) } {
        OPAL_SUCCESS => Ok(()),
        code => Err(code),
    }
}

/// Fetches the card that a process has published for this component. It may wait for the process.
///
/// # Errors
/// Open MPI's error code.
///
/// # Safety
/// `proc` is a process of Open MPI's.
pub(super) unsafe fn modex_get(
    component: *const ComponentTable,
    proc: *const Proc,
) -> Result<Vec<u8>, c_int> {
    let mut data = std::ptr::null_mut();
    let mut len_bytes = 0;
    // SAFETY: as above; both results are written.
    let code = unsafe {
        ironband_modex_get(component.cast(), &raw const (*proc).proc_name, &mut data, &mut len_bytes)
    };
    if data.is_null() {
        return if code == OPAL_SUCCESS { Ok(Vec::new()) } else { Err(code) };
    }
    // SAFETY: the shim gives the address and the length of memory that is ours to free.
    let card = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len_bytes) }.to_vec();
    // SAFETY: allocated by Open MPI with malloc and not used again.
    unsafe { ironband_modex_free(data) };
    if code == OPAL_SUCCESS { Ok(card) } else { Err(code) }
}

/// Asks the launcher to end the job. It may return before that happens.
pub(super) fn end_job(message: &CStr) {
    // SAFETY: the message is only read during the call.
    unsafe { ironband_end_job(1, message.as_ptr()) };
}

/// Hands a received message to whoever registered its tag. False for a tag that nobody has registered.
///
/// # Safety
/// `table` is this module's, and the payload is readable until this returns.
#[inline]
pub(super) unsafe fn deliver(table: *mut ModuleTable, tag: u32, payload: Payload) -> bool {
    let Some(index) = usize::try_from(tag).ok().filter(|index| *index < TAGS) else { return false };
    // SAFETY: inside the table, which Open MPI changes only while it registers tags, in MPI_Init.
    let entry = unsafe { (&raw const mca_btl_base_active_message_trigger[index]).read() };
    let Some(callback) = entry.cbfunc else { return false };
    let mut segment = Segment {
        // The callback takes a pointer to mutable data but only reads it.
        seg_addr: bindings::opal_ptr_t { pval: payload.as_ptr().cast_mut().cast() },
        seg_len: payload.len() as u64,
    };
    // SAFETY: integers, pointers and optional functions, for all of which zero is a value.
    let mut descriptor: Descriptor = unsafe { std::mem::zeroed() };
    descriptor.des_segments = &raw mut segment;
    descriptor.des_segment_count = 1;
    // SAFETY: the callback's contract: descriptor and payload are valid during the call only.
    unsafe { callback(table, index as mca_btl_base_tag_t, &raw mut descriptor, entry.cbdata) };
    true
}

/// Length of the table of tags: a tag of 255 fits the type but not the table.
const TAGS: usize = bindings::MCA_BTL_TAG_MAX as usize;

/// The names and counts that the runtime has for this process.
pub(super) struct ThisProcess {
    /// Processes of the same job on this node, this one included.
    pub(super) local_ranks: u32,
    /// Which of them this process is, from 0.
    pub(super) local_rank: u32,
    /// In `MPI_COMM_WORLD`.
    pub(super) rank: u32,
}

/// Who this process is. Valid from MPI_Init on.
pub(super) fn this_process() -> ThisProcess {
    // SAFETY: set once, before components are opened.
    let peers = unsafe { (&raw const opal_process_info.num_local_peers).read() };
    // SAFETY: a static structure of libopen-pal, or null before MPI_Init.
    let rank = unsafe { opal_proc_local_get().as_ref() }.map_or(0, |proc| proc.proc_name.vpid);
    // SAFETY: as above.
    let local_rank = unsafe { (&raw const opal_process_info.my_local_rank).read() };
    // The runtime has -1 for "not known".
    let local_rank = u32::try_from(local_rank).unwrap_or(0);
    ThisProcess { local_ranks: u32::try_from(peers).unwrap_or(0) + 1, local_rank, rank }
}

/// Output stream of the BTL framework, whose verbosity is `btl_base_verbose`.
pub(super) fn framework_output() -> c_int {
    // SAFETY: an integer that is set before components are opened.
    unsafe { (&raw const opal_btl_base_framework.framework_output).read() }
}
