//! The transport under test, and how `mpirun` is told to use it and nothing else.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// What Open MPI loads for Ironband.
const COMPONENT_FILE: &str = "mca_btl_ironband.so";

/// A byte transfer layer to run the programs over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Ironband, from the given folder.
    Ironband {
        /// The folder that holds the component.
        component_dir: PathBuf,
        /// Where Open MPI's own components are: naming a folder of one's own replaces the default.
        system_dir: PathBuf,
    },
    /// One of Open MPI's own, by its name.
    OpenMpi(String),
}

impl Transport {
    /// The transport that the environment names; an error says what to set.
    pub fn from_environment() -> Result<Self> {
        match env::var("IRONBAND_TEST_BTL") {
            Ok(name) if !name.is_empty() && name != "ironband" => {
                ensure!(
                    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
                    "IRONBAND_TEST_BTL={name:?} is not the name of one transport, such as vader"
                );
                Ok(Self::OpenMpi(name))
            }
            _ => Self::ironband(),
        }
    }

    fn ironband() -> Result<Self> {
        let Some(dir) = env::var_os("IRONBAND_COMPONENT_DIR").filter(|dir| !dir.is_empty()) else {
            bail!(
                "IRONBAND_COMPONENT_DIR is not set: run ci/test, which builds the component and sets it (or set it to \
                 the folder that holds {COMPONENT_FILE}, or IRONBAND_TEST_BTL=vader to try the tests themselves)"
            );
        };
        let component_dir = Path::new(&dir).canonicalize().with_context(|| {
            format!("IRONBAND_COMPONENT_DIR={dir:?} is no folder: run ci/test, which builds it")
        })?;
        ensure!(
            component_dir.join(COMPONENT_FILE).is_file(),
            "IRONBAND_COMPONENT_DIR={} holds no {COMPONENT_FILE}: run ci/test, which builds it",
            component_dir.display()
        );
        Ok(Self::Ironband { component_dir, system_dir: system_components()? })
    }

    /// True if this is Ironband rather than something to compare the tests with.
    pub fn is_ironband(&self) -> bool {
        matches!(self, Self::Ironband { .. })
    }

    /// The name that `--mca btl` takes.
    pub fn name(&self) -> &str {
        match self {
            Self::Ironband { .. } => "ironband",
            Self::OpenMpi(name) => name,
        }
    }

    /// Arguments of `mpirun` that make Open MPI find this transport and allow it these, and no other: `btls` is the
    /// value of the parameter `btl`.
    pub fn mpirun_args(&self, btls: &str) -> Vec<String> {
        let mut args = Vec::new();
        let mut mca = |name: &str, value: String| args.extend(["--mca".to_owned(), name.to_owned(), value]);
        if let Self::Ironband { component_dir, system_dir } = self {
            let path = format!("{}:{}", component_dir.display(), system_dir.display());
            mca("mca_base_component_path", path);
            // A component that cannot be loaded is otherwise skipped without a word.
            mca("mca_base_component_show_load_errors", "1".to_owned());
        }
        mca("pml", "ob1".to_owned());
        mca("btl", btls.to_owned());
        args
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ironband { component_dir, .. } => write!(f, "ironband from {}", component_dir.display()),
            Self::OpenMpi(name) => write!(f, "Open MPI's own {name}, NOT ironband"),
        }
    }
}

/// Where this machine's Open MPI keeps its components, as Open MPI itself says it.
fn system_components() -> Result<PathBuf> {
    let output = Command::new("ompi_info")
        .args(["--parsable", "--path", "pkglibdir"])
        .output()
        .context("ompi_info cannot be run: Open MPI is not installed, or not in PATH")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let dir = text.lines().find_map(|line| line.strip_prefix("path:pkglibdir:")).with_context(|| {
        format!("ompi_info --parsable --path pkglibdir names no folder, it says: {text:?}")
    })?;
    // A folder without ob1 would leave MPI_Init without a way to send.
    ensure!(
        Path::new(dir).join("mca_pml_ob1.so").is_file(),
        "{dir}, which ompi_info names, holds no mca_pml_ob1.so: this Open MPI cannot load components"
    );
    Ok(PathBuf::from(dir))
}
