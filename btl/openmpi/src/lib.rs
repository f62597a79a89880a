//! `mca_btl_ironband.so`: Ironband as a byte transfer layer (BTL) of Open MPI, chosen at `mpirun` like any other:
//! `mpirun --mca btl ironband,self ./program`.
//!
//! Open MPI's `ob1` owns matching and rendezvous; what it asks of a BTL is send, put, get and atomics on an endpoint,
//! so this crate binds at that level of the transport and adds no protocol of its own. The two short paths:
//! - send: `bml sendi -> send::sendi -> Device::send_short -> ring`
//! - receive: `opal_progress -> component::progress -> Device::progress -> deliver -> ob1's callback`
//!
//! `abi` is everything that faces C, and all the unsafe code; inside it one folder per series of Open MPI holds what
//! differs between the series (chosen by the build script). The other modules are plain data and decisions.

mod abi;
mod parameters;
mod slots;

/// The name that users select the component by.
const COMPONENT_NAME: &str = "ironband";
