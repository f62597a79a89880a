use std::collections::{BTreeMap, VecDeque};

use ironband_collectives::algorithms::allreduce;
use ironband_collectives::schedule::{Cost, Place, Schedule, Side, Space, Span, Step, Transfer};

use super::world::{Start, Term, combined, counts, run, sizes, sorted, term};

type Outputs = Vec<Vec<Option<Term>>>;

/// The schedule when input and output are one memory.
fn in_place(schedule: &Schedule) -> Schedule {
    let output = |span: Span| Span {
        space: if span.space == Space::Input { Space::Output } else { span.space },
        ..span
    };
    let mut made = Schedule::new();
    made.take_scratch(schedule.scratch);
    for round in schedule.rounds() {
        made.next_round();
        for transfer in &round.transfers {
            match *transfer {
                Transfer::Send { to, data } => made.send(to, output(data)),
                Transfer::Receive { from, data } => made.receive(from, output(data)),
            }
        }
        for step in &round.steps {
            match *step {
                Step::Copy { from, to } => made.copy(output(from), output(to)),
                Step::Combine { left, right, into } => {
                    made.combine_with(output(left), output(right), Side::Left, output(into));
                }
            }
        }
    }
    made
}

/// The outputs of schedules, by rank, for so many elements of input and output: with memory for both, and in
/// place.
pub(crate) fn run_both(
    schedules: &[Schedule],
    input: u64,
    output: impl Fn(u32) -> u64,
    seed: u64,
) -> [Outputs; 2] {
    let apart = |(rank, schedule): (u32, &Schedule)| Start::new(rank, schedule.clone(), input, output(rank));
    let together = |(rank, schedule): (u32, &Schedule)| Start {
        schedule: in_place(schedule),
        input: Vec::new(),
        output: (0..input.max(output(rank))).map(|index| Some(term(rank, index))).collect(),
    };
    let outputs = run((0..).zip(schedules).map(apart).collect(), seed);
    let mut in_place = run((0..).zip(schedules).map(together).collect(), seed);
    for (rank, memory) in (0..).zip(&mut in_place) {
        memory.truncate(output(rank) as usize);
    }
    [outputs, in_place]
}

/// The schedules of all ranks.
pub(crate) fn schedules(size: u32, of: impl Fn(Place) -> Schedule) -> Vec<Schedule> {
    (0..size).map(|rank| of(Place { rank, size })).collect()
}

/// The most of everything that a rank has.
pub(crate) fn busiest(schedules: &[Schedule]) -> Cost {
    let costs: Vec<Cost> = schedules.iter().map(Schedule::cost).collect();
    let most = |of: fn(&Cost) -> u64| costs.iter().map(of).max().unwrap();
    Cost {
        rounds: most(|cost| cost.rounds),
        messages_sent: most(|cost| cost.messages_sent),
        messages_received: most(|cost| cost.messages_received),
        elements_sent: most(|cost| cost.elements_sent),
        elements_received: most(|cost| cost.elements_received),
        elements_copied: most(|cost| cost.elements_copied),
        elements_combined: most(|cost| cost.elements_combined),
    }
}

/// How long all take if a message takes 1 from when both sides have come to it, and nothing else takes any
/// time.
pub(crate) fn duration(schedules: &[Schedule]) -> u64 {
    let mut rounds: Vec<_> = schedules.iter().map(|schedule| schedule.rounds().iter()).collect();
    // Transfers of the present round of each rank that have not ended; messages between two ranks that are
    // sent or awaited.
    let mut open = vec![0; schedules.len()];
    let (mut sent, mut awaited) = (BTreeMap::new(), BTreeMap::new());
    for time in 0.. {
        for (rank, open) in (0..).zip(&mut open) {
            while *open == 0
                && let Some(round) = rounds[rank as usize].next()
            {
                *open = round.transfers.len();
                for transfer in &round.transfers {
                    match *transfer {
                        Transfer::Send { to, .. } => *sent.entry((rank, to)).or_insert(0) += 1,
                        Transfer::Receive { from, .. } => *awaited.entry((from, rank)).or_insert(0) += 1,
                    }
                }
            }
        }
        if open.iter().all(|open| *open == 0) {
            return time;
        }
        for ((from, to), sent) in &mut sent {
            let awaited = awaited.entry((*from, *to)).or_insert(0);
            let ended = (*sent).min(*awaited);
            *sent -= ended;
            *awaited -= ended;
            open[*from as usize] -= ended;
            open[*to as usize] -= ended;
        }
        assert!(time < 10_000, "{open:?} transfers wait for each other");
    }
    unreachable!("time goes on")
}

