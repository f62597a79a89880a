//! Whole-system tests: real MPI programs under a real `mpirun`.
//!
//! The programs are in `tests/mpi` (C, each verifies every byte) and in the `examples` package (Rust). This library
//! compiles them, runs them over the transport under test in bounded time, and finds what they leave behind; the
//! tables of what is run are in `tests/tests/*.rs`, one `#[test]` a row.
//!
//! Which transport is under test comes from one place, [`Transport`]:
//! - `IRONBAND_COMPONENT_DIR`: the folder that holds `mca_btl_ironband.so`. `ci/test` builds it and sets this.
//! - `IRONBAND_TEST_BTL=vader` (or `tcp`): runs the same programs over one of Open MPI's own transports instead, to
//!   tell a fault of the transport from a fault of a test. Each test then says which transport it really ran.
//!
//! Rows run one at a time, also across test binaries and under runners that start one process for each test: `cargo
//! test` is enough, `--test-threads=1` is not needed. Rows marked `#[ignore]` need much memory or time; run them with
//! `cargo test -p ironband-tests -- --ignored`.

pub mod conformance;
pub mod deeds;
mod job;
mod launchers;
mod leftovers;
mod processes;
mod program;
mod random;
mod row;
pub mod scenario;
mod tally;
mod transport;

pub use job::{Ended, Job, Outcome};
pub use launchers::{Launcher, by_hand, free_port, start_by_hand};
pub use leftovers::Snapshot;
pub use program::{
    CompiledProgram, build_example, build_ironband, build_program, compile_library, compile_program,
};
pub use random::{Random, number};
pub use row::{Row, wait_for_turn};
pub use tally::Tally;
pub use transport::Transport;
