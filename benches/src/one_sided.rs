//! Put and get between two ranks: osu_put_latency, osu_get_latency, osu_put_bw and osu_get_bw.
//!
//! As in OSU: with passive synchronization (flush, lock) rank 0 alone operates, while rank 1 waits inside MPI.
//! With active synchronization (fence, post/start/complete/wait) rank 1 takes part in every round, and in the
//! latency benchmarks the two take turns, so that a round holds two operations and its time is halved.

use clap::Parser;
use serde::Serialize;

use crate::{
    error::BenchError,
    measure::{Exchange, Handshake, measure},
    memory::{Layout, PageBuffer, Slots},
    options::{Common, OneSided, WindowSize},
    plan::{BANDWIDTH, LATENCY, Schedule},
    point_to_point::{Channel, Tag},
    program::{Options, staging_note},
    report::{Report, Row},
    rma::{Synchronization, Window},
    session::Session,
    stage::Stage,
};

/// Options of the latency benchmarks.
#[derive(Parser, Serialize)]
pub struct LatencyArguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    one_sided: OneSided,
}

impl Options for LatencyArguments {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Options of the bandwidth benchmarks.
#[derive(Parser, Serialize)]
pub struct BandwidthArguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    window: WindowSize,
    #[command(flatten)]
    #[serde(flatten)]
    one_sided: OneSided,
}

impl Options for BandwidthArguments {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the rank that calls.
    Put,
    /// To the rank that calls.
    Get,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One operation at a time.
    Latency,
    /// This many operations between synchronizations.
    Bandwidth {
        /// The window size of `-W`, not to be confused with the memory window.
        window: usize,
    },
}

impl Kind {
    fn operations(self) -> usize {
        match self {
            Kind::Latency => 1,
            Kind::Bandwidth { window } => window,
        }
    }

    fn schedule(self) -> Schedule {
        match self {
            Kind::Latency => LATENCY,
            Kind::Bandwidth { .. } => BANDWIDTH,
        }
    }

    fn size_bytes_min(self) -> usize {
        match self {
            Kind::Latency => 0,
            Kind::Bandwidth { .. } => 1,
        }
    }
}

/// What one rank does in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Operates; the peer does nothing.
    Alone,
    /// Nothing; the peer operates.
    Idle,
    /// Operates while the peer lets it.
    First,
    /// Lets the peer operate.
    Second,
    /// Operates, then lets the peer.
    FirstThenSecond,
    /// Lets the peer operate, then operates.
    SecondThenFirst,
}

impl Turn {
    fn of(kind: Kind, sync: Synchronization, active: bool) -> Self {
        match (sync.is_active_target(), kind, active) {
            (false, _, true) => Turn::Alone,
            (false, _, false) => Turn::Idle,
            (true, Kind::Latency, true) => Turn::FirstThenSecond,
            (true, Kind::Latency, false) => Turn::SecondThenFirst,
            (true, Kind::Bandwidth { .. }, true) => Turn::First,
            (true, Kind::Bandwidth { .. }, false) => Turn::Second,
        }
    }

    fn operates(self) -> bool {
        !matches!(self, Turn::Idle | Turn::Second)
    }

    /// Whether the peer operates on this rank's memory.
    fn is_target(self) -> bool {
        !matches!(self, Turn::Alone | Turn::First)
    }
}

/// One round, for one of the two ranks.
struct Access<'a> {
    operation: Operation,
    sync: Synchronization,
    turn: Turn,
    window: &'a Window,
    /// This rank's memory in the window.
    exposed: Slots<'a>,
    /// The memory that this rank's own operations read or write.
    origin: Slots<'a>,
    rank: i32,
    handshake: Handshake<'a>,
    staged: bool,
    stage: Stage,
}

impl<'a> Access<'a> {
    #[inline]
    fn operate(&self) {
        let (origin, operation): (Slots<'a>, Operation) = (self.origin, self.operation);
        self.window.epoch(self.sync, |epoch| {
            for (index, message) in origin.iter().enumerate() {
                match operation {
                    Operation::Put => epoch.put(message, origin.offset_bytes(index)),
                    Operation::Get => epoch.get(message, origin.offset_bytes(index)),
                }
            }
        });
    }

    /// The peer's turn. A fence is one call on all ranks: of the two around the peer's operations, the one that
    /// this rank's own epoch makes at the seam of the two turns counts.
    #[inline]
    fn let_peer(&self) {
        let shares_fence = matches!(self.turn, Turn::FirstThenSecond | Turn::SecondThenFirst);
        if shares_fence && self.sync == Synchronization::Fence {
            self.window.fence();
        } else {
            self.window.expose(self.sync);
        }
    }

    /// What this rank sends lies in its origin when it puts and in its window when the peer gets.
    fn outgoing(&self) -> Option<Slots<'a>> {
        match self.operation {
            Operation::Put => self.turn.operates().then_some(self.origin),
            Operation::Get => self.turn.is_target().then_some(self.exposed),
        }
    }

