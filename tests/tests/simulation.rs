//! Seeds of the simulator over the Rust API. `IRONBAND_SEEDS` sets how many are tried (10,000), `IRONBAND_SEED` tries one, with
//! its trace.

use std::panic;

use ironband_tests::number;
use ironband_tests::scenario::{Adapter, Scenario, Weather};

/// Scenarios that failed once.
const FOUND: [Scenario; 3] = [
    // An announcement that a receive had found was not answered, because nobody looked into the outbox.
    Scenario {
        seed: 2,
        processes: 4,
        deeds: 68,
        adapter: Adapter::Capable,
        weather: Weather::Tight,
        kills: true,
        writes: false,
    },
    // A process that had lost another one refused its connection, and the other one did not learn of it.
    Scenario {
        seed: 162,
        processes: 2,
        deeds: 36,
        adapter: Adapter::Capable,
        weather: Weather::Wild,
        kills: false,
        writes: false,
    },
    // The simulation's own: a read over a broken connection counted as one of memory that its owner had let go.
    Scenario {
        seed: 147_404,
        processes: 5,
        deeds: 10,
        adapter: Adapter::Capable,
        weather: Weather::Wild,
        kills: false,
        writes: false,
    },
];

/// Says all that is needed to see it again.
fn fail(scenario: Scenario) -> ! {
    let smallest = scenario.minimised();
    let said = smallest.run(60).expect_err("the same scenario, the same run");
    panic!("seed {} fails: {scenario:?}\nsmallest: {smallest:?}\n{said}", scenario.seed);
}

#[test]
fn seeds() {
    // Thousands of scenarios panic on purpose while one is minimised.
    panic::set_hook(Box::new(|_| {}));
    let failed = match number("IRONBAND_SEED") {
        Some(seed) => Some(Scenario::of(seed)).filter(|scenario| scenario.run(0).is_err()),
        None => {
            let count = number("IRONBAND_SEEDS").unwrap_or(10_000);
            (0..count).map(Scenario::of).find(|scenario| scenario.run(0).is_err())
        }
    };
    let _ = panic::take_hook();
    if let Some(scenario) = failed {
        fail(scenario);
    }
}

#[test]
fn scenarios_that_failed_once() {
    for scenario in FOUND {
        if let Err(said) = scenario.run(60) {
            panic!("{scenario:?}: {said}");
        }
    }
}

/// The same seed, the same run, to the last event.
#[test]
fn a_run_is_repeated_exactly() {
    let scenario = Scenario {
        seed: 5,
        processes: 4,
        deeds: 100,
        adapter: Adapter::InfiniBand,
        weather: Weather::Late,
        kills: false,
        writes: false,
    };
    assert_eq!(scenario.traced(), scenario.traced());
}
