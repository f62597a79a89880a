//! Broadcasts. There is only the output: at the root it has the elements before, at all others after.
//!
//! All of them count ranks from the root on, around the end: its own *distance* is 0.

use std::ops::Range;

use crate::schedule::{Blocks, Place, Schedule, Space, Span};

/// How far a process is behind the root.
///
/// # Panics
/// When there is no such root.
pub(super) fn distance(place: Place, root: u32) -> u32 {
    let Place { rank, size } = place;
    assert!(root < size, "{root} of {size} ranks cannot be the root");
    if rank >= root { rank - root } else { size - (root - rank) }
}

/// The rank so far behind another one.
pub(super) fn rank_behind(rank: u32, distance: u32, size: u32) -> u32 {
    ((u64::from(rank) + u64::from(distance)) % u64::from(size)) as u32
}

/// The ranks at these distances behind another one, in order: some up to the last rank, then some from rank 0
/// on.
pub(super) fn ranks_behind(rank: u32, distances: Range<u32>, size: u32) -> [Range<u32>; 2] {
    let first = rank_behind(rank, distances.start, size);
    let len = distances.end.saturating_sub(distances.start);
    let before_end = len.min(size - first);
    [first..first + before_end, 0..len - before_end]
}

/// A part of a vector after the other, each of this length but the last one, which may be shorter.
///
/// # Panics
/// When the length is 0.
pub(super) fn segments(whole: Span, len: u64) -> Vec<Span> {
    assert!(len > 0, "segments of no elements");
    let starts = (0..whole.len.div_ceil(len)).map(|at| at * len);
    starts.map(|start| whole.part(start, len.min(whole.len - start))).collect()
}

/// Where a number is in the k-nomial tree of the numbers `0..size`, with 0 at the top: a number's parent is
/// the number itself with its lowest digit other than 0, in base k, made 0. So a number and all below it, its
/// branch, are consecutive.
pub(super) struct Family {
    /// `None` at the top.
    pub(super) parent: Option<u32>,
    /// The number and all below it.
    pub(super) branch: Range<u32>,
    /// The branches of its children. By level, which is where the digit is; all of them together are in
    /// order.
    pub(super) children: Vec<Vec<Range<u32>>>,
}

impl Family {
    /// # Panics
    /// When the radix is below 2.
    pub(super) fn of(number: u32, size: u32, radix: u32) -> Self {
        assert!(radix >= 2, "a tree with a radix of {radix} has no levels");
        let (at, end, radix) = (u64::from(number), u64::from(size), u64::from(radix));
        let branch = |top: u64, len: u64| top as u32..(top + len).min(end) as u32;
        let mut children = Vec::new();
        let mut step = 1;
        while step < end {
            let digit = at / step % radix;
            if digit > 0 {
                let parent = Some((at - digit * step) as u32);
                return Self { parent, branch: branch(at, step), children };
            }
            let tops = (1..radix).map(|digit| at + digit * step).take_while(|top| *top < end);
            children.push(tops.map(|top| branch(top, step)).collect());
            step *= radix;
        }
        Self { parent: None, branch: 0..size, children }
    }
}

/// A k-nomial tree: each rank receives all elements from its parent and sends them to all of its children.
/// These sends do not wait for each other; the child with the longest branch comes first.
///
/// Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
/// 2005, for k = 2.
///
/// Cost: ceil(log_k p) (alpha + (k - 1) n beta). Chosen for short vectors; and with k = p for long ones of a few ranks that share a
/// node, who read the root's memory at the same time.
///
/// # Panics
/// When there is no such root, or the radix is below 2.
pub fn knomial(place: Place, root: u32, len: u64, radix: u32) -> Schedule {
    let family = Family::of(distance(place, root), place.size, radix);
    let whole = Span::output(0, len);
    let mut schedule = Schedule::new();
    if let Some(parent) = family.parent {
        schedule.receive(rank_behind(root, parent, place.size), whole);
        schedule.next_round();
    }
    for branch in family.children.iter().rev().flatten() {
        schedule.send(rank_behind(root, branch.start, place.size), whole);
    }
    schedule
}