    fn incoming(&self) -> Option<Slots<'a>> {
        match self.operation {
            Operation::Put => self.turn.is_target().then_some(self.exposed),
            Operation::Get => self.turn.operates().then_some(self.origin),
        }
    }

    /// A target without rounds of its own looks at its memory inside a lock of it.
    fn watches(&self) -> bool {
        self.staged && self.turn == Turn::Idle
    }

    fn synchronize_memory(&self) {
        if self.watches() {
            self.window.sync();
        }
    }

    fn first_message(&self, round: u64) -> u64 {
        round * self.origin.count() as u64
    }

    /// Opens what stays open over all rounds.
    fn open(&self) {
        if self.turn == Turn::Alone && self.sync.holds_lock() {
            self.window.lock_peer();
        }
        if self.watches() {
            self.window.lock(self.rank);
        }
    }

    fn close(&self) {
        if self.turn == Turn::Alone && self.sync.holds_lock() {
            self.window.unlock_peer();
        }
        if self.watches() {
            self.window.unlock(self.rank);
        }
    }
}

impl Exchange for Access<'_> {
    #[inline]
    fn round(&mut self) {
        match self.turn {
            Turn::Alone | Turn::First => self.operate(),
            Turn::Idle => {}
            Turn::Second => self.let_peer(),
            Turn::FirstThenSecond => {
                self.operate();
                self.let_peer();
            }
            Turn::SecondThenFirst => {
                self.let_peer();
                self.operate();
            }
        }
    }

    fn prepare(&mut self, number: u64) {
        if let Some(slots) = self.outgoing() {
            self.stage.prepare_outgoing(slots, self.first_message(number));
        }
        if let Some(slots) = self.incoming() {
            self.stage.prepare_incoming(slots);
        }
        self.synchronize_memory();
    }

    fn ready(&mut self, _: u64) {
        self.handshake.ready(Tag::READY);
    }

    fn settle(&mut self, _: u64) {
        if self.turn == Turn::Alone && self.sync == Synchronization::FlushLocal {
            // Local completion is what was measured; the target can only check what has arrived.
            self.window.flush();
        }
        self.handshake.settle(Tag::DONE);
    }

    fn check(&mut self, number: u64) {
        self.synchronize_memory();
        if let Some(slots) = self.incoming() {
            self.stage.check_incoming(slots, self.first_message(number));
        }
    }
}

/// Runs osu_put_latency or osu_get_latency.
pub fn run_latency(
    session: &Session,
    arguments: &LatencyArguments,
    operation: Operation,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    run(session, &arguments.common, arguments.one_sided, operation, Kind::Latency, report)
}

/// Runs osu_put_bw or osu_get_bw.
pub fn run_bandwidth(
    session: &Session,
    arguments: &BandwidthArguments,
    operation: Operation,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    let kind = Kind::Bandwidth { window: arguments.window.window_size as usize };
    run(session, &arguments.common, arguments.one_sided, operation, kind, report)
}

fn run(
    session: &Session,
    common: &Common,
    choice: OneSided,
    operation: Operation,
    kind: Kind,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    let sizes = common.sizes(kind.size_bytes_min())?;
    let pair = session.pair();
    let operations = kind.operations();
    let length = Layout::Packed.length_bytes(sizes.largest_bytes(), operations)?;
    let buffer = session.agree(PageBuffer::new(length, "the origin buffers"))?;
    let mut notes = vec![
        format!("Window creation: {}", choice.window.function()),
        format!("Synchronization: {}", choice.sync.functions()),
    ];
    notes.extend(staging_note(common));
    report.open(&notes, sizes.count())?;
    for size_bytes in sizes {
        report.begin(size_bytes);
        let plan = common.plan(kind.schedule(), size_bytes);
        // One memory window for each size, as in OSU, just large enough.
        let length = Layout::Packed.length_bytes(size_bytes, operations)?;
        let window = Window::new(session, pair.peer, choice.window, length)?;
        let channel = Channel::new(session, pair.peer);
        let mut access = Access {
            operation,
            sync: choice.sync,
            turn: Turn::of(kind, choice.sync, pair.active),
            window: &window,
            exposed: Slots::new(window.span(), Layout::Packed, size_bytes, operations),
            origin: Slots::new(buffer.span(), Layout::Packed, size_bytes, operations),
            rank: session.rank(),
            handshake: Handshake { channel, active: pair.active },
            staged: common.staged(),
            stage: Stage::new(common, session.rank(), pair.peer, size_bytes),
        };
        access.origin.fill(b'a');
        access.exposed.fill(b'b');
        session.barrier();
        access.open();
        let timing = measure(&mut access, &plan);
        access.close();
        session.barrier();
        let mismatch = access.stage.first_mismatch();
        let turns = if access.turn == Turn::FirstThenSecond { 2.0 } else { 1.0 };
        let bytes = size_bytes as f64 * operations as f64;
        let value = |seconds: f64| match kind {
            Kind::Latency => seconds * 1e6 / turns,
            Kind::Bandwidth { .. } => bytes / 1e6 / seconds,
        };
        let values = vec![value(timing.seconds / plan.rounds.iterations as f64)];
        let samples = timing.samples.into_iter().map(value).collect();
        report.add(Row { size_bytes, rounds: plan.rounds, values, samples, mismatch })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn whenever_one_rank_operates_the_other_is_its_target() {
        for sync in Synchronization::value_variants() {
            for kind in [Kind::Latency, Kind::Bandwidth { window: 4 }] {
                let (zero, one) = (Turn::of(kind, *sync, true), Turn::of(kind, *sync, false));
                assert!(zero.operates());
                assert_eq!(zero.operates(), one.is_target(), "{kind:?} {sync:?}");
                assert_eq!(one.operates(), zero.is_target(), "{kind:?} {sync:?}");
            }
        }
    }
}
