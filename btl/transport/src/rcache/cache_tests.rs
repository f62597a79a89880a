//! The cache over a registrar that knows which pages it has pinned, and so can tell when a registration is stale.

use std::cell::RefCell;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

const PAGE: usize = 4096;
/// Where the made-up memory begins.
const BASE: usize = 1 << 30;

/// Pages with a version each, which changes when the page is unmapped.
struct Memory {
    versions: Vec<AtomicU64>,
    unmaps: Arc<Unmaps>,
    /// Registrations of it.
    pinned: AtomicUsize,
    /// The mutant: nothing tells the cache.
    deaf: bool,
}

impl Memory {
    fn new(pages: usize) -> Self {
        let versions = (0..pages).map(|_| AtomicU64::new(0)).collect();
        Self { versions, unmaps: Arc::new(Unmaps::new()), pinned: AtomicUsize::new(0), deaf: false }
    }

    fn indices(range: Range) -> std::ops::Range<usize> {
        let pages = range.pages();
        (pages.start - BASE) / PAGE..(pages.end - BASE) / PAGE
    }

    fn versions(&self, range: Range) -> Vec<u64> {
        self.versions[Self::indices(range)].iter().map(|it| it.load(Ordering::Acquire)).collect()
    }

    /// `munmap` and `mmap` at the same place.
    fn renew(&self, range: Range) {
        if !self.deaf {
            self.unmaps.begin(range);
        }
        for version in &self.versions[Self::indices(range)] {
            version.fetch_add(1, Ordering::AcqRel);
        }
        if !self.deaf {
            self.unmaps.end();
        }
    }
}

#[derive(Debug)]
struct Pinned {
    range: Range,
    read_only: bool,
    versions: Vec<u64>,
}

/// Pins made-up memory.
struct Pinner<'memory> {
    memory: &'memory Memory,
    alive_max: usize,
    /// What is pinned may be read only.
    read_only: bool,
    /// Happens between the pinning and the return.
    meanwhile: RefCell<Option<Box<dyn FnOnce() + 'memory>>>,
}

#[derive(Debug, PartialEq)]
enum Refused {
    NoRoom,
}

impl<'memory> Pinner<'memory> {
    fn new(memory: &'memory Memory) -> Self {
        Self { memory, alive_max: usize::MAX, read_only: false, meanwhile: RefCell::new(None) }
    }

    fn alive(&self) -> usize {
        self.memory.pinned.load(Ordering::Relaxed)
    }
}

impl Registrar for Pinner<'_> {
    type Region = Pinned;
    type Error = Refused;

    unsafe fn register(&self, start: *mut u8, len_bytes: usize, _access: Access) -> Result<Pinned, Refused> {
        if self.alive() >= self.alive_max {
            return Err(Refused::NoRoom);
        }
        self.memory.pinned.fetch_add(1, Ordering::Relaxed);
        let range = Range { start: start as usize, end: start as usize + len_bytes };
        let versions = if len_bytes == 0 { Vec::new() } else { self.memory.versions(range) };
        if let Some(meanwhile) = self.meanwhile.borrow_mut().take() {
            meanwhile();
        }
        Ok(Pinned { range, read_only: self.read_only, versions })
    }

    fn deregister(&self, _region: Pinned) {
        self.memory.pinned.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_out_of_room(error: &Refused) -> bool {
        *error == Refused::NoRoom
    }

    fn may_be_kept(region: &Pinned) -> bool {
        !region.read_only
    }

    fn too_many(_in_use: usize) -> Refused {
        Refused::NoRoom
    }
}

const GENEROUS: CacheLimits = CacheLimits { bytes_max: usize::MAX / 2, regions_max: usize::MAX / 2 };
const READ: Access = Access { remote_read: true, ..Access::LOCAL };

fn cache(memory: &Memory, limits: CacheLimits) -> RegistrationCache<Pinned> {
    RegistrationCache::new(limits, Arc::clone(&memory.unmaps))
}

fn range(start: usize, len_bytes: usize) -> Range {
    Range::new(BASE + start, len_bytes).expect("a range")
}

fn acquire(
    cache: &RegistrationCache<Pinned>,
    pinner: &Pinner<'_>,
    wanted: Range,
    access: Access,
) -> Result<Held<Pinned>, Refused> {
    // SAFETY: the pinner only takes notes of the memory.
    unsafe { cache.acquire(pinner, wanted.start as *mut u8, wanted.len_bytes(), access) }
}

/// What is registered covers what was asked for, and has its pages as they are.
fn is_fresh(memory: &Memory, held: &Held<Pinned>, wanted: Range) -> bool {
    let pinned = held.region();
    assert!(pinned.range.contains(wanted), "{pinned:?} does not cover {wanted:?}");
    let skipped = (wanted.pages().start - pinned.range.pages().start) / PAGE;
    let now = memory.versions(wanted);
    pinned.versions[skipped..skipped + now.len()] == now
}

