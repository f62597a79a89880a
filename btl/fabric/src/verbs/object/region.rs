//! Registered memory: the user's, and the fabric's own buffers.

use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys as ibv;

use super::context::ProtectionDomain;
use super::error::{VerbError, check};
use crate::Access;

/// Registered memory. An empty region registers nothing.
#[derive(Debug)]
pub struct MemoryRegion {
    raw: Option<NonNull<ibv::ibv_mr>>,
    /// On iWARP, where the answer to a read is a write of the peer's: the same memory, open to that. Its key is not given out; who
    /// is read from learns it.
    sink: Option<NonNull<ibv::ibv_mr>>,
    /// The memory is mapped for reading only.
    read_only: bool,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: as for `Context`; the memory itself is never touched through this type.
unsafe impl Send for MemoryRegion {}
// SAFETY: shared references only read the keys.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers memory, for writing by the adapter too if it is mapped so.
    ///
    /// # Safety
    /// The memory stays mapped until the region is dropped.
    pub(in crate::verbs) unsafe fn register(
        domain: &Arc<ProtectionDomain>,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Self, VerbError> {
        // SAFETY: as promised by the caller.
        let mut region = unsafe { Self::register_plain(domain, start, len_bytes, access) }?;
        if domain.context().limits().is_iwarp && region.raw.is_some() && !access.remote_write {
            let write = Access { remote_write: true, ..Access::LOCAL };
            // SAFETY: as promised by the caller. Memory that is mapped for reading only is never read into.
            match unsafe { Self::register_plain(domain, start, len_bytes, write) } {
                Ok(mut sink) => region.sink = sink.raw.take(),
                Err(error) if matches!(error.number, libc::ENOMEM | libc::EAGAIN) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(region)
    }

    /// As [`MemoryRegion::register`], for memory that no read arrives in.
    ///
    /// # Safety
    /// As for [`MemoryRegion::register`].
    unsafe fn register_plain(
        domain: &Arc<ProtectionDomain>,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Self, VerbError> {
        let domain = Arc::clone(domain);
        if len_bytes == 0 {
            return Ok(Self { raw: None, sink: None, read_only: false, _domain: domain });
        }
        let flag = |wanted: bool, flag: ibv::ibv_access_flags| if wanted { flag.0 } else { 0 };
        let remote = flag(access.remote_read, ibv::ibv_access_flags::IBV_ACCESS_REMOTE_READ)
            | flag(access.remote_write, ibv::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE)
            | flag(access.remote_atomic, ibv::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC);
        let local = ibv::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        let register = |flags: u32| {
            // SAFETY: the caller vouches for the memory.
            let raw =
                unsafe { ibv::ibv_reg_mr(domain.as_ptr(), start.cast(), len_bytes, flags.cast_signed()) };
            NonNull::new(raw)
        };
        let mut raw = register(remote | local);
        let read_only = raw.is_none();
        if raw.is_none() && !access.remote_write && !access.remote_atomic {
            // Constant data is mapped for reading only, and may still be sent.
            let first = VerbError::from_errno(format!("ibv_reg_mr of {len_bytes} bytes"));
            if first.number != libc::EFAULT && first.number != libc::EACCES {
                return Err(first);
            }
            raw = register(remote);
        }
        let raw = raw.ok_or_else(|| VerbError::from_errno(format!("ibv_reg_mr of {len_bytes} bytes")))?;
        Ok(Self { raw: Some(raw), sink: None, read_only, _domain: domain })
    }

    pub(in crate::verbs) fn may_be_written(&self) -> bool {
        !self.read_only
    }

    /// The key for the own adapter; 0 for an empty region.
    pub(in crate::verbs) fn local_key(&self) -> u32 {
        // SAFETY: registered, and only read.
        self.sink.or(self.raw).map_or(0, |raw| unsafe { raw.as_ref() }.lkey)
    }

    /// The key for peers' adapters; 0 for an empty region.
    pub(in crate::verbs) fn remote_key(&self) -> u32 {
        // SAFETY: registered, and only read.
        self.raw.map_or(0, |raw| unsafe { raw.as_ref() }.rkey)
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        for raw in [self.raw, self.sink].into_iter().flatten() {
            // SAFETY: registered by `register`, and this is the only owner.
            let returned = check("ibv_dereg_mr", unsafe { ibv::ibv_dereg_mr(raw.as_ptr()) });
            debug_assert!(returned.is_ok(), "{returned:?}");
        }
    }
}

/// Registered buffers of one length, side by side in whole pages.
#[derive(Debug)]
pub(in crate::verbs) struct Buffers {
    // First: the registration ends before the pages go.
    region: MemoryRegion,
    start: NonNull<u8>,
    buffer_bytes: usize,
    count: u32,
}

// SAFETY: the pages belong to this value.
unsafe impl Send for Buffers {}

impl Buffers {
    pub(in crate::verbs) fn allocate(
        domain: &Arc<ProtectionDomain>,
        buffer_bytes: usize,
        count: u32,
        access: Access,
    ) -> Result<Self, VerbError> {
        let len_bytes = (buffer_bytes * count as usize).next_multiple_of(4096);
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len_bytes,
                protection,
                rustix::mm::MapFlags::PRIVATE,
            )
        };
        let what = || format!("mmap of {len_bytes} bytes for buffers");
        let start = start.map_err(|errno| VerbError::from_number(what(), errno.raw_os_error()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| VerbError::from_number(what(), libc::ENOMEM))?;
        // SAFETY: unmapped in `drop` only, when the region is gone.
        match unsafe { MemoryRegion::register_plain(domain, start.as_ptr(), len_bytes, access) } {
            Ok(region) => Ok(Self { region, start, buffer_bytes, count }),
            Err(error) => {
                // SAFETY: mapped above, and nobody knows of it. A failure would leak the pages, nothing more.
                let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), len_bytes) };
                Err(error)
            }
        }
    }

    /// First byte of a buffer.
    pub(in crate::verbs) fn at(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.count, "buffer {index} of {}", self.count);
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.start.add(index as usize * self.buffer_bytes) }
    }

    pub(in crate::verbs) fn local_key(&self) -> u32 {
        self.region.local_key()
    }

    pub(in crate::verbs) fn remote_key(&self) -> u32 {
        self.region.remote_key()
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let len_bytes = (self.buffer_bytes * self.count as usize).next_multiple_of(4096);
        // The adapter must let go of the pages first.
        self.region.raw.take().inspect(|raw| {
            // SAFETY: registered by `register`, and taken out, so not deregistered again.
            let returned = unsafe { ibv::ibv_dereg_mr(raw.as_ptr()) };
            debug_assert_eq!(returned, 0, "ibv_dereg_mr");
        });
        // SAFETY: mapped by `allocate`; whoever used the buffers is gone.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), len_bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
