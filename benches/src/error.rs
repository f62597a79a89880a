//! What can go wrong, each with the value and what to do about it.

/// A benchmark that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Started with a number of ranks it is not made for.
    #[error(
        "{program} needs {needed} ranks and was started with {started}; run it as `mpirun -np {example} {program}`"
    )]
    Ranks {
        /// Which benchmark.
        program: &'static str,
        /// The condition in words.
        needed: &'static str,
        /// A number that would do.
        example: i32,
        /// How many there are.
        started: i32,
    },
    /// An option that only this benchmark can judge.
    #[error("{option} {value}: {reason}")]
    Option {
        /// As it is typed.
        option: &'static str,
        /// What was given.
        value: String,
        /// The range, or what it conflicts with.
        reason: String,
    },
    /// The MPI library does not offer the thread level.
    #[error(
        "MPI_THREAD_MULTIPLE is needed and the MPI library offers {provided}; \
         use an MPI library built with thread support"
    )]
    ThreadLevel {
        /// What `MPI_Init_thread` returned.
        provided: String,
    },
    /// Ironband cannot join the job.
    #[error("{0}")]
    Ironband(#[from] ironband::Error),
    /// The ranks cannot come together.
    #[error("{0}")]
    Collectives(#[from] ironband_collectives::Error),
    /// This MPI lacks an operation.
    #[error(
        "{library} has no {call}: neither MPI 4's MPI_{call} nor the MPIX_{call} of Open MPI 4.1's extension pcollreq; \
         use another MPI library, or --impl ironband"
    )]
    Lacking {
        /// Which call, without the prefix.
        call: String,
        /// Name and version of the library.
        library: String,
    },
    /// MPI and Ironband do not agree on who this is.
    #[error(
        "this is rank {} of {} to MPI and rank {} of {} to Ironband; measure them one by one, with --impl mpi and --impl ironband",
        mpi.0, mpi.1, ironband.0, ironband.1
    )]
    Places {
        /// Rank and number of ranks.
        mpi: (i32, i32),
        /// As above.
        ironband: (i32, i32),
    },
    /// Two ranks cannot share memory.
    #[error(
        "--impl line: cannot share a cache line with rank {peer}: {source} (both ranks have to be on one node, and run by one user)"
    )]
    Line {
        /// The other rank.
        peer: i32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Buffers do not fit.
    #[error("cannot map {bytes} bytes for {purpose}: {source}; lower -m or -W")]
    Memory {
        /// How much was wanted.
        bytes: usize,
        /// What for.
        purpose: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A size beyond what one MPI call or one address space takes.
    #[error("{slots} messages of {size_bytes} bytes exceed the address space; lower -m or -W")]
    Overflow {
        /// Bytes of one message.
        size_bytes: usize,
        /// Messages in flight.
        slots: usize,
    },
    /// Threads that could not be started.
    #[error("cannot start thread {thread} of {threads}: {source}; lower -t")]
    Thread {
        /// Which one.
        thread: usize,
        /// Of how many.
        threads: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another rank failed; its own message.
    #[error("rank {rank}: {message}")]
    Peer {
        /// Who.
        rank: i32,
        /// What it said.
        message: String,
    },
    /// Standard output is gone.
    #[error("cannot write the results: {0}")]
    Output(#[from] std::io::Error),
}
