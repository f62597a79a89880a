//! The cache: finds a registration, or makes one and keeps it.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ironband_fabric::Access;

use super::clock::{Clock, Found};
use super::gate::Gate;
use super::hints::Hints;
use super::interval::IntervalMap;
use super::limits::CacheLimits;
use super::range::Range;
use super::slab::Slab;
use super::slot::{Generation, Slot};
use super::source;
use super::statistics::Statistics;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use super::unmaps::Unmaps;

/// Registrations that one call ends at most, besides those that it must to make room: each is a system call.
const ENDED_PER_CALL: usize = 8;
/// Ranges that were unmapped and are remembered. If more were while memory was registered, it counts as unmapped, too.
const LATELY_MAX: usize = 64;
/// Ranges that overlap become one registration up to this length. Beyond, the new one replaces the others: a window that slides over
/// a large array would otherwise register ever more of it.
const MERGED_BYTES_MAX: usize = 16 << 20;

/// Who registers memory: an adapter, or what stands in for one in a test.
pub trait Registrar {
    /// Registered memory.
    type Region: Send + Sync;
    /// Why memory could not be registered.
    type Error;

    /// # Safety
    /// The memory stays mapped until [`Registrar::deregister`], or what was unmapped is not used through the region.
    ///
    /// # Errors
    /// When the memory cannot be registered, or there is no room for more.
    unsafe fn register(
        &self,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Self::Region, Self::Error>;

    /// Ends a registration.
    fn deregister(&self, region: Self::Region);

    /// True if ending other registrations may help.
    fn is_out_of_room(error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// False for a region that can do less than others that are registered alike, as one of memory that may only be read: it serves one
    /// use.
    fn may_be_kept(region: &Self::Region) -> bool {
        let _ = region;
        true
    }

    /// The error of a process that uses more registrations at once than a cache can count.
    fn too_many(in_use: usize) -> Self::Error;
}

/// Registrations with the same rights for peers: a registration is never used for more than it was made for, so that a key that a
/// peer has for reading lets it read.
const CLASSES: usize = 8;

const fn class_of(access: Access) -> u8 {
    access.remote_read as u8 | (access.remote_write as u8) << 1 | (access.remote_atomic as u8) << 2
}

/// What lies in a slot.
#[derive(Debug)]
struct Entry<R> {
    region: R,
    range: Range,
    class: u8,
}

impl<R> Entry<R> {
    #[inline]
    fn serves(&self, wanted: Range, class: u8) -> bool {
        self.class == class && self.range.contains(wanted)
    }
}

/// Registered memory, held. Dropping it is cheap and may happen in any thread; the registration ends later.
#[derive(Debug)]
pub struct Held<R> {
    slot: NonNull<Slot<Entry<R>>>,
}

// SAFETY: a reference to a slot is nobody's in particular; the region is only read.
unsafe impl<R: Send + Sync> Send for Held<R> {}
// SAFETY: as above.
unsafe impl<R: Send + Sync> Sync for Held<R> {}

impl<R: Send + Sync> Held<R> {
    /// Wraps a reference that the caller has taken.
    #[inline]
    fn new(slot: &Slot<Entry<R>>) -> Self {
        Self { slot: NonNull::from(slot) }
    }

    /// What the registrar made.
    #[inline]
    pub fn region(&self) -> &R {
        &self.entry().region
    }

    /// True while others are served from it, too.
    #[inline]
    fn is_kept(&self) -> bool {
        // SAFETY: as in `entry`.
        unsafe { self.slot.as_ref() }.is_good()
    }

    #[inline]
    fn entry(&self) -> &Entry<R> {
        // SAFETY: the slot lives as long as somebody holds it (`Slab`), and this value does.
        unsafe { self.slot.as_ref().content() }
    }
}

impl<R> Drop for Held<R> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as in `region`.
        unsafe { self.slot.as_ref() }.let_go();
    }
}

/// What the lock guards.
#[derive(Debug, Default)]
struct Inner {
    maps: [IntervalMap; CLASSES],
    clock: Clock,
    slots_made: u32,
    free: Vec<u32>,
    /// Bad and not yet empty.
    dying: VecDeque<u32>,
    /// What is registered, in whole pages, dying ones included.
    pinned_bytes: usize,
    /// The same of those in the maps.
    kept_bytes: usize,
    /// What was unmapped lately, the newest last, and how much that was ever.
    lately: VecDeque<Range>,
    unmapped: u64,
    statistics: Statistics,
}

