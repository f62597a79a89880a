//! What an operation costs, counted from the schedules themselves, for any number of ranks.
//!
//! *The path.* Time goes by as in the formulas of [`crate::algorithms`]. The messages of a round leave their
//! sender one after another: the next one when the bytes of the one before are out, and after the gap g at
//! the earliest. A message arrives alpha and its bytes times beta after it left, and not while the bytes of
//! another one of its round come in, nor within the gap after the one before. A round begins when the one
//! before has ended; it ends when all that it sends and receives has arrived, and what is combined is
//! combined. A sender does not wait for the receiver to come to the round. The path is the time from the
//! common start to the end of the last rank: a sum over rounds, the latest over ranks. Copies take no time.
//!
//! *Many ranks.* The schedules of all ranks of a ring of 65,536 are four thousand million rounds. Where all
//! ranks do the same at the same time, one is walked for all of them ([`Walked::One`]); tests show for small
//! numbers that this is so. Where that is not so and schedules are long, only some ranks are walked
//! ([`Walked::Some`]), and what they cannot tell is not told.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use crate::choose::Algorithm;
use crate::operation::Operation;
use crate::schedule::{Cost, Place, Schedule, Step, Transfer};
use crate::tuning::Model;

/// Up to so much work all ranks are walked; in entries of tables and schedules.
const WORK_MAX: u64 = 1 << 25;
/// Up to so many transfers the path is looked for: all of them are kept meanwhile, 16 bytes each.
const TRANSFERS_MAX: u64 = 1 << 22;
/// How many ranks are walked, about, if not all can be.
const SAMPLE: u32 = 64;

/// Whose schedules were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    /// Those of all ranks.
    All,
    /// That of one rank: all are alike.
    One,
    /// Those of so many: the first, the middle and the last ranks, those at powers of two, and others at even
    /// distances.
    Some(u32),
}

impl std::fmt::Display for Walked {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => write!(out, "all"),
            Self::One => write!(out, "1, alike"),
            Self::Some(ranks) => write!(out, "{ranks} of all"),
        }
    }
}

/// The time from the common start to the end of the last rank. Each number is of the longest path where
/// nothing else takes time, so they may be of different paths.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Path {
    /// Messages one after the other.
    pub alphas: f64,
    /// Bytes sent one after the other.
    pub bytes_moved: f64,
    /// Bytes combined one after the other.
    pub bytes_combined: f64,
    /// With the constants of a model, the gap among them, in ns.
    pub ns: f64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counted {
    /// Of everything the most that one of the walked ranks has; lengths in bytes.
    pub busiest: Cost,
    /// The messages of all ranks, if that is known.
    pub messages: Option<u64>,
    /// The bytes in them.
    pub bytes: Option<u64>,
    /// The path, if all ranks were walked or are alike, and their transfers are not too many.
    pub path: Option<Path>,
    /// Who was walked.
    pub walked: Walked,
}

/// Counts what an operation on elements of one byte costs so many ranks. The algorithm is one of
/// [`Table::algorithms`](crate::Table::algorithms) for it.
///
/// # Panics
/// As [`Operation::schedule`].
pub fn count(operation: Operation, algorithm: Algorithm, ranks: u32, model: &Model) -> Counted {
    if are_alike(operation, algorithm, ranks) {
        count_one(operation, algorithm, ranks, model)
    } else if work(operation, algorithm, ranks) <= WORK_MAX {
        count_all(operation, algorithm, ranks, model)
    } else {
        count_some(operation, algorithm, ranks)
    }
}

/// Counts with the schedules of all ranks, however many there are.
///
/// # Panics
/// As [`count`].
pub fn count_all(operation: Operation, algorithm: Algorithm, ranks: u32, model: &Model) -> Counted {
    let mut sum = Sum::default();
    let mut walks = Some(Vec::new());
    let mut transfers = 0;
    for rank in 0..ranks {
        let schedule = operation.schedule(algorithm, Place { rank, size: ranks }, 1);
        let cost = sum.add(&schedule);
        transfers += cost.messages_sent + cost.messages_received;
        if transfers > TRANSFERS_MAX {
            walks = None;
        }
        if let Some(walks) = &mut walks {
            walks.push(Walk::of(&schedule));
        }
    }
    let path = walks.map(|walks| path(&walks, &Prices::of(model)));
    sum.counted(1, Walked::All, path)
}

