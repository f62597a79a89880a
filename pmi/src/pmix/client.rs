//! The exchange over PMIx.

use std::ffi::CStr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::ffi::{self, Directive, Pmix, Status, Value};
use crate::deadline::Deadline;
use crate::detect::check_rank;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::nodes::NodeMap;

const JOB_SIZE: &CStr = c"pmix.job.size";
const NODE: &CStr = c"pmix.nodeid";
const HOST: &CStr = c"pmix.hname";
const LOCAL_PEERS: &CStr = c"pmix.lpeers";
const COLLECT_DATA: &CStr = c"pmix.collect";
const TIMEOUT: &CStr = c"pmix.timeout";
/// What the server has, without asking the process whose value it is: all has been collected at a fence.
const IMMEDIATE: &CStr = c"pmix.immediate";

/// How much longer a call is waited for than PMIx is told, so that its own words are heard, and it is not left in the middle of a call.
const GRACE: Duration = Duration::from_millis(500);
/// How long the end of the job is waited for after it was asked for.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

type Task = Box<dyn FnOnce(&mut Option<Pmix>) + Send>;

/// A process that PMIx has initialised.
pub(crate) struct Client {
    tasks: Sender<Task>,
    rank: u32,
    size: u32,
    /// Why nothing more is asked for: a call has not come back in time, and the thread is still in it; or a fence was given up, and the
    /// next one would be taken for it.
    broken: Option<Reason>,
}

impl Client {
    pub(crate) fn start(library: String, deadline: Deadline) -> Result<Self, Fault> {
        let (tasks, queue) = channel::<Task>();
        std::thread::Builder::new()
            .name("ironband-pmix".to_owned())
            .spawn(move || {
                let mut pmix = None;
                for task in queue {
                    task(&mut pmix);
                }
            })
            .map_err(|error| Reason::System(format!("a thread for PMIx: {error}")))?;
        let mut client = Self { tasks, rank: 0, size: 0, broken: None };
        let outcome = client.run(deadline, move |slot| {
            let pmix = slot.insert(Pmix::init(&library)?);
            tracing::debug!(version = pmix.version(), "PMIx");
            Ok::<u32, String>(pmix.rank())
        })?;
        client.rank = outcome.map_err(Reason::System)?;
        client.size = match client.get_any(ffi::RANK_WILDCARD, JOB_SIZE, deadline)? {
            Some(Value::Number(size)) => size,
            other => return Err(Reason::Malformed(format!("the size of the job is {other:?}")).into()),
        };
        check_rank(client.rank, client.size)?;
        Ok(client)
    }

    /// Has the thread do something, and waits for it.
    fn run<R: Send + 'static>(
        &mut self,
        deadline: Deadline,
        work: impl FnOnce(&mut Option<Pmix>) -> R + Send + 'static,
    ) -> Result<R, Reason> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        let (sender, receiver) = channel();
        let task: Task = Box::new(move |pmix| {
            // Nobody waits any more after the deadline.
            let _ = sender.send(work(pmix));
        });
        let gone = || Reason::System("the thread that calls PMIx has ended".to_owned());
        self.tasks.send(task).map_err(|_| gone())?;
        match receiver.recv_timeout(deadline.left()? + GRACE) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => {
                let reason = Reason::TimedOut(deadline.limit());
                self.broken = Some(reason.clone());
                Err(reason)
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Makes a call that returns a status; the error is the status and its words.
    fn call(
        &mut self,
        deadline: Deadline,
        work: impl FnOnce(&Pmix) -> Status + Send + 'static,
    ) -> Result<Result<(), (Status, String)>, Reason> {
        self.run(deadline, |slot| {
            let Some(pmix) = slot else {
                return Err((ffi::ERR_NOT_FOUND, "PMIx was not initialised".to_owned()));
            };
            match work(pmix) {
                ffi::SUCCESS => Ok(()),
                status => Err((status, pmix.words(status))),
            }
        })
    }

    fn get_any(&mut self, rank: u32, key: &CStr, deadline: Deadline) -> Result<Option<Value>, Reason> {
        let key = key.to_owned();
        let directives = [Directive::Flag(IMMEDIATE), Directive::Number(TIMEOUT, seconds(deadline)?)];
        let found = self.run(deadline, move |slot| {
            let Some(pmix) = slot else { return Err("PMIx was not initialised".to_owned()) };
            match pmix.get(rank, &key, &directives) {
                Ok(value) => Ok(Some(value)),
                Err(ffi::ERR_NOT_FOUND) => Ok(None),
                Err(status) => Err(format!("PMIx_Get: {}", pmix.words(status))),
            }
        })?;
        found.map_err(Reason::Refused)
    }

    /// What the server says of each rank, if it says it of all.
    fn of_all_ranks(&mut self, key: &CStr, deadline: Deadline) -> Result<Option<Vec<Value>>, Reason> {
        let mut values = Vec::with_capacity(self.size as usize);
        for rank in 0..self.size {
            match self.get_any(rank, key, deadline)? {
                Some(value @ (Value::Number(_) | Value::Text(_))) => values.push(value),
                _ => return Ok(None),
            }
        }
        Ok(Some(values))
    }
}

