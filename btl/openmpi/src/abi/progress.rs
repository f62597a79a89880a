//! What arrives: the transport's events, handed to Open MPI.

use std::sync::atomic::{AtomicUsize, Ordering};

use ironband::{CompletionStatus, Handler, Payload, Threads, WorkId};
use ironband_fabric::Fabric;

use super::endpoint::Endpoint;
use super::module::Module;
use super::one_at_a_time::OneAtATime;
use super::series::{ModuleTable, deliver};
use super::{rdma, runtime, send};

/// Takes the transport's events for one module.
pub(super) struct Receiver<'a, F: Fabric> {
    pub(super) module: &'a Module<F>,
    pub(super) table: *mut ModuleTable,
}

impl<F: Fabric> Handler for Receiver<'_, F> {
    #[inline]
    fn received(&self, from: ironband::QueuePair, tag: u32, payload: Payload) {
        if self.module.is_closing() {
            return; // The upper layer is gone, and its callback with it.
        }
        // SAFETY: the transport lends the payload for this call.
        if !unsafe { deliver(self.table, tag, payload) } {
            no_such_tag(self.module, from, tag);
        }
    }

    fn written(&self, _from: ironband::QueuePair, _imm: u32, _len_bytes: usize) {
        // This component posts no writes with immediate data.
    }

    fn completed(&self, _with: ironband::QueuePair, id: WorkId, status: CompletionStatus) {
        // Numbers of transfers are 32 bits long, so this is exact.
        // SAFETY: the transport holds nothing while it calls.
        unsafe { rdma::complete(self.module, self.table, id.0 as u32, status) };
    }

    fn disconnected(&self, from: ironband::QueuePair, reason: &str) {
        if self.module.is_closing() {
            return; // A peer that is further with its MPI_Finalize than this process.
        }
        self.module.disconnected(from, reason);
    }
}

#[cold]
#[inline(never)]
fn no_such_tag<F: Fabric>(module: &Module<F>, from: ironband::QueuePair, tag: u32) {
    let peer = module.peer_of(from);
    runtime::fatal(&format!(
        "a message from {peer} has the tag {tag}, which nothing in this process listens to"
    ));
}

/// The endpoints with something queued.
pub(super) struct Waiting {
    /// Those, and the memory of the list that was taken last: a process with something queued makes progress all the time.
    endpoints: OneAtATime<(Vec<*const Endpoint>, Vec<*const Endpoint>)>,
    /// Their number, so that progress with nothing queued looks at one word.
    count: AtomicUsize,
}

impl Waiting {
    pub(super) fn new(threads: Threads) -> Self {
        Self { endpoints: OneAtATime::new(threads, (Vec::new(), Vec::new())), count: AtomicUsize::new(0) }
    }

    /// True while nothing is queued.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Adds an endpoint that has something queued.
    pub(super) fn add(&self, peer: &Endpoint) {
        self.endpoints.with(|(endpoints, _)| {
            if !peer.listed.swap(true, Ordering::Relaxed) {
                endpoints.push(peer);
                self.count.store(endpoints.len(), Ordering::Relaxed);
            }
        });
    }

    /// Takes the whole list. Whoever is still waiting afterwards has to be added again.
    fn take(&self) -> Vec<*const Endpoint> {
        self.endpoints.with(|(endpoints, spare)| {
            for &peer in endpoints.iter() {
                // SAFETY: endpoints live as long as the module.
                unsafe { &*peer }.listed.store(false, Ordering::Relaxed);
            }
            self.count.store(0, Ordering::Relaxed);
            std::mem::replace(endpoints, std::mem::take(spare))
        })
    }

    /// Gives back the memory of a list that was taken, for the next one.
    fn give_back(&self, mut list: Vec<*const Endpoint>) {
        list.clear();
        self.endpoints.with(|(_, spare)| *spare = list);
    }
}

/// Sends and starts what is queued, as far as there is room. Gives how much was done.
#[cold]
#[inline(never)]
pub(super) fn flush<F: Fabric>(module: &Module<F>, table: *mut ModuleTable, waiting: &Waiting) -> usize {
    let list = waiting.take();
    let mut done = 0;
    for &peer in &list {
        // SAFETY: endpoints live as long as the module.
        let peer = unsafe { &*peer };
        done += send::flush(module, table, peer) + rdma::flush(module, table, peer);
        if peer.is_waiting() {
            waiting.add(peer);
        }
    }
    waiting.give_back(list);
    done
}
