//! A job without a server: its processes know their numbers and where rank 0 is. Rank 0 serves PMI-1 to all, itself
//! included, over TCP.
//!
//! Whoever reaches the port and knows the job's name can take part, as with the servers of other launchers.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::connections::{Connections, Event};
use crate::deadline::Deadline;
use crate::detect::Root;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::nodes::NodeMap;
use crate::pmi1::client::Client;
use crate::pmi1::server::Server;
use crate::record::{RECORD_BYTES_MAX, Record};
use crate::stream::{Stream, split_address};

/// A process that connects has this long to say who it is.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(2);
/// After a connection that could not be accepted, which would be tried again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How often the thread looks whether it is still needed.
const TURN: Duration = Duration::from_millis(200);

/// One process of such a job.
pub(crate) struct Member {
    client: Client,
    /// In rank 0: says when the server has ended.
    server: Option<Receiver<()>>,
}

impl Member {
    pub(crate) fn start(root: &Root, deadline: Deadline) -> Result<Self, Fault> {
        let (_, port) = split_address(&root.address)?;
        let address = address(root)?;
        let server = if root.rank == 0 { Some(listen(root, port)?) } else { None };
        let address = if root.rank == 0 { format!("127.0.0.1:{port}") } else { address.to_owned() };
        let stream = Stream::connect(&address, deadline)?;
        let client = Client::introduce(stream, root.rank, Some(&root.job), deadline)?;
        Ok(Self { client, server })
    }
}

/// Where rank 0 is to be found: by its name, or where that is known to nobody by the other address, if there is one. That may be
/// another host's, and rank 0 is the one that knows.
fn address(root: &Root) -> Result<&str, Reason> {
    let Some(other) = &root.or_address else { return Ok(&root.address) };
    let (name, port) = split_address(&root.address)?;
    let Err(unknown) = (name, port).to_socket_addrs() else { return Ok(&root.address) };
    let (host, _) = split_address(other)?;
    if root.rank == 0
        && let Err(error) = TcpListener::bind((host, 0))
    {
        return Err(Reason::System(format!(
            "no process can find rank 0: the name of its node, {name:?}, is not known ({unknown}), and it does not run at {host}, where the job was launched ({error})"
        )));
    }
    tracing::debug!(name, %unknown, host, "rank 0 is where the job was launched");
    Ok(other)
}

/// Opens the port and starts the thread that serves there, until all processes have finalized or are gone.
fn listen(root: &Root, port: u16) -> Result<Receiver<()>, Reason> {
    let failed = |error: std::io::Error| {
        Reason::System(format!(
            "rank 0 could not listen at port {port}: {error}; IRONBAND_PMI_ROOT=HOST:PORT in all processes chooses another one"
        ))
    };
    // The first takes both kinds of address, where a host has both.
    let anywhere =
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    let listener = TcpListener::bind(&anywhere[..]).map_err(failed)?;
    // Who asks may be gone again when it is let in.
    listener.set_nonblocking(true).map_err(failed)?;
    let (says, ended) = channel();
    let (size, job) = (root.size, root.job.clone());
    std::thread::Builder::new()
        .name("ironband-pmi".to_owned())
        .spawn(move || {
            let mut connections = Connections::new(size, Server::new(size, "ironband", None));
            while !connections.server().is_over() {
                if let Err(error) = turn(&listener, &mut connections, size, &job) {
                    tracing::error!(%error, "rank 0 cannot serve the exchange any more");
                    break;
                }
            }
            drop(connections);
            // Nobody may wait for it any more.
            let _ = says.send(());
        })
        .map_err(failed)?;
    Ok(ended)
}

