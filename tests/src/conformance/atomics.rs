//! Atomics: every operation and width against an oracle, refusals, contention between processes.

use std::sync::atomic::Ordering;

use ironband_fabric::{
    Access, AtomicOp, AtomicScope, AtomicWidth, CompletionStatus, Fabric, Posted, QueuePairNumber,
    RemoteAddress,
};

use super::agent::{Agent, from_hex, to_hex};
use super::node::{Node, Pair, wait_for};
use super::{Outcome, Setup, need, need_processes};

const NONE: &str = "the device has no atomics";

const VALUES: [u64; 8] =
    [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX, 0x0123_4567_89ab_cdef];

fn operations(operand: u64, compare: u64) -> [AtomicOp; 8] {
    [
        AtomicOp::FetchAdd(operand),
        AtomicOp::FetchAnd(operand),
        AtomicOp::FetchOr(operand),
        AtomicOp::FetchXor(operand),
        AtomicOp::FetchMin(operand),
        AtomicOp::FetchMax(operand),
        AtomicOp::Swap(operand),
        AtomicOp::CompareSwap { compare, swap: operand },
    ]
}

/// What the memory holds afterwards, computed in 128 bits and cut to the width.
fn oracle(op: AtomicOp, width: AtomicWidth, old: u64) -> u64 {
    let bits = 8 * width.bytes() as u32;
    let cut = |value: u64| if bits == 64 { value } else { value & ((1 << bits) - 1) };
    let signed =
        |value: u64| i128::from(cut(value)) - if cut(value) >> (bits - 1) == 1 { 1 << bits } else { 0 };
    let pick = |operand: u64, keep_operand: bool| if keep_operand { operand } else { old };
    cut(match op {
        AtomicOp::FetchAdd(operand) => (u128::from(old) + u128::from(operand)) as u64,
        AtomicOp::FetchAnd(operand) => old & operand,
        AtomicOp::FetchOr(operand) => old | operand,
        AtomicOp::FetchXor(operand) => old ^ operand,
        AtomicOp::FetchMin(operand) => pick(operand, signed(operand) < signed(old)),
        AtomicOp::FetchMax(operand) => pick(operand, signed(operand) > signed(old)),
        AtomicOp::Swap(operand) => operand,
        AtomicOp::CompareSwap { compare, swap } => pick(swap, cut(compare) == cut(old)),
    })
}

/// Every operation, both widths, on the values where sign and width matter. The neighbours are not touched.
pub fn every_operation<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need(pair.a.capabilities().atomics != AtomicScope::None, NONE)?;
    let target = pair.b.buffer(32, 0, Access::ALL);
    for width in [AtomicWidth::Four, AtomicWidth::Eight] {
        for offset in [8, 16 + 8 - width.bytes()] {
            for old in VALUES {
                for operand in VALUES {
                    for op in operations(operand, if operand == 1 { old } else { operand }) {
                        check(&mut pair, target, offset, (op, width), old);
                    }
                }
            }
        }
    }
    Ok(())
}

fn check<F: Fabric>(
    pair: &mut Pair<F>,
    target: usize,
    offset: usize,
    (op, width): (AtomicOp, AtomicWidth),
    old: u64,
) {
    let mut memory = [0xaa_u8; 32];
    memory[offset..offset + width.bytes()].copy_from_slice(&old.to_le_bytes()[..width.bytes()]);
    pair.b.pages(target).store(0, &memory);
    let remote = pair.b.remote(target, offset);
    let status = pair.finish(1, |pair| pair.a.atomic(pair.ab, 1, remote, op, width));
    assert_eq!(status, CompletionStatus::Success);
    let cut = if width == AtomicWidth::Four { old & 0xffff_ffff } else { old };
    assert_eq!(pair.a.result(1, width), cut, "{op:?} {width:?} on {old:#x} returns the old value");
    let after = oracle(op, width, cut).to_le_bytes();
    memory[offset..offset + width.bytes()].copy_from_slice(&after[..width.bytes()]);
    assert_eq!(pair.b.pages(target).load(0, 32), memory, "{op:?} {width:?} on {old:#x}");
}

/// Misaligned operands are refused, and nothing changes.
pub fn misaligned<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need(pair.a.capabilities().atomics != AtomicScope::None, NONE)?;
    let target = pair.b.buffer(64, 3, Access::ALL);
    let before = pair.b.pages(target).load(0, 64);
    for width in [AtomicWidth::Four, AtomicWidth::Eight] {
        for offset in (1..16).filter(|offset| offset % width.bytes() != 0) {
            let remote = pair.b.remote(target, offset);
            let status =
                pair.finish(1, |pair| pair.a.atomic(pair.ab, 1, remote, AtomicOp::FetchAdd(1), width));
            assert_eq!(status, CompletionStatus::RemoteAccess, "{width:?} at offset {offset}");
        }
    }
    assert_eq!(pair.b.pages(target).load(0, 64), before);
    Ok(())
}

