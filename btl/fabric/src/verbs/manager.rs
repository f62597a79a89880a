//! Connections made by the RDMA connection manager: the only way on iWARP, on request on RoCE.
//!
//! Each device has one identifier that listens, at a port of its own address; the card carries both. Who connects sends a
//! [`Greeting`] along, who accepts an [`Answer`], and then the connector's first message is its card. Until that has come the
//! acceptor sends nothing: on iWARP it may not, and elsewhere it is the proof that both ends are up.
//!
//! Nothing here waits: all calls return at once, and what has become of them is read from the event channel now and then. The
//! one exception is not ours: Soft-iWARP's kernel module makes its TCP connection inside `rdma_connect`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ironband_core::arbitration::{Standing, Verdict, judge};
use ironband_core::gid::GidEntry;
use ironband_core::ports::PortName;
use ironband_core::wire::{
    Answer, Carrier, Greeting, LANDING_BYTES, Landing, MessageKind, Offer, Refusal, VERBS_CARD_BYTES,
    VerbsCard,
};

use super::connect::{ASKED_MAX, Way};
use super::connection::{Connection, Peer};
use super::device::VerbsDevice;
use super::dialogue::{Cause, Dialogue, Incoming, Next, Stage, gid_of, ip_of, provisional_card};
use super::nudges::Unheard;
use super::object::{Event, EventChannel, Happened, Identifier, Terms, local_addresses};
use crate::{DeviceError, Posted, QueuePairNumber};

/// Between looks at the event channel while nothing is being made: a look is a system call.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// How long the kernel may try to resolve an address or a route.
const RESOLVE_MS: u16 = 2000;
/// Requests that the kernel keeps for a process that does not poll; further ones are turned down, and repeated.
const BACKLOG: u16 = 256;
/// Ports that are tried until one is found at which one can listen.
const PORTS_TRIED_MAX: usize = 64;

/// The first message of a connection: the card, and the landing line.
pub(super) const HELLO_BYTES: usize = VERBS_CARD_BYTES + LANDING_BYTES;

/// What a device has of the connection manager.
#[derive(Debug)]
pub(super) struct Manager {
    listener: Identifier,
    channel: Arc<EventChannel>,
    address: IpAddr,
    is_iwarp: bool,
    incoming: Vec<Incoming>,
    /// Given up before the answer came. An iWARP identifier cannot be destroyed before without waiting for it.
    dying: Vec<Connection>,
    /// On Soft-iWARP.
    unheard: Vec<Unheard>,
    /// Of all identifiers but the listener.
    tokens: HashMap<usize, QueuePairNumber>,
    looked: Duration,
}

/// The address of a port, and an identifier bound to it.
fn bind(
    channel: &Arc<EventChannel>,
    name: &PortName,
    own: &GidEntry,
) -> Result<(IpAddr, Identifier), String> {
    let candidates = match own.carrier {
        Carrier::Iwarp => {
            let mut all = local_addresses().map_err(|error| error.to_string())?;
            all.sort_by_key(IpAddr::is_ipv6);
            all
        }
        Carrier::RoceV2 => match ip_of(&own.bytes) {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                return Err(format!(
                    "GID {ip} of {name} is link-local, and the connection manager needs an address that means the same everywhere: give the network interface an IP address"
                ));
            }
            ip => vec![ip],
        },
        Carrier::InfiniBand | Carrier::RoceV1 => {
            return Err(format!(
                "{name} speaks {}, whose connections are made by datagrams: set connect to datagram, or to auto, which knows",
                own.carrier.name()
            ));
        }
    };
    for ip in &candidates {
        let id = Identifier::create(channel).map_err(|error| error.to_string())?;
        let wanted = (name.adapter.clone(), name.port);
        if id.bind(SocketAddr::new(*ip, 0)).is_ok() && id.adapter().as_ref() == Some(&wanted) {
            return Ok((*ip, id));
        }
    }
    let tried: Vec<String> = candidates.iter().map(IpAddr::to_string).collect();
    Err(format!(
        "no IP address of this host belongs to {name} (its addresses: {}): give the network interface of the adapter one",
        tried.join(", ")
    ))
}

