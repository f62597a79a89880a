//! Which slot covers which addresses: ranges that do not overlap, in the order of their ends.
//!
//! Pure. Ranges are of bytes, not of pages: neighbours that share a page, as arrays from one `malloc` do, are regions of their
//! own and not one that grows with every message. The adapter pins such a page twice, which the kernel counts.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::range::Range;

/// The ordered map. No two ranges in it overlap, and none is empty.
#[derive(Debug, Default)]
pub(super) struct IntervalMap {
    /// By the end: the range that covers an address is the first that ends behind it.
    by_end: BTreeMap<usize, (usize, u32)>,
}

impl IntervalMap {
    pub(super) fn len(&self) -> usize {
        self.by_end.len()
    }

    /// The slot whose range contains all of `wanted`.
    #[inline]
    pub(super) fn containing(&self, wanted: Range) -> Option<u32> {
        let (_, &(start, slot)) = self.by_end.range(wanted.end..).next()?;
        (start <= wanted.start && wanted.start < wanted.end).then_some(slot)
    }

    /// The ranges that have a byte in common with `with`, in their order.
    pub(super) fn overlapping(&self, with: Range) -> impl Iterator<Item = (Range, u32)> + '_ {
        let behind_start = (Bound::Excluded(with.start), Bound::Unbounded);
        let ranges =
            self.by_end.range(behind_start).map(|(&end, &(start, slot))| (Range { start, end }, slot));
        ranges.take_while(move |(range, _)| range.start < with.end && with.start < with.end)
    }

    /// The first of [`IntervalMap::overlapping`].
    pub(super) fn first_overlapping(&self, with: Range) -> Option<(Range, u32)> {
        self.overlapping(with).next()
    }

    /// # Panics
    /// If the range is empty or overlaps another: the caller has asked before.
    pub(super) fn insert(&mut self, range: Range, slot: u32) {
        assert!(range.start < range.end, "an empty range: {range:?}");
        debug_assert_eq!(self.overlapping(range).next(), None, "{range:?} overlaps");
        self.by_end.insert(range.end, (range.start, slot));
    }

    /// Forgets a range that is there.
    pub(super) fn remove(&mut self, range: Range) {
        let removed = self.by_end.remove(&range.end);
        debug_assert_eq!(removed.map(|(start, _)| start), Some(range.start), "{range:?} is not there");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One byte, one cell: which slot covers it.
    type Model = Vec<Option<u32>>;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Range),
        RemoveAt(usize),
        Look(Range),
    }

    const BYTES: usize = 48;

    fn ranges() -> impl Strategy<Value = Range> {
        (0..BYTES, 0..=12_usize).prop_map(|(start, len)| Range { start, end: (start + len).min(BYTES) })
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            ranges().prop_map(Step::Insert),
            (0..BYTES).prop_map(Step::RemoveAt),
            ranges().prop_map(Step::Look),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// The slots of all covered cells of a range, each once.
    fn covered(model: &Model, range: Range) -> Vec<u32> {
        let mut slots: Vec<u32> = model[range.start..range.end].iter().flatten().copied().collect();
        slots.dedup();
        slots
    }

    fn look(map: &IntervalMap, model: &Model, range: Range) {
        let found: Vec<u32> = map.overlapping(range).map(|(_, slot)| slot).collect();
        assert_eq!(found, covered(model, range), "overlapping {range:?}");
        let cells = &model[range.start..range.end];
        let whole = cells.first().copied().flatten().filter(|slot| cells.iter().all(|it| *it == Some(*slot)));
        assert_eq!(map.containing(range), whole, "containing {range:?}");
    }

    proptest! {
        #[test]
        fn as_if_each_byte_were_looked_at(steps in steps()) {
            let (mut map, mut model) = (IntervalMap::default(), vec![None; BYTES]);
            let mut count = 0;
            for (slot, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(range) => {
                        if range.start < range.end && covered(&model, range).is_empty() {
                            map.insert(range, slot);
                            model[range.start..range.end].fill(Some(slot));
                            count += 1;
                        }
                    }
                    Step::RemoveAt(address) => {
                        let found = map.overlapping(Range { start: address, end: address + 1 }).next();
                        prop_assert_eq!(found.map(|(_, slot)| slot), model[address]);
                        if let Some((range, _)) = found {
                            map.remove(range);
                            model[range.start..range.end].fill(None);
                            count -= 1;
                        }
                    }
                    Step::Look(range) => look(&map, &model, range),
                }
                prop_assert_eq!(map.len(), count);
            }
            while let Some((range, slot)) = map.first_overlapping(Range::ALL) {
                prop_assert!(model[range.start..range.end].iter().all(|it| *it == Some(slot)));
                map.remove(range);
            }
        }
    }

    #[test]
    fn neighbours_are_not_overlaps() {
        let mut map = IntervalMap::default();
        map.insert(Range { start: 100, end: 200 }, 1);
        map.insert(Range { start: 200, end: 300 }, 2);
        assert_eq!(map.containing(Range { start: 199, end: 200 }), Some(1));
        assert_eq!(map.containing(Range { start: 200, end: 201 }), Some(2));
        assert_eq!(map.containing(Range { start: 199, end: 201 }), None);
        assert_eq!(map.containing(Range { start: 150, end: 150 }), None, "nothing is in nothing");
    }
}
