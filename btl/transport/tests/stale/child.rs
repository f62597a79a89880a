//! A child of a fork must neither use its parent's registrations nor end them.

use ironband::Access;

use crate::counter::{self, Counter};

/// True if it does as it must; this process has one thread.
pub(crate) fn forgets() -> bool {
    let (cache, counter) = (counter::cache(), Counter::default());
    let mut memory = vec![0_u8; 100_000];
    let mut use_it = || {
        // SAFETY: the counter touches nothing.
        let held = unsafe { cache.acquire(&counter, memory.as_mut_ptr(), memory.len(), Access::LOCAL) };
        cache.release(&counter, held.expect("it only counts"));
        counter.counts()
    };
    let hit = use_it() == (1, 0) && use_it() == (1, 0);
    // SAFETY: the child ends by itself.
    let in_child = unsafe {
        match libc::fork() {
            0 => {
                let is_its_own = use_it() == (2, 0);
                cache.close(&counter);
                libc::_exit(i32::from(!is_its_own || counter.counts() != (2, 0)))
            }
            child => {
                let mut status = -1;
                libc::waitpid(child, &raw mut status, 0);
                status == 0
            }
        }
    };
    let after = use_it() == (1, 0);
    cache.close(&counter);
    hit && in_child && after && counter.counts() == (1, 1)
}
