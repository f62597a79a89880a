//! What found no room in the transport and waits for it, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use ironband::{Posted, Threads};

use super::one_at_a_time::OneAtATime;

/// Entries that are offered to the transport again, first come first served.
pub(super) struct Backlog<T> {
    entries: OneAtATime<VecDeque<T>>,
    /// Their number, so that the hot path looks at one word.
    len: AtomicU32,
}

impl<T: Copy> Backlog<T> {
    pub(super) fn new(threads: Threads) -> Self {
        Self { entries: OneAtATime::new(threads, VecDeque::new()), len: AtomicU32::new(0) }
    }

    /// True while nothing waits. A thread that sees this may go to the transport directly: its own earlier entries have
    /// been taken by the transport by then.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait.
    #[inline(always)]
    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// Adds an entry at the end. False when memory has run out.
    pub(super) fn push(&self, entry: T) -> bool {
        self.entries.with(|entries| {
            if entries.try_reserve(1).is_err() {
                return false;
            }
            entries.push_back(entry);
            self.len.store(entries.len() as u32, Ordering::Release);
            true
        })
    }

    /// Offers the first entry to the transport, and takes it off unless that is busy. `None` if it is, or if nothing
    /// waits. The offer is made inside, or another thread could overtake the entry that is being offered.
    pub(super) fn offer_first(&self, post: impl FnOnce(T) -> Posted) -> Option<(T, Posted)> {
        self.entries.with(|entries| {
            let entry = *entries.front()?;
            let posted = post(entry);
            if posted == Posted::Busy {
                return None;
            }
            entries.pop_front();
            self.len.store(entries.len() as u32, Ordering::Release);
            Some((entry, posted))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_leave_in_order_and_only_when_there_is_room() {
        let backlog = Backlog::new(Threads::Single);
        assert!(backlog.is_empty());
        assert_eq!(backlog.offer_first(|_: u32| unreachable!("nothing waits")), None);
        for entry in 0..5 {
            assert!(backlog.push(entry));
        }
        // A transport with room for two, then for none, then for all.
        let mut sent = Vec::new();
        for room in [2, 0, 10] {
            let mut room = room;
            while let Some((entry, posted)) = backlog.offer_first(|_| match room {
                0 => Posted::Busy,
                _ => {
                    room -= 1;
                    Posted::Complete
                }
            }) {
                assert_eq!(posted, Posted::Complete);
                sent.push(entry);
            }
            assert_eq!(backlog.len() as usize + sent.len(), 5);
        }
        assert_eq!(sent, [0, 1, 2, 3, 4]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn what_fails_is_taken_off_too() {
        let backlog = Backlog::new(Threads::Multiple);
        assert!(backlog.push('a'));
        assert_eq!(backlog.offer_first(|_| Posted::Failed), Some(('a', Posted::Failed)));
        assert!(backlog.is_empty());
    }

    #[test]
    fn no_thread_overtakes_itself() {
        // Each thread numbers its entries and sends one directly only while nothing waits, as `btl_send` does. The
        // transport is busy every other time.
        let backlog = Backlog::new(Threads::Multiple);
        let arrived = std::sync::Mutex::new((0_u32, vec![Vec::new(); 4]));
        let transport = |(thread, number): (usize, u32)| {
            let mut arrived = arrived.lock().expect("no panic");
            arrived.0 += 1;
            if arrived.0 % 2 == 0 {
                return Posted::Busy;
            }
            arrived.1[thread].push(number);
            Posted::Complete
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (backlog, transport) = (&backlog, &transport);
                scope.spawn(move || {
                    for number in 0..2_000 {
                        let entry = (thread, number);
                        if !backlog.is_empty() || transport(entry) == Posted::Busy {
                            assert!(backlog.push(entry));
                        }
                        while number % 3 == 0 && backlog.offer_first(transport).is_some() {}
                    }
                });
            }
        });
        while !backlog.is_empty() {
            let _ = backlog.offer_first(transport);
        }
        for numbers in arrived.into_inner().expect("no panic").1 {
            assert_eq!(numbers.len(), 2_000);
            assert!(numbers.is_sorted());
        }
    }
}
