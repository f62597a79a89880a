use std::collections::{BTreeMap, HashSet, VecDeque};

use ironband_collectives::algorithms::hierarchy::{stripes, trees};
use ironband_collectives::algorithms::{allgather, allreduce, barrier, bcast, gather, reduce};
use ironband_collectives::schedule::{Blocks, Place, Schedule, Space, Transfer};
use ironband_collectives::topology::Topology;
use proptest::prelude::*;

use super::bcast::{all, log2_up, roots};
use super::gather::{gathered, in_place, own_only};
use super::world::{Start, Term, combined, run, sizes, sorted, term};

// ---- where ranks may be -----------------------------------------------------------------------------------------------

/// Two caches in each node; ranks `first..` of a node are bound to the second one.
fn cut(nodes: &[u32], first: usize) -> Topology {
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    let places = nodes.iter().map(|node| {
        let number = seen.entry(*node).or_default();
        *number += 1;
        (*node, (*number > first).then_some(1))
    });
    Topology::new(places)
}

/// Of one node, of one for each rank, of nodes with consecutive ranks and with every n-th one; with caches and without.
fn topologies(size: u32) -> Vec<Topology> {
    let mut topologies = Vec::new();
    for each in [1, 2, 5, size.div_ceil(2), size] {
        for nodes in [
            (0..size).map(|rank| rank / each).collect::<Vec<u32>>(),
            (0..size).map(|rank| rank % size.div_ceil(each)).collect(),
            // Of different lengths.
            (0..size).map(|rank| rank.isqrt()).collect(),
        ] {
            topologies.push(cut(&nodes, 2));
            topologies.push(cut(&nodes, usize::MAX));
        }
    }
    // Caches that go round.
    topologies.push(Topology::new((0..size).map(|rank| (rank / 7, Some(rank % 3)))));
    let mut seen = HashSet::new();
    topologies.retain(|topology| seen.insert(topology.clone()));
    topologies
}

fn any_topology() -> impl Strategy<Value = Topology> {
    let place = |nodes: u32| (0..nodes, prop::option::of(0..3_u32));
    (1..34_usize, 1..6_u32).prop_flat_map(move |(size, nodes)| {
        let places = prop::collection::vec(place(nodes), size);
        (places, any::<bool>()).prop_map(|(mut places, in_order)| {
            if in_order {
                places.sort_unstable();
            }
            Topology::new(places)
        })
    })
}

fn lens(size: u32) -> [u64; 4] {
    [0, 1, u64::from(size) + 1, 64]
}

// ---- what is made of them ---------------------------------------------------------------------------------------------

fn tree(place: Place, root: u32, len: u64) -> Schedule {
    bcast::knomial(place, root, len, 3)
}

fn up(ordered: bool) -> impl Fn(Place, u32, u64) -> Schedule {
    move |place, root, len| reduce::knomial(place, root, len, 2, ordered)
}

fn collect(place: Place, root: u32, len: u64) -> Schedule {
    gather::binomial(place, root, len)
}

fn bcast_over(topology: &Topology, root: u32, len: u64) -> Vec<Schedule> {
    all(topology.size(), |place| trees::bcast(place, topology, root, len, &tree, &tree))
}

fn reduce_over(topology: &Topology, root: u32, len: u64, ordered: bool) -> Vec<Schedule> {
    let up = up(ordered);
    all(topology.size(), |place| trees::reduce(place, topology, root, len, ordered, &up, &up))
}

fn allreduce_over(topology: &Topology, len: u64, ordered: bool) -> Vec<Schedule> {
    let up = up(ordered);
    all(topology.size(), |place| {
        trees::allreduce(place, topology, len, ordered, [&up, &tree], &allreduce::recursive_doubling)
    })
}

fn allgather_over(topology: &Topology, len: u64) -> Vec<Schedule> {
    let down = bcast::scatter_allgather;
    all(topology.size(), |place| trees::allgather(place, topology, len, [&collect, &down], &allgather::bruck))
}

