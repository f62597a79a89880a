//! OSU-style MPI benchmarks.