/// Scatter and allgather: the vector is cut into a block for each rank; down a binomial tree, each rank gets
/// the blocks of its branch; then each gets what it lacks in rounds that double the number of consecutive
/// blocks that all have (Bruck's allgather, with each block in its place from the start, so that nothing is
/// to be rotated). Blocks that a rank already has from the tree are not sent to it again.
///
/// Source: Barnett, Gupta, Payne, Shuler, van de Geijn and Watts, "Interprocessor collective communication
/// library (InterCom)", 1994; Thakur, Rabenseifner and Gropp, "Optimization of collective communication
/// operations in MPICH", 2005.
///
/// Cost: 2q alpha + 2 (p-1)/p n beta. A range of blocks that goes around the end takes two messages. Chosen
/// for vectors of middle length.
///
/// # Panics
/// When there is no such root.
pub fn scatter_allgather(place: Place, root: u32, len: u64) -> Schedule {
    let size = place.size;
    let own = distance(place, root);
    let blocks = Blocks::split(len, size);
    let family = Family::of(own, size, 2);
    let mut schedule = Schedule::new();
    if let Some(parent) = family.parent {
        let from = rank_behind(root, parent, size);
        schedule.receive(from, blocks.range(family.branch, Space::Output));
    }
    // One child in a round: no shorter branch takes bandwidth from the longest one, which has the most to do.
    for branch in family.children.into_iter().rev().flatten() {
        schedule.next_round();
        let to = rank_behind(root, branch.start, size);
        schedule.send(to, blocks.range(branch, Space::Output));
    }
    // As many blocks, from its own on, does each rank have.
    let mut known = 1;
    while known < size {
        let next = known + known.min(size - known);
        // The blocks that another lacks of those that are to come in this round.
        let lacking = |other: u32| {
            let held = Family::of(other, size, 2).branch.len() as u32;
            ranks_behind(other, known.max(held)..next, size)
        };
        let (to, from) = (rank_behind(own, size - known, size), rank_behind(own, known, size));
        schedule.next_round();
        for range in lacking(to) {
            schedule.send(rank_behind(root, to, size), blocks.range(range, Space::Output));
        }
        for range in lacking(own) {
            schedule.receive(rank_behind(root, from, size), blocks.range(range, Space::Output));
        }
        known = next;
    }
    schedule
}

/// A pipelined chain: each rank gets one segment after the other from the rank before it, and sends it on
/// while the next one comes.
///
/// Source: well known; see Pješivac-Grbović, Angskun, Bosilca, Fagg, Gabriel and Dongarra, "Performance
/// analysis of MPI collective operations", 2007.
///
/// Cost: (p - 2 + s)(alpha + n/s beta) with s segments, for p above 1. Chosen for few ranks and long vectors.
///
/// # Panics
/// When there is no such root, or segments of no elements are asked for.
pub fn chain(place: Place, root: u32, len: u64, segment: u64) -> Schedule {
    let Place { rank, size } = place;
    let own = distance(place, root);
    let (is_first, is_last) = (own == 0, own + 1 == size);
    let segments = segments(Span::output(0, len), segment);
    let mut schedule = Schedule::new();
    for round in 0..=segments.len() {
        if !is_first && let Some(segment) = segments.get(round) {
            schedule.receive(rank_behind(rank, size - 1, size), *segment);
        }
        // What the root sends has always been there; others send what came in the round before.
        let sent = if is_first { Some(round) } else { round.checked_sub(1) };
        if !is_last && let Some(segment) = sent.and_then(|sent| segments.get(sent)) {
            schedule.send(rank_behind(rank, 1, size), *segment);
        }
        schedule.next_round();
    }
    schedule
}

/// Blocks over a circulant graph: in each round each rank sends one block to the rank some hop behind it, and
/// receives one from the rank the same hop before it. The q hops, about p/2, p/4 and so on to 1, are taken in
/// turn, shortest first. Which block goes when is such that no round is lost: each rank gets a block in each
/// round from its first one on, never one that it has. No more blocks are made than there are elements.
///
/// Source: Träff, "(Poly)logarithmic time construction of round-optimal n-block broadcast schedules for the
/// circulant graph and irregular allgather in MPI", 2022, and "Optimal broadcast schedules in logarithmic
/// time with applications to broadcast, all-broadcast, reduction and all-reduction", 2024.
///
/// Cost: (q - 1 + b)(alpha + n/b beta) with b blocks; no algorithm that sends whole blocks, one at a time,
/// needs fewer rounds. Chosen for long vectors, with b about sqrt((q - 1) n beta / alpha).
///
/// # Panics
/// When there is no such root, or no blocks are asked for.
pub fn circulant(place: Place, root: u32, len: u64, blocks: u32) -> Schedule {
    assert!(blocks > 0, "{len} elements in no blocks");
    let Place { rank, size } = place;
    let own = distance(place, root);
    let hops = hops(size);
    let slots = hops.len() - 1;
    let mut schedule = Schedule::new();
    if slots == 0 {
        return schedule;
    }
    let last = u64::from(blocks).min(len.max(1)) - 1;
    let parts = Blocks::split(len, last as u32 + 1);
    let received = first_blocks(own, &hops);
    let target = |slot: usize| rank_behind(own, hops[slot] as u32, size);
    let sent: Vec<_> = (0..slots).map(|slot| first_blocks(target(slot), &hops)[slot]).collect();
    // Rounds come in turns of as many as there are hops. The last turn has to be a whole one, so the first
    // begins with rounds in which nothing is done, and all numbers of blocks are lower by as many.
    let rounds = last as usize + slots;
    let idle = rounds.next_multiple_of(slots) - rounds;
    let block = |first: Option<i64>, round: usize| {
        let number = first? + (round - round % slots) as i64 - idle as i64;
        let number = u64::try_from(number).ok()?.min(last);
        Some(parts.of(number as u32, Space::Output))
    };
    for round in idle..rounds + idle {
        let slot = round % slots;
        let hop = hops[slot] as u32;
        schedule.next_round();
        if let Some(block) = block(sent[slot], round) {
            schedule.send(rank_behind(rank, hop, size), block);
        }
        if let Some(block) = block(received[slot], round) {
            schedule.receive(rank_behind(rank, size - hop, size), block);
        }
    }
    schedule
}

