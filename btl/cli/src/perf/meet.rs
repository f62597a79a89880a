//! How the two processes find each other, and how their devices do.

use anyhow::{Context, ensure};
use ironband::Device;
use ironband_fabric::Fabric;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::conversation::{Conversation, Hello, Line};
use super::inbox::Inbox;
use super::link::{Link, remote};
use super::memory::Windows;
use super::plan::Plan;
use super::sizes::SIZE_BYTES_MAX;
use crate::child::EndedOnDrop;

/// Next to perftest's.
const PORT: u16 = 18_516;
/// Who starts both sides at once should not have to start the listening one first.
const REFUSALS: Duration = Duration::from_secs(10);
/// A process that has said everything ends within this time.
const FAREWELL: Duration = Duration::from_secs(20);

/// Tells the peer of an error.
pub(super) fn telling<T>(conversation: &mut Conversation, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
    if let Err(error) = &outcome {
        // If it is gone there is nobody to tell.
        let _ = conversation.say(&Line::Failed { reason: format!("{error:#}") });
    }
    outcome
}

/// A process that was started here.
pub(super) struct Peer(EndedOnDrop);

impl Peer {
    /// Waits until it has closed its device and is gone.
    pub(super) fn ends_itself(mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < FAREWELL {
            if let Some(status) = self.0.0.try_wait()? {
                ensure!(status.success(), "the peer process ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        anyhow::bail!("the peer process did not end within {} s and was killed", FAREWELL.as_secs())
    }
}

/// Starts this program once more, with these arguments.
pub(super) fn start(arguments: &[String]) -> anyhow::Result<(Conversation, Peer)> {
    let own = std::env::current_exe().context("this program does not find itself")?;
    let mut child = Command::new(&own)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started a second time", own.display()))?;
    let (Some(input), Some(output)) = (child.stdout.take(), child.stdin.take()) else {
        unreachable!("both are piped, just above");
    };
    let peer = Peer(EndedOnDrop(child));
    Ok((Conversation::new("the peer process".to_owned(), input, output), peer))
}

/// Connects to a process that listens, or will within some seconds.
pub(super) fn connect(place: &str, timeout: Duration) -> anyhow::Result<Conversation> {
    let (host, port) = host_and_port(place).with_context(|| {
        format!("--connect {place}: HOST or HOST:PORT is wanted, with a port from 1 to 65535")
    })?;
    let deadline = Instant::now() + timeout.min(REFUSALS);
    loop {
        let found = (host, port)
            .to_socket_addrs()
            .with_context(|| format!("--connect {place}: {host} is not known"))?;
        let mut last = None;
        for address in found {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(stream) => return Conversation::over(stream),
                Err(error) => last = Some((address, error)),
            }
        }
        let Some((address, error)) = last else { anyhow::bail!("--connect {place}: {host} has no address") };
        if error.kind() != io::ErrorKind::ConnectionRefused || Instant::now() > deadline {
            return Err(error).with_context(|| {
                format!("--connect {place}: nobody answers at {address}; is `ironband perf --listen {port}` running there?")
            });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn host_and_port(place: &str) -> Option<(&str, u16)> {
    if let Some((host, rest)) = place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        let port = if rest.is_empty() { Some(PORT) } else { rest.strip_prefix(':')?.parse().ok() };
        return port.filter(|port| *port > 0).map(|port| (host, port));
    }
    match place.split_once(':') {
        Some((host, port)) if !port.contains(':') => {
            port.parse().ok().filter(|port| *port > 0 && !host.is_empty()).map(|port| (host, port))
        }
        // No colon, or those of an IPv6 address.
        _ => (!place.is_empty()).then_some((place, PORT)),
    }
}

/// Listens at a port of all addresses, or at one address; says where.
pub(super) fn listen(place: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let address = place
        .parse::<u16>()
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
        .or_else(|_| place.parse::<SocketAddr>())
        .map_err(|_| {
            anyhow::anyhow!("--listen {place}: PORT or ADDRESS:PORT is wanted, with a port from 0 to 65535")
        })?;
    let listener = TcpListener::bind(address).with_context(|| format!("--listen {place}"))?;
    let at = listener.local_addr()?;
    Ok((listener, at))
}

/// Makes memory, tells the peer of it and hears of the peer's.
pub(super) fn link<F: Fabric>(
    mut conversation: Conversation,
    device: Device<F>,
    peer: &Hello,
    plan: Plan,
    timeout: Duration,
    clock: Clock,
) -> anyhow::Result<Link<F>> {
    let prepared = prepare(device, peer, &plan);
    let (windows, endpoint) = telling(&mut conversation, prepared)?;
    let (source, target) = windows.areas();
    conversation.say(&Line::Window { source, target })?;
    let (peer_source, peer_target) = match conversation.hear(timeout, || {})? {
        Line::Window { source, target } => (remote(source, &plan)?, remote(target, &plan)?),
        other => return Err(conversation.surprise(&other, "window")),
    };
    Ok(Link {
        inbox: Inbox::new(clock, plan.depth),
        windows,
        plan,
        conversation,
        timeout,
        peer: endpoint,
        peer_source,
        peer_target,
        corrupt: false,
    })
}

fn prepare<F: Fabric>(
    device: Device<F>,
    peer: &Hello,
    plan: &Plan,
) -> anyhow::Result<(Windows<F>, ironband::QueuePair)> {
    let Hello { host, fabric, .. } = peer;
    ensure!(
        fabric == F::NAME,
        "{host} offers the fabric {fabric}, and {} is wanted here: say --fabric {fabric} on both sides",
        F::NAME
    );
    ensure!(
        plan.size_bytes_max <= SIZE_BYTES_MAX,
        "messages of {} bytes are planned, and {SIZE_BYTES_MAX} are possible",
        plan.size_bytes_max
    );
    let eager_bytes = device.eager_bytes();
    ensure!(
        plan.eager_bytes <= eager_bytes,
        "{} bytes are planned to be sent at once, and {eager_bytes} are possible",
        plan.eager_bytes
    );
    let endpoint = device.connect(&peer.address()?).with_context(|| {
        format!("device {} does not reach device {} of {host}", device.name(), peer.device)
    })?;
    Ok((Windows::new(device, plan.size_bytes_max)?, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (place, wanted) in [
            ("node7", Some(("node7", PORT))),
            ("node7:5", Some(("node7", 5))),
            ("10.0.0.1:65535", Some(("10.0.0.1", 65_535))),
            ("fe80::1", Some(("fe80::1", PORT))),
            ("[fe80::1]", Some(("fe80::1", PORT))),
            ("[fe80::1]:7", Some(("fe80::1", 7))),
            ("node7:0", None),
            ("node7:65536", None),
            ("node7:", None),
            (":7", None),
            ("", None),
            ("[::1]7", None),
        ] {
            assert_eq!(host_and_port(place), wanted, "{place}");
        }
    }

    #[test]
    fn places_to_listen_at() {
        let (_listener, at) = listen("127.0.0.1:0").unwrap();
        assert!(at.ip().is_loopback() && at.port() > 0);
        for bad in ["", "x", "65536", "-1", "localhost:1"] {
            let said = listen(bad).unwrap_err().to_string();
            assert!(said.contains(bad) && said.contains("65535"), "{said}");
        }
        let taken = format!("{:#}", listen(&at.to_string()).unwrap_err());
        assert!(taken.contains(&at.to_string()), "{taken}");
    }
}
