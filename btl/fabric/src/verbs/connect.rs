//! Connections: making them by datagrams, ending them, noticing that a peer has died. What the RDMA connection manager makes is
//! in `manager`.

use std::time::Duration;

use ironband_core::handshake::{Handshake, Heard, newer};
use ironband_core::wire::{Carrier, Datagram, DatagramKind, MessageKind, Offer};

use super::connection::{Closing, Connection, Peer};
use super::datagrams::Datagrams;
use super::device::VerbsDevice;
use super::dialogue::Dialogue;
use super::manager::Manager;
use super::object::{AddressHandle, Identifier, Path, QueuePair, Sizes, VerbError};
use super::receives::OwnReceives;
use super::works::{Underway, Works};
use crate::host;
use crate::{Completion, Posted, QueuePairNumber};

/// Connections that this process asks for at once; further ones wait.
pub(super) const ASKED_MAX: usize = 64;
/// Between looks at peers' lives.
const LIFE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a port may be down until its connections are given up. A link that blinks is back by then; an adapter that finds no
/// way to send at all may try for ever, and tell nobody.
const PORT_DOWN_MAX: Duration = Duration::from_secs(15);
/// How long a connection that was ended may take to send its last messages.
const CLOSING_MAX: Duration = Duration::from_secs(10);
/// How long a peer waits when no receive is posted: verbs' code for 0.64 ms.
const RNR_TIMER: u8 = 12;

/// How a device's connections are made.
#[derive(Debug)]
pub(super) enum Way {
    Datagrams(Box<Datagrams>),
    Manager(Box<Manager>),
}

impl VerbsDevice {
    pub(super) fn now(&self) -> Duration {
        self.opened.elapsed()
    }

    /// `Ok` when messages may be sent to a peer; else what a post returns. Begins to connect.
    #[inline]
    pub(super) fn make_ready(&mut self, qp: QueuePairNumber) -> Result<(), Posted> {
        match self.peers.get(qp.index()) {
            Some(peer) if peer.open && peer.is_usable() => Ok(()),
            _ => self.connect_first(qp),
        }
    }

    #[cold]
    fn connect_first(&mut self, qp: QueuePairNumber) -> Result<(), Posted> {
        let Some(peer) = self.peers.get_mut(qp.index()) else { return Err(Posted::Failed) };
        if !peer.is_usable() {
            return Err(Posted::Failed);
        }
        peer.wanted = true;
        // A caller that only posts and never polls gets its connection too.
        self.attend();
        let Some(peer) = self.peers.get(qp.index()) else { return Err(Posted::Failed) };
        if !peer.is_usable() {
            return Err(Posted::Failed);
        }
        if !peer.open && peer.handshake.is_none() && peer.dialogue.is_none() {
            self.ask(qp);
        }
        let peer = &self.peers[qp.index()];
        if !peer.is_usable() {
            return Err(Posted::Failed);
        }
        if peer.open { Ok(()) } else { Err(Posted::Busy) }
    }

    fn ask(&mut self, qp: QueuePairNumber) {
        let key = self.peers[qp.index()].card.key;
        let asked = |qp: &&QueuePairNumber| {
            self.peers[qp.index()].handshake.as_ref().is_some_and(|it| it.peer().is_none())
        };
        // The messages of the connection before arrive first.
        if self.is_closing(&key) {
            return;
        }
        if matches!(self.way, Way::Manager(_)) {
            return self.ask_manager(qp);
        }
        if self.under_way.iter().filter(asked).count() >= ASKED_MAX {
            return;
        }
        match self.make_connection(qp, None) {
            Ok(own) => {
                self.peers[qp.index()].handshake = Some(Handshake::ask(self.now(), own));
                self.under_way.push(qp);
                self.send_due(qp);
            }
            Err(error) => self.fail(qp, error.to_string()),
        }
    }

    fn is_closing(&self, key: &[u8; 16]) -> bool {
        self.closing.iter().any(|closing| !closing.delivers && closing.key == *key)
    }

