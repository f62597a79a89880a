//! Small programs in Rust, to copy from.
//!
//! Those whose names begin with `mpi_` use the `mpi` crate (rsmpi) and nothing of Ironband: which transport carries their messages is
//! chosen when they are run, as for any other MPI program; only `mpi_with_ironband` uses both. The others use Ironband's own API, [`ironband::Context`], and no MPI: they
//! run under `ironband run`, under `mpirun` and other launchers, and most of them alone.
//!
//! | program | processes | shows |
//! |---|---|---|
//! | `hello` | 1 or more | the first program: who am I, a message, the end |
//! | `ring` | 1 or more | blocking send and receive; requests that own their buffers; how a failed process ends all |
//! | `ping_pong` | 2 | how long a message takes, by length: shortest, median, 99% |
//! | `counter` | 1 or more | memory that others reach: put, get, fetch-and-add, compare-and-swap, and what goes wrong without atomics |
//! | `halo_exchange` | 1 or more | a grid of processes, many requests at once, gathering blocks of unlike sizes, a picture |
//! | `key_value_store` | 1 or more | a hash table in the memory of all, read and written by one-sided calls; entries that change while they are read |
//! | `dot_product` | 1 or more | the first collective operation: `allreduce` |
//! | `sample_sort` | 1 or more | `allgather`, `alltoall`, and `alltoallv` and `gatherv` with counts that differ |
//! | `k_means` | 1 or more | `bcast`, and `allreduce` in place in each step of an iteration; a picture |
//! | `fft_transpose` | a power of two | a transposition by `alltoall`, of a type that the program has made |
//! | `mpi_ring` | 2 or more | blocking send and receive, sizes from the command line, a result that every rank can check |
//! | `mpi_halo_exchange` | 1 or more | a Cartesian grid of ranks, non-blocking exchange of edges, gathering blocks of unlike sizes |
//! | `mpi_with_ironband` | 1 or more | contexts of rsmpi communicators (cargo feature `mpi`), several at a time; Ironband's operations in an MPI program |
//!
//! Each checks its own result, and fails if it is wrong. Build and run them:
//!
//! ```text
//! cargo build --release -p ironband-cli -p ironband-examples
//! target/release/ironband run -n 4 target/release/halo_exchange --steps 500 --picture heat.png
//! mpirun -np 3 --mca btl ironband,self target/release/mpi_ring --bytes 100000 --laps 20
//! mpirun -np 4 --oversubscribe --mca btl ironband,self target/release/mpi_halo_exchange
//! mpirun -np 6 --oversubscribe target/release/mpi_with_ironband
//! ```
//!
//! [`together`] has two collectives made of messages, and [`plate`] what the two halo exchanges compute.

pub mod plate;
pub mod together;
