//! The kernel's files, below a root that tests replace by a made-up one.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel's files are: `/`, or a made-up tree with the same folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root(PathBuf);

impl Root {
    /// This machine.
    pub(super) fn machine() -> Self {
        Self::at("/")
    }

    /// A tree below this folder.
    pub(super) fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// A file or folder, by its path from the root.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// The text of a file, without blanks at the ends; none when it cannot be read.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// What a folder holds, in order.
    pub(super) fn names(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned)).collect();
        names.sort();
        names
    }
}
