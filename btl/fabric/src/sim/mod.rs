//! A simulation of reliable connected queue pairs, with faults: for tests of what is above a fabric, and for studies with
//! thousands of ranks. Any number of devices in one process and one thread; nothing leaves it.
//!
//! A [`World`] has a clock of virtual nanoseconds, a seeded generator and a queue of events. Each poll of a device lets the
//! world take a step, which is one event; the clock jumps from event to event, so nobody ever waits. The same seed and the
//! same calls give the same run, to the last event ([`World::trace`]).
//!
//! # What is kept, and what is the seed's
//! - Messages and notifications of one queue pair arrive in the order of their posts, and behind the data of the writes before
//!   them. Messages of different queue pairs arrive in any order.
//! - Reads and atomics find what was written before them on their queue pair. What is posted behind a read may overtake it.
//! - Atomics of one queue pair are done in order. Requests end in any order.
//! - The data of a request moves at any time between its post and its end, in any order of pieces ([`Faults`]).
//! - A connection that breaks lets some first part of what is under way through, and nothing behind a gap. Each end learns of
//!   it for itself; a request that was done may end as flushed.
//! - A queue pair that its user destroys leaves in an orderly way: what was sent arrives, the peer is not disturbed. The next
//!   one to that peer has another number, as over `verbs`; who comes back to a queue pair that has failed finds a new one.
//!
//! What a program must not do and a real adapter would not notice is written down ([`World::violations`]): regions that are
//! deregistered while operations use them, and local memory that is not in the region that a post names.

mod arena;
mod capabilities;
mod card;
mod connect;
mod device;
mod generator;
mod link;
mod memory;
mod messages;
mod options;
mod queue;
mod regions;
mod report;
mod requests;
mod state;
mod trace;
mod window;
mod world;

pub use device::SimDevice;
pub use options::{Faults, Options, Span};
pub use regions::MemoryRegion;
pub use report::{Statistics, Violation};
pub use world::World;

use std::cell::RefCell;
use std::collections::BTreeMap;

use ironband_core::config::Config;

use crate::{DeviceError, DeviceReport, Fabric, Job};

/// The simulated fabric. Its devices are named after the seed of their world; those of one name and one thread are in one
/// world, which lives as long as one of them. It has to be asked for: nothing chooses it by itself.
#[derive(Debug)]
pub struct Sim;

thread_local! {
    /// The worlds of this thread that have a name.
    static WORLDS: RefCell<BTreeMap<String, world::Known>> = const { RefCell::new(BTreeMap::new()) };
}

fn world_of(name: &str, options: Options) -> World {
    WORLDS.with_borrow_mut(|worlds| {
        if let Some(world) = worlds.get(name).and_then(world::Known::world) {
            return world;
        }
        worlds.retain(|_, known| known.world().is_some());
        let world = World::new(options);
        worlds.insert(name.to_owned(), world.known());
        world
    })
}

impl Fabric for Sim {
    const NAME: &'static str = "sim";
    type Device = SimDevice;

    fn probe(_config: &Config) -> Vec<DeviceReport> {
        let usable = Ok("a simulation inside one process, for tests; it reaches no other process".to_owned());
        vec![DeviceReport { fabric: Self::NAME, device: "seed=1".to_owned(), usable }]
    }

    fn open(name: &str, config: &Config, job: &Job) -> Result<SimDevice, DeviceError> {
        let Some(options) = Options::of_name(name) else {
            return Err(DeviceError::Unknown {
                fabric: Self::NAME,
                name: name.to_owned(),
                known: options::FORM.to_owned(),
            });
        };
        Ok(SimDevice::open(&world_of(name, options), name.into(), config, job))
    }
}
