//! A connection to a launcher, with a deadline for everything.

use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::deadline::Deadline;
use crate::error::Reason;

/// How much is read at a time.
const CHUNK_BYTES: usize = 4096;
/// Between two tries to connect to a server that may not be up yet.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// An address that swallows what is sent there must not take the time of those that follow.
const ADDRESS_LIMIT: Duration = Duration::from_secs(5);

/// A connected socket. Its mode is left as it is, because the launcher may share it: each call says that it must not block.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    /// Read and not yet handed out.
    pending: Vec<u8>,
}

impl Stream {
    pub(crate) const fn new(socket: OwnedFd) -> Self {
        Self { socket, pending: Vec::new() }
    }

    /// Connects to `HOST:PORT`, which may not listen yet: tries until the deadline.
    pub(crate) fn connect(address: &str, deadline: Deadline) -> Result<Self, Reason> {
        let failed = |why: String| Reason::System(format!("could not connect to {address}: {why}"));
        let (host, port) = split_address(address)?;
        let mut last;
        loop {
            // The name may not be known yet, too.
            match (host, port).to_socket_addrs() {
                Ok(addresses) => {
                    last = "the name has no address".to_owned();
                    for address in addresses {
                        let Ok(left) = deadline.left() else { break };
                        match TcpStream::connect_timeout(&address, left.min(ADDRESS_LIMIT)) {
                            Ok(stream) => {
                                // Requests are single lines that wait for an answer.
                                stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
                                return Ok(Self::new(stream.into()));
                            }
                            Err(error) => last = format!("{error} ({address})"),
                        }
                    }
                }
                Err(error) => last = error.to_string(),
            }
            let Ok(left) = deadline.left() else {
                return Err(failed(format!("{last}; tried for {:?}", deadline.limit())));
            };
            std::thread::sleep(left.min(RETRY_INTERVAL));
        }
    }

    /// Writes all bytes.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), Reason> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Reason::Closed),
                Err(error) => return Err(Reason::system("writing to the launcher's socket", error)),
            }
        }
        Ok(())
    }

    /// The next bytes up to `end`, without it; at most `bytes_max`.
    pub(crate) fn read_until(
        &mut self,
        end: u8,
        bytes_max: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>, Reason> {
        loop {
            if let Some(line) = self.take_until(end, bytes_max)? {
                return Ok(line);
            }
            while self.receive()?.is_none() {
                self.wait(PollFlags::IN, deadline)?;
            }
        }
    }

    /// As [`Stream::read_until`], of what has been received; `None` if the end is not there yet.
    pub(crate) fn take_until(&mut self, end: u8, bytes_max: usize) -> Result<Option<Vec<u8>>, Reason> {
        match self.pending.iter().position(|byte| *byte == end) {
            Some(at) => {
                let mut line: Vec<u8> = self.pending.drain(..=at).collect();
                line.pop();
                Ok(Some(line))
            }
            None if self.pending.len() > bytes_max => {
                Err(Reason::Malformed(format!("more than {bytes_max} bytes without an end of line")))
            }
            None => Ok(None),
        }
    }

    /// The next `count` bytes.
    pub(crate) fn read_exact(&mut self, count: usize, deadline: Deadline) -> Result<Vec<u8>, Reason> {
        while self.pending.len() < count {
            if self.receive()?.is_none() {
                self.wait(PollFlags::IN, deadline)?;
            }
        }
        Ok(self.pending.drain(..count).collect())
    }

    /// Takes in what is there; `None` if nothing is.
    pub(crate) fn receive(&mut self) -> Result<Option<usize>, Reason> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            match recv(&self.socket, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(Reason::Closed),
                Ok((_, count)) => {
                    self.pending.extend_from_slice(&chunk[..count]);
                    return Ok(Some(count));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(Reason::system("reading from the launcher's socket", error)),
            }
        }
    }

    /// Until the socket is ready, or has failed, which the next call will say.
    fn wait(&self, wanted: PollFlags, deadline: Deadline) -> Result<(), Reason> {
        let left = deadline.left()?;
        let left = Timespec::try_from(left).map_err(|_| Reason::TimedOut(deadline.limit()))?;
        match poll(&mut [PollFd::new(&self.socket, wanted)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => deadline.left().map(|_| ()),
            Err(error) => Err(Reason::system("waiting for the launcher", error)),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `HOST:PORT`, also with an IPv6 address in brackets.
pub(crate) fn split_address(address: &str) -> Result<(&str, u16), Reason> {
    let malformed = || Reason::Environment(format!("{address:?} is no HOST:PORT"));
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.trim().parse().map_err(|_| malformed())?;
    if host.is_empty() || port == 0 { Err(malformed()) } else { Ok((host, port)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    fn pair() -> (Stream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        (Stream::new(a.into()), b)
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let (mut stream, mut peer) = pair();
        peer.write_all(b"cmd=one\ncmd=two\ncmd=th").unwrap();
        assert_eq!(stream.read_until(b'\n', 100, soon()).unwrap(), b"cmd=one");
        assert_eq!(stream.read_until(b'\n', 100, soon()).unwrap(), b"cmd=two");
        let writer = std::thread::spawn(move || {
            for byte in b"ree\n1234567" {
                peer.write_all(&[*byte]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(stream.read_until(b'\n', 100, soon()).unwrap(), b"cmd=three");
        assert_eq!(stream.read_exact(6, soon()).unwrap(), b"123456");
        writer.join().unwrap();
        assert_eq!(stream.read_exact(2, soon()), Err(Reason::Closed));
    }

    #[test]
    fn a_silent_or_endless_peer_is_given_up() {
        let (mut stream, mut peer) = pair();
        let start = Instant::now();
        let limit = Duration::from_millis(50);
        assert_eq!(stream.read_until(b'\n', 100, Deadline::after(limit)), Err(Reason::TimedOut(limit)));
        assert!(start.elapsed() >= limit);
        // Nobody reads: the socket's buffer is full at some time.
        assert_eq!(
            stream.write_all(&vec![0; 64 << 20], Deadline::after(limit)),
            Err(Reason::TimedOut(limit))
        );
        peer.write_all(&[b'x'; 10_000]).unwrap();
        assert!(matches!(stream.read_until(b'\n', 100, soon()), Err(Reason::Malformed(_))));
    }

    #[test]
    fn nobody_listens() {
        let limit = Duration::from_millis(60);
        let reason = Stream::connect("127.0.0.1:1", Deadline::after(limit)).unwrap_err().to_string();
        assert!(reason.contains("127.0.0.1:1") && reason.contains("tried for"), "{reason}");
    }

    #[test]
    fn addresses() {
        assert_eq!(split_address("node7:99"), Ok(("node7", 99)));
        assert_eq!(split_address("[::1]:99"), Ok(("::1", 99)));
        for wrong in ["", "node7", "node7:", ":99", "node7:0", "node7:99999"] {
            assert!(split_address(wrong).is_err(), "{wrong:?}");
        }
    }
}
