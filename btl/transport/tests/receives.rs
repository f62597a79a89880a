//! Receives that wait, and receives that are posted, get messages in one order, whichever way a message comes: at once to who waits for
//! it, to a receive that is posted, or kept before. A process sends itself messages of all kinds and compares with MPI's rule: a message goes
//! to the oldest receive that it matches, a receive gets the oldest message.

use std::collections::VecDeque;

use ironband::{Context, Pattern, ReceiveRequest, SendRequest};
use proptest::prelude::*;

const TAGS: u64 = 3;
/// Longer than any eager message.
const LONG_BYTES: usize = 100_000;

#[derive(Debug, Clone, Copy)]
enum Step {
    Send {
        tag: u64,
        is_long: bool,
    },
    Post(Wanted),
    /// Only when a message is there for it.
    Receive(Wanted),
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Tag(u64),
    TagOfAny(u64),
    AnyTag,
    Anything,
}

impl Wanted {
    fn pattern(self) -> Pattern {
        match self {
            Self::Tag(tag) => Pattern::exact(0, tag),
            Self::TagOfAny(tag) => Pattern::any_source(tag),
            Self::AnyTag => Pattern::any_tag(0),
            Self::Anything => Pattern::anything(),
        }
    }

    const fn takes(self, message: Message) -> bool {
        match self {
            Self::Tag(tag) | Self::TagOfAny(tag) => tag == message.tag,
            Self::AnyTag | Self::Anything => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    number: u64,
    tag: u64,
    len_bytes: usize,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        4 => (0..TAGS).prop_map(Wanted::Tag),
        1 => (0..TAGS).prop_map(Wanted::TagOfAny),
        1 => Just(Wanted::AnyTag),
        1 => Just(Wanted::Anything),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..TAGS, prop::bool::weighted(0.2)).prop_map(|(tag, is_long)| Step::Send { tag, is_long }),
        1 => wanted().prop_map(Step::Post),
        3 => wanted().prop_map(Step::Receive),
    ]
}

/// What the rule says, beside what happens.
struct Race<'c> {
    context: &'c Context,
    sent: u64,
    sends: Vec<SendRequest<'c, Vec<u8>>>,
    /// Without a receive, oldest first.
    waiting: VecDeque<Message>,
    posted: Vec<(Wanted, Option<Message>, ReceiveRequest<'c, Vec<u8>>)>,
}

impl<'c> Race<'c> {
    fn send(&mut self, tag: u64, is_long: bool) {
        let message = Message { number: self.sent, tag, len_bytes: if is_long { LONG_BYTES } else { 8 } };
        self.sent += 1;
        let mut data = vec![0_u8; message.len_bytes];
        data[..8].copy_from_slice(&message.number.to_le_bytes());
        self.sends.push(self.context.endpoint(0).unwrap().start_send(tag, data).unwrap());
        let taker = self.posted.iter_mut().find(|(wanted, got, _)| got.is_none() && wanted.takes(message));
        match taker {
            Some((_, got, _)) => *got = Some(message),
            None => self.waiting.push_back(message),
        }
    }

    fn next_for(&mut self, wanted: Wanted) -> Option<Message> {
        let at = self.waiting.iter().position(|message| wanted.takes(*message))?;
        self.waiting.remove(at)
    }

    fn post(&mut self, wanted: Wanted) {
        let message = self.next_for(wanted);
        let request = self.context.start_receive(wanted.pattern(), vec![0_u8; LONG_BYTES]).unwrap();
        self.posted.push((wanted, message, request));
    }

    fn receive(&mut self, wanted: Wanted) {
        let Some(message) = self.next_for(wanted) else { return };
        let mut buffer = vec![0; LONG_BYTES];
        let received = self.context.receive(wanted.pattern(), &mut buffer).unwrap();
        assert_eq!(of(&buffer, received.tag, received.len_bytes), message);
    }

