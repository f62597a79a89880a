//! One side of the measurement: its device and memory, what has come in, and the peer. Both sides wait and send by this.

use anyhow::{bail, ensure};
use ironband::{Posted, QueuePair, ReadHint, RemoteAddress, WorkId};
use ironband_fabric::Fabric;
use std::time::{Duration, Instant};

use super::conversation::{Area, Conversation, Line};
use super::inbox::{Inbox, Kind, landing};
use super::memory::Windows;
use super::pattern;
use super::plan::Plan;

/// Turns between looks at the clock and at the conversation.
const TURNS_PER_LOOK: u32 = 4096;

/// How long a wait may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As `--timeout` says: something of the peer is due.
    Timeout,
    /// As long as the peer is there: it decides.
    Endless,
}

/// One side.
pub(super) struct Link<F: Fabric> {
    pub(super) windows: Windows<F>,
    pub(super) inbox: Inbox,
    pub(super) plan: Plan,
    pub(super) conversation: Conversation,
    pub(super) timeout: Duration,
    pub(super) peer: QueuePair,
    /// The peer's memory, for this side to read and to write.
    pub(super) peer_source: RemoteAddress,
    pub(super) peer_target: RemoteAddress,
    /// Spoils a byte of what is sent, to see that checks find it.
    pub(super) corrupt: bool,
}

/// Checks what the peer says of its memory.
pub(super) fn remote(area: Area, plan: &Plan) -> anyhow::Result<RemoteAddress> {
    let wanted = plan.size_bytes_max as u64;
    ensure!(
        area.len_bytes >= wanted,
        "the peer offers {} bytes of memory, and {wanted} are wanted",
        area.len_bytes
    );
    Ok(RemoteAddress { address: area.address, key: area.key })
}

impl<F: Fabric> Link<F> {
    /// One look at what has come in, and what has to be done about it.
    #[inline]
    pub(super) fn turn(&mut self) -> anyhow::Result<()> {
        if self.windows.progress(&self.inbox) > 0 {
            self.attend()?;
        }
        Ok(())
    }

    /// Reads announced messages, acknowledges those that were read, looks at data.
    #[inline]
    fn attend(&mut self) -> anyhow::Result<()> {
        if self.inbox.has_failed() {
            return self.give_up();
        }
        if self.inbox.unacknowledged.get() > 0 || !self.inbox.announced.borrow().is_empty() {
            self.read_announced()?;
        }
        if let Some(seed) = self.inbox.landed.take() {
            self.verify_target(seed);
        }
        Ok(())
    }

    #[cold]
    fn give_up(&mut self) -> anyhow::Result<()> {
        // What the peer has to say is nearer to the cause than what the fabric noticed of its end.
        std::thread::sleep(Duration::from_millis(50));
        self.conversation.unexpected()?;
        bail!("the fabric: {}", self.inbox.failure().unwrap_or_default())
    }

    #[inline(never)]
    fn read_announced(&mut self) -> anyhow::Result<()> {
        let size_bytes = self.inbox.size_bytes();
        while let Some(seed) = self.inbox.next_announced() {
            let posted = self.windows.get(
                self.peer,
                landing(seed),
                self.peer_source,
                size_bytes,
                ReadHint::OwnerIsWaiting,
            );
            match posted {
                Posted::Busy => break,
                Posted::Failed => return self.refused(),
                Posted::Queued => self.inbox.take_announced(),
                Posted::Complete => {
                    self.inbox.take_announced();
                    self.inbox.land(seed);
                }
            }
        }
        while self.inbox.unacknowledged.get() > 0 {
            match self.windows.device().send_short(self.peer, Kind::Acknowledge.with(0), &[], &[]) {
                Posted::Busy => break,
                Posted::Failed => return self.refused(),
                Posted::Complete | Posted::Queued => {
                    self.inbox.unacknowledged.set(self.inbox.unacknowledged.get() - 1);
                }
            }
        }
        Ok(())
    }

    #[cold]
    pub(super) fn refused(&mut self) -> anyhow::Result<()> {
        self.conversation.unexpected()?;
        let reason = self.windows.device().failure(self.peer);
        bail!("the fabric refuses a request: {}", reason.as_deref().unwrap_or("it does not say why"))
    }

