//! Looks after the processes of a job, from their start until the last has ended.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use ironband_pmi::launcher::{Connections, Event, Server};
use rustix::process::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::ranks::{Job, NotStarted, Ranks, code, describe};

/// After a process has failed, the others have this long to say what they have noticed.
const NOTICE_LIMIT: Duration = Duration::from_secs(3);
/// And then this long to end when they are asked to.
const ASKED_LIMIT: Duration = Duration::from_secs(5);
/// Between the end of a process's connection and its own.
const END_LIMIT: Duration = Duration::from_millis(100);
/// How often it is looked for ended processes when no signal says so.
const TURN: Duration = Duration::from_secs(1);

/// Signals that come through a socket, because a handler may do next to nothing: the write ends, by signal.
struct Signals {
    sockets: Vec<(i32, UnixStream)>,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        let mut sockets = Vec::new();
        for signal in [SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2] {
            let (ours, theirs) = UnixStream::pair().context("a socket for signals")?;
            ours.set_nonblocking(true).context("a socket for signals")?;
            signal_hook::low_level::pipe::register(signal, theirs).context("a handler of signals")?;
            sockets.push((signal, ours));
        }
        Ok(Self { sockets })
    }

    /// Those that have come; several of one kind count once.
    fn take(&mut self, ready: &[bool]) -> Vec<i32> {
        let mut drain = [0; 64];
        let is_ready = self.sockets.iter_mut().zip(ready).filter(|(_, is_ready)| **is_ready);
        is_ready
            .filter_map(|((signal, socket), _)| matches!(socket.read(&mut drain), Ok(1..)).then_some(*signal))
            .collect()
    }
}

/// How the job is ended, when it is not left alone.
enum Ending {
    /// Nobody has failed.
    No,
    /// Ask them to end at this time.
    AskAt(Instant),
    /// End them at this time.
    KillAt(Instant),
    Killed,
}

struct Watch {
    ranks: Ranks,
    connections: Connections,
    signals: Signals,
    ending: Ending,
    /// Of the first that failed.
    status: Option<u8>,
}

pub(super) fn run(job: &Job<'_>) -> anyhow::Result<ExitCode> {
    let signals = Signals::catch()?;
    let space = format!("ironband_{}", std::process::id());
    let mut connections =
        Connections::new(job.count, Server::new(job.count, &space, Some(&job.process_mapping)));
    let ranks = match Ranks::start(job, &mut connections) {
        Ok(ranks) => ranks,
        Err(error) => match error.downcast_ref::<NotStarted>() {
            Some(not_started) => {
                eprintln!("ironband run: {not_started}");
                return Ok(ExitCode::from(not_started.status()));
            }
            None => return Err(error),
        },
    };
    let mut watch = Watch { ranks, connections, signals, ending: Ending::No, status: None };
    while watch.ranks.running() > 0 {
        watch.turn()?;
    }
    Ok(ExitCode::from(watch.status.unwrap_or(0)))
}

impl Watch {
    fn turn(&mut self) -> anyhow::Result<()> {
        let sockets: Vec<_> = self.signals.sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let (events, ready) =
            self.connections.serve(&sockets, Some(self.timeout())).context("waiting for the processes")?;
        self.hear(events);
        for signal in self.signals.take(&ready) {
            self.heed(signal);
        }
        for (rank, status) in self.ranks.reap() {
            let mut events = Vec::new();
            // What it has said last is heard before.
            self.connections.ended(rank, &mut events);
            self.hear(events);
            self.judge(rank, status);
        }
        self.go_on_ending();
        Ok(())
    }

    fn judge(&mut self, rank: u32, status: ExitStatus) {
        if !status.success() {
            let what = format!("rank {rank} (process {}) {}", self.ranks.id(rank), describe(status));
            self.fail(code(status), rank, &what);
        }
    }

    fn timeout(&self) -> Duration {
        match self.ending {
            Ending::AskAt(at) | Ending::KillAt(at) => at.saturating_duration_since(Instant::now()).min(TURN),
            Ending::No | Ending::Killed => TURN,
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Abort { rank, code, message } => {
                    let why = if message.is_empty() { String::new() } else { format!(": {message}") };
                    // A status of 0 would hide it.
                    self.fail(
                        u8::try_from(code).unwrap_or(1).max(1),
                        rank,
                        &format!("rank {rank} has aborted the job{why}"),
                    );
                    self.ending = Ending::AskAt(Instant::now());
                }
                // The others end because of it, some before it can be waited for: it is the first to be judged.
                Event::Lost { rank } => {
                    if let Some(status) = self.ranks.wait_for(rank, END_LIMIT) {
                        self.judge(rank, status);
                    }
                }
                Event::Broken { rank, why } => {
                    eprintln!(
                        "ironband run: rank {rank} does not speak PMI-1.1: {why}; its connection was closed"
                    );
                }
            }
        }
    }

    /// A process has failed. What the others do after that is its consequence, and not told.
    fn fail(&mut self, status: u8, rank: u32, what: &str) {
        if self.status.is_none() {
            let others = match self.ranks.running_beside(rank) {
                0 => String::new(),
                1 => "; the other one is being ended".to_owned(),
                count => format!("; the {count} others are being ended"),
            };
            eprintln!("ironband run: {what}{others}");
            self.status = Some(status);
        }
        if matches!(self.ending, Ending::No) {
            self.ending = Ending::AskAt(Instant::now() + NOTICE_LIMIT);
        }
    }

    /// A signal for this process.
    fn heed(&mut self, signal: i32) {
        let forwarded = match signal {
            SIGINT => Signal::INT,
            SIGTERM => Signal::TERM,
            SIGHUP => Signal::HUP,
            SIGQUIT => Signal::QUIT,
            SIGUSR1 => Signal::USR1,
            SIGUSR2 => Signal::USR2,
            _ => return,
        };
        self.ranks.signal(forwarded);
        if matches!(signal, SIGUSR1 | SIGUSR2) {
            return;
        }
        // A second one means that it takes too long.
        let limit = if matches!(self.ending, Ending::No) { ASKED_LIMIT } else { Duration::ZERO };
        self.ending = Ending::KillAt(Instant::now() + limit);
        self.status.get_or_insert(128 + signal as u8);
    }

    fn go_on_ending(&mut self) {
        match self.ending {
            Ending::AskAt(at) if at <= Instant::now() => {
                self.ranks.signal(Signal::TERM);
                // Stopped ones would not hear it.
                self.ranks.signal(Signal::CONT);
                self.ending = Ending::KillAt(Instant::now() + ASKED_LIMIT);
            }
            Ending::KillAt(at) if at <= Instant::now() => {
                self.ranks.signal(Signal::KILL);
                self.ending = Ending::Killed;
            }
            _ => {}
        }
    }
}