/// The hops of the circulant graph, shortest first, and the number of ranks behind them. Each is half the
/// next one, rounded up.
fn hops(size: u32) -> Vec<u64> {
    let mut hops = vec![u64::from(size)];
    while hops[hops.len() - 1] > 1 {
        hops.push(hops[hops.len() - 1].div_ceil(2));
    }
    hops.reverse();
    hops
}

/// The first block that a rank gets. The way to a rank is made of ever longer hops: the last one is the
/// longest that is not too long, the one before it the longest for what then remains, and so on. The first
/// and shortest one is from the root, which in its turn sends over each hop the block of the same number.
fn first_block(distance: u32, hops: &[u64]) -> usize {
    let mut distance = u64::from(distance);
    for (slot, hop) in hops.iter().enumerate().rev() {
        if distance == *hop {
            return slot;
        }
        if distance > *hop {
            distance -= hop;
        }
    }
    unreachable!("the root gets no blocks")
}

/// By hop, which block a rank gets over it in the first turn; in each later turn the number is higher by the
/// number of hops. Below 0 there are no blocks. `None` for the root, which gets none.
fn first_blocks(distance: u32, hops: &[u64]) -> Vec<Option<i64>> {
    let slots = hops.len() - 1;
    if distance == 0 {
        return vec![None; slots];
    }
    let own = first_block(distance, hops);
    let target = u64::from(distance) + hops[slots];
    let mut search =
        Search { hops, target, nearest: u64::MAX, is_free: vec![true; slots + 1], found: Vec::new() };
    search.is_free[own] = false;
    search.follow(0, slots + 1);
    // What came straight from the root is of this turn, all else of the one before.
    let number = |block| if block == slots { own as i64 } else { block as i64 - slots as i64 };
    search.found.into_iter().map(|block| Some(number(block))).collect()
}

/// Looks for the ranks from which blocks come in a turn: for each hop another one, with another first block.
/// Such a rank had its first block in the turn before, and in this turn the block goes on over ever longer
/// hops, of which the last is the one that is looked at: so the rank is the farther away the longer that hop
/// is.
///
/// That a rank is found for each hop, and that the rank before has by then what is awaited from it, is proved
/// in the papers named above for their way of looking; for this one the tests try it out, with data for up to
/// 33 ranks and some larger numbers, and by cost for up to 1281.
struct Search<'a> {
    hops: &'a [u64],
    /// The rank that gets the blocks: its distance from the root, once around.
    target: u64,
    /// The last one found; those for longer hops are farther away from the target.
    nearest: u64,
    /// By first block, which is the shortest hop on the way from the root: whether it still is to be found.
    /// The last, once around, is the root itself.
    is_free: Vec<bool>,
    /// By hop, the first block found for it.
    found: Vec<usize>,
}

impl Search<'_> {
    /// How far a rank may be at most, for a block to come from it over this hop.
    fn limit(&self, hop: usize) -> u64 {
        self.target - self.hops[hop]
    }

    /// Goes on from a rank over hops below this one, longest first. Of the ranks that are near enough to the
    /// target it takes the one that fewest hops lead to; all ranks take the same then, and so have what
    /// others await.
    fn follow(&mut self, from: u64, below: usize) {
        for hop in (0..below).rev() {
            // Fewer hops lead to `from` itself, if it is near enough.
            let wanted = self.found.len();
            if wanted + 1 == self.hops.len() || from > self.limit(wanted + 1) {
                return;
            }
            let at = from + self.hops[hop];
            if !self.is_free[hop] || at > self.limit(wanted) || at >= self.nearest {
                continue;
            }
            if at <= self.limit(wanted + 1) {
                self.follow(at, hop);
            }
            let wanted = self.found.len();
            if wanted + 1 < self.hops.len() && at <= self.limit(wanted) {
                self.found.push(hop);
                self.nearest = at;
                self.is_free[hop] = false;
            }
        }
    }
}
