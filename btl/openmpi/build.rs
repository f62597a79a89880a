//! Finds the installed Open MPI, generates its bindings and compiles the shim.
//!
//! The series of the headers chooses which of `src/abi/v*` is built: one component serves one series, and linking the
//! series' own `libopen-pal.so.N` by its full name makes any other series refuse to load it.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs, panic};

/// A series of Open MPI that this crate knows.
struct Series {
    /// As the user says it.
    name: &'static str,
    /// The folder of `src/abi` that knows its structures.
    folder: &'static str,
    /// The library whose name changes with the series' binary interface.
    library: &'static str,
}

const SERIES: [Series; 1] = [Series { name: "4.1", folder: "v41", library: "libopen-pal.so.40" }];

/// The installed Open MPI.
struct Installation {
    include_dirs: Vec<PathBuf>,
    library_dirs: Vec<PathBuf>,
}

fn main() {
    println!("cargo::rerun-if-env-changed=MPICC");
    println!("cargo::rustc-check-cfg=cfg(open_mpi_series, values(\"4.1\"))");

    let installation = find_open_mpi();
    let version = opal_version(&installation);
    let series =
        SERIES.iter().find(|series| version.starts_with(&format!("{}.", series.name))).unwrap_or_else(|| {
            let known = SERIES.map(|series| series.name).join(", ");
            give_up(&format!(
                "the installed Open MPI is {version}, and this component is written for the series {known}"
            ))
        });
    println!("cargo::rustc-cfg=open_mpi_series=\"{}\"", series.name);

    let folder = Path::new("src/abi").join(series.folder);
    generate_bindings(&installation, &folder);
    compile_shim(&installation, &folder);
    link(&installation, series);
}

/// pkg-config knows where the distribution put Open MPI; the compiler wrapper knows where anybody else did.
fn find_open_mpi() -> Installation {
    if env::var_os("MPICC").is_none()
        && let Ok(library) = pkg_config::Config::new().cargo_metadata(false).env_metadata(true).probe("ompi")
    {
        return Installation { include_dirs: library.include_paths, library_dirs: library.link_paths };
    }
    let wrapper = env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    let show = |what: &str| -> Vec<PathBuf> {
        match Command::new(&wrapper).arg(format!("--showme:{what}")).output() {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).split_whitespace().map(PathBuf::from).collect()
            }
            _ => give_up(&format!(
                "no Open MPI found: neither `pkg-config ompi` nor `{wrapper} --showme:{what}` answers; \
                 on Debian and Ubuntu: apt install libopenmpi-dev"
            )),
        }
    };
    Installation { include_dirs: show("incdirs"), library_dirs: show("libdirs") }
}

/// `4.1.4`, out of the installed headers.
fn opal_version(installation: &Installation) -> String {
    let header = installation
        .include_dirs
        .iter()
        .flat_map(|dir| [dir.join("opal/version.h"), dir.join("openmpi/opal/version.h")])
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            give_up(&format!(
                "the internal headers of Open MPI (opal/version.h) are not in {:?}; on Debian and Ubuntu: apt install \
                 libopenmpi-dev; otherwise Open MPI must be configured --with-devel-headers",
                installation.include_dirs
            ))
        });
    let text = fs::read_to_string(&header)
        .unwrap_or_else(|error| give_up(&format!("{}: {error}", header.display())));
    let number = |part: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("#define OPAL_{part}_VERSION ")))
            .map(str::trim)
            .unwrap_or_else(|| give_up(&format!("{} does not define OPAL_{part}_VERSION", header.display())))
    };
    format!("{}.{}.{}", number("MAJOR"), number("MINOR"), number("RELEASE"))
}

fn generate_bindings(installation: &Installation, folder: &Path) {
    let headers = folder.join("headers.h");
    println!("cargo::rerun-if-changed={}", headers.display());
    let mut builder = bindgen::Builder::default()
        .header(headers.to_string_lossy())
        // clang 14 does not know _Float16 on x86-64; no structure we use holds one.
        .clang_arg("-D_Float16=short")
        .allowlist_type("mca_btl_.*|mca_base_component_.*|opal_convertor_t|opal_proc_t|iovec")
        .allowlist_function(
            "opal_bitmap_set_bit|opal_convertor_pack|opal_output|opal_output_verbose|opal_proc_local_get\
             |opal_mem_hooks_register_release|opal_mem_hooks_support_level|mca_base_framework_open\
             |mca_base_component_var_register|mca_base_var_get_value|mca_base_var_register_synonym\
             |mca_base_var_group_component_register|mca_btl_base_dump",
        )
        .allowlist_var(
            "IRONBAND_.*|OPAL_ERR.*|OPAL_SUCCESS|OPAL_EXISTS|MCA_BTL_.*|CONVERTOR_.*|OPAL_CUDA_SUPPORT\
             |OPAL_M[A-Z]*_VERSION|OPAL_RELEASE_VERSION|opal_process_info|opal_version_string|opal_btl_base_framework\
             |mca_btl_base_active_message_trigger|opal_memory_base_framework|OPAL_MEMORY_.*",
        )
        .derive_debug(false)
        .layout_tests(true)
        .prepend_enum_name(false)
        .generate_comments(false)
        .merge_extern_blocks(true);
    for dir in &installation.include_dirs {
        builder = builder.clang_arg(format!("-I{}", dir.display()));
    }
    // bindgen panics, rather than returning an error, when it finds no libclang. Its text goes into our message.
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    drop(panic::take_hook());
    let bindings = generated.unwrap_or_else(|payload| {
        let why = payload.downcast_ref::<String>().map_or("no reason given", String::as_str);
        give_up(&format!(
            "libclang, which reads Open MPI's headers, does not work ({why}); on Debian and Ubuntu: \
             apt install libclang-dev"
        ))
    });
    let bindings =
        bindings.unwrap_or_else(|error| give_up(&format!("Open MPI's headers cannot be read: {error}")));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        give_up(&format!("{}: {error}", out.display()));
    }
}

fn compile_shim(installation: &Installation, folder: &Path) {
    let shim = folder.join("shim.c");
    println!("cargo::rerun-if-changed={}", shim.display());
    let mut build = cc::Build::new();
    build
        .file(shim)
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-Werror=implicit-function-declaration");
    for dir in &installation.include_dirs {
        build.flag(format!("-isystem{}", dir.display()));
    }
    if let Err(error) = build.try_compile("ironband_open_mpi_shim") {
        give_up(&format!(
            "the C shim does not compile ({error}); on Debian and Ubuntu: apt install gcc libopenmpi-dev"
        ));
    }
}

fn link(installation: &Installation, series: &Series) {
    for dir in &installation.library_dirs {
        println!("cargo::rustc-link-search=native={}", dir.display());
        // Debian keeps libopen-pal.so.N one folder above openmpi/lib.
        if let Some(above) = dir.parent().and_then(Path::parent) {
            println!("cargo::rustc-link-search=native={}", above.display());
        }
    }
    println!("cargo::rustc-link-lib=dylib:+verbatim={}", series.library);
    // Open MPI closes components while pointers into them may still be held (MCA variables, progress functions).
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

/// Ends the build with one message. Cargo shows what a build script writes to standard error when it fails.
fn give_up(reason: &str) -> ! {
    eprintln!("ironband-openmpi: {reason}");
    exit(1)
}
