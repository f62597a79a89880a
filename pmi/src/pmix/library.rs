//! Which library speaks with this server.

use std::path::Path;

use crate::environment::Environment;

/// The version in the name is the library's interface, not PMIx's.
const FILE: &str = "libpmix.so.2";
/// What to load instead, for a library that the loader does not find by itself.
const OVERRIDE: &str = "IRONBAND_PMIX_LIBRARY";
/// Where Open MPI 5 says that its libraries are, among them the PMIx that its launcher was built with. Another version of the system
/// would do, but the launcher then complains of every process.
const OPEN_MPI: &str = "OMPI_LIBDIR_LOC";

/// A path, or a name for the loader to look for.
pub(crate) fn library(environment: &Environment) -> String {
    if let Some(library) = environment.get(OVERRIDE) {
        return library.to_owned();
    }
    let beside = environment.get(OPEN_MPI).map(|folder| Path::new(folder).join("openmpi").join(FILE));
    match beside.filter(|path| path.exists()) {
        Some(path) => path.display().to_string(),
        None => FILE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launchers_own_library_comes_before_the_systems() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().display().to_string();
        let environment = Environment::of(&[(OPEN_MPI, &told)]);
        assert_eq!(library(&environment), FILE, "there is none");
        std::fs::create_dir(folder.path().join("openmpi")).unwrap();
        std::fs::write(folder.path().join("openmpi").join(FILE), "").unwrap();
        assert_eq!(library(&environment), format!("{told}/openmpi/{FILE}"));
        let environment = Environment::of(&[(OPEN_MPI, &told), (OVERRIDE, "libother.so")]);
        assert_eq!(library(&environment), "libother.so");
        assert_eq!(library(&Environment::default()), FILE);
    }
}
