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

pub mod algorithms;
mod buffers;
mod choose;
mod communicator;
mod engine;
mod error;
mod fate;
mod group;
mod in_place;
mod memory;
mod operations;
pub mod operator;
mod plan;
mod planning;
mod request;
mod root;
mod run;
pub mod schedule;
mod scope;
mod shrink;

pub use choose::Table;
pub use communicator::Communicator;
pub use error::Error;
pub use in_place::{InPlacePersistent, InPlacePlan, InPlaceRequest};
pub use memory::Typed;
pub use plan::{Combining, Plan};
pub use request::{Persistent, Request};
pub use root::Root;
pub use scope::{Scope, ScopedRequest};
