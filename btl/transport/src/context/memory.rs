//! One-sided communication: memory that a process exposes, and that others read, write and change by atomics.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

use ironband_core::protocol::Handle;
use ironband_fabric::{Access, AtomicOp, AtomicWidth, CompletionStatus, Posted, ReadHint, WorkId};

use super::devices::{AnyDevice, Registered};
use super::state::{AccessState, InFlight, Link};
use super::{BufferMut, Context, Error};

/// What another process needs to reach memory that was exposed: opaque bytes, to be sent to it by a message.
///
/// ```text
///  0     1         2   8         16       24         then, for each device:
/// +-----+---------+---+---------+--------+        +--------+-----+
/// | ver | devices | 0 | address | length |        | fabric | key |   1 byte and 8
/// +-----+---------+---+---------+--------+        +--------+-----+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryKey(Vec<u8>);

const KEY_VERSION: u8 = 1;
const KEY_HEAD_BYTES: usize = 24;
const KEY_ENTRY_BYTES: usize = 9;

impl MemoryKey {
    /// The longest key, in bytes: a buffer of this length receives any.
    pub const BYTES_MAX: usize = KEY_HEAD_BYTES + u8::MAX as usize * KEY_ENTRY_BYTES;

    /// The bytes, to be sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From bytes that were received.
    ///
    /// # Errors
    /// [`Error::Key`] when they are none of a key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |reason| Err(Error::Key { reason });
        match bytes {
            [KEY_VERSION, devices, ..] => {
                if bytes.len() == KEY_HEAD_BYTES + usize::from(*devices) * KEY_ENTRY_BYTES {
                    Ok(Self(bytes.to_vec()))
                } else {
                    wrong("its length is not what it says")
                }
            }
            [] => wrong("it is empty"),
            _ => wrong("it has another version"),
        }
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("the length was checked"))
    }

    /// The keys for the devices of a fabric, in the order of the process that exposes.
    fn keys_of(&self, fabric: &str) -> Vec<u64> {
        let entries = self.0[KEY_HEAD_BYTES..].chunks_exact(KEY_ENTRY_BYTES);
        let of_fabric = entries.filter(|entry| entry[0] == code_of(fabric));
        of_fabric.map(|entry| u64::from_le_bytes(entry[1..].try_into().expect("nine bytes each"))).collect()
    }
}

/// A fabric in one byte.
fn code_of(fabric: &str) -> u8 {
    match fabric {
        "shm" => 1,
        "verbs" => 2,
        _ => 0,
    }
}

/// Memory of this process that others may read and write, as long as this value lives.
///
/// Others may change it at any time, so it is not borrowed: [`Exposed::read`] and [`Exposed::write`] copy. Before it is dropped the
/// program has to see to it that the others are done, as for every one-sided communication: an access that comes later is refused
/// where the device can, and otherwise finds other memory.
pub struct Exposed<'c, B: BufferMut> {
    context: &'c Context,
    registrations: Vec<Registered>,
    buffer: ManuallyDrop<B>,
    start: *mut u8,
    len_bytes: usize,
}

impl Context {
    /// Exposes memory to all processes of the job. Atomics want offsets that are multiples of 8, and memory that begins at one.
    ///
    /// # Errors
    /// [`Error::Register`] when a device or the process is out of what registration needs.
    pub fn expose<B: BufferMut>(&self, mut buffer: B) -> Result<Exposed<'_, B>, Error> {
        let (start, len_bytes) = (buffer.as_mut_ptr(), buffer.len_bytes());
        let mut exposed = Exposed {
            context: self,
            registrations: Vec::new(),
            buffer: ManuallyDrop::new(buffer),
            start,
            len_bytes,
        };
        for (device, open) in self.devices.iter().enumerate() {
            // SAFETY: the buffer stays where it is until it is deregistered, in `end`; a forgotten one stays for ever.
            let registration = unsafe { open.register(start, len_bytes, Access::ALL) }?;
            exposed.registrations.push(Registered { device, registration });
        }
        Ok(exposed)
    }
}

