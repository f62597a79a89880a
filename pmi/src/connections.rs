//! The sockets of a server of PMI-1, one for each process, and who has said something.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::deadline::Deadline;
use crate::error::Reason;
use crate::pmi1::server::{Action, Server};
use crate::record::RECORD_BYTES_MAX;
use crate::stream::Stream;

/// A process that does not take its answer, which fits any socket's buffer, for so long is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a job needs to be told by its launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A process asks for the end of all.
    Abort {
        /// This one.
        rank: u32,
        /// With this exit status.
        code: i32,
        /// And these words; may be empty.
        message: String,
    },
    /// A process has closed its connection without having finalized: most likely it has ended.
    Lost {
        /// This one.
        rank: u32,
    },
    /// A process has broken the protocol; its connection was closed.
    Broken {
        /// This one.
        rank: u32,
        /// How.
        why: String,
    },
}

/// The processes of one job that a [`Server`] serves.
#[derive(Debug)]
pub struct Connections {
    server: Server,
    streams: Vec<Option<Stream>>,
}

impl Connections {
    /// For the processes of `server`, none of which is connected yet.
    pub fn new(size: u32, server: Server) -> Self {
        Self { server, streams: (0..size).map(|_| None).collect() }
    }

    /// The protocol's state.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// True if `rank` has a connection.
    pub(crate) fn has(&self, rank: u32) -> bool {
        self.streams[rank as usize].is_some()
    }

    /// The connection of `rank`.
    ///
    /// # Panics
    /// When the job has no such rank.
    pub fn join(&mut self, rank: u32, socket: OwnedFd) {
        self.join_stream(rank, Stream::new(socket));
    }

    pub(crate) fn join_stream(&mut self, rank: u32, stream: Stream) {
        self.streams[rank as usize] = Some(stream);
    }

    /// Waits until a process has said something, one of `others` is readable, or the time is over, and serves. Returns what the
    /// launcher must know, and which of the others are readable.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn serve(
        &mut self,
        others: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> std::io::Result<(Vec<Event>, Vec<bool>)> {
        let ranks: Vec<usize> =
            (0..self.streams.len()).filter(|rank| self.streams[*rank].is_some()).collect();
        let of_ranks = self.streams.iter().flatten().map(AsFd::as_fd);
        let mut polled: Vec<PollFd<'_>> = (others.iter().copied().chain(of_ranks))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(polled);
        let mut events = Vec::new();
        for (rank, _) in ranks.iter().zip(&ready[others.len()..]).filter(|(_, is_ready)| **is_ready) {
            self.hear(*rank as u32, &mut events);
        }
        Ok((events, ready[..others.len()].to_vec()))
    }

    /// Serves what a process has said.
    pub(crate) fn hear(&mut self, rank: u32, events: &mut Vec<Event>) {
        let outcome = self.streams[rank as usize].as_mut().map(Stream::receive);
        // What came before the end is served first.
        while let Some(stream) = &mut self.streams[rank as usize] {
            match stream.take_until(b'\n', RECORD_BYTES_MAX) {
                Ok(Some(line)) => {
                    let actions = self.server.handle(rank, &String::from_utf8_lossy(&line));
                    self.perform(actions, events);
                }
                Ok(None) => break,
                Err(reason) => {
                    self.perform(vec![Action::Close { rank, why: reason.to_string() }], events);
                }
            }
        }
        match outcome {
            Some(Err(Reason::Closed)) => {
                if self.server.is_inside(rank) {
                    events.push(Event::Lost { rank });
                }
                self.lose(rank, events);
            }
            Some(Err(reason)) => self.perform(vec![Action::Close { rank, why: reason.to_string() }], events),
            _ => {}
        }
    }

    /// A process has ended. What it has said last is served before.
    ///
    /// # Panics
    /// When the job has no such rank.
    pub fn ended(&mut self, rank: u32, events: &mut Vec<Event>) {
        self.hear(rank, events);
        self.lose(rank, events);
    }

    /// The connection of a process has ended.
    pub(crate) fn lose(&mut self, rank: u32, events: &mut Vec<Event>) {
        self.streams[rank as usize] = None;
        let actions = self.server.gone(rank);
        self.perform(actions, events);
    }

    fn perform(&mut self, actions: Vec<Action>, events: &mut Vec<Event>) {
        for action in actions {
            match action {
                Action::Answer { rank, line } => {
                    let Some(stream) = &mut self.streams[rank as usize] else { continue };
                    if let Err(reason) = stream.write_all(line.as_bytes(), Deadline::after(ANSWER_LIMIT))
                        && reason != Reason::Closed
                    {
                        self.perform(vec![Action::Close { rank, why: reason.to_string() }], events);
                    }
                }
                Action::Abort { rank, code, message } => events.push(Event::Abort { rank, code, message }),
                Action::Close { rank, why } => {
                    if self.streams[rank as usize].is_some() {
                        events.push(Event::Broken { rank, why });
                        self.lose(rank, events);
                    }
                }
            }
        }
    }
}