fn count_one(operation: Operation, algorithm: Algorithm, ranks: u32, model: &Model) -> Counted {
    let mut sum = Sum::default();
    let schedule = operation.schedule(algorithm, Place { rank: 0, size: ranks }, 1);
    sum.add(&schedule);
    let path = path_alike(&Walk::of(&schedule), &Prices::of(model));
    sum.counted(ranks.into(), Walked::One, Some(path))
}

fn count_some(operation: Operation, algorithm: Algorithm, ranks: u32) -> Counted {
    let mut sum = Sum::default();
    let sample = sample(ranks);
    for rank in &sample {
        sum.add(&operation.schedule(algorithm, Place { rank: *rank, size: ranks }, 1));
    }
    let counted = sum.counted(1, Walked::Some(sample.len() as u32), None);
    Counted { messages: None, bytes: None, ..counted }
}

/// Some ranks, those that differ from others most among them.
fn sample(ranks: u32) -> Vec<u32> {
    let powers = (0..32).map(|bit| 1_u32 << bit);
    let even = (0..SAMPLE / 2).map(|at| (u64::from(ranks) * u64::from(at) / u64::from(SAMPLE / 2)) as u32);
    let last = (1..=3).map(|back| ranks.saturating_sub(back));
    // Ranks beyond a power of two are two for one, and these are the last of them.
    let beyond = 2 * (ranks - (1 << ranks.ilog2()));
    let mut sample: Vec<u32> = powers.chain(even).chain(last).chain([0, 3, beyond, beyond + 1]).collect();
    sample.retain(|rank| *rank < ranks);
    sample.sort_unstable();
    sample.dedup();
    sample
}

/// Whether all ranks send, receive and combine equally much in each of their rounds, and what one sends as
/// its i-th message in a round another gets as its i-th in the same round.
fn are_alike(operation: Operation, algorithm: Algorithm, ranks: u32) -> bool {
    let is_power = ranks.is_power_of_two();
    match (operation, algorithm) {
        (Operation::Barrier | Operation::Alltoall { .. }, _) => true,
        (Operation::Allgather { .. }, Algorithm::RecursiveDoubling) => is_power,
        (Operation::Allgather { .. }, _) => true,
        (Operation::Allreduce { .. }, Algorithm::RecursiveDoubling) => is_power,
        (Operation::Allreduce { len, .. }, Algorithm::Rabenseifner) => {
            is_power && len.is_multiple_of(ranks.into())
        }
        (Operation::Allreduce { len, .. }, Algorithm::Ring) => len.is_multiple_of(ranks.into()),
        _ => false,
    }
}

/// About how many entries are written for the schedules of all ranks.
fn work(operation: Operation, algorithm: Algorithm, ranks: u32) -> u64 {
    let all = u64::from(ranks);
    let few = 64 * (1 + u64::from(ranks.ilog2()));
    let pieces = |len: u64, segment_bytes: u64| all * (few + 4 * (len / segment_bytes.max(1)));
    match (operation, algorithm) {
        (
            Operation::Bcast { len, .. } | Operation::Reduce { len, .. },
            Algorithm::Chain { segment_bytes },
        ) => pieces(len, segment_bytes),
        (Operation::Scan { len, .. }, Algorithm::Chain { segment_bytes }) => pieces(len, segment_bytes),
        (Operation::Bcast { .. }, Algorithm::ScatterAllgather) => all * (few + 4 * all),
        // The lists of all blocks that each rank makes.
        (Operation::Allreduce { .. }, Algorithm::Rabenseifner) => all * (few + 4 * all),
        (Operation::Allreduce { .. }, Algorithm::Ring) => 16 * all * all,
        (Operation::ReduceScatterBlock { .. }, Algorithm::Pairwise { .. }) => all * (few + 8 * all),
        (Operation::ReduceScatterBlock { .. }, _) => all * (few + 4 * all),
        _ => all * few,
    }
}

