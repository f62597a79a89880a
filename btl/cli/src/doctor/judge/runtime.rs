//! Checks on Open MPI and on Ironband's place in it.

use crate::doctor::collect::COMPONENT_FILE;
use crate::doctor::facts::{ComponentFile, Facts, Mpirun, OmpiInfo};
use crate::doctor::report::Check;
use crate::open_mpi::{Parameter, ROOT_CONSENT, SUPPORTED_SERIES, opal_library_of, series_of, version_in};

const INSTALL: &str = "build and install it with ci/install";

pub(super) fn open_mpi(facts: &Facts) -> Check {
    const ID: &str = "open-mpi";
    let (major, minor) = SUPPORTED_SERIES;
    let (path, line) = match &facts.mpirun {
        Mpirun::Unusable { reason } => {
            return Check::failure(
                ID,
                reason,
                format!("install Open MPI {major}.{minor} and put its mpirun on PATH"),
            );
        }
        Mpirun::Found { path, version_line } => (path.display(), version_line),
    };
    let Some(version) = version_in(line) else {
        let fix = format!("put the mpirun of Open MPI {major}.{minor} first on PATH");
        return Check::failure(ID, format!("{path} is not Open MPI's: \"{line}\""), fix);
    };
    let info_version = match &facts.ompi_info {
        Err(reason) => {
            return Check::failure(
                ID,
                format!("{version} ({path}), but {reason}"),
                "repair that installation",
            );
        }
        Ok(info) => info.version.as_deref().unwrap_or("unknown"),
    };
    if info_version != version {
        let value = format!("mpirun is of {version} ({path}) and ompi_info of {info_version}");
        return Check::failure(ID, value, "two installations are mixed: put one of them first on PATH");
    }
    match series_of(version) {
        Some(SUPPORTED_SERIES) => Check::ok(ID, format!("{version} ({path}), series {major}.{minor}")),
        _ => Check::failure(
            ID,
            format!("{version} ({path}) is not of a supported series"),
            format!("use Open MPI {major}.{minor}: the BTL interface differs from series to series"),
        ),
    }
}

pub(super) fn component_file(facts: &Facts) -> Check {
    const ID: &str = "component-file";
    let mut searched = facts.component_files.iter().filter(|file| file.searched);
    let Some(file) = searched.next() else {
        return match facts.component_files.first() {
            Some(file) => {
                let folder = file.path.parent().unwrap_or(&file.path).display();
                let fix = format!(
                    "mca_base_component_path is set and leaves that folder out: unset it, or add {folder} to it"
                );
                Check::failure(ID, format!("{} lies where Open MPI does not look", file.path.display()), fix)
            }
            None => Check::failure(ID, format!("no {COMPONENT_FILE} where Open MPI looks"), INSTALL),
        };
    };
    let object = match &file.object {
        Err(reason) => return Check::failure(ID, format!("{} {reason}", file.path.display()), INSTALL),
        Ok(object) => object,
    };
    if object.architecture != std::env::consts::ARCH {
        let value = format!(
            "{} is for {}, this is {}",
            file.path.display(),
            object.architecture,
            std::env::consts::ARCH
        );
        return Check::failure(ID, value, INSTALL);
    }
    let others: Vec<String> = searched.map(|file| file.path.display().to_string()).collect();
    if !others.is_empty() {
        let value = format!("{}, and also {}", file.path.display(), others.join(", "));
        return Check::warning(ID, value, "remove all but one, so that it is clear which one Open MPI takes");
    }
    Check::ok(ID, file.path.display().to_string())
}

pub(super) fn component_series(facts: &Facts) -> Check {
    const ID: &str = "component-series";
    let Some(ComponentFile { object: Ok(object), .. }) = first_searched(facts) else {
        return Check::warning(ID, "not checked: no component file", "install it first");
    };
    let series = facts.ompi_info.as_ref().ok().and_then(|info| series_of(info.version.as_deref()?));
    let Some((series, wanted)) = series.and_then(|series| Some((series, opal_library_of(series)?))) else {
        return Check::warning(ID, "not checked: Open MPI's series is unknown", "install Open MPI first");
    };
    let linked = object.needed.iter().find(|library| library.starts_with("libopen-pal.so"));
    let (major, minor) = series;
    match linked {
        Some(library) if library == wanted => {
            Check::ok(ID, format!("linked with {library}, as Open MPI {major}.{minor} is"))
        }
        Some(library) => Check::failure(
            ID,
            format!("linked with {library}, and Open MPI {major}.{minor} has {wanted}"),
            format!("{INSTALL}, against the headers of the Open MPI that runs your programs"),
        ),
        None => Check::warning(
            ID,
            "linked with no libopen-pal: a build for another series would crash instead of being refused",
            INSTALL,
        ),
    }
}

fn first_searched(facts: &Facts) -> Option<&ComponentFile> {
    facts.component_files.iter().find(|file| file.searched)
}

