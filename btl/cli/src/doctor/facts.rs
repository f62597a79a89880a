//! What `doctor` found, before anybody judges it. Everything here is plain data, so that the judgement can be
//! tested with machines that nobody has.

use crate::cross_memory::CrossMemory;
use crate::machine::Cores;
use crate::open_mpi::Parameter;
use crate::rdma::Rdma;
use serde::Serialize;
use std::path::PathBuf;

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Facts {
    /// How many ranks of this node the user wants to run.
    pub(crate) ranks: usize,
    pub(crate) mpirun: Mpirun,
    /// What `ompi_info` said, or why it said nothing.
    pub(crate) ompi_info: Result<OmpiInfo, String>,
    /// The files called like Ironband's component, in the order of the search.
    pub(crate) component_files: Vec<ComponentFile>,
    /// How many parameters the environment sets (`IRONBAND_*`), or why it cannot be used.
    pub(crate) parameters: Result<usize, String>,
    pub(crate) reservation: Reservation,
    /// The size of `/dev/shm`, or why it is unknown.
    pub(crate) dev_shm: Result<Space, String>,
    pub(crate) cross_memory: CrossMemory,
    pub(crate) namespaces: Namespaces,
    pub(crate) limits: Limits,
    pub(crate) cores: Cores,
    pub(crate) identity: Identity,
    /// The names below `/sys/class/infiniband`.
    pub(crate) rdma_devices: Vec<String>,
    /// What a rank would find out about them.
    pub(crate) rdma: Rdma,
}

/// The `mpirun` on `PATH`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum Mpirun {
    /// None, or one that does not run.
    Unusable {
        /// Why.
        reason: String,
    },
    /// One that answered.
    Found {
        path: PathBuf,
        /// The first line of `mpirun --version`.
        version_line: String,
    },
}

/// The parts of `ompi_info`'s answer that matter here.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OmpiInfo {
    pub(crate) version: Option<String>,
    /// Whether this build loads components at run time.
    pub(crate) loads_components: bool,
    /// Where it looks for them, in order.
    pub(crate) component_folders: Vec<PathBuf>,
    /// The BTLs it loaded.
    pub(crate) btls: Vec<String>,
    /// The PMLs it loaded.
    pub(crate) pmls: Vec<String>,
    /// How many parameters Ironband's component registered.
    pub(crate) ironband_parameters: usize,
    /// What it said about Ironband's component when it could not load it.
    pub(crate) load_errors: Vec<String>,
    /// The MCA parameter `btl`.
    pub(crate) btl_selection: Option<Parameter>,
    /// The MCA parameter `pml`.
    pub(crate) pml_selection: Option<Parameter>,
}

/// One `mca_btl_ironband.so`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ComponentFile {
    pub(crate) path: PathBuf,
    /// Whether the folder is one that Open MPI searches.
    pub(crate) searched: bool,
    /// What the file says it is, or why it could not be read.
    pub(crate) object: Result<SharedObject, String>,
}

/// The head of an ELF file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SharedObject {
    /// The instruction set, by Rust's name for it (`x86_64`).
    pub(crate) architecture: String,
    /// The libraries it wants (`DT_NEEDED`).
    pub(crate) needed: Vec<String>,
}

/// The shared memory of a rank, reserved and used for a trial: its control block and one ring.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Reservation {
    /// A message went through it.
    Worked { control_bytes: u64, ring_bytes: u64 },
    /// Why not, and what to do.
    Failed { message: String, fix: String },
}

/// A file system's size.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Space {
    pub(crate) size_bytes: u64,
    pub(crate) free_bytes: u64,
}

/// Which namespaces differ from the machine's first ones.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Namespaces {
    pub(crate) own_pids: bool,
    pub(crate) own_users: bool,
}

/// Resource limits: the soft one that binds and the hard one up to which a user may raise it; none is unlimited.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Limits {
    pub(crate) memlock_bytes: Limit,
    pub(crate) open_files: Limit,
}

/// One limit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Limit {
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

/// Who runs this.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    pub(crate) root: bool,
    /// Whether the environment lets `mpirun` run as root.
    pub(crate) root_consent: bool,
    /// Whether this looks like a container.
    pub(crate) container: bool,
}