fn turn(listener: &TcpListener, connections: &mut Connections, size: u32, job: &str) -> std::io::Result<()> {
    let (events, ready) = connections.serve(&[listener.as_fd()], Some(TURN))?;
    if ready[0] {
        match listener.accept() {
            // One that does not say who it is keeps the others for two seconds at most, and is then dropped.
            Ok((stream, from)) => {
                if let Err(reason) = admit(stream, connections, size, job) {
                    tracing::warn!(%from, %reason, "a connection was refused");
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {}
            // Of one connection, or of too many descriptors: those that are there are served on.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
    for event in events {
        match event {
            Event::Lost { rank } => tracing::warn!(rank, "a process has ended before it has finalized"),
            Event::Broken { rank, why } => tracing::error!(rank, why, "a process has broken the protocol"),
            // There is nobody to end the others: they find out at their next fence, because this one is gone.
            Event::Abort { rank, .. } => connections.lose(rank, &mut Vec::new()),
        }
    }
    Ok(())
}

fn admit(socket: TcpStream, connections: &mut Connections, size: u32, job: &str) -> Result<(), Reason> {
    let deadline = Deadline::after(INTRODUCTION_LIMIT);
    let _ = socket.set_nodelay(true);
    let mut stream = Stream::new(socket.into());
    let line = stream.read_until(b'\n', RECORD_BYTES_MAX, deadline)?;
    let line = Record::of_line(&String::from_utf8_lossy(&line))?;
    let rank: u32 = line.number("pmiid")?;
    let refusal = if line.command() != "initack" || line.get("job") != Some(job) {
        Some(format!(
            "this is rank 0 of the job {job:?} and not of {:?}",
            line.get("job").unwrap_or_default()
        ))
    } else if rank >= size {
        Some(format!("this job has {size} processes and no rank {rank}"))
    } else if connections.has(rank) {
        Some(format!("rank {rank} is connected already"))
    } else {
        None
    };
    let refuse = |stream: &mut Stream, why: String| {
        let text = format!("cmd=initack rc=-1 msg={}\n", why.replace(' ', "_").replace('=', ":"));
        stream.write_all(text.as_bytes(), deadline).and(Err(Reason::Refused(why)))
    };
    if let Some(why) = refusal {
        return refuse(&mut stream, why);
    }
    let answer = format!("cmd=initack rc=0\ncmd=set size={size}\ncmd=set rank={rank}\ncmd=set debug=0\n");
    stream.write_all(answer.as_bytes(), deadline)?;
    connections.join_stream(rank, stream);
    Ok(())
}

impl Member {
    /// When the connection ends, it is rank 0 that has ended.
    fn of_rank_0<T>(outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.map_err(|fault| match fault.reason {
            Reason::Closed => Fault { missing: vec![0], reason: Reason::Closed },
            _ => fault,
        })
    }
}

impl Exchange for Member {
    fn identity(&self) -> (u32, u32) {
        self.client.identity()
    }

    fn put(&mut self, key: &str, value: &[u8], deadline: Deadline) -> Result<(), Fault> {
        Self::of_rank_0(self.client.put(key, value, deadline))
    }

    fn get(&mut self, rank: u32, key: &str, deadline: Deadline) -> Result<Option<Vec<u8>>, Fault> {
        Self::of_rank_0(self.client.get(rank, key, deadline))
    }

    fn fence(&mut self, deadline: Deadline) -> Result<(), Fault> {
        Self::of_rank_0(self.client.fence(deadline))
    }

    fn nodes(&mut self, _deadline: Deadline) -> Result<Option<NodeMap>, Fault> {
        Ok(None)
    }

    fn abort(&mut self, code: i32, message: &str) {
        self.client.abort(code, message);
    }

    fn finalize(&mut self, deadline: Deadline) -> Result<(), Fault> {
        Self::of_rank_0(self.client.finalize(deadline))?;
        // The others need the server until they have finalized, too.
        let Some(server) = self.server.take() else { return Ok(()) };
        match server.recv_timeout(deadline.left()?) {
            Err(RecvTimeoutError::Timeout) => Err(Reason::TimedOut(deadline.limit()).into()),
            _ => Ok(()),
        }
    }
}
