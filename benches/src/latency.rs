//! Ping-pong between pairs of ranks: osu_latency and osu_multi_lat.

use clap::Parser;
use serde::Serialize;

use crate::{
    error::BenchError,
    measure::{Exchange, Handshake, measure},
    memory::{Layout, PageBuffer, Slots},
    options::{Common, Implementation, Which},
    plan::LATENCY,
    point_to_point::{Channel, Tag},
    program::{Options, staging_note},
    report::{Report, Row},
    session::Session,
    stage::Stage,
};

/// Options of the two.
#[derive(Parser, Serialize)]
pub struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    which: Which,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }

    fn implementation(&self) -> Implementation {
        self.which.implementation
    }
}

/// One message there and one back, for one rank of a pair.
struct PingPong<'a, const ACTIVE: bool> {
    channel: Channel<'a>,
    outgoing: Slots<'a>,
    incoming: Slots<'a>,
    stage: Stage,
    /// Where all pairs begin to measure together.
    together: Option<&'a Session>,
}

impl<const ACTIVE: bool> PingPong<'_, ACTIVE> {
    fn handshake(&self) -> Handshake<'_> {
        Handshake { channel: self.channel, active: ACTIVE }
    }
}

impl<const ACTIVE: bool> Exchange for PingPong<'_, ACTIVE> {
    fn begin(&mut self) {
        if let Some(session) = self.together {
            session.barrier();
        }
    }

    #[inline]
    fn round(&mut self) {
        if ACTIVE {
            self.channel.send(self.outgoing.at(0), Tag::DATA);
            self.channel.receive(self.incoming.at(0), Tag::DATA);
        } else {
            self.channel.receive(self.incoming.at(0), Tag::DATA);
            self.channel.send(self.outgoing.at(0), Tag::DATA);
        }
    }

    fn prepare(&mut self, number: u64) {
        self.stage.prepare_outgoing(self.outgoing, number);
        self.stage.prepare_incoming(self.incoming);
    }

    fn ready(&mut self, _: u64) {
        self.handshake().ready(Tag::READY);
    }

    fn settle(&mut self, _: u64) {
        self.handshake().settle(Tag::DONE);
    }

    fn check(&mut self, number: u64) {
        self.stage.check_incoming(self.incoming, number);
    }
}

/// Runs osu_latency, or osu_multi_lat when `together`: then all pairs begin to measure at the same time. The
/// result is the mean over pairs.
pub fn run(
    session: &Session,
    Arguments { common, which }: &Arguments,
    together: bool,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    let sizes = which.sizes(common, 0)?;
    let pair = session.pair();
    let length = Layout::Shared.length_bytes(sizes.largest_bytes(), 1)?;
    let buffers = session.agree(
        PageBuffer::new(length, "the send buffer")
            .and_then(|outgoing| Ok((outgoing, PageBuffer::new(length, "the receive buffer")?))),
    )?;
    let mut notes = Vec::new();
    if together {
        notes.push(format!("[ pairs: {} ]", pair.count));
    }
    notes.extend(staging_note(common));
    report.open(&notes, sizes.count())?;
    for size_bytes in sizes {
        report.begin(size_bytes);
        let outgoing = Slots::new(buffers.0.span(), Layout::Shared, size_bytes, 1);
        let incoming = Slots::new(buffers.1.span(), Layout::Shared, size_bytes, 1);
        // Pages exist and differ on the two sides before anything is timed.
        outgoing.fill(b'a');
        incoming.fill(b'b');
        let channel = Channel::new(session, pair.peer);
        let stage = Stage::new(common, session.rank(), pair.peer, size_bytes);
        let together = together.then_some(session);
        let plan = common.plan(LATENCY, size_bytes);
        session.barrier();
        let (timing, mismatch) = if pair.active {
            let mut side = PingPong::<true> { channel, outgoing, incoming, stage, together };
            (measure(&mut side, &plan), side.stage.first_mismatch())
        } else {
            let mut side = PingPong::<false> { channel, outgoing, incoming, stage, together };
            (measure(&mut side, &plan), side.stage.first_mismatch())
        };
        let half_us = |seconds: f64| seconds * 1e6 / 2.0;
        let seconds = session.sum_at_root(if pair.active { timing.seconds } else { 0.0 });
        let latency = half_us(seconds) / plan.rounds.iterations as f64 / f64::from(pair.count);
        let samples = session.gather_at_root(if pair.active { &timing.samples } else { &[] });
        let samples = samples.into_iter().map(half_us).collect();
        report.add(Row { size_bytes, rounds: plan.rounds, values: vec![latency], samples, mismatch })?;
    }
    Ok(())
}
