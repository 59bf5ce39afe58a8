//! Files that are looked at again and again: whether one of them is another than it was.
//!
//! Nothing is read here. Invariant: a change is told once, and only when the files have been left alone for a moment, so that one that
//! is being written is not read half.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which file is at a path, and when it was written; None if there is none.
type Stamp = Option<(u64, u64, i64, i64)>;

/// Some files, as they were when they were looked at last.
#[derive(Debug, Default)]
pub(crate) struct WatchedFiles {
    files: Vec<(PathBuf, Stamp)>,
    /// They have changed, and may still be changing.
    is_restless: bool,
}

impl WatchedFiles {
    /// Watches these files from now on, as they are now.
    pub(crate) fn new(paths: impl Iterator<Item = PathBuf>) -> Self {
        let files = paths.map(|path| (path.clone(), stamp(&path))).collect();
        Self { files, is_restless: false }
    }

    /// Takes note that a file was written on purpose, which is no change to be told of.
    pub(crate) fn has_written(&mut self, path: &Path) {
        for (known, earlier) in self.files.iter_mut().filter(|(known, _)| known == path) {
            *earlier = stamp(known);
        }
    }

    /// Looks at all files, and tells whether they have changed and then been left alone since the last look.
    pub(crate) fn have_changed(&mut self) -> bool {
        let mut changes = false;
        for (path, earlier) in &mut self.files {
            let now = stamp(path);
            changes |= std::mem::replace(earlier, now) != now;
        }
        std::mem::replace(&mut self.is_restless, changes) && !changes
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_only_when_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        fs::write(&first, "1").unwrap();
        let mut files = WatchedFiles::new([first.clone(), second.clone()].into_iter());
        assert!(!files.have_changed());

        fs::write(&first, "12").unwrap();
        assert!(!files.have_changed(), "it may still be changing");
        fs::write(&second, "new").unwrap();
        assert!(!files.have_changed(), "it still is");

        assert!(files.have_changed());
        assert!(!files.have_changed());
        fs::write(&first, "written by ourselves").unwrap();
        files.has_written(&first);
        assert!(!files.have_changed() && !files.have_changed());
        fs::remove_file(&second).unwrap();
        assert!(!files.have_changed() && files.have_changed());
    }
}