/// The registrations of one device.
#[derive(Debug)]
pub struct RegistrationCache<R> {
    limits: CacheLimits,
    gate: Gate,
    enabled: AtomicBool,
    /// The length of `Inner::dying`, to be read without the lock.
    dying_count: AtomicU32,
    /// Hits without the lock, about: threads may overwrite each other's.
    quick_hits: AtomicU64,
    hints: Hints,
    slab: Slab<Entry<R>>,
    inner: Mutex<Inner>,
}

/// What to register for a request.
#[derive(Debug, Clone, Copy)]
struct Plan {
    range: Range,
    access: Access,
    /// [`Inner::unmapped`] when all of the range was known to be mapped.
    seen: u64,
}

impl<R: Send + Sync> RegistrationCache<R> {
    /// An empty cache that the source of news about unmapped memory knows of. `None` if there are too many.
    pub fn open(limits: CacheLimits) -> Option<Self> {
        source::subscribe().map(|unmaps| Self::new(limits, unmaps))
    }

    /// An empty cache that is told of unmapped memory through `unmaps`.
    pub(super) fn new(limits: CacheLimits, unmaps: Arc<Unmaps>) -> Self {
        Self {
            limits,
            gate: Gate::new(unmaps),
            enabled: AtomicBool::new(true),
            dying_count: AtomicU32::new(0),
            quick_hits: AtomicU64::new(0),
            hints: Hints::new(),
            slab: Slab::new(),
            inner: Mutex::default(),
        }
    }

    /// A registration of the memory, from the cache or new.
    ///
    /// # Safety
    /// The memory is mapped, and stays so while it is used through what is returned.
    ///
    /// # Errors
    /// See [`Registrar::register`].
    #[inline]
    pub unsafe fn acquire<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Held<R>, G::Error> {
        if let Some(range) = Range::new(start as usize, len_bytes) {
            if let Some(held) = self.recall(range, class_of(access)) {
                return Ok(held);
            }
            // SAFETY: as promised by the caller.
            return unsafe { self.acquire_slowly(registrar, range, access) };
        }
        // SAFETY: as promised by the caller. What is empty, or goes round the end, is the registrar's to judge.
        let region = unsafe { registrar.register(start, len_bytes, access) }?;
        let range = Range { start: start as usize, end: start as usize };
        self.keep_apart(registrar, &mut self.lock(), Entry { region, range, class: class_of(access) })
    }

    /// A registration of the memory, if there is one.
    #[inline]
    pub fn find(&self, start: *mut u8, len_bytes: usize, access: Access) -> Option<Held<R>> {
        let range = Range::new(start as usize, len_bytes)?;
        let class = class_of(access);
        self.recall(range, class).or_else(|| {
            let mut inner = self.lock();
            self.apply_unmaps(&mut inner);
            self.look_up(&mut inner, range, class)
        })
    }

    /// A registration from which a request with this start was served before.
    #[inline]
    fn recall(&self, range: Range, class: u8) -> Option<Held<R>> {
        for (index, generation) in self.hints.look_up(range.start, class) {
            let slot = self.slab.at(index);
            if !self.gate.try_hold(slot, generation) {
                continue;
            }
            let held = Held::new(slot);
            if held.entry().serves(range, class) {
                slot.mark_used();
                self.quick_hits.store(self.quick_hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                return Some(held);
            }
        }
        None
    }

    /// # Safety
    /// As for [`RegistrationCache::acquire`].
    #[inline(never)]
    unsafe fn acquire_slowly<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        range: Range,
        access: Access,
    ) -> Result<Held<R>, G::Error> {
        let plan = {
            let mut inner = self.lock();
            self.apply_unmaps(&mut inner);
            if let Some(held) = self.look_up(&mut inner, range, class_of(access)) {
                return Ok(held);
            }
            inner.statistics.misses += 1;
            inner.plan(range, access)
        };
        if plan.range != range {
            // SAFETY: as promised by the caller. What the plan adds was registered, and no unmapping of it was told; if it is gone by
            // now it is not used.
            if let Ok(Some(held)) = unsafe { self.make(registrar, plan, range) } {
                return Ok(held);
            }
        }
        // SAFETY: as promised by the caller.
        let made = unsafe { self.make(registrar, Plan { range, ..plan }, range) }?;
        Ok(made.expect("a plan for no more than the request is carried out"))
    }

