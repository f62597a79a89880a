//! What is measured, by the names of OSU's benchmarks: `allreduce`, `iallreduce`, `allreduce_persistent`.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A collective operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `MPI_Allgather`, blocks of the size.
    Allgather,
    /// `MPI_Allgatherv`, as OSU's with equal blocks.
    Allgatherv,
    /// `MPI_Allreduce` of floats, a sum.
    Allreduce,
    /// `MPI_Alltoall`, blocks of the size.
    Alltoall,
    /// `MPI_Alltoallv`, as OSU's with equal blocks.
    Alltoallv,
    /// `MPI_Barrier`.
    Barrier,
    /// `MPI_Bcast`.
    Bcast,
    /// `MPI_Exscan` of floats, a sum. OSU has none.
    Exscan,
    /// `MPI_Gather`, blocks of the size.
    Gather,
    /// `MPI_Gatherv`, as OSU's with equal blocks.
    Gatherv,
    /// `MPI_Neighbor_alltoall` on a ring, blocks of the size.
    NeighborAlltoall,
    /// `MPI_Neighbor_alltoallv` on a ring, as OSU's with equal blocks.
    NeighborAlltoallv,
    /// `MPI_Reduce` of floats, a sum.
    Reduce,
    /// `MPI_Reduce_scatter` of floats, a sum; the size is that of all blocks together, whose lengths differ by one float at most.
    ReduceScatter,
    /// `MPI_Reduce_scatter_block` of floats, a sum; the size is that of all blocks together.
    ReduceScatterBlock,
    /// `MPI_Scan` of floats, a sum. OSU has none.
    Scan,
    /// `MPI_Scatter`, blocks of the size.
    Scatter,
    /// `MPI_Scatterv`, as OSU's with equal blocks.
    Scatterv,
}

impl Operation {
    /// All of them, by name.
    pub const ALL: [Self; 18] = [
        Self::Allgather,
        Self::Allgatherv,
        Self::Allreduce,
        Self::Alltoall,
        Self::Alltoallv,
        Self::Barrier,
        Self::Bcast,
        Self::Exscan,
        Self::Gather,
        Self::Gatherv,
        Self::NeighborAlltoall,
        Self::NeighborAlltoallv,
        Self::Reduce,
        Self::ReduceScatter,
        Self::ReduceScatterBlock,
        Self::Scan,
        Self::Scatter,
        Self::Scatterv,
    ];

    /// The name of OSU's benchmark of the blocking form, without `osu_`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allgather => "allgather",
            Self::Allgatherv => "allgatherv",
            Self::Allreduce => "allreduce",
            Self::Alltoall => "alltoall",
            Self::Alltoallv => "alltoallv",
            Self::Barrier => "barrier",
            Self::Bcast => "bcast",
            Self::Exscan => "exscan",
            Self::Gather => "gather",
            Self::Gatherv => "gatherv",
            Self::NeighborAlltoall => "neighbor_alltoall",
            Self::NeighborAlltoallv => "neighbor_alltoallv",
            Self::Reduce => "reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::ReduceScatterBlock => "reduce_scatter_block",
            Self::Scan => "scan",
            Self::Scatter => "scatter",
            Self::Scatterv => "scatterv",
        }
    }

    /// Whether numbers are combined, and not only bytes moved.
    pub const fn combines(self) -> bool {
        matches!(
            self,
            Self::Allreduce
                | Self::Exscan
                | Self::Reduce
                | Self::ReduceScatter
                | Self::ReduceScatterBlock
                | Self::Scan
        )
    }

    /// Whether one rank is different from the others.
    pub const fn has_root(self) -> bool {
        matches!(
            self,
            Self::Bcast | Self::Gather | Self::Gatherv | Self::Reduce | Self::Scatter | Self::Scatterv
        )
    }

    /// The smallest size that can be measured, in bytes.
    pub const fn size_bytes_min(self, ranks: usize) -> usize {
        match self {
            Self::Barrier => 0,
            Self::ReduceScatterBlock => size_of::<f32>() * ranks,
            _ if self.combines() => size_of::<f32>(),
            _ => 1,
        }
    }
}

