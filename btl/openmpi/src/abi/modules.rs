//! The modules in use, fabric by fabric. Each fabric has a static of its own, so that progress calls no function by
//! pointer.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use ironband::{Config, Job, Threads};
use ironband_fabric::Fabric;
use ironband_fabric::shm::Shm;
#[cfg(feature = "verbs")]
use ironband_fabric::verbs::Verbs;

use super::module::Module;
use super::runtime;
use super::series::{ModuleTable, this_process};

/// Modules of one fabric; more ports than that are not used.
const MODULES_MAX: usize = 8;

/// The modules of one fabric.
pub(super) struct Modules<F: Fabric> {
    /// The first `count` are in use. One that is finalized leaves a null.
    slots: [AtomicPtr<Module<F>>; MODULES_MAX],
    count: AtomicUsize,
}

/// Memory shared inside the node: one device serves all.
pub(super) static SHM: Modules<Shm> = Modules::none();
/// RDMA adapters: a module for each port.
#[cfg(feature = "verbs")]
pub(super) static VERBS: Modules<Verbs> = Modules::none();

/// What has been opened so far.
#[derive(Default)]
pub(super) struct Opened {
    /// For Open MPI, in the order in which it is to prefer them.
    pub(super) tables: Vec<*mut ModuleTable>,
    /// For peers: fabric and address of each.
    pub(super) addresses: Vec<(&'static str, Vec<u8>)>,
}

impl<F: Fabric> Modules<F> {
    const fn none() -> Self {
        Self { slots: [const { AtomicPtr::new(null_mut()) }; MODULES_MAX], count: AtomicUsize::new(0) }
    }

    /// Opens up to `count_max` devices. Why others are not used is said to the user, by one process of each node.
    pub(super) fn open(&self, config: &Config, threads: Threads, count_max: usize, opened: &mut Opened) {
        let process = this_process();
        let job = Job { local_ranks: process.local_ranks, rank: process.rank };
        let mut count = 0;
        for report in F::probe(config) {
            if count == count_max.min(MODULES_MAX) {
                break;
            }
            let created = report.usable.and_then(|_| {
                Module::<F>::create(&report.device, count, config, &job, threads)
                    .map_err(|error| error.to_string())
            });
            match created {
                Ok(module) => {
                    // SAFETY: just made, and freed by nobody but `btl_finalize`.
                    let address = unsafe { module.as_ref() }.device().address().to_vec();
                    opened.tables.push(module.as_ptr().cast());
                    opened.addresses.push((F::NAME, address));
                    self.slots[count].store(module.as_ptr(), Ordering::Release);
                    count += 1;
                }
                Err(reason) => {
                    let reason = format!(
                        "rank {}: device {} of fabric {} is not used: {reason}",
                        job.rank,
                        report.device,
                        F::NAME
                    );
                    let level = if process.local_rank == 0 { 0 } else { 1 };
                    runtime::say_at(level, &reason);
                }
            }
        }
        self.count.store(count, Ordering::Release);
    }

    /// Takes a module out of progress.
    pub(super) fn forget(&self, module: *mut ModuleTable) {
        for slot in &self.slots {
            let _ = slot.compare_exchange(module.cast(), null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// True without any module.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Another fabric has found something.
    ///
    /// # Safety
    /// As [`Self::progress`].
    #[inline]
    pub(super) unsafe fn reset_patience(&self) {
        for slot in &self.slots[..self.count.load(Ordering::Relaxed)] {
            // SAFETY: as in `progress`.
            if let Some(module) = unsafe { slot.load(Ordering::Relaxed).as_ref() } {
                module.device().reset_patience();
            }
        }
    }

    /// Makes progress on each module. Gives how much was done.
    ///
    /// # Safety
    /// No module of this fabric is being finalized.
    #[inline(always)]
    pub(super) unsafe fn progress(&self) -> usize {
        let mut done = 0;
        for slot in &self.slots[..self.count.load(Ordering::Relaxed)] {
            let table = slot.load(Ordering::Relaxed);
            // SAFETY: stored by `open` and taken out by `btl_finalize`, which is not under way.
            if let Some(module) = unsafe { table.as_ref() } {
                done += module.progress(table.cast());
            }
        }
        done
    }
}