#[derive(Debug, Clone)]
enum Step {
    Acquire { wanted: Range, access: Access, kept: bool },
    Release(prop::sample::Index),
    Renew(Range),
    Tend,
}

const PAGES: usize = 32;

fn ranges() -> impl Strategy<Value = Range> {
    (0..PAGES * PAGE - 1, 1..6 * PAGE).prop_map(|(start, len)| range(start, len.min(PAGES * PAGE - start)))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let access = prop::sample::select(vec![READ, Access::LOCAL]);
    let step = prop_oneof![
        4 => (ranges(), access, prop::bool::weighted(0.2))
            .prop_map(|(wanted, access, kept)| Step::Acquire { wanted, access, kept }),
        1 => any::<prop::sample::Index>().prop_map(Step::Release),
        2 => ranges().prop_map(Step::Renew),
        1 => Just(Step::Tend),
    ];
    prop::collection::vec(step, 1..200)
}

fn limits() -> impl Strategy<Value = CacheLimits> {
    (4..PAGES * 2, 1..12_usize)
        .prop_map(|(pages, regions_max)| CacheLimits { bytes_max: pages * PAGE, regions_max })
}

proptest! {
    /// Whatever is acquired, unmapped, kept and given back: nothing stale is handed out, limits hold, and all ends.
    #[test]
    fn never_stale_and_within_limits(limits in limits(), steps in steps()) {
        let memory = Memory::new(PAGES);
        let pinner = Pinner::new(&memory);
        let cache = cache(&memory, limits);
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Acquire { wanted, access, kept } => {
                    let found = acquire(&cache, &pinner, wanted, access).expect("there is room");
                    prop_assert!(is_fresh(&memory, &found, wanted), "stale");
                    if kept {
                        held.push(found);
                    } else {
                        cache.release(&pinner, found);
                    }
                }
                Step::Release(index) => {
                    if !held.is_empty() {
                        cache.release(&pinner, held.swap_remove(index.index(held.len())));
                    }
                }
                Step::Renew(range) => memory.renew(range),
                Step::Tend => cache.tend_now(&pinner),
            }
            let statistics = cache.statistics();
            prop_assert!(statistics.bytes <= limits.bytes_max, "{statistics}");
            prop_assert!(statistics.regions <= limits.regions_max, "{statistics}");
        }
        prop_assert!(cache.close(&pinner) <= held.len());
        held.into_iter().for_each(|held| cache.release(&pinner, held));
        prop_assert_eq!(cache.close(&pinner), 0);
        prop_assert_eq!(pinner.alive(), 0, "registrations were left");
        prop_assert!(memory.unmaps.is_unwatched(), "the filter counts what is gone");
    }
}

#[test]
fn what_is_used_again_is_found() {
    let memory = Memory::new(64);
    let pinner = Pinner::new(&memory);
    let cache = cache(&memory, GENEROUS);
    for _ in 0..3 {
        for page in 0..16 {
            let wanted = range(page * 3 * PAGE + 5, PAGE);
            drop(acquire(&cache, &pinner, wanted, READ).expect("room"));
        }
    }
    // Inside one that is there, twice: the map knows, and then the hints.
    (0..2).for_each(|_| drop(acquire(&cache, &pinner, range(3 * PAGE + 100, 8), READ).expect("room")));
    let statistics = cache.statistics();
    assert_eq!((statistics.misses, statistics.hits), (16, 34), "{statistics}");
    assert_eq!((statistics.regions, statistics.bytes), (16, 2 * 16 * PAGE), "two pages each");
    assert_eq!(cache.quick_hits.load(Ordering::Relaxed), 33, "without the lock");
    // Other rights are another registration.
    drop(acquire(&cache, &pinner, range(5, PAGE), Access::LOCAL).expect("room"));
    assert_eq!(cache.statistics().misses, 17);
}

#[test]
fn overlaps_become_one_up_to_a_length() {
    let memory = Memory::new(16 << 10);
    let pinner = Pinner::new(&memory);
    let cache = cache(&memory, GENEROUS);
    let half = MERGED_BYTES_MAX / 2;
    drop(acquire(&cache, &pinner, range(0, half), READ).expect("room"));
    drop(acquire(&cache, &pinner, range(half - 1, half), READ).expect("room"));
    assert_eq!(cache.statistics().regions, 1);
    assert_eq!(cache.statistics().bytes, 2 * half);
    drop(acquire(&cache, &pinner, range(2 * half - 2, half), READ).expect("room"));
    assert_eq!(cache.statistics().bytes, half + PAGE, "the new one has replaced the old");
    // Neighbours in one page stay apart.
    drop(acquire(&cache, &pinner, range(100, 100), READ).expect("room"));
    drop(acquire(&cache, &pinner, range(200, 100), READ).expect("room"));
    assert_eq!(cache.statistics().regions, 3);
}

