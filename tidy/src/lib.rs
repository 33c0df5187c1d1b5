//! Checks of the source tree itself: limits, crate directions, module docs, links.
//!
//! - Each check is a function from a [`SourceTree`] to its [`Finding`]s, so that it can be shown
//!   small bad inputs: a check that cannot fail is worth nothing.
//! - `tests/tree.rs` applies every check to this repository.
//! - Exceptions live in `tidy/exceptions.toml` and may only shrink.
//!
//! Deliberately absent: anything that rustfmt, clippy or rustdoc already find.

pub mod directions;
pub mod exceptions;
pub mod limits;
pub mod links;
pub mod module_docs;
pub mod rust_source;
pub mod tree;
pub mod unsafe_code;
pub mod words;

use std::fmt;

pub use exceptions::Exceptions;
pub use tree::{SourceFile, SourceTree};

/// One place in the tree that breaks a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file, relative to the root of the repository.
    pub path: String,
    /// The line, counted from 1, or 0 where the file as a whole is meant.
    pub line: usize,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Finding {
    /// A finding at a line of a file.
    #[must_use]
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}