/// What PMIx is told to wait; it counts in whole seconds.
fn seconds(deadline: Deadline) -> Result<i32, Reason> {
    let left = deadline.left()?;
    let more = u64::from(left.subsec_nanos() > 0);
    Ok(i32::try_from(left.as_secs() + more).unwrap_or(i32::MAX))
}

fn refused(call: &str) -> impl FnOnce((Status, String)) -> Reason {
    move |(_, words)| Reason::Refused(format!("{call}: {words}"))
}

fn full_key(key: &str) -> Result<std::ffi::CString, Reason> {
    ffi::c_string(&format!("ironband.{key}"))
        .ok_or_else(|| Reason::Misuse(format!("the key {key:?} has a zero in it")))
}

impl Exchange for Client {
    fn identity(&self) -> (u32, u32) {
        (self.rank, self.size)
    }

    fn put(&mut self, key: &str, value: &[u8], deadline: Deadline) -> Result<(), Fault> {
        let (key, value) = (full_key(key)?, value.to_vec());
        Ok(self.call(deadline, move |pmix| pmix.put(&key, &value))?.map_err(refused("PMIx_Put"))?)
    }

    fn get(&mut self, rank: u32, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>, Fault> {
        match self.get_any(rank, &full_key(key)?, deadline)? {
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(other) => {
                Err(Reason::Malformed(format!("a value that was put as bytes comes as {other:?}")).into())
            }
            None => Ok(None),
        }
    }

    fn fence(&mut self, deadline: Deadline) -> Result<(), Fault> {
        self.call(deadline, Pmix::commit)?.map_err(refused("PMIx_Commit"))?;
        let directives = [Directive::Flag(COLLECT_DATA), Directive::Number(TIMEOUT, seconds(deadline)?)];
        let outcome = self.call(deadline, move |pmix| pmix.fence(&directives))?;
        // Partial success is none: others went on without a process that has ended, and some servers say so to one process only.
        outcome.map_err(|(status, words)| match status {
            ffi::ERR_TIMEOUT => {
                let reason = Reason::TimedOut(deadline.limit());
                self.broken = Some(reason.clone());
                reason.into()
            }
            _ => Reason::Incomplete(format!("PMIx_Fence: {words}")).into(),
        })
    }

    fn nodes(&mut self, deadline: Deadline) -> Result<Option<NodeMap>, Fault> {
        // Slurm tells the number of the own node only, and the host's name of all.
        for key in [NODE, HOST] {
            if let Some(nodes) = self.of_all_ranks(key, deadline)? {
                return Ok(Some(NodeMap::of_identities(nodes)));
            }
        }
        Ok(None)
    }

    fn neighbours(&mut self, deadline: Deadline) -> Result<Option<Vec<u32>>, Fault> {
        let Some(Value::Text(text)) = self.get_any(ffi::RANK_WILDCARD, LOCAL_PEERS, deadline)? else {
            return Ok(None);
        };
        let ranks: Result<Vec<u32>, _> = text.split(',').map(|rank| rank.trim().parse()).collect();
        let mut ranks = ranks.map_err(|_| Reason::Malformed(format!("the local peers are {text:?}")))?;
        ranks.sort_unstable();
        Ok(Some(ranks))
    }

    fn abort(&mut self, code: i32, message: &str) {
        let message = ffi::c_string(&message.replace('\0', " ")).unwrap_or_default();
        // Whatever has gone wrong before: this is tried.
        self.broken = None;
        let _ = self.call(Deadline::after(ABORT_LIMIT), move |pmix| pmix.abort(code, &message));
    }

    fn finalize(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let outcome = self.call(deadline, Pmix::finalize)?;
        Ok(outcome.map_err(refused("PMIx_Finalize"))?)
    }
}
