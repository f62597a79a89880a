//! Who tells this process of unmapped memory, and whether it does.
//!
//! There is one source in a process, because those that patch libc disable one another: inside Open MPI it is Open MPI's memory
//! hooks. Whoever can be the source offers itself ([`offer`]), is started when the first cache needs it, and calls [`unmapping`]; each
//! cache has a letter box here.
//!
//! Nobody takes a source at its word. [`try_out`] unmaps memory of its own in each way that a program has and waits for the news,
//! when a cache is made and again now and then: libraries that are loaded later patch, too.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use super::range::{PAGE_BYTES, Range};
use super::ucm;
use super::unmaps::Unmaps;

/// Caches in one process at a time: one for each port of each adapter.
const BOXES_MAX: usize = 64;

/// Length of what [`try_out`] maps.
const SENTINEL_BYTES: usize = 2 * PAGE_BYTES;

/// What sources write to. Filled from the front, and never emptied: a source may be inside.
static BOXES: [AtomicPtr<Unmaps>; BOXES_MAX] = [const { AtomicPtr::new(null_mut()) }; BOXES_MAX];

/// The same boxes, to find one that no cache uses.
static OWNED: Mutex<Vec<Arc<Unmaps>>> = Mutex::new(Vec::new());

/// What our own patch is called, in messages.
const PATCH_NAME: &str = "ironband's hooks in libc";

/// The source, if there is one.
static SOURCE: Mutex<Option<Source>> = Mutex::new(None);

#[derive(Debug, Clone)]
struct Source {
    name: &'static str,
    start: fn() -> Result<(), String>,
    /// What `start` has said.
    started: Option<Result<(), String>>,
}

/// For a source: these pages will be unmapped, moved or emptied in a moment. May be called from anywhere, with any lock held: it
/// takes none, and allocates nothing.
///
/// Without word ([`around`]) of when the system call has returned, a registration that is made of the very pages while they go may be kept. That takes a
/// program that sends memory and unmaps it at the same time.
#[inline]
pub fn unmapping(start: usize, len_bytes: usize) {
    if let Some(range) = Range::new(start, len_bytes) {
        boxes().for_each(|unmaps| unmaps.tell(range));
    }
}

/// For a source that makes the system call itself: as [`unmapping`], and no registration that is made meanwhile is kept.
#[inline]
pub fn around<T>(start: usize, len_bytes: usize, call: impl FnOnce() -> T) -> T {
    let Some(range) = Range::new(start, len_bytes) else { return call() };
    let before = boxes().inspect(|unmaps| unmaps.begin(range)).count();
    let outcome = call();
    // A box that was made meanwhile has not seen the beginning.
    boxes().take(before).for_each(Unmaps::end);
    outcome
}

#[inline]
fn boxes() -> impl Iterator<Item = &'static Unmaps> {
    // SAFETY: boxes are never freed (`subscribe`).
    BOXES.iter().map_while(|place| unsafe { place.load(Ordering::Acquire).as_ref() })
}

/// For a source: once `start` has succeeded, [`unmapping`] is called for whatever this process unmaps. The name is for messages, as
/// in "Open MPI's memory hooks". An offer replaces the one before.
pub fn offer(name: &'static str, start: fn() -> Result<(), String>) {
    *held() = Some(Source { name, start, started: None });
}

/// Starts the source that was offered, unless that was done before, and tries it out; gives its name.
///
/// # Errors
/// Why there is none, in one clause.
pub fn source() -> Result<&'static str, String> {
    let mut source = held();
    let Some(source) = source.as_mut() else {
        return Err("nothing in this process tells of unmapped memory".to_owned());
    };
    let name = source.name;
    let outcome = source.started.get_or_insert_with(source.start).clone();
    outcome.and_then(|()| try_out()).map_err(|reason| format!("{name} cannot be relied on: {reason}"))?;
    Ok(name)
}

/// What [`try_out`] has found once: the source does not tell of everything, and no cache of this process is safe.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// True once the source was found not to tell of everything.
#[inline]
pub(crate) fn is_broken() -> bool {
    BROKEN.load(Ordering::Relaxed)
}

fn held() -> MutexGuard<'static, Option<Source>> {
    SOURCE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// libc could not be patched; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("libc cannot be patched: {0}")]
pub struct NotPatched(String);

/// For a process that has no other source, as a Rust program without an MPI library: changes libc and the loader, so that this
/// process tells itself of what it unmaps. It cannot be undone. Call it first thing in `main`. If UCX is loaded its hooks become the
/// source, and nothing is changed.
///
/// # Safety
/// No other thread runs during the call. (That is looked at, and refused, but a thread may come into being meanwhile.)
///
/// # Errors
/// Where this is not Linux on x86-64 with glibc, where another library has patched libc, or the system forbids it.
pub unsafe fn start_own() -> Result<(), NotPatched> {
    // One that works already stays.
    if let Some(source) = held().as_ref()
        && source.started == Some(Ok(()))
    {
        return Ok(());
    }
    if ucm::is_loaded() {
        offer(ucm::NAME, ucm::start);
        return Ok(());
    }
    // SAFETY: as promised by the caller.
    let outcome = unsafe { patch() };
    *held() = Some(Source { name: PATCH_NAME, start: || Ok(()), started: Some(outcome.clone()) });
    outcome.map_err(NotPatched)
}

