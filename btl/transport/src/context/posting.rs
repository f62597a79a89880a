//! What goes to the devices: messages that wait, and transfers.

use std::collections::BTreeSet;

use ironband_core::protocol::{Handle, Post, Transfer};
use ironband_core::wire::message::{FAREWELL_HEADER_BYTES, FAREWELL_TEXT_BYTES_MAX, Kind, Memory};
use ironband_fabric::{Access, Posted, ReadHint, RemoteAddress, WorkId};

use super::Context;
use super::devices::Registered;
use super::state::{InFlight, Link, Moving, State};

/// So many requests that nobody waits for are looked at each time.
const ORPHANS_FEW: usize = 16;
/// More of them so often.
const ORPHANS_INTERVAL: u32 = 256;

/// What a transfer needs that it does not have now.
enum Start {
    /// It has begun, or ended.
    Begun,
    /// The device is full: the rest has to wait.
    Later(Moving),
}

impl Context {
    /// Says what is to be said, and starts what is to be started, as far as the devices have room.
    pub(super) fn go_on(&self) {
        let mut state = self.state.borrow_mut();
        self.go_on_with(&mut state);
        // The program's types may call the context when they are dropped.
        let owners = std::mem::take(&mut state.to_drop);
        drop(state);
        drop(owners);
        let postponed = std::mem::take(&mut self.state.borrow_mut().postponed);
        // One that has no room holds up those behind it.
        let mut is_full = BTreeSet::new();
        for (rank, id, data) in postponed {
            // Who is lost does not get it.
            if is_full.contains(&rank) || self.try_active(rank, id, &data) == Ok(false) {
                is_full.insert(rank);
                self.state.borrow_mut().postponed.push((rank, id, data));
            }
        }
    }

    fn go_on_with(&self, state: &mut State) {
        self.put_away_orphans(state);
        if !state.farewells.is_empty() {
            self.say_farewells(state);
        }
        self.start_transfers(state);
        self.say_news(state);
    }

    /// Starts what is to be started. What stalled is older.
    pub(super) fn start_transfers(&self, state: &mut State) {
        for _ in 0..state.stalled.len() {
            let Some(moving) = state.stalled.pop_front() else { break };
            if let Start::Later(rest) = self.start(state, moving) {
                state.stalled.push_back(rest);
            }
        }
        while let Some(transfer) = state.protocol.next_transfer() {
            if let Start::Later(rest) = self.start(state, Moving { transfer, moved_bytes: 0 }) {
                state.stalled.push_back(rest);
            }
        }
    }

    /// Posts what waits for peers.
    pub(super) fn say_news(&self, state: &mut State) {
        let mut at = 0;
        while let Some(rank) = state.protocol.talker(at) {
            if self.say(state, rank) {
                state.protocol.fell_silent(at);
            } else {
                at += 1;
            }
        }
    }

    /// Posts what waits for one peer; true when that is all of it.
    fn say(&self, state: &mut State, rank: u32) -> bool {
        let Some(link) = state.link(rank) else { return true };
        while let Some(post) = state.protocol.next_post(rank) {
            match self.post(state, link, &post) {
                Posted::Complete | Posted::Queued => state.protocol.posted(rank),
                Posted::Busy => return false,
                Posted::Failed => {
                    let reason = self.devices[link.device].failure(link.qp).unwrap_or_default();
                    self.give_up(state, rank, reason);
                }
            }
        }
        true
    }

    fn post(&self, state: &mut State, link: Link, post: &Post) -> Posted {
        let device = &self.devices[link.device];
        if let Some(key) = post.announced_key {
            return device.send_announcing(link.qp, post.immediate, post.header(), key);
        }
        let payload = match post.payload {
            Some((send, offset, len_bytes)) => {
                state.protocol.send_body(send).map_or(&[][..], |body| body.part(offset, len_bytes))
            }
            None => &[],
        };
        device.send_short(link.qp, post.immediate, post.header(), payload)
    }

