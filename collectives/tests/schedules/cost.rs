//! What is counted against the formulas at the functions in `algorithms`, and one rank for all against all.

use ironband_collectives::choose::Algorithm;
use ironband_collectives::cost::{Counted, Path, Walked, bound_ns, count, count_all};
use ironband_collectives::operation::Operation;
use ironband_collectives::{Model, Table};

use super::world::sizes;

/// Every constant counts, and none is a multiple of another.
fn model() -> Model {
    Model {
        alpha_ns: 1000.0,
        beta_ns_per_byte: 3.0,
        gamma_ns_per_byte: 0.7,
        gap_ns: 110.0,
        ..Model::default()
    }
}

/// All operations with vectors or blocks of so many elements.
fn operations(len: u64, root: u32) -> Vec<Operation> {
    let mut all = vec![
        Operation::Barrier,
        Operation::Bcast { root, len },
        Operation::Gather { root, len },
        Operation::Scatter { root, len },
        Operation::Allgather { len },
        Operation::Alltoall { len },
        Operation::Scan { len, inclusive: true },
        Operation::Scan { len, inclusive: false },
    ];
    for commutes in [false, true] {
        all.extend([
            Operation::Reduce { root, len, commutes },
            Operation::Allreduce { len, commutes },
            Operation::ReduceScatterBlock { len, commutes },
        ]);
    }
    all
}

/// Small pieces, so that chains are long.
fn table(radix: u32, window: u32) -> Table {
    Table {
        barrier_radix: radix,
        bcast_radix: radix,
        reduce_radix: radix,
        segment: 10,
        window,
        ..Table::default()
    }
}

fn each(size: u32, len: u64, table: &Table, mut look: impl FnMut(Operation, Algorithm)) {
    for operation in operations(len, size / 2) {
        for algorithm in table.algorithms(&operation.case(size, 1, false)) {
            look(operation, algorithm);
        }
    }
}

/// Where one rank is walked for all, it tells the same as all of them; where all are, that is what is told.
#[test]
fn one_rank_stands_for_all_that_are_alike() {
    let mut alike = 0;
    for size in sizes() {
        for (len, radix, window) in [(0, 2, 1), (1, 3, 4), (u64::from(size) * 6, 2, 3), (64, 5, 100)] {
            let table = table(radix, window);
            each(size, len, &table, |operation, algorithm| {
                let counted = count(operation, algorithm, size, &model());
                let all = count_all(operation, algorithm, size, &model());
                alike += u32::from(counted.walked == Walked::One);
                assert_ne!(counted.walked, Walked::Some(size), "{size} ranks are not too many");
                assert_eq!(
                    Counted { walked: Walked::All, ..counted },
                    all,
                    "{operation:?} by {algorithm} with {size} ranks"
                );
            });
        }
    }
    assert!(alike > 300, "only {alike} cases had ranks that are alike");
}

/// What is sent is received, and nothing is faster than the bound, as long as messages go one at a time.
#[test]
fn nothing_is_faster_than_its_bound() {
    // Many at once are faster than one after another, unless the gap is as long as all.
    let model = Model { gap_ns: 1000.0, ..model() };
    for size in sizes() {
        for len in [0, 1, 50, 6 * u64::from(size)] {
            each(size, len, &table(2, 1), |operation, algorithm| {
                let counted = count_all(operation, algorithm, size, &model);
                let (took, bound) = (counted.path.unwrap().ns, bound_ns(operation, size, &model));
                // Who has nothing to send sends nothing.
                if len > 0 || operation == Operation::Barrier {
                    assert!(
                        took >= bound * 0.999_999,
                        "{operation:?} by {algorithm}: {size} ranks, {took} < {bound}"
                    );
                }
                let most = counted.busiest.messages_sent.max(counted.busiest.messages_received);
                assert!(counted.messages.unwrap() <= most * u64::from(size));
            });
        }
    }
}

/// The numbers of a formula: how often alpha, how many bytes beta, how many gamma.
type Formula = (u64, u64, u64);

fn check(operation: Operation, algorithm: Algorithm, size: u32, expected: Formula) {
    let Path { alphas, bytes_moved, bytes_combined, .. } =
        count_all(operation, algorithm, size, &model()).path.unwrap();
    let found = (alphas as u64, bytes_moved as u64, bytes_combined as u64);
    assert_eq!(found, expected, "{operation:?} by {algorithm} with {size} ranks");
}

/// The formulas for powers of two and lengths that ranks divide.
#[test]
fn formulas_of_powers_of_two() {
    for q in 0..6_u64 {
        let p = 1 << q;
        let size = p as u32;
        let (n, m) = (60 * p, 60);
        // (p - 1) / p of n.
        let part = (p - 1) * m;
        let root = 0;
        let (short, by) = (Operation::Allreduce { len: n, commutes: true }, Algorithm::RecursiveDoubling);
        check(short, by, size, (q, q * n, q * n));
        check(short, Algorithm::Rabenseifner, size, (2 * q, 2 * part, part));
        check(short, Algorithm::Ring, size, (2 * (p - 1), 2 * part, part));
        check(Operation::Barrier, Algorithm::Dissemination { radix: 2 }, size, (q, 0, 0));
        check(Operation::Bcast { root, len: n }, Algorithm::Knomial { radix: 2 }, size, (q, q * n, 0));
        let reduce = Operation::Reduce { root, len: n, commutes: true };
        check(reduce, Algorithm::Knomial { radix: 2 }, size, (q, q * n, q * n));
        check(reduce, Algorithm::ReduceScatterGather, size, (2 * q, 2 * part, part));
        let scatter = Operation::ReduceScatterBlock { len: m, commutes: true };
        check(scatter, Algorithm::CirculantHalving, size, (q, part, part));
        // No rank combines more, but not all do so in the same rounds, and others wait for them.
        let pairwise = count_all(scatter, Algorithm::Pairwise { window: 1 }, size, &model());
        let path = pairwise.path.unwrap();
        assert_eq!((path.alphas as u64, path.bytes_moved as u64), (p - 1, part));
        assert_eq!(pairwise.busiest.elements_combined, part);
        assert!((part..=2 * part).contains(&(path.bytes_combined as u64)), "{size}: {path:?}");
        for by in [Algorithm::RecursiveDoubling, Algorithm::Bruck] {
            check(Operation::Allgather { len: m }, by, size, (q, part, 0));
        }
        check(Operation::Allgather { len: m }, Algorithm::Ring, size, (p - 1, part, 0));
        check(Operation::Alltoall { len: m }, Algorithm::Bruck, size, (q, q * m * p / 2, 0));
        for window in [1, 3, 100] {
            let rounds = (p - 1).div_ceil(window);
            let by = Algorithm::Direct { window: window as u32 };
            check(Operation::Alltoall { len: m }, by, size, (rounds, part, 0));
        }
        check(Operation::Scatter { root, len: m }, Algorithm::Binomial, size, (q, part, 0));
        check(Operation::Scatter { root, len: m }, Algorithm::Direct { window: 1 }, size, (p - 1, part, 0));
        check(Operation::Gather { root, len: m }, Algorithm::Binomial, size, (q, part, 0));
        let scan = Operation::Scan { len: n, inclusive: true };
        check(scan, Algorithm::RecursiveDoubling, size, (q, q * n, q * n));
    }
}
