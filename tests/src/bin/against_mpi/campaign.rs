//! Which operations are compared: each with each element, operator, root and length in turn, and some by chance.

use ironband_collectives::Table;
use ironband_collectives::operator::{
    BitAnd, BitOr, BitXor, InOrder, LocatedF32, LocatedI32, LogicalAnd, LogicalOr, LogicalXor, Max, MaxLoc,
    Min, MinLoc, Product, Sum,
};
use ironband_tests::Random;
use ironband_tests::deeds::{Matrix, What};

use crate::mpi::Op;
use crate::trial::{Both, Trial};

/// Something that all ranks do, and compare.
type Act = fn(&Trial, &Both<'_, '_>) -> Result<(), String>;

/// An element with an operator, and how long the element is.
struct Combination {
    act: Act,
    element_bytes: u64,
}

/// Each of the elements with each of the operators.
macro_rules! combinations {
    ($($element:ty: $($operator:ident)*;)*) => {
        vec![ $( $( Combination {
            act: |trial, both| trial.combine::<$element, _>(both, $operator, Op::$operator),
            element_bytes: size_of::<$element>() as u64,
        }, )* )* ]
    };
}

/// All elements, where nothing is combined.
const TRANSFERS: [(Act, u64); 9] = [
    (|trial, both| trial.transfer::<u8>(both), 1),
    (|trial, both| trial.transfer::<i32>(both), 4),
    (|trial, both| trial.transfer::<i64>(both), 8),
    (|trial, both| trial.transfer::<u64>(both), 8),
    (|trial, both| trial.transfer::<f32>(both), 4),
    (|trial, both| trial.transfer::<f64>(both), 8),
    (|trial, both| trial.transfer::<LocatedF32>(both), 8),
    (|trial, both| trial.transfer::<LocatedI32>(both), 8),
    (|trial, both| trial.transfer::<Matrix>(both), 16),
];

fn combinations() -> Vec<Combination> {
    let mut all = combinations! {
        u8: Sum Product Min Max BitAnd BitOr BitXor LogicalAnd LogicalOr LogicalXor;
        i32: Sum Product Min Max BitAnd BitOr BitXor LogicalAnd LogicalOr LogicalXor;
        i64: Sum Product Min Max BitAnd BitOr BitXor LogicalAnd LogicalOr LogicalXor;
        u64: Sum Product Min Max BitAnd BitOr BitXor LogicalAnd LogicalOr LogicalXor;
        f32: Sum Product Min Max;
        f64: Sum Product Min Max;
        LocatedF32: MinLoc MaxLoc;
        LocatedI32: MinLoc MaxLoc;
    };
    all.push(Combination {
        act: |trial, both| trial.combine::<Matrix, _>(both, InOrder(Matrix::times), Op::Times),
        element_bytes: size_of::<Matrix>() as u64,
    });
    all
}

/// What can be done for an operation: each element, with each operator if there is one.
fn acts(what: What) -> Vec<(Act, u64)> {
    if what.combines() {
        combinations().into_iter().map(|one| (one.act, one.element_bytes)).collect()
    } else if what == What::Barrier {
        TRANSFERS[..1].to_vec()
    } else {
        TRANSFERS.to_vec()
    }
}

/// More ranks than these are many.
pub(crate) const MANY: u32 = 4;

/// No vector of one rank is longer.
const VECTOR_BYTES_MAX: u64 = 128 << 10;

/// A table whose algorithms for long vectors are taken from some KiB on, so that all of them are.
pub(crate) fn low_table() -> Table {
    Table {
        bcast_tree_max: 512,
        bcast_node_ranks: 3,
        bcast_pipeline_min: 8 << 10,
        reduce_tree_max: 512,
        allreduce_whole_max: 256,
        allreduce_ring_min: 8 << 10,
        reduce_scatter_halving_max: 2 << 10,
        allgather_doubling_max: 2 << 10,
        alltoall_bruck_ranks: 2,
        gather_tree_max: 128,
        scan_chain_min: 1 << 10,
        segment: 1 << 10,
        window: 2,
        ..Table::default()
    }
}

/// Lengths in elements: 0, 1, around the number of ranks, and around each switch point, taken as the bytes of a vector and of all blocks.
fn lens(table: &Table, size: u32, element_bytes: u64) -> Vec<u64> {
    let p = u64::from(size);
    let points = [
        table.bcast_tree_max,
        table.bcast_pipeline_min,
        table.reduce_tree_max,
        table.allreduce_whole_max,
        table.allreduce_ring_min,
        table.reduce_scatter_halving_max,
        table.allgather_doubling_max,
        table.alltoall_bruck_max,
        table.gather_tree_max,
        table.scan_chain_min,
        table.segment,
    ];
    let around = |len: u64| [len.saturating_sub(1), len, len + 1];
    let of_point = |bytes: u64| [around(bytes / element_bytes), around(bytes / element_bytes / p)].concat();
    let mut lens: Vec<u64> = points.into_iter().flat_map(of_point).chain([0, 1, p - 1, p, p + 1]).collect();
    lens.retain(|len| len * element_bytes <= VECTOR_BYTES_MAX);
    lens.sort_unstable();
    lens.dedup();
    lens
}

/// Each operation with each element and operator, from each root; and with each of them at some of the lengths, so that each length is met with several. Gives how
/// many that were.
pub(crate) fn do_each(both: &Both<'_, '_>, table: &Table) -> Result<u64, String> {
    let size = both.ironband.size();
    let mut number = 0;
    let mut run = |act: Act, what, len, root| {
        number += 1;
        act(&Trial { what, len, root, size, salt: number, op: None }, both)
    };
    for what in What::ALL {
        let roots = if what.has_root() { size } else { 1 };
        // The more elements and operators there are, the fewer lengths with each; and many ranks take long where there are few processors.
        let share = if what.combines() { 8 } else { 2 } * if size > MANY { 4 } else { 1 };
        for (turn, (act, element_bytes)) in acts(what).into_iter().enumerate() {
            for root in 0..roots {
                run(act, what, u64::from(size) + 2, root)?;
            }
            for (at, len) in
                lens(table, size, element_bytes).into_iter().enumerate().skip(turn % share).step_by(share)
            {
                let root = (at + turn) as u32 % roots;
                run(act, what, bounded(what, len, size, element_bytes), root)?;
            }
        }
    }
    Ok(number)
}

/// Where a rank has a block for each rank, all blocks together are bounded.
fn bounded(what: What, len: u64, size: u32, element_bytes: u64) -> u64 {
    let is_vector = matches!(what, What::Bcast | What::Reduce | What::Allreduce | What::Scan | What::Exscan);
    let bytes_max = if is_vector { VECTOR_BYTES_MAX } else { 4 * VECTOR_BYTES_MAX };
    let blocks = if is_vector { 1 } else { u64::from(size) };
    len.min(bytes_max / blocks / element_bytes)
}

/// One that follows from chance.
pub(crate) fn do_one(random: &mut Random, both: &Both<'_, '_>) -> Result<(), String> {
    let size = both.ironband.size();
    let what = What::ALL[random.below(What::ALL.len())];
    let acts = acts(what);
    let (act, element_bytes) = acts[random.below(acts.len())];
    let bytes = 1 << random.below(17);
    let len = bounded(what, random.below(bytes) as u64 / element_bytes, size, element_bytes);
    let root = random.below(size as usize) as u32;
    act(&Trial { what, len, root, size, salt: random.below(1 << 30) as u64, op: None }, both)
}
