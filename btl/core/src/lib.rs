//! Pure protocol of Ironband: limits, configuration, wire formats and decisions.
//!
//! No I/O, no clock, no threads, no unsafe code: everything here is a function of its arguments, so everything here is
//! tested without hardware.
#![forbid(unsafe_code)]

pub mod arbitration;
pub mod bandit;
pub mod config;
pub mod diagnosis;
pub mod gid;
pub mod handshake;
pub mod limits;
pub mod partners;
pub mod path;
pub mod ports;
pub mod protocol;
pub mod rank_table;
pub mod wire;
