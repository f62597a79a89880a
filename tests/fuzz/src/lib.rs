//! Fuzz targets: what peers and launchers say, as any bytes. Each target is a function from bytes to nothing that panics when
//! something is wrong, so `cargo test` replays the corpora without a fuzzer, and a target's program replays the files it is given.

mod input;
mod protocol;
mod wire;

pub use ironband_fabric::shm::fuzzing::ring;
pub use ironband_pmi::fuzzing::line as pmi_line;
pub use protocol::protocol;
pub use wire::wire;

/// The program of a target: libfuzzer's under `cargo fuzz`; otherwise one that replays files.
#[macro_export]
macro_rules! target {
    ($target:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $target(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            for file in std::env::args_os().skip(1) {
                println!("{}", file.display());
                $target(&std::fs::read(file)?);
            }
            Ok(())
        }
    };
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Runs a target over its corpus.
    fn replay(name: &str, target: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for file in fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display())) {
            let path = file.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count >= 5, "{} has only {count} files", corpus.display());
        // What is no file of anybody's.
        target(&[]);
        target(&[0xff; 300]);
    }

    #[test]
    fn wire() {
        replay("wire", crate::wire);
    }

    #[test]
    fn protocol() {
        replay("protocol", crate::protocol);
    }

    #[test]
    fn pmi_line() {
        replay("pmi_line", crate::pmi_line);
    }

    #[test]
    fn ring() {
        replay("ring", crate::ring);
    }
}