    fn start(&self, state: &mut State, moving: Moving) -> Start {
        match moving.transfer {
            Transfer::Read { receive, peer, memory, len_bytes } => {
                let Some(link) = state.link(peer).filter(|_| !state.protocol.is_lost(peer)) else {
                    state.protocol.read_ended(receive, false);
                    return Start::Begun;
                };
                if !self.register_receive(state, receive, link, Access::LOCAL, len_bytes) {
                    state.protocol.read_impossible(receive);
                    return Start::Begun;
                }
                self.move_parts(state, moving, link, memory, len_bytes)
            }
            Transfer::Expose { receive, peer, len_bytes } => {
                let memory = self.expose_receive(state, receive, peer, len_bytes);
                state.protocol.exposed(receive, memory);
                Start::Begun
            }
            Transfer::Write { send, peer, memory, len_bytes } => {
                let Some(link) = state.link(peer).filter(|_| !state.protocol.is_lost(peer)) else {
                    state.protocol.write_ended(send, false);
                    return Start::Begun;
                };
                self.move_parts(state, moving, link, memory, len_bytes)
            }
        }
    }

    /// Has a message moved, as much at a time as the device takes: the next part when the one before has ended.
    fn move_parts(
        &self,
        state: &mut State,
        mut moving: Moving,
        link: Link,
        memory: Memory,
        len_bytes: u64,
    ) -> Start {
        let part_max = self.devices[link.device].capabilities().limits.rdma_bytes_max as u64;
        loop {
            let part_bytes = (len_bytes - moving.moved_bytes).min(part_max);
            let behind = Moving { moved_bytes: moving.moved_bytes + part_bytes, ..moving };
            let remote =
                RemoteAddress { address: memory.address.wrapping_add(moving.moved_bytes), key: memory.key };
            let id = state.in_flight.insert(InFlight::Part(behind));
            let posted = self.post_part(state, moving, link, WorkId(id.to_wire()), remote, part_bytes);
            if posted != Posted::Queued {
                state.in_flight.remove(id);
            }
            match posted {
                Posted::Queued => return Start::Begun,
                Posted::Busy => return Start::Later(moving),
                Posted::Complete if behind.moved_bytes < len_bytes => moving = behind,
                Posted::Complete | Posted::Failed => {
                    state.part_ended(behind, posted == Posted::Complete);
                    return Start::Begun;
                }
            }
        }
    }

    /// Posts the next part of a message.
    fn post_part(
        &self,
        state: &mut State,
        moving: Moving,
        link: Link,
        id: WorkId,
        remote: RemoteAddress,
        part_bytes: u64,
    ) -> Posted {
        let (device, moved_bytes) = (&self.devices[link.device], moving.moved_bytes as usize);
        match moving.transfer {
            Transfer::Read { receive, .. } => {
                // Who has no buffer any more wants no message.
                let Some(body) = state.protocol.receive_body(receive) else { return Posted::Failed };
                let own = body.registration.as_ref().map(|own| &own.registration);
                let start = body.target.start().wrapping_add(moved_bytes);
                // SAFETY: buffer and registration stay until the receive was taken out, which is not possible before it has ended; the
                // protocol has checked that the message fits.
                unsafe {
                    let hint = ReadHint::OwnerIsWaiting;
                    device.get(link.qp, id, start, own, remote, part_bytes as usize, hint)
                }
            }
            Transfer::Write { send, .. } => {
                let Some(body) = state.protocol.send_body(send) else { return Posted::Failed };
                let own = body.registration.as_ref().map(|own| &own.registration);
                let start = body.start().wrapping_add(moved_bytes);
                // SAFETY: as for a read; the length is the send's own.
                unsafe { device.put(link.qp, id, start, own, remote, part_bytes as usize) }
            }
            Transfer::Expose { .. } => unreachable!("no device moves anything to expose memory"),
        }
    }

    /// Registers the buffer of a receive, if it was not and the device needs that. False if it cannot be.
    fn register_receive(
        &self,
        state: &mut State,
        receive: Handle,
        link: Link,
        access: Access,
        len_bytes: u64,
    ) -> bool {
        let Some(body) = state.protocol.receive_body(receive) else { return false };
        let device = &self.devices[link.device];
        let needs = access != Access::LOCAL || device.capabilities().registers_local_memory;
        if body.registration.is_none() && needs {
            // SAFETY: the buffer stays until the receive was taken out, which deregisters it before.
            match unsafe {
                device.register(body.target.start(), body.target.len_bytes().min(len_bytes as usize), access)
            } {
                Ok(registration) => {
                    body.registration = Some(Box::new(Registered { device: link.device, registration }))
                }
                Err(error) => {
                    tracing::debug!(%error, "a message comes in pieces");
                    return false;
                }
            }
        }
        true
    }

