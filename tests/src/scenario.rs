//! Several processes of the Rust API in one, over the simulated fabric: what they do and what goes wrong follows from a seed.
//!
//! Checked in each run: a message is received once, whole, in the order of its kind; every request ends; what ends in error has a
//! lost peer, or a fault, for a reason; no adapter touches memory that is not registered any more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ironband::{Config, Context, Error, Pattern, ReceiveRequest, SendRequest, simulated};
use ironband_fabric::sim::{Faults, Options, World};

use crate::random::Random;

/// What a run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Of everything.
    pub seed: u64,
    /// How many.
    pub processes: u32,
    /// Things that programs do.
    pub deeds: u32,
    /// What the adapters are like.
    pub adapter: Adapter,
    /// What goes wrong.
    pub weather: Weather,
    /// A process is killed half-way.
    pub kills: bool,
    /// Long messages are written by their senders, not read by their receivers.
    pub writes: bool,
}

/// What the adapters are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// One that can do everything.
    Capable,
    /// As InfiniBand and RoCE.
    InfiniBand,
    /// As iWARP.
    Iwarp,
    /// Memory of others is reached while they poll only.
    TwoSided,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Calm,
    /// Everything is late.
    Late,
    /// And posts are `Busy`, and memory cannot be registered.
    Tight,
    /// And connections break, and accesses are refused.
    Wild,
}

impl Scenario {
    /// One that follows from a number.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            seed,
            processes: 1 + random.below(5) as u32,
            deeds: 20 + random.below(120) as u32,
            adapter: [Adapter::Capable, Adapter::InfiniBand, Adapter::Iwarp, Adapter::TwoSided]
                [random.below(4)],
            weather: [Weather::Calm, Weather::Late, Weather::Tight, Weather::Wild][random.below(4)],
            kills: random.below(4) == 0,
            writes: random.below(3) == 0,
        }
    }

    fn options(&self) -> Options {
        let options = match self.adapter {
            Adapter::Capable => Options::new(self.seed),
            Adapter::InfiniBand => Options::infiniband(self.seed),
            Adapter::Iwarp => Options::iwarp(self.seed),
            Adapter::TwoSided => Options::two_sided(self.seed),
        };
        // Some move little at once: what is longer goes in parts.
        let rdma_bytes_max = if self.seed.is_multiple_of(3) { 5000 } else { options.rdma_bytes_max };
        Options { prefers_writing: self.writes, rdma_bytes_max, ..options }.with_faults(match self.weather {
            Weather::Calm => Faults::NONE,
            Weather::Late => Faults::late(),
            Weather::Tight => Faults { busy: 200_000, register: 300_000, ..Faults::late() },
            Weather::Wild => Faults::wild(),
        })
    }

    /// Whether peers may be lost.
    const fn loses(&self) -> bool {
        self.kills || matches!(self.weather, Weather::Wild)
    }

    /// Everything that happened in a run, as far as it is remembered.
    pub fn traced(&self) -> Vec<String> {
        const TRACED: usize = 100_000;
        let world = World::new(self.options().with_trace(TRACED));
        let contexts = simulated(&world, self.processes, &Config::default()).expect("a simulation opens");
        Play::new(*self, &world, &contexts).run();
        world.trace()
    }

    /// Runs it.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(&self, trace: usize) -> Result<(), String> {
        let world = World::new(self.options().with_trace(trace));
        let config = Config::default();
        let contexts = simulated(&world, self.processes, &config).expect("a simulation opens");
        let outcome = catch_unwind(AssertUnwindSafe(|| Play::new(*self, &world, &contexts).run()));
        let mut said = match outcome {
            Ok(()) => String::new(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default()
            }
        };
        for violation in world.violations() {
            let _ =
                write!(said, "; device {} at {} ns: {}", violation.device, violation.time_ns, violation.what);
        }
        for line in world.trace() {
            if !said.is_empty() {
                let _ = write!(said, "\n    {line}");
            }
        }
        if said.is_empty() { Ok(()) } else { Err(said) }
    }

    /// A smaller scenario that fails, too.
    pub fn minimised(self) -> Self {
        let mut smallest = self;
        loop {
            let mut candidates = Vec::new();
            for deeds in [smallest.deeds / 2, smallest.deeds * 3 / 4, smallest.deeds - smallest.deeds.min(1)]
            {
                candidates.push(Self { deeds, ..smallest });
            }
            for processes in 1..smallest.processes {
                candidates.push(Self { processes, ..smallest });
            }
            candidates.push(Self { kills: false, ..smallest });
            candidates.push(Self { writes: false, ..smallest });
            for weather in [Weather::Calm, Weather::Late, Weather::Tight] {
                candidates.push(Self { weather, ..smallest });
            }
            candidates.push(Self { adapter: Adapter::Capable, ..smallest });
            let simpler =
                |candidate: &Self| candidate.weight() < smallest.weight() && candidate.run(0).is_err();
            match candidates.into_iter().find(simpler) {
                Some(candidate) => smallest = candidate,
                None => return smallest,
            }
        }
    }

    const fn weight(&self) -> u32 {
        let weather = match self.weather {
            Weather::Calm => 0,
            Weather::Late => 1,
            Weather::Tight => 2,
            Weather::Wild => 3,
        };
        let adapter = !matches!(self.adapter, Adapter::Capable) as u32;
        self.deeds * 100
            + self.processes * 10
            + weather * 2
            + self.kills as u32
            + self.writes as u32
            + adapter
    }
}