// ---- what ranks have
// -----------------------------------------------------------------------------------------------

/// Adds up costs.
#[derive(Default)]
struct Sum {
    busiest: Cost,
    messages: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, schedule: &Schedule) -> Cost {
        let (cost, most) = (schedule.cost(), &mut self.busiest);
        self.messages += cost.messages_sent;
        self.bytes += cost.elements_sent;
        for (most, one) in [
            (&mut most.rounds, cost.rounds),
            (&mut most.messages_sent, cost.messages_sent),
            (&mut most.messages_received, cost.messages_received),
            (&mut most.elements_sent, cost.elements_sent),
            (&mut most.elements_received, cost.elements_received),
            (&mut most.elements_copied, cost.elements_copied),
            (&mut most.elements_combined, cost.elements_combined),
        ] {
            *most = (*most).max(one);
        }
        cost
    }

    /// Each rank that was added stands for so many.
    fn counted(self, each: u64, walked: Walked, path: Option<Path>) -> Counted {
        let (messages, bytes) = (Some(self.messages * each), Some(self.bytes * each));
        Counted { busiest: self.busiest, messages, bytes, path, walked }
    }
}

/// A transfer of a round: with whom, and how many bytes.
#[derive(Debug, Clone, Copy)]
struct Link {
    peer: u32,
    is_send: bool,
    bytes: u64,
}

/// A schedule as far as it takes time.
#[derive(Debug, Default)]
struct Walk {
    links: Vec<Link>,
    /// By round, where its links end, and the bytes that are combined.
    rounds: Vec<(usize, u64)>,
}

impl Walk {
    fn of(schedule: &Schedule) -> Self {
        let mut walk = Self::default();
        for round in schedule.rounds() {
            for transfer in &round.transfers {
                walk.links.push(match *transfer {
                    Transfer::Send { to, data } => Link { peer: to, is_send: true, bytes: data.len },
                    Transfer::Receive { from, data } => Link { peer: from, is_send: false, bytes: data.len },
                });
            }
            let combined = round.steps.iter().map(|step| match step {
                Step::Combine { into, .. } => into.len,
                Step::Copy { .. } => 0,
            });
            walk.rounds.push((walk.links.len(), combined.sum()));
        }
        walk
    }

    fn links_of(&self, round: usize) -> &[Link] {
        let start = round.checked_sub(1).map_or(0, |before| self.rounds[before].0);
        &self.links[start..self.rounds[round].0]
    }

    fn sends_of(&self, round: usize) -> impl Iterator<Item = Link> {
        self.links_of(round).iter().copied().filter(|link| link.is_send)
    }

    fn receives_of(&self, round: usize) -> impl Iterator<Item = Link> {
        self.links_of(round).iter().copied().filter(|link| !link.is_send)
    }
}

// ---- time
// ----------------------------------------------------------------------------------------------------------

/// Four clocks, one for each number of a [`Path`].
type Clocks = [f64; 4];

/// What each thing costs by each clock.
struct Prices {
    alpha: Clocks,
    beta: Clocks,
    gamma: Clocks,
    gap: Clocks,
}

impl Prices {
    fn of(model: &Model) -> Self {
        Self {
            alpha: [1.0, 0.0, 0.0, model.alpha_ns],
            beta: [0.0, 1.0, 0.0, model.beta_ns_per_byte],
            gamma: [0.0, 0.0, 1.0, model.gamma_ns_per_byte],
            gap: [0.0, 0.0, 0.0, model.gap_ns],
        }
    }

    /// How long the wire is busy with a message.
    fn on_wire(&self, bytes: u64) -> Clocks {
        self.beta.map(|beta| beta * bytes as f64)
    }

