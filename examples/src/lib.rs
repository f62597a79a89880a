//! Small MPI programs in Rust, to copy from.
//!
//! They use the `mpi` crate (rsmpi) and nothing of Ironband: which transport carries their messages is chosen when
//! they are run, as for any other MPI program.
//!
//! | program | shows |
//! |---|---|
//! | `mpi_ring` | blocking send and receive, sizes from the command line, a result that every rank can check |
//! | `mpi_halo_exchange` | a Cartesian grid of ranks, non-blocking exchange of edges, gathering blocks of unlike sizes, and a check against a serial run |
//!
//! Build and run them:
//!
//! ```text
//! cargo build --release -p ironband-examples
//! mpirun -np 3 --mca btl ironband,self target/release/mpi_ring --bytes 100000 --laps 20
//! mpirun -np 4 --oversubscribe --mca btl ironband,self target/release/mpi_halo_exchange
//! ```
