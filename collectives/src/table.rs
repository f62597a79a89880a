//! From which length on which algorithm is taken, as numbers: a machine's table.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A row of a [`Table`], for who prints or writes it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The field's name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// The least that it may be.
    pub least: u64,
    /// Its value in a table.
    pub value: fn(&Table) -> u64,
}

/// Defines the table, its defaults and its rows at once, so that they cannot differ: what a row means, its
/// name, its type, the default and the least value.
macro_rules! rows {
    ($($(#[doc = $help:literal])+ $name:ident: $number:ty = $default:expr, at_least $least:expr;)*) => {
        /// From how many bytes on which algorithm is taken. All processes of a communicator must have the
        /// same, which its first operation makes sure of.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Table {
            $($(#[doc = $help])+ pub $name: $number,)*
        }

        impl Default for Table {
            /// The switch points that others have found, where they agree: a start before a machine is
            /// measured.
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Table {
            /// All rows, in the order in which they are written.
            pub const ROWS: &[Row] = &[$(Row {
                name: stringify!($name),
                help: concat!($($help),+),
                least: $least,
                value: |table| u64::from(table.$name),
            },)*];
        }
    };
}

rows! {
    /// How many a rank tells in a round of a barrier, and one more.
    barrier_radix: u32 = 4, at_least 2;
    /// Up to so many bytes a broadcast goes down a tree.
    bcast_tree_max: u64 = 8 << 10, at_least 0;
    /// The radix of that tree.
    bcast_radix: u32 = 4, at_least 2;
    /// Up to so many ranks that share a node, longer ones go from the root to all: each copies by itself, all at once.
    bcast_node_ranks: u32 = 8, at_least 0;
    /// Else from so many bytes on it goes in blocks over a circulant graph; between, it is scattered and gathered.
    bcast_pipeline_min: u64 = 512 << 10, at_least 0;
    /// Up to so many bytes a reduction goes up a tree.
    reduce_tree_max: u64 = 8 << 10, at_least 0;
    /// The radix of that tree.
    reduce_radix: u32 = 2, at_least 2;
    /// Up to so many bytes vectors are combined whole by all.
    allreduce_whole_max: u64 = 4 << 10, at_least 0;
    /// From so many bytes on they go round a ring, if the operator commutes; between, they are scattered and
    /// gathered.
    allreduce_ring_min: u64 = 1 << 20, at_least 0;
    /// Up to so many bytes in all a reduce-scatter halves.
    reduce_scatter_halving_max: u64 = 512 << 10, at_least 0;
    /// Up to so many bytes in all an allgather doubles.
    allgather_doubling_max: u64 = 80 << 10, at_least 0;
    /// Up to so many bytes in a block an exchange of all with all is done in log p rounds ...
    alltoall_bruck_max: u64 = 128, at_least 0;
    /// ... if there are so many ranks.
    alltoall_bruck_ranks: u32 = 8, at_least 0;
    /// Up to so many bytes in a block a gather or scatter goes over a tree.
    gather_tree_max: u64 = 2 << 10, at_least 0;
    /// From so many bytes on a scan goes along a chain.
    scan_chain_min: u64 = 64 << 10, at_least 0;
    /// The pieces of a chain, in bytes.
    segment: u64 = 64 << 10, at_least 1;
    /// With how many ranks one has transfers at a time.
    window: u32 = 16, at_least 1;
    /// Whether it counts which ranks share a node or a cache: [`crate::algorithms::hierarchy`]; 0 is no.
    hierarchy: u32 = 1, at_least 0;
    /// Up to so many bytes one rank speaks for each node.
    leader_max: u64 = 8 << 10, at_least 0;
    /// Beyond, so many, each for a stripe of the vector.
    stripes: u32 = 4, at_least 1;
}

impl Table {
    /// Whether schedules can be made by it.
    ///
    /// # Errors
    /// [`Error::Table`] with the first row that is too small.
    pub fn check(&self) -> Result<(), Error> {
        for row in Self::ROWS {
            let value = (row.value)(self);
            if value < row.least {
                return Err(Error::Table { name: row.name, value, least: row.least });
            }
        }
        Ok(())
    }

    /// A number that differs between tables that differ, but for one case in 2^64: FNV-1a over the rows.
    pub(crate) fn fingerprint(&self) -> u64 {
        let bytes = Self::ROWS.iter().flat_map(|row| (row.value)(self).to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_make_no_schedules_are_refused() {
        assert_eq!(Table::default().check(), Ok(()));
        for (table, text) in [
            (Table { barrier_radix: 1, ..Table::default() }, "barrier_radix of a table is 1: it must be 2"),
            (Table { bcast_radix: 0, ..Table::default() }, "bcast_radix of a table is 0: it must be 2"),
            (Table { reduce_radix: 1, ..Table::default() }, "reduce_radix of a table is 1: it must be 2"),
            (Table { segment: 0, ..Table::default() }, "segment of a table is 0: it must be 1"),
            (Table { window: 0, ..Table::default() }, "window of a table is 0: it must be 1"),
            (Table { stripes: 0, ..Table::default() }, "stripes of a table is 0: it must be 1"),
        ] {
            let error = table.check().unwrap_err();
            assert!(error.to_string().starts_with(text), "{error}");
        }
    }

    /// Every row counts in it, and its place does.
    #[test]
    fn fingerprints_differ_where_tables_differ() {
        let mut tables =
            vec![Table::default(), Table { bcast_radix: 2, reduce_radix: 4, ..Table::default() }];
        for row in Table::ROWS {
            let text = format!("{} = {}", row.name, (row.value)(&Table::default()) + 1);
            tables.push(toml::from_str(&text).unwrap());
        }
        let mut prints: Vec<u64> = tables.iter().map(Table::fingerprint).collect();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), Table::ROWS.len() + 2);
    }
}