/// Hints are written without a lock: one may name any slot, of any life.
#[test]
fn a_wrong_hint_does_no_harm() {
    let memory = Memory::new(16);
    let pinner = Pinner::new(&memory);
    let cache = cache(&memory, GENEROUS);
    let (wanted, elsewhere) = (range(0, PAGE), range(8 * PAGE, PAGE));
    drop(acquire(&cache, &pinner, wanted, Access::LOCAL).expect("room"));
    drop(acquire(&cache, &pinner, elsewhere, READ).expect("room"));
    let place = |at: Range, access: Access| {
        cache.hints.look_up(at.start, class_of(access)).next().expect("a hint of what was just acquired")
    };
    for (index, generation) in [place(wanted, Access::LOCAL), place(elsewhere, READ)] {
        cache.hints.note(wanted.start, class_of(READ), index, generation);
        let before = cache.statistics().misses;
        let held = acquire(&cache, &pinner, wanted, READ).expect("room");
        assert_eq!((held.entry().class, held.entry().range), (class_of(READ), wanted));
        drop(held);
        // The first is made; the second, right by now, is found all the same.
        assert!(cache.statistics().misses - before <= 1);
    }
    assert_eq!(cache.statistics().regions, 3);
}

/// Memory that is mapped for reading only may become writable, and nobody tells.
#[test]
fn what_can_do_less_serves_one_use() {
    let memory = Memory::new(8);
    let pinner = Pinner { read_only: true, ..Pinner::new(&memory) };
    let cache = cache(&memory, GENEROUS);
    cache.release(&pinner, acquire(&cache, &pinner, range(0, PAGE), Access::LOCAL).expect("room"));
    assert_eq!((cache.statistics().regions, memory.pinned.load(Ordering::Relaxed)), (0, 0));
    let writable = Pinner::new(&memory);
    drop(acquire(&cache, &writable, range(0, 2 * PAGE), Access::LOCAL).expect("room"));
    // With a page that may only be read beside it, what is written to is not one with that.
    let held = acquire(&cache, &pinner, range(PAGE, 2 * PAGE), Access::LOCAL).expect("room");
    assert_eq!(held.region().range, range(PAGE, 2 * PAGE), "not merged");
}

/// The race that loses an unmapping between the pinning and the insertion.
#[test]
fn unmapped_while_it_is_registered() {
    let memory = Memory::new(4);
    let (pinner, it) = (Pinner::new(&memory), &memory);
    let cache = cache(&memory, GENEROUS);
    let wanted = range(0, 2 * PAGE);
    *pinner.meanwhile.borrow_mut() = Some(Box::new(move || it.renew(wanted)));
    drop(acquire(&cache, &pinner, wanted, READ).expect("room"));
    assert_eq!(cache.statistics().regions, 0, "it may be stale");
    let held = acquire(&cache, &pinner, wanted, READ).expect("room");
    assert!(is_fresh(&memory, &held, wanted));
    // An unmapping that has begun before, and is not done yet.
    drop(held);
    memory.renew(wanted);
    memory.unmaps.begin(range(3 * PAGE, 1));
    drop(acquire(&cache, &pinner, wanted, READ).expect("room"));
    assert_eq!(cache.statistics().regions, 0, "it may be of these pages");
    memory.unmaps.end();
    drop(acquire(&cache, &pinner, wanted, READ).expect("room"));
    assert_eq!(cache.statistics().regions, 1);
}

/// The same for what a merged registration adds, of which the news are applied by another thread.
#[test]
fn unmapped_while_it_is_merged() {
    let memory = Memory::new(16);
    let cache = cache(&memory, GENEROUS);
    let (pinner, it) = (Pinner::new(&memory), &memory);
    drop(acquire(&cache, &pinner, range(PAGE, 8 * PAGE), READ).expect("room"));
    let (tail, wanted) = (range(5 * PAGE, 4 * PAGE), range(0, 2 * PAGE));
    let other = &cache;
    *pinner.meanwhile.borrow_mut() = Some(Box::new(move || {
        it.renew(tail);
        other.tend_now(&Pinner::new(it));
    }));
    drop(acquire(&cache, &pinner, wanted, READ).expect("room"));
    let held = acquire(&cache, &pinner, tail, READ).expect("room");
    assert!(is_fresh(&memory, &held, tail), "stale");
}

