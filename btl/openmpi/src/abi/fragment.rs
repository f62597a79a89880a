//! Descriptors: what Open MPI fills before `btl_send`, and the pool they come from.
//!
//! ```text
//!  Fragment                                               room (of its class)
//! +------------+--------------+--------------------------+--------------------------------+
//! | Descriptor | 2 x Segment  | next, endpoint, tag, ... | header of ob1, packed payload  |
//! +------------+--------------+--------------------------+--------------------------------+
//!   104 bytes    32 bytes                                 ^ segment 0     (segment 1: user memory)
//! ```
//! The pool grows by chunks and keeps what it has, so a steady state allocates nothing.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem::size_of;
use std::ptr::{NonNull, null_mut};

use super::endpoint::Endpoint;
use super::series::{Descriptor, Segment};

/// A descriptor with what this component needs beside it. Open MPI sees only the first field.
#[repr(C, align(16))]
pub(super) struct Fragment {
    pub(super) descriptor: Descriptor,
    pub(super) segments: [Segment; 2],
    /// The next free one of the class.
    next: *mut Fragment,
    /// To whom it is queued.
    pub(super) endpoint: *const Endpoint,
    /// Who gets it at the other end.
    pub(super) tag: u8,
    class: u8,
}

const _: () = assert!(std::mem::offset_of!(Fragment, descriptor) == 0, "Open MPI's pointer is ours");

/// Room of the smallest class: every header of ob1 with a registration handle, with headers to spare; a fragment of
/// this class then takes eight cache lines.
const SMALL_ROOM_BYTES: usize = 512 - size_of::<Fragment>();

/// Fragments of one size.
struct Class {
    room_bytes: usize,
    per_chunk: usize,
    free: *mut Fragment,
    chunks: Vec<NonNull<u8>>,
}

impl Class {
    const fn new(room_bytes: usize, per_chunk: usize) -> Self {
        Self { room_bytes, per_chunk, free: null_mut(), chunks: Vec::new() }
    }

    const fn fragment_bytes(&self) -> usize {
        (size_of::<Fragment>() + self.room_bytes).next_multiple_of(64)
    }

    fn chunk_layout(&self) -> Option<Layout> {
        Layout::from_size_align(self.fragment_bytes().checked_mul(self.per_chunk)?, 64).ok()
    }

    /// Allocates a chunk and puts its fragments into the free list. `None` when memory has run out.
    #[cold]
    fn grow(&mut self, class: u8) -> Option<()> {
        self.chunks.try_reserve(1).ok()?;
        let layout = self.chunk_layout()?;
        // SAFETY: the size is not zero.
        let chunk = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        self.chunks.push(chunk);
        for number in (0..self.per_chunk).rev() {
            // SAFETY: inside the chunk, aligned to 64, and zero is a value of every field.
            unsafe {
                let fragment = chunk.as_ptr().add(number * self.fragment_bytes()).cast::<Fragment>();
                (*fragment).class = class;
                (*fragment).next = self.free;
                self.free = fragment;
            }
        }
        Some(())
    }
}

/// All fragments of a module.
pub(super) struct Pool {
    classes: [Class; 3],
}

// SAFETY: the pool owns the memory its pointers lead to.
unsafe impl Send for Pool {}

impl Pool {
    /// A pool for messages of up to `eager_bytes` and `fragment_bytes`, whichever is longer.
    pub(super) fn new(eager_bytes: usize, fragment_bytes: usize) -> Self {
        Self {
            classes: [
                Class::new(SMALL_ROOM_BYTES, 64),
                Class::new(eager_bytes.min(fragment_bytes).max(SMALL_ROOM_BYTES), 8),
                Class::new(eager_bytes.max(fragment_bytes).max(SMALL_ROOM_BYTES), 4),
            ],
        }
    }

    /// A fragment with `room_bytes` of room in its first segment. `None` when memory has run out or when no class has
    /// so much room.
    pub(super) fn alloc(&mut self, room_bytes: usize, flags: u32, order: u8) -> Option<NonNull<Fragment>> {
        let number = self.classes.iter().position(|class| room_bytes <= class.room_bytes)?;
        let class = &mut self.classes[number];
        if class.free.is_null() {
            class.grow(number as u8)?;
        }
        let fragment = NonNull::new(class.free)?;
        // SAFETY: a free fragment is nobody else's; its room lies directly behind it.
        unsafe {
            let it = fragment.as_ptr();
            class.free = (*it).next;
            (*it).segments[0].seg_addr.pval = it.add(1).cast();
            (*it).segments[0].seg_len = room_bytes as u64;
            (*it).descriptor.des_segments = (&raw mut (*it).segments).cast();
            (*it).descriptor.des_segment_count = 1;
            (*it).descriptor.des_cbfunc = None;
            (*it).descriptor.des_cbdata = null_mut();
            (*it).descriptor.des_context = null_mut();
            (*it).descriptor.des_flags = flags;
            (*it).descriptor.order = order;
        }
        Some(fragment)
    }

    /// Takes a fragment back.
    ///
    /// # Safety
    /// It came from this pool and is not used any more.
    pub(super) unsafe fn free(&mut self, fragment: NonNull<Fragment>) {
        let it = fragment.as_ptr();
        // SAFETY: as promised by the caller; the class was written when the fragment was made.
        unsafe {
            let class = &mut self.classes[usize::from((*it).class)];
            (*it).next = class.free;
            class.free = it;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for class in &mut self.classes {
            let Some(layout) = class.chunk_layout() else { continue };
            for chunk in class.chunks.drain(..) {
                // SAFETY: allocated with this layout; the module is being destroyed, so no fragment is in use.
                unsafe { dealloc(chunk.as_ptr(), layout) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_fits_the_request() {
        let mut pool = Pool::new(8192, 32768);
        for (room, class) in [(0, 0), (SMALL_ROOM_BYTES, 0), (SMALL_ROOM_BYTES + 1, 1), (8192, 1), (32768, 2)]
        {
            let fragment = pool.alloc(room, 3, 255).expect("memory");
            // SAFETY: just allocated.
            let it = unsafe { fragment.as_ref() };
            assert_eq!(usize::from(it.class), class, "for {room} bytes");
            assert_eq!(it.segments[0].seg_len, room as u64);
            assert_eq!((it.descriptor.des_flags, it.descriptor.order), (3, 255));
            // SAFETY: the room is as long as was asked for; a sanitizer or valgrind would see it if not.
            unsafe { it.segments[0].seg_addr.pval.cast::<u8>().write_bytes(0xAB, room) };
        }
        assert!(pool.alloc(32769, 0, 0).is_none());
    }

    #[test]
    fn fragments_are_reused_and_never_shared() {
        let mut pool = Pool::new(1024, 1024);
        let mut held: Vec<_> = (0..200).map(|_| pool.alloc(16, 0, 0).expect("memory")).collect();
        let mut distinct = held.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), held.len());
        let chunks = pool.classes[0].chunks.len();
        for _ in 0..1000 {
            let fragment = held.pop().expect("some are held");
            // SAFETY: from this pool and not used again.
            unsafe { pool.free(fragment) };
            assert_eq!(
                pool.alloc(16, 0, 0),
                Some(fragment),
                "the last one freed comes first: it is in the cache"
            );
            held.push(fragment);
        }
        assert_eq!(pool.classes[0].chunks.len(), chunks, "a steady state allocates nothing");
    }
}
