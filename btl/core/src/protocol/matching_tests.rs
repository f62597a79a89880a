use std::cell::Cell;

use proptest::prelude::*;

use super::*;

thread_local! {
    /// What this thread's tests have looked at.
    pub(super) static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// How many steps something takes.
fn steps<T>(run: impl FnOnce() -> T) -> (u64, T) {
    let before = STEPS.get();
    let result = run();
    (STEPS.get() - before, result)
}

/// The steps of an arrival that a receive waits for.
fn arrival<M>(matching: &mut Matching<u32, M>, source: u32, tag: u64) -> (u64, Option<u32>) {
    steps(|| matching.arrive(Envelope { source, tag }))
}

/// MPI's words for it, bit by bit.
fn wants(pattern: &Pattern, envelope: &Envelope) -> bool {
    let bit = |word: u64, bit: u32| word >> bit & 1;
    let counts = |at: &u32| bit(pattern.mask, *at) == 1;
    pattern.source.unwrap_or(envelope.source) == envelope.source
        && (0..64).filter(counts).all(|at| bit(pattern.tag, at) == bit(envelope.tag, at))
}

/// Two lists, walked from the front: the rules as they are written.
#[derive(Default)]
struct Model {
    receives: Vec<(Pattern, u32)>,
    messages: Vec<(Envelope, u32)>,
}

impl Model {
    fn find(&self, pattern: Pattern) -> Option<usize> {
        self.messages.iter().position(|(envelope, _)| wants(&pattern, envelope))
    }
}

#[derive(Debug, Clone)]
enum Act {
    Post(Pattern),
    Arrive(Envelope),
    Probe(Pattern),
    /// Of all handles there have ever been, this one.
    Cancel(prop::sample::Index),
    Take(prop::sample::Index),
    Fail(u32),
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    // Sources and tags with the same numbers, and a tag with a high bit, as a communicator's.
    (0..3_u32, prop::sample::select(vec![0, 1, 2, 1 << 63, 1 << 63 | 1]))
        .prop_map(|(source, tag)| Envelope { source, tag })
}

/// More masks than there are kinds. Bits that do not count are set in some patterns.
fn patterns() -> impl Strategy<Value = Pattern> {
    let masks = vec![u64::MAX, u64::MAX, u64::MAX, 0, 0, 1 << 63, 1, 2, 3, 1 << 63 | 1, 1 << 63 | 2, !1, !2];
    (envelopes(), any::<bool>(), prop::sample::select(masks)).prop_map(|(envelope, named, mask)| Pattern {
        source: named.then_some(envelope.source),
        tag: envelope.tag,
        mask,
    })
}

fn acts() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        12 => patterns().prop_map(Act::Post),
        12 => envelopes().prop_map(Act::Arrive),
        3 => patterns().prop_map(Act::Probe),
        3 => index().prop_map(Act::Cancel),
        3 => index().prop_map(Act::Take),
        1 => (0..3_u32).prop_map(Act::Fail),
    ]
}

/// Does the same here and in the model, and compares all that can be seen.
struct Pair {
    matching: Matching<u32, u32>,
    model: Model,
    /// With the number that each receive or message carries, from all of the past.
    receive_handles: Vec<(ReceiveHandle, u32)>,
    message_handles: Vec<(MessageHandle, u32)>,
    number: u32,
}

impl Pair {
    fn new(hash_mask: u64) -> Self {
        let mut matching = Matching::new();
        matching.receive_queues.hash_mask = hash_mask;
        matching.message_queues.hash_mask = hash_mask;
        let (receive_handles, message_handles) = Default::default();
        Self { matching, model: Model::default(), receive_handles, message_handles, number: 0 }
    }

