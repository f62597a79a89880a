//! What one process does in a collective operation, as data: rounds, in each of which it sends and receives, and then copies and combines
//! what it has. Schedules are made by the functions of [`crate::algorithms`] and run by the executor; tests run those of all
//! ranks in one thread, and count what they cost.
//!
//! ```text
//!            round 0                     round 1
//!   ┌───────────────┬───────────┐ ┌───────────────┬───────────┐
//!   │ transfers     │ steps     │ │ transfers     │ steps     │
//!   │ all begun,    │ one after │ │               │           │   ...
//!   │ all ended     │ the other │ │               │           │
//!   └───────────────┴───────────┘ └───────────────┴───────────┘
//! ```
//!
//! The form, rounds of sends and receives followed by local work, is that of LibNBC (Hoefler, Lumsdaine and Rehm, "Implementation and
//! performance analysis of non-blocking collective operations for MPI", SC 2007).
//!
//! *Messages of two ranks* arrive in the order in which they were sent, and each is for the first receive that waits for one of this
//! rank: so both have to name them in the same order. A message of no elements is sent like any other; the builder leaves out
//! transfers of no elements, and so does the other side, who knows the length, too. [`Schedule::signal`] and [`Schedule::await_signal`] are for
//! those that only say that somebody is there.
//!
//! *Within a round* nothing may be received to where something else is received or sent from: [`Schedule::check`] says so.

/// A process's place in its communicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its rank, below `size`.
    pub rank: u32,
    /// How many there are, at least 1.
    pub size: u32,
}

/// Which memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// What the caller gives. Never written.
    Input,
    /// What the caller gets. An operation in place has one memory for both.
    Output,
    /// Memory of the operation itself, [`Schedule::scratch`] elements.
    Scratch,
}

impl Space {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// Some elements: of what type, and how long they are, is no matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// In this memory.
    pub space: Space,
    /// From this element on.
    pub start: u64,
    /// So many.
    pub len: u64,
}

impl Span {
    /// Of the input.
    pub const fn input(start: u64, len: u64) -> Self {
        Self { space: Space::Input, start, len }
    }

    /// Of the output.
    pub const fn output(start: u64, len: u64) -> Self {
        Self { space: Space::Output, start, len }
    }

    /// Of the scratch memory.
    pub const fn scratch(start: u64, len: u64) -> Self {
        Self { space: Space::Scratch, start, len }
    }

    /// A part of it, from `start` elements behind its start.
    ///
    /// # Panics
    /// When that is no part of it.
    #[must_use]
    pub const fn part(self, start: u64, len: u64) -> Self {
        assert!(start + len <= self.len);
        Self { space: self.space, start: self.start + start, len }
    }

    const fn end(self) -> u64 {
        self.start + self.len
    }

    fn overlaps(self, other: Self) -> bool {
        self.space == other.space
            && self.len > 0
            && other.len > 0
            && self.start < other.end()
            && other.start < self.end()
    }
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// To another rank.
    Send {
        /// Whose.
        to: u32,
        /// What.
        data: Span,
    },
    /// From another rank; exactly as long.
    Receive {
        /// Whose.
        from: u32,
        /// To where.
        data: Span,
    },
}

/// On which side of what is `there` something is combined ([`Schedule::combine_with`]). It matters for operators that do not commute: both have
/// the values of consecutive ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// `from op there`: what comes is of lower ranks.
    Left,
    /// `there op from`: what comes is of higher ranks.
    Right,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// Something that a process does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Both have equally many elements and do not overlap, unless they are the same memory: then nothing is to be done.
    Copy {
        /// From here.
        from: Span,
        /// To here.
        to: Span,
    },
    /// `into = left op right`. All have equally many elements. The operands do not overlap; the result may take the place of one of them, and
    /// overlaps none otherwise.
    Combine {
        /// The values of lower ranks.
        left: Span,
        /// The values of higher ranks.
        right: Span,
        /// Where the result goes.
        into: Span,
    },
}

/// Transfers, and what is done when all of them have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Round {
    /// In this order.
    pub transfers: Vec<Transfer>,
    /// In this order, when all transfers have ended.
    pub steps: Vec<Step>,
}

impl Round {
    fn is_empty(&self) -> bool {
        self.transfers.is_empty() && self.steps.is_empty()
    }
}

/// What one process does. Made by adding transfers and steps to the last round, and beginning the next one with
/// [`Schedule::next_round`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// How many elements of scratch memory it needs.
    pub scratch: u64,
    /// One after the other. None is empty but maybe the last.
    rounds: Vec<Round>,
}

impl Schedule {
    /// Nothing to do.
    pub const fn new() -> Self {
        Self { scratch: 0, rounds: Vec::new() }
    }

