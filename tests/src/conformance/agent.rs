//! A second process: the test program started again, with one test selected, doing what it is told line by line.
//!
//! The agent polls its device all the time, unless it was told to stall. Questions go to its standard input, answers come
//! from its standard output as lines that begin with [`MARK`], because the test harness prints there too.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use ironband_core::config::{Config, PARAMETERS};
use ironband_fabric::{
    Access, AtomicOp, AtomicWidth, Device, Fabric, Posted, QueuePairNumber, ReadHint, RemoteAddress,
};

use super::memory::first_difference;
use super::node::{Event, Node, assert_intact, wait_for};
use super::{Setup, Skip, need_processes, patience, resolve};

const MARK: &str = "agent: ";
const SWITCH: &str = "IRONBAND_CONFORMANCE_AGENT";

/// An agent, seen from the process that started it. It is killed on drop.
pub struct Agent {
    process: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Agent {
    /// Starts one.
    ///
    /// # Panics
    /// When the test program cannot be started again.
    pub fn start(setup: &Setup, rank: u32) -> Self {
        // `crate::shm::messages` is two modules below the binary's name, which libtest leaves out.
        let path: Vec<&str> = setup.module.split("::").collect();
        let entry = path.get(1).expect("the macro's module");
        let mut process = Command::new(std::env::current_exe().expect("/proc/self/exe"))
            .args(["--exact", &format!("{entry}::agent"), "--nocapture", "--test-threads", "1"])
            .env(SWITCH, rank.to_string())
            .envs(environment(&setup.config))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test program starts a second time");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness writes `test NAME ... ` without an end of line before the first answer.
                if let Some((_, answer)) = line.split_once(MARK)
                    && sender.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { process, input, answers }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells it something, without waiting.
    pub fn tell(&mut self, order: &str) {
        writeln!(self.input, "{order}").expect("the agent reads its orders");
    }

    /// Its answer, if it has come.
    ///
    /// # Panics
    /// When the agent has ended.
    #[track_caller]
    pub fn answer(&mut self) -> Option<String> {
        match self.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("the agent ended: {:?}", self.process.wait()),
        }
    }

    /// Tells it something and waits for the answer, without polling any device here.
    #[track_caller]
    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answers.recv_timeout(patience()).unwrap_or_else(|_| panic!("no answer to {order:?}"))
    }

    /// Stops it wherever it is, as a debugger does.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("the agent runs");
    }

    /// Ends it as hard as possible, and waits until the system has forgotten it.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The configuration as environment variables.
fn environment(config: &Config) -> Vec<(String, String)> {
    let or_auto = |bytes: Option<usize>| bytes.map_or_else(|| "auto".to_owned(), |bytes| bytes.to_string());
    let value = |name: &str| match name {
        "fabrics" => config.fabrics.iter().map(|fabric| fabric.as_str()).collect::<Vec<_>>().join(","),
        "exclusivity" => config.exclusivity.to_string(),
        "eager_bytes" => or_auto(config.eager_bytes),
        "ring_bytes" => or_auto(config.ring_bytes),
        "memory_bytes" => config.memory_bytes.to_string(),
        "single_copy" => config.single_copy.as_str().to_owned(),
        "connect" => config.connect.as_str().to_owned(),
        "registration_cache" => config.registration_cache.as_str().to_owned(),
        "registration_bytes" => or_auto(config.registration_bytes),
        "connect_seconds" => config.connect_seconds.to_string(),
        "ports" if config.ports.text().is_empty() => "all".to_owned(),
        "ports" => config.ports.text().to_owned(),
        "gid_index" => config.gid_index.map_or_else(|| "auto".to_owned(), |index| index.to_string()),
        other => panic!("the conformance suite does not hand {other} on to its agents"),
    };
    PARAMETERS.iter().map(|entry| (entry.environment_name(), value(entry.name))).collect()
}

/// A device here and an agent, connected to each other on first use.
pub struct Duo<F: Fabric> {
    /// The device here.
    pub node: Node<F>,
    /// The other process.
    pub agent: Agent,
    /// From here to the agent.
    pub qp: QueuePairNumber,
    /// From the agent to here, in the agent's numbering.
    pub back: u32,
}

impl<F: Fabric> Duo<F> {
    /// Starts the agent and exchanges addresses.
    ///
    /// # Errors
    /// When the device reaches no other process.
    pub fn start(setup: &Setup) -> Result<Self, Skip> {
        let mut node = Node::open(setup, 0);
        need_processes(node.capabilities())?;
        let mut agent = Agent::start(setup, 1);
        let address = from_hex(&agent.ask("address"));
        let qp = node.connect(&address);
        let back = agent.ask(&format!("connect {}", to_hex(&node.address())));
        Ok(Self { node, agent, qp, back: back.parse().expect("a number") })
    }

