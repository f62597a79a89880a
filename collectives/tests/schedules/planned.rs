//! What a communicator plans, for every root and around every switch point of the default table, and for more elements than 32 bits
//! count.

use std::rc::Rc;

use ironband::{Config, simulated};
use ironband_collectives::operator::{Commutative, InOrder};
use ironband_collectives::schedule::Schedule;
use ironband_collectives::{Communicator, Error, Table};
use ironband_fabric::sim::{Options, World};

use super::runs::Runs;
use super::world::{Memory as _, Start, run, sizes};

/// Calls it with the communicators of so many processes, by rank.
pub(crate) fn with_communicators(
    size: u32,
    table: &Table,
    reproducible: bool,
    check: impl Fn(&[Communicator<'_>]),
) {
    let world = World::new(Options::new(1));
    let contexts = simulated(&world, size, &Config::default()).unwrap();
    let communicators: Vec<Communicator<'_>> = contexts
        .iter()
        .map(|context| {
            let mut communicator = Communicator::world(context).unwrap();
            communicator.set_table(table.clone()).unwrap();
            communicator.set_reproducible(reproducible);
            communicator
        })
        .collect();
    check(&communicators);
}

/// An element: what matters is how long it is.
trait Element: bytemuck::Pod + Default {
    const BYTES: u64 = size_of::<Self>() as u64;
}

impl Element for u8 {}
impl Element for u64 {}
impl Element for [u64; 3] {}

/// Lengths of a vector or of a block, in elements, up to one more than where the table has a switch. `share` is what of the bytes that are compared
/// with the switch one such vector is.
fn around(switches: &[u64], size: u32, share: u64, element_bytes: u64) -> Vec<u64> {
    let p = u64::from(size);
    let mut lens = vec![0, 1, p - 1, p, p + 1];
    for switch in switches {
        let at = switch / element_bytes / share;
        lens.extend([at.saturating_sub(1), at, at + 1]);
    }
    lens.sort_unstable();
    lens.dedup();
    lens
}

/// The schedule of a plan with an operator that keeps the order, or with one that commutes.
macro_rules! with_operator {
    ($keeps_order:ident, $communicator:ident.$plan:ident($($before:expr),*; $($behind:expr),*)) => {
        if $keeps_order {
            let operator = InOrder(|left: &T, _: &T| *left);
            Rc::clone($communicator.$plan($($before,)* operator $(, $behind)*).unwrap().schedule())
        } else {
            let operator = Commutative(|left: &T, _: &T| *left);
            Rc::clone($communicator.$plan($($before,)* operator $(, $behind)*).unwrap().schedule())
        }
    };
}

/// All processes' part of an operation.
struct Planned {
    what: String,
    schedule: Rc<Schedule>,
    input: Runs,
    output: Runs,
    expected: Runs,
}

/// Runs what all ranks have planned, and compares.
fn compare(of_ranks: Vec<Planned>, keeps_order: bool) {
    let size = of_ranks.len();
    let (mut starts, mut expected) = (Vec::new(), Vec::new());
    for Planned { what, schedule, input, output, expected: wanted } in of_ranks {
        starts.push(Start { schedule: (*schedule).clone(), input, output });
        expected.push((what, wanted));
    }
    for (rank, (found, (what, expected))) in run(starts, 7).into_iter().zip(expected).enumerate() {
        let order = |runs: Runs| if keeps_order { runs } else { runs.sorted() };
        assert_eq!(order(found), order(expected), "{what}: rank {rank} of {size}");
    }
}

fn nothing() -> Runs {
    Runs::default()
}

/// What all ranks combine to, from this element of their inputs on.
fn folded(ranks: std::ops::Range<u32>, start: u64, len: u64) -> Runs {
    Runs::of(ranks.map(|rank| (rank, start)), len)
}

/// The blocks of all ranks, each from this element on and so long.
fn concat(size: u32, block: impl Fn(u32) -> (u64, u64)) -> Runs {
    (0..size).fold(nothing(), |all, rank| {
        let (start, len) = block(rank);
        all.append(Runs::of([(rank, start)], len))
    })
}

/// Blocks of different lengths, about so long.
fn counts(size: u32, len: u64) -> Vec<u64> {
    (0..size).map(|rank| [len, 0, len / 2, len + 1, 1][((rank * 7 + size) % 5) as usize]).collect()
}

/// For each rank, its part of one operation.
fn each(
    communicators: &[Communicator<'_>],
    plan: impl Fn(&Communicator<'_>, u32) -> Planned,
) -> Vec<Planned> {
    communicators.iter().zip(0..).map(|(communicator, rank)| plan(communicator, rank)).collect()
}

fn rooted<T: Element>(communicators: &[Communicator<'_>], root: u32, len: u64) {
    let size = communicators.len() as u32;
    let own = |rank: u32| Runs::of([(rank, 0)], len);
    let at_root = |rank: u32, runs: Runs| if rank == root { runs } else { nothing() };
    let all = u64::from(size) * len;
    let name = |what: &str| format!("{what} of {len} x {} bytes, root {root}", T::BYTES);
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("bcast"),
            schedule: Rc::clone(communicator.plan_bcast::<T>(root, len).unwrap().schedule()),
            input: nothing(),
            output: if rank == root { own(rank) } else { Runs::unwritten(len) },
            expected: own(root),
        }),
        true,
    );
    for keeps_order in [false, true] {
        compare(
            each(communicators, |communicator, rank| Planned {
                what: name("reduce"),
                schedule: with_operator!(keeps_order, communicator.plan_reduce(root, len;)),
                input: own(rank),
                output: at_root(rank, Runs::unwritten(len)),
                expected: at_root(rank, folded(0..size, 0, len)),
            }),
            keeps_order,
        );
    }
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("gather"),
            schedule: Rc::clone(communicator.plan_gather::<T>(root, len).unwrap().schedule()),
            input: own(rank),
            output: at_root(rank, Runs::unwritten(all)),
            expected: at_root(rank, concat(size, |_| (0, len))),
        }),
        true,
    );
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("scatter"),
            schedule: Rc::clone(communicator.plan_scatter::<T>(root, len).unwrap().schedule()),
            input: at_root(rank, Runs::of([(root, 0)], all)),
            output: Runs::unwritten(len),
            expected: Runs::of([(root, u64::from(rank) * len)], len),
        }),
        true,
    );
    rooted_of_counts::<T>(communicators, root, &counts(size, len));
}

