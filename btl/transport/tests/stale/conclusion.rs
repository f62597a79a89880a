//! Says what came out as libtest does, which our scripts count: these programs need a process with one thread, so libtest cannot
//! run them.

use std::process::ExitCode;
use std::time::Instant;

/// Of one test.
pub(crate) enum Conclusion {
    Passed,
    Failed,
    /// For this reason.
    Skipped(String),
}

impl From<bool> for Conclusion {
    fn from(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Says all of them, of a program that began at `start`.
pub(crate) fn conclude(tests: &[(&str, Conclusion)], start: Instant) -> ExitCode {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, conclusion) in tests {
        let (word, count) = match conclusion {
            Conclusion::Passed => ("ok", &mut passed),
            Conclusion::Failed => ("FAILED", &mut failed),
            Conclusion::Skipped(reason) => {
                println!("skipped: {name}: {reason}");
                ("ignored", &mut ignored)
            }
        };
        println!("test {name} ... {word}");
        *count += 1;
    }
    println!(
        "test result: {}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if failed == 0 { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