    /// The rounds.
    pub fn rounds(&self) -> &[Round] {
        let is_last_empty = self.rounds.last().is_some_and(Round::is_empty);
        &self.rounds[..self.rounds.len() - usize::from(is_last_empty)]
    }

    /// More scratch memory.
    pub fn take_scratch(&mut self, len: u64) -> Span {
        let span = Span::scratch(self.scratch, len);
        self.scratch += len;
        span
    }

    /// What is added from now on has to wait for all before. Does nothing if there is nothing in the last round.
    pub fn next_round(&mut self) {
        if self.rounds.last().is_some_and(|round| !round.is_empty()) {
            self.rounds.push(Round::default());
        }
    }

    fn last(&mut self) -> &mut Round {
        if self.rounds.is_empty() {
            self.rounds.push(Round::default());
        }
        let last = self.rounds.len() - 1;
        &mut self.rounds[last]
    }

    fn transfer(&mut self, transfer: Transfer) {
        // Transfers come before the steps of their round.
        if self.last().steps.is_empty() {
            self.last().transfers.push(transfer);
        } else {
            self.next_round();
            self.last().transfers.push(transfer);
        }
    }

    /// Sends, in the last round, or in the next one if the last one has steps. Nothing, if there are no elements.
    pub fn send(&mut self, to: u32, data: Span) {
        if data.len > 0 {
            self.transfer(Transfer::Send { to, data });
        }
    }

    /// Receives, as [`Schedule::send`] sends.
    pub fn receive(&mut self, from: u32, data: Span) {
        assert!(data.space != Space::Input, "the input is never written");
        if data.len > 0 {
            self.transfer(Transfer::Receive { from, data });
        }
    }

    /// Sends a message of no elements.
    pub fn signal(&mut self, to: u32) {
        self.transfer(Transfer::Send { to, data: Span::scratch(0, 0) });
    }

    /// Receives a message of no elements.
    pub fn await_signal(&mut self, from: u32) {
        self.transfer(Transfer::Receive { from, data: Span::scratch(0, 0) });
    }

    /// Copies, when the transfers of the last round have ended. Nothing, if there are no elements.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert_eq!(from.len, to.len, "a copy of {from:?} to {to:?}");
        assert!(to.space != Space::Input, "the input is never written");
        if from.len > 0 && from != to {
            self.last().steps.push(Step::Copy { from, to });
        }
    }

    /// Combines something with what is there already, when the transfers of the last round have ended. Nothing, if there are no elements.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn combine(&mut self, from: Span, into: Span, side: Side) {
        self.combine_with(from, into, side, into);
    }

    /// As [`Schedule::combine`], of something with what is `there`; the result goes to `into`, which may be one of them.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn combine_with(&mut self, from: Span, there: Span, side: Side, into: Span) {
        assert!(
            from.len == into.len && there.len == into.len,
            "{from:?} and {there:?} are combined into {into:?}"
        );
        assert!(into.space != Space::Input, "the input is never written");
        let (left, right) = match side {
            Side::Left => (from, there),
            Side::Right => (there, from),
        };
        if into.len > 0 {
            self.last().steps.push(Step::Combine { left, right, into });
        }
    }

    /// Adds, behind all that there is, what a schedule for some of the ranks does: round by round, so that what it sends has been there
    /// before, and what comes later finds what it has received.
    ///
    /// Messages of two ranks match in their order: ranks that have several parts in common have to add them in the same order, and a part
    /// has to be added by all of its members.
    ///
    /// # Panics
    /// When the part uses more than the frame has, or would write to the input.
    pub fn append(&mut self, part: &Self, frame: &Frame<'_>) {
        for round in part.rounds() {
            self.next_round();
            for transfer in &round.transfers {
                match *transfer {
                    Transfer::Send { to, data } if data.len == 0 => self.signal(frame.rank(to)),
                    Transfer::Send { to, data } => self.send(frame.rank(to), frame.span(data)),
                    Transfer::Receive { from, data } if data.len == 0 => self.await_signal(frame.rank(from)),
                    Transfer::Receive { from, data } => self.receive(frame.rank(from), frame.span(data)),
                }
            }
            for step in &round.steps {
                match *step {
                    Step::Copy { from, to } => self.copy(frame.span(from), frame.span(to)),
                    Step::Combine { left, right, into } => {
                        self.combine_with(frame.span(left), frame.span(right), Side::Left, frame.span(into));
                    }
                }
            }
        }
        self.next_round();
    }

    /// What is wrong with it, for a process of this place with so many elements of input and output; all that can be seen without the
    /// schedules of others.
    pub fn check(&self, place: Place, input: u64, output: u64) -> Result<(), String> {
        let limit = |space| match space {
            Space::Input => input,
            Space::Output => output,
            Space::Scratch => self.scratch,
        };
        let check_span = |span: Span| {
            if span.start.checked_add(span.len).is_some_and(|end| end <= limit(span.space)) {
                Ok(())
            } else {
                Err(format!("{span:?} is outside its memory of {} elements", limit(span.space)))
            }
        };
        for round in self.rounds() {
            let mut written = Vec::new();
            let mut read = Vec::new();
            for transfer in &round.transfers {
                let (peer, data) = match *transfer {
                    Transfer::Send { to, data } => {
                        read.push(data);
                        (to, data)
                    }
                    Transfer::Receive { from, data } => {
                        written.push(data);
                        (from, data)
                    }
                };
                check_span(data)?;
                if peer >= place.size || peer == place.rank {
                    return Err(format!("rank {} of {} has a transfer with {peer}", place.rank, place.size));
                }
            }
            for (at, span) in written.iter().enumerate() {
                let others = written.iter().enumerate().filter(|(other, _)| *other != at);
                if let Some(other) =
                    others.map(|(_, other)| other).chain(&read).find(|other| span.overlaps(**other))
                {
                    return Err(format!("{span:?} is received to while {other:?} is under way"));
                }
            }
            for step in &round.steps {
                let (spans, overlaps) = match *step {
                    Step::Copy { from, to } => ([from, to, to], from.overlaps(to)),
                    Step::Combine { left, right, into } => {
                        let spoils = |operand: Span| operand != into && operand.overlaps(into);
                        ([left, right, into], left.overlaps(right) || spoils(left) || spoils(right))
                    }
                };
                spans.into_iter().try_for_each(check_span)?;
                if overlaps {
                    return Err(format!("{step:?} overlaps itself"));
                }
            }
        }
        Ok(())
    }

    /// What it costs this process.
    pub fn cost(&self) -> Cost {
        let mut cost = Cost { rounds: self.rounds().len() as u64, ..Cost::default() };
        for round in self.rounds() {
            for transfer in &round.transfers {
                match transfer {
                    Transfer::Send { data, .. } => {
                        cost.messages_sent += 1;
                        cost.elements_sent += data.len;
                    }
                    Transfer::Receive { data, .. } => {
                        cost.messages_received += 1;
                        cost.elements_received += data.len;
                    }
                }
            }
            for step in &round.steps {
                match step {
                    Step::Copy { from, .. } => cost.elements_copied += from.len,
                    Step::Combine { into, .. } => cost.elements_combined += into.len,
                }
            }
        }
        cost
    }
}

