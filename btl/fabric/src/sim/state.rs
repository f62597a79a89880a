//! The world: devices, connections, requests, and what will happen next. One step is one event; nothing looks at all devices or
//! at all connections.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::arena::{Arena, Handle};
use super::generator::Generator;
use super::link::{Link, QueuePair};
use super::queue::EventQueue;
use super::regions::Regions;
use super::report::{Statistics, Violation};
use super::requests::Request;
use super::trace::Trace;
use super::{Options, Span};
use crate::{Capabilities, CompletionStatus, Operation, WorkId};

/// What can happen. A handle of something that is gone makes an event that does nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A connection request arrives.
    Asked(Handle),
    /// The asker learns that its connection stands.
    Up(Handle),
    /// The oldest message that this end has sent arrives.
    Arrived(Handle, u8),
    /// This end learns that receives are free again.
    Credits(Handle, u8),
    /// A piece of a request moves.
    Piece(Handle),
    /// All of a request has moved.
    Landed(Handle),
    /// The second half of an atomic on the memory of this device, which does not exclude the processor.
    Stored(Handle, u32),
    /// The poster learns that its request has ended.
    Completed(Handle),
    /// The other end learns that this end has left.
    Left(Handle, u8),
    /// A connection breaks.
    Broken(Handle),
    /// This end learns that its connection has failed.
    Noticed(Handle, u8),
}

/// Which receive is to be given back: of the messages that this end of the connection sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    pub(super) link: Handle,
    pub(super) sender: u8,
}

/// What a poll finds: completions, and what waits for the processor because the adapter cannot do it alone. In one queue,
/// because a write that the processor does and a message behind it are in order.
#[derive(Debug)]
pub(super) enum Ready {
    Message { qp: u32, imm: u32, bytes: Box<[u8]>, credit: Credit },
    Written { qp: u32, imm: u32, len_bytes: usize, credit: Credit },
    Done { qp: u32, id: WorkId, operation: Operation, status: CompletionStatus },
    Disconnected { qp: u32 },
    Answer(Handle),
    Serve(Handle),
}

/// One device, as the world sees it.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) qps: Vec<QueuePair>,
    /// The newest queue pair to each peer.
    pub(super) by_peer: BTreeMap<u32, u32>,
    pub(super) ready: VecDeque<Ready>,
    pub(super) regions: Regions,
    /// Requests of its own that have not ended.
    pub(super) requests: u32,
    /// Requests of peers that are still to be done with its memory.
    pub(super) asked: u32,
    /// Messages that it has sent and that have not arrived.
    pub(super) outgoing: u32,
    /// An atomic that does not exclude the processor is between its halves.
    pub(super) atomic_under_way: bool,
    /// Those that wait for it.
    pub(super) atomics: VecDeque<Handle>,
    /// It is in the world's list of devices to be polled.
    listed: bool,
}

