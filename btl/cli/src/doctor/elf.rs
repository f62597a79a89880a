//! What a component file says about itself without being loaded: its instruction set and the libraries it wants.

use super::facts::SharedObject;
use object::elf::{DT_NEEDED, EM_AARCH64, EM_X86_64};
use object::read::elf::{Dyn, FileHeader};
use std::path::Path;

/// Reads the head and the dynamic section of a shared object.
pub(crate) fn read(path: &Path) -> Result<SharedObject, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    parse(&bytes).map_err(|error| format!("is not a shared object for this kind of machine: {error}"))
}

fn parse(bytes: &[u8]) -> object::read::Result<SharedObject> {
    let header = object::elf::FileHeader64::<object::Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let architecture = match header.e_machine(endian) {
        EM_X86_64 => "x86_64".to_owned(),
        EM_AARCH64 => "aarch64".to_owned(),
        other => format!("ELF machine {other}"),
    };
    let mut needed = Vec::new();
    let sections = header.sections(endian, bytes)?;
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries.iter().filter(|entry| entry.tag32(endian) == Some(DT_NEEDED)) {
            needed.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    Ok(SharedObject { architecture, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_s_own_executable_wants_the_c_library() {
        let own = read(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(own.architecture, std::env::consts::ARCH);
        assert!(own.needed.iter().any(|library| library.starts_with("libc.so")), "{:?}", own.needed);
    }

    #[test]
    fn a_file_that_is_no_object_is_refused_and_not_trusted() {
        assert!(parse(b"").is_err());
        assert!(parse(b"#!/bin/sh\n").is_err());
        let mut own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        own.truncate(own.len() / 2);
        assert!(parse(&own).is_err(), "a truncated file has lost its section headers");
    }

    #[test]
    fn a_file_that_is_missing_says_so() {
        assert!(
            read(Path::new("/nonexistent/mca_btl_ironband.so")).unwrap_err().starts_with("cannot be read")
        );
    }
}