impl<B: BufferMut> Exposed<'_, B> {
    /// The key for others.
    pub fn key(&self) -> MemoryKey {
        let mut bytes = vec![KEY_VERSION, self.registrations.len() as u8, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&(self.start as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.len_bytes as u64).to_le_bytes());
        for Registered { device, registration } in &self.registrations {
            bytes.push(code_of(self.context.devices[*device].fabric()));
            bytes.extend_from_slice(&registration.key().to_le_bytes());
        }
        MemoryKey(bytes)
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len_bytes
    }

    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Copies from the memory.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        check_range(offset as u64, to.len() as u64, self.len_bytes as u64, 1)?;
        // SAFETY: in range; others may write meanwhile, so it is copied raw.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies to the memory.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        check_range(offset as u64, from.len() as u64, self.len_bytes as u64, 1)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.add(offset), from.len()) };
        Ok(())
    }

    /// The 8 bytes at an offset, as a number that others change by atomics.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn load(&self, offset: usize) -> Result<u64, Error> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Sets the 8 bytes at an offset.
    ///
    /// # Errors
    /// [`Error::Range`].
    pub fn store(&self, offset: usize, value: u64) -> Result<(), Error> {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }

    fn word(&self, offset: usize) -> Result<&AtomicU64, Error> {
        check_range(offset as u64, 8, self.len_bytes as u64, 8)?;
        if !(self.start as usize + offset).is_multiple_of(8) {
            return Err(Error::Range {
                offset: offset as u64,
                len_bytes: 8,
                memory_bytes: self.len_bytes as u64,
                rule: "the memory does not begin at a multiple of 8, which atomics need",
            });
        }
        // SAFETY: in range and aligned; the memory lives as long as `self`.
        Ok(unsafe { AtomicU64::from_ptr(self.start.add(offset).cast()) })
    }

    /// Ends the exposure and gives the buffer back.
    pub fn into_inner(mut self) -> B {
        self.deregister();
        let mut whole = ManuallyDrop::new(self);
        // SAFETY: taken once, because the value is not dropped any more.
        unsafe { ManuallyDrop::take(&mut whole.buffer) }
    }

    fn deregister(&mut self) {
        for registered in std::mem::take(&mut self.registrations) {
            self.context.deregister(Some(registered));
        }
    }
}

impl<B: BufferMut> Drop for Exposed<'_, B> {
    fn drop(&mut self) {
        self.deregister();
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.buffer) };
    }
}

fn check_range(offset: u64, len_bytes: u64, memory_bytes: u64, align: u64) -> Result<(), Error> {
    let range = |rule| Err(Error::Range { offset, len_bytes, memory_bytes, rule });
    match offset.checked_add(len_bytes) {
        Some(end) if end <= memory_bytes => {}
        _ => return range("it must lie inside"),
    }
    if offset.is_multiple_of(align) { Ok(()) } else { range("the offset must be a multiple of 8") }
}

/// Memory that another process has exposed.
#[derive(Clone, Copy)]
pub struct RemoteMemory<'c> {
    context: &'c Context,
    rank: u32,
    link: Link,
    address: u64,
    len_bytes: u64,
    key: u64,
}

impl std::fmt::Debug for RemoteMemory<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "RemoteMemory({} bytes of rank {})", self.len_bytes, self.rank)
    }
}

