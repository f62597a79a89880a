//! Requests with borrowed buffers, and accesses whose requests nobody waits for: none outlives its buffer, whatever the program does.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use ironband::{Buffer, Config, Context, Error, Pattern};
use ironband_fabric::sim::{Options, World};

const TAG: u64 = 7;
/// Longer than any eager message.
const LONG: usize = 1_000_000;

#[test]
fn all_requests_of_a_scope_have_ended_after_it() {
    let context = Context::open().unwrap();
    let (short, long) = ([3; 40], vec![4; LONG]);
    let (mut short_there, mut long_there, mut third_there) = ([0; 40], vec![0; LONG], vec![0; LONG]);
    let scoped = context.scope(|scope| {
        let first = scope.start_receive(Pattern::exact(0, TAG), &mut short_there)?;
        drop(scope.start_receive(Pattern::exact(0, TAG + 1), &mut long_there)?);
        drop(scope.start_receive(Pattern::exact(0, TAG + 2), &mut third_there)?);
        drop(scope.start_send(0, TAG + 1, &long)?);
        drop(scope.start_send(0, TAG + 2, &long)?);
        scope.start_send(0, TAG, &short)?.wait()?;
        let (there, received) = first.wait()?;
        assert_eq!((there.len(), received.len_bytes), (40, 40));
        Ok::<_, Error>(5)
    });
    assert_eq!(scoped.unwrap().unwrap(), 5);
    assert_eq!((short, long.clone(), long), (short_there, long_there, third_there));
}

#[test]
fn what_was_begun_last_has_ended_too() {
    let context = Context::open().unwrap();
    let (long, mut there) = (vec![4; LONG], vec![0; LONG]);
    let scoped = context.scope(|scope| {
        drop(scope.start_receive(Pattern::exact(0, TAG), &mut there)?);
        drop(scope.start_send(0, TAG, &long)?);
        Ok::<_, Error>(())
    });
    scoped.unwrap().unwrap();
    assert_eq!(long, there);
}

#[test]
fn a_failure_that_nobody_waits_for_is_told_by_the_scope() {
    let context = Context::open().unwrap();
    let mut buffer = [0; 4];
    let outcome = context.scope(|scope| {
        drop(scope.start_receive(Pattern::exact(0, TAG), &mut buffer).unwrap());
        scope.start_send(0, TAG, b"too long").unwrap().wait().unwrap();
    });
    assert!(matches!(outcome, Err(Error::Truncated { len_bytes: 8, capacity_bytes: 4, .. })), "{outcome:?}");
    assert!(matches!(
        context.scope(|scope| scope.start_send(1, TAG, b"").err()),
        Ok(Some(Error::NoSuchRank { rank: 1, size: 1 }))
    ));
}

/// The receive that was begun must not get the message that comes after its buffer has gone.
#[test]
fn a_panic_in_a_scope_ends_its_requests() {
    let context = Context::open().unwrap();
    let mut buffer = vec![0; LONG];
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        context.scope(|scope| {
            drop(scope.start_receive(Pattern::exact(0, TAG), &mut buffer).unwrap());
            panic!("as planned");
        })
    }));
    assert!(panicked.is_err());
    let request = context.endpoint(0).unwrap().start_send(TAG, vec![9_u8; LONG]).unwrap();
    assert!(!request.is_done(), "who has received it?");
    let mut other = vec![0_u8; LONG];
    context.receive(Pattern::exact(0, TAG), &mut other).unwrap();
    request.wait().unwrap();
    assert!(buffer.iter().all(|byte| *byte == 0) && other.iter().all(|byte| *byte == 9));
}

