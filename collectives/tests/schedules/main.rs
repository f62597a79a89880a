//! The schedules of all ranks of an operation, run together in one thread against what MPI says that the operation does.
//! `world.rs` runs them; each other file has the operations that it is named after.

mod allgather;
mod allreduce;
mod alltoall;
mod barrier;
mod bcast;
mod cost;
mod gather;
mod hierarchy;
mod neighbour;
mod planned;
mod reduce;
mod reduce_scatter;
mod refused;
mod runs;
mod scan;
mod scatter;
mod world;
