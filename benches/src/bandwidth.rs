//! Windows of messages between pairs of ranks: osu_bw, osu_bibw and osu_mbw_mr.

use clap::Parser;
use serde::Serialize;

use crate::{
    error::BenchError,
    measure::{Exchange, Handshake, measure},
    memory::{Layout, PageBuffer, Slots, Span},
    options::{Common, Implementation, Which, WindowSize},
    plan::BANDWIDTH,
    point_to_point::{Channel, Requests, Tag},
    program::{Options, staging_note},
    report::{Report, Row},
    session::{Pair, Session},
    stage::Stage,
};

/// Options of the three.
#[derive(Parser, Serialize)]
pub struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    which: Which,
    #[command(flatten)]
    #[serde(flatten)]
    window: WindowSize,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }

    fn implementation(&self) -> Implementation {
        self.which.implementation
    }

    fn check(&self) -> Result<(), BenchError> {
        self.which.check_windows()
    }
}

/// Bytes of the message that closes a one-way window, as in OSU.
const ACKNOWLEDGE_BYTES: usize = 4;

/// Which of the three benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// osu_bw: one way between two ranks.
    OneWay,
    /// osu_bibw: both ranks send and receive.
    BothWays,
    /// osu_mbw_mr: one way in many pairs that begin together; prints the message rate as well.
    Pairs,
}

impl Kind {
    /// What this rank does with a window.
    fn side(self, pair: Pair) -> Side {
        match (self, pair.active) {
            (Kind::BothWays, _) => Side::Both,
            (_, true) => Side::Sender,
            (_, false) => Side::Receiver,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
    Both,
}

/// One window, for one rank of a pair.
struct Stream<'a> {
    side: Side,
    channel: Channel<'a>,
    handshake: Handshake<'a>,
    outgoing: Slots<'a>,
    incoming: Slots<'a>,
    acknowledge: Span<'a>,
    sends: Requests<'a>,
    receives: Requests<'a>,
    stage: Stage,
    /// Where all pairs begin to measure together.
    together: Option<&'a Session>,
}

impl Stream<'_> {
    fn first_message(&self, round: u64) -> u64 {
        round * self.outgoing.count() as u64
    }
}

impl Exchange for Stream<'_> {
    fn begin(&mut self) {
        if let Some(session) = self.together {
            session.barrier();
        }
    }

    #[inline]
    fn round(&mut self) {
        let Self { channel, outgoing, incoming, .. } = *self;
        match self.side {
            Side::Sender => {
                self.sends.window(|post| post.send_all(channel, outgoing, Tag::DATA));
                channel.receive(self.acknowledge, Tag::ACKNOWLEDGE);
            }
            Side::Receiver => {
                self.receives.window(|post| post.receive_all(channel, incoming, Tag::DATA));
                channel.send(self.acknowledge, Tag::ACKNOWLEDGE);
            }
            Side::Both => self.receives.window(|post| {
                post.receive_all(channel, incoming, Tag::DATA);
                self.sends.window(|post| post.send_all(channel, outgoing, Tag::DATA));
            }),
        }
    }

    fn prepare(&mut self, number: u64) {
        if self.side != Side::Receiver {
            self.stage.prepare_outgoing(self.outgoing, self.first_message(number));
        }
        if self.side != Side::Sender {
            self.stage.prepare_incoming(self.incoming);
        }
    }

    fn ready(&mut self, _: u64) {
        self.handshake.ready(Tag::READY);
    }

    fn settle(&mut self, _: u64) {
        self.handshake.settle(Tag::DONE);
    }

    fn check(&mut self, number: u64) {
        if self.side != Side::Sender {
            self.stage.check_incoming(self.incoming, self.first_message(number));
        }
    }
}

/// Send and receive memory of one rank; a side that is not used stays one page.
struct Buffers {
    outgoing: PageBuffer,
    incoming: PageBuffer,
    acknowledge: PageBuffer,
}

