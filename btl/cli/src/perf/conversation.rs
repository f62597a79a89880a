//! What the two processes tell each other beside the fabric that is measured: one JSON object a line, over a pipe to a process
//! that was started here, or over TCP.
//!
//! ```text
//! client                          server
//!   hello  ------------------->            who I am, my fabric and device, its address
//!          <-------------------  hello
//!   plan   ------------------->            what will be measured
//!   window ------------------->            memory for the other side to read and write
//!          <-------------------  window
//!   step   ------------------->            one size; warm-up is a step of its own      \
//!          <-------------------  ready     now polling                                  | for each size
//!          (the measurement, over the fabric; the client ends it)                       |
//!          <-------------------  ended     how many came, how fast, what was wrong     /
//!   bye    ------------------->
//! ```
//! Either side says `failed` with a reason, instead of anything else, before it gives up. Whatever changes in these lines
//! changes [`VERSION`].

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::plan::Plan;

/// Names the protocol, so that a line from anything else is recognised.
const PROTOCOL: &str = "ironband-perf";
/// Of these lines.
const VERSION: u32 = 1;
/// The longest line: what comes from a stranger is not collected without end.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    Hello(Hello),
    Plan(Plan),
    Window { source: Area, target: Area },
    Step { size_bytes: usize, seed: u32 },
    Ready,
    Ended(Ended),
    Bye,
    Failed { reason: String },
}

impl Line {
    const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Plan(_) => "plan",
            Self::Window { .. } => "window",
            Self::Step { .. } => "step",
            Self::Ready => "ready",
            Self::Ended(_) => "ended",
            Self::Bye => "bye",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    protocol: String,
    version: u32,
    pub(super) program: String,
    pub(super) host: String,
    pub(super) fabric: String,
    pub(super) device: String,
    /// Of the device, in hexadecimal digits.
    address: String,
    /// The longest message that it sends at once.
    pub(super) eager_bytes: usize,
    /// The processor that it is bound to.
    pub(super) core: Option<usize>,
}

impl Hello {
    pub(super) fn new(
        fabric: &str,
        device: &str,
        address: &[u8],
        eager_bytes: usize,
        core: Option<usize>,
    ) -> Self {
        let host = rustix::system::uname();
        Self {
            protocol: PROTOCOL.to_owned(),
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            host: host.nodename().to_string_lossy().into_owned(),
            fabric: fabric.to_owned(),
            device: device.to_owned(),
            address: address.iter().map(|byte| format!("{byte:02x}")).collect(),
            eager_bytes,
            core,
        }
    }

    /// The address of the device.
    pub(super) fn address(&self) -> anyhow::Result<Vec<u8>> {
        let digit =
            |at: usize| self.address.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..self.address.len()).step_by(2).map(digit).collect();
        bytes.with_context(|| {
            format!("the device address {:?} of {} is not hexadecimal", self.address, self.host)
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.protocol == PROTOCOL,
            "it speaks the protocol {:?}, and this is {PROTOCOL}",
            self.protocol
        );
        ensure!(
            self.version == VERSION,
            "ironband {} on {} speaks version {} of this protocol, and ironband {} here version {VERSION}: install the same on both",
            self.program,
            self.host,
            self.version,
            env!("CARGO_PKG_VERSION")
        );
        Ok(())
    }
}

/// Memory that the other side may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Area {
    pub(super) address: u64,
    pub(super) key: u64,
    pub(super) len_bytes: u64,
}

/// What the server saw of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) arrived: u64,
    pub(super) peak_per_second: Option<f64>,
    /// The first byte that was not what had been sent, in words.
    pub(super) wrong: Option<String>,
}

/// One end of a conversation. Lines are read by a thread that sleeps while nothing is said, so that the measuring thread
/// learns by one load that something unexpected was.
pub(super) struct Conversation {
    /// As messages call it.
    with: String,
    lines: mpsc::Receiver<anyhow::Result<Line>>,
    out: Box<dyn Write + Send>,
    interrupted: Arc<AtomicBool>,
}

impl Conversation {
    pub(super) fn new(
        with: String,
        input: impl Read + Send + 'static,
        out: impl Write + Send + 'static,
    ) -> Self {
        let (sender, lines) = mpsc::channel();
        let interrupted = Arc::new(AtomicBool::new(false));
        let (flag, who) = (Arc::clone(&interrupted), with.clone());
        // Ends with the process at the other end, because the input ends then, or with this one.
        std::thread::spawn(move || {
            let mut input = BufReader::new(input);
            loop {
                let line = read_line(&mut input).with_context(|| who.clone());
                let last = !matches!(line, Ok(ref line) if !matches!(line, Line::Failed { .. }));
                if last {
                    flag.store(true, Ordering::Release);
                }
                if sender.send(line).is_err() || last {
                    return;
                }
            }
        });
        Self { with, lines, out: Box::new(out), interrupted }
    }

    /// Over TCP.
    pub(super) fn over(stream: std::net::TcpStream) -> anyhow::Result<Self> {
        use rustix::net::sockopt;
        let with = format!("the peer at {}", stream.peer_addr()?);
        stream.set_nodelay(true)?;
        // A peer that is measured says nothing for long; one that is gone answers no probe.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, Duration::from_secs(10))?;
        sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
        sockopt::set_tcp_keepcnt(&stream, 4)?;
        Ok(Self::new(with, stream.try_clone()?, stream))
    }

    pub(super) fn with(&self) -> &str {
        &self.with
    }

