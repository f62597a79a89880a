//! Handlers of active messages, and what they must not break: one process that talks to itself.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use ironband::{CompletionStatus, Context, Error, Pattern};

/// The tests share a process: each opens a context of its own, alone.
fn context() -> Context {
    Context::open().expect("one process alone")
}

fn until(context: &Context, is_done: impl Fn() -> bool) {
    for _ in 0..1_000_000 {
        if is_done() {
            return;
        }
        context.progress();
    }
    panic!("it does not happen");
}

#[test]
fn what_comes_before_its_handler_is_handled_then_in_order() {
    let context = context();
    let own = context.endpoint(0).unwrap();
    for number in 0..5_u8 {
        own.send_active(3, &[number]).unwrap();
    }
    (0..1000).for_each(|_| {
        context.progress();
    });
    let heard = Rc::new(RefCell::new(Vec::new()));
    let ears = Rc::clone(&heard);
    context.on_active(3, move |_, source, data| ears.borrow_mut().push((source, data[0])));
    own.send_active(3, &[5]).unwrap();
    until(&context, || heard.borrow().len() == 6);
    assert_eq!(*heard.borrow(), (0..6).map(|number| (0, number)).collect::<Vec<_>>());
}

/// A handler sends, starts and drops requests, and none is called inside another.
#[test]
fn handlers_use_the_context() {
    let context = context();
    let (calls, depth) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (counted, nested) = (Rc::clone(&calls), Rc::clone(&depth));
    context.on_active(1, move |context, source, data| {
        assert_eq!(nested.replace(nested.get() + 1), 0, "called inside a handler");
        counted.set(counted.get() + 1);
        if data[0] > 0 {
            let peer = context.endpoint(source).unwrap();
            peer.send_active(1, &[data[0] - 1]).unwrap();
            drop(context.start_receive(Pattern::exact(source, 99), vec![0_u8; 10]).unwrap());
            drop(peer.start_send(5, vec![7_u8; 20_000]).unwrap());
            context.progress();
        }
        nested.set(nested.get() - 1);
    });
    context.endpoint(0).unwrap().send_active(1, &[20]).unwrap();
    until(&context, || calls.get() == 21);
    // What was dropped was sent all the same.
    let mut bytes = vec![0; 20_000];
    for _ in 0..20 {
        assert_eq!(context.receive(Pattern::exact(0, 5), &mut bytes).unwrap().len_bytes, 20_000);
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
    assert!(context.probe(Pattern::anything()).is_none());
}

/// A panic while a request is waited for: the message is whole all the same, and its buffer not freed before.
#[test]
fn a_handler_panics_while_a_request_is_waited_for() {
    let context = context();
    context.on_active(1, |_, _, _| panic!("on purpose"));
    let own = context.endpoint(0).unwrap();
    let message: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
    let request = own.start_send(4, message.clone()).unwrap();
    own.send_active(1, b"").unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| request.wait())).is_err(), "the handler panics in there");
    // Memory that was freed would be used again by this.
    let others: Vec<Vec<u8>> = (0..16).map(|_| vec![0xee; 100_000]).collect();
    let mut bytes = vec![0; 100_000];
    context.receive(Pattern::exact(0, 4), &mut bytes).unwrap();
    assert!(bytes == message);
    drop(others);
    own.send(6, b"it goes on").unwrap();
    assert_eq!(context.receive(Pattern::exact(0, 6), &mut bytes).unwrap().len_bytes, 10);
}

#[test]
fn numbers_of_our_own_are_refused() {
    let context = context();
    let own = context.endpoint(0).unwrap();
    assert_eq!(
        own.send_active(ironband::ACTIVE_IDS_OWN, b""),
        Err(Error::ActiveId { id: ironband::ACTIVE_IDS_OWN })
    );
}

/// Memory that is not exposed any more, reached by a key that is still there.
#[test]
fn a_late_access_of_the_own_memory_is_refused() {
    let context = context();
    let exposed = context.expose(vec![0_u8; 64]).unwrap();
    let memory = context.endpoint(0).unwrap().memory(&exposed.key()).unwrap();
    memory.put(8, &[1; 8]).unwrap();
    assert_eq!(exposed.load(8).unwrap(), u64::from_le_bytes([1; 8]));
    drop(exposed);
    let refused = |outcome: Result<(), Error>| {
        matches!(outcome, Err(Error::Access { rank: 0, status: CompletionStatus::RemoteAccess }))
    };
    assert!(refused(memory.put(8, &[2; 8])));
    assert!(refused(memory.get(8, &mut [0; 8])));
    assert!(refused(memory.fetch_add(8, 1).map(|_| ())));
}
