//! What comes from the devices: messages of peers, ends of requests, lost connections.

use std::cell::Cell;

use ironband_core::protocol::matching::{Envelope, Pattern};
use ironband_core::protocol::{Arrival, Handle, Received, RequestError, Violation};
use ironband_core::wire::message::{
    ACTIVE_HEADER_BYTES, EAGER_HEADER_BYTES, FAREWELL_HEADER_BYTES, FAREWELL_TEXT_BYTES_MAX,
    HEADER_BYTES_MAX, Hello, Kind,
};
use ironband_fabric::{CompletionStatus, Payload, WorkId};

use super::Context;
use super::body::{Target, copy_rest, copy_start, eager_tag};
use super::request::EndBeforeReturn;
use super::state::{InFlight, Link, State, limits_of};
use crate::device::{Handler, QueuePair};

/// Active messages that are kept until their handlers are set; further ones are an error.
const UNCLAIMED_MAX: usize = 1024;

/// The ears of a context at one of its devices.
pub(super) struct Ears<'c> {
    pub(super) context: &'c Context,
    pub(super) device: usize,
}

impl Handler for Ears<'_> {
    #[inline]
    fn received(&self, from: QueuePair, imm: u32, payload: Payload) {
        self.context.hear(Link { device: self.device, qp: from }, imm, payload);
    }

    fn completed(&self, _endpoint: QueuePair, id: WorkId, status: CompletionStatus) {
        self.context.ended(Handle::from_wire(id.0), status);
    }

    fn disconnected(&self, from: QueuePair, reason: &str) {
        let mut state = self.context.state.borrow_mut();
        if let Some(rank) = state.rank_of(self.device, from) {
            state.lose(rank, reason.to_owned());
        }
    }
}

/// What has become of a receive that is not posted.
#[derive(Clone, Copy)]
enum Fortune {
    /// It gets the next message that matches.
    Waits,
    /// Something else has come first: only a receive that is posted keeps its turn from now on.
    Passed,
    /// It has its message.
    Ended(Result<Received, RequestError>),
}

/// A receive that is not posted: its process does nothing but wait for it.
pub(super) struct Awaited<'c> {
    source: u32,
    pattern: Pattern,
    target: Target,
    fortune: Cell<Fortune>,
    /// Whoever waits for it can wait for all of a long message, too; and it was not posted.
    may_post: Cell<bool>,
    /// Once it was posted, until somebody takes care of that.
    posted: Cell<Option<EndBeforeReturn<'c>>>,
}

impl<'c> Awaited<'c> {
    /// It must be the first that a message can be for ([`Protocol::is_unasked`](ironband_core::protocol::Protocol::is_unasked)).
    #[inline]
    pub(super) const fn new(source: u32, pattern: Pattern, target: Target, may_post: bool) -> Self {
        Self {
            source,
            pattern,
            target,
            fortune: Cell::new(Fortune::Waits),
            may_post: Cell::new(may_post),
            posted: Cell::new(None),
        }
    }

    /// How it has ended, if so.
    #[inline]
    pub(super) const fn outcome(&self) -> Option<Result<Received, RequestError>> {
        match self.fortune.get() {
            Fortune::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// The receive, if it is posted now.
    #[inline]
    pub(super) fn take_posted(&self) -> Option<EndBeforeReturn<'c>> {
        self.posted.take()
    }
}

/// As [`Ears`], for a receive that is not posted.
pub(super) struct AwaitingEars<'a, 'c> {
    pub(super) ears: Ears<'c>,
    pub(super) awaited: &'a Awaited<'c>,
}

impl Handler for AwaitingEars<'_, '_> {
    #[inline]
    fn received(&self, from: QueuePair, imm: u32, payload: Payload) {
        let from_link = Link { device: self.ears.device, qp: from };
        if !self.ears.context.hear_awaited(self.awaited, from_link, imm, payload) {
            self.ears.context.pass(self.awaited, from_link, imm);
            self.ears.received(from, imm, payload);
        }
    }

    fn completed(&self, endpoint: QueuePair, id: WorkId, status: CompletionStatus) {
        self.ears.completed(endpoint, id, status);
    }

