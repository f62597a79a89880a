//! Runs the schedules of all ranks together, in an order that a seed decides. Messages are rendezvous: a round ends when all its messages
//! have been received, too, so what would deadlock with long messages does so here.
//!
//! Elements are terms: which elements of which ranks' inputs were combined to it, in which order. So an operator that does not commute
//! is checked once and for all, and so is that nothing is combined twice.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ironband_collectives::schedule::{Place, Schedule, Space, Span, Step, Transfer};

/// The elements `(rank, index)` of inputs that were combined, from left to right.
pub(crate) type Term = Rc<Vec<(u32, u64)>>;

/// The element of an input.
pub(crate) fn term(rank: u32, index: u64) -> Term {
    Rc::new(vec![(rank, index)])
}

/// What ranks combine to in their order, for the element `index` of each.
pub(crate) fn combined(ranks: impl IntoIterator<Item = u32>, index: u64) -> Term {
    Rc::new(ranks.into_iter().map(|rank| (rank, index)).collect())
}

/// As it is when order does not matter.
pub(crate) fn sorted(term: &Term) -> Term {
    let mut sorted = term.to_vec();
    sorted.sort_unstable();
    Rc::new(sorted)
}

/// How many processes operations are tried with.
pub(crate) fn sizes() -> impl Iterator<Item = u32> {
    (1..=17).chain(31..=33)
}

/// How many elements operations are tried with, for so many processes: MPI programs have none, few, and numbers that nothing divides.
pub(crate) fn counts(size: u32) -> impl Iterator<Item = u64> {
    let size = u64::from(size);
    let mut counts = vec![0, 1, size - 1, size, size + 1, 3 * size + 2, 64];
    counts.sort_unstable();
    counts.dedup();
    counts.into_iter()
}

/// The elements of an input, an output or a scratch memory.
pub(crate) trait Memory {
    /// Some of them.
    type Piece: std::fmt::Debug;

    /// So many that nothing was written to.
    fn unwritten(len: u64) -> Self;

    fn len(&self) -> u64;

    /// `None` if nothing was written to one of them.
    fn read(&self, start: u64, len: u64) -> Option<Self::Piece>;

    /// As many as the piece has, which are `len`.
    fn write(&mut self, start: u64, len: u64, piece: Self::Piece);

    fn combine(left: Self::Piece, right: Self::Piece) -> Self::Piece;
}

/// One by one; `None` was never written.
impl Memory for Vec<Option<Term>> {
    type Piece = Vec<Term>;

    fn unwritten(len: u64) -> Self {
        vec![None; len as usize]
    }

    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, start: u64, len: u64) -> Option<Vec<Term>> {
        self[start as usize..(start + len) as usize].iter().cloned().collect()
    }

    fn write(&mut self, start: u64, len: u64, piece: Vec<Term>) {
        assert_eq!(piece.len() as u64, len, "a message for other elements");
        for (place, term) in self[start as usize..].iter_mut().zip(piece) {
            *place = Some(term);
        }
    }

    fn combine(left: Vec<Term>, right: Vec<Term>) -> Vec<Term> {
        let pairs = left.into_iter().zip(right);
        pairs.map(|(left, right)| Rc::new([&left[..], &right[..]].concat())).collect()
    }
}

/// One rank.
struct Process<M> {
    schedule: Schedule,
    input: M,
    output: M,
    scratch: M,
    round: usize,
    has_begun: bool,
    /// Of this round, by transfer.
    is_done: Vec<bool>,
}

impl<M: Memory> Process<M> {
    fn memory(&mut self, space: Space) -> &mut M {
        match space {
            Space::Input => &mut self.input,
            Space::Output => &mut self.output,
            Space::Scratch => &mut self.scratch,
        }
    }

    fn read(&mut self, span: Span) -> M::Piece {
        let read = self.memory(span.space).read(span.start, span.len);
        read.unwrap_or_else(|| panic!("{span:?} is read and was never written"))
    }

    fn write(&mut self, span: Span, piece: M::Piece) {
        self.memory(span.space).write(span.start, span.len, piece);
    }