    /// As [`Duo::start`], with messages exchanged.
    ///
    /// # Errors
    /// As [`Duo::start`].
    #[track_caller]
    pub fn connected(setup: &Setup) -> Result<Self, Skip> {
        let mut duo = Self::start(setup)?;
        duo.send(1, 5);
        assert_eq!(duo.ask("expect 1"), "received");
        let order = format!("send {} 1 5", duo.back);
        assert_eq!(duo.ask(&order), "sent");
        let event = wait_for("the agent's message", || {
            duo.node.turn();
            duo.node.take_arrival()
        });
        assert_intact(&event);
        Ok(duo)
    }

    /// Tells the agent something and polls the device here until it answers.
    #[track_caller]
    pub fn ask(&mut self, order: &str) -> String {
        self.agent.tell(order);
        wait_for(order, || {
            self.node.turn();
            self.agent.answer()
        })
    }

    /// Makes a buffer in the agent; returns its number there and how to reach it.
    #[track_caller]
    pub fn remote_buffer(&mut self, len_bytes: usize, seed: u32) -> (u32, RemoteAddress) {
        let answer = self.ask(&format!("buffer {len_bytes} {seed}"));
        let numbers: Vec<u64> = answer.split(' ').map(|n| n.parse().expect("numbers")).collect();
        (numbers[0] as u32, RemoteAddress { address: numbers[1], key: numbers[2] })
    }

    /// Repeats a post until it is accepted.
    #[track_caller]
    pub fn post(&mut self, mut post: impl FnMut(&mut Node<F>, QueuePairNumber) -> Posted) -> Posted {
        wait_for("a post to be accepted", || {
            let posted = post(&mut self.node, self.qp);
            self.node.turn();
            assert_ne!(posted, Posted::Failed, "{}", self.node.failure(self.qp));
            (posted != Posted::Busy).then_some(posted)
        })
    }

    /// Sends to the agent.
    #[track_caller]
    pub fn send(&mut self, imm: u32, len_bytes: usize) {
        let posted = self.post(|node, qp| node.send(qp, imm, len_bytes));
        assert_eq!(posted, Posted::Complete);
    }
}

/// Bytes as text.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reverse.
///
/// # Panics
/// When it is no such text.
pub fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The agent's side: returns at once unless this process was started as one.
pub fn serve_if_asked<F: Fabric>(device: &'static str) {
    let Ok(rank) = std::env::var(SWITCH) else { return };
    let config = Config::from_environment(|name| std::env::var(name).ok()).expect("handed on by the parent");
    let device = resolve(device).expect("handed on by the parent");
    let setup = Setup { device, module: "", config };
    let node = Node::<F>::open(&setup, rank.parse().expect("a rank"));
    Server { node, setup, received: 0, stalled: false }.serve();
}

struct Server<F: Fabric> {
    node: Node<F>,
    setup: Setup,
    received: u64,
    stalled: bool,
}