    /// Makes a queue pair with its receives; `id` is the connection manager's, if that makes the connection.
    pub(super) fn make_connection(
        &mut self,
        qp: QueuePairNumber,
        id: Option<&Identifier>,
    ) -> Result<Offer, VerbError> {
        let connections = self.by_qpn.len() as u32 + 1;
        self.lives += 1;
        let depth = Works::depth(self.credits).min(self.domain.context().limits().send_queue_depth_max);
        let (credits, mut own_receives) = self.provide_receives(connections)?;
        let Some(cq) = &mut self.cq else {
            unreachable!("create_qp wants a completion queue, so one was created");
        };
        cq.grow(self.receives.count() + connections * depth)?;
        let receives = if self.receives.is_shared() { 0 } else { credits.into() };
        let sizes = Sizes { sends: depth, receives, inline_bytes: super::device::INLINE_BYTES };
        let queue_pair = QueuePair::reliable(&self.domain, cq, self.receives.queue(), sizes);
        // Before the peer hears of it: what it may send has to find receives.
        let queue_pair = queue_pair
            .and_then(|it| {
                match id.filter(|_| self.card.carrier == Carrier::Iwarp) {
                    Some(id) => it.initialise_by(id),
                    None => it.initialise(self.card.port),
                }
                .map(|()| it)
            })
            .and_then(|it| self.receives.post(&it, &mut own_receives).map(|()| it))
            .inspect_err(|_| self.receives.take_all_back(&own_receives))?;
        let limits = *self.domain.context().limits();
        let own = Offer {
            life: self.lives,
            qpn: queue_pair.number(),
            psn: self.random() & 0x00ff_ffff,
            mtu: self.card.mtu,
            reads: limits.reads_served.min(limits.reads_asked).max(1),
            rnr_timer: RNR_TIMER,
            credits,
        };
        self.by_qpn.insert(own.qpn, qp);
        let works = Works::new(depth, self.card.carrier != Carrier::Iwarp);
        self.peers[qp.index()].connection = Some(Connection::new(queue_pair, &own, works, own_receives));
        Ok(own)
    }

    /// Connects a queue pair with itself, for atomics of the adapter on this process's own memory. Nothing else goes
    /// over it.
    pub(super) fn connect_to_self(&mut self, qp: QueuePairNumber) -> Result<(), VerbError> {
        if self.peers[qp.index()].connection.is_some() {
            return Ok(());
        }
        let own = self.make_connection(qp, None)?;
        let path = self.path_to(qp);
        match &self.peers[qp.index()].connection {
            Some(connection) => connection.qp.connect(&own, &own, &path),
            None => Ok(()),
        }
    }

    /// Receives for one more connection: so many messages may be under way to it.
    fn provide_receives(&mut self, connections: u32) -> Result<(u16, OwnReceives), VerbError> {
        if self.receives.is_shared() {
            self.receives.provide(&self.domain, connections * u32::from(self.credits))?;
            return Ok((self.credits, OwnReceives::default()));
        }
        let credits = self.receives.share(self.credits);
        if self.receives.is_used_up() && !self.told_receives_used {
            self.told_receives_used = true;
            self.notices.push_back(format!(
                "the receive buffers of {} peers take all of memory_bytes / 2: further peers get {credits} buffers each beyond it; raise memory_bytes for more messages under way",
                connections - 1
            ));
        }
        Ok((credits, self.receives.grant(&self.domain, credits, self.lives)?))
    }

