//! Ironband: a byte transfer layer on RDMA verbs and shared memory.
//!
//! A [`Device`] is one open device of one fabric, shared by all threads of a process. It sends, puts and gets, and
//! [`Device::progress`] tells a [`Handler`] what arrived and what is done. Everything is dispatched statically over the
//! [`Fabric`](ironband_fabric::Fabric).
//!
//! ```
//! use ironband::{Completion, Config, Device, QueuePair, Handler, Job, Payload, Posted, Threads, WorkId};
//! use ironband_fabric::shm::Shm;
//! use std::cell::Cell;
//!
//! struct Count(Cell<usize>);
//! impl Handler for Count {
//!     fn received(&self, _from: QueuePair, imm: u32, payload: Payload) {
//!         assert_eq!((imm, payload.len()), (7, 5));
//!         self.0.set(self.0.get() + 1);
//!     }
//! }
//!
//! // One process sends to itself; another process would publish its address through its launcher.
//! let job = Job { local_ranks: 1, rank: 0 };
//! let device = Device::<Shm>::open("memfd", &Config::default(), &job, Threads::Single)?;
//! let peer = device.connect(device.address())?;
//! assert_eq!(device.send_short(peer, 7, b"head", b"!"), Posted::Complete);
//! let count = Count(Cell::new(0));
//! while count.0.get() == 0 {
//!     device.progress(&count);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(loom))]
mod context;
mod device;
mod lock;
mod patience;
pub mod rcache;
mod registrations;

#[cfg(all(feature = "mpi", not(loom)))]
pub use context::Mpi;
#[cfg(not(loom))]
pub use context::{
    ACTIVE_IDS_OWN, AccessRequest, Bootstrap, Buffer, BufferMut, Context, Directory, Endpoint, Error,
    Exposed, LIBRARY_TAG_BIT, Location, MemoryKey, Pattern, RawBuffer, ReceiveRequest, RemoteMemory, Scope,
    ScopedReceive, ScopedSend, SendRequest, simulated, simulated_at,
};
pub use device::{Device, Handler, QueuePair, Threads};
pub use ironband_core::config::{self, Config};
pub use ironband_core::partners;
pub use ironband_core::protocol::Received;
pub use ironband_core::wire::{addresses_of, encode_process_card};
pub use ironband_fabric::{
    Access, AtomicOp, AtomicScope, AtomicWidth, Capabilities, Completion, CompletionStatus, DeviceError, Job,
    Limits, Message, Payload, Posted, ReadHint, RegisterError, RemoteAddress, Unreachable, WorkId,
};
pub use rcache::unmap_events;
pub use registrations::Registration;
