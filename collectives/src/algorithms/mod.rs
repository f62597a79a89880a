//! One function for each algorithm: from a process's place and the sizes, which all processes know alike, to its
//! [`Schedule`](crate::schedule::Schedule). Each file names its source, its cost and when it is chosen.
//!
//! In the formulas p is the number of processes, q = ceil(log2 p), n the elements of a vector, m those of a block, alpha the time of a
//! message, beta that of an element, gamma that of combining one, g the gap between two messages.

pub mod allgather;
pub mod allreduce;
pub mod alltoall;
pub mod barrier;
pub mod bcast;
pub mod gather;
pub mod hierarchy;
pub mod neighbour;
pub mod reduce;
pub mod reduce_scatter;
pub mod scan;
pub mod scatter;