    /// Where a peer can write the message of a receive; nowhere if the buffer cannot be registered.
    fn expose_receive(
        &self,
        state: &mut State,
        receive: Handle,
        peer: u32,
        len_bytes: u64,
    ) -> Option<Memory> {
        let link = state.link(peer)?;
        // For all that there is, and so apart from the cache: the peer's key ends with the receive, also when the peer is given up while
        // it writes.
        if !self.register_receive(state, receive, link, Access::ALL, len_bytes) {
            return None;
        }
        let body = state.protocol.receive_body(receive)?;
        debug_assert!(len_bytes <= body.target.len_bytes() as u64);
        let key = body.registration.as_ref().map(|own| own.registration.key())?;
        Some(Memory { address: body.target.start() as u64, key })
    }

    pub(super) fn deregister(&self, own: Registered) {
        self.devices[own.device].deregister(own.registration);
    }

    /// A peer is of no use any more. It is told so, because it may believe that all is well.
    pub(super) fn give_up(&self, state: &mut State, rank: u32, reason: String) {
        if let Some(link) = state.link(rank).filter(|_| !state.protocol.is_lost(rank)) {
            self.part(state, link, reason.clone());
        }
        state.lose(rank, reason);
    }

    /// Says why, and ends a connection; once.
    pub(super) fn part(&self, state: &mut State, link: Link, why: String) {
        if state.farewells.iter().any(|(other, _)| *other == link) {
            return;
        }
        tracing::warn!(why, "a connection is ended");
        state.farewells.push((link, why));
        self.say_farewells(state);
    }

    fn say_farewells(&self, state: &mut State) {
        let mut header = [0; FAREWELL_HEADER_BYTES];
        header[0] = u8::from(state.is_ending);
        state.farewells.retain(|(link, why)| {
            let device = &self.devices[link.device];
            let text = &why.as_bytes()[..why.len().min(FAREWELL_TEXT_BYTES_MAX)];
            let said = device.send_short(link.qp, Kind::Farewell.immediate(0), &header, text);
            if said != Posted::Busy {
                device.disconnect(link.qp);
            }
            said == Posted::Busy
        });
    }

    /// Requests that nobody waits for: those that have ended are forgotten, and their buffers handed over, to be dropped when nothing is
    /// borrowed any more.
    fn put_away_orphans(&self, state: &mut State) {
        // Many are looked at now and then only.
        state.orphan_turn = state.orphan_turn.wrapping_add(1);
        let count = state.orphan_sends.len() + state.orphan_receives.len() + state.orphan_accesses.len();
        if count == 0 || (count > ORPHANS_FEW && !state.orphan_turn.is_multiple_of(ORPHANS_INTERVAL)) {
            return;
        }
        let State { protocol, orphan_sends, orphan_receives, to_drop, .. } = state;
        let deregister = |registration: Option<Box<Registered>>| {
            registration.into_iter().for_each(|own| self.deregister(*own));
        };
        let sends = orphan_sends.extract_if(.., |orphan| {
            protocol.take_send(orphan.request).map(|(body, _)| deregister(body.registration)).is_some()
        });
        to_drop.extend(sends.map(|orphan| orphan.owner));
        let receives = orphan_receives.extract_if(.., |orphan| {
            protocol.take_receive(orphan.request).map(|(body, _)| deregister(body.registration)).is_some()
        });
        to_drop.extend(receives.map(|orphan| orphan.owner));
        let mut accesses = std::mem::take(&mut state.orphan_accesses);
        accesses.retain(|access| {
            let is_over = state.accesses.get(*access).is_none_or(|access| access.status.is_some());
            if is_over && let Some(ended) = state.accesses.remove(*access) {
                if let Some(own) = ended.registration {
                    self.deregister(own);
                }
                state.to_drop.extend(ended.owner);
            }
            !is_over
        });
        state.orphan_accesses = accesses;
    }
}
