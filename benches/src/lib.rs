//! OSU-style point-to-point, one-sided and collective benchmarks, of MPI by rsmpi and of Ironband.
//!
//! Each binary in `src/bin` only says what it is called and names the routine it runs; everything else is here, once:
//!
//! | module | what it holds |
//! |---|---|
//! | [`options`] | command line, OSU's letters and defaults |
//! | [`sizes`], [`plan`] | which message sizes, how many rounds of each |
//! | [`memory`] | page-aligned memory that MPI and the program share, rings of slots in it |
//! | [`pattern`], [`stage`] | what `-c` and `--touch` do to the buffers between rounds |
//! | [`point_to_point`], [`rma`] | thin wrappers of the raw MPI calls the timed loops make |
//! | [`measure`] | the three timed loops: whole, sampled, staged |
//! | [`latency`], [`bandwidth`], [`threads`], [`one_sided`], [`collective`] | the benchmarks |
//! | [`session`], [`program`] | MPI start and end, agreement between ranks, exit status |
//! | [`statistics`], [`report`], [`progress`] | what is printed |
//!
//! `unsafe` lives in [`memory`], [`point_to_point`], [`rma`] and the part of [`collective`] that calls MPI.
#![deny(unsafe_code)]

pub mod bandwidth;
pub mod collective;
pub mod error;
pub mod latency;
pub mod measure;
#[allow(unsafe_code, reason = "owns the mapped memory that MPI reads and writes")]
pub mod memory;
pub mod one_sided;
pub mod options;
pub mod pattern;
pub mod plan;
#[allow(unsafe_code, reason = "calls MPI through its C interface")]
pub mod point_to_point;
pub mod program;
pub mod progress;
pub mod report;
#[allow(unsafe_code, reason = "calls MPI one-sided operations, which rsmpi does not wrap")]
pub mod rma;
pub mod session;
pub mod sizes;
pub mod stage;
pub mod statistics;
pub mod threads;
