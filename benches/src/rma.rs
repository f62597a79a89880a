//! One-sided MPI: rsmpi has no interface for it, so the C functions are called here and only here.
//!
//! A [`Window`] is made and freed by all ranks together. Operations run inside [`Window::epoch`], which opens
//! the access, lets the caller start operations and completes them before it returns; memory named in an
//! operation therefore outlives the operation. Memory exposed in a window changes under the program's hands
//! and is only reached through [`Span`], never through a reference.

use std::{cell::Cell, ffi::c_int, marker::PhantomData, ptr::NonNull};

use clap::ValueEnum;
use mpi::{ffi, raw::AsRaw, topology::UserGroup, traits::*};
use serde::Serialize;

use crate::{
    error::BenchError,
    memory::{PageBuffer, Span},
    point_to_point::{check, count_of, without_unwinding},
    session::Session,
};

/// How a window is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Creation {
    /// MPI_Win_create on memory of the program.
    Create,
    /// MPI_Win_allocate, memory of the library's choice.
    Allocate,
    /// MPI_Win_create_dynamic, with memory of the program attached.
    Dynamic,
}

impl Creation {
    /// The MPI function.
    pub fn function(self) -> &'static str {
        match self {
            Creation::Create => "MPI_Win_create",
            Creation::Allocate => "MPI_Win_allocate",
            Creation::Dynamic => "MPI_Win_create_dynamic",
        }
    }
}

/// How an operation is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Synchronization {
    /// One lock for all rounds, MPI_Win_flush in each.
    Flush,
    /// One lock for all rounds, MPI_Win_flush_local in each.
    FlushLocal,
    /// MPI_Win_lock and MPI_Win_unlock in each round.
    Lock,
    /// MPI_Win_lock_all and MPI_Win_unlock_all in each round.
    LockAll,
    /// MPI_Win_post, start, complete and wait in each round.
    Pscw,
    /// MPI_Win_fence before and after the operations of each round.
    Fence,
}

impl Synchronization {
    /// The MPI functions.
    pub fn functions(self) -> &'static str {
        match self {
            Synchronization::Flush => "MPI_Win_flush",
            Synchronization::FlushLocal => "MPI_Win_flush_local",
            Synchronization::Lock => "MPI_Win_lock/unlock",
            Synchronization::LockAll => "MPI_Win_lock_all/unlock_all",
            Synchronization::Pscw => "MPI_Win_post/start/complete/wait",
            Synchronization::Fence => "MPI_Win_fence",
        }
    }

    /// Whether the target takes part in every round.
    pub fn is_active_target(self) -> bool {
        matches!(self, Synchronization::Pscw | Synchronization::Fence)
    }

    /// Whether the origin holds one lock over all rounds.
    pub fn holds_lock(self) -> bool {
        matches!(self, Synchronization::Flush | Synchronization::FlushLocal)
    }
}

