//! A place for one registration, which threads hold without a lock.
//!
//! One word says all that matters:
//!
//! ```text
//!  63                       33   32   31                       0
//! +---------------------------+------+--------------------------+
//! | generation                | bad  | references               |
//! +---------------------------+------+--------------------------+
//! ```
//!
//! Places are never freed while the cache lives, so that a thread may try one that it remembers from long ago: it takes a
//! reference first and looks then whether the generation is the one it knows. What is bad, and nobody holds, is emptied by whoever
//! has the cache's lock; that makes the next generation.

use super::sync::{AtomicBool, AtomicU64, Ordering, UnsafeCell};

const BAD: u64 = 1 << 32;
const REFERENCES: u64 = BAD - 1;
const GENERATION: u64 = 1 << 33;

/// Which life of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u32);

impl Generation {
    #[inline]
    const fn of(state: u64) -> Self {
        Self((state >> 33) as u32)
    }

    /// For a table of numbers.
    #[inline]
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// A place, with its cache lines for itself.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot<T> {
    state: AtomicU64,
    /// Set by each use, cleared by the hand of the clock.
    used: AtomicBool,
    content: UnsafeCell<Option<T>>,
}

// SAFETY: the content is written and taken by one thread at a time, which holds the cache's lock, while nobody has a reference;
// it is read by those who have one.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        Self { state: AtomicU64::new(BAD), used: AtomicBool::new(false), content: UnsafeCell::new(None) }
    }

    // ---- without the lock -----------------------------------------------------------------------------------------------

    /// Takes a reference, if this life goes on.
    #[inline]
    pub(super) fn try_hold(&self, generation: Generation) -> bool {
        let before = self.state.fetch_add(1, Ordering::Acquire);
        if Generation::of(before) == generation && before & BAD == 0 {
            return true;
        }
        // Whoever empties the slot meanwhile comes back later.
        self.state.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Gives a reference back.
    #[inline]
    pub(super) fn let_go(&self) {
        self.state.fetch_sub(1, Ordering::Release);
    }

    #[inline]
    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// What lies here.
    ///
    /// # Safety
    /// The caller has a reference, for as long as it uses this.
    #[inline]
    pub(super) unsafe fn content(&self) -> &T {
        // SAFETY: while there is a reference nobody writes; and references are only to be had of what is filled.
        self.content.with(|content| unsafe { (*content).as_ref().unwrap_unchecked() })
    }

    // ---- with the cache's lock ------------------------------------------------------------------------------------------

    /// Fills an empty slot; the caller has a reference then. If it is not `good`, nobody else will have one.
    pub(super) fn fill(&self, content: T, good: bool) -> Generation {
        // SAFETY: nobody has a reference to what is empty: `try_hold` gives none while it is bad.
        self.content.with_mut(|place| unsafe { *place = Some(content) });
        self.used.store(true, Ordering::Relaxed);
        let change = if good { 1_u64.wrapping_sub(BAD) } else { 1 };
        Generation::of(self.state.fetch_add(change, Ordering::Release))
    }

    /// Takes a reference to what is known to be good.
    pub(super) fn hold(&self) -> Generation {
        let before = self.state.fetch_add(1, Ordering::Relaxed);
        debug_assert_eq!(before & BAD, 0, "what is bad is not in the map");
        Generation::of(before)
    }

    /// From now on nobody gets a reference.
    pub(super) fn make_bad(&self) {
        self.state.fetch_or(BAD, Ordering::Relaxed);
    }

    /// Empties what is bad and held by nobody.
    pub(super) fn try_empty(&self) -> Option<T> {
        let state = self.state.load(Ordering::Relaxed);
        if state & BAD == 0 || state & REFERENCES != 0 {
            return None;
        }
        let next = state.wrapping_add(GENERATION);
        // Acquire: what holders did with the content comes before what is done with it now.
        self.state.compare_exchange(state, next, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // SAFETY: nobody has a reference, and since it is bad nobody gets one.
        self.content.with_mut(|place| unsafe { (*place).take() })
    }

    /// True while somebody has a reference, or has just tried to get one.
    pub(super) fn is_held(&self) -> bool {
        self.state.load(Ordering::Acquire) & REFERENCES != 0
    }

    /// True if somebody could get a reference.
    pub(super) fn is_good(&self) -> bool {
        self.state.load(Ordering::Relaxed) & BAD == 0
    }

    /// Clears the mark of a use.
    pub(super) fn take_used(&self) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        self.used.store(false, Ordering::Relaxed);
        used
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_life() {
        let slot = Slot::new();
        assert!(!slot.try_hold(Generation::from_number(0)), "empty");
        let first = slot.fill('a', true);
        assert!(slot.try_hold(first) && slot.is_held());
        // SAFETY: held twice.
        assert_eq!(unsafe { *slot.content() }, 'a');
        slot.let_go();
        slot.make_bad();
        assert!(!slot.try_hold(first), "bad");
        assert_eq!(slot.try_empty(), None, "still held");
        slot.let_go();
        assert_eq!(slot.try_empty(), Some('a'));
        assert_eq!(slot.try_empty(), None);
        let second = slot.fill('b', true);
        assert!(second != first && !slot.try_hold(first) && slot.try_hold(second));
        assert_eq!(slot.hold(), second);
    }

    #[test]
    fn what_is_filled_bad_is_its_fillers_alone() {
        let slot = Slot::new();
        let generation = slot.fill('a', false);
        assert!(slot.is_held() && !slot.try_hold(generation));
        slot.let_go();
        assert_eq!(slot.try_empty(), Some('a'));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A thread that remembers a slot tries it while another takes it out of use and fills it anew: it reads what it knows, or gets
    /// nothing. Loom's cell fails if the content is written while it is read.
    #[test]
    fn nobody_holds_another_life() {
        loom::model(|| {
            let slot = Arc::new(Slot::new());
            let first = slot.fill(1_u32, true);
            let prober = {
                let slot = Arc::clone(&slot);
                thread::spawn(move || {
                    if slot.try_hold(first) {
                        // SAFETY: just held.
                        let content = slot.content.with(|content| unsafe { *content });
                        assert_eq!(content, Some(1));
                        slot.let_go();
                    }
                })
            };
            slot.let_go();
            slot.make_bad();
            if let Some(content) = slot.try_empty() {
                assert_eq!(content, 1);
                let second = slot.fill(2, true);
                assert_ne!(first, second);
                // SAFETY: filled by this thread, and held since.
                assert_eq!(unsafe { *slot.content() }, 2);
                slot.let_go();
            }
            prober.join().expect("the prober");
            assert!(!slot.is_held(), "a reference was lost");
        });
    }
}
