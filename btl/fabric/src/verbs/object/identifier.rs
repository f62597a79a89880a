//! The RDMA connection manager's objects: event channels, and identifiers, which are its sockets.
//!
//! An event is acknowledged as soon as it is copied out, so an identifier can be destroyed at any time: the library waits for
//! the acknowledgement of all events that it has handed out.

use std::ffi::{CStr, c_int};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use rdma_sys as ibv;
use rdma_sys::rdma_cm_event_type as kind;

use super::error::{VerbError, check};

/// The longest private data that any transport delivers.
const PRIVATE_BYTES_MAX: usize = 256;

/// Where an adapter's connections tell what has become of them. Reading it never blocks.
#[derive(Debug)]
pub(in crate::verbs) struct EventChannel(NonNull<ibv::rdma_event_channel>);

// SAFETY: the library locks its own state; a channel may be used from any thread.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

/// What has become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::verbs) enum Happened {
    AddressResolved,
    RouteResolved,
    /// A peer wants to connect.
    Request,
    /// The peer has accepted; this end has to bring its queue pair up and confirm.
    Response,
    /// Both ends are up.
    Established,
    /// Address or route cannot be resolved.
    Unresolved,
    /// No answer.
    Unreachable,
    /// The peer, or its host, has said no.
    Rejected,
    /// It broke while it was made.
    Broken,
    Disconnected,
    AdapterGone,
}

/// One event.
#[derive(Debug)]
pub(in crate::verbs) struct Event {
    /// [`Identifier::token`] of whom it is for; of a request, the listener's.
    pub(in crate::verbs) token: usize,
    pub(in crate::verbs) happened: Happened,
    /// 0, or an error number of the system, or InfiniBand's reason of a rejection.
    pub(in crate::verbs) status: i32,
    /// What the peer has sent along, padded with zeros by some transports.
    pub(in crate::verbs) private: Vec<u8>,
    /// Reads that the peer wants to have under way to this end at once, and those that it serves.
    pub(in crate::verbs) reads: (u8, u8),
    /// The new connection of a request.
    pub(in crate::verbs) request: Option<Identifier>,
}

impl EventChannel {
    pub(in crate::verbs) fn open() -> Result<Arc<Self>, VerbError> {
        // SAFETY: no arguments.
        let raw = NonNull::new(unsafe { ibv::rdma_create_event_channel() });
        let channel = Self(raw.ok_or_else(|| VerbError::from_errno("rdma_create_event_channel"))?);
        // SAFETY: the channel's open descriptor.
        let returned = unsafe { libc::fcntl(channel.0.as_ref().fd, libc::F_SETFL, libc::O_NONBLOCK) };
        check("fcntl for the connection manager's events", returned)?;
        Ok(Arc::new(channel))
    }