/// # Safety
/// As for [`start_own`].
unsafe fn patch() -> Result<(), String> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(format!("{threads} threads run already; it is for the first thing in main"));
    }
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    // SAFETY: as promised by the caller.
    return unsafe { super::libc_patch::install() };
    #[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
    Err("it is known for x86-64 with glibc only".to_owned())
}

/// A letter box for a cache. `None` if there are as many caches as there can be.
pub(super) fn subscribe() -> Option<Arc<Unmaps>> {
    static AT_FORK: Once = Once::new();
    // SAFETY: the function stays loaded (a library with this inside must not be unloaded), and does what a child may.
    AT_FORK.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forget_parent));
    });
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(free) = owned.iter().find(|unmaps| Arc::strong_count(unmaps) == 1) {
        return Some(Arc::clone(free));
    }
    let place = BOXES.get(owned.len())?;
    let unmaps = Arc::new(Unmaps::new());
    owned.push(Arc::clone(&unmaps));
    place.store(Arc::as_ptr(&unmaps).cast_mut(), Ordering::Release);
    Some(unmaps)
}

/// How often this process is a child.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Differs between a process and its children.
pub(super) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// In the child of a fork.
extern "C" fn forget_parent() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    boxes().for_each(Unmaps::tell_all);
}

/// A way to lose pages, for [`try_out`].
#[derive(Debug, Clone, Copy)]
enum Way {
    Munmap,
    /// `madvise`: the pages stay mapped, with other contents.
    Discard,
    /// `mremap`: they are mapped elsewhere.
    Move,
    /// `mmap` with `MAP_FIXED`: others are mapped there.
    Replace,
}

impl Way {
    const ALL: [Self; 4] = [Self::Munmap, Self::Discard, Self::Move, Self::Replace];

    const fn call(self) -> &'static str {
        match self {
            Self::Munmap => "munmap",
            Self::Discard => "madvise",
            Self::Move => "mremap",
            Self::Replace => "mmap with MAP_FIXED",
        }
    }
}

/// Unmaps pages of its own and looks whether the source tells.
///
/// # Errors
/// Which system call it does not tell of.
pub(crate) fn try_out() -> Result<(), String> {
    // A letter box of its own: nobody else takes what is for this.
    static PROBE: Mutex<Option<Arc<Unmaps>>> = Mutex::new(None);
    let mut probe = PROBE.lock().unwrap_or_else(PoisonError::into_inner);
    if probe.is_none() {
        *probe = subscribe();
    }
    let unmaps = probe.as_ref().ok_or_else(|| format!("more than {BOXES_MAX} caches in this process"))?;
    for way in Way::ALL {
        // Without memory to test with nothing is known, and nothing new is to be feared.
        if is_told(unmaps, way).is_ok_and(|told| !told) {
            BROKEN.store(true, Ordering::Relaxed);
            return Err(format!("no word came of {}", way.call()));
        }
    }
    Ok(())
}

fn is_told(unmaps: &Unmaps, way: Way) -> std::io::Result<bool> {
    let pages = map(SENTINEL_BYTES)?;
    let range = Range { start: pages as usize, end: pages as usize + SENTINEL_BYTES };
    unmaps.watch(range);
    // What was put here for an earlier trial at the same address.
    unmaps.take(|_| {});
    let left = lose(pages, way);
    let mut told = false;
    unmaps.take(|unmapped| told |= unmapped.overlaps(range));
    unmaps.unwatch(range);
    if let Some((pages, len_bytes)) = left {
        // SAFETY: pages of this function, and nobody else knows of them.
        unsafe { libc::munmap(pages, len_bytes) };
    }
    Ok(told)
}

/// Loses the pages, and gives those that are there afterwards. Through libc, where sources look, and not by system calls of its own.
fn lose(pages: *mut c_void, way: Way) -> Option<(*mut c_void, usize)> {
    // SAFETY: the caller's pages, all of them, and nobody else knows of them.
    unsafe {
        match way {
            Way::Munmap => {
                libc::munmap(pages, SENTINEL_BYTES);
                None
            }
            Way::Discard => {
                libc::madvise(pages, SENTINEL_BYTES, libc::MADV_DONTNEED);
                Some((pages, SENTINEL_BYTES))
            }
            Way::Replace => {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                libc::mmap(pages, SENTINEL_BYTES, protection, flags, -1, 0);
                Some((pages, SENTINEL_BYTES))
            }
            Way::Move => {
                let moved = libc::mremap(pages, SENTINEL_BYTES, 2 * SENTINEL_BYTES, libc::MREMAP_MAYMOVE);
                let failed = moved == libc::MAP_FAILED;
                Some(if failed { (pages, SENTINEL_BYTES) } else { (moved, 2 * SENTINEL_BYTES) })
            }
        }
    }
}

fn map(len_bytes: usize) -> std::io::Result<*mut c_void> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new pages where the kernel likes.
    let pages = unsafe { libc::mmap(null_mut(), len_bytes, protection, flags, -1, 0) };
    if pages == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(pages) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_does_not_tell_is_not_believed() {
        assert!(source().expect_err("nobody has offered").contains("nothing in this process"));
        offer("a source that refuses", || Err("it is Sunday".to_owned()));
        assert_eq!(source(), Err("a source that refuses cannot be relied on: it is Sunday".to_owned()));
        assert!(!is_broken());
        offer("a silent source", || Ok(()));
        assert_eq!(source(), Err("a silent source cannot be relied on: no word came of munmap".to_owned()));
        assert!(is_broken(), "no other cache is safe");
    }
}
