//! With [`Threads::Single`], a short send, its receipt and an empty poll execute no locked instruction and make no system
//! call. It is counted, not argued: a child process is single-stepped, and each instruction is looked at.
//!
//! In a debug build the promise behind `Threads::Single` is itself checked with an atomic exchange, so the count is only
//! made in release builds (`cargo test --release -p ironband --test no_locks`).
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use ironband::{Config, Device, Handler, Job, Payload, Posted, QueuePair, Threads};
use ironband_fabric::shm::Shm;

struct Ignore;

impl Handler for Ignore {
    fn received(&self, _from: QueuePair, _imm: u32, _payload: Payload) {}
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Executed {
    instructions: u64,
    locked: u64,
    system_calls: u64,
}

/// Says whether these bytes begin a locked instruction: a LOCK prefix, or XCHG with memory, which locks by itself (Intel
/// SDM volume 2).
fn is_locked(bytes: [u8; 8]) -> bool {
    let mut rest = &bytes[..];
    while let [0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf2 | 0xf3, after @ ..] = rest {
        rest = after;
    }
    if rest.first() == Some(&0xf0) {
        return true;
    }
    if let [0x40..=0x4f, after @ ..] = rest {
        rest = after;
    }
    matches!(rest, [0x86 | 0x87, modrm, ..] if modrm >> 6 != 3)
}

/// Runs `work` in a child process, one instruction after another. `None`: tracing is not permitted here.
fn execute(work: impl FnOnce()) -> Option<Executed> {
    // SAFETY: the child runs `work`, which takes no lock and allocates nothing, and leaves by `_exit`: no state of another
    // thread of this process is touched.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        // SAFETY: system calls without pointers to anything.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                libc::_exit(9);
            }
            libc::kill(libc::getpid(), libc::SIGSTOP);
        }
        work();
        // SAFETY: as above.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGSTOP);
            libc::_exit(0);
        }
    }
    let wait = || {
        let mut status = 0;
        // SAFETY: `status` is writable; the child is ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    };
    let status = wait();
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 9 {
        return None;
    }
    let mut executed = Executed::default();
    loop {
        // SAFETY: requests on a stopped child of ours; results are copied into `registers`, which is writable.
        let bytes = unsafe {
            let mut registers = std::mem::zeroed::<libc::user_regs_struct>();
            libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers);
            libc::ptrace(libc::PTRACE_PEEKTEXT, child, registers.rip, 0).to_le_bytes()
        };
        executed.instructions += 1;
        executed.locked += u64::from(is_locked(bytes));
        executed.system_calls += u64::from(bytes[..2] == [0x0f, 0x05]);
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0) };
        let status = wait();
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) != libc::SIGTRAP {
            assert!(
                libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP,
                "status {status:#x}"
            );
            break;
        }
    }
    // SAFETY: ends and collects our own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    wait();
    Some(executed)
}

/// What one repetition of an operation executes: the difference between 70 and 20 of them, in each part. Start and end of
/// the count drop out.
fn per_fifty(threads: Threads, operation: fn(&Device<Shm>, QueuePair)) -> Option<Executed> {
    let run = |count: u32| {
        let job = Job { local_ranks: 1, rank: 0 };
        let device = Device::<Shm>::open("memfd", &Config::default(), &job, threads);
        let device = device.unwrap_or_else(|error| panic!("{error}"));
        let peer = device.connect(device.address()).expect("reachable");
        let _ = device.send_short(peer, 0, b"", b"first");
        for _ in 0..20_000 {
            device.progress(&Ignore);
        }
        execute(|| (0..count).for_each(|_| operation(&device, peer)))
    };
    let (few, many) = (run(20)?, run(70)?);
    Some(Executed {
        instructions: many.instructions - few.instructions,
        locked: many.locked - few.locked,
        system_calls: many.system_calls - few.system_calls,
    })
}

fn send(device: &Device<Shm>, peer: QueuePair) {
    assert!(device.send_short(peer, 0, b"", b"8 bytes.") == Posted::Complete);
}

fn send_and_receive(device: &Device<Shm>, peer: QueuePair) {
    send(device, peer);
    device.progress(&Ignore);
}

fn poll(device: &Device<Shm>, _peer: QueuePair) {
    device.progress(&Ignore);
}

#[test]
fn the_single_threaded_path_takes_no_lock() {
    if cfg!(debug_assertions) {
        println!("skipped: no_locks: a debug build checks the promise of Threads::Single with an exchange");
        return;
    }
    type Operation = fn(&Device<Shm>, QueuePair);
    let operations: [(&str, Operation); 3] =
        [("send", send), ("send and receive", send_and_receive), ("empty poll", poll)];
    for (name, operation) in operations {
        let Some(executed) = per_fifty(Threads::Single, operation) else {
            println!("skipped: no_locks: ptrace is not permitted here");
            return;
        };
        println!("{name}: {} instructions", executed.instructions / 50);
        assert!(executed.instructions >= 50 * 10, "{name}: {executed:?}");
        assert_eq!((executed.locked, executed.system_calls), (0, 0), "{name}: {executed:?}");
        // That it can be seen at all: with threads there is at least one.
        let locked = per_fifty(Threads::Multiple, operation).map_or(0, |executed| executed.locked);
        assert!(locked >= 50, "{name}: {locked} locked instructions in 50 with MPI_THREAD_MULTIPLE");
    }
}

#[test]
fn locked_instructions_are_told_from_others() {
    let begins = |start: &[u8]| {
        let mut bytes = [0x90; 8];
        bytes[..start.len()].copy_from_slice(start);
        is_locked(bytes)
    };
    assert!(begins(&[0xf0, 0x48, 0x0f, 0xb1, 0x0f]), "lock cmpxchg [rdi], rcx");
    assert!(begins(&[0x87, 0x07]) && begins(&[0x86, 0x07]) && begins(&[0x48, 0x87, 0x07]), "xchg [rdi], eax");
    assert!(!begins(&[0x87, 0xc8]), "xchg eax, ecx");
    assert!(!begins(&[0x48, 0x89, 0x07]), "mov [rdi], rax");
}