/// How a schedule that was made for some of the ranks fits into one for all: who its ranks are, and what its memories are there. An algorithm
/// that runs in place may have one span for its input and its output.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// By the part's ranks: theirs in the whole.
    pub members: &'a [u32],
    /// The part's input.
    pub input: Span,
    /// The part's output.
    pub output: Span,
    /// The part's scratch memory. It is of no use to it when it has ended.
    pub scratch: Span,
}

impl Frame<'_> {
    fn rank(&self, rank: u32) -> u32 {
        self.members[rank as usize]
    }

    fn span(&self, span: Span) -> Span {
        let memory = match span.space {
            Space::Input => self.input,
            Space::Output => self.output,
            Space::Scratch => self.scratch,
        };
        memory.part(span.start, span.len)
    }
}

/// What a schedule costs one process, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rounds.
    pub rounds: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Elements in messages sent.
    pub elements_sent: u64,
    /// Elements in messages received.
    pub elements_received: u64,
    /// Elements copied.
    pub elements_copied: u64,
    /// Elements combined.
    pub elements_combined: u64,
}

/// Where the blocks of ranks lie in a memory, and how long they are, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// By rank: start and length.
    blocks: Vec<(u64, u64)>,
}

impl Blocks {
    /// One block of `len` elements for each of `size` ranks, one behind the other.
    pub fn even(size: u32, len: u64) -> Self {
        Self { blocks: (0..u64::from(size)).map(|at| (at * len, len)).collect() }
    }

    /// Blocks of these lengths, one behind the other.
    pub fn of_counts(counts: &[u64]) -> Self {
        let mut start = 0;
        let blocks = counts.iter().map(|len| {
            let block = (start, *len);
            start += len;
            block
        });
        Self { blocks: blocks.collect() }
    }

    /// Blocks of these lengths at these places.
    ///
    /// # Panics
    /// When there are not as many of both.
    pub fn at(counts: &[u64], starts: &[u64]) -> Self {
        assert_eq!(counts.len(), starts.len());
        Self { blocks: starts.iter().copied().zip(counts.iter().copied()).collect() }
    }

