//! What is measured, as the client tells the server.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The operation of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// Messages.
    Send,
    /// RDMA write.
    Write,
    /// RDMA read.
    Read,
    /// Fetch-and-add of 8 bytes.
    Atomic,
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Write => "write",
            Self::Read => "read",
            Self::Atomic => "atomic",
        }
    }
}

/// What is measured of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// Latency.
    Lat,
    /// Bandwidth.
    Bw,
    /// Message rate.
    Rate,
}

/// The same at both ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) operation: Operation,
    pub(super) metric: Metric,
    /// The longest message.
    pub(super) size_bytes_max: usize,
    /// Operations under way at once, for bandwidth and rate.
    pub(super) depth: u64,
    /// Messages up to this length are sent as they are, longer ones are announced and read.
    pub(super) eager_bytes: usize,
    /// Verify data.
    pub(super) check: bool,
}

impl Plan {
    /// True when the server answers each operation by the same.
    pub(super) const fn is_ping_pong(&self) -> bool {
        matches!(self.metric, Metric::Lat) && matches!(self.operation, Operation::Send | Operation::Write)
    }

    /// What one sample is, for the head of a table.
    pub(super) fn title(&self) -> String {
        let name = self.operation.name();
        match (self.metric, self.operation) {
            (Metric::Lat, Operation::Send) => {
                "send latency: half of a round trip, as ib_send_lat".to_owned()
            }
            (Metric::Lat, Operation::Write) => {
                "write latency: half of a round trip of writes that notify the target; ib_write_lat polls memory instead".to_owned()
            }
            (Metric::Lat, _) => format!("{name} latency: until the result is here, as ib_{name}_lat"),
            (Metric::Bw, _) => format!("{name} bandwidth, one direction, as ib_{name}_bw"),
            (Metric::Rate, _) => format!("{name} rate, one direction"),
        }
    }

    /// How the bytes move, for the head of a table.
    pub(super) fn mechanism(&self, inline_bytes_max: usize, long: &str) -> String {
        match self.operation {
            Operation::Send => format!(
                "up to {} bytes in one message (inline up to {inline_bytes_max}), above: announced, read by the receiver, acknowledged ({long})",
                self.eager_bytes
            ),
            Operation::Write | Operation::Read => long.to_owned(),
            Operation::Atomic => "fetch-and-add of 8 bytes, all on one word".to_owned(),
        }
    }
}

/// How long one size is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Amount {
    /// So many operations.
    Operations(u64),
    /// So many ticks of the clock.
    Ticks(u64),
}

impl Amount {
    /// True when `count` operations in `ticks` are not enough yet.
    #[inline]
    pub(super) const fn wants_more(self, count: u64, ticks: u64) -> bool {
        match self {
            Self::Operations(wanted) => count < wanted,
            Self::Ticks(wanted) => ticks < wanted,
        }
    }
}
