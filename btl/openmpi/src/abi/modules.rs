//! The modules in use, fabric by fabric. Each fabric has a static of its own, so that progress calls no function by
//! pointer.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use ironband::{Config, Job, Threads};
use ironband_fabric::Fabric;
use ironband_fabric::shm::Shm;
#[cfg(feature = "verbs")]
use ironband_fabric::verbs::Verbs;

use super::module::{Module, Place};
use super::runtime;
use super::series::{ModuleTable, this_process};

/// Modules of one fabric; more ports than that are not used.
const MODULES_MAX: usize = 8;

/// The modules of one fabric, from the first slot on. Nulls follow; one that is finalized leaves a null, too.
pub(super) struct Modules<F: Fabric>([AtomicPtr<Module<F>>; MODULES_MAX]);

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
        Self([const { AtomicPtr::new(null_mut()) }; MODULES_MAX])
    }

    /// Opens up to `count_max` devices. Why others are not used is said to the user, by one process of each node.
    pub(super) fn open(
        &'static self,
        config: &Config,
        threads: Threads,
        count_max: usize,
        opened: &mut Opened,
    ) {
        let process = this_process();
        let job = Job { local_ranks: process.local_ranks, rank: process.rank };
        let mut count = 0;
        for report in F::probe(config) {
            if count == count_max.min(MODULES_MAX) {
                break;
            }
            let created = report.usable.and_then(|_| {
                let place = Place { ordinal: count, siblings: self };
                Module::<F>::create(&report.device, place, config, &job, threads)
                    .map_err(|error| error.to_string())
            });
            match created {
                Ok(module) => {
                    // SAFETY: just made, and freed by nobody but `btl_finalize`.
                    let address = unsafe { module.as_ref() }.device().address().to_vec();
                    opened.tables.push(module.as_ptr().cast());
                    opened.addresses.push((F::NAME, address));
                    self.0[count].store(module.as_ptr(), Ordering::Release);
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
    }

    /// Takes a module out of progress.
    pub(super) fn forget(&self, module: *mut ModuleTable) {
        for slot in &self.0 {
            let _ = slot.compare_exchange(module.cast(), null_mut(), Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Those in use. At the end, while modules are finalized one by one, those before the first that is gone.
    ///
    /// # Safety
    /// No module of this fabric is finalized while the result is used.
    #[inline(always)]
    pub(super) unsafe fn in_use(&self) -> impl Iterator<Item = &Module<F>> {
        // SAFETY: stored by `open`, and taken out by `btl_finalize`, which is not under way.
        self.0.iter().map_while(|slot| unsafe { slot.load(Ordering::Relaxed).as_ref() })
    }

    /// True without any module.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.0[0].load(Ordering::Relaxed).is_null()
    }

    /// Another fabric has found something.
    ///
    /// # Safety
    /// As [`Self::in_use`].
    #[inline]
    pub(super) unsafe fn reset_patience(&self) {
        // SAFETY: as promised by the caller.
        unsafe { self.in_use() }.for_each(|module| module.device().reset_patience());
    }

    /// Makes progress on each module. Gives how much was done.
    ///
    /// # Safety
    /// As [`Self::in_use`].
    #[inline(always)]
    pub(super) unsafe fn progress(&self) -> usize {
        // SAFETY: as promised by the caller.
        unsafe { self.in_use() }.map(|module| module.progress(module.table())).sum()
    }
}
