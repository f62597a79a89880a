//! The side that asks and measures.

use anyhow::ensure;
use ironband::{ReadHint, WorkId};
use ironband_fabric::Fabric;

use super::conversation::{Ended, Line};
use super::inbox::Kind;
use super::link::{Link, Patience};
use super::plan::{Amount, Metric, Operation};
use super::statistics::{Bandwidth, Latency, Samples};

/// How often a stream looks at the clock.
const MESSAGES_PER_LOOK: u64 = 64;
/// The counter of the processor and the system's clock may differ by so much.
const DRIFT_MAX: f64 = 0.02;

/// What came of one size.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) operations: u64,
    pub(super) figures: Figures,
    /// The first wrong byte or count, in words.
    pub(super) wrong: Option<String>,
    /// The clock was not steady: by what fraction it was off.
    pub(super) drift: Option<f64>,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Figures {
    Latency(Latency),
    Bandwidth(Bandwidth),
}

/// Makes the connection.
pub(super) fn greet<F: Fabric>(link: &mut Link<F>) -> anyhow::Result<()> {
    link.signal(Kind::Hello)?;
    link.wait(Patience::Timeout, |inbox| inbox.greeted.get())
}

/// Measures one size; `None` for a warm-up.
pub(super) fn measure<F: Fabric>(
    link: &mut Link<F>,
    size_bytes: usize,
    seed: u32,
    amount: Amount,
) -> anyhow::Result<Measured> {
    let streams = link.plan.metric != Metric::Lat;
    link.inbox.begin(size_bytes, link.plan.check, streams && link.plan.operation != Operation::Send);
    if link.plan.check {
        link.fill(size_bytes, seed);
        link.windows.scrub_target(size_bytes, super::pattern::scrub(seed));
    }
    link.conversation.say(&Line::Step { size_bytes, seed })?;
    match link.hear()? {
        Line::Ready => {}
        other => return Err(link.conversation.surprise(&other, "ready")),
    }
    let clock = *link.inbox.clock();
    let begin = clock.moment();
    let run = if streams {
        Run::Stream(stream(link, size_bytes, seed, amount)?)
    } else {
        Run::Samples(latency(link, size_bytes, seed, amount)?)
    };
    let drift = clock.drift(begin).filter(|drift| *drift > DRIFT_MAX);
    let Ended { arrived, peak_per_second, wrong } = match link.hear()? {
        Line::Ended(ended) => ended,
        other => return Err(link.conversation.surprise(&other, "ended")),
    };
    let operations = match &run {
        Run::Stream((operations, _)) => *operations,
        Run::Samples(samples) => samples.count(),
    };
    if matches!(link.plan.operation, Operation::Send | Operation::Atomic) || link.plan.is_ping_pong() {
        ensure!(
            arrived == operations,
            "{} counted {arrived} of {operations} operations of {size_bytes} bytes",
            link.conversation.with()
        );
    }
    let figures = match run {
        Run::Stream((operations, ticks)) => {
            let seconds = ticks as f64 * clock.ns_per_tick() / 1e9;
            let peak = peak_per_second.or_else(|| link.inbox.peak_per_second());
            Figures::Bandwidth(Bandwidth::of(size_bytes, operations, seconds, peak))
        }
        Run::Samples(samples) => {
            let us_per_tick = clock.ns_per_tick() / 1e3 / if link.plan.is_ping_pong() { 2.0 } else { 1.0 };
            Figures::Latency(
                samples.summary(us_per_tick).ok_or_else(|| anyhow::anyhow!("nothing was measured"))?,
            )
        }
    };
    Ok(Measured { operations, figures, wrong: wrong.or_else(|| link.inbox.wrong()), drift })
}

enum Run {
    /// Operations, and the ticks that all of them together took.
    Stream((u64, u64)),
    Samples(Samples),
}

/// Says that this was all, and waits until the peer has seen it.
fn end<F: Fabric>(link: &mut Link<F>) -> anyhow::Result<()> {
    link.signal(Kind::End)?;
    link.wait(Patience::Timeout, |inbox| inbox.ended.get())
}

