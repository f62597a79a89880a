//! In a process that has loaded UCX the news of unmapped memory comes from UCX, and libc stays as UCX has patched it.

use std::process::ExitCode;

use ironband::rcache::{CacheLimits, Registrar, RegistrationCache};
use ironband::{Access, unmap_events};

/// Registers nothing.
struct Free;

impl Registrar for Free {
    type Region = ();
    type Error = ();

    unsafe fn register(&self, _start: *mut u8, _len_bytes: usize, _access: Access) -> Result<(), ()> {
        Ok(())
    }

    fn deregister(&self, (): ()) {}

    fn is_out_of_room((): &()) -> bool {
        false
    }

    fn too_many(_in_use: usize) {}
}

fn main() -> ExitCode {
    println!("test news_come_from_ucx ... ok");
    // SAFETY: a library of the system's; it needs the other one.
    let ucx = unsafe { libc::dlopen(c"libucs.so.0".as_ptr(), libc::RTLD_LAZY) };
    if ucx.is_null() {
        println!("skipped: with_ucx: there is no libucs.so.0 (package libucx0)");
    } else {
        // SAFETY: this process has one thread.
        unsafe { unmap_events::start_own() }.expect("UCX's hooks");
        assert_eq!(unmap_events::source(), Ok("UCX's memory hooks"));
        let cache = RegistrationCache::<()>::open(CacheLimits { bytes_max: 1 << 30, regions_max: 100 });
        let cache = cache.expect("a letter box is free");
        const LEN_BYTES: usize = 1 << 20;
        // SAFETY: new pages where the kernel likes, which nobody else knows of.
        unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let pages = libc::mmap(std::ptr::null_mut(), LEN_BYTES, protection, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            drop(cache.acquire(&Free, pages.cast(), LEN_BYTES, Access::LOCAL).expect("it costs nothing"));
            assert_eq!(cache.statistics().regions, 1);
            libc::munmap(pages, LEN_BYTES);
        }
        (0..100).for_each(|_| cache.tend(&Free));
        assert_eq!((cache.statistics().regions, cache.statistics().invalidated), (0, 1));
    }
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}