fn rooted_of_counts<T: Element>(communicators: &[Communicator<'_>], root: u32, counts: &[u64]) {
    let size = communicators.len() as u32;
    let (own, all): (_, u64) = (|rank: u32| counts[rank as usize], counts.iter().sum());
    let at_root = |rank: u32, runs: Runs| if rank == root { runs } else { nothing() };
    let of_root = |rank: u32| Some(counts).filter(|_| rank == root);
    let name = |what: &str| format!("{what} of {counts:?} x {} bytes, root {root}", T::BYTES);
    compare(
        each(communicators, |communicator, rank| {
            let plan = communicator.plan_gatherv::<T>(root, own(rank), of_root(rank)).unwrap();
            Planned {
                what: name("gatherv"),
                schedule: Rc::clone(plan.schedule()),
                input: Runs::of([(rank, 0)], own(rank)),
                output: at_root(rank, Runs::unwritten(all)),
                expected: at_root(rank, concat(size, |rank| (0, own(rank)))),
            }
        }),
        true,
    );
    compare(
        each(communicators, |communicator, rank| {
            let plan = communicator.plan_scatterv::<T>(root, own(rank), of_root(rank)).unwrap();
            Planned {
                what: name("scatterv"),
                schedule: Rc::clone(plan.schedule()),
                input: at_root(rank, Runs::of([(root, 0)], all)),
                output: Runs::unwritten(own(rank)),
                expected: Runs::of([(root, counts[..rank as usize].iter().sum())], own(rank)),
            }
        }),
        true,
    );
}

/// Operations that combine vectors of `len` elements, and have no root.
fn combining<T: Element>(communicators: &[Communicator<'_>], len: u64, keeps_order: bool) {
    let size = communicators.len() as u32;
    let own = |rank: u32| Runs::of([(rank, 0)], len);
    let name = |what: &str| format!("{what} of {len} x {} bytes", T::BYTES);
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("allreduce"),
            schedule: with_operator!(keeps_order, communicator.plan_allreduce(len;)),
            input: own(rank),
            output: Runs::unwritten(len),
            expected: folded(0..size, 0, len),
        }),
        keeps_order,
    );
    for inclusive in [true, false] {
        compare(
            each(communicators, |communicator, rank| Planned {
                what: name(if inclusive { "scan" } else { "exscan" }),
                schedule: with_operator!(keeps_order, communicator.plan_scan(len; inclusive)),
                input: own(rank),
                output: Runs::unwritten(len),
                expected: match (inclusive, rank) {
                    (true, _) => folded(0..rank + 1, 0, len),
                    (false, 0) => Runs::unwritten(len),
                    (false, _) => folded(0..rank, 0, len),
                },
            }),
            keeps_order,
        );
    }
    let block = len / u64::from(size);
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("reduce_scatter_block"),
            schedule: with_operator!(keeps_order, communicator.plan_reduce_scatter_block(block;)),
            input: Runs::of([(rank, 0)], block * u64::from(size)),
            output: Runs::unwritten(block),
            expected: folded(0..size, u64::from(rank) * block, block),
        }),
        keeps_order,
    );
    let counts = counts(size, block);
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("reduce_scatter"),
            schedule: with_operator!(keeps_order, communicator.plan_reduce_scatter(&counts;)),
            input: Runs::of([(rank, 0)], counts.iter().sum()),
            output: Runs::unwritten(counts[rank as usize]),
            expected: folded(0..size, counts[..rank as usize].iter().sum(), counts[rank as usize]),
        }),
        keeps_order,
    );
}