/// Everyone that was ever opened; numbers are not used again.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) rank: u32,
    /// `None` once it is dead.
    pub(super) adapter: Option<Box<Adapter>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) options: Options,
    pub(super) now_ns: u64,
    pub(super) random: Generator,
    pub(super) events: EventQueue<Event>,
    pub(super) places: Vec<Place>,
    pub(super) links: Arena<Link>,
    pub(super) requests: Arena<Request>,
    /// Devices whose completion queues have become non-empty.
    to_poll: VecDeque<u32>,
    /// What the device that was opened last says of itself; most say the same.
    pub(super) capabilities: Option<Rc<Capabilities>>,
    pub(super) statistics: Statistics,
    pub(super) violations: Vec<Violation>,
    pub(super) trace: Trace,
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        Self {
            now_ns: 0,
            random: Generator::new(options.seed),
            events: EventQueue::new(),
            places: Vec::new(),
            links: Arena::new(),
            requests: Arena::new(),
            to_poll: VecDeque::new(),
            capabilities: None,
            statistics: Statistics::default(),
            violations: Vec::new(),
            trace: Trace::new(options.trace_len),
            options,
        }
    }

    /// What its cards say: another seed, another world.
    pub(super) fn identity(&self) -> u64 {
        Generator::new(!self.options.seed).next()
    }

    pub(super) fn open(&mut self, rank: u32) -> u32 {
        let number = self.places.len() as u32;
        let adapter = Adapter {
            qps: Vec::new(),
            by_peer: BTreeMap::new(),
            ready: VecDeque::new(),
            // Not from the generator of the world: who comes when must not change what goes wrong.
            regions: Regions::new(Generator::new(self.options.seed ^ u64::from(number) << 32).next() as u32),
            requests: 0,
            asked: 0,
            outgoing: 0,
            atomic_under_way: false,
            atomics: VecDeque::new(),
            listed: false,
        };
        self.places.push(Place { rank, adapter: Some(Box::new(adapter)) });
        number
    }

    #[inline]
    pub(super) fn adapter(&mut self, device: u32) -> Option<&mut Adapter> {
        self.places[device as usize].adapter.as_deref_mut()
    }

    /// How messages to the user call a device.
    pub(super) fn name_of(&self, device: u32) -> String {
        format!("rank {} (simulated device {device})", self.places[device as usize].rank)
    }

    pub(super) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.options.trace_len > 0 {
            let line = line(self);
            self.trace.note(self.now_ns, || line);
        }
    }

    pub(super) fn violation(&mut self, device: u32, what: String) {
        self.note(|_| format!("VIOLATION: device {device} {what}"));
        self.violations.push(Violation { time_ns: self.now_ns, device, what });
    }

    /// The time at which what starts now and carries so many bytes has crossed.
    pub(super) fn crossing(&mut self, delay: Span) -> u64 {
        self.now_ns + self.options.latency_ns + self.random.within(delay)
    }

    /// How long so many bytes take behind the first.
    pub(super) const fn transfer_ns(&self, len_bytes: usize) -> u64 {
        (len_bytes as u64).saturating_mul(self.options.byte_ps) / 1000
    }

    /// Puts something into a device's queue, if the device lives.
    pub(super) fn complete(&mut self, device: u32, ready: Ready) {
        let Some(adapter) = self.places[device as usize].adapter.as_deref_mut() else { return };
        adapter.ready.push_back(ready);
        if !std::mem::replace(&mut adapter.listed, true) {
            self.to_poll.push_back(device);
        }
    }

    /// A device that waits to be polled, each once until it is asked for again.
    pub(super) fn take_to_poll(&mut self) -> Option<u32> {
        while let Some(device) = self.to_poll.pop_front() {
            let Some(adapter) = self.adapter(device) else { continue };
            adapter.listed = false;
            if !adapter.ready.is_empty() {
                return Some(device);
            }
        }
        None
    }

    pub(super) fn is_idle(&self, device: u32) -> bool {
        self.places[device as usize]
            .adapter
            .as_deref()
            .is_none_or(|it| it.requests == 0 && it.asked == 0 && it.outgoing == 0 && it.ready.is_empty())
    }

    /// Lets the next event happen; the clock jumps to it. False when there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some((time_ns, event)) = self.events.pop() else { return false };
        self.now_ns = time_ns;
        self.statistics.events += 1;
        match event {
            Event::Asked(link) => self.asked(link),
            Event::Up(link) => self.up(link),
            Event::Arrived(link, sender) => self.arrived(link, sender),
            Event::Credits(link, sender) => self.credits(link, sender),
            Event::Piece(request) => self.piece(request),
            Event::Landed(request) => self.landed(request),
            Event::Stored(request, device) => self.stored(request, device),
            Event::Completed(request) => self.completed(request),
            Event::Left(link, end) => self.left(link, end),
            Event::Broken(link) => self.broken(link),
            Event::Noticed(link, end) => self.noticed(link, end),
        }
        true
    }

    /// A poll: the world takes its steps, and the oldest completion comes out.
    #[inline]
    pub(super) fn poll(&mut self, device: u32) -> Option<Ready> {
        for _ in 0..self.options.steps_per_poll {
            if !self.step() {
                break;
            }
        }
        loop {
            match self.adapter(device)?.ready.pop_front()? {
                Ready::Answer(link) => self.answer(link),
                Ready::Serve(request) => {
                    if let Some(written) = self.execute(request) {
                        return Some(self.taken(written));
                    }
                }
                ready => return Some(self.taken(ready)),
            }
        }
    }

    /// A notification uses a receive only until it is taken.
    fn taken(&mut self, ready: Ready) -> Ready {
        if let Ready::Written { credit, .. } = ready {
            self.give_back(credit);
        }
        ready
    }
}
