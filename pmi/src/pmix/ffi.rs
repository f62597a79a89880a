//! The few functions of `libpmix.so.2` that a wire-up needs, loaded when a PMIx server is there.
//!
//! Source: the PMIx standard 4.1 and `pmix_common.h` of PMIx 4.2.2. The structures have kept their layout from version 3 to 6 of the
//! library; [`PmixInfo`] and [`PmixValue`] are checked against it below.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::{null, null_mut};

use libloading::Library;

/// A status: 0 is success, errors are negative.
pub(crate) type Status = c_int;

pub(crate) const SUCCESS: Status = 0;
pub(crate) const ERR_TIMEOUT: Status = -24;
pub(crate) const ERR_NOT_FOUND: Status = -46;

/// `PMIX_MAX_NSLEN`, `PMIX_MAX_KEYLEN`.
const NAMESPACE_BYTES_MAX: usize = 255;
const KEY_BYTES_MAX: usize = 511;

/// `PMIX_RANK_WILDCARD`: what is the same for all ranks.
pub(crate) const RANK_WILDCARD: u32 = u32::MAX - 1;

const SCOPE_GLOBAL: u8 = 3;

const TYPE_BOOL: u16 = 1;
const TYPE_STRING: u16 = 3;
const TYPE_INT: u16 = 6;
const TYPE_UINT32: u16 = 14;
const TYPE_BYTE_OBJECT: u16 = 27;

/// `pmix_proc_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PmixProc {
    namespace: [c_char; NAMESPACE_BYTES_MAX + 1],
    rank: u32,
}

/// `pmix_byte_object_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ByteObject {
    bytes: *mut c_char,
    size: usize,
}

/// The members of the union in `pmix_value_t` that are used here, and its length: that of `pmix_envar_t`, three words.
#[repr(C)]
union Data {
    flag: bool,
    integer: c_int,
    uint32: u32,
    string: *mut c_char,
    bytes: ByteObject,
    whole: [u64; 3],
}

/// `pmix_value_t`.
#[repr(C)]
struct PmixValue {
    kind: u16,
    data: Data,
}

/// `pmix_info_t`.
#[repr(C)]
struct PmixInfo {
    key: [c_char; KEY_BYTES_MAX + 1],
    flags: u32,
    value: PmixValue,
}

const _: () =
    assert!(size_of::<PmixProc>() == 260 && size_of::<PmixValue>() == 32 && size_of::<PmixInfo>() == 552);

/// A value that is not opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Text(String),
    Number(u32),
    /// Of another type, by its number.
    Other(u16),
}

