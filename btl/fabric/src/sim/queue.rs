//! The event queue: what will happen when. Events of one moment happen in the order in which they were put in.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Entry<E> {
    time_ns: u64,
    sequence: u64,
    event: E,
}

impl<E> Ord for Entry<E> {
    /// The heap gives its greatest: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time_ns, other.sequence).cmp(&(self.time_ns, self.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

#[derive(Debug)]
pub(super) struct EventQueue<E> {
    heap: BinaryHeap<Entry<E>>,
    sequence: u64,
}

impl<E> EventQueue<E> {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }

    pub(super) fn push(&mut self, time_ns: u64, event: E) {
        self.sequence += 1;
        self.heap.push(Entry { time_ns, sequence: self.sequence, event });
    }

    /// The next event and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|entry| (entry.time_ns, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a list that is sorted by time, and keeps equals in their order.
        #[test]
        fn as_a_list_that_is_sorted(steps in prop::collection::vec(prop::option::of(0_u64..8), 0..300)) {
            let (mut queue, mut list) = (EventQueue::new(), Vec::new());
            for (event, step) in steps.into_iter().enumerate() {
                match step {
                    Some(time_ns) => {
                        queue.push(time_ns, event);
                        list.push((time_ns, event));
                        list.sort_by_key(|(time_ns, _)| *time_ns);
                    }
                    None => {
                        let wanted = if list.is_empty() { None } else { Some(list.remove(0)) };
                        prop_assert_eq!(queue.pop(), wanted);
                    }
                }
            }
        }
    }
}
