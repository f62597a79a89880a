//! The side that answers: it does what the client's plan says, and reports what it saw.

use anyhow::ensure;
use ironband_fabric::Fabric;

use super::conversation::{Ended, Line};
use super::inbox::Kind;
use super::link::{Link, Patience};
use super::plan::{Metric, Operation};

/// Serves one client to its end; gives the number of measurements.
pub(super) fn serve<F: Fabric>(link: &mut Link<F>) -> anyhow::Result<u64> {
    link.wait(Patience::Timeout, |inbox| inbox.greeted.get())?;
    link.signal(Kind::Hello)?;
    for steps in 0.. {
        match link.hear()? {
            Line::Step { size_bytes, seed } => step(link, size_bytes, seed)?,
            Line::Bye => return Ok(steps),
            other => return Err(link.conversation.surprise(&other, "step")),
        }
    }
    unreachable!("the loop above counts further than anybody measures")
}

fn step<F: Fabric>(link: &mut Link<F>, size_bytes: usize, seed: u32) -> anyhow::Result<()> {
    let longest = link.plan.size_bytes_max;
    ensure!(
        (1..=longest).contains(&size_bytes),
        "a size of {size_bytes} bytes is not from 1 to {longest}, as planned"
    );
    let (operation, check) = (link.plan.operation, link.plan.check);
    link.inbox.begin(size_bytes, check, link.plan.metric != Metric::Lat && operation == Operation::Send);
    if check {
        link.fill(size_bytes, seed);
        link.windows.scrub_target(size_bytes, super::pattern::scrub(seed));
    }
    if operation == Operation::Atomic {
        link.windows.scrub_target(size_bytes, 0);
    }
    link.conversation.say(&Line::Ready)?;
    if link.plan.is_ping_pong() {
        answer(link, size_bytes, seed)?;
    } else {
        link.wait(Patience::Endless, |inbox| inbox.ended.get() && inbox.is_idle())?;
    }
    if check && operation == Operation::Write && link.plan.metric != Metric::Lat {
        link.verify_target(seed);
    }
    let wrong = link.inbox.wrong();
    if operation == Operation::Atomic {
        let mut word = [0; 8];
        link.windows.copy_target(&mut word);
        link.inbox.arrived.set(u64::from_ne_bytes(word));
    }
    let ended =
        Ended { arrived: link.inbox.arrived.get(), peak_per_second: link.inbox.peak_per_second(), wrong };
    link.signal(Kind::End)?;
    link.conversation.say(&Line::Ended(ended))
}

/// Answers each message or write by the same.
fn answer<F: Fabric>(link: &mut Link<F>, size_bytes: usize, seed: u32) -> anyhow::Result<()> {
    let writes = link.plan.operation == Operation::Write;
    let mut answered = 0;
    loop {
        link.wait(Patience::Endless, |inbox| inbox.arrived.get() > answered || inbox.ended.get())?;
        if link.inbox.arrived.get() == answered {
            return link.wait(Patience::Timeout, |inbox| {
                inbox.is_idle() && (!writes || inbox.done.get() == answered)
            });
        }
        let seed = seed.wrapping_add(answered as u32);
        if link.plan.check {
            // The answer before this one has been taken: the client asked again.
            link.wait(Patience::Timeout, |inbox| !writes || inbox.done.get() == answered)?;
            link.fill(size_bytes, seed);
        }
        if writes {
            link.put(size_bytes, Some(seed))?;
        } else {
            link.send(size_bytes, seed)?;
        }
        answered += 1;
    }
}