/// How an operation is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One call, which returns when it has ended.
    Blocking,
    /// Begun by one call and waited for by another, with computing between.
    Nonblocking,
    /// Made once, then started and waited for again and again.
    Persistent,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Blocking, Self::Nonblocking, Self::Persistent];
}

/// What is measured: an operation in a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What is done.
    pub operation: Operation,
    /// How it is called.
    pub form: Form,
}

impl Measured {
    /// All that there is, the three forms of an operation together.
    pub fn all() -> impl Iterator<Item = Self> {
        let forms = |operation| Form::ALL.into_iter().map(move |form| Self { operation, form });
        Operation::ALL.into_iter().flat_map(forms)
    }
}

/// The name of OSU's benchmark, without `osu_`.
impl fmt::Display for Measured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.operation.name();
        match self.form {
            Form::Blocking => write!(out, "{name}"),
            // As OSU spells them: osu_ineighbor_alltoall, osu_neighbor_alltoall.
            Form::Nonblocking => write!(out, "i{name}"),
            Form::Persistent => write!(out, "{name}_persistent"),
        }
    }
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("osu_").unwrap_or(text);
        Self::all().find(|measured| measured.to_string() == name).ok_or_else(|| {
            let names: Vec<&str> = Operation::ALL.into_iter().map(Operation::name).collect();
            format!(
                "there is no such benchmark. Blocking: {}. Non-blocking: the same with an i before it, as iallreduce. \
                 Persistent: the same with _persistent behind it, as allreduce_persistent",
                names.join(", ")
            )
        })
    }
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which rank is the root, for operations that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootRank {
    /// Always this one.
    Fixed(usize),
    /// Each rank in turn.
    Rotate,
}

impl FromStr for RootRank {
    type Err = String;

    /// As OSU has it: `fixed:N` or `rotate`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "rotate" {
            return Ok(Self::Rotate);
        }
        let rank = text.strip_prefix("fixed:").and_then(|rank| rank.parse().ok());
        rank.map(Self::Fixed).ok_or_else(|| "it is fixed:RANK or rotate".to_owned())
    }
}

impl fmt::Display for RootRank {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(rank) => write!(out, "fixed:{rank}"),
            Self::Rotate => write!(out, "rotate"),
        }
    }
}

impl Serialize for RootRank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_osus_and_each_is_read_back() {
        for measured in Measured::all() {
            assert_eq!(measured.to_string().parse(), Ok(measured));
            assert_eq!(format!("osu_{measured}").parse(), Ok(measured));
        }
        let measured = |text: &str| text.parse::<Measured>();
        let (operation, form) = (Operation::ReduceScatterBlock, Form::Nonblocking);
        assert_eq!(measured("ireduce_scatter_block"), Ok(Measured { operation, form }));
        let (operation, form) = (Operation::NeighborAlltoallv, Form::Persistent);
        assert_eq!(measured("osu_neighbor_alltoallv_persistent"), Ok(Measured { operation, form }));
        assert_eq!(Measured::all().count(), 54);
    }

    #[test]
    fn a_wrong_name_is_told_all_that_there_are() {
        for wrong in
            ["", "alreduce", "iiallreduce", "iallreduce_persistent", "osu_", "Allreduce", "osu_osu_scan"]
        {
            let message = wrong.parse::<Measured>().expect_err(wrong);
            assert!(Operation::ALL.iter().all(|operation| message.contains(operation.name())), "{message}");
            assert!(message.contains("iallreduce") && message.contains("allreduce_persistent"), "{message}");
        }
    }

    #[test]
    fn roots_are_fixed_or_rotate() {
        assert_eq!("fixed:3".parse(), Ok(RootRank::Fixed(3)));
        assert_eq!("rotate".parse(), Ok(RootRank::Rotate));
        for wrong in ["", "3", "fixed", "fixed:", "fixed:-1", "fixed:x", "rotating"] {
            assert!(wrong.parse::<RootRank>().is_err(), "{wrong}");
        }
    }
}
