//! This process as a member of its job.

use std::time::{Duration, Instant};

use crate::deadline::{Deadline, Limits};
use crate::detect::{Contact, Detected, Launcher, Protocol, detect, launcher};
use crate::environment::Environment;
use crate::error::{Error, Failure, Fault, Reason};
use crate::exchange::Exchange;
use crate::inherited;
use crate::nodes::NodeMap;
use crate::pmix;
use crate::root;
use crate::single::Single;
use crate::stream::Stream;
use crate::value::VALUE_BYTES_MAX;
use crate::{pmi1, pmi2};

/// The longest key in bytes; letters, digits, `.`, `_` and `-`.
const KEY_BYTES_MAX: usize = 16;

/// By which the processes tell their hosts, where the launcher does not.
const HOST_KEY: &str = "_host";
/// And by which rank 0 tells them who shares a node.
const NODES_KEY: &str = "_nodes";

/// This process's connection to the launcher of its job.
///
/// Values are opaque bytes, at most 64 KiB each, better below 200: a card. They are put once, seen by others after
/// [`Pmi::fence`], and fetched one by one, when they are needed: in a job of 100,000 processes nobody wants all of them.
///
/// Dropping it leaves the job as [`Pmi::finalize`] does, but silently; not while a panic unwinds, so that the launcher sees the failure.
///
/// ```
/// let mut pmi = ironband_pmi::Pmi::init()?;
/// pmi.put("card", b"where I am")?;
/// pmi.fence()?;
/// let next = (pmi.rank() + 1) % pmi.size();
/// assert_eq!(pmi.get(next, "card")?.as_deref(), Some(&b"where I am"[..]));
/// pmi.finalize()?;
/// # Ok::<(), ironband_pmi::Error>(())
/// ```
pub struct Pmi {
    exchange: Box<dyn Exchange>,
    rank: u32,
    size: u32,
    launcher: Launcher,
    protocol: Protocol,
    limits: Limits,
    nodes: Option<NodeMap>,
    neighbours: Option<Vec<u32>>,
    is_over: bool,
}

impl std::fmt::Debug for Pmi {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Pmi(rank {} of {} by {}, {})", self.rank, self.size, self.launcher, self.protocol)
    }
}

impl Pmi {
    /// Finds out who has started this process, and connects. In order: `IRONBAND_PMI`, if it is set; PMIx
    /// (`PMIX_NAMESPACE` and `PMIX_SERVER_URI*`); PMI-1 over `PMI_FD` or `PMI_PORT`; a Slurm step, whose rank 0 then serves the others; nobody,
    /// and then this is rank 0 of 1.
    ///
    /// # Errors
    /// When there is a launcher and it cannot be used. A job never falls apart into processes that are all rank 0.
    pub fn init() -> Result<Self, Error> {
        Self::init_in(&Environment::of_this_process())
    }

    fn init_in(environment: &Environment) -> Result<Self, Error> {
        let start = Instant::now();
        let detected = detect(environment).map_err(|reason| Failure {
            launcher: launcher(environment),
            protocol: None,
            rank: None,
            operation: "init",
            key: None,
            elapsed: start.elapsed(),
            missing: Vec::new(),
            reason,
        })?;
        let Detected { launcher, protocol, contact } = detected;
        let connected = Limits::of(environment).map_err(Fault::from).and_then(|limits| {
            let deadline = Deadline::after(limits.init);
            Ok((connect(environment, protocol, contact, deadline)?, limits))
        });
        let (exchange, limits) = connected.map_err(|fault| Failure {
            launcher,
            protocol: Some(protocol),
            rank: None,
            operation: "init",
            key: None,
            elapsed: start.elapsed(),
            missing: fault.missing,
            reason: fault.reason,
        })?;
        let (rank, size) = exchange.identity();
        tracing::debug!(rank, size, %launcher, %protocol, "joined");
        Ok(Self {
            exchange,
            rank,
            size,
            launcher,
            protocol,
            limits,
            nodes: None,
            neighbours: None,
            is_over: false,
        })
    }

    /// The number of this process, below [`Pmi::size`].
    pub const fn rank(&self) -> u32 {
        self.rank
    }

    /// The number of processes of the job, at least 1.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Who has started the job, as far as that can be told.
    pub const fn launcher(&self) -> Launcher {
        self.launcher
    }