/// All ranks have all combined, `keeps_order` in their order.
fn check(name: &str, keeps_order: bool, algorithm: impl Fn(Place, u64) -> Schedule) {
    for size in sizes() {
        for len in counts(size) {
            let schedules = schedules(size, |place| algorithm(place, len));
            for seed in 0..2 {
                let seed = u64::from(size) * 1000 + len * 2 + seed;
                for outputs in run_both(&schedules, len, |_| len, seed) {
                    for (rank, output) in outputs.iter().enumerate() {
                        for (index, found) in (0..len).zip(output) {
                            let found = found
                                .as_ref()
                                .map(|found| if keeps_order { found.clone() } else { sorted(found) });
                            let expected = combined(0..size, index);
                            assert_eq!(
                                found,
                                Some(expected),
                                "{name}: rank {rank} of {size}, {index} of {len}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn recursive_doubling_combines_in_order() {
    check("recursive doubling", true, allreduce::recursive_doubling);
}

#[test]
fn rabenseifner_combines_in_order() {
    check("rabenseifner", true, allreduce::rabenseifner);
}

#[test]
fn ring_combines() {
    check("ring", false, allreduce::ring);
}

#[test]
fn reproducible_combines_in_order() {
    check("reproducible", true, |place, len| allreduce::reproducible(place, len, 17));
}

/// Combined elements with the brackets in which they were.
fn brackets(schedules: &[Schedule], len: u64) -> Vec<Vec<String>> {
    type Memory = BTreeMap<(Space, u64), String>;
    let read = |memory: &Memory, span: Span| -> Vec<String> {
        (span.start..span.start + span.len).map(|at| memory[&(span.space, at)].clone()).collect()
    };
    let write = |memory: &mut Memory, span: Span, values: Vec<String>| {
        memory.extend((span.start..).map(|at| (span.space, at)).zip(values));
    };
    let start = |rank| (0..len).map(|at| ((Space::Input, at), format!("{rank}"))).collect();
    let mut memories: Vec<Memory> = (0..schedules.len()).map(start).collect();
    let mut under_way: BTreeMap<(usize, usize), VecDeque<Vec<String>>> = BTreeMap::new();
    // By rank: the round, and the transfer in it.
    let mut at = vec![(0, 0); schedules.len()];
    while (0..schedules.len()).any(|rank| at[rank].0 < schedules[rank].rounds().len()) {
        let before = at.clone();
        for rank in 0..schedules.len() {
            let Some(round) = schedules[rank].rounds().get(at[rank].0) else { continue };
            // Sends come first in all rounds here, so one after the other will do.
            while let Some(transfer) = round.transfers.get(at[rank].1) {
                match *transfer {
                    Transfer::Send { to, data } => {
                        let message = read(&memories[rank], data);
                        under_way.entry((rank, to as usize)).or_default().push_back(message);
                    }
                    Transfer::Receive { from, data } => {
                        let arrived = under_way.get_mut(&(from as usize, rank)).and_then(VecDeque::pop_front);
                        let Some(arrived) = arrived else { break };
                        write(&mut memories[rank], data, arrived);
                    }
                }
                at[rank].1 += 1;
            }
            if at[rank].1 < round.transfers.len() {
                continue;
            }
            at[rank] = (at[rank].0 + 1, 0);
            for step in &round.steps {
                let memory = &mut memories[rank];
                let (values, to) = match *step {
                    Step::Copy { from, to } => (read(memory, from), to),
                    Step::Combine { left, right, into } => {
                        let both = read(memory, left).into_iter().zip(read(memory, right));
                        (both.map(|(left, right)| format!("({left}+{right})")).collect(), into)
                    }
                };
                write(memory, to, values);
            }
        }
        assert_ne!(at, before, "ranks wait for each other");
    }
    memories.iter().map(|memory| read(memory, Span::output(0, len))).collect()
}

/// A tree for all elements on all ranks, short and long.
#[test]
fn reproducible_has_one_tree() {
    for size in sizes() {
        let mut trees = Vec::new();
        for len in counts(size).filter(|len| *len > 0) {
            for long in [0, 1 + len] {
                let schedules = schedules(size, |place| allreduce::reproducible(place, len, long));
                trees.extend(brackets(&schedules, len).concat());
            }
        }
        assert!(trees.iter().all(|tree| *tree == trees[0]), "{size}: {trees:?}");
    }
    let schedules = schedules(6, |place| allreduce::reproducible(place, 1, 2));
    assert_eq!(brackets(&schedules, 1)[3], ["(((0+1)+(2+3))+(4+5))"]);
}

#[test]
fn costs_are_as_the_formulas_say() {
    for (size, log) in [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4), (32, 5)] {
        let (p, n) = (u64::from(size), 64);
        let part = n - n / p;
        let ranks = schedules(size, |place| allreduce::recursive_doubling(place, n));
        let cost = busiest(&ranks);
        assert_eq!((cost.rounds.max(1), duration(&ranks)), (log.max(1), log), "{size}");
        assert_eq!((cost.elements_sent, cost.elements_combined), (log * n, log * n), "{size}");
        assert!(size == 1 || cost.elements_copied == 0, "{size}: {cost:?}");
        let ranks = schedules(size, |place| allreduce::rabenseifner(place, n));
        let cost = busiest(&ranks);
        assert_eq!((cost.rounds.max(1), duration(&ranks)), ((2 * log).max(1), 2 * log), "{size}");
        assert_eq!((cost.elements_sent, cost.elements_combined), (2 * part, part), "{size}");
        assert!(size == 1 || cost.elements_copied == 0, "{size}: {cost:?}");
        assert!(ranks[0].scratch <= 3 * n / 4, "{size}: {} elements of scratch", ranks[0].scratch);
    }
    for size in [2, 3, 13, 16, 31] {
        let (p, n) = (u64::from(size), u64::from(size) * 3);
        let ranks = schedules(size, |place| allreduce::ring(place, n));
        let cost = busiest(&ranks);
        assert_eq!((cost.rounds, duration(&ranks)), (2 * (p - 1), 2 * (p - 1)), "{size}");
        assert_eq!((cost.elements_sent, cost.elements_combined), (2 * (n - 3), n - 3), "{size}");
        assert_eq!(cost.elements_copied, 0, "{size}");
    }
    // Thirteen are eight teams.
    let n = 64;
    let ranks = schedules(13, |place| allreduce::recursive_doubling(place, n));
    let cost = busiest(&ranks);
    assert_eq!((cost.rounds, duration(&ranks)), (5, 5));
    assert_eq!((cost.elements_sent, cost.elements_combined), (4 * n, 4 * n));
    let ranks = schedules(13, |place| allreduce::rabenseifner(place, n));
    let cost = busiest(&ranks);
    assert_eq!((cost.rounds, duration(&ranks)), (8, 8));
    assert_eq!((cost.elements_sent, cost.elements_combined), (2 * 56 + n, 56 + n));
}
