//! The cache: finds a registration, or makes one and keeps it.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ironband_fabric::Access;

use super::clock::{Clock, Found};
use super::hints::Hints;
use super::interval::IntervalMap;
use super::limits::CacheLimits;
use super::range::Range;
use super::slab::Slab;
use super::slot::Slot;
use super::source;
use super::statistics::Statistics;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use super::unmaps::Unmaps;

/// Registrations that one call ends at most, besides those that it must to make room: each is a system call.
const ENDED_PER_CALL: usize = 8;
/// Calls of progress between two looks at what is dead.
const TEND_INTERVAL: u32 = 64;
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
    fn is_out_of_room(error: &Self::Error) -> bool;

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
    bytes: usize,
    statistics: Statistics,
}

/// The registrations of one device.
#[derive(Debug)]
pub struct RegistrationCache<R> {
    /// Whose registrations they are.
    process: u32,
    limits: CacheLimits,
    unmaps: Arc<Unmaps>,
    /// [`Unmaps::epoch`] when what was unmapped was applied last.
    applied: AtomicU64,
    enabled: AtomicBool,
    /// The length of `Inner::dying`, to be read without the lock.
    dying_count: AtomicU32,
    turn: AtomicU32,
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
}

impl<R: Send + Sync> RegistrationCache<R> {
    /// An empty cache that the source of news about unmapped memory knows of. `None` if there are too many.
    pub fn open(limits: CacheLimits) -> Option<Self> {
        source::subscribe().map(|unmaps| Self::new(limits, unmaps))
    }

    /// An empty cache that is told of unmapped memory through `unmaps`.
    pub(super) fn new(limits: CacheLimits, unmaps: Arc<Unmaps>) -> Self {
        Self {
            process: std::process::id(),
            limits,
            applied: AtomicU64::new(unmaps.epoch()),
            unmaps,
            enabled: AtomicBool::new(true),
            dying_count: AtomicU32::new(0),
            turn: AtomicU32::new(0),
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
            return unsafe { self.acquire_slowly(registrar, Plan { range, access }) };
        }
        // SAFETY: as promised by the caller. What is empty, or goes round the end, is the registrar's to judge.
        let region = unsafe { registrar.register(start, len_bytes, access) }?;
        let range = Range { start: start as usize, end: start as usize };
        let mut inner = self.lock();
        self.keep_apart(registrar, &mut inner, Entry { region, range, class: class_of(access) })
    }

    /// A registration from which a request with this start was served before.
    #[inline]
    fn recall(&self, range: Range, class: u8) -> Option<Held<R>> {
        for (index, generation) in self.hints.look_up(range.start, class) {
            let slot = self.slab.at(index);
            if !slot.try_hold(generation) {
                continue;
            }
            let held = Held::new(slot);
            // After the reference: from here on what is unmapped is unmapped under somebody who uses it.
            if self.has_unmaps() {
                return None;
            }
            if held.entry().serves(range, class) {
                slot.mark_used();
                self.quick_hits.store(self.quick_hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                return Some(held);
            }
        }
        None
    }

    #[inline]
    fn has_unmaps(&self) -> bool {
        self.unmaps.epoch() != self.applied.load(Ordering::Acquire)
    }

    /// # Safety
    /// As for [`RegistrationCache::acquire`].
    #[inline(never)]
    unsafe fn acquire_slowly<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        wanted: Plan,
    ) -> Result<Held<R>, G::Error> {
        let plan = {
            let mut inner = self.lock();
            self.apply_unmaps(&mut inner, |_| {});
            if let Some(held) = self.look_up(&mut inner, wanted) {
                let ended = self.take_ended(&mut inner);
                drop(inner);
                ended.into_iter().for_each(|entry| registrar.deregister(entry.region));
                return Ok(held);
            }
            inner.statistics.misses += 1;
            inner.plan(wanted)
        };
        // SAFETY: as promised by the caller. What the plan adds was registered, and no unmapping of it has been told.
        match unsafe { self.make(registrar, plan, wanted.range) } {
            // That can fail where the request alone does not: the plan may be too long, or gone by now.
            Err(_) if plan.range != wanted.range => {
                // SAFETY: as promised by the caller.
                unsafe { self.make(registrar, wanted, wanted.range) }
            }
            outcome => outcome,
        }
    }