/// Operations that move blocks of `len` elements, and have no root.
fn moving<T: Element>(communicators: &[Communicator<'_>], len: u64) {
    let size = communicators.len() as u32;
    let all = u64::from(size) * len;
    let name = |what: &str| format!("{what} of {len} x {} bytes", T::BYTES);
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("allgather"),
            schedule: Rc::clone(communicator.plan_allgather::<T>(len).unwrap().schedule()),
            input: Runs::of([(rank, 0)], len),
            output: Runs::unwritten(all),
            expected: concat(size, |_| (0, len)),
        }),
        true,
    );
    let counts = counts(size, len);
    compare(
        each(communicators, |communicator, rank| Planned {
            what: name("allgatherv"),
            schedule: Rc::clone(communicator.plan_allgatherv::<T>(&counts).unwrap().schedule()),
            input: Runs::of([(rank, 0)], counts[rank as usize]),
            output: Runs::unwritten(counts.iter().sum()),
            expected: concat(size, |rank| (0, counts[rank as usize])),
        }),
        true,
    );
    for in_place in [false, true] {
        compare(
            each(communicators, |communicator, rank| {
                let plan = communicator.plan_alltoall::<T>(len).unwrap();
                let apart = Rc::clone(plan.schedule());
                let together = Rc::clone(plan.in_place().unwrap().schedule());
                Planned {
                    what: name("alltoall"),
                    schedule: if in_place { together } else { apart },
                    input: Runs::of([(rank, 0)], all),
                    output: Runs::unwritten(all),
                    expected: concat(size, |_| (u64::from(rank) * len, len)),
                }
            }),
            true,
        );
    }
    // Each has as much for a rank as every other one has.
    compare(
        each(communicators, |communicator, rank| {
            let own = counts[rank as usize];
            let plan = communicator.plan_alltoallv::<T>(&counts, &vec![own; size as usize]).unwrap();
            Planned {
                what: name("alltoallv"),
                schedule: Rc::clone(plan.schedule()),
                input: Runs::of([(rank, 0)], counts.iter().sum()),
                output: Runs::unwritten(own * u64::from(size)),
                expected: concat(size, |_| (counts[..rank as usize].iter().sum(), own)),
            }
        }),
        true,
    );
}