    /// The next event, if there is one.
    pub(in crate::verbs) fn next(self: &Arc<Self>) -> Option<Event> {
        loop {
            let mut raw = null_mut();
            // SAFETY: an open channel, and a place for the event's address.
            if unsafe { ibv::rdma_get_cm_event(self.0.as_ptr(), &raw mut raw) } != 0 {
                return None;
            }
            // SAFETY: the library's event, until it is acknowledged below.
            let event = unsafe { self.copy(&*raw) };
            // SAFETY: as above; nothing of it is used afterwards.
            unsafe { ibv::rdma_ack_cm_event(raw) };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Copies an event out; `None` for those that say nothing of interest.
    ///
    /// # Safety
    /// An event of this channel that was not acknowledged.
    unsafe fn copy(self: &Arc<Self>, raw: &ibv::rdma_cm_event) -> Option<Event> {
        let happened = match raw.event {
            kind::RDMA_CM_EVENT_ADDR_RESOLVED => Happened::AddressResolved,
            kind::RDMA_CM_EVENT_ROUTE_RESOLVED => Happened::RouteResolved,
            kind::RDMA_CM_EVENT_CONNECT_REQUEST => Happened::Request,
            kind::RDMA_CM_EVENT_CONNECT_RESPONSE => Happened::Response,
            kind::RDMA_CM_EVENT_ESTABLISHED => Happened::Established,
            kind::RDMA_CM_EVENT_ADDR_ERROR | kind::RDMA_CM_EVENT_ROUTE_ERROR => Happened::Unresolved,
            kind::RDMA_CM_EVENT_UNREACHABLE => Happened::Unreachable,
            kind::RDMA_CM_EVENT_REJECTED => Happened::Rejected,
            kind::RDMA_CM_EVENT_CONNECT_ERROR => Happened::Broken,
            kind::RDMA_CM_EVENT_DISCONNECTED => Happened::Disconnected,
            kind::RDMA_CM_EVENT_DEVICE_REMOVAL => Happened::AdapterGone,
            _ => return None,
        };
        let id = NonNull::new(raw.id)?;
        let tells = matches!(
            happened,
            Happened::Request | Happened::Response | Happened::Established | Happened::Rejected
        );
        let (mut private, mut reads) = (Vec::new(), (0, 0));
        if tells {
            // SAFETY: these events are of connections, so the union holds a connection's parameters.
            let parameters = unsafe { &raw.param.conn };
            reads = (parameters.responder_resources, parameters.initiator_depth);
            let len_bytes = usize::from(parameters.private_data_len).min(PRIVATE_BYTES_MAX);
            if !parameters.private_data.is_null() {
                // SAFETY: the library's copy of the private data, of this length.
                let bytes =
                    unsafe { std::slice::from_raw_parts(parameters.private_data.cast::<u8>(), len_bytes) };
                private.extend_from_slice(bytes);
            }
        }
        let is_request = happened == Happened::Request;
        Some(Event {
            token: if is_request { raw.listen_id as usize } else { raw.id as usize },
            happened,
            status: raw.status,
            private,
            reads,
            request: is_request.then(|| Identifier { raw: id, channel: Arc::clone(self) }),
        })
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: created by `open`; its identifiers, which hold it, are gone, and all events are acknowledged.
        unsafe { ibv::rdma_destroy_event_channel(self.0.as_ptr()) };
    }
}

/// What both ends tell each other of reads, and the private data.
#[derive(Debug, Clone, Copy)]
pub(in crate::verbs) struct Terms<'a> {
    pub(in crate::verbs) qpn: u32,
    /// Reads that this end serves at once.
    pub(in crate::verbs) reads_served: u8,
    /// Reads that this end wants to have under way at once.
    pub(in crate::verbs) reads_asked: u8,
    pub(in crate::verbs) private: &'a [u8],
}

impl Terms<'_> {
    fn raw(&self) -> ibv::rdma_conn_param {
        ibv::rdma_conn_param {
            private_data: self.private.as_ptr().cast(),
            private_data_len: u8::try_from(self.private.len()).expect("records of a few bytes"),
            responder_resources: self.reads_served,
            initiator_depth: self.reads_asked,
            flow_control: 1,
            retry_count: super::queue_pair::RETRIES,
            rnr_retry_count: super::queue_pair::RNR_RETRIES,
            srq: 0,
            qp_num: self.qpn,
        }
    }
}

/// A socket of the RDMA connection manager. Dropping it ends its connection.
#[derive(Debug)]
pub(in crate::verbs) struct Identifier {
    raw: NonNull<ibv::rdma_cm_id>,
    channel: Arc<EventChannel>,
}

// SAFETY: as for `EventChannel`.
unsafe impl Send for Identifier {}

impl Identifier {
    pub(in crate::verbs) fn create(channel: &Arc<EventChannel>) -> Result<Self, VerbError> {
        let mut raw = null_mut();
        let space = ibv::rdma_port_space::RDMA_PS_TCP;
        // SAFETY: an open channel, and a place for the identifier's address.
        let returned = unsafe { ibv::rdma_create_id(channel.0.as_ptr(), &raw mut raw, null_mut(), space) };
        check("rdma_create_id", returned)?;
        let raw = NonNull::new(raw).ok_or_else(|| VerbError::from_number("rdma_create_id", libc::EIO))?;
        Ok(Self { raw, channel: Arc::clone(channel) })
    }

