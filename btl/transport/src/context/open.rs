//! How a context comes to be, reaches others, and ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironband_core::config::{Config, FabricName};
use ironband_core::partners;
use ironband_core::wire::message::Hello;
use ironband_core::wire::{addresses_of, encode_process_card};
use ironband_fabric::shm::Shm;
use ironband_fabric::sim::{Sim, World};
#[cfg(feature = "verbs")]
use ironband_fabric::verbs::Verbs;
use ironband_fabric::{Fabric, Job, Reach};
use ironband_pmi::Pmi;

use super::devices::AnyDevice;
use super::location::{self, Location};
use super::roll_call::RollCall;
use super::state::{Link, State, WINDOW_BYTES, limits_of};
use super::{Context, Error};
use crate::device::{Device, Threads};

/// By which processes publish their cards, and rank 0 the job's number.
const CARD_KEY: &str = "card";
const JOB_KEY: &str = "job";

/// How long a process that ends early stays for the others to hear it.
const LINGER_LIMIT: Duration = Duration::from_secs(1);
/// How long the end of requests that nobody waits for is waited for at the end.
const ORPHAN_LIMIT: Duration = Duration::from_secs(1);

/// Where the cards of others come from.
pub(super) enum Directory {
    /// The launcher.
    Launcher(Box<Pmi>),
    /// All processes are in this one.
    Table(Rc<Simulated>),
}

/// What a launcher would know of processes that are all in this one.
#[derive(Default)]
pub(super) struct Simulated {
    cards: RefCell<Vec<Vec<u8>>>,
    pub(super) locations: Vec<Location>,
}

impl Directory {
    fn card(&mut self, rank: u32) -> Result<Vec<u8>, Error> {
        match self {
            Self::Launcher(pmi) => pmi.get(rank, CARD_KEY)?.ok_or_else(|| Error::Unreachable {
                rank,
                reason: "it has published no card: it ended before, or is no Ironband program".to_owned(),
            }),
            Self::Table(table) => Ok(table.cards.borrow()[rank as usize].clone()),
        }
    }
}

/// Everything but the devices is decided.
struct Place {
    rank: u32,
    size: u32,
    job: u64,
}

impl Context {
    /// Takes this process's place in its job: finds its launcher, opens the devices that `IRONBAND_*` allow, and waits until all
    /// processes of the job are there.
    ///
    /// # Errors
    /// [`Error::WireUp`], [`Error::Config`], [`Error::NoDevice`], and [`Error::Missing`] when a process has not come in time
    /// (`IRONBAND_PMI_FENCE_SECONDS`, 300).
    pub fn open() -> Result<Self, Error> {
        let config = Config::from_environment(|name| std::env::var(name).ok())?;
        Self::open_with(&config)
    }