/// One operation after another.
fn latency<F: Fabric>(
    link: &mut Link<F>,
    size_bytes: usize,
    seed: u32,
    amount: Amount,
) -> anyhow::Result<Samples> {
    let clock = *link.inbox.clock();
    let mut samples = Samples::new();
    let begin = clock.ticks();
    let mut before = begin;
    loop {
        one(link, size_bytes, seed, samples.count())?;
        let now = clock.ticks();
        samples.push(now - before);
        if !amount.wants_more(samples.count(), now - begin) {
            break;
        }
        before = now;
    }
    if link.plan.operation == Operation::Write {
        let count = samples.count();
        link.wait(Patience::Timeout, |inbox| inbox.done.get() == count)?;
    }
    end(link)?;
    Ok(samples)
}

/// One operation, after so many.
#[inline]
fn one<F: Fabric>(link: &mut Link<F>, size_bytes: usize, seed: u32, before: u64) -> anyhow::Result<()> {
    match link.plan.operation {
        Operation::Send | Operation::Write => {
            let writes = link.plan.operation == Operation::Write;
            let seed = seed.wrapping_add(before as u32);
            if link.plan.check {
                link.wait(Patience::Timeout, |inbox| !writes || inbox.done.get() == before)?;
                link.fill(size_bytes, seed);
            }
            if writes {
                link.put(size_bytes, Some(seed))?;
            } else {
                link.send(size_bytes, seed)?;
            }
            link.wait(Patience::Timeout, |inbox| inbox.arrived.get() > before)
        }
        Operation::Read => {
            read(link, size_bytes)?;
            link.wait(Patience::Timeout, |inbox| inbox.done.get() > before)?;
            if link.plan.check {
                link.verify_target(seed);
                link.windows.scrub_target(size_bytes, super::pattern::scrub(seed));
            }
            Ok(())
        }
        Operation::Atomic => {
            add(link)?;
            link.wait(Patience::Timeout, |inbox| inbox.done.get() > before)?;
            if link.plan.check {
                let found = link.windows.result();
                ensure!(
                    found == before,
                    "fetch-and-add number {} found {found} instead of {before}",
                    before + 1
                );
            }
            Ok(())
        }
    }
}

fn read<F: Fabric>(link: &mut Link<F>, size_bytes: usize) -> anyhow::Result<()> {
    let complete = link.insist(|link| {
        link.windows.get(link.peer, WorkId(0), link.peer_source, size_bytes, ReadHint::OwnerMayBeAway)
    })?;
    link.done_if(complete);
    Ok(())
}

fn add<F: Fabric>(link: &mut Link<F>) -> anyhow::Result<()> {
    let complete = link.insist(|link| link.windows.fetch_add(link.peer, WorkId(0), link.peer_target))?;
    link.done_if(complete);
    Ok(())
}

/// As many at once as the plan's depth; gives their number, and the ticks until all were through.
fn stream<F: Fabric>(
    link: &mut Link<F>,
    size_bytes: usize,
    seed: u32,
    amount: Amount,
) -> anyhow::Result<(u64, u64)> {
    let clock = *link.inbox.clock();
    let (operation, depth) = (link.plan.operation, link.plan.depth);
    let announces = size_bytes > link.plan.eager_bytes;
    let begin = clock.ticks();
    let (mut count, mut now) = (0, begin);
    while amount.wants_more(count, now - begin) {
        match operation {
            Operation::Send => link.send(size_bytes, seed)?,
            Operation::Write => link.put(size_bytes, None)?,
            Operation::Read => read(link, size_bytes)?,
            Operation::Atomic => add(link)?,
        }
        count += 1;
        if operation != Operation::Send {
            link.wait(Patience::Timeout, |inbox| count - inbox.done.get() < depth)?;
        } else if announces {
            link.wait(Patience::Timeout, |inbox| count - inbox.acknowledged.get() < depth)?;
        }
        if count % MESSAGES_PER_LOOK == 0 || size_bytes >= 1 << 16 {
            now = clock.ticks();
        }
    }
    if operation == Operation::Send {
        // The peer answers when all messages before the end have come.
        end(link)?;
        return Ok((count, clock.ticks() - begin));
    }
    link.wait(Patience::Timeout, |inbox| inbox.done.get() == count)?;
    let ticks = clock.ticks() - begin;
    if link.plan.check && operation == Operation::Read {
        link.verify_target(seed);
    }
    end(link)?;
    Ok((count, ticks))
}