    /// From a message to the next one.
    fn to_next(&self, bytes: u64) -> Clocks {
        latest(self.on_wire(bytes), self.gap)
    }
}

fn latest(one: Clocks, other: Clocks) -> Clocks {
    std::array::from_fn(|at| one[at].max(other[at]))
}

fn after(start: Clocks, duration: Clocks) -> Clocks {
    std::array::from_fn(|at| start[at] + duration[at])
}

/// When the messages arrive that leave one after another.
fn arrivals(begin: Clocks, sends: impl Iterator<Item = Link>, prices: &Prices) -> Vec<(u32, Clocks)> {
    let mut leaves = begin;
    sends
        .map(|send| {
            let arrives = after(after(leaves, prices.alpha), prices.on_wire(send.bytes));
            leaves = after(leaves, prices.to_next(send.bytes));
            (send.peer, arrives)
        })
        .collect()
}

/// The end of a round, and from when on the next message can be taken in.
///
/// It has begun at `begin`, its sends arrive as `sent` says, and its messages, with their bytes, have come to
/// the node as `received` says.
fn end_of_round(
    (begin, is_free): (Clocks, Clocks),
    sent: &[(u32, Clocks)],
    received: impl Iterator<Item = (u64, Clocks)>,
    combined: u64,
    prices: &Prices,
) -> (Clocks, Clocks) {
    let mut end = sent.iter().fold(begin, |end, (_, arrives)| latest(end, *arrives));
    let mut is_free = is_free;
    let mut busy_until = begin;
    for (bytes, arrives) in received {
        let taken = latest(latest(arrives, is_free), after(busy_until, prices.on_wire(bytes)));
        is_free = after(taken, prices.gap);
        busy_until = taken;
        end = latest(end, taken);
    }
    (after(end, prices.gamma.map(|gamma| gamma * combined as f64)), is_free)
}

fn path_of(clocks: Clocks) -> Path {
    let [alphas, bytes_moved, bytes_combined, ns] = clocks;
    Path { alphas, bytes_moved, bytes_combined, ns }
}

/// The path if all ranks do as this one.
fn path_alike(walk: &Walk, prices: &Prices) -> Path {
    let (mut now, mut is_free) = (Clocks::default(), Clocks::default());
    for (round, (_, combined)) in walk.rounds.iter().enumerate() {
        let sent = arrivals(now, walk.sends_of(round), prices);
        let received = walk.receives_of(round).zip(&sent).map(|(link, (_, arrives))| (link.bytes, *arrives));
        (now, is_free) = end_of_round((now, is_free), &sent, received, *combined, prices);
    }
    path_of(now)
}

/// How far a rank is.
#[derive(Default, Clone)]
struct Progress {
    now: Clocks,
    /// From when on it can take in a message.
    is_free: Clocks,
    round: usize,
    /// The sends of the round, if it has begun.
    sent: Option<Vec<(u32, Clocks)>>,
}

/// The path over all ranks.
///
/// # Panics
/// When ranks wait for each other for ever, which no algorithm's schedules do.
fn path(walks: &[Walk], prices: &Prices) -> Path {
    let mut ranks = vec![Progress::default(); walks.len()];
    let mut under_way: HashMap<(u32, u32), VecDeque<Clocks>> = HashMap::new();
    let mut to_look_at: Vec<u32> = (0..walks.len() as u32).rev().collect();
    while let Some(rank) = to_look_at.pop() {
        let (walk, own) = (&walks[rank as usize], &mut ranks[rank as usize]);
        while let Some((_, combined)) = walk.rounds.get(own.round) {
            if own.sent.is_none() {
                let sent = arrivals(own.now, walk.sends_of(own.round), prices);
                for (to, arrives) in &sent {
                    under_way.entry((rank, *to)).or_default().push_back(*arrives);
                    to_look_at.push(*to);
                }
                own.sent = Some(sent);
            }
            let Some(received) = take_all(&mut under_way, walk, own.round, rank) else { break };
            let sent = own.sent.take().unwrap_or_default();
            let begin = (own.now, own.is_free);
            (own.now, own.is_free) = end_of_round(begin, &sent, received.into_iter(), *combined, prices);
            own.round += 1;
        }
    }
    let mut end = Clocks::default();
    for (progress, walk) in ranks.iter().zip(walks) {
        assert_eq!(progress.round, walk.rounds.len(), "ranks wait for each other for ever");
        end = latest(end, progress.now);
    }
    path_of(end)
}