    fn look_up(&self, inner: &mut Inner, wanted: Plan) -> Option<Held<R>> {
        let class = class_of(wanted.access);
        let index = inner.maps[usize::from(class)].containing(wanted.range)?;
        let slot = self.slab.at(index);
        let generation = slot.hold();
        slot.mark_used();
        inner.statistics.hits += 1;
        self.hints.note(wanted.range.start, class, index, generation);
        Some(Held::new(slot))
    }

    /// Registers for a request for `wanted`, and keeps the registration unless its pages may have changed meanwhile.
    ///
    /// # Safety
    /// As for [`RegistrationCache::acquire`].
    unsafe fn make<G: Registrar<Region = R>>(
        &self,
        registrar: &G,
        plan: Plan,
        wanted: Range,
    ) -> Result<Held<R>, G::Error> {
        let range = plan.range;
        self.unmaps.watch(range);
        let quiet = self.unmaps.is_quiet();
        // SAFETY: as promised by the caller.
        let region = match unsafe { self.register(registrar, plan) } {
            Ok(region) => region,
            Err(error) => {
                self.unmaps.unwatch(range);
                return Err(error);
            }
        };
        let entry = Entry { region, range, class: class_of(plan.access) };
        let mut inner = self.lock();
        let mut changed = !quiet;
        self.apply_unmaps(&mut inner, |unmapped| changed |= unmapped.pages().overlaps(range));
        if changed || !self.enabled.load(Ordering::Relaxed) || !self.make_room(registrar, &mut inner, range) {
            self.unmaps.unwatch(range);
            return self.keep_apart(registrar, &mut inner, entry);
        }
        self.forget_overlapping(&mut inner, usize::from(entry.class), range);
        let Some(index) = self.free_slot(&mut inner) else {
            self.unmaps.unwatch(range);
            registrar.deregister(entry.region);
            return Err(G::too_many(inner.slots_made as usize));
        };
        let class = entry.class;
        inner.maps[usize::from(class)].insert(range, index);
        inner.bytes += range.len_bytes();
        let slot = self.slab.at(index);
        let generation = slot.fill(entry, true);
        self.hints.note(wanted.start, class, index, generation);
        Ok(Held::new(slot))
    }