    /// As [`Context::open`], with parameters of the program's.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn open_with(config: &Config) -> Result<Self, Error> {
        let mut pmi = Pmi::init()?;
        let local_ranks = u32::try_from(pmi.neighbours()?.len()).unwrap_or(u32::MAX);
        let devices = open_devices(config, &Job { local_ranks, rank: pmi.rank() })?;
        pmi.put(CARD_KEY, &card_of(&devices))?;
        location::publish(&mut pmi)?;
        if pmi.rank() == 0 {
            pmi.put(JOB_KEY, &job_number().to_le_bytes())?;
        }
        pmi.fence()?;
        let job = match pmi.get(0, JOB_KEY)?.map(TryInto::try_into) {
            Some(Ok(bytes)) => u64::from_le_bytes(bytes),
            _ => {
                return Err(Error::Missing {
                    rank: 0,
                    seconds: pmi.fence_limit().as_secs(),
                    reason: "it has not published the number of the job".to_owned(),
                });
            }
        };
        let limit = pmi.fence_limit();
        let place = Place { rank: pmi.rank(), size: pmi.size(), job };
        let context = Self::of(devices, Directory::Launcher(Box::new(pmi)), &place);
        context.call_the_roll(Some(limit))?;
        Ok(context)
    }

    fn of(devices: Vec<AnyDevice>, directory: Directory, place: &Place) -> Self {
        let &Place { rank, size, job } = place;
        let hello = Hello { rank, window_bytes: WINDOW_BYTES, job };
        let context = Self {
            state: RefCell::new(State::new(hello, size, devices.len())),
            devices,
            handlers: RefCell::new(BTreeMap::new()),
            extensions: RefCell::new(BTreeMap::new()),
            roll_call: RefCell::new(RollCall::default()),
            is_simulated: matches!(directory, Directory::Table(_)),
            directory: RefCell::new(directory),
            is_handling: Cell::new(false),
            turn: Cell::new(0),
            nudged: Cell::new(Instant::now()),
            awaited_in_roll_call: Cell::new(None),
            rank,
            size,
            job,
        };
        context.attend_roll_calls();
        context
    }

    /// Waits for all other processes to call this, too, and leaves the job. What was sent before arrives. A process that drops its context
    /// without this leaves early, as one that returns an error from `main`: the others are told that it is lost.
    ///
    /// # Errors
    /// [`Error::Missing`] when a process has ended before, [`Error::WireUp`] when the launcher does not let go.
    pub fn close(self) -> Result<(), Error> {
        self.leave()
    }

    fn leave(&self) -> Result<(), Error> {
        let nobody = Directory::Table(Rc::default());
        // Left before, or simulated.
        if matches!(&*self.directory.borrow(), Directory::Table(_)) {
            return Ok(());
        }
        // However long the others compute: a process that lives is waited for. One that is missing was found missing before.
        let all_came = if self.roll_call.borrow().has_failed() { Ok(()) } else { self.call_the_roll(None) };
        if self.roll_call.borrow().has_failed() {
            // The others have to hear who is missing, or they would believe that it is this one.
            self.leave_early();
        } else if let Directory::Launcher(pmi) = self.directory.replace(nobody) {
            pmi.finalize()?;
        }
        all_came
    }

    /// Says farewell to all others, and leaves the launcher without a word, so that it notices. Does nothing after [`Context::close`].
    fn leave_early(&self) {
        let Directory::Launcher(pmi) = self.directory.replace(Directory::Table(Rc::default())) else {
            return;
        };
        let is_alone = pmi.size() == 1;
        if !is_alone {
            // A launcher may wait for the others in there.
            std::mem::forget(pmi);
            let why = "it has ended without closing its context".to_owned();
            self.tell_who_is_missing(LINGER_LIMIT);
            for rank in 0..self.size {
                let mut guard = self.state.borrow_mut();
                let state = &mut *guard;
                if let Some(link) =
                    state.link(rank).filter(|_| rank != self.rank && !state.protocol.is_lost(rank))
                {
                    self.part(state, link, why.clone());
                    state.lose(rank, "this process is ending".to_owned());
                }
            }
            self.let_others_hear();
        }
    }

    /// Stays until others have heard what was said last, for a moment.
    fn let_others_hear(&self) {
        let start = Instant::now();
        let has_farewells = || !self.state.borrow().farewells.is_empty();
        while start.elapsed() < LINGER_LIMIT
            && (has_farewells() || !self.devices.iter().all(AnyDevice::is_idle))
        {
            self.progress();
        }
    }

    /// Gives requests that nobody waits for a moment to end. The buffers of those that do not are never freed: a device may still
    /// use them.
    fn end_orphans(&self) {
        let start = Instant::now();
        loop {
            self.progress();
            let mut state = self.state.borrow_mut();
            if !state.has_orphans() {
                return;
            }
            if start.elapsed() > ORPHAN_LIMIT || std::thread::panicking() || self.is_simulated {
                state.forget_orphans();
                return;
            }
        }
    }

    /// Ends all processes of the job, says why on standard error, and ends this one with this exit status.
    pub fn abort(self, code: i32, message: &str) -> ! {
        let nobody = Directory::Table(Rc::default());
        match self.directory.replace(nobody) {
            Directory::Launcher(pmi) => pmi.abort(code, message),
            Directory::Table(_) => {
                eprintln!("ironband: rank {} aborts: {message}", self.rank);
                std::process::exit(code)
            }
        }
    }

    /// Makes the connection to a peer, or finds the one that it has made.
    #[cold]
    pub(super) fn connect(&self, rank: u32) -> Result<Link, Error> {
        let card = self.directory.borrow_mut().card(rank)?;
        let (device, address) =
            self.way_to(rank, &card).map_err(|reason| Error::Unreachable { rank, reason })?;
        let qp = self.devices[device]
            .connect(&address)
            .map_err(|error| Error::Unreachable { rank, reason: error.reason })?;
        let link = Link { device, qp };
        let mut state = self.state.borrow_mut();
        // It may have greeted meanwhile.
        if let Some(link) = state.link(rank) {
            return Ok(link);
        }
        state.bind(rank, link, limits_of(&self.devices[device]));
        self.say_news(&mut state);
        Ok(link)
    }

    /// The device that leads to a peer, and the peer's address there: the first fabric that has one, and of several ports the
    /// pair that both ends choose. Or why there is none, device by device.
    fn way_to(&self, rank: u32, card: &[u8]) -> Result<(usize, Vec<u8>), String> {
        let mut reasons = Vec::new();
        let mut at = 0;
        while at < self.devices.len() {
            let fabric = self.devices[at].fabric();
            let theirs = addresses_of(card, fabric)?;
            if theirs.is_empty() {
                reasons.push(format!("{fabric}: it has no such device"));
            }
            let pairs = self.pairs(at, &theirs, &mut reasons).into_iter();
            // The same from both ends: by the number of the lower rank's port.
            let first = pairs.min_by_key(|(own, peer)| if self.rank <= rank { *own } else { *peer });
            if let Some((own, peer)) = first {
                return Ok((own, theirs[peer].to_vec()));
            }
            at += self.devices[at..].iter().take_while(|device| device.fabric() == fabric).count();
        }
        Err(reasons.join("; "))
    }

    /// Which of a peer's devices of one fabric each of ours talks to. `first` is our first one.
    fn pairs(&self, first: usize, theirs: &[&[u8]], reasons: &mut Vec<String>) -> Vec<(usize, usize)> {
        let fabric = self.devices[first].fabric();
        let own = self.devices[first..].iter().take_while(|device| device.fabric() == fabric);
        let reach: Vec<Vec<Option<Reach>>> = own
            .map(|device| {
                let mut reach = |address: &&[u8]| {
                    let why_not = |why| reasons.push(format!("{fabric} {}: {why}", device.name()));
                    device.reach(address).map_err(why_not).ok()
                };
                theirs.iter().map(&mut reach).collect()
            })
            .collect();
        let pairs = partners::pairs(&reach).into_iter().enumerate();
        pairs.filter_map(|(own, peer)| Some((first + own, peer?))).collect()
    }

    /// Which of the peer's devices of its fabric a link leads to.
    pub(super) fn port_of_peer(&self, rank: u32, link: Link) -> Result<usize, Error> {
        if let Some(port) = self.state.borrow().ports.get(&rank) {
            return Ok(*port);
        }
        let fabric = self.devices[link.device].fabric();
        let Some(first) = self.devices.iter().position(|device| device.fabric() == fabric) else {
            return Ok(0);
        };
        let card = self.directory.borrow_mut().card(rank)?;
        let theirs = addresses_of(&card, fabric).map_err(|reason| Error::Unreachable { rank, reason })?;
        let pairs = self.pairs(first, &theirs, &mut Vec::new());
        let port = pairs.into_iter().find(|(own, _)| *own == link.device).map_or(0, |(_, peer)| peer);
        self.state.borrow_mut().ports.insert(rank, port);
        Ok(port)
    }
}

