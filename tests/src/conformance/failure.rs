//! Failures: peers that die, sleep or come too late. Nobody hangs, everyone is told who and why, the others go on.

use std::time::{Duration, Instant};

use ironband_core::config::{Config, SingleCopy};
use ironband_fabric::{
    Access, AtomicOp, AtomicScope, AtomicWidth, CompletionStatus, Device, Fabric, Posted, ReadHint,
};

use super::agent::{Agent, Duo, from_hex};
use super::node::{Event, Node, Pair, wait_for};
use super::{Outcome, Setup, need, need_processes, slowness};

/// Within this time a peer's death is noticed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for the failure of the duo's queue pair, and checks that it was told properly.
#[track_caller]
fn assert_lost<F: Fabric>(duo: &mut Duo<F>, pid: u32) {
    let start = Instant::now();
    wait_for("the failure to be noticed", || {
        duo.node.turn();
        duo.node.is_disconnected(duo.qp).then_some(())
    });
    assert!(start.elapsed() < DEADLINE * slowness(), "noticed after {:?}", start.elapsed());
    let reason = duo.node.failure(duo.qp);
    assert!(
        reason.contains("rank 1") && reason.contains(&pid.to_string()),
        "{reason:?} does not name the peer"
    );
    for len_bytes in [8, 800] {
        assert_eq!(duo.node.send(duo.qp, 0, len_bytes), Posted::Failed, "posts fail from now on");
    }
    (0..10_000).for_each(|_| duo.node.turn());
    let told = duo.node.inbox.iter().filter(|event| matches!(event, Event::Disconnected { .. })).count();
    assert_eq!(told, 1, "told once");
    assert!(duo.node.device().is_idle(), "nothing is pending on a lost connection");
}

/// A peer is killed while requests wait for it.
pub fn killed_with_requests<F: Fabric>(setup: &Setup) -> Outcome {
    for setup in [setup.with_single_copy(SingleCopy::Ring), setup.clone()] {
        let mut duo = Duo::<F>::connected(&setup)?;
        let atomics = duo.node.capabilities().atomics != AtomicScope::None;
        let (_, remote) = duo.remote_buffer(400_000, 1);
        assert_eq!(duo.ask("stall"), "stalled");
        let sink = duo.node.buffer(400_000, 2, Access::LOCAL);
        let mut queued = Vec::new();
        for id in 0..30 {
            let posted = match id % 3 {
                0 => duo.node.read(duo.qp, id, (sink, 0), remote, 400_000, ReadHint::OwnerIsWaiting),
                1 if atomics => duo.node.atomic(duo.qp, id, remote, AtomicOp::Swap(1), AtomicWidth::Eight),
                _ => duo.node.write(duo.qp, id, (sink, 0), remote, 400_000, None),
            };
            assert_ne!(posted, Posted::Failed, "{}", duo.node.failure(duo.qp));
            if posted == Posted::Queued {
                queued.push(id);
            }
        }
        let pid = duo.agent.pid();
        duo.agent.kill();
        // A short message too, so that devices that notice only unanswered ones have something to notice.
        let _ = duo.node.send(duo.qp, 1, 8);
        assert_lost(&mut duo, pid);
        for id in queued {
            let status = duo.node.take_done(id);
            let ended = matches!(status, Some(CompletionStatus::Success | CompletionStatus::Flushed));
            assert!(ended, "request {id} ended with {status:?}");
        }
    }
    Ok(())
}

/// A peer is killed that has not read its messages.
pub fn killed_with_full_ring<F: Fabric>(setup: &Setup) -> Outcome {
    let mut duo = Duo::<F>::connected(setup)?;
    assert_eq!(duo.ask("stall"), "stalled");
    while duo.node.send(duo.qp, 0, 4000) == Posted::Complete {}
    let pid = duo.agent.pid();
    duo.agent.kill();
    assert_lost(&mut duo, pid);
    Ok(())
}

/// A peer is killed in the middle of long transfers that it takes part in; whatever it was doing, nobody waits for ever.
pub fn killed_while_copying<F: Fabric>(setup: &Setup) -> Outcome {
    const LEN: usize = 8 << 20;
    for round in 0..10_u64 {
        // Every other time the copies alone must lead to the discovery: the peer copies by itself for a moment, then it is
        // stopped, so that all that is left to wait for is the piece that it was at.
        let quiet = round % 2 == 1;
        let mut duo = Duo::<F>::connected(setup)?;
        let (_, remote) = duo.remote_buffer(LEN, 1);
        let sink = duo.node.buffer(LEN, 2, Access::LOCAL);
        let mut pending = Vec::new();
        for id in 0..12 {
            let posted = duo.node.read(duo.qp, id, (sink, 0), remote, LEN, ReadHint::OwnerIsWaiting);
            if posted == Posted::Queued {
                pending.push(id);
            }
            if !quiet {
                (0..round * 3).for_each(|_| duo.node.turn());
            }
        }
        let pid = duo.agent.pid();
        if quiet {
            std::thread::sleep(Duration::from_micros(100 * round));
            duo.agent.stop();
            let stopped = Instant::now();
            while stopped.elapsed() < Duration::from_millis(100) {
                duo.node.turn();
            }
        }
        duo.agent.kill();
        if !quiet {
            let _ = duo.node.send(duo.qp, 1, 8);
            assert_lost(&mut duo, pid);
        }
        for id in pending {
            let what = format!("round {round}: request {id} to end");
            wait_for(&what, || {
                if quiet {
                    duo.node.turn();
                }
                duo.node.take_done(id)
            });
        }
    }
    Ok(())
}