/// What a directive says: `pmix.collect` = true, `pmix.timeout` = seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Directive {
    Flag(&'static CStr),
    Number(&'static CStr, i32),
}

type Init = unsafe extern "C" fn(*mut PmixProc, *mut PmixInfo, usize) -> Status;
type Finalize = unsafe extern "C" fn(*const PmixInfo, usize) -> Status;
type Abort = unsafe extern "C" fn(c_int, *const c_char, *mut PmixProc, usize) -> Status;
type Put = unsafe extern "C" fn(u8, *const c_char, *mut PmixValue) -> Status;
type Commit = unsafe extern "C" fn() -> Status;
type Fence = unsafe extern "C" fn(*const PmixProc, usize, *const PmixInfo, usize) -> Status;
type Get = unsafe extern "C" fn(
    *const PmixProc,
    *const c_char,
    *const PmixInfo,
    usize,
    *mut *mut PmixValue,
) -> Status;
type ErrorString = unsafe extern "C" fn(Status) -> *const c_char;
type GetVersion = unsafe extern "C" fn() -> *const c_char;

/// The library, and the process that it has made of this one.
pub(crate) struct Pmix {
    finalize: Finalize,
    abort: Abort,
    put: Put,
    commit: Commit,
    fence: Fence,
    get: Get,
    error_string: ErrorString,
    get_version: GetVersion,
    me: PmixProc,
    /// The functions are in it. Never unloaded: it has threads of its own, which end when they like.
    _library: ManuallyDrop<Library>,
}

impl Pmix {
    /// Loads the library and connects to the server.
    ///
    /// # Errors
    /// In words: the library is missing or too old, or it refuses.
    pub(crate) fn init(file: &str) -> Result<Self, String> {
        // SAFETY: loading runs the library's constructors. PMIx's do nothing but set up its own state, and it is what the launcher's
        // variables ask for.
        let library =
            unsafe { Library::new(file) }.map_err(|error| format!("{file} could not be loaded: {error}"))?;
        let missing = |error| format!("{file} lacks a function that PMIx has had since version 2: {error}");
        // SAFETY: the types are those of pmix.h; see the head of this file.
        let mut pmix = unsafe {
            Self {
                finalize: *library.get::<Finalize>(b"PMIx_Finalize\0").map_err(missing)?,
                abort: *library.get::<Abort>(b"PMIx_Abort\0").map_err(missing)?,
                put: *library.get::<Put>(b"PMIx_Put\0").map_err(missing)?,
                commit: *library.get::<Commit>(b"PMIx_Commit\0").map_err(missing)?,
                fence: *library.get::<Fence>(b"PMIx_Fence\0").map_err(missing)?,
                get: *library.get::<Get>(b"PMIx_Get\0").map_err(missing)?,
                error_string: *library.get::<ErrorString>(b"PMIx_Error_string\0").map_err(missing)?,
                get_version: *library.get::<GetVersion>(b"PMIx_Get_version\0").map_err(missing)?,
                me: PmixProc { namespace: [0; NAMESPACE_BYTES_MAX + 1], rank: 0 },
                _library: ManuallyDrop::new(library),
            }
        };
        // SAFETY: as above.
        let init = unsafe { *pmix._library.get::<Init>(b"PMIx_Init\0").map_err(missing)? };
        // SAFETY: `me` is a pmix_proc_t to fill, and there are no directives.
        match unsafe { init(&mut pmix.me, null_mut(), 0) } {
            SUCCESS => Ok(pmix),
            status => Err(format!("PMIx_Init: {} ({})", pmix.words(status), pmix.version())),
        }
    }

    /// The number of this process.
    pub(crate) const fn rank(&self) -> u32 {
        self.me.rank
    }

    /// What the library calls itself.
    pub(crate) fn version(&self) -> String {
        // SAFETY: it returns a static string, or null.
        unsafe { text((self.get_version)()) }
    }

    /// A status in words.
    pub(crate) fn words(&self, status: Status) -> String {
        // SAFETY: as for `version`.
        let words = unsafe { text((self.error_string)(status)) };
        format!("{words} ({status})")
    }

    /// Stores bytes for all processes.
    pub(crate) fn put(&self, key: &CStr, value: &[u8]) -> Status {
        let mut value = PmixValue {
            kind: TYPE_BYTE_OBJECT,
            data: Data { bytes: ByteObject { bytes: value.as_ptr().cast_mut().cast(), size: value.len() } },
        };
        // SAFETY: the library copies the value before it returns, and does not write to it; the key ends with a zero.
        unsafe { (self.put)(SCOPE_GLOBAL, key.as_ptr(), &mut value) }
    }

    /// Hands what was put to the server.
    pub(crate) fn commit(&self) -> Status {
        // SAFETY: it takes nothing.
        unsafe { (self.commit)() }
    }

    /// Until all processes of the job have come.
    pub(crate) fn fence(&self, directives: &[Directive]) -> Status {
        let infos: Vec<PmixInfo> = directives.iter().map(info).collect();
        // SAFETY: no processes means all of the namespace; the directives live until the call returns.
        unsafe { (self.fence)(null(), 0, infos.as_ptr(), infos.len()) }
    }

    /// What `rank`, or the job ([`RANK_WILDCARD`]), has by this key.
    pub(crate) fn get(&self, rank: u32, key: &CStr, directives: &[Directive]) -> Result<Value, Status> {
        let infos: Vec<PmixInfo> = directives.iter().map(info).collect();
        let of = PmixProc { rank, ..self.me };
        let mut found: *mut PmixValue = null_mut();
        // SAFETY: all arguments live until the call returns; `found` is set to a value that is ours to free, or left.
        let status = unsafe { (self.get)(&of, key.as_ptr(), infos.as_ptr(), infos.len(), &mut found) };
        if status != SUCCESS {
            return Err(status);
        }
        if found.is_null() {
            return Err(ERR_NOT_FOUND);
        }
        // SAFETY: the library has allocated it with malloc, for us alone.
        Ok(unsafe { take(found) })
    }

    /// Asks for the end of all processes.
    pub(crate) fn abort(&self, code: c_int, message: &CStr) -> Status {
        // SAFETY: no processes means all; the message lives until the call returns.
        unsafe { (self.abort)(code, message.as_ptr(), null_mut(), 0) }
    }

    /// Leaves the job.
    pub(crate) fn finalize(&self) -> Status {
        // SAFETY: there are no directives.
        unsafe { (self.finalize)(null(), 0) }
    }
}

fn info(directive: &Directive) -> PmixInfo {
    let (name, value) = match *directive {
        Directive::Flag(name) => (name, PmixValue { kind: TYPE_BOOL, data: Data { flag: true } }),
        Directive::Number(name, number) => {
            (name, PmixValue { kind: TYPE_INT, data: Data { integer: number } })
        }
    };
    let mut info = PmixInfo { key: [0; KEY_BYTES_MAX + 1], flags: 0, value };
    for (to, from) in info.key.iter_mut().zip(name.to_bytes()) {
        *to = *from as c_char;
    }
    info
}

/// # Safety
/// `text` is null, or ends with a zero and lives for this call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

/// Copies a value out and frees it.
///
/// # Safety
/// `value` is a value that `PMIx_Get` has made for the caller.
unsafe fn take(value: *mut PmixValue) -> Value {
    // SAFETY: as promised by the caller; the union is read as its type says, and malloc has made all parts.
    unsafe {
        let taken = match (*value).kind {
            TYPE_BYTE_OBJECT => {
                let ByteObject { bytes, size } = (*value).data.bytes;
                let copy = if bytes.is_null() {
                    Vec::new()
                } else {
                    std::slice::from_raw_parts(bytes.cast::<u8>(), size).to_vec()
                };
                libc::free(bytes.cast::<c_void>());
                Value::Bytes(copy)
            }
            TYPE_STRING => {
                let string = (*value).data.string;
                let copy = text(string);
                libc::free(string.cast::<c_void>());
                Value::Text(copy)
            }
            TYPE_UINT32 => Value::Number((*value).data.uint32),
            // What such a value holds beside itself is lost: it does not come for the keys that are asked for.
            other => Value::Other(other),
        };
        libc::free(value.cast::<c_void>());
        taken
    }
}

/// A name for the library; those of ours have no zeros in them.
pub(crate) fn c_string(text: &str) -> Option<CString> {
    CString::new(text).ok()
}
