//! In a process that has loaded UCX the news of unmapped memory comes from UCX, and libc stays as UCX has patched it.

mod conclusion;
mod counter;

use std::process::ExitCode;
use std::time::Instant;

use ironband::{Access, unmap_events};

use crate::conclusion::{Conclusion, conclude};
use crate::counter::Counter;

const LEN_BYTES: usize = 1 << 20;

fn news_come_from_ucx() -> Conclusion {
    // SAFETY: a library of the system's. It needs libucm.
    let ucx = unsafe { libc::dlopen(c"libucs.so.0".as_ptr(), libc::RTLD_LAZY) };
    if ucx.is_null() {
        return Conclusion::Skipped("there is no libucs.so.0 (package libucx0)".to_owned());
    }
    // SAFETY: this process has one thread.
    unsafe { unmap_events::start_own() }.expect("UCX's hooks");
    assert_eq!(unmap_events::source(), Ok("UCX's memory hooks"));
    let (cache, counter) = (counter::cache(), Counter::default());
    // SAFETY: new pages where the kernel likes, which nobody else knows of.
    unsafe {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let pages = libc::mmap(std::ptr::null_mut(), LEN_BYTES, protection, flags, -1, 0);
        assert_ne!(pages, libc::MAP_FAILED);
        drop(cache.acquire(&counter, pages.cast(), LEN_BYTES, Access::LOCAL).expect("it only counts"));
        assert_eq!(cache.statistics().regions, 1);
        libc::munmap(pages, LEN_BYTES);
    }
    cache.tend(&counter);
    (cache.statistics().regions == 0 && cache.statistics().invalidated == 1 && counter.counts() == (1, 1))
        .into()
}

fn main() -> ExitCode {
    let start = Instant::now();
    conclude(&[("news_come_from_ucx", news_come_from_ucx())], start)
}