/// Many ranges are unmapped while memory is registered: more than are remembered.
#[test]
fn much_is_unmapped_while_it_is_registered() {
    let memory = Memory::new(256);
    let cache = cache(&memory, GENEROUS);
    let (pinner, it) = (Pinner::new(&memory), &memory);
    for count in [LATELY_MAX, LATELY_MAX + 1] {
        (0..count).for_each(|page| {
            drop(acquire(&cache, &pinner, range((page + 4) * PAGE, PAGE), READ).expect("room"))
        });
        let other = &cache;
        *pinner.meanwhile.borrow_mut() = Some(Box::new(move || {
            (0..count).for_each(|page| it.renew(range((page + 4) * PAGE, PAGE)));
            other.tend_now(&Pinner::new(it));
        }));
        let before = cache.statistics().uncached;
        drop(acquire(&cache, &pinner, range(0, PAGE), READ).expect("room"));
        assert_eq!(cache.statistics().uncached - before, u64::from(count > LATELY_MAX), "{count} others");
        memory.renew(range(0, PAGE));
    }
}

#[test]
fn a_cache_that_nobody_tells_is_stale() {
    let memory = Memory { deaf: true, ..Memory::new(4) };
    let pinner = Pinner::new(&memory);
    let cache = cache(&memory, GENEROUS);
    let wanted = range(0, PAGE);
    drop(acquire(&cache, &pinner, wanted, READ).expect("room"));
    memory.renew(wanted);
    let held = acquire(&cache, &pinner, wanted, READ).expect("room");
    assert!(!is_fresh(&memory, &held, wanted), "these tests cannot see what is stale");
    drop(held);
    cache.disable();
    let held = acquire(&cache, &pinner, wanted, READ).expect("room");
    assert!(is_fresh(&memory, &held, wanted), "nothing is cached any more");
    cache.release(&pinner, held);
    assert_eq!(pinner.alive(), 0, "what was for one use has ended");
}

#[test]
fn no_room_ends_what_is_not_used() {
    let memory = Memory::new(64);
    let pinner = Pinner { alive_max: 4, ..Pinner::new(&memory) };
    let cache = cache(&memory, GENEROUS);
    let get = |page: usize| acquire(&cache, &pinner, range(page * 2 * PAGE, PAGE), READ);
    let first = get(0).expect("room");
    (1..20).for_each(|page| drop(get(page).expect("others are evicted")));
    assert_eq!(cache.statistics().evicted, 16);
    assert!(is_fresh(&memory, &first, range(0, PAGE)));
    let in_use = [get(20), get(21), get(22)];
    assert_eq!(get(23).expect_err("all are in use"), Refused::NoRoom);
    drop(in_use);
    drop(get(24).expect("room again"));
    // More than the limit is registered for one use.
    let little =
        RegistrationCache::new(CacheLimits { bytes_max: PAGE, regions_max: 9 }, Arc::clone(&memory.unmaps));
    (0..9).for_each(|page| cache.release(&pinner, get(page).expect("room")));
    cache.close(&pinner);
    let large = acquire(&little, &pinner, range(0, 2 * PAGE), READ).expect("room");
    assert_eq!((little.statistics().regions, little.statistics().uncached), (0, 1));
    little.release(&pinner, large);
    drop(first);
    cache.close(&pinner);
    assert_eq!(pinner.alive(), 0);
}

#[test]
fn nothing_is_registered_as_nothing() {
    let memory = Memory::new(1);
    let pinner = Pinner::new(&memory);
    let cache = cache(&memory, GENEROUS);
    // SAFETY: the pinner does not touch memory.
    let held = unsafe { cache.acquire(&pinner, BASE as *mut u8, 0, READ) }.expect("room");
    assert_eq!(held.region().versions, []);
    cache.release(&pinner, held);
    assert_eq!(pinner.alive(), 0);
}

/// Threads with memory of their own and one cache: each renews its pages now and then, and must never be given their past.
#[test]
fn threads_do_not_see_each_others_past() {
    const THREADS: usize = 4;
    const OWN: usize = 8;
    const ROUNDS: usize = 20_000;
    let memory = Memory::new(THREADS * OWN);
    let cache = cache(&memory, CacheLimits { bytes_max: 20 * PAGE, regions_max: 16 });
    let work = |thread: usize| {
        let pinner = Pinner::new(&memory);
        let mut random = 88_172_645_463_325_252_u64 + thread as u64;
        for _ in 0..ROUNDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (page, pages) = (random as usize % OWN, 1 + (random >> 16) as usize % 3);
            let wanted = range((thread * OWN + page) * PAGE, pages.min(OWN - page) * PAGE);
            if random >> 60 == 0 {
                memory.renew(wanted);
            }
            let held = acquire(&cache, &pinner, wanted, READ).expect("room");
            assert!(is_fresh(&memory, &held, wanted), "stale");
            if random >> 59 & 1 == 0 {
                cache.release(&pinner, held);
            } else {
                drop(held);
            }
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        (0..THREADS).for_each(|thread| drop(scope.spawn(move || work(thread))));
    });
    let statistics = cache.statistics();
    assert!(statistics.invalidated > 100 && statistics.hits > 1000, "too tame: {statistics}");
}