/// Takes what a round receives, if all of it is under way.
fn take_all(
    under_way: &mut HashMap<(u32, u32), VecDeque<Clocks>>,
    walk: &Walk,
    round: usize,
    rank: u32,
) -> Option<Vec<(u64, Clocks)>> {
    let mut received = Vec::new();
    for link in walk.receives_of(round) {
        if let Some(arrives) = under_way.get_mut(&(link.peer, rank)).and_then(VecDeque::pop_front) {
            received.push((link.bytes, arrives));
            continue;
        }
        // Not yet: back to where they were.
        let taken: Vec<_> = walk.receives_of(round).zip(received).collect();
        for (link, (_, arrives)) in taken.into_iter().rev() {
            under_way.entry((link.peer, rank)).or_default().push_front(arrives);
        }
        return None;
    }
    Some(received)
}

// ---- what is the least
// ---------------------------------------------------------------------------------------------

/// The least time that the operation takes in ns, with elements of one byte: what one rank knows reaches all others no sooner than by
/// the best broadcast, and the bytes that a rank has to send or get pass one after another. The larger of such bounds, or their sum where it is
/// known to be one.
pub fn bound_ns(operation: Operation, ranks: u32, model: &Model) -> f64 {
    let others = f64::from(ranks - 1);
    let part = others / f64::from(ranks);
    let spread = spread_ns(ranks, model);
    let one = if ranks > 1 { model.alpha_ns } else { 0.0 };
    let beta = |bytes: f64| bytes * model.beta_ns_per_byte;
    let gamma = |bytes: f64| bytes * model.gamma_ns_per_byte;
    let is_shared = if ranks > 1 { 1.0 } else { 0.0 };
    match operation {
        Operation::Barrier => spread,
        Operation::Bcast { len, .. } => spread.max(beta(len as f64 * is_shared)),
        Operation::Reduce { len, .. } => spread.max(beta(len as f64 * is_shared) + gamma(part * len as f64)),
        Operation::Allreduce { len, .. } => {
            spread.max(beta(2.0 * part * len as f64) + gamma(part * len as f64))
        }
        Operation::ReduceScatterBlock { len, .. } => {
            spread + beta(others * len as f64) + gamma(others * len as f64)
        }
        Operation::Allgather { len } => spread + beta(others * len as f64),
        Operation::Gather { len, .. }
        | Operation::Scatter { len, .. }
        | Operation::Alltoall { len }
        | Operation::AlltoallInPlace { len } => one + beta(others * len as f64),
        Operation::Scan { len, .. } => spread.max(beta(len as f64 * is_shared)),
    }
}

