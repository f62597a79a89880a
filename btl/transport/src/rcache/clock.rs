//! Which registration goes when there is no room: the hand of a clock.
//!
//! Hits happen without a lock and so cannot move an entry in a list; they set a mark. The hand goes round and takes the first
//! entry without one, clearing marks on its way: an entry that is used between two rounds stays. (Corbato, "A Paging Experiment
//! with the Multics System", 1968.)

/// What the hand finds in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that could go: empty, or in use.
    Nothing,
    /// Used since the hand was here. The mark is cleared by looking.
    Used,
    /// Not used since.
    Unused,
}

/// The hand.
#[derive(Debug, Default)]
pub(super) struct Clock {
    hand: u32,
}

impl Clock {
    /// The next place of `places` that may go, or none if all are empty or in use. `look` clears the mark of what it calls
    /// [`Found::Used`].
    pub(super) fn next(&mut self, places: u32, mut look: impl FnMut(u32) -> Found) -> Option<u32> {
        // The first round clears the marks, so that the second finds whatever may go.
        for _ in 0..2 * u64::from(places) {
            if self.hand >= places {
                self.hand = 0;
            }
            let place = self.hand;
            self.hand += 1;
            if look(place) == Found::Unused {
                return Some(place);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Entry {
        in_use: bool,
        used: bool,
    }

    /// The same as a queue: who is used goes to its end with its mark cleared.
    fn naive(queue: &mut VecDeque<usize>, entries: &mut [Option<Entry>]) -> Option<usize> {
        for _ in 0..2 * queue.len() {
            let place = queue.pop_front()?;
            queue.push_back(place);
            match &mut entries[place] {
                Some(entry) if !entry.in_use && entry.used => entry.used = false,
                Some(entry) if !entry.in_use => return Some(place),
                _ => {}
            }
        }
        None
    }

    fn entries() -> impl Strategy<Value = Vec<Option<Entry>>> {
        let entry = (any::<bool>(), any::<bool>()).prop_map(|(in_use, used)| Entry { in_use, used });
        prop::collection::vec(prop::option::weighted(0.8, entry), 1..20)
    }

    proptest! {
        #[test]
        fn as_a_queue_in_which_the_used_go_to_the_end(
            start in entries(),
            uses in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..40),
        ) {
            let (mut ours, mut theirs) = (start.clone(), start.clone());
            let mut clock = Clock::default();
            let mut queue: VecDeque<usize> = (0..start.len()).collect();
            for (index, evict) in uses {
                let place = index.index(start.len());
                if evict {
                    let found = clock.next(start.len() as u32, |place| match &mut ours[place as usize] {
                        Some(entry) if entry.in_use => Found::Nothing,
                        Some(entry) if entry.used => {
                            entry.used = false;
                            Found::Used
                        }
                        Some(_) => Found::Unused,
                        None => Found::Nothing,
                    });
                    let expected = naive(&mut queue, &mut theirs);
                    prop_assert_eq!(found.map(|it| it as usize), expected);
                    if let Some(place) = expected {
                        (ours[place], theirs[place]) = (None, None);
                    }
                } else {
                    for entries in [&mut ours, &mut theirs] {
                        let entry = entries[place].get_or_insert(Entry { in_use: false, used: true });
                        entry.used = true;
                    }
                }
                prop_assert_eq!(&ours, &theirs);
            }
        }
    }

    #[test]
    fn nothing_goes_where_nothing_can() {
        assert_eq!(Clock::default().next(0, |_| Found::Unused), None);
        assert_eq!(Clock::default().next(5, |_| Found::Nothing), None);
    }
}
