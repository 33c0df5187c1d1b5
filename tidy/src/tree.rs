//! The text files of the repository, read once.
//!
//! - Paths are relative to the root, with `/` between their parts.
//! - Build output (`target/`) and git's own files are no part of the tree.
//! - A file that is not UTF-8 is known by its path only: links may point at it.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// Folders that hold no source.
const SKIPPED_FOLDERS: [&str; 2] = [".git", "target"];

/// One text file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceFile {
    /// The path relative to the root of the repository.
    pub path: String,
    /// The whole text.
    pub text: String,
}

impl SourceFile {
    /// The extension of the file's name, or nothing.
    #[must_use]
    pub fn extension(&self) -> &str {
        self.name().rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The lines with their numbers, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// All files below the root of the repository.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceTree {
    files: Vec<SourceFile>,
    paths: BTreeSet<String>,
}

impl SourceTree {
    /// Reads the tree below `root`.
    ///
    /// # Errors
    /// When a folder or file below it cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.read_folder(root, "")?;
        Ok(tree)
    }

    /// A tree of these paths and texts, for tests of the checks.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add_path(path);
            tree.files.push(SourceFile { path: (*path).to_owned(), text: (*text).to_owned() });
        }
        tree
    }

    /// Every text file.
    #[must_use]
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The text files with this extension.
    pub fn with_extension(&self, extension: &str) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(move |file| file.extension() == extension)
    }

    /// The text file at this path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether a file or folder is at this path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        path.is_empty() || self.paths.contains(path)
    }

    fn add_path(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        self.paths.extend(ends.map(|end| path[..end].to_owned()));
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() && !SKIPPED_FOLDERS.contains(&name.as_str()) {
                self.read_folder(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() {
                self.add_path(&path);
                if let Ok(text) = String::from_utf8(fs::read(entry.path())?) {
                    self.files.push(SourceFile { path, text });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_files_are_known_as_paths() {
        let tree = SourceTree::of(&[("docs/format/label.md", "")]);
        assert!(tree.has("docs") && tree.has("docs/format") && tree.has("docs/format/label.md"));
        assert!(!tree.has("docs/form"));
    }

    #[test]
    fn reading_leaves_out_build_output_and_binary_text() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        for folder in ["src", "target", ".git"] {
            fs::create_dir(root.path().join(folder))?;
            fs::write(root.path().join(folder).join("a.rs"), "text")?;
        }
        fs::write(root.path().join("src/binary"), [0xff, 0xfe])?;
        let tree = SourceTree::read(root.path())?;
        assert_eq!(tree.files().len(), 1);
        assert_eq!(tree.files()[0].path, "src/a.rs");
        assert!(tree.has("src/binary") && !tree.has("target"));
        Ok(())
    }
}