    pub(super) fn say(&mut self, line: &Line) -> anyhow::Result<()> {
        let text = serde_json::to_string(line)? + "\n";
        let sent = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        if let Err(error) = sent {
            // It may have said why before it went.
            self.unexpected()?;
            return Err(error).with_context(|| format!("{} does not listen any more", self.with));
        }
        Ok(())
    }

    /// The next line. `meanwhile` is called every now and then.
    pub(super) fn hear(&mut self, timeout: Duration, mut meanwhile: impl FnMut()) -> anyhow::Result<Line> {
        let start = Instant::now();
        loop {
            meanwhile();
            match self.lines.recv_timeout(Duration::from_micros(200)) {
                Ok(Ok(Line::Failed { reason })) => bail!("{}: {reason}", self.with),
                Ok(line) => return line,
                Err(RecvTimeoutError::Disconnected) => bail!("{} has ended", self.with),
                Err(RecvTimeoutError::Timeout) if start.elapsed() >= timeout => {
                    bail!("{} said nothing for {} s (--timeout)", self.with, timeout.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// True when the other side has given up, or is gone. A load.
    #[inline]
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Fails if the other side has given up, with what it said.
    pub(super) fn unexpected(&mut self) -> anyhow::Result<()> {
        while self.is_interrupted() {
            let line = self.hear(Duration::from_secs(1), || {})?;
            ensure!(
                self.is_interrupted(),
                "{} said {:?} in the middle of a measurement",
                self.with,
                line.name()
            );
        }
        Ok(())
    }

    /// Says hello and hears it.
    pub(super) fn greet(&mut self, own: &Hello, timeout: Duration) -> anyhow::Result<Hello> {
        self.say(&Line::Hello(own.clone()))?;
        match self.hear(timeout, || {})? {
            Line::Hello(hello) => {
                hello.check().with_context(|| self.with.clone())?;
                Ok(hello)
            }
            other => Err(self.surprise(&other, "hello")),
        }
    }

    /// The error for a line that is not the one that the protocol has here.
    pub(super) fn surprise(&self, said: &Line, wanted: &str) -> anyhow::Error {
        anyhow::anyhow!("{} said {:?} where {wanted:?} was expected", self.with, said.name())
    }
}

fn read_line(input: &mut impl BufRead) -> anyhow::Result<Line> {
    let mut text = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut text).context("the connection broke")?;
    ensure!(!text.is_empty(), "it has ended");
    ensure!(
        text.ends_with(b"\n") || (text.len() as u64) < LINE_BYTES_MAX,
        "it sent a line of more than {LINE_BYTES_MAX} bytes"
    );
    serde_json::from_slice(&text).with_context(|| {
        let shown: String = String::from_utf8_lossy(&text).trim_end().chars().take(60).collect();
        format!("it does not speak the protocol {PROTOCOL}: {shown:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pair() -> (Conversation, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        (Conversation::new("the peer".to_owned(), here.try_clone().unwrap(), here), there)
    }

    fn hello() -> Hello {
        Hello::new("shm", "memfd", &[0, 0x7f, 0xff], 8256, Some(1))
    }

    #[test]
    fn lines_arrive_as_they_were_said() {
        let (mut one, there) = pair();
        let mut two = Conversation::new("it".to_owned(), there.try_clone().unwrap(), there);
        let step = Line::Step { size_bytes: 8, seed: 3 };
        two.say(&step).unwrap();
        assert_eq!(one.hear(PATIENCE, || {}).unwrap(), step);
        std::thread::scope(|scope| {
            scope.spawn(|| two.greet(&hello(), PATIENCE).unwrap());
            let heard = one.greet(&hello(), PATIENCE).unwrap();
            assert_eq!(heard.address().unwrap(), [0, 0x7f, 0xff]);
        });
        assert!(!one.is_interrupted());
    }

    #[test]
    fn a_peer_that_gives_up_says_why() {
        let (mut one, there) = pair();
        let mut two = Conversation::new("it".to_owned(), there.try_clone().unwrap(), there);
        two.say(&Line::Failed { reason: "no memory".to_owned() }).unwrap();
        let said = one.hear(PATIENCE, || {}).unwrap_err();
        assert_eq!(said.to_string(), "the peer: no memory");
        assert!(one.is_interrupted());
        assert!(one.unexpected().is_err(), "it says nothing more");
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let other = Hello { version: VERSION + 1, program: "9.9".to_owned(), ..hello() };
        let versions = serde_json::to_string(&Line::Hello(other)).unwrap() + "\n";
        for (said, wanted) in [
            ("GET / HTTP/1.1\r\n", "does not speak the protocol ironband-perf: \"GET / HTTP/1.1\""),
            ("{\"say\":\"dance\"}\n", "does not speak the protocol"),
            ("", "it has ended"),
            (&"x".repeat(40_000), "more than 16384 bytes"),
            (&versions, "ironband 9.9"),
            ("{\"say\":\"ready\"}\n", "said \"ready\" where \"hello\" was expected"),
        ] {
            let (mut one, mut there) = pair();
            there.write_all(said.as_bytes()).unwrap();
            there.shutdown(std::net::Shutdown::Write).unwrap();
            let error = format!("{:#}", one.greet(&hello(), PATIENCE).unwrap_err());
            assert!(error.contains(wanted), "{said:?}: {error}");
        }
    }

    #[test]
    fn silence_ends() {
        let (mut one, _there) = pair();
        let said = one.hear(Duration::from_millis(10), || {}).unwrap_err().to_string();
        assert!(said.contains("--timeout"), "{said}");
    }
}
