//! A child of a fork must neither use its parent's registrations nor end them.

use std::sync::atomic::{AtomicU32, Ordering};

use ironband::Access;
use ironband::rcache::{CacheLimits, Registrar, RegistrationCache};

/// Only counts.
#[derive(Default)]
struct Counter {
    registered: AtomicU32,
    deregistered: AtomicU32,
}

impl Registrar for Counter {
    type Region = ();
    type Error = ();

    unsafe fn register(&self, _start: *mut u8, _len_bytes: usize, _access: Access) -> Result<(), ()> {
        self.registered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn deregister(&self, (): ()) {
        self.deregistered.fetch_add(1, Ordering::Relaxed);
    }

    fn is_out_of_room((): &()) -> bool {
        false
    }

    fn too_many(_in_use: usize) {}
}

/// True if it does as it must; this process has one thread.
pub(crate) fn forgets() -> bool {
    let limits = CacheLimits { bytes_max: 1 << 30, regions_max: 100 };
    let cache = RegistrationCache::<()>::open(limits).expect("a letter box is free");
    let counter = Counter::default();
    let mut memory = vec![0_u8; 100_000];
    let mut use_it = || {
        // SAFETY: the counter touches nothing.
        let held = unsafe { cache.acquire(&counter, memory.as_mut_ptr(), memory.len(), Access::LOCAL) };
        cache.release(&counter, held.expect("it only counts"));
        (counter.registered.load(Ordering::Relaxed), counter.deregistered.load(Ordering::Relaxed))
    };
    let hit = use_it() == (1, 0) && use_it() == (1, 0);
    // SAFETY: the child ends by itself.
    let in_child = unsafe {
        match libc::fork() {
            0 => libc::_exit(i32::from(use_it() != (2, 0))),
            child => {
                let mut status = -1;
                libc::waitpid(child, &raw mut status, 0);
                status == 0
            }
        }
    };
    let after = use_it() == (1, 0);
    cache.close(&counter);
    hit && in_child && after && counter.deregistered.load(Ordering::Relaxed) == 1
}