pub(super) fn component_load(facts: &Facts) -> Check {
    const ID: &str = "component-load";
    let info = match &facts.ompi_info {
        Err(reason) => return Check::warning(ID, format!("not checked: {reason}"), "install Open MPI first"),
        Ok(info) => info,
    };
    if info.btls.iter().any(|name| name == "ironband") {
        return Check::ok(ID, format!("Open MPI loads it; it has {} parameters", info.ironband_parameters));
    }
    if !info.loads_components {
        return Check::failure(
            ID,
            "this Open MPI loads no components at run time (built with --disable-dlopen, or switched off)",
            "use an Open MPI built with dlopen, such as the distribution's, and unset mca_base_component_disable_dlopen",
        );
    }
    if !info.load_errors.is_empty() {
        let fix = "rebuild and reinstall it against this Open MPI with ci/install";
        return Check::failure(ID, info.load_errors.join("; "), fix);
    }
    Check::failure(
        ID,
        format!("Open MPI does not list it among its BTLs ({})", info.btls.join(", ")),
        format!("{INSTALL}, then: ompi_info --param btl ironband --level 9"),
    )
}

/// The two forms of an MCA selection: `a,b` takes those alone, `^a,b` takes all but those.
enum Selection<'a> {
    Everything,
    Only(Vec<&'a str>),
    AllBut(Vec<&'a str>),
}

impl<'a> Selection<'a> {
    fn parse(value: &'a str) -> Self {
        let names = |list: &'a str| list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        match value.trim().strip_prefix('^') {
            Some(list) => Self::AllBut(names(list)),
            None if value.trim().is_empty() => Self::Everything,
            None => Self::Only(names(value)),
        }
    }

    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(names) => names.contains(&name),
            Self::AllBut(names) => !names.contains(&name),
        }
    }
}

pub(super) fn btl_selection(facts: &Facts) -> Check {
    const ID: &str = "btl-selection";
    const FIX: &str = "say it at each run: mpirun --mca btl ironband,self ...";
    let Some((value, source)) = selected(facts, |info| info.btl_selection.as_ref()) else {
        return not_asked(ID);
    };
    let selection = Selection::parse(value);
    let described = format!("btl = {} ({source})", if value.is_empty() { "(all)" } else { value });
    if !selection.takes("ironband") {
        Check::warning(ID, format!("{described} leaves ironband out"), FIX)
    } else if !selection.takes("self") {
        Check::warning(ID, format!("{described} leaves self out, so that no rank can send to itself"), FIX)
    } else {
        Check::ok(ID, described)
    }
}

pub(super) fn pml_selection(facts: &Facts) -> Check {
    const ID: &str = "pml-selection";
    const FIX: &str = "say it at each run: mpirun --mca pml ob1 --mca btl ironband,self ...";
    let Some((value, source)) = selected(facts, |info| info.pml_selection.as_ref()) else {
        return not_asked(ID);
    };
    let selection = Selection::parse(value);
    let described = format!("pml = {} ({source})", if value.is_empty() { "(all)" } else { value });
    if !selection.takes("ob1") {
        return Check::warning(ID, format!("{described} leaves ob1 out, and only ob1 uses BTLs"), FIX);
    }
    let loaded =
        |name: &str| facts.ompi_info.as_ref().is_ok_and(|info| info.pmls.iter().any(|pml| pml == name));
    // The devices for which another PML rates itself above ob1, and then no BTL is asked at all.
    for (pml, prefix) in [("ucx", "mlx"), ("cm", "hfi1")] {
        let device = facts.rdma_devices.iter().find(|name| name.starts_with(prefix));
        if let Some(device) = device
            && loaded(pml)
            && selection.takes(pml)
        {
            return Check::warning(
                ID,
                format!("{described}: with device {device}, pml {pml} outranks ob1"),
                FIX,
            );
        }
    }
    Check::ok(ID, described)
}

/// The value and source of a selection; none when Open MPI could not be asked.
fn selected(facts: &Facts, parameter: impl Fn(&OmpiInfo) -> Option<&Parameter>) -> Option<(&str, &str)> {
    let info = facts.ompi_info.as_ref().ok()?;
    Some(parameter(info).map_or(("", "default"), |found| (found.value.as_str(), found.source.as_str())))
}

fn not_asked(id: &'static str) -> Check {
    Check::warning(id, "not checked: ompi_info gave no answer", "install Open MPI first")
}

pub(super) fn root(facts: &Facts) -> Check {
    const ID: &str = "root";
    let place = if facts.identity.container { " in a container" } else { "" };
    match (facts.identity.root, facts.identity.root_consent) {
        (false, _) => Check::ok(ID, format!("an ordinary user{place}")),
        (true, true) => Check::ok(ID, format!("root{place}, and the environment lets mpirun run as root")),
        (true, false) => {
            let settings = ROOT_CONSENT.map(|name| format!("{name}=1")).join(" ");
            let fix = format!("export {settings}, or run as an ordinary user");
            Check::warning(ID, format!("root{place}: mpirun refuses to run as root"), fix)
        }
    }
}