    fn disconnected(&self, from: QueuePair, reason: &str) {
        self.ears.disconnected(from, reason);
    }
}

impl Context {
    /// Something else comes before the awaited message. If it announces a long one of the same source, which may be the one, the receive is posted
    /// before that is looked at: a message that finds its receive waiting may have its data right behind it. No receive is older, and one that is
    /// posted gets what was kept meanwhile first.
    fn pass<'c>(&'c self, awaited: &Awaited<'c>, from: Link, imm: u32) {
        if let Fortune::Ended(_) = awaited.fortune.get() {
            return;
        }
        awaited.fortune.set(Fortune::Passed);
        let source = self.state.borrow().rank_of(from.device, from.qp);
        let is_announced = matches!(Kind::of_immediate(imm), Some((Kind::Announce, _)));
        if is_announced && source == Some(awaited.source) && awaited.may_post.replace(false) {
            // Its source is connected, which is all that could be wrong.
            let receive = self.begin_receive(awaited.pattern, awaited.target).ok();
            awaited.posted.set(receive.map(|receive| EndBeforeReturn::of_receive(self, receive)));
        }
    }

    /// Takes the message in if it is the awaited one.
    #[inline]
    fn hear_awaited(&self, awaited: &Awaited<'_>, from: Link, imm: u32, payload: Payload) -> bool {
        let mut state = self.state.borrow_mut();
        let source = awaited.source;
        if let Fortune::Waits = awaited.fortune.get()
            && let Some((Kind::Eager, number)) = Kind::of_immediate(imm)
            && let Some(tag) = eager_tag(payload)
            && awaited.pattern.matches(Envelope { source, tag })
            && state.rank_of(from.device, from.qp) == Some(source)
        {
            let len_bytes = payload.len() - EAGER_HEADER_BYTES;
            let capacity_bytes = awaited.target.len_bytes();
            let envelope = Envelope { source, tag };
            match state.protocol.awaited_arrived(envelope, number, len_bytes, capacity_bytes as u64) {
                Ok(Some(outcome)) => {
                    awaited.target.fill(0, payload, EAGER_HEADER_BYTES, len_bytes.min(capacity_bytes));
                    awaited.fortune.set(Fortune::Ended(outcome));
                }
                Ok(None) => {}
                Err(violation) => self.give_up_liar(&mut state, source, violation),
            }
            return true;
        }
        false
    }

    #[inline]
    fn hear(&self, from: Link, imm: u32, payload: Payload) {
        let mut state = self.state.borrow_mut();
        // Most messages are eager, and most of these are awaited.
        if let Some((Kind::Eager, number)) = Kind::of_immediate(imm)
            && let Some(tag) = eager_tag(payload)
            && let Some(source) = state.rank_of(from.device, from.qp)
        {
            let len_bytes = payload.len() - EAGER_HEADER_BYTES;
            let envelope = Envelope { source, tag };
            let arrival = state.protocol.eager_arrived(envelope, number, len_bytes, |_, body, len_bytes| {
                body.target.fill(0, payload, EAGER_HEADER_BYTES, len_bytes);
                Arrival::Nothing
            });
            return match arrival {
                Ok(Arrival::Nothing) => {}
                other => self.take_in(&mut state, source, payload, EAGER_HEADER_BYTES, other),
            };
        }
        drop(state);
        self.hear_other(from, imm, payload);
    }