    fn random(&mut self) -> u32 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as u32
    }

    fn path_to(&self, qp: QueuePairNumber) -> Path {
        let card = &self.peers[qp.index()].card;
        Path {
            carrier: self.card.carrier,
            port: self.card.port,
            own_gid_index: self.gid_index,
            peer_gid: card.gid,
            peer_lid: card.lid,
        }
    }

    /// Looks after handshakes, connections that end, and peers' lives.
    pub(super) fn attend(&mut self) {
        if matches!(self.way, Way::Manager(_)) {
            self.attend_manager();
        }
        while let Way::Datagrams(datagrams) = &mut self.way
            && let Some(datagram) = datagrams.receive()
        {
            self.accept(&datagram);
        }
        if self.under_way.is_empty() && self.closing.is_empty() && !self.peers.iter().any(|peer| peer.wanted)
        {
            return;
        }
        let now = self.now();
        for qp in std::mem::take(&mut self.under_way) {
            self.send_due(qp);
            self.go_on(qp);
            let peer = &self.peers[qp.index()];
            let shakes = peer.handshake.as_ref().is_some_and(|handshake| !handshake.is_ready());
            if peer.is_usable() && (shakes || peer.dialogue.is_some()) && !self.under_way.contains(&qp) {
                self.under_way.push(qp);
                self.tell_slow(qp, now);
            }
        }
        self.end_closing(now);
        self.attend_lives();
    }

    /// Looks at peers' lives, if it is time.
    pub(super) fn attend_lives(&mut self) {
        let now = self.now();
        if now.saturating_sub(self.looked_at_lives) >= LIFE_INTERVAL {
            self.looked_at_lives = now;
            self.look_at_lives();
            self.look_at_port(now);
        }
    }

    fn tell_slow(&mut self, qp: QueuePairNumber, now: Duration) {
        let deadline = self.connect_deadline;
        let peer = &mut self.peers[qp.index()];
        let began = peer.dialogue.as_ref().map(|dialogue: &Dialogue| dialogue.began);
        let began = began.or(peer.handshake.as_ref().map(Handshake::began)).unwrap_or(now);
        if peer.told_slow || !peer.wanted || now.saturating_sub(began) < deadline {
            return;
        }
        peer.told_slow = true;
        let name = peer.name();
        match self.domain.context().port(self.card.port) {
            Ok(port) if port.is_active => self.notices.push_back(format!(
                "{name} has not answered for {} s (connect_seconds): it computes without calling the library, or what is sent to it gets lost{}; still waiting",
                deadline.as_secs(),
                self.gid_advice(qp)
            )),
            _ => self.fail(qp, format!("port {} is not active any more: look at the cable and the interface", self.name)),
        }
    }

    /// Sends what a handshake has to say now.
    fn send_due(&mut self, qp: QueuePairNumber) {
        let now = self.now();
        let Some(handshake) = &mut self.peers[qp.index()].handshake else { return };
        if let Some(kind) = handshake.due(now) {
            let (own, life) = (handshake.own(), handshake.peer_life());
            self.send_datagram(qp, kind, own, life);
        }
    }

    fn send_datagram(&mut self, qp: QueuePairNumber, kind: DatagramKind, offer: Offer, receiver_life: u32) {
        let path = self.path_to(qp);
        let peer = &mut self.peers[qp.index()];
        let (receiver_key, qpn, qkey) = (peer.card.key, peer.card.datagram_qpn, peer.card.qkey);
        let to = match peer.to.take() {
            Some(to) => Ok(to),
            None => AddressHandle::create(&self.domain, &path),
        };
        let datagram = Datagram { kind, receiver_key, receiver_life, offer, card: self.card.clone() };
        let Way::Datagrams(datagrams) = &mut self.way else { return };
        let sent = to.and_then(|to| {
            let sent = datagrams.send(&datagram, &to, qpn, qkey);
            self.peers[qp.index()].to = Some(to);
            sent
        });
        if let Err(error) = sent
            && kind != DatagramKind::Bye
        {
            self.fail(qp, error.to_string());
        }
    }

    /// Takes a datagram. Whoever does not know this process's job key is a stranger.
    fn accept(&mut self, datagram: &Datagram) {
        if datagram.receiver_key != self.card.key || datagram.card.key == self.card.key {
            return;
        }
        let (offer, key) = (datagram.offer, datagram.card.key);
        let (mut known, heard) = match self.by_key.get(&key) {
            Some(&(qp, heard)) => (Some(qp), heard),
            None => (None, 0),
        };
        known = known.filter(|qp| !self.peers[qp.index()].destroyed);
        if let Some(qp) = known
            && let Some(handshake) = &mut self.peers[qp.index()].handshake
        {
            let what = handshake.hear(datagram.kind, offer, datagram.receiver_life);
            self.note_life(key, qp, offer.life);
            match what {
                Heard::Numbers { peer, ready } => self.take_numbers(qp, peer, ready),
                Heard::Ready => self.peers[qp.index()].open = true,
                Heard::Bye => self.peer_ended(qp),
                Heard::Anew => {
                    self.set_aside(qp);
                    self.answer(qp, offer);
                }
                Heard::Nothing => {}
            }
            self.send_due(qp);
            return;
        }
        match datagram.kind {
            DatagramKind::Request if heard == 0 || newer(offer.life, heard) => {
                // Its own last connection to us may still have messages to bring.
                if self.is_closing(&key) {
                    return;
                }
                let qp = known.unwrap_or_else(|| self.add_peer(datagram.card.clone()));
                self.note_life(key, qp, offer.life);
                if self.peers[qp.index()].failure.is_some() {
                    self.send_datagram(qp, DatagramKind::Bye, offer, offer.life);
                } else {
                    self.answer(qp, offer);
                }
            }
            // It does not know yet that this end is gone.
            DatagramKind::Reply => {
                if let Some(&(qp, _)) = self.by_key.get(&key) {
                    let own = Offer { life: datagram.receiver_life.max(1), ..offer };
                    self.send_datagram(qp, DatagramKind::Bye, own, offer.life);
                }
            }
            _ => {}
        }
    }

    pub(super) fn note_life(&mut self, key: [u8; 16], qp: QueuePairNumber, life: u32) {
        let entry = self.by_key.entry(key).or_insert((qp, life));
        entry.0 = qp;
        if newer(life, entry.1) {
            entry.1 = life;
        }
    }

    /// A peer that asks before this process has heard of it.
    fn add_peer(&mut self, card: ironband_core::wire::VerbsCard) -> QueuePairNumber {
        let qp = QueuePairNumber(self.peers.len() as u32);
        let address = card.encode().to_vec();
        self.peers.push(Peer::new(card, address, false));
        qp
    }

    fn answer(&mut self, qp: QueuePairNumber, offer: Offer) {
        match self.make_connection(qp, None) {
            Ok(own) => {
                self.peers[qp.index()].handshake = Some(Handshake::answer(self.now(), own, offer));
                self.under_way.push(qp);
                self.take_numbers(qp, offer, false);
                self.send_due(qp);
            }
            Err(error) => self.fail(qp, error.to_string()),
        }
    }

    /// The peer's numbers are known: connects the queue pair.
    fn take_numbers(&mut self, qp: QueuePairNumber, offer: Offer, ready: bool) {
        let path = self.path_to(qp);
        let peer = &mut self.peers[qp.index()];
        let (Some(connection), Some(handshake)) = (&mut peer.connection, &peer.handshake) else { return };
        connection.accept(&offer);
        match connection.qp.connect(&handshake.own(), &offer, &path) {
            Ok(()) => peer.open = ready,
            Err(error) => self.fail(qp, error.to_string()),
        }
    }

    /// The peer has ended its end in order.
    pub(super) fn peer_ended(&mut self, qp: QueuePairNumber) {
        let peer = &mut self.peers[qp.index()];
        let refused = peer.handshake.take().is_some_and(|handshake| handshake.peer().is_none());
        peer.open = false;
        if refused {
            self.fail(qp, "it has given this connection up after an error of its own".to_owned());
            return;
        }
        peer.replies.clear();
        peer.wanted = false;
        self.drop_connection(qp);
    }

    /// Drops a connection's queue pair: nothing of it is under way any more.
    pub(super) fn drop_connection(&mut self, qp: QueuePairNumber) {
        if let Some(connection) = self.peers[qp.index()].connection.take() {
            self.bury(connection);
        }
    }

    pub(super) fn bury(&mut self, mut connection: Connection) {
        let qpn = connection.qpn;
        while let Some(what) = connection.works.drop_first() {
            if let Underway::Bounce(index) = what {
                self.ending.push(index);
            }
        }
        let own_receives = std::mem::take(&mut connection.receives);
        if let (Some(id), Way::Manager(manager)) = (&connection.id, &mut self.way) {
            manager.forget(id);
        }
        drop(connection);
        self.receives.take_all_back(&own_receives);
        self.rings.abandon(qpn);
        self.by_qpn.remove(&qpn);
        // Only now: until here the adapter could still read them, and write to the requests' memory.
        while let Some(index) = self.ending.pop() {
            self.bounces.give_back(index);
        }
        self.flush_requests(qpn);
    }

    /// The peer has begun anew: its last messages may still be on their way here.
    pub(super) fn set_aside(&mut self, qp: QueuePairNumber) {
        let deadline = self.now() + CLOSING_MAX;
        let peer = &mut self.peers[qp.index()];
        peer.open = false;
        peer.handshake = None;
        peer.replies.clear();
        let key = peer.card.key;
        if let Some(connection) = peer.connection.take() {
            self.closing.push(Closing { connection, qp, key, delivers: true, bye_sent: true, deadline });
        }
    }

    /// Ends a connection; what was sent still arrives.
    pub(super) fn close(&mut self, qp: QueuePairNumber) {
        let deadline = self.now() + CLOSING_MAX;
        let Some(peer) = self.peers.get_mut(qp.index()) else { return };
        if peer.destroyed {
            return;
        }
        peer.destroyed = true;
        peer.wanted = false;
        peer.replies.clear();
        // Nobody has to be told of the end of a queue pair that is connected with itself.
        let open = std::mem::replace(&mut peer.open, false) && !peer.own;
        let key = peer.card.key;
        let handshake = peer.handshake.take();
        if !open && peer.dialogue.is_some() {
            return self.drop_attempt(qp);
        }
        let Some(mut connection) = peer.connection.take() else { return };
        if open {
            self.abandon_requests(connection.qpn);
            // What is not posted yet never is.
            if let Some(partial) = connection.partial.take() {
                self.end_work(partial.request());
            }
            self.closing.push(Closing { connection, qp, key, delivers: false, bye_sent: false, deadline });
            self.end_closing(self.now());
        } else {
            self.bury(connection);
            if let Some(handshake) = handshake {
                self.send_datagram(qp, DatagramKind::Bye, handshake.own(), handshake.peer_life());
            }
        }
    }

    /// Sends the last message of connections that end, and gives up those that take too long.
    pub(super) fn end_closing(&mut self, now: Duration) {
        let mut late = Vec::new();
        for (index, closing) in self.closing.iter_mut().enumerate() {
            if now >= closing.deadline {
                late.push(index);
            } else if !closing.bye_sent
                && closing.connection.credits.may_send(true)
                && closing.connection.partial.is_none()
            {
                closing.bye_sent = true;
                if !super::complete::send_bye(closing) {
                    late.push(index);
                }
            }
        }
        for index in late.into_iter().rev() {
            let closing = self.closing.swap_remove(index);
            self.bury(closing.connection);
        }
    }

    /// Fails the connections to processes of this node that have died: what they were asked for never comes.
    fn look_at_lives(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            let used = peer.connection.is_some() || peer.wanted;
            if used
                && !peer.own
                && peer.is_usable()
                && peer.card.shares_process_numbers(&self.card)
                && !host::is_alive(peer.card.pid)
            {
                self.fail(QueuePairNumber(index as u32), "the process has ended".to_owned());
            }
        }
        let card = &self.card;
        let dead = |closing: &Closing, peers: &[Peer]| {
            let peer = &peers[closing.qp.index()].card;
            peer.shares_process_numbers(card) && !host::is_alive(peer.pid)
        };
        let gone: Vec<usize> =
            (0..self.closing.len()).filter(|&at| dead(&self.closing[at], &self.peers)).collect();
        for index in gone.into_iter().rev() {
            let closing = self.closing.swap_remove(index);
            self.bury(closing.connection);
        }
    }

    /// Gives all connections up when the port has been down for long.
    fn look_at_port(&mut self, now: Duration) {
        if self.domain.context().port(self.card.port).is_ok_and(|port| port.is_active) {
            self.port_down_since = None;
            return;
        }
        let since = *self.port_down_since.get_or_insert(now);
        if now.saturating_sub(since) < PORT_DOWN_MAX {
            return;
        }
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            if peer.connection.is_some() && !peer.own && peer.is_usable() {
                let (name, seconds) = (&self.name, PORT_DOWN_MAX.as_secs());
                let reason = format!(
                    "port {name} has not been active for {seconds} s: look at the cable and the interface"
                );
                self.fail(QueuePairNumber(index as u32), reason);
            }
        }
    }

    /// Puts a queue pair into the error state: everything on it completes as flushed, and the peer is told.
    pub(super) fn fail(&mut self, qp: QueuePairNumber, reason: String) {
        let text = format!("the connection to {} failed: {reason}", self.peers[qp.index()].name());
        self.give_up(qp, text);
    }

    /// The same, in words that name the peer already.
    pub(super) fn give_up(&mut self, qp: QueuePairNumber, text: String) {
        let peer = &mut self.peers[qp.index()];
        if !peer.is_usable() {
            return;
        }
        peer.failure = Some(text);
        peer.open = false;
        peer.wanted = false;
        peer.replies.clear();
        let handshake = peer.handshake.take();
        self.drop_attempt(qp);
        if let Some(handshake) = handshake {
            self.send_datagram(qp, DatagramKind::Bye, handshake.own(), handshake.peer_life());
        }
        self.done.push_back(Completion::Disconnected { qp });
    }

    /// Tells the peer of its credits, if there is reason to.
    pub(super) fn return_credits(&mut self, qp: QueuePairNumber) {
        let due =
            |connection: &Connection| connection.credits.owes_much() && connection.credits.may_send(true);
        let peer = &self.peers[qp.index()];
        if peer.open && peer.connection.as_ref().is_some_and(due) {
            let _ = self.transmit(qp, MessageKind::Credits, 0, &[], &[]);
        }
    }
}
