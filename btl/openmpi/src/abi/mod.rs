//! The C side: Open MPI's structures, the functions it calls and those it offers.
//!
//! `series` is the folder of the one series of Open MPI that this build serves; everything that differs between series
//! is in there, under names that are the same for all. To add a series, add a folder and a line here and in the build
//! script.
//!
//! # What holds for every unsafe block of these modules
//! - Open MPI hands a function of the module table the module that [`module::Module::create`] made, and an endpoint
//!   that `add_procs` gave out; both live until `btl_finalize`, after which Open MPI calls nothing but
//!   `component_progress` and `component_close`.
//! - Everything is reached through shared references; what changes is in atomics or in a [`one_at_a_time::OneAtATime`],
//!   and none of those is held while Open MPI's functions are called, because they call back into this module.

#![allow(
    clippy::missing_safety_doc,
    reason = "Open MPI alone calls the functions of its tables, by the contract above"
)]
#![allow(clippy::too_many_arguments, reason = "Open MPI chooses the signatures of its tables")]

mod backlog;
mod component;
mod endpoint;
mod fragment;
mod module;
mod modules;
mod one_at_a_time;
mod own_memory;
mod panics;
mod progress;
mod rdma;
mod registration;
mod runtime;
mod send;
mod variables;

#[cfg(open_mpi_series = "4.1")]
#[path = "v41/mod.rs"]
mod series;
