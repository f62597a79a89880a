//! Registers memory with io_uring: the kernel pins its pages as for an RDMA adapter, and what it reads into a stale registration goes
//! to pages that nobody sees any more. So this needs no adapter to tell a stale registration.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use io_uring::{IoUring, opcode, types};
use ironband::Access;
use ironband::rcache::Registrar;

/// Registrations that one ring can have.
pub(crate) const REGIONS_MAX: u16 = 8192;

/// Why memory could not be registered.
#[derive(Debug)]
pub(crate) enum Refused {
    /// All are in use.
    TooMany,
    /// The kernel's word.
    Kernel(io::Error),
}

/// A ring with registered buffers.
pub(crate) struct Uring(Mutex<Inner>);

struct Inner {
    ring: IoUring,
    free: Vec<u16>,
    /// What is written to it is what is read from it next: the source of the numbers.
    counter: OwnedFd,
    stamp: u64,
}

impl Uring {
    /// # Errors
    /// When the kernel has no io_uring, or does not let this process use it.
    pub(crate) fn open() -> io::Result<Self> {
        let ring = IoUring::new(4)?;
        ring.submitter().register_buffers_sparse(REGIONS_MAX.into())?;
        // SAFETY: a new counter, owned from here on.
        let counter = unsafe {
            let number = libc::eventfd(0, libc::EFD_CLOEXEC);
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(number)
        };
        Ok(Self(Mutex::new(Inner { ring, free: (0..REGIONS_MAX).rev().collect(), counter, stamp: 0 })))
    }

    /// Lets the kernel write a new number to `place`, through the registration; gives the number.
    ///
    /// # Safety
    /// Eight bytes at `place` are mapped and this thread's.
    pub(crate) unsafe fn write(&self, region: u16, place: *mut u8) -> io::Result<u64> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.stamp += 1;
        let stamp = inner.stamp;
        let counter = inner.counter.as_raw_fd();
        // SAFETY: eight bytes of this function.
        if unsafe { libc::write(counter, (&raw const stamp).cast(), 8) } != 8 {
            return Err(io::Error::last_os_error());
        }
        let read = opcode::ReadFixed::new(types::Fd(counter), place, 8, region).build();
        // SAFETY: the place is valid until the request has ended, which is waited for.
        unsafe { inner.ring.submission().push(&read) }.map_err(io::Error::other)?;
        inner.ring.submit_and_wait(1)?;
        let done = inner.ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
        match done.result() {
            8 => Ok(stamp),
            bad if bad < 0 => Err(io::Error::from_raw_os_error(-bad)),
            few => Err(io::Error::other(format!("{few} bytes of 8"))),
        }
    }
}

impl Registrar for Uring {
    type Region = u16;
    type Error = Refused;

    unsafe fn register(&self, start: *mut u8, len_bytes: usize, _access: Access) -> Result<u16, Refused> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = inner.free.pop().ok_or(Refused::TooMany)?;
        let buffer = libc::iovec { iov_base: start.cast(), iov_len: len_bytes };
        // SAFETY: as promised by the caller.
        let outcome =
            unsafe { inner.ring.submitter().register_buffers_update(index.into(), &[buffer], None) };
        outcome.map(|()| index).map_err(|error| {
            inner.free.push(index);
            Refused::Kernel(error)
        })
    }

    fn deregister(&self, region: u16) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: takes a buffer away.
        unsafe { inner.ring.submitter().register_buffers_update(region.into(), &[nothing], None) }
            .expect("a buffer that is there can be taken away");
        inner.free.push(region);
    }

    fn is_out_of_room(error: &Refused) -> bool {
        match error {
            Refused::TooMany => true,
            Refused::Kernel(error) => error.raw_os_error() == Some(libc::ENOMEM),
        }
    }

    fn too_many(_in_use: usize) -> Refused {
        Refused::TooMany
    }
}
