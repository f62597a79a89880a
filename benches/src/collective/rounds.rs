//! The timed rounds: before each all ranks meet in a barrier, as in OSU's. Where two implementations are measured they take turns, because
//! a machine's speed drifts by more than they differ.

use std::ops::Range;

use super::{
    operation::Form,
    overlap::{Work, stretches},
};
use crate::{options::Common, pattern::Mismatch, plan::Rounds, point_to_point::now};

/// Turns of each implementation when there are two.
const TURNS: u64 = 10;

/// One operation of one implementation, with its buffers.
pub(super) trait Operate {
    /// Makes the buffers ready for a round.
    fn prepare(&mut self, round: u64);

    /// The first wrong byte after a round.
    fn mismatch(&self, round: u64) -> Option<Mismatch>;

    /// The blocking call.
    fn call(&mut self);

    /// Begins it: the non-blocking call, or the start of a persistent operation.
    fn begin(&mut self);

    /// Asks whether what was begun has ended, which makes progress: `MPI_Test`.
    fn test(&mut self);

    /// Waits for what was begun: `MPI_Wait`.
    fn wait(&mut self);

    /// Waits for all ranks, by the same implementation.
    fn barrier(&mut self);
}

/// What is done to the buffers between rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// Inputs are written.
    prepare: bool,
    /// Outputs are checked.
    validate: bool,
}

impl Stage {
    pub(super) fn of(common: &Common) -> Self {
        Self { prepare: common.staged(), validate: common.validate }
    }
}

/// What the clock showed in one round or in many, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    overall: f64,
    begin: f64,
    /// With the tests in between.
    compute: f64,
    test: f64,
    wait: f64,
}

impl std::ops::AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.overall += other.overall;
        self.begin += other.begin;
        self.compute += other.compute;
        self.test += other.test;
        self.wait += other.wait;
    }
}

/// What one rank has measured of one implementation: averages over the rounds, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Averages {
    /// Of an operation by itself.
    pub(super) latency: f64,
    /// Of an operation with computing meanwhile, like all that follow; 0 unless it is non-blocking.
    pub(super) overall: f64,
    /// Computing without the tests.
    pub(super) compute: f64,
    /// The call that begins it.
    pub(super) begin: f64,
    /// The tests.
    pub(super) test: f64,
    /// The wait.
    pub(super) wait: f64,
}

impl Averages {
    /// How many numbers these are.
    pub(super) const COUNT: usize = 6;

    pub(super) const fn as_array(&self) -> [f64; Self::COUNT] {
        let Self { latency, overall, compute, begin, test, wait } = *self;
        [latency, overall, compute, begin, test, wait]
    }

    pub(super) const fn of_array([latency, overall, compute, begin, test, wait]: [f64; Self::COUNT]) -> Self {
        Self { latency, overall, compute, begin, test, wait }
    }
}

/// One implementation of what is measured.
pub(super) struct Contender<'o> {
    /// One for each root, which are taken in turn.
    operations: Vec<Box<dyn Operate + 'o>>,
    stage: Stage,
    mismatch: Option<Mismatch>,
}

/// Computing in the middle of a round.
struct Computing<'w> {
    work: &'w mut Work,
    steps: u64,
    tests: u64,
}

impl<'o> Contender<'o> {
    pub(super) fn new(operations: Vec<Box<dyn Operate + 'o>>, stage: Stage) -> Self {
        Self { operations, stage, mismatch: None }
    }

    /// The first wrong byte of all rounds.
    pub(super) fn mismatch(&self) -> Option<Mismatch> {
        self.mismatch
    }

    fn round(&mut self, form: Form, number: u64, computing: Option<&mut Computing<'_>>) -> Times {
        let turn = (number % self.operations.len() as u64) as usize;
        let operation = &mut *self.operations[turn];
        if self.stage.prepare {
            operation.prepare(number);
        }
        operation.barrier();
        let times = match (form, computing) {
            (Form::Blocking, _) => {
                let start = now();
                operation.call();
                Times { overall: now() - start, ..Times::default() }
            }
            (_, None) => {
                let start = now();
                operation.begin();
                operation.wait();
                Times { overall: now() - start, ..Times::default() }
            }
            (_, Some(computing)) => overlapped(operation, computing),
        };
        if self.stage.validate && self.mismatch.is_none() {
            self.mismatch = operation.mismatch(number);
        }
        times
    }
}