/// Requests that have ended and that nobody has waited for cost nobody anything when a scope panics.
#[test]
fn a_panic_in_a_scope_gives_nobody_up_whose_requests_have_ended() {
    let contexts = ironband::simulated(&World::new(Options::new(7)), 3, &Config::default()).unwrap();
    let [near, far, ends] =
        <[Context; 3]>::try_from(contexts).unwrap_or_else(|_| panic!("three were wanted"));
    // All are connected.
    for (number, other) in [(1, &far), (2, &ends)] {
        let there = near.endpoint(number).unwrap().start_send(TAG, vec![1_u8]).unwrap();
        let back = other.endpoint(0).unwrap().start_send(TAG, vec![1_u8]).unwrap();
        for _ in 0..1000 {
            near.progress();
            other.progress();
        }
        there.wait().unwrap();
        back.wait().unwrap();
        near.receive(Pattern::exact(number, TAG), &mut [0]).unwrap();
    }
    let (mut come, mut lost) = ([0; 8], [0; 8]);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        near.scope(|scope| {
            drop(scope.start_receive(Pattern::exact(1, TAG), &mut come).unwrap());
            drop(scope.start_receive(Pattern::exact(2, TAG), &mut lost).unwrap());
            far.endpoint(0).unwrap().start_send(TAG, vec![7_u8; 8]).unwrap().wait().unwrap();
            ends.part_with(0, "as planned").unwrap();
            for _ in 0..1000 {
                near.progress();
                far.progress();
                ends.progress();
            }
            panic!("as planned");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(come, [7; 8]);
    for number in [0, 1] {
        let sent = near.endpoint(number).unwrap().start_send(TAG, vec![1_u8]);
        sent.unwrap_or_else(|error| panic!("rank {number} is given up: {error}")).wait().unwrap();
    }
}

/// Over a simulated adapter, where no access has ended when its call returns.
#[test]
fn flush_waits_for_what_nobody_else_waits_for() {
    let contexts = ironband::simulated(&World::new(Options::new(7)), 2, &Config::default()).unwrap();
    let [near, far] = &contexts[..] else { panic!("two were wanted") };
    let exposed = far.expose(vec![0_u64; 1000]).unwrap();
    let memory = near.endpoint(1).unwrap().memory(&exposed.key()).unwrap();
    for _ in 0..1000 {
        near.progress();
        far.progress();
    }
    for at in 0..10 {
        drop(memory.start_put(800 * at, vec![at + 1; 100]).unwrap());
    }
    memory.flush().unwrap();
    for at in 0..1000 {
        assert_eq!(exposed.load(8 * at).unwrap(), at as u64 / 100 + 1, "word {at}");
    }
}

/// Tells when it is dropped.
struct Watched(Vec<u8>, Rc<Cell<u32>>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.set(self.1.get() + 1);
    }
}

// SAFETY: as the vector's.
unsafe impl Buffer for Watched {
    fn as_ptr(&self) -> *const u8 {
        Buffer::as_ptr(&self.0)
    }

    fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }
}

#[test]
fn buffers_of_accesses_are_dropped_once_they_have_ended() {
    let context = Context::open().unwrap();
    let exposed = context.expose(vec![0_u8; 10 * LONG]).unwrap();
    let memory = context.endpoint(0).unwrap().memory(&exposed.key()).unwrap();
    let drops = Rc::new(Cell::new(0));
    for at in 0..10 {
        let buffer = Watched(vec![at + 1; LONG], Rc::clone(&drops));
        let request = memory.start_put(u64::from(at) * LONG as u64, buffer).unwrap();
        match at {
            0 => drop(request.wait().unwrap()),
            1 => std::mem::forget(request),
            _ => drop(request),
        }
    }
    memory.flush().unwrap();
    let all = memory.start_get(0, vec![0_u8; 10 * LONG]).unwrap().wait().unwrap();
    assert!(all.chunks(LONG).zip(1..).all(|(part, value)| part.iter().all(|byte| *byte == value)));
    context.progress();
    assert_eq!(drops.get(), 9, "all but the forgotten one");
    assert!(memory.start_put(10 * LONG as u64, Watched(vec![0], Rc::clone(&drops))).is_err());
    assert_eq!(drops.get(), 10, "one that was not begun");
    assert!(memory.start_put(0, Watched(Vec::new(), Rc::clone(&drops))).unwrap().is_done());
    assert_eq!(drops.get(), 11, "an empty one");
}
