//! Memory of any length: what is in it is kept by runs of elements that come from consecutive elements of the same ranks. So schedules of
//! more elements than any machine has memory for are run as fast as short ones.

use std::rc::Rc;

use super::world::Memory;

/// Where elements come from: the first of them is what the elements `(rank, index)` of inputs combine to, in this order, the next one what
/// those with the next indices do, and so on.
type Origin = Rc<Vec<(u32, u64)>>;

/// Elements, one behind the other. Without an origin they were never written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    len: u64,
    origin: Option<Origin>,
}

/// Runs, one behind the other, of which no two could be one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<Run>);

fn further(origin: &Origin, by: u64) -> Origin {
    Rc::new(origin.iter().map(|(rank, index)| (*rank, index + by)).collect())
}

impl Runs {
    /// So many elements that ranks combine to in this order, each from this one of its input on.
    pub(crate) fn of(origin: impl IntoIterator<Item = (u32, u64)>, len: u64) -> Self {
        let mut runs = Self::default();
        runs.push(len, Some(Rc::new(origin.into_iter().collect())));
        runs
    }

    /// More behind them.
    pub(crate) fn append(mut self, others: Self) -> Self {
        for run in others.0 {
            self.push(run.len, run.origin);
        }
        self
    }

    /// As they are when order does not matter.
    pub(crate) fn sorted(self) -> Self {
        let mut sorted = Self::default();
        for Run { len, origin } in self.0 {
            let origin = origin.map(|origin| {
                let mut ranks = origin.to_vec();
                ranks.sort_unstable();
                Rc::new(ranks)
            });
            sorted.push(len, origin);
        }
        sorted
    }

    fn push(&mut self, len: u64, origin: Option<Origin>) {
        if len == 0 {
            return;
        }
        if let Some(last) = self.0.last_mut() {
            let goes_on = match (&last.origin, &origin) {
                (None, None) => true,
                (Some(before), Some(behind)) => {
                    before.len() == behind.len()
                        && before.iter().zip(&**behind).all(|((rank, index), (next_rank, next_index))| {
                            rank == next_rank && index + last.len == *next_index
                        })
                }
                _ => false,
            };
            if goes_on {
                last.len += len;
                return;
            }
        }
        self.0.push(Run { len, origin });
    }

    fn part(&self, start: u64, len: u64) -> Self {
        let mut part = Self::default();
        let mut at = 0;
        for run in &self.0 {
            let (from, to) = (start.max(at), (start + len).min(at + run.len));
            if from < to {
                part.push(to - from, run.origin.as_ref().map(|origin| further(origin, from - at)));
            }
            at += run.len;
        }
        assert_eq!(part.len(), len, "from {start} on of {}", self.len());
        part
    }
}

impl Memory for Runs {
    type Piece = Self;

    fn unwritten(len: u64) -> Self {
        let mut runs = Self::default();
        runs.push(len, None);
        runs
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|run| run.len).sum()
    }

    fn read(&self, start: u64, len: u64) -> Option<Self> {
        let part = self.part(start, len);
        part.0.iter().all(|run| run.origin.is_some()).then_some(part)
    }

    fn write(&mut self, start: u64, len: u64, piece: Self) {
        assert_eq!(piece.len(), len, "a message for other elements");
        let end = start + len;
        let rest = self.part(end, self.len() - end);
        *self = self.part(0, start).append(piece).append(rest);
    }

    fn combine(left: Self, right: Self) -> Self {
        let mut combined = Self::default();
        let mut start = 0;
        while start < left.len() {
            // As far as neither of them has another run.
            let (left, right) =
                (left.part(start, left.len() - start), right.part(start, right.len() - start));
            let (left, right) = (&left.0[0], &right.0[0]);
            let len = left.len.min(right.len);
            let both = left.origin.iter().chain(&right.origin).flat_map(|origin| origin.iter().copied());
            combined.push(len, Some(Rc::new(both.collect())));
            start += len;
        }
        combined
    }
}

#[test]
fn runs_are_as_their_elements() {
    let mut memory = Runs::unwritten(10);
    memory.write(2, 3, Runs::of([(1, 0)], 3));
    memory.write(5, 2, Runs::of([(1, 3)], 2));
    assert_eq!(memory.0.len(), 3, "{memory:?}");
    assert_eq!(memory.read(3, 4), Some(Runs::of([(1, 1)], 4)));
    assert_eq!(memory.read(3, 5), None);
    memory.write(4, 1, Runs::of([(2, 7)], 1));
    let both = Runs::combine(memory.part(3, 3), Runs::of([(0, 0)], 3));
    let expected = Runs::of([(1, 1), (0, 0)], 1).append(Runs::of([(2, 7), (0, 1)], 1));
    assert_eq!(both, expected.append(Runs::of([(1, 3), (0, 2)], 1)));
}
