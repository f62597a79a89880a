//! NetPIPE (Debian: netpipe-openmpi), a real program that is not ours, with its integrity check.
//!
//! With `-i` NetPIPE checks data instead of measuring. It must be told a number of repeats (`-n`), or it sends each
//! small size tens of thousands of times and takes minutes; and where to put its output file (`-o`), or it writes
//! `np.out` into the current folder. It exits with 255 if a byte is wrong.

use ironband_tests::{CompiledProgram, Row};

/// NetPIPE's own upper bound, if it is given none (with its usual perturbation of 3 bytes).
const LARGEST_UNBIDDEN: u64 = 8_388_609;

/// The largest size that it can end with: the one after the next, 2 GiB, does not fit its `int`, and the negative
/// length it becomes is below any upper bound.
const LARGEST: u64 = 1_073_741_824;

fn integrity(args: &str, largest: u64, seconds: u64) {
    let program = CompiledProgram { path: "NPopenmpi".into() };
    let row = Row::new("NPopenmpi", 2, env!("CARGO_TARGET_TMPDIR"))
        .args("-i -o /dev/null")
        .args(args)
        .time(seconds);
    let Some(outcome) = row.run_program(&program) else { return };
    assert!(outcome.is_success(), "NPopenmpi (Debian: netpipe-openmpi) failed\n{}", outcome.explain());
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!said.contains("failed"), "{}", outcome.explain());
    let passed: Vec<u64> = said
        .lines()
        .filter(|line| line.contains("Integrity check passed"))
        .filter_map(|line| line.split(':').nth(1)?.split_whitespace().next()?.parse().ok())
        .collect();
    let last = passed.last().copied().unwrap_or(0);
    assert!(last >= largest, "NetPIPE came to {last} bytes of {largest}\n{}", outcome.explain());
    println!(
        "{} sizes up to {last} bytes, every one intact [{:.1} s]",
        passed.len(),
        outcome.took.as_secs_f64()
    );
}

#[test]
fn netpipe_with_integrity_check() {
    integrity("-n 20", LARGEST_UNBIDDEN, 120);
}

#[test]
fn netpipe_with_integrity_check_and_preposted_receives() {
    integrity("-n 5 -a", LARGEST_UNBIDDEN, 120);
}

/// It also stops after a size that takes more than a second, so how far a sweep comes depends on the machine; the
/// largest size is therefore the lower bound of a sweep of its own.
#[test]
#[ignore = "messages up to 1 GiB, 6 GiB of memory, a minute; run with --ignored"]
fn netpipe_to_its_largest_size() {
    integrity("-n 3 -u 1500000000", LARGEST_UNBIDDEN, 400);
    integrity("-n 3 -l 1073741824 -u 1500000000", LARGEST, 400);
}
