//! Why an algorithm is taken: the rows of the table that decided, and what they were compared with.

use std::fmt;

use crate::choose::Case;
use crate::table::Table;

/// Bytes for a reader, none of them rounded away: `4 KiB`, `1000 B`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
                return write!(out, "{} {unit}", bytes >> shift);
            }
        }
        write!(out, "{bytes} B")
    }
}

/// One thing that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// There is one algorithm.
    NoOther,
    /// The bytes are not more than a row says.
    UpTo(&'static str),
    /// They are more.
    Above(&'static str),
    /// They are as many as a row says, or more.
    From(&'static str),
    /// They are fewer.
    Below(&'static str),
    /// The ranks are as many as a row says, or more.
    Ranks(&'static str),
    /// They are fewer.
    FewRanks(&'static str),
    /// They are not more.
    NotMoreRanks(&'static str),
    /// All ranks share a node.
    OneNode,
    /// There are at most two ranks: the algorithms for more have nothing to win.
    AtMostTwo,
    /// The number of ranks is a power of two.
    PowerOfTwo,
    /// It is not.
    NoPowerOfTwo,
    /// The operator commutes.
    Commutes,
    /// It does not, so the order of ranks is kept.
    KeepsOrder,
    /// The result has to be reproducible.
    Reproducible,
    /// Only the root knows how long the blocks of all ranks are.
    RootAlone,
    /// No rank knows how long the blocks of others for each other are.
    Nobody,
}

/// The value of a row.
fn row(table: &Table, name: &str) -> u64 {
    let row = Table::ROWS.iter().find(|row| row.name == name);
    row.map_or_else(|| unreachable!("{name} is no row"), |row| (row.value)(table))
}

impl Condition {
    /// Whether it holds. A choice's conditions do; tests ask.
    pub fn holds(self, case: &Case, table: &Table) -> bool {
        match self {
            Self::NoOther | Self::RootAlone | Self::Nobody => true,
            Self::UpTo(name) => case.bytes <= row(table, name),
            Self::Above(name) => case.bytes > row(table, name),
            Self::From(name) => case.bytes >= row(table, name),
            Self::Below(name) => case.bytes < row(table, name),
            Self::Ranks(name) => u64::from(case.ranks) >= row(table, name),
            Self::FewRanks(name) => u64::from(case.ranks) < row(table, name),
            Self::NotMoreRanks(name) => u64::from(case.ranks) <= row(table, name),
            Self::OneNode => case.is_one_node,
            Self::AtMostTwo => case.ranks <= 2,
            Self::PowerOfTwo => case.ranks.is_power_of_two(),
            Self::NoPowerOfTwo => !case.ranks.is_power_of_two(),
            Self::Commutes => case.commutes,
            Self::KeepsOrder => !case.commutes,
            Self::Reproducible => case.reproducible,
        }
    }

    /// What the bytes are, if it is about them: `above allreduce_whole_max (4 KiB)`.
    fn relation(self, table: &Table) -> Option<String> {
        let (relation, name) = match self {
            Self::UpTo(name) => ("not above", name),
            Self::Above(name) => ("above", name),
            Self::From(name) => ("not below", name),
            Self::Below(name) => ("below", name),
            _ => return None,
        };
        Some(format!("{relation} {name} ({})", Bytes(row(table, name))))
    }

    fn write(self, out: &mut fmt::Formatter<'_>, case: &Case, table: &Table) -> fmt::Result {
        let ranks = case.ranks;
        match self {
            Self::UpTo(_) | Self::Above(_) | Self::From(_) | Self::Below(_) => {
                write!(out, "{} is {}", Bytes(case.bytes), self.relation(table).unwrap_or_default())
            }
            Self::NoOther => write!(out, "there is no other algorithm"),
            Self::Ranks(name) => write!(out, "{ranks} ranks are not below {name} ({})", row(table, name)),
            Self::FewRanks(name) => write!(out, "{ranks} ranks are below {name} ({})", row(table, name)),
            Self::NotMoreRanks(name) => {
                write!(out, "{ranks} ranks are not above {name} ({})", row(table, name))
            }
            Self::OneNode => write!(out, "all share a node"),
            Self::AtMostTwo => write!(out, "there are only {ranks} ranks"),
            Self::PowerOfTwo => write!(out, "{ranks} ranks are a power of two"),
            Self::NoPowerOfTwo => write!(out, "{ranks} ranks are no power of two"),
            Self::Commutes => write!(out, "the operator commutes"),
            Self::KeepsOrder => write!(out, "the operator does not commute"),
            Self::Reproducible => write!(out, "the result has to be reproducible"),
            Self::RootAlone => write!(out, "only the root knows how long the blocks of all are"),
            Self::Nobody => write!(out, "no rank knows what others have for each other"),
        }
    }
}

/// Up to three conditions, all of which hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason([Option<Condition>; 3]);

impl Reason {
    pub(crate) fn of<const N: usize>(conditions: [Condition; N]) -> Self {
        const { assert!(N <= 3, "there is room for three conditions") };
        let mut all = [None; 3];
        for (place, condition) in all.iter_mut().zip(conditions) {
            *place = Some(condition);
        }
        Self(all)
    }

    /// The conditions.
    pub fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.0.into_iter().flatten()
    }

    /// The reason as a sentence without its end: `64 KiB is above allreduce_whole_max (4 KiB) and below
    /// allreduce_ring_min (1 MiB)`.
    pub fn text(&self, case: &Case, table: &Table) -> String {
        Sentence { reason: self, case, table }.to_string()
    }
}

struct Sentence<'s> {
    reason: &'s Reason,
    case: &'s Case,
    table: &'s Table,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut was_of_bytes = false;
        for (at, condition) in self.reason.conditions().enumerate() {
            if at > 0 {
                write!(out, " and ")?;
            }
            match condition.relation(self.table) {
                Some(relation) if was_of_bytes => write!(out, "{relation}")?,
                relation => {
                    was_of_bytes = relation.is_some();
                    condition.write(out, self.case, self.table)?;
                }
            }
        }
        Ok(())
    }
}