/// A wrong key, a range that leaves the region, or an access that was not granted.
pub fn refused<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need(pair.a.capabilities().atomics != AtomicScope::None, NONE)?;
    need(pair.a.capabilities().survives_refusal, "a refused request ends the connection")?;
    let target = pair.b.buffer(64, 3, Access::ALL);
    let plain = pair.b.buffer(64, 3, Access { remote_atomic: false, ..Access::ALL });
    let before = pair.b.pages(target).load(0, 64);
    let good = pair.b.remote(target, 0);
    let cases = [
        RemoteAddress { key: good.key + 0x1000, ..good },
        RemoteAddress { address: good.address + 64, ..good },
        RemoteAddress { address: good.address - 8, ..good },
        RemoteAddress { address: u64::MAX - 7, ..good },
        RemoteAddress { address: 0, ..good },
        pair.b.remote(plain, 0),
    ];
    for remote in cases {
        let status =
            pair.finish(1, |pair| pair.a.atomic(pair.ab, 1, remote, AtomicOp::Swap(0), AtomicWidth::Eight));
        assert_eq!(status, CompletionStatus::RemoteAccess, "{remote:?}, the region is {good:?}");
    }
    assert_eq!(pair.b.pages(target).load(0, 64), before);
    assert_eq!(pair.b.pages(plain).load(0, 64), before);
    Ok(())
}

/// Several processes add to one word at the same time, and so does its owner: with its processor if the device says that
/// they do not disturb each other, else through the device.
pub fn contention<F: Fabric>(setup: &Setup) -> Outcome {
    const AGENTS: u64 = 3;
    const EACH: u64 = 3000;
    /// At least: the owner adds as long as the others do.
    const OWN: u64 = 500;
    let mut node = Node::<F>::open(setup, 0);
    need(node.capabilities().atomics != AtomicScope::None, NONE)?;
    need_processes(node.capabilities())?;
    let global = node.capabilities().atomics == AtomicScope::Global;
    let own_address = node.address();
    let to_self = node.capabilities().loopback.then(|| node.connect(&own_address));
    for width in [4, 8_u64] {
        let target = node.buffer(16, 0, Access::ALL);
        node.pages(target).store(0, &[0; 16]);
        let remote = node.remote(target, 0);
        let mut agents: Vec<Agent> = (1..=AGENTS).map(|rank| Agent::start(setup, rank as u32)).collect();
        for agent in &mut agents {
            let address = from_hex(&agent.ask("address"));
            node.connect(&address);
            let qp = agent.ask(&format!("connect {}", to_hex(&node.address())));
            agent.tell(&format!("add {qp} {} {} {EACH} {width}", remote.address, remote.key));
        }
        let (mut own, mut ended, mut waiting) = (0, 0, false);
        wait_for("all additions", || {
            node.turn();
            let goes_on = own < OWN || ended < AGENTS;
            if global && goes_on {
                node.pages(target).word(0).fetch_add(1, Ordering::SeqCst);
                own += 1;
            } else if let Some(to_self) = to_self.filter(|_| goes_on || waiting) {
                own += u64::from(add_to_self(&mut node, to_self, own, remote, width, &mut waiting));
            }
            for agent in &mut agents {
                if let Some(answer) = agent.answer() {
                    assert_eq!(answer, "added");
                    ended += 1;
                }
            }
            let enough = own >= OWN && !waiting || !global && to_self.is_none();
            (ended == AGENTS && enough).then_some(())
        });
        assert_eq!(node.pages(target).load_word(0), AGENTS * EACH + own);
    }
    Ok(())
}

/// One step of adding 1 through the device; true when it is done. `waiting` is kept for the next step.
fn add_to_self<F: Fabric>(
    node: &mut Node<F>,
    to_self: QueuePairNumber,
    id: u64,
    remote: RemoteAddress,
    width: u64,
    waiting: &mut bool,
) -> bool {
    if *waiting {
        let done = node.take_done(id).is_some();
        *waiting = !done;
        return done;
    }
    let width = if width == 4 { AtomicWidth::Four } else { AtomicWidth::Eight };
    let posted = node.atomic(to_self, id, remote, AtomicOp::FetchAdd(1), width);
    *waiting = posted == Posted::Queued;
    posted == Posted::Complete
}

/// Atomics within one process.
pub fn loopback_atomics<F: Fabric>(setup: &Setup) -> Outcome {
    let mut node = Node::<F>::open(setup, 0);
    need(node.capabilities().atomics != AtomicScope::None, NONE)?;
    need(node.capabilities().loopback, "the device has no loopback")?;
    let address = node.address();
    let qp = node.connect(&address);
    let target = node.buffer(16, 0, Access::ALL);
    node.pages(target).store(0, &[0; 16]);
    for id in 0..100 {
        let remote = node.remote(target, 0);
        let posted = wait_for("room", || {
            let posted = node.atomic(qp, id, remote, AtomicOp::FetchAdd(1), AtomicWidth::Eight);
            node.turn();
            (posted != Posted::Busy).then_some(posted)
        });
        if posted == Posted::Queued {
            wait_for("the atomic", || {
                node.turn();
                node.take_done(id)
            });
        }
        assert_eq!(node.result(id, AtomicWidth::Eight), id);
    }
    Ok(())
}
