//! The event queue: what will happen when. Events of one moment happen in the order in which they were put in.
//!
//! A radix heap: Ahuja, Mehlhorn, Orlin and Tarjan, "Faster Algorithms for the Shortest Path Problem", Journal of the ACM 37
//! (1990). Nothing is ever put in before what was taken out last, so an event waits in the bucket of the highest bit in
//! which its time differs from that. When the nearest bucket has to be opened, all before it are empty, and its events go
//! there one behind the other: equals stay in their order, and memory is read from front to back. A binary heap of as
//! many events as a world of thousands of devices has spends its time waiting for memory.

use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct EventQueue<E> {
    /// Of the time `now_ns`.
    due: VecDeque<E>,
    /// Of times that differ from `now_ns` in this bit, and in none above it.
    later: [Vec<(u64, E)>; 64],
    /// A bit for each of `later` that is not empty.
    filled: u64,
    now_ns: u64,
}

impl<E> EventQueue<E> {
    pub(super) const fn new() -> Self {
        Self { due: VecDeque::new(), later: [const { Vec::new() }; 64], filled: 0, now_ns: 0 }
    }

    /// An event of the past counts as one of now.
    #[inline]
    pub(super) fn push(&mut self, time_ns: u64, event: E) {
        match (time_ns.max(self.now_ns) ^ self.now_ns).checked_ilog2() {
            None => self.due.push_back(event),
            Some(bit) => {
                self.filled |= 1 << bit;
                self.later[bit as usize].push((time_ns, event));
            }
        }
    }

    /// The next event and its time.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, E)> {
        if self.due.is_empty() {
            self.open_nearest()?;
        }
        self.due.pop_front().map(|event| (self.now_ns, event))
    }

    /// The clock goes on to the next event. `None` if there is none.
    fn open_nearest(&mut self) -> Option<()> {
        let bit = (self.filled > 0).then(|| self.filled.trailing_zeros())?;
        let mut opened = std::mem::take(&mut self.later[bit as usize]);
        self.filled &= !(1 << bit);
        self.now_ns = opened.iter().map(|(time_ns, _)| *time_ns).min()?;
        for (time_ns, event) in opened.drain(..) {
            self.push(time_ns, event);
        }
        // Its memory is used again.
        self.later[bit as usize] = opened;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a list that is sorted by time, and keeps equals in their order.
        #[test]
        fn as_a_list_that_is_sorted(steps in prop::collection::vec(prop::option::of(0_u64..12), 0..300)) {
            let (mut queue, mut list, mut now_ns) = (EventQueue::new(), Vec::new(), 1_000);
            for (event, step) in steps.into_iter().enumerate() {
                match step {
                    Some(after) => {
                        // Soon, or very late.
                        let time_ns = now_ns + if after < 8 { after } else { 1 << (4 * after) };
                        queue.push(time_ns, event);
                        list.push((time_ns, event));
                        list.sort_by_key(|(time_ns, _)| *time_ns);
                    }
                    None => {
                        let wanted = if list.is_empty() { None } else { Some(list.remove(0)) };
                        now_ns = wanted.map_or(now_ns, |(time_ns, _)| time_ns);
                        prop_assert_eq!(queue.pop(), wanted);
                    }
                }
            }
            for wanted in list {
                prop_assert_eq!(queue.pop(), Some(wanted));
            }
            prop_assert_eq!(queue.pop(), None);
        }
    }

    #[test]
    fn the_past_is_now() {
        let mut queue = EventQueue::new();
        queue.push(100, 'a');
        assert_eq!(queue.pop(), Some((100, 'a')));
        queue.push(7, 'b');
        queue.push(100, 'c');
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some((100, 'b')), Some((100, 'c')), None]);
    }
}