/// Memory that the other rank reads and writes, seen from one rank of a pair.
pub struct Window {
    handle: ffi::MPI_Win,
    base: NonNull<u8>,
    length_bytes: usize,
    /// The memory, unless the library allocated it. Freed after the window, which `Drop` frees.
    memory: Option<PageBuffer>,
    creation: Creation,
    byte: ffi::MPI_Datatype,
    peer: c_int,
    /// The peer alone, for post and start.
    peer_group: UserGroup,
    /// What a displacement is counted from: the peer's address when the window is dynamic.
    peer_base: ffi::MPI_Aint,
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window")
            .field("creation", &self.creation)
            .field("length_bytes", &self.length_bytes)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Window {
    /// Makes a window of `length_bytes` on every rank, whose operations go to `peer`. All ranks call it.
    pub fn new(
        session: &Session,
        peer: i32,
        creation: Creation,
        length_bytes: usize,
    ) -> Result<Self, BenchError> {
        let memory = match creation {
            Creation::Allocate => None,
            Creation::Create | Creation::Dynamic => {
                Some(PageBuffer::new(length_bytes, "the one-sided window"))
            }
        };
        let memory = session.agree(memory.transpose())?;
        let peer_group = session.world().group().include(&[peer]);
        // SAFETY: MPI is initialised while the session lives, so its constants are set.
        let (byte, null) = unsafe { (ffi::RSMPI_UINT8_T, ffi::RSMPI_WIN_NULL) };
        let mut window = Self {
            handle: null,
            base: memory.as_ref().map_or(NonNull::dangling(), PageBuffer::base),
            length_bytes,
            memory,
            creation,
            byte,
            peer,
            peer_group,
            peer_base: 0,
        };
        window.make(session);
        if creation == Creation::Dynamic {
            window.peer_base = window.exchange_addresses(session);
        }
        Ok(window)
    }

    fn make(&mut self, session: &Session) {
        let length = self.length_bytes as ffi::MPI_Aint;
        let memory = self.base.as_ptr().cast();
        let world = session.world().as_raw();
        // SAFETY: all ranks call the same function with the same communicator. The memory is `length` bytes
        // that this value owns and frees after the window. MPI_Win_allocate takes the address of a pointer
        // and stores one to `length` bytes there, which stay valid until the window is freed.
        unsafe {
            let info = ffi::RSMPI_INFO_NULL;
            match self.creation {
                Creation::Create => {
                    check(
                        ffi::MPI_Win_create(memory, length, 1, info, world, &mut self.handle),
                        "MPI_Win_create",
                    );
                }
                Creation::Allocate => {
                    let mut base: *mut u8 = std::ptr::null_mut();
                    let slot = (&raw mut base).cast();
                    check(
                        ffi::MPI_Win_allocate(length, 1, info, world, slot, &mut self.handle),
                        "MPI_Win_allocate",
                    );
                    self.base = NonNull::new(base).expect("MPI_Win_allocate succeeded with memory");
                }
                Creation::Dynamic => {
                    check(
                        ffi::MPI_Win_create_dynamic(info, world, &mut self.handle),
                        "MPI_Win_create_dynamic",
                    );
                    check(ffi::MPI_Win_attach(self.handle, memory, length), "MPI_Win_attach");
                }
            }
        }
    }

    fn exchange_addresses(&self, session: &Session) -> ffi::MPI_Aint {
        let mut mine: ffi::MPI_Aint = 0;
        // SAFETY: only computes an address from a pointer.
        let code = unsafe { ffi::MPI_Get_address(self.base.as_ptr().cast(), &mut mine) };
        check(code, "MPI_Get_address");
        let mut all = vec![0; session.ranks() as usize];
        session.world().all_gather_into(&mine, &mut all[..]);
        all[self.peer as usize]
    }

    /// This rank's own memory in the window.
    pub fn span(&self) -> Span<'_> {
        // SAFETY: `base` holds `length_bytes` until the window is dropped, which the borrow prevents; nothing
        // makes references into it.
        unsafe { Span::from_raw(self.base, self.length_bytes) }
    }