    /// `len` elements in `parts` blocks whose lengths differ by 1 at most, longer ones first.
    pub fn split(len: u64, parts: u32) -> Self {
        let (each, more) = (len / u64::from(parts), len % u64::from(parts));
        let counts: Vec<u64> = (0..u64::from(parts)).map(|at| each + u64::from(at < more)).collect();
        Self::of_counts(&counts)
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Where the last of them ends: the memory has to be so long.
    pub fn end(&self) -> u64 {
        self.blocks.iter().map(|(start, len)| start + len).max().unwrap_or(0)
    }

    /// The block of a rank, in this memory.
    pub fn of(&self, rank: u32, space: Space) -> Span {
        let (start, len) = self.blocks[rank as usize];
        Span { space, start, len }
    }

    /// The length of the block of a rank.
    pub fn len_of(&self, rank: u32) -> u64 {
        self.blocks[rank as usize].1
    }

    /// The blocks of consecutive ranks that lie one behind the other, as one span.
    ///
    /// # Panics
    /// When they have gaps.
    pub fn range(&self, ranks: std::ops::Range<u32>, space: Space) -> Span {
        if ranks.is_empty() {
            return Span { space, start: 0, len: 0 };
        }
        let blocks = &self.blocks[ranks.start as usize..ranks.end as usize];
        let start = blocks[0].0;
        let mut end = start;
        for (next, len) in blocks {
            assert_eq!(*next, end, "there is a gap between blocks");
            end += len;
        }
        Span { space, start, len: end - start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that uses everything.
    fn part() -> Schedule {
        let mut part = Schedule::new();
        let area = part.take_scratch(2);
        part.send(1, Span::input(1, 2));
        part.receive(0, area);
        part.await_signal(1);
        part.combine(area, Span::output(0, 2), Side::Left);
        part.copy(Span::input(0, 1), Span::output(2, 1));
        part.next_round();
        part.signal(0);
        part
    }

    #[test]
    fn a_part_is_moved_to_its_frame() {
        let mut whole = Schedule::new();
        whole.take_scratch(20);
        whole.receive(3, Span::output(0, 1));
        let frame = Frame {
            members: &[4, 7],
            input: Span::output(10, 3),
            output: Span::scratch(5, 3),
            scratch: Span::scratch(8, 2),
        };
        whole.append(&part(), &frame);
        whole.signal(9);
        let mut expected = Schedule::new();
        expected.take_scratch(20);
        expected.receive(3, Span::output(0, 1));
        expected.next_round();
        expected.send(7, Span::output(11, 2));
        expected.receive(4, Span::scratch(8, 2));
        expected.await_signal(7);
        expected.combine(Span::scratch(8, 2), Span::scratch(5, 2), Side::Left);
        expected.copy(Span::output(10, 1), Span::scratch(7, 1));
        expected.next_round();
        expected.signal(4);
        expected.next_round();
        expected.signal(9);
        assert_eq!(whole, expected);
    }

    #[test]
    fn a_result_takes_the_place_of_an_operand_or_of_none() {
        let (left, right) = (Span::scratch(0, 4), Span::scratch(4, 4));
        let check = |left, right, into| {
            let mut schedule = Schedule::new();
            schedule.take_scratch(12);
            schedule.combine_with(left, right, Side::Left, into);
            schedule.check(Place { rank: 0, size: 1 }, 0, 0)
        };
        for into in [left, right, Span::scratch(8, 4)] {
            assert_eq!(check(left, right, into), Ok(()));
        }
        for into in [Span::scratch(2, 4), Span::scratch(6, 4), Span::scratch(9, 4)] {
            assert!(check(left, right, into).is_err(), "{into:?}");
        }
        assert!(check(left, Span::scratch(3, 4), Span::scratch(8, 4)).is_err(), "operands overlap");
    }

    #[test]
    fn a_part_that_does_nothing_leaves_nothing() {
        let nothing = Span::scratch(0, 0);
        let frame = Frame { members: &[], input: nothing, output: nothing, scratch: nothing };
        let mut whole = Schedule::new();
        whole.append(&Schedule::new(), &frame);
        assert_eq!(whole.rounds(), []);
        // In place a copy to where it is already is none.
        let mut part = Schedule::new();
        part.copy(Span::input(0, 3), Span::output(0, 3));
        let vector = Span::output(0, 3);
        whole.append(&part, &Frame { input: vector, output: vector, ..frame });
        assert_eq!(whole.rounds(), []);
    }

    #[test]
    #[should_panic(expected = "start + len <= self.len")]
    fn a_part_keeps_to_its_frame() {
        let frame = Frame {
            members: &[4, 7],
            input: Span::input(0, 2),
            output: Span::output(0, 3),
            scratch: Span::scratch(0, 2),
        };
        Schedule::new().append(&part(), &frame);
    }

    #[test]
    #[should_panic(expected = "the input is never written")]
    fn a_part_does_not_write_the_input() {
        let frame = Frame {
            members: &[4, 7],
            input: Span::input(0, 3),
            output: Span::input(3, 3),
            scratch: Span::scratch(0, 2),
        };
        Schedule::new().append(&part(), &frame);
    }
}
