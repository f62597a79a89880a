//! Whether all processes of a communicator choose alike. With tables that differ they would wait for messages
//! that nobody sends, or worse, take one for another; so the first operation after a table was set has a
//! small one beside it, an allreduce by recursive doubling whatever the tables say, of the lowest and the
//! highest fingerprint. No operation ends before that one has, and if the two differ, all processes see it
//! and fail alike.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytemuck::{Pod, Zeroable};

use crate::algorithms::allreduce;
use crate::buffers::Owned;
use crate::communicator::Communicator;
use crate::error::Error;
use crate::memory::Typed;
use crate::operator::Operator;

/// The lowest and the highest fingerprint of some ranks, and whose they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
struct Extremes {
    lowest: u64,
    highest: u64,
    lowest_rank: u32,
    highest_rank: u32,
    /// So that it is as long as hardly anything else: a process whose table was not set, and which compares nothing, takes it for a message of its
    /// operation, and the length is wrong.
    filler: [u8; 17],
}

impl Extremes {
    const fn of(print: u64, rank: u32) -> Self {
        Self { lowest: print, highest: print, lowest_rank: rank, highest_rank: rank, filler: [0; 17] }
    }
}

/// Combines them; of equal ones the lower rank counts, so that all processes name the same.
#[derive(Debug, Clone, Copy)]
struct Spread;

impl Operator<Extremes> for Spread {
    const COMMUTATIVE: bool = true;

    fn apply(&self, left: &Extremes, right: &Extremes) -> Extremes {
        let (lowest, lowest_rank) = (left.lowest, left.lowest_rank).min((right.lowest, right.lowest_rank));
        let higher = |one: &Extremes| (one.highest, u32::MAX - one.highest_rank);
        let (highest, below) = higher(left).max(higher(right));
        Extremes { lowest, highest, lowest_rank, highest_rank: u32::MAX - below, filler: [0; 17] }
    }
}

/// One under way.
struct Comparison {
    /// Of its operation.
    tag: u64,
    both: Rc<RefCell<(Vec<Extremes>, Vec<Extremes>)>>,
}

/// Those of a group.
#[derive(Default)]
pub(crate) struct Comparisons {
    is_due: Cell<bool>,
    /// What the table that was set last is known by.
    wanted: Cell<u64>,
    /// Looked at by each operation that has come to its end.
    are_under_way: Cell<bool>,
    under_way: RefCell<Vec<Comparison>>,
}

impl Comparisons {
    /// The next operation is to have one beside it.
    pub(crate) fn want(&self, print: u64) {
        self.wanted.set(print);
        self.is_due.set(true);
    }

    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.is_due.get()
    }

    /// Whether the operation with this tag, all of which was done, has ended.
    ///
    /// # Errors
    /// [`Error::TablesDiffer`] for the comparison itself.
    #[inline]
    pub(crate) fn have_ended(&self, tag: u64) -> Result<bool, Error> {
        if self.are_under_way.get() { self.end(tag) } else { Ok(true) }
    }

    #[cold]
    fn end(&self, tag: u64) -> Result<bool, Error> {
        let mut under_way = self.under_way.borrow_mut();
        let Some(at) = under_way.iter().position(|comparison| comparison.tag == tag) else {
            // Another operation, which waits for the comparison.
            return Ok(false);
        };
        let all = under_way[at].both.borrow().1[0];
        if all.lowest != all.highest {
            // It stays, so that nothing else ends well until the communicator is known to have failed.
            let rank = all.lowest_rank.min(all.highest_rank);
            return Err(Error::TablesDiffer { rank, other: all.lowest_rank.max(all.highest_rank) });
        }
        under_way.swap_remove(at);
        self.are_under_way.set(!under_way.is_empty());
        Ok(true)
    }
}

/// Begins one, before the next operation.
pub(crate) fn begin(communicator: &Communicator<'_>) -> Result<(), Error> {
    let group = &communicator.group;
    let comparisons = group.comparisons();
    comparisons.is_due.set(false);
    if group.size() == 1 {
        return Ok(());
    }
    // A persistent operation has the table with which it was made, and may be the first one behind another that was set.
    let print = comparisons.wanted.get().rotate_left(1) ^ communicator.fingerprint();
    let own = Extremes::of(print, group.rank());
    let mut owned = Owned::new(vec![own], vec![own]);
    comparisons.under_way.borrow_mut().push(Comparison { tag: group.upcoming_tag(), both: owned.shared() });
    comparisons.are_under_way.set(true);
    // It goes on without this value; whatever it fails with ends the communicator.
    owned.start(
        communicator,
        &Rc::new(allreduce::recursive_doubling(communicator.place(), 1)),
        Rc::new(Typed::new(Spread)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(print: u64, rank: u32) -> Extremes {
        Extremes::of(print, rank)
    }

    #[test]
    fn the_lowest_ranks_of_the_extremes_are_named() {
        let prints = [5, 9, 5, 1, 9, 1];
        let all: Vec<Extremes> = (0..).zip(prints).map(|(rank, print)| of(print, rank)).collect();
        let forwards = all.iter().copied().reduce(|left, right| Spread.apply(&left, &right)).unwrap();
        let backwards = all.into_iter().rev().reduce(|left, right| Spread.apply(&left, &right)).unwrap();
        let expected = Extremes { lowest: 1, highest: 9, lowest_rank: 3, highest_rank: 1, filler: [0; 17] };
        assert_eq!(forwards, expected);
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn nothing_ends_before_the_comparison_has() {
        let comparisons = Comparisons::default();
        assert_eq!(comparisons.have_ended(7), Ok(true));
        let begin = |tag, end| {
            let both = Rc::new(RefCell::new((Vec::new(), vec![end])));
            comparisons.under_way.borrow_mut().push(Comparison { tag, both });
            comparisons.are_under_way.set(true);
        };
        begin(1, of(4, 0));
        begin(3, Extremes { lowest: 4, highest: 5, lowest_rank: 6, highest_rank: 2, filler: [0; 17] });
        assert_eq!(comparisons.have_ended(2), Ok(false));
        assert_eq!(comparisons.have_ended(1), Ok(true));
        assert_eq!(comparisons.have_ended(2), Ok(false));
        assert_eq!(comparisons.have_ended(3), Err(Error::TablesDiffer { rank: 2, other: 6 }));
        assert_eq!(comparisons.have_ended(2), Ok(false), "the communicator has failed");
    }
}
