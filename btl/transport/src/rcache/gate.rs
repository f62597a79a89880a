//! The order of steps by which nothing stale is handed out: between a slot that is held without a lock, and the news of what was
//! unmapped. Each of these functions is the only place of its step.

use std::sync::Arc;

use super::range::Range;
use super::slot::{Generation, Slot};
use super::sync::{AtomicU64, Ordering};
use super::unmaps::Unmaps;

/// Between those who unmap and one cache.
#[derive(Debug)]
pub(super) struct Gate {
    unmaps: Arc<Unmaps>,
    /// [`Unmaps::epoch`] of the news that have been applied.
    applied: AtomicU64,
}

impl Gate {
    pub(super) fn new(unmaps: Arc<Unmaps>) -> Self {
        Self { applied: AtomicU64::new(unmaps.epoch()), unmaps }
    }

    /// True if there is news that nobody has applied.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.unmaps.epoch() != self.applied.load(Ordering::Acquire)
    }

    /// Takes a reference to a slot without the lock, unless what it is of may have been unmapped. Who has unmapped it (and has mapped it again,
    /// and asks now) finds news here, or finds that they were applied; in the second case the slot is seen to be bad, and that is why
    /// the reference comes second.
    #[inline]
    pub(super) fn try_hold<T>(&self, slot: &Slot<T>, generation: Generation) -> bool {
        !self.has_news() && slot.try_hold(generation)
    }

    /// With the lock: applies the news. `each` makes bad what was unmapped.
    pub(super) fn apply(&self, each: impl FnMut(Range)) {
        if self.has_news() {
            let epoch = self.unmaps.take(each);
            self.applied.store(epoch, Ordering::Release);
        }
    }

    /// With the lock: takes a slot out of use, and ends the watch on its pages. Not the other way round: who unmaps unwatched pages
    /// tells nobody, and must then find the slot bad.
    pub(super) fn retire<T>(&self, slot: &Slot<T>, range: Range) {
        slot.make_bad();
        self.unmaps.unwatch(range);
    }

    /// From now on there is news of these pages. True if nobody is unmapping anything at this moment.
    pub(super) fn watch(&self, range: Range) -> bool {
        self.unmaps.watch(range);
        self.unmaps.is_quiet()
    }

    /// Takes a [`Gate::watch`] back for which no slot was filled.
    pub(super) fn unwatch(&self, range: Range) {
        self.unmaps.unwatch(range);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc as LoomArc;
    use loom::thread;

    use super::*;

    const PAGE: Range = Range { start: 0, end: 1 };

    /// Who has unmapped a page never gets its old registration, whatever another thread does to the slot meanwhile.
    fn unmapped_while(other: fn(&Gate, &Slot<u32>)) {
        loom::model(move || {
            let gate = LoomArc::new(Gate::new(Arc::new(Unmaps::small())));
            let slot = LoomArc::new(Slot::new());
            gate.watch(PAGE);
            let generation = slot.fill(1, true);
            slot.let_go();
            let thread = {
                let (gate, slot) = (LoomArc::clone(&gate), LoomArc::clone(&slot));
                thread::spawn(move || other(&gate, &slot))
            };
            gate.unmaps.tell(PAGE);
            assert!(!gate.try_hold(&slot, generation), "stale");
            thread.join().expect("the other thread");
        });
    }

    /// What is pinned while another thread maps the page anew, and kept, is the new page; or there is news for who asks next.
    #[test]
    fn a_registration_made_while_another_thread_unmaps() {
        loom::model(|| {
            let gate = LoomArc::new(Gate::new(Arc::new(Unmaps::small())));
            let mapping = LoomArc::new(AtomicU64::new(0));
            let thread = {
                let (gate, mapping) = (LoomArc::clone(&gate), LoomArc::clone(&mapping));
                thread::spawn(move || {
                    gate.unmaps.begin(PAGE);
                    mapping.store(1, Ordering::Relaxed);
                    gate.unmaps.end();
                })
            };
            let is_quiet = gate.watch(PAGE);
            let pinned = mapping.load(Ordering::Relaxed);
            let mut has_gone = false;
            gate.apply(|_| has_gone = true);
            thread.join().expect("the other thread");
            let is_kept = is_quiet && !has_gone;
            assert!(!is_kept || pinned == 1 || gate.has_news(), "stale");
        });
    }

    #[test]
    fn news_that_another_thread_applies() {
        unmapped_while(|gate, slot| gate.apply(|_| slot.make_bad()));
    }

    #[test]
    fn a_registration_that_another_thread_evicts() {
        unmapped_while(|gate, slot| gate.retire(slot, PAGE));
    }
}