    fn hear_other(&self, from: Link, imm: u32, payload: Payload) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(rank) = state.rank_of(from.device, from.qp).filter(|rank| !state.protocol.is_lost(*rank))
        else {
            drop(guard);
            return self.hear_stranger(from, imm, payload);
        };
        let mut start = [0; HEADER_BYTES_MAX];
        let header_bytes =
            Kind::of_immediate(imm).map_or(0, |(kind, _)| kind.header_bytes()).min(payload.len());
        copy_start(payload, &mut start[..header_bytes]);
        let arrival = state.protocol.arrived(rank, imm, &start[..header_bytes], payload.len());
        self.take_in(state, rank, payload, header_bytes, arrival);
        // At once: the data of a message that was announced may lie right behind, if it was sent ahead.
        if state.protocol.has_transfer() {
            self.start_transfers(state);
        }
    }

    /// Does what the protocol says is to be done with a message.
    fn take_in(
        &self,
        state: &mut State,
        rank: u32,
        payload: Payload,
        header_bytes: usize,
        arrival: Result<Arrival, Violation>,
    ) {
        match arrival {
            Ok(Arrival::Nothing) => {}
            Ok(Arrival::Deliver { receive, offset, len_bytes }) => {
                if let Some(body) = state.protocol.receive_body(receive) {
                    body.target.fill(offset, payload, header_bytes, len_bytes);
                }
            }
            Ok(Arrival::Keep(envelope)) => {
                let mut kept = state.buffer();
                copy_rest(payload, EAGER_HEADER_BYTES, &mut kept);
                state.protocol.keep(envelope, kept.len(), kept);
            }
            Ok(Arrival::Active { id }) => {
                let mut data = state.buffer();
                copy_rest(payload, ACTIVE_HEADER_BYTES, &mut data);
                state.actives.push_back((rank, id, data));
            }
            Ok(Arrival::Farewell) => self.hear_farewell(state, rank, payload),
            Err(violation) => self.give_up_liar(state, rank, violation),
        }
    }

    #[cold]
    fn give_up_liar(&self, state: &mut State, rank: u32, violation: Violation) {
        self.give_up(state, rank, format!("it does not keep to the protocol: {violation}"));
    }

    #[cold]
    fn hear_farewell(&self, state: &mut State, rank: u32, payload: Payload) {
        let mut text = Vec::new();
        copy_rest(payload, FAREWELL_HEADER_BYTES, &mut text);
        text.truncate(FAREWELL_TEXT_BYTES_MAX);
        let why = String::from_utf8_lossy(&text).escape_debug().to_string();
        if let Some(link) = state.link(rank) {
            self.devices[link.device].disconnect(link.qp);
        }
        let mut header = [0; FAREWELL_HEADER_BYTES];
        copy_start(payload, &mut header);
        // Which ends: it lives no longer than its word.
        if header[0] == 0 {
            state.given_up_by.insert(rank);
        }
        state.lose(rank, format!("it has given this process up: {why}"));
    }

    /// The first message over a connection that the peer has made, or one of a peer that was lost.
    #[cold]
    fn hear_stranger(&self, from: Link, imm: u32, payload: Payload) {
        let is_first = matches!(Kind::of_immediate(imm), Some((Kind::Hello, _)));
        if !is_first && self.state.borrow().rank_of(from.device, from.qp).is_some() {
            // It was lost; what it had under way means nothing any more.
            return;
        }
        let mut start = [0; 48];
        copy_start(payload, &mut start);
        let hello = match Kind::of_immediate(imm) {
            Some((Kind::Hello, 0)) if payload.len() == start.len() => {
                Hello::decode(&start).map_err(|error| error.to_string())
            }
            // Nobody has to be told what he has said.
            Some((Kind::Farewell, _)) => return self.devices[from.device].disconnect(from.qp),
            _ => Err("the first message over a connection is no greeting".to_owned()),
        };
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let device = &self.devices[from.device];
        let is_welcome = |hello: &Hello| {
            hello.job == self.job
                && hello.rank < self.size()
                && state.link(hello.rank).is_none()
                && !state.protocol.is_lost(hello.rank)
        };
        match hello {
            Ok(hello) if is_welcome(&hello) => {
                state.bind(hello.rank, from, limits_of(device));
                drop(guard);
                self.hear(from, imm, payload);
            }
            // Another job's, another release's, one that was given up: it has to know.
            Ok(hello) => {
                let Hello { rank, job, .. } = hello;
                let why = if job != self.job || rank >= self.size() {
                    format!(
                        "rank {rank} of the job {job:016x} has connected to another job, {:016x}",
                        self.job
                    )
                } else if state.protocol.is_lost(rank) {
                    state.loss(rank)
                } else {
                    "it is connected already".to_owned()
                };
                self.part(state, from, why);
            }
            Err(why) => self.part(state, from, why),
        }
    }

    /// Calls the handlers of the active messages that have come; not inside a handler, so that none waits for another.
    pub(super) fn run_handlers(&self) {
        if self.is_handling.replace(true) {
            return;
        }
        let _guard = EndHandling(self);
        loop {
            let next = self.state.borrow_mut().actives.pop_front();
            let Some((source, id, data)) = next else { return };
            let handler = self.handlers.borrow().get(&id).cloned();
            match handler {
                Some(handler) => {
                    handler(self, source, &data);
                    self.state.borrow_mut().give_back(data);
                }
                None => self.keep_unclaimed(source, id, data),
            }
        }
    }

    /// No handler has this number yet: processes do not set theirs at the same time.
    fn keep_unclaimed(&self, source: u32, id: u32, data: Vec<u8>) {
        let mut state = self.state.borrow_mut();
        if state.unclaimed.len() < UNCLAIMED_MAX {
            state.unclaimed.push((source, id, data));
        } else {
            let reason = format!("it sends active messages for the handler {id}, which there is not");
            self.give_up(&mut state, source, reason);
        }
    }

    /// A request of a device has ended.
    fn ended(&self, id: Handle, status: CompletionStatus) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let is_done = status == CompletionStatus::Success;
        match state.in_flight.remove(id) {
            Some(InFlight::Part(moving)) => state.part_ended(moving, is_done),
            Some(InFlight::Access { access }) => state.access_ended(access, Some(status)),
            None => debug_assert!(false, "a request ends that there is not"),
        }
        self.say_news(state);
    }
}

/// While handlers are called, also if one panics.
struct EndHandling<'c>(&'c Context);

impl Drop for EndHandling<'_> {
    fn drop(&mut self) {
        self.0.is_handling.set(false);
    }
}
