//! The three timed loops. Every benchmark runs in one of them.
//!
//! - **whole** (default, OSU's way): the clock is read before the first and after the last round.
//! - **sampled** (`-f`): the clock is read once more after every round, which adds about 20 ns to each.
//! - **staged** (`-c`, `--touch`): buffers are prepared and checked between rounds, and only the rounds are
//!   timed. No time is subtracted. Instead both sides prepare first, the passive side says so with an empty
//!   message and goes straight into the call it is measured in, and the active side starts its clock when that
//!   message arrives. After the round a second empty message releases the passive side to check, so that it
//!   drives MPI's progress until the active side's clock has stopped. The clock is read twice a round.

use crate::{
    plan::Plan,
    point_to_point::{Channel, Tag, now},
};

/// One side of a repeated, timed exchange.
pub trait Exchange {
    /// Between warm-up and measurement.
    fn begin(&mut self) {}

    /// What is timed.
    fn round(&mut self);

    /// Makes buffers ready for round `number`, counted from 0 with the warm-up.
    fn prepare(&mut self, number: u64);

    /// Returns when the other side is prepared as well.
    fn ready(&mut self, number: u64);

    /// Returns when the round is over on the active side.
    fn settle(&mut self, number: u64);

    /// Checks what round `number` brought.
    fn check(&mut self, number: u64);
}

/// What the clock showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// All measured rounds together.
    pub seconds: f64,
    /// Each measured round, when asked for.
    pub samples: Vec<f64>,
}

/// Runs warm-up and measured rounds.
pub fn measure<E: Exchange>(exchange: &mut E, plan: &Plan) -> Timing {
    match (plan.staged, plan.sampled) {
        (true, _) => staged(exchange, plan),
        (false, true) => sampled(exchange, plan),
        (false, false) => whole(exchange, plan),
    }
}

fn whole<E: Exchange>(exchange: &mut E, plan: &Plan) -> Timing {
    for _ in 0..plan.rounds.warmup {
        exchange.round();
    }
    exchange.begin();
    let start = now();
    for _ in 0..plan.rounds.iterations {
        exchange.round();
    }
    Timing { seconds: now() - start, samples: Vec::new() }
}

fn sampled<E: Exchange>(exchange: &mut E, plan: &Plan) -> Timing {
    let mut samples = Vec::with_capacity(plan.rounds.iterations as usize);
    for _ in 0..plan.rounds.warmup {
        exchange.round();
    }
    exchange.begin();
    let start = now();
    let mut before = start;
    for _ in 0..plan.rounds.iterations {
        exchange.round();
        let after = now();
        samples.push(after - before);
        before = after;
    }
    Timing { seconds: before - start, samples }
}

fn staged<E: Exchange>(exchange: &mut E, plan: &Plan) -> Timing {
    let rounds = plan.rounds;
    let mut timing = Timing::default();
    timing.samples.reserve(if plan.sampled { rounds.iterations as usize } else { 0 });
    for number in 0..rounds.warmup + rounds.iterations {
        if number == rounds.warmup {
            exchange.begin();
        }
        exchange.prepare(number);
        exchange.ready(number);
        let start = now();
        exchange.round();
        let seconds = now() - start;
        exchange.settle(number);
        exchange.check(number);
        if number >= rounds.warmup {
            timing.seconds += seconds;
            if plan.sampled {
                timing.samples.push(seconds);
            }
        }
    }
    timing
}

/// The empty messages around a staged round.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'session> {
    /// To the other side.
    pub channel: Channel<'session>,
    /// Whether this side's clock counts.
    pub active: bool,
}

impl Handshake<'_> {
    /// The passive side tells the active one that it is prepared.
    pub fn ready(self, tag: Tag) {
        if self.active { self.channel.await_signal(tag) } else { self.channel.signal(tag) }
    }

    /// The active side tells the passive one that the round is over.
    pub fn settle(self, tag: Tag) {
        if self.active { self.channel.signal(tag) } else { self.channel.await_signal(tag) }
    }
}
