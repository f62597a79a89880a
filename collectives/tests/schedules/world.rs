//! Runs the schedules of all ranks together, in an order that a seed decides. Messages are rendezvous: a round ends when all its messages
//! have been received, too, so what would deadlock with long messages does so here.
//!
//! Elements are terms: which elements of which ranks' inputs were combined to it, in which order. So an operator that does not commute
//! is checked once and for all, and so is that nothing is combined twice.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ironband_collectives::schedule::{Place, Schedule, Side, Space, Span, Step, Transfer};

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

/// One rank.
struct Process {
    schedule: Schedule,
    /// `None` was never written.
    input: Vec<Option<Term>>,
    output: Vec<Option<Term>>,
    scratch: Vec<Option<Term>>,
    round: usize,
    has_begun: bool,
    /// Of this round, by transfer.
    is_done: Vec<bool>,
}

impl Process {
    fn memory(&mut self, space: Space) -> &mut Vec<Option<Term>> {
        match space {
            Space::Input => &mut self.input,
            Space::Output => &mut self.output,
            Space::Scratch => &mut self.scratch,
        }
    }

    fn read(&mut self, span: Span) -> Vec<Term> {
        let range = span.start as usize..(span.start + span.len) as usize;
        let read = self.memory(span.space)[range].iter();
        read.map(|term| term.clone().unwrap_or_else(|| panic!("{span:?} is read and was never written")))
            .collect()
    }

    fn write(&mut self, span: Span, terms: Vec<Term>) {
        assert_eq!(terms.len() as u64, span.len, "a message for {span:?}");
        for (place, term) in self.memory(span.space)[span.start as usize..].iter_mut().zip(terms) {
            *place = Some(term);
        }
    }

    fn do_step(&mut self, step: Step) {
        match step {
            Step::Copy { from, to } => {
                let terms = self.read(from);
                self.write(to, terms);
            }
            Step::Combine { from, into, side } => {
                let (from, there) = (self.read(from), self.read(into));
                let combine = |(from, there): (Term, Term)| {
                    let (left, right) = match side {
                        Side::Left => (from, there),
                        Side::Right => (there, from),
                    };
                    Rc::new([&left[..], &right[..]].concat())
                };
                self.write(into, from.into_iter().zip(there).map(combine).collect());
            }
        }
    }
}

/// A message under way, and which transfer of its sender it is.
type Message = (Vec<Term>, u32, usize);

/// What a rank has at the start: its schedule, its input, and its output. `None` is memory that nothing is in.
pub(crate) struct Start {
    pub(crate) schedule: Schedule,
    pub(crate) input: Vec<Option<Term>>,
    pub(crate) output: Vec<Option<Term>>,
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
pub(crate) fn run(starts: Vec<Start>, seed: u64) -> Vec<Vec<Option<Term>>> {
    let size = starts.len() as u32;
    let mut processes: Vec<Process> = starts
        .into_iter()
        .zip(0..)
        .map(|(Start { schedule, input, output }, rank)| {
            let place = Place { rank, size };
            if let Err(wrong) = schedule.check(place, input.len() as u64, output.len() as u64) {
                panic!("rank {rank} of {size}: {wrong}");
            }
            let scratch = vec![None; schedule.scratch as usize];
            Process { schedule, input, output, scratch, round: 0, has_begun: false, is_done: Vec::new() }
        })
        .collect();
    let mut under_way: BTreeMap<(u32, u32), VecDeque<Message>> = BTreeMap::new();
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
fn advance(
    processes: &mut [Process],
    under_way: &mut BTreeMap<(u32, u32), VecDeque<Message>>,
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
            && let Some((terms, sender, of_sender)) =
                under_way.get_mut(&(from, rank)).and_then(VecDeque::pop_front)
        {
            process.write(data, terms);
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
