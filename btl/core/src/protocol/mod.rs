//! The protocol of the Rust API's messages, above the fabrics: which receive a message belongs to, how much a peer may send
//! unasked, and whether a message is the next one. Under Open MPI, ob1 does all of this and nothing here runs.

pub mod credit;
pub mod matching;
pub mod sequence;
