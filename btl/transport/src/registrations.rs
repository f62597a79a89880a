//! The registrations of one device: cached where that is safe and of use.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use ironband_core::config::{Config, RegistrationCaching};
use ironband_fabric::{Access, Capabilities, Device as _, Fabric, Job, RegisterError};

use crate::device::State;
use crate::lock::MaybeLock;
use crate::rcache::{
    CacheLimits, Calibration, Held, Machine, PAGE_BYTES, Registrar, RegistrationCache, Statistics, Touched,
    source, unmap_events,
};

/// Calls of progress between two looks at registrations that are to end.
const TEND_INTERVAL: u32 = 64;
/// Calls of progress between two trials of the source of news about unmapped memory: some milliseconds of waiting.
const TRIAL_INTERVAL: u32 = 1 << 16;

/// The first trials come soon: other components of Open MPI are opened after this one, and they patch libc, too.
const EARLY_TRIALS: [u32; 4] = [16, 256, 4096, 16_384];

/// What is registered and copied to find out what that costs: a page, and so many.
const CALIBRATION_PAGES: usize = 64;
const CALIBRATION_TURNS: usize = 5;

type RegionOf<F> = <<F as Fabric>::Device as ironband_fabric::Device>::MemoryRegion;

/// A region, and the key that peers need.
pub(crate) struct Region<F: Fabric> {
    pub(crate) region: RegionOf<F>,
    key: u64,
    may_be_written: bool,
}

/// Registered memory. Give it back with [`Device::deregister`](crate::Device::deregister).
#[must_use = "dropping it leaks the registration, or keeps it in the cache's books"]
pub struct Registration<F: Fabric>(Kept<F>);

enum Kept<F: Fabric> {
    Cached(Held<Region<F>>),
    Own(Region<F>),
}

impl<F: Fabric> Registration<F> {
    /// What a peer needs, with an address inside, to reach the memory.
    pub fn key(&self) -> u64 {
        self.inner().key
    }

    #[inline]
    pub(crate) fn region(&self) -> &RegionOf<F> {
        &self.inner().region
    }

    #[inline]
    fn inner(&self) -> &Region<F> {
        match &self.0 {
            Kept::Cached(held) => held.region(),
            Kept::Own(region) => region,
        }
    }
}

/// Registers with the device behind the lock.
struct Adapter<'a, F: Fabric>(&'a MaybeLock<State<F>>);

impl<F: Fabric> Registrar for Adapter<'_, F> {
    type Region = Region<F>;
    type Error = RegisterError;

    unsafe fn register(
        &self,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Region<F>, RegisterError> {
        let mut guard = self.0.lock();
        let State { device, pd, .. } = &mut *guard;
        // SAFETY: as promised by the caller.
        let region = unsafe { device.register(*pd, start, len_bytes, access) }?;
        let (key, may_be_written) = (device.remote_key(&region), device.may_be_written(&region));
        Ok(Region { region, key, may_be_written })
    }

    fn deregister(&self, region: Region<F>) {
        self.0.lock().device.deregister(region.region);
    }

    fn may_be_kept(region: &Region<F>) -> bool {
        region.may_be_written
    }

    fn is_out_of_room(error: &RegisterError) -> bool {
        matches!(error, RegisterError::TooMany { .. } | RegisterError::NoRoom { .. })
    }

    fn too_many(in_use: usize) -> RegisterError {
        RegisterError::TooMany { in_use, limit: in_use }
    }
}

/// What is copied though it could be registered.
struct Policy {
    calibration: Calibration,
    touched: Touched,
}

/// The registrations of one device.
pub(crate) struct Registrations<F: Fabric> {
    cache: Option<RegistrationCache<Region<F>>>,
    /// With a cache only.
    policy: OnceLock<Policy>,
    /// Why nothing is cached, or who makes it safe.
    why: Mutex<String>,
    /// Calls of progress so far.
    turn: AtomicU32,
    /// What the user should know.
    warnings: Mutex<Vec<String>>,
    has_warning: AtomicBool,
    /// A registration has failed, and the user was told.
    told_of_failure: AtomicBool,
}

