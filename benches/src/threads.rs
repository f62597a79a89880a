//! Ping-pong between the threads of two ranks: osu_latency_mt.
//!
//! Round `n` is started by thread `n mod S` of rank 0. With one sender, as by default, its messages are alike
//! and whichever thread of rank 1 is in `MPI_Recv` answers, as in OSU. With more senders, or with `-c` or
//! `--touch`, each round has a tag of its own and thread `n mod R` of rank 1 answers it.
//! No round waits for a later one, so the lowest unfinished round can always go on: there is no deadlock.

use std::{
    sync::Barrier,
    thread::{self, Builder},
};

use clap::Parser;
use serde::Serialize;

use crate::{
    error::BenchError,
    measure::{Exchange, Handshake, Timing, measure},
    memory::{Layout, PageBuffer, Slots},
    options::{Common, ThreadCounts},
    pattern::Mismatch,
    plan::{LATENCY, Plan, Rounds},
    point_to_point::{Channel, SharedChannel, Tag, abort},
    program::{Options, staging_note},
    report::{Report, Row},
    session::Session,
    stage::Stage,
};

/// Options of osu_latency_mt.
#[derive(Parser, Serialize)]
pub struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    threads: ThreadCounts,
}

impl Options for Arguments {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// The rounds of one thread: every `stride`th, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    first: u64,
    stride: u64,
}

impl Share {
    /// How many of rounds `0..end` are this thread's.
    fn below(self, end: u64) -> u64 {
        end.saturating_sub(self.first).div_ceil(self.stride)
    }

    fn rounds(self, all: Rounds) -> Rounds {
        let warmup = self.below(all.warmup);
        Rounds { warmup, iterations: self.below(all.warmup + all.iterations) - warmup }
    }

    /// The round of the job that is this thread's round `own`.
    fn number(self, own: u64) -> u64 {
        self.first + own * self.stride
    }
}

/// The ping-pong of one thread.
struct ThreadPingPong<'a> {
    active: bool,
    /// Whether each round has a tag of its own.
    numbered: bool,
    share: Share,
    own_round: u64,
    channel: Channel<'a>,
    outgoing: Slots<'a>,
    incoming: Slots<'a>,
    stage: Stage,
}

impl ThreadPingPong<'_> {
    #[inline]
    fn tag(&self, tag: Tag, own_round: u64) -> Tag {
        if self.numbered { tag.numbered(self.share.number(own_round)) } else { tag }
    }

    fn handshake(&self) -> Handshake<'_> {
        Handshake { channel: self.channel, active: self.active }
    }
}

impl Exchange for ThreadPingPong<'_> {
    #[inline]
    fn round(&mut self) {
        let there = self.tag(Tag::DATA, self.own_round);
        let back = self.tag(Tag::REPLY, self.own_round);
        if self.active {
            self.channel.send(self.outgoing.at(0), there);
            self.channel.receive(self.incoming.at(0), back);
        } else {
            self.channel.receive(self.incoming.at(0), there);
            self.channel.send(self.outgoing.at(0), back);
        }
        self.own_round += 1;
    }

    fn prepare(&mut self, own_round: u64) {
        self.stage.prepare_outgoing(self.outgoing, self.share.number(own_round));
        self.stage.prepare_incoming(self.incoming);
    }

    fn ready(&mut self, own_round: u64) {
        self.handshake().ready(self.tag(Tag::READY, own_round));
    }

    fn settle(&mut self, own_round: u64) {
        self.handshake().settle(self.tag(Tag::DONE, own_round));
    }

    fn check(&mut self, own_round: u64) {
        self.stage.check_incoming(self.incoming, self.share.number(own_round));
    }
}

/// Send and receive memory of one thread.
struct Buffers {
    outgoing: PageBuffer,
    incoming: PageBuffer,
}

impl Buffers {
    fn for_threads(count: usize, length_bytes: usize) -> Result<Vec<Self>, BenchError> {
        let one = |_| {
            Ok(Self {
                outgoing: PageBuffer::new(length_bytes, "a thread's send buffer")?,
                incoming: PageBuffer::new(length_bytes, "a thread's receive buffer")?,
            })
        };
        (0..count).map(one).collect()
    }
}

/// What every thread of this rank needs for one size.
#[derive(Clone, Copy)]
struct Member<'a> {
    common: &'a Common,
    channel: SharedChannel<'a>,
    active: bool,
    /// Whether each round has a tag of its own.
    numbered: bool,
    threads: usize,
    rank: i32,
    peer: i32,
    size_bytes: usize,
    plan: Plan,
}