    /// What events call it, as long as it lives.
    pub(in crate::verbs) fn token(&self) -> usize {
        self.raw.as_ptr() as usize
    }

    /// Takes an address of this host; port 0 stands for any that is free.
    pub(in crate::verbs) fn bind(&self, to: SocketAddr) -> Result<(), VerbError> {
        let mut address = RawAddress::from(to);
        // SAFETY: an identifier of this process and a readable address.
        let returned = unsafe { ibv::rdma_bind_addr(self.raw.as_ptr(), address.as_mut_ptr()) };
        check(&format!("rdma_bind_addr to {to}"), returned)
    }

    /// The adapter and the port that the address belongs to.
    pub(in crate::verbs) fn adapter(&self) -> Option<(String, u8)> {
        // SAFETY: an identifier of this process, only read.
        let id = unsafe { self.raw.as_ref() };
        let context = NonNull::new(id.verbs)?;
        // SAFETY: the library's own open context, which lives as long as the identifier; the name is a string inside its device.
        let name = unsafe { CStr::from_ptr(ibv::ibv_get_device_name(context.as_ref().device)) };
        Some((name.to_string_lossy().into_owned(), id.port_num))
    }

    pub(in crate::verbs) fn listen(&self, backlog: u16) -> Result<(), VerbError> {
        // SAFETY: an identifier of this process.
        check("rdma_listen", unsafe { ibv::rdma_listen(self.raw.as_ptr(), c_int::from(backlog)) })
    }

    /// The own port.
    pub(in crate::verbs) fn port(&self) -> u16 {
        // SAFETY: an identifier of this process.
        u16::from_be(unsafe { ibv::rdma_get_src_port(self.raw.as_ptr()) })
    }

    /// The peer's address.
    pub(in crate::verbs) fn peer(&self) -> Option<IpAddr> {
        // SAFETY: an identifier of this process, only read; all members of the union are plain numbers.
        let storage = unsafe { self.raw.as_ref().route.addr.dst_addr_union.dst_storage };
        RawAddress(storage).ip()
    }

    pub(in crate::verbs) fn resolve_address(
        &self,
        from: IpAddr,
        to: SocketAddr,
        timeout_ms: u16,
    ) -> Result<(), VerbError> {
        let (mut own, mut peer) = (RawAddress::from(SocketAddr::new(from, 0)), RawAddress::from(to));
        // SAFETY: an identifier of this process and readable addresses.
        let returned = unsafe {
            ibv::rdma_resolve_addr(
                self.raw.as_ptr(),
                own.as_mut_ptr(),
                peer.as_mut_ptr(),
                c_int::from(timeout_ms),
            )
        };
        check(&format!("rdma_resolve_addr of {to} from {from}"), returned)
    }

    pub(in crate::verbs) fn resolve_route(&self, timeout_ms: u16) -> Result<(), VerbError> {
        // SAFETY: an identifier of this process, whose address is resolved.
        let returned = unsafe { ibv::rdma_resolve_route(self.raw.as_ptr(), c_int::from(timeout_ms)) };
        check("rdma_resolve_route", returned)
    }

    pub(in crate::verbs) fn connect(&self, terms: &Terms<'_>) -> Result<(), VerbError> {
        let mut parameters = terms.raw();
        // SAFETY: an identifier of this process; the private data lives during the call.
        check("rdma_connect", unsafe { ibv::rdma_connect(self.raw.as_ptr(), &raw mut parameters) })
    }

    pub(in crate::verbs) fn accept(&self, terms: &Terms<'_>) -> Result<(), VerbError> {
        let mut parameters = terms.raw();
        // SAFETY: as for `connect`.
        check("rdma_accept", unsafe { ibv::rdma_accept(self.raw.as_ptr(), &raw mut parameters) })
    }

    /// Refuses a request. That the peer may not hear of it is no error: it will not be accepted either.
    pub(in crate::verbs) fn reject(self, private: &[u8]) {
        let len_bytes = u8::try_from(private.len()).expect("records of a few bytes");
        // SAFETY: an identifier of this process; the private data lives during the call.
        unsafe { ibv::rdma_reject(self.raw.as_ptr(), private.as_ptr().cast(), len_bytes) };
    }