/// The IP address at which the connection manager would reach a port.
pub(super) fn address_of(name: &PortName, own: &GidEntry) -> Result<IpAddr, String> {
    let channel = EventChannel::open().map_err(|error| no_manager(&error.to_string()))?;
    bind(&channel, name, own).map(|(ip, _)| ip)
}

/// Listens at a port of its own choice. The kernel's connection manager knows which ports it has handed out itself; iWARP
/// connections are TCP, though, and whether a TCP socket has the port is only seen when listening. Those that are taken stay
/// bound meanwhile, so that each try gets another.
fn listen(
    channel: &Arc<EventChannel>,
    name: &PortName,
    own: &GidEntry,
) -> Result<(IpAddr, Identifier), DeviceError> {
    let mut taken = Vec::new();
    loop {
        let (address, id) = bind(channel, name, own).map_err(|reason| unusable(name, reason))?;
        match id.listen(BACKLOG) {
            Ok(()) => return Ok((address, id)),
            Err(error) if error.number == libc::EADDRINUSE && taken.len() < PORTS_TRIED_MAX => {
                tracing::debug!("a TCP socket has port {} of {address}: trying another", id.port());
                taken.push(id);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn unusable(name: &PortName, reason: String) -> DeviceError {
    DeviceError::System {
        call: format!("connecting by the RDMA connection manager on {name}"),
        reason,
        fix: "ironband doctor shows the state of all ports".to_owned(),
    }
}

fn no_manager(reason: &str) -> String {
    format!(
        "{reason}: load the kernel module rdma_ucm, and make /dev/infiniband/rdma_cm readable and writable"
    )
}

impl Manager {
    pub(super) fn open(name: &PortName, own: &GidEntry) -> Result<Self, DeviceError> {
        let channel = EventChannel::open().map_err(|error| unusable(name, no_manager(&error.to_string())))?;
        let (address, listener) = listen(&channel, name, own)?;
        Ok(Self {
            listener,
            channel,
            address,
            is_iwarp: own.carrier == Carrier::Iwarp,
            incoming: Vec::new(),
            dying: Vec::new(),
            unheard: Vec::new(),
            tokens: HashMap::new(),
            looked: Duration::ZERO,
        })
    }

    pub(super) fn listen_port(&self) -> u16 {
        self.listener.port()
    }

    /// The GID of its address.
    pub(super) fn gid(&self) -> [u8; 16] {
        gid_of(self.address)
    }

    /// True while something is being made or ended.
    pub(super) fn is_restless(&self) -> bool {
        !self.incoming.is_empty() || !self.dying.is_empty() || !self.unheard.is_empty()
    }

    pub(super) fn forget(&mut self, id: &Identifier) {
        self.tokens.remove(&id.token());
    }
}

/// Where a peer listens, for a message.
fn listens_at(card: &VerbsCard) -> String {
    SocketAddr::new(ip_of(&card.gid), card.listen_port).to_string()
}

impl VerbsDevice {
    fn manager(&mut self) -> Option<&mut Manager> {
        match &mut self.way {
            Way::Manager(manager) => Some(manager),
            Way::Datagrams(_) => None,
        }
    }

    /// Reads what has happened, if it is time to.
    pub(super) fn attend_manager(&mut self) {
        let now = self.now();
        let restless = !self.under_way.is_empty() || !self.closing.is_empty();
        let Some(manager) = self.manager() else { return };
        if !restless && !manager.is_restless() && now.saturating_sub(manager.looked) < LOOK_INTERVAL {
            return;
        }
        manager.looked = now;
        let channel = Arc::clone(&manager.channel);
        while let Some(event) = channel.next() {
            self.take_event(event);
        }
        self.decide_on_requests();
        self.nudge_unheard(now);
    }

    fn nudge_unheard(&mut self, now: Duration) {
        let Some(manager) = self.manager().filter(|manager| !manager.unheard.is_empty()) else { return };
        let mut unheard = std::mem::take(&mut manager.unheard);
        self.nudge(&mut unheard, now);
        if let Some(manager) = self.manager() {
            manager.unheard = unheard;
        }
    }

    /// Begins to connect to a peer.
    pub(super) fn ask_manager(&mut self, qp: QueuePairNumber) {
        let asking =
            |qp: &&QueuePairNumber| self.peers[qp.index()].dialogue.as_ref().is_some_and(Dialogue::is_asking);
        if self.under_way.iter().filter(asking).count() >= ASKED_MAX {
            return;
        }
        let dialogue = Dialogue::begin(self.now(), Stage::Resting);
        self.peers[qp.index()].dialogue = Some(dialogue);
        self.under_way.push(qp);
        self.go_on(qp);
    }

    /// Does what is due in a dialogue, apart from events.
    pub(super) fn go_on(&mut self, qp: QueuePairNumber) {
        let now = self.now();
        let Some(dialogue) = &self.peers[qp.index()].dialogue else { return };
        match dialogue.stage {
            Stage::Introduce => self.introduce(qp),
            Stage::Resting if now >= dialogue.next => self.begin_attempt(qp),
            _ => {}
        }
    }

    fn begin_attempt(&mut self, qp: QueuePairNumber) {
        let Some(manager) = self.manager() else { return };
        let (channel, address) = (Arc::clone(&manager.channel), manager.address);
        let card = &self.peers[qp.index()].card;
        let to = SocketAddr::new(ip_of(&card.gid), card.listen_port);
        let id = match Identifier::create(&channel) {
            Ok(id) => id,
            Err(error) => return self.fail(qp, error.to_string()),
        };
        if let Err(error) = id.resolve_address(address, to, RESOLVE_MS) {
            return self.attempt_failed(qp, Cause::of_call(error.number));
        }
        if let Some(manager) = self.manager() {
            manager.tokens.insert(id.token(), qp);
        }
        if let Some(dialogue) = &mut self.peers[qp.index()].dialogue {
            dialogue.stage = Stage::Address;
            dialogue.id = Some(id);
        }
    }

    fn take_event(&mut self, mut event: Event) {
        if let Some(id) = event.request.take() {
            return self.take_request(id, &event);
        }
        let Some(manager) = self.manager() else { return };
        let is_iwarp = manager.is_iwarp;
        let Some(&qp) = manager.tokens.get(&event.token) else { return };
        let of_event = |id: Option<&Identifier>| id.is_some_and(|id| id.token() == event.token);
        if let Some(at) = manager.dying.iter().position(|connection| of_event(connection.id.as_ref())) {
            let connection = manager.dying.swap_remove(at);
            return self.bury(connection);
        }
        let peer = &mut self.peers[qp.index()];
        let stage = peer.dialogue.as_ref().filter(|it| of_event(it.id.as_ref())).map(|it| it.stage);
        match (event.happened, stage) {
            (Happened::AdapterGone, _) => {
                self.fail(qp, format!("the adapter of {} was removed", self.name));
            }
            (Happened::AddressResolved, Some(Stage::Address)) => self.resolve_route(qp),
            (Happened::RouteResolved, Some(Stage::Route)) => self.connect_attempt(qp),
            (Happened::Response | Happened::Established, Some(Stage::Answer)) => self.take_answer(qp, &event),
            (Happened::AddressResolved | Happened::RouteResolved | Happened::Response, _) => {}
            // Of who has accepted: the peer's first message says more.
            (Happened::Established, _) => {}
            (_, Some(_)) => self.attempt_failed(qp, Cause::of(&event, is_iwarp)),
            (_, None) => self.take_disconnected(qp, event.token),
        }
    }

    fn resolve_route(&mut self, qp: QueuePairNumber) {
        let Some(dialogue) = &mut self.peers[qp.index()].dialogue else { return };
        let Some(id) = &dialogue.id else { return };
        match id.resolve_route(RESOLVE_MS) {
            Ok(()) => dialogue.stage = Stage::Route,
            Err(error) => self.attempt_failed(qp, Cause::of_call(error.number)),
        }
    }

    /// The way is known: makes a queue pair and asks.
    fn connect_attempt(&mut self, qp: QueuePairNumber) {
        let Some(id) = self.peers[qp.index()].dialogue.as_mut().and_then(|it| it.id.take()) else { return };
        let own = self.make_connection(qp, Some(&id));
        let peer = &mut self.peers[qp.index()];
        let Some(dialogue) = &mut peer.dialogue else { return };
        let own = match own {
            Ok(own) => own,
            Err(error) => {
                dialogue.id = Some(id);
                return self.fail(qp, error.to_string());
            }
        };
        let greeting = Greeting {
            receiver_key: peer.card.key,
            sender_key: self.card.key,
            offer: Offer { qpn: 0, psn: 0, ..own },
            pid: self.card.pid,
            rank: self.card.rank,
        };
        let private = greeting.encode();
        let terms =
            Terms { qpn: own.qpn, reads_served: own.reads, reads_asked: own.reads, private: &private };
        let asked = id.connect(&terms);
        (dialogue.id, dialogue.own) = (Some(id), Some(own));
        match asked {
            Ok(()) => dialogue.stage = Stage::Answer,
            Err(error) => self.attempt_failed(qp, Cause::of_call(error.number)),
        }
    }

    /// The peer has accepted.
    fn take_answer(&mut self, qp: QueuePairNumber, event: &Event) {
        let Some(answer) = Answer::decode(&event.private) else {
            return self
                .fail(qp, "its answer makes no sense: install the same release everywhere".to_owned());
        };
        // A request of its own, which it has dropped for this one, may still wait here: now it is known to be old.
        self.note_life(self.peers[qp.index()].card.key, qp, answer.offer.life);
        let peer = &mut self.peers[qp.index()];
        let (Some(dialogue), Some(connection)) = (&mut peer.dialogue, &mut peer.connection) else { return };
        let (Some(id), Some(own)) = (dialogue.id.take(), dialogue.own) else { return };
        dialogue.stage = Stage::Introduce;
        connection.accept(&answer.offer);
        connection.landing = answer.landing;
        let up = if event.happened == Happened::Response {
            connection.qp.connect_by(&id, &own, &answer.offer).and_then(|()| id.establish())
        } else {
            Ok(())
        };
        connection.id = Some(id);
        match up {
            Ok(()) => self.introduce(qp),
            Err(error) => self.fail(qp, error.to_string()),
        }
    }

    /// Sends the first message of a connection.
    fn introduce(&mut self, qp: QueuePairNumber) {
        let (card, landing) = (self.card.encode(), self.own_landing().encode());
        if self.transmit(qp, MessageKind::Hello, 0, &card, &landing) == Posted::Complete {
            let peer = &mut self.peers[qp.index()];
            peer.dialogue = None;
            peer.open = true;
            let qpn = peer.connection.as_ref().map(|connection| connection.qpn);
            let (now, unheard) = (self.now(), self.is_soft_iwarp);
            if let (Some(qpn), Some(manager)) = (qpn.filter(|_| unheard), self.manager()) {
                manager.unheard.push(Unheard::new(qp, qpn, now));
            }
        }
    }

    fn own_landing(&self) -> Landing {
        self.landing.as_ref().map(super::landing::Landing::of_peers).unwrap_or_default()
    }

    /// The peer's first message.
    pub(super) fn take_hello(
        &mut self,
        qp: QueuePairNumber,
        hello: &[u8; HELLO_BYTES],
    ) -> Result<(), &'static str> {
        let (card, landing) = hello.split_at(VERBS_CARD_BYTES);
        let landing: [u8; LANDING_BYTES] = std::array::from_fn(|at| landing[at]);
        let peer = &mut self.peers[qp.index()];
        let waits = peer.dialogue.as_ref().is_some_and(|dialogue| dialogue.stage == Stage::Hello);
        let known = VerbsCard::decode(card).ok().filter(|known| waits && known.key == peer.card.key);
        let known =
            known.ok_or("it broke the protocol: its first message is not the card of who has asked")?;
        if peer.address.is_empty() {
            (peer.card, peer.address) = (known, card.to_vec());
        }
        if let Some(connection) = &mut peer.connection {
            connection.landing = Landing::decode(&landing);
        }
        peer.dialogue = None;
        peer.open = true;
        Ok(())
    }

    fn attempt_failed(&mut self, qp: QueuePairNumber, cause: Cause) {
        let (now, deadline) = (self.now(), self.connect_deadline);
        let Some(dialogue) = &self.peers[qp.index()].dialogue else { return };
        let is_late = now.saturating_sub(dialogue.began) >= deadline;
        let give_up = match cause.next() {
            Next::Repeat => false,
            Next::RepeatUntilDeadline => is_late,
            Next::GiveUp => true,
        };
        if give_up {
            let to = listens_at(&self.peers[qp.index()].card);
            let Some(from) = self.manager().map(|manager| manager.address) else { return };
            return self.fail(qp, cause.text(from, &to));
        }
        // The event that has come was the last of this identifier.
        let peer = &mut self.peers[qp.index()];
        let Some(mut dialogue) = peer.dialogue.take() else { return };
        self.drop_identifier(dialogue.id.take());
        self.drop_connection(qp);
        dialogue.rest(now);
        self.peers[qp.index()].dialogue = Some(dialogue);
    }

    fn drop_identifier(&mut self, id: Option<Identifier>) {
        if let (Some(id), Some(manager)) = (id, self.manager()) {
            manager.forget(&id);
        }
    }

    /// Ends what there is of a connection that does not stand yet.
    pub(super) fn drop_attempt(&mut self, qp: QueuePairNumber) {
        let peer = &mut self.peers[qp.index()];
        let dialogue = peer.dialogue.take();
        let connection = peer.connection.take();
        let Some(mut dialogue) = dialogue else {
            if let Some(connection) = connection {
                self.bury(connection);
            }
            return;
        };
        let id = dialogue.id.take();
        match (connection, self.manager()) {
            (Some(mut connection), Some(manager)) if manager.is_iwarp && dialogue.stage == Stage::Answer => {
                connection.id = id;
                manager.dying.push(connection);
            }
            (connection, _) => {
                self.drop_identifier(id);
                if let Some(connection) = connection {
                    self.bury(connection);
                }
            }
        }
    }

    /// The other end of a connection that stands, or stood, is gone.
    fn take_disconnected(&mut self, qp: QueuePairNumber, token: usize) {
        // What the peer has sent before, its goodbye too, lies in the completion queue by now.
        self.pump();
        let of_event = |connection: &Connection| connection.id.as_ref().is_some_and(|id| id.token() == token);
        if self.peers[qp.index()].connection.as_ref().is_some_and(of_event) {
            self.fail_disconnected(qp);
        } else if let Some(at) = self.closing.iter().position(|closing| of_event(&closing.connection)) {
            let closing = self.closing.swap_remove(at);
            self.bury(closing.connection);
        }
    }

    /// A connection has broken off without a word.
    pub(super) fn fail_disconnected(&mut self, qp: QueuePairNumber) {
        if self.peers[qp.index()].dialogue.as_ref().is_some_and(|it| it.stage == Stage::Hello) {
            self.drop_attempt(qp);
        } else {
            self.fail(qp, "its end of the connection is gone: the process has ended, or it has given the connection up after an error (a remote access that was refused, for example); look at its messages".to_owned());
        }
    }

    /// A peer's request. Whoever does not know this process's job key learns that, and nothing else.
    fn take_request(&mut self, id: Identifier, event: &Event) {
        let own_key = self.card.key;
        let greeting = Greeting::decode(&event.private);
        match (greeting, self.manager()) {
            (Some(greeting), _) if greeting.receiver_key != own_key || greeting.sender_key == own_key => {
                id.reject(&Refusal::Stranger.encode());
            }
            (Some(greeting), Some(manager)) => {
                manager.incoming.push(Incoming { id, greeting, reads: event.reads });
            }
            _ => id.reject(&[]),
        }
    }

    fn decide_on_requests(&mut self) {
        let Some(manager) = self.manager() else { return };
        let mut undecided = std::mem::take(&mut manager.incoming);
        let mut waiting = Vec::new();
        for incoming in undecided.drain(..) {
            match self.decide(&incoming.greeting) {
                Verdict::Accept => self.accept_request(incoming),
                Verdict::Wait | Verdict::SetAside => waiting.push(incoming),
                Verdict::OursCounts => incoming.id.reject(&Refusal::OursCounts.encode()),
                Verdict::Failed => incoming.id.reject(&Refusal::Failed.encode()),
                Verdict::Stale => incoming.id.reject(&Refusal::Stale.encode()),
            }
        }
        if let Some(manager) = self.manager() {
            manager.incoming.append(&mut waiting);
        }
    }

    /// What becomes of a request; a connection that it replaces is put aside.
    fn decide(&mut self, greeting: &Greeting) -> Verdict {
        let key = greeting.sender_key;
        let (known, heard) = self.by_key.get(&key).map_or((None, 0), |&(qp, heard)| (Some(qp), heard));
        let known = known.filter(|qp| !self.peers[qp.index()].destroyed);
        let closing = self.closing.iter().find(|closing| closing.key == key).map(|closing| closing.delivers);
        let standing = match (closing, known.map(|qp| &self.peers[qp.index()])) {
            (Some(true), _) => Standing::Delivering,
            (Some(false), _) => Standing::Closing,
            (None, None) => Standing::Free,
            (None, Some(peer)) if peer.failure.is_some() => Standing::Failed,
            (None, Some(peer)) => match peer.dialogue.as_ref().map(|it| it.stage) {
                Some(Stage::Resting) => Standing::Free,
                Some(Stage::Hello) => Standing::Accepted,
                Some(Stage::Introduce) => Standing::Connected,
                Some(_) => Standing::Asking,
                None if peer.connection.is_some() => Standing::Connected,
                None => Standing::Free,
            },
        };
        let verdict = judge(standing, &self.card.key, &key, heard, greeting.offer.life);
        // An iWARP attempt cannot be given up before its answer has come. It is refused soon: by the same verdict, over there.
        let asked = |qp: QueuePairNumber| {
            self.peers[qp.index()].dialogue.as_ref().is_some_and(|it| it.stage == Stage::Answer)
        };
        if verdict == Verdict::Accept && self.card.carrier == Carrier::Iwarp && known.is_some_and(asked) {
            return Verdict::Wait;
        }
        if let (Verdict::SetAside, Some(qp)) = (verdict, known) {
            // What it has to say lies in the completion queue, or is on its way.
            self.pump();
            self.set_aside(qp);
        }
        verdict
    }

    fn accept_request(&mut self, incoming: Incoming) {
        let Incoming { id, greeting, reads } = incoming;
        let key = greeting.sender_key;
        let known = self.by_key.get(&key).map(|(qp, _)| *qp);
        let known = known.filter(|qp| !self.peers[qp.index()].destroyed);
        let qp = known.unwrap_or_else(|| {
            let card = provisional_card(&self.card, &greeting, id.peer());
            self.peers.push(Peer::new(card, Vec::new(), false));
            QueuePairNumber(self.peers.len() as u32 - 1)
        });
        self.note_life(key, qp, greeting.offer.life);
        self.drop_attempt(qp);
        let own = match self.make_connection(qp, Some(&id)) {
            Ok(own) => own,
            Err(error) => {
                id.reject(&Refusal::Failed.encode());
                return self.fail(qp, error.to_string());
            }
        };
        let Some(manager) = self.manager() else { return };
        manager.tokens.insert(id.token(), qp);
        let is_iwarp = manager.is_iwarp;
        let (now, landing) = (self.now(), self.own_landing());
        let peer = &mut self.peers[qp.index()];
        let Some(connection) = &mut peer.connection else { return };
        connection.accept(&greeting.offer);
        let ready = if is_iwarp { Ok(()) } else { connection.qp.connect_by(&id, &own, &greeting.offer) };
        let private = Answer { offer: Offer { qpn: 0, psn: 0, ..own }, landing }.encode();
        let least = |wanted: u8| if wanted == 0 { own.reads } else { own.reads.min(wanted) };
        let terms = Terms {
            qpn: own.qpn,
            reads_served: least(reads.0),
            reads_asked: least(reads.1),
            private: &private,
        };
        let accepted = ready.and_then(|()| id.accept(&terms));
        connection.id = Some(id);
        peer.dialogue = Some(Dialogue::begin(now, Stage::Hello));
        if accepted.is_err() {
            // Who has asked is gone by now, or asks again.
            return self.drop_attempt(qp);
        }
        self.under_way.push(qp);
    }
}