impl<F: Fabric> Registrations<F> {
    pub(crate) fn new(config: &Config, job: &Job, capabilities: &Capabilities) -> Self {
        let limits = limits(config, job, capabilities);
        let (cache, why, warning) = match caching(config, capabilities) {
            Ok(source) => match RegistrationCache::open(limits) {
                Some(cache) => {
                    (Some(cache), format!("cached, {limits}, news of unmapped memory by {source}"), None)
                }
                None => (None, "not cached: too many devices are open".to_owned(), None),
            },
            Err(No { why, is_news }) => {
                let warning = is_news.then(|| format!("registrations are not cached: {why}"));
                (None, format!("not cached: {why}"), warning)
            }
        };
        Self {
            cache,
            policy: OnceLock::new(),
            why: Mutex::new(why),
            turn: AtomicU32::new(0),
            has_warning: AtomicBool::new(warning.is_some()),
            warnings: Mutex::new(warning.into_iter().collect()),
            told_of_failure: AtomicBool::new(false),
        }
    }

    /// # Safety
    /// As for [`Device::register`](crate::Device::register).
    #[inline]
    pub(crate) unsafe fn register(
        &self,
        state: &MaybeLock<State<F>>,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Registration<F>, RegisterError> {
        let adapter = Adapter(state);
        // A window is registered once, and its key must die with it.
        let kept = match &self.cache {
            Some(cache) if !access.remote_atomic => {
                // SAFETY: as promised by the caller.
                unsafe { cache.acquire(&adapter, start, len_bytes, access) }.map(Kept::Cached)
            }
            _ => {
                // SAFETY: as promised by the caller.
                unsafe { self.register_apart(&adapter, start, len_bytes, access) }.map(Kept::Own)
            }
        };
        kept.map(Registration).inspect_err(|error| self.tell_of_failure(error))
    }

    /// # Safety
    /// As for [`Device::register`](crate::Device::register).
    unsafe fn register_apart(
        &self,
        adapter: &Adapter<'_, F>,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Region<F>, RegisterError> {
        // SAFETY: as promised by the caller.
        match (unsafe { adapter.register(start, len_bytes, access) }, &self.cache) {
            (Err(error), Some(cache))
                if Adapter::<F>::is_out_of_room(&error) && cache.make_way(adapter, len_bytes) =>
            {
                // SAFETY: as promised by the caller.
                unsafe { adapter.register(start, len_bytes, access) }
            }
            (outcome, _) => outcome,
        }
    }

    /// As [`Registrations::register`], or `None` for memory that is better copied.
    ///
    /// # Safety
    /// As for [`Device::register`](crate::Device::register).
    pub(crate) unsafe fn register_to_send(
        &self,
        state: &MaybeLock<State<F>>,
        start: *mut u8,
        len_bytes: usize,
        access: Access,
    ) -> Result<Option<Registration<F>>, RegisterError> {
        if let (Some(cache), Some(policy)) = (&self.cache, self.policy.get())
            && len_bytes < policy.calibration.crossover_bytes()
            && cache.is_enabled()
        {
            if let Some(held) = cache.find(start, len_bytes, access) {
                return Ok(Some(Registration(Kept::Cached(held))));
            }
            if !policy.touched.again(start as usize) {
                return Ok(None);
            }
        }
        // SAFETY: as promised by the caller.
        unsafe { self.register(state, start, len_bytes, access) }.map(Some)
    }

    /// Measures what registering and copying cost on the open device. Without a cache nothing depends on it.
    pub(crate) fn calibrate(&self, state: &MaybeLock<State<F>>) {
        if self.cache.is_none() {
            return;
        }
        let mut from = vec![1_u8; CALIBRATION_PAGES * PAGE_BYTES];
        let mut to = vec![0_u8; from.len()];
        let copy_ns = least_ns(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        let mut register = |pages: usize| {
            let mut works = true;
            let spent = least_ns(|| {
                let adapter = Adapter(state);
                // SAFETY: the buffer lives until the end of this function.
                match unsafe { adapter.register(from.as_mut_ptr(), pages * PAGE_BYTES, Access::LOCAL) } {
                    Ok(region) => adapter.deregister(region),
                    Err(_) => works = false,
                }
            });
            works.then_some(spent)
        };
        // Where not even this can be registered the first message will say so.
        let (Some(one_ns), Some(many_ns)) = (register(1), register(CALIBRATION_PAGES)) else { return };
        let calibration = Calibration::of(one_ns, (CALIBRATION_PAGES, many_ns), (to.len(), copy_ns));
        let _ = self.policy.set(Policy { calibration, touched: Touched::new() });
    }

    #[inline]
    pub(crate) fn deregister(&self, state: &MaybeLock<State<F>>, registration: Registration<F>) {
        match (registration.0, &self.cache) {
            (Kept::Cached(held), Some(cache)) => cache.release(&Adapter(state), held),
            (Kept::Cached(held), None) => drop(held),
            (Kept::Own(region), _) => Adapter(state).deregister(region),
        }
    }

    /// For each call of progress.
    #[inline]
    pub(crate) fn tend(&self, state: &MaybeLock<State<F>>) {
        if let Some(cache) = &self.cache {
            // Threads may count over each other; it only has to happen at some time.
            let turn = self.turn.load(Ordering::Relaxed).wrapping_add(1);
            self.turn.store(turn, Ordering::Relaxed);
            if turn.is_multiple_of(TEND_INTERVAL) {
                cache.tend(&Adapter(state));
            }
            if turn.is_multiple_of(TRIAL_INTERVAL) || EARLY_TRIALS.contains(&turn) {
                self.try_source(cache);
            }
        }
    }

    #[cold]
    fn try_source(&self, cache: &RegistrationCache<Region<F>>) {
        // Another device of this process may have found out.
        let broken = if source::is_broken() {
            Err("no word came of memory that was unmapped".to_owned())
        } else {
            source::try_out()
        };
        let Err(reason) = broken else { return };
        if cache.is_enabled() {
            cache.disable();
            let why =
                format!("not cached any more: {reason}; a library that was loaded since may have taken over");
            self.warn(format!("registrations are {why}"));
            *lock(&self.why) = why;
        }
    }

    #[inline]
    pub(crate) fn take_warning(&self) -> Option<String> {
        if !self.has_warning.load(Ordering::Relaxed) {
            return None;
        }
        let mut warnings = lock(&self.warnings);
        let first = if warnings.is_empty() { None } else { Some(warnings.remove(0)) };
        self.has_warning.store(!warnings.is_empty(), Ordering::Relaxed);
        first
    }

    fn warn(&self, warning: String) {
        lock(&self.warnings).push(warning);
        self.has_warning.store(true, Ordering::Relaxed);
    }

    #[cold]
    fn tell_of_failure(&self, error: &RegisterError) {
        if !self.told_of_failure.swap(true, Ordering::Relaxed) {
            self.warn(format!("{error}. Memory that cannot be registered is sent by copying, which is slower. This is said once"));
        }
    }

    /// One clause for the report line; `None` for a device that needs no registrations.
    pub(crate) fn report(&self, capabilities: &Capabilities) -> Option<String> {
        let why = lock(&self.why);
        let costs = self.policy.get().map_or_else(String::new, |policy| format!(", {}", policy.calibration));
        capabilities.registers_local_memory.then(|| format!("registrations {why}{costs}"))
    }

    pub(crate) fn statistics(&self) -> Option<Statistics> {
        self.cache.as_ref().map(RegistrationCache::statistics)
    }

    /// Ends what is not in use. Before the device goes.
    pub(crate) fn close(&self, state: &MaybeLock<State<F>>) {
        if let Some(cache) = &self.cache {
            cache.close(&Adapter(state));
        }
    }
}

/// Why nothing is cached.
struct No {
    why: String,
    /// A user who did not choose it should be told.
    is_news: bool,
}

/// The name of the source, if registrations may be cached.
fn caching(config: &Config, capabilities: &Capabilities) -> Result<&'static str, No> {
    let no = |why: &str, is_news: bool| No { why: why.to_owned(), is_news };
    if !capabilities.registers_local_memory {
        return Err(no("this device copies without", false));
    }
    if config.registration_cache == RegistrationCaching::Off {
        return Err(no("registration_cache = off", false));
    }
    let is_news = config.registration_cache == RegistrationCaching::On;
    if !capabilities.survives_fork {
        return Err(no(
            "this kernel does not copy registered pages when a process forks (Linux before 5.12)",
            is_news,
        ));
    }
    unmap_events::source().map_err(|why| No { why, is_news })
}

fn limits(config: &Config, job: &Job, capabilities: &Capabilities) -> CacheLimits {
    // SAFETY: asks for two numbers.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let known = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut limits = CacheLimits::of(&Machine {
        memlock_bytes: capabilities.limits.registered_bytes_max,
        memory_bytes: known(pages) * known(page_bytes),
        buffers_bytes: config.memory_bytes as u64,
        local_ranks: job.local_ranks.into(),
        device_regions_max: capabilities.limits.regions_max as u64,
    });
    if let Some(bytes_max) = config.registration_bytes {
        limits.bytes_max = bytes_max;
    }
    limits
}

/// The least of a few times: the first touches memory, and others may be interrupted.
fn least_ns(mut work: impl FnMut()) -> f64 {
    let times = (0..CALIBRATION_TURNS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
