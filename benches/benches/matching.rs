//! What it costs to bring a message and a receive together: by `ironband_core::protocol::matching`, and beside it by two plain
//! lists that are walked from the front.
//!
//! Each measured turn is a match and what puts the state back: a message arrives for one of the posted receives, chosen at random,
//! which is then posted again; or a receive is posted for one of the kept messages, which then arrives again.
//!
//! `cargo bench -p ironband-benches --bench matching`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use ironband_core::protocol::matching::{Envelope, Match, Matching, Pattern};

const SOURCES: u32 = 1_000;
const END: usize = usize::MAX;

/// What is measured: `Matching`, or lists.
trait Matcher: Default {
    /// The message that a receive got, if it did not have to wait.
    fn post(&mut self, pattern: Pattern, receive: u32) -> Option<u32>;
    /// The receive that a message got, if it is not kept.
    fn arrive(&mut self, envelope: Envelope, message: u32) -> Option<u32>;
}

impl Matcher for Matching<u32, u32> {
    fn post(&mut self, pattern: Pattern, receive: u32) -> Option<u32> {
        match self.post(pattern, receive) {
            Match::Matched { message, .. } => Some(message),
            Match::Waits(_) => None,
        }
    }

    fn arrive(&mut self, envelope: Envelope, message: u32) -> Option<u32> {
        let receive = self.arrive(envelope);
        if receive.is_none() {
            self.keep(envelope, message);
        }
        receive
    }
}

/// A linked list in the order of insertion.
struct List<T> {
    items: Vec<(T, u32, usize)>,
    free: Vec<usize>,
    head: usize,
    tail: usize,
}

impl<T: Copy> List<T> {
    fn push(&mut self, item: T, number: u32) {
        let at = self.free.pop().unwrap_or(self.items.len());
        if at == self.items.len() {
            self.items.push((item, number, END));
        } else {
            self.items[at] = (item, number, END);
        }
        if self.head == END {
            self.head = at;
        } else {
            self.items[self.tail].2 = at;
        }
        self.tail = at;
    }

    fn take(&mut self, wanted: impl Fn(T) -> bool) -> Option<u32> {
        let (mut before, mut at) = (END, self.head);
        while at != END {
            let (item, number, next) = self.items[at];
            if wanted(item) {
                if before == END {
                    self.head = next;
                } else {
                    self.items[before].2 = next;
                }
                if next == END {
                    self.tail = before;
                }
                self.free.push(at);
                return Some(number);
            }
            (before, at) = (at, next);
        }
        None
    }
}

struct Lists {
    receives: List<Pattern>,
    messages: List<Envelope>,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            receives: List { items: Vec::new(), free: Vec::new(), head: END, tail: END },
            messages: List { items: Vec::new(), free: Vec::new(), head: END, tail: END },
        }
    }
}

impl Matcher for Lists {
    fn post(&mut self, pattern: Pattern, receive: u32) -> Option<u32> {
        let message = self.messages.take(|envelope| pattern.matches(envelope));
        if message.is_none() {
            self.receives.push(pattern, receive);
        }
        message
    }

    fn arrive(&mut self, envelope: Envelope, message: u32) -> Option<u32> {
        let receive = self.receives.take(|pattern| pattern.matches(envelope));
        if receive.is_none() {
            self.messages.push(envelope, message);
        }
        receive
    }
}

/// Sources and tags of a program with one communicator.
fn envelope(number: u32) -> Envelope {
    Envelope { source: number % SOURCES, tag: 1 << 32 | u64::from(number / SOURCES) }
}

fn exact(number: u32) -> Pattern {
    Pattern::exact(envelope(number).source, envelope(number).tag)
}

/// Half exact; any source, any tag, and any tag of a communicator.
fn mixed(number: u32) -> Pattern {
    match number % 8 {
        0 => Pattern::any_source(envelope(number).tag),
        1 => Pattern::any_tag(envelope(number).source),
        2 | 3 => Pattern { mask: !0 << 32, ..exact(number) },
        _ => exact(number),
    }
}

fn random(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

/// `count` receives are posted; a message comes for one, and it is posted again.
fn expected<X: Matcher>(criterion: &mut Criterion, name: &str, count: u32, pattern: fn(u32) -> Pattern) {
    let mut matcher = X::default();
    (0..count).for_each(|number| _ = matcher.post(pattern(number), number));
    let mut state = 1;
    criterion.benchmark_group("expected").bench_function(BenchmarkId::new(name, count), |bencher| {
        bencher.iter(|| {
            let got = matcher.arrive(envelope(random(&mut state) % count), 0).expect("a receive is posted");
            matcher.post(pattern(black_box(got)), got)
        });
    });
}

/// `count` messages are kept; a receive is posted for one, and it arrives again.
fn unexpected<X: Matcher>(criterion: &mut Criterion, name: &str, count: u32) {
    let mut matcher = X::default();
    (0..count).for_each(|number| _ = matcher.arrive(envelope(number), number));
    let mut state = 1;
    criterion.benchmark_group("unexpected").bench_function(BenchmarkId::new(name, count), |bencher| {
        bencher.iter(|| {
            let got = matcher.post(exact(random(&mut state) % count), 0).expect("a message is kept");
            matcher.arrive(envelope(black_box(got)), got)
        });
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for count in [1, 1_000, 100_000] {
        expected::<Matching<_, _>>(&mut criterion, "matching", count, exact);
        expected::<Lists>(&mut criterion, "lists", count, exact);
    }
    for count in [1_000, 100_000] {
        expected::<Matching<_, _>>(&mut criterion, "matching, mixed", count, mixed);
        expected::<Lists>(&mut criterion, "lists, mixed", count, mixed);
    }
    for count in [1, 1_000, 100_000] {
        unexpected::<Matching<_, _>>(&mut criterion, "matching", count);
        unexpected::<Lists>(&mut criterion, "lists", count);
    }
    criterion.final_summary();
}