fn barrier_over(topology: &Topology, radix: u32) -> Vec<Schedule> {
    let highest = |place| barrier::dissemination(place, 2);
    all(topology.size(), |place| trees::barrier(place, topology, radix, &highest))
}

fn striped_bcast(topology: &Topology, root: u32, len: u64, stripes: u32) -> Vec<Schedule> {
    all(topology.size(), |place| stripes::bcast(place, topology, root, len, (stripes, 3), &tree))
}

fn striped_reduce(topology: &Topology, root: u32, len: u64, stripes: u32) -> Vec<Schedule> {
    let across = reduce::reduce_scatter_gather;
    all(topology.size(), |place| stripes::reduce(place, topology, root, len, (stripes, 3), &across))
}

fn striped_allreduce(topology: &Topology, len: u64, stripes: u32) -> Vec<Schedule> {
    let across = allreduce::rabenseifner;
    all(topology.size(), |place| stripes::allreduce(place, topology, len, (stripes, 2), &across))
}

// ---- what has to come out ---------------------------------------------------------------------------------------------

fn check_bcast(schedules: Vec<Schedule>, root: u32, len: u64, of: &Topology) {
    let whole: Vec<Option<Term>> = (0..len).map(|index| Some(term(root, index))).collect();
    let start = |(schedule, rank)| Start {
        schedule,
        input: Vec::new(),
        output: if rank == root { whole.clone() } else { vec![None; len as usize] },
    };
    let outputs = run(schedules.into_iter().zip(0..).map(start).collect(), len);
    assert!(outputs.iter().all(|output| *output == whole), "root {root}, {len} elements, {of:?}");
}

/// For outputs of the root only, or without a root of all; in place and not.
fn check_reduction(schedules: &[Schedule], root: Option<u32>, len: u64, ordered: bool, of: &Topology) {
    let size = of.size();
    let expected: Vec<Term> = (0..len).map(|index| combined(0..size, index)).collect();
    let gets = |rank: u32| root.is_none_or(|root| root == rank);
    for is_in_place in [false, true] {
        let start = |(schedule, rank): (&Schedule, u32)| {
            if !is_in_place || !gets(rank) {
                return Start::new(rank, schedule.clone(), len, if gets(rank) { len } else { 0 });
            }
            let output = (0..len).map(|index| Some(term(rank, index))).collect();
            Start { schedule: in_place(schedule, 0, 0), input: Vec::new(), output }
        };
        let outputs = run(schedules.iter().zip(0..).map(start).collect(), len);
        for (output, rank) in outputs.into_iter().zip(0..).filter(|(_, rank)| gets(*rank)) {
            let output: Vec<Term> = output.into_iter().map(|term| term.expect("written")).collect();
            let output = if ordered { output } else { output.iter().map(sorted).collect() };
            assert_eq!(output, expected, "rank {rank}, root {root:?}, in place: {is_in_place}, {of:?}");
        }
    }
}

fn check_allgather(schedules: &[Schedule], len: u64, of: &Topology) {
    let blocks = Blocks::even(of.size(), len);
    let expected = gathered(&blocks, of.size());
    for is_in_place in [false, true] {
        let start = |(schedule, rank): (&Schedule, u32)| {
            if !is_in_place {
                return Start::new(rank, schedule.clone(), len, blocks.end());
            }
            let schedule = in_place(schedule, blocks.of(rank, Space::Output).start, 0);
            Start { schedule, input: Vec::new(), output: own_only(&blocks, rank) }
        };
        for output in run(schedules.iter().zip(0..).map(start).collect(), len) {
            assert_eq!(output, expected, "blocks of {len}, in place: {is_in_place}, {of:?}");
        }
    }
}