/// The low bits of a tag say what receives ask for; the others are the number of the message.
const CLASS_BITS: u32 = 8;
const CLASSES: usize = 3;
const CLASS_MASK: u64 = (1 << CLASS_BITS) - 1;
const BUFFER_BYTES: usize = 40_000;

struct Message {
    from: u32,
    to: u32,
    class: u64,
    len_bytes: usize,
    /// The order in which the receive that got it was posted.
    got: Option<u64>,
    /// Its sender could not send it.
    failed: bool,
}

fn data(number: u64, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at as u64).wrapping_mul(31).wrapping_add(number * 7) as u8).collect()
}

struct Play<'c> {
    scenario: Scenario,
    random: Random,
    world: &'c World,
    contexts: &'c [Context],
    messages: Vec<Message>,
    sends: Vec<(u32, u64, SendRequest<'c, Vec<u8>>)>,
    receives: Vec<(u32, Pattern, u64, ReceiveRequest<'c, Vec<u8>>)>,
    posted: u64,
    dead: Option<u32>,
    /// Receives that ended because of a lost peer, or because data could not be moved: each may have taken a message with it.
    spoilt: BTreeMap<u32, usize>,
}

impl<'c> Play<'c> {
    fn new(scenario: Scenario, world: &'c World, contexts: &'c [Context]) -> Self {
        Self {
            scenario,
            random: Random::new(scenario.seed ^ 0xabcd),
            world,
            contexts,
            messages: Vec::new(),
            sends: Vec::new(),
            receives: Vec::new(),
            posted: 0,
            dead: None,
            spoilt: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        let kill_at = if self.scenario.kills { self.scenario.deeds / 2 } else { u32::MAX };
        for deed in 0..self.scenario.deeds {
            if deed == kill_at {
                let victim = self.some_rank();
                self.world.kill(victim);
                self.dead = Some(victim);
            }
            let rank = self.some_rank();
            if Some(rank) == self.dead {
                continue;
            }
            match self.random.below(8) {
                0..=2 => self.send(rank),
                3..=4 => {
                    let pattern = self.some_pattern();
                    self.receive(rank, pattern);
                }
                5 => self.drop_something(),
                _ => {}
            }
            for _ in 0..self.random.below(12) {
                self.progress();
            }
            self.harvest();
        }
        self.finish();
    }

    fn some_rank(&mut self) -> u32 {
        self.random.below(self.contexts.len()) as u32
    }

    fn some_pattern(&mut self) -> Pattern {
        let (source, tag) = (self.some_rank(), self.random.below(CLASSES) as u64);
        match self.random.below(5) {
            0 => Pattern::anything(),
            1 => Pattern { source: None, tag, mask: CLASS_MASK },
            2 => Pattern::any_tag(source),
            _ => Pattern { source: Some(source), tag, mask: CLASS_MASK },
        }
    }

    fn progress(&mut self) {
        let rank = self.some_rank();
        if Some(rank) != self.dead {
            self.contexts[rank as usize].progress();
        }
    }

    fn send(&mut self, from: u32) {
        let (to, class) = (self.some_rank(), self.random.below(CLASSES) as u64);
        let len_bytes = match self.random.below(5) {
            0 => 0,
            1 => self.random.below(64),
            2 => self.random.below(9_000),
            3 => 4_000 + self.random.below(1_000),
            _ => self.random.below(BUFFER_BYTES),
        };
        let number = self.messages.len() as u64;
        self.messages.push(Message { from, to, class, len_bytes, got: None, failed: false });
        let endpoint = self.contexts[from as usize].endpoint(to).expect("a rank of the job");
        match endpoint.start_send(class | number << CLASS_BITS, data(number, len_bytes)) {
            Ok(request) => self.sends.push((from, number, request)),
            Err(error) => self.failed(number, &error),
        }
    }

    fn failed(&mut self, number: u64, error: &Error) {
        assert!(self.scenario.loses(), "message {number} could not be sent: {error}");
        self.messages[number as usize].failed = true;
    }

    fn receive(&mut self, at: u32, pattern: Pattern) {
        self.posted += 1;
        let request = self.contexts[at as usize].start_receive(pattern, vec![0; BUFFER_BYTES]);
        self.receives.push((at, pattern, self.posted, request.expect("a rank of the job")));
    }

    /// Requests may be dropped: a send goes on, a receive is taken back, or gets its message in vain.
    fn drop_something(&mut self) {
        if self.random.chance(50) && !self.sends.is_empty() {
            let which = self.random.below(self.sends.len());
            drop(self.sends.swap_remove(which));
        } else if !self.receives.is_empty() {
            let which = self.random.below(self.receives.len());
            let (at, pattern, posted, request) = self.receives.swap_remove(which);
            if let Err(request) = request.cancel() {
                self.receives.push((at, pattern, posted, request));
            }
        }
    }

    /// Takes what has ended.
    fn harvest(&mut self) {
        for (from, number, request) in std::mem::take(&mut self.sends) {
            if Some(from) == self.dead {
                // What it has under way no one will end.
                std::mem::forget(request);
            } else if !request.is_done() {
                self.sends.push((from, number, request));
            } else if let Err(error) = request.wait() {
                self.failed(number, &error);
            }
        }
        for (at, pattern, posted, request) in std::mem::take(&mut self.receives) {
            if Some(at) == self.dead {
                std::mem::forget(request);
            } else if !request.is_done() {
                self.receives.push((at, pattern, posted, request));
            } else {
                self.received(at, pattern, posted, request);
            }
        }
    }

    fn received(&mut self, at: u32, pattern: Pattern, posted: u64, request: ReceiveRequest<'c, Vec<u8>>) {
        match request.wait() {
            Ok((bytes, received)) => {
                let number = received.tag >> CLASS_BITS;
                let message = &mut self.messages[number as usize];
                assert_eq!((message.from, message.to), (received.source, at), "message {number}");
                assert_eq!(message.len_bytes as u64, received.len_bytes, "message {number}");
                assert!(pattern.source.is_none_or(|source| source == received.source), "message {number}");
                assert_eq!((received.tag ^ pattern.tag) & pattern.mask, 0, "message {number}");
                assert!(
                    bytes[..message.len_bytes] == data(number, message.len_bytes),
                    "message {number} is garbled"
                );
                assert_eq!(message.got.replace(posted), None, "message {number} was received twice");
            }
            Err(error) => {
                assert!(self.scenario.loses(), "a receive failed: {error}");
                *self.spoilt.entry(at).or_default() += 1;
            }
        }
    }

    /// Whatever was sent is received, whatever waits in vain is taken back, and nothing is left.
    fn finish(mut self) {
        self.settle();
        for (at, pattern, posted, request) in std::mem::take(&mut self.receives) {
            if let Err(request) = request.cancel() {
                self.receives.push((at, pattern, posted, request));
            }
        }
        let dead = self.dead;
        for rank in (0..self.contexts.len() as u32).filter(|rank| Some(*rank) != dead) {
            while self.contexts[rank as usize].probe(Pattern::anything()).is_some() {
                self.receive(rank, Pattern::anything());
            }
        }
        self.settle();
        let waiting: Vec<(u64, u32, u32, usize)> = (self.sends.iter())
            .map(|(_, number, _)| (*number, &self.messages[*number as usize]))
            .map(|(number, message)| (number, message.from, message.to, message.len_bytes))
            .collect();
        assert!(
            waiting.is_empty(),
            "sends wait for ever (number, from, to, bytes): {waiting:?}, dead: {:?}",
            self.dead
        );
        assert!(self.receives.is_empty(), "{} receives wait for ever", self.receives.len());
        if !self.scenario.loses() {
            for (number, message) in self.messages.iter().enumerate() {
                assert!(
                    message.got.is_some(),
                    "message {number} from {} to {} is lost",
                    message.from,
                    message.to
                );
            }
        }
        self.check_order();
    }

    /// Until nothing happens any more. Virtual time passes with polls.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 60 {
            let before = self.world.statistics().events;
            for rank in (0..self.contexts.len()).filter(|rank| Some(*rank as u32) != self.dead) {
                for _ in 0..4 {
                    self.contexts[rank].progress();
                }
            }
            self.harvest();
            idle = if self.world.statistics().events == before { idle + 1 } else { 0 };
        }
    }

    /// Messages of one sender that the same receives ask for go to them in the order in which these were posted.
    fn check_order(&self) {
        let mut latest: BTreeMap<(u32, u32, u64), u64> = BTreeMap::new();
        for (number, message) in self.messages.iter().enumerate() {
            let Some(posted) = message.got else { continue };
            let before = latest.insert((message.from, message.to, message.class), posted);
            assert!(before.is_none_or(|before| before < posted), "message {number} was overtaken");
        }
    }
}
