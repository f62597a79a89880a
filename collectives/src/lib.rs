//! MPI's collective operations over Ironband.
//!
//! A [`Communicator`] is made of an [`ironband::Context`]; its methods are the operations. Each operation is a
//! [`Schedule`](schedule::Schedule), made by a pure function of [`algorithms`]: who sends what to whom in which round, and what is combined. One executor
//! runs them all. Which algorithm is taken is said by a [`Table`].
//!
//! ```
//! use ironband::Context;
//! use ironband_collectives::{Communicator, operator::Sum};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let context = Context::open()?;
//!     let world = Communicator::world(&context)?;
//!     let mut total = [0.0];
//!     world.allreduce(&[f64::from(world.rank())], &mut total, Sum)?;
//!     println!("rank {} of {}: {}", world.rank(), world.size(), total[0]);
//!     drop(world);
//!     Ok(context.close()?)
//! }
//! ```
//!
//! *For those who come from MPI.* Operations have the names that MPI gives them, lengths are 64-bit numbers of elements, and each has a plan, which is
//! what the other kinds of calls begin with:
//!
//! | MPI | here | rsmpi |
//! |---|---|---|
//! | `MPI_Allreduce` | [`Communicator::allreduce`] | `all_reduce_into` |
//! | the same with `MPI_IN_PLACE` | [`Communicator::allreduce_in_place`] | |
//! | `MPI_Bcast` | [`Communicator::root`], [`Root::bcast`] | `process_at_rank`, `broadcast_into` |
//! | `MPI_Gather` at the root and elsewhere | [`Root::gather`], with an empty output elsewhere | `gather_into_root`, `gather_into` |
//! | `MPI_Iallreduce` | [`Communicator::plan_allreduce`], [`Plan::start`] with vectors, [`Plan::start_in`] with borrowed buffers | `immediate_all_reduce_into` |
//! | `MPI_Allreduce_init`, `MPI_Start` | [`Communicator::plan_allreduce`], [`Plan::with`], [`Persistent::start`] | |
//! | any of these with `MPI_IN_PLACE` | [`Plan::in_place`], then the same: [`InPlacePlan`] | |
//! | `MPI_SUM` and others, `MPI_Op_create` | [`operator`] | `SystemOperation`, `UserOperation` |
//! | `MPI_Comm_split`, `MPI_Comm_dup` | [`Communicator::split`], [`Communicator::duplicate`] | `split_by_color_with_key`, `duplicate` |
//! | `MPI_Comm_split_type` | [`Communicator::split_node`] | `split_shared` |
//! | `MPI_Neighbor_alltoallv` | [`Communicator::neighbour_exchange`] | |
//! | `MPIX_Comm_revoke`, `MPIX_Comm_shrink` | [`Communicator::revoke`], [`Communicator::shrink`] | |
//!
//! *Under way* an operation goes on while this process waits for something of any communicator that comes of the same [`Communicator::world`], or asks
//! [`Request::is_done`]; nothing goes on by itself. *A failure* ends the communicator for all of its processes ([`Communicator`], "Failure"): [`Error`] says what
//! it was, [`Communicator::shrink`] makes one of those that live, [`Communicator::set_limit`] bounds the waiting. *Tables*: `ironband tune` writes one, the
//! environment variable [`TABLE_VARIABLE`] names it, the same in all processes. *In an MPI program* `Context::from_mpi` (cargo feature `mpi`) makes
//! the context of an rsmpi communicator, and [`Communicator::world`] then has its processes and ranks: example `mpi_with_ironband`.
//!
//! Elements are of any type that is nothing but bytes ([`bytemuck::Pod`]), so a `bool` is not among them:
//!
//! ```compile_fail,E0277
//! # let context = ironband::Context::open().unwrap();
//! # let world = ironband_collectives::Communicator::world(&context).unwrap();
//! world.root(0).unwrap().bcast(&mut [true]).unwrap();
//! ```
//!
//! and an operator is for the types that it has a meaning for:
//!
//! ```compile_fail,E0277
//! # use ironband_collectives::operator::BitAnd;
//! # let context = ironband::Context::open().unwrap();
//! # let world = ironband_collectives::Communicator::world(&context).unwrap();
//! world.allreduce_in_place(&mut [1.5], BitAnd).unwrap();
//! ```

mod agreement;
pub mod algorithms;
mod alike;
mod buffers;
pub mod choose;
mod communicator;
pub mod cost;
mod engine;
mod error;
mod fate;
mod group;
mod hierarchy;
mod in_place;
mod memory;
pub mod operation;
mod operations;
pub mod operator;
mod plan;
mod planning;
pub mod reason;
mod request;
mod root;
mod run;
pub mod schedule;
mod scope;
mod shrink;
mod table;
pub mod topology;
mod tuning;

pub use communicator::Communicator;
pub use error::Error;
pub use in_place::{InPlacePersistent, InPlacePlan, InPlaceRequest};
pub use memory::Typed;
pub use plan::{Combining, Plan};
pub use request::{Persistent, Request};
pub use root::Root;
pub use scope::{Scope, ScopedRequest};
pub use shrink::Shrinking;
pub use table::{Row, Table};
pub use tuning::{Model, TABLE_VARIABLE, Tuning};
