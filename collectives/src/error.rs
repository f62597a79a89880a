//! What can go wrong.

use std::time::Duration;

/// A collective operation failed. All but [`Error::Length`], [`Error::TooLong`], [`Error::Table`], [`Error::TableFile`], [`Error::Schedule`], [`Error::TooMany`], [`Error::NotInPlace`] and [`Error::NoSuchRank`] end the communicator: each of its processes gets such an error from what
/// it does with the communicator then, and from then on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A process has ended, or cannot be reached.
    #[error("rank {rank} of the communicator has failed: {reason}")]
    PeerFailed {
        /// Its rank in the communicator.
        rank: u32,
        /// What is known.
        reason: String,
    },
    /// An operator of the program has panicked in a process.
    #[error("the operator has panicked at rank {rank} of the communicator: {message}")]
    OperatorPanicked {
        /// Where.
        rank: u32,
        /// What it said.
        message: String,
    },
    /// A handler of the program's active messages has panicked in a process, in the middle of an operation.
    #[error("a handler has panicked at rank {rank} of the communicator in the middle of an operation")]
    HandlerPanicked {
        /// Where.
        rank: u32,
    },
    /// A process has called [`Communicator::revoke`](crate::Communicator::revoke).
    #[error("rank {rank} of the communicator has revoked it")]
    Revoked {
        /// Which.
        rank: u32,
    },
    /// An operation took longer than [`Communicator::set_limit`](crate::Communicator::set_limit) allows.
    #[error("rank {rank} of the communicator has waited for {} s for {}", limit.as_secs_f64(), Ranks(waits_for))]
    LimitPassed {
        /// Who has waited.
        rank: u32,
        /// How long.
        limit: Duration,
        /// For whom, as far as that is known.
        waits_for: Vec<u32>,
    },
    /// Processes do not call the same operation with the same lengths.
    #[error(
        "rank {rank} has got {got_bytes} bytes from rank {from} of the communicator where {expected_bytes} were expected: do all call the same operation with the same lengths?"
    )]
    Mismatch {
        /// Who noticed.
        rank: u32,
        /// From whom.
        from: u32,
        /// What came, in bytes; of longer messages more is not known than that they are longer.
        got_bytes: u64,
        /// What should have come.
        expected_bytes: u64,
    },
    /// A buffer has a length that it must not have. Nothing was sent.
    #[error("the {buffer} buffer has {got} elements, and {expected} are needed: {rule}")]
    Length {
        /// Which buffer.
        buffer: &'static str,
        /// Its length.
        got: u64,
        /// What it should be.
        expected: u64,
        /// Why.
        rule: &'static str,
    },
    /// A schedule of the program's is of no use. Nothing was sent.
    #[error("the schedule is none for this operation: {wrong}")]
    Schedule {
        /// What is wrong with it.
        wrong: String,
    },
    /// A switch point of a table has a value that it cannot have.
    #[error("{name} of a table is {value}: it must be {least} at least")]
    Table {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least that it may be.
        least: u64,
    },
    /// A file of a table cannot be read, or has something in it that no table has.
    #[error("{file}{}: {reason}", Line(*line))]
    TableFile {
        /// Which file.
        file: String,
        /// Which of its lines, counted from 1; `None` if it is about none in particular.
        line: Option<usize>,
        /// What the line says, what is wrong with it, and what to write.
        reason: String,
    },
    /// Processes of a communicator have different tables, or want reproducible results and do not.
    #[error(
        "ranks {rank} and {other} of the communicator choose algorithms differently: all need the same table (IRONBAND_COLLECTIVES_TABLE, set_table) and the same set_reproducible"
    )]
    TablesDiffer {
        /// One.
        rank: u32,
        /// One that has another table.
        other: u32,
    },
    /// A process can be in so many communicators in its life, and no more.
    #[error("there were {limit} communicators, and a process can take part in no more in its life")]
    TooMany {
        /// So many.
        limit: u32,
    },
    /// So many elements fit no memory. Nothing was sent.
    #[error("{elements} elements fit no memory")]
    TooLong {
        /// How many, or the highest number if that cannot be counted.
        elements: u64,
    },
    /// The operation has no form in place. Nothing was sent.
    #[error("{operation} cannot be done in one vector: {rule}")]
    NotInPlace {
        /// Which.
        operation: &'static str,
        /// Why, and what to do.
        rule: &'static str,
    },
    /// There is no such process.
    #[error("the communicator has {size} processes, and no rank {rank}")]
    NoSuchRank {
        /// What was asked for.
        rank: u32,
        /// How many there are.
        size: u32,
    },
    /// The transport failed in another way.
    #[error(transparent)]
    Transport(#[from] ironband::Error),
}

/// A line's number behind the name of a file.
struct Line(Option<usize>);

impl std::fmt::Display for Line {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(out, ":{line}"))
    }
}

/// Ranks, for a reader.
struct Ranks<'r>(&'r [u32]);

impl std::fmt::Display for Ranks<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => write!(out, "nobody in particular"),
            [one] => write!(out, "rank {one}"),
            many => {
                write!(out, "ranks ")?;
                for (at, rank) in many.iter().enumerate() {
                    write!(out, "{}{rank}", if at == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}
