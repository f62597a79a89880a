//! The side of a process.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::detect::check_rank;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::flat::FlatSpace;
use crate::nodes::NodeMap;
use crate::record::{RECORD_BYTES_MAX, Record};
use crate::stream::Stream;

/// A connection that has been greeted.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    rank: u32,
    size: u32,
    space: String,
    key_bytes_max: usize,
    value_bytes_max: usize,
    /// It is our own server, which can be asked who has not come.
    knows_who_is_missing: bool,
    /// Why the connection is of no use any more: an answer that comes too late would be taken for another one's.
    broken: Option<Reason>,
}

/// A server that has not let a fence go has this long to say who has not come.
const MISSING_LIMIT: Duration = Duration::from_millis(500);

/// What a server stores at least, if it does not say (MPICH: `PMI_KEYLEN_MAX`, `PMI_VALLEN_MAX`).
const KEY_BYTES_LEAST: usize = 64;
const VALUE_BYTES_LEAST: usize = 256;

/// The longest request, its end included. Slurm reads so much at once, takes it for a whole line, and says that all is well. All
/// others were seen to read this much, too.
const REQUEST_BYTES_MAX: usize = 1024;

impl Client {
    /// Greets the launcher, over a descriptor that it has left.
    pub(crate) fn start(stream: Stream, rank: u32, size: u32, deadline: Deadline) -> Result<Self, Fault> {
        let mut client = Self {
            stream,
            rank,
            size,
            space: String::new(),
            key_bytes_max: KEY_BYTES_LEAST,
            value_bytes_max: VALUE_BYTES_LEAST,
            knows_who_is_missing: false,
            broken: None,
        };
        client.greet(deadline)?;
        Ok(client)
    }

    /// Introduces itself over a port that many processes share, is told rank and size, and greets. `job` is said to our own server
    /// only, so that one of another job refuses.
    pub(crate) fn introduce(
        mut stream: Stream,
        id: u32,
        job: Option<&str>,
        deadline: Deadline,
    ) -> Result<Self, Fault> {
        let job = job.map(|job| format!(" job={job}")).unwrap_or_default();
        stream.write_all(format!("cmd=initack pmiid={id}{job}\n").as_bytes(), deadline)?;
        let (mut rank, mut size) = (None, None);
        // `initack`, then `set size=`, `set rank=`, `set debug=`, in any order.
        let mut told = 0;
        while told < 4 {
            let line = read_record(&mut stream, deadline)?;
            match line.command() {
                "initack" if !line.is_success() => return Err(Reason::Refused(line.message()).into()),
                "initack" => {}
                "set" if line.get("size").is_some() => size = Some(line.number("size")?),
                "set" if line.get("rank").is_some() => rank = Some(line.number("rank")?),
                "set" => {}
                other => {
                    return Err(
                        Reason::Malformed(format!("{other:?} as the answer to an introduction")).into()
                    );
                }
            }
            told += 1;
        }
        let (Some(rank), Some(size)) = (rank, size) else {
            return Err(
                Reason::Malformed("the answer to an introduction names no rank and size".to_owned()).into()
            );
        };
        check_rank(rank, size)?;
        Self::start(stream, rank, size, deadline)
    }

    fn greet(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let line = self.ask("cmd=init pmi_version=1 pmi_subversion=1", "response_to_init", deadline)?;
        if !line.is_success() {
            let versions = (line.get("pmi_version"), line.get("pmi_subversion"));
            return Err(Reason::Refused(format!("it does not speak PMI-1.1 (it offers {versions:?})")).into());
        }
        self.knows_who_is_missing = line.get("server") == Some("ironband");
        let line = self.ask("cmd=get_maxes", "maxes", deadline)?;
        self.key_bytes_max = line.number("keylen_max")?;
        self.value_bytes_max = line.number("vallen_max")?;
        let line = self.ask("cmd=get_my_kvsname", "my_kvsname", deadline)?;
        self.space = line.required("kvsname")?.to_owned();
        Ok(())
    }

    /// One request, and its answer, which must be the command `expected`.
    fn ask(&mut self, request: &str, expected: &str, deadline: Deadline) -> Result<Record, Fault> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone().into());
        }
        let answer = self.exchange(request, expected, deadline);
        if let Err(reason) = &answer {
            self.broken = Some(reason.clone());
        }
        Ok(answer?)
    }

    fn exchange(&mut self, request: &str, expected: &str, deadline: Deadline) -> Result<Record, Reason> {
        tracing::trace!(request, "to the launcher");
        if request.len() >= REQUEST_BYTES_MAX {
            return Err(Reason::Misuse(format!(
                "a request of {} bytes, and launchers read {REQUEST_BYTES_MAX}",
                request.len()
            )));
        }
        // In one piece, which also may be all that is read at a time.
        self.stream.write_all(format!("{request}\n").as_bytes(), deadline)?;
        let answer = read_record(&mut self.stream, deadline)?;
        tracing::trace!(?answer, "from the launcher");
        if answer.command() == expected {
            Ok(answer)
        } else {
            Err(Reason::Malformed(format!("{:?} is no answer to {request:?}", answer.command())))
        }
    }
}