fn overlapped(operation: &mut dyn Operate, computing: &mut Computing<'_>) -> Times {
    let Computing { work, steps, tests } = computing;
    let start = now();
    operation.begin();
    let begun = now();
    let mut test = 0.0;
    for stretch in stretches(*steps, *tests) {
        work.compute(stretch);
        if *tests > 0 {
            let before = now();
            operation.test();
            test += now() - before;
        }
    }
    let computed = now();
    operation.wait();
    let end = now();
    Times {
        overall: end - start,
        begin: begun - start,
        compute: computed - begun,
        test,
        wait: end - computed,
    }
}

/// Who runs which of the measured rounds: in turns, and who was first is last the next time.
fn turns(contenders: usize, iterations: u64) -> Vec<(usize, Range<u64>)> {
    let count = if contenders > 1 { TURNS.min(iterations) } else { 1 };
    let bound = |turn: u64| iterations * turn / count;
    let of_turn = |turn: u64| {
        (0..contenders).map(move |place| ((place + turn as usize) % contenders, bound(turn)..bound(turn + 1)))
    };
    (0..count).flat_map(of_turn).collect()
}

/// Warm-up and measured rounds of all contenders: the times of all measured ones, by contender.
fn run(
    contenders: &mut [Contender<'_>],
    rounds: Rounds,
    meet: &dyn Fn(),
    mut round: impl FnMut(usize, &mut Contender<'_>, u64) -> Times,
) -> Vec<Times> {
    for (at, contender) in contenders.iter_mut().enumerate() {
        meet();
        for number in 0..rounds.warmup {
            round(at, contender, number);
        }
    }
    let mut all = vec![Times::default(); contenders.len()];
    for (at, numbers) in turns(contenders.len(), rounds.iterations) {
        meet();
        for number in numbers {
            all[at] += round(at, &mut contenders[at], rounds.warmup + number);
        }
    }
    meet();
    all
}

/// Measures all contenders, by the operation alone and, if it is non-blocking, again with computing for as long as that took. `meet` is called
/// before each turn and behind the last one.
pub(super) fn measure(
    contenders: &mut [Contender<'_>],
    form: Form,
    rounds: Rounds,
    tests: u64,
    meet: &dyn Fn(),
) -> Vec<Averages> {
    let mean = |seconds: f64| seconds / rounds.iterations as f64;
    let alone = run(contenders, rounds, meet, |_, contender, number| contender.round(form, number, None));
    let mut averages: Vec<Averages> = alone
        .iter()
        .map(|times| Averages { latency: mean(times.overall) * 1e6, ..Averages::default() })
        .collect();
    if form != Form::Nonblocking {
        return averages;
    }
    let mut work = Work::calibrated();
    let steps: Vec<u64> = alone.iter().map(|times| work.steps_for(mean(times.overall))).collect();
    // Other numbers than before, so that what is left of those rounds is not taken for the result of these.
    let first = rounds.warmup + rounds.iterations;
    let together = run(contenders, rounds, meet, |at, contender, number| {
        let mut computing = Computing { work: &mut work, steps: steps[at], tests };
        contender.round(form, first + number, Some(&mut computing))
    });
    for (averages, times) in averages.iter_mut().zip(together) {
        let us = |seconds| mean(seconds) * 1e6;
        averages.overall = us(times.overall);
        averages.compute = us(times.compute - times.test);
        averages.begin = us(times.begin);
        averages.test = us(times.test);
        averages.wait = us(times.wait);
    }
    averages
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{cell::RefCell, rc::Rc};

    /// Writes down what is done to it.
    struct Recorded(&'static str, Rc<RefCell<Vec<String>>>);

    impl Recorded {
        fn note(&self, what: &str) {
            self.1.borrow_mut().push(format!("{} {what}", self.0));
        }
    }

    impl Operate for Recorded {
        fn prepare(&mut self, round: u64) {
            self.note(&format!("prepare {round}"));
        }

        fn mismatch(&self, round: u64) -> Option<Mismatch> {
            self.note(&format!("check {round}"));
            None
        }

        fn call(&mut self) {
            self.note("call");
        }

        fn begin(&mut self) {
            self.note("begin");
        }

        fn test(&mut self) {
            self.note("test");
        }

        fn wait(&mut self) {
            self.note("wait");
        }

        fn barrier(&mut self) {
            self.note("barrier");
        }
    }

    /// What is done to contenders with these roots, without the meetings.
    fn log(roots: &[&[&'static str]], form: Form, rounds: Rounds, tests: u64, stage: Stage) -> Vec<String> {
        let mut log = whole_log(roots, form, rounds, tests, stage);
        log.retain(|done| done != "meet");
        log
    }

    fn whole_log(
        roots: &[&[&'static str]],
        form: Form,
        rounds: Rounds,
        tests: u64,
        stage: Stage,
    ) -> Vec<String> {
        let log = Rc::new(RefCell::new(Vec::new()));
        let operation = |name: &&'static str| Box::new(Recorded(name, Rc::clone(&log))) as Box<dyn Operate>;
        let contender =
            |roots: &&[&'static str]| Contender::new(roots.iter().map(operation).collect(), stage);
        let mut contenders: Vec<Contender<'_>> = roots.iter().map(contender).collect();
        measure(&mut contenders, form, rounds, tests, &|| log.borrow_mut().push("meet".to_owned()));
        drop(contenders);
        Rc::into_inner(log).expect("all contenders are gone").into_inner()
    }

    const PLAIN: Stage = Stage { prepare: false, validate: false };
    const CHECKED: Stage = Stage { prepare: true, validate: true };

    #[test]
    fn roots_take_turns_and_ranks_meet_before_each_round() {
        let rounds = Rounds { iterations: 2, warmup: 1 };
        let want = ["a barrier", "a call", "b barrier", "b call", "a barrier", "a call"];
        assert_eq!(log(&[&["a", "b"]], Form::Blocking, rounds, 0, PLAIN), want);
    }

    #[test]
    fn buffers_are_written_before_the_ranks_meet_and_checked_behind_the_clock() {
        let rounds = Rounds { iterations: 1, warmup: 0 };
        let want = ["a prepare 0", "a barrier", "a begin", "a wait", "a check 0"];
        assert_eq!(log(&[&["a"]], Form::Persistent, rounds, 0, CHECKED), want);
    }

    #[test]
    fn a_non_blocking_operation_runs_alone_and_then_with_tests_between() {
        let rounds = Rounds { iterations: 1, warmup: 0 };
        let mut want = vec!["a prepare 0", "a barrier", "a begin", "a wait", "a check 0"];
        want.extend([
            "a prepare 1",
            "a barrier",
            "a begin",
            "a test",
            "a test",
            "a test",
            "a wait",
            "a check 1",
        ]);
        assert_eq!(log(&[&["a"]], Form::Nonblocking, rounds, 3, CHECKED), want);
    }

    #[test]
    fn two_implementations_take_turns_in_alternating_order() {
        let rounds = Rounds { iterations: 3, warmup: 1 };
        let calls: Vec<String> = log(&[&["m"], &["i"]], Form::Blocking, rounds, 0, PLAIN)
            .into_iter()
            .filter_map(|done| done.strip_suffix(" call").map(str::to_owned))
            .collect();
        assert_eq!(calls, ["m", "i", "m", "i", "i", "m", "m", "i"]);
    }

    #[test]
    fn ranks_meet_before_each_turn_and_behind_the_last() {
        let rounds = Rounds { iterations: 2, warmup: 0 };
        let log = whole_log(&[&["m"], &["i"]], Form::Blocking, rounds, 0, PLAIN).join(", ");
        let turn = |who| format!("meet, {who} barrier, {who} call, ");
        let turns: String = ["m", "i", "i", "m"].into_iter().map(turn).collect();
        assert_eq!(log, format!("meet, meet, {turns}meet"));
    }

    proptest! {
        #[test]
        fn each_runs_each_round_once_and_in_order(contenders in 1usize..3, iterations in 1u64..500) {
            let turns = turns(contenders, iterations);
            for contender in 0..contenders {
                let own = turns.iter().filter(|(who, _)| *who == contender);
                let numbers: Vec<u64> = own.flat_map(|(_, numbers)| numbers.clone()).collect();
                prop_assert_eq!(numbers, (0..iterations).collect::<Vec<_>>());
            }
        }
    }
}