impl<'c> RemoteMemory<'c> {
    pub(super) fn new(context: &'c Context, rank: u32, key: &MemoryKey) -> Result<Self, Error> {
        let link = context.link(rank)?;
        let keys = key.keys_of(context.devices[link.device].fabric());
        let port = context.port_of_peer(rank, link)?;
        let &key_there = keys
            .get(port)
            .ok_or(Error::Key { reason: "it is not for the device that reaches that process" })?;
        Ok(Self { context, rank, link, address: key.word(8), len_bytes: key.word(16), key: key_there })
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.len_bytes
    }

    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Writes to the memory, and waits until the other process can see it.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::PeerLost`], [`Error::Access`].
    pub fn put(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        let remote = self.at(offset, from.len(), 1)?;
        if from.is_empty() {
            return Ok(());
        }
        let start = from.as_ptr();
        // SAFETY: `from` is borrowed until the access has ended, which `run` waits for.
        let registered = unsafe { self.register_local(start.cast_mut(), from.len()) }?;
        self.run(registered, |id, own| {
            let device = &self.context.devices[self.link.device];
            // SAFETY: as above; the registration is kept until the access has ended.
            unsafe {
                device.put(self.link.qp, id, start, own.map(|own| &own.registration), remote, from.len())
            }
        })
    }

    /// Reads from the memory.
    ///
    /// # Errors
    /// As [`RemoteMemory::put`].
    pub fn get(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        let remote = self.at(offset, to.len(), 1)?;
        if to.is_empty() {
            return Ok(());
        }
        let (start, len_bytes) = (to.as_mut_ptr(), to.len());
        // SAFETY: as in `put`.
        let registered = unsafe { self.register_local(start, len_bytes) }?;
        self.run(registered, |id, own| {
            let device = &self.context.devices[self.link.device];
            let hint = ReadHint::OwnerMayBeAway;
            // SAFETY: as in `put`.
            unsafe {
                device.get(self.link.qp, id, start, own.map(|own| &own.registration), remote, len_bytes, hint)
            }
        })
    }

    /// Adds to the 8 bytes at an offset, wrapping, and gives what was there before.
    ///
    /// # Errors
    /// As [`RemoteMemory::put`].
    pub fn fetch_add(&self, offset: u64, value: u64) -> Result<u64, Error> {
        self.atomic(offset, AtomicOp::FetchAdd(value))
    }

    /// Replaces the 8 bytes at an offset by `swap` if they are `compare`, and gives what was there before.
    ///
    /// # Errors
    /// As [`RemoteMemory::put`].
    pub fn compare_swap(&self, offset: u64, compare: u64, swap: u64) -> Result<u64, Error> {
        self.atomic(offset, AtomicOp::CompareSwap { compare, swap })
    }

    /// Any atomic on the 8 bytes at an offset; gives what was there before.
    ///
    /// # Errors
    /// As [`RemoteMemory::put`].
    pub fn atomic(&self, offset: u64, op: AtomicOp) -> Result<u64, Error> {
        let remote = self.at(offset, 8, 8)?;
        let mut before = 0_u64;
        let result: *mut u8 = (&raw mut before).cast();
        self.run(None, |id, _| {
            let device = &self.context.devices[self.link.device];
            // SAFETY: `before` lives until the access has ended, which `run` waits for.
            unsafe { device.atomic(self.link.qp, id, result, remote, op, AtomicWidth::Eight) }
        })?;
        Ok(before)
    }

    fn at(&self, offset: u64, len_bytes: usize, align: u64) -> Result<ironband_fabric::RemoteAddress, Error> {
        check_range(offset, len_bytes as u64, self.len_bytes, align)?;
        let address = self
            .address
            .checked_add(offset)
            .ok_or(Error::Key { reason: "its memory ends behind the last address" })?;
        Ok(ironband_fabric::RemoteAddress { address, key: self.key })
    }

    /// # Safety
    /// The memory stays until the registration was given back.
    unsafe fn register_local(&self, start: *mut u8, len_bytes: usize) -> Result<Option<Registered>, Error> {
        let device = &self.context.devices[self.link.device];
        if !device.capabilities().registers_local_memory {
            return Ok(None);
        }
        // SAFETY: as promised by the caller.
        let registration = unsafe { device.register(start, len_bytes, Access::LOCAL) }?;
        Ok(Some(Registered { device: self.link.device, registration }))
    }

    /// Posts an access and waits for its end, also if a handler of the program panics meanwhile.
    fn run(
        &self,
        registered: Option<Registered>,
        post: impl Fn(WorkId, Option<&Registered>) -> Posted,
    ) -> Result<(), Error> {
        let context = self.context;
        let state = AccessState { rank: self.rank, is_posted: false, status: None, registration: registered };
        let access = context.state.borrow_mut().accesses.insert(state);
        let guard = AccessGuard { context, access };
        loop {
            let mut is_over = false;
            {
                let mut guard = context.state.borrow_mut();
                let state = &mut *guard;
                let id = state.in_flight.insert(InFlight::Access { access });
                let own = state.accesses.get(access).and_then(|access| access.registration.as_ref());
                let posted = post(WorkId(id.to_wire()), own);
                if posted != Posted::Queued {
                    state.in_flight.remove(id);
                }
                let status = match posted {
                    Posted::Queued => {
                        if let Some(access) = state.accesses.get_mut(access) {
                            access.is_posted = true;
                        }
                        break;
                    }
                    Posted::Busy => None,
                    Posted::Complete => Some(CompletionStatus::Success),
                    Posted::Failed => Some(CompletionStatus::Flushed),
                };
                if let (Some(access), Some(_)) = (state.accesses.get_mut(access), status) {
                    access.is_posted = true;
                    access.status = status;
                    is_over = true;
                }
            }
            context.progress();
            if is_over {
                // A loop of accesses that end at once must not keep others waiting for this process, and does not wait itself.
                context.devices.iter().for_each(AnyDevice::reset_patience);
                break;
            }
        }
        guard.end()
    }
}

/// An access that is waited for, whatever happens.
struct AccessGuard<'c> {
    context: &'c Context,
    access: Handle,
}

impl AccessGuard<'_> {
    fn end(self) -> Result<(), Error> {
        let Some(AccessState { rank, status, .. }) = self.wait() else { return Ok(()) };
        match status {
            Some(CompletionStatus::Success) | None => Ok(()),
            Some(CompletionStatus::Flushed) => {
                Err(Error::PeerLost { rank, reason: self.context.state.borrow().loss(rank) })
            }
            Some(status) => Err(Error::Access { rank, status }),
        }
    }

    /// Waits for the end; `None` if it was waited for before.
    fn wait(&self) -> Option<AccessState> {
        let is_over = |state: &super::State| {
            state.accesses.get(self.access).is_none_or(|access| access.status.is_some())
        };
        self.context.wait_until(is_over);
        let mut access = self.context.state.borrow_mut().accesses.remove(self.access)?;
        self.context.deregister(access.registration.take());
        Some(access)
    }
}

impl Drop for AccessGuard<'_> {
    fn drop(&mut self) {
        let is_posted =
            self.context.state.borrow().accesses.get(self.access).is_some_and(|access| access.is_posted);
        if is_posted {
            self.wait();
        } else {
            let access = self.context.state.borrow_mut().accesses.remove(self.access);
            self.context.deregister(access.and_then(|access| access.registration));
        }
    }
}
