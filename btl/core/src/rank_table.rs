//! What a process knows of others, by rank. A job may have very many processes of which each talks to few: the table takes memory for
//! those that it has something about, and eight bytes for each [`SHEET_RANKS`] up to the highest of them.
//!
//! ```text
//!  sheets, by rank / 64        a sheet, by rank % 64
//!  +------+------+------+      +-----+-----+-----+- - - -+-----+
//!  |  o   | none |  o --+----> | 128 | 129 |  -  |       | 191 |
//!  +--|---+------+------+      +-----+-----+-----+- - - -+-----+
//!     v
//! ```
//! A look-up is two loads and needs no hash.

/// Ranks of one sheet.
pub const SHEET_RANKS: usize = 64;

type Sheet<T> = Box<[Option<T>; SHEET_RANKS]>;

/// Values by rank.
#[derive(Debug, Clone)]
pub struct RankTable<T> {
    sheets: Vec<Option<Sheet<T>>>,
}

impl<T> Default for RankTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

const fn place(rank: u32) -> (usize, usize) {
    (rank as usize / SHEET_RANKS, rank as usize % SHEET_RANKS)
}

impl<T> RankTable<T> {
    /// An empty table.
    pub const fn new() -> Self {
        Self { sheets: Vec::new() }
    }

    /// The value of a rank.
    #[inline]
    pub fn get(&self, rank: u32) -> Option<&T> {
        let (sheet, at) = place(rank);
        self.sheets.get(sheet)?.as_ref()?[at].as_ref()
    }

    /// As [`RankTable::get`].
    #[inline]
    pub fn get_mut(&mut self, rank: u32) -> Option<&mut T> {
        let (sheet, at) = place(rank);
        self.sheets.get_mut(sheet)?.as_mut()?[at].as_mut()
    }

    /// Sets the value of a rank, and gives back the one that it had.
    pub fn insert(&mut self, rank: u32, value: T) -> Option<T> {
        let (sheet, at) = place(rank);
        if sheet >= self.sheets.len() {
            self.sheets.resize_with(sheet + 1, || None);
        }
        let sheet = self.sheets[sheet].get_or_insert_with(|| Box::new([const { None }; SHEET_RANKS]));
        sheet[at].replace(value)
    }

    /// Takes the value of a rank out. Its place stays.
    pub fn remove(&mut self, rank: u32) -> Option<T> {
        let (sheet, at) = place(rank);
        self.sheets.get_mut(sheet)?.as_mut()?[at].take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map; no rank is anything to another.
        #[test]
        fn as_a_map(steps in prop::collection::vec((0_u8..4, 0_u32..300, any::<u16>()), 0..200)) {
            let (mut table, mut model) = (RankTable::new(), BTreeMap::new());
            for (what, rank, value) in steps {
                match what {
                    0 => prop_assert_eq!(table.insert(rank, value), model.insert(rank, value)),
                    1 => prop_assert_eq!(table.remove(rank), model.remove(&rank)),
                    2 => prop_assert_eq!(table.get_mut(rank), model.get_mut(&rank)),
                    _ => prop_assert_eq!(table.get(rank), model.get(&rank)),
                }
            }
            for rank in 0..400 {
                prop_assert_eq!(table.get(rank), model.get(&rank));
            }
        }
    }

    #[test]
    fn memory_is_for_those_that_are_there() {
        let mut table = RankTable::new();
        assert_eq!(table.get(u32::MAX), None);
        assert_eq!(table.remove(u32::MAX), None);
        table.insert(99_999, 7);
        assert_eq!(table.sheets.len(), 99_999 / SHEET_RANKS + 1);
        assert_eq!(table.sheets.iter().flatten().count(), 1);
    }
}
