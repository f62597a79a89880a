//! The slots of one cache: made in blocks as they are needed, and never moved.

use std::sync::OnceLock;

use super::slot::Slot;
use super::source;

const BLOCK: usize = 1024;
/// In all more slots than a cache keeps: some registrations are in use though their memory was unmapped, some were never cached.
const BLOCKS: usize = 128;

type Block<T> = Box<[Slot<T>]>;

/// All slots.
#[derive(Debug)]
pub(super) struct Slab<T> {
    blocks: [OnceLock<Block<T>>; BLOCKS],
    /// [`source::forks`] when it was made.
    forks: u32,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { blocks: [const { OnceLock::new() }; BLOCKS], forks: source::forks() }
    }

    /// # Panics
    /// If no [`Slab::make`] has named this slot.
    #[inline]
    pub(super) fn at(&self, index: u32) -> &Slot<T> {
        let index = index as usize;
        &self.blocks[index / BLOCK].get().expect("a slot that was made")[index % BLOCK]
    }

    /// Makes room for one block more after `made` slots; gives how many there are then, or `None` if that is too many.
    pub(super) fn make(&self, made: u32) -> Option<u32> {
        let place = self.blocks.get(made as usize / BLOCK)?;
        place.get_or_init(|| (0..BLOCK).map(|_| Slot::new()).collect());
        Some(made + BLOCK as u32)
    }

    /// True in a child of a fork: what lies here is its parent's.
    pub(super) fn is_parents(&self) -> bool {
        self.forks != source::forks()
    }
}

impl<T> Drop for Slab<T> {
    /// What is still held stays for ever, with all its neighbours: a leak, where the alternative is memory that is gone. In a child of a
    /// fork all stays: to drop the registrations would end the parent's.
    fn drop(&mut self) {
        let slots = || self.blocks.iter().filter_map(OnceLock::get).flatten();
        if self.is_parents() || slots().any(Slot::is_held) {
            self.blocks.iter_mut().filter_map(OnceLock::take).for_each(std::mem::forget);
        }
    }
}
