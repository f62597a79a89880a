//! The world's handle, for those who open devices in it, drive it, and ask what has happened.

use std::cell::{RefCell, RefMut};
use std::rc::{Rc, Weak};

use ironband_core::config::Config;

use super::device::SimDevice;
use super::report::{Statistics, Violation};
use super::state::{Event, State};
use super::{Faults, Options};
use crate::{Job, QueuePairNumber};

/// A simulated world: the clock, the generator, what will happen, and everything that its devices have in common. Clones are
/// the same world. It belongs to one thread.
#[derive(Debug, Clone)]
pub struct World(Rc<RefCell<State>>);

/// A world that does not live because of this.
#[derive(Debug, Clone)]
pub(super) struct Known(Weak<RefCell<State>>);

impl Known {
    pub(super) fn world(&self) -> Option<World> {
        self.0.upgrade().map(World)
    }
}

impl World {
    /// A world without devices, at time 0. Addresses follow from the seed: those of two worlds with one seed are not told apart.
    pub fn new(options: Options) -> Self {
        Self(Rc::new(RefCell::new(State::new(options))))
    }

    pub(super) fn known(&self) -> Known {
        Known(Rc::downgrade(&self.0))
    }

    #[inline]
    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    pub(super) fn try_state(&self) -> Option<RefMut<'_, State>> {
        self.0.try_borrow_mut().ok()
    }

    /// Opens one more device.
    pub fn open(&self, config: &Config, job: &Job) -> SimDevice {
        let name = format!("seed={}", self.seed());
        SimDevice::open(self, name.into(), config, job)
    }

    /// The seed: a test that fails prints it.
    pub fn seed(&self) -> u64 {
        self.state().options.seed
    }

    /// Virtual time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.state().now_ns
    }

    /// Lets the next event happen, and the clock jump to it; false when there is none. Polls of devices do the same.
    pub fn step(&self) -> bool {
        self.state().step()
    }

    /// The number of a device whose poll finds something. Each is given once, until something new has come for it: poll it until it
    /// is empty. With this and [`World::step`] a driver of thousands of devices polls only those that have something.
    pub fn next_to_poll(&self) -> Option<u32> {
        self.state().take_to_poll()
    }

    /// Changes the weather, from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().options.faults = faults;
    }

    /// Breaks the connection of this queue pair now; each end learns of it when it does. Nothing happens if there is none.
    pub fn fail(&self, device: u32, qp: QueuePairNumber) {
        let state = &mut *self.state();
        let link = state.adapter(device).and_then(|adapter| adapter.qps.get(qp.index())?.link);
        if let Some(link) = link {
            state.statistics.faults += 1;
            let now_ns = state.now_ns;
            state.events.push(now_ns, Event::Broken(link));
        }
    }

    /// The death of a process: this device does nothing any more, its posts fail, and each peer learns of it when it does. Its
    /// memory is not touched again.
    pub fn kill(&self, device: u32) {
        let state = &mut *self.state();
        state.statistics.faults += u64::from(state.adapter(device).is_some());
        state.die(device, false);
    }

    /// What a real adapter would have turned into corruption, oldest first.
    pub fn violations(&self) -> Vec<Violation> {
        self.state().violations.clone()
    }

    /// Counts of what has happened.
    pub fn statistics(&self) -> Statistics {
        let state = self.state();
        let (connections_now, requests_now) = (state.links.len() as u64, state.requests.len() as u64);
        Statistics { connections_now, requests_now, ..state.statistics }
    }

    /// The last events in words, oldest first; none unless [`Options::trace_len`] says how many.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.lines()
    }
}
