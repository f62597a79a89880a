//! How a context comes to be, reaches others, and ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironband_core::config::{Config, FabricName};
use ironband_core::partners;
use ironband_core::wire::message::Hello;
use ironband_core::wire::{addresses_of, encode_process_card, encode_refusal_card, refusal_of};
use ironband_fabric::shm::Shm;
use ironband_fabric::sim::{Sim, World};
#[cfg(feature = "verbs")]
use ironband_fabric::verbs::Verbs;
use ironband_fabric::{Fabric, Job, Reach};
use ironband_pmi::Pmi;

use super::bootstrap::{Bootstrap, Directory, Simulated, SimulatedJob};
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
        Self::open_over(Pmi::init()?, config)
    }

    /// As [`Context::open_with`], of processes that find each other in another way than by their launcher. All of them call it. A process may open several
    /// contexts, of the same processes or of others; each makes progress in its own calls only.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where no device can be opened, and [`Error::NotOpened`] at all others then; [`Error::Missing`] when a process ends
    /// meanwhile; those of the bootstrap.
    pub fn open_over(bootstrap: impl Bootstrap, config: &Config) -> Result<Self, Error> {
        Self::take_place(bootstrap, Ok(config.clone()))
    }

    /// A process that fails between two steps that all take together, here or before it knew its parameters, still takes the second one, and publishes
    /// why it has failed: the others would wait for it.
    pub(super) fn take_place(
        mut bootstrap: impl Bootstrap,
        config: Result<Config, Error>,
    ) -> Result<Self, Error> {
        let (rank, size) = (bootstrap.rank(), bootstrap.size());
        let local_ranks = bootstrap.local_ranks()?;
        let opened = config.and_then(|config| open_devices(&config, &Job { local_ranks, rank }));
        let card = match &opened {
            Ok(devices) => card_of(devices),
            Err(error) => encode_refusal_card(&error.to_string()),
        };
        bootstrap.put(CARD_KEY, &card)?;
        location::publish(&mut bootstrap)?;
        if rank == 0 {
            bootstrap.put(JOB_KEY, &job_number().to_le_bytes())?;
        }
        let mut directory = bootstrap.fence()?;
        let devices = opened?;
        let limit = directory.limit();
        let Some(Ok(job)) = directory.get(0, JOB_KEY)?.map(TryInto::try_into) else {
            return Err(Error::Missing {
                rank: 0,
                seconds: limit.as_secs(),
                reason: "it has not published the number of the job".to_owned(),
            });
        };
        let place = Place { rank, size, job: u64::from_le_bytes(job) };
        let context = Self::of(devices, directory, &place, false);
        context.call_the_roll(Some(limit)).map_err(|error| context.if_it_says_why(error))?;
        Ok(context)
    }

    /// Who is missing may have published the reason itself.
    fn if_it_says_why(&self, error: Error) -> Error {
        match error {
            Error::Missing { rank, .. } => match self.card(rank) {
                Err(why @ Error::NotOpened { .. }) => why,
                _ => error,
            },
            _ => error,
        }
    }

    fn of(devices: Vec<AnyDevice>, directory: Box<dyn Directory>, place: &Place, is_simulated: bool) -> Self {
        let &Place { rank, size, job } = place;
        let hello = Hello { rank, window_bytes: WINDOW_BYTES, job };
        let context = Self {
            state: RefCell::new(State::new(hello, size, devices.len())),
            devices,
            handlers: RefCell::new(BTreeMap::new()),
            extensions: RefCell::new(BTreeMap::new()),
            roll_call: RefCell::new(RollCall::default()),
            is_simulated,
            directory: RefCell::new(Some(directory)),
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

    /// What a process has published.
    fn card(&self, rank: u32) -> Result<Vec<u8>, Error> {
        let unreachable = |reason: &str| Error::Unreachable { rank, reason: reason.to_owned() };
        let mut directory = self.directory.borrow_mut();
        let directory = directory.as_mut().ok_or_else(|| unreachable("this process has left the job"))?;
        let card = directory.get(rank, CARD_KEY)?.ok_or_else(|| {
            unreachable("it has published no card: it ended before, or is no Ironband program")
        })?;
        match refusal_of(&card) {
            Some(reason) => Err(Error::NotOpened { rank, reason }),
            None => Ok(card),
        }
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
        if self.is_simulated || self.directory.borrow().is_none() {
            return Ok(());
        }
        // However long the others compute: a process that lives is waited for. One that is missing was found missing before.
        let all_came = if self.roll_call.borrow().has_failed() { Ok(()) } else { self.call_the_roll(None) };
        if self.roll_call.borrow().has_failed() {
            // The others have to hear who is missing, or they would believe that it is this one.
            self.leave_early();
        } else if let Some(directory) = self.directory.take() {
            directory.leave()?;
        }
        all_came
    }

    /// Says farewell to all others, and leaves the launcher without a word, so that it notices. Does nothing after [`Context::close`].
    fn leave_early(&self) {
        let Some(directory) = self.directory.take() else { return };
        // A launcher may wait for the others when it is told.
        directory.leave_early();
        if self.size == 1 {
            return;
        }
        let why = "it has ended without closing its context".to_owned();
        self.state.borrow_mut().is_ending = true;
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
        match self.directory.take() {
            Some(directory) => directory.abort(code, message),
            None => unreachable!("it is taken when a context is closed or dropped only"),
        }
    }

    /// Makes the connection to a peer, or finds the one that it has made.
    #[cold]
    pub(super) fn connect(&self, rank: u32) -> Result<Link, Error> {
        let card = self.card(rank)?;
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
        let card = self.card(rank)?;
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
    let table = Rc::new(SimulatedJob { locations: locations.to_vec(), cards: RefCell::default() });
    let mut contexts = Vec::new();
    for rank in 0..size {
        // As if alone: nobody has to be offered the processor.
        let job = Job { local_ranks: 1, rank };
        let device = Device::<Sim>::of(world.open(config, &job), config, &job, Threads::Single)?;
        let devices = vec![AnyDevice::Sim(device)];
        table.cards.borrow_mut().push(card_of(&devices));
        let directory = Box::new(Simulated { rank, table: Rc::clone(&table) });
        contexts.push(Context::of(devices, directory, &Place { rank, size, job: 1 }, true));
    }
    Ok(contexts)
}
