//! What a world is like: its seed, its adapters, its weather. All of it is also to be had by name, for code that is generic
//! over fabrics.

use crate::AtomicScope;

/// A range of numbers, both ends included; which one it is, is the seed's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The least.
    pub min: u64,
    /// The greatest; what is below `min` counts as `min`.
    pub max: u64,
}

impl Span {
    /// Always 0.
    pub const ZERO: Self = Self { min: 0, max: 0 };

    /// From 0 to `max`.
    pub const fn up_to(max: u64) -> Self {
        Self { min: 0, max }
    }
}

/// What goes wrong, and how often. Chances are parts per million; times are virtual nanoseconds, added to those that
/// [`Options`] gives. Everything is off at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// How much later a message arrives. Messages of one queue pair never overtake each other, those of different ones do.
    pub message_delay_ns: Span,
    /// How much later a sender learns that receives are free again.
    pub credit_delay_ns: Span,
    /// How much later the data of an RDMA operation moves, and how long the pieces of it take.
    pub rdma_delay_ns: Span,
    /// RDMA data moves in up to so many pieces, in any order, at any time between the post and the end; 0 and 1 are one piece, and
    /// 32 is the most.
    pub pieces_max: u32,
    /// How much later the poster of an RDMA operation is told of its end.
    pub completion_delay_ns: Span,
    /// Chance that a post is `Busy` though there is room.
    pub busy: u32,
    /// Chance that an RDMA operation or atomic with nothing before it is done in its post, which then is `Complete`.
    pub at_once: u32,
    /// Chance that a peer refuses an RDMA operation or atomic that is right.
    pub refusal: u32,
    /// Chance for each post that is accepted that the connection breaks soon after.
    pub failure: u32,
    /// When it breaks, counted from the post.
    pub failure_after_ns: Span,
    /// How long after the break each end learns of it, each for itself.
    pub notice_delay_ns: Span,
    /// Chance that a registration is refused.
    pub register: u32,
    /// How much longer it takes to connect.
    pub connect_delay_ns: Span,
    /// Chance that a connection cannot be made.
    pub connect: u32,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        message_delay_ns: Span::ZERO,
        credit_delay_ns: Span::ZERO,
        rdma_delay_ns: Span::ZERO,
        pieces_max: 1,
        completion_delay_ns: Span::ZERO,
        busy: 0,
        at_once: 0,
        refusal: 0,
        failure: 0,
        failure_after_ns: Span::ZERO,
        notice_delay_ns: Span::ZERO,
        register: 0,
        connect_delay_ns: Span::ZERO,
        connect: 0,
    };

    /// Everything is late, in pieces and out of order, and nothing fails: what every program has to live with.
    pub const fn late() -> Self {
        Self {
            message_delay_ns: Span::up_to(20_000),
            credit_delay_ns: Span::up_to(20_000),
            rdma_delay_ns: Span::up_to(50_000),
            pieces_max: 6,
            completion_delay_ns: Span::up_to(50_000),
            notice_delay_ns: Span::up_to(100_000),
            connect_delay_ns: Span::up_to(100_000),
            at_once: 100_000,
            ..Self::NONE
        }
    }

    /// Everything that can go wrong does, often enough that a few hundred operations meet it all.
    pub const fn wild() -> Self {
        Self {
            busy: 50_000,
            refusal: 2_000,
            failure: 2_000,
            failure_after_ns: Span::up_to(50_000),
            register: 10_000,
            connect: 50_000,
            ..Self::late()
        }
    }
}

/// How to make a world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where all chance comes from: the same seed and the same calls give the same run.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// How long the first byte is under way, in nanoseconds.
    pub latency_ns: u64,
    /// How long each further byte takes, in picoseconds; 80 is 100 Gbit/s.
    pub byte_ps: u64,
    /// Messages of one queue pair that are posted and have not arrived; beyond, posts are `Busy`.
    pub send_queue_max: u32,
    /// Messages of one queue pair that are posted and that the receiver has not released; beyond, posts are `Busy`.
    pub receives_max: u32,
    /// See [`crate::Limits::outstanding_max`].
    pub outstanding_max: u32,
    /// See [`crate::Limits::send_copy_bytes_max`].
    pub send_copy_bytes_max: usize,
    /// See [`crate::Limits::rdma_bytes_max`].
    pub rdma_bytes_max: usize,
    /// See [`crate::Limits::regions_max`].
    pub regions_max: usize,
    /// See [`crate::Capabilities::atomics`]. With [`AtomicScope::Device`] what the target's processor writes while an atomic is
    /// under way is lost, if `faults.rdma_delay_ns` gives it the time.
    pub atomics: AtomicScope,
    /// See [`crate::Capabilities::write_with_immediate`].
    pub write_with_immediate: bool,
    /// See [`crate::Capabilities::loopback`].
    pub loopback: bool,
    /// See [`crate::Capabilities::one_sided`].
    pub one_sided: bool,
    /// See [`crate::Capabilities::registers_local_memory`].
    pub registers_local_memory: bool,
    /// See [`crate::Capabilities::prefers_writing`].
    pub prefers_writing: bool,
    /// See [`crate::Capabilities::survives_refusal`].
    pub survives_refusal: bool,
    /// See [`crate::Capabilities::names_refusal`].
    pub names_refusal: bool,
    /// See [`crate::Capabilities::connects_alone`].
    pub connects_alone: bool,
    /// The data of a write is placed behind that of the writes before it. iWARP adapters may place it in any order, and only
    /// deliver messages in order.
    pub places_in_order: bool,
    /// Steps that each poll of a device lets the world take.
    pub steps_per_poll: u32,
    /// How many events the trace keeps; 0 is no trace.
    pub trace_len: usize,
}

