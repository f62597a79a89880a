//! A job of MPI's.

use mpi::{
    Threading,
    collective::SystemOperation,
    datatype::PartitionMut,
    environment::Universe,
    topology::{Process, SimpleCommunicator},
    traits::*,
};

/// What OMPI_MCA_ variables say about the transport, which the benchmark itself cannot ask.
const TRANSPORT_VARIABLES: [&str; 3] = ["OMPI_MCA_pml", "OMPI_MCA_btl", "OMPI_MCA_osc"];

/// MPI, initialised; finalised when dropped.
pub(super) struct Job {
    world: SimpleCommunicator,
    provided: Threading,
    // Last, because dropping it finalises MPI and nothing may follow.
    _universe: Universe,
}

/// What Open MPI was told about its transport.
pub(super) fn transport() -> String {
    let told: Vec<String> = transport_environment().map(|(name, value)| format!("{name}={value}")).collect();
    if told.is_empty() { "default transport".to_owned() } else { told.join(" ") }
}

/// The variables that say so.
pub(super) fn transport_environment() -> impl Iterator<Item = (String, String)> {
    TRANSPORT_VARIABLES.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
}

impl Job {
    /// Also the name and version of the library.
    pub(super) fn start(threading: Threading) -> (Self, String) {
        let (universe, provided) =
            mpi::initialize_with_threading(threading).expect("MPI is started once, here");
        let world = universe.world();
        let library = mpi::environment::library_version().unwrap_or_default();
        // Open MPI's sentence goes on with the builder's host and dates.
        let library = library.split([',', '\n', '\0']).next().unwrap_or_default().trim().to_owned();
        (Self { world, provided, _universe: universe }, library)
    }

    /// This rank, and how many there are.
    pub(super) fn place(&self) -> (i32, i32) {
        (self.world.rank(), self.world.size())
    }

    pub(super) fn provided(&self) -> Threading {
        self.provided
    }

    pub(super) fn world(&self) -> &SimpleCommunicator {
        &self.world
    }

    pub(super) fn barrier(&self) {
        self.world.barrier();
    }

    fn root(&self) -> Process<'_> {
        self.world.process_at_rank(0)
    }

    /// Sum over all ranks, on rank 0; 0 elsewhere.
    pub(super) fn sum_at_root(&self, value: f64) -> f64 {
        let mut sum = 0.0;
        if self.world.rank() == 0 {
            self.root().reduce_into_root(&value, &mut sum, SystemOperation::sum());
        } else {
            self.root().reduce_into(&value, SystemOperation::sum());
        }
        sum
    }

    /// Samples of all ranks, one rank's behind the other's, on rank 0; empty elsewhere.
    pub(super) fn gather_at_root(&self, samples: &[f64]) -> Vec<f64> {
        let count = i32::try_from(samples.len()).expect("-i bounds the samples");
        if self.world.rank() != 0 {
            self.root().gather_into(&count);
            self.root().gather_varcount_into(samples);
            return Vec::new();
        }
        let mut counts = vec![0; self.world.size() as usize];
        self.root().gather_into_root(&count, &mut counts[..]);
        let starts: Vec<i32> = counts
            .iter()
            .scan(0_i32, |end, &count| {
                let start = *end;
                *end = end.checked_add(count).expect("-i bounds the samples");
                Some(start)
            })
            .collect();
        let total: i32 = counts.iter().sum();
        let mut all = vec![0.0; total as usize];
        self.root().gather_varcount_into_root(samples, &mut PartitionMut::new(&mut all[..], counts, starts));
        all
    }

    /// The lowest rank that has something to say and what it says, told to every rank.
    pub(super) fn first_word(&self, word: Option<&str>) -> Option<(i32, String)> {
        let mine = if word.is_some() { self.world.rank() } else { i32::MAX };
        let mut speaker = i32::MAX;
        self.world.all_reduce_into(&mine, &mut speaker, SystemOperation::min());
        if speaker == i32::MAX {
            return None;
        }
        let mut text = word.filter(|_| speaker == self.world.rank()).unwrap_or_default().as_bytes().to_vec();
        let mut length = text.len() as u64;
        let process = self.world.process_at_rank(speaker);
        process.broadcast_into(&mut length);
        text.resize(length as usize, 0);
        process.broadcast_into(&mut text[..]);
        Some((speaker, String::from_utf8_lossy(&text).into_owned()))
    }
}
