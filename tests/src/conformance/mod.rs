//! The conformance suite: what every [`Fabric`] promises, whatever the device.
//!
//! One file per area, each case a function over `F: Fabric`. [`conformance!`](crate::conformance!) makes the tests of one
//! fabric. Most cases drive two devices in one process, where each step can be told; the others start the test program a
//! second time ([`agent`]) so that real process boundaries are crossed.
//!
//! What a device says it cannot do ([`Capabilities`]) is printed as `skipped: NAME: why`,
//! which is how `ci/test` counts it; it never passes in silence.

pub mod agent;
pub mod announced;
pub mod atomics;
pub mod back_pressure;
pub mod failure;
pub mod lifecycle;
pub mod limits;
pub mod memory;
pub mod messages;
pub mod node;
pub mod ordering;
pub mod rdma;
pub mod shm;
pub mod sim;
#[cfg(feature = "verbs")]
pub mod verbs;

use std::time::Duration;

use ironband_core::config::{Config, SingleCopy};
use ironband_fabric::{Capabilities, Fabric};

/// How many times slower than a real one this machine is, for time limits: the testbed's guest, whose processor is emulated,
/// says so in `TESTBED_SLOWNESS`.
///
/// # Panics
/// When that is no number.
pub fn slowness() -> u32 {
    match std::env::var("TESTBED_SLOWNESS") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("TESTBED_SLOWNESS={text:?} is no number")),
        Err(_) => 1,
    }
}

/// How long anything may take before a case fails instead of hanging.
pub fn patience() -> Duration {
    Duration::from_secs(60) * slowness()
}

/// Stands for the device that `TESTBED_DEV` names, because it cannot be known when the tests are built.
pub const TESTBED: &str = "testbed";

/// The name of a device for [`Fabric::open`].
///
/// # Errors
/// When the device is the testbed's, and this is not the testbed.
pub fn resolve(device: &'static str) -> Result<&'static str, Skip> {
    if device != TESTBED {
        return Ok(device);
    }
    match std::env::var("TESTBED_DEV") {
        Ok(name) => Ok(String::leak(name)),
        Err(_) => Err(Skip("no RDMA device: TESTBED_DEV names none (ci/testbed sets it)".to_owned())),
    }
}

/// What a case runs on.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Name of the device, for [`Fabric::open`].
    pub device: &'static str,
    /// Path of the module that the macro made, where the agent's entry point is.
    pub module: &'static str,
    /// Base configuration; cases change what they test.
    pub config: Config,
}

impl Setup {
    /// The same with another way for long messages.
    pub fn with_single_copy(&self, single_copy: SingleCopy) -> Self {
        Self { config: Config { single_copy, ..self.config.clone() }, ..self.clone() }
    }

    /// One setup for each way that long messages can move. Fabrics that have one way only run the same thing three times.
    pub fn all_single_copies(&self) -> [Self; 3] {
        [SingleCopy::Auto, SingleCopy::Cma, SingleCopy::Ring].map(|how| self.with_single_copy(how))
    }
}

/// Why a case, or a part of it, was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip(pub String);

/// What a case returns; a failure is a panic.
pub type Outcome = Result<(), Skip>;

/// Skips the rest of a case unless the device can do something.
pub fn need(condition: bool, otherwise: &str) -> Outcome {
    if condition { Ok(()) } else { Err(Skip(otherwise.to_owned())) }
}

/// Skips the rest of a case that starts a second process, unless the device reaches other processes.
pub fn need_processes(capabilities: &Capabilities) -> Outcome {
    need(capabilities.between_processes, "the device is a simulation, and the case needs a second process")
}

/// Runs one case and reports it if it was skipped.
pub fn run<F: Fabric>(device: &'static str, module: &'static str, name: &str, case: fn(&Setup) -> Outcome) {
    let outcome =
        resolve(device).and_then(|device| case(&Setup { device, module, config: Config::default() }));
    if let Err(Skip(why)) = outcome {
        println!("skipped: conformance {} {name}: {why}", F::NAME);
    }
}

/// Makes the tests of one fabric: `conformance!(shm: Shm, "memfd");`
#[macro_export]
macro_rules! conformance {
    ($module:ident: $fabric:ty, $device:literal $(, and $area:ident { $($own:ident),+ $(,)? })?) => {
        mod $module {
            use super::*;

            type Under = $fabric;
            const DEVICE: &str = $device;

            /// Does nothing here: it is the entry point of the processes that other cases start.
            #[test]
            fn agent() {
                $crate::conformance::agent::serve_if_asked::<Under>(DEVICE);
            }

            $crate::conformance_cases! {
                messages { every_short_length, lengths_around_the_limits, immediate_data, packed_in_place, loopback, two_processes }
                ordering { sends, kinds_of_one_queue_pair, writes_before_sends, reads_before_sends, many_senders }
                back_pressure { full_says_busy, busy_leaves_no_trace, release_in_any_order, held_is_not_overwritten, reentrant, flood_is_fair, outstanding }
                rdma {
                    read_lengths, write_lengths, write_with_immediate, many_at_once, across_processes, shared_between_both, owner_away,
                    refused, refused_and_reconnected, refused_through_the_ring, refused_in_part, refused_when_short, answered_behind_many_requests, unmapped, loopback_rdma, deregistered_under_way
                }
                announced { read_at_once, read_late, read_in_part, many_at_once, gone, any_key, destroyed }
                atomics { every_operation, misaligned, refused, contention, loopback_atomics }
                limits { address_is_short, sixty_four_peers, three_hundred_peers, idle_peers_cost_nothing, one_after_another }
                lifecycle {
                    create_is_idempotent, unknown_queue_pair, sent_before_destroy, reconnect_at_once, reconnect_often,
                    destroy_with_requests, simultaneous, garbage_address, descriptors
                }
                failure {
                    killed_with_requests, killed_with_full_ring, killed_while_copying, never_polls, ended_before_connect,
                    others_go_on, accepts_too_late
                }
                $($area { $($own),+ })?
            }
        }
    };
}

/// One `#[test]` for each case; for [`conformance!`](crate::conformance!) only.
#[macro_export]
macro_rules! conformance_cases {
    ($($area:ident { $($case:ident),+ $(,)? })+) => {
        $(mod $area {
            use super::*;
            $(
                #[test]
                fn $case() {
                    let module = module_path!();
                    let name = concat!(stringify!($area), "::", stringify!($case));
                    $crate::conformance::run::<Under>(DEVICE, module, name, $crate::conformance::$area::$case::<Under>);
                }
            )+
        })+
    };
}