    fn end(mut self) {
        for (wanted, message, request) in std::mem::take(&mut self.posted) {
            let Some(message) = message else {
                assert!(request.cancel().is_ok(), "{wanted:?} has a message that was for nobody");
                continue;
            };
            let (buffer, received) = request.wait().unwrap();
            assert_eq!(of(&buffer, received.tag, received.len_bytes), message);
        }
        while !self.waiting.is_empty() {
            self.receive(Wanted::AnyTag);
        }
        for send in self.sends {
            send.wait().unwrap();
        }
        assert!(self.context.probe(Pattern::anything()).is_none());
    }
}

fn of(buffer: &[u8], tag: u64, len_bytes: u64) -> Message {
    let number = u64::from_le_bytes(buffer[..8].try_into().unwrap());
    Message { number, tag, len_bytes: len_bytes as usize }
}

#[test]
fn messages_and_receives_meet_in_order() {
    let context = Context::open().unwrap();
    proptest!(|(steps in prop::collection::vec(step(), 1..40))| {
        let mut race = Race {
            context: &context,
            sent: 0,
            sends: Vec::new(),
            waiting: VecDeque::new(),
            posted: Vec::new(),
        };
        for step in steps {
            match step {
                Step::Send { tag, is_long } => race.send(tag, is_long),
                Step::Post(wanted) => race.post(wanted),
                Step::Receive(wanted) => race.receive(wanted),
            }
        }
        race.end();
    });
    context.close().unwrap();
}

/// A process that only ever receives what comes at once tells its peer of the room all the same.
#[test]
fn room_comes_back_to_who_is_received_at_once() {
    let context = Context::open().unwrap();
    let own = context.endpoint(0).unwrap();
    // The first one connects.
    own.send(1, b"").unwrap();
    own.receive(1, &mut []).unwrap();
    let mut at_once = 0;
    for number in 0..20_000_u64 {
        assert!(context.try_send(0, 1, &number.to_le_bytes()), "no room for message {number}");
        let mut buffer = [0; 8];
        if let Some(received) = context.try_receive(Pattern::exact(0, 1), &mut buffer) {
            received.unwrap();
            at_once += 1;
        } else {
            own.receive(1, &mut buffer).unwrap();
        }
        assert_eq!(u64::from_le_bytes(buffer), number);
    }
    assert!(at_once > 10_000, "{at_once} came at once");
}

/// A handler that is called while a receive waits sends two messages and takes the first one in: the receive was there before, and gets that.
#[test]
fn a_receive_comes_before_what_handlers_do() {
    let context = Context::open().unwrap();
    let own = context.endpoint(0).unwrap();
    own.send_active(5, b"").unwrap();
    // It is there, and waits for a handler.
    for _ in 0..1000 {
        context.progress();
    }
    context.on_active(5, |context, _, _| {
        let own = context.endpoint(0).unwrap();
        own.send(7, b"first").unwrap();
        let _ = context.probe(Pattern::exact(0, 8));
        own.send(7, b"then").unwrap();
    });
    for expected in [&b"first"[..], b"then"] {
        let mut buffer = [0; 5];
        let received = context.receive(Pattern::exact(0, 7), &mut buffer).unwrap();
        assert_eq!(&buffer[..received.len_bytes as usize], expected);
    }
    context.close().unwrap();
}

/// What was taken from a request is not waited for.
#[test]
fn a_request_without_its_outcome_counts_as_ended() {
    let context = Context::open().unwrap();
    context.endpoint(0).unwrap().send(7, b"hello").unwrap();
    let mut request = context.start_receive(Pattern::exact(0, 7), vec![0_u8; 5]).unwrap();
    let received = loop {
        if let Some(outcome) = request.take_outcome() {
            break outcome.unwrap();
        }
        context.progress();
    };
    assert_eq!(received.len_bytes, 5);
    assert!(request.has_ended() && request.is_done() && request.take_outcome().is_none());
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| request.wait()));
    assert!(waited.is_err(), "there is nothing to wait for");
    context.close().unwrap();
}