impl<F: Fabric> Server<F> {
    fn serve(mut self) {
        let (sender, orders) = channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            if self.stalled {
                std::thread::sleep(std::time::Duration::from_millis(1));
            } else {
                self.work();
                std::thread::yield_now();
            }
            match orders.try_recv() {
                Ok(order) => {
                    let words: Vec<&str> = order.split(' ').collect();
                    let answer = self.obey(words[0], &words[1..]);
                    println!("{MARK}{answer}");
                }
                Err(TryRecvError::Empty) => {}
                // The parent has gone.
                Err(TryRecvError::Disconnected) => std::process::exit(0),
            }
        }
    }

    /// Polls for a while. Messages are verified and counted; everything else is kept.
    fn work(&mut self) {
        for _ in 0..64 {
            match self.node.poll() {
                Some(event @ Event::Message { .. }) => {
                    assert_intact(&event);
                    self.received += 1;
                }
                Some(event) => self.node.inbox.push_back(event),
                None => {}
            }
        }
    }

    fn obey(&mut self, order: &str, words: &[&str]) -> String {
        let number = |at: usize| -> u64 { words[at].parse().expect("a number") };
        let qp = || QueuePairNumber(words[0].parse().expect("a queue pair"));
        match order {
            "address" => to_hex(&self.node.address()),
            "connect" => self.node.connect(&from_hex(words[0])).0.to_string(),
            "buffer" => {
                let buffer = self.node.buffer(number(0) as usize, number(1) as u32, Access::ALL);
                let remote = self.node.remote(buffer, 0);
                format!("{buffer} {} {}", remote.address, remote.key)
            }
            "verify" => {
                let pages = self.node.pages(number(0) as usize);
                match first_difference(&pages.load(0, pages.len_bytes()), number(1) as u32) {
                    None => "same".to_owned(),
                    Some(at) => format!("byte {at} differs"),
                }
            }
            "word" => self.node.pages(number(0) as usize).load_word(0).to_string(),
            "unmap" => {
                self.node.unmap(number(0) as usize);
                "unmapped".to_owned()
            }
            "send" => self.send(qp(), number(1), number(2) as usize),
            "expect" => {
                let wanted = number(0);
                wait_for("messages", || {
                    self.work();
                    (self.received >= wanted).then_some(())
                });
                "received".to_owned()
            }
            "count" => self.received.to_string(),
            "add" => {
                self.add(qp(), RemoteAddress { address: number(1), key: number(2) }, number(3), number(4))
            }
            "read" => self.read(
                qp(),
                RemoteAddress { address: number(1), key: number(2) },
                number(3) as usize,
                number(4),
            ),
            "stall" => {
                self.stalled = true;
                "stalled".to_owned()
            }
            "resume" => {
                self.stalled = false;
                "resumed".to_owned()
            }
            "destroy" => {
                self.node.device().destroy_qp(qp());
                "destroyed".to_owned()
            }
            "failures" => {
                self.node.inbox.iter().filter(|e| matches!(e, Event::Disconnected { .. })).count().to_string()
            }
            "churn" => self.churn(number(0)),
            "starve" => super::shm::starve::<F>(&self.setup, words[0]),
            "scribble" => {
                let attacked = RemoteAddress { address: number(1), key: number(2) };
                super::shm::scribble::<F>(&self.setup, &from_hex(words[0]), attacked, number(3))
            }
            other => panic!("the agent does not know how to {other}"),
        }
    }

    fn until_accepted(&mut self, mut post: impl FnMut(&mut Node<F>) -> Posted) -> Posted {
        wait_for("a post to be accepted", || {
            let posted = post(&mut self.node);
            if posted == Posted::Busy {
                self.work();
            }
            (posted != Posted::Busy).then_some(posted)
        })
    }

    fn send(&mut self, qp: QueuePairNumber, count: u64, len_bytes_max: usize) -> String {
        for imm in 0..count {
            let len_bytes = if count == 1 { len_bytes_max } else { imm as usize * 37 % (len_bytes_max + 1) };
            if self.until_accepted(|node| node.send(qp, imm as u32, len_bytes)) == Posted::Failed {
                return self.node.failure(qp);
            }
        }
        "sent".to_owned()
    }

    /// Fetch-adds of 1, as many at once as the device takes.
    fn add(&mut self, qp: QueuePairNumber, remote: RemoteAddress, times: u64, width: u64) -> String {
        let width = if width == 4 { AtomicWidth::Four } else { AtomicWidth::Eight };
        let mut pending = 0;
        for id in 0..times {
            let posted =
                self.until_accepted(|node| node.atomic(qp, id, remote, AtomicOp::FetchAdd(1), width));
            pending += u64::from(posted == Posted::Queued);
        }
        wait_for("atomics", || {
            self.work();
            let done = self.node.inbox.iter().filter(|event| matches!(event, Event::Done { .. })).count();
            (done as u64 >= pending).then_some(())
        });
        self.node.inbox.retain(|event| !matches!(event, Event::Done { .. }));
        "added".to_owned()
    }

    /// Reads peer memory again and again and compares it with the pattern of seed 9.
    fn read(&mut self, qp: QueuePairNumber, remote: RemoteAddress, len_bytes: usize, times: u64) -> String {
        for id in 0..times {
            let buffer = self.node.buffer(len_bytes, 0, Access::LOCAL);
            let posted = self.until_accepted(|node| {
                node.read(qp, id, (buffer, 0), remote, len_bytes, ReadHint::OwnerIsWaiting)
            });
            if posted == Posted::Queued {
                wait_for("a read", || {
                    self.work();
                    self.node.take_done(id)
                });
            }
            if let Some(at) = first_difference(&self.node.pages(buffer).load(0, len_bytes), 9) {
                return format!("read {id} differs at byte {at}");
            }
            self.node.unmap(buffer);
        }
        "read".to_owned()
    }

    /// Opens, uses and closes devices; says how many descriptors that cost.
    fn churn(&mut self, times: u64) -> String {
        let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let mappings = || std::fs::read_to_string("/proc/self/maps").map_or(0, |text| text.lines().count());
        let mut before = (0, 0);
        for round in 0..times + 2 {
            if round == 2 {
                before = (descriptors(), mappings());
            }
            let mut pair = super::node::Pair::<F>::connected(&self.setup);
            let (ab, ba) = (pair.ab, pair.ba);
            pair.a.device().destroy_qp(ab);
            pair.b.device().destroy_qp(ba);
        }
        format!("{} {}", descriptors().abs_diff(before.0), mappings().abs_diff(before.1))
    }
}