    /// Turns until something is so.
    #[inline]
    pub(super) fn wait(&mut self, patience: Patience, until: impl Fn(&Inbox) -> bool) -> anyhow::Result<()> {
        let mut turns = 0_u32;
        let mut waited = None;
        while !until(&self.inbox) {
            self.turn()?;
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_PER_LOOK) {
                self.look(patience, &mut waited)?;
            }
        }
        Ok(())
    }

    /// Looks whether a wait has become too long; `waited` is its own.
    #[cold]
    fn look(&mut self, patience: Patience, waited: &mut Option<(Instant, u64)>) -> anyhow::Result<()> {
        self.conversation.unexpected()?;
        // What could not be sent for lack of room is tried again even if nothing comes in.
        self.attend()?;
        let seen = self.inbox.activity();
        match waited {
            Some((since, before)) if *before == seen => {
                let overdue = patience == Patience::Timeout && since.elapsed() > self.timeout;
                let with = self.conversation.with();
                ensure!(
                    !overdue,
                    "nothing came from {with} over the fabric for {} s (--timeout)",
                    self.timeout.as_secs()
                );
            }
            _ => *waited = Some((Instant::now(), seen)),
        }
        Ok(())
    }

    /// Posts until there is room. `post` is called again after `Busy`; true means that it was complete at once.
    #[inline]
    pub(super) fn insist(&mut self, post: impl Fn(&Self) -> Posted) -> anyhow::Result<bool> {
        let mut turns = 0_u32;
        let mut waited = None;
        loop {
            match post(self) {
                Posted::Complete => return Ok(true),
                Posted::Queued => return Ok(false),
                Posted::Failed => self.refused()?,
                Posted::Busy => {
                    self.turn()?;
                    turns = turns.wrapping_add(1);
                    if turns.is_multiple_of(TURNS_PER_LOOK) {
                        self.look(Patience::Timeout, &mut waited)?;
                    }
                }
            }
        }
    }

    /// Sends a message without bytes.
    pub(super) fn signal(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.insist(|link| link.windows.device().send_short(link.peer, kind.with(0), &[], &[]))?;
        Ok(())
    }

    /// Sends a message of the source's bytes, as it is or announced. `seed` is that of the source's pattern.
    #[inline]
    pub(super) fn send(&mut self, size_bytes: usize, seed: u32) -> anyhow::Result<()> {
        if size_bytes <= self.plan.eager_bytes {
            let imm = Kind::Data.with(seed);
            self.insist(|link| {
                link.windows.device().send_short(link.peer, imm, &[], link.windows.source(size_bytes))
            })?;
        } else {
            let imm = Kind::Announce.with(seed);
            let key = self.windows.areas().0.key;
            self.insist(|link| link.windows.device().send_announcing(link.peer, imm, &[], &[], key))?;
        }
        Ok(())
    }

    /// Writes the source to the peer's target. With a seed the peer is told.
    #[inline]
    pub(super) fn put(&mut self, size_bytes: usize, seed: Option<u32>) -> anyhow::Result<()> {
        let imm = seed.map(|seed| Kind::Data.with(seed));
        let complete =
            self.insist(|link| link.windows.put(link.peer, WorkId(0), link.peer_target, size_bytes, imm))?;
        self.done_if(complete);
        Ok(())
    }

    /// Counts a request that was complete at once.
    #[inline]
    pub(super) fn done_if(&self, complete: bool) {
        if complete {
            self.inbox.count_done();
        }
    }

    /// Fills the source with a pattern.
    pub(super) fn fill(&mut self, size_bytes: usize, seed: u32) {
        let mut bytes = vec![0; size_bytes];
        pattern::fill(&mut bytes, seed);
        if self.corrupt {
            bytes[size_bytes / 2] ^= 1;
        }
        self.windows.fill_source(&bytes);
    }

    /// Compares the target with a pattern, and overwrites it.
    #[cold]
    pub(super) fn verify_target(&mut self, seed: u32) {
        let mut bytes = vec![0; self.inbox.size_bytes()];
        self.windows.copy_target(&mut bytes);
        self.inbox.verify(&bytes, seed);
        if self.plan.is_ping_pong() {
            // What comes next must write again what is right already.
            self.windows.scrub_target(bytes.len(), pattern::scrub(seed.wrapping_add(1)));
        }
    }

    /// The next line of the conversation; the device goes on meanwhile.
    pub(super) fn hear(&mut self) -> anyhow::Result<Line> {
        let Self { windows, inbox, conversation, timeout, .. } = self;
        conversation.hear(*timeout, || {
            windows.progress(&*inbox);
        })
    }
}
