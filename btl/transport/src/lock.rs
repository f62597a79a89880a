//! One lock, or none.
//!
//! MPI programs that asked for less than `MPI_THREAD_MULTIPLE` promise that one thread at a time calls the library. For
//! them a lock is two atomic operations for nothing on a path of some forty nanoseconds, so it is left out; the promise
//! is checked in debug builds.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A value behind a lock that is only taken when several threads may come.
#[derive(Debug)]
pub(crate) struct MaybeLock<T> {
    threaded: bool,
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: with `threaded` the flag makes access exclusive. Without, whoever constructed the lock vouches that only one
// thread at a time uses it (`MaybeLock::unthreaded`), which is what exclusive access needs.
unsafe impl<T: Send> Sync for MaybeLock<T> {}

impl<T> MaybeLock<T> {
    /// A lock that locks.
    pub(crate) const fn threaded(value: T) -> Self {
        Self { threaded: true, held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// A lock that does not.
    ///
    /// # Safety
    /// No two threads use it at the same time, and no guard is alive while another is made.
    pub(crate) const unsafe fn unthreaded(value: T) -> Self {
        Self { threaded: false, held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        if self.threaded {
            self.wait();
        } else {
            debug_assert!(
                !self.held.swap(true, Ordering::Relaxed),
                "entered twice without MPI_THREAD_MULTIPLE"
            );
        }
        Guard { lock: self }
    }

    /// Takes the lock if nobody has it.
    #[inline(always)]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        if self.threaded && self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Guard { lock: self })
    }

    /// The holder is in the middle of a post, some ten to hundred nanoseconds; unless its thread lost the processor.
    #[inline(never)]
    fn wait(&self) {
        let mut spins = 0_u32;
        while self.held.swap(true, Ordering::Acquire) {
            while self.held.load(Ordering::Relaxed) {
                spins += 1;
                if spins.is_multiple_of(128) {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// Access to the value.
pub(crate) struct Guard<'a, T> {
    lock: &'a MaybeLock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one alive: by the flag, or by the promise of `unthreaded`.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.lock.threaded {
            self.lock.held.store(false, Ordering::Release);
        } else if cfg!(debug_assertions) {
            self.lock.held.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_lock_excludes() {
        let lock = MaybeLock::threaded(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *lock.lock() += 1));
            }
        });
        assert_eq!(*lock.lock(), 40_000);
        let held = lock.try_lock().expect("free");
        assert!(lock.try_lock().is_none());
        drop(held);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "entered twice")]
    fn a_broken_promise_is_noticed() {
        // SAFETY: this test breaks the promise on purpose, and the check stops it before a second guard exists.
        let lock = unsafe { MaybeLock::unthreaded(()) };
        let _first = lock.lock();
        let _second = lock.lock();
    }
}