    fn do_step(&mut self, step: Step) {
        match step {
            Step::Copy { from, to } => {
                let piece = self.read(from);
                self.write(to, piece);
            }
            Step::Combine { left, right, into } => {
                let combined = M::combine(self.read(left), self.read(right));
                self.write(into, combined);
            }
        }
    }
}

/// A message under way, and which transfer of its sender it is.
type Message<P> = (P, u32, usize);

/// What a rank has at the start: its schedule, its input, and its output.
pub(crate) struct Start<M = Vec<Option<Term>>> {
    pub(crate) schedule: Schedule,
    pub(crate) input: M,
    pub(crate) output: M,
}

impl Start {
    /// An input of `input` own elements, and an output of `output` that are not written.
    pub(crate) fn new(rank: u32, schedule: Schedule, input: u64, output: u64) -> Self {
        let input = (0..input).map(|index| Some(term(rank, index))).collect();
        Self { schedule, input, output: vec![None; output as usize] }
    }
}

/// Runs the schedules of all ranks, and gives their outputs.
///
/// # Panics
/// When they do not fit together.
pub(crate) fn run<M: Memory>(starts: Vec<Start<M>>, seed: u64) -> Vec<M> {
    let size = starts.len() as u32;
    let mut processes: Vec<Process<M>> = starts
        .into_iter()
        .zip(0..)
        .map(|(Start { schedule, input, output }, rank)| {
            let place = Place { rank, size };
            if let Err(wrong) = schedule.check(place, input.len(), output.len()) {
                panic!("rank {rank} of {size}: {wrong}");
            }
            let scratch = M::unwritten(schedule.scratch);
            Process { schedule, input, output, scratch, round: 0, has_begun: false, is_done: Vec::new() }
        })
        .collect();
    let mut under_way: BTreeMap<(u32, u32), VecDeque<Message<M::Piece>>> = BTreeMap::new();
    let mut chance = seed.wrapping_mul(2).wrapping_add(1);
    let mut unfinished: Vec<u32> = (0..size).collect();
    let mut idle_turns = 0;
    while !unfinished.is_empty() {
        // xorshift: any order will do.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let at = (chance % unfinished.len() as u64) as usize;
        let rank = unfinished[at];
        let has_moved = advance(&mut processes, &mut under_way, rank);
        if processes[rank as usize].round == processes[rank as usize].schedule.rounds().len() {
            unfinished.swap_remove(at);
        }
        idle_turns = if has_moved { 0 } else { idle_turns + 1 };
        assert!(idle_turns < 1_000 + 200 * size, "{unfinished:?} of {size} wait for each other");
    }
    assert!(under_way.values().all(VecDeque::is_empty), "messages that nobody has received: {under_way:?}");
    processes.into_iter().map(|process| process.output).collect()
}

/// One turn of a rank; whether anything happened.
fn advance<M: Memory>(
    processes: &mut [Process<M>],
    under_way: &mut BTreeMap<(u32, u32), VecDeque<Message<M::Piece>>>,
    rank: u32,
) -> bool {
    let process = &mut processes[rank as usize];
    let Some(round) = process.schedule.rounds().get(process.round).cloned() else { return false };
    let mut has_moved = false;
    if !process.has_begun {
        process.has_begun = true;
        has_moved = true;
        process.is_done = vec![false; round.transfers.len()];
        for (number, transfer) in round.transfers.iter().enumerate() {
            if let Transfer::Send { to, data } = *transfer {
                let message = (process.read(data), rank, number);
                under_way.entry((rank, to)).or_default().push_back(message);
            }
        }
    }
    let mut taken = Vec::new();
    for (number, transfer) in round.transfers.iter().enumerate() {
        if let Transfer::Receive { from, data } = *transfer
            && !process.is_done[number]
            && let Some((piece, sender, of_sender)) =
                under_way.get_mut(&(from, rank)).and_then(VecDeque::pop_front)
        {
            process.write(data, piece);
            process.is_done[number] = true;
            taken.push((sender, of_sender));
            has_moved = true;
        }
    }
    for (sender, number) in taken {
        processes[sender as usize].is_done[number] = true;
    }
    let process = &mut processes[rank as usize];
    if process.is_done.iter().all(|done| *done) {
        for step in &round.steps {
            process.do_step(*step);
        }
        process.round += 1;
        process.has_begun = false;
        has_moved = true;
    }
    has_moved
}