    /// What is spoken with the launcher.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How long [`Pmi::fence`] waits (`IRONBAND_PMI_FENCE_SECONDS`), for those who wait for processes by other means.
    pub const fn fence_limit(&self) -> Duration {
        self.limits.fence
    }

    /// Stores a value of this process by a key of at most 16 letters, digits, `.`, `_` and `-`. Once for each key.
    ///
    /// # Errors
    /// When the key or the value is refused, by us or by the launcher.
    pub fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.run("put", Some(key), |pmi| {
            check_key(key)?;
            if value.len() > VALUE_BYTES_MAX {
                return Err(Reason::Misuse(format!(
                    "the value has {} bytes, and at most {VALUE_BYTES_MAX} can be stored",
                    value.len()
                ))
                .into());
            }
            pmi.exchange.put(key, value, Deadline::after(pmi.limits.init))
        })
    }

    /// What `rank` has put by this key before a fence; `None` if it has put nothing.
    ///
    /// # Errors
    /// When the job has no such rank, or the launcher does not answer.
    pub fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.run("get", Some(key), |pmi| {
            check_key(key)?;
            if rank >= pmi.size {
                return Err(
                    Reason::Misuse(format!("the job has {} processes and no rank {rank}", pmi.size)).into()
                );
            }
            pmi.exchange.get(rank, key, Deadline::after(pmi.limits.init))
        })
    }

    /// Waits until all processes of the job have called this. What they have put before can be got after.
    ///
    /// Launchers differ in what they do when a process ends before: some end all others, some say so, some wait for ever. So a
    /// success proves that values can be got; that all processes live only they themselves can prove, by the transport.
    ///
    /// # Errors
    /// When a process is known to have ended, or the others have not come in time (`IRONBAND_PMI_FENCE_SECONDS`, 300).
    pub fn fence(&mut self) -> Result<(), Error> {
        self.run("fence", None, |pmi| pmi.exchange.fence(Deadline::after(pmi.limits.fence)))
    }

    /// Which rank runs on which node. Where the launcher does not tell, all processes must call this at the same time, as two fences.
    ///
    /// # Errors
    /// As [`Pmi::fence`].
    pub fn nodes(&mut self) -> Result<&NodeMap, Error> {
        if self.nodes.is_none() {
            let nodes = self.run("node map", None, |pmi| {
                match pmi.exchange.nodes(Deadline::after(pmi.limits.init))? {
                    Some(nodes) => Ok(nodes),
                    None => pmi.tell_hosts(),
                }
            })?;
            self.nodes = Some(nodes);
        }
        Ok(self.nodes.as_ref().expect("it was set above"))
    }

    /// The ranks of this node in their order, this one included. As [`Pmi::nodes`], and cheaper in large jobs.
    ///
    /// # Errors
    /// As [`Pmi::nodes`].
    pub fn neighbours(&mut self) -> Result<&[u32], Error> {
        if self.neighbours.is_none() {
            let told =
                self.run("node map", None, |pmi| pmi.exchange.neighbours(Deadline::after(pmi.limits.init)))?;
            let rank = self.rank;
            let neighbours = match told {
                Some(ranks) if ranks.contains(&rank) => ranks,
                _ => self.nodes()?.neighbours_of(rank),
            };
            self.neighbours = Some(neighbours);
        }
        Ok(self.neighbours.as_deref().expect("it was set above"))
    }

    /// Each process says where it runs, and rank 0 asks all of them and tells the others what comes out: if each asked each, a server
    /// would have to answer as often as the job has pairs.
    fn tell_hosts(&mut self) -> Result<NodeMap, Fault> {
        self.exchange.put(HOST_KEY, &host_identity()?, Deadline::after(self.limits.init))?;
        self.exchange.fence(Deadline::after(self.limits.fence))?;
        if self.rank == 0 {
            let hosts: Result<Vec<_>, Fault> =
                (0..self.size).map(|rank| self.told(rank, HOST_KEY, "where it runs")).collect();
            let nodes = NodeMap::of_identities(hosts?);
            let text = nodes.to_process_mapping();
            self.exchange.put(NODES_KEY, text.as_bytes(), Deadline::after(self.limits.init))?;
            self.exchange.fence(Deadline::after(self.limits.fence))?;
            return Ok(nodes);
        }
        self.exchange.fence(Deadline::after(self.limits.fence))?;
        let text = self.told(0, NODES_KEY, "who shares a node")?;
        Ok(NodeMap::of_process_mapping(&String::from_utf8_lossy(&text), self.size)?)
    }

    /// What a process has to have put.
    fn told(&mut self, rank: u32, key: &str, what: &str) -> Result<Vec<u8>, Fault> {
        let value = self.exchange.get(rank, key, Deadline::after(self.limits.init))?;
        value.ok_or_else(|| Fault {
            missing: vec![rank],
            reason: Reason::Incomplete(format!("a process has not said {what}")),
        })
    }

    /// Asks the launcher to end all processes of the job, says why on standard error, and ends this one with this exit status. One
    /// that a shell would take for a success becomes 1. The launcher's own status may be that of another process, which failed because
    /// of it.
    pub fn abort(mut self, code: i32, message: &str) -> ! {
        let code = if code & 0xff == 0 { 1 } else { code };
        eprintln!("ironband: rank {} of {} aborts the job: {message}", self.rank, self.size);
        // Open MPI 4.1's mpirun crashes or hangs now and then if it is asked to while others are in a fence. It ends the job on the exit
        // status anyway.
        if self.launcher != Launcher::OpenMpi {
            self.exchange.abort(code, message);
        }
        std::process::exit(code)
    }

    /// Leaves the job. Some launchers wait here for the other processes.
    ///
    /// # Errors
    /// When the launcher does not answer.
    pub fn finalize(mut self) -> Result<(), Error> {
        self.leave()
    }

    fn leave(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        self.run("finalize", None, |pmi| pmi.exchange.finalize(Deadline::after(pmi.limits.fence)))
    }

    fn run<R>(
        &mut self,
        operation: &'static str,
        key: Option<&str>,
        work: impl FnOnce(&mut Self) -> Result<R, Fault>,
    ) -> Result<R, Error> {
        let start = Instant::now();
        let outcome = work(self).map_err(|fault| Failure {
            launcher: self.launcher,
            protocol: Some(self.protocol),
            rank: Some(self.rank),
            operation,
            key: key.map(str::to_owned),
            elapsed: start.elapsed(),
            missing: fault.missing,
            reason: fault.reason,
        });
        Ok(outcome?)
    }
}

