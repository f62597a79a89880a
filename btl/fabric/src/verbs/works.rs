//! What is posted on one queue pair and has not ended yet: pure bookkeeping.

use std::collections::VecDeque;

/// RDMA and atomics that one queue pair keeps under way.
pub(super) const OUTSTANDING_MAX: u32 = 64;
/// Work without a completion of its own, at most: completions cost time, and until one comes nothing is known to have ended.
const UNSIGNALLED_MAX: u32 = 16;

/// What a posted work is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Underway {
    /// An inline message.
    Inline,
    /// A message in this send buffer.
    Bounce(u32),
    /// A part of this request.
    Request(u32),
    /// See `nudges`.
    Nudge,
    /// The last message.
    Bye,
}

impl Underway {
    /// A read, a write or an atomic.
    const fn is_rdma(self) -> bool {
        matches!(self, Self::Request(_) | Self::Nudge)
    }
}

#[derive(Debug, Clone, Copy)]
struct Work {
    what: Underway,
    /// Its own completion has come. Looked at where requests end apart.
    ended: bool,
}

/// The works of a queue pair, numbered in the order in which they are posted.
#[derive(Debug)]
pub(super) struct Works {
    posted: VecDeque<Work>,
    /// Number of the first of `posted`.
    first: u32,
    /// Works up to this number have ended, except RDMA where it ends apart.
    ended_until: u32,
    /// False on iWARP: there a read is under way until it is answered, and sends that were posted after it may end before
    /// (Soft-iWARP does that). So requests end apart, each when its own completion says so. All is sent in order, still: any
    /// completion tells that the messages before have ended.
    in_order: bool,
    unsignalled: u32,
    depth: u32,
    /// RDMA and atomics among `posted`.
    requests: u32,
}

impl Works {
    /// How deep a send queue has to be for so many messages under way.
    pub(super) const fn depth(credits: u16) -> u32 {
        2 * credits as u32 + OUTSTANDING_MAX + UNSIGNALLED_MAX
    }

    pub(super) fn new(depth: u32, in_order: bool) -> Self {
        Self {
            posted: VecDeque::with_capacity(depth as usize),
            first: 0,
            ended_until: u32::MAX,
            in_order,
            unsignalled: 0,
            depth,
            requests: 0,
        }
    }

    /// Room for one more message, beside what is kept for requests.
    pub(super) fn has_room(&self) -> bool {
        self.posted.len() as u32 - self.requests < self.depth - OUTSTANDING_MAX
    }

    /// Room for one more request's work.
    pub(super) const fn has_request_room(&self) -> bool {
        self.requests < OUTSTANDING_MAX
    }

    /// Notes what is about to be posted: its number, and whether it is signalled. It is if it `has_to`, which somebody waits for,
    /// and at times.
    pub(super) fn note(&mut self, what: Underway, has_to: bool) -> (u32, bool) {
        let number = self.first.wrapping_add(self.posted.len() as u32);
        self.requests += u32::from(what.is_rdma());
        self.posted.push_back(Work { what, ended: false });
        self.unsignalled += 1;
        let signalled = has_to || self.unsignalled >= UNSIGNALLED_MAX;
        if signalled {
            self.unsignalled = 0;
        }
        (number, signalled)
    }

    /// Takes back the last note: the post was refused.
    pub(super) fn unnote(&mut self) {
        if let Some(work) = self.posted.pop_back() {
            self.requests -= u32::from(work.what.is_rdma());
        }
    }

    fn get(&mut self, number: u32) -> Option<&mut Work> {
        self.posted.get_mut(number.wrapping_sub(self.first) as usize)
    }

    const fn ends_apart(&self, what: Underway) -> bool {
        !self.in_order && what.is_rdma()
    }

    /// A completion has said that a work has ended well, and so have all before it, except RDMA where it ends apart.
    pub(super) fn ended(&mut self, number: u32) {
        if let Some(work) = self.get(number) {
            work.ended = true;
        }
        // A read's own completion may come behind those of later sends.
        if number.wrapping_sub(self.ended_until).cast_signed() > 0 {
            self.ended_until = number;
        }
    }

    /// A completion has said that a work has failed, which is given: those before it have ended well, except RDMA where
    /// it ends apart.
    pub(super) fn failed(&mut self, number: u32) -> Option<Underway> {
        self.ended_until = number.wrapping_sub(1);
        self.get(number).map(|work| work.what)
    }

