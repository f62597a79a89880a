//! Operations as a user names them.

use anyhow::{Context, bail};
use ironband_collectives::choose::{Case, Collective};
use ironband_collectives::operation::Operation;

use crate::quantity::parse_bytes;

/// An operation of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) collective: Collective,
    /// Of the vector, or of each rank's block.
    pub(super) bytes: u64,
}

impl Asked {
    /// Reads `allreduce 64KiB`.
    pub(super) fn parse(words: &[String]) -> anyhow::Result<Self> {
        let (name, bytes) = match words {
            [name] if name == Collective::Barrier.name() => (name, 0),
            [name, bytes] => (name, parse_bytes(bytes).map_err(anyhow::Error::msg)?),
            _ => bail!("an operation and a length are wanted, as in --explain allreduce 64KiB"),
        };
        let collective = Collective::ALL.into_iter().find(|one| one.name() == name).with_context(|| {
            let names: Vec<_> = Collective::ALL.iter().map(|one| one.name()).collect();
            format!("there is no operation {name:?}; there are: {}", names.join(", "))
        })?;
        Ok(Self { collective, bytes })
    }

    /// What the length is of.
    pub(super) const fn whose(self) -> &'static str {
        match self.collective {
            Collective::Barrier => "no data",
            Collective::Bcast
            | Collective::Reduce
            | Collective::Allreduce
            | Collective::Scan
            | Collective::Exscan => "the vector",
            _ => "the block of each rank",
        }
    }

    /// With elements of one byte, and an operator that commutes. With blocks of any lengths it is counted as
    /// if they were equal; neighbours are the program's, so theirs is not known.
    pub(super) const fn operation(self) -> Option<Operation> {
        let (root, len, commutes) = (0, self.bytes, true);
        Some(match self.collective {
            Collective::Barrier => Operation::Barrier,
            Collective::Bcast => Operation::Bcast { root, len },
            Collective::Reduce => Operation::Reduce { root, len, commutes },
            Collective::Allreduce => Operation::Allreduce { len, commutes },
            Collective::ReduceScatter => Operation::ReduceScatterBlock { len, commutes },
            Collective::Gather | Collective::Gatherv => Operation::Gather { root, len },
            Collective::Scatter | Collective::Scatterv => Operation::Scatter { root, len },
            Collective::Allgather | Collective::Allgatherv => Operation::Allgather { len },
            Collective::Alltoall | Collective::Alltoallv => Operation::Alltoall { len },
            Collective::Scan => Operation::Scan { len, inclusive: true },
            Collective::Exscan => Operation::Scan { len, inclusive: false },
            Collective::NeighbourExchange => return None,
        })
    }

    /// What its choice depends on.
    pub(super) fn case(self, ranks: u32) -> Case {
        let Self { collective, bytes, .. } = self;
        match self.operation() {
            Some(operation) => Case { collective, ..operation.case(ranks, 1, false) },
            None => {
                Case { collective, bytes, ranks, commutes: true, reproducible: false, is_one_node: false }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Asked> {
        Asked::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_operation_has_its_name() {
        for collective in Collective::ALL {
            let asked = parse(&format!("{} 4K", collective.name())).unwrap();
            assert_eq!(asked, Asked { collective, bytes: 4096 });
            assert_eq!(asked.case(5).collective, collective);
            assert_eq!(asked.operation().is_none(), collective == Collective::NeighbourExchange);
        }
        assert_eq!(parse("barrier").unwrap().bytes, 0);
        assert_eq!(parse("allgatherv 100").unwrap().case(3).bytes, 300, "all blocks together");
        assert_eq!(parse("gatherv 100").unwrap().case(3).bytes, 100);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (line, wanted) in [
            ("allreduce", "a length"),
            ("allreduce 1 2", "a length"),
            ("allreduce 4Q", "\"4Q\""),
            ("alreduce 4", "no operation \"alreduce\"; there are: barrier, bcast"),
        ] {
            let text = parse(line).unwrap_err().to_string();
            assert!(text.contains(wanted), "{line}: {text}");
        }
    }
}