impl Drop for Pmi {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Err(error) = self.leave()
        {
            tracing::warn!(%error, "left the job without its launcher's consent");
        }
    }
}

fn check_key(key: &str) -> Result<(), Reason> {
    let own = [HOST_KEY, NODES_KEY];
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && key.chars().all(fits) && !own.contains(&key) {
        Ok(())
    } else {
        Err(Reason::Misuse(format!(
            "the key {key:?} is refused: it must be 1 to {KEY_BYTES_MAX} letters, digits, '.', '_' or '-', and not one of {own:?}"
        )))
    }
}

fn connect(
    environment: &Environment,
    protocol: Protocol,
    contact: Contact,
    deadline: Deadline,
) -> Result<Box<dyn Exchange>, Fault> {
    let job = environment.get("PMI_JOBID");
    Ok(match (protocol, contact) {
        (_, Contact::Alone) => Box::new(Single::default()),
        (_, Contact::Library) => Box::new(pmix::Client::start(pmix::library(environment), deadline)?),
        (_, Contact::Root(root)) => Box::new(root::Member::start(&root, deadline)?),
        (Protocol::Pmi2, Contact::Descriptor { fd, rank, size }) => {
            let stream = Stream::new(inherited::socket(fd)?);
            Box::new(pmi2::Client::start(stream, rank, size, job, deadline)?)
        }
        (_, Contact::Descriptor { fd, rank, size }) => {
            Box::new(pmi1::client::Client::start(Stream::new(inherited::socket(fd)?), rank, size, deadline)?)
        }
        (_, Contact::Port { address, id }) => {
            let stream = Stream::connect(&address, deadline)?;
            Box::new(pmi1::client::Client::introduce(stream, id, None, deadline)?)
        }
    })
}

/// What tells this host from others: the kernel's boot id. Two containers of one host are one host.
fn host_identity() -> Result<Vec<u8>, Reason> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).map_err(|error| Reason::System(format!("{path}: {error}")))?;
    Ok(id.trim().as_bytes().to_vec())
}