impl Drop for Context {
    /// Without [`Context::close`] this process leaves early, as when a program returns an error from `main`: the others are told, and do
    /// not wait for it.
    fn drop(&mut self) {
        if !self.is_simulated {
            self.leave_early();
        }
        self.end_orphans();
    }
}

fn job_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's keys are random.
    RandomState::new().hash_one(std::process::id())
}

fn card_of(devices: &[AnyDevice]) -> Vec<u8> {
    encode_process_card(devices.iter().map(|device| (device.fabric(), device.address())))
}

/// Opens what can be used of the fabrics that the user allows.
fn open_devices(config: &Config, job: &Job) -> Result<Vec<AnyDevice>, Error> {
    let mut devices = Vec::new();
    let mut reasons = Vec::new();
    for fabric in &config.fabrics {
        match fabric {
            FabricName::Shm => open_all::<Shm>(config, job, AnyDevice::Shm, &mut devices, &mut reasons),
            #[cfg(feature = "verbs")]
            FabricName::Verbs => open_all::<Verbs>(config, job, AnyDevice::Verbs, &mut devices, &mut reasons),
            #[cfg(not(feature = "verbs"))]
            FabricName::Verbs => reasons.push("verbs: this program was built without".to_owned()),
        }
    }
    if devices.is_empty() {
        return Err(Error::NoDevice { reasons: reasons.join("; ") });
    }
    for reason in reasons {
        tracing::debug!(reason, "not used");
    }
    Ok(devices)
}

fn open_all<F: Fabric>(
    config: &Config,
    job: &Job,
    wrap: fn(Device<F>) -> AnyDevice,
    devices: &mut Vec<AnyDevice>,
    reasons: &mut Vec<String>,
) {
    for report in F::probe(config) {
        let opened = report.usable.and_then(|_| {
            AnyDevice::open(&report.device, config, job, wrap).map_err(|error| error.to_string())
        });
        match opened {
            Ok(device) => devices.push(device),
            Err(reason) => reasons.push(format!("{} {}: {reason}", F::NAME, report.device)),
        }
    }
}

/// `size` processes in this one, over a simulated network: for tests and studies. All of them have to make progress in turn, and
/// nothing of one may wait for another.
///
/// # Errors
/// None that a simulation has.
pub fn simulated(world: &World, size: u32, config: &Config) -> Result<Vec<Context>, Error> {
    let locations: Vec<Location> = (0..size).map(|node| Location { node, cache: None }).collect();
    simulated_at(world, &locations, config)
}

/// As [`simulated`], with a process at each of these places; there, each is alone on its node. Nothing goes faster or another way for that:
/// it is what [`Context::locations`] says.
///
/// # Errors
/// As [`simulated`].
pub fn simulated_at(world: &World, locations: &[Location], config: &Config) -> Result<Vec<Context>, Error> {
    let size = locations.len() as u32;
    let table = Rc::new(Simulated { locations: locations.to_vec(), ..Simulated::default() });
    let mut contexts = Vec::new();
    for rank in 0..size {
        // As if alone: nobody has to be offered the processor.
        let job = Job { local_ranks: 1, rank };
        let device = Device::<Sim>::of(world.open(config, &job), config, &job, Threads::Single)?;
        let devices = vec![AnyDevice::Sim(device)];
        table.cards.borrow_mut().push(card_of(&devices));
        let directory = Directory::Table(Rc::clone(&table));
        contexts.push(Context::of(devices, directory, &Place { rank, size, job: 1 }));
    }
    Ok(contexts)
}