    /// The next work that has ended, oldest first.
    pub(super) fn retire(&mut self) -> Option<Underway> {
        let work = *self.posted.front()?;
        let until = self.ended_until.wrapping_sub(self.first).cast_signed() >= 0;
        let ended = if self.ends_apart(work.what) { work.ended } else { until };
        if ended { self.drop_first() } else { None }
    }

    /// The oldest work, whether it has ended or not: its queue pair is no more.
    pub(super) fn drop_first(&mut self) -> Option<Underway> {
        let what = self.posted.pop_front()?.what;
        self.first = self.first.wrapping_add(1);
        self.requests -= u32::from(what.is_rdma());
        Some(what)
    }

    /// True when something that was posted has been acknowledged by the peer's adapter.
    pub(super) const fn any_has_ended(&self) -> bool {
        self.first > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_retired(works: &mut Works) -> Vec<Underway> {
        std::iter::from_fn(|| works.retire()).collect()
    }

    #[test]
    fn one_completion_tells_of_all_before_it() {
        let mut works = Works::new(Works::depth(8), true);
        for what in [Underway::Inline, Underway::Request(7), Underway::Bounce(3), Underway::Inline] {
            works.note(what, true);
        }
        works.ended(2);
        assert_eq!(all_retired(&mut works), [Underway::Inline, Underway::Request(7), Underway::Bounce(3)]);
        assert_eq!(works.failed(3), Some(Underway::Inline));
        assert_eq!(all_retired(&mut works), []);
    }

    #[test]
    fn what_nobody_waits_for_is_signalled_at_times() {
        let mut works = Works::new(Works::depth(32), true);
        let mut signalled = |has_to| works.note(Underway::Bounce(0), has_to).1;
        assert_eq!([false, true, false].map(&mut signalled), [false, true, false]);
        let next = (0..).position(|_| signalled(false));
        assert_eq!(next, Some(UNSIGNALLED_MAX as usize - 2));
    }

    #[test]
    fn out_of_order_a_send_says_nothing_of_the_read_before_it() {
        let mut works = Works::new(Works::depth(8), false);
        works.note(Underway::Request(7), true);
        assert_eq!(works.note(Underway::Bounce(3), true), (1, true));
        works.ended(1);
        assert_eq!(all_retired(&mut works), [], "the read is still under way");
        works.ended(0);
        assert_eq!(all_retired(&mut works), [Underway::Request(7), Underway::Bounce(3)]);
    }

    #[test]
    fn a_request_does_not_wait_for_an_unsignalled_message_before_it() {
        let mut works = Works::new(Works::depth(8), false);
        assert_eq!(works.note(Underway::Inline, false), (0, false));
        works.note(Underway::Request(7), true);
        works.ended(1);
        assert_eq!(all_retired(&mut works), [Underway::Inline, Underway::Request(7)]);
    }

    proptest! {
        /// An adapter sends works in order; messages have ended then, requests when they are answered, in any order. What is
        /// retired has ended, comes in the order of posting, and is everything in the end.
        #[test]
        fn nothing_is_retired_before_it_has_ended(
            kinds in prop::collection::vec(0_u8..3, 1..60),
            choices in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 130),
            start in any::<u32>(),
        ) {
            let mut works = Works::new(Works::depth(32), false);
            (works.first, works.ended_until) = (start, start.wrapping_sub(1));
            let kind = |at: usize| match kinds.get(at) {
                Some(0) => Underway::Request(at as u32),
                Some(1) => Underway::Nudge,
                Some(_) => Underway::Inline,
                None => Underway::Bye,
            };
            let count = kinds.len() + 1;
            let signalled: Vec<bool> = (0..count).map(|at| works.note(kind(at), kind(at) != Underway::Inline).1).collect();
            let (mut sent, mut unanswered, mut retired) = (0, Vec::new(), 0);
            for (send, choice) in choices {
                if sent < count && (send || unanswered.is_empty()) {
                    match kind(sent) {
                        Underway::Request(_) | Underway::Nudge => unanswered.push(sent),
                        _ if signalled[sent] => works.ended(start.wrapping_add(sent as u32)),
                        _ => {}
                    }
                    sent += 1;
                } else if !unanswered.is_empty() {
                    let at = unanswered.remove(choice.index(unanswered.len()));
                    works.ended(start.wrapping_add(at as u32));
                }
                for what in all_retired(&mut works) {
                    prop_assert_eq!(what, kind(retired));
                    prop_assert!(retired < sent && !unanswered.contains(&retired), "{what:?} has not ended");
                    retired += 1;
                }
            }
            prop_assert_eq!(retired, count);
        }
    }
}