/// The least time in ns in which something without length comes from one rank to all, or from all to one: whoever knows it tells another every gap, and
/// each hears of it alpha after it was told.
///
/// Source: Karp, Sahay, Santos and Schauser, "Optimal broadcast and summation in the LogP model", 1993.
fn spread_ns(ranks: u32, model: &Model) -> f64 {
    // When the next message of each arrives, of those who know, in whole picoseconds.
    let [alpha, gap] = [model.alpha_ns, model.gap_ns].map(|ns| (ns * 1000.0) as u64);
    let mut arrivals = BinaryHeap::from([Reverse(alpha)]);
    let mut last = 0;
    for _ in 1..ranks {
        let Some(Reverse(arrival)) = arrivals.pop() else { break };
        last = arrival;
        arrivals.push(Reverse(arrival + gap));
        arrivals.push(Reverse(arrival + alpha));
    }
    last as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_ranks_that_differ() {
        let ranks = sample(49_152);
        for rank in [0, 1, 2, 3, 4, 32_768, 24_576, 49_151, 49_150, 32_769] {
            assert!(ranks.contains(&rank), "{rank}: {ranks:?}");
        }
        assert!(ranks.len() <= SAMPLE as usize, "{}", ranks.len());
        assert_eq!(sample(1), [0]);
        assert_eq!(sample(3), [0, 1, 2]);
    }

    #[test]
    fn messages_of_a_round_leave_and_come_one_after_another() {
        let model = Model { alpha_ns: 100.0, beta_ns_per_byte: 1.0, gap_ns: 10.0, ..Model::default() };
        let prices = Prices::of(&model);
        let send = |peer, bytes| Link { peer, is_send: true, bytes };
        let sent = arrivals([0.0; 4], [send(1, 0), send(2, 50), send(3, 0)].into_iter(), &prices);
        assert_eq!(sent.iter().map(|(_, at)| at[3]).collect::<Vec<_>>(), [100.0, 160.0, 160.0]);
        let at = |ns| [0.0, 0.0, 0.0, ns];
        let start = (at(0.0), at(0.0));
        let two = [(50, at(200.0)), (50, at(200.0))];
        let (end, is_free) = end_of_round(start, &[], two.into_iter(), 0, &prices);
        assert_eq!((end[3], is_free[3]), (250.0, 260.0));
        let (end, _) = end_of_round(start, &sent, [(0, at(20.0))].into_iter(), 0, &prices);
        assert_eq!(end[3], 160.0, "the last send arrives last");
        let (end, _) = end_of_round((at(0.0), at(30.0)), &[], [(0, at(20.0))].into_iter(), 0, &prices);
        assert_eq!(end[3], 30.0, "the gap after a message of the round before");
    }

    /// Doubling where a rank can do nothing while a message is under way, one step where it can tell all at once; and Fibonacci's numbers where each
    /// message takes two gaps.
    #[test]
    fn nothing_spreads_faster_than_by_the_best_broadcast() {
        let model = |gap_ns| Model { alpha_ns: 100.0, gap_ns, ..Model::default() };
        for ranks in 1..=70_u32 {
            let doublings = f64::from(ranks.next_power_of_two().ilog2());
            assert_eq!(spread_ns(ranks, &model(100.0)), doublings * 100.0, "{ranks}");
        }
        assert_eq!(spread_ns(1000, &model(0.0)), 100.0);
        let by_gaps: Vec<u32> = (2..10)
            .map(|gaps| {
                (1..).take_while(|ranks| spread_ns(*ranks, &model(50.0)) <= f64::from(gaps) * 50.0).count()
                    as u32
            })
            .collect();
        assert_eq!(by_gaps, [2, 3, 5, 8, 13, 21, 34, 55]);
    }

    /// No algorithm is faster than what is said to be the least.
    #[test]
    fn no_schedule_is_below_the_bound() {
        let model = Model::default();
        for ranks in [2, 3, 4, 7, 8, 16, 31] {
            for len in [1, 8, 1000, 100_000] {
                for operation in [
                    Operation::Barrier,
                    Operation::Bcast { len, root: 0 },
                    Operation::Allreduce { len, commutes: true },
                ] {
                    for algorithm in crate::Table::default().algorithms(&operation.case(ranks, 1, false)) {
                        let path = count(operation, algorithm, ranks, &model).path.expect("few ranks");
                        let bound = bound_ns(operation, ranks, &model);
                        assert!(
                            path.ns >= bound * 0.999,
                            "{operation:?} {algorithm:?} {ranks}: {} {bound}",
                            path.ns
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn one_rank_alone_takes_no_time() {
        let operation = Operation::Allreduce { len: 100, commutes: true };
        let counted = count(operation, Algorithm::RecursiveDoubling, 1, &Model::default());
        assert_eq!((counted.messages, counted.path.unwrap().ns), (Some(0), 0.0));
        assert_eq!(bound_ns(operation, 1, &Model::default()), 0.0);
    }
}