    fn post(&mut self, pattern: Pattern) {
        let expected = self.model.find(pattern).map(|at| self.model.messages.remove(at));
        match (self.matching.post(pattern, self.number), expected) {
            (Match::Matched { receive, envelope, message }, Some(expected)) => {
                assert_eq!((receive, envelope, message), (self.number, expected.0, expected.1));
            }
            (Match::Waits(handle), None) => {
                self.model.receives.push((pattern, self.number));
                self.receive_handles.push((handle, self.number));
            }
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    fn arrive(&mut self, envelope: Envelope) {
        let at = self.model.receives.iter().position(|(pattern, _)| wants(pattern, &envelope));
        let expected = at.map(|at| self.model.receives.remove(at).1);
        assert_eq!(self.matching.arrive(envelope), expected);
        if expected.is_none() {
            let handle = self.matching.keep(envelope, self.number);
            self.model.messages.push((envelope, self.number));
            self.message_handles.push((handle, self.number));
        }
    }

    fn act(&mut self, act: &Act) {
        self.number += 1;
        match act {
            Act::Post(pattern) => self.post(*pattern),
            Act::Arrive(envelope) => self.arrive(*envelope),
            Act::Probe(pattern) => {
                let got = self.matching.probe(*pattern);
                let expected = self.model.find(*pattern).map(|at| self.model.messages[at]);
                assert_eq!(got.map(|(_, envelope, message)| (envelope, *message)), expected);
                assert!(
                    got.is_none_or(|(handle, _, message)| self.message_handles.contains(&(handle, *message)))
                );
            }
            Act::Cancel(index) if !self.receive_handles.is_empty() => {
                let (handle, number) = *index.get(&self.receive_handles);
                let at = self.model.receives.iter().position(|(_, receive)| *receive == number);
                let expected = at.map(|at| self.model.receives.remove(at).1);
                assert_eq!(self.matching.cancel(handle), expected);
            }
            Act::Take(index) if !self.message_handles.is_empty() => {
                let (handle, number) = *index.get(&self.message_handles);
                let at = self.model.messages.iter().position(|(_, message)| *message == number);
                let expected = at.map(|at| self.model.messages.remove(at).1);
                assert_eq!(self.matching.take(handle), expected);
            }
            Act::Fail(source) => {
                let (failed, left) = std::mem::take(&mut self.model.receives)
                    .into_iter()
                    .partition::<Vec<_>, _>(|(pattern, _)| pattern.source == Some(*source));
                self.model.receives = left;
                let expected: Vec<_> = failed.into_iter().map(|(_, receive)| receive).collect();
                assert_eq!(self.matching.source_failed(*source), expected);
            }
            Act::Cancel(_) | Act::Take(_) => {}
        }
        self.compare();
    }

    fn compare(&self) {
        let in_use = |kind: usize| self.matching.kinds_in_use >> kind & 1 == 1;
        assert!((0..KINDS).all(|kind| in_use(kind) == (self.matching.kinds[kind].posted > 0)));
        assert_eq!(self.matching.posted(), self.model.receives.len());
        assert_eq!(self.matching.kept(), self.model.messages.len());
        let mut receives: Vec<_> = self.matching.receives().collect();
        receives.sort_unstable_by_key(|(handle, ..)| *handle);
        let receives = receives.into_iter().map(|(_, pattern, receive)| (pattern, *receive));
        assert!(receives.eq(self.model.receives.iter().copied()), "posted receives");
        let messages = self.matching.messages().map(|(_, envelope, message)| (envelope, *message));
        assert!(messages.eq(self.model.messages.iter().copied()), "kept messages");
        for source in 0..10 {
            let of_source =
                self.matching.messages_of(source).map(|(_, envelope, message)| (envelope, *message));
            let expected = self.model.messages.iter().filter(|(envelope, _)| envelope.source == source);
            assert!(of_source.eq(expected.copied()), "kept messages of {source}");
        }
    }

    /// Everything goes, by messages and receives that match: then nothing may be left anywhere.
    fn drain(mut self) {
        while let Some((pattern, _)) = self.model.receives.first() {
            let envelope = Envelope { source: pattern.source.unwrap_or(7), tag: pattern.tag };
            self.act(&Act::Arrive(envelope));
        }
        while !self.model.messages.is_empty() {
            self.act(&Act::Post(Pattern { source: None, tag: 0, mask: 0 }));
        }
        assert_eq!(self.matching.receive_queues.crowding(), (0, 0), "no key without a queue");
        assert_eq!(self.matching.message_queues.crowding(), (0, 0), "no key without a queue");
        assert!(self.matching.kinds.iter().all(|kind| kind.posted == 0));
    }
}

/// What a library says to itself is nothing that a program awaits.
#[test]
fn a_receive_of_any_tag_is_not_for_a_librarys_message() {
    let of_library = Envelope { source: 1, tag: LIBRARY_TAG_BIT | 5 };
    let of_program = Envelope { source: 1, tag: 5 };
    for pattern in [Pattern::anything(), Pattern::any_tag(1)] {
        let mut pair = Pair::new(u64::MAX);
        pair.act(&Act::Post(pattern));
        pair.act(&Act::Arrive(of_library));
        assert_eq!((pair.matching.posted(), pair.matching.kept()), (1, 1));
        assert!(pair.matching.probe(pattern).is_none());
        pair.act(&Act::Arrive(of_program));
        assert_eq!((pair.matching.posted(), pair.matching.kept()), (0, 1));
        assert!(pair.matching.probe(Pattern::exact(1, of_library.tag)).is_some());
    }
}

/// A window of receives that are alike has a short way, on which only they are looked at. It must not be taken past an older receive with
/// a mask for which there was no kind left.
#[test]
fn a_window_does_not_hide_an_older_receive_without_a_kind() {
    let mut pair = Pair::new(u64::MAX);
    let masked = |bit: u32, tag: u64| Pattern { source: None, tag, mask: 1 << bit };
    for bit in 8..8 + (KINDS - KINDS_FIXED) as u32 {
        pair.act(&Act::Post(masked(bit, 1 << bit)));
    }
    pair.act(&Act::Post(masked(20, 0)));
    // Those that have taken the kinds go; then only exact ones are in queues.
    for bit in 8..8 + (KINDS - KINDS_FIXED) as u32 {
        pair.act(&Act::Arrive(Envelope { source: 0, tag: 1 << bit }));
    }
    for _ in 0..3 {
        pair.act(&Act::Post(Pattern::exact(1, 5)));
    }
    assert_eq!((pair.matching.kinds_in_use, pair.matching.others.is_empty()), (1 << EXACT, false));
    pair.act(&Act::Arrive(Envelope { source: 1, tag: 5 }));
    assert!(pair.matching.others.is_empty(), "the older one got it");
    for _ in 0..3 {
        pair.act(&Act::Arrive(Envelope { source: 1, tag: 5 }));
    }
    pair.drain();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    /// Against the model; `bits` of the hash count, so with 0 all keys collide.
    #[test]
    fn matches_as_two_lists_would(
        bits in prop::sample::select(vec![0, 1, 2, 64]),
        acts in prop::collection::vec(acts(), 1..200),
    ) {
        let mut pair = Pair::new(u64::MAX.checked_shr(64 - bits).unwrap_or(0));
        acts.iter().for_each(|act| pair.act(act));
        pair.drain();
    }
}

/// The tables grow many times and shrink again under keys that come and go, with few bits of the hash and with all.
#[test]
fn tables_of_many_keys_lose_none() {
    for hash_mask in [u64::MAX, 0x3f << 2] {
        let mut pair = Pair::new(hash_mask);
        let mut random = 1_u64;
        for round in 0..3_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let envelope = Envelope { source: (random >> 60) as u32, tag: (random >> 33) % 64 };
            pair.number += 1;
            match (random >> 40) % 4 {
                // More is posted in the first half, more arrives in the second.
                kind if kind == 0 || kind < 3 && round < 1_500 => {
                    let any_source = (random >> 50).is_multiple_of(8);
                    pair.post(Pattern {
                        source: (!any_source).then_some(envelope.source),
                        ..Pattern::any_source(envelope.tag)
                    });
                }
                _ => pair.arrive(envelope),
            }
        }
        pair.compare();
        pair.drain();
    }
}

#[test]
fn the_rules_in_small() {
    let mut matching = Matching::<&str, &str>::new();
    let from = |source, tag| Envelope { source, tag };
    assert_eq!(matching.arrive(from(1, 5)), None);
    let first = matching.keep(from(1, 5), "first");
    assert_eq!(matching.arrive(from(1, 5)), None);
    let second = matching.keep(from(1, 5), "second");
    assert!(first < second, "handles order by age");
    assert_eq!(matching.probe(Pattern::any_tag(1)), Some((first, from(1, 5), &"first")));
    assert_eq!(matching.probe(Pattern::any_tag(2)), None);
    assert_eq!(matching.take(second), Some("second"), "a matched probe may take a later one");
    assert_eq!(matching.take(second), None);
    let matched = Match::Matched { receive: "r", envelope: from(1, 5), message: "first" };
    assert_eq!(matching.post(Pattern::any_source(5), "r"), matched);
    // A message takes the oldest of three that match, and what was cancelled does not count.
    let Match::Waits(cancelled) = matching.post(Pattern::exact(1, 5), "cancelled") else { panic!() };
    matching.post(Pattern { source: None, tag: 4, mask: 4 }, "a bit");
    matching.post(Pattern::exact(1, 5), "exact");
    matching.post(Pattern::anything(), "anything");
    assert_eq!(matching.cancel(cancelled), Some("cancelled"));
    assert_eq!(matching.cancel(cancelled), None);
    assert_eq!(matching.arrive(from(1, 5)), Some("a bit"));
    assert_eq!(matching.arrive(from(1, 5)), Some("exact"));
    // Its place is used again, but not by the old handle.
    matching.post(Pattern::exact(1, 6), "later");
    assert_eq!(matching.cancel(cancelled), None);
    // Who failed is not waited for; whoever else may come is.
    assert_eq!(matching.source_failed(1), ["later"]);
    assert_eq!(matching.arrive(from(1, 6)), Some("anything"));
    assert_eq!((matching.posted(), matching.kept()), (0, 0));
}

const MANY: u32 = 100_000;

/// An arrival among very many posted receives takes no more steps than among few.
#[test]
fn posted_receives_do_not_slow_an_arrival() {
    let mut matching = Matching::<u32, ()>::new();
    let source = |receive: u32| receive % 1_000;
    for receive in 0..MANY {
        matching.post(Pattern::exact(source(receive), u64::from(receive / 1_000)), receive);
    }
    // As many again with one pattern.
    (0..MANY).for_each(|receive| _ = matching.post(Pattern::exact(7, 1 << 40), receive));
    let (mut sum, mut longest) = (0, 0);
    for receive in (0..MANY).rev() {
        let (steps, found) = arrival(&mut matching, source(receive), u64::from(receive / 1_000));
        assert_eq!(found, Some(receive));
        (sum, longest) = (sum + steps, longest.max(steps));
    }
    assert!(sum < 5 * u64::from(MANY), "{sum} steps for {MANY} arrivals");
    assert!(longest < 100, "{longest} steps for one arrival");
    let (steps, found) = arrival(&mut matching, 7, 1 << 40);
    assert_eq!(found, Some(0));
    assert!(steps < 10, "{steps} steps among {MANY} equal ones");
    assert_eq!(matching.posted() as u32, MANY - 1);
}

/// Receives of a few masks cost a look-up for each mask, those of further masks a step for each that is older.
#[test]
fn wildcards_cost_by_their_kinds() {
    let context = |number: u64| number << 32;
    let mut matching = Matching::<u32, ()>::new();
    for receive in 0..MANY {
        let source = receive % 100;
        let pattern = match receive % 4 {
            0 => Pattern::any_source(context(9) | u64::from(receive)),
            1 => Pattern::any_tag(source),
            2 => Pattern { source: Some(source), tag: context(9), mask: context(u32::MAX.into()) },
            _ => Pattern { source: None, tag: context(u64::from(receive)), mask: context(u32::MAX.into()) },
        };
        matching.post(pattern, receive);
    }
    matching.post(Pattern::exact(1_000, context(1)), MANY);
    let (steps, found) = arrival(&mut matching, 1_000, context(1));
    assert_eq!(found, Some(MANY));
    assert!(steps < 60, "{steps} steps");
    let (steps, found) = arrival(&mut matching, 1_000, context(9) | 400);
    assert_eq!(found, Some(400));
    assert!(steps < 60, "{steps} steps");

    let mut matching = Matching::<u32, ()>::new();
    let single_bit = |bit: u32| Pattern { source: None, tag: 1 << bit, mask: 1 << bit };
    (0..54).for_each(|bit| _ = matching.post(single_bit(bit), bit));
    matching.post(Pattern::exact(1, 0), 100);
    (54..64).for_each(|bit| _ = matching.post(single_bit(bit), bit));
    let (steps, found) = arrival(&mut matching, 1, 0);
    assert_eq!(found, Some(100));
    assert!((50..100).contains(&steps), "{steps} steps past 50 older masks without a kind");
    let (steps, found) = arrival(&mut matching, 1, 1 << 60);
    assert_eq!(found, Some(60));
    assert!(steps > 55, "{steps} steps");
}

/// The usual patterns find their message in one look-up, however many messages are kept.
#[test]
fn kept_messages_do_not_slow_a_post() {
    let mut matching = Matching::<u32, u32>::new();
    for message in 0..MANY {
        matching.keep(Envelope { source: message % 1_000, tag: u64::from(message / 1_000) }, message);
    }
    for (pattern, first) in [
        (Pattern::exact(999, 99), MANY - 1),
        (Pattern::any_source(99), 99_000),
        (Pattern::any_tag(999), 999),
        (Pattern::anything(), 0),
    ] {
        let (steps, found) = steps(|| matching.probe(pattern).map(|(_, _, message)| *message));
        assert_eq!(found, Some(first));
        assert!(steps < 20, "{steps} steps for {pattern:?}");
    }
    let (mut sum, mut longest) = (0, 0);
    for message in (0..MANY).rev() {
        let pattern = Pattern::exact(message % 1_000, u64::from(message / 1_000));
        let (steps, got) = steps(|| matching.post(pattern, 0));
        assert!(matches!(got, Match::Matched { message: got, .. } if got == message));
        (sum, longest) = (sum + steps, longest.max(steps));
    }
    assert!(sum < 15 * u64::from(MANY), "{sum} steps for {MANY} posts");
    assert!(longest < 200, "{longest} steps for one post");
    assert_eq!(matching.kept(), 0);
}

/// The same traffic again and again takes no more room, though its tags are always new.
#[test]
fn a_steady_state_allocates_nothing() {
    let mut matching = Matching::<u64, u64>::new();
    let mut tag = 0;
    let mut burst = |matching: &mut Matching<u64, u64>| {
        let first = tag;
        tag += 500;
        let at = |tag: u64| Envelope { source: (tag % 13) as u32, tag };
        // Half are expected; of the messages that nobody expects, all are taken in the end.
        (first..first + 250).for_each(|tag| _ = matching.post(Pattern::exact(at(tag).source, tag), tag));
        // A new mask each time.
        matching.post(Pattern { source: None, tag: 1 << 62, mask: tag | 1 << 62 }, 0);
        for tag in (first..first + 500).rev() {
            match matching.arrive(at(tag)) {
                Some(receive) => assert_eq!(receive, tag),
                None => _ = matching.keep(at(tag), tag),
            }
        }
        (first + 250..first + 500).for_each(|tag| {
            assert!(matches!(matching.post(Pattern::any_source(tag), 0), Match::Matched { message, .. } if message == tag));
        });
        assert_eq!(matching.arrive(Envelope { source: 0, tag: 1 << 62 }), Some(0));
        assert_eq!((matching.posted(), matching.kept()), (0, 0));
    };
    burst(&mut matching);
    let capacity = matching.capacity();
    assert!(capacity.receives >= 251 && capacity.receive_entries >= 502 && capacity.message_entries >= 1_000);
    (0..1_000).for_each(|_| burst(&mut matching));
    assert_eq!(matching.capacity(), capacity);
}

/// Keys as programs make them lie apart, up to the last one before the table grows.
#[test]
fn likely_keys_do_not_crowd() {
    type Family = fn(u64) -> (u32, u64);
    let families: [(&str, Family); 8] = [
        ("tags", |n| (3, n)),
        ("tags far apart", |n| (3, n << 44)),
        ("communicators", |n| (3, n << 32 | 0x1234)),
        ("even tags", |n| (0, n * 64)),
        ("sources", |n| (n as u32, 0)),
        ("sources of nodes", |n| ((n << 6) as u32, 42)),
        ("both", |n| ((n % 256) as u32, n / 256)),
        ("equal", |n| (n as u32, n)),
    ];
    for (name, family) in families {
        let mut matching = Matching::<u32, ()>::new();
        for n in 0..1 << 16 {
            let (source, tag) = family(n);
            matching.post(Pattern::exact(source, tag), 0);
        }
        let (longest, keys) = matching.receive_queues.crowding();
        assert_eq!((keys, matching.capacity().receive_entries), (1 << 16, 1 << 17), "{name}: half full");
        assert!(longest < 100, "{name}: {longest} entries away from where it belongs");
    }
}

#[test]
#[should_panic(expected = "a receive waits")]
#[cfg(debug_assertions)]
fn a_message_is_not_kept_past_a_receive() {
    let mut matching = Matching::<(), ()>::new();
    matching.post(Pattern::any_tag(1), ());
    matching.keep(Envelope { source: 1, tag: 2 }, ());
}