/// Nobody leaves before all have come: at the end each has heard of all, over others.
fn check_barrier(schedules: &[Schedule], of: &Topology) {
    let size = schedules.len();
    let mut known: Vec<u64> = (0..size).map(|rank| 1 << rank).collect();
    let mut under_way: BTreeMap<(usize, usize), VecDeque<u64>> = BTreeMap::new();
    // By rank: the round, and how many of its transfers are over; sends come first in all rounds of a barrier.
    let mut at = vec![(0, 0); size];
    loop {
        let before = at.clone();
        for rank in 0..size {
            let Some(round) = schedules[rank].rounds().get(at[rank].0) else { continue };
            while let Some(transfer) = round.transfers.get(at[rank].1) {
                match *transfer {
                    Transfer::Send { to, .. } => {
                        under_way.entry((rank, to as usize)).or_default().push_back(known[rank]);
                    }
                    Transfer::Receive { from, .. } => {
                        let word = under_way.get_mut(&(from as usize, rank)).and_then(VecDeque::pop_front);
                        let Some(word) = word else { break };
                        known[rank] |= word;
                    }
                }
                at[rank].1 += 1;
            }
            if at[rank].1 == round.transfers.len() {
                at[rank] = (at[rank].0 + 1, 0);
            }
        }
        if at == before {
            break;
        }
    }
    assert!(known.iter().all(|known| *known == (1 << size) - 1), "{known:x?}, {of:?}");
    assert!(under_way.values().all(VecDeque::is_empty), "signals that nobody has awaited: {of:?}");
    for (schedule, rank) in schedules.iter().zip(0..) {
        assert_eq!(at[rank as usize].0, schedule.rounds().len(), "rank {rank} waits for ever, {of:?}");
    }
}

#[test]
fn trees_do_what_mpi_says() {
    for size in sizes() {
        for topology in &topologies(size) {
            for radix in [2, 5] {
                check_barrier(&barrier_over(topology, radix), topology);
            }
            let ordered = topology.keeps_order();
            for len in lens(size) {
                check_reduction(&allreduce_over(topology, len, ordered), None, len, ordered, topology);
                check_allgather(&allgather_over(topology, len), len, topology);
                let ring = |place| trees::allgather_by_node(place, topology, len, &allgather::ring);
                check_allgather(&all(size, ring), len, topology);
            }
            for root in roots(size) {
                let len = u64::from(root) % 4;
                check_bcast(bcast_over(topology, root, len), root, len, topology);
                let schedules = reduce_over(topology, root, len, ordered);
                check_reduction(&schedules, Some(root), len, ordered, topology);
            }
        }
    }
}