impl Member<'_> {
    fn run(self, index: usize, buffers: &Buffers, arrived: &Barrier, open: &Barrier) -> Outcome {
        let share = Share { first: index as u64, stride: self.threads as u64 };
        let plan = Plan { rounds: share.rounds(self.plan.rounds), ..self.plan };
        let mut side = ThreadPingPong {
            active: self.active,
            numbered: self.numbered,
            share,
            own_round: 0,
            channel: self.channel.get(),
            outgoing: Slots::new(buffers.outgoing.span(), Layout::Shared, self.size_bytes, 1),
            incoming: Slots::new(buffers.incoming.span(), Layout::Shared, self.size_bytes, 1),
            stage: Stage::new(self.common, self.rank, self.peer, self.size_bytes),
        };
        side.outgoing.fill(b'a');
        side.incoming.fill(b'b');
        arrived.wait();
        open.wait();
        let timing = measure(&mut side, &plan);
        (timing, side.stage.first_mismatch())
    }
}

/// What one thread measured, and the first wrong byte it saw.
type Outcome = (Timing, Option<Mismatch>);

/// Runs one size on all threads of this rank.
fn run_size(session: &Session, member: Member<'_>, buffers: Vec<Buffers>) -> (Vec<Outcome>, Vec<Buffers>) {
    // The main thread stands at both gates too: between them it meets the other rank.
    let (arrived, open) = (&Barrier::new(member.threads + 1), &Barrier::new(member.threads + 1));
    let give_up = |thread, source| -> ! {
        // The threads already started wait for this one, so there is no way back.
        eprintln!("{}", BenchError::Thread { thread, threads: member.threads, source });
        abort()
    };
    thread::scope(|scope| {
        let handles: Vec<_> = buffers
            .into_iter()
            .enumerate()
            .map(|(index, buffers)| {
                let body = move || (member.run(index, &buffers, arrived, open), buffers);
                Builder::new().spawn_scoped(scope, body).unwrap_or_else(|source| give_up(index, source))
            })
            .collect();
        arrived.wait();
        session.barrier();
        open.wait();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|_| abort())).unzip()
    })
}

/// Runs osu_latency_mt. The result is the mean over all rounds of all senders.
pub fn run(
    session: &Session,
    Arguments { common, threads: ThreadCounts { threads } }: &Arguments,
    report: &mut Report<'_>,
) -> Result<(), BenchError> {
    let sizes = common.sizes(0)?;
    let pair = session.pair();
    let channel = session.shared_channel(pair.peer)?;
    let fewest = sizes.map(|size| common.plan(LATENCY, size).rounds.iterations).min().unwrap_or_default();
    if fewest < threads.senders as u64 {
        return Err(BenchError::Option {
            option: "-i",
            value: fewest.to_string(),
            reason: format!("each of the {} sender threads needs a round to measure", threads.senders),
        });
    }
    let own_threads = if pair.active { threads.senders } else { threads.receivers };
    let length = Layout::Shared.length_bytes(sizes.largest_bytes(), 1)?;
    let mut buffers = session.agree(Buffers::for_threads(own_threads, length))?;
    let mut notes =
        vec![format!("[ sender threads: {} ] [ receiver threads: {} ]", threads.senders, threads.receivers)];
    notes.extend(staging_note(common));
    report.open(&notes, sizes.count())?;
    for size_bytes in sizes {
        report.begin(size_bytes);
        let plan = common.plan(LATENCY, size_bytes);
        let numbered = threads.senders > 1 || common.staged();
        let member = Member {
            common,
            channel,
            active: pair.active,
            numbered,
            threads: own_threads,
            rank: session.rank(),
            peer: pair.peer,
            size_bytes,
            plan,
        };
        let outcomes;
        (outcomes, buffers) = run_size(session, member, buffers);
        let half_us = |seconds: f64| seconds * 1e6 / 2.0;
        // Senders work side by side, so the time of a round is a thread's time over the thread's rounds.
        let seconds: f64 = outcomes.iter().map(|(timing, _)| timing.seconds).sum();
        let latency = half_us(seconds) / plan.rounds.iterations as f64;
        let samples = outcomes.iter().flat_map(|(timing, _)| &timing.samples).copied().map(half_us).collect();
        let mismatch = outcomes.iter().find_map(|(_, mismatch)| *mismatch);
        report.add(Row { size_bytes, rounds: plan.rounds, values: vec![latency], samples, mismatch })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_divide_all_rounds_without_overlap() {
        for threads in 1..9 {
            for warmup in [0, 1, 7, 100] {
                for iterations in [1, 8, 9, 1000] {
                    let all = Rounds { warmup, iterations };
                    let shares: Vec<_> = (0..threads).map(|first| Share { first, stride: threads }).collect();
                    let mut numbers: Vec<u64> = Vec::new();
                    for share in &shares {
                        let rounds = share.rounds(all);
                        let own = rounds.warmup + rounds.iterations;
                        let measured = (0..own).filter(|round| share.number(*round) >= warmup).count() as u64;
                        assert_eq!(measured, rounds.iterations, "warm-up comes first in every thread");
                        numbers.extend((0..own).map(|round| share.number(round)));
                    }
                    numbers.sort_unstable();
                    assert!(numbers.into_iter().eq(0..warmup + iterations));
                }
            }
        }
    }
}