impl Buffers {
    fn new(largest_bytes: usize, layout: Layout, slots: usize) -> Result<Self, BenchError> {
        let length = layout.length_bytes(largest_bytes, slots)?;
        Ok(Self {
            outgoing: PageBuffer::new(length, "the window's send buffers")?,
            incoming: PageBuffer::new(length, "the window's receive buffers")?,
            acknowledge: PageBuffer::new(ACKNOWLEDGE_BYTES, "the acknowledgement")?,
        })
    }
}

/// Runs one of the bandwidth benchmarks.
pub fn run(
    session: &Session,
    Arguments { common, window, .. }: &Arguments,
    kind: Kind,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    let sizes = common.sizes(1)?;
    let pair = session.pair();
    let window = window.window_size as usize;
    let layout = if common.staged() { Layout::Separate } else { Layout::Shared };
    let buffers = session.agree(Buffers::new(sizes.largest_bytes(), layout, window))?;
    let mut notes = Vec::new();
    if kind == Kind::Pairs {
        notes.push(format!("[ pairs: {} ] [ window size: {window} ]", pair.count));
    }
    notes.extend(staging_note(common));
    report.open(&notes, sizes.count())?;
    for size_bytes in sizes {
        report.begin(size_bytes);
        let plan = common.plan(BANDWIDTH, size_bytes);
        let mut stream = Stream {
            side: kind.side(pair),
            channel: Channel::new(session, pair.peer),
            handshake: Handshake { channel: Channel::new(session, pair.peer), active: pair.active },
            outgoing: Slots::new(buffers.outgoing.span(), layout, size_bytes, window),
            incoming: Slots::new(buffers.incoming.span(), layout, size_bytes, window),
            acknowledge: buffers.acknowledge.span().part(0, ACKNOWLEDGE_BYTES),
            sends: Requests::new(session, window),
            receives: Requests::new(session, window),
            stage: Stage::new(common, session.rank(), pair.peer, size_bytes),
            together: (kind == Kind::Pairs).then_some(session),
        };
        if stream.side != Side::Receiver {
            stream.outgoing.fill(b'a');
        }
        if stream.side != Side::Sender {
            stream.incoming.fill(b'b');
        }
        session.barrier();
        let timing = measure(&mut stream, &plan);
        let mismatch = stream.stage.first_mismatch();
        let directions = if kind == Kind::BothWays { 2.0 } else { 1.0 };
        let pair_messages = directions * window as f64;
        let mean_seconds =
            session.sum_at_root(if pair.active { timing.seconds } else { 0.0 }) / f64::from(pair.count);
        let all_messages = pair_messages * f64::from(pair.count) * plan.rounds.iterations as f64;
        let megabytes = |messages: f64| messages * size_bytes as f64 / 1e6;
        let mut values = vec![megabytes(all_messages) / mean_seconds];
        if kind == Kind::Pairs {
            values.push(all_messages / mean_seconds);
        }
        let samples = session.gather_at_root(if pair.active { &timing.samples } else { &[] });
        let samples = sum_over_pairs(&samples, plan.rounds.iterations as usize, megabytes(pair_messages));
        report.add(Row { size_bytes, rounds: plan.rounds, values, samples, mismatch })?;
    }
    Ok(())
}

/// Rate of all pairs together in each round, from the seconds of each pair's rounds, pair behind pair.
fn sum_over_pairs(seconds: &[f64], rounds: usize, per_round: f64) -> Vec<f64> {
    let mut rates = vec![0.0; if seconds.is_empty() { 0 } else { rounds }];
    for pair in seconds.chunks(rounds) {
        rates.iter_mut().zip(pair).for_each(|(rate, seconds)| *rate += per_round / seconds);
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_pairs_add_up_round_by_round() {
        assert_eq!(sum_over_pairs(&[1.0, 2.0, 4.0, 0.5], 2, 8.0), [10.0, 20.0]);
        assert_eq!(sum_over_pairs(&[2.0, 4.0], 2, 8.0), [4.0, 2.0]);
        assert!(sum_over_pairs(&[], 3, 8.0).is_empty());
    }
}
