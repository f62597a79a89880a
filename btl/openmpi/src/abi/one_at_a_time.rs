//! State that one thread changes at a time: behind a lock under `MPI_THREAD_MULTIPLE`, and behind nothing otherwise.

use std::cell::UnsafeCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ironband::Threads;

/// A value reached by one closure at a time.
pub(super) struct OneAtATime<T> {
    lock: Option<Mutex<()>>,
    value: UnsafeCell<T>,
}

// SAFETY: with `Threads::Multiple` every access holds the lock. With `Threads::Single` there is no lock, and Open MPI
// has promised (the `enable_mpi_threads` argument of `btl_init`) to enter the component from one thread at a time.
unsafe impl<T: Send> Sync for OneAtATime<T> {}

impl<T> OneAtATime<T> {
    pub(super) fn new(threads: Threads, value: T) -> Self {
        let lock = match threads {
            Threads::Multiple => Some(Mutex::new(())),
            Threads::Single => None,
        };
        Self { lock, value: UnsafeCell::new(value) }
    }

    /// Runs `change` on the value. `change` must not call anything that comes back here, so nothing of Open MPI's
    /// (except the convertor's packing, which calls nobody).
    #[inline]
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let _held: Option<MutexGuard<'_, ()>> = self.lock.as_ref().map(|lock| {
            // A panic inside `change` is reported and ends the job; what is left of the value is then of no interest.
            lock.lock().unwrap_or_else(PoisonError::into_inner)
        });
        // SAFETY: no other thread is here (see the `Sync` impl) and no caller is, because `change` does not come back.
        change(unsafe { &mut *self.value.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_turns() {
        let counter = OneAtATime::new(Threads::Multiple, 0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.with(|value| {
                            let read = *value;
                            std::hint::black_box(&read);
                            *value = read + 1;
                        });
                    }
                });
            }
        });
        assert_eq!(counter.with(|value| *value), 40_000);
    }

    #[test]
    fn a_single_thread_takes_no_lock() {
        let cell = OneAtATime::new(Threads::Single, 1);
        assert!(cell.lock.is_none());
        assert_eq!(cell.with(|value| std::mem::replace(value, 2)), 1);
    }
}
