//! One-sided communication: memory that a process exposes, and that others read, write and change by atomics.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

use ironband_fabric::{Access, AtomicOp, AtomicWidth, ReadHint};

use super::access::{self, AccessGuard, AccessRequest};
use super::devices::Registered;
use super::state::Link;
use super::{Buffer, BufferMut, Context, Error};

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
    /// ```
    /// # use ironband::{Context, Error, MemoryKey};
    /// # let context = Context::open()?;
    /// let exposed = context.expose(vec![0_u8; 4])?;
    /// let mut bytes = exposed.key().as_bytes().to_vec();
    /// assert_eq!(MemoryKey::from_bytes(&bytes)?, exposed.key());
    /// bytes[8..24].fill(0xff);
    /// assert!(matches!(MemoryKey::from_bytes(&bytes), Err(Error::Key { .. })));
    /// assert!(MemoryKey::from_bytes(b"nonsense").is_err());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Key`] when they are none of a key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |reason| Err(Error::Key { reason });
        match bytes {
            [KEY_VERSION, devices, ..] => {
                if bytes.len() != KEY_HEAD_BYTES + usize::from(*devices) * KEY_ENTRY_BYTES {
                    return wrong("its length is not what it says");
                }
                let key = Self(bytes.to_vec());
                match key.word(8).checked_add(key.word(16)) {
                    Some(_) => Ok(key),
                    None => wrong("its memory would go beyond the last address"),
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
/// Others may change it at any time, so it is not borrowed: [`Exposed::read`] and [`Exposed::write`] copy.
///
/// **Before it is dropped, or taken back, the program has to see to it that the others are done**, as for every one-sided
/// communication, for example by a barrier. An access that comes later is refused by adapters, and atomics are everywhere; but puts and
/// gets inside a node, which the kernel copies, then go to whatever is at that address.
pub struct Exposed<'c, B: BufferMut> {
    context: &'c Context,
    registrations: Vec<Registered>,
    buffer: ManuallyDrop<B>,
    start: *mut u8,
    len_bytes: usize,
}

impl Context {
    /// Exposes memory to all processes of the job that have its key. Atomics want offsets that are multiples of 8, and memory that begins
    /// at one, as that of a `Vec<u64>` does.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let exposed = context.expose(vec![0_u64; 4])?;
    /// exposed.store(8, 41)?;
    /// let memory = context.endpoint(context.rank())?.memory(&exposed.key())?;
    /// assert_eq!(memory.fetch_add(8, 1)?, 41);
    /// assert_eq!(exposed.load(8)?, 42);
    /// assert_eq!(exposed.into_inner(), [0, 42, 0, 0]);
    /// # Ok::<(), ironband::Error>(())
    /// ```
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

    /// Copies as many bytes as `to` has from the memory, from `offset` bytes on.
    ///
    /// # Errors
    /// [`Error::Range`] for bytes outside the memory.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        check_range(offset as u64, to.len() as u64, self.len_bytes as u64, 1)?;
        // SAFETY: in range; others may write meanwhile, so it is copied raw.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies all of `from` to the memory, from `offset` bytes on.
    ///
    /// # Errors
    /// [`Error::Range`] for bytes outside the memory.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        check_range(offset as u64, from.len() as u64, self.len_bytes as u64, 1)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.add(offset), from.len()) };
        Ok(())
    }

    /// The 8 bytes at an offset (in bytes), as a number that others change by atomics.
    ///
    /// # Errors
    /// [`Error::Range`] when they are outside the memory, or not at a multiple of 8.
    pub fn load(&self, offset: usize) -> Result<u64, Error> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Sets the 8 bytes at an offset. An atomic of another process at the same time may win: a number that is counted by others is
    /// set before they have the key.
    ///
    /// # Errors
    /// As [`Exposed::load`].
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
            self.context.deregister(registered);
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

/// Memory that another process, or this one, has exposed. Offsets and lengths are in bytes.
///
/// A blocking access has ended when its call returns; those that requests were made for end in any order.
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

    /// Writes `from` to the memory, `offset` bytes from its start, and waits until the other process can see it. Makes progress.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let exposed = context.expose(vec![0_u8; 16])?;
    /// let memory = context.endpoint(context.rank())?.memory(&exposed.key())?;
    /// memory.put(4, b"salt")?;
    /// let mut back = [0; 4];
    /// memory.get(4, &mut back)?;
    /// assert_eq!(&back, b"salt");
    /// assert!(memory.put(13, b"salt").is_err(), "that is beyond its end");
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`] for bytes outside the memory; [`Error::PeerLost`]; [`Error::Access`] when the other process or its adapter refuses it,
    /// as they do when the memory is not exposed any more; [`Error::Register`] when `from` cannot be registered.
    pub fn put(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        // SAFETY: `from` is borrowed until the access has ended, which the guard waits for.
        match unsafe { self.begin_put(offset, from.as_ptr(), from.len()) }? {
            Some(guard) => guard.end(),
            None => Ok(()),
        }
    }

    /// Reads as many bytes as `to` has, `offset` bytes from the start of the memory. What the other process, or a third one, writes
    /// meanwhile may be there in part. Makes progress.
    ///
    /// # Errors
    /// As [`RemoteMemory::put`].
    pub fn get(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        // SAFETY: as in `put`.
        match unsafe { self.begin_get(offset, to.as_mut_ptr(), to.len()) }? {
            Some(guard) => guard.end(),
            None => Ok(()),
        }
    }

    /// Begins to write `from`, which the request owns and gives back. Waits for room if too much is under way. Accesses under way
    /// have no order: to write a flag behind data, wait for the data or [`RemoteMemory::flush`] first.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let exposed = context.expose(vec![0_u64; 1000])?;
    /// let memory = context.endpoint(context.rank())?.memory(&exposed.key())?;
    /// let request = memory.start_put(80, vec![7_u64; 100])?;
    /// // ... compute ...
    /// let numbers = request.wait()?;
    /// assert_eq!((numbers.len(), exposed.load(80)?), (100, 7));
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Register`]; the others come when it is waited for. The buffer is dropped then.
    pub fn start_put<B: Buffer>(&self, offset: u64, from: B) -> Result<AccessRequest<'c, B>, Error> {
        let start = |buffer: &mut B| {
            // SAFETY: the buffer stays where it is, as its type promises, and the request keeps it until the access has ended, leaves
            // it to the context, or leaks it.
            unsafe { self.begin_put(offset, buffer.as_ptr(), buffer.len_bytes()) }
        };
        AccessRequest::start(self.context, from, start)
    }

    /// Begins to read as many bytes as `to` has. The request owns the buffer, and gives it back.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let exposed = context.expose((0..1000).collect::<Vec<u64>>())?;
    /// let memory = context.endpoint(context.rank())?.memory(&exposed.key())?;
    /// let request = memory.start_get(80, vec![0_u64; 3])?;
    /// assert_eq!(request.wait()?, [10, 11, 12]);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`RemoteMemory::start_put`].
    pub fn start_get<B: BufferMut>(&self, offset: u64, to: B) -> Result<AccessRequest<'c, B>, Error> {
        let start = |buffer: &mut B| {
            // SAFETY: as in `start_put`.
            unsafe { self.begin_get(offset, buffer.as_mut_ptr(), buffer.len_bytes()) }
        };
        AccessRequest::start(self.context, to, start)
    }

    /// Waits until all accesses of this process to memory of the same process have ended, those whose requests were dropped or
    /// forgotten included: what was put can be seen there then.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let exposed = context.expose(vec![0_u64; 1000])?;
    /// let memory = context.endpoint(context.rank())?.memory(&exposed.key())?;
    /// for at in 0..10 {
    ///     drop(memory.start_put(at * 800, vec![at; 100])?);
    /// }
    /// memory.flush()?;
    /// assert_eq!(exposed.load(7992)?, 9);
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::PeerLost`]. Other failures are told by the requests.
    pub fn flush(&self) -> Result<(), Error> {
        let rank = self.rank;
        self.context.wait_until(|state| state.accesses_under_way(rank) == 0);
        let state = self.context.state.borrow();
        if state.protocol.is_lost(rank) {
            return Err(Error::PeerLost { rank, reason: state.loss(rank) });
        }
        Ok(())
    }

    /// # Safety
    /// The memory stays readable, and nobody writes to it, until the access has ended.
    unsafe fn begin_put(
        &self,
        offset: u64,
        start: *const u8,
        len_bytes: usize,
    ) -> Result<Option<AccessGuard<'c>>, Error> {
        let remote = self.at(offset, len_bytes, 1)?;
        if len_bytes == 0 {
            return Ok(None);
        }
        // SAFETY: as promised by the caller.
        let registered = unsafe { self.register_local(start.cast_mut(), len_bytes) }?;
        let Link { device, qp } = self.link;
        let device = &self.context.devices[device];
        Ok(Some(access::begin(self.context, self.rank, registered, |id, own| {
            // SAFETY: as promised by the caller; the registration is kept until the access has ended.
            unsafe { device.put(qp, id, start, own.map(|own| &own.registration), remote, len_bytes) }
        })))
    }

    /// # Safety
    /// The memory stays writable, and nobody else touches it, until the access has ended.
    unsafe fn begin_get(
        &self,
        offset: u64,
        start: *mut u8,
        len_bytes: usize,
    ) -> Result<Option<AccessGuard<'c>>, Error> {
        let remote = self.at(offset, len_bytes, 1)?;
        if len_bytes == 0 {
            return Ok(None);
        }
        // SAFETY: as promised by the caller.
        let registered = unsafe { self.register_local(start, len_bytes) }?;
        let Link { device, qp } = self.link;
        let (device, hint) = (&self.context.devices[device], ReadHint::OwnerMayBeAway);
        Ok(Some(access::begin(self.context, self.rank, registered, |id, own| {
            // SAFETY: as in `begin_put`.
            unsafe { device.get(qp, id, start, own.map(|own| &own.registration), remote, len_bytes, hint) }
        })))
    }

    /// Adds to the 8 bytes at an offset, wrapping, and gives what was there before; see [`Context::expose`].
    ///
    /// # Errors
    /// As [`RemoteMemory::put`], and [`Error::Range`] for offsets that are no multiples of 8.
    pub fn fetch_add(&self, offset: u64, value: u64) -> Result<u64, Error> {
        self.atomic(offset, AtomicOp::FetchAdd(value))
    }

    /// Replaces the 8 bytes at an offset by `swap` if they are `compare`, and gives what was there before: it has succeeded if that
    /// is `compare`.
    ///
    /// ```
    /// # let context = ironband::Context::open()?;
    /// let exposed = context.expose(vec![5_u64])?;
    /// let memory = context.endpoint(context.rank())?.memory(&exposed.key())?;
    /// assert_eq!(memory.compare_swap(0, 5, 6)?, 5);
    /// assert_eq!(memory.compare_swap(0, 5, 7)?, 6);
    /// assert_eq!(exposed.load(0)?, 6);
    /// assert!(memory.compare_swap(4, 0, 0).is_err(), "no multiple of 8");
    /// # Ok::<(), ironband::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`RemoteMemory::fetch_add`].
    pub fn compare_swap(&self, offset: u64, compare: u64, swap: u64) -> Result<u64, Error> {
        self.atomic(offset, AtomicOp::CompareSwap { compare, swap })
    }

    /// Any atomic on the 8 bytes at an offset; gives what was there before.
    ///
    /// # Errors
    /// As [`RemoteMemory::fetch_add`].
    pub fn atomic(&self, offset: u64, op: AtomicOp) -> Result<u64, Error> {
        let remote = self.at(offset, 8, 8)?;
        let mut before = 0_u64;
        let result: *mut u8 = (&raw mut before).cast();
        let guard = access::begin(self.context, self.rank, None, |id, _| {
            let device = &self.context.devices[self.link.device];
            // SAFETY: `before` lives until the access has ended, which the guard waits for.
            unsafe { device.atomic(self.link.qp, id, result, remote, op, AtomicWidth::Eight) }
        });
        guard.end()?;
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
}