/// The first root, and every third of the others.
fn every_root<T: Element>(communicators: &[Communicator<'_>], part: u32) {
    let table = Table::default();
    let size = communicators.len() as u32;
    let switches =
        [table.bcast_tree_max, table.bcast_pipeline_min, table.reduce_tree_max, table.gather_tree_max];
    for root in (0..size).filter(|root| *root == 0 || root % 3 == part) {
        for len in around(&switches, size, 1, T::BYTES) {
            rooted::<T>(communicators, root, len);
        }
    }
}

fn without_root<T: Element>(communicators: &[Communicator<'_>]) {
    let table = Table::default();
    let size = communicators.len() as u32;
    let combined = [
        table.allreduce_whole_max,
        table.allreduce_ring_min,
        table.reduce_scatter_halving_max,
        table.scan_chain_min,
    ];
    for len in around(&combined, size, 1, T::BYTES) {
        for keeps_order in [false, true] {
            combining::<T>(communicators, len, keeps_order);
        }
    }
    let mut lens = around(&[table.allgather_doubling_max], size, size.into(), T::BYTES);
    lens.extend(around(&[table.alltoall_bruck_max], size, 1, T::BYTES));
    for len in lens {
        moving::<T>(communicators, len);
    }
}

#[test]
fn every_root_around_every_switch_point() {
    for size in sizes() {
        with_communicators(size, &Table::default(), false, |communicators| {
            every_root::<u8>(communicators, 0);
            every_root::<u64>(communicators, 1);
            every_root::<[u64; 3]>(communicators, 2);
        });
    }
}

#[test]
fn without_a_root_around_every_switch_point() {
    for size in sizes() {
        with_communicators(size, &Table::default(), false, |communicators| {
            without_root::<u8>(communicators);
            without_root::<u64>(communicators);
            without_root::<[u64; 3]>(communicators);
        });
    }
}

/// Also operators that commute are then applied in the order of ranks.
#[test]
fn reproducible_keeps_the_order() {
    for size in sizes() {
        with_communicators(size, &Table::default(), true, |communicators| {
            for len in [1, u64::from(size), 600, 200_000] {
                rooted::<u64>(communicators, size / 2, len);
                combining::<u64>(communicators, len, true);
            }
        });
    }
}

/// Longer than 32 bits count, in elements and in bytes.
#[test]
fn more_elements_than_32_bits_count() {
    // Pieces of 64 KiB would be a million rounds.
    let table = Table { segment: 1 << 33, ..Table::default() };
    for size in sizes() {
        with_communicators(size, &table, false, |communicators| {
            for len in [(1 << 31) - 1, (1 << 31) + 1, (1 << 32) + 3, (1 << 33) + u64::from(size) + 1] {
                rooted::<u64>(communicators, size / 2, len);
                combining::<u8>(communicators, len * 3, false);
                combining::<u64>(communicators, len, true);
                moving::<[u64; 3]>(communicators, len);
            }
        });
    }
}

/// So many that no memory has them are refused, before anything overflows.
#[test]
fn more_elements_than_any_memory_has() {
    with_communicators(3, &Table::default(), false, |communicators| {
        let one = &communicators[1];
        for len in [(1 << 45) + 1, 1 << 61, u64::MAX / 3, u64::MAX] {
            let refused = Error::TooLong { elements: len };
            let sum = || Commutative(|left: &u64, _: &u64| *left);
            assert_eq!(one.plan_bcast::<u64>(0, len).err(), Some(refused.clone()));
            assert_eq!(one.plan_reduce(0, len, sum()).err(), Some(refused.clone()));
            assert_eq!(one.plan_allreduce(len, sum()).err(), Some(refused.clone()));
            assert_eq!(one.plan_scan(len, sum(), true).err(), Some(refused.clone()));
            assert_eq!(one.plan_gatherv::<u64>(0, len, None).err(), Some(refused.clone()));
            assert_eq!(one.plan_scatterv::<u64>(0, len, None).err(), Some(refused));
            let refused = Some(Error::TooLong { elements: len.saturating_mul(3) });
            assert_eq!(one.plan_gather::<u64>(0, len).err(), refused);
            assert_eq!(one.plan_scatter::<u64>(0, len).err(), refused);
            assert_eq!(one.plan_allgather::<u64>(len).err(), refused);
            assert_eq!(one.plan_alltoall::<u64>(len).err(), refused);
            assert_eq!(one.plan_reduce_scatter_block(len, sum()).err(), refused);
            assert_eq!(one.plan_allgatherv::<u64>(&[len; 3]).err(), refused);
            assert_eq!(one.plan_reduce_scatter(&[len; 3], sum()).err(), refused);
            assert_eq!(one.plan_alltoallv::<u64>(&[0; 3], &[len; 3]).err(), refused);
        }
    });
}