impl Client {
    /// Asks in the middle of a fence, and for the last time on this connection.
    fn who_is_missing(&mut self) -> Result<Vec<u32>, Reason> {
        if !self.knows_who_is_missing {
            return Ok(Vec::new());
        }
        let deadline = Deadline::after(MISSING_LIMIT);
        self.stream.write_all(b"cmd=get_missing\n", deadline)?;
        loop {
            // The end of the fence may come before, too late.
            let line = read_record(&mut self.stream, deadline)?;
            if line.command() == "missing" {
                return Ok(ranks(line.get("ranks")));
            }
        }
    }
}

/// Ranks in a list.
fn ranks(list: Option<&str>) -> Vec<u32> {
    list.unwrap_or_default().split(',').filter_map(|rank| rank.parse().ok()).collect()
}

impl FlatSpace for Client {
    fn key_bytes_max(&self) -> usize {
        self.key_bytes_max
    }

    fn text_bytes_max(&self, key_bytes: usize) -> usize {
        let rest = put_request(&self.space, "", "").len() + key_bytes + "\n".len();
        // MPICH counts the end of the text.
        self.value_bytes_max.saturating_sub(1).min(REQUEST_BYTES_MAX.saturating_sub(rest))
    }

    fn put_text(&mut self, key: &str, text: &str, deadline: Deadline) -> Result<(), Fault> {
        let request = put_request(&self.space, key, text);
        let line = self.ask(&request, "put_result", deadline)?;
        if line.is_success() { Ok(()) } else { Err(Reason::Refused(line.message()).into()) }
    }

    fn get_text(&mut self, key: &str, deadline: Deadline) -> Result<Option<String>, Fault> {
        let line = self.ask(&format!("cmd=get kvsname={} key={key}", self.space), "get_result", deadline)?;
        if line.is_found() { Ok(Some(line.required("value")?.to_owned())) } else { Ok(None) }
    }
}

impl Exchange for Client {
    fn identity(&self) -> (u32, u32) {
        (self.rank, self.size)
    }

    fn put(&mut self, key: &str, value: &[u8], deadline: Deadline) -> Result<(), Fault> {
        self.put_value(self.rank, key, value, deadline)
    }

    fn get(&mut self, rank: u32, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>, Fault> {
        self.get_value(rank, key, deadline)
    }

    fn fence(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let was_broken = self.broken.is_some();
        match self.ask("cmd=barrier_in", "barrier_out", deadline) {
            Ok(line) if line.is_success() => Ok(()),
            // Our own server says who.
            Ok(line) => {
                Err(Fault { missing: ranks(line.get("missing")), reason: Reason::Incomplete(line.message()) })
            }
            Err(Fault { reason: reason @ Reason::TimedOut(_), .. }) if !was_broken => {
                Err(Fault { missing: self.who_is_missing().unwrap_or_default(), reason })
            }
            Err(fault) => Err(fault),
        }
    }

    fn nodes(&mut self, deadline: Deadline) -> Result<Option<NodeMap>, Fault> {
        match self.get_text("PMI_process_mapping", deadline)? {
            Some(text) => Ok(NodeMap::if_it_is_told(&text, self.size)),
            None => Ok(None),
        }
    }

    fn abort(&mut self, code: i32, message: &str) {
        let message: String = message
            .chars()
            .map(|c| if c.is_ascii_graphic() && c != '=' { c } else { '_' })
            .take(200)
            .collect();
        let request = format!("cmd=abort exitcode={code} message={message}\n");
        let _ = self.stream.write_all(request.as_bytes(), Deadline::after(Duration::from_secs(1)));
    }

    fn finalize(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let line = self.ask("cmd=finalize", "finalize_ack", deadline)?;
        if line.is_success() { Ok(()) } else { Err(Reason::Refused(line.message()).into()) }
    }
}

fn put_request(space: &str, key: &str, text: &str) -> String {
    format!("cmd=put kvsname={space} key={key} value={text}")
}

fn read_record(stream: &mut Stream, deadline: Deadline) -> Result<Record, Reason> {
    let bytes = stream.read_until(b'\n', RECORD_BYTES_MAX, deadline)?;
    Record::of_line(&String::from_utf8_lossy(&bytes))
}