#[test]
fn stripes_do_what_mpi_says() {
    for size in sizes() {
        for topology in &topologies(size) {
            let ordered = topology.keeps_order();
            for stripes in [1, 2, 4] {
                for len in lens(size) {
                    let schedules = striped_allreduce(topology, len, stripes);
                    check_reduction(&schedules, None, len, ordered, topology);
                }
                for root in roots(size) {
                    let len = 13 * u64::from(root) % 17;
                    check_bcast(striped_bcast(topology, root, len, stripes), root, len, topology);
                    let schedules = striped_reduce(topology, root, len, stripes);
                    check_reduction(&schedules, Some(root), len, ordered, topology);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_topology_will_do(
        topology in any_topology(),
        root in any::<prop::sample::Index>(),
        len in 0..70_u64,
        stripes in 1..5_u32,
        seed in any::<u64>(),
    ) {
        let root = root.index(topology.size() as usize) as u32;
        let ordered = topology.keeps_order();
        check_barrier(&barrier_over(&topology, 2 + (seed % 4) as u32), &topology);
        check_bcast(bcast_over(&topology, root, len), root, len, &topology);
        check_bcast(striped_bcast(&topology, root, len, stripes), root, len, &topology);
        check_reduction(&reduce_over(&topology, root, len, ordered), Some(root), len, ordered, &topology);
        check_reduction(&striped_reduce(&topology, root, len, stripes), Some(root), len, ordered, &topology);
        check_reduction(&allreduce_over(&topology, len, ordered), None, len, ordered, &topology);
        check_reduction(&striped_allreduce(&topology, len, stripes), None, len, ordered, &topology);
        check_allgather(&allgather_over(&topology, len % 8), len % 8, &topology);
    }

    /// What other nodes do inside is not known, and changes nothing.
    #[test]
    fn caches_of_other_nodes_do_not_count(
        topology in any_topology(),
        caches in prop::collection::vec(prop::option::of(0..3_u32), 33),
        at in any::<prop::sample::Index>(),
    ) {
        let size = topology.size();
        let rank = at.index(size as usize) as u32;
        let own: BTreeMap<u32, u32> = topology.caches_around(rank).into_iter().zip(0..)
            .flat_map(|(members, cache)| members.into_iter().map(move |member| (member, cache)))
            .collect();
        let other = Topology::new((0..size).map(|other| {
            let cache = own.get(&other).copied().or(caches[other as usize]);
            (topology.node_of(other), cache)
        }));
        let root = size / 2;
        let of_rank = |schedules: Vec<Schedule>| schedules[rank as usize].clone();
        prop_assert_eq!(of_rank(barrier_over(&topology, 2)), of_rank(barrier_over(&other, 2)));
        prop_assert_eq!(of_rank(bcast_over(&topology, root, 3)), of_rank(bcast_over(&other, root, 3)));
        let ordered = topology.keeps_order();
        prop_assert_eq!(
            of_rank(reduce_over(&topology, root, 3, ordered)),
            of_rank(reduce_over(&other, root, 3, ordered))
        );
        prop_assert_eq!(
            of_rank(allreduce_over(&topology, 3, ordered)),
            of_rank(allreduce_over(&other, 3, ordered))
        );
        prop_assert_eq!(of_rank(allgather_over(&topology, 3)), of_rank(allgather_over(&other, 3)));
        prop_assert_eq!(of_rank(striped_allreduce(&topology, 9, 3)), of_rank(striped_allreduce(&other, 9, 3)));
    }
}

// ---- what goes between nodes ------------------------------------------------------------------------------------------

/// Messages, and elements in them, of ranks that are not together.
fn between(schedules: &[Schedule], are_together: impl Fn(u32, u32) -> bool) -> (u64, u64) {
    let (mut messages, mut elements) = (0, 0);
    for (schedule, rank) in schedules.iter().zip(0..) {
        for transfer in schedule.rounds().iter().flat_map(|round| &round.transfers) {
            if let Transfer::Send { to, data } = *transfer
                && !are_together(rank, to)
            {
                messages += 1;
                elements += data.len;
            }
        }
    }
    (messages, elements)
}

fn between_nodes(schedules: &[Schedule], topology: &Topology) -> (u64, u64) {
    between(schedules, |one, other| topology.node_of(one) == topology.node_of(other))
}

#[test]
fn short_vectors_enter_each_node_once() {
    const LEN: u64 = 5;
    for size in sizes() {
        for topology in &topologies(size) {
            let nodes = u64::from(topology.node_count());
            let once = ((nodes - 1), (nodes - 1) * LEN);
            for root in roots(size) {
                assert_eq!(between_nodes(&bcast_over(topology, root, LEN), topology), once, "{topology:?}");
                let schedules = reduce_over(topology, root, LEN, false);
                assert_eq!(between_nodes(&schedules, topology), once, "{topology:?}");
            }
            // As many as if each node were a rank.
            let highest = all(topology.node_count(), |place| allreduce::recursive_doubling(place, LEN));
            let expected: u64 = highest.iter().map(|schedule| schedule.cost().messages_sent).sum();
            let schedules = allreduce_over(topology, LEN, false);
            assert_eq!(between_nodes(&schedules, topology), (expected, expected * LEN), "{topology:?}");
            let rounds = log2_up(topology.node_count());
            assert_eq!(between_nodes(&barrier_over(topology, 2), topology), (nodes * rounds, 0));
            let (messages, elements) = between_nodes(&allgather_over(topology, LEN), topology);
            assert_eq!(messages, nodes * rounds, "{topology:?}");
            assert_eq!(elements, (nodes - 1) * u64::from(size) * LEN, "{topology:?}");
        }
    }
}

#[test]
fn short_vectors_enter_each_cache_once() {
    for size in sizes().filter(|size| *size > 1) {
        for caches in 1..size.min(6) {
            let topology = Topology::new((0..size).map(|rank| (0, Some(rank % caches))));
            let between_caches =
                |schedules: &[Schedule]| between(schedules, |one, other| one % caches == other % caches).0;
            let once = u64::from(caches - 1);
            for root in roots(size) {
                assert_eq!(between_caches(&bcast_over(&topology, root, 3)), once);
                assert_eq!(between_caches(&reduce_over(&topology, root, 3, false)), once);
            }
            let signals = u64::from(caches) * log2_up(caches);
            assert_eq!(between_caches(&barrier_over(&topology, 4)), signals, "{size} in {caches}");
        }
    }
}

/// Whatever speaks for stripes, a node gets the vector once, and each stripe by another rank if there are enough.
#[test]
fn long_vectors_enter_each_node_once() {
    for size in sizes() {
        for topology in &topologies(size) {
            let (nodes, len) = (u64::from(topology.node_count()), 64);
            for stripes in 1..=4 {
                let (messages, elements) =
                    between_nodes(&striped_bcast(topology, size / 2, len, stripes), topology);
                let used = u64::from(stripes.min(topology.most_members()));
                assert_eq!(messages, (nodes - 1) * used, "{topology:?}");
                assert_eq!(elements, (nodes - 1) * len, "{topology:?}");
                let schedules = striped_allreduce(topology, len, stripes);
                let highest = all(topology.node_count(), |place| allreduce::rabenseifner(place, len / used));
                let expected: u64 = highest.iter().map(|schedule| schedule.cost().elements_sent).sum();
                if len % used == 0 {
                    assert_eq!(between_nodes(&schedules, topology).1, expected * used, "{topology:?}");
                }
            }
            let ring = |place| trees::allgather_by_node(place, topology, len, &allgather::ring);
            let crossings = if nodes > 1 { nodes * u64::from(size - 1) } else { 0 };
            assert_eq!(between_nodes(&all(size, ring), topology), (crossings, crossings * len));
        }
    }
}

#[test]
fn stripes_are_spread_over_a_node() {
    let topology = Topology::new((0..16).map(|rank| (rank / 8, None)));
    let schedules = striped_allreduce(&topology, 64, 4);
    let speakers: Vec<u32> = (0..16)
        .filter(|rank| {
            let mut rounds = schedules[*rank as usize].rounds().iter();
            let crosses = |transfer: &Transfer| match *transfer {
                Transfer::Send { to, .. } => to / 8 != rank / 8,
                Transfer::Receive { .. } => false,
            };
            rounds.any(|round| round.transfers.iter().any(crosses))
        })
        .collect();
    assert_eq!(speakers, [0, 2, 4, 6, 8, 10, 12, 14]);
}

/// Speaking for others is no reason to combine more than they do inside the node.
#[test]
fn work_inside_a_node_is_shared_evenly() {
    let topology = Topology::new((0..32).map(|rank| (rank / 16, None)));
    let in_node = 15 * 64 / 16;
    for (schedule, rank) in striped_allreduce(&topology, 64, 4).iter().zip(0..) {
        // Of a stripe, half of it is combined with that of the other node.
        let across = if rank % 4 == 0 { 16 / 2 } else { 0 };
        assert_eq!(schedule.cost().elements_combined, in_node + across, "rank {rank}");
        assert!(schedule.cost().elements_sent <= 2 * (64 - 4) + 16 + 16 + 16, "rank {rank}");
    }
}

/// The parts of a composition use the same scratch memory.
#[test]
fn scratch_memory_is_shared_by_parts() {
    let topology = Topology::new((0..8).map(|rank| (rank / 4, Some(rank % 4 / 2))));
    let part = allreduce::recursive_doubling(Place { rank: 0, size: 2 }, 100).scratch;
    let up = up(true)(Place { rank: 0, size: 2 }, 0, 100).scratch;
    for schedule in allreduce_over(&topology, 100, true) {
        assert!(schedule.scratch <= part.max(up), "{} of {part} and {up}", schedule.scratch);
    }
}

#[test]
#[should_panic(expected = "keep no order")]
fn order_is_not_promised_in_vain() {
    let topology = Topology::new([(0, None), (1, None), (0, None)]);
    reduce_over(&topology, 0, 1, true);
}
