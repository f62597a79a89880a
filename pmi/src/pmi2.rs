//! PMI-2: records with their length in front. On request only (`IRONBAND_PMI=pmi2`): every server that offers it offers PMI-1
//! as well, over the same descriptor.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::detect::check_rank;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::flat::FlatSpace;
use crate::nodes::NodeMap;
use crate::record::{LENGTH_BYTES, RECORD_BYTES_MAX, Record, body_bytes, escape};
use crate::stream::Stream;

/// `PMI2_MAX_KEYLEN` and `PMI2_MAX_VALLEN` of MPICH's pmi2.h.
const KEY_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 1024;

/// A connection that has been greeted.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    rank: u32,
    size: u32,
    job: String,
    /// Why the connection is of no use any more: an answer that comes too late would be taken for another one's.
    broken: Option<Reason>,
}

impl Client {
    /// Greets the launcher. `job` is what it has called the job in `PMI_JOBID`, if it has.
    pub(crate) fn start(
        stream: Stream,
        rank: u32,
        size: u32,
        job: Option<&str>,
        deadline: Deadline,
    ) -> Result<Self, Fault> {
        let mut client = Self { stream, rank, size, job: job.unwrap_or_default().to_owned(), broken: None };
        client.greet(deadline)?;
        Ok(client)
    }

    fn greet(&mut self, deadline: Deadline) -> Result<(), Fault> {
        // The first exchange is a line of PMI-1, whatever is asked for.
        self.stream.write_all(b"cmd=init pmi_version=2 pmi_subversion=0\n", deadline)?;
        let line = self.stream.read_until(b'\n', RECORD_BYTES_MAX, deadline)?;
        let line = Record::of_line(&String::from_utf8_lossy(&line))?;
        if line.command() != "response_to_init" || !line.is_success() || line.get("pmi_version") != Some("2")
        {
            return Err(Reason::Refused(format!("it does not speak PMI-2: {}", line.message())).into());
        }
        // Slurm wants pmijobid. An empty one ends MPICH's mpiexec, so it is left out where it is not known.
        let job =
            if self.job.is_empty() { String::new() } else { format!("pmijobid={};", escape(&self.job)) };
        let request = format!("fullinit;{job}pmirank={};threaded=FALSE;", self.rank);
        let answer = self.demand(&request, "fullinit-response", deadline)?;
        self.rank = answer.number("rank")?;
        self.size = answer.number("size")?;
        check_rank(self.rank, self.size)?;
        if self.job.is_empty() {
            self.job =
                self.demand("job-getid;", "job-getid-response", deadline)?.required("jobid")?.to_owned();
        }
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

    /// The same, where anything but a success is a refusal.
    fn demand(&mut self, request: &str, expected: &str, deadline: Deadline) -> Result<Record, Fault> {
        let answer = self.ask(request, expected, deadline)?;
        if answer.is_success() { Ok(answer) } else { Err(Reason::Refused(answer.message()).into()) }
    }

    /// A text that is asked for, which may not be there: MPICH 5 says so by `rc=1`, others by `found=FALSE`.
    fn find(&mut self, request: &str, expected: &str, deadline: Deadline) -> Result<Option<String>, Fault> {
        let answer = self.ask(request, expected, deadline)?;
        if answer.is_found() { Ok(Some(answer.required("value")?.to_owned())) } else { Ok(None) }
    }

    fn exchange(&mut self, request: &str, expected: &str, deadline: Deadline) -> Result<Record, Reason> {
        tracing::trace!(request, "to the launcher");
        self.stream.write_all(framed(request).as_bytes(), deadline)?;
        let length = body_bytes(&self.stream.read_exact(LENGTH_BYTES, deadline)?)?;
        let body = self.stream.read_exact(length, deadline)?;
        let answer = Record::of_body(&String::from_utf8_lossy(&body))?;
        tracing::trace!(?answer, "from the launcher");
        if answer.command() == expected {
            Ok(answer)
        } else {
            Err(Reason::Malformed(format!("{:?} is no answer to {request:?}", answer.command())))
        }
    }
}

/// A record with its length in front. `body` is what follows `cmd=`.
pub(crate) fn framed(body: &str) -> String {
    let body = format!("cmd={body}");
    format!("{:>LENGTH_BYTES$}{body}", body.len())
}

impl FlatSpace for Client {
    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }

    fn text_bytes_max(&self, _key_bytes: usize) -> usize {
        // The end of the text may count.
        VALUE_BYTES_MAX - 1
    }

    fn put_text(&mut self, key: &str, text: &str, deadline: Deadline) -> Result<(), Fault> {
        let request = format!("kvs-put;key={};value={};", escape(key), escape(text));
        self.demand(&request, "kvs-put-response", deadline).map(|_| ())
    }

    fn get_text(&mut self, key: &str, deadline: Deadline) -> Result<Option<String>, Fault> {
        let request = format!("kvs-get;jobid={};srcid=-1;key={};", escape(&self.job), escape(key));
        self.find(&request, "kvs-get-response", deadline)
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
        self.demand("kvs-fence;", "kvs-fence-response", deadline).map(|_| ()).map_err(|fault| {
            match fault.reason {
                Reason::Refused(words) => Reason::Incomplete(words).into(),
                _ => fault,
            }
        })
    }

    fn nodes(&mut self, deadline: Deadline) -> Result<Option<NodeMap>, Fault> {
        let request = "info-getjobattr;key=PMI_process_mapping;";
        match self.find(request, "info-getjobattr-response", deadline)? {
            Some(text) => Ok(NodeMap::if_it_is_told(&text, self.size)),
            None => Ok(None),
        }
    }

    fn abort(&mut self, code: i32, message: &str) {
        let request = framed(&format!("abort;isworld=TRUE;exitcode={code};msg={};", escape(message)));
        let _ = self.stream.write_all(request.as_bytes(), Deadline::after(Duration::from_secs(1)));
    }

    fn finalize(&mut self, deadline: Deadline) -> Result<(), Fault> {
        self.demand("finalize;", "finalize-response", deadline).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::framed;

    #[test]
    fn the_length_stands_in_front() {
        assert_eq!(framed("kvs-fence;"), "    14cmd=kvs-fence;");
    }
}