    /// Tells an InfiniBand or RoCE peer that this end is up.
    pub(in crate::verbs) fn establish(&self) -> Result<(), VerbError> {
        // SAFETY: an identifier of this process without a queue pair of the library's making.
        check("rdma_establish", unsafe { ibv::rdma_establish(self.raw.as_ptr()) })
    }

    /// What the connection manager knows of how to bring a queue pair to a state.
    pub(super) fn attributes(
        &self,
        state: ibv::ibv_qp_state::Type,
    ) -> Result<(ibv::ibv_qp_attr, c_int), VerbError> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut attributes: ibv::ibv_qp_attr = unsafe { std::mem::zeroed() };
        attributes.qp_state = state;
        let mut mask = 0;
        // SAFETY: an identifier of this process and places for the answers.
        let returned =
            unsafe { ibv::rdma_init_qp_attr(self.raw.as_ptr(), &raw mut attributes, &raw mut mask) };
        check("rdma_init_qp_attr", returned)?;
        Ok((attributes, mask))
    }
}

impl Drop for Identifier {
    fn drop(&mut self) {
        // SAFETY: created by `create` or handed over by a request; all its events are acknowledged. The channel, which it holds,
        // lives longer.
        let returned = unsafe { ibv::rdma_destroy_id(self.raw.as_ptr()) };
        debug_assert_eq!(returned, 0, "rdma_destroy_id on {:?}", self.channel);
    }
}

/// An address in the form of the C library.
struct RawAddress(libc::sockaddr_storage);

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: plain numbers, for which zero is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let start = (&raw mut storage).cast::<u8>();
        match address {
            SocketAddr::V4(address) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a storage has room for an address of any family, and is aligned for it.
                unsafe { start.cast::<libc::sockaddr_in>().write(raw) };
            }
            SocketAddr::V6(address) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: 0,
                };
                // SAFETY: as above.
                unsafe { start.cast::<libc::sockaddr_in6>().write(raw) };
            }
        }
        Self(storage)
    }
}

impl RawAddress {
    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.0).cast()
    }

    fn ip(&self) -> Option<IpAddr> {
        let start = &raw const self.0;
        match c_int::from(self.0.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what the storage holds.
                let raw = unsafe { start.cast::<libc::sockaddr_in>().read() };
                Some(Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { start.cast::<libc::sockaddr_in6>().read() };
                Some(Ipv6Addr::from(raw.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

/// The addresses of this host's network interfaces, without those that mean nothing elsewhere.
pub(in crate::verbs) fn local_addresses() -> Result<Vec<IpAddr>, VerbError> {
    let mut first: *mut libc::ifaddrs = null_mut();
    // SAFETY: a place for the list's address.
    check("getifaddrs", unsafe { libc::getifaddrs(&raw mut first) })?;
    let (mut found, mut next) = (Vec::new(), first);
    while let Some(entry) = NonNull::new(next) {
        // SAFETY: an entry of the list, which is freed below only.
        let entry = unsafe { entry.as_ref() };
        next = entry.ifa_next;
        let Some(address) = NonNull::new(entry.ifa_addr) else { continue };
        // SAFETY: an address of the list; its family says how long it is.
        let ip = unsafe {
            match c_int::from(address.as_ref().sa_family) {
                libc::AF_INET => {
                    let raw = address.cast::<libc::sockaddr_in>().read_unaligned();
                    IpAddr::V4(Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes()))
                }
                libc::AF_INET6 => {
                    let raw = address.cast::<libc::sockaddr_in6>().read_unaligned();
                    IpAddr::V6(Ipv6Addr::from(raw.sin6_addr.s6_addr))
                }
                _ => continue,
            }
        };
        let local = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        if !local && !found.contains(&ip) {
            found.push(ip);
        }
    }
    // SAFETY: the list of getifaddrs, of which nothing is used any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_c_library() {
        for text in ["10.77.0.1:4711", "[2001:db8::7]:1"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(RawAddress::from(address).ip(), Some(address.ip()));
        }
        assert!(local_addresses().expect("a list").iter().all(|ip| !ip.is_loopback()));
    }
}