impl Options {
    /// A strict but capable adapter in calm weather.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Faults::NONE,
            latency_ns: 1_000,
            byte_ps: 80,
            send_queue_max: 64,
            receives_max: 64,
            outstanding_max: 128,
            send_copy_bytes_max: 16 * 1024 + 128,
            // InfiniBand's longest message.
            rdma_bytes_max: 1 << 31,
            regions_max: 1 << 20,
            atomics: AtomicScope::Global,
            write_with_immediate: true,
            loopback: true,
            one_sided: true,
            registers_local_memory: true,
            prefers_writing: false,
            survives_refusal: true,
            names_refusal: true,
            connects_alone: true,
            places_in_order: true,
            steps_per_poll: 1,
            trace_len: 0,
        }
    }

    /// An adapter as InfiniBand and RoCE ones are: a refused request ends the connection, atomics are not the processor's, a
    /// connection needs both ends to poll.
    pub const fn infiniband(seed: u64) -> Self {
        Self {
            atomics: AtomicScope::Device,
            survives_refusal: false,
            connects_alone: false,
            ..Self::new(seed)
        }
    }

    /// An adapter as iWARP ones are: writes are placed in any order, and a refusal is not told from another failure.
    pub const fn iwarp(seed: u64) -> Self {
        Self {
            survives_refusal: false,
            names_refusal: false,
            connects_alone: false,
            places_in_order: false,
            ..Self::new(seed)
        }
    }

    /// A device whose RDMA the target's processor does, when it polls; local memory need not be registered.
    pub const fn two_sided(seed: u64) -> Self {
        Self { one_sided: false, registers_local_memory: false, ..Self::new(seed) }
    }

    /// The same with these faults.
    pub const fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The same with a trace of the last `events` events.
    pub const fn with_trace(self, events: usize) -> Self {
        Self { trace_len: events, ..self }
    }

    /// What a name says: `seed=7`, or `seed=7,like=iwarp,faults=late,trace=100`. `None` if it is not of the form [`FORM`].
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let mut words = name.split(',');
        let seed = words.next()?.strip_prefix("seed=")?.parse().ok()?;
        words.try_fold(Self::new(seed), |options, word| match word.split_once('=')? {
            ("like", "infiniband") => Some(Self { faults: options.faults, ..Self::infiniband(seed) }),
            ("like", "iwarp") => Some(Self { faults: options.faults, ..Self::iwarp(seed) }),
            ("like", "two-sided") => Some(Self { faults: options.faults, ..Self::two_sided(seed) }),
            ("faults", "none") => Some(options.with_faults(Faults::NONE)),
            ("faults", "late") => Some(options.with_faults(Faults::late())),
            ("faults", "wild") => Some(options.with_faults(Faults::wild())),
            ("trace", events) => Some(options.with_trace(events.parse().ok()?)),
            _ => None,
        })
    }
}

/// What the names of devices look like, for those who gave another.
pub(super) const FORM: &str = "seed=NUMBER, then if wanted, each behind a comma and in this order: like=infiniband|iwarp|two-sided, faults=none|late|wild, trace=EVENTS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_mean() {
        assert_eq!(Options::of_name("seed=7"), Some(Options::new(7)));
        let wanted = Options::iwarp(8).with_faults(Faults::late()).with_trace(9);
        assert_eq!(Options::of_name("seed=8,like=iwarp,faults=late,trace=9"), Some(wanted));
        let wanted = Options::infiniband(1).with_faults(Faults::wild());
        assert_eq!(Options::of_name("seed=1,like=infiniband,faults=wild"), Some(wanted));
        assert_eq!(Options::of_name("seed=1,like=two-sided,faults=none"), Some(Options::two_sided(1)));
        for other in
            ["", "seed", "seed=", "seed=x", "7", "seed=7,", "seed=7,like=ib", "seed=7,trace=-1", "like=iwarp"]
        {
            assert_eq!(Options::of_name(other), None, "{other:?}");
        }
    }
}
