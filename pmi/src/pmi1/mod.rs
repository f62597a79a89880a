//! PMI-1.1: lines of text over a socket. [`client`] is a process's side, [`server`] a launcher's.

pub(crate) mod client;
#[cfg(test)]
mod client_tests;
pub(crate) mod server;