fn impatient(setup: &Setup) -> Setup {
    Setup { config: Config { connect_seconds: 1, ..setup.config.clone() }, ..setup.clone() }
}

/// A process that does not poll may be computing for hours: the user is told once, and nothing is given up.
pub fn never_polls<F: Fabric>(setup: &Setup) -> Outcome {
    let setup = impatient(setup);
    let mut node = Node::<F>::open(&setup, 0);
    need_processes(node.capabilities())?;
    let mut agent = Agent::start(&setup, 1);
    assert_eq!(agent.ask("stall"), "stalled");
    let address = from_hex(&agent.ask("address"));
    let qp = node.connect(&address);
    let start = Instant::now();
    let (mut sent, mut notices) = (0, Vec::new());
    while start.elapsed() < Duration::from_secs(4) {
        sent += u32::from(node.send(qp, 1, 8) == Posted::Complete);
        node.turn();
        notices.extend(node.device().take_notice().filter(|text| text.contains("connect_seconds")));
    }
    assert!(!node.is_disconnected(qp), "{}", node.failure(qp));
    assert!(notices.len() == 1 && notices[0].contains("rank 1"), "{notices:?}");
    assert_eq!(agent.ask("resume"), "resumed");
    wait_for("what was sent to arrive", || {
        node.turn();
        (agent.ask("count") == sent.to_string()).then_some(())
    });
    node.assert_connected();
    Ok(())
}

/// A process that ended before it was connected to.
pub fn ended_before_connect<F: Fabric>(setup: &Setup) -> Outcome {
    for polled_before in [false, true] {
        let mut duo = if polled_before { Duo::<F>::connected(setup)? } else { Duo::start(setup)? };
        let pid = duo.agent.pid();
        duo.agent.kill();
        wait_for("the failure", || {
            let posted = duo.node.send(duo.qp, 1, 8);
            duo.node.turn();
            (posted == Posted::Failed).then_some(())
        });
        assert_lost(&mut duo, pid);
    }
    Ok(())
}

/// One peer of three dies; the connections to the others carry on as if nothing had happened.
pub fn others_go_on<F: Fabric>(setup: &Setup) -> Outcome {
    let mut pair = Pair::<F>::connected(setup);
    need_processes(pair.a.capabilities())?;
    let mut agent = Agent::start(setup, 1);
    let address = from_hex(&agent.ask("address"));
    let lost = pair.a.connect(&address);
    let _ = pair.post(|pair| pair.a.send(lost, 0, 8));
    agent.kill();
    let mut imm = 0;
    wait_for("the loss, under traffic", || {
        pair.send_ab(imm, imm as usize % 2000);
        let event = pair.until("the message", |pair| pair.b.take_arrival());
        assert!(matches!(event, Event::Message { imm: got, .. } if got == imm));
        imm += 1;
        pair.a.is_disconnected(lost).then_some(())
    });
    pair.a.inbox.clear();
    pair.send_ab(7, 7);
    pair.until("a message afterwards", |pair| pair.b.take_arrival());
    pair.a.assert_connected();
    Ok(())
}

/// A peer wakes up after the asker has ended the connection: what was sent before arrives, and the asker's next connection
/// is not disturbed.
pub fn accepts_too_late<F: Fabric>(setup: &Setup) -> Outcome {
    let mut node = Node::<F>::open(setup, 0);
    need_processes(node.capabilities())?;
    need(node.capabilities().loopback, "the case needs loopback")?;
    need(node.capabilities().connects_alone, "connecting needs the peer to poll")?;
    let mut sleeper = Agent::start(setup, 1);
    assert_eq!(sleeper.ask("stall"), "stalled");
    let address = from_hex(&sleeper.ask("address"));
    let lost = node.connect(&address);
    wait_for("the message", || (node.send(lost, 1, 8) == Posted::Complete).then_some(()));
    node.device().destroy_qp(lost);
    // A new connection of the same size, then the sleeper wakes up.
    let own = node.address();
    let qp = node.connect(&own);
    let exchange = |node: &mut Node<F>, imm: u32| {
        wait_for("room", || {
            let posted = node.send(qp, imm, 500);
            node.turn();
            assert_ne!(posted, Posted::Failed, "{}", node.failure(qp));
            (posted == Posted::Complete).then_some(())
        });
        let event = wait_for("the message", || {
            node.turn();
            node.take_arrival()
        });
        assert!(matches!(event, Event::Message { imm: got, .. } if got == imm), "{event:?} is not {imm}");
    };
    exchange(&mut node, 0);
    assert_eq!(sleeper.ask("resume"), "resumed");
    for imm in 1..20_000 {
        exchange(&mut node, imm);
    }
    node.assert_connected();
    assert_eq!(sleeper.ask("count"), "1", "the sleeper received what was meant for somebody else");
    Ok(())
}
