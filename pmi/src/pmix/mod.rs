//! PMIx, through its library: the wire between that and its server has no specification and changes.
//!
//! The library's calls wait as long as they like, some of them without a way to bound that. So one thread makes them all, and
//! who asks waits for the answer until the deadline. A thread that never comes back ends with the process. [`ffi`] holds all
//! `unsafe` code.

mod client;
mod ffi;
mod library;

pub(crate) use client::Client;
pub(crate) use library::library;