    /// # Safety
    /// As for [`RegistrationCache::acquire`].
    unsafe fn register<G: Registrar<Region = R>>(&self, registrar: &G, plan: Plan) -> Result<R, G::Error> {
        let (start, len_bytes) = (plan.range.start as *mut u8, plan.range.len_bytes());
        // SAFETY: as promised by the caller.
        match unsafe { registrar.register(start, len_bytes, plan.access) } {
            Err(error) if G::is_out_of_room(&error) && self.evict(registrar, len_bytes) => {
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
        let slot = self.slab.at(index);
        slot.fill(entry, false);
        self.let_die(inner, index);
        Ok(Held::new(slot))
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

    /// Takes what was unmapped out of the cache, and tells `each` of it.
    fn apply_unmaps(&self, inner: &mut Inner, mut each: impl FnMut(Range)) {
        if !self.has_unmaps() {
            return;
        }
        let epoch = self.unmaps.take(|range| {
            each(range);
            for class in 0..CLASSES {
                let forgotten = self.forget_overlapping(inner, class, range.pages());
                inner.statistics.invalidated += forgotten;
            }
        });
        self.applied.store(epoch, Ordering::Release);
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
        inner.bytes -= range.len_bytes();
        self.unmaps.unwatch(range);
        self.slab.at(index).make_bad();
        self.let_die(inner, index);
    }

    fn let_die(&self, inner: &mut Inner, index: u32) {
        inner.dying.push_back(index);
        self.dying_count.store(inner.dying.len() as u32, Ordering::Relaxed);
    }

    /// Some of what is dead: whoever calls ends it when the lock is free again.
    fn take_ended(&self, inner: &mut Inner) -> Vec<Entry<R>> {
        let mut ended = Vec::new();
        if std::process::id() != self.process {
            // A child of a fork: the registrations are its parent's, which would lose them.
            return ended;
        }
        for _ in 0..inner.dying.len().min(ENDED_PER_CALL) {
            let Some(index) = inner.dying.pop_front() else { break };
            match self.slab.at(index).try_empty() {
                Some(entry) => {
                    ended.push(entry);
                    inner.free.push(index);
                }
                None => inner.dying.push_back(index),
            }
        }
        self.dying_count.store(inner.dying.len() as u32, Ordering::Relaxed);
        ended
    }

    /// Evicts until a range fits. False if it does not fit, whatever goes.
    fn make_room<G: Registrar<Region = R>>(&self, registrar: &G, inner: &mut Inner, range: Range) -> bool {
        let CacheLimits { bytes_max, regions_max } = self.limits;
        if range.len_bytes() > bytes_max {
            return false;
        }
        while inner.bytes + range.len_bytes() > bytes_max || inner.count() >= regions_max {
            let Some(entry) = self.evict_one(inner) else { return false };
            registrar.deregister(entry.region);
        }
        true
    }

    /// Ends one registration that is not in use.
    fn evict_one(&self, inner: &mut Inner) -> Option<Entry<R>> {
        let mut clock = std::mem::take(&mut inner.clock);
        let found = clock.next(inner.slots_made, |index| self.look_at(index));
        inner.clock = clock;
        let index = found?;
        let slot = self.slab.at(index);
        slot.hold();
        // SAFETY: just held.
        let (range, class) = (unsafe { slot.content() }.range, unsafe { slot.content() }.class);
        self.forget(inner, usize::from(class), range, index);
        slot.let_go();
        inner.statistics.evicted += 1;
        // A thread may have tried it in between: then it ends later.
        let entry = slot.try_empty()?;
        inner.dying.pop_back();
        self.dying_count.store(inner.dying.len() as u32, Ordering::Relaxed);
        inner.free.push(index);
        Some(entry)
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

    /// The device has no room: ends registrations of as many bytes as are wanted, and all that is dead. False if there is nothing to end.
    fn evict<G: Registrar<Region = R>>(&self, registrar: &G, len_bytes: usize) -> bool {
        let mut inner = self.lock();
        let (mut any, mut freed) = (false, 0);
        loop {
            let ended = self.take_ended(&mut inner);
            if ended.is_empty() {
                break;
            }
            any = true;
            ended.into_iter().for_each(|entry| registrar.deregister(entry.region));
        }
        while freed < len_bytes {
            let Some(entry) = self.evict_one(&mut inner) else { break };
            (any, freed) = (true, freed + entry.range.len_bytes());
            registrar.deregister(entry.region);
        }
        any
    }

    /// Applies what was unmapped and ends some of what is dead, now and then. For every call that makes progress.
    #[inline]
    pub fn tend<G: Registrar<Region = R>>(&self, registrar: &G) {
        // Threads may count over each other; it only has to happen at some time.
        let turn = self.turn.load(Ordering::Relaxed).wrapping_add(1);
        self.turn.store(turn, Ordering::Relaxed);
        if turn.is_multiple_of(TEND_INTERVAL) && (self.has_unmaps() || self.has_dying()) {
            self.tend_now(registrar);
        }
    }

    /// Gives a registration back, and ends it at once if it was for one use.
    #[inline]
    pub fn release<G: Registrar<Region = R>>(&self, registrar: &G, held: Held<R>) {
        drop(held);
        if self.has_dying() {
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
        self.apply_unmaps(&mut inner, |_| {});
        let ended = self.take_ended(&mut inner);
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
        for _ in 0..inner.dying.len().div_ceil(ENDED_PER_CALL) {
            let ended = self.take_ended(&mut inner);
            ended.into_iter().for_each(|entry| registrar.deregister(entry.region));
        }
        inner.dying.len()
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        let inner = self.lock();
        let mut statistics = inner.statistics;
        statistics.hits += self.quick_hits.load(Ordering::Relaxed);
        (statistics.regions, statistics.bytes) = (inner.count(), inner.bytes);
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
    fn plan(&self, wanted: Plan) -> Plan {
        let overlapping = self.maps[usize::from(class_of(wanted.access))].overlapping(wanted.range);
        let range = overlapping.fold(wanted.range, |all, (range, _)| all.union(range));
        if range.len_bytes() > MERGED_BYTES_MAX { wanted } else { Plan { range, ..wanted } }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "cache_tests.rs"]
mod tests;