    fn look_up(&self, inner: &mut Inner, range: Range, class: u8) -> Option<Held<R>> {
        let index = inner.maps[usize::from(class)].containing(range)?;
        let slot = self.slab.at(index);
        let generation = slot.hold();
        slot.mark_used();
        inner.statistics.hits += 1;
        self.hints.note(range.start, class, index, generation);
        Some(Held::new(slot))
    }

    /// Registers for a request for `wanted`, and keeps the registration unless its pages may have changed meanwhile. `None` if the plan is for
    /// more than that, and cannot be kept.
    ///
    /// # Safety
    /// As for [`RegistrationCache::acquire`].
    unsafe fn make<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        plan: Plan,
        wanted: Range,
    ) -> Result<Option<Held<R>>, G::Error> {
        let (range, class) = (plan.range, class_of(plan.access));
        let quiet = self.gate.watch(range);
        // SAFETY: as promised by the caller.
        let region = match unsafe { self.register(registrar, plan) } {
            Ok(region) => region,
            Err(error) => {
                self.gate.unwatch(range);
                return Err(error);
            }
        };
        let mut inner = self.lock();
        // Not what comes to light in here alone: another thread may have applied it.
        self.apply_unmaps(&mut inner);
        let is_sound = quiet && !inner.was_unmapped(range, plan.seen);
        let may_stay = is_sound && self.enabled.load(Ordering::Relaxed) && G::may_be_kept(&region);
        if !may_stay || !self.make_room(registrar, &mut inner, usize::from(class), range) {
            self.gate.unwatch(range);
            if range != wanted {
                registrar.deregister(region);
                return Ok(None);
            }
            return self.keep_apart(registrar, &mut inner, Entry { region, range, class }).map(Some);
        }
        let Some(index) = self.free_slot(&mut inner) else {
            self.gate.unwatch(range);
            registrar.deregister(region);
            return Err(G::too_many(inner.slots_made as usize));
        };
        inner.maps[usize::from(class)].insert(range, index);
        inner.kept_bytes += range.pages().len_bytes();
        let generation = self.fill(&mut inner, index, Entry { region, range, class }, true);
        self.hints.note(wanted.start, class, index, generation);
        Ok(Some(Held::new(self.slab.at(index))))
    }

    /// # Safety
    /// As for [`RegistrationCache::acquire`].
    unsafe fn register<G: Registrar<Region = R>>(&self, registrar: &G, plan: Plan) -> Result<R, G::Error> {
        let (start, len_bytes) = (plan.range.start as *mut u8, plan.range.len_bytes());
        // SAFETY: as promised by the caller.
        match unsafe { registrar.register(start, len_bytes, plan.access) } {
            Err(error) if G::is_out_of_room(&error) && self.make_way(registrar, len_bytes) => {
                // SAFETY: as promised by the caller.
                unsafe { registrar.register(start, len_bytes, plan.access) }
            }
            outcome => outcome,
        }
    }

    /// A registration for one use.
    fn keep_apart<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        inner: &mut Inner,
        entry: Entry<R>,
    ) -> Result<Held<R>, G::Error> {
        let Some(index) = self.free_slot(inner) else {
            registrar.deregister(entry.region);
            return Err(G::too_many(inner.slots_made as usize));
        };
        inner.statistics.uncached += 1;
        self.fill(inner, index, entry, false);
        self.let_die(inner, index);
        Ok(Held::new(self.slab.at(index)))
    }

    /// Fills an empty slot, with a reference for the caller.
    fn fill(&self, inner: &mut Inner, index: u32, entry: Entry<R>, good: bool) -> Generation {
        inner.pinned_bytes += entry.range.pages().len_bytes();
        self.slab.at(index).fill(entry, good)
    }

    fn free_slot(&self, inner: &mut Inner) -> Option<u32> {
        if inner.free.is_empty() {
            let made = inner.slots_made;
            inner.slots_made = self.slab.make(made)?;
            // The lowest are used first, so that the hand of the clock goes a short way.
            inner.free.extend((made..inner.slots_made).rev());
        }
        inner.free.pop()
    }

    // ---- ends -----------------------------------------------------------------------------------------------------------

    /// Takes what was unmapped out of the cache.
    fn apply_unmaps(&self, inner: &mut Inner) {
        self.gate.apply(|range| {
            let pages = range.pages();
            inner.note_unmapped(pages);
            for class in 0..CLASSES {
                let forgotten = self.forget_overlapping(inner, class, pages);
                inner.statistics.invalidated += forgotten;
            }
        });
    }

    /// Takes all of one class that have a byte in a range out of the cache; gives how many that were.
    fn forget_overlapping(&self, inner: &mut Inner, class: usize, with: Range) -> u64 {
        let mut count = 0;
        // One at a time: the map is not walked while it changes. There is seldom more than one.
        while let Some((range, index)) = inner.maps[class].first_overlapping(with) {
            self.forget(inner, class, range, index);
            count += 1;
        }
        count
    }

    fn forget(&self, inner: &mut Inner, class: usize, range: Range, index: u32) {
        inner.maps[class].remove(range);
        inner.kept_bytes -= range.pages().len_bytes();
        self.gate.retire(self.slab.at(index), range);
        self.let_die(inner, index);
    }

    fn let_die(&self, inner: &mut Inner, index: u32) {
        inner.dying.push_back(index);
        self.dying_count.store(inner.dying.len() as u32, Ordering::Relaxed);
    }

    /// Up to so many of what is dead: whoever calls ends it, when the lock is free again if it can wait.
    fn take_ended(&self, inner: &mut Inner, looks: usize) -> Vec<Entry<R>> {
        let mut ended = Vec::new();
        if self.slab.is_parents() {
            return ended;
        }
        for _ in 0..inner.dying.len().min(looks) {
            let Some(index) = inner.dying.pop_front() else { break };
            match self.slab.at(index).try_empty() {
                Some(entry) => {
                    inner.pinned_bytes -= entry.range.pages().len_bytes();
                    inner.free.push(index);
                    ended.push(entry);
                }
                None => inner.dying.push_back(index),
            }
        }
        self.dying_count.store(inner.dying.len() as u32, Ordering::Relaxed);
        ended
    }

    /// Ends all that is dead; gives how many bytes that were.
    fn end_dead<G: Registrar<Region = R>>(&self, registrar: &G, inner: &mut Inner) -> usize {
        let ended = self.take_ended(inner, usize::MAX);
        let bytes = ended.iter().map(|entry| entry.range.pages().len_bytes()).sum();
        ended.into_iter().for_each(|entry| registrar.deregister(entry.region));
        bytes
    }

    /// Takes those out that the range replaces, and evicts until it fits. False if it does not fit, whatever goes.
    fn make_room<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        inner: &mut Inner,
        class: usize,
        range: Range,
    ) -> bool {
        let CacheLimits { bytes_max, regions_max } = self.limits;
        let wanted_bytes = range.pages().len_bytes();
        if wanted_bytes > bytes_max {
            return false;
        }
        self.forget_overlapping(inner, class, range);
        let fits = |inner: &Inner| {
            inner.pinned_bytes.saturating_add(wanted_bytes) <= bytes_max && inner.count() < regions_max
        };
        while !fits(inner) {
            if self.end_dead(registrar, inner) == 0 && !self.evict_one(inner) {
                return false;
            }
        }
        true
    }

    /// Takes one registration out of the cache that is not in use. False if there is none.
    fn evict_one(&self, inner: &mut Inner) -> bool {
        let mut clock = std::mem::take(&mut inner.clock);
        let found = clock.next(inner.slots_made, |index| self.look_at(index));
        inner.clock = clock;
        let Some(index) = found else { return false };
        let slot = self.slab.at(index);
        slot.hold();
        // SAFETY: just held.
        let (range, class) = (unsafe { slot.content() }.range, unsafe { slot.content() }.class);
        slot.let_go();
        self.forget(inner, usize::from(class), range, index);
        inner.statistics.evicted += 1;
        true
    }

    fn look_at(&self, index: u32) -> Found {
        let slot = self.slab.at(index);
        if !slot.is_good() || slot.is_held() {
            Found::Nothing
        } else if slot.take_used() {
            Found::Used
        } else {
            Found::Unused
        }
    }

    /// The device has no room: ends all that is dead, and evicts as many bytes as are wanted. False if nothing could be ended.
    pub(crate) fn make_way<G: Registrar<Region = R>>(&self, registrar: &G, len_bytes: usize) -> bool {
        let mut inner = self.lock();
        let mut freed = self.end_dead(registrar, &mut inner);
        while freed < len_bytes && self.evict_one(&mut inner) {
            freed += self.end_dead(registrar, &mut inner);
        }
        freed > 0
    }

    /// Applies what was unmapped, and ends some of what is dead. Cheap when there is nothing to do: for now and then.
    #[inline]
    pub fn tend<G: Registrar<Region = R>>(&self, registrar: &G) {
        if self.gate.has_news() || self.has_dying() {
            self.tend_now(registrar);
        }
    }

    /// Gives a registration back. One for a single use is then ended, unless many others wait for that.
    #[inline]
    pub fn release<G: Registrar<Region = R>>(&self, registrar: &G, held: Held<R>) {
        let is_kept = held.is_kept();
        drop(held);
        if !is_kept {
            self.tend_now(registrar);
        }
    }

    #[inline]
    fn has_dying(&self) -> bool {
        self.dying_count.load(Ordering::Relaxed) > 0
    }

    #[cold]
    fn tend_now<G: Registrar<Region = R>>(&self, registrar: &G) {
        let Ok(mut inner) = self.inner.try_lock() else { return };
        self.apply_unmaps(&mut inner);
        let ended = self.take_ended(&mut inner, ENDED_PER_CALL);
        drop(inner);
        ended.into_iter().for_each(|entry| registrar.deregister(entry.region));
    }

    /// False once [`RegistrationCache::disable`] was called.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// From now on nothing is cached: each registration is for one use.
    pub fn disable(&self) {
        let mut inner = self.lock();
        self.enabled.store(false, Ordering::Relaxed);
        for class in 0..CLASSES {
            self.forget_overlapping(&mut inner, class, Range::ALL);
        }
    }

    /// Ends all registrations that are not in use; gives how many are.
    pub fn close<G: Registrar<Region = R>>(&self, registrar: &G) -> usize {
        self.disable();
        let mut inner = self.lock();
        self.end_dead(registrar, &mut inner);
        inner.dying.len()
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        let inner = self.lock();
        let mut statistics = inner.statistics;
        statistics.hits += self.quick_hits.load(Ordering::Relaxed);
        (statistics.regions, statistics.bytes) = (inner.count(), inner.kept_bytes);
        statistics
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way on what a peer or a user does; a test that fails may.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&self) -> usize {
        self.maps.iter().map(IntervalMap::len).sum()
    }

    /// What to register for a request: with it all that it overlaps, unless that is much.
    fn plan(&self, wanted: Range, access: Access) -> Plan {
        let overlapping = self.maps[usize::from(class_of(access))].overlapping(wanted);
        let all = overlapping.fold(wanted, |all, (range, _)| all.union(range));
        let range = if all.len_bytes() > MERGED_BYTES_MAX { wanted } else { all };
        Plan { range, access, seen: self.unmapped }
    }

    fn note_unmapped(&mut self, pages: Range) {
        if self.lately.len() == LATELY_MAX {
            self.lately.pop_front();
        }
        self.lately.push_back(pages);
        self.unmapped += 1;
    }

    /// True if pages of the range were unmapped since the count was `seen`, or may have been.
    fn was_unmapped(&self, range: Range, seen: u64) -> bool {
        let since = usize::try_from(self.unmapped - seen).unwrap_or(usize::MAX);
        since > self.lately.len() || self.lately.iter().rev().take(since).any(|pages| pages.overlaps(range))
    }
}

#[cfg(all(test, not(loom)))]
#[path = "cache_tests.rs"]
mod tests;