    /// Opens an access to the peer's memory, runs `operate`, which starts operations, and completes them.
    ///
    /// With [`Synchronization::holds_lock`] the caller holds [`Self::lock_peer`] around all epochs.
    #[inline]
    pub fn epoch<'memory>(&self, sync: Synchronization, operate: impl FnOnce(&Epoch<'memory, '_>)) {
        without_unwinding(|| {
            self.open(sync);
            operate(&Epoch { window: self, memory: PhantomData });
            self.close(sync);
        });
    }

    #[inline]
    fn open(&self, sync: Synchronization) {
        match sync {
            Synchronization::Flush | Synchronization::FlushLocal => {}
            Synchronization::Lock => self.lock_peer(),
            // SAFETY: the window is live until `self` is dropped; the calls take no memory.
            Synchronization::LockAll => unsafe {
                check(ffi::MPI_Win_lock_all(0, self.handle), "MPI_Win_lock_all")
            },
            // SAFETY: as above, and the group is live as long as `self`.
            Synchronization::Pscw => unsafe {
                check(ffi::MPI_Win_start(self.peer_group.as_raw(), 0, self.handle), "MPI_Win_start");
            },
            Synchronization::Fence => self.fence(),
        }
    }

    #[inline]
    fn close(&self, sync: Synchronization) {
        match sync {
            Synchronization::Flush => self.flush(),
            // SAFETY: the window is live until `self` is dropped; the calls take no memory.
            Synchronization::FlushLocal => unsafe {
                check(ffi::MPI_Win_flush_local(self.peer, self.handle), "MPI_Win_flush_local");
            },
            Synchronization::Lock => self.unlock_peer(),
            // SAFETY: as above.
            Synchronization::LockAll => unsafe {
                check(ffi::MPI_Win_unlock_all(self.handle), "MPI_Win_unlock_all")
            },
            // SAFETY: as above.
            Synchronization::Pscw => unsafe { check(ffi::MPI_Win_complete(self.handle), "MPI_Win_complete") },
            Synchronization::Fence => self.fence(),
        }
    }

    /// The target's half of an epoch of the peer's: lets it in and returns when it is finished.
    #[inline]
    pub fn expose(&self, sync: Synchronization) {
        match sync {
            // SAFETY: the window and the group are live until `self` is dropped; the calls take no memory.
            Synchronization::Pscw => unsafe {
                check(ffi::MPI_Win_post(self.peer_group.as_raw(), 0, self.handle), "MPI_Win_post");
                check(ffi::MPI_Win_wait(self.handle), "MPI_Win_wait");
            },
            Synchronization::Fence => {
                self.fence();
                self.fence();
            }
            _ => {}
        }
    }

    /// One `MPI_Win_fence`.
    #[inline]
    pub fn fence(&self) {
        // SAFETY: the window is live until `self` is dropped; the call takes no memory.
        check(unsafe { ffi::MPI_Win_fence(0, self.handle) }, "MPI_Win_fence");
    }

    /// `MPI_Win_flush` of operations to the peer, inside [`Self::lock_peer`].
    #[inline]
    pub fn flush(&self) {
        // SAFETY: the window is live until `self` is dropped; the call takes no memory.
        check(unsafe { ffi::MPI_Win_flush(self.peer, self.handle) }, "MPI_Win_flush");
    }

    /// Shared lock of the peer's memory.
    #[inline]
    pub fn lock_peer(&self) {
        self.lock(self.peer);
    }

    /// Ends [`Self::lock_peer`], all operations complete.
    #[inline]
    pub fn unlock_peer(&self) {
        self.unlock(self.peer);
    }

    /// Shared lock of `rank`'s memory; a target locks its own to look at it with [`Self::sync`].
    #[inline]
    pub fn lock(&self, rank: i32) {
        let shared = ffi::MPI_LOCK_SHARED as c_int;
        // SAFETY: the window is live until `self` is dropped; the call takes no memory.
        check(unsafe { ffi::MPI_Win_lock(shared, rank, 0, self.handle) }, "MPI_Win_lock");
    }

    /// Ends [`Self::lock`].
    #[inline]
    pub fn unlock(&self, rank: i32) {
        // SAFETY: the window is live until `self` is dropped; the call takes no memory.
        check(unsafe { ffi::MPI_Win_unlock(rank, self.handle) }, "MPI_Win_unlock");
    }

    /// `MPI_Win_sync`: what this rank and others wrote to its memory becomes one, inside [`Self::lock`].
    pub fn sync(&self) {
        // SAFETY: the window is live until `self` is dropped; the call takes no memory.
        check(unsafe { ffi::MPI_Win_sync(self.handle) }, "MPI_Win_sync");
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: every epoch is closed, all ranks free their windows at the same point, and the memory is
        // dropped after this, as a field. Attached memory is detached first, as MPI wants.
        unsafe {
            if self.creation == Creation::Dynamic {
                let memory = self.base.as_ptr().cast_const().cast();
                check(ffi::MPI_Win_detach(self.handle, memory), "MPI_Win_detach");
            }
            check(ffi::MPI_Win_free(&mut self.handle), "MPI_Win_free");
        }
        // The window is gone, so the peer can no longer reach what is freed here.
        drop(self.memory.take());
    }
}

/// An open access to the peer's memory.
#[derive(Debug)]
pub struct Epoch<'memory, 'window> {
    window: &'window Window,
    /// Invariant: operations need memory for as long as the caller of [`Window::epoch`] promised, not shorter.
    memory: PhantomData<Cell<&'memory ()>>,
}

impl<'memory> Epoch<'memory, '_> {
    /// `MPI_Put` of `origin` at `offset_bytes` of the peer's memory.
    #[inline]
    pub fn put(&self, origin: Span<'memory>, offset_bytes: usize) {
        let (Window { handle, byte, peer, peer_base, .. }, count) = (self.window, count_of(origin));
        let target = peer_base + offset_bytes as ffi::MPI_Aint;
        // SAFETY: `origin` is valid for `'memory`, which outlives the epoch that completes the operation; MPI
        // checks the target range against the peer's window.
        let code =
            unsafe { ffi::MPI_Put(origin.as_ptr(), count, *byte, *peer, target, count, *byte, *handle) };
        check(code, "MPI_Put");
    }

    /// `MPI_Get` from `offset_bytes` of the peer's memory into `origin`.
    #[inline]
    pub fn get(&self, origin: Span<'memory>, offset_bytes: usize) {
        let (Window { handle, byte, peer, peer_base, .. }, count) = (self.window, count_of(origin));
        let target = peer_base + offset_bytes as ffi::MPI_Aint;
        // SAFETY: as in `put`.
        let code =
            unsafe { ffi::MPI_Get(origin.as_mut_ptr(), count, *byte, *peer, target, count, *byte, *handle) };
        check(code, "MPI_Get");
    }
}
